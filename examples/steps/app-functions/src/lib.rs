//! The functions of EdgeX's configurable application service, one of them for each step.
//!
//! The setting `Function` names it; a name with something behind it (`Transform2`) is the same function,
//! as in EdgeX. All other settings are EdgeX's parameters, in any case:
//!
//! | function | settings |
//! |---|---|
//! | `FilterByProfileName`, `FilterByDeviceName`, `FilterBySourceName` | `ProfileNames`, `DeviceNames`, `SourceNames`: regular expressions, separated by commas; `FilterOut` |
//! | `FilterByResourceName` | `ResourceNames`, `FilterOut`; takes readings out of events |
//! | `Transform` | `Type`: `json` or `xml` |
//! | `WrapIntoEvent` | `ProfileName`, `DeviceName`, `ResourceName`, `ValueType`, `MediaType` (for `Binary`) |
//! | `Compress` | `Algorithm`: `gzip`, `zlib`, or `zstd`, which EdgeX does not have; `Encoding`: `base64` (the default, as in EdgeX) or `none` |
//! | `Encrypt` | `Algorithm`: `aes256`; `Key`: 64 bytes in hexadecimal, to be taken from a Secret |
//! | `JSONLogic` | `Rule`; what it says `true` of passes |
//! | `AddTags` | `Tags`: `name:value`, separated by commas |
//! | `ToLineProtocol` | `Tags` |
//! | `SetResponseData` | `ResponseContentType` |
//!
//! Where a function wants bytes and gets an event, it takes the event's JSON. An item that a function
//! cannot take (a filter is given bytes, say) is rejected with the reason.

mod compress;
mod encrypt;
mod filter;
mod line_protocol;
mod logic;
mod parameters;
mod response;
mod tags;
#[cfg(test)]
mod tests;
mod transform;
mod wrap;

use std::collections::BTreeMap;

use eyot_sdk::{Item, Payload, PipelineError, Step};

use self::parameters::Parameters;

/// What a function does with one item: changes it or drops it.
trait Function {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError>;
}

type Make = fn(&mut Parameters) -> Result<Box<dyn Function>, PipelineError>;

/// All functions with their names.
const FUNCTIONS: [(&str, Make); 12] = [
    ("FilterByProfileName", filter::by_profile),
    ("FilterByDeviceName", filter::by_device),
    ("FilterBySourceName", filter::by_source),
    ("FilterByResourceName", filter::by_resource),
    ("Transform", transform::make),
    ("WrapIntoEvent", wrap::make),
    ("Compress", compress::make),
    ("Encrypt", encrypt::make),
    ("JSONLogic", logic::make),
    ("AddTags", tags::make),
    ("ToLineProtocol", line_protocol::make),
    ("SetResponseData", response::make),
];

/// A step that is one of the functions.
pub struct AppFunction(Box<dyn Function>);

impl Step for AppFunction {
    type Config = BTreeMap<String, String>;

    fn configure(config: Self::Config) -> Result<Self, PipelineError> {
        let mut parameters = Parameters::new(config)?;
        let name = parameters.required("Function")?;
        let starts = |known: &str| {
            let start = name.get(..known.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(known))
        };
        let Some((_, make)) = FUNCTIONS.iter().find(|(known, _)| starts(known)) else {
            let known = FUNCTIONS.map(|(known, _)| known).join(", ");
            let message = format!("setting \"Function\": {name:?} is none of {known}");
            return Err(PipelineError::Config(message));
        };
        let function = make(&mut parameters)?;
        parameters.finish()?;
        Ok(Self(function))
    }

    fn process(&mut self, batch: Vec<Item>) -> Result<Vec<Item>, PipelineError> {
        let mut passed = Vec::with_capacity(batch.len());
        for item in batch {
            passed.extend(self.0.apply(item)?);
        }
        Ok(passed)
    }
}

/// The item as bytes: an event becomes its JSON, as in EdgeX.
fn payload_of(item: Item) -> Payload {
    match item {
        Item::Payload(payload) => payload,
        Item::Event(event) => Payload {
            media_type: "application/json".to_owned(),
            destination: String::new(),
            data: event.to_edgex_json().to_string().into_bytes(),
            device: event.device,
        },
    }
}

fn rejected(message: impl Into<String>) -> PipelineError {
    PipelineError::Rejected(message.into())
}

eyot_sdk::export_step!(AppFunction);
