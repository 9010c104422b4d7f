//! Which resources are served right now: the built-in kinds and every established CRD.
//!
//! A catalog never changes; when a CRD does, a new one is built from the store and takes its place.
//! So a request sees one consistent set from start to end.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use eyot_store::Object;
use serde_json::Value;

use crate::{crd, discovery::Document, kinds, openapi::Index, resource::Resource};

pub(crate) struct Catalog {
    by_path: HashMap<String, Arc<Resource>>,
    /// Sorted by group, then version priority, then plural.
    all: Vec<Arc<Resource>>,
    /// The aggregated discovery documents of `/apis` and `/api`, encoded at most once.
    pub(crate) aggregated: [OnceLock<Document>; 2],
    /// The documents of OpenAPI v3 and their hashes, computed at most once.
    pub(crate) openapi: OnceLock<Index>,
}

impl Catalog {
    /// The built-in kinds and those of the given CustomResourceDefinitions that are established.
    /// What did not change is taken over from `before`.
    pub(crate) fn new(crds: &[(Arc<Object>, Value)], before: &[Arc<Resource>]) -> Catalog {
        let mut all: Vec<Arc<Resource>> = kinds::all()
            .iter()
            .flat_map(Resource::builtins)
            .map(Arc::new)
            .collect();
        for (source, definition) in crds {
            if crd::is_established(definition) {
                let resources = crd::resources(source, definition, before);
                all.extend(resources.into_iter().map(Arc::new));
            }
        }
        all.sort_by(|a, b| {
            let (rank, version) = (group_rank, crd::version_priority);
            let order = (rank(&a.group), &a.group).cmp(&(rank(&b.group), &b.group));
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
            aggregated: Default::default(),
            openapi: OnceLock::new(),
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
}

fn path(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}

/// The order in which Kubernetes lists its groups; all others come after them.
const GROUPS: [&str; 21] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// Where a group stands among the others; those of one rank are in the order of their names.
pub(crate) fn group_rank(group: &str) -> usize {
    let known = GROUPS.iter().position(|known| *known == group);
    known.unwrap_or(GROUPS.len())
}
