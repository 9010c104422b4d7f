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
//! | `Batch` | `Mode`: `bycount`, `bytime` or `bytimecount`; `BatchThreshold`, `TimeInterval` (`30s`); `IsEventData` makes a JSON array of events, `MergeOnSend` the bytes one after the other, neither a JSON array of base64, as in EdgeX. A batch is sent early rather than grow beyond 1 MiB |
//!
//! Where a function wants bytes and gets an event, it takes the event's JSON. An item that a function
//! cannot take (a filter is given bytes, say) is rejected with the reason.

mod batch;
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

use eyot_sdk::{Accumulator, Item, Payload, PipelineError, memory::Memory};

use self::{batch::Batch, parameters::Parameters};

/// What a function does with one item: changes it or drops it.
pub trait Function {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError>;
}

type Make = fn(&mut Parameters) -> Result<Box<dyn Function>, PipelineError>;

/// All functions with their names, but for [`BATCH`].
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
/// The one function that remembers.
const BATCH: &str = "Batch";

/// A step that is one of the functions.
pub enum AppFunction {
    Each(Box<dyn Function>),
    Batch(Batch),
}

impl Accumulator for AppFunction {
    type Config = BTreeMap<String, String>;

    fn configure(config: Self::Config) -> Result<Self, PipelineError> {
        let mut parameters = Parameters::new(config)?;
        let name = parameters.required("Function")?;
        let starts = |known: &str| {
            let start = name.get(..known.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(known))
        };
        let known = FUNCTIONS.iter().find(|(known, _)| starts(known));
        let function = match known {
            Some((_, make)) => Self::Each(make(&mut parameters)?),
            None if starts(BATCH) => Self::Batch(batch::make(&mut parameters)?),
            None => {
                let known = FUNCTIONS.map(|(known, _)| known).join(", ");
                let message = format!("setting \"Function\": {name:?} is none of {known}, {BATCH}");
                return Err(PipelineError::Config(message));
            }
        };
        parameters.finish()?;
        Ok(function)
    }

    fn process(
        &mut self,
        batch: Vec<Item>,
        memory: &mut impl Memory,
    ) -> Result<Vec<Item>, PipelineError> {
        let function = match self {
            Self::Each(function) => function,
            Self::Batch(gathering) => return gathering.process(batch, memory),
        };
        let mut passed = Vec::with_capacity(batch.len());
        for item in batch {
            passed.extend(function.apply(item)?);
        }
        Ok(passed)
    }

    fn tick(&mut self, memory: &mut impl Memory) -> Result<Vec<Item>, PipelineError> {
        match self {
            Self::Each(_) => Ok(Vec::new()),
            Self::Batch(gathering) => gathering.tick(memory),
        }
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

eyot_sdk::export_accumulator!(AppFunction);
