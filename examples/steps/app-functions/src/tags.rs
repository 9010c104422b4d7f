//! Puts tags onto events; one of the same name is replaced.

use eyot_sdk::{Item, PipelineError};

use crate::{Function, filter::event, parameters::Parameters};

struct AddTags(Vec<(String, String)>);

pub fn make(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    Ok(Box::new(AddTags(parameters.tags("Tags")?)))
}

impl Function for AddTags {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError> {
        let mut event = event(item)?;
        let added = |name: &String| self.0.iter().any(|(tag, _)| tag == name);
        event.tags.retain(|(name, _)| !added(name));
        event.tags.extend(self.0.iter().cloned());
        Ok(Some(Item::Event(event)))
    }
}
