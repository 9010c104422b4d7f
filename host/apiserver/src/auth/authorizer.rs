//! The chain of authorizers: masters, then nodes, then roles.

use std::{fmt, sync::Arc};

use eyot_store::Store;

use super::{
    Attributes, Follower,
    node::{self, Graph},
    rbac::{Grant, Rbac, Rule},
};
use crate::{failure::Failure, user::User};

/// What was decided, and why.
#[derive(Debug, Clone)]
pub struct Decision {
    pub verdict: Verdict,
    pub reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// Nobody further on may allow it.
    Deny,
    /// Nobody allows it.
    NoOpinion,
}

/// Written out only where somebody reads it.
#[derive(Debug, Clone)]
pub enum Reason {
    None,
    /// A binding allows it.
    Granted(Arc<Grant>),
    Text(String),
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }

    pub(crate) const ALLOWED: Decision = Decision {
        verdict: Verdict::Allow,
        reason: Reason::None,
    };
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::None => Ok(()),
            Reason::Granted(grant) => write!(f, "RBAC: allowed by {grant}"),
            Reason::Text(text) => f.write_str(text),
        }
    }
}

/// Decides from what is stored.
pub(crate) struct Authorizer {
    rbac: Follower<Rbac>,
    graph: Follower<Graph>,
}

impl Authorizer {
    pub(crate) fn new(store: &Store) -> Authorizer {
        Authorizer {
            rbac: Follower::new(store.clone()),
            graph: Follower::new(store.clone()),
        }
    }

    /// Whether `user` may do what `attributes` say.
    pub(crate) fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        if user.is_master() {
            return Decision::ALLOWED;
        }
        let Some(name) = node::name_of(user) else {
            return self.by_role(user, attributes);
        };
        let by_node = node::decide(&self.graph, &self.rbac, name, attributes);
        if by_node.verdict != Verdict::NoOpinion {
            return by_node;
        }
        let by_role = self.by_role(user, attributes);
        match (&by_role.reason, by_role.verdict) {
            (Reason::None, Verdict::NoOpinion) => by_node,
            _ => by_role,
        }
    }

    /// The same for who goes no further without it: what was decided, with the refusal in
    /// Kubernetes' words if it was not to allow it.
    pub(crate) fn require(
        &self,
        user: &User,
        attributes: &Attributes<'_>,
    ) -> Result<Decision, (Decision, Failure)> {
        let decision = self.authorize(user, attributes);
        if decision.is_allowed() {
            return Ok(decision);
        }
        let refusal = attributes.forbidden(user, &decision.reason.to_string());
        Err((decision, refusal))
    }

    fn by_role(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        self.rbac.read(|rbac| rbac.decide(user, attributes))
    }

    /// All rules that hold for a user in a namespace (none: at the cluster scope).
    pub(crate) fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        self.rbac.read(|rbac| rbac.rules_of(user, namespace))
    }

    /// The rules of a stored role; `namespace` is empty for a ClusterRole.
    pub(crate) fn role(&self, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        self.rbac.read(|rbac| rbac.role(namespace, name).cloned())
    }
}
