//! What those whom a request passes leave behind for the audit log.

use std::sync::{Arc, Mutex, PoisonError};

/// Notes for one request are few; more than this say nothing that the first do not.
const MOST: usize = 256;

/// Annotations of one request, in the order in which they came. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<(String, String)>>>);

impl Notes {
    /// Leave a note. The first of a key stands.
    pub(crate) fn add(&self, key: impl Into<String>, value: impl Into<String>) {
        let (key, mut notes) = (key.into(), self.lock());
        if notes.len() < MOST && !notes.iter().any(|(known, _)| *known == key) {
            notes.push((key, value.into()));
        }
    }

    /// All that was left so far.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "read by the audit log, which comes next")
    )]
    pub(crate) fn all(&self) -> Vec<(String, String)> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(String, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Notes;

    #[test]
    fn the_first_note_of_a_key_stands() {
        let notes = Notes::default();
        notes.clone().add("a", "1");
        notes.add("a", "2");
        notes.add("b", "3");
        let expected = [("a", "1"), ("b", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(notes.all(), expected);
    }
}
