//! Aggregation: groups and versions for which another server answers, behind this one.
//!
//! An APIService says who answers for a group and version. Where it names a Service, requests go
//! there ([`pass()`]) with the client's identity in headers, which that server believes because of the
//! certificate that they come with ([`trust`]). All others are answered here, and have APIServices,
//! too, so that clients find all of them in one list ([`local`]).
//!
//! One task ([`keep()`]) looks whether the servers behind can be reached ([`check`]) and what they
//! say of themselves ([`fetch`]). Both become part of the catalog, so a request sees one consistent
//! set of groups from start to end, and discovery and OpenAPI need no requests of their own.

mod check;
mod fetch;
mod keep;
mod local;
mod pass;
mod priority;
mod remote;
mod trust;

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

pub use self::trust::{FRONT_PROXY, FrontProxy};
pub(crate) use self::{
    keep::keep,
    local::reconcile,
    pass::{document, pass},
    priority::{group_priority, version_priority},
    remote::Remote,
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
    changed: Arc<Notify>,
    remotes: RwLock<Arc<Remotes>>,
}

/// The servers behind this one.
pub(crate) type Remotes = Vec<Arc<Remote>>;

impl Aggregation {
    pub(crate) fn catalog_changed(&self) {
        self.changed.notify_one();
    }

    pub(crate) fn remotes(&self) -> Arc<Remotes> {
        let held = self.remotes.read();
        held.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Take these in place of the ones before; answers whether anything differs.
    fn replace(&self, remotes: Remotes) -> bool {
        let mut held = self.remotes.write().unwrap_or_else(PoisonError::into_inner);
        let same =
            held.len() == remotes.len() && held.iter().zip(&remotes).all(|(a, b)| a.is_same(b));
        if !same {
            *held = Arc::new(remotes);
        }
        !same
    }
}
