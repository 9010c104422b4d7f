//! The conditions of a Deployment, with the reasons and words that `kubectl rollout status` and
//! people know.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    plan::{Sets, Write, desired, paused},
    rolling,
    status::Counts,
};

const DEADLINE: i32 = 600;
/// Kubernetes' way to say that there is no deadline.
const NO_DEADLINE: i32 = i32::MAX;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";

/// The conditions as they should be, and when the deadline passes.
pub(super) fn conditions(
    deployment: &Deployment,
    sets: &Sets<'_>,
    counts: Counts,
    writes: &[Write],
    now: Timestamp,
) -> (Vec<DeploymentCondition>, Option<Duration>) {
    let status = deployment.status.as_ref();
    let known = status
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let mut list = List { known, now };
    if counts.available >= desired(deployment) - rolling::bounds(deployment).1 {
        let words = "Deployment has minimum availability.";
        list.set(AVAILABLE, "True", "MinimumReplicasAvailable", words);
    } else {
        let words = "Deployment does not have minimum availability.";
        list.set(AVAILABLE, "False", "MinimumReplicasUnavailable", words);
    }
    let again = progress(&mut list, deployment, sets, counts, writes);
    failure(&mut list, sets);
    (list.known, again)
}

fn progress(
    list: &mut List,
    deployment: &Deployment,
    sets: &Sets<'_>,
    counts: Counts,
    writes: &[Write],
) -> Option<Duration> {
    let spec = deployment.spec.as_ref();
    let deadline = spec
        .and_then(|spec| spec.progress_deadline_seconds)
        .unwrap_or(DEADLINE);
    if deadline == NO_DEADLINE {
        list.known
            .retain(|condition| condition.type_ != PROGRESSING);
        return None;
    }
    if paused(deployment) {
        list.set(
            PROGRESSING,
            "Unknown",
            "DeploymentPaused",
            "Deployment is paused",
        );
        return None;
    }
    if list.reason(PROGRESSING) == Some("DeploymentPaused") {
        list.set(
            PROGRESSING,
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed",
        );
    }
    let made = writes.iter().find_map(|write| match write {
        Write::Create(set) => set.metadata.name.as_deref(),
        _ => None,
    });
    let name = made.or(sets.new.and_then(|set| set.metadata.name.as_deref()))?;
    if made.is_some() {
        let words = format!("Created new replica set \"{name}\"");
        list.set(PROGRESSING, "True", "NewReplicaSetCreated", &words);
    } else if list.reason(PROGRESSING).is_none() {
        let words = format!("Found new replica set \"{name}\"");
        list.set(PROGRESSING, "True", "FoundNewReplicaSet", &words);
    }
    let settled = list.reason(PROGRESSING) == Some("NewReplicaSetAvailable")
        && counts.replicas == counts.updated;
    if settled {
        return None;
    }
    let limit = SignedDuration::from_secs(deadline.max(0).into());
    if made.is_none() && counts.complete(desired(deployment)) {
        let words = format!("ReplicaSet \"{name}\" has successfully progressed.");
        list.set(PROGRESSING, "True", "NewReplicaSetAvailable", &words);
        return None;
    }
    let before = deployment
        .status
        .as_ref()
        .map(Counts::known)
        .unwrap_or_default();
    if has_progressed(before, counts) {
        let words = format!("ReplicaSet \"{name}\" is progressing.");
        list.renew(PROGRESSING, "True", "ReplicaSetUpdated", &words);
    } else if list
        .waited(PROGRESSING)
        .is_some_and(|waited| waited >= limit)
    {
        let words = format!("ReplicaSet \"{name}\" has timed out progressing.");
        list.set(PROGRESSING, "False", "ProgressDeadlineExceeded", &words);
        return None;
    }
    if list.reason(PROGRESSING) == Some("ProgressDeadlineExceeded") {
        return None;
    }
    // A second more: the condition's time has no fractions.
    let left = limit - list.waited(PROGRESSING)? + SignedDuration::from_secs(1);
    Duration::try_from(left).ok()
}

fn has_progressed(before: Counts, now: Counts) -> bool {
    now.updated > before.updated
        || now.replicas - now.updated < before.replicas - before.updated
        || now.ready > before.ready
        || now.available > before.available
}

/// The condition of a roll-out whose ReplicaSet could not be made; `None` if it has no deadline.
pub(super) fn not_created(
    deployment: &Deployment,
    message: &str,
    now: Timestamp,
) -> Option<Vec<DeploymentCondition>> {
    let spec = deployment.spec.as_ref();
    let deadline = spec.and_then(|spec| spec.progress_deadline_seconds);
    if deadline == Some(NO_DEADLINE) {
        return None;
    }
    let known = deployment.status.as_ref();
    let known = known.and_then(|status| status.conditions.clone());
    let mut list = List {
        known: known.unwrap_or_default(),
        now,
    };
    list.set(PROGRESSING, "False", "ReplicaSetCreateError", message);
    Some(list.known)
}

/// Pass on why a ReplicaSet cannot make its pods.
fn failure(list: &mut List, sets: &Sets<'_>) {
    let conditions = sets
        .all()
        .filter_map(|set| set.status.as_ref()?.conditions.as_ref());
    let failing = conditions.flatten().rfind_failure();
    match failing {
        Some((reason, message)) => list.set(FAILURE, "True", &reason, &message),
        None => list.known.retain(|condition| condition.type_ != FAILURE),
    }
}

trait FindFailure {
    fn rfind_failure(self) -> Option<(String, String)>;
}

impl<'a, I> FindFailure for I
where
    I: Iterator<Item = &'a k8s_openapi::api::apps::v1::ReplicaSetCondition>,
{
    /// Reason and message of the last failure: the one of the newest ReplicaSet.
    fn rfind_failure(self) -> Option<(String, String)> {
        let failures = self.filter(|found| found.type_ == FAILURE && found.status == "True");
        let last = failures.last()?;
        Some((
            last.reason.clone().unwrap_or_default(),
            last.message.clone().unwrap_or_default(),
        ))
    }
}

struct List {
    known: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl List {
    fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.known.iter().find(|condition| condition.type_ == kind)
    }

    fn reason(&self, kind: &str) -> Option<&str> {
        self.get(kind)?.reason.as_deref()
    }

    /// How long the condition has not been renewed.
    fn waited(&self, kind: &str) -> Option<SignedDuration> {
        let since = self.get(kind)?.last_update_time.as_ref()?;
        // A roll-out that was over has no deadline until it moves again.
        if self.reason(kind) == Some("NewReplicaSetAvailable") {
            return None;
        }
        Some(self.now.duration_since(since.0))
    }

    /// Set a condition, unless status and reason are so already.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let same = self.get(kind).is_some_and(|condition| {
            condition.status == status && condition.reason.as_deref() == Some(reason)
        });
        if !same {
            self.renew(kind, status, reason, message);
        }
    }

    /// Set a condition and its time of update.
    fn renew(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        // Kubernetes' times have whole seconds.
        let second = Timestamp::from_second(self.now.as_second()).unwrap_or(self.now);
        let known = self.get(kind).filter(|known| known.status == status);
        let transition = known.and_then(|known| known.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_update_time: Some(Time(second)),
            last_transition_time: transition.or(Some(Time(second))),
        };
        match self
            .known
            .iter_mut()
            .find(|condition| condition.type_ == kind)
        {
            Some(known) => *known = condition,
            None => self.known.push(condition),
        }
    }
}
