//! Pushing: from a file that a user has to an image that a node can run.
//!
//! [`Artifact::open`] finds out what the file is, whatever its name says, and refuses what it
//! cannot recognise by telling what it found. [`push()`] uploads it to any registry, sending only the
//! blobs that the registry does not have.

mod archive;
mod artifact;
mod client;
#[cfg(test)]
mod tests;
mod wasm;

pub use artifact::{Artifact, ArtifactError, Blob, Kind, Named};
pub(crate) use client::remote_of;
pub use client::{Options, Progress, PushError, push};
