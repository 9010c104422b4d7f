//! `eyot:device/publisher`: readings that a driver has without being asked. They wait here until the
//! call that published them returns.

use eyot_runtime::{guest::Publication, reading::Value};

use crate::{
    bindings::{
        publisher::{Host, Refusal},
        reading::ReadingResult,
    },
    convert,
};

/// What one call of the host may publish, as the contract says.
const PUBLICATIONS: usize = 1024;
const BYTES: usize = 16 << 20;

/// The publications of one instance.
pub(crate) struct Client {
    device: bool,
    waiting: Vec<Publication>,
    bytes: usize,
}

impl Client {
    /// Of an instance that serves a device, or of one that does not.
    pub(crate) fn new(device: bool) -> Self {
        Self {
            device,
            waiting: Vec::new(),
            bytes: 0,
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Publication> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    fn add(&mut self, publication: Publication) -> Result<(), Refusal> {
        if !self.device {
            return Err(Refusal::Invalid(
                "this instance belongs to no device".into(),
            ));
        }
        if publication.source.is_empty() || publication.readings.is_empty() {
            return Err(Refusal::Invalid("a source and a reading are needed".into()));
        }
        let bytes = self.bytes + size(&publication);
        if self.waiting.len() >= PUBLICATIONS || bytes > BYTES {
            return Err(Refusal::Full(format!(
                "{PUBLICATIONS} publications and {BYTES} bytes are taken in one call"
            )));
        }
        self.bytes = bytes;
        self.waiting.push(publication);
        Ok(())
    }
}

impl Host for Client {
    async fn publish(
        &mut self,
        source: String,
        readings: Vec<ReadingResult>,
    ) -> wasmtime::Result<Result<(), Refusal>> {
        let readings = readings.into_iter().map(convert::from_reading).collect();
        Ok(self.add(Publication { source, readings }))
    }
}

/// Bytes that a publication takes, about.
fn size(publication: &Publication) -> usize {
    let readings = publication.readings.iter().map(|reading| {
        let tags = reading
            .tags
            .iter()
            .map(|(name, text)| name.len() + text.len() + 48);
        reading.resource.len()
            + reading.units.len()
            + tags.sum::<usize>()
            + held(&reading.value)
            + 128
    });
    publication.source.len() + readings.sum::<usize>()
}

fn held(value: &Value) -> usize {
    match value {
        Value::String(text)
        | Value::Object(text)
        | Value::ObjectArray(text)
        | Value::Null(text) => text.len(),
        Value::Binary { data, media_type } => data.len() + media_type.len(),
        Value::StringArray(texts) => texts.iter().map(|text| text.len() + 24).sum(),
        Value::BoolArray(items) => items.len(),
        Value::Uint8Array(items) => items.len(),
        Value::Int8Array(items) => items.len(),
        Value::Uint16Array(items) => items.len() * 2,
        Value::Int16Array(items) => items.len() * 2,
        Value::Uint32Array(items) => items.len() * 4,
        Value::Int32Array(items) => items.len() * 4,
        Value::Float32Array(items) => items.len() * 4,
        Value::Uint64Array(items) => items.len() * 8,
        Value::Int64Array(items) => items.len() * 8,
        Value::Float64Array(items) => items.len() * 8,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use eyot_runtime::reading::Reading;

    use super::*;

    fn publication(bytes: usize) -> Publication {
        Publication {
            source: "All".into(),
            readings: vec![Reading {
                resource: "Text".into(),
                value: Value::String("x".repeat(bytes)),
                origin: 0,
                units: String::new(),
                tags: Vec::new(),
            }],
        }
    }

    #[test]
    fn one_call_publishes_so_much_and_the_next_again() {
        let mut client = Client::new(true);
        for _ in 0..PUBLICATIONS {
            client.add(publication(1)).unwrap();
        }
        assert!(matches!(client.add(publication(1)), Err(Refusal::Full(_))));
        assert_eq!(client.take().len(), PUBLICATIONS);
        client.add(publication(BYTES / 2)).unwrap();
        let large = client.add(publication(BYTES / 2));
        assert!(matches!(large, Err(Refusal::Full(_))));
        assert_eq!(client.take().len(), 1);
        client.add(publication(BYTES / 2)).unwrap();
    }

    #[test]
    fn only_readings_of_a_device_are_taken() {
        let refused = |client: &mut Client, publication| {
            matches!(client.add(publication), Err(Refusal::Invalid(_)))
        };
        assert!(refused(&mut Client::new(false), publication(1)));
        let mut client = Client::new(true);
        let nameless = Publication {
            source: String::new(),
            ..publication(1)
        };
        assert!(refused(&mut client, nameless));
        let empty = Publication {
            readings: Vec::new(),
            ..publication(1)
        };
        assert!(refused(&mut client, empty));
        assert!(client.take().is_empty());
    }
}
