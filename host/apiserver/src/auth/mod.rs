//! Who may do what: authentication of requests, and the authorizers that decide on them.
//!
//! [`Authorizer::authorize`] is the one question, asked by the door for each request, by the access
//! reviews, by escalation checks and by policies. It reads indices in memory that follow the store
//! ([`follow`]), so a decision neither waits nor parses, and a role that was written is in force
//! for the next request. Members of `system:masters` (the host's own parts among them) are never
//! looked up at all.

mod attributes;
mod authenticate;
mod authorizer;
mod follow;
mod impersonate;
pub mod node;
pub(crate) mod oidc;
pub(crate) mod rbac;
pub mod token;

pub use self::{
    attributes::Attributes,
    authorizer::{Decision, Reason, Verdict},
    oidc::AuthenticationConfig,
};
pub(crate) use self::{
    authenticate::{CREDENTIAL_ID, authenticate},
    authorizer::Authorizer,
    follow::{Follower, Index},
    impersonate::{
        Impersonated, account as service_account, impersonate, is_asked as is_impersonation,
        node_of,
    },
    node::name_of as node_name,
};
