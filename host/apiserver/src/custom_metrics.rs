//! `custom.metrics.k8s.io`: the requests per second that Wasm servers get, by which autoscalers
//! scale them.
//!
//! There is one metric, `pods/http_requests_per_second`, of pods that this system's own runtime
//! serves; it comes from what kubelets say beside [`usage`]. Whoever has metrics of other kinds
//! points the APIService `v1beta2.custom.metrics.k8s.io` to an adapter, which then answers for all.

use std::{sync::Arc, time::Duration};

use eyot_http::Response;
use form_urlencoded::parse;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::Api,
    call::Call,
    failure::Failure,
    object::{self, at, text},
    quantity::Quantity,
    selector::LabelSelector,
    usage,
};

pub(crate) const GROUP: &str = "custom.metrics.k8s.io";
const VERSION: &str = "v1beta2";
/// The metric, as kubelets and clients name it.
pub(crate) const REQUESTS: &str = "http_requests_per_second";
/// Stands for all pods of the namespace.
const ALL: &str = "*";

/// As of a custom resource whose objects only their metrics are served of.
pub(crate) fn definition() -> Value {
    let value = json!({
        "type": "object",
        "properties": {
            "describedObject": {"type": "object", "description": "What it was measured of."},
            "metric": {"type": "object", "description": "The name of the metric."},
            "timestamp": {"type": "string", "format": "date-time"},
            "windowSeconds": {
                "type": "integer", "format": "int64",
                "description": "Over how long it was measured, up to the timestamp.",
            },
            "value": {"type": "string", "description": "What was measured, as a quantity."},
        },
    });
    let properties = json!({
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
        "items": {"type": "array", "items": value},
    });
    usage::definition(
        (GROUP, VERSION),
        ["MetricValueList", "pods", "Namespaced"],
        "What was measured of objects.",
        properties,
        json!([]),
    )
}

/// A metric of the pod that a call names, or of all that it selects.
pub(crate) async fn answer(
    api: &Arc<Api>,
    method: &Method,
    call: &Call,
    metric: &str,
    query: &str,
) -> Result<Response, Failure> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Failure::method_not_allowed());
    }
    if metric != REQUESTS {
        let message = format!("the server could not find the metric {metric} for pods");
        return Err(Failure::metric_not_found(message));
    }
    let filter = call.filter()?;
    let all = call.name == ALL;
    let name = if all { "" } else { &call.name };
    let mut pods = usage::stored(api, "pods", &call.namespace, name);
    pods.retain(|pod| filter.labels.matches(&pod.labels));
    // The metric has no labels of its own.
    if !of_metric(query)?.matches_json(&Value::Null) {
        pods.clear();
    }
    let measured = usage::containers(api, pods).await;
    let items: Vec<Value> = measured
        .iter()
        .filter_map(|(pod, containers)| {
            let described = json!({
                "kind": "Pod", "namespace": &*pod.key.namespace, "name": &*pod.key.name,
                "apiVersion": "v1",
            });
            item(containers, described)
        })
        .collect();
    if items.is_empty() && !all {
        let name = &call.name;
        let message = format!("the server could not find the metric {metric} for pods {name}");
        return Err(Failure::metric_not_found(message));
    }
    let list = json!({
        "kind": "MetricValueList", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {},
        "items": items,
    });
    Ok(eyot_http::json(StatusCode::OK, &list))
}

fn of_metric(query: &str) -> Result<LabelSelector, Failure> {
    let selector = parse(query.as_bytes()).find(|(name, _)| name == "metricLabelSelector");
    let text = selector.map_or_else(String::new, |(_, value)| value.into_owned());
    LabelSelector::parse(&text).map_err(|error| Failure::bad_request(error.to_string()))
}

/// What the containers of a pod were asked together; `None` if none of them was measured.
fn item(containers: &[Value], described: Value) -> Option<Value> {
    let measured = containers.iter().filter_map(|container| {
        let metrics = at(container, &["userDefinedMetrics"])?.as_array()?;
        let found = metrics
            .iter()
            .find(|one| text(one, &["name"]) == REQUESTS)?;
        let value = found.get("value")?.as_f64()?;
        let time: Timestamp = text(found, &["time"]).parse().ok()?;
        let window = found.get("windowNanoSeconds").and_then(Value::as_u64);
        Some((value, time, Duration::from_nanos(window.unwrap_or(0))))
    });
    let (value, time, window) = measured.reduce(|a, b| (a.0 + b.0, a.1.min(b.1), a.2.max(b.2)))?;
    let value: Quantity = format!("{:.0}m", value * 1_000.0).parse().ok()?;
    Some(json!({
        "describedObject": described, "metric": {"name": REQUESTS, "selector": null},
        "timestamp": object::timestamp(time), "windowSeconds": window.as_secs().max(1),
        "value": value.to_string(),
    }))
}
