//! Kubernetes quantities as numbers: `500m`, `1.5`, `128Mi`, `1e3`.

/// In thousandths, rounded up, as scheduling reckons: a part of a byte still takes a byte.
/// `None` if it is none.
pub(crate) fn milli(text: &str) -> Option<i64> {
    let (numerator, denominator) = thousandths(text)?;
    let up = numerator.checked_add(denominator - 1)?;
    Some(i64::try_from(up.div_euclid(denominator)).unwrap_or(i64::MAX))
}

/// As near as a float comes to it. `None` if it is none.
pub(crate) fn float(text: &str) -> Option<f64> {
    let (numerator, denominator) = thousandths(text)?;
    Some(numerator as f64 / (denominator as f64 * 1_000.0))
}

/// So many thousandths as Kubernetes writes them, with the largest suffix that leaves a whole number.
pub(crate) fn of_milli(mut number: i64) -> String {
    let suffixes = ["m", "", "k", "M", "G", "T", "P"];
    let mut suffix = 0;
    if number == 0 {
        return "0".to_owned();
    }
    while number % 1_000 == 0 && suffix + 1 < suffixes.len() {
        number /= 1_000;
        suffix += 1;
    }
    format!(
        "{number}{}",
        suffixes.get(suffix).copied().unwrap_or_default()
    )
}

/// As a fraction of thousandths.
fn thousandths(text: &str) -> Option<(i128, i128)> {
    let end = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (numerator, denominator) = decimal(number)?;
    let (times, over): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        exponent => {
            let power = exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            let factor = 10i128.checked_pow(power.unsigned_abs().min(30))?;
            if power >= 0 {
                (factor.checked_mul(1_000)?, 1)
            } else {
                (1_000, factor)
            }
        }
    };
    let numerator = numerator.checked_mul(times)?;
    let denominator = denominator.checked_mul(over)?;
    Some((numerator, denominator))
}

/// A decimal number as a fraction.
fn decimal(text: &str) -> Option<(i128, i128)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    // More digits than any quantity needs would only overflow.
    let part = part.get(..part.len().min(12))?;
    if whole.len() + part.len() > 30 || (whole.is_empty() && part.is_empty()) {
        return None;
    }
    if !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: i128 = format!("{whole}{part}").parse().ok()?;
    Some((digits, 10i128.checked_pow(u32::try_from(part.len()).ok()?)?))
}

#[cfg(test)]
mod tests {
    use super::{float, milli, of_milli};

    #[test]
    fn quantities_are_written_with_the_largest_suffix_that_fits() {
        for (number, text) in [
            (0, "0"),
            (7, "7m"),
            (1_500, "1500m"),
            (2_000, "2"),
            (3_000_000, "3k"),
            (-500, "-500m"),
            (i64::MAX, "9223372036854775807m"),
        ] {
            assert_eq!(of_milli(number), text);
        }
        assert_eq!(float("0.0005"), Some(0.0005));
        assert_eq!(float("50m"), Some(0.05));
        assert_eq!(float("x"), None);
    }

    #[test]
    fn quantities_are_read_in_all_their_forms() {
        let cases = [
            ("1", 1_000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("1.5", 1_500),
            ("128Mi", 134_217_728_000),
            ("1k", 1_000_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("5e-1", 500),
            ("100n", 1),
            ("0", 0),
            ("2Gi", 2_147_483_648_000),
            ("1000E", i64::MAX),
        ];
        for (text, value) in cases {
            assert_eq!(milli(text), Some(value), "{text}");
        }
        for text in ["", "x", "1.x", "1Mib", "1e", "--1", "."] {
            assert_eq!(milli(text), None, "{text}");
        }
    }
}
