//! Makes Jobs by the clock.
//!
//! Reads CronJobs and the Jobs that they control; creates Jobs, deletes those that give way or that
//! are more than the history may hold, and writes the CronJob's status. Between two starts it
//! sleeps. Running the Jobs is the Job controller's business.

mod plan;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc};

use eyot_client::{Cache, Change, EventType, Key, Reconciler, Requeue};
use k8s_openapi::api::{
    batch::v1::{CronJob, CronJobStatus, Job},
    core::v1::ObjectReference,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, PostParams, Preconditions, PropagationPolicy},
};

use self::plan::Start;
use crate::{
    announce::Announcer,
    clock,
    error::{Act, ControlError, is, is_namespace_ending, said},
    job::conditions,
    owner,
};

pub(crate) struct CronJobs {
    pub(crate) client: Client,
    pub(crate) cron_jobs: Cache<CronJob>,
    pub(crate) jobs: Cache<Job>,
    pub(crate) announcer: Announcer,
}

impl Reconciler for CronJobs {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "cron-job"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(mut cron) = self.cron_jobs.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let mut jobs = self.jobs.list_in(&key.namespace);
        jobs.retain(|job| owner::is_controlled_by(&job.metadata, &cron.metadata));
        let status = cron.status.clone().unwrap_or_default();
        let unknown =
            |job: &Arc<Job>| !conditions::is_finished(job) && !plan::is_active(&status, job);
        if jobs.iter().any(unknown) {
            // Most likely the cache does not show yet what was written when it was made.
            let api: Api<CronJob> = Api::namespaced(self.client.clone(), &key.namespace);
            match api
                .get_opt(&key.name)
                .await
                .act(|| format!("looking for cronjob {key}"))?
            {
                Some(found) if found.metadata.uid == cron.metadata.uid => cron = Arc::new(found),
                _ => return Ok(Requeue::OnChange),
            }
        }
        let gone = self.gone(key, &cron, &jobs).await?;
        let plan = plan::plan(&cron, &jobs, &gone, clock::now());
        for (kind, reason, message) in &plan.events {
            match kind {
                EventType::Normal => self.announcer.normal(&*cron, *reason, message.clone()),
                EventType::Warning => self.announcer.warning(&*cron, *reason, message.clone()),
            }
        }
        let mut status = plan.status;
        for job in &plan.replace {
            self.delete(key, &cron, job).await?;
        }
        if let Some(start) = &plan.start {
            self.start(key, &cron, &mut status, start).await?;
        }
        self.write(key, &cron, status).await?;
        for job in &plan.forget {
            self.delete(key, &cron, &job.object_ref(&())).await?;
        }
        Ok(plan.again.map_or(Requeue::OnChange, Requeue::After))
    }
}

impl CronJobs {
    /// The uids of the active Jobs that are really no more.
    async fn gone(
        &self,
        key: &Key,
        cron: &CronJob,
        jobs: &[Arc<Job>],
    ) -> Result<HashSet<String>, ControlError> {
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut gone = HashSet::new();
        let active = cron.status.iter().flat_map(|s| s.active.iter().flatten());
        for listed in active {
            let (Some(uid), Some(name)) = (&listed.uid, &listed.name) else {
                continue;
            };
            if jobs
                .iter()
                .any(|job| job.metadata.uid.as_ref() == Some(uid))
            {
                continue;
            }
            let found = api.get_opt(name).await;
            let found = found.act(|| format!("looking for job {name}"))?;
            if found.is_none_or(|found| found.metadata.uid.as_ref() != Some(uid)) {
                gone.insert(uid.clone());
            }
        }
        Ok(gone)
    }

    async fn start(
        &self,
        key: &Key,
        cron: &CronJob,
        status: &mut CronJobStatus,
        start: &Start,
    ) -> Result<(), ControlError> {
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let name = start.job.metadata.name.as_deref().unwrap_or_default();
        let job = match api.create(&PostParams::default(), &start.job).await {
            Ok(job) => {
                let message = format!("Created job {name}");
                self.announcer.normal(cron, "SuccessfulCreate", message);
                job
            }
            Err(error) if is_namespace_ending(&error) => return Ok(()),
            Err(error) if is(&error, 409) => {
                // Made by an earlier pass that did not come to write the status; or not ours.
                let found = api.get_opt(name).await;
                let found = found.act(|| format!("looking for job {name}"))?;
                let ours = |job: &Job| owner::is_controlled_by(&job.metadata, &cron.metadata);
                match found.filter(ours) {
                    Some(job) if !plan::is_active(status, &job) => job,
                    _ => return Ok(()),
                }
            }
            Err(error) => {
                let message = format!("Error creating job: {}", said(&error));
                self.announcer.warning(cron, "FailedCreate", message);
                return Err(error).act(|| format!("creating job {name}"));
            }
        };
        plan::started(status, job.object_ref(&()), start.scheduled);
        Ok(())
    }

    async fn write(
        &self,
        key: &Key,
        cron: &CronJob,
        status: CronJobStatus,
    ) -> Result<(), ControlError> {
        let same = match &cron.status {
            Some(old) => *old == status,
            None => status == CronJobStatus::default(),
        };
        if same {
            return Ok(());
        }
        let mut cron = cron.clone();
        cron.status = Some(status);
        let api: Api<CronJob> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        let written = api.replace_status(&key.name, &params, &cron).await;
        written.act(|| format!("writing the status of cronjob {key}"))?;
        Ok(())
    }

    async fn delete(
        &self,
        key: &Key,
        cron: &CronJob,
        job: &ObjectReference,
    ) -> Result<(), ControlError> {
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let name = job.name.as_deref().unwrap_or_default();
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions {
                uid: job.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(name, &params).await {
            Ok(_) => {
                let message = format!("Deleted job {name}");
                self.announcer.normal(cron, "SuccessfulDelete", message);
                Ok(())
            }
            // Gone, or gone and replaced.
            Err(error) if is(&error, 404) || is(&error, 409) => Ok(()),
            Err(error) => {
                let message = format!("Deleted job: {}", said(&error));
                self.announcer.warning(cron, "FailedDelete", message);
                Err(error).act(|| format!("deleting job {name}"))
            }
        }
    }
}

/// The CronJob that a change of a Job concerns.
pub(crate) fn of_job(change: &Change<'_, Job>) -> Option<Key> {
    let owner = owner::controller(&change.object()?.metadata)?;
    (owner.kind == "CronJob").then(|| Key::new(&change.key.namespace, &owner.name))
}
