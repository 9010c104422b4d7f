//! Formats of strings. Unknown formats mean nothing, as the OpenAPI specification has it.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;

pub(super) fn fits(name: &str, text: &str) -> bool {
    match name {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => duration(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => cidr(text),
        "byte" => base64::engine::general_purpose::STANDARD
            .decode(text)
            .is_ok(),
        "uuid" => uuid(text),
        "hostname" => {
            text.len() <= 253
                && text.split('.').all(|part| {
                    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
                    part.len() <= 63
                        && ends(part.chars().next())
                        && ends(part.chars().next_back())
                        && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                })
        }
        "mac" => {
            let parts: Vec<&str> = text.split([':', '-']).collect();
            matches!(parts.len(), 6 | 8)
                && parts
                    .iter()
                    .all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok())
        }
        "email" => text.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && !host.is_empty() && !text.contains(char::is_whitespace)
        }),
        "uri" => {
            let scheme = text.split_once(':').map(|(scheme, _)| scheme);
            text.starts_with('/')
                || scheme.is_some_and(|scheme| {
                    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                        && scheme
                            .chars()
                            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
                })
        }
        _ => true,
    }
}

fn cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let Ok(length) = length.parse::<u8>() else {
        return false;
    };
    (address.parse::<Ipv4Addr>().is_ok() && length <= 32)
        || (address.parse::<Ipv6Addr>().is_ok() && length <= 128)
}

fn uuid(text: &str) -> bool {
    let bare: String = text.chars().filter(|c| *c != '-').collect();
    bare.len() == 32
        && bare.chars().all(|c| c.is_ascii_hexdigit())
        && (text.len() == 32
            || text.split('-').map(str::len).collect::<Vec<_>>() == [8, 4, 4, 4, 12])
}

/// Go's durations: `300ms`, `-1.5h`, `2h45m`; a number and a unit, as often as needed.
fn duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text).trim();
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        if number.parse::<f64>().is_err() {
            return false;
        }
        let after = after.trim_start();
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let known = ["ns", "us", "µs", "ms", "s", "m", "h", "d", "w"];
        if !known.contains(&unit.trim_end()) {
            return false;
        }
        rest = next;
    }
    true
}
