use std::sync::Arc;

use eyot_client::view::Pod;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use serde_json::{Value, json};

use super::{FINALIZER, conditions, plan, plan::Plan};

/// A Job and its pods, to which plans are applied as the API and a node would.
struct World {
    job: Job,
    pods: Vec<Arc<Pod>>,
    now: Timestamp,
    made: usize,
    events: Vec<String>,
}

impl World {
    fn new(spec: Value) -> Self {
        let mut job = json!({
            "metadata": {"name": "j", "namespace": "d", "uid": "J"},
            "spec": {
                "parallelism": 1, "completions": 1, "backoffLimit": 6,
                "completionMode": "NonIndexed", "podReplacementPolicy": "TerminatingOrFailed",
                "selector": {"matchLabels": {"uid": "J"}},
                "template": {
                    "metadata": {"labels": {"uid": "J"}},
                    "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]},
                },
            },
        });
        for (key, value) in spec.as_object().unwrap() {
            job["spec"][key] = value.clone();
        }
        Self {
            job: serde_json::from_value(job).unwrap(),
            pods: Vec::new(),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            made: 0,
            events: Vec::new(),
        }
    }

    fn set(&mut self, key: &str, value: Value) {
        let mut job = serde_json::to_value(&self.job).unwrap();
        job["spec"][key] = value;
        self.job = serde_json::from_value(job).unwrap();
    }

    fn plan(&self) -> Plan {
        plan::plan(&self.job, &self.pods, false, self.now)
    }

    /// One pass.
    fn pass(&mut self) -> Plan {
        let plan = self.plan();
        for pod in &plan.change.create {
            self.made += 1;
            let mut pod = crate::pod::seen(pod);
            pod.metadata.uid = Some(format!("u{}", self.made));
            pod.metadata.creation_timestamp = Some(
                k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now),
            );
            self.pods.push(Arc::new(pod));
        }
        let names = |pods: &[Arc<Pod>]| -> Vec<_> {
            pods.iter().map(|pod| pod.metadata.uid.clone()).collect()
        };
        let held = names(&plan.hold);
        let dropped = names(&plan.change.drop);
        let stopped = names(&plan.change.stop);
        self.job.status = Some(plan.status.clone());
        let released = names(&plan.release);
        for pod in &mut self.pods {
            let uid = pod.metadata.uid.clone();
            let pod = Arc::make_mut(pod);
            if held.contains(&uid) {
                pod.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
            }
            if dropped.contains(&uid) || released.contains(&uid) {
                pod.metadata.finalizers = None;
            }
            if stopped.contains(&uid) || dropped.contains(&uid) {
                pod.metadata.deletion_timestamp = Some(
                    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now),
                );
                pod.metadata.deletion_grace_period_seconds = Some(0);
            }
        }
        for (_, reason, message) in &plan.events {
            self.events.push(format!("{reason}: {message}"));
        }
        plan
    }

    /// Passes until nothing changes; what is asked to go goes between them.
    fn settle(&mut self) {
        for _ in 0..20 {
            let before = (self.job.status.clone(), self.pods.clone());
            self.pass();
            self.pods.retain(|pod| {
                pod.metadata.deletion_timestamp.is_none() || pod.metadata.finalizers.is_some()
            });
            if before == (self.job.status.clone(), self.pods.clone()) {
                return;
            }
        }
        panic!("never settles: {:?}", self.job.status);
    }

    /// End the nth pod that still runs.
    fn end(&mut self, nth: usize, phase: &str, code: i32) {
        let now = self.now;
        let running = self
            .pods
            .iter_mut()
            .filter(|pod| pod.status.is_none() && pod.metadata.deletion_timestamp.is_none());
        let pod = Arc::make_mut(running.into_iter().nth(nth).unwrap());
        pod.status = Some(
            serde_json::from_value(json!({
                "phase": phase,
                "conditions": [{"type": "DisruptionTarget",
                                "status": if code == 137 { "True" } else { "False" }}],
                "containerStatuses": [{
                    "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code, "finishedAt": now}},
                }],
            }))
            .unwrap(),
        );
    }

    fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap()
    }

    /// Active, succeeded, failed.
    fn counts(&self) -> (i32, i32, i32) {
        let status = self.status();
        let n = |n: Option<i32>| n.unwrap_or(0);
        (n(status.active), n(status.succeeded), n(status.failed))
    }

    fn conditions(&self) -> Vec<String> {
        let all = self.status().conditions.unwrap_or_default();
        let text = |s: Option<String>| s.unwrap_or_default();
        all.into_iter()
            .map(|c| {
                format!(
                    "{}={} {}: {}",
                    c.type_,
                    c.status,
                    text(c.reason),
                    text(c.message)
                )
            })
            .collect()
    }

    fn indexes(&self) -> Vec<String> {
        let mut found: Vec<_> = self
            .pods
            .iter()
            .filter(|pod| crate::pod::is_active(pod))
            .map(|pod| pod.metadata.labels.as_ref().unwrap()[super::INDEX].clone())
            .collect();
        found.sort();
        found
    }
}

#[test]
fn a_job_runs_as_many_as_it_may_until_enough_have_succeeded() {
    let mut world = World::new(json!({"completions": 3, "parallelism": 2}));
    world.settle();
    assert_eq!(world.counts(), (2, 0, 0));
    assert_eq!(
        world.pods[0].metadata.finalizers.as_ref().unwrap()[0],
        FINALIZER
    );
    assert_eq!(world.status().ready, Some(0));
    assert_eq!(world.status().terminating, Some(0));
    assert!(world.status().start_time.is_some());
    world.end(0, "Succeeded", 0);
    world.settle();
    assert_eq!(world.counts(), (2, 1, 0));
    world.end(0, "Succeeded", 0);
    world.end(0, "Succeeded", 0);
    world.settle();
    assert_eq!(world.counts(), (0, 3, 0));
    let because = "CompletionsReached: Reached expected number of succeeded pods";
    let expected = [
        format!("SuccessCriteriaMet=True {because}"),
        format!("Complete=True {because}"),
    ];
    assert_eq!(world.conditions(), expected);
    assert!(world.status().completion_time.is_some());
    assert_eq!(world.events, ["Completed: Job completed"]);
    assert!(
        world
            .pods
            .iter()
            .all(|pod| pod.metadata.finalizers.is_none())
    );
}

#[test]
fn a_pod_is_counted_once_whatever_happens_between() {
    let mut world = World::new(json!({"completions": 2, "parallelism": 2}));
    world.settle();
    world.end(0, "Succeeded", 0);
    // The status is stored, and the host is killed before the finalizer is taken back.
    world.job.status = Some(world.plan().status);
    let uncounted = world.status().uncounted_terminated_pods.unwrap();
    assert_eq!(uncounted.succeeded.unwrap(), ["u1"]);
    assert_eq!(world.counts().1, 0);
    world.settle();
    assert_eq!(world.counts(), (1, 1, 0));
    // The pod is gone between the two.
    world.end(0, "Succeeded", 0);
    world.job.status = Some(world.plan().status);
    world.pods.clear();
    world.settle();
    assert_eq!(world.counts(), (0, 2, 0));
    assert!(conditions::is_finished(&world.job));
}

#[test]
fn failed_pods_are_replaced_after_growing_delays_until_the_limit() {
    let mut world = World::new(json!({"backoffLimit": 1}));
    world.settle();
    world.end(0, "Failed", 1);
    world.settle();
    assert_eq!(world.counts(), (0, 0, 1));
    assert_eq!(world.plan().again.unwrap().as_secs(), 10);
    world.wait(10);
    world.settle();
    assert_eq!(world.counts(), (1, 0, 1));
    world.end(0, "Failed", 1);
    world.settle();
    assert_eq!(world.counts(), (0, 0, 2));
    let because = "BackoffLimitExceeded: Job has reached the specified backoff limit";
    let expected = [
        format!("FailureTarget=True {because}"),
        format!("Failed=True {because}"),
    ];
    assert_eq!(world.conditions(), expected);
    assert_eq!(world.events, [because]);
    assert_eq!(world.status().completion_time, None);
}

#[test]
fn restarts_in_place_count_towards_the_limit() {
    let template = json!({
        "metadata": {"labels": {"uid": "J"}},
        "spec": {"restartPolicy": "OnFailure", "containers": [{"name": "c"}]},
    });
    let mut world = World::new(json!({"backoffLimit": 2, "template": template}));
    world.settle();
    let status = |restarts: i32| {
        serde_json::from_value(json!({"phase": "Running", "containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts}]}))
        .unwrap()
    };
    Arc::make_mut(&mut world.pods[0]).status = Some(status(1));
    world.settle();
    assert_eq!(world.counts(), (1, 0, 0));
    Arc::make_mut(&mut world.pods[0]).status = Some(status(2));
    world.settle();
    // The pod that is stopped counts as failed.
    assert_eq!(world.counts(), (0, 0, 1));
    assert!(world.conditions()[1].starts_with("Failed=True BackoffLimitExceeded"));
    assert!(world.pods.is_empty());
}

#[test]
fn a_job_that_takes_too_long_fails_when_its_time_is_up() {
    let mut world = World::new(json!({"activeDeadlineSeconds": 30}));
    world.settle();
    world.wait(10);
    assert_eq!(world.plan().again.unwrap().as_secs(), 20);
    world.wait(20);
    world.settle();
    let because = "DeadlineExceeded: Job was active longer than specified deadline";
    assert_eq!(world.conditions()[1], format!("Failed=True {because}"));
}

#[test]
fn it_is_not_over_before_its_pods_are_gone() {
    let mut world = World::new(json!({"activeDeadlineSeconds": 30}));
    world.settle();
    world.wait(30);
    world.pass();
    assert_eq!(world.status().terminating, Some(1));
    world.pass();
    world.pass();
    assert_eq!(
        world.conditions().len(),
        1,
        "the pod is still on its way out"
    );
    world.settle();
    assert_eq!(world.conditions().len(), 2);
    assert_eq!(world.status().terminating, Some(0));
}

#[test]
fn a_suspended_job_has_no_pods_and_its_time_begins_when_it_goes_on() {
    let mut world = World::new(json!({"suspend": true, "activeDeadlineSeconds": 30}));
    world.settle();
    assert_eq!(world.counts(), (0, 0, 0));
    assert_eq!(world.status().start_time, None);
    assert_eq!(
        world.conditions(),
        ["Suspended=True JobSuspended: Job suspended"]
    );
    world.wait(100);
    world.set("suspend", json!(false));
    world.settle();
    assert_eq!(world.counts(), (1, 0, 0));
    assert_eq!(world.status().start_time.unwrap().0, world.now);
    assert_eq!(
        world.conditions(),
        ["Suspended=False JobResumed: Job resumed"]
    );
    world.set("suspend", json!(true));
    world.settle();
    // Pods that are taken away for that do not count as failed.
    assert_eq!(world.counts(), (0, 0, 0));
    assert!(world.pods.is_empty());
    let events = [
        "Suspended: Job suspended",
        "Resumed: Job resumed",
        "Suspended: Job suspended",
    ];
    assert_eq!(world.events, events);
}

#[test]
fn an_indexed_job_works_on_each_index_until_it_succeeded() {
    let mut world = World::new(json!({
        "completionMode": "Indexed", "completions": 4, "parallelism": 2,
    }));
    let made = world.plan().change.create;
    world.settle();
    assert_eq!(world.indexes(), ["0", "1"]);
    let pod = serde_json::to_value(&made[1]).unwrap();
    assert!(
        pod["metadata"]["name"]
            .as_str()
            .unwrap()
            .starts_with("j-1-")
    );
    assert_eq!(pod["metadata"]["generateName"], "j-1-");
    assert_eq!(pod["spec"]["hostname"], "j-1");
    let index = "batch.kubernetes.io/job-completion-index";
    assert_eq!(pod["metadata"]["annotations"][index], "1");
    let env = json!([{"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {
        "fieldPath": "metadata.labels['batch.kubernetes.io/job-completion-index']"}}}]);
    assert_eq!(pod["spec"]["containers"][0]["env"], env);
    world.end(1, "Succeeded", 0);
    world.settle();
    assert_eq!(world.status().completed_indexes.as_deref(), Some("1"));
    assert_eq!(world.indexes(), ["0", "2"]);
    world.end(0, "Failed", 1);
    world.settle();
    world.wait(10);
    world.settle();
    assert_eq!(
        world.indexes(),
        ["0", "2"],
        "the index that failed is tried again"
    );
    for _ in 0..3 {
        world.end(0, "Succeeded", 0);
        world.settle();
    }
    assert_eq!(world.status().completed_indexes.as_deref(), Some("0-3"));
    assert_eq!(world.counts(), (0, 4, 1));
    assert!(conditions::is_finished(&world.job));
}

#[test]
fn indexes_fail_by_themselves_where_they_have_a_limit_of_their_own() {
    let mut world = World::new(json!({
        "completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "backoffLimitPerIndex": 1, "backoffLimit": i32::MAX,
    }));
    world.settle();
    world.end(0, "Failed", 1);
    world.settle();
    assert_eq!(world.indexes(), ["1", "2"]);
    // The failed pod is kept until its successor knows how often the index failed.
    assert!(world.pods[0].metadata.finalizers.is_some());
    world.wait(10);
    world.settle();
    let count = "batch.kubernetes.io/job-index-failure-count";
    assert_eq!(
        world.pods[3].metadata.annotations.as_ref().unwrap()[count],
        "1"
    );
    assert_eq!(world.counts(), (3, 0, 1));
    let last = world.pods.iter().filter(|pod| pod.status.is_none()).count() - 1;
    world.end(last, "Failed", 1);
    world.settle();
    assert_eq!(world.status().failed_indexes.as_deref(), Some("0"));
    world.end(0, "Succeeded", 0);
    world.end(0, "Succeeded", 0);
    world.settle();
    assert_eq!(world.counts(), (0, 2, 2));
    assert_eq!(
        world.conditions()[1],
        "Failed=True FailedIndexes: Job has failed indexes"
    );
    // With a limit to them, the first one too many ends it all.
    let mut world = World::new(json!({
        "completionMode": "Indexed", "completions": 3, "parallelism": 3, "maxFailedIndexes": 0,
        "backoffLimitPerIndex": 0, "backoffLimit": i32::MAX,
    }));
    world.settle();
    world.end(1, "Failed", 1);
    world.settle();
    assert!(world.conditions()[1].starts_with("Failed=True MaxFailedIndexesExceeded: "));
}

#[test]
fn surplus_and_duplicate_pods_are_taken_away_uncounted() {
    let mut world = World::new(json!({"completions": 9, "parallelism": 3}));
    world.settle();
    world.set("parallelism", json!(1));
    world.settle();
    assert_eq!((world.counts(), world.pods.len()), ((1, 0, 0), 1));
    let mut world = World::new(json!({
        "completionMode": "Indexed", "completions": 2, "parallelism": 2,
    }));
    world.settle();
    let mut twin = (*world.pods[0]).clone();
    twin.metadata.uid = Some("twin".into());
    twin.metadata.name = Some("twin".into());
    world.pods.push(Arc::new(twin));
    world.settle();
    assert_eq!(world.indexes(), ["0", "1"]);
    assert_eq!(world.counts(), (2, 0, 0));
}

#[test]
fn a_pod_that_is_taken_in_is_counted_like_any_other() {
    let mut world = World::new(json!({}));
    let orphan = json!({"metadata": {
        "name": "orphan", "namespace": "d", "uid": "orphan", "labels": {"uid": "J"}}});
    world
        .pods
        .push(Arc::new(serde_json::from_value(orphan).unwrap()));
    let plan = world.pass();
    assert_eq!((plan.claim.adopt.len(), plan.hold.len()), (1, 1));
    let owner = crate::owner::reference(&world.job);
    Arc::make_mut(&mut world.pods[0]).metadata.owner_references = Some(vec![owner]);
    world.settle();
    assert_eq!((world.made, world.counts()), (0, (1, 0, 0)));
    world.end(0, "Succeeded", 0);
    world.settle();
    assert_eq!(world.counts(), (0, 1, 0));
}

#[test]
fn failures_are_judged_by_the_first_rule_that_matches() {
    let policy = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]});
    let mut world = World::new(json!({"podFailurePolicy": policy, "backoffLimit": 0}));
    world.settle();
    world.end(0, "Failed", 137);
    world.settle();
    assert_eq!(world.counts(), (0, 0, 0));
    world.wait(10);
    world.settle();
    assert_eq!(world.counts(), (1, 0, 0));
    let name = world.pods[1].metadata.name.clone().unwrap();
    world.end(0, "Failed", 42);
    world.settle();
    let because = format!(
        "PodFailurePolicy: Container c for pod d/{name} failed with exit code 42 matching FailJob \
         rule at index 0"
    );
    assert_eq!(world.conditions()[1], format!("Failed=True {because}"));
    assert_eq!(world.counts(), (0, 0, 1));
}

#[test]
fn a_success_policy_ends_the_job_early_and_stops_the_rest() {
    let policy = json!({"rules": [{"succeededIndexes": "1-2", "succeededCount": 1}]});
    let mut world = World::new(json!({
        "completionMode": "Indexed", "completions": 3, "parallelism": 3, "successPolicy": policy,
    }));
    world.settle();
    world.end(0, "Succeeded", 0);
    world.settle();
    assert_eq!(world.counts(), (2, 1, 0));
    world.end(1, "Succeeded", 0);
    world.settle();
    assert_eq!(world.counts(), (0, 2, 0));
    let because = "SuccessPolicy: Matched rules at index 0";
    assert_eq!(world.conditions()[1], format!("Complete=True {because}"));
    assert!(
        world.pods.iter().all(|pod| pod.status.is_some()),
        "the third was stopped"
    );
}

#[test]
fn a_terminating_pod_is_replaced_at_once_or_when_it_has_ended() {
    for (policy, made) in [("TerminatingOrFailed", 2), ("Failed", 1)] {
        let mut world = World::new(json!({"podReplacementPolicy": policy}));
        world.settle();
        let pod = Arc::make_mut(&mut world.pods[0]);
        pod.metadata.deletion_timestamp = Some(
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.now),
        );
        world.wait(10);
        world.pass();
        world.pass();
        assert_eq!(world.made, made, "{policy}");
    }
}

#[test]
fn a_queue_of_work_is_done_once_one_pod_says_so_and_all_have_ended() {
    let mut world = World::new(json!({"completions": null, "parallelism": 3}));
    world.settle();
    world.end(0, "Succeeded", 0);
    world.settle();
    assert_eq!(
        world.counts(),
        (2, 1, 0),
        "no more are made, none is stopped"
    );
    world.end(0, "Succeeded", 0);
    world.end(0, "Failed", 1);
    world.settle();
    assert!(conditions::is_finished(&world.job));
    assert_eq!(world.counts(), (0, 2, 1));
}

#[test]
fn nothing_is_added_or_ended_while_the_pods_may_be_old() {
    let mut world = World::new(json!({"completions": 2}));
    let plan = plan::plan(&world.job, &world.pods, true, world.now);
    assert!(plan.change.create.is_empty());
    world.settle();
    world.wait(1000);
    world.set("activeDeadlineSeconds", json!(1));
    let plan = plan::plan(&world.job, &world.pods, true, world.now);
    assert_eq!(plan.change.stop.len(), 1);
    assert_eq!(plan.status.conditions, None);
}
