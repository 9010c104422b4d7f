//! Aggregation: groups and versions for which another server answers, behind this one.
//!
//! An APIService says who answers for a group and version. Where it names a Service, requests go
//! there with the client's identity in headers, which that server believes because of the
//! certificate that they come with ([`trust`]). All others are answered here, and have APIServices,
//! too, so that clients find all of them in one list ([`local`]).

use std::sync::Arc;

use tokio::sync::Notify;

mod keep;
mod local;
mod priority;
mod trust;

pub use self::trust::{FRONT_PROXY, FrontProxy};
pub(crate) use self::{
    keep::keep,
    local::reconcile,
    priority::{group_priority, version_priority},
    trust::publish,
};

/// The group of APIServices, for which nobody else can answer.
pub(crate) const GROUP: &str = "apiregistration.k8s.io";
/// `Key::resource` of APIServices.
pub(crate) const STORAGE: &str = "apiservices.apiregistration.k8s.io";

/// What the server knows of aggregation.
#[derive(Default)]
pub(crate) struct Aggregation {
    /// The catalog was replaced.
    pub(crate) changed: Arc<Notify>,
}
