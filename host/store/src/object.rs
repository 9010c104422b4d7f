//! What the store keeps: objects under keys, each with the revision of its last write, and the
//! changes that led there.
//!
//! An object is held once, as the bytes that are sent to clients, and shared from then on; beside
//! the bytes are only the labels and fields that selectors ask for.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;

/// The fields of an object that field selectors may ask for; the API server supplies the function.
pub type Extract = fn(resource: &str, object: &serde_json::Value) -> Vec<(Box<str>, Box<str>)>;

/// The name of an object among all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Plural and group: `pods`, `deployments.apps`, `devices.eyot.dev`.
    pub resource: Arc<str>,
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(
        resource: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
        name: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.resource, self.name)
        } else {
            write!(f, "{} {}/{}", self.resource, self.namespace, self.name)
        }
    }
}

/// One state of one object. Never changed in place: a write makes a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub key: Key,
    /// The revision of the write that made this state; also `metadata.resourceVersion` in `json`.
    pub revision: u64,
    /// The whole object, serialised.
    pub json: Bytes,
    /// `metadata.labels`.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// What [`Extract`] found.
    pub fields: Vec<(Box<str>, Box<str>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One write, as watchers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    /// The state after the write; for a deletion the last state, with the deletion's revision.
    pub object: Arc<Object>,
    /// The state before the write; `None` for an addition.
    pub previous: Option<Arc<Object>>,
}

/// All objects of one resource (and namespace) as they were at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// A watch after this revision misses nothing and repeats nothing.
    pub revision: u64,
    /// Ordered by namespace, then name.
    pub objects: Vec<Arc<Object>>,
}
