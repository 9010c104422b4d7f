//! Which resources are served right now: the built-in kinds and every established CRD.
//!
//! A catalog never changes; when a CRD does, a new one is built from the store and takes its place.
//! So a request sees one consistent set from start to end.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde_json::Value;

use crate::{crd, kinds, resource::Resource};

pub(crate) struct Catalog {
    by_path: HashMap<String, Arc<Resource>>,
    /// Sorted by group, then version priority, then plural.
    all: Vec<Arc<Resource>>,
    /// The aggregated discovery document of `/apis`, encoded at most once.
    pub(crate) aggregated: OnceLock<Bytes>,
}

impl Catalog {
    /// The built-in kinds and those of the given CustomResourceDefinitions that are established.
    pub(crate) fn new<'a>(crds: impl IntoIterator<Item = &'a Value>) -> Catalog {
        let mut all: Vec<Arc<Resource>> = kinds::all()
            .iter()
            .map(|spec| Arc::new(Resource::builtin(spec)))
            .collect();
        for definition in crds {
            if crd::is_established(definition) {
                all.extend(crd::resources(definition).into_iter().map(Arc::new));
            }
        }
        all.sort_by(|a, b| {
            let version = |r: &Resource| crd::version_priority(&r.version);
            (&a.group, version(b), &a.plural).cmp(&(&b.group, version(a), &b.plural))
        });
        let mut by_path = HashMap::new();
        for resource in &all {
            let path = path(&resource.group, &resource.version, &resource.plural);
            // A CRD can never stand in for a built-in kind.
            by_path.entry(path).or_insert_with(|| resource.clone());
        }
        Catalog {
            by_path,
            all,
            aggregated: OnceLock::new(),
        }
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(&path(group, version, plural))
    }

    pub(crate) fn all(&self) -> &[Arc<Resource>] {
        &self.all
    }

    /// The resources of one group and version, by plural.
    pub(crate) fn of<'a>(
        &'a self,
        group: &'a str,
        version: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.all
            .iter()
            .filter(move |r| r.group == group && r.version == version)
    }

    /// Groups other than the core one, each with its versions, the preferred first.
    pub(crate) fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for resource in self
            .all
            .iter()
            .filter(|resource| !resource.group.is_empty())
        {
            match groups.last_mut() {
                Some((group, versions)) if *group == resource.group => {
                    if !versions.contains(&resource.version.as_str()) {
                        versions.push(&resource.version);
                    }
                }
                _ => groups.push((&resource.group, vec![&resource.version])),
            }
        }
        groups
    }
}

fn path(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}
