//! What the host itself lets clients write, beside what holds for every server: at the edge most of
//! what is served is another server's.

use serde_json::Value;

use super::Attributes;
use crate::{api::Api, failure::Failure, user::User};

/// A write as a [`Gate`] sees it.
#[derive(Debug)]
pub struct GateWrite<'a> {
    pub user: &'a User,
    pub group: &'a str,
    /// The plural.
    pub resource: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// The stored object, where there is one.
    pub old: Option<&'a Value>,
}

/// Decides about writes before every other plug-in.
pub trait Gate: Send + Sync {
    /// Refuse a write, with what the client is told, or change what is to be written; `object` is null
    /// for a deletion.
    fn pass(&self, write: &GateWrite<'_>, object: &mut Value) -> Result<(), String>;
}

pub(super) fn check(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<(), Failure> {
    let Some(gate) = &api.options.gate else {
        return Ok(());
    };
    let call = attributes.call;
    let write = GateWrite {
        user: &call.user,
        group: &call.resource.group,
        resource: &call.resource.plural,
        subresource: attributes.subresource,
        old: attributes.old,
    };
    let passed = gate.pass(&write, object);
    passed.map_err(|why| attributes.forbidden(object, why))
}
