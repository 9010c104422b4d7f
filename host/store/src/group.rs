//! Deciding the writes of one transaction.
//!
//! Each is decided against memory plus what the earlier ones of the same group will have done. The
//! requests are only looked at, so that a group can be decided again if another server was faster.

use std::{collections::HashMap, sync::Arc};

use crate::{
    Change, ChangeKind, Key, Object, WriteError,
    draft::{self, Draft},
    store::Shared,
};

/// What is to be written.
pub(crate) enum Act {
    Create {
        key: Key,
        draft: Draft,
    },
    Update {
        key: Key,
        expected: u64,
        draft: Draft,
        /// Whether the disk may hear of it later: see [`crate::Store::renew`].
        lazy: bool,
    },
    Delete {
        key: Key,
        expected: Option<u64>,
    },
}

impl Act {
    /// Bytes that it holds on to.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Act::Create { draft, .. } | Act::Update { draft, .. } => draft.len(),
            Act::Delete { .. } => 0,
        }
    }
}

pub(crate) type Answer = Result<Arc<Object>, WriteError>;

/// The writes of one transaction, while they are decided.
pub(crate) struct Group<'a> {
    shared: &'a Shared,
    revision: u64,
    /// What the writes so far will have made of these keys; `None` is deleted.
    pending: HashMap<Key, Option<Arc<Object>>>,
    pub(crate) changes: Vec<Change>,
    /// Whether all of the changes may be journalled later.
    pub(crate) lazy: bool,
    /// The resources of those that may.
    pub(crate) renewed: Vec<Arc<str>>,
}

impl<'a> Group<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            revision: shared.read().revision,
            pending: HashMap::new(),
            changes: Vec::new(),
            lazy: true,
            renewed: Vec::new(),
        }
    }

    pub(crate) fn decide(&mut self, act: &Act) -> Answer {
        match act {
            Act::Create { key, draft } => {
                if let Some(current) = self.current(key) {
                    return Err(WriteError::Exists(current));
                }
                self.lazy = false;
                let key = self.shared.read().intern(key.clone());
                let object = draft.object(key, ChangeKind::Added, self.revision + 1);
                Ok(self.store(ChangeKind::Added, object, None))
            }
            Act::Update {
                key,
                expected,
                draft,
                lazy,
            } => {
                let current = self.expect(key, Some(*expected))?;
                self.lazy &= lazy;
                if *lazy {
                    self.renewed.push(current.key.resource.clone());
                }
                let revision = self.revision + 1;
                let object = draft.object(current.key.clone(), ChangeKind::Modified, revision);
                Ok(self.store(ChangeKind::Modified, object, Some(current)))
            }
            Act::Delete { key, expected } => {
                let current = self.expect(key, *expected)?;
                self.lazy = false;
                let object = draft::deleted(&current, self.revision + 1);
                Ok(self.store(ChangeKind::Deleted, object, Some(current)))
            }
        }
    }

    fn current(&self, key: &Key) -> Option<Arc<Object>> {
        match self.pending.get(key) {
            Some(pending) => pending.clone(),
            None => self.shared.read().get(key).cloned(),
        }
    }

    fn expect(&self, key: &Key, expected: Option<u64>) -> Answer {
        let current = self.current(key).ok_or(WriteError::NotFound)?;
        if expected.is_some_and(|expected| expected != current.revision) {
            return Err(WriteError::Conflict { current });
        }
        Ok(current)
    }

    fn store(
        &mut self,
        kind: ChangeKind,
        object: Object,
        previous: Option<Arc<Object>>,
    ) -> Arc<Object> {
        let object = Arc::new(object);
        self.revision = object.revision;
        let now = (kind != ChangeKind::Deleted).then(|| object.clone());
        self.pending.insert(object.key.clone(), now);
        self.changes.push(Change {
            kind,
            object: object.clone(),
            previous,
        });
        object
    }
}
