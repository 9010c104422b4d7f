//! Who manages which field: `metadata.managedFields` and server-side apply.
//!
//! Every write is compared with what was there, and the fields that it changed become those of its
//! field manager ([`update()`]); whoever had them has them no longer. Apply is the one write that says
//! what it wants rather than what the object shall be: [`apply()`] lays the configuration over the
//! object, removes what the same manager applied before and does not any more, and refuses to take
//! fields from others unless it is forced. All of it is pure: a state and a wish in, a state out.
//!
//! The rules are those of structured merge as Kubernetes has them: what an object is made of is told
//! by a [`Shape`] (table of types, schema, or the value itself), a set of fields is a tree of path
//! elements kept as the JSON in which it is stored ([`set`]), and five walks over shape and values do
//! the work: [`compare`], [`merge`], [`fields`], [`remove`] and [`check`].
//!
//! Costs are kept where the change is. Parts that are equal are not looked at, an update that changes
//! what its manager already owns changes a time stamp, and an apply that takes nothing back skips the
//! whole search for what to remove.

mod apply;
mod check;
mod compare;
mod conflict;
mod element;
mod entry;
mod fields;
mod last_applied;
mod lay;
mod lent;
mod merge;
mod reconcile;
mod remove;
pub(crate) mod reset;
mod scale;
mod set;
mod shape;
#[cfg(test)]
mod tests;
mod update;
mod zero;

use std::sync::Arc;

use serde_json::Value;

use self::{compare::Diff, entry::Entry, set::Node, shape::Shape};
use crate::resource::Resource;

pub(crate) use self::{
    apply::{Applied, apply},
    check::go_plain,
    lay::lay,
    lent::lend,
    scale::Scale,
    update::update,
};

/// Longest name of a manager.
pub(crate) const LONGEST_NAME: usize = 128;

/// The versions of one resource.
pub(crate) trait Versions: Send + Sync {
    /// The resource at a version; `None` if that one is not served.
    fn find(&self, api_version: &str) -> Option<Arc<Resource>>;

    /// An object of one version as another shows it; `None` if that is not known yet.
    fn show(&self, from: &str, to: &Resource, value: &Value) -> Option<Value> {
        Some(match self.find(from) {
            Some(resource) => resource.convert(to, value),
            None => value.clone(),
        })
    }
}

/// Versions between which objects are converted without asking anybody.
impl<F: Fn(&str) -> Option<Arc<Resource>> + Send + Sync> Versions for F {
    fn find(&self, api_version: &str) -> Option<Arc<Resource>> {
        self(api_version)
    }
}

/// A write, as far as managed fields are concerned.
pub(crate) struct Write<'a> {
    shape: Shape<'a>,
    api_version: String,
    kind: &'a str,
    subresource: &'a str,
    manager: &'a str,
    /// Schemas of custom resources change; built-in types do not while this process runs.
    schema_may_change: bool,
    /// What the write does not reach.
    reset: Node,
    versions: &'a dyn Versions,
    now: String,
}

impl<'a> Write<'a> {
    /// A write of an object of `resource`. `None` for a kind that the table of types lacks.
    pub(crate) fn new(
        resource: &'a Resource,
        subresource: &'a str,
        manager: &'a str,
        versions: &'a dyn Versions,
        now: jiff::Timestamp,
    ) -> Option<Write<'a>> {
        Some(Write {
            shape: Shape::of(resource)?,
            api_version: resource.api_version(),
            kind: &resource.kind,
            subresource,
            manager: if manager.is_empty() {
                "unknown"
            } else {
                manager
            },
            schema_may_change: resource.is_custom(),
            reset: reset::of(reset::paths(resource, subresource)),
            versions,
            now: crate::object::timestamp(now),
        })
    }

    /// The same, without these fields, which nobody comes to own by it.
    pub(crate) fn without(mut self, fields: serde_json::Map<String, Value>) -> Write<'a> {
        set::unite(&mut self.reset, fields);
        self
    }

    /// This manager's entry, with these fields.
    fn entry(&self, applied: bool, fields: Node) -> Entry {
        Entry {
            manager: self.manager.to_owned(),
            applied,
            api_version: self.api_version.clone(),
            subresource: self.subresource.to_owned(),
            time: None,
            fields,
        }
    }

    fn compare(&self, shape: Shape<'_>, old: &Value, new: &Value) -> Diff {
        compare::compare(shape, old, new).without(&self.reset)
    }

    /// Take from every entry what a write changed. `own` is left alone.
    fn take(&self, entries: &mut Vec<Entry>, changes: &mut Changes<'_>, own: Option<&Entry>) {
        entries.retain_mut(|entry| {
            if own.is_some_and(|own| own.is_of(entry)) {
                return true;
            }
            let Some(diff) = changes.at(self, &entry.api_version) else {
                // Nobody can ask for that version any more.
                return false;
            };
            set::subtract(&mut entry.fields, &diff.written);
            set::subtract(&mut entry.fields, &diff.removed);
            !set::is_empty(&entry.fields)
        });
    }

    /// Bring sets that were written under older schemas up to date.
    fn reconcile(&self, entries: &mut [Entry], always: bool) {
        if !self.schema_may_change && !always {
            return;
        }
        for entry in entries {
            if entry.api_version == self.api_version {
                reconcile::reconcile(self.shape, &mut entry.fields);
            } else if let Some(resource) = self.versions.find(&entry.api_version)
                && let Some(shape) = Shape::of(&resource)
            {
                reconcile::reconcile(shape, &mut entry.fields);
            }
        }
    }
}

/// The difference that a write makes, in each version that somebody manages fields in.
struct Changes<'a> {
    old: &'a Value,
    new: &'a Value,
    found: Vec<(String, Option<Diff>)>,
}

impl<'a> Changes<'a> {
    fn new(write: &Write<'_>, old: &'a Value, new: &'a Value) -> Changes<'a> {
        let diff = write.compare(write.shape, old, new);
        Changes {
            old,
            new,
            found: vec![(write.api_version.clone(), Some(diff))],
        }
    }

    /// `None` if that version is not served.
    fn at(&mut self, write: &Write<'_>, api_version: &str) -> Option<&Diff> {
        let known = self.found.iter().position(|(one, _)| one == api_version);
        let at = known.unwrap_or_else(|| {
            let resource = write.versions.find(api_version);
            let diff = resource.and_then(|resource| {
                let shape = Shape::of(&resource)?;
                let show = |value| write.versions.show(&write.api_version, &resource, value);
                // Both, even where one is not known: it is found out about all of them at once.
                let (old, new) = (show(self.old), show(self.new));
                Some(write.compare(shape, &old?, &new?))
            });
            self.found.push((api_version.to_owned(), diff));
            self.found.len() - 1
        });
        self.found.get(at).and_then(|(_, diff)| diff.as_ref())
    }

    /// The difference in the version of the request.
    fn own(self) -> Diff {
        let first = self.found.into_iter().next();
        first.and_then(|(_, diff)| diff).unwrap_or_default()
    }
}

/// What is wrong with the managed fields of an object, if they are no longer those before.
pub(crate) fn broken(object: &Value, before: &Value) -> Option<String> {
    let found = crate::object::at(object, &["metadata", "managedFields"])?;
    match found {
        found if found == before => None,
        Value::Array(entries) => entry::read(entries.clone()).err(),
        _ => Some("managed fields must be a list".to_owned()),
    }
}

/// Leave in the object what is stored of it, now that it is known who sent what.
pub(crate) fn settle(api_version: &str, kind: &str, object: &mut Value) {
    if let Some(shape) = Shape::builtin(api_version, kind) {
        zero::settle(shape, object);
    }
}

/// Put entries into an object.
fn put(object: &mut Value, entries: Vec<Entry>) {
    let entries = entry::encode(entries);
    let metadata = crate::object::metadata(object);
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), Value::Array(entries));
    }
}

/// Take the entries out of an object, as they stand there.
pub(crate) fn take_out(object: &mut Value) -> Option<Value> {
    object
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .and_then(|metadata| metadata.remove("managedFields"))
}

/// The other way round.
pub(crate) fn put_back(object: &mut Value, entries: Option<Value>) {
    let metadata = crate::object::metadata(object);
    match entries {
        Some(entries) => metadata.insert("managedFields".into(), entries),
        None => metadata.remove("managedFields"),
    };
}

/// Whether a client asks to forget all managers: by an empty list, or a list of one empty entry.
pub(crate) fn is_reset(object: &Value) -> bool {
    let entries = object
        .get("metadata")
        .and_then(|metadata| metadata.get("managedFields"))
        .and_then(Value::as_array);
    match entries.map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => one.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    }
}

/// Whether two states differ in the times of their managers at most.
pub(crate) fn same_but_for_times(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else {
        return one == other;
    };
    if !same_but(one, other, "metadata") {
        return false;
    }
    let metadata = (one.get("metadata"), other.get("metadata"));
    let (Some(Value::Object(one)), Some(Value::Object(other))) = metadata else {
        return false;
    };
    let entries = (one.get("managedFields"), other.get("managedFields"));
    let (Some(Value::Array(a)), Some(Value::Array(b))) = entries else {
        return false;
    };
    let same = |(a, b): (&Value, &Value)| match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => same_but(a, b, "time"),
        _ => false,
    };
    a.len() == b.len() && same_but(one, other, "managedFields") && a.iter().zip(b).all(same)
}

/// Whether two objects are the same but for one field, which both have or neither has.
fn same_but(one: &Node, other: &Node, but: &str) -> bool {
    one.len() == other.len()
        && one.iter().all(|(key, value)| match other.get(key) {
            Some(other) => key == but || value == other,
            None => false,
        })
}

/// The name under which a write is tracked: what the client says, else the start of its user agent.
pub(crate) fn manager(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let mut name = String::new();
    let product = user_agent.split('/').next().unwrap_or_default();
    for character in product.chars().filter(|c| !c.is_control()) {
        if name.len() + character.len_utf8() > LONGEST_NAME {
            break;
        }
        name.push(character);
    }
    name
}
