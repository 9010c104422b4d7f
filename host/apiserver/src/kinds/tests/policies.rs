//! Kinds about pods that run none: budgets, priorities, runtimes, autoscalers.

use serde_json::{Value, json};

use super::{create, rejects, update};

fn budget(spec: Value) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "a"}, "spec": spec})
}

#[test]
fn a_budget_counts_one_way() {
    let made = create(&budget(json!({"minAvailable": "50%"}))).unwrap();
    assert_eq!(
        made["status"],
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
    );
    rejects(
        budget(json!({"minAvailable": 1, "maxUnavailable": "x%"})),
        &[
            "spec: Invalid value: {\"MinAvailable\":1,\"Selector\":null,\"MaxUnavailable\":\"x%\",\
             \"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both \
             set",
            "spec.maxUnavailable: Invalid value: \"x%\": a valid percent string must be a numeric \
             string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is \
             '[0-9]+%')",
        ],
    );
    rejects(
        budget(json!({"minAvailable": -1, "unhealthyPodEvictionPolicy": "Never"})),
        &[
            "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0",
            "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \
             \"AlwaysAllow\", \"IfHealthyBudget\"",
        ],
    );
}

fn class(name: &str, fields: Value) -> Value {
    let mut all = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": name}});
    if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
        all.extend(fields);
    }
    all
}

#[test]
fn a_priority_is_not_that_of_the_system_and_stays() {
    let made = create(&class("p", json!({"value": 5}))).unwrap();
    assert_eq!(made["preemptionPolicy"], "PreemptLowerPriority");
    assert_eq!(made["metadata"]["generation"], 1);
    rejects(
        class("p", json!({"value": 1_000_000_001})),
        &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
    );
    rejects(
        class("system-mine", json!({"value": 5})),
        &[
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved \
           for system use only. error: system-mine is not a known system priority class",
        ],
    );
    rejects(
        class("p", json!({"value": 5, "preemptionPolicy": "Always"})),
        &[
            "preemptionPolicy: Unsupported value: \"Always\": supported values: \
           \"PreemptLowerPriority\", \"Never\"",
        ],
    );
    let said = update(class("p", json!({"value": 5})), |class| {
        class["value"] = json!(6);
        class["preemptionPolicy"] = json!("Never");
        class["description"] = json!("may change");
    });
    assert_eq!(
        said,
        [
            "value: Forbidden: may not be changed in an update.",
            "preemptionPolicy: Invalid value: \"Never\": field is immutable"
        ]
    );
}

#[test]
fn a_runtime_class_names_its_handler() {
    let body = |fields: Value| {
        let mut all = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
            "metadata": {"name": "r"}, "handler": "wasm"});
        if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
            all.extend(fields);
        }
        all
    };
    rejects(body(json!({})), &[]);
    rejects(
        body(json!({"handler": "A b", "overhead": {"podFixed": {"cpu": "-1"}}})),
        &[
            "handler: Invalid value: \"A b\": a lowercase RFC 1123 label must consist of lower \
             case alphanumeric characters or '-', and must start and end with an alphanumeric \
             character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ],
    );
    let said = update(body(json!({})), |class| class["handler"] = json!("oci"));
    assert_eq!(
        said,
        ["handler: Invalid value: \"oci\": field is immutable"]
    );
}

fn scaler(spec: Value) -> Value {
    let mut all = json!({"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}});
    if let (Some(all), Value::Object(spec)) = (all.as_object_mut(), spec) {
        all.extend(spec);
    }
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": all})
}

#[test]
fn an_autoscaler_has_bounds_and_metrics() {
    let made = create(&scaler(json!({}))).unwrap();
    assert_eq!(made["spec"]["minReplicas"], 1);
    assert_eq!(
        made["spec"]["metrics"][0]["resource"]["target"],
        json!({"type": "Utilization", "averageUtilization": 80})
    );
    rejects(
        scaler(json!({"minReplicas": 5, "scaleTargetRef": {"kind": "", "name": "a/b"}})),
        &[
            "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
            "spec.scaleTargetRef.kind: Required value",
            "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'",
            "spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group",
        ],
    );
    rejects(
        scaler(json!({"metrics": [{"type": "Resource"}, {"type": "Wish"},
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]})),
        &[
            "spec.metrics[0].resource: Required value: must populate information for the given \
             metric source",
            "spec.metrics[1].type: Unsupported value: \"Wish\": supported values: \
             \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
            "spec.metrics[1].type: Unsupported value: \"Wish\": supported values: \
             \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
            "spec.metrics[2].resource.target.averageUtilization: Required value: must set either \
             a target raw value or a target utilization",
        ],
    );
}

#[test]
fn an_autoscaler_follows_resources_that_containers_ask_for() {
    let follows = |name: &str| {
        scaler(
            json!({"metrics": [{"type": "ContainerResource", "containerResource": {"name": name,
            "container": "c", "target": {"type": "AverageValue", "averageValue": "1"}}}]}),
        )
    };
    for name in ["cpu", "hugepages-2Mi", "eyot.dev/camera"] {
        create(&follows(name)).unwrap();
    }
    let field = "spec.metrics[0].containerResource.name";
    rejects(
        follows("pods"),
        &[&format!(
            "{field}: Invalid value: \"pods\": must be a standard resource for containers"
        )],
    );
    rejects(
        follows("wish"),
        &[
            &format!(
                "{field}: Invalid value: \"wish\": must be a standard resource type or fully \
                 qualified"
            ),
            &format!(
                "{field}: Invalid value: \"wish\": must be a standard resource for containers"
            ),
        ],
    );
    rejects(
        follows("requests.eyot.dev/camera"),
        &[&format!(
            "{field}: Invalid value: \"requests.eyot.dev/camera\": doesn't follow extended \
             resource name standard"
        )],
    );
}

#[test]
fn versions_that_an_autoscaler_names_are_refused_when_they_are_new() {
    let kind = super::spec("autoscaling/v2", "HorizontalPodAutoscaler").unwrap();
    let changed = |new: &Value, old: &Value| -> Vec<String> {
        let errors = (kind.validate)(new, Some(old));
        errors.iter().map(ToString::to_string).collect()
    };
    let good = create(&scaler(json!({"metrics": [{"type": "Object", "object": {
        "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "s"},
        "metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}}]})))
    .unwrap();
    let described = "/spec/metrics/0/object/describedObject/apiVersion";
    let mut bad = good.clone();
    *bad.pointer_mut(described).unwrap() = json!("a/b/c");
    let detail = "Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c";
    let field = "spec.metrics[0].object.describedObject.apiVersion";
    assert_eq!(changed(&bad, &good), [format!("{field}: {detail}")]);
    let mut more = bad.clone();
    *more.pointer_mut("/spec/maxReplicas").unwrap() = json!(7);
    assert_eq!(changed(&more, &bad), [""; 0]);

    let mut bad = good.clone();
    *bad.pointer_mut("/spec/scaleTargetRef/apiVersion").unwrap() = json!("a/b/c");
    let expected = [format!("spec.scaleTargetRef.apiVersion: {detail}")];
    assert_eq!(changed(&bad, &good), expected);
    assert_eq!(changed(&bad, &bad), [""; 0]);
    // Another version that is wrong is a new one.
    let mut other = bad.clone();
    *other
        .pointer_mut("/spec/scaleTargetRef/apiVersion")
        .unwrap() = json!("a/b/d");
    assert_eq!(changed(&other, &bad).len(), 1);
}

#[test]
fn what_is_told_of_a_budget_is_complete() {
    let kind = super::spec("policy/v1", "PodDisruptionBudget").unwrap();
    let old = create(&budget(json!({"minAvailable": 1}))).unwrap();
    let mut told = old.clone();
    told["status"]["conditions"] = json!([{"type": "x", "status": "Maybe", "reason": "R"}]);
    let errors = (kind.validate_status)(&told, &old);
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \
             \"False\", \"True\", \"Unknown\"",
            "status.conditions[0].lastTransitionTime: Required value: must be set",
        ]
    );
}
