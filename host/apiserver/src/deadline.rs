//! How long a request may take.
//!
//! Every request that ends by itself has a deadline: what its parameter `timeout` says, up to a
//! minute. A write gets a shorter time from when its body is there. Watches and what streams bytes
//! go on for as long as both sides wish. A request that is given up may still have its effect, as
//! one whose answer was lost.

use std::{future::Future, time::Duration};

use crate::{auth::Attributes, cel::go_duration, failure::Failure};

/// The longest that any request may take, and what it may take if it does not say.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest that a write may take once it was read: less than what clients wait for, so that they
/// are told.
const LONGEST_WRITE: Duration = Duration::from_secs(34);

/// The time that a request has; none if it ends when it likes.
pub(crate) fn of(asked: &Attributes<'_>, query: Option<&str>) -> Result<Option<Duration>, Failure> {
    if asked.is_long_running() {
        return Ok(None);
    }
    let mut given = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let text = given.find(|(key, _)| key == "timeout");
    let text = text.map(|(_, text)| text).unwrap_or_default();
    if text.is_empty() {
        return Ok(Some(LONGEST));
    }
    let Some(asked) = go_duration(&text) else {
        let why = format!(
            "invalid timeout specified in the request URL - time: {}",
            what_is_wrong(&text)
        );
        return Err(Failure::bad_request(why));
    };
    let asked = Duration::try_from(asked).unwrap_or_default();
    // No time at all is no wish.
    let is_wish = !asked.is_zero() && asked < LONGEST;
    Ok(Some(if is_wish { asked } else { LONGEST }))
}

/// In Go's words.
fn what_is_wrong(text: &str) -> String {
    let number = text.trim_start_matches(['-', '+']);
    let end = number.find(|c: char| !c.is_ascii_digit() && c != '.');
    let unit = number
        .get(end.unwrap_or(number.len())..)
        .unwrap_or_default();
    let is_number = number.starts_with(|c: char| c.is_ascii_digit());
    match unit {
        "" if is_number => format!("missing unit in duration {text:?}"),
        unit if is_number && unit.chars().all(|c| c.is_alphabetic()) => {
            format!("unknown unit {unit:?} in duration {text:?}")
        }
        _ => format!("invalid duration {text:?}"),
    }
}

/// Give a request its time.
pub(crate) async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(limit) = limit else {
        return work.await;
    };
    let done = tokio::time::timeout(limit, Box::pin(work)).await;
    done.unwrap_or_else(|_| Err(Failure::timeout()))
}

/// Give a write its time.
pub(crate) async fn write<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // On the heap: the state of a write is large, and copies of it would fill the stack.
    let done = tokio::time::timeout(LONGEST_WRITE, Box::pin(work)).await;
    done.unwrap_or_else(|_| Err(Failure::write_timeout()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Attributes<'static> {
        Attributes {
            verb: "list".into(),
            ..Attributes::default()
        }
    }

    #[track_caller]
    fn given(query: &str, seconds: u64) {
        let limit = of(&list(), Some(query)).ok().flatten();
        assert_eq!(limit, Some(Duration::from_secs(seconds)), "{query}");
    }

    #[test]
    fn a_request_has_the_time_it_asks_for_up_to_a_minute() {
        given("", 60);
        given("timeout=", 60);
        given("timeout=5s", 5);
        given("limit=1&timeout=1m&timeout=2s", 60);
        given("timeout=2h", 60);
        given("timeout=0s", 60);
        given("timeout=-3s", 60);
        let watch = Attributes {
            verb: "watch".into(),
            ..Attributes::default()
        };
        assert!(of(&watch, Some("timeout=5s")).is_ok_and(|limit| limit.is_none()));
        assert!(of(&watch, Some("timeout=x")).is_ok());
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        assert!(of(&list(), Some("timeout=x")).is_err());
        assert_eq!(what_is_wrong("x"), "invalid duration \"x\"");
        assert_eq!(what_is_wrong("10"), "missing unit in duration \"10\"");
        let unknown = "unknown unit \"y\" in duration \"10y\"";
        assert_eq!(what_is_wrong("10y"), unknown);
    }
}
