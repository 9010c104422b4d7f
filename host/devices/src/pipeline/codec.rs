//! Items as they lie in the host's file.
//!
//! A part is a byte for the format and, in Postcard's encoding, each item with the time at which it came.
//! A part that cannot be read (of another format, or damaged) costs its own items only.

use bytes::Bytes;
use eyot_runtime::guest::Item;

use super::lane::Entry;

/// Raised when the items' types change.
const FORMAT: u8 = 1;

/// The body of a part.
pub(super) fn encode<'a>(entries: impl Iterator<Item = &'a Entry>) -> Bytes {
    let mut body = vec![FORMAT];
    for entry in entries {
        body = extend(body, &(entry.at, &entry.item));
    }
    body.into()
}

fn extend(body: Vec<u8>, value: &impl serde::Serialize) -> Vec<u8> {
    // Into memory, of types that have no way to refuse.
    postcard::to_extend(value, body).unwrap_or_default()
}

/// What [`encode`] wrote.
pub(super) fn decode(body: &[u8]) -> Result<Vec<Entry>, String> {
    let mut rest = match body.split_first() {
        Some((&FORMAT, rest)) => rest,
        Some((format, _)) => return Err(format!("of format {format}, this host reads {FORMAT}")),
        None => return Err("empty".to_owned()),
    };
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let ((at, item), after): ((u64, Item), _) =
            postcard::take_from_bytes(rest).map_err(|error| format!("damaged: {error}"))?;
        entries.push(Entry::new(at, item));
        rest = after;
    }
    Ok(entries)
}

/// One item by itself, as in a letter.
pub(super) fn encode_one(at: u64, item: &Item) -> Bytes {
    extend(vec![FORMAT], &(at, item)).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eyot_runtime::{
        guest::Payload,
        reading::{Event, Reading, Value},
    };

    use super::*;

    #[test]
    fn items_come_back_as_they_were_and_damage_is_told() {
        let reading = |value| Reading {
            resource: "r".into(),
            value,
            origin: u64::MAX,
            units: "°C".into(),
            tags: vec![("a".into(), "b".into())],
        };
        let values = [
            Value::Float64(f64::NEG_INFINITY),
            Value::Int64(i64::MIN),
            Value::Uint64Array(vec![0, u64::MAX]),
            Value::Binary {
                data: vec![0, 255],
                media_type: "image/png".into(),
            },
            Value::Null("Bool".into()),
        ];
        let event = Item::Event(Arc::new(Event {
            id: "id".into(),
            service: "s".into(),
            device: "d".into(),
            profile: "p".into(),
            source: "all".into(),
            origin: 7,
            readings: values.map(reading).into(),
            tags: vec![],
        }));
        let payload = Item::Payload(Arc::new(Payload {
            media_type: "text/plain".into(),
            destination: "a/b".into(),
            data: b"x".to_vec(),
            device: String::new(),
        }));
        let entries = [Entry::new(1, event.clone()), Entry::new(2, payload)];
        let body = encode(entries.iter());
        assert_eq!(decode(&body), Ok(entries.to_vec()));
        assert_eq!(decode(&encode_one(1, &event)).unwrap(), entries[..1]);
        for length in 2..body.len() {
            // A cut between two items shows by the count that the part should have.
            let cut = decode(&body[..length]);
            assert!(cut.is_err() || cut.unwrap().len() == 1, "{length}");
        }
        assert!(decode(&[9]).unwrap_err().contains("format 9"));
        assert!(decode(&[]).is_err());
    }
}
