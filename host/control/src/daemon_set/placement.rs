//! Which nodes a DaemonSet is for. Pure.

use eyot_client::view::{self, Pod};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{
        Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
        PodSpec, Toleration,
    },
};

use crate::{pod, scheduler};

/// What a DaemonSet wants of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A pod is to run.
    Run,
    /// No new pod; one that is there may stay, since only `NoSchedule` taints speak against it.
    Stay,
    /// No pod.
    Leave,
}

/// The spec that a DaemonSet's pods have on any node: the template's, with the tolerations that
/// let them run where the node is in trouble.
pub(super) fn spec(set: &DaemonSet) -> PodSpec {
    let template = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.clone());
    let mut spec = template.unwrap_or_default();
    let network = spec.host_network == Some(true);
    let all = [
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
        ("network-unavailable", "NoSchedule"),
    ];
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in &all[..if network { 7 } else { 6 }] {
        let toleration = Toleration {
            key: Some(format!("node.kubernetes.io/{key}")),
            operator: Some("Exists".into()),
            effect: Some((*effect).into()),
            ..Toleration::default()
        };
        // One that the template gives another duration is replaced.
        let same = |known: &Toleration| {
            Toleration {
                toleration_seconds: None,
                ..known.clone()
            } == toleration
        };
        match tolerations.iter_mut().find(|known| same(known)) {
            Some(known) => *known = toleration,
            None => tolerations.push(toleration),
        }
    }
    spec
}

/// `spec` as [`spec`] made it, seen as those of pods that are there.
pub(super) fn wanted(spec: &view::PodSpec, node: &Node) -> Wanted {
    let name = node.metadata.name.as_deref();
    let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if named.is_some() && named != name || !scheduler::selected(spec, node) {
        return Wanted::Leave;
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    let refuses = |effect: &str| {
        let taints = taints.unwrap_or_default().iter();
        taints
            .filter(|taint| taint.effect == effect)
            .any(|taint| !scheduler::tolerated(taint, tolerations))
    };
    if refuses("NoExecute") {
        Wanted::Leave
    } else if refuses("NoSchedule") {
        Wanted::Stay
    } else {
        Wanted::Run
    }
}

/// Mean a pod for one node. What else the template required of nodes is settled by choosing it.
pub(super) fn pin(spec: &mut PodSpec, node: &str) {
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let term = NodeSelectorTerm {
        match_fields: Some(vec![by_name]),
        match_expressions: None,
    };
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let affinity = affinity
        .node_affinity
        .get_or_insert_with(NodeAffinity::default);
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![term],
    });
}

/// The node that a pod runs on or is meant for.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    if let Some(node) = pod::node(pod) {
        return Some(node);
    }
    let affinity = pod
        .spec
        .as_ref()?
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let terms = required.node_selector_terms.iter();
    let fields = terms.flat_map(|term| term.match_fields.as_deref().unwrap_or_default());
    let mut names = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
    names.find_map(|field| match field.values.as_deref() {
        Some([name]) => Some(name.as_str()),
        _ => None,
    })
}
