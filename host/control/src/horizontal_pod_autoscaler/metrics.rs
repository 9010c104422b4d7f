//! What the APIs of metrics say: `metrics.k8s.io`, `custom.metrics.k8s.io` and
//! `external.metrics.k8s.io`, whoever serves them. What fails is told in Kubernetes' words.

use std::time::Duration;

use form_urlencoded::Serializer;
use jiff::Timestamp;
use k8s_openapi::{
    api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier},
    apimachinery::pkg::apis::meta::v1::{APIGroup, LabelSelector},
};
use kube::{
    Client,
    api::{ApiResource, GroupVersionKind},
    core::Selector,
    discovery::oneshot,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::replicas::{Sample, Samples};
use crate::{error::said, scheduler::quantity};

const CUSTOM: &str = "custom.metrics.k8s.io";
/// What is understood of it.
const VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];
/// Over how long something was measured that does not say it.
const WINDOW: Duration = Duration::from_secs(60);

pub(super) struct Metrics<'a> {
    pub(super) client: &'a Client,
    pub(super) namespace: &'a str,
    /// Of the pods, as text.
    pub(super) selector: &'a str,
}

impl Metrics<'_> {
    /// What the pods, or the container of that name in each, use of a resource.
    pub(super) async fn resource(
        &self,
        resource: &str,
        container: Option<&str>,
    ) -> Result<Samples, String> {
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods",
            self.namespace
        );
        let list = self.get(&path, &[("labelSelector", self.selector)]).await;
        let list = list.map_err(|error| {
            format!(
                "unable to fetch metrics from resource metrics API: {}",
                said(&error)
            )
        })?;
        let items = items(&list);
        if items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        Ok(items
            .iter()
            .filter_map(|pod| used(pod, resource, container))
            .collect())
    }

    /// A metric of each of the pods.
    pub(super) async fn pods(&self, metric: &MetricIdentifier) -> Result<Samples, String> {
        let list = self
            .custom("pods/*", metric, &[("labelSelector", self.selector)])
            .await?;
        let items = items(&list);
        if items.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        let samples = items.iter().map(|item| {
            let name = text(item, "/describedObject/name").to_owned();
            let window = item.get("windowSeconds").and_then(Value::as_u64);
            let sample = Sample {
                value: value(item)?,
                at: at(item),
                window: window.map_or(WINDOW, Duration::from_secs),
            };
            Ok((name, sample))
        });
        samples.collect()
    }

    /// A metric of one object.
    pub(super) async fn object(
        &self,
        described: &CrossVersionObjectReference,
        metric: &MetricIdentifier,
    ) -> Result<i64, String> {
        let version = described.api_version.as_deref().unwrap_or_default();
        let path = match (version, described.kind.as_str()) {
            // Whatever its name: nobody looks out of his own.
            ("v1" | "", "Namespace") => "metrics".to_owned(),
            (version, kind) => {
                let found = resource(self.client, version, kind).await?;
                let plural = match found.group.as_str() {
                    "" => found.plural,
                    group => format!("{}.{group}", found.plural),
                };
                format!("{plural}/{}", escape(&described.name))
            }
        };
        let list = self.custom(&path, metric, &[]).await?;
        match items(&list) {
            [one] => value(one),
            others => Err(format!(
                "unable to fetch metrics from custom metrics API: the custom metrics API server \
                 returned {} results when we asked for exactly one",
                others.len()
            )),
        }
    }

    /// All values of a metric that is about nothing in the cluster.
    pub(super) async fn external(&self, metric: &MetricIdentifier) -> Result<Vec<i64>, String> {
        let path = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{}",
            self.namespace,
            escape(&metric.name)
        );
        let selector = selector(metric.selector.as_ref())?;
        let list = self.get(&path, &[("labelSelector", &selector)]).await;
        let list = list.map_err(|error| {
            format!(
                "unable to fetch metrics from external metrics API: {}",
                said(&error)
            )
        })?;
        match items(&list) {
            [] => Err("no metrics returned from external metrics API".to_owned()),
            items => items.iter().map(value).collect(),
        }
    }

    async fn custom(
        &self,
        of: &str,
        metric: &MetricIdentifier,
        query: &[(&str, &str)],
    ) -> Result<Value, String> {
        let failed = |error: &dyn std::fmt::Display| {
            format!("unable to fetch metrics from custom metrics API: {error}")
        };
        let version = self
            .custom_version()
            .await
            .map_err(|error| failed(&error))?;
        let path = format!(
            "/apis/{CUSTOM}/{version}/namespaces/{}/{of}/{}",
            self.namespace,
            escape(&metric.name)
        );
        let of_metric = selector(metric.selector.as_ref())?;
        let mut query = query.to_vec();
        query.push(("metricLabelSelector", &of_metric));
        let list = self.get(&path, &query).await;
        list.map_err(|error| failed(&said(&error)))
    }

    /// The version that whoever serves custom metrics likes best of those that are understood.
    async fn custom_version(&self) -> Result<&'static str, String> {
        let group: APIGroup = match self.request(&format!("/apis/{CUSTOM}")).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return Err(format!("no custom metrics API ({CUSTOM}) registered"));
            }
            other => other.map_err(|error| said(&error))?,
        };
        let served = group.preferred_version.iter().chain(&group.versions);
        let known = |version: &str| VERSIONS.into_iter().find(|one| *one == version);
        let mut found = served.filter_map(|one| known(&one.version));
        found
            .next()
            .ok_or_else(|| format!("no known available metric versions found ({CUSTOM})"))
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, kube::Error> {
        let given = query.iter().filter(|(_, value)| !value.is_empty());
        let query = Serializer::new(String::new()).extend_pairs(given).finish();
        self.request(&format!("{path}?{query}")).await
    }

    async fn request<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, kube::Error> {
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(kube::Error::HttpError);
        self.client.request(request?).await
    }
}

/// The resource of a kind, at the version given if there is one, or else at any of its group.
pub(super) async fn resource(
    client: &Client,
    api_version: &str,
    kind: &str,
) -> Result<ApiResource, String> {
    let (group, version) = match api_version.split('/').collect::<Vec<_>>()[..] {
        [version] => ("", version),
        [group, version] => (group, version),
        _ => return Err(format!("unexpected GroupVersion string: {api_version}")),
    };
    let version = if version.is_empty() { "v1" } else { version };
    let exact = GroupVersionKind::gvk(group, version, kind);
    if let Ok((found, _)) = oneshot::pinned_kind(client, &exact).await {
        return Ok(found);
    }
    let none = || match group {
        "" => format!("no matches for kind {kind:?} in version {version:?}"),
        group => format!("no matches for kind {kind:?} in group {group:?}"),
    };
    let whole = oneshot::group(client, group).await.map_err(|_| none())?;
    let found = whole.recommended_kind(kind);
    found.map(|(found, _)| found).ok_or_else(none)
}

fn escape(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// As text; without one, none.
fn selector(selector: Option<&LabelSelector>) -> Result<String, String> {
    let Some(selector) = selector else {
        return Ok(String::new());
    };
    let selector = Selector::try_from(selector.clone());
    selector
        .map(|one| one.to_string())
        .map_err(|error| error.to_string())
}

fn items(list: &Value) -> &[Value] {
    let items = list.get("items").and_then(Value::as_array);
    items.map_or(&[], Vec::as_slice)
}

fn text<'a>(of: &'a Value, pointer: &str) -> &'a str {
    of.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn at(item: &Value) -> Timestamp {
    text(item, "/timestamp").parse().unwrap_or_default()
}

/// In thousandths.
fn value(item: &Value) -> Result<i64, String> {
    amount(item.get("value")).ok_or_else(|| "a metric came without a value".to_owned())
}

fn amount(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(text) => quantity::milli(text),
        Value::Number(number) => quantity::milli(&number.to_string()),
        _ => None,
    }
}

/// What a pod of `metrics.k8s.io` uses; `None` if that is not known of all that is asked for.
fn used(pod: &Value, resource: &str, container: Option<&str>) -> Option<(String, Sample)> {
    let containers = pod.get("containers")?.as_array()?.iter();
    let asked = containers.filter(|one| container.is_none_or(|name| text(one, "/name") == name));
    let amounts = asked.map(|one| amount(one.get("usage")?.get(resource)));
    let amounts: Vec<i64> = amounts.collect::<Option<_>>()?;
    if amounts.is_empty() {
        return None;
    }
    let sample = Sample {
        value: amounts.into_iter().fold(0, i64::saturating_add),
        at: at(pod),
        window: span(text(pod, "/window")).unwrap_or(WINDOW),
    };
    Some((text(pod, "/metadata/name").to_owned(), sample))
}

/// A duration as Go writes it: `15.2s`, `1m30s`.
fn span(text: &str) -> Option<Duration> {
    let span = text.parse::<jiff::SignedDuration>().ok()?;
    Duration::try_from(span).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_uses_what_its_containers_do() {
        let pod = json!({
            "metadata": {"name": "p"}, "timestamp": "2026-01-01T00:00:00Z", "window": "15.200s",
            "containers": [
                {"name": "a", "usage": {"cpu": "1500000n", "memory": "4Ki"}},
                {"name": "b", "usage": {"cpu": "10m"}},
            ],
        });
        let value = |resource, container| Some(used(&pod, resource, container)?.1.value);
        assert_eq!(value("cpu", None), Some(12));
        assert_eq!(value("cpu", Some("b")), Some(10));
        assert_eq!(value("memory", Some("a")), Some(4_096_000));
        assert_eq!(value("memory", None), None, "that of one is not known");
        assert_eq!(value("cpu", Some("c")), None);
        let (name, sample) = used(&pod, "cpu", None).unwrap();
        assert_eq!((name.as_str(), sample.window.as_millis()), ("p", 15_200));
        assert_eq!(span("1m30s"), Some(Duration::from_secs(90)));
    }
}
