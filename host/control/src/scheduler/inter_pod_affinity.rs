//! InterPodAffinity: pods that want to be near others or far from them, and those that are there
//! already and want the same of the pod to be placed.

use super::{
    snapshot::{How, Snapshot, by_domain},
    status::{Plugin, Rejection},
    topology::NOWHERE,
};

/// One term with how many pods it means in each domain.
#[derive(Clone)]
struct Near {
    matcher: usize,
    topology: usize,
    counts: Vec<u32>,
}

/// What filtering needs to know, worked out once for a pod.
#[derive(Clone, Default)]
pub(super) struct Affinity {
    /// Required terms: of those who match all of them.
    needs: Vec<Near>,
    /// Nobody matches, but the pod itself does: it may be the first.
    first: bool,
    anti: Vec<Near>,
    /// By topology, how many pods in each domain keep the pod away.
    kept_away: Vec<(usize, Vec<u32>)>,
}

impl Affinity {
    pub(super) fn new(snapshot: &mut Snapshot, kind: usize) -> Self {
        let asks = &snapshot.kind(kind).asks;
        let anti = asks.anti.clone();
        let needs = asks.affinity.clone();
        let mut all = Self::default();
        let near = |snapshot: &mut Snapshot, matcher: usize, topology: usize| {
            snapshot.counts(matcher);
            let counts = by_domain(&snapshot.topologies[topology], snapshot.counted(matcher));
            Near {
                matcher,
                topology,
                counts,
            }
        };
        for (matcher, topology) in anti {
            all.anti.push(near(snapshot, matcher, topology));
        }
        if let Some((matcher, topologies)) = needs {
            let each = topologies.into_iter();
            all.needs = each
                .map(|topology| near(snapshot, matcher, topology))
                .collect();
            all.first = snapshot.kind(kind).matchers.contains(&matcher);
        }
        for matcher in &snapshot.kind(kind).matchers {
            for id in &snapshot.matchers[*matcher].held {
                let held = &snapshot.held[*id];
                if held.how == How::Anti && held.total > 0 {
                    let sums = by_domain(&snapshot.topologies[held.topology], held.counts());
                    all.keep_away(held.topology, &sums);
                }
            }
        }
        all
    }

    fn keep_away(&mut self, topology: usize, sums: &[u32]) {
        let known = self
            .kept_away
            .iter_mut()
            .find(|(known, _)| *known == topology);
        match known {
            None => self.kept_away.push((topology, sums.to_vec())),
            Some((_, all)) => all
                .iter_mut()
                .zip(sums)
                .for_each(|(all, more)| *all += more),
        }
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
        let step = |counts: &mut Vec<u32>, topology: usize| {
            let domain = snapshot.topologies[topology].of(node);
            if domain != NOWHERE
                && let Some(count) = counts.get_mut(domain as usize)
            {
                *count = if more {
                    *count + 1
                } else {
                    count.saturating_sub(1)
                };
            }
        };
        let other = snapshot.kind(other);
        for near in self.needs.iter_mut().chain(&mut self.anti) {
            if other.matchers.contains(&near.matcher) {
                step(&mut near.counts, near.topology);
            }
        }
        let mine = &snapshot.kind(kind).matchers;
        for id in &other.holds {
            let held = &snapshot.held[*id];
            if held.how != How::Anti || !mine.contains(&held.matcher) {
                continue;
            }
            if !self
                .kept_away
                .iter()
                .any(|(known, _)| *known == held.topology)
            {
                let none = vec![0; snapshot.topologies[held.topology].size()];
                self.kept_away.push((held.topology, none));
            }
            let known = self
                .kept_away
                .iter_mut()
                .find(|(known, _)| *known == held.topology);
            if let Some((topology, counts)) = known {
                step(counts, *topology);
            }
        }
    }

    pub(super) fn filter(&self, snapshot: &Snapshot, node: usize) -> Result<(), Rejection> {
        let count = |topology: usize, counts: &[u32]| {
            let domain = snapshot.topologies[topology].of(node);
            (domain != NOWHERE).then(|| counts.get(domain as usize).copied().unwrap_or(0))
        };
        let mut near = true;
        for need in &self.needs {
            match count(need.topology, &need.counts) {
                Some(pods) => near &= pods > 0,
                None => {
                    let why = "node(s) didn't match pod affinity rules";
                    return Err(Rejection::never(Plugin::InterPodAffinity, why));
                }
            }
        }
        let nobody = || {
            self.needs
                .iter()
                .all(|need| need.counts.iter().all(|n| *n == 0))
        };
        if !(near || self.first && nobody()) {
            let why = "node(s) didn't match pod affinity rules";
            return Err(Rejection::never(Plugin::InterPodAffinity, why));
        }
        let taken = |topology, counts: &[u32]| count(topology, counts).is_some_and(|n| n > 0);
        if self
            .anti
            .iter()
            .any(|anti| taken(anti.topology, &anti.counts))
        {
            let why = "node(s) didn't match pod anti-affinity rules";
            return Err(Rejection::now(Plugin::InterPodAffinity, why));
        }
        if self
            .kept_away
            .iter()
            .any(|(topology, counts)| taken(*topology, counts))
        {
            let why = "node(s) didn't satisfy existing pods anti-affinity rules";
            return Err(Rejection::now(Plugin::InterPodAffinity, why));
        }
        Ok(())
    }
}

/// For each of the nodes, how much the pod and those that are there like each other; `None` if none
/// of them has an opinion. `hard` is what it counts that a pod needs others.
pub(super) fn score(
    snapshot: &mut Snapshot,
    kind: usize,
    nodes: &[usize],
    hard: i64,
) -> Option<Vec<i64>> {
    // By topology, the sum of weights for each domain.
    let mut sums: Vec<(usize, Vec<i64>)> = Vec::new();
    let add = |sums: &mut Vec<(usize, Vec<i64>)>,
               snapshot: &Snapshot,
               topology,
               counts: &[u32],
               weight: i64| {
        let at = sums.iter().position(|(known, _)| *known == topology);
        let at = at.unwrap_or_else(|| {
            sums.push((topology, vec![0; snapshot.topologies[topology].size()]));
            sums.len() - 1
        });
        for (count, domain) in counts.iter().zip(snapshot.topologies[topology].all()) {
            if *count > 0 && *domain != NOWHERE {
                sums[at].1[*domain as usize] += i64::from(*count) * weight;
            }
        }
    };
    for (weight, matcher, topology) in snapshot.kind(kind).asks.preferred.clone() {
        if snapshot.counts(matcher).iter().any(|count| *count > 0) {
            let counts = snapshot.counted(matcher);
            add(&mut sums, snapshot, topology, counts, i64::from(weight));
        }
    }
    for matcher in &snapshot.kind(kind).matchers {
        for id in &snapshot.matchers[*matcher].held {
            let held = &snapshot.held[*id];
            let weight = match held.how {
                How::Anti => continue,
                How::Needs => hard,
                How::Likes(weight) => i64::from(weight),
            };
            if held.total > 0 && weight != 0 {
                add(&mut sums, snapshot, held.topology, held.counts(), weight);
            }
        }
    }
    if sums.is_empty() {
        return None;
    }
    let score = |node: &usize| {
        let of = |(topology, sums): &(usize, Vec<i64>)| {
            let domain = snapshot.topologies[*topology].of(*node);
            sums.get(domain as usize).copied().unwrap_or(0)
        };
        sums.iter().map(of).sum()
    };
    let mut scores: Vec<i64> = nodes.iter().map(score).collect();
    let (least, most) = (scores.iter().min().copied(), scores.iter().max().copied());
    let (least, most) = (least.unwrap_or(0), most.unwrap_or(0));
    for score in &mut scores {
        *score = if most > least {
            100 * (*score - least) / (most - least)
        } else {
            0
        };
    }
    Some(scores)
}
