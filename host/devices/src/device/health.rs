//! When a device that fails counts as down, and when it is tried again.

use std::{collections::BTreeMap, time::Duration};

use eyot_api::parse_duration;
use serde_json::Value as Json;

use crate::source::plain;

/// Longest time between two tries, whatever is asked for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What EdgeX sets for a whole device service, and here for one device too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Health {
    /// So many requests in a row must fail before the device is down; 0: as many as will.
    pub allowed_fails: u32,
    /// When to try a device again that is down; with growing delays if nothing is said.
    pub down_timeout: Option<Duration>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            allowed_fails: 1,
            down_timeout: None,
        }
    }
}

impl Health {
    /// `AllowedFails` and `DeviceDownTimeout` (seconds, or a duration such as `500ms`) among these
    /// properties, the first that has one. What is no number, and a timeout of zero, says nothing.
    pub(crate) fn of(properties: &[&BTreeMap<String, Json>]) -> Self {
        let text = |name: &str| {
            let all = properties.iter();
            all.filter_map(|some| some.get(name)).map(plain).next()
        };
        let fails = text("AllowedFails").and_then(|text| text.trim().parse::<u32>().ok());
        let timeout = text("DeviceDownTimeout").and_then(|text| {
            let seconds = text.trim().parse().map(Duration::from_secs);
            seconds.ok().or_else(|| parse_duration(&text).ok())
        });
        Self {
            allowed_fails: fails.unwrap_or(1),
            down_timeout: timeout
                .filter(|timeout| !timeout.is_zero())
                .map(|timeout| timeout.min(LONGEST)),
        }
    }

    /// Whether a device is still up after so many requests in a row without an answer.
    pub(super) fn tolerates(self, fails: u32) -> bool {
        self.allowed_fails == 0 || fails < self.allowed_fails
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn properties(json: Json) -> BTreeMap<String, Json> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_devices_own_properties_come_before_its_services() {
        let device = properties(json!({ "AllowedFails": "3" }));
        let service = properties(json!({ "AllowedFails": 9, "DeviceDownTimeout": 5 }));
        let health = Health::of(&[&device, &service]);
        assert_eq!(health.allowed_fails, 3);
        assert_eq!(health.down_timeout, Some(Duration::from_secs(5)));
    }

    #[test]
    fn no_failures_allowed_is_all_of_them() {
        let never = properties(json!({ "AllowedFails": 0 }));
        let health = Health::of(&[&never]);
        assert!(health.tolerates(u32::MAX));
        assert!(!Health::default().tolerates(1));
        let thrice = properties(json!({ "AllowedFails": 3 }));
        let health = Health::of(&[&never, &thrice]);
        assert!(health.tolerates(4), "the device's own comes first");
        let health = Health::of(&[&thrice]);
        assert!(health.tolerates(2) && !health.tolerates(3));
    }

    #[test]
    fn nothing_zero_and_nonsense_are_the_default() {
        let nothing = properties(json!({}));
        assert_eq!(Health::of(&[&nothing]), Health::default());
        let odd = properties(json!({ "AllowedFails": -1, "DeviceDownTimeout": "0s" }));
        assert_eq!(Health::of(&[&odd]), Health::default());
        let short = properties(json!({ "DeviceDownTimeout": "500ms" }));
        let timeout = Health::of(&[&short]).down_timeout;
        assert_eq!(timeout, Some(Duration::from_millis(500)));
    }
}
