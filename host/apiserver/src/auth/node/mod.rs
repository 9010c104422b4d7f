//! Nodes: each may touch what belongs to it, and nothing of the others.
//!
//! A node is a user `system:node:NAME` in the group `system:nodes`. What it may read of secrets,
//! config maps, claims, volumes and accounts follows from the pods that are bound to it ([`graph`]);
//! all else is one role, the same for every node ([`Rbac`]'s `system:node`, which is bound to
//! nobody). What it may write is narrowed further at admission ([`restrict`]).

mod graph;
pub(crate) mod restrict;
mod revoked;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub(crate) use self::graph::Graph;
use self::graph::Kind;
pub use self::graph::{Kind as Reference, references};
pub(crate) use self::revoked::is_revoked;
use super::{
    Attributes, Decision, Follower,
    authorizer::{Reason, Verdict},
    rbac::Rbac,
};
use crate::user::User;

const GROUP: &str = "system:nodes";
const PREFIX: &str = "system:node:";
const LEASES: &str = "kube-node-lease";

/// The name of the node that a user is.
pub(crate) fn name_of(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix(PREFIX)?;
    (user.is_in(GROUP) && !name.is_empty()).then_some(name)
}

/// What this authorizer says of a request by a node.
pub(super) fn decide(
    graph: &Follower<Graph>,
    rbac: &Follower<Rbac>,
    node: &str,
    asked: &Attributes<'_>,
) -> Decision {
    let verdict = match &asked.path {
        Some(_) => Ok(false),
        None => judge(graph, node, asked),
    };
    match verdict {
        Ok(true) => Decision::ALLOWED,
        Ok(false) => {
            let allowed = rbac.read(|rbac| {
                let role = rbac.role("", "system:node");
                role.is_some_and(|rules| rules.iter().any(|rule| rule.allows(asked)))
            });
            match allowed {
                true => Decision::ALLOWED,
                false => no_opinion(Reason::None),
            }
        }
        Err(why) => no_opinion(Reason::Text(why.into_owned())),
    }
}

fn no_opinion(reason: Reason) -> Decision {
    Decision {
        verdict: Verdict::NoOpinion,
        reason,
    }
}

type Why = Cow<'static, str>;

/// Allowed, left to the node's role, or refused with a reason.
fn judge(graph: &Follower<Graph>, node: &str, asked: &Attributes<'_>) -> Result<bool, Why> {
    let related = |kind: Kind| {
        if asked.name.is_empty() {
            return Err("No Object name found".into());
        }
        let is_related = graph.read(|g| g.is_related(node, kind, &asked.namespace, &asked.name));
        match is_related {
            true => Ok(true),
            false => {
                Err(format!("no relationship found between node '{node}' and this object").into())
            }
        }
    };
    let get = |kind: Kind| match (&*asked.verb, &*asked.subresource) {
        ("get", "") => related(kind),
        ("get", _) => Err("cannot get subresource".into()),
        _ => Err("can only get individual resources of this type".into()),
    };
    let read = |kind: Kind| match (&*asked.verb, &*asked.subresource, &*asked.namespace) {
        (_, "", "") => Err("can only read namespaced object of this type".into()),
        ("get" | "list" | "watch", "", _) => related(kind),
        ("get" | "list" | "watch", ..) => Err("cannot read subresource".into()),
        _ => Err("can only read resources of this type".into()),
    };
    match (&*asked.group, &*asked.resource) {
        ("", "secrets") => read(Kind::Secret),
        ("", "configmaps") => read(Kind::ConfigMap),
        ("", "persistentvolumeclaims") if asked.subresource == "status" => match &*asked.verb {
            "get" | "update" | "patch" => related(Kind::Claim),
            _ => Err("can only get/update/patch this type".into()),
        },
        ("", "persistentvolumeclaims") => get(Kind::Claim),
        ("", "persistentvolumes") => get(Kind::Volume),
        ("resource.k8s.io", "resourceclaims") => get(Kind::ResourceClaim),
        ("storage.k8s.io", "volumeattachments") => get(Kind::Attachment),
        ("", "serviceaccounts") => match (&*asked.verb, &*asked.subresource) {
            ("get", "") | ("create", "token") => related(Kind::Account),
            _ => Err("can only create tokens for individual service accounts".into()),
        },
        ("coordination.k8s.io", "leases") => lease(node, asked),
        ("storage.k8s.io", "csinodes") => csi_node(node, asked),
        ("resource.k8s.io", "resourceslices") => match &*asked.verb {
            "list" | "watch" | "deletecollection" if !selects(asked, node) => Err(
                "can only list/watch/deletecollection resourceslices with nodeName field selector"
                    .into(),
            ),
            _ => Ok(false),
        },
        ("", "nodes") => own_node(node, asked),
        ("", "pods") => match (&*asked.verb, &*asked.subresource) {
            ("get", "") => related(Kind::Pod),
            ("list" | "watch" | "deletecollection", "") => match selects(asked, node) {
                true => Ok(true),
                false => Err("can only list/watch pods with spec.nodeName field selector".into()),
            },
            _ => Ok(false),
        },
        _ => Ok(false),
    }
}

fn own_node(node: &str, asked: &Attributes<'_>) -> Result<bool, Why> {
    let is_read = matches!(&*asked.verb, "get" | "list" | "watch");
    match (is_read, &*asked.name == node) {
        (true, true) => Ok(true),
        (true, false) => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object").into())
        }
        (false, _) => Ok(false),
    }
}

fn lease(node: &str, asked: &Attributes<'_>) -> Result<bool, Why> {
    let verb = &*asked.verb;
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if asked.namespace != LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace").into());
    }
    if verb != "create" && asked.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(true)
}

fn csi_node(node: &str, asked: &Attributes<'_>) -> Result<bool, Why> {
    let verb = &*asked.verb;
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".into());
    }
    if !asked.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".into());
    }
    if verb != "create" && asked.name != node {
        return Err("can only access CSINode with the same name as the requesting node".into());
    }
    Ok(true)
}

/// Whether the request is limited to what lies on the node.
fn selects(asked: &Attributes<'_>, node: &str) -> bool {
    asked.field_selector.split(',').any(|clause| {
        clause.split_once('=').is_some_and(|(field, value)| {
            field.trim() == "spec.nodeName" && value.trim_start_matches('=') == node
        })
    })
}
