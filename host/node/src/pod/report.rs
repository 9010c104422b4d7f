//! Writing a pod's status to the API: only what changed, as few times as possible.
//!
//! The status is a strategic merge patch with the uid as its precondition, so conditions of others
//! stay and a successor of the same name is never written to. While something is under way that
//! will change the status in a moment, the write waits a little for it: most pods go from assigned
//! to Ready with one write.

use std::time::Duration;

use eyot_runtime::PodRef;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::status::RESIZE_CONDITIONS;

/// How long a status that will soon be out of date is held back.
const SOON: Duration = Duration::from_millis(100);
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// Longest pause while the API does not answer.
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// Keeps what was written apart from what is to be written.
pub(crate) struct Reporter {
    wanted: Option<PodStatus>,
    written: Option<PodStatus>,
    /// What is being written now.
    in_flight: Option<PodStatus>,
    due: Option<Instant>,
    failures: u32,
}

impl Reporter {
    /// `written` is what the API has.
    pub(crate) fn new(written: Option<PodStatus>) -> Self {
        Self {
            wanted: None,
            written,
            in_flight: None,
            due: None,
            failures: 0,
        }
    }

    /// What was last seen or is about to be seen by others.
    pub(crate) fn latest(&self) -> Option<&PodStatus> {
        self.wanted
            .as_ref()
            .or(self.in_flight.as_ref())
            .or(self.written.as_ref())
    }

    /// This is the status now. `settled` says that it will not change by itself in a moment.
    pub(crate) fn want(&mut self, status: PodStatus, settled: bool, now: Instant) {
        let known = self.in_flight.as_ref().or(self.written.as_ref());
        if known.is_some_and(|known| same(known, &status)) {
            self.wanted = None;
            self.due = None;
            return;
        }
        self.wanted = Some(status);
        let at = if settled { now } else { now + SOON };
        self.due = Some(match self.due {
            // A failing API is not asked faster because there is more to say.
            Some(due) if self.failures > 0 || !settled => due,
            _ => at,
        });
    }

    /// When [`Self::take`] will have something.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.in_flight.is_some() {
            None
        } else {
            self.due
        }
    }

    /// The status to write now, if any.
    pub(crate) fn take(&mut self, now: Instant) -> Option<PodStatus> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        self.in_flight = self.wanted.take();
        self.in_flight.clone()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.wanted.is_none()
    }

    /// The write that was under way ended.
    pub(crate) fn done(&mut self, success: bool, now: Instant) {
        let Some(status) = self.in_flight.take() else {
            return;
        };
        if success {
            self.failures = 0;
            self.written = Some(status);
            return;
        }
        let pause = RETRY_FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(RETRY_LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.wanted.get_or_insert(status);
        self.due = Some(now + pause);
    }
}

/// Write a status. `true` if it was written or there is nobody to write to any more.
pub(crate) async fn write(client: &Client, pod: &PodRef, status: &PodStatus) -> bool {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let patch = Patch::Strategic(patch(&pod.uid, status));
    match api
        .patch_status(&pod.name, &PatchParams::default(), &patch)
        .await
    {
        Ok(_) => true,
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => true,
        Err(error) => {
            tracing::warn!(%pod, %error, "pod status was not written; trying again");
            false
        }
    }
}

/// Remove the object of a pod that has ended. `true` if it is gone.
pub(crate) async fn delete(client: &Client, pod: &PodRef) -> bool {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: Some(pod.uid.clone()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&pod.name, &params).await {
        Ok(_) => true,
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => true,
        Err(error) => {
            tracing::warn!(%pod, %error, "pod was not deleted; trying again");
            false
        }
    }
}

/// Two statuses that say the same. The times of conditions were carried over before.
fn same(known: &PodStatus, status: &PodStatus) -> bool {
    let ours = |of: &PodStatus| {
        let mut of = of.clone();
        let kinds: Vec<_> = status
            .conditions
            .iter()
            .flatten()
            .map(|condition| condition.type_.clone())
            .collect();
        for condition in of.conditions.iter_mut().flatten() {
            condition.last_probe_time = None;
        }
        of.conditions.iter_mut().for_each(|all| {
            all.retain(|condition| {
                let kind = &condition.type_;
                kinds.contains(kind) || RESIZE_CONDITIONS.contains(&kind.as_str())
            });
            all.sort_by(|one, other| one.type_.cmp(&other.type_));
        });
        of
    };
    ours(known) == ours(status)
}

/// The patch that makes the API's status be `status`, whatever it was.
fn patch(uid: &str, status: &PodStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    // Fields that may go away again have to be taken away by name.
    for field in ["reason", "message"] {
        if value.get(field).is_none() {
            value[field] = Value::Null;
        }
    }
    let conditions = value.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    // Those that are not there any more.
    if let Some(conditions) = value.get_mut("conditions").and_then(Value::as_array_mut) {
        for kind in RESIZE_CONDITIONS {
            if !conditions.iter().any(|condition| condition["type"] == kind) {
                conditions.push(json!({ "$patch": "delete", "type": kind }));
            }
        }
    }
    // Merged by address: without this a pod that moved would keep its old one beside the new.
    if let Some(ips) = value.get_mut("podIPs").and_then(Value::as_array_mut) {
        ips.push(json!({ "$patch": "replace" }));
    }
    json!({ "metadata": { "uid": uid }, "status": value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: &str) -> PodStatus {
        PodStatus {
            phase: Some(phase.to_owned()),
            ..PodStatus::default()
        }
    }

    #[test]
    fn a_status_that_will_change_soon_is_held_back_and_replaced() {
        let now = Instant::now();
        let mut reporter = Reporter::new(None);
        reporter.want(status("Pending"), false, now);
        assert_eq!(reporter.take(now), None);
        reporter.want(status("Running"), true, now + SOON / 2);
        let taken = reporter.take(now + SOON / 2).unwrap();
        assert_eq!(taken.phase.as_deref(), Some("Running"));
        reporter.done(true, now);
        reporter.want(status("Running"), true, now);
        assert!(reporter.is_idle(), "nothing is written twice");
    }

    #[test]
    fn a_failed_write_is_tried_again_with_growing_pauses_and_the_newest_status() {
        let now = Instant::now();
        let mut reporter = Reporter::new(None);
        reporter.want(status("Pending"), true, now);
        assert!(reporter.take(now).is_some());
        reporter.done(false, now);
        reporter.want(status("Running"), true, now);
        assert_eq!(reporter.take(now), None);
        let taken = reporter.take(now + RETRY_FIRST).unwrap();
        assert_eq!(taken.phase.as_deref(), Some("Running"));
        reporter.done(false, now);
        assert_eq!(reporter.due(), Some(now + RETRY_FIRST * 2));
    }
}
