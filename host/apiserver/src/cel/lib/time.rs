//! Timestamps and durations: reading, spelling, and what can be asked of them.

use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};

use super::{
    super::{EvalError, Value},
    Function, cost, no_overload,
};

const OF_TIME: &str = ".timestamp->int;.timestamp,string->int";
const OF_BOTH: &str = ".timestamp->int;.timestamp,string->int;.duration->int";

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new("getFullYear", OF_TIME, cost::one, |args| {
        part(args, |at| i64::from(at.year()))
    }),
    Function::new("getMonth", OF_TIME, cost::one, |args| {
        part(args, |at| i64::from(at.month()) - 1)
    }),
    Function::new("getDate", OF_TIME, cost::one, |args| {
        part(args, |at| i64::from(at.day()))
    }),
    Function::new("getDayOfMonth", OF_TIME, cost::one, |args| {
        part(args, |at| i64::from(at.day()) - 1)
    }),
    Function::new("getDayOfWeek", OF_TIME, cost::one, |args| {
        part(args, |at| i64::from(at.weekday().to_sunday_zero_offset()))
    }),
    Function::new("getDayOfYear", OF_TIME, cost::one, |args| {
        part(args, |at| i64::from(at.day_of_year()) - 1)
    }),
    Function::new("getHours", OF_BOTH, cost::one, |args| match args {
        [Value::Duration(value)] => Ok(Value::Int(value.as_secs() / 3600)),
        _ => part(args, |at| i64::from(at.hour())),
    }),
    Function::new("getMinutes", OF_BOTH, cost::one, |args| match args {
        [Value::Duration(value)] => Ok(Value::Int(value.as_secs() / 60)),
        _ => part(args, |at| i64::from(at.minute())),
    }),
    Function::new("getSeconds", OF_BOTH, cost::one, |args| match args {
        [Value::Duration(value)] => Ok(Value::Int(value.as_secs())),
        _ => part(args, |at| i64::from(at.second())),
    }),
    Function::new("getMilliseconds", OF_BOTH, cost::one, |args| match args {
        [Value::Duration(value)] => Ok(Value::Int(i64::from(value.subsec_millis()))),
        _ => part(args, |at| i64::from(at.millisecond())),
    }),
];

/// A part of a timestamp in UTC, or in the zone that the second argument names.
fn part<'a>(args: &[Value<'a>], of: fn(&Zoned) -> i64) -> Result<Value<'a>, EvalError> {
    let (at, zone) = match args {
        [Value::Timestamp(at)] => (at, TimeZone::UTC),
        [Value::Timestamp(at), Value::String(name)] => (at, zone(name)?),
        _ => return no_overload(),
    };
    Ok(Value::Int(of(&at.to_zoned(zone))))
}

/// `Europe/Paris`, or an offset: `-08:00`, `+01:30`.
fn zone(name: &str) -> Result<TimeZone, EvalError> {
    let unknown = || EvalError::new(format!("unknown time zone {name}"));
    let Some((hours, minutes)) = name.split_once(':') else {
        return TimeZone::get(name).map_err(|_error| unknown());
    };
    let number = |text: &str| text.parse::<i32>().map_err(|_error| unknown());
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if !(-24..=24).contains(&hours) || !(0..60).contains(&minutes) {
        return Err(unknown());
    }
    let minutes = if name.starts_with('-') {
        -minutes
    } else {
        minutes
    };
    let offset = jiff::tz::Offset::from_seconds((hours * 60 + minutes) * 60);
    offset.map(TimeZone::fixed).map_err(|_error| unknown())
}

/// RFC 3339 in UTC with as much of the second as there is.
pub(super) fn timestamp_text(at: Timestamp) -> String {
    at.to_string()
}

/// RFC 3339.
pub(in super::super) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Go's durations.
pub(in super::super) fn parse_duration(text: &str) -> Option<SignedDuration> {
    super::super::json::duration(text)
}

/// As CEL spells durations: seconds, `5400s`, `0.5s`.
pub(in super::super) fn duration_text(value: SignedDuration) -> String {
    let nanos = value.as_nanos();
    let sign = if nanos < 0 { "-" } else { "" };
    let (whole, part) = (
        nanos.unsigned_abs() / 1_000_000_000,
        nanos.unsigned_abs() % 1_000_000_000,
    );
    if part == 0 {
        return format!("{sign}{whole}s");
    }
    let part = format!("{part:09}");
    format!("{sign}{whole}.{}s", part.trim_end_matches('0'))
}
