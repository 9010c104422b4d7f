use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};

use super::plan::{self, Plan};

fn cron(spec: Value, status: Value) -> CronJob {
    let mut cron = json!({
        "metadata": {"name": "c", "namespace": "d", "uid": "C",
                     "creationTimestamp": "2026-01-01T00:00:30Z"},
        "spec": {"schedule": "*/10 * * * *", "successfulJobsHistoryLimit": 1,
                 "failedJobsHistoryLimit": 1,
                 "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}},
        "status": status,
    });
    for (key, value) in spec.as_object().unwrap() {
        cron["spec"][key] = value.clone();
    }
    serde_json::from_value(cron).unwrap()
}

fn job(name: &str, end: Option<&str>, start: &str) -> Arc<Job> {
    let conditions: Vec<Value> = end
        .iter()
        .map(|end| json!({"type": end, "status": "True"}))
        .collect();
    let completed = (end == Some("Complete")).then_some(start);
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"template": {}},
            "status": {"conditions": conditions, "startTime": start, "completionTime": completed},
        }))
        .unwrap(),
    )
}

fn at(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
    plan::plan(cron, jobs, &HashSet::new(), now.parse().unwrap())
}

fn started(plan: &Plan) -> Option<String> {
    plan.start.as_ref().map(|start| start.scheduled.to_string())
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.events.iter().map(|(_, reason, _)| *reason).collect()
}

#[test]
fn a_job_is_made_when_it_is_due_and_not_before() {
    let cron = cron(json!({"timeZone": "Asia/Tokyo"}), json!({}));
    let early = at(&cron, &[], "2026-01-01T00:04:00Z");
    assert_eq!(early.start, None);
    assert_eq!(early.again.unwrap().as_millis(), 360_100);
    let due = at(&cron, &[], "2026-01-01T00:10:01Z");
    assert_eq!(due.again.unwrap().as_millis(), 599_100);
    let job = serde_json::to_value(&*due.start.unwrap().job).unwrap();
    let minutes = "2026-01-01T00:10:00Z"
        .parse::<Timestamp>()
        .unwrap()
        .as_second()
        / 60;
    let expected = json!({
        "name": format!("c-{minutes}"), "namespace": "d", "labels": {"a": "b"},
        "annotations": {
            "batch.kubernetes.io/cronjob-scheduled-timestamp": "2026-01-01T09:10:00+09:00"},
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "c", "uid": "C",
                             "controller": true, "blockOwnerDeletion": true}],
    });
    assert_eq!(job["metadata"], expected);
}

#[test]
fn what_was_made_is_not_made_again() {
    let done = cron(
        json!({}),
        json!({"lastScheduleTime": "2026-01-01T00:10:00Z"}),
    );
    let plan = at(&done, &[], "2026-01-01T00:10:05Z");
    assert_eq!((started(&plan), plan.events.len()), (None, 0));
    assert_eq!(plan.status, done.status.unwrap());
}

#[test]
fn of_missed_starts_the_latest_is_made_unless_it_is_too_late() {
    let plain = cron(json!({}), json!({}));
    let plan = at(&plain, &[], "2026-01-01T05:05:00Z");
    assert_eq!(started(&plan).unwrap(), "2026-01-01T05:00:00Z");
    assert_eq!(reasons(&plan), [""; 0]);
    let plan = at(&plain, &[], "2026-03-01T05:05:00Z");
    assert_eq!(started(&plan).unwrap(), "2026-03-01T05:00:00Z");
    assert_eq!(reasons(&plan), ["TooManyMissedTimes"]);
    // Seen from the deadline, there is nothing to make up for.
    let strict = cron(json!({"startingDeadlineSeconds": 60}), json!({}));
    assert_eq!(started(&at(&strict, &[], "2026-01-01T05:05:00Z")), None);
    let plan = at(&strict, &[], "2026-01-01T05:00:59Z");
    assert_eq!(started(&plan).unwrap(), "2026-01-01T05:00:00Z");
    // Weekdays only: the distance of the first two starts says little.
    let weekdays = cron(json!({"schedule": "0 9 * * 1-5"}), json!({}));
    let plan = at(&weekdays, &[], "2026-01-11T12:00:00Z");
    assert_eq!(started(&plan).unwrap(), "2026-01-09T09:00:00Z");
}

#[test]
fn a_day_that_never_comes_is_said_once_and_not_waited_for() {
    let never = cron(json!({"schedule": "0 0 30 2 *"}), json!({}));
    let plan = at(&never, &[], "2026-03-01T00:00:00Z");
    assert_eq!((started(&plan), plan.again), (None, None));
    assert_eq!(reasons(&plan), ["InvalidSchedule"]);
}

#[test]
fn suspension_and_bad_zones_stop_the_clock() {
    let plan = at(
        &cron(json!({"suspend": true}), json!({})),
        &[],
        "2026-01-01T00:10:01Z",
    );
    assert_eq!((started(&plan), plan.again), (None, None));
    let plan = at(
        &cron(json!({"timeZone": "No/Where"}), json!({})),
        &[],
        "2026-01-01T00:10:01Z",
    );
    assert_eq!(
        (started(&plan), reasons(&plan)),
        (None, vec!["UnknownTimeZone"])
    );
}

#[test]
fn a_job_that_still_runs_is_let_be_waited_for_or_replaced() {
    let active = json!({"active": [{"name": "c-1", "uid": "c-1"}]});
    let jobs = [job("c-1", None, "2026-01-01T00:00:00Z")];
    let now = "2026-01-01T00:10:01Z";
    let allow = at(
        &cron(json!({"concurrencyPolicy": "Allow"}), active.clone()),
        &jobs,
        now,
    );
    assert!(allow.start.is_some() && allow.replace.is_empty());
    let forbid = at(
        &cron(json!({"concurrencyPolicy": "Forbid"}), active.clone()),
        &jobs,
        now,
    );
    assert_eq!(
        (started(&forbid), reasons(&forbid)),
        (None, vec!["JobAlreadyActive"])
    );
    let replace = at(
        &cron(json!({"concurrencyPolicy": "Replace"}), active),
        &jobs,
        now,
    );
    assert_eq!(replace.replace[0].name.as_deref(), Some("c-1"));
    assert!(replace.start.is_some());
    assert_eq!(replace.status.active, None);
}

#[test]
fn the_status_follows_the_jobs_and_old_ones_are_forgotten() {
    let active = json!({"active": [
        {"name": "j1", "uid": "j1"}, {"name": "j2", "uid": "j2"}, {"name": "lost", "uid": "lost"}]});
    let cron = cron(json!({"suspend": true}), active);
    let jobs = [
        job("j1", Some("Complete"), "2026-01-01T00:00:00Z"),
        job("j2", None, "2026-01-01T00:10:00Z"),
        job("j3", Some("Complete"), "2026-01-01T00:05:00Z"),
        job("j4", Some("Failed"), "2026-01-01T00:06:00Z"),
    ];
    let gone = HashSet::from(["lost".to_owned()]);
    let plan = plan::plan(&cron, &jobs, &gone, "2026-01-01T00:11:00Z".parse().unwrap());
    let active = plan.status.active.as_ref().unwrap();
    assert_eq!((active.len(), active[0].name.as_deref()), (1, Some("j2")));
    let successful = plan.status.last_successful_time.as_ref().unwrap().0;
    assert_eq!(successful.to_string(), "2026-01-01T00:05:00Z");
    let said: Vec<_> = plan
        .events
        .iter()
        .map(|(_, _, message)| message.as_str())
        .collect();
    let expected = [
        "Saw completed job: j1, condition: Complete",
        "Active job went missing: lost",
    ];
    assert_eq!(said, expected);
    assert_eq!(plan.forget.len(), 1);
    assert_eq!(plan.forget[0].metadata.name.as_deref(), Some("j1"));
}
