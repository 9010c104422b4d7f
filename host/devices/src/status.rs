//! Device status: what the devices' tasks have to say, written to the API sparingly.
//!
//! Readings change all the time, and each write ends on a flash disk that wears out. So a change of
//! state is written at once, but readings at most every five seconds per device, only if a value
//! changed, and never more than some dozens of devices a second altogether.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_api::{
    CONDITION_AVAILABLE, Device, DeviceStatus, LastReading, OperatingState, TwinStatus, TwinValue,
};
use eyot_client::{EventType, Key, Recorder};
use eyot_runtime::reading::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{catalog::Cache, clock, value};

/// Least time between two writes of one device's readings.
const PAUSE: Duration = Duration::from_secs(5);
/// Values that stay the same are confirmed this often.
const CONFIRM: Duration = Duration::from_secs(60);
/// How often the board is looked over, and devices written each time at most.
const TICK: Duration = Duration::from_millis(500);
const WRITES: usize = 20;
/// Resources listed in a status, characters of one value there, and of the summary line.
const RESOURCES: usize = 64;
const VALUE: usize = 256;
const SUMMARY: usize = 60;

/// Outcomes of desired values that are held for one device: several times what is brought about.
const TWINS: usize = 1024;

/// What is worth an Event on the device: its type, reason and message.
type News = (EventType, &'static str, String);

/// Which device.
pub(crate) type DeviceKey = Key;

/// Where the devices' tasks leave their news. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Board {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    reports: Mutex<HashMap<DeviceKey, Report>>,
    urgent: Notify,
}

#[derive(Default)]
struct Report {
    state: OperatingState,
    reason: &'static str,
    message: String,
    fault: Option<String>,
    /// What came of each desired value: the value, or why not.
    twins: BTreeMap<String, Result<String, String>>,
    /// The last event of each source.
    latest: BTreeMap<Arc<str>, Arc<Event>>,
    /// What a mapper said of resources, and when (milliseconds): of a device that no driver of ours
    /// reads.
    told: BTreeMap<String, (String, u64)>,
    changed: bool,
    urgent: bool,
    written: Option<(Instant, DeviceStatus)>,
}

impl Board {
    fn reports(&self) -> MutexGuard<'_, HashMap<DeviceKey, Report>> {
        self.inner
            .reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The device is in this state now.
    pub(crate) fn state(
        &self,
        key: &DeviceKey,
        state: OperatingState,
        reason: &'static str,
        message: String,
        fault: Option<String>,
    ) {
        let mut reports = self.reports();
        let report = reports.entry(key.clone()).or_default();
        if report.state == state
            && report.reason == reason
            && report.message == message
            && report.fault == fault
        {
            return;
        }
        // The text of an error may change with every try; the state is what is urgent.
        report.urgent |= report.state != state || report.reason != reason;
        report.changed = true;
        (report.state, report.reason) = (state, reason);
        (report.message, report.fault) = (message, fault);
        if report.urgent {
            self.inner.urgent.notify_one();
        }
    }

    /// Somebody else may have written the status: write it again, whatever was written.
    pub(crate) fn rewrite(&self, key: &DeviceKey) {
        if let Some(report) = self.reports().get_mut(key) {
            report.written = None;
            report.changed = true;
        }
    }

    /// The device was brought to a desired value, or could not be.
    pub(crate) fn twin(&self, key: &DeviceKey, property: String, outcome: Result<String, String>) {
        let mut reports = self.reports();
        if let Some(report) = reports.get_mut(key) {
            report.changed = true;
            // Those that nobody wants any more go too; the others are told again in time.
            if report.twins.len() >= TWINS {
                report.twins.clear();
            }
            report.twins.insert(property, outcome);
        }
    }

    /// Somebody who can see the device says that a resource has this value, at this time in
    /// milliseconds.
    pub(crate) fn reported(&self, key: &DeviceKey, resource: &str, value: String, time: u64) {
        let mut reports = self.reports();
        let Some(report) = reports.get_mut(key) else {
            return;
        };
        if report.told.len() >= TWINS {
            report.told.clear();
        }
        report
            .told
            .insert(resource.to_owned(), (cut(&value, VALUE), time));
        report.changed = true;
    }

    /// What each resource of a device was last, and when (milliseconds).
    pub(crate) fn actual(&self, key: &DeviceKey) -> BTreeMap<String, (String, u64)> {
        let reports = self.reports();
        let Some(report) = reports.get(key) else {
            return BTreeMap::new();
        };
        let mut actual = report.told.clone();
        for reading in report.latest.values().flat_map(|event| &event.readings) {
            let time = reading.origin / 1_000_000;
            if actual
                .get(&reading.resource)
                .is_none_or(|(_, known)| *known <= time)
            {
                let value = cut(&value::display(&reading.value), VALUE);
                actual.insert(reading.resource.clone(), (value, time));
            }
        }
        actual
    }

    /// When a device said something last, in nanoseconds since 1970; `None` if it has not since the
    /// start.
    pub(crate) fn last_heard(&self, key: &DeviceKey) -> Option<u64> {
        let reports = self.reports();
        let latest = reports.get(key)?.latest.values();
        latest.map(|event| event.origin).max()
    }

    /// The device said this.
    pub(crate) fn event(&self, key: &DeviceKey, event: &Arc<Event>) {
        let mut reports = self.reports();
        let Some(report) = reports.get_mut(key) else {
            return;
        };
        report.changed = true;
        report.latest.insert(event.source.clone(), event.clone());
    }

    /// The device is gone.
    pub(crate) fn forget(&self, key: &DeviceKey) {
        self.reports().remove(key);
    }

    /// Write the news until `stop` is cancelled.
    pub(crate) async fn run(
        &self,
        client: kube::Client,
        recorder: Recorder,
        devices: Cache<Device>,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.urgent.notified() => {}
                () = tokio::time::sleep(TICK) => {}
            }
            for key in self.due(Instant::now()) {
                if let Some(device) = devices.get(&key.namespace, &key.name) {
                    self.write(&client, &recorder, &key, &device).await;
                }
            }
        }
    }

    fn due(&self, now: Instant) -> Vec<DeviceKey> {
        let reports = self.reports();
        let changed = || reports.iter().filter(|(_, report)| report.changed);
        let urgent = changed().filter(|(_, report)| report.urgent);
        let rested = changed().filter(|(_, report)| {
            let since = report.written.as_ref().map(|(written, _)| now - *written);
            !report.urgent && since.is_none_or(|since| since >= PAUSE)
        });
        urgent
            .chain(rested.take(WRITES))
            .map(|(key, _)| key.clone())
            .collect()
    }

    async fn write(
        &self,
        client: &kube::Client,
        recorder: &Recorder,
        key: &DeviceKey,
        device: &Device,
    ) {
        let Some((status, news)) = self.take(key, device) else {
            return;
        };
        let api: Api<Device> = Api::namespaced(client.clone(), &key.namespace);
        let patch = serde_json::json!({ "status": complete(&status) });
        match api
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(_) => {
                if let Some((kind, reason, message)) = news {
                    recorder
                        .event(&device.object_ref(&()), kind, reason, &message)
                        .await;
                }
            }
            Err(kube::Error::Api(error)) if error.code == 404 => {}
            Err(error) => {
                tracing::warn!(device = %key.name, %error, "device status was not written");
                if let Some(report) = self.reports().get_mut(key) {
                    // Not urgent again: that would be a tight loop while the API is away.
                    (report.changed, report.written) = (true, None);
                }
            }
        }
    }

    /// Take the status to write, if it says anything new, and the event that goes with it.
    fn take(&self, key: &DeviceKey, device: &Device) -> Option<(DeviceStatus, Option<News>)> {
        let mut reports = self.reports();
        let report = reports.get_mut(key)?;
        report.changed = false;
        let urgent = std::mem::take(&mut report.urgent);
        let now = Instant::now();
        let earlier = report
            .written
            .as_ref()
            .map(|(_, status)| status)
            .or(device.status.as_ref());
        let status = render(report, device, earlier);
        if let Some((written, last)) = &report.written
            && timeless(last) == timeless(&status)
            && now - *written < CONFIRM
        {
            return None;
        }
        report.written = Some((now, status.clone()));
        let news = urgent.then(|| match report.state {
            OperatingState::Up => (
                EventType::Normal,
                "DeviceUp",
                "the device is served".to_owned(),
            ),
            OperatingState::Down => (EventType::Warning, "DeviceDown", report.message.clone()),
            OperatingState::Unknown => (EventType::Warning, report.reason, report.message.clone()),
        });
        Some((status, news))
    }
}

/// With nulls for what is absent, so that a merge patch removes it.
fn complete(status: &DeviceStatus) -> serde_json::Value {
    let mut json = serde_json::to_value(status).unwrap_or_default();
    for field in ["lastError", "lastConnected", "twins"] {
        if json.get(field).is_none() {
            json[field] = serde_json::Value::Null;
        }
    }
    json
}

/// The part of a status whose change is worth a write.
fn timeless(status: &DeviceStatus) -> DeviceStatus {
    let mut status = status.clone();
    status.last_connected = None;
    status
        .last_readings
        .iter_mut()
        .for_each(|reading| reading.time = None);
    status
}

fn render(report: &Report, device: &Device, earlier: Option<&DeviceStatus>) -> DeviceStatus {
    let mut readings: BTreeMap<&str, (u64, LastReading)> = BTreeMap::new();
    for event in report.latest.values() {
        for reading in &event.readings {
            let known = readings.get(reading.resource.as_str());
            if known.is_some_and(|(origin, _)| *origin > reading.origin) {
                continue;
            }
            let last = LastReading {
                resource: reading.resource.clone(),
                value: cut(&value::display(&reading.value), VALUE),
                units: reading.units.clone(),
                time: clock::kubernetes(reading.origin),
            };
            readings.insert(&reading.resource, (reading.origin, last));
        }
    }
    let twins = twins(report, device, |resource| {
        let read = readings.get(resource).map(|(_, last)| &last.value);
        let told = || report.told.get(resource).map(|(value, _)| value);
        read.or_else(told).cloned()
    });
    let mut last_readings: Vec<LastReading> = readings
        .into_values()
        .map(|(_, last)| last)
        .take(RESOURCES)
        .collect();
    if last_readings.is_empty() {
        // After a restart, what was known before is better than nothing.
        last_readings = earlier
            .map(|status| status.last_readings.clone())
            .unwrap_or_default();
    }
    let connected = report.latest.values().map(|event| event.origin).max();
    DeviceStatus {
        operating_state: report.state,
        last: summary(&last_readings),
        last_readings,
        twins,
        last_connected: connected
            .and_then(clock::kubernetes)
            .or_else(|| earlier.and_then(|status| status.last_connected.clone())),
        last_error: match report.state {
            OperatingState::Up => report.fault.clone(),
            _ => Some(report.message.clone()),
        },
        conditions: vec![condition(report, device, earlier)],
    }
}

fn twins(
    report: &Report,
    device: &Device,
    reported: impl Fn(&str) -> Option<String>,
) -> Vec<TwinStatus> {
    let wanted = device.spec.desired.keys();
    let told = report.told.keys();
    let told = told.filter(|name| !device.spec.desired.contains_key(*name));
    wanted
        .chain(told)
        .map(|name| {
            let outcome = report.twins.get(name);
            let value = |value: &String| TwinValue {
                value: cut(value, VALUE),
            };
            TwinStatus {
                property_name: name.clone(),
                observed_desired: outcome.and_then(|o| o.as_ref().ok()).map(value),
                reported: reported(name).as_ref().map(value),
                error: outcome
                    .and_then(|o| o.as_ref().err())
                    .map(|e| cut(e, VALUE)),
            }
        })
        .collect()
}

fn condition(report: &Report, device: &Device, earlier: Option<&DeviceStatus>) -> Condition {
    let status = match report.state {
        OperatingState::Up => "True",
        OperatingState::Down => "False",
        OperatingState::Unknown => "Unknown",
    };
    let before = earlier.and_then(|status| {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == CONDITION_AVAILABLE)
    });
    let since = before.filter(|before| before.status == status);
    Condition {
        type_: CONDITION_AVAILABLE.to_owned(),
        status: status.to_owned(),
        reason: report.reason.to_owned(),
        message: report.message.clone(),
        last_transition_time: since
            .map(|before| before.last_transition_time.clone())
            .or_else(|| clock::kubernetes(clock::nanoseconds()))
            .unwrap_or(Time(jiff::Timestamp::UNIX_EPOCH)),
        observed_generation: device.metadata.generation,
    }
}

/// The readings in one line: `Temperature=23.4 °C, Pressure=2.1 bar, …`
fn summary(readings: &[LastReading]) -> String {
    let mut line = String::new();
    for reading in readings {
        let separator = if line.is_empty() { "" } else { ", " };
        let space = if reading.units.is_empty() { "" } else { " " };
        let value = cut(&reading.value, 24);
        let one = format!(
            "{separator}{}={value}{space}{}",
            reading.resource, reading.units
        );
        if line.chars().count() + one.chars().count() > SUMMARY && !line.is_empty() {
            line.push_str(", …");
            break;
        }
        line.push_str(&one);
    }
    line
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(resource: &str, value: &str, units: &str) -> LastReading {
        LastReading {
            resource: resource.into(),
            value: value.into(),
            units: units.into(),
            time: None,
        }
    }

    #[test]
    fn the_summary_is_one_short_line() {
        let readings = [reading("Heat", "23.4", "°C"), reading("Mode", "on", "")];
        assert_eq!(summary(&readings), "Heat=23.4 °C, Mode=on");
        let many: Vec<_> = (0..40)
            .map(|i| reading(&format!("R{i}"), "1", ""))
            .collect();
        let line = summary(&many);
        assert!(
            line.ends_with(", …") && line.chars().count() <= SUMMARY + 3,
            "{line}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn readings_are_written_at_most_every_five_seconds_and_states_at_once() {
        let board = Board::default();
        let key = DeviceKey {
            namespace: "default".into(),
            name: "d".into(),
        };
        let device = Device::new("d", eyot_api::DeviceSpec::default());
        board.state(&key, OperatingState::Up, "Answers", String::new(), None);
        assert_eq!(board.due(Instant::now()), std::slice::from_ref(&key));
        assert!(board.take(&key, &device).is_some());
        assert!(board.due(Instant::now()).is_empty());

        let event = Arc::new(Event {
            id: String::new(),
            service: "s".into(),
            device: "d".into(),
            profile: "p".into(),
            source: "T".into(),
            origin: 1,
            readings: vec![],
            tags: vec![],
        });
        board.event(&key, &event);
        assert!(board.due(Instant::now()).is_empty());
        tokio::time::advance(PAUSE).await;
        assert_eq!(board.due(Instant::now()), std::slice::from_ref(&key));

        board.state(
            &key,
            OperatingState::Down,
            "NoAnswer",
            "timeout".into(),
            None,
        );
        assert_eq!(board.due(Instant::now()), std::slice::from_ref(&key));
        let (status, news) = board.take(&key, &device).unwrap_or_default();
        assert_eq!(status.last_error.as_deref(), Some("timeout"));
        assert_eq!(news.map(|news| news.1), Some("DeviceDown"));
    }
}
