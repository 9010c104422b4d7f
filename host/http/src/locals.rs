//! Services of this process by the address that they listen on: who wants to reach one of them and is
//! in the same process needs no socket.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use futures::{FutureExt, future::BoxFuture};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::{Request, Response};

/// A service of this process.
#[derive(Clone)]
pub struct Local(BoxCloneSyncService<Request, Response, Infallible>);

impl Local {
    // Named, because the compiler cannot prove an anonymous future over `dyn Error` to be `Send`.
    pub fn ask(self, request: Request) -> BoxFuture<'static, Response> {
        let answer = self.0.oneshot(request);
        Box::pin(answer.map(|answer| answer.unwrap_or_else(|never| match never {})))
    }
}

/// The register. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Locals(Arc<RwLock<HashMap<SocketAddr, Entry>>>);

struct Entry {
    service: Local,
    /// Which registration it is of: an address may be taken anew before the one before let go of it.
    of: Arc<()>,
}

impl Locals {
    /// Let `service` be found at `address` for as long as the answer is kept.
    pub fn register<S>(&self, address: SocketAddr, service: S) -> Registered
    where
        S: Service<Request, Response = Response, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let of = Arc::new(());
        let entry = Entry {
            service: Local(BoxCloneSyncService::new(service)),
            of: of.clone(),
        };
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        entries.insert(address, entry);
        Registered {
            locals: self.clone(),
            address,
            of,
        }
    }

    /// The service at `address`, if it is one of this process.
    pub fn find(&self, address: &SocketAddr) -> Option<Local> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(address).map(|entry| entry.service.clone())
    }
}

impl fmt::Debug for Locals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Locals")
    }
}

/// A registration; dropping it takes it back.
#[must_use = "the service is found for as long as this is kept"]
pub struct Registered {
    locals: Locals,
    address: SocketAddr,
    of: Arc<()>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut entries = self
            .locals
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let ours = entries.get(&self.address);
        if ours.is_some_and(|entry| Arc::ptr_eq(&entry.of, &self.of)) {
            entries.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_registration_takes_no_newer_one_back() {
        let (locals, at) = (Locals::default(), ([10, 0, 0, 1], 80).into());
        let service = || tower::service_fn(|_| async { Ok(crate::text(Default::default(), "")) });
        let first = locals.register(at, service());
        let second = locals.register(at, service());
        drop(first);
        assert!(locals.find(&at).is_some());
        drop(second);
        assert!(locals.find(&at).is_none());
    }
}
