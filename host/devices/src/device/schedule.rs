//! When a device's sources are read by themselves.
//!
//! Each source keeps its own beat: the next read is due one interval after the last was *due*, not
//! after it was done, so that a slow device does not make the beat drift. Beats missed while the
//! device was busy are skipped.

use std::{sync::Arc, time::Duration};

use eyot_api::{AutoEvent, DeviceProfile, parse_duration};
use eyot_runtime::reading::{Event, Value};
use tokio::time::Instant;

use crate::{
    retention,
    source::{Plan, plan_matching},
};

/// Shortest interval.
const SHORTEST: Duration = Duration::from_millis(1);
/// Auto-events of one device at most.
const AUTO_EVENTS: usize = 1000;

/// One source that is read by itself.
#[derive(Debug)]
pub(super) struct Timer {
    pub plan: Arc<Plan>,
    pub due: Instant,
    interval: Duration,
    on_change: bool,
    threshold: f64,
    last: Option<Vec<Value>>,
    /// Only an edit helps; not read until then.
    pub broken: bool,
}

/// Make the timers of a device. Wrong auto-events are told apart from the rest, which work.
pub(super) fn timers(
    events: &[AutoEvent],
    profile: &DeviceProfile,
    now: Instant,
) -> (Vec<Timer>, Vec<String>) {
    let (mut timers, mut wrong) = (Vec::new(), Vec::new());
    if events.len() > AUTO_EVENTS {
        wrong.push(format!(
            "autoEvents: only the first {AUTO_EVENTS} of {} are read",
            events.len()
        ));
    }
    for (index, event) in events.iter().take(AUTO_EVENTS).enumerate() {
        if let Err(error) = retention::of(event) {
            wrong.push(format!("autoEvents[{index}]: {error}"));
        }
        match timer(event, profile, now) {
            Ok(timer) => timers.push(timer),
            Err(error) => wrong.push(format!("autoEvents[{index}]: {error}")),
        }
    }
    (timers, wrong)
}

fn timer(event: &AutoEvent, profile: &DeviceProfile, now: Instant) -> Result<Timer, String> {
    let interval = parse_duration(&event.interval).map_err(|error| format!("interval: {error}"))?;
    if interval < SHORTEST {
        return Err(format!("interval: {} is shorter than 1ms", event.interval));
    }
    let plan =
        plan_matching(profile, &event.source_name).map_err(|e| format!("sourceName: {e}"))?;
    Ok(Timer {
        plan: Arc::new(plan),
        due: now,
        interval,
        on_change: event.on_change,
        threshold: event.on_change_threshold.unwrap_or(0.0).abs(),
        last: None,
        broken: false,
    })
}

impl Timer {
    /// The read that was due has been made: set the next beat.
    pub(super) fn advance(&mut self, now: Instant) {
        self.due += self.interval;
        if self.due < now {
            let missed = (now - self.due).as_nanos() / self.interval.as_nanos() + 1;
            let missed = u32::try_from(missed).unwrap_or(u32::MAX);
            self.due += self.interval.saturating_mul(missed);
        }
    }

    /// Whether this event is worth telling.
    pub(super) fn changed(&mut self, event: &Event) -> bool {
        if !self.on_change {
            return true;
        }
        let values: Vec<Value> = event.readings.iter().map(|r| r.value.clone()).collect();
        let changed = match &self.last {
            None => true,
            Some(last) => {
                last.len() != values.len()
                    || last
                        .iter()
                        .zip(&values)
                        .any(|(a, b)| differs(a, b, self.threshold))
            }
        };
        if changed {
            self.last = Some(values);
        }
        changed
    }
}

fn differs(a: &Value, b: &Value, threshold: f64) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) if threshold > 0.0 => (a - b).abs() > threshold,
        _ => a != b,
    }
}

fn number(value: &Value) -> Option<f64> {
    Some(match value {
        Value::Uint8(v) => f64::from(*v),
        Value::Uint16(v) => f64::from(*v),
        Value::Uint32(v) => f64::from(*v),
        Value::Uint64(v) => *v as f64,
        Value::Int8(v) => f64::from(*v),
        Value::Int16(v) => f64::from(*v),
        Value::Int32(v) => f64::from(*v),
        Value::Int64(v) => *v as f64,
        Value::Float32(v) => f64::from(*v),
        Value::Float64(v) => *v,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_beat_is_skipped_and_the_beat_does_not_drift() {
        let profile = DeviceProfile::from_edgex_yaml(
            "{name: p, deviceResources: [{name: T, properties: {valueType: Int16}}]}",
        );
        let profile = profile.unwrap();
        let start = Instant::now();
        let event = AutoEvent {
            interval: "100ms".into(),
            source_name: "T".into(),
            ..AutoEvent::default()
        };
        let (mut timers, wrong) = timers(&[event], &profile, start);
        assert!(wrong.is_empty(), "{wrong:?}");
        let timer = &mut timers[0];
        let at = |millis| start + Duration::from_millis(millis);
        timer.advance(at(30));
        assert_eq!(timer.due, at(100));
        timer.advance(at(450));
        assert_eq!(timer.due, at(500));
        timer.advance(at(500));
        assert_eq!(timer.due, at(600));
    }

    #[test]
    fn wrong_auto_events_are_named_and_do_not_stop_the_others() {
        let profile = DeviceProfile::from_edgex_yaml(
            "{name: p, deviceResources: [{name: T, properties: {valueType: Int16}}]}",
        );
        let event = |interval: &str, source: &str| AutoEvent {
            interval: interval.into(),
            source_name: source.into(),
            ..AutoEvent::default()
        };
        let events = [
            event("1s", "T"),
            event("often", "T"),
            event("1s", "U"),
            event("1us", "T"),
        ];
        let (timers, wrong) = timers(&events, &profile.unwrap(), Instant::now());
        assert_eq!(timers.len(), 1);
        assert!(
            wrong[0].contains("autoEvents[1]") && wrong[0].contains("often"),
            "{wrong:?}"
        );
        assert!(
            wrong[1].contains("autoEvents[2]") && wrong[1].contains('U'),
            "{wrong:?}"
        );
        assert!(wrong[2].contains("shorter than 1ms"), "{wrong:?}");
    }

    #[test]
    fn small_changes_within_the_threshold_are_no_changes() {
        assert!(!differs(&Value::Float64(1.0), &Value::Float64(1.4), 0.5));
        assert!(differs(&Value::Float64(1.0), &Value::Float64(1.6), 0.5));
        assert!(differs(&Value::Int8(1), &Value::Int8(2), 0.0));
        assert!(differs(
            &Value::String("a".into()),
            &Value::String("b".into()),
            9.0
        ));
    }
}
