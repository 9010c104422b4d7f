//! Deletes Jobs that ended long enough ago, where they say how long that is.
//!
//! Reads Jobs; deletes those whose `ttlSecondsAfterFinished` has passed, their pods with them.

use std::time::Duration;

use eyot_client::{Cache, Key, Reconciler, Requeue};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client,
    api::{DeleteParams, Preconditions, PropagationPolicy},
};

use super::conditions;
use crate::{
    clock,
    error::{Act, ControlError, is},
};

pub(crate) struct Ttl {
    pub(crate) client: Client,
    pub(crate) jobs: Cache<Job>,
}

impl Reconciler for Ttl {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "ttl-after-finished"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(job) = self.jobs.get(key) else {
            return Ok(Requeue::OnChange);
        };
        match left(&job, clock::now()) {
            None => return Ok(Requeue::OnChange),
            Some(Duration::ZERO) => {}
            Some(left) => return Ok(Requeue::After(left)),
        }
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        // Only as it was judged: its time may just have been prolonged.
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            preconditions: Some(Preconditions {
                uid: job.metadata.uid.clone(),
                resource_version: job.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &params).await {
            Err(error) if is(&error, 409) => {}
            deleted => deleted.act_if_there(|| format!("deleting job {key}"))?,
        }
        Ok(Requeue::OnChange)
    }
}

/// How long a Job may stay, if its end has begun that time.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let since = conditions::ended(job)?.last_transition_time.as_ref()?.0;
    let ttl = Duration::from_secs(u64::from(seconds.max(0).unsigned_abs()));
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(ttl.saturating_sub(passed))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(spec: Value, conditions: Value, expected: Option<u64>) {
        let job = json!({
            "metadata": {}, "spec": spec, "status": {"conditions": conditions},
        });
        let mut job = job;
        job["spec"]["template"] = json!({});
        let job: Job = serde_json::from_value(job).unwrap();
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(left(&job, now).map(|left| left.as_secs()), expected);
    }

    #[test]
    fn only_ended_jobs_with_a_time_to_live_go() {
        let ended = |kind: &str| {
            json!([{"type": kind, "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}])
        };
        let ttl = json!({"ttlSecondsAfterFinished": 100});
        check(ttl.clone(), ended("Complete"), Some(40));
        check(ttl.clone(), ended("Failed"), Some(40));
        check(ttl.clone(), ended("FailureTarget"), None);
        check(json!({}), ended("Complete"), None);
        check(
            json!({"ttlSecondsAfterFinished": 0}),
            ended("Complete"),
            Some(0),
        );
        check(
            json!({"ttlSecondsAfterFinished": 60}),
            ended("Complete"),
            Some(0),
        );
    }
}
