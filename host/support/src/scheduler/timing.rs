//! When a job is due. Pure.
//!
//! An interval is counted from the job's start, or else from when the job was last changed, so its
//! times are the same in every life of the host. A cron schedule is read as Kubernetes reads those of
//! CronJobs, with an optional field for seconds.

use eyot_api::{ScheduleDefinition, ScheduleType, YearlyWindow, cron::Schedule, parse_duration};
use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// The shortest interval: every run is a row on the disk.
const LEAST: i64 = 10;
/// Windows that are looked through for a time that is due; more than one is needed only if none is.
const WINDOWS: usize = 10;

/// When a job is due. Times are milliseconds since 1970.
#[derive(Debug, Clone)]
pub(super) struct Timing {
    rhythm: Rhythm,
    start: Option<i64>,
    end: Option<i64>,
    window: Option<YearlyWindow>,
}

#[derive(Debug, Clone)]
enum Rhythm {
    /// Milliseconds.
    Every(i64),
    At(Schedule),
}

impl Timing {
    /// Read a definition; the error says what is wrong with it.
    pub(super) fn of(definition: &ScheduleDefinition) -> Result<Self, String> {
        let rhythm = match definition.kind {
            ScheduleType::Interval => {
                let text = definition.interval.as_deref().unwrap_or_default();
                let every = parse_duration(text).map_err(|error| error.to_string())?;
                let every = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
                if every < LEAST {
                    return Err(format!("interval {text}: {LEAST}ms is the shortest"));
                }
                Rhythm::Every(every)
            }
            ScheduleType::Cron => {
                let text = definition.crontab.as_deref().unwrap_or_default();
                let schedule = Schedule::parse_with_seconds(text, TimeZone::UTC);
                Rhythm::At(schedule.map_err(|why| format!("crontab {text:?}: {why}"))?)
            }
        };
        // EdgeX writes 0 for none.
        let given = |time: Option<i64>| time.filter(|time| *time > 0);
        let (start, end) = (
            given(definition.start_timestamp),
            given(definition.end_timestamp),
        );
        if let Some(end) = end
            && start.is_some_and(|start| end < start)
        {
            return Err("endTimestamp must be greater than startTimestamp".to_owned());
        }
        let window = definition.active_yearly_time_window;
        if let Some(window) = &window {
            check(window)?;
        }
        Ok(Self {
            rhythm,
            start,
            end,
            window,
        })
    }

    /// The first time after `after` at which the job is due, if ever. `changed` is when the job was
    /// last changed.
    pub(super) fn next(&self, after: i64, changed: i64) -> Option<i64> {
        let mut after = after;
        for _ in 0..WINDOWS {
            let next = self.rhythm(after, changed)?;
            if self.end.is_some_and(|end| next > end) {
                return None;
            }
            match self
                .window
                .as_ref()
                .and_then(|window| opening(window, next))
            {
                None => return Some(next),
                Some(opening) => after = opening - 1,
            }
        }
        None
    }

    /// Milliseconds between two times, if these are always the same.
    pub(super) fn interval(&self) -> Option<i64> {
        match self.rhythm {
            Rhythm::Every(every) => Some(every),
            Rhythm::At(_) => None,
        }
    }

    /// The same without a window and an end.
    fn rhythm(&self, after: i64, changed: i64) -> Option<i64> {
        match &self.rhythm {
            Rhythm::Every(every) => match self.start {
                Some(start) if after < start => Some(start),
                start => {
                    let from = start.unwrap_or(changed);
                    let times = after.checked_sub(from)?.div_euclid(*every) + 1;
                    from.checked_add(times.checked_mul(*every)?)
                }
            },
            Rhythm::At(schedule) => {
                let after = self.start.map_or(after, |start| after.max(start - 1));
                let after = Timestamp::from_millisecond(after).ok()?;
                Some(schedule.next(after)?.as_millisecond())
            }
        }
    }
}

fn check(window: &YearlyWindow) -> Result<(), String> {
    for (called, month, day) in [
        ("start", window.start_month, window.start_day),
        ("end", window.end_month, window.end_day),
    ] {
        let most = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            // It may be a leap year.
            2 => 29,
            _ => 0,
        };
        if !(1..=most).contains(&day) {
            return Err(format!(
                "invalid {called} date {month}/{day}: day out of range for month"
            ));
        }
    }
    Ok(())
}

/// When a window opens next, if it is closed at this time.
fn opening(window: &YearlyWindow, at: i64) -> Option<i64> {
    let day = Timestamp::from_millisecond(at).ok()?;
    let day = day.to_zoned(TimeZone::UTC).date();
    let here = (i64::from(day.month()), i64::from(day.day()));
    let start = (window.start_month, window.start_day);
    let end = (window.end_month, window.end_day);
    let open = match start <= end {
        true => (start..=end).contains(&here),
        false => here >= start || here <= end,
    };
    if open {
        return None;
    }
    // Closed, so the next opening is later this year or in the next; 29 February may be years away.
    (0..=8).find_map(|years| {
        let month = i8::try_from(window.start_month).ok()?;
        let date = i8::try_from(window.start_day).ok()?;
        let opens = Date::new(day.year().checked_add(years)?, month, date).ok()?;
        let opens = opens.to_zoned(TimeZone::UTC).ok()?.timestamp();
        Some(opens.as_millisecond()).filter(|opens| *opens > at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn every(interval: &str) -> ScheduleDefinition {
        ScheduleDefinition {
            kind: ScheduleType::Interval,
            interval: Some(interval.to_owned()),
            ..ScheduleDefinition::default()
        }
    }

    fn cron(crontab: &str) -> ScheduleDefinition {
        ScheduleDefinition {
            kind: ScheduleType::Cron,
            crontab: Some(crontab.to_owned()),
            ..ScheduleDefinition::default()
        }
    }

    #[track_caller]
    fn check(definition: &ScheduleDefinition, after: i64, expected: &[i64]) {
        let timing = Timing::of(definition).unwrap();
        let mut at = after;
        for wanted in expected {
            at = timing.next(at, 1000).unwrap();
            assert_eq!(at, *wanted);
        }
    }

    #[test]
    fn an_interval_is_counted_from_the_change_or_the_start() {
        check(&every("5s"), 1000, &[6000, 11000]);
        check(&every("5s"), 60_500, &[61_000]);
        // Before the change, as after a clock that was set back: never longer than the interval.
        check(&every("5s"), -7000, &[-4000]);
        let mut late = every("1h");
        late.start_timestamp = Some(10_000_000);
        check(&late, 1000, &[10_000_000, 13_600_000]);
        late.end_timestamp = Some(13_600_000);
        let timing = Timing::of(&late).unwrap();
        assert_eq!(timing.next(10_000_000, 0), Some(13_600_000));
        assert_eq!(timing.next(13_600_000, 0), None);
        late.end_timestamp = Some(5);
        assert!(Timing::of(&late).unwrap_err().contains("greater than"));
    }

    #[test]
    fn a_crontab_has_a_zone_and_begins_at_its_start() {
        let mut daily = cron("CRON_TZ=Asia/Taipei 0 6 * * ?");
        let after = ms("2026-03-01T00:00:00Z");
        check(&daily, after, &[ms("2026-03-01T22:00:00Z")]);
        daily.start_timestamp = Some(ms("2026-03-05T22:00:00Z"));
        check(
            &daily,
            after,
            &[ms("2026-03-05T22:00:00Z"), ms("2026-03-06T22:00:00Z")],
        );
    }

    #[test]
    fn outside_its_window_a_job_is_not_due() {
        let window = |from: (i64, i64), to: (i64, i64)| YearlyWindow {
            start_month: from.0,
            start_day: from.1,
            end_month: to.0,
            end_day: to.1,
        };
        let mut daily = cron("0 12 * * *");
        daily.active_yearly_time_window = Some(window((11, 15), (2, 10)));
        let last = ms("2026-02-10T12:00:00Z");
        check(
            &daily,
            ms("2026-02-09T13:00:00Z"),
            &[last, ms("2026-11-15T12:00:00Z")],
        );
        let mut leap = every("24h");
        leap.active_yearly_time_window = Some(window((2, 29), (2, 29)));
        let timing = Timing::of(&leap).unwrap();
        let next = timing.next(ms("2026-03-01T00:00:00Z"), 0).unwrap();
        assert_eq!(next, ms("2028-02-29T00:00:00Z"));
        for wrong in [
            window((2, 30), (3, 1)),
            window((0, 1), (1, 1)),
            window((1, 1), (4, 31)),
        ] {
            leap.active_yearly_time_window = Some(wrong);
            assert!(
                Timing::of(&leap).unwrap_err().contains("day out of range"),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn what_is_never_due_ends_the_search_and_what_is_wrong_is_named() {
        assert_eq!(Timing::of(&cron("0 0 30 2 *")).unwrap().next(0, 0), None);
        let last = Timing::of(&every("9223372036s")).unwrap();
        assert_eq!(last.next(i64::MAX, i64::MIN), None);
        for (wrong, said) in [
            (every(""), "not a duration"),
            (every("1ms"), "shortest"),
            (cron("* *"), "expected exactly 5 fields"),
            (cron("TZ=Nowhere * * * * *"), "unknown time zone Nowhere"),
        ] {
            let error = Timing::of(&wrong).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
