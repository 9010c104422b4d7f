//! Names of things that are counted: what may stand in a quota, a limit range, a claim.

use serde_json::Value;

use super::{findings::Findings, names};
use crate::quantity::Quantity;

/// Counted in whole numbers.
const OBJECTS: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const QUOTA: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const CONTAINER: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_quota_huge_page(name: &str) -> bool {
    is_huge_page(name) || name.starts_with("requests.hugepages-")
}

/// Kubernetes' own: without a domain, or of a domain of its own.
pub(super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A device or the like of some vendor.
pub(super) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified(&format!("requests.{name}")).is_empty()
}

/// Whether more may be promised than there is.
pub(super) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// Whether a quota may name it without a domain.
pub(super) fn is_standard_quota(name: &str) -> bool {
    OBJECTS.contains(&name) || QUOTA.contains(&name) || is_quota_huge_page(name)
}

fn is_standard(name: &str) -> bool {
    name == "storage" || is_standard_quota(name)
}

/// A resource of any sort.
pub(super) fn any(name: &str, field: &str, errors: &mut Findings) {
    let sentences = names::qualified(name);
    for detail in &sentences {
        errors.invalid(field, name, detail);
    }
    if sentences.is_empty() && !name.contains('/') && !is_standard(name) {
        let detail = "must be a standard resource type or fully qualified";
        errors.invalid(field, name, detail);
    }
}

/// A resource that a quota limits.
pub(super) fn quota(name: &str, field: &str, errors: &mut Findings) {
    any(name, field, errors);
    if !name.contains('/') && !is_standard_quota(name) {
        errors.invalid(field, name, "must be a standard resource for quota");
    }
}

/// A resource that a container asks for.
pub(super) fn container(name: &str, field: &str, errors: &mut Findings) {
    any(name, field, errors);
    if !name.contains('/') {
        if !CONTAINER.contains(&name) && !is_huge_page(name) {
            errors.invalid(field, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        let detail = "doesn't follow extended resource name standard";
        errors.invalid(field, name, detail);
    }
}

/// An amount: none is negative, and objects and devices come whole.
pub(super) fn amount(name: &str, value: &Value, field: &str, errors: &mut Findings) {
    let Some(quantity) = quantity(value) else {
        return;
    };
    if quantity.is_negative() {
        errors.invalid(field, value.clone(), super::findings::NOT_NEGATIVE);
    }
    let whole = OBJECTS.contains(&name) || is_extended(name);
    if whole && !quantity.is_integer() {
        errors.invalid(field, value.clone(), "must be an integer");
    }
}

/// The quantity that a decoded field holds.
pub(super) fn quantity(value: &Value) -> Option<Quantity> {
    value.as_str()?.parse().ok()
}
