//! A device's twin: values that somebody wants it to have, and whether it has them.
//!
//! What is wanted is brought about when it is said, and again whenever the device returns: when its
//! session is opened, and when it answers after a silence. So a value that is wanted while the device
//! is away is written once it is back. A device that has the value already is not written.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::{source::plain, value};

/// Properties of one device that are brought about at most.
pub(super) const PROPERTIES: usize = 256;

/// What is wanted of a device, and what of it is to be brought about yet.
#[derive(Debug, Default)]
pub(super) struct Twin {
    wanted: BTreeMap<String, String>,
    pending: BTreeSet<String>,
}

impl Twin {
    /// This is wanted from now on; what was not wanted so before is to be brought about.
    pub(super) fn want(&mut self, desired: &BTreeMap<String, Json>) {
        let desired = desired.iter().take(PROPERTIES);
        let wanted: BTreeMap<String, String> = desired
            .map(|(name, value)| (name.clone(), plain(value)))
            .collect();
        let new = wanted
            .iter()
            .filter(|(name, value)| self.wanted.get(*name) != Some(value));
        self.pending.extend(new.map(|(name, _)| name.clone()));
        self.pending.retain(|name| wanted.contains_key(name));
        self.wanted = wanted;
    }

    /// The device is back: who knows what it has now.
    pub(super) fn begin_anew(&mut self) {
        self.pending = self.wanted.keys().cloned().collect();
    }

    /// What to bring about next: the property and its value.
    pub(super) fn next(&self) -> Option<(String, String)> {
        let name = self.pending.first()?;
        Some((name.clone(), self.wanted.get(name)?.clone()))
    }

    /// It has come about, or will not.
    pub(super) fn done(&mut self, name: &str) {
        self.pending.remove(name);
    }
}

/// Whether a reading has the value that is wanted.
pub(super) fn has(reading: &eyot_runtime::reading::Value, wanted: &str) -> bool {
    value::parse(reading.value_type(), wanted).is_ok_and(|wanted| wanted == *reading)
}

#[cfg(test)]
mod tests {
    use eyot_runtime::reading::Value;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_new_is_pending_and_all_of_it_when_the_device_returns() {
        let desired = |json: Json| serde_json::from_value(json).unwrap();
        let mut twin = Twin::default();
        twin.want(&desired(json!({ "A": "1", "B": 2 })));
        assert_eq!(twin.next(), Some(("A".into(), "1".into())));
        twin.done("A");
        assert_eq!(twin.next(), Some(("B".into(), "2".into())));
        twin.done("B");
        twin.want(&desired(json!({ "A": "1", "B": 3 })));
        assert_eq!(twin.next(), Some(("B".into(), "3".into())));
        twin.want(&desired(json!({ "A": "1" })));
        assert_eq!(twin.next(), None);
        twin.begin_anew();
        assert_eq!(twin.next(), Some(("A".into(), "1".into())));
    }

    #[test]
    fn a_value_is_the_same_however_it_is_written() {
        assert!(has(&Value::Float64(30.5), "30.50"));
        assert!(has(&Value::Bool(true), "true"));
        assert!(!has(&Value::Int16(3), "4"));
        assert!(!has(&Value::Int16(3), "three"));
    }
}
