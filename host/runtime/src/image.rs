//! What an image is to those who run it. The registry crate implements [`ImageStore`].

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;

/// An image that is complete in the local content store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// As the pod wrote it, for example `demo/plc-driver:v1`.
    pub reference: String,
    /// `sha256:…` of the manifest for this platform.
    pub digest: String,
    pub content: Arc<ImageContent>,
}

/// What an image holds decides who runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageContent {
    /// One Wasm module or component.
    Wasm {
        /// The `application/wasm` blob in the content store; not verified to be valid Wasm.
        path: PathBuf,
        /// `sha256:…` of that blob: the key for whatever is made of it.
        digest: String,
    },
    /// A container image.
    Oci {
        /// Layers, lowest first: the content store's blobs.
        layers: Vec<Layer>,
        config: ImageConfig,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub path: PathBuf,
    /// Digest of the blob as stored.
    pub digest: String,
    /// For example `application/vnd.oci.image.layer.v1.tar+gzip`.
    pub media_type: String,
    /// `diff_id` of the image configuration: the digest of the uncompressed tar.
    pub diff_id: String,
}

/// The parts of the OCI image configuration that matter for running it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    /// As written: `1000`, `app`, `1000:1000`.
    pub user: Option<String>,
    pub stop_signal: Option<String>,
}

/// Why an image is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Status reason `InvalidImageName`.
    #[error("image reference {reference:?} is not valid: {reason}")]
    Reference { reference: String, reason: String },
    /// Status reason `ErrImagePull`, then `ImagePullBackOff`.
    #[error("image {reference} was not found: {remedy}")]
    NotFound { reference: String, remedy: String },
    /// The stored manifest or configuration makes no sense. Status reason `InvalidImage`.
    #[error("image {reference} is damaged: {reason}")]
    Damaged { reference: String, reason: String },
    /// Reading or fetching failed. Status reason `ErrImagePull`.
    #[error("image {reference} could not be read: {reason}")]
    Io { reference: String, reason: String },
    /// Its registry did not give it. Status reason `ErrImagePull`, then `ImagePullBackOff`.
    #[error("{reason}")]
    Fetch { reference: String, reason: String },
}

/// A name and a secret for registries, from a pod's `imagePullSecrets`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// Whose they are for, as written in a `.dockerconfigjson`: `HOST[:PORT][/PATH]`, with an
    /// optional `https://` before it and `*` for parts of the host's name.
    pub scope: String,
    pub user: String,
    pub password: String,
    /// A refresh token of the registry's token service, in place of user and password.
    pub identity_token: Option<String>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("scope", &self.scope)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// An image that is in the local store, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// `NAME:TAG` and `NAME@DIGEST`; the digest's is always among them.
    pub names: Vec<String>,
    /// `sha256:…` of the manifest that the names lead to; for several platforms, of their index.
    pub digest: String,
    /// `sha256:…` of the manifest that runs here: what [`Image::digest`] says.
    pub runs: String,
    /// Bytes of all blobs as stored.
    pub size: u64,
    /// It was fetched from another registry and can be fetched again.
    pub fetched: bool,
}

/// Finds images.
#[async_trait]
pub trait ImageStore: Send + Sync {
    /// Resolve a reference to an image that is complete in the local store.
    async fn resolve(&self, reference: &str) -> Result<Image, ImageError>;

    /// Like [`Self::resolve`] for somebody who has these credentials: an image that was only had
    /// for a secret is not found by those who do not have it.
    async fn find(
        &self,
        reference: &str,
        _credentials: &[Credential],
    ) -> Result<Image, ImageError> {
        self.resolve(reference).await
    }

    /// Fetch what the reference names at this moment from its registry, unless this host is that
    /// registry. Several calls for one reference share the work.
    async fn pull(
        &self,
        reference: &str,
        _credentials: &[Credential],
    ) -> Result<Pulled, ImageError> {
        let image = self.resolve(reference).await?;
        Ok(Pulled { image, size: 0 })
    }

    /// What is here, or else fetched, for the host's own use.
    async fn obtain(&self, reference: &str) -> Result<Image, ImageError> {
        match self.resolve(reference).await {
            Err(ImageError::NotFound { .. }) => {
                let pulled = self.pull(reference, &[]).await?;
                Ok(pulled.image)
            }
            found => found,
        }
    }

    /// All images of the local store, largest first.
    async fn list(&self) -> Result<Vec<StoredImage>, ImageError> {
        Ok(Vec::new())
    }

    /// Forget a fetched image by the digest that [`StoredImage`] has, with what only it needed.
    /// Answers the bytes that were freed.
    async fn forget(&self, _digest: &str) -> Result<u64, ImageError> {
        Ok(0)
    }
}

/// The outcome of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    pub image: Image,
    /// Bytes of all blobs of the image.
    pub size: u64,
}
