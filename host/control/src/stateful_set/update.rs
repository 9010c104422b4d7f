//! Rolling updates: which pods of an older template go, and of which template new ones are. Pure.

use k8s_openapi::{
    api::apps::v1::RollingUpdateStatefulSetStrategy, apimachinery::pkg::util::intstr::IntOrString,
};

use super::plan::{Input, Place, Plan};
use crate::rounding::resolve;

pub(super) fn is_rolling(input: &Input<'_>) -> bool {
    let spec = input.set.spec.as_ref();
    let strategy = spec.and_then(|spec| spec.update_strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

fn rolling<'a>(input: &Input<'a>) -> Option<&'a RollingUpdateStatefulSetStrategy> {
    let strategy = input.set.spec.as_ref()?.update_strategy.as_ref()?;
    strategy.rolling_update.as_ref()
}

/// How many of the lowest members keep the old template.
fn partition(input: &Input<'_>) -> i32 {
    let rolling = rolling(input);
    rolling.and_then(|rolling| rolling.partition).unwrap_or(0)
}

/// Whether a new pod of the member in this place, counted from the first, is of the old template.
pub(super) fn starts_old(input: &Input<'_>, place: i32) -> bool {
    if !is_rolling(input) {
        return false;
    }
    match rolling(input).and_then(|rolling| rolling.partition) {
        Some(partition) => place < partition,
        None => {
            let status = input.set.status.as_ref();
            place < status.and_then(|s| s.current_replicas).unwrap_or(0)
        }
    }
}

/// Take away old pods from the highest, as many as may lack; those that lack already count.
pub(super) fn step(input: &Input<'_>, places: &[Place<'_>], plan: &mut Plan) {
    if !is_rolling(input) {
        return;
    }
    let most = rolling(input).and_then(|rolling| rolling.max_unavailable.as_ref());
    let most = most.unwrap_or(&IntOrString::Int(1));
    let most = resolve(most, input.replicas(), true).max(1);
    let available = places
        .iter()
        .filter(|place| place.pod.is_some_and(|pod| input.is_available(pod)));
    let available = i32::try_from(available.count()).unwrap_or(i32::MAX);
    let mut room = most - (input.replicas() - available);
    let keep = usize::try_from(partition(input)).unwrap_or(0);
    for place in places.iter().skip(keep).rev() {
        let Some(pod) = place.pod else { continue };
        if input.is_updated(pod) || pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if input.is_available(pod) {
            if room <= 0 {
                break;
            }
            room -= 1;
        }
        plan.delete(pod);
    }
}
