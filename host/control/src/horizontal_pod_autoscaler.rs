//! Follows loads by changing how many pods there are.
//!
//! Reads HorizontalPodAutoscalers, the scale of what each is about, its pods, and what the APIs of
//! metrics say of them; writes the scale and the autoscaler's status. Whatever has a `scale` can be
//! its target. Every autoscaler is looked at when it is made or changed, and every fifteen seconds:
//! a failure is told in its conditions and events, and tried again at the next look.

mod bounds;
mod metrics;
mod plan;
mod replicas;
mod selector;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use eyot_client::{Cache, Change, Key, Reconciler, Requeue, view::Pod};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::{
    v1::Scale,
    v2::{HorizontalPodAutoscaler, MetricSpec},
};
use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
    core::{Selector, SelectorExt},
};

use self::{
    bounds::History,
    metrics::Metrics,
    plan::{Measured, Plan, Reading, Replicas},
};
use crate::{
    announce::Announcer,
    clock,
    error::{Act, ControlError, said},
};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(15);

pub(crate) struct HorizontalPodAutoscalers {
    client: Client,
    hpas: Cache<HorizontalPodAutoscaler>,
    pods: Cache<Pod>,
    announcer: Announcer,
    known: Mutex<HashMap<Key, Known>>,
}

/// What is remembered of an autoscaler.
#[derive(Default)]
struct Known {
    history: History,
    /// The pods that it scales by.
    selector: Option<Selector>,
}

impl Reconciler for HorizontalPodAutoscalers {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "horizontalpodautoscaler"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(hpa) = self.hpas.get(key) else {
            self.known().remove(key);
            return Ok(Requeue::OnChange);
        };
        // Whole seconds, as they are stored.
        let now = clock::now();
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let plan = match self.scale(key, &hpa).await {
            Ok((api, scale)) => self.follow(key, &hpa, &api, scale, now).await,
            Err(error) => plan::without_scale(&hpa, error, now),
        };
        for (reason, message) in plan.warnings {
            self.announcer.warning(&*hpa, reason, message);
        }
        if hpa.status.as_ref() != Some(&plan.status) {
            let mut hpa = (*hpa).clone();
            hpa.status = Some(plan.status);
            let api: Api<HorizontalPodAutoscaler> =
                Api::namespaced(self.client.clone(), &key.namespace);
            let params = PostParams::default();
            let written = api.replace_status(&key.name, &params, &hpa).await;
            written.act_if_there(|| format!("writing the status of autoscaler {key}"))?;
        }
        Ok(Requeue::After(PERIOD))
    }
}

impl HorizontalPodAutoscalers {
    pub(crate) fn new(
        client: Client,
        hpas: Cache<HorizontalPodAutoscaler>,
        pods: Cache<Pod>,
        announcer: Announcer,
    ) -> Self {
        Self {
            client,
            hpas,
            pods,
            announcer,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scale of the target, and where it is.
    async fn scale(
        &self,
        key: &Key,
        hpa: &HorizontalPodAutoscaler,
    ) -> Result<(Api<DynamicObject>, Scale), String> {
        let target = &hpa.spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or_default();
        let resource = metrics::resource(&self.client, version, &target.kind).await?;
        let api = Api::namespaced_with(self.client.clone(), &key.namespace, &resource);
        let scale = api.get_scale(&target.name).await;
        scale
            .map(|scale| (api, scale))
            .map_err(|error| said(&error))
    }

    /// Decide, and scale.
    async fn follow(
        &self,
        key: &Key,
        hpa: &HorizontalPodAutoscaler,
        api: &Api<DynamicObject>,
        mut scale: Scale,
        now: Timestamp,
    ) -> Plan {
        let status = scale.status.as_ref();
        let replicas = Replicas {
            wanted: scale
                .spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .unwrap_or(0),
            running: status.map_or(0, |status| status.replicas),
        };
        let selector = status.and_then(|status| status.selector.clone());
        let (mut pods, mut readings) = (Vec::new(), Vec::new());
        let mut refused = None;
        if plan::needs_metrics(&hpa.spec, replicas) {
            let selector = selector.unwrap_or_default();
            match self.select(key, &selector) {
                Ok(found) => {
                    pods = found;
                    readings = self.read(key, hpa, &selector).await;
                }
                Err(unselected) => refused = Some(unselected),
            }
        }
        let measured = refused.unwrap_or(Measured::Pods {
            pods: &pods,
            readings: &readings,
        });
        let mut plan = {
            let mut known = self.known();
            let history = &mut known.entry(key.clone()).or_default().history;
            history.keep_ages(now, Instant::now());
            plan::plan(hpa, replicas, &measured, history, now)
        };
        let Some(to) = plan.rescale.as_ref().map(|rescale| rescale.to) else {
            return plan;
        };
        scale.spec.get_or_insert_default().replicas = Some(to);
        let name = &hpa.spec.scale_target_ref.name;
        let error = api
            .replace_scale(name, &PostParams::default(), &scale)
            .await
            .err();
        let error = error.map(|error| said(&error));
        let before = hpa.status.clone().unwrap_or_default();
        plan::rescaled(&mut plan, &before, error.as_deref(), now);
        if error.is_none() {
            let mut known = self.known();
            let history = &mut known.entry(key.clone()).or_default().history;
            history.scaled(replicas.wanted, to, hpa.spec.behavior.as_ref(), now);
            drop(known);
            let reason = plan.rescale.as_ref().map(|one| one.reason.as_str());
            let message = format!("New size: {to}; reason: {}", reason.unwrap_or_default());
            self.announcer.normal(hpa, "SuccessfulRescale", message);
        }
        plan
    }

    /// The pods of the target, if it says which they are and no other autoscaler has them, too.
    fn select(&self, key: &Key, text: &str) -> Result<Vec<Arc<Pod>>, Measured<'static>> {
        if text.is_empty() {
            return Err(Measured::Unselected {
                reason: "InvalidSelector",
                event: ("SelectorRequired", "selector is required".to_owned()),
                message: "the HPA target's scale is missing a selector".to_owned(),
            });
        }
        let selector = selector::parse(text).map_err(|error| {
            let message = format!(
                "couldn't convert selector into a corresponding internal selector object: {error}"
            );
            Measured::Unselected {
                reason: "InvalidSelector",
                event: ("InvalidSelector", message.clone()),
                message,
            }
        })?;
        let none = Default::default();
        let mut pods = self.pods.list_in(&key.namespace);
        let has = |selector: &Selector, pod: &Pod| {
            selector.matches(pod.metadata.labels.as_ref().unwrap_or(&none))
        };
        pods.retain(|pod| has(&selector, pod));
        let mut known = self.known();
        known.entry(key.clone()).or_default().selector = Some(selector);
        let others = known.iter().filter(|(other, known)| {
            other.namespace == key.namespace
                && known
                    .selector
                    .as_ref()
                    .is_some_and(|selector| pods.iter().any(|pod| has(selector, pod)))
        });
        let mut all: Vec<String> = others.map(|(other, _)| other.to_string()).collect();
        if all.len() > 1 {
            all.sort_unstable();
            let message = format!(
                "pods by selector {text} are controlled by multiple HPAs: [{}]",
                all.join(" ")
            );
            return Err(Measured::Unselected {
                reason: "AmbiguousSelector",
                event: ("AmbiguousSelector", message.clone()),
                message,
            });
        }
        Ok(pods)
    }

    /// A reading for each metric.
    async fn read(
        &self,
        key: &Key,
        hpa: &HorizontalPodAutoscaler,
        selector: &str,
    ) -> Vec<Result<Reading, String>> {
        let metrics = Metrics {
            client: &self.client,
            namespace: &key.namespace,
            selector,
        };
        let mut readings = Vec::new();
        for metric in hpa.spec.metrics.iter().flatten() {
            readings.push(read(&metrics, metric).await);
        }
        readings
    }
}

async fn read(metrics: &Metrics<'_>, metric: &MetricSpec) -> Result<Reading, String> {
    if let Some(source) = &metric.resource {
        metrics
            .resource(&source.name, None)
            .await
            .map(Reading::Pods)
    } else if let Some(source) = &metric.container_resource {
        let container = Some(source.container.as_str());
        metrics
            .resource(&source.name, container)
            .await
            .map(Reading::Pods)
    } else if let Some(source) = &metric.pods {
        metrics.pods(&source.metric).await.map(Reading::Pods)
    } else if let Some(source) = &metric.object {
        let value = metrics
            .object(&source.described_object, &source.metric)
            .await;
        value.map(|value| Reading::Values(vec![value]))
    } else if let Some(source) = &metric.external {
        metrics.external(&source.metric).await.map(Reading::Values)
    } else {
        Err("it has no source".to_owned())
    }
}

/// Whether a change asks for a look before its time: what an autoscaler itself writes does not.
pub(crate) fn of_hpa(change: &Change<'_, HorizontalPodAutoscaler>) -> Option<Key> {
    let same = match (change.before, change.after) {
        (Some(before), Some(after)) => {
            before.spec == after.spec && before.metadata.uid == after.metadata.uid
        }
        _ => false,
    };
    (!same).then(|| change.key.clone())
}
