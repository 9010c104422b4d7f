//! One step of a rolling update: which old pods go, or with surge, which nodes get a second pod.

use std::sync::Arc;

use eyot_client::view::Pod;
use k8s_openapi::{api::apps::v1::DaemonSet, apimachinery::pkg::util::intstr::IntOrString};

use super::{
    placement::Wanted,
    plan::{Input, Place, Plan},
    pods::Maker,
};
use crate::rounding::resolve;

/// How many nodes may be without a working pod, or have two, because of the update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) surge: i32,
    pub(super) lack: i32,
}

fn is_rolling(set: &DaemonSet) -> bool {
    let strategy = set
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

pub(super) fn bounds(set: &DaemonSet, desired: i32) -> Bounds {
    if !is_rolling(set) {
        return Bounds { surge: 0, lack: 0 };
    }
    let strategy = set
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let one = IntOrString::Int(1);
    let lack = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
    let surge = surge.map_or(0, |surge| resolve(surge, desired, true));
    let lack = resolve(lack.unwrap_or(&one), desired, true);
    // Rounding must not leave an update without any room to move.
    let lack = if surge == 0 { lack.max(1) } else { lack };
    Bounds { surge, lack }
}

type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

/// The one pod of the current and the one of an older template on a node; nothing if there are
/// several of a kind, which is first put in order.
fn pair<'a>(input: &Input<'_>, place: &Place<'a>) -> Option<Pair<'a>> {
    let living = place.pods.iter().copied();
    let living = living.filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let (new, old): (Vec<_>, Vec<_>) = living.partition(|pod| input.is_updated(pod));
    let single = new.len() <= 1 && old.len() <= 1;
    single.then(|| (new.first().copied(), old.first().copied()))
}

/// To be asked where nothing else is to be done.
pub(super) fn step(
    input: &Input<'_>,
    places: &[Place<'_>],
    bounds: Bounds,
    maker: &mut Maker<'_>,
    plan: &mut Plan,
) {
    if !is_rolling(input.set) {
        return;
    }
    if bounds.surge > 0 {
        surge(input, places, bounds.surge, maker, plan);
    } else {
        replace(input, places, bounds.lack, plan);
    }
}

/// Take old pods away: those that do not work at any rate, of the others only so many.
fn replace(input: &Input<'_>, places: &[Place<'_>], lack: i32, plan: &mut Plan) {
    let mut unavailable = 0;
    let mut candidates = Vec::new();
    for place in places {
        if place.wanted != Wanted::Run && place.pods.is_empty() {
            continue;
        }
        match pair(input, place) {
            Some((Some(new), None)) => unavailable += i32::from(!input.is_available(new)),
            Some((None, Some(old))) if input.is_available(old) => candidates.push(old),
            Some((None, Some(old))) => {
                plan.delete.push(old.clone());
                unavailable += 1;
            }
            _ => unavailable += 1,
        }
    }
    let room = usize::try_from(lack - unavailable).unwrap_or(0);
    plan.delete
        .extend(candidates.into_iter().take(room).cloned());
}

/// Start new pods beside old ones: where the old does not work at any rate, elsewhere only on so
/// many nodes at once. Where the new one works, the old one goes.
fn surge(
    input: &Input<'_>,
    places: &[Place<'_>],
    most: i32,
    maker: &mut Maker<'_>,
    plan: &mut Plan,
) {
    let mut surging = 0;
    let (mut allowed, mut candidates) = (Vec::new(), Vec::new());
    for place in places.iter().filter(|place| !place.pods.is_empty()) {
        match pair(input, place) {
            None => surging += 1,
            Some((_, None)) => {}
            Some((Some(new), Some(_))) if !input.is_available(new) => surging += 1,
            Some((Some(_), Some(old))) => plan.delete.push(old.clone()),
            Some((None, Some(_))) if place.wanted != Wanted::Run => {}
            Some((None, Some(old))) if input.is_available(old) => candidates.push(place.name),
            Some((None, Some(_))) => allowed.push(place.name),
        }
    }
    let room = usize::try_from(most - surging).unwrap_or(0);
    allowed.extend(candidates.into_iter().take(room));
    plan.create
        .extend(allowed.into_iter().map(|node| maker.pod_for(node)));
}
