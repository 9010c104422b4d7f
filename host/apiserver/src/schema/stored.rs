//! What is stored at the place of a value, and whether anything changed there.

use std::collections::HashMap;

use serde_json::Value;

use super::{Additional, ListKind, Node};
use crate::cel::json_equal;

/// Lists up to this length are searched from their start.
const SHORT: usize = 16;

/// The stored list at the place of a list, whose items are found by their keys.
pub(super) struct StoredList<'v> {
    keys: &'v [String],
    items: &'v [Value],
    /// Of a long list: the first item with these keys.
    places: HashMap<String, usize>,
}

impl<'v> StoredList<'v> {
    /// `None` where items have no place of their own: there is no list, or it is not a keyed one.
    pub(super) fn of(node: &'v Node, stored: Option<&'v Value>) -> Option<StoredList<'v>> {
        let (ListKind::Map(keys), Some(Value::Array(items))) = (&node.list, stored) else {
            return None;
        };
        let mut places = HashMap::new();
        if items.len() > SHORT {
            for (at, item) in items.iter().enumerate() {
                places.entry(identity(keys, item)).or_insert(at);
            }
        }
        Some(StoredList {
            keys,
            items,
            places,
        })
    }

    /// The stored item with the same keys.
    pub(super) fn find(&self, item: &Value) -> Option<&'v Value> {
        if self.items.len() > SHORT {
            let at = self.places.get(&identity(self.keys, item))?;
            return self.items.get(*at);
        }
        let same = |other: &&Value| self.keys.iter().all(|key| other.get(key) == item.get(key));
        self.items.iter().find(same)
    }
}

fn identity(keys: &[String], item: &Value) -> String {
    let mut text = String::new();
    for key in keys {
        // A key that is absent is not one that is null.
        match item.get(key) {
            Some(value) => text.push_str(&value.to_string()),
            None => text.push('-'),
        }
        text.push(',');
    }
    text
}

/// Whether a value is what is stored at its place. The order of keyed lists means nothing.
pub(super) fn unchanged(node: &Node, value: &Value, stored: &Value) -> bool {
    match (value, stored) {
        (Value::Object(new), Value::Object(old)) => {
            new.len() == old.len()
                && new.iter().all(|(name, value)| {
                    let Some(stored) = old.get(name) else {
                        return false;
                    };
                    match (node.properties.get(name), &node.additional) {
                        (Some(of), _) => unchanged(of, value, stored),
                        (None, Additional::Each(of)) => unchanged(of, value, stored),
                        _ => json_equal(value, stored),
                    }
                })
        }
        (Value::Array(new), Value::Array(old)) => {
            match (&node.items, StoredList::of(node, Some(stored))) {
                (Some(of), Some(list)) => {
                    new.len() == old.len()
                        && new.iter().all(|item| {
                            list.find(item)
                                .is_some_and(|stored| unchanged(of, item, stored))
                        })
                }
                _ => json_equal(value, stored),
            }
        }
        _ => json_equal(value, stored),
    }
}
