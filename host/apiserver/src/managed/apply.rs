//! Server-side apply.

use serde_json::Value;

use super::{
    Changes, Write, check, compare,
    conflict::{self, Conflict},
    entry::{self, Entry},
    fields, last_applied, merge, put, remove, reset,
    set::{self, Node},
    shape::Shape,
    take_out, zero,
};
use crate::{failure::Failure, object};

/// Manager of what an object had before its first apply, if nobody had been tracked.
const BEFORE: &str = "before-first-apply";

/// What applying a configuration makes of an object: the object, with its managed fields.
pub(crate) type Applied = Result<Value, Failure>;

/// Apply `config` to `live` (`None`: it is created).
pub(crate) fn apply(
    write: &Write<'_>,
    live: Option<&Value>,
    config: &Value,
    force: bool,
) -> Applied {
    check_config(write, config)?;
    let mut object = live
        .cloned()
        .unwrap_or_else(|| Value::Object(Default::default()));
    let stored = take_out(&mut object);
    let mut entries = match stored {
        Some(Value::Array(stored)) => entry::trusted(stored),
        _ => Vec::new(),
    };
    if entries.is_empty() && live.is_some() {
        entries.extend(before(write, &object));
    }
    write.reconcile(&mut entries, true);
    let live = object.clone();
    merge::merge(write.shape, &mut object, config);
    let mut own = write.entry(true, fields::of(write.shape, config));
    set::cut(&mut own.fields, &write.reset);
    let last = entries
        .iter()
        .position(|entry| entry.is_of(&own))
        .map(|at| entries.swap_remove(at));
    own.time = last.as_ref().and_then(|last| last.time.clone());
    if let Some(last) = &last {
        entries.push(own.clone());
        prune(write, &mut object, last, &own, &entries);
        entries.pop();
    }
    let zero;
    let old = if live.as_object().is_some_and(|map| map.is_empty()) {
        zero = zero::object(write.shape);
        &zero
    } else {
        &live
    };
    let mut changes = Changes::new(write, old, &object);
    if !force {
        let taken = taken(write, &entries, &mut changes);
        let allowed = match write.manager {
            "kubectl" if !taken.is_empty() => last_applied::allowed(write, &live),
            _ => None,
        };
        let conflicts = conflicts(taken, allowed.as_ref());
        if !conflicts.is_empty() {
            return Err(conflict::failure(&conflicts));
        }
    }
    write.take(&mut entries, &mut changes, None);
    reset::strip(&mut own.fields);
    if !compare::same(&live, &object) {
        own.time = Some(write.now.clone());
    }
    entries.push(own);
    put(&mut object, entries);
    if write.manager == "kubectl" {
        last_applied::refresh(&mut object, config);
    }
    Ok(object)
}

fn check_config(write: &Write<'_>, config: &Value) -> Result<(), Failure> {
    let version = object::text(config, &["apiVersion"]);
    let kind = object::text(config, &["kind"]);
    if version != write.api_version || kind != write.kind {
        let version = match version.split_once('/') {
            Some(_) => version.to_owned(),
            None => format!("/{version}"),
        };
        return Err(Failure::bad_request(format!(
            "invalid object type: {version}, Kind={kind}"
        )));
    }
    let managed = object::at(config, &["metadata", "managedFields"]);
    if managed.is_some_and(|managed| !managed.is_null()) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    if let Some(faults) = check::faults(write.shape, config) {
        let version = match write.api_version.split_once('/') {
            Some(_) => write.api_version.clone(),
            None => format!("/{}", write.api_version),
        };
        return Err(Failure::unexplained(format!(
            "failed to create typed patch object ({}/{}; {version}, Kind={}): {faults}",
            object::namespace(config),
            object::name(config),
            write.kind,
        )));
    }
    Ok(())
}

/// The entry of everything that is there already.
fn before(write: &Write<'_>, live: &Value) -> Option<Entry> {
    let empty = zero::object(write.shape);
    let mut fields = write.compare(write.shape, &empty, live).written;
    reset::strip(&mut fields);
    let mut entries = Vec::new();
    if !set::is_empty(&fields) {
        let mut entry = write.entry(false, fields);
        entry.manager = BEFORE.to_owned();
        entry.time = Some(write.now.clone());
        entries.push(entry);
    }
    entries.pop()
}

/// What other managers would lose, by entry.
fn taken(write: &Write<'_>, entries: &[Entry], changes: &mut Changes<'_>) -> Vec<(Entry, Node)> {
    entries
        .iter()
        .filter_map(|entry| {
            let diff = changes.at(write, &entry.api_version)?;
            let lost = set::intersection(&entry.fields, &diff.written);
            (!set::is_empty(&lost)).then(|| (entry.clone(), lost))
        })
        .collect()
}

/// The conflicts, unless all of them are allowed.
fn conflicts(taken: Vec<(Entry, Node)>, allowed: Option<&Node>) -> Vec<Conflict> {
    let mut taken = taken;
    taken.sort_by(|(a, _), (b, _)| {
        (&a.manager, a.applied, &a.api_version, &a.subresource).cmp(&(
            &b.manager,
            b.applied,
            &b.api_version,
            &b.subresource,
        ))
    });
    taken
        .into_iter()
        .flat_map(|(entry, mut lost)| {
            if let Some(allowed) = allowed {
                set::subtract(&mut lost, allowed);
            }
            conflict::with(&entry, &lost)
        })
        .collect()
}

/// Remove from the merged object what its manager applied last time, does not apply now, and nobody
/// else owns. All of that is told in the version of the last time.
fn prune(write: &Write<'_>, merged: &mut Value, last: &Entry, own: &Entry, entries: &[Entry]) {
    if last.api_version == write.api_version {
        return prune_in(write, write.shape, merged, last, own, entries);
    }
    let found = write.versions.find(&last.api_version);
    let Some((resource, shape)) = found.as_ref().and_then(|at| Some((at, Shape::of(at)?))) else {
        return;
    };
    let shown = write.versions.show(&write.api_version, resource, merged);
    let (Some(shown), Some(here)) = (shown, write.versions.find(&write.api_version)) else {
        return;
    };
    let mut pruned = shown.clone();
    prune_in(write, shape, &mut pruned, last, own, entries);
    if pruned == shown {
        return;
    }
    if let Some(back) = write.versions.show(&last.api_version, &here, &pruned) {
        *merged = back;
    }
}

/// The same for an object that is shown in that version, of this shape.
fn prune_in(
    write: &Write<'_>,
    shape: Shape<'_>,
    merged: &mut Value,
    last: &Entry,
    own: &Entry,
    entries: &[Entry],
) {
    let before = set::with_named_fields(last.fields.clone(), shape);
    if own.api_version == last.api_version {
        // Nothing was given up: the usual case.
        let now = set::with_named_fields(own.fields.clone(), shape);
        let mut given_up = before.clone();
        set::subtract(&mut given_up, &now);
        if set::is_empty(&given_up) {
            return;
        }
    }
    let mut pruned = merged.clone();
    remove::remove(shape, &mut pruned, &before);
    // What others own (or this manager under its new configuration) comes back.
    let mut versions: Vec<&str> = entries.iter().map(|e| e.api_version.as_str()).collect();
    versions.sort_unstable_by_key(|version| (*version != last.api_version, *version));
    versions.dedup();
    for version in versions {
        if version == last.api_version {
            pruned = restored(shape, merged, &pruned, entries, version);
            continue;
        }
        let found = match version == write.api_version {
            true => None,
            false => write.versions.find(version),
        };
        let of = match &found {
            Some(resource) => Shape::of(resource),
            None if version == write.api_version => Some(write.shape),
            None => None,
        };
        let Some(of) = of else { continue };
        let show = |value: &Value, from: &str, to: &str| {
            let to = write.versions.find(to)?;
            write.versions.show(from, &to, value)
        };
        let all = show(merged, &last.api_version, version);
        let rest = show(&pruned, &last.api_version, version);
        let (Some(all), Some(rest)) = (all, rest) else {
            continue;
        };
        let kept = restored(of, &all, &rest, entries, version);
        if let Some(back) = show(&kept, version, &last.api_version) {
            pruned = back;
        }
    }
    // So does what was never this manager's.
    let kept = set::with_named_fields(fields::of(shape, &pruned), shape);
    let mut gone = set::with_named_fields(fields::of(shape, merged), shape);
    set::subtract(&mut gone, &kept);
    let gone = set::intersection(&gone, &before);
    remove::remove(shape, merged, &gone);
}

/// All that is left in the pruned object, and what somebody owns in this version.
fn restored(
    shape: Shape<'_>,
    merged: &Value,
    pruned: &Value,
    entries: &[Entry],
    version: &str,
) -> Value {
    let mut keep = set::with_named_fields(fields::of(shape, pruned), shape);
    for entry in entries.iter().filter(|entry| entry.api_version == version) {
        set::unite(
            &mut keep,
            set::with_named_fields(entry.fields.clone(), shape),
        );
    }
    let mut gone = set::with_named_fields(fields::of(shape, merged), shape);
    set::subtract(&mut gone, &keep);
    let mut next = merged.clone();
    remove::remove(shape, &mut next, &gone);
    next
}
