//! Quantities of resources as Kubernetes writes them (`500m`, `1Gi`, `2e3`), and what follows from
//! a pod's requests and limits.

use std::collections::BTreeMap;

use eyot_runtime::{Limits, PodLimits, ServiceClass};
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

/// What the runtime enforces for `container` in a pod of this specification, on a machine with
/// `memory` bytes. `pids` bounds the tasks of the pod.
pub(crate) fn limits(
    container: &Container,
    spec: &PodSpec,
    pids: Option<u64>,
    memory: u64,
) -> Limits {
    let own = container.resources.as_ref();
    Limits {
        memory: bytes(own.and_then(|own| own.limits.as_ref())),
        cpu_millis: cpu(own.and_then(|own| own.limits.as_ref())),
        pids,
        cpu_request_millis: cpu_request(own),
        oom_score: Some(oom_score(container, spec, memory)),
        pod: pod_limits(spec, pids),
    }
}

/// What all containers of a pod may use together: bounded only where each of them is, unless the
/// pod says it itself. Init containers run before the others, so the larger of both counts.
fn pod_limits(spec: &PodSpec, pids: Option<u64>) -> PodLimits {
    let pod = spec.resources.as_ref();
    let total = |of: &dyn Fn(&Container) -> Option<u64>| total(spec, of);
    let limits = |c: &Container| c.resources.as_ref().and_then(|own| own.limits.clone());
    PodLimits {
        memory: bytes(pod.and_then(|pod| pod.limits.as_ref()))
            .or_else(|| total(&|c| bytes(limits(c).as_ref()))),
        cpu_millis: cpu(pod.and_then(|pod| pod.limits.as_ref()))
            .or_else(|| total(&|c| cpu(limits(c).as_ref()))),
        pids,
        class: match qos_class(spec) {
            "Guaranteed" => ServiceClass::Guaranteed,
            "BestEffort" => ServiceClass::BestEffort,
            _ => ServiceClass::Burstable,
        },
        cpu_request_millis: cpu_request(pod)
            .or_else(|| total(&|c| Some(cpu_request(c.resources.as_ref()).unwrap_or(0)))),
    }
}

fn total(spec: &PodSpec, of: &dyn Fn(&Container) -> Option<u64>) -> Option<u64> {
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let inits = || spec.init_containers.iter().flatten();
    let lasting = inits().filter(sidecar).chain(&spec.containers);
    let lasting = sum(lasting.map(of))?;
    let first = inits().filter(|c| !sidecar(c)).map(of);
    let first = first.collect::<Option<Vec<_>>>()?.into_iter().max();
    // Whoever comes first may have all that the sidecars before it leave.
    let sidecars = sum(inits().filter(sidecar).map(of))?;
    Some(lasting.max(first.map_or(0, |first| first.saturating_add(sidecars))))
}

/// What a pod asks for in all of one kind, with what running it costs beside.
pub(crate) fn requested(
    spec: &PodSpec,
    of: fn(Option<&ResourceRequirements>) -> Option<u64>,
) -> u64 {
    let overhead = ResourceRequirements {
        requests: spec.overhead.clone(),
        ..ResourceRequirements::default()
    };
    let asked = of(spec.resources.as_ref())
        .or_else(|| total(spec, &|c| Some(of(c.resources.as_ref()).unwrap_or(0))));
    let overhead = of(Some(&overhead)).unwrap_or(0);
    asked.unwrap_or(0).saturating_add(overhead)
}

/// `None` if one is; at most what can be counted.
pub(crate) fn sum(mut of: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    of.try_fold(0, |sum: u64, one| Some(sum.saturating_add(one?)))
}

/// Bytes of memory that a container may use at most.
pub(crate) fn memory_limit(container: &Container) -> Option<u64> {
    bytes(container.resources.as_ref()?.limits.as_ref())
}

fn bytes(of: Option<&BTreeMap<String, Quantity>>) -> Option<u64> {
    units(&of?.get("memory")?.0).filter(|bytes| *bytes > 0)
}

fn cpu(of: Option<&BTreeMap<String, Quantity>>) -> Option<u64> {
    let millis = millis(&of?.get("cpu")?.0)?;
    u64::try_from(millis).ok().filter(|millis| *millis > 0)
}

/// A request that is not written is the limit.
pub(crate) fn cpu_request(of: Option<&ResourceRequirements>) -> Option<u64> {
    let of = of?;
    cpu(of.requests.as_ref()).or_else(|| cpu(of.limits.as_ref()))
}

/// The same of memory, in bytes.
pub(crate) fn memory_request(of: Option<&ResourceRequirements>) -> Option<u64> {
    let of = of?;
    bytes(of.requests.as_ref()).or_else(|| bytes(of.limits.as_ref()))
}

/// Priorities from here on are of what the system cannot do without.
pub(crate) const CRITICAL: i32 = 2_000_000_000;

/// Bytes as Kubernetes writes them: `100Mi`, `1536Ki`, `77`.
pub(crate) fn binary(mut bytes: u64) -> String {
    let mut suffixes = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].into_iter();
    let mut suffix = "";
    while bytes > 0
        && bytes.is_multiple_of(1024)
        && let Some(next) = suffixes.next()
    {
        (bytes, suffix) = (bytes / 1024, next);
    }
    format!("{bytes}{suffix}")
}

/// The kubelet's rules: what has all that it asks for is kept longest, what asks for nothing goes
/// first, and between them goes first what asks for least.
fn oom_score(container: &Container, spec: &PodSpec, memory: u64) -> i32 {
    const GUARANTEED: i32 = -997;
    if spec.priority.is_some_and(|priority| priority >= CRITICAL) {
        return GUARANTEED;
    }
    match qos_class(spec) {
        "Guaranteed" => GUARANTEED,
        "BestEffort" => 1000,
        _ => {
            let own = container.resources.as_ref();
            let requested = own.and_then(|own| own.requests.as_ref());
            let requested = bytes(requested).unwrap_or(0);
            let part = u128::from(requested) * 1000 / u128::from(memory.max(1));
            // Between those with all and those with nothing.
            (1000 - i32::try_from(part).unwrap_or(1000)).clamp(1000 + GUARANTEED, 999)
        }
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
        let written = [0, 77, 1 << 20, 1536 << 10].map(binary);
        assert_eq!(written, ["0", "77", "1Mi", "1536Ki"]);
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
    fn limits_and_weights_follow_the_containers_and_the_pod() {
        let mut spec = spec(&[("cpu", "500m"), ("memory", "1Gi")], &[("memory", "2Gi")]);
        let of = |spec: &PodSpec| limits(&spec.containers[0], spec, Some(7), 4 << 30);
        let one = of(&spec);
        assert_eq!((one.memory, one.cpu_millis), (Some(2 << 30), None));
        assert_eq!(one.cpu_request_millis, Some(500));
        assert_eq!(one.oom_score, Some(750));
        assert_eq!((one.pod.memory, one.pod.pids), (Some(2 << 30), Some(7)));
        // One that is not bounded leaves the pod without a bound; weights are added.
        spec.containers.push(Container::default());
        let two = of(&spec);
        assert_eq!(
            (two.pod.memory, two.pod.cpu_request_millis),
            (None, Some(500))
        );
        assert_eq!(
            limits(&spec.containers[1], &spec, None, 4 << 30).oom_score,
            Some(999)
        );
        // An init container that needs more than all others.
        let mut spec = self::spec(&[], &[("cpu", "1"), ("memory", "1Gi")]);
        let mut first = spec.containers[0].clone();
        first.resources.as_mut().unwrap().limits =
            Some([("memory".to_owned(), Quantity("3Gi".to_owned()))].into());
        spec.init_containers = Some(vec![first]);
        assert_eq!(of(&spec).pod.memory, Some(3 << 30));
        assert_eq!(of(&spec).pod.cpu_millis, None);
        // More than can be counted.
        let mut vast = self::spec(&[], &[("memory", "15Ei")]);
        vast.containers.push(vast.containers[0].clone());
        vast.init_containers = Some(vast.containers.clone());
        assert_eq!(of(&vast).pod.memory, Some(u64::MAX));
        let best = self::spec(&[], &[]);
        assert_eq!(of(&best).oom_score, Some(1000));
        let all = self::spec(&[], &[("cpu", "1"), ("memory", "1Gi")]);
        assert_eq!(of(&all).oom_score, Some(-997));
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
