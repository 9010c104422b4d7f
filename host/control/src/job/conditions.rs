//! The conditions of a Job.

use jiff::Timestamp;
use k8s_openapi::{
    api::batch::v1::{Job, JobCondition, JobStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

pub(crate) const COMPLETE: &str = "Complete";
pub(crate) const FAILED: &str = "Failed";
pub(super) const SUSPENDED: &str = "Suspended";
/// The Job will be complete once its pods are gone.
pub(super) const SUCCESS: &str = "SuccessCriteriaMet";
/// The Job will be failed once its pods are gone.
pub(super) const FAILURE: &str = "FailureTarget";

pub(super) fn holds<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|found| found.type_ == kind && found.status == "True")
}

/// Whether a Job has ended, and as what: `Complete` or `Failed`, since when.
pub(crate) fn ended(job: &Job) -> Option<&JobCondition> {
    let status = job.status.as_ref()?;
    holds(status, COMPLETE).or_else(|| holds(status, FAILED))
}

pub(crate) fn is_finished(job: &Job) -> bool {
    ended(job).is_some()
}

/// Set a condition to (status, reason, message). One that never was is not set to `False`. Answers
/// whether that changed anything.
pub(super) fn ensure(
    status: &mut JobStatus,
    kind: &str,
    (state, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let new = JobCondition {
        type_: kind.to_owned(),
        status: state.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|found| found.type_ == kind) {
        Some(found) => {
            let same = found.status == new.status
                && found.reason == new.reason
                && found.message == new.message;
            if !same {
                *found = new;
            }
            !same
        }
        None if state == "False" => {
            status.conditions = status.conditions.take().filter(|all| !all.is_empty());
            false
        }
        None => {
            conditions.push(new);
            true
        }
    }
}
