//! Resource quantities: `500m`, `1.5Gi`, `1e3`; parsed, compared and spelled as Kubernetes does.

use std::{cmp::Ordering, fmt, str::FromStr};

/// A fixed-point number with the unit family it was written in.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// In units of 10⁻⁹, rounded away from zero, which is the finest that Kubernetes keeps.
    nano: i128,
    family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Decimal,
    Binary,
    Exponent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct QuantityError;

const NANO: i128 = 1_000_000_000;
/// Larger numbers are capped, as in Kubernetes.
const MAX: i128 = i64::MAX as i128 * NANO;
const DECIMAL: [(&str, i32); 10] = [
    ("E", 18),
    ("P", 15),
    ("T", 12),
    ("G", 9),
    ("M", 6),
    ("k", 3),
    ("", 0),
    ("m", -3),
    ("u", -6),
    ("n", -9),
];
const BINARY: [(&str, u32); 6] = [
    ("Ei", 60),
    ("Pi", 50),
    ("Ti", 40),
    ("Gi", 30),
    ("Mi", 20),
    ("Ki", 10),
];

impl Quantity {
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// A whole number, with no part below one.
    pub fn is_integer(&self) -> bool {
        self.nano % NANO == 0
    }

    /// In units of 10⁻⁹.
    pub fn nano(&self) -> i128 {
        self.nano
    }

    /// The sum with that many units of 10⁻⁹, in this one's unit family, capped.
    pub fn plus(&self, nano: i128) -> Quantity {
        Quantity {
            nano: self.nano.saturating_add(nano).clamp(-MAX, MAX),
            family: self.family,
        }
    }

    /// A plain number.
    pub fn whole(number: i64) -> Quantity {
        Quantity {
            nano: i128::from(number) * NANO,
            family: Family::Decimal,
        }
    }

    /// The sum, in the unit family of this one unless it is zero.
    #[must_use]
    pub fn join(self, other: Quantity) -> Quantity {
        Quantity {
            nano: self.nano.saturating_add(other.nano),
            family: if self.nano == 0 {
                other.family
            } else {
                self.family
            },
        }
    }

    /// The difference, in the unit family of this one unless it is zero.
    #[must_use]
    pub fn minus(self, other: Quantity) -> Quantity {
        Quantity {
            nano: self.nano.saturating_sub(other.nano),
            family: if self.nano == 0 {
                other.family
            } else {
                self.family
            },
        }
    }

    /// In thousandths, rounded away from zero: the finest that amounts of resources are kept in.
    #[must_use]
    pub fn in_thousandths(self) -> Quantity {
        const MILLI: i128 = NANO / 1000;
        let rest = self.nano % MILLI;
        let nano = match rest {
            0 => self.nano,
            rest => self.nano - rest + rest.signum() * MILLI,
        };
        Quantity { nano, ..self }
    }

    /// The next whole number.
    #[must_use]
    pub fn rounded_up(self) -> Quantity {
        let over = self.nano.rem_euclid(NANO);
        let nano = if over == 0 {
            self.nano
        } else {
            self.nano - over + NANO
        };
        Quantity { nano, ..self }
    }

    /// For ratios, where the last digits do not count.
    pub fn as_float(&self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// In thousandths, rounded up.
    pub fn milli(&self) -> i128 {
        (self.nano + 999_999).div_euclid(1_000_000)
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;

    /// In the units of the first, as Kubernetes adds.
    fn add(self, other: Quantity) -> Quantity {
        Quantity {
            nano: (self.nano + other.nano).clamp(-MAX, MAX),
            family: self.family,
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, text.get(1..).unwrap_or("")),
            Some(b'+') => (false, text.get(1..).unwrap_or("")),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError);
        }
        let (family, exponent, shift) = unit(suffix)?;
        let nano = scaled(whole, fraction, exponent, shift);
        Ok(Quantity {
            nano: if negative { -nano } else { nano },
            family,
        })
    }
}

/// The family of a suffix, its power of ten and its power of two.
fn unit(suffix: &str) -> Result<(Family, i32, u32), QuantityError> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((Family::Decimal, *exponent, 0));
    }
    if let Some((_, shift)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Ok((Family::Binary, 0, *shift));
    }
    let digits = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
    let exponent: i32 = digits.parse().map_err(|_error| QuantityError)?;
    Ok((Family::Exponent, exponent, 0))
}

/// |number| × 10^exponent × 2^shift in nano, rounded up, capped.
fn scaled(whole: &str, fraction: &str, exponent: i32, shift: u32) -> i128 {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    let power = exponent
        .saturating_add(9)
        .saturating_sub_unsigned(fraction.len() as u32);
    if digits.len() as i64 + i64::from(power) > 30 + 9 || digits.len() > 38 {
        // More digits than the type holds: either far beyond the cap or needlessly precise.
        let kept = digits.len() as i64 + i64::from(power);
        if kept > 28 {
            return MAX;
        }
    }
    let head = digits.get(..digits.len().min(36)).unwrap_or(digits);
    let cut = (digits.len() - head.len()) as i32;
    let Ok(mut value) = head.parse::<i128>() else {
        return MAX;
    };
    let mut inexact = digits
        .get(head.len()..)
        .is_some_and(|tail| tail.contains(|c| c != '0'));
    let power = power.saturating_add(cut);
    // Shift first: it can only make the number whole.
    let mut shift = shift;
    while shift > 0 {
        match value.checked_mul(2) {
            Some(doubled) => value = doubled,
            None if power < 0 => break,
            None => return MAX,
        }
        shift -= 1;
    }
    if power >= 0 {
        for _ in 0..power {
            match value.checked_mul(10) {
                Some(more) if more <= MAX => value = more,
                _ => return MAX,
            }
        }
    } else {
        for _ in 0..power.unsigned_abs() {
            if value == 0 {
                break;
            }
            inexact |= value % 10 != 0;
            value /= 10;
        }
    }
    for _ in 0..shift {
        match value.checked_mul(2) {
            Some(doubled) => value = doubled,
            None => return MAX,
        }
    }
    (value + i128::from(inexact)).min(MAX)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let big = self.nano.unsigned_abs() >= 1024 * NANO.unsigned_abs();
        if self.family == Family::Binary && big && self.is_integer() {
            let whole = self.nano / NANO;
            for (suffix, shift) in BINARY {
                if whole % (1_i128 << shift) == 0 {
                    return write!(f, "{}{suffix}", whole >> shift);
                }
            }
            return write!(f, "{whole}");
        }
        for (suffix, exponent) in DECIMAL {
            let unit = 10_i128.pow((exponent + 9).unsigned_abs());
            if self.nano % unit == 0 {
                let number = self.nano / unit;
                return match self.family {
                    Family::Exponent if exponent != 0 => write!(f, "{number}e{exponent}"),
                    _ => write!(f, "{number}{suffix}"),
                };
            }
        }
        write!(f, "{}n", self.nano)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    #[track_caller]
    fn check(text: &str, canonical: &str) {
        let quantity: Quantity = text.parse().unwrap();
        assert_eq!(quantity.to_string(), canonical, "{text}");
    }

    #[test]
    fn quantities_take_the_canonical_spelling_of_their_family() {
        check("0", "0");
        check("1", "1");
        check("1000m", "1");
        check("0.5", "500m");
        check("1.5", "1500m");
        check("100m", "100m");
        check("1000", "1k");
        check("128Mi", "128Mi");
        check("1024Mi", "1Gi");
        check("1.5Gi", "1536Mi");
        check("0.5Ki", "512");
        check("1000000000", "1G");
        check("1e3", "1e3");
        check("12e6", "12e6");
        check("-1", "-1");
        check("+2Gi", "2Gi");
        check("0.0000000001", "1n");
        check("9999999999999999999999999999", "9223372036854775807");
        check("16Ei", "9223372036854775807");
        check("1.", "1");
        check(".5", "500m");
    }

    #[test]
    fn malformed_quantities_are_refused() {
        for text in [
            "", "abc", "1.2.3", "1 Gi", "1gi", "--1", "Gi", ".", "1e", "1mm", "0x1",
        ] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn sums_keep_the_family_of_what_is_there() {
        let parse = |text: &str| text.parse::<Quantity>().unwrap();
        let sum = |a: &str, b: &str| parse(a).join(parse(b)).to_string();
        assert_eq!(sum("500m", "1500m"), "2");
        assert_eq!(sum("512Mi", "512Mi"), "1Gi");
        assert_eq!(sum("0", "1Gi"), "1Gi");
        assert_eq!(sum("1Gi", "0"), "1Gi");
        assert_eq!(parse("1Gi").minus(parse("1Gi")).to_string(), "0");
        assert_eq!(parse("1500m").rounded_up().to_string(), "2");
        assert_eq!(Quantity::whole(12).to_string(), "12");
    }

    #[test]
    fn quantities_compare_across_families() {
        let parse = |text: &str| text.parse::<Quantity>().unwrap();
        assert!(parse("1Gi") > parse("1G"));
        assert_eq!(parse("1"), parse("1000m"));
        assert!(parse("-1").is_negative());
        assert_eq!(parse("1.0001").milli(), 1001);
    }
}
