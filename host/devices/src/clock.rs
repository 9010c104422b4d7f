//! The wall clock, in the unit of readings.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Nanoseconds since 1970-01-01T00:00:00Z.
pub(crate) fn nanoseconds() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The same instant as Kubernetes writes it: whole seconds.
pub(crate) fn kubernetes(nanoseconds: u64) -> Option<Time> {
    let seconds = i64::try_from(nanoseconds / 1_000_000_000).ok()?;
    Timestamp::from_second(seconds).ok().map(Time)
}
