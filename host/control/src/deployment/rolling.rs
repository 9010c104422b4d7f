//! Sizes of ReplicaSets during a roll-out: `maxSurge`, `maxUnavailable`, and spreading a change of
//! `replicas` over several ReplicaSets.

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    plan::{Sets, Write, available, desired, recreates, replicas, scale},
    revision,
};
use crate::rounding::resolve;

/// How many pods more and how many fewer than wanted there may be.
pub(super) fn bounds(deployment: &Deployment) -> (i32, i32) {
    if recreates(deployment) {
        return (0, 0);
    }
    let desired = desired(deployment);
    let strategy = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let surge = rolling
        .and_then(|rolling| rolling.max_surge.as_ref())
        .unwrap_or(&quarter);
    let lack = rolling
        .and_then(|rolling| rolling.max_unavailable.as_ref())
        .unwrap_or(&quarter);
    let surge = resolve(surge, desired, true);
    let mut lack = resolve(lack, desired, false);
    if surge == 0 && lack == 0 {
        // Rounding must not leave a roll-out without any room to move.
        lack = 1;
    }
    (surge, lack.min(desired))
}

/// The most pods that there may be.
pub(super) fn most(deployment: &Deployment) -> i32 {
    desired(deployment).saturating_add(bounds(deployment).0)
}

fn total(sets: &Sets<'_>) -> i32 {
    sets.all().map(replicas).fold(0, i32::saturating_add)
}

/// The size that the ReplicaSet of a new template begins with.
pub(super) fn first_size(deployment: &Deployment, sets: &Sets<'_>) -> i32 {
    if recreates(deployment) {
        // With nothing to wait for there is no reason to begin with nothing.
        return if sets.old.is_empty() {
            desired(deployment)
        } else {
            0
        };
    }
    grown(deployment, 0, total(sets))
}

fn grown(deployment: &Deployment, from: i32, total: i32) -> i32 {
    let room = most(deployment).saturating_sub(total).max(0);
    from + room.min(desired(deployment) - from).max(0)
}

/// One step of a rolling update: grow the new, then shrink the old as far as enough are available.
pub(super) fn step(deployment: &Deployment, new: &ReplicaSet, sets: &Sets<'_>) -> Vec<Write> {
    let desired = desired(deployment);
    let size = replicas(new);
    let next = if size > desired {
        desired
    } else {
        grown(deployment, size, total(sets))
    };
    if next != size {
        return vec![scale(deployment, new, next)];
    }
    shrink_old(deployment, new, sets)
}

fn shrink_old(deployment: &Deployment, new: &ReplicaSet, sets: &Sets<'_>) -> Vec<Write> {
    let least = desired(deployment) - bounds(deployment).1;
    let mut sizes: Vec<i32> = sets.old.iter().map(|set| replicas(set)).collect();
    if sizes.iter().all(|size| *size == 0) {
        return Vec::new();
    }
    let starting = (replicas(new) - available(new)).max(0);
    let spare = total(sets) - least - starting;
    if spare <= 0 {
        return Vec::new();
    }
    // Pods that do not work are no loss: they go first.
    let mut left = spare;
    for (size, set) in sizes.iter_mut().zip(&sets.old) {
        let broken = (*size - available(set)).clamp(0, left);
        *size -= broken;
        left -= broken;
    }
    // Of those that work, only as many as the available ones allow.
    let works: i32 = sets.all().map(available).fold(0, i32::saturating_add);
    let mut left = (works - least).max(0);
    for size in &mut sizes {
        let gone = (*size).clamp(0, left);
        *size -= gone;
        left -= gone;
    }
    let changed = sizes
        .iter()
        .zip(&sets.old)
        .filter(|(size, set)| **size != replicas(set));
    changed
        .map(|(size, set)| scale(deployment, set, *size))
        .collect()
}

/// Spread a change of `replicas` over the ReplicaSets that have pods, by their sizes.
pub(super) fn proportional(deployment: &Deployment, sets: &Sets<'_>) -> Vec<Write> {
    let desired = desired(deployment);
    let mut active: Vec<&ReplicaSet> = sets.all().filter(|set| replicas(set) > 0).collect();
    if active.len() <= 1 {
        // The only one that has pods, or else the current one, is the whole Deployment.
        let only = active.first().copied().or(sets.new);
        let only = only.filter(|set| replicas(set) != desired || is_stale(deployment, set));
        return only
            .map(|set| scale(deployment, set, desired))
            .into_iter()
            .collect();
    }
    if sets.new.is_some_and(|new| is_saturated(deployment, new)) {
        // The current one is all there should be: the others are in the way.
        let others = sets.old.iter().filter(|set| replicas(set) > 0);
        return others.map(|set| scale(deployment, set, 0)).collect();
    }
    if recreates(deployment) {
        return Vec::new();
    }
    let allowed = if desired == 0 { 0 } else { most(deployment) };
    let total = total(sets);
    let mut left = allowed - total;
    // The largest first, and of equal ones the newest when growing: what is rounded off goes there.
    if left > 0 {
        active.reverse();
    }
    active.sort_by_key(|set| std::cmp::Reverse(replicas(set)));
    let mut sizes = Vec::new();
    for set in &active {
        let share = match left.signum() {
            0 => 0,
            1 => fraction(deployment, set).min(left),
            _ => fraction(deployment, set).max(left),
        };
        left -= share;
        sizes.push(replicas(set).saturating_add(share));
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + left).max(0);
    }
    // Also those whose size stays: their annotation says for which `replicas` it was found.
    let changed = active.into_iter().zip(sizes);
    let changed = changed.filter(|(set, size)| replicas(set) != *size || is_stale(deployment, set));
    changed
        .map(|(set, size)| scale(deployment, set, size))
        .collect()
}

/// By how much a ReplicaSet changes if it keeps its share of the most pods that there may be.
fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    let size = replicas(set);
    if desired(deployment) == 0 {
        return -size;
    }
    let there = deployment
        .status
        .as_ref()
        .and_then(|status| status.replicas);
    let before = revision::most_replicas(set).filter(|most| *most != 0);
    match before.or(there).unwrap_or(0) {
        0 => 0,
        before => {
            let next = f64::from(size) * f64::from(most(deployment)) / f64::from(before);
            (next.round() as i32).saturating_sub(size)
        }
    }
}

/// Whether a ReplicaSet has all pods of the Deployment, and they work.
fn is_saturated(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let desired = desired(deployment);
    revision::desired_replicas(set) == Some(desired)
        && replicas(set) == desired
        && available(set) == desired
}

/// Whether `replicas` was changed since this ReplicaSet was last scaled.
pub(super) fn is_stale(deployment: &Deployment, set: &ReplicaSet) -> bool {
    revision::desired_replicas(set).is_some_and(|known| known != desired(deployment))
}
