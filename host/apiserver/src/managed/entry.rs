//! The entries of `metadata.managedFields`: one for each manager, operation, version and subresource.

use serde_json::{Map, Value};

use super::set::{self, Node};

/// Update entries beyond this many are joined, the oldest first.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager of the joined ones.
const ANCIENT: &str = "ancient-changes";

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: String,
    /// By server-side apply rather than any other write.
    pub(super) applied: bool,
    /// The version in which `fields` are meant.
    pub(super) api_version: String,
    pub(super) subresource: String,
    /// RFC 3339.
    pub(super) time: Option<String>,
    pub(super) fields: Node,
}

impl Entry {
    /// Whether this is the entry of that manager. An applier has one, whatever its version.
    pub(super) fn is_of(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.applied == other.applied
            && self.subresource == other.subresource
            && (self.applied || self.api_version == other.api_version)
    }

    fn operation(&self) -> &'static str {
        if self.applied { "Apply" } else { "Update" }
    }

    fn encode(self) -> Value {
        let operation = self.operation();
        let mut map = Map::new();
        if !self.manager.is_empty() {
            map.insert("manager".into(), self.manager.into());
        }
        map.insert("operation".into(), operation.into());
        map.insert("apiVersion".into(), self.api_version.into());
        if let Some(time) = self.time {
            map.insert("time".into(), time.into());
        }
        map.insert("fieldsType".into(), "FieldsV1".into());
        map.insert("fieldsV1".into(), Value::Object(self.fields));
        if !self.subresource.is_empty() {
            map.insert("subresource".into(), self.subresource.into());
        }
        Value::Object(map)
    }
}

/// `metadata.managedFields` of an object.
pub(super) fn stored(object: &Value) -> Option<&Vec<Value>> {
    object
        .get("metadata")?
        .get("managedFields")?
        .as_array()
        .filter(|entries| !entries.is_empty())
}

/// Entries that this server wrote.
pub(super) fn trusted(entries: Vec<Value>) -> Vec<Entry> {
    entries
        .into_iter()
        .filter_map(|entry| {
            let Value::Object(mut entry) = entry else {
                return None;
            };
            let fields = match entry.remove("fieldsV1") {
                Some(Value::Object(fields)) => fields,
                _ => Node::new(),
            };
            Some(head(&mut entry, fields))
        })
        .collect()
}

/// Entries that a client wrote, in our form; or what is wrong with them.
pub(super) fn read(entries: Vec<Value>) -> Result<Vec<Entry>, String> {
    let mut read: Vec<Entry> = Vec::with_capacity(entries.len());
    for (at, entry) in entries.into_iter().enumerate() {
        let Value::Object(mut entry) = entry else {
            return Err("managed fields entries must be objects".to_owned());
        };
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        if !matches!(text("operation"), "Apply" | "Update") {
            return Err("operation must be `Apply` or `Update`".to_owned());
        }
        if text("apiVersion").is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
            other => {
                return Err(format!(
                    "invalid fieldsType {other:?} in managed fields entry {at}"
                ));
            }
        }
        let fields = entry.remove("fieldsV1").unwrap_or_default();
        let fields = set::read(&fields).map_err(|error| format!("error decoding set: {error}"))?;
        let entry = head(&mut entry, fields);
        // The last of several with the same name counts.
        read.retain(|other| !other.is_of(&entry));
        read.push(entry);
    }
    Ok(read)
}

fn head(entry: &mut Map<String, Value>, fields: Node) -> Entry {
    let applied = entry.get("operation").and_then(Value::as_str) == Some("Apply");
    let mut text = |key: &str| match entry.remove(key) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    Entry {
        manager: text("manager"),
        applied,
        api_version: text("apiVersion"),
        subresource: text("subresource"),
        time: Some(text("time")).filter(|time| !time.is_empty()),
        fields,
    }
}

/// As they are stored: without empty ones, in Kubernetes' order.
pub(super) fn encode(mut entries: Vec<Entry>) -> Vec<Value> {
    entries.retain(|entry| !set::is_empty(&entry.fields));
    entries.sort_by(|a, b| {
        let key = |entry: &'_ Entry| (entry.operation(), entry.time.clone().unwrap_or_default());
        key(a)
            .cmp(&key(b))
            .then_with(|| a.manager.cmp(&b.manager))
            .then_with(|| a.api_version.cmp(&b.api_version))
            .then_with(|| a.subresource.cmp(&b.subresource))
    });
    entries.into_iter().map(Entry::encode).collect()
}

/// Join the oldest Update entries of one version until there are few enough.
pub(super) fn cap(entries: &mut Vec<Entry>) {
    let mut count = entries.iter().filter(|entry| !entry.applied).count();
    if count <= MAX_UPDATE_MANAGERS {
        return;
    }
    let (mut updates, applies): (Vec<Entry>, Vec<Entry>) = std::mem::take(entries)
        .into_iter()
        .partition(|e| !e.applied);
    updates.sort_by(|a, b| {
        (&a.time, &a.manager, &a.api_version, &a.subresource).cmp(&(
            &b.time,
            &b.manager,
            &b.api_version,
            &b.subresource,
        ))
    });
    // One bucket for each version, made where the second of its entries is met.
    let mut kept: Vec<Entry> = Vec::new();
    for entry in updates {
        let same_version = |other: &Entry| other.api_version == entry.api_version;
        match kept.iter().position(same_version) {
            Some(at) if count > MAX_UPDATE_MANAGERS => {
                if let Some(bucket) = kept.get_mut(at) {
                    ANCIENT.clone_into(&mut bucket.manager);
                    bucket.subresource.clear();
                    bucket.time = entry.time;
                    set::unite(&mut bucket.fields, entry.fields);
                    count -= 1;
                }
            }
            _ => kept.push(entry),
        }
    }
    kept.extend(applies);
    *entries = kept;
}
