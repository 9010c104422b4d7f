//! The built-in kinds: one file each, one line in the list below.
//!
//! A kind is plain data and pure functions over JSON. The machinery around it (paths, verbs,
//! storage, watches) knows no kind by name; a kind knows neither storage nor HTTP.

pub mod names;

use jiff::Timestamp;
use serde_json::Value;

use crate::{field_error::FieldError, table::Column};

/// Everything the machinery needs to know about a built-in kind.
pub struct KindSpec {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub list_kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// Has a `status` subresource: writes to the object keep the status, and the other way round.
    pub status: bool,
    /// Has a `scale` subresource.
    pub scale: bool,
    /// `metadata.generation` counts changes of everything but metadata and status.
    pub generation: bool,
    /// Typed check: names unknown fields by path and drops them, refuses values of the wrong type,
    /// and brings the rest into stored form (no nulls, canonical quantities and times).
    pub decode: fn(&mut Value) -> Result<Vec<UnknownField>, TypeError>,
    /// Fills what the user left out, exactly as Kubernetes does. Idempotent.
    pub default: fn(&mut Value),
    /// What a user may not set or must not send on creation is reset here (status, for one); on
    /// update the second value is the stored object, whose status is carried over.
    pub prepare: fn(&mut Value, Option<&Value>),
    /// Checks a complete object with defaults; with the stored one for an update.
    pub validate: fn(&Value, Option<&Value>) -> Vec<FieldError>,
    /// The fields that field selectors may name, in `Store`'s form; always has metadata.name and,
    /// where namespaced, metadata.namespace.
    pub fields: fn(&Value) -> Vec<(Box<str>, Box<str>)>,
    /// Names of those fields: a selector on another one is a bad request.
    pub field_names: &'static [&'static str],
    pub columns: &'static [Column],
    /// One cell for each column.
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
}

impl KindSpec {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The store's name of the resource: `pods`, `deployments.apps`.
    pub fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

/// A field that the typed object does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// As `spec.containers[0].foo`.
    pub path: String,
}

impl std::fmt::Display for UnknownField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown field {:?}", self.path)
    }
}

/// A field whose JSON value has the wrong type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TypeError {
    /// As `spec.replicas`.
    pub path: String,
    /// What Kubernetes would answer after `cannot be handled as a Pod: `.
    pub message: String,
}

/// All built-in kinds that are stored.
pub fn all() -> &'static [KindSpec] {
    &[]
}

/// A body that is sent to a subresource and never stored: Scale, Binding, Eviction, DeleteOptions.
pub struct RequestSpec {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub decode: fn(&mut Value) -> Result<Vec<UnknownField>, TypeError>,
    pub validate: fn(&Value) -> Vec<FieldError>,
}

/// The request-only kinds: `autoscaling/v1 Scale`, `v1 Binding`, `policy/v1 Eviction`,
/// `v1|meta.k8s.io/v1 DeleteOptions`.
pub fn request(api_version: &str, kind: &str) -> Option<&'static RequestSpec> {
    let _ = (api_version, kind);
    None
}

/// Object metadata, as every object (custom ones too) must have it: names, labels, annotations,
/// owners, finalizers; with the stored object for an update (what may not change).
pub fn validate_metadata(
    object: &Value,
    old: Option<&Value>,
    namespaced: bool,
    name_rule: fn(&str) -> Vec<String>,
) -> Vec<FieldError> {
    let _ = (object, old, namespaced, name_rule);
    Vec::new()
}

/// The name rule of most kinds (and of custom resources): an RFC 1123 subdomain.
pub fn subdomain_name(name: &str) -> Vec<String> {
    names::subdomain(name)
}
