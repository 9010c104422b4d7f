//! What somebody said of a device's operating state: a word that lasts, in an annotation, since the
//! status is the host's own and is written anew with what it sees.
//!
//! `DOWN` holds the device down, over restarts too, until somebody says something else. Any other
//! word lifts that and has a device tried at once that does not answer. The time behind the word
//! makes a word that is said again news.

use eyot_api::{Device, OperatingState};

/// The annotation: `DOWN`, `UP` or `UNKNOWN`; what comes after a space is for the reader.
pub(crate) const SAID: &str = "eyot.dev/operating-state";

/// The annotation for a state that is said now.
pub(crate) fn saying(state: &str) -> String {
    let now = jiff::Timestamp::now();
    format!("{state} {now}")
}

/// All of the annotation.
pub(super) fn words(device: &Device) -> Option<&str> {
    let annotations = device.metadata.annotations.as_ref()?;
    annotations.get(SAID).map(String::as_str)
}

/// Whether it is to be down, whatever is seen.
pub(crate) fn held_down(device: &Device) -> bool {
    said(device) == Some(OperatingState::Down)
}

/// The state that clients see: what was said where the host sees nothing.
pub(crate) fn operating_state(device: &Device) -> OperatingState {
    let seen = device.status.as_ref().map(|status| status.operating_state);
    match (said(device), seen.unwrap_or_default()) {
        (Some(OperatingState::Down), _) => OperatingState::Down,
        (Some(said), OperatingState::Unknown) => said,
        (_, seen) => seen,
    }
}

fn said(device: &Device) -> Option<OperatingState> {
    let word = words(device)?.split_whitespace().next()?;
    [
        OperatingState::Up,
        OperatingState::Down,
        OperatingState::Unknown,
    ]
    .into_iter()
    .find(|state| state.as_str().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use eyot_api::{DeviceSpec, DeviceStatus};

    use super::*;

    fn device(said: &str, seen: OperatingState) -> Device {
        let mut device = Device::new("d", DeviceSpec::default());
        device.metadata.annotations = Some([(SAID.to_owned(), said.to_owned())].into());
        device.status = Some(DeviceStatus {
            operating_state: seen,
            ..DeviceStatus::default()
        });
        device
    }

    #[test]
    fn down_is_down_and_other_words_stand_where_nothing_is_seen() {
        use OperatingState::{Down, Unknown, Up};
        for (said, seen, shown) in [
            ("DOWN", Up, Down),
            ("down 2026-01-01T00:00:00Z", Unknown, Down),
            ("UP 2026-01-01T00:00:00Z", Unknown, Up),
            ("UP", Down, Down),
            ("UNKNOWN", Up, Up),
            ("broken", Unknown, Unknown),
            ("", Up, Up),
        ] {
            let device = device(said, seen);
            assert_eq!(operating_state(&device), shown, "{said:?} {seen:?}");
            assert_eq!(
                held_down(&device),
                shown == Down && seen != Down,
                "{said:?}"
            );
        }
        assert!(held_down(&device(&saying("DOWN"), Up)));
    }
}
