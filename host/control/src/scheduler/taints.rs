//! NodeUnschedulable and TaintToleration: nodes that keep pods away, and pods that bear it.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{
    class::Class,
    node::NodeInfo,
    status::{Plugin, Rejection},
};

pub(super) fn filter_unschedulable(class: &Class, node: &NodeInfo) -> Result<(), Rejection> {
    if !node.unschedulable {
        return Ok(());
    }
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    if tolerated(&cordon, &class.tolerations) {
        return Ok(());
    }
    Err(Rejection::never(
        Plugin::NodeUnschedulable,
        "node(s) were unschedulable",
    ))
}

pub(super) fn filter(class: &Class, node: &NodeInfo) -> Result<(), Rejection> {
    match untolerated(node, class) {
        None => Ok(()),
        Some(_) => {
            let why = "node(s) had untolerated taint(s)";
            Err(Rejection::never(Plugin::TaintToleration, why))
        }
    }
}

/// The first taint that keeps the pod off the node.
pub(super) fn untolerated<'a>(node: &'a NodeInfo, class: &Class) -> Option<&'a Taint> {
    node.taints.iter().find(|taint| {
        matches!(&*taint.effect, "NoSchedule" | "NoExecute")
            && !tolerated(taint, &class.tolerations)
    })
}

/// How many taints only ask the pod to stay away.
pub(super) fn disliked(class: &Class, node: &NodeInfo) -> i64 {
    let soft = node
        .taints
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule");
    let disliked = soft
        .filter(|taint| !tolerated(taint, &class.tolerations))
        .count();
    i64::try_from(disliked).unwrap_or(i64::MAX)
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
