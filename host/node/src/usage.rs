//! What the containers and the machine use: measured every fifteen seconds, sooner for who asks, and
//! told as the kubelet's Summary API (`/stats/summary`) and in Prometheus' format (`/metrics/resource`).
//!
//! Processor time is counted from the start of each container; how much of it is used at present is
//! what the last two measurements differ by, and so are requests per second of what this host serves
//! itself (as `userDefinedMetrics` of the Summary API). Memory is what the runtime says is in use.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_runtime::Usage;
use futures::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    capacity,
    context::{Context, View},
};

/// Between two measurements.
const PERIOD: Duration = Duration::from_secs(15);
/// Who asks is told nothing older than this, though nobody measures so often while nobody asks.
const OLDEST: Duration = Duration::from_secs(5);
/// A container that was measured only once is measured again for who asks, after this long.
const SOONEST: Duration = Duration::from_secs(1);

/// How many requests a container has answered: a metric of [`summary`] and of
/// [`resource_metrics`], and what autoscalers go by.
const REQUESTS: &str = "http_requests_total";

/// The last measurements. The machine as a whole stands under no uid and no name.
#[derive(Default)]
pub(crate) struct Meter(Mutex<HashMap<Place, Sample>>);

/// A pod's uid and the name of one of its containers.
type Place = (String, String);

#[derive(Debug, Clone, Copy)]
struct Sample {
    usage: Usage,
    at: Timestamp,
    at_mono: Instant,
    rate: Option<Rate>,
}

/// What was used between two measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    /// Billionths of a processor.
    nanocores: u64,
    /// Thousandths of requests per second; `None` of what serves none.
    millirequests: Option<u64>,
    window: Duration,
}

impl Sample {
    /// A measurement that follows another one of the same container.
    fn after(before: Option<&Sample>, usage: Usage) -> Sample {
        let at_mono = Instant::now();
        let rate = before.and_then(|before| {
            let window = at_mono.duration_since(before.at_mono);
            Rate::of(before.usage, usage, window)
        });
        Sample {
            usage,
            at: Timestamp::now(),
            at_mono,
            rate,
        }
    }
}

impl Rate {
    /// `None` if the container was another one before, whose time had gone further.
    fn of(before: Usage, now: Usage, window: Duration) -> Option<Rate> {
        let per_second = |nanos: u128| {
            let rate = nanos.saturating_mul(1_000_000_000);
            u64::try_from(rate.checked_div(window.as_nanos())?).ok()
        };
        let came = now.requests.zip(before.requests);
        let came = came.map(|(now, before)| now.saturating_sub(before));
        Some(Rate {
            nanocores: per_second(now.cpu.checked_sub(before.cpu)?.as_nanos())?,
            millirequests: came.and_then(|came| per_second(u128::from(came) * 1_000)),
            window,
        })
    }
}

impl Meter {
    fn samples(&self) -> MutexGuard<'_, HashMap<Place, Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, uid: &str, container: &str) -> Option<Sample> {
        let place = (uid.to_owned(), container.to_owned());
        self.samples().get(&place).copied()
    }

    /// Whether something that runs was never measured, or once only, or long enough ago.
    fn is_worth_it(&self, running: impl Iterator<Item = Place>) -> bool {
        let samples = self.samples();
        let mut all = running.map(|place| samples.get(&place));
        let again = |one: &Sample| {
            let soonest = if one.rate.is_none() { SOONEST } else { OLDEST };
            one.at_mono.elapsed() >= soonest
        };
        samples.is_empty() || all.any(|one| one.is_none_or(again)) || samples.values().any(again)
    }
}

/// Measure until the node stops.
pub(crate) async fn keep(context: Arc<Context>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        measure(&context).await;
    }
}

async fn measure(context: &Context) {
    let running = context.live.running().into_iter();
    let measured = join_all(running.map(|(uid, name, container)| async move {
        let usage = container.usage().await?;
        Some(((uid, name), usage))
    }))
    .await;
    let all = measured
        .into_iter()
        .flatten()
        .chain([(Place::default(), machine(&context.capacity))]);
    let mut samples = context.meter.samples();
    let next = all.map(|(place, usage)| {
        let sample = Sample::after(samples.get(&place), usage);
        (place, sample)
    });
    *samples = next.collect();
}

/// The whole machine, this host included.
fn machine(capacity: &capacity::Capacity) -> Usage {
    Usage {
        memory: capacity.memory.saturating_sub(capacity::available_memory()),
        cpu: capacity::processor_time(),
        requests: None,
    }
}

/// What there is to tell now, sooner measured if that is worth it.
async fn views(context: &Context) -> Vec<Arc<View>> {
    let running = context.live.running().into_iter();
    let running = running.map(|(uid, name, _)| (uid, name));
    if context.meter.is_worth_it(running) {
        measure(context).await;
    }
    context.all()
}

/// The Summary API's document.
pub(crate) async fn summary(context: &Context) -> Value {
    let views = views(context).await;
    let meter = &context.meter;
    let pods = views.iter().filter_map(|view| {
        let measured: Vec<_> = containers(meter, view).collect();
        let containers = measured.iter().map(|(name, since, sample)| {
            let mut one = amounts(sample);
            one["name"] = json!(name);
            one["startTime"] = json!(whole_seconds(*since));
            if let Some(count) = sample.usage.requests {
                let total = json!({
                    "name": REQUESTS, "type": "cumulative", "units": "count",
                    "time": whole_seconds(sample.at), "value": count,
                });
                let all = [total].into_iter().chain(requests(sample));
                one["userDefinedMetrics"] = all.collect();
            }
            one
        });
        let mut pod = amounts(&together(measured.iter().map(|(_, _, sample)| *sample))?);
        let reference = &view.reference;
        pod["podRef"] = json!({
            "name": reference.name, "namespace": reference.namespace, "uid": reference.uid,
        });
        pod["startTime"] = json!(
            view.object
                .status
                .as_ref()
                .and_then(|one| one.start_time.as_ref())
        );
        pod["containers"] = containers.collect();
        Some(pod)
    });
    let pods: Vec<Value> = pods.collect();
    let mut node = match meter.of("", "") {
        Some(sample) => amounts(&sample),
        None => json!({}),
    };
    node["nodeName"] = json!(context.name);
    if let Some(memory) = node.get_mut("memory") {
        memory["availableBytes"] = json!(capacity::available_memory());
    }
    json!({"node": node, "pods": pods})
}

/// A measurement as the Summary API has it, and beside it over how long the rate was taken.
fn amounts(sample: &Sample) -> Value {
    let at = whole_seconds(sample.at);
    let mut cpu = json!({
        "time": at, "usageCoreNanoSeconds": nanos(sample.usage.cpu),
    });
    if let Some(rate) = sample.rate {
        cpu["usageNanoCores"] = json!(rate.nanocores);
        cpu["windowNanoSeconds"] = json!(nanos(rate.window));
    }
    let memory = sample.usage.memory;
    json!({
        "cpu": cpu,
        "memory": {"time": at, "usageBytes": memory, "workingSetBytes": memory},
    })
}

/// The rate of requests as a metric of the Summary API, and beside it over how long it was taken.
fn requests(sample: &Sample) -> Option<Value> {
    let rate = sample.rate?;
    Some(json!({
        "name": "http_requests_per_second", "type": "gauge", "units": "requests/s",
        "time": whole_seconds(sample.at), "windowNanoSeconds": nanos(rate.window),
        "value": rate.millirequests? as f64 / 1_000.0,
    }))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn whole_seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The containers of a pod that run and were measured, with when they started.
fn containers<'a>(
    meter: &'a Meter,
    view: &'a View,
) -> impl Iterator<Item = (&'a str, Timestamp, Sample)> {
    view.state.units.iter().filter_map(|unit| {
        let running = unit.running()?;
        let sample = meter.of(&view.reference.uid, &unit.name)?;
        Some((unit.name.as_str(), running.since, sample))
    })
}

/// A pod is its containers; it has no rate before each of them has.
fn together(samples: impl Iterator<Item = Sample>) -> Option<Sample> {
    samples.reduce(|a, b| Sample {
        usage: Usage {
            memory: a.usage.memory.saturating_add(b.usage.memory),
            cpu: a.usage.cpu.saturating_add(b.usage.cpu),
            requests: match (a.usage.requests, b.usage.requests) {
                (Some(a), Some(b)) => Some(a.saturating_add(b)),
                (a, b) => a.or(b),
            },
        },
        at: a.at.min(b.at),
        at_mono: a.at_mono.min(b.at_mono),
        rate: a.rate.zip(b.rate).map(|(a, b)| Rate {
            nanocores: a.nanocores.saturating_add(b.nanocores),
            millirequests: None,
            window: a.window.max(b.window),
        }),
    })
}

/// The kubelet's `/metrics/resource`.
pub(crate) async fn resource_metrics(context: &Context) -> String {
    let (mut ones, mut pods, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for view in views(context).await {
        let measured: Vec<_> = containers(&context.meter, &view).collect();
        let reference = &view.reference;
        // Names of pods, namespaces and containers need no escapes.
        let pod = format!(
            "namespace=\"{}\",pod=\"{}\"",
            reference.namespace, reference.name
        );
        for (name, since, sample) in &measured {
            let labels = format!("{{container=\"{name}\",{pod}}}");
            starts.push((labels.clone(), since.as_millisecond() as f64 / 1e3));
            ones.push((labels, *sample));
        }
        let sum = together(measured.iter().map(|(_, _, sample)| *sample));
        pods.extend(sum.map(|sum| (format!("{{{pod}}}"), sum)));
    }
    let node = context.meter.of("", "").map(|one| (String::new(), one));
    let lines = starts.into_iter();
    let starts = metric(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
        lines.map(|(labels, since)| format!("{labels} {since}")),
    );
    let counts = pods.iter().filter_map(|(labels, sum): &(String, Sample)| {
        let requests = sum.usage.requests?;
        Some(format!("{labels} {requests} {}", sum.at.as_millisecond()))
    });
    let counts: Vec<String> = counts.collect();
    let requests = match counts.is_empty() {
        true => String::new(),
        false => metric(
            REQUESTS,
            "counter",
            "[ALPHA] Requests that the Wasm web services of the pod have answered",
            counts.into_iter(),
        ),
    };
    let failed = metric(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        [" 0".to_owned()].into_iter(),
    );
    [
        family("container", &ones),
        starts,
        family("node", node.as_slice()),
        family("pod", &pods),
        requests,
        failed,
    ]
    .concat()
}

/// Processor time and memory of what is of one sort.
fn family(of: &str, measured: &[(String, Sample)]) -> String {
    let at = |sample: &Sample| sample.at.as_millisecond();
    let cpu = metric(
        &format!("{of}_cpu_usage_seconds_total"),
        "counter",
        &format!("[STABLE] Cumulative cpu time consumed by the {of} in core-seconds"),
        measured
            .iter()
            .map(|(labels, one)| format!("{labels} {} {}", one.usage.cpu.as_secs_f64(), at(one))),
    );
    let memory = metric(
        &format!("{of}_memory_working_set_bytes"),
        "gauge",
        &format!("[STABLE] Current working set of the {of} in bytes"),
        measured
            .iter()
            .map(|(labels, one)| format!("{labels} {} {}", one.usage.memory, at(one))),
    );
    cpu + &memory
}

/// In Prometheus' text format.
fn metric(name: &str, kind: &str, help: &str, lines: impl Iterator<Item = String>) -> String {
    let mut text = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    for line in lines {
        text.extend([name, &line, "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_time_used_by_time_passed() {
        let seconds = Duration::from_secs;
        let used = |cpu, requests| Usage {
            memory: 0,
            cpu: seconds(cpu),
            requests,
        };
        let rate = Rate::of(used(10, None), used(13, None), seconds(15)).unwrap();
        assert_eq!((rate.nanocores, rate.millirequests), (200_000_000, None));
        assert_eq!(Rate::of(used(13, None), used(10, None), seconds(15)), None);
        assert_eq!(Rate::of(used(1, None), used(2, None), seconds(0)), None);
        let rate = Rate::of(used(0, Some(100)), used(0, Some(130)), seconds(4)).unwrap();
        assert_eq!(rate.millirequests, Some(7_500));
    }

    #[test]
    fn a_pod_is_the_sum_of_its_containers_once_each_has_a_rate() {
        let sample = |memory, cpu, rate| Sample {
            usage: Usage {
                memory,
                cpu: Duration::from_secs(cpu),
                requests: (memory > 5).then_some(memory),
            },
            at: Timestamp::UNIX_EPOCH,
            at_mono: Instant::now(),
            rate,
        };
        let rate = |nanocores, seconds| {
            Some(Rate {
                nanocores,
                millirequests: None,
                window: Duration::from_secs(seconds),
            })
        };
        let sum = together([sample(5, 1, rate(7, 15)), sample(6, 2, rate(8, 10))].into_iter());
        let sum = sum.unwrap();
        assert_eq!((sum.usage.memory, sum.usage.cpu.as_secs()), (11, 3));
        assert_eq!(sum.rate, rate(15, 15));
        // Only one of the two has a count.
        assert_eq!(sum.usage.requests, Some(6));
        let young = together([sample(5, 1, rate(7, 15)), sample(6, 2, None)].into_iter());
        assert_eq!(young.unwrap().rate, None);
    }
}
