//! What a row of the database means, whichever backend it comes from.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use crate::{Change, ChangeKind, Codec, Extract, Key, Object, draft, state::State};

/// A row of `changes`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) revision: u64,
    pub(crate) kind: i64,
    pub(crate) resource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// The object as the codec stores it.
    pub(crate) stored: &'a [u8],
}

impl<'a> Row<'a> {
    pub(crate) fn new(change: &'a Change, stored: &'a [u8]) -> Self {
        let object = &*change.object;
        let kind = match change.kind {
            ChangeKind::Added => 0,
            ChangeKind::Modified => 1,
            ChangeKind::Deleted => 2,
        };
        Self {
            revision: object.revision,
            kind,
            resource: &object.key.resource,
            namespace: &object.key.namespace,
            name: &object.key.name,
            stored,
        }
    }

    /// The write that the row tells of, with its key shared with objects in `state`; and whether
    /// the codec would write the row otherwise now. Says what is wrong if it is damaged.
    pub(crate) fn found(
        &self,
        sum: Option<i64>,
        state: &State,
        extract: Extract,
        codec: &dyn Codec,
    ) -> Result<(Found, bool), String> {
        if sum.is_some_and(|sum| sum != self.sum()) {
            return Err("its checksum is wrong".to_owned());
        }
        let kind = match self.kind {
            0 => ChangeKind::Added,
            1 => ChangeKind::Modified,
            2 => ChangeKind::Deleted,
            other => return Err(format!("unknown kind of change {other}")),
        };
        let key = state.intern(Key::new(self.resource, self.namespace, self.name));
        let decoded = codec.decode(&key, self.stored)?;
        let object = draft::stored(key, kind, self.revision, &decoded.json, extract)?;
        Ok((Found { kind, object }, decoded.stale))
    }

    /// The same row with another form of the object.
    pub(crate) fn with<'b>(&self, stored: &'b [u8]) -> Row<'b>
    where
        'a: 'b,
    {
        Row { stored, ..*self }
    }

    /// A checksum of the whole row: what a disk returns is not always what was written to it.
    pub(crate) fn sum(&self) -> i64 {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&self.revision.to_le_bytes());
        sum.update(&self.kind.to_le_bytes());
        for part in [self.resource, self.namespace, self.name] {
            sum.update(part.as_bytes());
            // Without it, text could move from one column to the next unseen.
            sum.update(&[0]);
        }
        sum.update(self.stored);
        sum.finalize().into()
    }
}

/// A write that a row tells of.
pub(crate) struct Found {
    pub(crate) kind: ChangeKind,
    pub(crate) object: Object,
}

/// What was found in a database.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) state: State,
    /// Up to which revision renewals may go unwritten, by resource.
    pub(crate) reserved: BTreeMap<Arc<str>, u64>,
}

/// Puts what is read from a database into memory: first the horizons and what is reserved, then
/// the rows in the order of their revisions.
pub(crate) struct Loader {
    loaded: Loaded,
    horizons: HashMap<Arc<str>, u64>,
    extract: Extract,
    codec: Arc<dyn Codec>,
    /// Revisions of rows that the codec would write otherwise now.
    stale: Vec<u64>,
    now: Instant,
}

impl Loader {
    pub(crate) fn new(extract: Extract, codec: Arc<dyn Codec>) -> Self {
        Self {
            loaded: Loaded::default(),
            horizons: HashMap::new(),
            extract,
            codec,
            stale: Vec::new(),
            now: Instant::now(),
        }
    }

    pub(crate) fn horizon(&mut self, resource: &str, revision: u64) {
        let resource: Arc<str> = resource.into();
        self.loaded.state.set_horizon(&resource, revision);
        self.horizons.insert(resource, revision);
    }

    pub(crate) fn reserved(&mut self, resource: &str, revision: u64) {
        self.loaded.reserved.insert(resource.into(), revision);
    }

    /// The database is at this revision at least.
    #[cfg(feature = "postgres")]
    pub(crate) fn reached(&mut self, revision: u64) {
        let state = &mut self.loaded.state;
        state.revision = state.revision.max(revision);
    }

    /// Take a row; says what is wrong with it if it is damaged.
    pub(crate) fn row(&mut self, row: Row<'_>, sum: Option<i64>) -> Result<(), String> {
        let state = &mut self.loaded.state;
        let (Found { kind, object }, stale) = row.found(sum, state, self.extract, &*self.codec)?;
        if stale {
            self.stale.push(row.revision);
        }
        let horizon = self.horizons.get(&object.key.resource);
        let settled = horizon.is_some_and(|horizon| object.revision <= *horizon);
        let previous = state.get(&object.key).cloned();
        let change = Change {
            kind,
            object: Arc::new(object),
            previous,
        };
        if settled {
            state.settle(&change);
        } else {
            state.apply(change, self.now);
        }
        Ok(())
    }

    /// What was read, and what must be written because of it.
    pub(crate) fn finish(mut self) -> Finished {
        let known = self.loaded.state.revision;
        let reserved = self.loaded.reserved.iter();
        let lost: Vec<_> = reserved
            .filter(|(_, reserved)| **reserved > known)
            .map(|(resource, _)| resource.clone())
            .collect();
        let beyond = self.loaded.reserved.values().copied().max();
        let beyond = beyond.unwrap_or_default().max(known);
        for resource in &lost {
            self.loaded.state.set_horizon(resource, beyond);
        }
        Finished {
            loaded: self.loaded,
            horizons: lost.into_iter().map(|name| (name, beyond)).collect(),
            stale: self.stale,
        }
    }
}

/// What was read, and what must be written because of it.
pub(crate) struct Finished {
    pub(crate) loaded: Loaded,
    /// Of resources of which renewals may have been lost: whoever saw one of those has to list
    /// again.
    pub(crate) horizons: BTreeMap<Arc<str>, u64>,
    /// Revisions of rows that the codec would write otherwise now.
    pub(crate) stale: Vec<u64>,
}
