//! Why a pod was not placed, in Kubernetes' words.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

/// The parts of a decision, by the names that Kubernetes' framework gives them, in the order in
/// which nodes are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Plugin {
    NodeUnschedulable,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    /// VolumeBinding, VolumeRestrictions and VolumeZone together.
    VolumeBinding,
    PodTopologySpread,
    InterPodAffinity,
    /// Our own: a device service runs where its devices are.
    DevicePlacement,
}

/// Why a node does not take a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) plugin: Plugin,
    /// Fewer pods on the node could change it.
    pub(super) resolvable: bool,
    pub(super) why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    One(&'static str),
    Several(Vec<Cow<'static, str>>),
}

impl Rejection {
    /// Other pods are in the way.
    pub(super) fn now(plugin: Plugin, why: &'static str) -> Self {
        Self {
            plugin,
            resolvable: true,
            why: Why::One(why),
        }
    }

    /// It would be the same without any other pod.
    pub(super) fn never(plugin: Plugin, why: &'static str) -> Self {
        Self {
            plugin,
            resolvable: false,
            why: Why::One(why),
        }
    }
}

/// How many nodes there are with each reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reasons(BTreeMap<Cow<'static, str>, usize>);

impl Reasons {
    pub(super) fn add(&mut self, why: &Why) {
        match why {
            Why::One(why) => self.count(Cow::Borrowed(why), 1),
            Why::Several(all) => all.iter().for_each(|why| self.count(why.clone(), 1)),
        }
    }

    pub(super) fn count(&mut self, why: Cow<'static, str>, nodes: usize) {
        if nodes > 0 {
            *self.0.entry(why).or_default() += nodes;
        }
    }

    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub(super) fn told(&self, nodes: usize) -> String {
        let mut told: Vec<String> = self.0.iter().map(|(why, n)| format!("{n} {why}")).collect();
        told.sort();
        let stop = if told.is_empty() { "" } else { "." };
        let space = if told.is_empty() { "" } else { " " };
        format!(
            "0/{nodes} nodes are available:{space}{}{stop}",
            told.join(", ")
        )
    }
}

/// A pod found no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) message: String,
    /// Who said no: only what concerns one of them can help.
    pub(super) plugins: BTreeSet<Plugin>,
}
