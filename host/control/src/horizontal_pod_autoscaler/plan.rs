//! What an autoscaler decides, given what its target is and what was measured.

use std::sync::Arc;

use eyot_client::view::Pod;
use jiff::Timestamp;
use k8s_openapi::{
    api::autoscaling::v2::{
        ContainerResourceMetricStatus, ExternalMetricStatus, HPAScalingRules,
        HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
        HorizontalPodAutoscalerStatus, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget,
        MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, Time},
    },
};

use super::{
    bounds::{History, Wish},
    replicas::{self, Counted, Samples, Scene, Tolerance},
};
use crate::scheduler::quantity;

/// By how much the ratio may differ from one where nothing is said.
const TOLERANCE: f64 = 0.1;

/// What an API of metrics said.
#[derive(Debug, Clone)]
pub(super) enum Reading {
    Pods(Samples),
    Values(Vec<i64>),
}

/// What is known of the target's pods.
pub(super) enum Measured<'a> {
    /// Nothing, since the selector of the scale is not to be used: a reason, what its event says
    /// (with another reason, if it has one) and what the condition says.
    Unselected {
        reason: &'static str,
        event: (&'static str, String),
        message: String,
    },
    /// Its pods, and a reading for each metric.
    Pods {
        pods: &'a [Arc<Pod>],
        readings: &'a [Result<Reading, String>],
    },
}

/// The replicas of the target's scale.
#[derive(Debug, Clone, Copy)]
pub(super) struct Replicas {
    pub(super) wanted: i32,
    pub(super) running: i32,
}

/// A warning: its reason and its message.
pub(super) type Warning = (&'static str, String);

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) status: HorizontalPodAutoscalerStatus,
    pub(super) rescale: Option<Rescale>,
    pub(super) warnings: Vec<Warning>,
}

/// To how many replicas, and why.
#[derive(Debug, PartialEq)]
pub(super) struct Rescale {
    pub(super) to: i32,
    pub(super) reason: String,
}

/// Whether what was measured matters, so that it must be known.
pub(super) fn needs_metrics(spec: &HorizontalPodAutoscalerSpec, replicas: Replicas) -> bool {
    let (current, least) = (replicas.wanted, spec.min_replicas.unwrap_or(1));
    let disabled = current == 0 && least != 0;
    !disabled && (least..=spec.max_replicas).contains(&current)
}

/// The target or its scale cannot be had.
pub(super) fn without_scale(hpa: &HorizontalPodAutoscaler, error: String, now: Timestamp) -> Plan {
    let mut status = hpa.status.clone().unwrap_or_default();
    let message =
        format!("the HPA controller was unable to get the target's current scale: {error}");
    set(
        &mut status,
        "AbleToScale",
        false,
        ("FailedGetScale", &message),
        now,
    );
    Plan {
        status,
        rescale: None,
        warnings: vec![("FailedGetScale", error)],
    }
}

/// Decide. `measured` is looked at only where [`needs_metrics`].
pub(super) fn plan(
    hpa: &HorizontalPodAutoscaler,
    replicas: Replicas,
    measured: &Measured<'_>,
    history: &mut History,
    now: Timestamp,
) -> Plan {
    let spec = &hpa.spec;
    let (current, least) = (replicas.wanted, spec.min_replicas.unwrap_or(1));
    let mut plan = Plan {
        status: hpa.status.clone().unwrap_or_default(),
        rescale: None,
        warnings: Vec::new(),
    };
    let got = "the HPA controller was able to get the target's current scale";
    set(
        &mut plan.status,
        "AbleToScale",
        true,
        ("SucceededGetScale", got),
        now,
    );
    history.begin(current, now);
    plan.status.observed_generation = None;
    plan.status.current_replicas = Some(current);
    let to = |to, reason: &str| {
        let reason = reason.to_owned();
        Some(Rescale { to, reason })
    };
    if needs_metrics(spec, replicas) {
        plan.follow(spec, replicas, measured, history, now);
        return plan;
    }
    plan.status.current_metrics = None;
    if current == 0 {
        let why = "scaling is disabled since the replica count of the target is zero";
        set(
            &mut plan.status,
            "ScalingActive",
            false,
            ("ScalingDisabled", why),
            now,
        );
    } else if current > spec.max_replicas {
        let why = "Current number of replicas above Spec.MaxReplicas";
        plan.rescale = to(spec.max_replicas, why);
    } else {
        plan.rescale = to(least, "Current number of replicas below Spec.MinReplicas");
    }
    plan.status.desired_replicas = plan.rescale.as_ref().map_or(current, |one| one.to);
    plan
}

/// Note how the rescaling went. `error`: why it did not.
pub(super) fn rescaled(
    plan: &mut Plan,
    before: &HorizontalPodAutoscalerStatus,
    error: Option<&str>,
    now: Timestamp,
) {
    let Some(Rescale { to, reason }) = &plan.rescale else {
        return;
    };
    let status = &mut plan.status;
    match error {
        None => {
            let message = format!("the HPA controller was able to update the target scale to {to}");
            set(
                status,
                "AbleToScale",
                true,
                ("SucceededRescale", &message),
                now,
            );
            status.last_scale_time = Some(Time(now));
        }
        Some(error) => {
            let message =
                format!("the HPA controller was unable to update the target scale: {error}");
            set(
                status,
                "AbleToScale",
                false,
                ("FailedUpdateScale", &message),
                now,
            );
            status.desired_replicas = before.desired_replicas;
            let said = format!("New size: {to}; reason: {reason}; error: {error}");
            plan.warnings.push(("FailedRescale", said));
        }
    }
}

impl Plan {
    /// Follow the metrics.
    fn follow(
        &mut self,
        spec: &HorizontalPodAutoscalerSpec,
        replicas: Replicas,
        measured: &Measured<'_>,
        history: &mut History,
        now: Timestamp,
    ) {
        let (current, least) = (replicas.wanted, spec.min_replicas.unwrap_or(1));
        let (desired, metric) = match self.count(spec, replicas, measured, now) {
            Ok(found) => found,
            Err(error) => return self.warnings.push(("FailedComputeMetricsReplicas", error)),
        };
        let desired = desired.max(0);
        let wish = Wish {
            current,
            desired,
            least,
            most: spec.max_replicas,
        };
        let bounded = history.bound(wish, spec.behavior.as_ref(), now);
        let ready = ("ReadyForNewScale", "recommended size matches current size");
        let able = bounded.stabilized.unwrap_or(ready);
        set(&mut self.status, "AbleToScale", true, able, now);
        set(
            &mut self.status,
            "ScalingLimited",
            bounded.limited,
            bounded.limit,
            now,
        );
        if bounded.replicas != current {
            let reason = match desired.cmp(&current) {
                std::cmp::Ordering::Greater => format!("{metric} above target"),
                std::cmp::Ordering::Less => "All metrics below target".to_owned(),
                std::cmp::Ordering::Equal => String::new(),
            };
            self.rescale = Some(Rescale {
                to: bounded.replicas,
                reason,
            });
        }
        self.status.desired_replicas = bounded.replicas;
    }

    /// The highest count that a metric asks for, and which one that is.
    fn count(
        &mut self,
        spec: &HorizontalPodAutoscalerSpec,
        replicas: Replicas,
        measured: &Measured<'_>,
        now: Timestamp,
    ) -> Result<(i32, String), String> {
        let (pods, readings) = match measured {
            Measured::Pods { pods, readings } => (*pods, *readings),
            Measured::Unselected {
                reason,
                event,
                message,
            } => {
                self.warnings.push(event.clone());
                set(
                    &mut self.status,
                    "ScalingActive",
                    false,
                    (reason, message),
                    now,
                );
                self.status.current_metrics = None;
                return Err(event.1.clone());
            }
        };
        let behavior = spec.behavior.as_ref();
        let rules = |rules: Option<&HPAScalingRules>| {
            let given = rules.and_then(|rules| rules.tolerance.as_ref());
            let given = given.and_then(|given| quantity::float(&given.0));
            given.unwrap_or(TOLERANCE)
        };
        let scene = Scene {
            pods,
            wanted: replicas.wanted,
            running: replicas.running,
            tolerance: Tolerance {
                up: rules(behavior.and_then(|one| one.scale_up.as_ref())),
                down: rules(behavior.and_then(|one| one.scale_down.as_ref())),
            },
            now,
        };
        let metrics = spec.metrics.as_deref().unwrap_or_default();
        let mut statuses = Vec::with_capacity(metrics.len());
        let (mut best, mut chosen) = (0, String::new());
        let mut invalid: Vec<Invalid> = Vec::new();
        let missing = Err("it was not measured".to_owned());
        for (index, metric) in metrics.iter().enumerate() {
            let reading = readings.get(index).unwrap_or(&missing);
            match weigh(metric, reading, scene) {
                Ok(weighed) => {
                    statuses.push(weighed.status);
                    if best == 0 || weighed.replicas > best {
                        (best, chosen) = (weighed.replicas, weighed.name);
                    }
                }
                Err(why) => {
                    statuses.push(MetricStatus::default());
                    self.warnings.push((why.reason, why.error.clone()));
                    invalid.push(why);
                }
            }
        }
        self.status.current_metrics = Some(statuses);
        if let Some(first) = invalid.first() {
            let error = format!(
                "invalid metrics ({} invalid out of {}), first error is: {}",
                invalid.len(),
                metrics.len(),
                first.whole
            );
            // What is not known may need what is there.
            if invalid.len() >= metrics.len() || best < replicas.wanted {
                let message = format!(
                    "the HPA was unable to compute the replica count: {}",
                    first.error
                );
                set(
                    &mut self.status,
                    "ScalingActive",
                    false,
                    (first.reason, &message),
                    now,
                );
                return Err(error);
            }
        }
        let message =
            format!("the HPA was able to successfully calculate a replica count from {chosen}");
        set(
            &mut self.status,
            "ScalingActive",
            true,
            ("ValidMetricFound", &message),
            now,
        );
        Ok((best, chosen))
    }
}

/// What one metric asks for.
struct Weighed {
    replicas: i32,
    name: String,
    status: MetricStatus,
}

/// Why a metric asks for nothing.
struct Invalid {
    reason: &'static str,
    error: String,
    /// The error, with which metric it is about.
    whole: String,
}

fn weigh(
    metric: &MetricSpec,
    reading: &Result<Reading, String>,
    scene: Scene<'_>,
) -> Result<Weighed, Invalid> {
    let mut status = MetricStatus {
        type_: metric.type_.clone(),
        ..MetricStatus::default()
    };
    let invalid = |reason, error: String, about: String| Invalid {
        reason,
        whole: format!("{about}: {error}"),
        error,
    };
    let (counted, name) = match metric {
        MetricSpec {
            resource: Some(source),
            ..
        } if metric.type_ == "Resource" => {
            let weighed = of_resource(&source.name, None, &source.target, reading, scene);
            let (counted, name) = weighed.map_err(|error| {
                let about = format!("failed to get {} resource metric value", source.name);
                invalid("FailedGetResourceMetric", error, about)
            })?;
            status.resource = Some(ResourceMetricStatus {
                name: source.name.clone(),
                current: each(counted),
            });
            (counted, name)
        }
        MetricSpec {
            container_resource: Some(source),
            ..
        } if metric.type_ == "ContainerResource" => {
            let container = Some(source.container.as_str());
            let weighed = of_resource(&source.name, container, &source.target, reading, scene);
            let (counted, name) = weighed.map_err(|error| {
                let about = format!("failed to get {} container metric value", source.container);
                invalid("FailedGetContainerResourceMetric", error, about)
            })?;
            status.container_resource = Some(ContainerResourceMetricStatus {
                name: source.name.clone(),
                container: source.container.clone(),
                current: each(counted),
            });
            (counted, name)
        }
        MetricSpec {
            pods: Some(source), ..
        } if metric.type_ == "Pods" => {
            let counted = of_pods(&source.metric, &source.target, reading, scene);
            let counted = counted.map_err(|error| {
                let about = "failed to get pods metric value".to_owned();
                invalid("FailedGetPodsMetric", error, about)
            })?;
            status.pods = Some(PodsMetricStatus {
                metric: source.metric.clone(),
                current: each(counted),
            });
            (counted, format!("pods metric {}", source.metric.name))
        }
        MetricSpec {
            object: Some(source),
            ..
        } if metric.type_ == "Object" => {
            let described = &source.described_object;
            let value = value(reading).map_err(|error| {
                format!(
                    "unable to get metric {}: {error} on {} {}",
                    source.metric.name, described.kind, described.name
                )
            });
            let weighed = of_value(&source.target, value, scene, "object");
            let (counted, whole) = weighed.map_err(|error| {
                let about = "failed to get object metric value".to_owned();
                invalid("FailedGetObjectMetric", error, about)
            })?;
            status.object = Some(ObjectMetricStatus {
                described_object: described.clone(),
                metric: source.metric.clone(),
                current: if whole { all(counted) } else { each(counted) },
            });
            let name = match whole {
                true => format!("{} metric {}", described.kind, source.metric.name),
                false => external_name(&source.metric),
            };
            (counted, name)
        }
        MetricSpec {
            external: Some(source),
            ..
        } if metric.type_ == "External" => {
            let value = value(reading).map_err(|error| {
                format!(
                    "unable to get external metric {}/{}: {error}",
                    source.metric.name,
                    shown(source.metric.selector.as_ref())
                )
            });
            let weighed = of_value(&source.target, value, scene, "external");
            let (counted, whole) = weighed.map_err(|error| {
                let about = format!("failed to get {} external metric value", source.metric.name);
                invalid("FailedGetExternalMetric", error, about)
            })?;
            status.external = Some(ExternalMetricStatus {
                metric: source.metric.clone(),
                current: if whole { all(counted) } else { each(counted) },
            });
            (counted, external_name(&source.metric))
        }
        _ => {
            let error = format!("unknown metric source type {:?}", metric.type_);
            return Err(Invalid {
                reason: "InvalidMetricSourceType",
                whole: error.clone(),
                error,
            });
        }
    };
    Ok(Weighed {
        replicas: counted.replicas,
        name,
        status,
    })
}

fn of_resource(
    resource: &str,
    container: Option<&str>,
    target: &MetricTarget,
    reading: &Result<Reading, String>,
    scene: Scene<'_>,
) -> Result<(Counted, String), String> {
    let samples = || {
        samples(reading)
            .map_err(|error| format!("unable to get metrics for resource {resource}: {error}"))
    };
    if let Some(average) = amount(target.average_value.as_ref()) {
        let counted = samples().and_then(|all| replicas::by_average(scene, all, average, resource));
        let counted =
            counted.map_err(|error| format!("failed to get {resource} usage: {error}"))?;
        return Ok((counted, format!("{resource} resource")));
    }
    let Some(percent) = target.average_utilization else {
        let error = "invalid resource metric source: neither an average utilization target nor an \
                     average value (usage) target was set";
        return Err(error.to_owned());
    };
    let counted = samples()
        .and_then(|all| replicas::by_utilization(scene, all, percent, resource, container));
    let counted =
        counted.map_err(|error| format!("failed to get {resource} utilization: {error}"))?;
    let of = if container.is_some() {
        "container resource"
    } else {
        "resource"
    };
    Ok((
        counted,
        format!("{resource} {of} utilization (percentage of request)"),
    ))
}

fn of_pods(
    metric: &MetricIdentifier,
    target: &MetricTarget,
    reading: &Result<Reading, String>,
    scene: Scene<'_>,
) -> Result<Counted, String> {
    let samples = samples(reading)
        .map_err(|error| format!("unable to get metric {}: {error}", metric.name))?;
    let average = amount(target.average_value.as_ref());
    let average = average.ok_or("invalid pods metric source: no average value target was set")?;
    replicas::by_average(scene, samples, average, "")
}

/// And whether the target is one of the whole, not of each pod.
fn of_value(
    target: &MetricTarget,
    value: Result<i64, String>,
    scene: Scene<'_>,
    source: &str,
) -> Result<(Counted, bool), String> {
    let whole = amount(target.value.as_ref());
    let each = amount(target.average_value.as_ref());
    // Of an object the type says which is meant, of what is external the average goes first.
    let (whole, each) = match (source, target.type_.as_str()) {
        ("object", "Value") => (whole, None),
        ("object", "AverageValue") => (None, each),
        ("object", _) => (None, None),
        _ => (whole, each),
    };
    match (each, whole) {
        (Some(each), _) => Ok((replicas::by_share(scene, value?, each), false)),
        (None, Some(whole)) => Ok((replicas::by_value(scene, value?, whole)?, true)),
        (None, None) => Err(format!(
            "invalid {source} metric source: neither a value target nor an average value target \
             was set"
        )),
    }
}

fn samples(reading: &Result<Reading, String>) -> Result<&Samples, String> {
    match reading {
        Ok(Reading::Pods(samples)) => Ok(samples),
        Ok(Reading::Values(_)) => Err("one value came for all pods".to_owned()),
        Err(error) => Err(error.clone()),
    }
}

fn value(reading: &Result<Reading, String>) -> Result<i64, String> {
    match reading {
        Ok(Reading::Values(all)) => Ok(all.iter().copied().fold(0, i64::saturating_add)),
        Ok(Reading::Pods(_)) => Err("a value came for each pod".to_owned()),
        Err(error) => Err(error.clone()),
    }
}

/// In thousandths; of something, since nothing can be a target.
fn amount(quantity: Option<&Quantity>) -> Option<i64> {
    quantity::milli(&quantity?.0).filter(|amount| *amount > 0)
}

fn each(counted: Counted) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: counted.utilization,
        average_value: Some(Quantity(quantity::of_milli(counted.usage))),
        value: None,
    }
}

fn all(counted: Counted) -> MetricValueStatus {
    MetricValueStatus {
        value: Some(Quantity(quantity::of_milli(counted.usage))),
        ..MetricValueStatus::default()
    }
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!(
        "external metric {}({})",
        metric.name,
        shown(metric.selector.as_ref())
    )
}

/// A selector as Go prints it.
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else {
        return "nil".to_owned();
    };
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels
        .map(|(key, value)| format!("{key}: {value},"))
        .collect();
    let expressions = selector.match_expressions.iter().flatten();
    let expressions: String = expressions
        .map(|one| {
            let values = one.values.iter().flatten().map(String::as_str);
            format!(
                "{{{} {} [{}]}},",
                one.key,
                one.operator,
                values.collect::<Vec<_>>().join(" ")
            )
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},\
         MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// Set a condition: its time is when its status changed.
fn set(
    status: &mut HorizontalPodAutoscalerStatus,
    kind: &str,
    holds: bool,
    (reason, message): (&str, &str),
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let state = if holds { "True" } else { "False" };
    let mut new = HorizontalPodAutoscalerCondition {
        type_: kind.to_owned(),
        status: state.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|found| found.type_ == kind) {
        Some(found) => {
            if found.status == new.status {
                new.last_transition_time = found.last_transition_time.clone();
            }
            *found = new;
        }
        None => conditions.push(new),
    }
}
