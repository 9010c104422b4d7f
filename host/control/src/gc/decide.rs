//! What to do about an object, given what has become of its owners. Pure.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PropagationPolicy;

/// The finalizer of an owner that goes after its dependents.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an owner that leaves its dependents behind.
pub(super) const ORPHAN: &str = "orphan";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerState {
    There,
    /// It is being deleted, and waits for its dependents to be gone first.
    WaitsForDependents,
    Gone,
}

impl OwnerState {
    pub(super) fn of(deleting: bool, finalizers: &[String]) -> Self {
        match deleting && finalizers.iter().any(|found| found == FOREGROUND) {
            true => Self::WaitsForDependents,
            false => Self::There,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act<'a> {
    Keep,
    /// Take these owners, by uid, off the object.
    Release(Vec<&'a str>),
    Delete(PropagationPolicy),
}

/// An object goes when no owner is left that wants it.
pub(super) fn decide<'a>(
    owners: &'a [OwnerReference],
    states: &HashMap<&str, OwnerState>,
    has_dependents: bool,
) -> Act<'a> {
    let state = |owner: &&OwnerReference| {
        states
            .get(owner.uid.as_str())
            .copied()
            .unwrap_or(OwnerState::There)
    };
    let lost: Vec<&str> = owners
        .iter()
        .filter(|owner| state(owner) != OwnerState::There)
        .map(|owner| owner.uid.as_str())
        .collect();
    if lost.is_empty() {
        return Act::Keep;
    }
    if lost.len() < owners.len() {
        return Act::Release(lost);
    }
    let awaited = owners
        .iter()
        .any(|owner| state(&owner) == OwnerState::WaitsForDependents);
    // Who is waited for passes it on, so that the last of the line goes first.
    let policy = match awaited && has_dependents {
        true => PropagationPolicy::Foreground,
        false => PropagationPolicy::Background,
    };
    Act::Delete(policy)
}
