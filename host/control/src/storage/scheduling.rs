//! What a pod's claims ask of the node that it is to run on: the scheduler's part of binding.
//!
//! In the words of Kubernetes' scheduling framework:
//!
//! | step | call | for each |
//! |---|---|---|
//! | pre-filter | [`Storage::wishes`] | pod |
//! | filter | [`Storage::objections`] | pod and node |
//! | reserve | [`Storage::promise`] | pod, with the node that was chosen |
//! | unreserve | dropping the [`Promise`] | |
//! | pre-bind | [`Storage::fulfil`], then [`Promise::keep`] once the pod is bound | |
//!
//! [`Storage::fulfil`] waits for others (the binder, a provisioner), so it is run beside the queue of
//! pods. Until then a promise keeps others from the same volume, and from a claim for one pod only.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_client::{Cache, Key, view::Pod};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::watch, time::timeout};

use super::{
    ONE_POD, SELECTED_NODE, annotation, claim_ref, class_of, is_bound,
    matching::{self, For},
    volume_of, waits,
};
use crate::{
    error::{Act, ControlError, is},
    pod,
};

/// How long volumes may take to be made and bound before the pod is given another chance.
const PATIENCE: Duration = Duration::from_secs(600);
/// The class of volumes that nobody makes.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// The scheduler's view of storage. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Storage {
    client: Client,
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    promised: Arc<Mutex<Promised>>,
    changed: watch::Sender<()>,
}

/// What was promised and is not yet seen to be so.
#[derive(Default)]
struct Promised {
    /// Volumes by name, and for which claims.
    volumes: HashMap<String, Key>,
    /// Claims for one pod only, and for which pods.
    claims: HashMap<Key, Key>,
}

/// What one pod wants; nothing, of most.
#[derive(Default)]
pub(crate) struct Wishes {
    pod: Option<Key>,
    bound: Vec<Arc<PersistentVolume>>,
    /// Claims that wait for this pod, with whether a volume can be made for them.
    open: Vec<(Arc<PersistentVolumeClaim>, bool)>,
    /// A claim is bound to a volume that is not there.
    is_lost: bool,
    /// Another pod has a claim that is for one pod only.
    is_taken: bool,
    single: Vec<Key>,
}

impl Wishes {
    /// Whether every node will do.
    pub(crate) fn is_nothing(&self) -> bool {
        let none = self.bound.is_empty() && self.open.is_empty();
        none && !self.is_lost && !self.is_taken
    }

    /// Those of a pod whose volume is not there.
    #[cfg(test)]
    pub(crate) fn lost() -> Self {
        Self {
            is_lost: true,
            ..Self::default()
        }
    }
}

/// Volumes that a pod was promised on a node. Dropped, they are free again.
pub(crate) struct Promise {
    storage: Storage,
    pod: Key,
    node: String,
    bind: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    make: Vec<Arc<PersistentVolumeClaim>>,
    single: Vec<Key>,
}

/// Why a pod's volumes were not bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    #[error(transparent)]
    Api(#[from] ControlError),
    #[error("{0} was deleted while its volumes were bound")]
    Gone(Key),
    #[error("provisioning failed for PVC \"{0}\"")]
    NotMade(Key),
    #[error("timed out waiting for the condition")]
    TooLong,
}

impl Storage {
    pub(crate) fn new(
        client: Client,
        pods: Cache<Pod>,
        claims: Cache<PersistentVolumeClaim>,
        volumes: Cache<PersistentVolume>,
        classes: Cache<StorageClass>,
    ) -> Self {
        let storage = Self {
            client,
            pods,
            claims,
            volumes,
            classes,
            promised: Arc::default(),
            changed: watch::Sender::new(()),
        };
        let changed = storage.changed.clone();
        let gone = changed.clone();
        storage.listen(move || changed.send_replace(()));
        storage.pods.listen(move |change| {
            if change.after.is_none() {
                gone.send_replace(());
            }
        });
        storage
    }

    /// Call `wake` whenever a pod may find a node that found none because of its claims.
    pub(crate) fn listen(&self, wake: impl Fn() + Clone + Send + Sync + 'static) {
        let [of_claims, of_volumes, of_classes] = [(); 3].map(|()| wake.clone());
        self.claims.listen(move |_| of_claims());
        self.volumes.listen(move |_| of_volumes());
        self.classes.listen(move |_| of_classes());
    }

    /// What the pod wants, or why no node can give it.
    pub(crate) fn wishes(&self, pod: &Pod) -> Result<Wishes, String> {
        let mut wishes = Wishes::default();
        let key = Key::of(&pod.metadata);
        for (name, is_ephemeral) in names(pod) {
            let of = Key::new(&key.namespace, &name);
            let Some(claim) = self.claims.get(&of) else {
                return Err(match is_ephemeral {
                    true => format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""
                    ),
                    false => format!("persistentvolumeclaim \"{name}\" not found"),
                });
            };
            let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
            if phase == Some("Lost") {
                let volume = volume_of(&claim).unwrap_or_default();
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
                ));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if is_ephemeral && !owns(pod, &claim) {
                return Err(format!(
                    "PVC {of} was not created for pod {key} (pod is not owner)"
                ));
            }
            self.add(&mut wishes, of, claim, &key)?;
        }
        wishes.pod = Some(key);
        Ok(wishes)
    }

    fn add(
        &self,
        wishes: &mut Wishes,
        key: Key,
        claim: Arc<PersistentVolumeClaim>,
        pod: &Key,
    ) -> Result<(), String> {
        let modes = claim.spec.iter().flat_map(|spec| &spec.access_modes);
        if modes.flatten().any(|mode| mode == ONE_POD) {
            wishes.is_taken |= self.is_taken(&key, pod);
            wishes.single.push(key);
        }
        if is_bound(&claim) {
            let name = volume_of(&claim).unwrap_or_default();
            match self.volumes.get(&Key::new("", name)) {
                Some(volume) => wishes.bound.push(volume),
                None => wishes.is_lost = true,
            }
            return Ok(());
        }
        let class = self.classes.get(&Key::new("", class_of(&claim)));
        if volume_of(&claim).is_some() || !waits(class.as_deref()) {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        let made = class.is_some_and(|class| class.provisioner != NO_PROVISIONER);
        wishes.open.push((claim, made));
        Ok(())
    }

    /// Whether another pod has the claim.
    fn is_taken(&self, claim: &Key, by: &Key) -> bool {
        let promised = self.promised().claims.get(claim).cloned();
        let runs = |key: &Key| self.pods.get(key).is_some_and(|pod| !pod::has_ended(&pod));
        if promised.is_some_and(|other| other != *by && runs(&other)) {
            return true;
        }
        self.pods.list_in(&claim.namespace).iter().any(|other| {
            pod::node(other).is_some()
                && !pod::has_ended(other)
                && other.metadata.name.as_deref() != Some(&*by.name)
                && names(other).any(|(name, _)| *name == *claim.name)
        })
    }

    /// Why the pod cannot have what it wants on this node.
    pub(crate) fn objections(&self, wishes: &Wishes, node: &Node) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut say = |reason: &str| reasons.push(reason.to_owned());
        if wishes.is_taken {
            say(
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
            );
            return reasons;
        }
        if !wishes
            .bound
            .iter()
            .all(|volume| matching::is_reached(volume, node))
        {
            say("node(s) didn't match PersistentVolume's node affinity");
        }
        if !wishes.open.is_empty() && self.choose(wishes, node).is_none() {
            say("node(s) didn't find available persistent volumes to bind");
        }
        if wishes.is_lost {
            say("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
        }
        reasons
    }

    /// Which volumes the open claims get on this node, and for which ones are to be made.
    fn choose(&self, wishes: &Wishes, node: &Node) -> Option<Choice> {
        let volumes = self.volumes.list();
        let promised = self.promised();
        let mut choice = Choice::default();
        // The smallest first, so that a large volume is left for who needs it.
        let mut open: Vec<_> = wishes.open.iter().collect();
        open.sort_by_key(|(claim, _)| super::wanted(claim));
        for (claim, can_be_made) in open {
            if let Some(selected) = annotation(&claim.metadata, SELECTED_NODE) {
                if Some(selected) != node.metadata.name.as_deref() {
                    return None;
                }
                choice.make.push(claim.clone());
                continue;
            }
            let key = Key::of(&claim.metadata);
            let is_promised = |volume: &PersistentVolume| {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                let chosen = |(other, _): &(Arc<PersistentVolume>, _)| {
                    other.metadata.name == volume.metadata.name
                };
                promised.volumes.get(name).is_some_and(|for_| *for_ != key)
                    || choice.bind.iter().any(chosen)
            };
            match matching::best(claim, &volumes, For::Node(node), is_promised) {
                Some(volume) => choice.bind.push((volume.clone(), claim.clone())),
                None if *can_be_made && self.reaches(claim, node) => {
                    choice.make.push(claim.clone());
                }
                None => return None,
            }
        }
        Some(choice)
    }

    /// Whether the class of the claim lets volumes be made for this node.
    fn reaches(&self, claim: &PersistentVolumeClaim, node: &Node) -> bool {
        let class = self.classes.get(&Key::new("", class_of(claim)));
        let allowed = class.and_then(|class| class.allowed_topologies.clone());
        let Some(terms) = allowed.filter(|terms| !terms.is_empty()) else {
            return true;
        };
        let none = Default::default();
        let labels = node.metadata.labels.as_ref().unwrap_or(&none);
        terms.iter().any(|term| {
            let mut asked = term.match_label_expressions.iter().flatten();
            asked.all(|one| {
                labels
                    .get(&one.key)
                    .is_some_and(|is| one.values.contains(is))
            })
        })
    }

    /// Set aside what the pod gets on this node. `None` if it can no longer have it.
    pub(crate) fn promise(&self, wishes: &Wishes, node: &Node) -> Option<Promise> {
        let choice = self.choose(wishes, node)?;
        let pod = wishes.pod.clone().unwrap_or_else(|| Key::new("", ""));
        let mut promised = self.promised();
        for (volume, claim) in &choice.bind {
            let name = volume.metadata.name.clone().unwrap_or_default();
            promised.volumes.insert(name, Key::of(&claim.metadata));
        }
        for claim in &wishes.single {
            promised.claims.insert(claim.clone(), pod.clone());
        }
        Some(Promise {
            storage: self.clone(),
            pod,
            node: node.metadata.name.clone().unwrap_or_default(),
            bind: choice.bind,
            make: choice.make,
            single: wishes.single.clone(),
        })
    }

    /// Have the promised volumes made and bound, and wait until they are. Others may be waited for,
    /// up to ten minutes.
    pub(crate) async fn fulfil(&self, promise: &Promise) -> Result<(), StorageError> {
        for (volume, claim) in &promise.bind {
            self.set_aside(volume, claim).await?;
        }
        let mut written = 0;
        for claim in &promise.make {
            written = written.max(self.order(claim, &promise.node).await?);
        }
        let mut changes = self.changed.subscribe();
        let bound = async {
            loop {
                changes.borrow_and_update();
                if self.are_bound(promise, written)? {
                    return Ok(());
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        match timeout(PATIENCE, bound).await {
            Ok(ended) => ended,
            Err(_) => Err(StorageError::TooLong),
        }
    }

    async fn set_aside(
        &self,
        volume: &PersistentVolume,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), StorageError> {
        if claim_ref(volume).is_some_and(|held| held.uid == claim.metadata.uid) {
            return Ok(());
        }
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let patch = Patch::Merge(super::claims::aside(volume, claim));
        let patched = api.patch(name, &PatchParams::default(), &patch).await;
        patched.act(|| format!("setting volume {name} aside"))?;
        Ok(())
    }

    /// Choose the node that a claim's volume is to be made for; the resource version of that.
    async fn order(&self, claim: &PersistentVolumeClaim, node: &str) -> Result<u64, StorageError> {
        if annotation(&claim.metadata, SELECTED_NODE) == Some(node) {
            return Ok(0);
        }
        let key = Key::of(&claim.metadata);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = json!({ "metadata": {
            "uid": claim.metadata.uid, "annotations": { SELECTED_NODE: node },
        } });
        let params = PatchParams::default();
        match api.patch(&key.name, &params, &Patch::Merge(patch)).await {
            Ok(claim) => {
                let version = claim.metadata.resource_version;
                Ok(version.and_then(|v| v.parse().ok()).unwrap_or(0))
            }
            Err(error) if is(&error, 404) => Err(StorageError::Gone(key)),
            Err(error) => Err(error)
                .act(|| format!("choosing node {node} for claim {key}"))
                .map_err(Into::into),
        }
    }

    /// Whether all claims are bound; `written` is the version at which the last was given its node.
    fn are_bound(&self, promise: &Promise, written: u64) -> Result<bool, StorageError> {
        // Who makes volumes takes the node's name back if that node will not do. A copy from before
        // it was written does not count.
        let seen = self.claims.version() >= written;
        if self.pods.get(&promise.pod).is_none() {
            return Err(StorageError::Gone(promise.pod.clone()));
        }
        let bound = promise.bind.iter().map(|(_, claim)| (claim, false));
        let made = promise.make.iter().map(|claim| (claim, true));
        let mut all = true;
        for (before, is_made) in bound.chain(made) {
            let key = Key::of(&before.metadata);
            let claim = self.claims.get(&key);
            let same = claim.filter(|claim| {
                claim.metadata.uid == before.metadata.uid
                    && claim.metadata.deletion_timestamp.is_none()
            });
            let Some(claim) = same else {
                return Err(StorageError::Gone(key));
            };
            let node = annotation(&claim.metadata, SELECTED_NODE);
            if is_made && seen && !is_bound(&claim) && node != Some(&promise.node) {
                return Err(StorageError::NotMade(key));
            }
            all &= is_bound(&claim);
        }
        Ok(all)
    }

    fn promised(&self) -> MutexGuard<'_, Promised> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Choice {
    bind: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    make: Vec<Arc<PersistentVolumeClaim>>,
}

impl Promise {
    /// Whether there is nothing to wait for.
    pub(crate) fn is_fulfilled(&self) -> bool {
        self.bind.is_empty() && self.make.is_empty()
    }

    /// The pod is bound: it has its claims as long as it is there.
    pub(crate) fn keep(mut self) {
        self.single.clear();
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut promised = self.storage.promised();
        for (volume, _) in &self.bind {
            promised
                .volumes
                .remove(volume.metadata.name.as_deref().unwrap_or_default());
        }
        for claim in &self.single {
            promised.claims.remove(claim);
        }
    }
}

/// The claims that a pod names, and whether they are of its ephemeral volumes.
fn names(pod: &Pod) -> impl Iterator<Item = (String, bool)> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| &spec.volumes).flatten();
    volumes.filter_map(move |volume| match &volume.persistent_volume_claim {
        Some(source) => Some((source.claim_name.clone(), false)),
        None => {
            let ephemeral = volume.ephemeral.is_some();
            ephemeral.then(|| (format!("{name}-{}", volume.name), true))
        }
    })
}

fn owns(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    crate::owner::is_controlled_by(&claim.metadata, &pod.metadata)
}
