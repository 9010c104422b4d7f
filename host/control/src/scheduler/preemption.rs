//! DefaultPreemption: which pods of lower priority would have to go so that a pod finds a place.

use std::{collections::BTreeSet, sync::Arc};

use eyot_client::Key;
use jiff::Timestamp;

use super::{
    cycle::{Cycle, Nowhere},
    selector::{Labels, Selector},
    snapshot::{Going, Placed, Snapshot},
    status::{Reasons, Rejection, Why},
};

/// So many nodes where it would work, or this share of all of them, are enough to choose from.
const ENOUGH: usize = 100;
const ENOUGH_SHARE: usize = 10;

/// A PodDisruptionBudget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Budget {
    pub(super) selector: Selector,
    /// Disruptions that it still allows.
    pub(super) allowed: i32,
    /// Pods whose disruption has been counted already.
    pub(super) disrupted: BTreeSet<String>,
}

/// Those of one namespace each.
pub(super) type Budgets = std::collections::BTreeMap<Key, Budget>;

/// The place to be made free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) node: Arc<str>,
    /// Who has to go, with uids.
    pub(super) victims: Vec<(Key, String)>,
}

struct Candidate {
    node: usize,
    /// The most important first.
    victims: Vec<Key>,
    /// How many of them go against a budget.
    violations: usize,
}

/// Find a place, or say why there is none in Kubernetes' words. `nominated` is the node that the
/// pod was promised before, and `offset` where to begin.
pub(super) fn find(
    cycle: &Cycle<'_>,
    nowhere: &Nowhere,
    budgets: &Budgets,
    nominated: Option<&str>,
    offset: u64,
) -> Result<Place, String> {
    if !cycle.class.preempts {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if let Some(at) = nominated.and_then(|name| cycle.snapshot.find(name))
        && nowhere.crowded.contains(&at)
        && lesser(cycle, at).any(|(_, pod)| pod.going == Going::Preempted)
    {
        let why = "not eligible due to a terminating pod on the nominated node.";
        return Err(why.to_owned());
    }
    let crowded = &nowhere.crowded;
    let enough = (crowded.len() * ENOUGH_SHARE / 100).max(ENOUGH);
    let mut candidates = Vec::new();
    let mut reasons = Reasons::default();
    let begin = usize::try_from(offset % crowded.len().max(1) as u64).unwrap_or(0);
    for at in crowded.iter().cycle().skip(begin).take(crowded.len()) {
        match victims(cycle, nowhere, budgets, *at) {
            Ok(candidate) => candidates.push(candidate),
            Err(why) => reasons.add(&why),
        }
        if candidates.len() >= enough {
            break;
        }
    }
    match best(cycle.snapshot, candidates) {
        Some(candidate) => {
            let uid = |key: &Key| cycle.snapshot.pod(key).map(|pod| pod.uid.clone());
            let victims = candidate.victims.into_iter();
            Ok(Place {
                node: cycle.snapshot.node(candidate.node).name.clone(),
                victims: victims
                    .filter_map(|key| Some((key.clone(), uid(&key)?)))
                    .collect(),
            })
        }
        None => {
            let nodes = cycle.snapshot.len();
            let why = "Preemption is not helpful for scheduling";
            reasons.count(why.into(), nodes.saturating_sub(crowded.len()));
            Err(reasons.told(nodes))
        }
    }
}

/// The pods on the node that matter less.
fn lesser<'a>(cycle: &'a Cycle<'_>, at: usize) -> impl Iterator<Item = (&'a Key, &'a Placed)> {
    let pods = cycle.snapshot.node(at).pods.iter();
    let pods = pods.filter_map(|key| Some((key, cycle.snapshot.pod(key)?)));
    pods.filter(|(_, pod)| priority(cycle.snapshot, pod) < cycle.class.priority)
}

fn priority(snapshot: &Snapshot, pod: &Placed) -> i32 {
    snapshot.kind(pod.kind).class.priority
}

/// Who has to go from the node: as few, and as unimportant, as will do.
fn victims(
    cycle: &Cycle<'_>,
    nowhere: &Nowhere,
    budgets: &Budgets,
    at: usize,
) -> Result<Candidate, Why> {
    let mut all: Vec<(&Key, &Placed)> = lesser(cycle, at).collect();
    if all.is_empty() {
        return Err(Why::One("No preemption victims found for incoming pod"));
    }
    // The more important first, and of equals who runs longer.
    all.sort_by_key(|(key, pod)| {
        let started = pod.started.unwrap_or(Timestamp::MAX);
        (
            -i64::from(priority(cycle.snapshot, pod)),
            started,
            (*key).clone(),
        )
    });
    let mut used = cycle.snapshot.node(at).used.clone();
    let mut pre = nowhere.pre.clone();
    for (_, pod) in &all {
        used.take(&cycle.snapshot.kind(pod.kind).class.demand);
        pre.adjust(cycle.snapshot, cycle.asked.kind, pod.kind, at, false);
    }
    let fits = |rejection: Rejection| rejection.why;
    cycle.filter(at, &used, &pre).map_err(fits)?;
    let (violating, others) = protected(cycle.snapshot, &all, budgets);
    let mut candidate = Candidate {
        node: at,
        victims: Vec::new(),
        violations: 0,
    };
    let both = violating
        .iter()
        .map(|pod| (true, pod))
        .chain(others.iter().map(|pod| (false, pod)));
    for (violates, (key, pod)) in both {
        let demand = &cycle.snapshot.kind(pod.kind).class.demand;
        used.add(demand);
        pre.adjust(cycle.snapshot, cycle.asked.kind, pod.kind, at, true);
        if cycle.filter(at, &used, &pre).is_err() {
            used.take(demand);
            pre.adjust(cycle.snapshot, cycle.asked.kind, pod.kind, at, false);
            candidate.victims.push((*key).clone());
            candidate.violations += usize::from(violates);
        }
    }
    let rank = |key: &Key| all.iter().position(|(known, _)| *known == key);
    candidate.victims.sort_by_key(rank);
    Ok(candidate)
}

type Pods<'a> = Vec<(&'a Key, &'a Placed)>;

/// The pods whose going would be against a budget, and the others, in their order.
fn protected<'a>(
    snapshot: &Snapshot,
    pods: &[(&'a Key, &'a Placed)],
    budgets: &Budgets,
) -> (Pods<'a>, Pods<'a>) {
    let mut left: Vec<(&Key, &Budget, i32)> = budgets
        .iter()
        .map(|(key, budget)| (key, budget, budget.allowed))
        .collect();
    pods.iter().partition(|(key, pod)| {
        let labels: &Labels = &snapshot.kind(pod.kind).class.labels;
        let mut violated = false;
        for (of, budget, allowed) in &mut left {
            let concerned = of.namespace == key.namespace
                && !budget.selector.is_empty()
                && budget.selector.accepts(labels)
                && !budget.disrupted.contains(&*key.name);
            if concerned {
                *allowed -= 1;
                violated |= *allowed < 0;
            }
        }
        violated
    })
}

/// The candidate that does the least harm.
fn best(snapshot: &Snapshot, candidates: Vec<Candidate>) -> Option<Candidate> {
    let harm = |candidate: &Candidate| {
        let pods = candidate.victims.iter().filter_map(|key| snapshot.pod(key));
        let priorities = pods.clone().map(|pod| i64::from(priority(snapshot, pod)));
        let highest = priorities.clone().max().unwrap_or(i64::MIN);
        // Shifted so that many of negative priority are not better than few.
        let sum: i64 = priorities.map(|one| one + i64::from(i32::MAX) + 1).sum();
        let highests = pods.filter(|pod| i64::from(priority(snapshot, pod)) == highest);
        let earliest = highests
            .map(|pod| pod.started.unwrap_or(Timestamp::MAX))
            .min();
        let latest_first = std::cmp::Reverse(earliest);
        (
            candidate.violations,
            highest,
            sum,
            candidate.victims.len(),
            latest_first,
        )
    };
    candidates.into_iter().min_by_key(harm)
}
