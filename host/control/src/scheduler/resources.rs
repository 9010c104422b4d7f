//! NodeResourcesFit and NodeResourcesBalancedAllocation: whether there is room on a node, and how
//! well the pod would fill it.

use std::borrow::Cow;

use super::{
    class::Class,
    config::{Shape, Strategy},
    demand::{Amounts, Demand},
    node::{NodeInfo, Used},
    status::{Plugin, Rejection, Why},
};

/// The best score that a node can have.
pub(super) const BEST: i64 = 100;

pub(super) fn filter(class: &Class, node: &NodeInfo, used: &Used) -> Result<(), Rejection> {
    let mut resolvable = true;
    let mut short: Vec<Cow<'static, str>> = Vec::new();
    if node
        .pods_allowed
        .is_some_and(|allowed| used.pods + 1 > allowed)
    {
        short.push(Cow::Borrowed("Too many pods"));
    }
    let mut check = |name: &str, wanted: i64, has: i64, taken: i64, why: Option<&'static str>| {
        if wanted > 0 && wanted > has.saturating_sub(taken) {
            resolvable &= wanted <= has;
            short.push(why.map_or_else(|| format!("Insufficient {name}").into(), Cow::Borrowed));
        }
    };
    let (wants, has, taken) = (&class.demand.amounts, &node.allocatable, &used.amounts);
    check(
        "cpu",
        wants.cpu,
        has.cpu,
        taken.cpu,
        Some("Insufficient cpu"),
    );
    check(
        "memory",
        wants.memory,
        has.memory,
        taken.memory,
        Some("Insufficient memory"),
    );
    let why = Some("Insufficient ephemeral-storage");
    check(
        "ephemeral-storage",
        wants.storage,
        has.storage,
        taken.storage,
        why,
    );
    for (name, wanted) in &wants.others {
        check(name, *wanted, has.get(name), taken.get(name), None);
    }
    if short.is_empty() {
        return Ok(());
    }
    Err(Rejection {
        plugin: Plugin::NodeResourcesFit,
        resolvable,
        why: Why::Several(short),
    })
}

/// What would be taken of a resource with the pod there, and what there is; both nothing for one
/// that the pod does not ask for and not every pod needs.
fn filled(name: &str, wants: &Amounts, node: &NodeInfo, taken: &Amounts) -> (i64, i64) {
    let wanted = wants.get(name);
    if wanted == 0 && !matches!(name, "cpu" | "memory" | "ephemeral-storage") {
        return (0, 0);
    }
    (
        taken.get(name).saturating_add(wanted),
        node.allocatable.get(name),
    )
}

/// How much the strategy likes the pod on the node.
pub(super) fn score(strategy: &Strategy, demand: &Demand, node: &NodeInfo) -> i64 {
    let mut sum = 0;
    let mut weights = 0;
    for (name, weight) in strategy.resources() {
        let (taken, has) = filled(name, &demand.assumed, node, &node.used.assumed);
        if has == 0 {
            continue;
        }
        let score = match strategy {
            Strategy::LeastAllocated(_) if taken > has => 0,
            Strategy::LeastAllocated(_) => share(has - taken, has),
            Strategy::MostAllocated(_) => share(taken.min(has), has),
            Strategy::RequestedToCapacityRatio(_, shape) => {
                let used = if taken > has { BEST } else { share(taken, has) };
                match shaped(shape, used) {
                    // As if it were not there.
                    0 => continue,
                    score => score,
                }
            }
        };
        sum += score * weight;
        weights += weight;
    }
    match strategy {
        _ if weights == 0 => 0,
        Strategy::RequestedToCapacityRatio(..) => (sum + weights / 2) / weights,
        _ => sum / weights,
    }
}

/// In hundredths.
fn share(part: i64, whole: i64) -> i64 {
    i64::try_from(i128::from(part) * i128::from(BEST) / i128::from(whole)).unwrap_or(BEST)
}

/// The broken line through the points, at `used`.
fn shaped(points: &[Shape], used: i64) -> i64 {
    let Some(first) = points.first() else {
        return 0;
    };
    let mut before = first;
    for point in points {
        if used <= point.utilization {
            let width = point.utilization - before.utilization;
            if width == 0 {
                return point.score;
            }
            let rise = (point.score - before.score) * (used - before.utilization);
            return before.score + rise / width;
        }
        before = point;
    }
    before.score
}

/// How evenly the resources of the node would be taken; `None` for a pod that asks for nothing.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a score from 0 to 100, of shares between 0 and 1"
)]
pub(super) fn balance(demand: &Demand, node: &NodeInfo) -> Option<i64> {
    let wants = &demand.amounts;
    if wants.cpu == 0 && wants.memory == 0 {
        return None;
    }
    let of = |name: &str| {
        let (taken, has) = filled(name, wants, node, &node.used.amounts);
        (has > 0).then(|| (taken as f64 / has as f64).min(1.0))
    };
    let deviation = match (of("cpu"), of("memory")) {
        (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
        _ => 0.0,
    };
    Some(((1.0 - deviation) * BEST as f64) as i64)
}
