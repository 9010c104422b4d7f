//! What leaves is bytes of a given media type. In EdgeX it answers the request that started the pipeline.

use eyot_sdk::{Item, PipelineError};

use crate::{Function, parameters::Parameters, payload_of};

struct Response(Option<String>);

pub fn make(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    Ok(Box::new(Response(parameters.text("ResponseContentType"))))
}

impl Function for Response {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError> {
        let mut payload = payload_of(item);
        if let Some(media_type) = &self.0 {
            payload.media_type.clone_from(media_type);
        }
        Ok(Some(Item::Payload(payload)))
    }
}
