//! The claims of a StatefulSet's pods: which there must be, and to whom they belong. Pure.
//!
//! A claim that is to go with something is owned by it, and the garbage collector sees to the rest:
//!
//! | deleted | scaled | owner while its pod is wanted | once the pod is to go |
//! |---|---|---|---|
//! | Retain | Retain | nobody | nobody |
//! | Delete | Retain | the set | the set |
//! | Retain | Delete | nobody | the pod |
//! | Delete | Delete | the set | the pod |

use eyot_client::view::Pod;
use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use serde_json::{Value, json};

use super::identity::Member;
use crate::owner;

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    let spec = set.spec.as_ref();
    let templates = spec.and_then(|spec| spec.volume_claim_templates.as_deref());
    templates.unwrap_or_default()
}

fn named(template: &PersistentVolumeClaim) -> &str {
    template.metadata.name.as_deref().unwrap_or_default()
}

/// The names of a member's claims, each with its template's, which is that of the volume too.
pub(super) fn names(set: &StatefulSet, member: Member) -> impl Iterator<Item = (&str, String)> {
    let pod = member.name(set);
    let name = move |template| (named(template), format!("{}-{pod}", named(template)));
    templates(set).iter().map(name)
}

/// Whether a claim of this name is one of the set's.
pub(super) fn is_of(set: &StatefulSet, claim: &str) -> bool {
    let base = set.metadata.name.as_deref().unwrap_or_default();
    templates(set).iter().any(|template| {
        let ordinal = claim.strip_prefix(named(template)).and_then(|rest| {
            rest.strip_prefix('-')?
                .strip_prefix(base)?
                .strip_prefix('-')
        });
        ordinal.is_some_and(|ordinal| ordinal.parse::<u32>().is_ok())
    })
}

/// The claims of a member, as they are to be made.
pub(super) fn claims(set: &StatefulSet, member: Member) -> Vec<PersistentVolumeClaim> {
    let selector = set.spec.as_ref().map(|spec| &spec.selector);
    let selected = selector.and_then(|selector| selector.match_labels.clone());
    let pairs = templates(set).iter().zip(names(set, member));
    let claim = |(template, (_, name)): (&PersistentVolumeClaim, (&str, String))| {
        let mut claim = template.clone();
        claim.metadata.name = Some(name);
        claim.metadata.namespace = set.metadata.namespace.clone();
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.extend(selected.clone().unwrap_or_default());
        claim.metadata.owner_references = owner(set, None).map(|owner| vec![owner]);
        claim.status = None;
        claim
    };
    pairs.map(claim).collect()
}

/// Who is to own a claim; `condemned` is its pod if that is to go for good.
fn owner(set: &StatefulSet, condemned: Option<&Pod>) -> Option<OwnerReference> {
    let spec = set.spec.as_ref();
    let policy = spec.and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    let deleted = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
    let scaled = deletes(policy.and_then(|policy| policy.when_scaled.as_ref()));
    match condemned {
        Some(pod) if scaled => Some(owner::reference(pod)),
        _ => deleted.then(|| owner::reference(set)),
    }
}

/// A merge patch that makes the owner of a claim who it should be. A claim that somebody else
/// controls is left alone.
pub(super) fn own(
    set: &StatefulSet,
    pod: &Pod,
    condemned: bool,
    claim: &PersistentVolumeClaim,
) -> Option<Value> {
    let meta = &claim.metadata;
    let (of_set, of_pod) = (set.metadata.uid.as_deref(), pod.metadata.uid.as_deref());
    let ours = |owner: &OwnerReference| {
        let uid = Some(owner.uid.as_str());
        uid == of_set || uid == of_pod
    };
    if owner::controller(meta).is_some_and(|found| !ours(found)) {
        return None;
    }
    let wanted = owner(set, condemned.then_some(pod));
    let known = meta.owner_references.iter().flatten();
    let mut owners: Vec<_> = known
        .clone()
        .filter(|owner| !ours(owner))
        .cloned()
        .collect();
    let now: Vec<&str> = known
        .filter(|owner| ours(owner))
        .map(|owner| &*owner.uid)
        .collect();
    let right: Vec<&str> = wanted.iter().map(|owner| &*owner.uid).collect();
    if now == right {
        return None;
    }
    owners.extend(wanted);
    Some(json!({ "metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version,
        "ownerReferences": if owners.is_empty() { Value::Null } else { json!(owners) },
    } }))
}

/// Whether a claim still belongs to an earlier pod of the same name, with which it is about to go.
pub(super) fn is_stale(claim: &PersistentVolumeClaim, pod: &str) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    let mut of_pods = owners.filter(|owner| owner.kind == "Pod" && owner.name == pod);
    of_pods.next().is_some()
}
