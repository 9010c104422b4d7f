//! PodTopologySpread: how evenly pods of a kind are spread over zones, machines or whatever a label
//! of nodes tells apart.

use super::{
    class::{Class, Spread},
    config::DefaultSpread,
    node::NodeInfo,
    node_affinity,
    selector::Group,
    snapshot::Snapshot,
    status::{Plugin, Rejection},
    taints,
    topology::NOWHERE,
};

/// The label that names a single node.
pub(super) const HOSTNAME: &str = "kubernetes.io/hostname";

#[derive(Clone)]
struct Constraint {
    matcher: usize,
    topology: usize,
    /// Pods in each domain; `None` where no node is that counts.
    counts: Vec<Option<u32>>,
    /// The fewest in any domain; worked out anew if it is not known.
    fewest: u32,
    max_skew: u32,
    min_domains: usize,
    /// The pod itself is one of those that are counted.
    itself: u32,
}

/// What filtering needs to know, worked out once for a pod.
#[derive(Clone, Default)]
pub(super) struct Spreading {
    constraints: Vec<Constraint>,
}

/// Whether pods on the node count for the constraint.
fn counts(spread: &Spread, class: &Class, node: &NodeInfo) -> bool {
    (!spread.honours_affinity || node_affinity::accepts(class, node))
        && (!spread.honours_taints || taints::untolerated(node, class).is_none())
}

impl Spreading {
    pub(super) fn new(snapshot: &mut Snapshot, kind: usize) -> Self {
        let asked = snapshot.kind(kind).asks.spread[0].clone();
        if asked.is_empty() {
            return Self::default();
        }
        for (matcher, _) in &asked {
            snapshot.counts(*matcher);
        }
        let of = snapshot.kind(kind);
        let class = of.class.clone();
        let constraint = |((matcher, topology), spread): (&(usize, usize), &Spread)| Constraint {
            matcher: *matcher,
            topology: *topology,
            counts: vec![None; snapshot.topologies[*topology].size()],
            fewest: 0,
            max_skew: u32::try_from(spread.max_skew).unwrap_or(0),
            min_domains: usize::try_from(spread.min_domains).unwrap_or(0),
            itself: u32::from(of.matchers.contains(matcher)),
        };
        let mut constraints: Vec<_> = asked.iter().zip(&class.spread[0]).map(constraint).collect();
        let picky = !class.node_selector.is_empty() || class.node_required.is_some();
        for at in 0..snapshot.slots() {
            // All the labels must be there.
            if asked
                .iter()
                .any(|(_, topology)| snapshot.topologies[*topology].of(at) == NOWHERE)
            {
                continue;
            }
            for (one, spread) in constraints.iter_mut().zip(&class.spread[0]) {
                let ask = spread.honours_taints || spread.honours_affinity && picky;
                if ask && !counts(spread, &class, snapshot.node(at)) {
                    continue;
                }
                let domain = snapshot.topologies[one.topology].of(at);
                let there = snapshot.counted(one.matcher).get(at).copied().unwrap_or(0);
                let count = &mut one.counts[domain as usize];
                *count = Some(count.unwrap_or(0) + there);
            }
        }
        for one in &mut constraints {
            one.fewest = one.least();
        }
        Self { constraints }
    }

    /// As if there were one more pod of the class `other` on the node, or one fewer.
    pub(super) fn adjust(
        &mut self,
        snapshot: &Snapshot,
        kind: usize,
        other: usize,
        node: usize,
        more: bool,
    ) {
        let class = &snapshot.kind(kind).class;
        let other = snapshot.kind(other);
        let at = |one: &Constraint| snapshot.topologies[one.topology].of(node);
        if self.constraints.iter().any(|one| at(one) == NOWHERE) {
            return;
        }
        for (one, spread) in self.constraints.iter_mut().zip(&class.spread[0]) {
            let here =
                other.matchers.contains(&one.matcher) && counts(spread, class, snapshot.node(node));
            let domain = at(one) as usize;
            if here && let Some(Some(count)) = one.counts.get_mut(domain) {
                *count = if more {
                    *count + 1
                } else {
                    count.saturating_sub(1)
                };
                one.fewest = one.least();
            }
        }
    }

    pub(super) fn filter(&self, snapshot: &Snapshot, node: usize) -> Result<(), Rejection> {
        for one in &self.constraints {
            let domain = snapshot.topologies[one.topology].of(node);
            if domain == NOWHERE {
                let why =
                    "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Rejection::never(Plugin::PodTopologySpread, why));
            }
            let here = one
                .counts
                .get(domain as usize)
                .copied()
                .flatten()
                .unwrap_or(0);
            if (here + one.itself).saturating_sub(one.fewest) > one.max_skew {
                let why = "node(s) didn't match pod topology spread constraints";
                return Err(Rejection::now(Plugin::PodTopologySpread, why));
            }
        }
        Ok(())
    }
}

impl Constraint {
    fn least(&self) -> u32 {
        let domains = self.counts.iter().flatten();
        if domains.clone().count() < self.min_domains {
            return 0;
        }
        // Without any domain nothing limits.
        domains.min().copied().unwrap_or(u32::MAX)
    }
}

/// A constraint for scoring: a matcher, a topology and what it allows.
pub(super) struct Soft<'a> {
    pub(super) matcher: usize,
    pub(super) topology: usize,
    pub(super) spread: &'a Spread,
}

/// The constraints that a cluster has for pods that say nothing: their kind spread over machines and
/// zones, or what the configuration says.
pub(super) fn defaults(config: &DefaultSpread, group: &Group) -> Vec<Spread> {
    let one = |topology: &str, max_skew: i32| Spread {
        topology: topology.to_owned(),
        max_skew,
        min_domains: 1,
        honours_affinity: true,
        honours_taints: false,
        group: group.clone(),
    };
    match config {
        DefaultSpread::System => vec![one(HOSTNAME, 3), one("topology.kubernetes.io/zone", 5)],
        DefaultSpread::List(all) => all
            .iter()
            .map(|s| one(&s.topology_key, s.max_skew))
            .collect(),
    }
}

/// For each of the nodes, how well the pod would be spread there. With `all_labels`, nodes that
/// lack one of the labels get nothing.
pub(super) fn score(
    snapshot: &Snapshot,
    class: &Class,
    constraints: &[Soft<'_>],
    nodes: &[usize],
    all_labels: bool,
) -> Vec<i64> {
    let of = |soft: &Soft<'_>, node: usize| snapshot.topologies[soft.topology].of(node);
    let complete = |node: usize| constraints.iter().all(|soft| of(soft, node) != NOWHERE);
    let scored = |node: usize| !all_labels || complete(node);
    let mut sums = vec![0.0; nodes.len()];
    for soft in constraints {
        let topology = &snapshot.topologies[soft.topology];
        let there = snapshot.counted(soft.matcher);
        let count = |node: usize| there.get(node).copied().unwrap_or(0);
        let single = soft.spread.topology == HOSTNAME;
        // The domains of the nodes that can be chosen, with their pods.
        let mut domains: Vec<Option<u32>> = vec![None; topology.size()];
        let mut size = 0;
        for node in nodes.iter().filter(|node| scored(**node)) {
            let domain = topology.of(*node) as usize;
            if single {
                size += 1;
            } else if let Some(count @ None) = domains.get_mut(domain) {
                *count = Some(0);
                size += 1;
            }
        }
        if !single {
            for (node, domain) in topology.all().iter().enumerate() {
                if *domain == NOWHERE || count(node) == 0 || all_labels && !complete(node) {
                    continue;
                }
                if let Some(sum) = &mut domains[*domain as usize]
                    && counts(soft.spread, class, snapshot.node(node))
                {
                    *sum += count(node);
                }
            }
        }
        let weight = f64::from(u32::try_from(size + 2).unwrap_or(u32::MAX)).ln();
        for (sum, node) in sums.iter_mut().zip(nodes) {
            let domain = topology.of(*node);
            if domain == NOWHERE || !scored(*node) {
                continue;
            }
            let pods = if single {
                count(*node)
            } else {
                domains[domain as usize].unwrap_or(0)
            };
            *sum += f64::from(pods) * weight + f64::from(soft.spread.max_skew - 1);
        }
    }
    normalise(&sums, nodes, scored)
}

#[expect(clippy::cast_possible_truncation, reason = "counts of pods, rounded")]
fn normalise(sums: &[f64], nodes: &[usize], scored: impl Fn(usize) -> bool) -> Vec<i64> {
    let sums = sums.iter().map(|sum| sum.round() as i64);
    let all: Vec<_> = sums
        .zip(nodes)
        .map(|(sum, node)| scored(*node).then_some(sum))
        .collect();
    let least = all.iter().flatten().min().copied().unwrap_or(0);
    let most = all.iter().flatten().max().copied().unwrap_or(0);
    let score = |sum: &Option<i64>| match sum {
        None => 0,
        Some(_) if most == 0 => 100,
        Some(sum) => 100 * (most + least - sum) / most,
    };
    all.iter().map(score).collect()
}
