//! Pods that are alike: what a template makes differs in little that scheduling looks at. What is
//! worked out of a pod is kept once for all of its class.

use std::hash::{Hash, Hasher};

use eyot_client::view::Pod;
use k8s_openapi::{
    api::core::v1::{
        NodeSelector, PodAffinityTerm, PreferredSchedulingTerm, Toleration,
        TopologySpreadConstraint, WeightedPodAffinityTerm,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};

use super::{
    demand::Demand,
    selector::{Group, Labels, Selector, Term},
};
use crate::owner;

/// A constraint on how evenly pods are spread.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Spread {
    pub(super) topology: String,
    pub(super) max_skew: i32,
    /// Fewer domains than these count as if there were an empty one.
    pub(super) min_domains: i32,
    pub(super) honours_affinity: bool,
    pub(super) honours_taints: bool,
    /// The pods that are counted, those that are going excepted.
    pub(super) group: Group,
}

/// What scheduling knows of a pod, but for its name and what has happened to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Class {
    pub(super) namespace: String,
    pub(super) labels: Labels,
    pub(super) demand: Demand,
    pub(super) priority: i32,
    /// Others of lower priority may be taken away for it.
    pub(super) preempts: bool,
    pub(super) node_selector: Labels,
    pub(super) node_required: Option<NodeSelector>,
    pub(super) node_preferred: Vec<PreferredSchedulingTerm>,
    pub(super) tolerations: Vec<Toleration>,
    pub(super) affinity: Vec<Term>,
    pub(super) anti: Vec<Term>,
    /// With weights, below zero for anti-affinity.
    pub(super) preferred: Vec<(i32, Term)>,
    /// Constraints that must hold, and those that should.
    pub(super) spread: [Vec<Spread>; 2],
    /// Whether the pod says itself how it is spread.
    pub(super) says_spread: bool,
    pub(super) images: Vec<String>,
    pub(super) owner: Option<OwnerReference>,
    /// The device service that it is.
    pub(super) device_service: Option<String>,
}

impl Eq for Class {}

impl Hash for Class {
    /// What differs most; the rest is compared.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.namespace.hash(state);
        self.labels.hash(state);
        self.demand.hash(state);
        self.priority.hash(state);
        self.images.hash(state);
        // Of pods that are alike but for the node that each is meant for there may be many.
        for term in self
            .node_required
            .iter()
            .flat_map(|n| &n.node_selector_terms)
        {
            for one in term.match_fields.iter().flatten() {
                one.values.hash(state);
            }
        }
    }
}

impl Class {
    pub(super) fn of(pod: &Pod) -> Self {
        let none = Default::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let affinity = spec.affinity.as_ref();
        let nodes = affinity.and_then(|a| a.node_affinity.as_ref());
        let near = affinity.and_then(|a| a.pod_affinity.as_ref());
        let far = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let terms = |terms: Option<&Vec<PodAffinityTerm>>| {
            let terms = terms.into_iter().flatten();
            terms
                .map(|term| Term::of(term, &namespace, Some(&labels)))
                .collect()
        };
        let weighted = |terms: Option<&Vec<WeightedPodAffinityTerm>>, sign: i32| {
            let terms = terms.into_iter().flatten();
            let one = |term: &WeightedPodAffinityTerm| {
                let of = Term::of(&term.pod_affinity_term, &namespace, Some(&labels));
                (term.weight * sign, of)
            };
            terms.map(one).collect::<Vec<_>>()
        };
        let soft = near.and_then(|a| {
            a.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
        let mut preferred = weighted(soft, 1);
        let soft = far.and_then(|a| {
            a.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
        preferred.extend(weighted(soft, -1));
        let containers = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers);
        let spreads = spec
            .topology_spread_constraints
            .as_deref()
            .unwrap_or_default();
        let spread = |must: bool| {
            let these = spreads
                .iter()
                .filter(|one| (one.when_unsatisfiable == "DoNotSchedule") == must);
            these.map(|one| spread(one, &namespace, &labels)).collect()
        };
        let (must, should) = (spread(true), spread(false));
        let service = labels.get(eyot_api::DEVICE_SERVICE_LABEL).cloned();
        Self {
            demand: Demand::of(pod),
            priority: spec.priority.unwrap_or(0),
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            node_required: nodes.and_then(|a| {
                a.required_during_scheduling_ignored_during_execution
                    .clone()
            }),
            node_preferred: nodes
                .and_then(|a| {
                    a.preferred_during_scheduling_ignored_during_execution
                        .clone()
                })
                .unwrap_or_default(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            affinity: terms(near.and_then(|a| {
                a.required_during_scheduling_ignored_during_execution
                    .as_ref()
            })),
            anti: terms(far.and_then(|a| {
                a.required_during_scheduling_ignored_during_execution
                    .as_ref()
            })),
            preferred,
            spread: [must, should],
            says_spread: !spreads.is_empty(),
            images: containers
                .filter_map(|c| c.image.as_deref())
                .map(tagged)
                .collect(),
            owner: owner::controller(&pod.metadata).cloned(),
            device_service: service,
            namespace,
            labels,
        }
    }

    /// The nodes that the pod can only run on, if its node affinity names them.
    pub(super) fn named_nodes(&self) -> Option<Vec<&str>> {
        let terms = &self.node_required.as_ref()?.node_selector_terms;
        let mut names = Vec::new();
        for term in terms {
            // All fields of a term must agree; one that is not of this form leaves every node open.
            let fields = term.match_fields.as_deref().unwrap_or_default();
            let named = fields
                .iter()
                .find(|f| f.key == "metadata.name" && f.operator == "In")?;
            names.extend(named.values.iter().flatten().map(String::as_str));
        }
        names.sort_unstable();
        names.dedup();
        Some(names)
    }
}

fn spread(one: &TopologySpreadConstraint, namespace: &str, labels: &Labels) -> Spread {
    let keys = one.match_label_keys.as_deref().unwrap_or_default();
    let selector = one.label_selector.as_ref();
    let selector = selector.map(|s| Selector::of(s).like(keys, Some(labels), false));
    Spread {
        topology: one.topology_key.clone(),
        max_skew: one.max_skew,
        min_domains: one.min_domains.unwrap_or(1),
        honours_affinity: one.node_affinity_policy.as_deref() != Some("Ignore"),
        honours_taints: one.node_taints_policy.as_deref() == Some("Honor"),
        group: Group::within(namespace, selector),
    }
}

/// The image's name as nodes report it: with a tag.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}
