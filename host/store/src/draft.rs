//! A value on its way into the store: serialised once, by whoever writes it, with a gap where the
//! writer puts the revision. So the one writer task only copies bytes, and whether an update
//! changes anything is a comparison of bytes.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{ChangeKind, Extract, Key, Object, Pairs, WriteError, lean};

const METADATA: &str = "metadata";
const VERSION: &str = "resourceVersion";
const EVENT_END: &[u8] = b"}\n";

pub(crate) struct Draft {
    json: Vec<u8>,
    /// Where in `json` the revision belongs.
    gap: usize,
    labels: Pairs,
    fields: Pairs,
}

impl Draft {
    pub(crate) fn new(resource: &str, value: &Value, extract: Extract) -> Result<Self, WriteError> {
        let (json, gap) = serialise(value).ok_or(WriteError::Malformed)?;
        let (labels, fields) = selectable(resource, value, extract);
        Ok(Self {
            json,
            gap,
            labels,
            fields,
        })
    }

    /// Bytes without the revision.
    pub(crate) fn len(&self) -> usize {
        self.json.len()
    }

    /// Whether this is what is stored already.
    pub(crate) fn equals(&self, stored: &Object) -> bool {
        stored.version_at == self.gap && stored.around_version() == self.json.split_at(self.gap)
    }

    /// The object that this becomes as the write of `revision`.
    pub(crate) fn object(&self, key: Key, kind: ChangeKind, revision: u64) -> Object {
        let (before, after) = self.json.split_at(self.gap);
        let (event, json) = frame(kind, before, revision, after);
        Object {
            key,
            revision,
            json,
            event,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            version_at: self.gap,
        }
    }
}

/// The last state of an object, as the deletion of `revision` shows it.
pub(crate) fn deleted(last: &Object, revision: u64) -> Object {
    let (before, after) = last.around_version();
    let (event, json) = frame(ChangeKind::Deleted, before, revision, after);
    Object {
        revision,
        json,
        event,
        ..last.clone()
    }
}

/// An object as it was found in the database, with the kind of the write that made it.
pub(crate) fn stored(
    key: Key,
    kind: ChangeKind,
    revision: u64,
    json: &[u8],
    extract: Extract,
) -> Result<Object, String> {
    let text = std::str::from_utf8(json).map_err(|error| error.to_string())?;
    let found = lean::parse(text).map_err(|error| error.to_string())?;
    let version_at = version_in(text, found.version, revision)?;
    let (labels, fields) = selectable(&key.resource, &found.value, extract);
    let end = version_at + revision.to_string().len();
    let (before, after) = (
        json.get(..version_at).unwrap_or_default(),
        json.get(end..).unwrap_or_default(),
    );
    let (event, json) = frame(kind, before, revision, after);
    Ok(Object {
        key,
        revision,
        json,
        event,
        labels,
        fields,
        version_at,
    })
}

/// Where the digits of `version`, which is a part of `json`, begin.
fn version_in(json: &str, version: &str, revision: u64) -> Result<usize, String> {
    let digits = version.trim_matches('"');
    if digits != revision.to_string() {
        return Err(format!(
            "its resourceVersion is {version}, not the revision it was stored under"
        ));
    }
    Ok(digits.as_ptr() as usize - json.as_ptr() as usize)
}

fn selectable(resource: &str, value: &Value, extract: Extract) -> (Pairs, Pairs) {
    let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
    let labels = labels
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name, value.as_str()?)))
        .collect();
    (labels, extract(resource, value).into_iter().collect())
}

/// The line of a watch around an object, and the object in it.
fn frame(kind: ChangeKind, before: &[u8], revision: u64, after: &[u8]) -> (Bytes, Bytes) {
    let begin: &[u8] = match kind {
        ChangeKind::Added => br#"{"type":"ADDED","object":"#,
        ChangeKind::Modified => br#"{"type":"MODIFIED","object":"#,
        ChangeKind::Deleted => br#"{"type":"DELETED","object":"#,
    };
    let digits = revision.to_string();
    // Concatenation allocates exactly what is needed, which is kept for the object's life.
    let line = Bytes::from([begin, before, digits.as_bytes(), after, EVENT_END].concat());
    let json = line.slice(begin.len()..line.len() - EVENT_END.len());
    (line, json)
}

/// The value's JSON without a revision, and where the revision belongs; `None` if there is no
/// metadata to hold it.
fn serialise(value: &Value) -> Option<(Vec<u8>, usize)> {
    let map = value.as_object()?;
    let mut json = Vec::with_capacity(1024);
    let mut gap = None;
    json.push(b'{');
    for (name, member) in map {
        begin_member(&mut json, name)?;
        if name == METADATA {
            gap = Some(serialise_metadata(member.as_object()?, &mut json)?);
        } else {
            serde_json::to_writer(&mut json, member).ok()?;
        }
    }
    json.push(b'}');
    Some((json, gap?))
}

fn serialise_metadata(metadata: &Map<String, Value>, json: &mut Vec<u8>) -> Option<usize> {
    let mut gap = None;
    json.push(b'{');
    for (name, member) in metadata {
        if gap.is_none() && name.as_str() >= VERSION {
            gap = Some(version(json)?);
        }
        if name != VERSION {
            begin_member(json, name)?;
            serde_json::to_writer(&mut *json, member).ok()?;
        }
    }
    let gap = match gap {
        Some(gap) => gap,
        None => version(json)?,
    };
    json.push(b'}');
    Some(gap)
}

/// `"resourceVersion":""`; answers where between the last two quotes the revision belongs.
fn version(json: &mut Vec<u8>) -> Option<usize> {
    begin_member(json, VERSION)?;
    json.extend_from_slice(b"\"\"");
    Some(json.len() - 1)
}

fn begin_member(json: &mut Vec<u8>, name: &str) -> Option<()> {
    if json.last() != Some(&b'{') {
        json.push(b',');
    }
    serde_json::to_writer(&mut *json, name).ok()?;
    json.push(b':');
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn none(_: &str, _: &Value) -> Vec<(Box<str>, Box<str>)> {
        Vec::new()
    }

    #[track_caller]
    fn check(metadata: Value) {
        let mut value = json!({
            "apiVersion": "v1", "kind": "Event",
            "involvedObject": {"resourceVersion": "77"},
            "metadata": metadata, "note": "\"resourceVersion\":\"77\"",
        });
        let draft = Draft::new("events", &value, none).unwrap();
        let key = Key::new("events", "default", "a");
        let object = draft.object(key.clone(), ChangeKind::Added, 77);
        value["metadata"]["resourceVersion"] = "77".into();
        assert_eq!(
            serde_json::from_slice::<Value>(&object.json).unwrap(),
            value
        );
        let line: Value = serde_json::from_slice(&object.event).unwrap();
        assert_eq!(line, json!({"type": "ADDED", "object": value}));
        assert!(draft.equals(&object));

        let gone = deleted(&object, 1234);
        value["metadata"]["resourceVersion"] = "1234".into();
        assert_eq!(serde_json::from_slice::<Value>(&gone.json).unwrap(), value);
        assert_eq!(gone.json, object.json_at(1234));
        assert!(draft.equals(&gone), "the revision does not count");

        let read = stored(key.clone(), ChangeKind::Deleted, 1234, &gone.json, none).unwrap();
        assert_eq!(read, gone);
        assert!(stored(key, ChangeKind::Deleted, 1235, &gone.json, none).is_err());
    }

    #[test]
    fn the_revision_is_put_in_and_replaced_without_parsing() {
        check(json!({}));
        check(json!({"name": "a"}));
        check(json!({"uid": "u"}));
        check(json!({"name": "a", "uid": "u", "zone": [1, 2]}));
        check(json!({"name": "a", "resourceVersion": "6"}));
        check(json!({"resourceVersion": null, "annotations": {"resourceVersion": "77"}}));
    }

    #[test]
    fn a_value_without_metadata_is_malformed() {
        for value in [json!([]), json!({}), json!({"metadata": 1}), json!(null)] {
            let draft = Draft::new("pods", &value, none);
            assert!(matches!(draft, Err(WriteError::Malformed)), "{value}");
        }
    }
}
