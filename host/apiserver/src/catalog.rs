//! Which resources are served right now: the built-in kinds, every established CRD, and what servers
//! behind this one answer for.
//!
//! A catalog never changes; when a CRD or a server behind does, a new one is built and takes its
//! place.
//! So a request sees one consistent set from start to end.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use eyot_store::Object;
use serde_json::Value;

use crate::{
    aggregation::{Remote, Remotes, group_priority},
    crd,
    discovery::Document,
    kinds,
    openapi::Index,
    resource::Resource,
    usage,
};

pub(crate) struct Catalog {
    by_path: HashMap<String, Arc<Resource>>,
    /// Sorted by group, then version priority, then plural.
    all: Vec<Arc<Resource>>,
    /// Whoever answers in place of this server.
    pub(crate) remotes: Arc<Remotes>,
    /// The aggregated discovery documents of `/apis` and `/api`, encoded at most once.
    pub(crate) aggregated: [OnceLock<Document>; 2],
    /// The documents of OpenAPI v3 and their hashes, computed at most once.
    pub(crate) openapi: OnceLock<Index>,
}

impl Catalog {
    /// The built-in kinds and those of the given CustomResourceDefinitions that are established.
    /// What did not change is taken over from `before`. `measured`: what pods and nodes use is served.
    pub(crate) fn new(
        crds: &[(Arc<Object>, Value)],
        before: &[Arc<Resource>],
        remotes: Arc<Remotes>,
        measured: bool,
    ) -> Catalog {
        let mut all: Vec<Arc<Resource>> = kinds::all()
            .iter()
            .flat_map(Resource::builtins)
            .map(Arc::new)
            .collect();
        for (source, definition) in crds {
            if crd::is_established(definition) {
                let (json, since) = (&source.json, source.revision);
                let resources = crd::resources(json, since, definition, before);
                all.extend(resources.into_iter().map(Arc::new));
            }
        }
        if measured {
            all.extend(usage::resources(before).map(Arc::new));
        }
        all.sort_by(|a, b| {
            let (priority, version) = (group_priority, crd::version_priority);
            let order = priority(&b.group).cmp(&priority(&a.group));
            let order = order.then(a.group.cmp(&b.group));
            let order = order.then(version(&b.version).cmp(&version(&a.version)));
            order.then_with(|| (&a.version, &a.plural).cmp(&(&b.version, &b.plural)))
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
            remotes,
            aggregated: Default::default(),
            openapi: OnceLock::new(),
        }
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(&path(group, version, plural))
    }

    /// The server behind this one that answers for a group and version.
    pub(crate) fn remote(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        let mut remotes = self.remotes.iter();
        remotes.find(|one| one.group == group && one.version == version)
    }

    /// The same for a path at or below `/apis/<group>/<version>`.
    pub(crate) fn remote_at(&self, path: &str) -> Option<&Arc<Remote>> {
        if self.remotes.is_empty() {
            return None;
        }
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        match (parts.next()?, parts.next()?, parts.next()?) {
            ("apis", group, version) => self.remote(group, version),
            _ => None,
        }
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
}

fn path(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}
