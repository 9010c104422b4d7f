//! Reading of cron schedules, with the complaints that users of Kubernetes know.

/// A field: the least and the most, and names for numbers from the least on.
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
const DESCRIPTORS: [&str; 7] = [
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];

/// Whether the text is a schedule, else why not.
pub(super) fn parse(text: &str) -> Result<(), String> {
    let mut text = text;
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        let Some((zone, rest)) = text.split_once(' ') else {
            return Err(format!("invalid schedule format: {text}"));
        };
        let zone = zone.split_once('=').map_or("", |(_, zone)| zone);
        if !knows_zone(zone) {
            return Err(format!(
                "provided bad location {zone}: unknown time zone {zone}"
            ));
        }
        text = rest.trim();
    }
    if text.starts_with('@') {
        return descriptor(text);
    }
    let parts: Vec<&str> = text.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(format!(
            "expected exactly {} fields, found {}: [{}]",
            FIELDS.len(),
            parts.len(),
            parts.join(" ")
        ));
    }
    for (part, field) in parts.iter().zip(&FIELDS) {
        for range in part.split(',').filter(|range| !range.is_empty()) {
            field.range(range)?;
        }
    }
    Ok(())
}

/// A zone by its IANA name.
pub(super) fn knows_zone(name: &str) -> bool {
    matches!(name, "" | "UTC" | "Local") || jiff::tz::db().get(name).is_ok()
}

fn descriptor(text: &str) -> Result<(), String> {
    if DESCRIPTORS.contains(&text) {
        return Ok(());
    }
    match text.strip_prefix("@every ") {
        Some(duration) if is_duration(duration) => Ok(()),
        Some(duration) => Err(format!(
            "failed to parse duration {text}: time: invalid duration {duration:?}"
        )),
        None => Err(format!("unrecognized descriptor: {text}")),
    }
}

/// `1h30m`, `1.5h`, `-5s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut any = false;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (digits, tail) = rest.split_at(number.unwrap_or(rest.len()));
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h"]
            .into_iter()
            .filter(|unit| tail.starts_with(unit))
            .max_by_key(|unit| unit.len());
        let Some(unit) = unit.filter(|_| digits.parse::<f64>().is_ok()) else {
            return false;
        };
        rest = tail.get(unit.len()..).unwrap_or_default();
        any = true;
    }
    any
}

impl Field {
    fn range(&self, text: &str) -> Result<(), String> {
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
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(), &str>) {
        assert_eq!(parse(text), expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn schedules_are_read() {
        for good in [
            "*/5 * * * *",
            "0 0 30 2 *",
            "@hourly",
            "@every 1h30m",
            "0 9-17/2 * jan-mar mon,wed",
            "? 0 * * SUN",
            "5/10 * * * *",
            "TZ=UTC 0 * * * *",
        ] {
            check(good, Ok(()));
        }
    }

    #[test]
    fn what_is_wrong_with_a_schedule_is_said() {
        check(
            "not a schedule",
            Err("expected exactly 5 fields, found 3: [not a schedule]"),
        );
        check(
            "60 * * * *",
            Err("end of range (60) above maximum (59): 60"),
        );
        check("1-2-3 * * * *", Err("too many hyphens: 1-2-3"));
        check("*/1/2 * * * *", Err("too many slashes: */1/2"));
        check(
            "*/0 * * * *",
            Err("step of range should be a positive number: */0"),
        );
        check(
            "5-1 * * * *",
            Err("beginning of range (5) beyond end of range (1): 5-1"),
        );
        check(
            "* * 0 * *",
            Err("beginning of range (0) below minimum (1): 0"),
        );
        check(
            "x * * * *",
            Err("failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
        );
        check("@never", Err("unrecognized descriptor: @never"));
        check(
            "@every x",
            Err("failed to parse duration @every x: time: invalid duration \"x\""),
        );
        check(
            "TZ=Nowhere 0 * * * *",
            Err("provided bad location Nowhere: unknown time zone Nowhere"),
        );
    }
}
