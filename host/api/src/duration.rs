//! Durations as EdgeX files write them: `500ms`, `1h30m`, `1.5s` (the format of Go's
//! `time.ParseDuration`).

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration such as \"500ms\", \"10s\" or \"1h30m\"")]
pub struct DurationError {
    pub text: String,
}

/// Parse a duration. Negative durations have no use here and are errors.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError {
        text: text.to_owned(),
    };
    let mut rest = text.trim();
    rest = rest.strip_prefix('+').unwrap_or(rest);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(error());
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(error)?;
        let (number, tail) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| error())?;
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(error()),
        };
        total += number * seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(total).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let check = |text: &str, millis: u64| {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        };
        check("500ms", 500);
        check("1h30m", 5_400_000);
        check("1.5s", 1500);
        check(" 2m0.5s ", 120_500);
        check("0", 0);
    }

    #[test]
    fn what_is_no_duration_is_named_in_the_error() {
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "5 s",
            "1d",
            "1..5s",
            "9e99h",
            "9999999999999999999999h",
        ] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error.text, text);
        }
    }
}
