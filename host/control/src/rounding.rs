//! Counts that may be given in percent of another: `maxSurge`, `maxUnavailable`.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The amount as a count; percentages are of `of`, and rounded up or down. Never negative.
pub(crate) fn resolve(amount: &IntOrString, of: i32, up: bool) -> i32 {
    let amount = match amount {
        IntOrString::Int(count) => i64::from(*count),
        IntOrString::String(text) => {
            let percent = text
                .strip_suffix('%')
                .and_then(|number| number.parse::<i64>().ok());
            let product = percent.unwrap_or(0).saturating_mul(i64::from(of));
            product.saturating_add(if up { 99 } else { 0 }) / 100
        }
    };
    i32::try_from(amount.max(0)).unwrap_or(i32::MAX)
}
