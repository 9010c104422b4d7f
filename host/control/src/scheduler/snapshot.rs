//! What there is, kept up to date change by change: nodes with what is taken of them, and for all
//! that pods ask of other pods, how many there are on each node.
//!
//! What a decision costs therefore does not depend on how many pods have been placed. Pods that are
//! alike share a [`Class`]; a [`Matcher`] is a question about pods (`which pods have the label
//! app=web?`) and belongs to each class whose pods it means. Placing a pod counts one more on its
//! node for each matcher of its class. Terms of affinity that placed pods hold are counted the same
//! way ([`Held`]), and found through the matcher that accepts the pod to be placed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use eyot_client::Key;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use slab::Slab;

use super::{
    class::Class,
    demand::Demand,
    node::NodeInfo,
    selector::{Group, Labels},
    topology::{NOWHERE, Topology},
};

/// So many topologies are kept without asking who needs them.
const FEW_TOPOLOGIES: usize = 64;

/// A question about pods: which belong to all these groups?
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Question {
    groups: Vec<Group>,
    /// Pods that are going do not count.
    living: bool,
}

impl Question {
    fn accepts(&self, class: &Class, namespaces: &BTreeMap<String, Labels>) -> bool {
        let accepts = |g: &Group| g.accepts(&class.namespace, &class.labels, namespaces);
        self.groups.iter().all(accepts)
    }
}

pub(super) struct Matcher {
    question: Arc<Question>,
    /// Classes that ask it and terms that are held by it.
    users: usize,
    /// By node; `None` until somebody wants to know.
    counts: Option<Vec<u32>>,
    /// The held terms that mean whom it accepts.
    pub(super) held: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum How {
    /// Keeps others away.
    Anti,
    /// Needs others.
    Needs,
    /// Likes others this much.
    Likes(i32),
}

/// A term of affinity that pods on nodes hold.
pub(super) struct Held {
    pub(super) matcher: usize,
    pub(super) topology: usize,
    pub(super) how: How,
    users: usize,
    /// Pods that hold it, by node and in all.
    counts: Vec<u32>,
    pub(super) total: u64,
}

impl Held {
    pub(super) fn counts(&self) -> &[u32] {
        &self.counts
    }
}

/// What a class asks about other pods. A term is a matcher and a topology.
#[derive(Default)]
pub(super) struct Asks {
    /// Who matches all required terms, and the topologies of these.
    pub(super) affinity: Option<(usize, Vec<usize>)>,
    pub(super) anti: Vec<(usize, usize)>,
    pub(super) preferred: Vec<(i32, usize, usize)>,
    /// In the order of `Class::spread`.
    pub(super) spread: [Vec<(usize, usize)>; 2],
}

pub(super) struct Kind {
    pub(super) class: Arc<Class>,
    users: usize,
    /// The matchers that mean its pods.
    pub(super) matchers: Vec<usize>,
    pub(super) asks: Asks,
    /// The terms that its pods hold.
    pub(super) holds: Vec<usize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Going {
    #[default]
    No,
    Leaving,
    /// Leaving because it was taken away for another.
    Preempted,
}

/// A pod on a node.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) uid: String,
    pub(super) node: usize,
    pub(super) kind: usize,
    pub(super) started: Option<Timestamp>,
    pub(super) going: Going,
    /// Decided here, and not seen in the API yet.
    pub(super) assumed: bool,
}

#[derive(Default)]
pub(super) struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<Arc<str>, usize>,
    free: Vec<usize>,
    /// The known nodes, zones taking turns; empty if it has to be made anew.
    order: Vec<usize>,
    pods: HashMap<Key, Placed>,
    kinds: Slab<Kind>,
    by_class: HashMap<Arc<Class>, usize>,
    pub(super) matchers: Slab<Matcher>,
    by_question: HashMap<Arc<Question>, usize>,
    pub(super) held: Slab<Held>,
    by_term: HashMap<(usize, usize, How), usize>,
    pub(super) topologies: Slab<Topology>,
    /// When there are more topologies than this, those that nobody asks for are forgotten.
    enough_topologies: usize,
    namespaces: BTreeMap<String, Labels>,
    /// Nodes that have each image.
    images: HashMap<String, u32>,
    known: usize,
}

impl Snapshot {
    pub(super) fn node(&self, at: usize) -> &NodeInfo {
        &self.nodes[at]
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name
            .get(name)
            .copied()
            .filter(|at| self.nodes[*at].known)
    }

    /// How many nodes there are.
    pub(super) fn len(&self) -> usize {
        self.known
    }

    /// One more than the highest number of a node.
    pub(super) fn slots(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn kind(&self, at: usize) -> &Kind {
        &self.kinds[at]
    }

    pub(super) fn pod(&self, key: &Key) -> Option<&Placed> {
        self.pods.get(key)
    }

    pub(super) fn nodes_with(&self, image: &str) -> u32 {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// The known nodes in the order in which they are tried: zones take turns.
    pub(super) fn order(&mut self) -> &[usize] {
        if self.order.is_empty() && self.known > 0 {
            self.order = self.interleaved();
        }
        &self.order
    }

    fn interleaved(&self) -> Vec<usize> {
        let mut zones: BTreeMap<[Option<&String>; 2], Vec<(&str, usize)>> = BTreeMap::new();
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.known) {
            let zone = [
                "topology.kubernetes.io/region",
                "topology.kubernetes.io/zone",
            ];
            let zone = zone.map(|key| node.labels.get(key));
            zones.entry(zone).or_default().push((&node.name, at));
        }
        for nodes in zones.values_mut() {
            nodes.sort_unstable();
        }
        let longest = zones.values().map(Vec::len).max().unwrap_or(0);
        let turn = |n: usize| zones.values().filter_map(move |nodes| nodes.get(n));
        (0..longest).flat_map(turn).map(|(_, at)| *at).collect()
    }

    fn slot(&mut self, name: &str) -> usize {
        if let Some(at) = self.by_name.get(name) {
            return *at;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(NodeInfo::default());
            self.nodes.len() - 1
        });
        let name: Arc<str> = name.into();
        self.nodes[at] = NodeInfo {
            name: name.clone(),
            ..NodeInfo::default()
        };
        self.by_name.insert(name, at);
        at
    }

    /// A node is as the object says, or gone.
    pub(super) fn set_node(&mut self, name: &str, node: Option<&Node>) {
        let at = self.slot(name);
        self.count_images(at, false);
        let was = self.nodes[at].known;
        match node {
            Some(node) => self.nodes[at].read(node),
            None => self.nodes[at].forget(),
        }
        self.count_images(at, true);
        let info = &self.nodes[at];
        for (_, topology) in &mut self.topologies {
            topology.set(at, info.known.then_some(&info.labels));
        }
        self.known = self.known + usize::from(info.known) - usize::from(was);
        self.order.clear();
        self.release_node(at);
    }

    fn count_images(&mut self, at: usize, more: bool) {
        for name in self.nodes[at].images.keys() {
            let count = self.images.entry(name.clone()).or_default();
            if more {
                *count += 1;
            } else {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(name);
                }
            }
        }
    }

    /// A slot of which nobody knows anything is used again.
    fn release_node(&mut self, at: usize) {
        let node = &self.nodes[at];
        if !node.known && node.pods.is_empty() {
            self.by_name.remove(&node.name.clone());
            self.free.push(at);
        }
    }

    pub(super) fn topology(&mut self, key: &str) -> usize {
        if let Some((at, _)) = self.topologies.iter().find(|(_, known)| known.key == key) {
            return at;
        }
        let mut topology = Topology::new(key);
        for (at, node) in self.nodes.iter().enumerate() {
            topology.set(at, node.known.then_some(&node.labels));
        }
        self.topologies.insert(topology)
    }

    fn sweep_topologies(&mut self) {
        if self.topologies.len() <= self.enough_topologies {
            return;
        }
        let mut used = HashSet::new();
        for (_, kind) in &self.kinds {
            let asks = &kind.asks;
            used.extend(
                asks.anti
                    .iter()
                    .chain(asks.spread.iter().flatten())
                    .map(|(_, t)| *t),
            );
            used.extend(asks.preferred.iter().map(|(_, _, t)| *t));
            used.extend(asks.affinity.iter().flat_map(|(_, topologies)| topologies));
        }
        used.extend(self.held.iter().map(|(_, held)| held.topology));
        self.topologies.retain(|at, _| used.contains(&at));
        self.enough_topologies = (2 * self.topologies.len()).max(FEW_TOPOLOGIES);
    }

    /// A namespace has these labels now; none if it is gone.
    pub(super) fn set_namespace(&mut self, name: &str, labels: Option<&Labels>) {
        if self.namespaces.get(name) == labels {
            return;
        }
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels.clone()),
            None => self.namespaces.remove(name),
        };
        let asks = |m: &Matcher| m.question.groups.iter().any(Group::asks_namespaces);
        let ids: Vec<usize> = self
            .matchers
            .iter()
            .filter(|(_, m)| asks(m))
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            self.matchers[id].counts = None;
            for (_, kind) in &mut self.kinds {
                kind.matchers.retain(|known| *known != id);
                if self.matchers[id]
                    .question
                    .accepts(&kind.class, &self.namespaces)
                {
                    kind.matchers.push(id);
                }
            }
        }
    }

    /// The class of which this is one, once more used: [`Snapshot::drop_kind`] must follow.
    pub(super) fn keep_kind(&mut self, class: Class) -> usize {
        if let Some(at) = self.by_class.get(&class) {
            self.kinds[*at].users += 1;
            return *at;
        }
        self.sweep_topologies();
        let class = Arc::new(class);
        let matchers = self.matchers.iter();
        let mean = matchers.filter(|(_, m)| m.question.accepts(&class, &self.namespaces));
        let matchers = mean.map(|(id, _)| id).collect();
        let at = self.kinds.insert(Kind {
            class: class.clone(),
            users: 1,
            matchers,
            asks: Asks::default(),
            holds: Vec::new(),
        });
        self.by_class.insert(class.clone(), at);
        let asks = self.ask(&class);
        let holds = self.hold(&class, &asks);
        let kind = &mut self.kinds[at];
        (kind.asks, kind.holds) = (asks, holds);
        at
    }

    pub(super) fn keep_kind_again(&mut self, kind: usize) {
        self.kinds[kind].users += 1;
    }

    pub(super) fn drop_kind(&mut self, at: usize) {
        self.kinds[at].users -= 1;
        if self.kinds[at].users > 0 {
            return;
        }
        let kind = self.kinds.remove(at);
        self.by_class.remove(&kind.class);
        for id in kind.holds {
            self.drop_held(id);
        }
        let asks = kind.asks;
        let pairs = asks
            .anti
            .iter()
            .chain(asks.spread.iter().flatten())
            .map(|(m, _)| *m);
        let preferred = asks.preferred.iter().map(|(_, m, _)| *m);
        let affinity = asks.affinity.iter().map(|(m, _)| *m);
        for matcher in pairs.chain(preferred).chain(affinity).collect::<Vec<_>>() {
            self.drop_matcher(matcher);
        }
    }

    fn ask(&mut self, class: &Class) -> Asks {
        let mut asks = Asks::default();
        if !class.affinity.is_empty() {
            let groups = class
                .affinity
                .iter()
                .map(|term| term.group.clone())
                .collect();
            let matcher = self.keep_matcher(groups, false);
            let topologies = class
                .affinity
                .iter()
                .map(|term| self.topology(&term.topology));
            asks.affinity = Some((matcher, topologies.collect()));
        }
        for term in &class.anti {
            let matcher = self.keep_matcher(vec![term.group.clone()], false);
            asks.anti.push((matcher, self.topology(&term.topology)));
        }
        for (weight, term) in &class.preferred {
            let matcher = self.keep_matcher(vec![term.group.clone()], false);
            asks.preferred
                .push((*weight, matcher, self.topology(&term.topology)));
        }
        for (asked, spreads) in asks.spread.iter_mut().zip(&class.spread) {
            for spread in spreads {
                let matcher = self.keep_matcher(vec![spread.group.clone()], true);
                asked.push((matcher, self.topology(&spread.topology)));
            }
        }
        asks
    }

    fn hold(&mut self, class: &Class, asks: &Asks) -> Vec<usize> {
        let mut holds = Vec::new();
        for (matcher, topology) in &asks.anti {
            holds.push(self.keep_held(*matcher, *topology, How::Anti));
        }
        for (weight, matcher, topology) in &asks.preferred {
            holds.push(self.keep_held(*matcher, *topology, How::Likes(*weight)));
        }
        for term in &class.affinity {
            let matcher = self.keep_matcher(vec![term.group.clone()], false);
            let topology = self.topology(&term.topology);
            holds.push(self.keep_held(matcher, topology, How::Needs));
            // The held term keeps it by itself.
            self.drop_matcher(matcher);
        }
        holds
    }

    /// For constraints that no pod names itself: [`Snapshot::drop_matcher`] must follow.
    pub(super) fn keep_matcher(&mut self, groups: Vec<Group>, living: bool) -> usize {
        let question = Question { groups, living };
        if let Some(id) = self.by_question.get(&question) {
            self.matchers[*id].users += 1;
            return *id;
        }
        let question = Arc::new(question);
        let id = self.matchers.insert(Matcher {
            question: question.clone(),
            users: 1,
            counts: None,
            held: Vec::new(),
        });
        for (_, kind) in &mut self.kinds {
            if question.accepts(&kind.class, &self.namespaces) {
                kind.matchers.push(id);
            }
        }
        self.by_question.insert(question, id);
        id
    }

    pub(super) fn drop_matcher(&mut self, id: usize) {
        self.matchers[id].users -= 1;
        if self.matchers[id].users == 0 {
            let matcher = self.matchers.remove(id);
            self.by_question.remove(&matcher.question);
            for (_, kind) in &mut self.kinds {
                kind.matchers.retain(|known| *known != id);
            }
        }
    }

    fn keep_held(&mut self, matcher: usize, topology: usize, how: How) -> usize {
        if let Some(id) = self.by_term.get(&(matcher, topology, how)) {
            self.held[*id].users += 1;
            return *id;
        }
        self.matchers[matcher].users += 1;
        let id = self.held.insert(Held {
            matcher,
            topology,
            how,
            users: 1,
            counts: Vec::new(),
            total: 0,
        });
        self.matchers[matcher].held.push(id);
        self.by_term.insert((matcher, topology, how), id);
        id
    }

    fn drop_held(&mut self, id: usize) {
        self.held[id].users -= 1;
        if self.held[id].users == 0 {
            let held = self.held.remove(id);
            self.by_term
                .remove(&(held.matcher, held.topology, held.how));
            self.matchers[held.matcher]
                .held
                .retain(|known| *known != id);
            self.drop_matcher(held.matcher);
        }
    }

    /// How many pods the matcher means on each node; nodes beyond the end have none.
    pub(super) fn counts(&mut self, matcher: usize) -> &[u32] {
        if self.matchers[matcher].counts.is_none() {
            let mut counts = vec![0; self.nodes.len()];
            let living = self.matchers[matcher].question.living;
            for pod in self.pods.values() {
                let counted = !living || pod.going == Going::No;
                if counted && self.kinds[pod.kind].matchers.contains(&matcher) {
                    counts[pod.node] += 1;
                }
            }
            self.matchers[matcher].counts = Some(counts);
        }
        self.counted(matcher)
    }

    /// The same for one that was counted before.
    pub(super) fn counted(&self, matcher: usize) -> &[u32] {
        self.matchers[matcher].counts.as_deref().unwrap_or_default()
    }

    /// Count the pods of this class on the node once more (or less): all, or only by those
    /// questions that those who are going do not count for.
    fn count(&mut self, kind: usize, node: usize, more: bool, which: impl Fn(bool) -> bool) {
        for id in &self.kinds[kind].matchers {
            let matcher = &mut self.matchers[*id];
            if which(matcher.question.living)
                && let Some(counts) = &mut matcher.counts
            {
                step(counts, node, more);
            }
        }
    }

    /// The pod takes a place, instead of another that it may have had. Of the class it takes over
    /// one use.
    pub(super) fn place(&mut self, key: &Key, node: &str, pod: Placed) {
        self.remove(key);
        let at = self.slot(node);
        let class = self.kinds[pod.kind].class.clone();
        self.settle(key, at, &class.demand, true);
        let living = pod.going == Going::No;
        self.count(pod.kind, at, true, |only| living || !only);
        self.count_held(pod.kind, at, true);
        self.pods.insert(key.clone(), Placed { node: at, ..pod });
    }

    /// The pod gives up its place.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Placed> {
        let pod = self.pods.remove(key)?;
        let living = pod.going == Going::No;
        self.count(pod.kind, pod.node, false, |only| living || !only);
        self.count_held(pod.kind, pod.node, false);
        let class = self.kinds[pod.kind].class.clone();
        self.settle(key, pod.node, &class.demand, false);
        self.drop_kind(pod.kind);
        self.release_node(pod.node);
        Some(pod)
    }

    /// What is only of the pod itself changed: whether it goes, when it started, that it was seen.
    pub(super) fn touch(&mut self, key: &Key, going: Going, started: Option<Timestamp>) {
        let Some(pod) = self.pods.get_mut(key) else {
            return;
        };
        let was = std::mem::replace(&mut pod.going, going);
        pod.started = started;
        pod.assumed = false;
        let (kind, node) = (pod.kind, pod.node);
        if (was == Going::No) != (going == Going::No) {
            self.count(kind, node, going == Going::No, |only| only);
        }
    }

    fn settle(&mut self, key: &Key, node: usize, demand: &Demand, more: bool) {
        let info = &mut self.nodes[node];
        if more {
            info.used.add(demand);
            info.pods.insert(key.clone());
        } else {
            info.used.take(demand);
            info.pods.remove(key);
        }
    }

    fn count_held(&mut self, kind: usize, node: usize, more: bool) {
        for id in &self.kinds[kind].holds {
            let held = &mut self.held[*id];
            step(&mut held.counts, node, more);
            held.total = if more { held.total + 1 } else { held.total - 1 };
        }
    }
}

fn step(counts: &mut Vec<u32>, node: usize, more: bool) {
    if counts.len() <= node {
        counts.resize(node + 1, 0);
    }
    counts[node] = if more {
        counts[node] + 1
    } else {
        counts[node].saturating_sub(1)
    };
}

/// Counts by node as counts by domain.
pub(super) fn by_domain(topology: &Topology, counts: &[u32]) -> Vec<u32> {
    let mut sums = vec![0; topology.size()];
    for (count, domain) in counts.iter().zip(topology.all()) {
        if *count > 0 && *domain != NOWHERE {
            sums[*domain as usize] += count;
        }
    }
    sums
}
