//! Every write that is no apply: the fields that it changed are its manager's from now on.

use serde_json::Value;

use super::{
    Changes, Write,
    entry::{self, Entry},
    put, reset, set, take_out, zero,
};

/// Set the managed fields of `new`, which replaces `live` (`None`: is created). `forget` is the
/// client's wish to have no managers recorded.
///
/// What `new` says about its managers counts where that is possible (not through a subresource) and
/// makes sense; else those of `live` are carried on.
pub(crate) fn update(write: &Write<'_>, live: Option<&Value>, new: &mut Value, forget: bool) {
    let sent = take_out(new);
    let Some(mut entries) = start(write, live, sent, forget) else {
        return;
    };
    write.reconcile(&mut entries, false);
    let zero;
    let old = match live {
        Some(live) => live,
        None => {
            zero = zero::object(write.shape);
            &zero
        }
    };
    let mut changes = Changes::new(write, old, new);
    write.take(&mut entries, &mut changes, None);
    let mut own = changes.own().written;
    reset::strip(&mut own);
    if !set::is_empty(&own) {
        record(write, &mut entries, own);
    }
    entry::cap(&mut entries);
    put(new, entries);
}

/// Give the fields of this write to its manager, now.
pub(super) fn record(write: &Write<'_>, entries: &mut Vec<Entry>, fields: set::Node) {
    let mut own = write.entry(false, fields);
    own.time = Some(write.now.clone());
    match entries.iter_mut().find(|entry| entry.is_of(&own)) {
        Some(entry) => {
            set::unite(&mut entry.fields, own.fields);
            entry.time = own.time;
        }
        None => entries.push(own),
    }
}

/// The entries to go on from. `None`: nothing is tracked.
fn start(
    write: &Write<'_>,
    live: Option<&Value>,
    sent: Option<Value>,
    forget: bool,
) -> Option<Vec<Entry>> {
    let stored = live.and_then(entry::stored);
    let entries = match sent {
        _ if forget && write.subresource.is_empty() => Vec::new(),
        Some(Value::Array(sent)) if stored == Some(&sent) => entry::trusted(sent),
        Some(Value::Array(sent)) if write.subresource.is_empty() => match entry::read(sent) {
            Ok(entries) if !entries.is_empty() => entries,
            // Whoever does not understand managed fields must not lose them for others.
            _ => stored.cloned().map(entry::trusted).unwrap_or_default(),
        },
        _ => stored.cloned().map(entry::trusted).unwrap_or_default(),
    };
    // Tracking begins with the creation of an object, or with the first apply.
    (live.is_none() || !entries.is_empty()).then_some(entries)
}
