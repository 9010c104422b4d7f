//! The managed fields of an object seen through its `scale`, and back.
//!
//! A Scale has one field to own, `spec.replicas`. Whoever owns the object's own count owns that; who
//! comes to own it through the Scale owns the object's count under the subresource `scale`.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Applied, Versions, Write, apply, element,
    entry::{self, Entry},
    put,
    set::{self, Node},
    shape::Shape,
    take_out, update,
};
use crate::resource::Resource;

const API_VERSION: &str = "autoscaling/v1";

/// A write through the `scale` of an object.
pub(crate) struct Scale<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) versions: &'a dyn Versions,
    pub(crate) manager: &'a str,
    pub(crate) now: jiff::Timestamp,
}

impl Scale<'_> {
    /// Set the managers of `parent` after `new` replaced `old`, both Scales.
    pub(crate) fn update(&self, parent: &mut Value, old: &Value, new: &Value) {
        let entries = self.entries(parent);
        let (mut old, mut new) = (old.clone(), new.clone());
        put(&mut old, self.down(&entries));
        take_out(&mut new);
        if let Some(write) = self.write() {
            update(&write, Some(&old), &mut new, false);
        }
        self.up(parent, entries, &mut new);
    }

    /// Apply a Scale to `old`. Answers the new Scale; the managers of `parent` are set.
    pub(crate) fn apply(
        &self,
        parent: &mut Value,
        old: &Value,
        config: &Value,
        force: bool,
    ) -> Applied {
        let entries = self.entries(parent);
        let mut old = old.clone();
        put(&mut old, self.down(&entries));
        let Some(write) = self.write() else {
            return Ok(old);
        };
        let mut new = apply(&write, Some(&old), config, force)?;
        self.up(parent, entries, &mut new);
        Ok(new)
    }

    fn write(&self) -> Option<Write<'_>> {
        static NO_VERSIONS: fn(&str) -> Option<Arc<Resource>> = |_| None;
        Some(Write {
            shape: Shape::builtin(API_VERSION, "Scale")?,
            api_version: API_VERSION.to_owned(),
            kind: "Scale",
            subresource: "scale",
            manager: if self.manager.is_empty() {
                "unknown"
            } else {
                self.manager
            },
            schema_may_change: false,
            reset: Node::new(),
            versions: &NO_VERSIONS,
            now: crate::object::timestamp(self.now),
        })
    }

    fn entries(&self, parent: &mut Value) -> Vec<Entry> {
        match take_out(parent) {
            Some(Value::Array(entries)) => entry::trusted(entries),
            _ => Vec::new(),
        }
    }

    /// Where an object of a version has its count. `Err` for a version that is not served.
    fn replicas(&self, api_version: &str) -> Result<Option<Vec<String>>, ()> {
        let path = |resource: &Resource| {
            let path = &resource.scale.as_ref()?.spec;
            Some(path.iter().map(|name| element::field(name)).collect())
        };
        if api_version == self.resource.api_version() {
            return Ok(path(self.resource));
        }
        let resource = self.versions.find(api_version).ok_or(())?;
        Ok(path(&resource))
    }

    /// The owners of the count, as owners of `spec.replicas` of the Scale.
    fn down(&self, entries: &[Entry]) -> Vec<Entry> {
        entries
            .iter()
            .filter(|entry| match self.replicas(&entry.api_version) {
                Ok(Some(path)) => has(&entry.fields, &path),
                _ => false,
            })
            .map(|entry| Entry {
                api_version: API_VERSION.to_owned(),
                fields: only(&["f:spec".to_owned(), "f:replicas".to_owned()]),
                ..entry.clone()
            })
            .collect()
    }

    fn up(&self, parent: &mut Value, entries: Vec<Entry>, scale: &mut Value) {
        let mut owners = self.entries(scale);
        let mut kept = Vec::new();
        for mut entry in entries {
            let Ok(path) = self.replicas(&entry.api_version) else {
                continue;
            };
            let Some(path) = path.filter(|path| has(&entry.fields, path)) else {
                kept.push(entry);
                continue;
            };
            let same = |owner: &Entry| {
                owner.manager == entry.manager
                    && owner.applied == entry.applied
                    && owner.subresource == entry.subresource
            };
            match owners.iter().position(same) {
                Some(at) => {
                    owners.swap_remove(at);
                }
                None => set::subtract(&mut entry.fields, &only(&path)),
            }
            kept.push(entry);
        }
        let path = self.replicas(&self.resource.api_version());
        for owner in owners {
            let Ok(Some(path)) = &path else { continue };
            if set::has(&owner.fields, &["f:spec", "f:replicas"]) {
                kept.push(Entry {
                    api_version: self.resource.api_version(),
                    // Known by the object alone, which did not know this one.
                    time: None,
                    fields: only(path),
                    ..owner
                });
            }
        }
        put(parent, kept);
    }
}

fn has(fields: &Node, path: &[String]) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    set::has(fields, &path)
}

fn only(path: &[String]) -> Node {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let mut fields = Node::new();
    set::insert(&mut fields, &path);
    fields
}
