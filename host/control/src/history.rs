//! The past templates of a DaemonSet or StatefulSet, each in a ControllerRevision: what
//! `kubectl rollout history` shows and `kubectl rollout undo` goes back to.
//!
//! A revision holds a strategic merge patch that replaces the template. The one that equals the
//! template of now is the current one, and has the highest number; going back to an older template
//! raises the number of its revision instead of making another.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use eyot_client::{Cache, Key, view::Pod};
use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        runtime::RawExtension,
    },
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    error::{Act, ControlError, is},
    names,
    owner::{self, Selects},
    pod_control::{self, Owner},
};

/// The label by which the pods of one template differ from those of another.
pub(crate) const HASH: &str = "controller-revision-hash";
/// Longest base of a revision's name.
const BASE: usize = 223;

/// The current revision and the older ones, by their numbers.
#[derive(Debug, Clone)]
pub(crate) struct Revisions {
    pub(crate) current: Arc<ControllerRevision>,
    pub(crate) old: Vec<Arc<ControllerRevision>>,
}

/// What there is of a template's past.
#[derive(Debug, Clone)]
pub(crate) enum History {
    Known(Revisions),
    /// Another object has the name of the revision to be made: to be tried again with a higher
    /// collision count.
    Collided,
}

/// What it takes to have a current revision. Pure.
#[derive(Debug, PartialEq)]
enum Step {
    Create(Box<ControllerRevision>),
    Renumber(Arc<ControllerRevision>, i64),
    Settled(Arc<ControllerRevision>),
}

/// Whose history it is.
pub(crate) struct Of<'a> {
    pub(crate) template: &'a PodTemplateSpec,
    pub(crate) selects: &'a Selects,
    pub(crate) collisions: Option<i32>,
    /// The label of the revision that carries the hash.
    pub(crate) label: &'static str,
}

/// Bring the revisions of `owner` up to date.
pub(crate) async fn settle<K: Owner>(
    client: &Client,
    cache: &Cache<ControllerRevision>,
    owner: &K,
    of: &Of<'_>,
) -> Result<History, ControlError> {
    let key = Key::of(owner.meta());
    let all = cache.list_in(&key.namespace);
    let claim = pod_control::claim(owner.meta(), of.selects, &all, |_| true);
    pod_control::take(client, owner, &claim, |_| ()).await?;
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &key.namespace);
    let data = snapshot(of.template);
    let (step, old) = step(owner.meta(), owner::reference(owner), &data, claim.mine, of);
    let current = match step {
        Step::Settled(current) => current,
        Step::Renumber(revision, number) => {
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            let version = &revision.metadata.resource_version;
            let patch = json!({ "metadata": { "resourceVersion": version }, "revision": number });
            let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
            let patched = api.patch(name, &params, &patch).await;
            Arc::new(patched.act(|| format!("renumbering revision {name}"))?)
        }
        Step::Create(revision) => {
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            match api.create(&PostParams::default(), &revision).await {
                Ok(made) => Arc::new(made),
                Err(error) if is(&error, 409) => {
                    // Made by an earlier pass, which the cache does not show yet; or another's.
                    let there = api.get(name).await;
                    let there = there.act(|| format!("looking for revision {name}"))?;
                    if !owner::is_controlled_by(&there.metadata, owner.meta())
                        || !holds(&there, &data)
                    {
                        return Ok(History::Collided);
                    }
                    Arc::new(there)
                }
                Err(error) => return Err(error).act(|| format!("creating revision {name}")),
            }
        }
    };
    Ok(History::Known(Revisions { current, old }))
}

/// The patch that goes back to this template.
fn snapshot(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    template["$patch"] = json!("replace");
    json!({ "spec": { "template": template } })
}

/// The template that a revision holds.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn holds(revision: &ControllerRevision, data: &Value) -> bool {
    revision.data.as_ref().is_some_and(|found| found.0 == *data)
}

fn step(
    meta: &ObjectMeta,
    reference: OwnerReference,
    data: &Value,
    mine: Vec<Arc<ControllerRevision>>,
    of: &Of<'_>,
) -> (Step, Vec<Arc<ControllerRevision>>) {
    let (mut same, mut old): (Vec<_>, Vec<_>) = mine
        .into_iter()
        .filter(|revision| revision.metadata.deletion_timestamp.is_none())
        .partition(|revision| holds(revision, data));
    let by_number = |a: &Arc<ControllerRevision>| (a.revision, a.metadata.name.clone());
    same.sort_by_key(by_number);
    let current = same.pop();
    // Of several alike the highest counts, and the others are history.
    old.append(&mut same);
    old.sort_by_key(by_number);
    let next = old.last().map_or(0, |last| last.revision).saturating_add(1);
    let step = match current {
        Some(current) if current.revision < next => Step::Renumber(current, next),
        Some(current) => Step::Settled(current),
        None => Step::Create(Box::new(revision(meta, reference, data, next, of))),
    };
    (step, old)
}

fn revision(
    meta: &ObjectMeta,
    reference: OwnerReference,
    data: &Value,
    number: i64,
    of: &Of<'_>,
) -> ControllerRevision {
    let collisions = of.collisions.unwrap_or(0).to_string();
    let hash = names::letters(names::hash(&[&data.to_string(), &collisions]), 10);
    let base = meta.name.as_deref().unwrap_or_default();
    let base = &base[..base.floor_char_boundary(BASE)];
    let labels = of.template.metadata.as_ref();
    let mut labels: BTreeMap<_, _> = labels
        .and_then(|meta| meta.labels.clone())
        .unwrap_or_default();
    labels.insert(of.label.into(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{base}-{hash}")),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![reference]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data.clone())),
        revision: number,
    }
}

/// The oldest revisions beyond the limit, except those that are `live`.
pub(crate) fn surplus(
    old: &[Arc<ControllerRevision>],
    limit: Option<i32>,
    live: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Arc<ControllerRevision>> {
    const LIMIT: i32 = 10;
    let limit = usize::try_from(limit.unwrap_or(LIMIT)).unwrap_or(0);
    let dead: Vec<_> = old.iter().filter(|revision| !live(revision)).collect();
    let count = old.len().saturating_sub(limit);
    dead.into_iter().take(count).cloned().collect()
}

/// Delete revisions that are no longer needed.
pub(crate) async fn forget(
    client: &Client,
    revisions: &[Arc<ControllerRevision>],
) -> Result<(), ControlError> {
    for revision in revisions {
        let key = Key::of(&revision.metadata);
        let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &key.namespace);
        let deleted = api.delete(&key.name, &DeleteParams::default()).await;
        deleted.act_if_there(|| format!("deleting revision {key}"))?;
    }
    Ok(())
}

/// The labels' hashes or names by which pods may mean a revision.
pub(crate) fn marks<'a>(pods: impl Iterator<Item = &'a Pod>) -> HashSet<String> {
    let marks = pods.filter_map(|pod| crate::pod::label(pod, HASH));
    marks.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "c", "image": image }] },
        }))
        .unwrap()
    }

    struct Past {
        known: Vec<Arc<ControllerRevision>>,
    }

    impl Past {
        /// Carry out what the template asks for; its revision's name and number.
        fn set(&mut self, image: &str, collisions: i32) -> (String, i64) {
            let template = template(image);
            let of = Of {
                template: &template,
                selects: &Selects::new(&Default::default()),
                collisions: Some(collisions),
                label: HASH,
            };
            let meta = ObjectMeta {
                name: Some("web".into()),
                ..ObjectMeta::default()
            };
            let (data, none) = (snapshot(&template), OwnerReference::default());
            let (step, _) = step(&meta, none, &data, self.known.clone(), &of);
            let current = match step {
                Step::Settled(current) => {
                    return (current.metadata.name.clone().unwrap(), current.revision);
                }
                Step::Renumber(known, number) => {
                    self.known.retain(|one| *one != known);
                    ControllerRevision {
                        revision: number,
                        ..(*known).clone()
                    }
                }
                Step::Create(made) => *made,
            };
            let told = (current.metadata.name.clone().unwrap(), current.revision);
            self.known.push(Arc::new(current));
            told
        }
    }

    #[test]
    fn going_back_raises_the_number_of_the_old_revision() {
        let mut past = Past { known: Vec::new() };
        let (first, one) = past.set("i:1", 0);
        let (second, two) = past.set("i:2", 0);
        assert_ne!(first, second);
        assert_eq!((one, two), (1, 2));
        assert_eq!(past.set("i:2", 0), (second, 2), "nothing to do");
        assert_eq!(past.set("i:1", 0), (first, 3));
        assert_eq!(past.known.len(), 2);
        let found = super::template(&past.known[1]).unwrap();
        assert_eq!(found, template("i:1"));
        assert_eq!(
            past.known[1].data.as_ref().unwrap().0["spec"]["template"]["$patch"],
            "replace"
        );
    }

    #[test]
    fn a_collision_leads_to_another_name() {
        let (mut a, mut b) = (Past { known: Vec::new() }, Past { known: Vec::new() });
        assert_ne!(a.set("i:1", 0).0, b.set("i:1", 1).0);
    }

    #[test]
    fn the_oldest_that_no_pod_means_go_first() {
        let mut past = Past { known: Vec::new() };
        let names: Vec<_> = (1..=5).map(|n| past.set(&format!("i:{n}"), 0).0).collect();
        let old = &past.known[..4];
        let live =
            |revision: &ControllerRevision| revision.metadata.name.as_ref() == Some(&names[0]);
        let gone = |limit| {
            let gone = surplus(old, limit, live).into_iter();
            gone.map(|one| one.metadata.name.clone().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(gone(Some(2)), names[1..3]);
        assert_eq!(gone(Some(0)), names[1..4]);
        assert_eq!(gone(None), Vec::<String>::new());
    }
}
