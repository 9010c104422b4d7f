//! Between `autoscaling/v2` and `autoscaling/v1`.

use serde_json::{Value, json};

use super::{DEFAULT_LOAD, processor_load};
use crate::kinds::json::{at, child, has, int, list, remove, text};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// What a source is called, and where each of its values stands in version 1 and in version 2.
type Moves = &'static [(&'static str, &'static str)];

const SOURCES: [(&str, Moves); 5] = [
    (
        "object",
        &[
            ("/target", "/describedObject"),
            ("/metricName", "/metric/name"),
            ("/selector", "/metric/selector"),
            ("/targetValue", "/target/value"),
            ("/averageValue", "/target/averageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("/metricName", "/metric/name"),
            ("/selector", "/metric/selector"),
            ("/targetAverageValue", "/target/averageValue"),
        ],
    ),
    ("resource", RESOURCE),
    ("containerResource", RESOURCE),
    (
        "external",
        &[
            ("/metricName", "/metric/name"),
            ("/metricSelector", "/metric/selector"),
            ("/targetValue", "/target/value"),
            ("/targetAverageValue", "/target/averageValue"),
        ],
    ),
];

const RESOURCE: Moves = &[
    ("/name", "/name"),
    ("/container", "/container"),
    ("/targetAverageUtilization", "/target/averageUtilization"),
    ("/targetAverageValue", "/target/averageValue"),
];

const STATUSES: [(&str, Moves); 5] = [
    (
        "object",
        &[
            ("/target", "/describedObject"),
            ("/metricName", "/metric/name"),
            ("/selector", "/metric/selector"),
            ("/currentValue", "/current/value"),
            ("/averageValue", "/current/averageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("/metricName", "/metric/name"),
            ("/selector", "/metric/selector"),
            ("/currentAverageValue", "/current/averageValue"),
        ],
    ),
    ("resource", RESOURCE_STATUS),
    ("containerResource", RESOURCE_STATUS),
    (
        "external",
        &[
            ("/metricName", "/metric/name"),
            ("/metricSelector", "/metric/selector"),
            ("/currentValue", "/current/value"),
            ("/currentAverageValue", "/current/averageValue"),
        ],
    ),
];

const RESOURCE_STATUS: Moves = &[
    ("/name", "/name"),
    ("/container", "/container"),
    ("/currentAverageUtilization", "/current/averageUtilization"),
    ("/currentAverageValue", "/current/averageValue"),
];

/// The processor's load, which version 1 has a field for.
fn load(metric: &Value, percent: &str) -> Option<i64> {
    (text(metric, "/type") == "Resource" && text(metric, "/resource/name") == "cpu")
        .then(|| at(metric, percent).as_i64())
        .flatten()
}

pub(super) fn to_v1(object: &mut Value) {
    let mut annotations: Vec<(&str, Value)> = Vec::new();
    let spec = child(object, "spec");
    let metrics = list(spec, "/metrics");
    let is_load = |one: &&Value| load(one, "/resource/target/averageUtilization").is_some();
    let others: Vec<Value> = metrics
        .iter()
        .filter(|one| !is_load(one))
        .map(|one| moved(one, &SOURCES, false))
        .collect();
    let percent = metrics
        .iter()
        .find(|one| text(one, "/resource/name") == "cpu" && text(one, "/type") == "Resource")
        .and_then(|one| load(one, "/resource/target/averageUtilization"));
    if !others.is_empty() {
        annotations.push((METRICS, others.into()));
    }
    if has(spec, "/behavior") {
        annotations.push((BEHAVIOR, at(spec, "/behavior").clone()));
    }
    remove(spec, "metrics");
    remove(spec, "behavior");
    if let (Some(percent), Value::Object(spec)) = (percent, spec) {
        spec.insert("targetCPUUtilizationPercentage".to_owned(), percent.into());
    }
    let status = child(object, "status");
    let current = list(status, "/currentMetrics");
    let percent = current
        .iter()
        .filter_map(|one| load(one, "/resource/current/averageUtilization"))
        .next_back();
    if !current.is_empty() {
        let current = current.iter().map(|one| moved(one, &STATUSES, false));
        annotations.push((CURRENT, current.collect()));
    }
    if !list(status, "/conditions").is_empty() {
        annotations.push((CONDITIONS, at(status, "/conditions").clone()));
    }
    remove(status, "currentMetrics");
    remove(status, "conditions");
    if let Value::Object(status) = status {
        status.entry("currentReplicas").or_insert_with(|| 0.into());
        if let Some(percent) = percent {
            status.insert("currentCPUUtilizationPercentage".to_owned(), percent.into());
        }
    }
    drop_annotations(object);
    if !annotations.is_empty() {
        let kept = child(child(object, "metadata"), "annotations");
        for (name, value) in annotations {
            kept[name] = value.to_string().into();
        }
    }
}

pub(super) fn to_v2(object: &mut Value) {
    let saved = |name: &str| -> Option<Value> {
        let text = object.get("metadata")?.get("annotations")?.get(name)?;
        serde_json::from_str(text.as_str()?).ok()
    };
    let metrics = saved(METRICS);
    let (current, conditions, behavior) = (saved(CURRENT), saved(CONDITIONS), saved(BEHAVIOR));
    drop_annotations(object);
    let spec = child(object, "spec");
    let mut all: Vec<Value> = list(metrics.as_ref().unwrap_or(&Value::Null), "")
        .iter()
        .map(|one| moved(one, &SOURCES, true))
        .collect();
    if has(spec, "/targetCPUUtilizationPercentage") {
        all.push(processor_load(int(spec, "/targetCPUUtilizationPercentage")));
    } else if all.is_empty() {
        all.push(processor_load(DEFAULT_LOAD));
    }
    remove(spec, "targetCPUUtilizationPercentage");
    spec["metrics"] = all.into();
    if let Some(behavior) = behavior.filter(Value::is_object) {
        spec["behavior"] = behavior;
    }
    let status = child(object, "status");
    let percent = at(status, "/currentCPUUtilizationPercentage").as_i64();
    remove(status, "currentCPUUtilizationPercentage");
    if status.get("currentReplicas") == Some(&json!(0)) {
        remove(status, "currentReplicas");
    }
    status["currentMetrics"] = match (current, percent) {
        (Some(Value::Array(all)), _) => all.iter().map(|one| moved(one, &STATUSES, true)).collect(),
        (_, Some(percent)) => json!([{"type": "Resource", "resource": {
            "name": "cpu", "current": {"averageUtilization": percent},
        }}]),
        _ => Value::Null,
    };
    if let Some(conditions) = conditions.filter(Value::is_array) {
        status["conditions"] = conditions;
    }
}

fn drop_annotations(object: &mut Value) {
    let metadata = child(object, "metadata");
    let Some(Value::Object(annotations)) = metadata.get_mut("annotations") else {
        return;
    };
    for name in [METRICS, CURRENT, CONDITIONS, BEHAVIOR] {
        annotations.remove(name);
    }
    if annotations.is_empty() {
        remove(metadata, "annotations");
    }
}

/// One metric with its values where the other version has them.
fn moved(metric: &Value, sources: &[(&'static str, Moves)], to_v2: bool) -> Value {
    let mut out = json!({"type": at(metric, "/type")});
    for (source, moves) in sources {
        let Some(from) = metric.get(source).filter(|one| one.is_object()) else {
            continue;
        };
        let mut to = json!({});
        for (v1, v2) in *moves {
            let (here, there) = if to_v2 { (v1, v2) } else { (v2, v1) };
            match at(from, here) {
                Value::Null => {}
                value => place(&mut to, there, value.clone()),
            }
        }
        if to_v2 && !has(&to, "/current") && !has(&to, "/target/type") {
            let kind = target_type(source, &to);
            if !kind.is_empty() {
                place(&mut to, "/target/type", kind.into());
            }
        }
        out[*source] = to;
    }
    out
}

/// Version 1 has no field for it: which of the values is given says it.
fn target_type(source: &str, v2: &Value) -> &'static str {
    let given = |name: &str| has(v2, &format!("/target/{name}"));
    match source {
        _ if !has(v2, "/target") => "",
        "resource" | "containerResource" if given("averageUtilization") => "Utilization",
        "object" if !given("averageValue") => "Value",
        "external" if given("value") => "Value",
        _ => "AverageValue",
    }
}

fn place(object: &mut Value, pointer: &str, value: Value) {
    let pointer = pointer.trim_start_matches('/');
    match pointer.split_once('/') {
        Some((key, rest)) => place(child(object, key), rest, value),
        None => *child(object, pointer) = value,
    }
}
