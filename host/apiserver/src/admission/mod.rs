//! Admission: what may still change or refuse a write between the request and the store.
//!
//! Every write passes here twice, as in Kubernetes: once to be changed ([`mutate`], before defaults
//! are final and the object is validated) and once to be judged ([`validate`], on the object exactly
//! as it would be stored). A plug-in is one file beside this one and one line in each of the two
//! lists that it belongs to, which are in Kubernetes' order. Plug-ins read through [`Api`] and never
//! write objects; what they refuse is a [`Failure`], what they only remark goes back as a warning
//! header. What configures them is read through an [`index`], so that a write which nothing is
//! configured for costs a few comparisons.

#![expect(
    dead_code,
    reason = "the plug-ins that read all of this come with the next changes"
)]

mod attributes;
mod index;
mod namespace_lifecycle;

use eyot_store::Store;
use serde_json::Value;

pub(crate) use self::attributes::{Attributes, Kind, Operation};
use crate::{
    api::Api,
    auth::{rbac::escalation, token::secret},
    failure::Failure,
};

/// What plug-ins keep between requests.
pub(crate) struct Admission {}

impl Admission {
    pub(crate) fn new(_store: &Store) -> Admission {
        Admission {}
    }
}

/// What became of an object on its way through the mutating plug-ins.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Mutated {
    /// For the client.
    pub(crate) warnings: Vec<String>,
    /// Whether the object is no longer the one that was given.
    pub(crate) changed: bool,
}

/// A write that was let through.
#[derive(Debug, Default)]
#[must_use = "what is reserved for the write is given back when this is dropped"]
pub(crate) struct Admitted {
    /// For the client.
    pub(crate) warnings: Vec<String>,
}

/// Let every mutating plug-in change the object, which is null for a deletion.
pub(crate) async fn mutate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<Mutated, Failure> {
    let mut mutated = Mutated::default();
    namespace_lifecycle::check(api, attributes, object)?;
    mutated.changed |= secret::fill(api, attributes, object);
    escalation::check(api, attributes, object)?;
    Ok(mutated)
}

/// Ask every validating plug-in. The object is null for a deletion. Keep the answer until the write
/// is done or has failed.
pub(crate) async fn validate(
    _api: &Api,
    _attributes: &Attributes<'_>,
    _object: &Value,
) -> Result<Admitted, Failure> {
    Ok(Admitted::default())
}

/// Both, for what stores no object of its own: deletions, bindings, evictions, connections.
pub(crate) async fn admit(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<Admitted, Failure> {
    let mutated = mutate(api, attributes, object).await?;
    let mut admitted = validate(api, attributes, object).await?;
    admitted.warnings.splice(..0, mutated.warnings);
    Ok(admitted)
}
