//! Admission: what may still change or refuse a write between the request and the store.
//!
//! Every write passes here twice, as in Kubernetes: once to be changed ([`mutate`], before defaults
//! are final and the object is validated) and once to be judged ([`validate`], on the object exactly
//! as it would be stored). A plug-in is one file beside this one and one line in each of the two
//! lists that it belongs to. Plug-ins read through [`Api`] and never write; what they refuse is a
//! [`Failure`], what they only remark goes back as a warning header.

#![expect(
    dead_code,
    reason = "the plug-ins that read the attributes come with the next changes"
)]

use serde_json::Value;

use crate::{api::Api, call::Call, failure::Failure};

/// What a request does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// `exec`, `attach`, `portforward`, `proxy`.
    Connect,
}

/// A write, as plug-ins see it.
pub(crate) struct Attributes<'a> {
    /// Resource, namespace, name, user and query of the request.
    pub(crate) call: &'a Call,
    pub(crate) operation: Operation,
    /// Empty for the object itself; `status`, `scale`, `binding`, `eviction` and so on otherwise.
    pub(crate) subresource: &'a str,
    /// The stored object, where there is one.
    pub(crate) old: Option<&'a Value>,
    /// CreateOptions, UpdateOptions, PatchOptions or DeleteOptions; null where none were sent.
    pub(crate) options: &'a Value,
}

/// Let every mutating plug-in change the object. Answers warnings for the client.
pub(crate) async fn mutate(
    _api: &Api,
    _attributes: &Attributes<'_>,
    _object: &mut Value,
) -> Result<Vec<String>, Failure> {
    Ok(Vec::new())
}

/// Ask every validating plug-in. `object` is `None` for a deletion. Answers warnings for the client.
pub(crate) async fn validate(
    _api: &Api,
    _attributes: &Attributes<'_>,
    _object: Option<&Value>,
) -> Result<Vec<String>, Failure> {
    Ok(Vec::new())
}
