//! Which nodes a pod fits on, and which of them is best. Pure.

use std::{collections::BTreeMap, sync::Arc};

use eyot_client::view::{Pod, PodSpec};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration,
};

use super::{
    ledger::{Ledger, Used},
    request::{self, Amounts, Demand},
};

/// The name of the best node, or why there is none, in Kubernetes' words. Of a node that the pod
/// fits on, `also` says what is against it besides.
pub(super) fn choose(
    pod: &Pod,
    demand: &Demand,
    nodes: &[Arc<Node>],
    ledger: &Ledger,
    also: impl Fn(&Node) -> Vec<String>,
) -> Result<String, String> {
    if nodes.is_empty() {
        return Err("no nodes available to schedule pods".to_owned());
    }
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(i64, i64, &str)> = None;
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let used = ledger.used(name);
        let mut against = objections(spec, demand, node, &used);
        if against.is_empty() {
            against = also(node);
        }
        if !against.is_empty() {
            for reason in against {
                *reasons.entry(reason).or_default() += 1;
            }
            continue;
        }
        // The most room; of equal ones the one with the fewest pods, then the first.
        let rank = (room(demand, node, &used), -used.pods, name);
        if best.is_none_or(|best| (rank.0, rank.1) > (best.0, best.1)) {
            best = Some(rank);
        }
    }
    if let Some((_, _, name)) = best {
        return Ok(name.to_owned());
    }
    let mut reasons: Vec<String> = reasons
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    reasons.sort();
    Err(format!(
        "0/{} nodes are available: {}.",
        nodes.len(),
        reasons.join(", ")
    ))
}

/// Why the pod cannot run on the node. The first kind of reason that applies hides the others,
/// except that everything that is short is named.
fn objections(spec: &PodSpec, demand: &Demand, node: &Node, used: &Used) -> Vec<String> {
    let none = Default::default();
    let of_node = node.spec.as_ref().unwrap_or(&none);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    if of_node.unschedulable == Some(true) && !tolerated(&cordon, tolerations) {
        return vec!["node(s) were unschedulable".into()];
    }
    if !selected(spec, node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".into()];
    }
    let taints = of_node.taints.iter().flatten();
    let mut repelling = taints.filter(|taint| {
        matches!(&*taint.effect, "NoSchedule" | "NoExecute") && !tolerated(taint, tolerations)
    });
    if let Some(taint) = repelling.next() {
        let value = taint.value.as_deref().unwrap_or_default();
        return vec![format!(
            "node(s) had untolerated taint {{{}: {value}}}",
            taint.key
        )];
    }
    let not_ready = Taint {
        key: "node.kubernetes.io/not-ready".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    if !is_ready(node) && !tolerated(&not_ready, tolerations) {
        return vec!["node(s) were not ready".into()];
    }
    if !used.has_free(&demand.ports) {
        return vec!["node(s) didn't have free ports for the requested pod ports".into()];
    }
    short(demand, &allocatable(node), used)
}

fn short(demand: &Demand, allocatable: &Amounts, used: &Used) -> Vec<String> {
    let mut reasons = Vec::new();
    if allocatable
        .get("pods")
        .is_some_and(|pods| (used.pods + 1).saturating_mul(1000) > *pods)
    {
        reasons.push("Too many pods".to_owned());
    }
    for (name, wanted) in &demand.amounts {
        let has = allocatable.get(name).copied().unwrap_or(0);
        let taken = used.amounts.get(name).copied().unwrap_or(0);
        if taken.saturating_add(*wanted) > has {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    reasons
}

pub(super) fn allocatable(node: &Node) -> Amounts {
    let status = node.status.as_ref();
    let amounts = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
    request::read(amounts)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// How much of processor and memory would stay free, 0 to 2000.
fn room(demand: &Demand, node: &Node, used: &Used) -> i64 {
    let allocatable = allocatable(node);
    let free = ["cpu", "memory"].map(|name| {
        let has = i128::from(allocatable.get(name).copied().unwrap_or(0));
        let take = |amounts: &Amounts| i128::from(amounts.get(name).copied().unwrap_or(0));
        let left = (has - take(&used.amounts) - take(&demand.amounts)).max(0);
        if has == 0 {
            0
        } else {
            i64::try_from(left * 1000 / has).unwrap_or(0)
        }
    });
    free.iter().sum()
}

/// Whether one of the tolerations bears the taint.
pub(crate) fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration
            .effect
            .as_deref()
            .filter(|effect| !effect.is_empty());
        let key = toleration.key.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        effect.is_none_or(|effect| effect == taint.effect)
            && match toleration.operator.as_deref() {
                Some("Exists") => key.is_empty() || key == taint.key,
                _ => key == taint.key && value == taint.value.as_deref().unwrap_or_default(),
            }
    })
}

/// Whether the pod's `nodeSelector` and required node affinity accept the node.
pub(crate) fn selected(spec: &PodSpec, node: &Node) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let wanted = spec.node_selector.iter().flatten();
    if !wanted
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
    {
        return false;
    }
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| {
        a.required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    required.is_none_or(|required| node_matches(required, node))
}

/// Whether one of the selector's terms accepts the node.
pub(crate) fn node_matches(selector: &NodeSelector, node: &Node) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let mut terms = selector.node_selector_terms.iter();
    terms.any(|term| term_matches(term, node, labels))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let by_label = term.match_expressions.as_deref().unwrap_or_default();
    let by_field = term.match_fields.as_deref().unwrap_or_default();
    let name = node.metadata.name.as_deref();
    // A term that asks nothing accepts nothing.
    !(by_label.is_empty() && by_field.is_empty())
        && by_label
            .iter()
            .all(|e| accepts(e, labels.get(&e.key).map(String::as_str)))
        && by_field
            .iter()
            .all(|e| e.key == "metadata.name" && accepts(e, name))
}

fn accepts(expression: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = expression.values.as_deref().unwrap_or_default();
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let limit = number(values.first().map(String::as_str));
    match &*expression.operator {
        "In" => value.is_some_and(|value| values.iter().any(|v| v == value)),
        "NotIn" => value.is_none_or(|value| values.iter().all(|v| v != value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value)
            .zip(limit)
            .is_some_and(|(value, limit)| value > limit),
        "Lt" => number(value)
            .zip(limit)
            .is_some_and(|(value, limit)| value < limit),
        _ => false,
    }
}

/// Whether a change of a node may let a pod fit that did not before: most are heartbeats.
pub(super) fn may_fit_more(before: Option<&Node>, after: Option<&Node>) -> bool {
    let Some(after) = after else { return false };
    before.is_none_or(|before| {
        before.spec != after.spec
            || before.metadata.labels != after.metadata.labels
            || is_ready(before) != is_ready(after)
            || allocatable(before) != allocatable(after)
    })
}
