//! `metrics.k8s.io`: what pods and nodes use, as `kubectl top` and autoscalers ask for it.
//!
//! Who asks for a node, a pod or all of them gets what the kubelets concerned last measured, and
//! nothing of those that do not answer. What a kubelet said is good for a moment and for all who ask
//! in it: autoscalers of fifty namespaces are not fifty questions to every node. Whoever wants another source points the
//! APIService `v1beta1.metrics.k8s.io` to it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use eyot_store::{Key, Object};
use futures::{StreamExt, stream};
use http::Request;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    api::Api,
    call::Call,
    crd, custom_metrics,
    object::{self, at, text},
    resource::Resource,
    subresource::ask_node,
};

pub(crate) const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
/// For one kubelet to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Kubelets asked at the same time.
const AT_ONCE: usize = 64;
/// Of what one kubelet says: about a kilobyte for each container.
const LIMIT: usize = 8 << 20;
/// How long what a kubelet said is believed. They measure every ten seconds.
const FRESH: Duration = Duration::from_secs(2);
/// Over how long kubelets measure that do not say it.
const WINDOW: Duration = Duration::from_secs(10);

/// The two resources, and that of [`custom_metrics`]. What is parsed of them is taken over from `before`.
pub(crate) fn resources(before: &[Arc<Resource>]) -> impl Iterator<Item = Resource> {
    let usage = json!({
        "type": "object", "additionalProperties": {
            "anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true,
            "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
        },
        "description": "Processors (cpu) and bytes (memory) in use.",
    });
    let measured = |more: (&str, Value)| {
        let mut properties = json!({
            "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
            "timestamp": {
                "type": "string", "format": "date-time", "description": "When it was measured.",
            },
            "window": {
                "type": "string",
                "description": "Over how long the processor time was measured, up to the timestamp.",
            },
        });
        properties[more.0] = more.1;
        properties
    };
    let containers = json!({
        "type": "array", "description": "The containers that run and were measured.",
        "items": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "usage": usage},
        },
    });
    let columns = |path: &str| {
        json!([
            {"name": "CPU", "type": "string", "jsonPath": format!("{path}.cpu")},
            {"name": "Memory", "type": "string", "jsonPath": format!("{path}.memory")},
            {"name": "Window", "type": "string", "jsonPath": ".window"},
        ])
    };
    let nodes = definition(
        (GROUP, VERSION),
        ["NodeMetrics", "nodes", "Cluster"],
        "What a node uses.",
        measured(("usage", usage.clone())),
        columns(".usage"),
    );
    let pods = definition(
        (GROUP, VERSION),
        ["PodMetrics", "pods", "Namespaced"],
        "What the containers of a pod use.",
        measured(("containers", containers)),
        columns(".containers[*].usage"),
    );
    [nodes, pods, custom_metrics::definition()]
        .into_iter()
        .flat_map(|definition| {
            let json = Bytes::from(definition.to_string());
            crd::resources(&json, 0, &definition, before)
        })
}

/// A definition as of a custom resource, of what is never stored.
pub(crate) fn definition(
    (group, version): (&str, &str),
    [kind, plural, scope]: [&str; 3],
    description: &str,
    properties: Value,
    columns: Value,
) -> Value {
    let names = json!({
        "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": "",
    });
    json!({
        "metadata": {"name": format!("{plural}.{group}"), "generation": 1},
        "spec": {"group": group, "scope": scope, "names": names, "versions": [{
            "name": version, "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {
                "type": "object", "description": description, "properties": properties,
            }},
            "additionalPrinterColumns": columns,
        }]},
        "status": {"acceptedNames": names},
    })
}

/// Whatever a call may mean: the one that it names, or all of its collection.
pub(crate) async fn all(api: &Arc<Api>, call: &Call) -> Vec<Value> {
    match call.resource.kind.as_str() {
        "NodeMetrics" => nodes(api, &call.name).await,
        _ => pods(api, &call.namespace, &call.name).await,
    }
}

/// The stored objects of a resource; those of that namespace and name, where they are not empty.
pub(crate) fn stored(api: &Api, resource: &str, namespace: &str, name: &str) -> Vec<Arc<Object>> {
    if !name.is_empty() {
        let found = api.store.get(&Key::new(resource, namespace, name));
        return found.into_iter().collect();
    }
    let namespace = (!namespace.is_empty()).then_some(namespace);
    api.store
        .list(resource, namespace)
        .objects
        .into_iter()
        .collect()
}

async fn nodes(api: &Arc<Api>, name: &str) -> Vec<Value> {
    let nodes = stored(api, "nodes", "", name);
    let names = nodes.iter().map(|node| node.key.name.to_string()).collect();
    let summaries = summaries(api, names).await;
    let measured = nodes.iter().filter_map(|node| {
        let summary = summaries.get(&*node.key.name)?;
        let (usage, at, window) = usage(summary.get("node")?)?;
        let mut measured = entry("NodeMetrics", node, at, window);
        measured["usage"] = usage;
        Some(measured)
    });
    measured.collect()
}

async fn pods(api: &Arc<Api>, namespace: &str, name: &str) -> Vec<Value> {
    let containers = containers(api, stored(api, "pods", namespace, name)).await;
    let measured = containers.iter().filter_map(|(stored, containers)| {
        let mut all = Vec::new();
        let mut measured: Option<(Timestamp, Duration)> = None;
        for container in containers {
            // A pod of which a part is unknown would look smaller than it is.
            let (usage, at, window) = usage(container)?;
            all.push(json!({"name": text(container, &["name"]), "usage": usage}));
            measured = Some(match measured {
                None => (at, window),
                Some((earliest, longest)) => (earliest.min(at), longest.max(window)),
            });
        }
        let (at, window) = measured?;
        let mut entry = entry("PodMetrics", stored, at, window);
        entry["containers"] = all.into();
        Some(entry)
    });
    measured.collect()
}

/// Of these pods those that were measured, each with what its kubelet says of its containers.
pub(crate) async fn containers(
    api: &Arc<Api>,
    pods: Vec<Arc<Object>>,
) -> Vec<(Arc<Object>, Vec<Value>)> {
    let pods = pods.into_iter().filter_map(|pod| {
        let value: Value = serde_json::from_slice(&pod.json).ok()?;
        let node = text(&value, &["spec", "nodeName"]).to_owned();
        (!node.is_empty()).then(|| (pod, node, object::uid(&value).to_owned()))
    });
    let pods: Vec<_> = pods.collect();
    let mut names: Vec<String> = pods.iter().map(|(_, node, _)| node.clone()).collect();
    names.sort();
    names.dedup();
    let summaries = summaries(api, names).await;
    let mut by_uid: BTreeMap<&str, &Value> = BTreeMap::new();
    for summary in summaries.values() {
        for pod in elements(summary, "pods") {
            by_uid.insert(text(pod, &["podRef", "uid"]), pod);
        }
    }
    let measured = pods.into_iter().filter_map(|(stored, _, uid)| {
        let containers = by_uid.get(uid.as_str())?.get("containers")?.as_array()?;
        Some((stored, containers.clone()))
    });
    measured.collect()
}

/// A metric that kubelets tell of pods whose requests pass through them.
pub(crate) const REQUESTS: &str = "http_requests_total";

/// How many requests each pod has answered since it started, by namespace and name, of the pods
/// that are known to answer any.
pub(crate) async fn requests(api: &Arc<Api>) -> BTreeMap<(String, String), u64> {
    let nodes = stored(api, "nodes", "", "");
    let names = nodes.iter().map(|node| node.key.name.to_string()).collect();
    let mut found = BTreeMap::new();
    for summary in summaries(api, names).await.values() {
        for pod in elements(summary, "pods") {
            let metrics =
                elements(pod, "containers").flat_map(|c| elements(c, "userDefinedMetrics"));
            let counts = metrics
                .filter(|metric| text(metric, &["name"]) == REQUESTS)
                .filter_map(|metric| metric.get("value")?.as_u64());
            if let Some(count) = counts.reduce(u64::saturating_add) {
                let part = |key| text(pod, &["podRef", key]).to_owned();
                found.insert((part("namespace"), part("name")), count);
            }
        }
    }
    found
}

fn elements<'a>(of: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    of.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// What a part of a summary says is used, when that was measured, and over how long. `None` before
/// processor time was measured twice.
fn usage(of: &Value) -> Option<(Value, Timestamp, Duration)> {
    let number = |path: &[&str]| at(of, path).and_then(Value::as_u64);
    let cpu = number(&["cpu", "usageNanoCores"])?;
    let memory = number(&["memory", "workingSetBytes"])?;
    let at = text(of, &["cpu", "time"]).parse().ok()?;
    let window = number(&["cpu", "windowNanoSeconds"]).map_or(WINDOW, Duration::from_nanos);
    // As metrics-server writes them.
    let usage = json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024)});
    Some((usage, at, window))
}

fn entry(kind: &str, of: &Object, at: Timestamp, window: Duration) -> Value {
    let mut metadata = json!({
        "name": &*of.key.name, "creationTimestamp": object::timestamp(Timestamp::now()),
    });
    if !of.key.namespace.is_empty() {
        metadata["namespace"] = json!(&*of.key.namespace);
    }
    if !of.labels.is_empty() {
        let labels = of
            .labels
            .iter()
            .map(|(key, value)| (key.to_owned(), json!(value)));
        metadata["labels"] = Value::Object(labels.collect());
    }
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind, "metadata": metadata,
        "timestamp": object::timestamp(at),
        "window": format!("{:.3}s", window.as_secs_f64()),
    })
}

/// What the kubelets of these nodes say, of those that answer.
async fn summaries(api: &Arc<Api>, nodes: Vec<String>) -> BTreeMap<String, Arc<Value>> {
    let asked = stream::iter(nodes).map(|node| async move {
        if let Some(known) = api.summaries.get(&node) {
            return Some((node, known));
        }
        let summary = Arc::new(summary(api, &node).await?);
        api.summaries.put(&node, summary.clone());
        Some((node, summary))
    });
    let answers = asked.buffer_unordered(AT_ONCE);
    answers
        .filter_map(|answer| async { answer })
        .collect()
        .await
}

/// What kubelets said a moment ago, by node.
#[derive(Default)]
pub(crate) struct Summaries(Arc<Mutex<HashMap<String, Heard>>>);

/// When a kubelet was heard, and what it said.
type Heard = (Instant, Arc<Value>);

impl Summaries {
    fn get(&self, node: &str) -> Option<Arc<Value>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, summary) = known.get(node)?;
        (since.elapsed() < FRESH).then(|| summary.clone())
    }

    fn put(&self, node: &str, summary: Arc<Value>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The first clears up after all, so that nothing is held while nobody asks.
        if known.is_empty() {
            let all = self.0.clone();
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(FRESH).await;
                    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                    all.retain(|_, (since, _)| since.elapsed() < FRESH);
                    if all.is_empty() {
                        return all.shrink_to_fit();
                    }
                }
            });
        }
        known.insert(node.to_owned(), (Instant::now(), summary));
    }
}

async fn summary(api: &Arc<Api>, node: &str) -> Option<Value> {
    let kubelet = api.options.nodes.kubelet(node)?;
    let request = Request::get("/stats/summary")
        .body(eyot_http::empty())
        .ok()?;
    let exchange = async {
        let response = ask_node(kubelet, request).await;
        if !response.status().is_success() {
            return None;
        }
        eyot_http::collect(response.into_body(), LIMIT).await.ok()
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.ok()??;
    serde_json::from_slice(&answer).ok()
}
