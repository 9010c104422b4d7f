use serde_json::{Value, json};

use super::{Limit, compile, default, of_claim, of_containers};
use crate::admission::resources::{Which, of_spec};

fn limits(limit: Value) -> Vec<Limit> {
    let range = json!({"metadata": {"namespace": "n"}, "spec": {"limits": [limit]}});
    compile(&[range]).remove("n").unwrap().remove(0)
}

fn pod(resources: Value) -> Value {
    json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
}

#[track_caller]
fn check(limit: Value, resources: Value, expected: &[&str]) {
    let limits = limits(limit);
    assert_eq!(of_containers(&limits[0], &pod(resources)), expected);
}

#[test]
fn containers_stay_between_the_least_and_the_most() {
    let min = json!({"type": "Container", "min": {"cpu": "100m"}});
    check(min.clone(), json!({"requests": {"cpu": "100m"}}), &[]);
    check(
        min.clone(),
        json!({"requests": {"cpu": "50m"}}),
        &["minimum cpu usage per Container is 100m, but request is 50m"],
    );
    check(
        min.clone(),
        json!({}),
        &["minimum cpu usage per Container is 100m.  No request is specified"],
    );
    let max = json!({"type": "Container", "max": {"cpu": "1", "memory": "1Gi"}});
    check(
        max.clone(),
        json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}}),
        &["maximum cpu usage per Container is 1, but limit is 2"],
    );
    check(
        max,
        json!({"limits": {"cpu": "500m"}}),
        &["maximum memory usage per Container is 1Gi.  No limit is specified"],
    );
}

#[test]
fn a_limit_is_no_more_than_so_many_times_the_request() {
    let ratio = json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}});
    let both = |request: &str, limit: &str| json!({"requests": {"cpu": request}, "limits": {"cpu": limit}});
    check(ratio.clone(), both("100m", "200m"), &[]);
    check(
        ratio.clone(),
        both("100m", "250m"),
        &["cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000"],
    );
    check(
        ratio.clone(),
        both("0", "250m"),
        &[
            "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
        ],
    );
    check(
        ratio,
        json!({"requests": {"cpu": "1"}}),
        &[
            "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
        ],
    );
}

#[test]
fn claims_are_held_by_what_they_request() {
    let limits = limits(json!({
        "type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"},
    }));
    let claim = |storage: &str| json!({"spec": {"resources": {"requests": {"storage": storage}}}});
    assert!(of_claim(&limits[0], &claim("1Gi")).is_empty());
    assert_eq!(
        of_claim(&limits[0], &claim("3Gi")),
        ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
    );
    assert_eq!(
        of_claim(&limits[0], &claim("1Mi")),
        ["minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"]
    );
}

#[test]
fn what_containers_leave_out_is_filled_in_and_told() {
    let limits = limits(json!({
        "type": "Container", "default": {"cpu": "200m", "memory": "64Mi"},
        "defaultRequest": {"cpu": "100m", "memory": "32Mi"},
    }));
    let mut pod = pod(json!({"requests": {"cpu": "1"}}));
    pod["spec"]["initContainers"] = json!([{"name": "i"}]);
    assert!(default(&limits, &mut pod));
    assert_eq!(
        pod["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "1", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}})
    );
    assert_eq!(
        pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: memory request for container c; cpu, memory limit for container \
         c; cpu, memory request for init container i; cpu, memory limit for init container i"
    );
    assert_eq!(of_spec(&pod, Which::Limits)["memory"].to_string(), "64Mi");
    assert!(!default(&limits, &mut pod), "nothing is left to be filled");
}
