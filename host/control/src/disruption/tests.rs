use std::sync::Arc;

use eyot_client::view::Pod;
use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::plan::{self, Plan};

fn budget(spec: Value, disrupted: Value) -> PodDisruptionBudget {
    serde_json::from_value(json!({
        "metadata": {"name": "b", "namespace": "d", "generation": 3},
        "spec": spec, "status": {"disruptedPods": disrupted},
    }))
    .unwrap()
}

fn pods(ready: usize, unready: usize) -> Vec<Arc<Pod>> {
    let pod = |n: usize| {
        let status = if n < ready { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {"name": format!("p{n}")},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        }))
        .unwrap()
    };
    (0..ready + unready).map(|n| Arc::new(pod(n))).collect()
}

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

/// Allowed, healthy, desired, expected; and the condition.
fn told(plan: &Plan) -> (i32, i32, i32, i32, String) {
    let status = &plan.status;
    let condition = &status.conditions.as_ref().unwrap()[0];
    (
        status.disruptions_allowed.unwrap(),
        status.current_healthy.unwrap_or(-1),
        status.desired_healthy.unwrap_or(-1),
        status.expected_pods.unwrap_or(-1),
        format!("{} {}", condition.status, condition.reason),
    )
}

#[track_caller]
fn check(spec: Value, pods: &[Arc<Pod>], scale: i32, expected: (i32, i32, i32, i32)) {
    let plan = plan::plan(&budget(spec, Value::Null), pods, Ok(scale), now());
    let (allowed, healthy, desired, count) = expected;
    let condition = match allowed > 0 {
        true => "True SufficientPods",
        false => "False InsufficientPods",
    };
    assert_eq!(
        told(&plan),
        (allowed, healthy, desired, count, condition.to_owned())
    );
    assert_eq!(plan.status.observed_generation, Some(3));
}

#[test]
fn a_budget_allows_what_is_healthy_beyond_what_must_be() {
    check(json!({"minAvailable": 2}), &pods(3, 0), 0, (1, 3, 2, 3));
    check(json!({"minAvailable": 2}), &pods(2, 1), 0, (0, 2, 2, 3));
    check(json!({"minAvailable": "50%"}), &pods(5, 0), 5, (2, 5, 3, 5));
    check(json!({"maxUnavailable": 1}), &pods(3, 0), 3, (1, 3, 2, 3));
    check(json!({"maxUnavailable": 1}), &pods(2, 1), 3, (0, 2, 2, 3));
    check(
        json!({"maxUnavailable": "30%"}),
        &pods(7, 0),
        7,
        (3, 7, 4, 7),
    );
    check(json!({"maxUnavailable": 9}), &pods(3, 0), 3, (3, 3, 0, 3));
    check(json!({"minAvailable": 0}), &[], 0, (0, 0, 0, 0));
}

#[test]
fn granted_evictions_count_as_done_for_two_minutes() {
    let granted = json!({"p0": "2026-01-01T00:09:00Z", "p1": "2026-01-01T00:07:00Z",
                         "gone": "2026-01-01T00:09:00Z"});
    let plan = plan::plan(
        &budget(json!({"minAvailable": 1}), granted),
        &pods(3, 0),
        Ok(0),
        now(),
    );
    assert_eq!(plan.status.current_healthy, Some(2));
    let left: Vec<_> = plan
        .status
        .disrupted_pods
        .as_ref()
        .unwrap()
        .keys()
        .collect();
    assert_eq!(left, ["p0"]);
    assert_eq!(plan.again.unwrap().as_secs(), 60);
    assert_eq!(plan.stayed[0].metadata.name.as_deref(), Some("p1"));
}

#[test]
fn nothing_is_allowed_while_nothing_is_known_and_nothing_is_written_twice() {
    let mut budget = budget(json!({"maxUnavailable": 1}), Value::Null);
    let plan = plan::plan(&budget, &pods(3, 0), Err("why".into()), now());
    assert_eq!(
        (told(&plan).0, told(&plan).4),
        (0, "False SyncFailed".to_owned())
    );
    let first = plan::plan(&budget, &pods(3, 0), Ok(3), now());
    budget.status = Some(first.status.clone());
    let later = now() + jiff::SignedDuration::from_secs(60);
    let second = plan::plan(&budget, &pods(3, 0), Ok(3), later);
    assert_eq!(second.status, first.status);
}
