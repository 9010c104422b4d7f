//! What a device's task is in the middle of, and what an outcome of a driver call makes of it.
//! Pure: the actor does what the state says.

use eyot_runtime::guest::DriverError;
use tokio::time::Instant;

use crate::backoff::Backoff;

/// See the diagram in [`super`].
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// Nobody serves it: why.
    Unbound(String),
    /// Somebody said that it is down: it is left alone until somebody says something else.
    Held,
    /// A session is to be opened.
    Opening,
    Up,
    /// It did not answer: why, and when to try again.
    Down {
        reason: String,
        until: Instant,
    },
    /// Only an edit helps: what is wrong.
    Invalid(String),
}

/// What is to become of the session and of the request after a driver call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The device is alive; this request is not for it.
    Alive,
    /// The device is alive; this request will not work before an edit.
    NeverAgain,
    /// The device does not answer; the session stands.
    Silent,
    /// The session is dead.
    Dead,
}

/// Judge the failure of a read or a write.
pub(super) fn judge(error: &DriverError) -> Verdict {
    match error {
        DriverError::Unreachable(_) | DriverError::Timeout(_) | DriverError::Garbled(_) => {
            Verdict::Silent
        }
        DriverError::Invalid { .. } | DriverError::NotSupported(_) => Verdict::NeverAgain,
        DriverError::Protocol { .. } | DriverError::Other(_) => Verdict::Alive,
        DriverError::Trapped(_) => Verdict::Dead,
    }
}

impl State {
    /// Opening failed.
    pub(super) fn not_opened(error: &DriverError, backoff: &mut Backoff, now: Instant) -> Self {
        match judge(error) {
            Verdict::NeverAgain => Self::Invalid(error.to_string()),
            _ => Self::Down {
                reason: error.to_string(),
                until: now + backoff.next(),
            },
        }
    }

    /// A call failed on an open session.
    pub(super) fn failed(self, error: &DriverError, backoff: &mut Backoff, now: Instant) -> Self {
        match judge(error) {
            Verdict::Alive | Verdict::NeverAgain => self.answered(backoff),
            Verdict::Silent | Verdict::Dead => Self::Down {
                reason: error.to_string(),
                until: now + backoff.next(),
            },
        }
    }

    /// The device answered, whatever it said.
    pub(super) fn answered(self, backoff: &mut Backoff) -> Self {
        backoff.reset();
        Self::Up
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn backoff() -> Backoff {
        Backoff::new(Duration::from_secs(1), Duration::from_secs(60))
    }

    #[tokio::test(start_paused = true)]
    async fn silence_takes_a_device_down_and_an_answer_brings_it_up() {
        let (mut backoff, now) = (backoff(), Instant::now());
        let down = State::Up.failed(&DriverError::Timeout("5s".into()), &mut backoff, now);
        let State::Down { until, ref reason } = down else {
            panic!("{down:?}")
        };
        assert!(until > now && reason.contains("5s"));
        assert_eq!(down.answered(&mut backoff), State::Up);
        assert_eq!(backoff.failures(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_answer_is_an_answer() {
        let error = DriverError::Protocol {
            code: 2,
            message: "illegal data address".into(),
        };
        assert_eq!(
            State::Up.failed(&error, &mut backoff(), Instant::now()),
            State::Up
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_setting_is_not_tried_again() {
        let error = DriverError::Invalid {
            field: "protocols".into(),
            message: "none".into(),
        };
        let state = State::not_opened(&error, &mut backoff(), Instant::now());
        assert!(matches!(state, State::Invalid(ref reason) if reason.contains("protocols")));
    }
}
