//! What the store keeps: objects under keys, each with the revision of its last write, and the
//! changes that led there.
//!
//! An object is held once, as the bytes that are sent to clients, and shared from then on; beside
//! the bytes are only the labels and fields that selectors ask for. The bytes are the whole line
//! that a watch sends, and the object alone is a part of it: a thousand watchers of one change and
//! every reader of the object share one allocation.

use std::{fmt, sync::Arc};

use bytes::Bytes;

/// The fields of an object that field selectors may ask for; the API server supplies the function.
///
/// When a database is read at start, the object comes without its arrays, its annotations, its
/// `metadata.resourceVersion` and its top-level `data` and `binaryData`: nothing that a selector asks
/// for is in there, and skipping them is what makes the start fast.
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
    /// `{"type":"MODIFIED","object":…}` and a line feed around `json`: what a watch tells of the
    /// write that made this state.
    pub event: Bytes,
    /// `metadata.labels`.
    pub labels: Pairs,
    /// What [`Extract`] found.
    pub fields: Pairs,
    /// Where in `json` the digits of the revision begin.
    pub(crate) version_at: usize,
}

impl Object {
    /// The object's JSON as if its revision were another: what a watch shows of an object that left
    /// its selection.
    pub fn json_at(&self, revision: u64) -> Vec<u8> {
        let (before, after) = self.around_version();
        let digits = revision.to_string();
        [before, digits.as_bytes(), after].concat()
    }

    /// The JSON before and after the digits of the revision.
    pub(crate) fn around_version(&self) -> (&[u8], &[u8]) {
        let end = self.version_at + self.revision.checked_ilog10().unwrap_or(0) as usize + 1;
        (
            self.json.get(..self.version_at).unwrap_or_default(),
            self.json.get(end..).unwrap_or_default(),
        )
    }
}

/// Names with values, packed into two allocations however many there are.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    /// All names and values one after the other.
    text: Box<str>,
    /// Where each name and each value ends in `text`, in turn.
    ends: Box<[u32]>,
}

impl Pairs {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.chunks_exact(2).map(move |ends| {
            let (name, value) = (ends[0] as usize, ends[1] as usize);
            let pair = (&self.text[start..name], &self.text[name..value]);
            start = value;
            pair
        })
    }

    pub fn len(&self) -> usize {
        self.ends.len() / 2
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let (mut text, mut ends) = (String::new(), Vec::new());
        for (name, value) in pairs {
            for part in [name.as_ref(), value.as_ref()] {
                text.push_str(part);
                // Objects are a thousand times smaller than this could hold.
                ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
            }
        }
        Self {
            text: text.into_boxed_str(),
            ends: ends.into_boxed_slice(),
        }
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
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
