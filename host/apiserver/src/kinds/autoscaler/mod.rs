//! HorizontalPodAutoscaler: follows a load by changing how many pods there are.
//!
//! Stored as `autoscaling/v2`. Version 1 knows the processor's load alone; what else there is
//! travels in annotations there, so that nothing is lost on the way there and back.

mod convert;
mod print;
mod validate;

use serde_json::{Value, json};

use super::{
    Face, KindSpec, check,
    json::{child, fill, list, remove},
    status_only,
};
use crate::table::Column;

const V1: &str = "autoscaling/v1";
const V2: &str = "autoscaling/v2";
const KIND: &str = "HorizontalPodAutoscaler";

pub(super) const SPEC: KindSpec = KindSpec {
    group: "autoscaling",
    version: "v2",
    kind: KIND,
    list_kind: "HorizontalPodAutoscalerList",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    status: true,
    decode: |value| check(V2, KIND, value),
    default,
    prepare,
    validate: validate::validate,
    validate_status: validate::status,
    columns: &[
        Column::name(),
        Column::new("Reference", "What is scaled."),
        Column::new("Targets", "Each metric as it is, and as it should be."),
        Column::new("MinPods", "Fewest pods that are kept."),
        Column::new("MaxPods", "Most pods that are made."),
        Column::new("Replicas", "Pods that there are."),
        Column::age(),
    ],
    cells: print::cells,
    faces: &[Face {
        group: "autoscaling",
        version: "v1",
        decode: |value| check(V1, KIND, value),
        default: |object| {
            fill(child(object, "spec"), "minReplicas", 1);
            let status = child(object, "status");
            fill(status, "currentReplicas", 0);
            fill(status, "desiredReplicas", 0);
        },
        to_stored: convert::to_v2,
        from_stored: convert::to_v1,
        fields: &[
            ("metadata.name", "metadata.name"),
            ("metadata.namespace", "metadata.namespace"),
        ],
        validate: None,
    }],
    ..KindSpec::PLAIN
};

/// How far the processors of the pods are loaded where nothing is said, in percent.
const DEFAULT_LOAD: i64 = 80;

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "minReplicas", 1);
    if list(spec, "/metrics").is_empty() {
        remove(spec, "metrics");
        fill(spec, "metrics", json!([processor_load(DEFAULT_LOAD)]));
    }
    if let Some(behavior) = spec.get_mut("behavior").filter(|one| one.is_object()) {
        let up = child(behavior, "scaleUp");
        fill(up, "stabilizationWindowSeconds", 0);
        fill(up, "selectPolicy", "Max");
        let policies = json!([
            {"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15},
        ]);
        fill(up, "policies", policies);
        let down = child(behavior, "scaleDown");
        fill(down, "selectPolicy", "Max");
        let policies = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
        fill(down, "policies", policies);
    }
    let status = child(object, "status");
    fill(status, "desiredReplicas", 0);
    fill(status, "currentMetrics", Value::Null);
}

/// The metric that keeps the pods' processors at this load.
fn processor_load(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {
        "name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent},
    }})
}

fn prepare(object: &mut Value, old: Option<&Value>) {
    status_only(object, old);
    let status = child(object, "status");
    fill(status, "desiredReplicas", 0);
    fill(status, "currentMetrics", Value::Null);
}
