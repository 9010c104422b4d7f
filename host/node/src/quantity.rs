//! Quantities of resources as Kubernetes writes them (`500m`, `1Gi`, `2e3`), and what follows from
//! a pod's requests and limits.

use std::collections::BTreeMap;

use eyot_runtime::Limits;
use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

/// The value in thousandths, rounded up as Kubernetes does; `None` if it is not a quantity.
pub(crate) fn millis(quantity: &str) -> Option<i128> {
    let text = quantity.trim();
    let split = text
        .find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let scale: f64 = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            10_f64.powi(exponent)
        }
    };
    let value = number.parse::<f64>().ok()? * scale * 1000.0;
    // Beyond this the arithmetic is no longer exact to a thousandth, and nobody has that much.
    (value.is_finite() && value.abs() < 1e30).then(|| round_up(value))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the caller has checked the range"
)]
fn round_up(value: f64) -> i128 {
    // 0.1 * 1000 must not become 101 by the last bit of the mantissa.
    (value - value.abs() * 1e-12).ceil() as i128
}

/// The value in whole units, rounded up.
pub(crate) fn units(quantity: &str) -> Option<u64> {
    let millis = millis(quantity)?;
    u64::try_from(millis.div_euclid(1000) + i128::from(millis.rem_euclid(1000) != 0)).ok()
}

/// What the runtime enforces.
pub(crate) fn limits(container: &Container) -> Limits {
    let limit = |name: &str| {
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        limits.get(name).map(|quantity| quantity.0.as_str())
    };
    Limits {
        memory: limit("memory").and_then(units).filter(|bytes| *bytes > 0),
        cpu_millis: limit("cpu")
            .and_then(millis)
            .and_then(|millis| u64::try_from(millis).ok())
            .filter(|millis| *millis > 0),
        pids: None,
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by the rules of Kubernetes: all containers have equal
/// requests and limits of both memory and processor; some have some; none has any.
pub(crate) fn qos_class(spec: &PodSpec) -> &'static str {
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let (mut guaranteed, mut any) = (true, false);
    for container in containers {
        let empty = ResourceRequirements::default();
        let resources = container.resources.as_ref().unwrap_or(&empty);
        for name in ["cpu", "memory"] {
            let limit = positive(resources.limits.as_ref(), name);
            // A request that is not written is the limit.
            let request = positive(resources.requests.as_ref(), name).or(limit);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn positive(of: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i128> {
    millis(&of?.get(name)?.0).filter(|millis| *millis > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("500m", Some(500)),
            ("0.1", Some(100)),
            ("1.5", Some(1500)),
            ("1Gi", Some(1024 * 1024 * 1024 * 1000)),
            ("128M", Some(128_000_000_000)),
            ("2e3", Some(2_000_000)),
            ("1n", Some(1)),
            ("12Q", None),
            ("", None),
            ("abc", None),
        ] {
            assert_eq!(millis(text), expected, "{text}");
        }
        assert_eq!(units("1500m"), Some(2));
        assert_eq!(units("64Mi"), Some(64 << 20));
        assert_eq!(units("-1"), None);
    }

    fn spec(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> PodSpec {
        let map = |of: &[(&str, &str)]| {
            Some(
                of.iter()
                    .map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned())))
                    .collect(),
            )
        };
        let resources = ResourceRequirements {
            requests: map(requests),
            limits: map(limits),
            claims: None,
        };
        let container = Container {
            resources: Some(resources),
            ..Container::default()
        };
        PodSpec {
            containers: vec![container],
            ..PodSpec::default()
        }
    }

    #[test]
    fn the_service_class_follows_requests_and_limits() {
        let both = [("cpu", "1"), ("memory", "1Gi")];
        assert_eq!(qos_class(&spec(&[], &[])), "BestEffort");
        assert_eq!(qos_class(&spec(&[("cpu", "1")], &[])), "Burstable");
        assert_eq!(qos_class(&spec(&[], &both)), "Guaranteed");
        assert_eq!(qos_class(&spec(&both, &both)), "Guaranteed");
        assert_eq!(qos_class(&spec(&[("cpu", "500m")], &both)), "Burstable");
    }
}
