//! The embedded image registry: what nodes run comes from here, and nowhere else is a second copy.
//!
//! Three doors onto one content store of plain files: the OCI Distribution API (`eyot push`,
//! skopeo, docker, oras …), [`ImageStore`](eyot_runtime::ImageStore) for the node in the same
//! process, which gets paths into the store instead of bytes, and [`push`], the client side that
//! turns a `.wasm` file or an image archive into an artifact and uploads it to any registry. What
//! pods need from other registries comes in through [`pull`].
//!
//! The registry knows no users: a [`Gatekeeper`] says who somebody is and what they may.

pub mod admin;
mod content;
mod durable;
mod images;
mod ledger;
pub mod manifest;
pub mod name;
mod platform;
pub mod pull;
pub mod push;
mod said;
mod service;
mod sweep;
#[cfg(test)]
mod tests;
mod upload;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use service::{
    RegistryService,
    guard::{Anonymous, Gatekeeper, Guard, Verb, Who},
};

pub(crate) use crate::said::{chain, refusal};
use crate::{
    content::Content,
    ledger::Ledger,
    pull::{Puller, Registries},
    upload::Uploads,
};

/// The content store's directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the image store in {path} cannot be opened: {source}", path = path.display())]
pub struct OpenError {
    path: PathBuf,
    source: std::io::Error,
}

/// An open registry; clones share it.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    content: Content,
    uploads: Uploads,
    ledger: Ledger,
    puller: Puller,
    addresses: Vec<String>,
}

impl Registry {
    /// Open the content store in `dir`, which is made if it does not exist. `address` is where
    /// the service will listen: image references that name it mean this registry, as those
    /// without any host do. `registries` says how others are spoken to.
    pub fn open(
        dir: &Path,
        address: SocketAddr,
        registries: Registries,
    ) -> Result<Self, OpenError> {
        let failed = |source| OpenError {
            path: dir.to_owned(),
            source,
        };
        let content = Content::open(dir).map_err(failed)?;
        let ledger = Ledger::open(dir.join("images"), content.scratch()).map_err(failed)?;
        let uploads = Uploads::new(content.scratch());
        let mut addresses = vec![address.to_string()];
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            addresses.extend(
                ["127.0.0.1", "localhost", "[::1]"].map(|h| format!("{h}:{}", address.port())),
            );
        }
        Ok(Self {
            inner: Arc::new(Inner {
                content,
                uploads,
                ledger,
                puller: Puller::new(registries),
                addresses,
            }),
        })
    }

    /// The OCI Distribution API, open to everybody.
    pub fn service(&self) -> RegistryService {
        RegistryService::new(self.clone(), None)
    }

    /// The OCI Distribution API behind a guard.
    pub fn guarded(&self, guard: Guard) -> RegistryService {
        RegistryService::new(self.clone(), Some(guard))
    }

    pub(crate) fn content(&self) -> &Content {
        &self.inner.content
    }

    pub(crate) fn uploads(&self) -> &Uploads {
        &self.inner.uploads
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.inner.ledger
    }

    pub(crate) fn puller(&self) -> &Puller {
        &self.inner.puller
    }

    pub(crate) fn addresses(&self) -> &[String] {
        &self.inner.addresses
    }
}
