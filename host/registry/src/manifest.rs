//! Manifests: what the registry must understand of them, and nothing more.
//!
//! A manifest is stored and handed out byte for byte. The registry looks inside for three things:
//! which content it refers to (it must be there), which manifest it is about (`subject`, for the
//! referrers list), and for the node, what to run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::Digest;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The four kinds of manifest that the registry takes.
pub const MANIFEST_TYPES: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// Configuration of a Wasm artifact, by the CNCF's format.
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// The one layer of a Wasm artifact.
pub const WASM_LAYER: &str = "application/wasm";

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is not valid JSON of its kind: {0}")]
    Json(#[from] serde_json::Error),
    #[error("schemaVersion is {found}, and only 2 is supported")]
    Version { found: u32 },
    #[error("media type {found:?} is not a manifest's; expected one of {MANIFEST_TYPES:?}")]
    Type { found: String },
    #[error("the media type in the manifest, {inner:?}, is not that of the request, {outer:?}")]
    TypeDiffers { inner: String, outer: String },
    #[error("{place}: {reason}")]
    Descriptor { place: String, reason: String },
}

/// A reference from a manifest to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Where else the content may be had: such a blob need not be here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

/// What the registry knows of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub media_type: String,
    pub artifact_type: Option<String>,
    pub annotations: Option<BTreeMap<String, String>>,
    pub subject: Option<Digest>,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Image {
        config: Box<Descriptor>,
        layers: Vec<Descriptor>,
    },
    Index {
        manifests: Vec<Descriptor>,
    },
}

impl Manifest {
    /// Read a manifest that came with this `Content-Type`, if any.
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, ManifestError> {
        let document: Document = serde_json::from_slice(bytes)?;
        if document.schema_version != 2 {
            return Err(ManifestError::Version {
                found: document.schema_version,
            });
        }
        let media_type = media_type(content_type, &document)?;
        let missing = |place: &str| ManifestError::Descriptor {
            place: place.to_owned(),
            reason: format!("is missing, and {media_type} needs it"),
        };
        let content = if media_type == OCI_INDEX || media_type == DOCKER_LIST {
            let manifests = document.manifests.ok_or_else(|| missing("manifests"))?;
            Content::Index { manifests }
        } else {
            let config = document.config.ok_or_else(|| missing("config"))?.into();
            let layers = document.layers.ok_or_else(|| missing("layers"))?;
            Content::Image { config, layers }
        };
        let subject = document
            .subject
            .map(|d| digest("subject", &d))
            .transpose()?;
        let manifest = Self {
            artifact_type: document.artifact_type.filter(|t| !t.is_empty()),
            annotations: document.annotations,
            subject,
            content,
            media_type,
        };
        manifest.references()?;
        Ok(manifest)
    }

    /// The content that must be there before the manifest is: blobs of an image, manifests of an
    /// index.
    pub fn references(&self) -> Result<Vec<Digest>, ManifestError> {
        let (place, first, rest) = match &self.content {
            Content::Image { config, layers } => ("layers", Some(config.as_ref()), layers),
            Content::Index { manifests } => ("manifests", None, manifests),
        };
        let mut digests = Vec::with_capacity(rest.len() + 1);
        if let Some(config) = first {
            digests.push(digest("config", config)?);
        }
        for (index, descriptor) in rest.iter().enumerate() {
            let found = digest(&format!("{place}[{index}]"), descriptor)?;
            if descriptor.urls.is_empty() {
                digests.push(found);
            }
        }
        Ok(digests)
    }

    /// How the referrers list describes this manifest.
    pub fn descriptor(&self, digest: &Digest, size: u64) -> Descriptor {
        let artifact_type = self.artifact_type.clone().or_else(|| match &self.content {
            Content::Image { config, .. } => Some(config.media_type.clone()),
            Content::Index { .. } => None,
        });
        Descriptor {
            media_type: self.media_type.clone(),
            digest: digest.to_string(),
            size,
            artifact_type,
            platform: None,
            annotations: self.annotations.clone(),
            urls: Vec::new(),
        }
    }
}

fn media_type(content_type: Option<&str>, document: &Document) -> Result<String, ManifestError> {
    // Parameters such as charset do not matter.
    let outer = content_type.map(|t| t.split(';').next().unwrap_or(t).trim().to_owned());
    let found = match (outer.filter(|t| !t.is_empty()), document.media_type.clone()) {
        (Some(outer), Some(inner)) if outer != inner => {
            return Err(ManifestError::TypeDiffers { inner, outer });
        }
        (Some(outer), _) => outer,
        (None, Some(inner)) => inner,
        (None, None) if document.manifests.is_some() => OCI_INDEX.to_owned(),
        (None, None) => OCI_MANIFEST.to_owned(),
    };
    if MANIFEST_TYPES.contains(&found.as_str()) {
        return Ok(found);
    }
    Err(ManifestError::Type { found })
}

fn digest(place: &str, descriptor: &Descriptor) -> Result<Digest, ManifestError> {
    descriptor
        .digest
        .parse()
        .map_err(|error| ManifestError::Descriptor {
            place: format!("{place}.digest"),
            reason: format!("{error}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(content_type: Option<&str>, json: &str, words: &str) {
        let error = Manifest::parse(content_type, json.as_bytes())
            .expect_err(json)
            .to_string();
        assert!(error.contains(words), "{json}: {error}");
    }

    #[test]
    fn what_is_wrong_with_a_manifest_is_said() {
        refused(None, "blabla", "not valid JSON");
        refused(None, "{}", "schemaVersion");
        refused(None, r#"{"schemaVersion":1}"#, "only 2 is supported");
        refused(
            None,
            r#"{"schemaVersion":2,"layers":[]}"#,
            "config: is missing",
        );
        refused(
            Some("text/plain"),
            r#"{"schemaVersion":2}"#,
            "is not a manifest's",
        );
        refused(
            Some(OCI_INDEX),
            &format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}"}}"#),
            "is not that of the request",
        );
        refused(
            Some(OCI_INDEX),
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:1","size":1}]}"#,
            "manifests[0].digest",
        );
    }
}
