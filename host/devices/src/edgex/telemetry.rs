//! EdgeX's telemetry: what a service counts, told on `edgex/telemetry/<service>/<metric>`.
//!
//! | service | metric | |
//! |---|---|---|
//! | each device service of a driver | `EventsSent`, `ReadingsSent` | since the host's start |
//! | | `LastConnected-<device>` | when it last said something, in nanoseconds since 1970 |
//! | core-data | `EventsPersisted`, `ReadingsPersisted` | since the host's start |
//!
//! As in EdgeX nothing is told unless a service's settings in core-keeper say so: below
//! `edgex/v4/<service>/Writable/Telemetry`, `Metrics/<name>` is `true` for the metrics whose names
//! begin so, `Interval` says how often (`30s`; `0s` is never), and `Tags/<name>` go with each.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_api::parse_duration;
use eyot_edgex::names;
use eyot_runtime::reading::Event;
use serde_json::{Value as Json, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Edgex, keeper};
use crate::{broker::Message, clock, encode};

const CORE_DATA: &str = "core-data";
/// How often it is looked what is due, and how often the settings are read.
const BEAT: Duration = Duration::from_secs(1);
const SETTINGS: Duration = Duration::from_secs(5);
/// Without an `Interval`; and more often than this nothing is told.
const INTERVAL: Duration = Duration::from_secs(30);
const LEAST: Duration = Duration::from_secs(1);
/// EdgeX's names for the fields of a counter and of a gauge.
const COUNT: &str = "counter-count";
const VALUE: &str = "gauge-value";

/// Events and readings.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counted {
    events: u64,
    readings: u64,
}

impl Counted {
    fn add(&mut self, event: &Event) {
        self.events += 1;
        self.readings += event.readings.len() as u64;
    }
}

/// What was counted since the start.
#[derive(Default)]
pub(crate) struct Counters(Mutex<All>);

#[derive(Default)]
struct All {
    /// By device service.
    sent: HashMap<Arc<str>, Counted>,
    persisted: Counted,
}

impl Counters {
    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A driver's event is on its way to those who listen.
    pub(crate) fn sent(&self, event: &Event) {
        let mut all = self.all();
        match all.sent.get_mut(&event.service) {
            Some(counted) => counted.add(event),
            None => all
                .sent
                .entry(event.service.clone())
                .or_default()
                .add(event),
        }
    }

    /// Events are stored.
    pub(crate) fn persisted<'a>(&self, events: impl IntoIterator<Item = &'a Event>) {
        let mut all = self.all();
        for event in events {
            all.persisted.add(event);
        }
    }
}

/// How a service tells what it counts.
#[derive(Debug, Default, PartialEq)]
struct Settings {
    /// None are told without one.
    metrics: Vec<String>,
    interval: Option<Duration>,
    tags: Vec<(String, String)>,
}

impl Settings {
    /// From what core-keeper has below a service's `Telemetry`.
    fn read(texts: &BTreeMap<String, String>) -> Self {
        let mut settings = Self {
            interval: Some(INTERVAL),
            ..Self::default()
        };
        for (name, text) in texts {
            match name.split_once('/') {
                None if name == "Interval" => {
                    let given = parse_duration(text).unwrap_or(INTERVAL);
                    settings.interval = (!given.is_zero()).then(|| given.max(LEAST));
                }
                Some(("Metrics", metric)) if text == "true" => {
                    settings.metrics.push(metric.to_owned());
                }
                Some(("Tags", tag)) => settings.tags.push((tag.to_owned(), text.clone())),
                _ => {}
            }
        }
        settings
    }

    fn tells(&self, metric: &str) -> bool {
        let mut metrics = self.metrics.iter();
        metrics.any(|wanted| metric.starts_with(wanted.as_str()))
    }
}

/// One metric: its name, its field and that field's value.
type Metric = (String, &'static str, u64);

/// Tell what is due until `stop`.
pub(crate) async fn tell(edgex: Edgex, stop: CancellationToken) {
    let mut told: HashMap<Arc<str>, Instant> = HashMap::new();
    let mut settings: HashMap<Arc<str>, Settings> = HashMap::new();
    let mut read: Option<Instant> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(BEAT) => {}
        }
        let now = Instant::now();
        if read.is_none_or(|read| now - read >= SETTINGS) {
            read = Some(now);
            let mut services = edgex.inner.drivers();
            services.push(CORE_DATA.into());
            match keeper::texts(&edgex, "edgex/v4").await {
                Ok(texts) => settings = of_services(services, &texts),
                Err(failure) => {
                    tracing::debug!(
                        message = failure.message,
                        "no settings of telemetry were read"
                    );
                }
            }
            told.retain(|service, _| settings.contains_key(service));
        }
        for (service, settings) in &settings {
            let Some(every) = settings.interval else {
                continue;
            };
            // The first time after one interval, as in EdgeX.
            let last = *told.entry(service.clone()).or_insert(now);
            if now - last < every {
                continue;
            }
            told.insert(service.clone(), now);
            for metric in metrics(&edgex, service) {
                if settings.tells(&metric.0) {
                    edgex.inner.bus.say(message(service, settings, metric));
                }
            }
        }
    }
}

/// The settings of those services that tell anything.
fn of_services(
    services: Vec<Arc<str>>,
    texts: &BTreeMap<String, String>,
) -> HashMap<Arc<str>, Settings> {
    let with = services.into_iter().map(|service| {
        let below = format!("{service}/Writable/Telemetry/");
        let own = texts.range(below.clone()..).map_while(|(name, text)| {
            let name = name.strip_prefix(&below)?;
            Some((name.to_owned(), text.clone()))
        });
        let settings = Settings::read(&own.collect());
        (service, settings)
    });
    with.filter(|(_, settings)| !settings.metrics.is_empty())
        .collect()
}

fn metrics(edgex: &Edgex, service: &Arc<str>) -> Vec<Metric> {
    let inner = &edgex.inner;
    let counters = inner.bus.counters().all();
    if **service == *CORE_DATA {
        let Counted { events, readings } = counters.persisted;
        return vec![
            ("EventsPersisted".to_owned(), COUNT, events),
            ("ReadingsPersisted".to_owned(), COUNT, readings),
        ];
    }
    let sent = counters.sent.get(service).copied().unwrap_or_default();
    drop(counters);
    let mut metrics = vec![
        ("EventsSent".to_owned(), COUNT, sent.events),
        ("ReadingsSent".to_owned(), COUNT, sent.readings),
    ];
    for device in inner.devices.all_in(&inner.namespace) {
        if *device.spec.service_name != **service {
            continue;
        }
        let key = crate::status::DeviceKey::of(&device.metadata);
        if let Some(time) = inner.board.last_heard(&key) {
            let name = format!("LastConnected-{}", device.edgex_name());
            metrics.push((name, VALUE, time));
        }
    }
    metrics
}

fn message(service: &str, settings: &Settings, (name, field, value): Metric) -> Message {
    let tag = |name: &str, value: &str| json!({ "name": name, "value": value });
    let mut tags: Vec<Json> = settings.tags.iter().map(|(n, v)| tag(n, v)).collect();
    tags.push(tag("service", service));
    let topic = format!(
        "edgex/telemetry/{}/{}",
        names::name(service),
        names::name(&name)
    );
    let payload = json!({
        "apiVersion": "v3",
        "name": name,
        "fields": [{ "name": field, "value": value }],
        "tags": tags,
        "timestamp": clock::nanoseconds(),
    });
    Message {
        topic: topic.into(),
        payload: encode::message(payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_say_which_metrics_are_told_and_how_often() {
        let texts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
                .collect()
        };
        let own = "modbus/Writable/Telemetry";
        let all = texts(&[
            (&format!("{own}/Interval"), "5s"),
            (&format!("{own}/Metrics/LastConnected"), "true"),
            (&format!("{own}/Metrics/EventsSent"), "false"),
            (&format!("{own}/Tags/site"), "north"),
            ("modbus-2/Writable/Telemetry/Metrics/EventsSent", "true"),
        ]);
        let of = of_services(vec!["modbus".into(), "core-data".into()], &all);
        assert_eq!(of.len(), 1);
        let settings = &of["modbus"];
        assert_eq!(settings.interval, Some(Duration::from_secs(5)));
        assert_eq!(settings.tags, [("site".to_owned(), "north".to_owned())]);
        assert!(settings.tells("LastConnected-press-1"));
        assert!(!settings.tells("EventsSent"));
        let never = Settings::read(&texts(&[("Interval", "0s")]));
        assert_eq!(never.interval, None);
        let often = Settings::read(&texts(&[("Interval", "1ms")]));
        assert_eq!(often.interval, Some(LEAST));
    }
}
