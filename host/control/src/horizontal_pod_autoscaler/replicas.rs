//! How many replicas a measurement asks for.
//!
//! The measure is always a ratio of what is to what should be. Pods of which nothing is known, or
//! that are not ready, are counted so that they hold a change back: as idle while scaling up, as
//! busy as they should be while scaling down. If counting them turns the direction, nothing changes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eyot_client::view::{Container, Pod};
use jiff::Timestamp;

use crate::{pod, scheduler::quantity};

/// How long after its start a pod's processor time may be that of its start.
const STARTING: Duration = Duration::from_secs(300);
/// A pod that became unready within this time of its start has never been ready.
const FIRST_READINESS: Duration = Duration::from_secs(30);

/// What was measured of one pod, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    pub(super) value: i64,
    pub(super) at: Timestamp,
    pub(super) window: Duration,
}

/// By the pod's name.
pub(super) type Samples = BTreeMap<String, Sample>;

/// By how much the ratio may differ from one before something changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tolerance {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Tolerance {
    fn bears(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// The replicas of a scale, and the pods that it selects.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) pods: &'a [Arc<Pod>],
    /// As asked for.
    pub(super) wanted: i32,
    /// As there are.
    pub(super) running: i32,
    pub(super) tolerance: Tolerance,
    pub(super) now: Timestamp,
}

/// What should be, and what is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Counted {
    pub(super) replicas: i32,
    /// Thousandths; of a pod on average, or of all.
    pub(super) usage: i64,
    /// Percent of what is requested.
    pub(super) utilization: Option<i32>,
}

const NONE_KNOWN: &str = "did not receive metrics for targeted pods (pods might be unready)";
const NO_PODS: &str = "no pods returned by selector while calculating replica count";

/// For a target in percent of what the pods (or their container of that name) request.
pub(super) fn by_utilization(
    scene: Scene<'_>,
    samples: &Samples,
    target: i32,
    resource: &str,
    container: Option<&str>,
) -> Result<Counted, String> {
    let known = Known::of(scene, samples, resource)?;
    let mut requests = BTreeMap::new();
    for pod in scene.pods {
        requests.insert(name(pod), requested(pod, resource, container)?);
    }
    let reckon = |values: &BTreeMap<&str, i64>| utilization(values, &requests, target);
    let (ratio, percent, usage) = reckon(&known.values)?;
    // A pod of which nothing is known is as busy as it may be.
    let busy = |pod: &str| {
        let request = requests.get(pod).copied().unwrap_or(0);
        request.saturating_mul(i64::from(target.max(100))) / 100
    };
    let with_all = |values: &BTreeMap<&str, i64>| reckon(values).map(|(ratio, ..)| ratio);
    Ok(Counted {
        replicas: known.settle(scene, ratio, busy, with_all)?,
        usage,
        utilization: Some(percent),
    })
}

/// For a target in absolute amounts for each pod.
pub(super) fn by_average(
    scene: Scene<'_>,
    samples: &Samples,
    target: i64,
    resource: &str,
) -> Result<Counted, String> {
    let known = Known::of(scene, samples, resource)?;
    let average = |values: &BTreeMap<&str, i64>| {
        let total = values.values().copied().fold(0, i64::saturating_add);
        total / i64::try_from(values.len().max(1)).unwrap_or(i64::MAX)
    };
    let ratio = |average: i64| average as f64 / target as f64;
    let usage = average(&known.values);
    let with_all = |values: &BTreeMap<&str, i64>| Ok(ratio(average(values)));
    Ok(Counted {
        replicas: known.settle(scene, ratio(usage), |_| target, with_all)?,
        usage,
        utilization: None,
    })
}

/// For a target of one number that is about all pods together.
pub(super) fn by_value(scene: Scene<'_>, usage: i64, target: i64) -> Result<Counted, String> {
    let ratio = usage as f64 / target as f64;
    let replicas = if scene.wanted == 0 {
        up(ratio)
    } else if scene.tolerance.bears(ratio) {
        scene.wanted
    } else if scene.pods.is_empty() {
        return Err(format!("unable to calculate ready pods: {NO_PODS}"));
    } else {
        let ready = scene.pods.iter();
        let ready = ready.filter(|one| pod::phase(one) == "Running" && pod::is_ready(one));
        up(ratio * ready.count() as f64)
    };
    Ok(Counted {
        replicas,
        usage,
        utilization: None,
    })
}

/// For a target of one number that the pods share.
pub(super) fn by_share(scene: Scene<'_>, usage: i64, target: i64) -> Counted {
    let ratio = usage as f64 / (target as f64 * f64::from(scene.running));
    let replicas = match scene.tolerance.bears(ratio) {
        true => scene.running,
        false => up(usage as f64 / target as f64),
    };
    let share = (usage as f64 / f64::from(scene.running)).ceil();
    Counted {
        replicas,
        // Without pods there is nothing to share among; as floats are cast, that is the most.
        usage: share as i64,
        utilization: None,
    }
}

/// A count, rounded up, within what a scale holds.
fn up(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pods, sorted by what is known of them.
struct Known<'a> {
    /// What is measured of those that count.
    values: BTreeMap<&'a str, i64>,
    ready: usize,
    unready: Vec<&'a str>,
    missing: Vec<&'a str>,
}

impl<'a> Known<'a> {
    fn of(scene: Scene<'a>, samples: &'a Samples, resource: &str) -> Result<Self, String> {
        if scene.pods.is_empty() {
            return Err(NO_PODS.to_owned());
        }
        let values = samples.iter().map(|(pod, one)| (pod.as_str(), one.value));
        let mut known = Known {
            values: values.collect(),
            ready: 0,
            unready: Vec::new(),
            missing: Vec::new(),
        };
        for one in scene.pods {
            let name = name(one);
            let phase = pod::phase(one);
            if one.metadata.deletion_timestamp.is_some() || phase == "Failed" {
                known.values.remove(name);
            } else if phase == "Pending" {
                known.values.remove(name);
                known.unready.push(name);
            } else if let Some(sample) = samples.get(name) {
                if resource == "cpu" && is_unready(one, sample, scene.now) {
                    known.values.remove(name);
                    known.unready.push(name);
                } else {
                    known.ready += 1;
                }
            } else {
                known.missing.push(name);
            }
        }
        match known.values.is_empty() {
            true => Err(NONE_KNOWN.to_owned()),
            false => Ok(known),
        }
    }

    /// The number of replicas for this ratio, with regard to the pods that are not in it. `busy` is
    /// what one of which nothing is known may use, `with_all` the ratio with all of them in it.
    fn settle(
        mut self,
        scene: Scene<'_>,
        ratio: f64,
        busy: impl Fn(&str) -> i64,
        with_all: impl Fn(&BTreeMap<&'a str, i64>) -> Result<f64, String>,
    ) -> Result<i32, String> {
        let idle = !self.unready.is_empty() && ratio > 1.0;
        if !idle && self.missing.is_empty() {
            return Ok(match scene.tolerance.bears(ratio) {
                true => scene.wanted,
                false => up(ratio * self.ready as f64),
            });
        }
        for pod in &self.missing {
            if ratio < 1.0 {
                self.values.insert(pod, busy(pod));
            } else if ratio > 1.0 {
                self.values.insert(pod, 0);
            }
        }
        if idle {
            self.values.extend(self.unready.iter().map(|pod| (*pod, 0)));
        }
        let then = with_all(&self.values)?;
        let turned = (ratio < 1.0 && then > 1.0) || (ratio > 1.0 && then < 1.0);
        if scene.tolerance.bears(then) || turned {
            return Ok(scene.wanted);
        }
        let replicas = up(then * self.values.len() as f64);
        let against =
            (then < 1.0 && replicas > scene.wanted) || (then > 1.0 && replicas < scene.wanted);
        Ok(if against { scene.wanted } else { replicas })
    }
}

/// Whether a pod's processor time is not yet, or no longer, that of its work.
fn is_unready(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let started = status.and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (pod::condition(pod, "Ready"), started) else {
        return true;
    };
    let since = ready.last_transition_time.as_ref().map(|time| time.0);
    let since = since.unwrap_or(Timestamp::MIN);
    let after = |time: Timestamp, span: Duration| time.saturating_add(span).unwrap_or(time);
    let not_ready = ready.status == "False";
    if after(started.0, STARTING) > now {
        not_ready || sample.at < after(since, sample.window)
    } else {
        not_ready && after(started.0, FIRST_READINESS) > since
    }
}

/// The ratio of the utilisation to its target, the utilisation, and what a pod uses on average.
fn utilization(
    values: &BTreeMap<&str, i64>,
    requests: &BTreeMap<&str, i64>,
    target: i32,
) -> Result<(f64, i32, i64), String> {
    let (mut used, mut requested, mut count) = (0i64, 0i64, 0i64);
    for (pod, value) in values {
        if let Some(request) = requests.get(pod) {
            used = used.saturating_add(*value);
            requested = requested.saturating_add(*request);
            count += 1;
        }
    }
    if requested == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = i32::try_from(used.saturating_mul(100) / requested).unwrap_or(i32::MAX);
    let ratio = f64::from(percent) / f64::from(target);
    Ok((ratio, percent, used / count.max(1)))
}

/// What a pod, or its container of that name, requests, in thousandths.
fn requested(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let spec = pod.spec.as_ref();
    let sidecar = |one: &&Container| one.restart_policy.as_deref() == Some("Always");
    let inits = spec.and_then(|spec| spec.init_containers.as_deref());
    let containers = spec.map_or(&[][..], |spec| &spec.containers).iter();
    let containers = containers.chain(inits.unwrap_or_default().iter().filter(sidecar));
    let request = |one: &Container| {
        let requests = one.resources.as_ref()?.requests.as_ref()?;
        quantity::milli(&requests.get(resource)?.0)
    };
    let whole = spec.and_then(|spec| spec.resources.as_ref());
    let whole = whole.and_then(|whole| whole.requests.as_ref());
    if let (Some(whole), None) = (whole.filter(|all| !all.is_empty()), container) {
        let of_all = whole.get(resource).and_then(|one| quantity::milli(&one.0));
        let of_all = of_all.or_else(|| containers.map(request).sum());
        return of_all.ok_or_else(|| {
            format!(
                "missing pod-level request for {resource} in Pod {}",
                name(pod)
            )
        });
    }
    let mut sum = 0i64;
    for one in containers {
        if container.is_some_and(|wanted| wanted != one.name) {
            continue;
        }
        let amount = request(one).ok_or_else(|| {
            format!(
                "missing request for {resource} in container {} of Pod {}",
                one.name,
                name(pod)
            )
        })?;
        if container.is_some() {
            return Ok(amount);
        }
        sum = sum.saturating_add(amount);
    }
    match container {
        Some(container) => Err(format!(
            "container {container} not found in Pod {}",
            name(pod)
        )),
        None => Ok(sum),
    }
}
