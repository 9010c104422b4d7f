//! The cells of `kubectl get hpa`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    kinds::json::{at, has, int, list, text},
    table,
};

/// Metrics that are shown; of the rest the number.
const SHOWN: usize = 2;

pub(super) fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let target = at(object, "/spec/scaleTargetRef");
    let least = match at(object, "/spec/minReplicas").as_i64() {
        Some(count) => count.to_string(),
        None => "<unset>".to_owned(),
    };
    vec![
        json!(text(object, "/metadata/name")),
        json!(format!(
            "{}/{}",
            text(target, "/kind"),
            text(target, "/name")
        )),
        json!(targets(object)),
        json!(least),
        json!(int(object, "/spec/maxReplicas")),
        json!(int(object, "/status/currentReplicas")),
        table::age(object, now),
    ]
}

fn targets(object: &Value) -> String {
    let metrics = list(object, "/spec/metrics");
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let statuses = list(object, "/status/currentMetrics");
    let shown: Vec<String> = metrics
        .iter()
        .enumerate()
        .take(SHOWN)
        .map(|(index, metric)| target(metric, statuses.get(index).unwrap_or(&Value::Null)))
        .collect();
    let shown = shown.join(", ");
    match metrics.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

fn target(metric: &Value, status: &Value) -> String {
    let source = match text(metric, "/type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (metric, status) = (
        at(metric, &format!("/{source}")),
        at(status, &format!("/{source}")),
    );
    let current = |name: &str| match at(status, &format!("/current/{name}")) {
        Value::String(text) => text.clone(),
        Value::Number(percent) => format!("{percent}%"),
        _ => "<unknown>".to_owned(),
    };
    let average = text(metric, "/target/averageValue");
    match source {
        "pods" => format!("{}/{average}", current("averageValue")),
        "external" | "object" if has(metric, "/target/averageValue") => {
            format!("{}/{average} (avg)", current("averageValue"))
        }
        "external" | "object" => format!("{}/{}", current("value"), text(metric, "/target/value")),
        _ => {
            let name = text(metric, "/name");
            if has(metric, "/target/averageValue") {
                return format!("{name}: {}/{average}", current("averageValue"));
            }
            let wanted = match at(metric, "/target/averageUtilization").as_i64() {
                Some(percent) => format!("{percent}%"),
                None => "<auto>".to_owned(),
            };
            format!("{name}: {}/{wanted}", current("averageUtilization"))
        }
    }
}
