//! Admission: what may still change or refuse a write between the request and the store.
//!
//! Every write passes here twice, as in Kubernetes: once to be changed ([`mutate`], before defaults
//! are final and the object is validated) and once to be judged ([`validate`], on the object exactly
//! as it would be stored). A plug-in is one file beside this one and one line in each of the two
//! lists that it belongs to, which are in Kubernetes' order. Plug-ins read through [`Api`] and never
//! write objects; what they refuse is a [`Failure`], what they only remark goes back as a warning
//! header. What configures them is read through an [`index`], so that a write which nothing is
//! configured for costs a few comparisons.

mod attributes;
mod certificates;
mod conditions;
mod configuration;
mod default_class;
mod device_access;
mod examine;
mod gate;
mod hooks;
mod index;
mod limit_ranger;
mod namespace_lifecycle;
mod node_taint;
mod notes;
mod object_in_use;
mod pod_security;
pub(crate) mod policy;
mod priority;
pub(crate) mod quota;
mod resources;
mod runtime_class;
mod scene;
mod selection;
mod service_account;
mod toleration_seconds;
mod volume_resize;

use eyot_store::Store;
use serde_json::Value;

pub(crate) use self::{
    attributes::{Attributes, Kind, Operation},
    notes::Notes,
};
pub use self::{
    configuration::AdmissionConfig,
    examine::{Examinee, Examiner, Findings},
    gate::{Gate, GateWrite},
    pod_security::PodSecurityConfig,
};
use self::{hooks::Rounds, index::Index};
use crate::{
    api::Api,
    auth::{node::restrict, rbac::escalation, token::secret},
    failure::Failure,
    managed,
    object::at,
    service_addresses::Reservation,
};

/// What plug-ins keep between requests.
pub(crate) struct Admission {
    limits: Index<limit_ranger::Ranges>,
    priorities: Index<priority::Classes>,
    storage_class: Index<default_class::Default>,
    ingress_class: Index<default_class::Default>,
    quotas: Index<quota::Quotas>,
    ledger: quota::Ledger,
    mutating: Index<Vec<hooks::Hook>>,
    validating: Index<Vec<hooks::Hook>>,
    mutations: Index<Vec<policy::Policy>>,
    validations: Index<Vec<policy::Policy>>,
}

impl Admission {
    pub(crate) fn new(store: &Store) -> Admission {
        Admission {
            limits: Index::new(store, limit_ranger::RESOURCES, limit_ranger::compile),
            priorities: Index::new(store, priority::RESOURCES, priority::compile),
            storage_class: Index::new(store, default_class::STORAGE, default_class::storage),
            ingress_class: Index::new(store, default_class::INGRESS, default_class::ingress),
            quotas: Index::new(store, quota::RESOURCES, quota::compile),
            ledger: quota::Ledger::default(),
            mutating: Index::new(store, hooks::MUTATING, hooks::compile),
            validating: Index::new(store, hooks::VALIDATING, hooks::compile),
            mutations: Index::new(store, policy::MUTATING, policy::compile),
            validations: Index::new(store, policy::VALIDATING, policy::compile),
        }
    }
}

/// Wait until somebody writes an object of a resource after this revision.
async fn written(store: &Store, resource: &str, after: u64) {
    // What can no longer be followed from there has surely been written.
    if let Ok(mut watch) = store.watch(resource, None, after) {
        let _ = watch.next().await;
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
#[derive(Default)]
#[must_use = "what is reserved for the write is given back when this is dropped"]
pub(crate) struct Admitted {
    /// For the client.
    pub(crate) warnings: Vec<String>,
    /// What a service is about to take.
    pub(crate) addresses: Option<Reservation>,
    /// The namespace's turn, where quotas count the write.
    turn: Option<quota::Turn>,
}

/// Let every mutating plug-in change the object, which is null for a deletion.
pub(crate) async fn mutate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<Mutated, Failure> {
    let (mut mutated, mut rounds) = (Mutated::default(), Rounds::default());
    let strangers = !api.admission.mutating.get(&api.store).is_empty()
        || !api.admission.mutations.get(&api.store).is_empty();
    let managers = at(object, &["metadata", "managedFields"]).filter(|_| strangers);
    let managers = managers.cloned();
    run(api, attributes, object, &mut mutated, &mut rounds).await?;
    if rounds.again() {
        run(api, attributes, object, &mut mutated, &mut rounds).await?;
    }
    if let Some(before) = managers
        && let Some(why) = managed::broken(object, &before)
    {
        managed::put_back(object, Some(before));
        mutated.warnings.push(format!(
            ".metadata.managedFields was in an invalid state after admission; this could be caused \
             by an outdated mutating admission controller; please fix your requests: {why}"
        ));
    }
    Ok(mutated)
}

async fn run(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Value,
    done: &mut Mutated,
    rounds: &mut Rounds,
) -> Result<(), Failure> {
    gate::check(api, attributes, object)?;
    namespace_lifecycle::check(api, attributes, object)?;
    done.changed |= secret::fill(api, attributes, object);
    limit_ranger::mutate(api, attributes, object, done);
    service_account::mutate(api, attributes, object, done).await?;
    restrict::check(api, attributes, object)?;
    node_taint::mutate(attributes, object, done);
    priority::mutate(api, attributes, object, done)?;
    toleration_seconds::mutate(attributes, object, done);
    default_class::mutate(api, attributes, object, done);
    object_in_use::mutate(attributes, object, done);
    runtime_class::mutate(api, attributes, object, done)?;
    policy::mutate(api, attributes, object, done, rounds).await?;
    hooks::mutate(api, attributes, object, done, rounds).await?;
    // Last, on what would be stored.
    escalation::check(api, attributes, object)
}

/// Ask every validating plug-in. The object is null for a deletion. Keep the answer until the write
/// is done or has failed.
pub(crate) async fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<Admitted, Failure> {
    let mut admitted = Admitted::default();
    limit_ranger::validate(api, attributes, object)?;
    service_account::validate(api, attributes, object).await?;
    pod_security::validate(api, attributes, object, &mut admitted).await?;
    priority::validate(api, attributes, object)?;
    volume_resize::validate(api, attributes, object)?;
    device_access::validate(api, attributes, object)?;
    runtime_class::validate(api, attributes, object)?;
    certificates::validate(api, attributes, object)?;
    policy::validate(api, attributes, object, &mut admitted).await?;
    hooks::validate(api, attributes, object, &mut admitted).await?;
    examine::validate(api, attributes, object, &mut admitted).await?;
    // Last: what it reserves must not wait for others.
    quota::validate(api, attributes, object, &mut admitted).await?;
    Ok(admitted)
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
