//! Role-based access control over stored Roles and bindings.
//!
//! The index turns the question around: not "which bindings name this user", which would look at
//! all of them, but "what was granted to this subject", which is a look-up for the user's name and
//! one for each of its groups. Roles are looked up by name at the time of the question, so that a
//! change of one role touches one entry.

pub(crate) mod bootstrap;
pub(crate) mod escalation;
mod index;
mod rule;
#[cfg(test)]
mod tests;

pub use self::index::Grant;
use self::rule::{describe, missing, quoted};
pub(crate) use self::{index::Rbac, rule::Rule};

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
pub(crate) const ROLES: &str = "roles.rbac.authorization.k8s.io";
pub(crate) const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
pub(crate) const ROLE_BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";
pub(crate) const CLUSTER_ROLE_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";
