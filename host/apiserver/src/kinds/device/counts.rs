//! How many there may be of everything in `resource.k8s.io`, and the walk over lists that hold to it.

use std::collections::HashSet;

use serde_json::Value;

use crate::kinds::findings::Findings;

pub(super) const REQUESTS: usize = 32;
pub(super) const CONSTRAINTS: usize = 32;
pub(super) const CONFIGURATIONS: usize = 32;
pub(super) const ALTERNATIVES: usize = 8;
pub(super) const SELECTORS: usize = 32;
pub(super) const CONSUMERS: usize = 256;
pub(super) const RESULTS: usize = 32;
pub(super) const DEVICES: usize = 128;
/// Of devices with taints or counters.
pub(super) const ADVANCED_DEVICES: usize = 64;
pub(super) const ATTRIBUTES_AND_CAPACITIES: usize = 32;
pub(super) const COUNTER_SETS: usize = 8;
pub(super) const COUNTERS: usize = 32;
pub(super) const CONSUMPTIONS: usize = 2;
pub(super) const BINDING_CONDITIONS: usize = 4;
pub(super) const TAINTS: usize = 16;
pub(super) const CAPACITY_OPTIONS: usize = 10;
pub(super) const CONDITIONS: usize = 8;
pub(super) const ADDRESSES: usize = 16;

/// Look at each of so many; with more than that nothing is looked at.
pub(super) fn bounded<'a>(
    items: &'a [Value],
    most: usize,
    field: &str,
    errors: &mut Findings,
    mut look: impl FnMut(&'a Value, &str, &mut Findings),
) -> bool {
    if items.len() > most {
        errors.too_many(field, items.len(), most);
        return false;
    }
    for (index, item) in items.iter().enumerate() {
        look(item, &format!("{field}[{index}]"), errors);
    }
    true
}

/// The same for what must differ in this key.
pub(super) fn set<'a>(
    items: &'a [Value],
    most: usize,
    field: &str,
    errors: &mut Findings,
    key: impl Fn(&Value) -> Value,
    look: impl FnMut(&'a Value, &str, &mut Findings),
) {
    if !bounded(items, most, field, errors, look) {
        return;
    }
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let key = key(item);
        if !seen.insert(key.to_string()) {
            errors.duplicate(format!("{field}[{index}]"), key);
        }
    }
}
