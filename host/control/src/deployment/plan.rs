//! What to do about a Deployment's ReplicaSets. Pure: one step, after which the changed ReplicaSets
//! lead to the next.

use std::{sync::Arc, time::Duration};

use eyot_client::view::Pod;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Value, json};

use super::{revision, rolling, status};
use crate::{
    names,
    owner::{self, Selects},
    pod,
};

/// The label by which the pods of one ReplicaSet differ from those of its siblings.
pub(super) const HASH: &str = "pod-template-hash";
const HISTORY: i32 = 10;

/// One request to the API.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    Create(Box<ReplicaSet>),
    Scale {
        set: String,
        from: i32,
        to: i32,
        patch: Value,
    },
    /// Change owners or annotations of a ReplicaSet.
    Set {
        set: String,
        patch: Value,
    },
    Delete {
        set: String,
    },
    /// Change annotations of the Deployment.
    Annotate(Value),
    Status(Value),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    /// When the deadline of the roll-out passes.
    pub(super) again: Option<Duration>,
}

/// The Deployment's ReplicaSets, with those that are older than the template apart.
pub(super) struct Sets<'a> {
    pub(super) new: Option<&'a ReplicaSet>,
    /// Oldest first.
    pub(super) old: Vec<&'a ReplicaSet>,
}

impl<'a> Sets<'a> {
    pub(super) fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> {
        self.old.iter().copied().chain(self.new)
    }
}

pub(super) fn selects(deployment: &Deployment) -> Selects {
    Selects::of(deployment.spec.as_ref().map(|spec| &spec.selector))
}

pub(super) fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref());
    strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"))
}

pub(super) fn desired(deployment: &Deployment) -> i32 {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
        .max(0)
}

pub(super) fn paused(deployment: &Deployment) -> bool {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.paused)
        .unwrap_or(false)
}

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

/// Compare a Deployment with the ReplicaSets and pods of its namespace.
pub(super) fn plan(
    deployment: &Deployment,
    in_namespace: &[Arc<ReplicaSet>],
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let living = deployment.metadata.deletion_timestamp.is_none();
    let selector = selects(deployment);
    let mut mine = Vec::new();
    for set in in_namespace {
        if owner::is_controlled_by(&set.metadata, &deployment.metadata) {
            mine.push(&**set);
        } else if living
            && owner::controller(&set.metadata).is_none()
            && set.metadata.deletion_timestamp.is_none()
            && selector.matches(&set.metadata)
        {
            let patch = owner::adopt(&set.metadata, owner::reference(deployment));
            plan.writes.push(Write::Set {
                set: name(&set.metadata),
                patch,
            });
        }
    }
    if !plan.writes.is_empty() {
        // They come back owned, and then it is decided what they are for.
        return plan;
    }
    let sets = sort(deployment, mine);
    let mut collided = false;
    if living {
        if paused(deployment) || !recreates(deployment) && is_scaled(deployment, &sets) {
            plan.writes.extend(rolling::proportional(deployment, &sets));
        } else {
            match make_current(deployment, &sets, in_namespace) {
                Current::Made(writes) if !writes.is_empty() => plan.writes.extend(writes),
                Current::Made(_) => plan.writes.extend(roll(deployment, &sets, pods)),
                Current::Collided => collided = true,
            }
        }
        if paused(deployment) || status::is_complete(deployment, &sets) {
            plan.writes.extend(clean_up(deployment, &sets));
        }
    }
    let (patch, again) = status::changed(deployment, &sets, collided, &plan.writes, now);
    plan.writes.extend(patch.map(Write::Status));
    plan.again = again;
    plan
}

fn sort<'a>(deployment: &Deployment, mut mine: Vec<&'a ReplicaSet>) -> Sets<'a> {
    mine.sort_by_cached_key(|set| {
        (
            set.metadata.creation_timestamp.as_ref().map(|time| time.0),
            set.metadata.name.clone(),
        )
    });
    let template = deployment
        .spec
        .as_ref()
        .map(|spec| without_hash(&spec.template));
    let is_new = |set: &&ReplicaSet| {
        let of_set = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        set.metadata.deletion_timestamp.is_none() && of_set.map(without_hash) == template
    };
    let at = mine.iter().position(is_new);
    let new = at.map(|at| mine.remove(at));
    Sets { new, old: mine }
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let metadata = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut metadata.labels {
        labels.remove(HASH);
        if labels.is_empty() {
            metadata.labels = None;
        }
    }
    template
}

/// Whether `replicas` was changed since the ReplicaSets were last scaled. Then the change is spread
/// over them before the roll-out goes on, so that scaling does not hurry it.
fn is_scaled(deployment: &Deployment, sets: &Sets<'_>) -> bool {
    sets.all()
        .any(|set| replicas(set) > 0 && rolling::is_stale(deployment, set))
}

enum Current {
    /// What it takes to have the ReplicaSet of the template, with its revision; nothing if all is
    /// well.
    Made(Vec<Write>),
    /// Another ReplicaSet has the name. The next try takes another.
    Collided,
}

fn make_current(
    deployment: &Deployment,
    sets: &Sets<'_>,
    in_namespace: &[Arc<ReplicaSet>],
) -> Current {
    let revision = revision::next(sets);
    let Some(new) = sets.new else {
        let set = new_set(deployment, sets, revision);
        let taken = in_namespace
            .iter()
            .any(|other| other.metadata.name == set.metadata.name);
        if taken {
            return Current::Collided;
        }
        return Current::Made(vec![Write::Create(Box::new(set))]);
    };
    let mut writes = Vec::new();
    if let Some(patch) = revision::of_set(deployment, new, revision) {
        writes.push(Write::Set {
            set: name(&new.metadata),
            patch,
        });
    } else if let Some(patch) = revision::of_deployment(deployment, new) {
        // The changed Deployment brings the next pass.
        writes.push(Write::Annotate(patch));
    }
    Current::Made(writes)
}

fn new_set(deployment: &Deployment, sets: &Sets<'_>, revision: u64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let hash = template_hash(deployment);
    let base = name(&deployment.metadata);
    let mut template = spec.template;
    let metadata = template.metadata.get_or_insert_default();
    metadata
        .labels
        .get_or_insert_default()
        .insert(HASH.into(), hash.clone());
    let labels = metadata.labels.clone();
    let mut selector = spec.selector;
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH.into(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{base}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            annotations: Some(revision::annotations(deployment, revision)),
            owner_references: Some(vec![owner::reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(rolling::first_size(deployment, sets)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Ten letters that follow from the template and from how often such a name was taken already.
fn template_hash(deployment: &Deployment) -> String {
    let spec = deployment.spec.as_ref();
    let template = spec.map(|spec| serde_json::to_string(&spec.template).unwrap_or_default());
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    let collisions = collisions.unwrap_or(0).to_string();
    names::letters(
        names::hash(&[&template.unwrap_or_default(), &collisions]),
        10,
    )
}

fn roll(deployment: &Deployment, sets: &Sets<'_>, pods: &[Arc<Pod>]) -> Vec<Write> {
    let Some(new) = sets.new else {
        return Vec::new();
    };
    if !recreates(deployment) {
        return rolling::step(deployment, new, sets);
    }
    let stopping = sets.old.iter().filter(|set| replicas(set) > 0);
    let stop: Vec<Write> = stopping.map(|set| scale(deployment, set, 0)).collect();
    if !stop.is_empty() {
        return stop;
    }
    let runs = |pod: &&Arc<Pod>| {
        !pod::has_ended(pod)
            && sets
                .old
                .iter()
                .any(|set| owner::is_controlled_by(&pod.metadata, &set.metadata))
    };
    let desired = desired(deployment);
    if pods.iter().any(|pod| runs(&pod)) || replicas(new) == desired {
        return Vec::new();
    }
    vec![scale(deployment, new, desired)]
}

/// Scale a ReplicaSet, if nobody wrote it since: a step is only right for what it was planned on.
pub(super) fn scale(deployment: &Deployment, set: &ReplicaSet, to: i32) -> Write {
    let patch = json!({
        "metadata": {
            "resourceVersion": set.metadata.resource_version,
            "annotations": revision::sizes(deployment),
        },
        "spec": { "replicas": to },
    });
    Write::Scale {
        set: name(&set.metadata),
        from: replicas(set),
        to,
        patch,
    }
}

/// Delete the ReplicaSets beyond the history, but for those that still have pods.
fn clean_up(deployment: &Deployment, sets: &Sets<'_>) -> Vec<Write> {
    let limit = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.revision_history_limit);
    let limit = usize::try_from(limit.unwrap_or(HISTORY)).unwrap_or(0);
    let idle = |set: &&ReplicaSet| {
        let seen = set
            .status
            .as_ref()
            .and_then(|status| status.observed_generation);
        replicas(set) == 0
            && set.status.as_ref().map_or(0, |status| status.replicas) == 0
            && seen == set.metadata.generation
    };
    let living = |set: &&ReplicaSet| set.metadata.deletion_timestamp.is_none();
    let mut old: Vec<_> = sets.old.iter().copied().filter(living).collect();
    old.sort_by_key(|set| revision::of(set));
    let surplus = old.len().saturating_sub(limit);
    let gone = old.into_iter().take(surplus).filter(idle);
    gone.map(|set| Write::Delete {
        set: name(&set.metadata),
    })
    .collect()
}

pub(super) fn name(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}
