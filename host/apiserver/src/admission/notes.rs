//! What those whom a request passes leave behind for the audit log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Notes for one request are few; more than this say nothing that the first do not.
const MOST: usize = 256;

/// Annotations of one request, in the order in which they came. Clones share them. By default
/// nobody reads them, and nothing is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes(Option<Arc<Mutex<Pairs>>>);

/// Keys and values.
type Pairs = Vec<(String, String)>;

impl Notes {
    /// Notes that somebody reads.
    pub(crate) fn kept() -> Notes {
        Notes(Some(Arc::default()))
    }

    /// Leave a note. The first of a key stands.
    pub(crate) fn add(&self, key: impl Into<String>, value: impl Into<String>) {
        let Some(mut notes) = self.lock() else {
            return;
        };
        let key = key.into();
        if notes.len() < MOST && !notes.iter().any(|(known, _)| *known == key) {
            notes.push((key, value.into()));
        }
    }

    /// All that was left so far.
    pub(crate) fn all(&self) -> Pairs {
        self.lock().map_or_else(Vec::new, |notes| notes.clone())
    }

    fn lock(&self) -> Option<MutexGuard<'_, Pairs>> {
        let notes = self.0.as_ref()?;
        Some(notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::Notes;

    #[test]
    fn the_first_note_of_a_key_stands() {
        let notes = Notes::kept();
        notes.clone().add("a", "1");
        notes.add("a", "2");
        notes.add("b", "3");
        let expected = [("a", "1"), ("b", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(notes.all(), expected);
        let unread = Notes::default();
        unread.add("a", "1");
        assert!(unread.all().is_empty());
    }
}
