//! Who controls what: the controller among an object's owners, and taking and letting go.

use eyot_client::{Cache, Change, Key};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::{
    Resource,
    core::{Selector, SelectorExt},
};
use serde_json::{Value, json};

/// The owner that manages the object, of which there is at most one.
pub(crate) fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

pub(crate) fn is_controlled_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    controller(meta).is_some_and(|found| Some(&found.uid) == owner.uid.as_ref())
}

/// The reference that makes `owner` the controller of something.
pub(crate) fn reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A merge patch that adds an owner to these metadata, if nobody wrote them since.
pub(crate) fn adopt(meta: &ObjectMeta, owner: OwnerReference) -> Value {
    let mut owners = meta.owner_references.clone().unwrap_or_default();
    owners.push(owner);
    with_owners(meta, &owners)
}

/// A merge patch that removes the owners with these uids, if nobody wrote the metadata since.
pub(crate) fn release(meta: &ObjectMeta, uids: &[&str]) -> Value {
    let owners = meta.owner_references.iter().flatten();
    let left: Vec<_> = owners
        .filter(|owner| !uids.contains(&&*owner.uid))
        .cloned()
        .collect();
    with_owners(meta, &left)
}

fn with_owners(meta: &ObjectMeta, owners: &[OwnerReference]) -> Value {
    let owners = if owners.is_empty() {
        Value::Null
    } else {
        json!(owners)
    };
    json!({ "metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners,
    }})
}

/// A label selector ready to be asked. One that makes no sense selects nothing.
pub(crate) struct Selects(Option<Selector>);

impl Selects {
    pub(crate) fn new(selector: &LabelSelector) -> Self {
        let empty = selector
            .match_labels
            .as_ref()
            .is_none_or(|labels| labels.is_empty())
            && selector
                .match_expressions
                .as_ref()
                .is_none_or(Vec::is_empty);
        // The API refuses workloads without a selector; were there one, it must not own the world.
        Self(if empty {
            None
        } else {
            selector.clone().try_into().ok()
        })
    }

    /// What a workload selects; nothing if it does not say.
    pub(crate) fn of(selector: Option<&LabelSelector>) -> Self {
        selector.map_or(Self(None), Self::new)
    }

    pub(crate) fn matches(&self, meta: &ObjectMeta) -> bool {
        let none = Default::default();
        let labels = meta.labels.as_ref().unwrap_or(&none);
        self.0
            .as_ref()
            .is_some_and(|selector| selector.matches(labels))
    }
}

/// The owners that a change of a possible dependent concerns: its controller, before and after; or
/// if it has none, all of its namespace that would have it.
pub(crate) fn of_dependent<O, D>(
    owners: &Cache<O>,
    change: &Change<'_, D>,
    selects: impl Fn(&O) -> Selects,
) -> Vec<Key>
where
    O: Resource<DynamicType = ()>,
    D: Resource,
{
    let mut keys = Vec::new();
    for object in [change.before, change.after].into_iter().flatten() {
        let found = controller(object.meta());
        if let Some(found) = found.filter(|found| found.kind == O::kind(&())) {
            keys.push(Key::new(&change.key.namespace, &found.name));
        }
    }
    if let Some(object) = change.after
        && controller(object.meta()).is_none()
    {
        for owner in owners.list_in(&change.key.namespace) {
            if selects(&owner).matches(object.meta()) {
                keys.push(Key::of(owner.meta()));
            }
        }
    }
    keys.dedup();
    keys
}
