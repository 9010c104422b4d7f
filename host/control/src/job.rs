//! Runs pods to completion: as often as a Job asks for, and not much more often than it may fail.
//!
//! Reads Jobs and the pods of their namespaces; creates, deletes, adopts and releases pods, takes
//! back the finalizer that keeps them until they are counted, and writes the Job's status. Deleting
//! old Jobs is [`ttl`]'s business, making them by the clock the CronJob controller's. A Job with
//! another `spec.managedBy` is left alone.

mod backoff;
pub(crate) mod conditions;
mod indexes;
mod manage;
mod plan;
mod policy;
mod template;
#[cfg(test)]
mod tests;
pub(crate) mod ttl;

use std::sync::Arc;

use eyot_client::{Cache, Change, EventType, Key, Reconciler, Requeue, view::Pod};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture};
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use self::plan::Plan;
use crate::{
    announce::Announcer,
    clock,
    error::{Act, ControlError, is},
    owner,
    pod_control::PodControl,
};

/// Keeps a pod until its Job has counted it.
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The annotation and label that say which part of the work a pod does.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Jobs that name another manager are not ours.
const MANAGER: &str = "kubernetes.io/job-controller";
/// Finalizers taken back at once.
const AT_ONCE: usize = 16;

pub(crate) struct Jobs {
    pub(crate) client: Client,
    pub(crate) jobs: Cache<Job>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) control: PodControl,
    pub(crate) announcer: Announcer,
}

impl Reconciler for Jobs {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "job"
    }

    /// The key is a Job's, or has no name: then it stands for the pods of no Job.
    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let awaits = self.control.awaits(key);
        let pods = self.pods.list_in(&key.namespace);
        let job = self.jobs.get(key);
        let orphans = orphans(key, job.as_deref(), &pods);
        self.release(key, &orphans).await?;
        let Some(job) = job else {
            self.control.forget(key);
            return Ok(Requeue::OnChange);
        };
        if is_foreign(&job) {
            return Ok(Requeue::OnChange);
        }
        // Whole seconds, as they are stored.
        let now = clock::now();
        let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
        let plan = plan::plan(&job, &pods, awaits.is_some(), now);
        self.control.claim(&*job, &plan.claim).await?;
        self.hold(key, &plan.hold).await?;
        let failed = self.change(key, &job, &plan).await.err();
        if let Some(failed) = failed {
            // What could not be done is not to be found in the status.
            let seen = plan::plan(&job, &pods, true, now);
            self.write(key, &job, &seen).await?;
            return Err(failed);
        }
        self.write(key, &job, &plan).await?;
        for (kind, reason, message) in &plan.events {
            let (reason, message) = (reason.clone(), message.clone());
            match kind {
                EventType::Normal => self.announcer.normal(&*job, reason, message),
                EventType::Warning => self.announcer.warning(&*job, reason, message),
            }
        }
        self.release(key, &plan.release).await?;
        let again = plan::sooner(awaits, plan.again);
        Ok(again.map_or(Requeue::OnChange, Requeue::After))
    }
}

impl Jobs {
    async fn change(&self, key: &Key, job: &Job, plan: &Plan) -> Result<(), ControlError> {
        let change = &plan.change;
        self.release(key, &change.drop).await?;
        self.control.delete(job, &change.drop).await?;
        self.control.delete(job, &change.stop).await?;
        self.control.create(job, &change.create).await
    }

    /// The status is written against the version that was read, so no count is based on an old one.
    async fn write(&self, key: &Key, job: &Job, plan: &Plan) -> Result<(), ControlError> {
        if job.status.as_ref() == Some(&plan.status) {
            return Ok(());
        }
        let mut job = job.clone();
        job.status = Some(plan.status.clone());
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        let written = api.replace_status(&key.name, &params, &job).await;
        written.act(|| format!("writing the status of job {key}"))?;
        Ok(())
    }

    /// Keep pods until they are counted.
    async fn hold(&self, key: &Key, pods: &[Arc<Pod>]) -> Result<(), ControlError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        for pod in pods {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let patch = Patch::Strategic(json!({ "metadata": {
                "uid": pod.metadata.uid, "finalizers": [FINALIZER],
            }}));
            match api.patch(name, &PatchParams::default(), &patch).await {
                // Gone, going, or gone and replaced.
                Err(error) if [404, 409, 422].iter().any(|code| is(&error, *code)) => {}
                patched => patched.act_if_there(|| format!("keeping pod {name}"))?,
            }
        }
        Ok(())
    }

    /// Take back the finalizer of pods.
    async fn release(&self, key: &Key, pods: &[Arc<Pod>]) -> Result<(), ControlError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let requests: Vec<BoxFuture<'_, _>> = pods
            .iter()
            .map(|pod| release_one(&api, pod).boxed())
            .collect();
        futures::stream::iter(requests)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }
}

async fn release_one(api: &Api<Pod>, pod: &Pod) -> Result<(), ControlError> {
    if !plan::is_tracked(pod) {
        return Ok(());
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let patch = Patch::Strategic(json!({ "metadata": {
        "uid": pod.metadata.uid,
        "$deleteFromPrimitiveList/finalizers": [FINALIZER],
    }}));
    match api.patch(name, &PatchParams::default(), &patch).await {
        // Gone, and perhaps replaced.
        Err(error) if is(&error, 404) || is(&error, 409) => Ok(()),
        patched => patched.act_if_there(|| format!("taking back the finalizer of pod {name}")),
    }
}

fn is_foreign(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_ref());
    manager.is_some_and(|manager| manager != MANAGER)
}

/// Which part of the work of an Indexed Job a pod does.
fn of_index(pod: &Pod) -> Option<u32> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(INDEX)?.parse().ok()
}

/// Pods that wait to be counted by a Job that is no more.
fn orphans(key: &Key, job: Option<&Job>, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let lost = |pod: &&Arc<Pod>| {
        plan::is_tracked(pod)
            && match owner::controller(&pod.metadata) {
                None => key.name.is_empty(),
                Some(owner) => {
                    owner.kind == "Job"
                        && *owner.name == *key.name
                        && job.is_none_or(|job| job.metadata.uid.as_ref() != Some(&owner.uid))
                }
            }
    };
    pods.iter().filter(lost).cloned().collect()
}

/// The Jobs that a change of a pod concerns.
pub(crate) fn of_pod(jobs: &Cache<Job>, change: &Change<'_, Pod>) -> Vec<Key> {
    let mut keys = owner::of_dependent(jobs, change, plan::selects);
    if keys.is_empty()
        && change
            .after
            .is_some_and(|pod| plan::is_tracked(pod) && owner::controller(&pod.metadata).is_none())
    {
        keys.push(Key::new(&change.key.namespace, ""));
    }
    keys
}
