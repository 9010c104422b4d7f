//! NodeAffinity: which nodes a pod can run on, and which it likes better, by their labels and names.

use std::collections::BTreeMap;

use eyot_client::view::PodSpec;
use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use super::{
    class::Class,
    node::NodeInfo,
    selector::Labels,
    status::{Plugin, Rejection},
};

pub(super) fn filter(class: &Class, node: &NodeInfo) -> Result<(), Rejection> {
    if accepts(class, node) {
        return Ok(());
    }
    let why = "node(s) didn't match Pod's node affinity/selector";
    Err(Rejection::never(Plugin::NodeAffinity, why))
}

pub(super) fn accepts(class: &Class, node: &NodeInfo) -> bool {
    let required = class.node_required.as_ref();
    fits(
        &class.node_selector,
        required,
        &node.labels,
        Some(&node.name),
    )
}

/// The sum of the weights of what the pod prefers and the node has.
pub(super) fn preference(class: &Class, node: &NodeInfo) -> i64 {
    let wishes = class.node_preferred.iter();
    let met = wishes.filter(|wish| {
        let term = &wish.preference;
        // Unlike a required one, a term that asks nothing accepts everything.
        term.match_expressions.as_ref().is_none_or(Vec::is_empty)
            && term.match_fields.as_ref().is_none_or(Vec::is_empty)
            || term_matches(term, Some(&node.name), &node.labels)
    });
    met.map(|wish| i64::from(wish.weight)).sum()
}

/// Whether the pod's `nodeSelector` and required node affinity accept the node.
pub(crate) fn selected(spec: &PodSpec, node: &Node) -> bool {
    let none = BTreeMap::new();
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref());
    fits(
        spec.node_selector.as_ref().unwrap_or(&none),
        affinity.and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_ref()
        }),
        node.metadata.labels.as_ref().unwrap_or(&none),
        node.metadata.name.as_deref(),
    )
}

/// Whether one of the selector's terms accepts the node.
pub(crate) fn node_matches(selector: &NodeSelector, node: &Node) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let mut terms = selector.node_selector_terms.iter();
    terms.any(|term| term_matches(term, node.metadata.name.as_deref(), labels))
}

fn fits(
    selector: &Labels,
    required: Option<&NodeSelector>,
    labels: &Labels,
    name: Option<&str>,
) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|required| {
            let mut terms = required.node_selector_terms.iter();
            terms.any(|term| term_matches(term, name, labels))
        })
}

fn term_matches(term: &NodeSelectorTerm, name: Option<&str>, labels: &Labels) -> bool {
    let by_label = term.match_expressions.as_deref().unwrap_or_default();
    let by_field = term.match_fields.as_deref().unwrap_or_default();
    // A term that asks nothing accepts nothing.
    !(by_label.is_empty() && by_field.is_empty())
        && by_label
            .iter()
            .all(|e| accepted(e, labels.get(&e.key).map(String::as_str)))
        && by_field
            .iter()
            .all(|e| e.key == "metadata.name" && accepted(e, name))
}

fn accepted(expression: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = expression.values.as_deref().unwrap_or_default();
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let limit = number(values.first().map(String::as_str));
    let compared = |how: fn(&i64, &i64) -> bool| {
        number(value)
            .zip(limit)
            .is_some_and(|(value, limit)| how(&value, &limit))
    };
    match &*expression.operator {
        "In" => value.is_some_and(|value| values.iter().any(|v| v == value)),
        "NotIn" => value.is_none_or(|value| values.iter().all(|v| v != value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(i64::gt),
        "Lt" => compared(i64::lt),
        _ => false,
    }
}
