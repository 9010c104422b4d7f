//! The embedded image registry: what nodes run comes from here, and nowhere else is a second copy.
//!
//! Three doors onto one content store of plain files: the OCI Distribution API (`eyot push`,
//! skopeo, docker, oras …), [`ImageStore`](eyot_runtime::ImageStore) for the node in the same
//! process, which gets paths into the store instead of bytes, and [`push`], the client side that
//! turns a `.wasm` file or an image archive into an artifact and uploads it to any registry.
//!
//! The registry is plain HTTP and knows no users: it is bound to loopback.

mod content;
mod durable;
mod images;
pub mod manifest;
pub mod name;
pub mod push;
mod service;
#[cfg(test)]
mod tests;
mod upload;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use service::RegistryService;

use crate::{content::Content, upload::Uploads};

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
    addresses: Vec<String>,
}

impl Registry {
    /// Open the content store in `dir`, which is made if it does not exist. `address` is where
    /// the service will listen: image references that name it mean this registry, as those
    /// without any host do.
    pub fn open(dir: &Path, address: SocketAddr) -> Result<Self, OpenError> {
        let content = Content::open(dir).map_err(|source| OpenError {
            path: dir.to_owned(),
            source,
        })?;
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
                addresses,
            }),
        })
    }

    /// The OCI Distribution API.
    pub fn service(&self) -> RegistryService {
        RegistryService::new(self.clone())
    }

    pub(crate) fn content(&self) -> &Content {
        &self.inner.content
    }

    pub(crate) fn uploads(&self) -> &Uploads {
        &self.inner.uploads
    }

    pub(crate) fn addresses(&self) -> &[String] {
        &self.inner.addresses
    }
}
