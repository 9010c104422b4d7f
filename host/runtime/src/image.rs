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
}

/// Finds images.
#[async_trait]
pub trait ImageStore: Send + Sync {
    /// Resolve a reference to an image that is complete in the local store.
    async fn resolve(&self, reference: &str) -> Result<Image, ImageError>;
}
