//! Quantities of resources as Kubernetes writes them (`500m`, `1Gi`, `2e3`), and what follows from
//! a pod's requests and limits.

use std::collections::BTreeMap;

use eyot_runtime::Limits;
use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

/// The value in thousandths, rounded up as Kubernetes does; `None` if it is not a quantity or too
/// large for one.
pub(crate) fn millis(quantity: &str) -> Option<i128> {
    let text = quantity.trim();
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-');
    let (number, suffix) = text.split_at(text.find(|c| !is_number(c)).unwrap_or(text.len()));
    let (binary, decimal): (i128, i32) = match suffix {
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "" => (1, 0),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => (1, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let exponent = decimal
        .checked_add(3)?
        .checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    let scaled = digits.checked_mul(binary)?;
    if exponent >= 0 {
        scaled.checked_mul(power)
    } else {
        Some(divide_up(scaled, power))
    }
}

fn divide_up(number: i128, by: i128) -> i128 {
    number.div_euclid(by) + i128::from(number.rem_euclid(by) != 0)
}

/// The value in whole units, rounded up.
pub(crate) fn units(quantity: &str) -> Option<u64> {
    u64::try_from(divide_up(millis(quantity)?, 1000)).ok()
}

/// What the runtime enforces.
pub(crate) fn limits(container: &Container) -> Limits {
    let resources = container.resources.as_ref();
    let limit = |name: &str| {
        let limits = resources?.limits.as_ref()?;
        limits.get(name).map(|quantity| quantity.0.as_str())
    };
    let request = resources.and_then(|resources| {
        let requests = resources.requests.as_ref()?.get("cpu")?;
        u64::try_from(millis(&requests.0)?).ok()
    });
    Limits {
        memory: limit("memory").and_then(units).filter(|bytes| *bytes > 0),
        cpu_millis: limit("cpu")
            .and_then(millis)
            .and_then(|millis| u64::try_from(millis).ok())
            .filter(|millis| *millis > 0),
        cpu_request_millis: request,
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
