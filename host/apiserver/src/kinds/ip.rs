//! Addresses and ranges as Kubernetes reads them.
//!
//! Two strengths: fields that predate the strict rules take what is no canonical spelling (capitals
//! and long forms of IPv6), newer ones do not. Neither takes leading zeros, which some programs
//! read as octal, nor an IPv4 address dressed as IPv6.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;

use crate::field_error::FieldError;

const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NO_RANGE: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// A range of addresses: those that share the first `bits` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// The first address; bits beyond the prefix are zero.
    pub(crate) first: IpAddr,
    pub(crate) bits: u8,
}

impl Range {
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && masked(address, self.bits) == self.first
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// The address, leading zeros and all.
pub(crate) fn parse(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(match address {
            IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        });
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let digits = !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
        *octet = part.parse().ok().filter(|_: &u8| digits)?;
    }
    parts
        .next()
        .is_none()
        .then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// The range, with the address that was written: it may have bits beyond the prefix.
pub(crate) fn parse_range(text: &str) -> Option<(IpAddr, Range)> {
    let (address, bits) = text.split_once('/')?;
    let address = parse(address)?;
    let bits: u8 = bits
        .parse()
        .ok()
        .filter(|_| bits.bytes().all(|c| c.is_ascii_digit()))?;
    if bits > width(address) {
        return None;
    }
    let first = masked(address, bits);
    Some((address, Range { first, bits }))
}

/// How many bits an address of this family has.
pub(crate) fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(four) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(bits.min(32)))
                .unwrap_or(0);
            IpAddr::V4((u32::from(four) & mask).into())
        }
        IpAddr::V6(six) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(bits.min(128)))
                .unwrap_or(0);
            IpAddr::V6((u128::from(six) & mask).into())
        }
    }
}

/// Whether the text has a family, and which: `true` for IPv6.
pub(crate) fn is_ipv6(text: &str) -> Option<bool> {
    parse(text).map(|address| address.is_ipv6())
}

/// An address in a field that predates the strict rules.
pub(super) fn legacy(text: &str, field: &str) -> Vec<FieldError> {
    let invalid = |detail: &str| vec![FieldError::invalid(field, &Value::from(text), detail)];
    match (parse(text), text.parse::<IpAddr>()) {
        (None, _) => invalid(NO_ADDRESS),
        (Some(_), Err(_)) => invalid("must not have leading 0s"),
        (Some(IpAddr::V4(_)), Ok(IpAddr::V6(_))) => {
            invalid("must not be an IPv4-mapped IPv6 address")
        }
        _ => Vec::new(),
    }
}

/// An address, spelled canonically.
pub(super) fn strict(text: &str, field: &str) -> Vec<FieldError> {
    let errors = legacy(text, field);
    if errors.is_empty()
        && let Some(address) = parse(text)
        && address.to_string() != text
    {
        let detail = format!("must be in canonical form (\"{address}\")");
        return vec![FieldError::invalid(field, &Value::from(text), &detail)];
    }
    errors
}

/// What to say about an address that is taken although it is spelled unusually.
pub(super) fn warning(text: &str, field: &str) -> Option<String> {
    let address: IpAddr = text.parse().ok()?;
    let canonical = address.to_string();
    (canonical != text).then(|| {
        format!(
            "{field}: IPv6 address {text:?} should be in RFC 5952 canonical format ({canonical:?})"
        )
    })
}

/// The same of a range.
pub(super) fn range_warnings(text: &str, field: &str) -> Vec<String> {
    let Some((address, range)) = parse_range(text) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    if address != range.first {
        let single = format!("{address}/{}", width(address));
        all.push(format!(
            "{field}: CIDR value {text:?} is ambiguous in this context (should be \"{range}\" or \
             {single:?}?)"
        ));
    }
    let (written, bits) = text.split_once('/').unwrap_or_default();
    let plain = !(bits.len() > 1 && bits.starts_with('0'));
    match written.parse::<IpAddr>() {
        Ok(IpAddr::V6(six)) if plain && six.to_ipv4_mapped().is_none() => {
            if text != format!("{six}/{}", range.bits) {
                all.push(format!(
                    "{field}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format \
                     (\"{range}\")"
                ));
            }
        }
        Ok(IpAddr::V4(_)) if plain => {}
        _ => all.push(format!(
            "{field}: non-standard CIDR value {text:?} will be considered invalid in a future \
             Kubernetes release: use \"{range}\""
        )),
    }
    all
}

/// A range in a field that predates the strict rules.
pub(super) fn legacy_range(text: &str, field: &str) -> Vec<FieldError> {
    let invalid = |detail: &str| vec![FieldError::invalid(field, &Value::from(text), detail)];
    let Some((address, range)) = parse_range(text) else {
        return invalid(NO_RANGE);
    };
    let (written, bits) = text.split_once('/').unwrap_or_default();
    match written.parse::<IpAddr>() {
        Err(_) => invalid("must not have leading 0s in IP or prefix length"),
        Ok(_) if bits.len() > 1 && bits.starts_with('0') => {
            invalid("must not have leading 0s in IP or prefix length")
        }
        Ok(IpAddr::V6(_)) if address.is_ipv4() => {
            invalid("must not have an IPv4-mapped IPv6 address")
        }
        Ok(_) if address != range.first => {
            invalid("must not have bits set beyond the prefix length")
        }
        Ok(_) => Vec::new(),
    }
}

/// A range, spelled canonically.
pub(super) fn strict_range(text: &str, field: &str) -> Vec<FieldError> {
    let errors = legacy_range(text, field);
    if errors.is_empty()
        && let Some((_, range)) = parse_range(text)
        && range.to_string() != text
    {
        let detail = format!("must be in canonical form (\"{range}\")");
        return vec![FieldError::invalid(field, &Value::from(text), &detail)];
    }
    errors
}

/// Addresses that make no sense as somebody's whereabouts.
pub(super) fn ordinary(text: &str, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut invalid =
        |detail: &str| errors.push(FieldError::invalid(field, &Value::from(text), detail));
    let Some(address) = parse(text) else {
        invalid("must be a valid IP address");
        return errors;
    };
    if address.is_unspecified() {
        invalid(&format!("may not be unspecified ({text})"));
    }
    if address.is_loopback() {
        invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (local, multicast) = match address {
        IpAddr::V4(four) => (four.is_link_local(), four.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(six) => (
            six.is_unicast_link_local(),
            six.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if local {
        invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if multicast {
        invalid("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: fn(&str, &str) -> Vec<FieldError>, text: &str, detail: &str) {
        let found: Vec<String> = rule(text, "f")
            .iter()
            .map(|error| error.message().to_owned())
            .collect();
        let expected = match detail {
            "" => Vec::new(),
            detail => vec![format!("Invalid value: {text:?}: {detail}")],
        };
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn addresses_are_read_strictly_but_old_fields_take_any_spelling() {
        check(legacy, "10.0.0.1", "");
        check(legacy, "FE80:0::1", "");
        check(legacy, "10.0.0", NO_ADDRESS);
        check(legacy, "10.0.0.1.2", NO_ADDRESS);
        check(legacy, "10.0.0.256", NO_ADDRESS);
        check(legacy, "", NO_ADDRESS);
        check(legacy, "10.0.0.01", "must not have leading 0s");
        check(
            legacy,
            "::ffff:1.2.3.4",
            "must not be an IPv4-mapped IPv6 address",
        );
        check(
            strict,
            "FE80:0::1",
            "must be in canonical form (\"fe80::1\")",
        );
        check(strict, "fe80::1", "");
    }

    #[test]
    fn ranges_are_masks_not_addresses() {
        check(legacy_range, "10.0.0.0/8", "");
        check(legacy_range, "10.0.0.0", NO_RANGE);
        check(legacy_range, "10.0.0.0/33", NO_RANGE);
        check(
            legacy_range,
            "10.0.0.1/8",
            "must not have bits set beyond the prefix length",
        );
        check(
            legacy_range,
            "10.0.0.0/08",
            "must not have leading 0s in IP or prefix length",
        );
        check(
            strict_range,
            "FD00::/8",
            "must be in canonical form (\"fd00::/8\")",
        );
        check(strict_range, "0.0.0.0/0", "");
        check(strict_range, "::/0", "");
    }

    #[test]
    fn nobody_lives_at_a_special_address() {
        check(ordinary, "10.0.0.1", "");
        check(ordinary, "0.0.0.0", "may not be unspecified (0.0.0.0)");
        check(
            ordinary,
            "127.0.0.1",
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        );
        check(
            ordinary,
            "169.254.1.1",
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
        check(
            ordinary,
            "ff02::1",
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}
