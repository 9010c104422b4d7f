//! Making, taking away, adopting and releasing pods, as all controllers that keep pods do it.
//!
//! - [`mod@claim`] decides (pure) which pods of a namespace an owner has, takes in and lets go.
//! - [`PodControl`] carries out: it makes pods in groups that double, so that a template that is
//!   refused is refused once and not five hundred times; tells of each pod in an event; and keeps
//!   account of what the cache has yet to show ([`PodControl::awaits`]).

mod awaited;
mod claim;

use std::{sync::Arc, time::Duration};

use eyot_client::{Cache, Key, view::Pod};
use futures::{StreamExt, stream};
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::Status,
};
use serde::de::DeserializeOwned;

pub(crate) use self::awaited::Awaited;
pub(crate) use self::claim::{Claim, claim};
use crate::{
    announce::Announcer,
    error::{Act, ControlError, is, is_namespace_ending, said},
    owner,
    pod::NewPod,
};

/// Requests under way for one owner: enough for the store to group their writes.
const AT_ONCE: usize = 16;
/// Pods created or deleted in one pass: a typo of replicas must be correctable while it is being
/// carried out.
pub(crate) const BURST: usize = 500;

/// What an owner of pods must be.
pub(crate) trait Owner:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Owner for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// One controller's hands. All its reconciliations share one.
pub(crate) struct PodControl {
    client: Client,
    pods: Cache<Pod>,
    announcer: Announcer,
    awaited: Awaited,
}

impl PodControl {
    pub(crate) fn new(client: Client, pods: Cache<Pod>, announcer: Announcer) -> Self {
        Self {
            client,
            pods,
            announcer,
            awaited: Awaited::default(),
        }
    }

    pub(crate) fn announcer(&self) -> &Announcer {
        &self.announcer
    }

    /// Whether the cache has yet to show what was written for this owner, and when to look again.
    /// Until then nothing may be concluded from how many pods there are. To be asked before the
    /// cache is read.
    pub(crate) fn awaits(&self, owner: &Key) -> Option<Duration> {
        self.awaited.lacks(owner, &self.pods)
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &Key) {
        self.awaited.forget(owner);
    }

    /// Take in and let go what [`mod@claim`] decided.
    pub(crate) async fn claim<K: Owner>(
        &self,
        owner: &K,
        claim: &Claim<Pod>,
    ) -> Result<(), ControlError> {
        let key = Key::of(owner.meta());
        take(&self.client, owner, claim, |pod| self.wrote(&key, pod)).await
    }

    /// Make pods, in groups of one, two, four and so on; the first group in which one fails is the
    /// last. What an ending namespace refuses is nobody's failure. Pods have their final names: one
    /// that is there already was made by an earlier pass.
    pub(crate) async fn create<K: Owner>(
        &self,
        owner: &K,
        pods: &[NewPod],
    ) -> Result<(), ControlError> {
        let (mut done, mut size) = (0, 1);
        while done < pods.len() {
            let group = &pods[done..pods.len().min(done + size)];
            let requests: Vec<_> = group
                .iter()
                .map(|pod| futures::FutureExt::boxed(self.create_one(owner, pod)))
                .collect();
            let results: Vec<_> = stream::iter(requests)
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            for result in results {
                match result {
                    Err(error) if is_namespace_ending(&error.source) => return Ok(()),
                    other => other?,
                }
            }
            done += group.len();
            size *= 2;
        }
        Ok(())
    }

    async fn create_one<K: Owner>(&self, owner: &K, pod: &NewPod) -> Result<(), ControlError> {
        let key = Key::of(owner.meta());
        let api: Api<NewPod> = Api::namespaced(self.client.clone(), &key.namespace);
        let name = name(&pod.metadata);
        match api.create(&PostParams::default(), pod).await {
            Ok(made) => {
                self.wrote(&key, &made.metadata);
                let said = words::<K>("create", name, &key.name, None);
                self.announcer.normal(owner, "SuccessfulCreate", said);
                Ok(())
            }
            Err(error) if is(&error, 409) => {
                // The cache does not show it, else it would have another name: see how far the
                // cache must come to show it.
                let there = api.get_opt(name).await;
                let there = there.act(|| format!("looking for pod {name}"))?;
                let ours = |pod: &NewPod| owner::is_controlled_by(&pod.metadata, owner.meta());
                match there {
                    Some(there)
                        if ours(&there) || self.pods.get(&Key::of(&there.metadata)).is_none() =>
                    {
                        self.wrote(&key, &there.metadata);
                        Ok(())
                    }
                    // Somebody else's, and a name that there is no other for; or gone just now.
                    _ => Err(error).act(|| format!("creating pod {name}")),
                }
            }
            Err(error) => {
                if !is_namespace_ending(&error) {
                    let said = words::<K>("create", name, &key.name, Some(&error));
                    self.announcer.warning(owner, "FailedCreate", said);
                }
                Err(error).act(|| format!("creating pod {name}"))
            }
        }
    }

    /// Ask pods to go. All are tried; the first failure is told.
    pub(crate) async fn delete<K: Owner>(
        &self,
        owner: &K,
        pods: &[Arc<Pod>],
    ) -> Result<(), ControlError> {
        let requests: Vec<_> = pods
            .iter()
            .map(|pod| futures::FutureExt::boxed(self.delete_one(owner, pod)))
            .collect();
        let results: Vec<_> = stream::iter(requests)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        results.into_iter().collect()
    }

    async fn delete_one<K: Owner>(&self, owner: &K, pod: &Pod) -> Result<(), ControlError> {
        let key = Key::of(owner.meta());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let name = name(&pod.metadata);
        let exactly = Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        };
        let params = DeleteParams {
            preconditions: Some(exactly),
            ..DeleteParams::default()
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        match api.delete(name, &params).await {
            Ok(_) => {
                self.awaited.deleted(&key, Key::of(&pod.metadata), uid);
                let said = words::<K>("delete", name, &key.name, None);
                self.announcer.normal(owner, "SuccessfulDelete", said);
                Ok(())
            }
            // It is gone, or gone and replaced.
            Err(error) if is(&error, 404) || is(&error, 409) => {
                self.awaited.deleted(&key, Key::of(&pod.metadata), uid);
                Ok(())
            }
            Err(error) => {
                let said = words::<K>("delete", name, &key.name, Some(&error));
                self.announcer.warning(owner, "FailedDelete", said);
                Err(error).act(|| format!("deleting pod {name}"))
            }
        }
    }

    fn wrote(&self, owner: &Key, written: &ObjectMeta) {
        self.awaited
            .wrote(owner, written.resource_version.as_deref());
    }
}

/// What an event tells of a pod: of a StatefulSet's in the words of that controller.
fn words<K: Owner>(act: &str, pod: &str, owner: &str, error: Option<&kube::Error>) -> String {
    if K::kind(&()) == "StatefulSet" {
        let what = format!("{act} Pod {pod} in StatefulSet {owner}");
        return match error {
            None => format!("{what} successful"),
            Some(error) => format!("{what} failed error: {}", said(error)),
        };
    }
    match (act, error) {
        ("create", None) => format!("Created pod: {pod}"),
        (_, None) => format!("Deleted pod: {pod}"),
        ("create", Some(error)) => format!("Error creating: {}", said(error)),
        (_, Some(error)) => format!("Error deleting: {}", said(error)),
    }
}

/// Take in and let go what [`mod@claim`] decided of objects of any kind, and tell of what was written.
pub(crate) async fn take<K: Owner, D: Owner>(
    client: &Client,
    owner: &K,
    claim: &Claim<D>,
    wrote: impl Fn(&ObjectMeta) + Send + Sync,
) -> Result<(), ControlError> {
    if !claim.adopt.is_empty() {
        still_there(client, owner).await?;
    }
    let (kind, uid) = (D::kind(&()), owner.meta().uid.as_deref());
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let api: Api<D> = Api::namespaced(client.clone(), namespace);
    let adopt = claim.adopt.iter().map(|object| {
        let patch = owner::adopt(object.meta(), owner::reference(owner));
        (object, patch)
    });
    let release = claim.release.iter().map(|object| {
        let patch = owner::release(object.meta(), uid.as_slice());
        (object, patch)
    });
    for (object, patch) in adopt.chain(release) {
        let name = name(object.meta());
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        match api.patch(name, &params, &patch).await {
            Ok(object) => wrote(object.meta()),
            // Gone: nobody's any more.
            Err(error) if is(&error, 404) => {}
            other => {
                other.act(|| format!("changing the owner of {kind} {name}"))?;
            }
        }
    }
    Ok(())
}

/// Look at the owner itself, not at the cache, before something is adopted for it: what is adopted
/// for an owner that is gone is collected, and was perhaps meant for its successor.
async fn still_there<K: Owner>(client: &Client, owner: &K) -> Result<(), ControlError> {
    let key = Key::of(owner.meta());
    let kind = K::kind(&());
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    let act = || format!("looking for {kind} {key} before adopting");
    let found = api.get(&key.name).await.act(act)?;
    let why = if found.meta().uid != owner.meta().uid {
        let uid = |owner: &K| owner.meta().uid.clone().unwrap_or_default();
        let (got, wanted) = (uid(&found), uid(owner));
        format!("original {kind} {key} is gone: got uid {got}, wanted {wanted}")
    } else if let Some(since) = &found.meta().deletion_timestamp {
        format!("{key} has just been deleted at {}", since.0)
    } else {
        return Ok(());
    };
    let status = Status::failure(&why, "Conflict").with_code(409);
    Err(kube::Error::Api(status.boxed())).act(act)
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}
