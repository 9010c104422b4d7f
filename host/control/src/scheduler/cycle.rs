//! One decision: the nodes that can take the pod (filter), and the best of them (score).

use std::collections::{BTreeSet, HashMap};

use eyot_client::Key;

use super::{
    class::{Class, Spread},
    config::{DefaultSpread, SchedulerConfig},
    core::Outside,
    images,
    inter_pod_affinity::{self, Affinity},
    node::{NodeInfo, Used},
    node_affinity, resources,
    snapshot::Snapshot,
    status::{Plugin, Reasons, Refusal, Rejection, Why},
    taints,
    topology_spread::{self, Soft, Spreading},
};
use crate::storage::scheduling::Wishes;

/// With fewer nodes, all are looked at.
const FEW_NODES: usize = 100;
/// However many nodes there are, so many hundredths of them are tried.
const LEAST_SHARE: usize = 5;

/// The devices of each service, by namespace and name of the service: the nodes that have them.
pub(super) type Devices = HashMap<(String, String), BTreeSet<String>>;

/// A pod that has been promised the place of others, which are about to go.
#[derive(Debug, Clone)]
pub(super) struct Nominee {
    pub(super) pod: Key,
    pub(super) kind: usize,
}

/// What else there is to regard beside the snapshot.
#[derive(Default)]
pub(super) struct Surroundings {
    pub(super) config: SchedulerConfig,
    /// By the name of the node.
    pub(super) nominees: HashMap<String, Vec<Nominee>>,
    pub(super) devices: Devices,
}

/// What a pod asks of others, worked out once.
#[derive(Clone)]
pub(super) struct Pre {
    affinity: Affinity,
    spreading: Spreading,
}

impl Pre {
    pub(super) fn new(snapshot: &mut Snapshot, kind: usize) -> Self {
        Self {
            affinity: Affinity::new(snapshot, kind),
            spreading: Spreading::new(snapshot, kind),
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
        self.affinity.adjust(snapshot, kind, other, node, more);
        self.spreading.adjust(snapshot, kind, other, node, more);
    }
}

/// A pod in question, and who is asked about it.
pub(super) struct Asked<'a> {
    pub(super) key: &'a Key,
    pub(super) kind: usize,
    /// The node that it was promised.
    pub(super) promised: Option<&'a str>,
    pub(super) outside: &'a dyn Outside,
    pub(super) wishes: &'a Wishes,
    /// The constraints, with their matchers, that hold if it says nothing about how it is spread.
    pub(super) defaults: &'a [(usize, Spread)],
}

/// A pod in question, and what is known of it.
pub(super) struct Cycle<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) around: &'a Surroundings,
    pub(super) class: &'a Class,
    pub(super) asked: &'a Asked<'a>,
}

/// What of a node does not depend on which pods are where.
pub(super) fn filter_node(class: &Class, node: &NodeInfo) -> Result<(), Rejection> {
    taints::filter_unschedulable(class, node)?;
    taints::filter(class, node)?;
    node_affinity::filter(class, node)
}

/// What depends on what else is on the node.
pub(super) fn filter_room(class: &Class, node: &NodeInfo, used: &Used) -> Result<(), Rejection> {
    if !used.has_free(&class.demand.ports) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        return Err(Rejection::now(Plugin::NodePorts, why));
    }
    resources::filter(class, node, used)
}

impl Cycle<'_> {
    fn filter_volumes(&self, at: usize) -> Result<(), Rejection> {
        if self.asked.wishes.is_nothing() {
            return Ok(());
        }
        let node = self.snapshot.node(at);
        let against = self.asked.outside.objections(self.asked.wishes, &node.name);
        if against.is_empty() {
            return Ok(());
        }
        Err(Rejection {
            plugin: Plugin::VolumeBinding,
            resolvable: false,
            why: Why::Several(against.into_iter().map(Into::into).collect()),
        })
    }

    fn filter_devices(&self, at: usize) -> Result<(), Rejection> {
        let Some(service) = &self.class.device_service else {
            return Ok(());
        };
        let key = (self.class.namespace.clone(), service.clone());
        let nodes = self.around.devices.get(&key);
        if nodes.is_none_or(|nodes| nodes.contains(&*self.snapshot.node(at).name)) {
            return Ok(());
        }
        let why = "node(s) didn't have the devices of the pod's device service";
        Err(Rejection::never(Plugin::DevicePlacement, why))
    }

    fn filter_with(&self, at: usize, used: &Used, pre: &Pre) -> Result<(), Rejection> {
        let node = self.snapshot.node(at);
        filter_node(self.class, node)?;
        filter_room(self.class, node, used)?;
        self.filter_volumes(at)?;
        self.filter_devices(at)?;
        pre.spreading.filter(self.snapshot, at)?;
        pre.affinity.filter(self.snapshot, at)
    }

    /// Whether the node takes the pod, with and without the pods that were promised a place there
    /// and matter at least as much: some of what is asked is only met with them.
    pub(super) fn filter(&self, at: usize, used: &Used, pre: &Pre) -> Result<(), Rejection> {
        if self.around.nominees.is_empty() {
            return self.filter_with(at, used, pre);
        }
        let promised = self.around.nominees.get(&*self.snapshot.node(at).name);
        let promised = promised.into_iter().flatten().filter(|nominee| {
            let class = &self.snapshot.kind(nominee.kind).class;
            class.priority >= self.class.priority && nominee.pod != *self.asked.key
        });
        let promised: Vec<&Nominee> = promised.collect();
        if !promised.is_empty() {
            let (mut used, mut pre) = (used.clone(), pre.clone());
            for nominee in promised {
                used.add(&self.snapshot.kind(nominee.kind).class.demand);
                pre.adjust(self.snapshot, self.asked.kind, nominee.kind, at, true);
            }
            self.filter_with(at, &used, &pre)?;
        }
        self.filter_with(at, used, pre)
    }
}

/// No node takes the pod.
pub(super) struct Nowhere {
    pub(super) reasons: Reasons,
    pub(super) plugins: BTreeSet<Plugin>,
    /// The nodes where fewer pods could help.
    pub(super) crowded: Vec<usize>,
    pub(super) pre: Pre,
}

/// Chooses among nodes; remembers where it left off.
#[derive(Default)]
pub(super) struct Chooser {
    start: usize,
    /// Decides between nodes that are equally good.
    draws: u64,
}

impl Chooser {
    /// A number that looks random.
    pub(super) fn draw(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.draws ^ (self.draws >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    }

    /// The best node for the pod.
    pub(super) fn choose(
        &mut self,
        snapshot: &mut Snapshot,
        around: &Surroundings,
        asked: &Asked<'_>,
    ) -> Result<usize, Box<Nowhere>> {
        let kind = asked.kind;
        let pre = Pre::new(snapshot, kind);
        let class = snapshot.kind(kind).class.clone();
        let named = class.named_nodes();
        let named = named.map(|names| names.iter().filter_map(|n| snapshot.find(n)).collect());
        let everywhere = named.is_none();
        let nodes: Vec<usize> = named.unwrap_or_else(|| snapshot.order().to_vec());
        let cycle = Cycle {
            snapshot,
            around,
            class: &class,
            asked,
        };
        let fits = |at: usize| cycle.filter(at, &cycle.snapshot.node(at).used, &pre);
        let promised = asked.promised.and_then(|name| cycle.snapshot.find(name));
        if let Some(at) = promised.filter(|at| fits(*at).is_ok()) {
            return Ok(at);
        }
        let enough = enough(nodes.len(), around.config.enough_nodes);
        let mut fitting = Vec::with_capacity(enough);
        let mut rejected = Vec::new();
        let mut tried = 0;
        while tried < nodes.len() && fitting.len() < enough {
            let at = nodes[(self.start + tried) % nodes.len()];
            tried += 1;
            match fits(at) {
                Ok(()) => fitting.push(at),
                Err(why) => rejected.push((at, why)),
            }
        }
        if everywhere && !nodes.is_empty() {
            self.start = (self.start + tried) % nodes.len();
        }
        match fitting[..] {
            [] => {
                let mut nowhere = Nowhere {
                    reasons: Reasons::default(),
                    plugins: BTreeSet::new(),
                    crowded: Vec::new(),
                    pre,
                };
                for (at, rejection) in rejected {
                    nowhere.reasons.add(&rejection.why);
                    nowhere.plugins.insert(rejection.plugin);
                    nowhere.crowded.extend(rejection.resolvable.then_some(at));
                }
                if nodes.len() < snapshot.len() {
                    nowhere.plugins.insert(Plugin::NodeAffinity);
                    let why = "node(s) didn't satisfy plugin(s) [NodeAffinity]";
                    nowhere
                        .reasons
                        .count(why.into(), snapshot.len() - nodes.len());
                }
                Err(Box::new(nowhere))
            }
            [only] => Ok(only),
            _ => {
                let scores = score(snapshot, &around.config, asked, &fitting);
                Ok(self.best(&fitting, &scores))
            }
        }
    }

    fn best(&mut self, nodes: &[usize], scores: &[i64]) -> usize {
        let most = scores.iter().max().copied().unwrap_or(0);
        let mut best = nodes
            .iter()
            .zip(scores)
            .filter(|(_, score)| **score == most);
        let equal = u64::try_from(best.clone().count().max(1)).unwrap_or(1);
        let nth = usize::try_from(self.draw() % equal).unwrap_or(0);
        best.nth(nth).map_or(nodes[0], |(node, _)| *node)
    }
}

/// How many nodes that take the pod are enough to choose from: `share` hundredths of them, or if
/// that is nothing, the fewer the more there are.
fn enough(nodes: usize, share: usize) -> usize {
    if nodes < FEW_NODES || share >= 100 {
        return nodes;
    }
    let by_number = 50usize.saturating_sub(nodes / 125).max(LEAST_SHARE);
    let share = if share == 0 { by_number } else { share };
    (nodes * share / 100).max(FEW_NODES)
}

/// Scores between nothing and the best, as shares of the highest.
fn normalised(mut scores: Vec<i64>, less_is_better: bool) -> Vec<i64> {
    let most = scores.iter().max().copied().unwrap_or(0);
    for score in &mut scores {
        let share = if most == 0 {
            0
        } else {
            resources::BEST * *score / most
        };
        *score = if less_is_better {
            resources::BEST - share
        } else {
            share
        };
    }
    scores
}

/// What all opinions together say of each node.
fn score(
    snapshot: &mut Snapshot,
    config: &SchedulerConfig,
    asked: &Asked<'_>,
    nodes: &[usize],
) -> Vec<i64> {
    let kind = asked.kind;
    let class = snapshot.kind(kind).class.clone();
    let weights = &config.weights;
    let mut sums = vec![0; nodes.len()];
    let mut add = |scores: &[i64], weight: i64| {
        sums.iter_mut()
            .zip(scores)
            .for_each(|(sum, score)| *sum += score * weight);
    };
    let likes = inter_pod_affinity::score(snapshot, kind, nodes, config.hard_pod_affinity_weight);
    if let Some(scores) = likes {
        add(&scores, weights.inter_pod_affinity);
    }
    let own = snapshot.kind(kind).asks.spread[1].clone();
    let mut soft: Vec<Soft<'_>> = Vec::new();
    for ((matcher, topology), spread) in own.iter().zip(&class.spread[1]) {
        soft.push(Soft {
            matcher: *matcher,
            topology: *topology,
            spread,
        });
    }
    for (matcher, spread) in asked.defaults {
        let topology = snapshot.topology(&spread.topology);
        soft.push(Soft {
            matcher: *matcher,
            topology,
            spread,
        });
    }
    if !soft.is_empty() {
        for one in &soft {
            snapshot.counts(one.matcher);
        }
        let all_labels = class.says_spread || config.spread != DefaultSpread::System;
        let scores = topology_spread::score(snapshot, &class, &soft, nodes, all_labels);
        add(&scores, weights.pod_topology_spread);
    }
    let each = |score: &dyn Fn(usize) -> i64| nodes.iter().map(|at| score(*at)).collect::<Vec<_>>();
    let node = |at: usize| snapshot.node(at);
    let disliked = each(&|at| taints::disliked(&class, node(at)));
    add(&normalised(disliked, true), weights.taint_toleration);
    if !class.node_preferred.is_empty() {
        let liked = each(&|at| node_affinity::preference(&class, node(at)));
        add(&normalised(liked, false), weights.node_affinity);
    }
    let fit = each(&|at| resources::score(&config.strategy, &class.demand, node(at)));
    add(&fit, weights.node_resources_fit);
    let balance = each(&|at| resources::balance(&class.demand, node(at)).unwrap_or(0));
    add(&balance, weights.balanced_allocation);
    if !class.images.is_empty() {
        add(
            &each(&|at| images::score(snapshot, &class, node(at))),
            weights.image_locality,
        );
        add(
            &each(&|at| images::artifacts(&class, node(at))),
            weights.artifact_locality,
        );
    }
    sums
}

impl Nowhere {
    pub(super) fn refusal(&self, nodes: usize, preemption: Option<&str>) -> Refusal {
        let mut message = self.reasons.told(nodes);
        if let Some(why) = preemption {
            message = format!("{message} preemption: {why}");
        }
        Refusal {
            message,
            plugins: self.plugins.clone(),
        }
    }
}
