//! One served resource, built-in or custom: the view that all verbs share.
//!
//! A verb never asks whether a resource is built in. It asks this type to decode, default, prepare,
//! validate and print, and gets the kind's own functions or the CRD's schema.

use std::sync::Arc;

use bytes::Bytes;
use eyot_store::Object;
use serde_json::Value;

use crate::{
    failure::Failure,
    field_error::FieldError,
    kinds::{self, KindSpec},
    object,
    schema::Schema,
    table::Printer,
};

/// A resource at one version.
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) status: bool,
    pub(crate) scale: Option<ScalePaths>,
    /// `Key::resource` in the store.
    pub(crate) storage: Arc<str>,
    /// The version under which objects are kept; empty if that one is not served.
    pub(crate) storage_version: String,
    /// The definition is being deleted.
    pub(crate) terminating: bool,
    pub(crate) printer: Printer,
    pub(crate) definition: Definition,
}

/// Where a scalable object keeps its numbers, as keys from its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub(crate) spec: Vec<String>,
    pub(crate) status: Vec<String>,
    /// A selector in its text form (custom resources).
    pub(crate) selector: Option<Vec<String>>,
}

pub(crate) enum Definition {
    Builtin(&'static KindSpec),
    Custom(Box<Custom>),
}

/// What a CRD version says about its objects.
pub(crate) struct Custom {
    pub(crate) schema: Schema,
    /// Objects may be stored under another version of the CRD, so that answers must be relabelled.
    pub(crate) relabel: bool,
}

impl Resource {
    pub(crate) fn builtin(spec: &'static KindSpec) -> Resource {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        let path = |text: &str| text.split('.').map(str::to_owned).collect();
        Resource {
            group: spec.group.to_owned(),
            version: spec.version.to_owned(),
            kind: spec.kind.to_owned(),
            list_kind: spec.list_kind.to_owned(),
            plural: spec.plural.to_owned(),
            singular: spec.singular.to_owned(),
            short_names: words(spec.short_names),
            categories: words(spec.categories),
            namespaced: spec.namespaced,
            status: spec.status,
            scale: spec.scale.then(|| ScalePaths {
                spec: path("spec.replicas"),
                status: path("status.replicas"),
                selector: None,
            }),
            storage: spec.resource().into(),
            storage_version: stored_as(spec).to_owned(),
            terminating: false,
            printer: Printer::Builtin(spec),
            definition: Definition::Builtin(spec),
        }
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether this is the built-in resource of that name.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub(crate) fn is_custom(&self) -> bool {
        matches!(self.definition, Definition::Custom(_))
    }

    /// Whether `metadata.generation` counts changes.
    pub(crate) fn has_generation(&self) -> bool {
        match &self.definition {
            Definition::Builtin(spec) => spec.generation,
            Definition::Custom(_) => true,
        }
    }

    /// Check types, drop what the kind does not have, and answer the paths of what was dropped.
    pub(crate) fn decode(&self, value: &mut Value) -> Result<Vec<String>, Failure> {
        match &self.definition {
            Definition::Builtin(spec) => {
                let unknown =
                    (spec.decode)(value).map_err(|error| self.undecodable(&error.message))?;
                for field in &unknown {
                    object::remove(value, &field.path);
                }
                Ok(unknown.into_iter().map(|field| field.path).collect())
            }
            Definition::Custom(custom) => {
                if value
                    .get("metadata")
                    .is_some_and(|m| !m.is_object() && !m.is_null())
                {
                    let why = "json: cannot unmarshal into Go struct field .metadata of type v1.ObjectMeta";
                    return Err(self.undecodable(why));
                }
                Ok(custom.schema.prune(value))
            }
        }
    }

    /// `Pod in version "v1" cannot be handled as a Pod: why`
    pub(crate) fn undecodable(&self, why: &str) -> Failure {
        let (kind, version) = (&self.kind, &self.version);
        Failure::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
        ))
    }

    pub(crate) fn default(&self, value: &mut Value) {
        match &self.definition {
            Definition::Builtin(spec) => (spec.default)(value),
            Definition::Custom(custom) => custom.schema.default(value),
        }
    }

    /// Reset what a client may not set: the status, mostly.
    pub(crate) fn prepare(&self, value: &mut Value, old: Option<&Value>) {
        match &self.definition {
            Definition::Builtin(spec) => (spec.prepare)(value, old),
            Definition::Custom(_) if self.status => carry(value, old, "status"),
            Definition::Custom(_) => {}
        }
    }

    pub(crate) fn validate(&self, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
        match &self.definition {
            Definition::Builtin(spec) => (spec.validate)(value, old),
            Definition::Custom(custom) => {
                let rule = kinds::subdomain_name;
                let mut errors = kinds::validate_metadata(value, old, self.namespaced, rule);
                errors.extend(custom.schema.validate(value));
                errors
            }
        }
    }

    pub(crate) fn field_names(&self) -> &[&str] {
        match &self.definition {
            Definition::Builtin(spec) => spec.field_names,
            Definition::Custom(_) if self.namespaced => &["metadata.name", "metadata.namespace"],
            Definition::Custom(_) => &["metadata.name"],
        }
    }

    /// A stored object as this version shows it.
    pub(crate) fn show(&self, object: &Object) -> Bytes {
        match &self.definition {
            Definition::Custom(custom) if custom.relabel => {
                let Ok(value) = self.value(object) else {
                    return object.json.clone();
                };
                serde_json::to_vec(&value).map_or_else(|_| object.json.clone(), Bytes::from)
            }
            _ => object.json.clone(),
        }
    }

    /// A stored object, parsed, as this version shows it.
    pub(crate) fn value(&self, object: &Object) -> Result<Value, Failure> {
        let mut value: Value = serde_json::from_slice(&object.json).map_err(Failure::internal)?;
        if let Definition::Custom(custom) = &self.definition
            && custom.relabel
        {
            value["apiVersion"] = self.api_version().into();
        }
        Ok(value)
    }

    // The failures about one object of this resource.

    pub(crate) fn not_found(&self, name: &str) -> Failure {
        Failure::not_found(&self.group, &self.plural, name)
    }

    pub(crate) fn modified(&self, name: &str) -> Failure {
        Failure::modified(&self.group, &self.plural, name)
    }

    pub(crate) fn conflict(&self, name: &str, why: &str) -> Failure {
        Failure::conflict(&self.group, &self.plural, name, why)
    }

    pub(crate) fn invalid(&self, name: &str, errors: &[FieldError]) -> Failure {
        Failure::invalid(&self.group, &self.kind, name, errors)
    }
}

/// The version under which Kubernetes keeps objects of a kind that it serves in several.
fn stored_as(spec: &'static KindSpec) -> &'static str {
    match (spec.group, spec.kind) {
        ("autoscaling", "HorizontalPodAutoscaler") => "v2",
        _ => spec.version,
    }
}

/// Make `key` of the object what it is in `old`.
pub(crate) fn carry(value: &mut Value, old: Option<&Value>, key: &str) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    match old.and_then(|old| old.get(key)) {
        Some(kept) => {
            map.insert(key.to_owned(), kept.clone());
        }
        None => {
            map.remove(key);
        }
    }
}

/// The fields that selectors may name on every object.
pub(crate) fn generic_fields(value: &Value) -> Vec<(Box<str>, Box<str>)> {
    let mut fields = vec![("metadata.name".into(), object::name(value).into())];
    let namespace = object::namespace(value);
    if !namespace.is_empty() {
        fields.push(("metadata.namespace".into(), namespace.into()));
    }
    fields
}

/// The store's hook: which fields of an object selectors can use.
pub fn extract(resource: &str, object: &Value) -> Vec<(Box<str>, Box<str>)> {
    let kind = kinds::all()
        .iter()
        .find(|spec| match resource.split_once('.') {
            None => spec.group.is_empty() && spec.plural == resource,
            Some((plural, group)) => spec.plural == plural && spec.group == group,
        });
    kind.map_or_else(|| generic_fields(object), |spec| (spec.fields)(object))
}
