//! Cron schedules: what is wrong with one, and when it is due. Pure.
//!
//! Schedules are those of Kubernetes: five fields or a macro, a time zone, and the rules of the
//! library that Kubernetes reads them with: if both day fields are given, either may match; a time
//! that a clock change skips is not due, and one that it repeats is due twice.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, ToSpan, Zoned, civil, tz::TimeZone};

/// How far ahead to look: a leap day may be eight years away, more finds nothing.
const YEARS: i16 = 8;

#[derive(Debug, Clone)]
pub enum Schedule {
    /// At the minutes that the fields say.
    Times(Box<Times>),
    /// Again and again after this time, at least a second.
    Every(Duration),
}

/// Which minutes, and which of their seconds: bit n of each is set if n is among the field's values.
#[derive(Debug, Clone)]
pub struct Times {
    /// The first one alone, unless the schedule has a field for them.
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the field said `*` or `?`.
    any_day: bool,
    any_weekday: bool,
    zone: TimeZone,
}

struct Field {
    least: u64,
    most: u64,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field {
        least: 0,
        most: 59,
        names: &[],
    },
    Field {
        least: 0,
        most: 23,
        names: &[],
    },
    Field {
        least: 1,
        most: 31,
        names: &[],
    },
    Field {
        least: 1,
        most: 12,
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    Field {
        least: 0,
        most: 6,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

const MACROS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// The zone by its IANA name; if there is none, UTC, which is this host's only clock.
/// The error says that there is none.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    match name {
        "" | "UTC" | "Local" => Ok(TimeZone::UTC),
        name => TimeZone::get(name).map_err(|_error| format!("unknown time zone {name}")),
    }
}

impl Schedule {
    /// Read a schedule, which may begin with a zone (`TZ=…` or `CRON_TZ=…`); else `default` is its
    /// zone. The error says what is wrong with it.
    pub fn parse(text: &str, default: TimeZone) -> Result<Self, String> {
        let mut zone_ = default;
        let mut text = text;
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            let (named, rest) = text
                .split_once(' ')
                .ok_or_else(|| format!("invalid schedule format: {text}"))?;
            let named = named.split_once('=').map_or("", |(_, name)| name);
            zone_ = zone(named).map_err(|why| format!("provided bad location {named}: {why}"))?;
            text = rest.trim();
        }
        if let Some(every) = text.strip_prefix("@every ") {
            let period = period(every).ok_or_else(|| {
                format!("failed to parse duration {text}: time: invalid duration {every:?}")
            })?;
            return Ok(Self::Every(period));
        }
        if text.starts_with('@') {
            let found = MACROS.iter().find(|(name, _)| *name == text);
            text = found
                .ok_or_else(|| format!("unrecognized descriptor: {text}"))?
                .1;
        }
        Self::times(text, zone_, 1)
    }

    /// The same with an optional sixth field in front, for seconds, as EdgeX's schedules may have.
    pub fn parse_with_seconds(text: &str, default: TimeZone) -> Result<Self, String> {
        let named = text.starts_with("TZ=") || text.starts_with("CRON_TZ=");
        let (zone_, fields) = match text.split_once(' ') {
            Some((zone_, fields)) if named => (zone_, fields.trim()),
            _ => ("", text.trim()),
        };
        if fields.starts_with('@') || fields.split_whitespace().count() != FIELDS.len() + 1 {
            return Self::parse(text, default);
        }
        let zone_ = match zone_.split_once('=') {
            None => default,
            Some((_, named)) => {
                zone(named).map_err(|why| format!("provided bad location {named}: {why}"))?
            }
        };
        let (seconds, rest) = fields.split_once(char::is_whitespace).unwrap_or_default();
        // Seconds have the values of minutes.
        Self::times(rest.trim(), zone_, FIELDS[0].bits(seconds)?)
    }

    fn times(text: &str, zone: TimeZone, seconds: u64) -> Result<Self, String> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts[..] else {
            return Err(format!(
                "expected exactly {} fields, found {}: [{}]",
                FIELDS.len(),
                parts.len(),
                parts.join(" ")
            ));
        };
        let [minute, hour, day, month, weekday] = &FIELDS;
        let any = |text: &str| {
            text.split(',').any(|part| {
                matches!(part.split_once('/'), None | Some((_, "1")))
                    && part.starts_with(['*', '?'])
            })
        };
        Ok(Self::Times(Box::new(Times {
            seconds,
            minutes: minute.bits(minutes)?,
            hours: hour.bits(hours)?,
            days: day.bits(days)?,
            months: month.bits(months)?,
            weekdays: weekday.bits(weekdays)?,
            any_day: any(days),
            any_weekday: any(weekdays),
            zone,
        })))
    }

    /// The first time after this one, if ever.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(period) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*period).ok()
            }
            Self::Times(times) => times.next(after),
        }
    }
}

impl Field {
    fn bits(&self, text: &str) -> Result<u64, String> {
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts
            .map(|part| self.range(part))
            .try_fold(0, |all, bits| Ok(all | bits?))
    }

    fn range(&self, text: &str) -> Result<u64, String> {
        let mut halves = text.split('/');
        let (range, step) = (halves.next().unwrap_or_default(), halves.next());
        let more_slashes = halves.next().is_some();
        let mut limits = range.split('-');
        let (first, second) = (limits.next().unwrap_or_default(), limits.next());
        let (start, mut end) = if matches!(first, "*" | "?") {
            (self.least, self.most)
        } else {
            let start = self.number(first)?;
            if limits.next().is_some() {
                return Err(format!("too many hyphens: {text}"));
            }
            let end = second.map_or(Ok(start), |second| self.number(second))?;
            (start, end)
        };
        if more_slashes {
            return Err(format!("too many slashes: {text}"));
        }
        let step = step.map_or(Ok(1), whole)?;
        if second.is_none() && text.contains('/') {
            // `5/10` goes on to the most.
            end = self.most;
        }
        let (least, most) = (self.least, self.most);
        if start < least {
            return Err(format!(
                "beginning of range ({start}) below minimum ({least}): {text}"
            ));
        }
        if end > most {
            return Err(format!(
                "end of range ({end}) above maximum ({most}): {text}"
            ));
        }
        if start > end {
            return Err(format!(
                "beginning of range ({start}) beyond end of range ({end}): {text}"
            ));
        }
        if step == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        let values = (start..=end).step_by(usize::try_from(step).unwrap_or(usize::MAX));
        Ok(values.fold(0, |bits, value| bits | 1 << value))
    }

    fn number(&self, text: &str) -> Result<u64, String> {
        let lower = text.to_lowercase();
        let named = self.names.iter().position(|name| *name == lower);
        match named {
            Some(index) => Ok(self.least + index as u64),
            None => whole(text),
        }
    }
}

fn whole(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    let number = text.parse::<i64>().map_err(|_error| {
        let why = if plain {
            "value out of range"
        } else {
            "invalid syntax"
        };
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}")
    })?;
    u64::try_from(number)
        .map_err(|_error| format!("negative number ({number}) not allowed: {text}"))
}

impl Times {
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        if self.seconds == 1 {
            return self.next_minute(after);
        }
        if self.seconds == 0 {
            return None;
        }
        // The minute that it is may have seconds left.
        let past = i64::from(after.to_zoned(self.zone.clone()).second());
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        let mut before = whole
            .checked_sub(SignedDuration::from_secs(past + 1))
            .ok()?;
        loop {
            let minute = self.next_minute(before)?;
            for second in (0..60).filter(|second| has(self.seconds, *second)) {
                let at = minute.checked_add(SignedDuration::from_secs(second)).ok()?;
                if at > after {
                    return Some(at);
                }
            }
            before = minute;
        }
    }

    /// The first minute after this time.
    fn next_minute(&self, after: Timestamp) -> Option<Timestamp> {
        let from = after.checked_add(SignedDuration::from_mins(1)).ok()?;
        let from = from.to_zoned(self.zone.clone());
        let limit = from.year().saturating_add(YEARS);
        let mut day = from.date();
        // Days first, then minutes: never more than a few thousand steps.
        while day.year() <= limit {
            if self.has_day(day) {
                let found = self.on(day, after);
                if found.is_some() {
                    return found;
                }
            }
            day = day.tomorrow().ok()?;
            if !has(self.months, i64::from(day.month())) {
                day = day.last_of_month().tomorrow().ok()?;
            }
        }
        None
    }

    fn has_day(&self, day: civil::Date) -> bool {
        let weekday = i64::from(day.weekday().to_sunday_zero_offset());
        let (date, weekday) = (
            has(self.days, i64::from(day.day())),
            has(self.weekdays, weekday),
        );
        has(self.months, i64::from(day.month()))
            && match self.any_day || self.any_weekday {
                true => date && weekday,
                false => date || weekday,
            }
    }

    /// The first time of a day that is after another. Real time passes, not the clock's, so that
    /// hours that are skipped or repeated are.
    fn on(&self, day: civil::Date, after: Timestamp) -> Option<Timestamp> {
        let start: Zoned = day.to_zoned(self.zone.clone()).ok()?;
        let mut at = start.timestamp().max(after);
        if at == after {
            // The next whole minute of the clock.
            let clock = after.to_zoned(self.zone.clone());
            let past = i64::from(clock.second());
            let whole = Timestamp::from_second(after.as_second()).ok()?;
            at = whole
                .checked_add(SignedDuration::from_secs(60 - past))
                .ok()?;
        }
        loop {
            let clock = at.to_zoned(self.zone.clone());
            if clock.date() != day {
                return None;
            }
            if !has(self.hours, i64::from(clock.hour())) {
                let left = 60 - i64::from(clock.minute());
                at = at.checked_add(left.minutes()).ok()?;
                continue;
            }
            if has(self.minutes, i64::from(clock.minute())) {
                return Some(at);
            }
            at = at.checked_add(1.minute()).ok()?;
        }
    }
}

fn has(bits: u64, value: i64) -> bool {
    u32::try_from(value).is_ok_and(|value| bits.checked_shr(value).is_some_and(|b| b & 1 == 1))
}

/// `1h30m`, `1.5h`: at least a second, whole seconds.
fn period(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let negative = rest.starts_with('-');
    rest = rest.strip_prefix('-').unwrap_or(rest);
    let mut seconds = 0.0f64;
    if rest == "0" {
        rest = "";
    } else if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let units = [
            ("ns", 1e-9),
            ("us", 1e-6),
            ("µs", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
        ];
        let (unit, factor) = units.into_iter().find(|(unit, _)| tail.starts_with(unit))?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = tail.get(unit.len()..)?;
    }
    let seconds = if negative { 0.0 } else { seconds };
    Duration::try_from_secs_f64(seconds.floor().max(1.0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schedule: &str, zone_name: &str, after: &str, expected: &[&str]) {
        let schedule = Schedule::parse(schedule, zone(zone_name).unwrap()).unwrap();
        let mut at: Timestamp = after.parse().unwrap();
        let mut found = Vec::new();
        for _ in expected {
            match schedule.next(at) {
                Some(next) => {
                    found.push(next.to_string());
                    at = next;
                }
                None => found.push("never".to_owned()),
            }
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn a_sixth_field_in_front_is_seconds() {
        let times = |text: &str, expected: &[&str]| {
            let schedule = Schedule::parse_with_seconds(text, TimeZone::UTC).unwrap();
            let mut at: Timestamp = "2026-01-15T10:07:30.5Z".parse().unwrap();
            for wanted in expected {
                at = schedule.next(at).unwrap();
                assert_eq!(at.to_string(), *wanted, "{text}");
            }
        };
        times(
            "*/20 * * * * *",
            &[
                "2026-01-15T10:07:40Z",
                "2026-01-15T10:08:00Z",
                "2026-01-15T10:08:20Z",
            ],
        );
        times(
            "CRON_TZ=Asia/Kolkata  5 30 6 * * ?",
            &["2026-01-16T01:00:05Z", "2026-01-17T01:00:05Z"],
        );
        times("0 9 * * *", &["2026-01-16T09:00:00Z"]);
        times("TZ=Asia/Taipei 0 9 * * *", &["2026-01-16T01:00:00Z"]);
        times("@hourly", &["2026-01-15T11:00:00Z"]);
        for wrong in [
            "60 * * * * *",
            "x * * * * *",
            "* * * * * * *",
            "TZ=Nowhere 1 * * * * *",
        ] {
            assert!(
                Schedule::parse_with_seconds(wrong, TimeZone::UTC).is_err(),
                "{wrong}"
            );
        }
        let never = Schedule::parse_with_seconds(", * * * * *", TimeZone::UTC).unwrap();
        assert_eq!(never.next(Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn schedules_are_due_when_their_fields_say() {
        let t = |schedule, expected: &[&str]| check(schedule, "", "2026-01-15T10:07:30Z", expected);
        t(
            "*/15 * * * *",
            &["2026-01-15T10:15:00Z", "2026-01-15T10:30:00Z"],
        );
        t(
            "7,8 10 * * ?",
            &["2026-01-15T10:08:00Z", "2026-01-16T10:07:00Z"],
        );
        t("@hourly", &["2026-01-15T11:00:00Z"]);
        t("@daily", &["2026-01-16T00:00:00Z"]);
        t("@weekly", &["2026-01-18T00:00:00Z"]);
        t("@monthly", &["2026-02-01T00:00:00Z"]);
        t("@yearly", &["2027-01-01T00:00:00Z"]);
        t(
            "@every 1h30m",
            &["2026-01-15T11:37:30Z", "2026-01-15T13:07:30Z"],
        );
        t("@every 10ms", &["2026-01-15T10:07:31Z"]);
        t(
            "0 9 * * mon-FRI",
            &["2026-01-16T09:00:00Z", "2026-01-19T09:00:00Z"],
        );
        t(
            "0 0 29 feb *",
            &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"],
        );
        t("0 0 30 2 *", &["never"]);
        t(
            "50/5 0 * * *",
            &["2026-01-16T00:50:00Z", "2026-01-16T00:55:00Z"],
        );
        // Either day field, if both are given.
        t(
            "0 0 16 * sun",
            &["2026-01-16T00:00:00Z", "2026-01-18T00:00:00Z"],
        );
        t(
            "0 0 */2 * sun",
            &["2026-01-17T00:00:00Z", "2026-01-18T00:00:00Z"],
        );
        t("CRON_TZ=Asia/Tokyo 0 9 * * *", &["2026-01-16T00:00:00Z"]);
    }

    #[test]
    fn clocks_that_change_skip_and_repeat() {
        let berlin = |schedule, after, expected: &[&str]| {
            check(schedule, "Europe/Berlin", after, expected);
        };
        berlin(
            "0 9 * * *",
            "2026-01-15T10:00:00Z",
            &["2026-01-16T08:00:00Z"],
        );
        // 29 March has no 02:30.
        let after = "2026-03-28T12:00:00Z";
        berlin("30 2 * * *", after, &["2026-03-30T00:30:00Z"]);
        // 25 October has two.
        let after = "2026-10-24T12:00:00Z";
        berlin(
            "30 2 * * *",
            after,
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"],
        );
        // Half an hour away from whole hours.
        check(
            "0 * * * *",
            "Asia/Kolkata",
            "2026-01-15T10:07:30Z",
            &["2026-01-15T10:30:00Z"],
        );
    }

    #[track_caller]
    fn wrong(text: &str, why: &str) {
        let found = Schedule::parse(text, TimeZone::UTC).map(drop);
        assert_eq!(found, Err(why.to_owned()), "{text}");
    }

    #[test]
    fn what_is_wrong_with_a_schedule_is_said() {
        wrong(
            "not a schedule",
            "expected exactly 5 fields, found 3: [not a schedule]",
        );
        wrong("60 * * * *", "end of range (60) above maximum (59): 60");
        wrong("1-2-3 * * * *", "too many hyphens: 1-2-3");
        wrong("*/1/2 * * * *", "too many slashes: */1/2");
        wrong(
            "*/0 * * * *",
            "step of range should be a positive number: */0",
        );
        wrong(
            "5-1 * * * *",
            "beginning of range (5) beyond end of range (1): 5-1",
        );
        wrong("* * 0 * *", "beginning of range (0) below minimum (1): 0");
        wrong(
            "x * * * *",
            "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax",
        );
        wrong("@never", "unrecognized descriptor: @never");
        wrong(
            "@every x",
            "failed to parse duration @every x: time: invalid duration \"x\"",
        );
        wrong(
            "TZ=Nowhere 0 * * * *",
            "provided bad location Nowhere: unknown time zone Nowhere",
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in ["", "* * * *", "@every "] {
            assert!(Schedule::parse(text, TimeZone::UTC).is_err(), "{text}");
        }
        for text in [
            "0 0 30 2 *",
            "? 0 * * SUN",
            "0 9-17/2 * jan-mar mon,wed",
            "TZ=UTC 0 * * * *",
        ] {
            assert!(Schedule::parse(text, TimeZone::UTC).is_ok(), "{text}");
        }
    }
}
