//! The built-in kinds: one file each, one line in the list below.
//!
//! A kind is plain data and pure functions over JSON. The machinery around it (paths, verbs,
//! storage, watches) knows no kind by name; a kind knows neither storage nor HTTP.

mod admission_expression;
mod admission_policy;
mod admission_rule;
pub(crate) mod api_service;
mod autoscaler;
mod component_status;
mod conditions;
mod config_map;
mod controller_revision;
pub(crate) mod crd;
mod cron_job;
mod csi;
mod daemon_set;
mod deployment;
mod descent;
mod device;
mod endpoint_slice;
mod endpoints;
pub mod event;
mod findings;
pub(crate) mod flow_schema;
mod ingress;
mod ingress_class;
pub(crate) mod ip;
mod job;
mod json;
mod key_pair;
mod lease;
mod limit_range;
mod metadata;
pub mod names;
mod namespace;
mod network_policy;
mod node;
mod node_selector;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_disruption_budget;
mod pod_template;
pub(crate) mod priority_class;
pub(crate) mod priority_level;
mod rbac;
mod replica_set;
mod replication_controller;
mod requests;
mod resource_name;
mod resource_quota;
mod runtime_class;
mod secret;
pub(crate) mod service;
mod service_account;
mod service_range;
pub(crate) mod signing_request;
mod stateful_set;
mod storage_class;
#[cfg(test)]
mod tests;
mod volume_attachment;
mod volume_source;
mod webhook;
mod workload;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    field_error::FieldError,
    model::{self, Model},
    table::{self, Column},
    user::User,
};

use self::metadata::validate_metadata;
pub(crate) use self::{
    metadata::validate_generic as validate_metadata_of_any, namespace::validate_finalize,
};

/// Names and values of what field selectors may ask for, in the store's form.
pub type Fields = Vec<(Box<str>, Box<str>)>;

/// Checks a complete object; with the stored one for an update.
pub type Rules = fn(&Value, Option<&Value>) -> Vec<FieldError>;

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
    /// `PUT` makes the object if there is none.
    pub put_creates: bool,
    /// `PUT` must say which revision it means.
    pub needs_revision: bool,
    /// Typed check: names unknown fields by path and drops them, refuses values of the wrong type,
    /// and brings the rest into stored form (no nulls, canonical quantities and times).
    pub decode: fn(&mut Value) -> Result<Vec<UnknownField>, TypeError>,
    /// Fills what the user left out, exactly as Kubernetes does. Idempotent.
    pub default: fn(&mut Value),
    /// What a user may not set or must not send on creation is reset here (status, for one); on
    /// update the second value is the stored object, whose status is carried over.
    pub prepare: fn(&mut Value, Option<&Value>),
    /// Checks a complete object with defaults; with the stored one for an update.
    pub validate: Rules,
    /// The fields that field selectors may name, in `Store`'s form; always has metadata.name and,
    /// where namespaced, metadata.namespace.
    pub fields: fn(&Value) -> Fields,
    /// Names of those fields: a selector on another one is a bad request.
    pub field_names: &'static [&'static str],
    /// What clients are warned of when they use the kind; empty for most.
    pub deprecated: &'static str,
    pub columns: &'static [Column],
    /// One cell for each column.
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
    /// The same objects under other groups and versions: this spec is the one that is stored.
    pub faces: &'static [Face],
    /// What a client should be told about an object that is accepted all the same; with the stored
    /// one for an update.
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// Notes who asks for a new object, in kinds that tell.
    pub requested_by: fn(&mut Value, &User),
    /// What follows from the name and uid that a new object was just given. Runs once, before the
    /// object is checked.
    pub identified: fn(&mut Value),
    /// A write of the status leaves all metadata as it was; else it may also label and annotate.
    pub status_keeps_metadata: bool,
    /// What a write of the status may not say or change, beside the status itself: the new object
    /// (its spec is the stored one already) and the stored one.
    pub prepare_status: fn(&mut Value, &Value),
    /// Checks a write of the status.
    pub validate_status: fn(&Value, &Value) -> Vec<FieldError>,
    /// Parts of the object with doors of their own, beside `status` and `scale`.
    pub parts: &'static [PartSpec],
}

/// A built-in kind under a second group or version.
///
/// Verbs work in the version that the request names: bodies are decoded, defaulted, patched and
/// admitted in it. Rules and storage know the stored version alone, and [`Resource`] converts at
/// that border.
///
/// [`Resource`]: crate::resource::Resource
pub struct Face {
    pub group: &'static str,
    pub version: &'static str,
    pub decode: fn(&mut Value) -> Result<Vec<UnknownField>, TypeError>,
    /// The defaults of this version, which may differ from those of the stored one.
    pub default: fn(&mut Value),
    /// Turns an object of this version into the stored form. The caller sets `apiVersion`.
    pub to_stored: fn(&mut Value),
    /// The other way round; nothing may be lost on the way there and back.
    pub from_stored: fn(&mut Value),
    /// Fields that selectors may name: their name here, and in the stored kind.
    pub fields: &'static [(&'static str, &'static str)],
    /// Rules of this version in place of the stored kind's, where they differ; on stored forms.
    pub validate: Option<Rules>,
}

impl Face {
    /// `autoscaling/v1`.
    pub fn api_version(&self) -> String {
        joined(self.group, self.version)
    }
}

fn joined(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// A part of an object that is written through its own subresource: `resize`, `approval`.
pub struct PartSpec {
    pub name: &'static str,
    /// Of `get`, `patch`, `update`.
    pub verbs: &'static [&'static str],
    /// Turns what was sent into the next state: keep of the stored object (second) what this part
    /// is not about.
    pub merge: fn(&mut Value, &Value),
    /// Checks the next state against the stored one.
    pub validate: fn(&Value, &Value) -> Vec<FieldError>,
}

impl KindSpec {
    /// What most kinds have: each spec states what it has beside this.
    pub const PLAIN: KindSpec = KindSpec {
        group: "",
        version: "v1",
        kind: "",
        list_kind: "",
        plural: "",
        singular: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
        generation: false,
        put_creates: false,
        needs_revision: false,
        decode: |_| Ok(Vec::new()),
        default: |_| {},
        prepare: |_, _| {},
        validate: |_, _| Vec::new(),
        fields: |object| metadata_fields(object, true),
        field_names: &["metadata.name", "metadata.namespace"],
        deprecated: "",
        columns: &[],
        cells: |_, _| Vec::new(),
        faces: &[],
        warnings: |_, _| Vec::new(),
        requested_by: |_, _| {},
        identified: |_| {},
        status_keeps_metadata: false,
        prepare_status: |_, _| {},
        validate_status: metadata::validate_update,
        parts: &[],
    };

    /// A namespaced kind that shows its name and age.
    const NAMESPACED: KindSpec = KindSpec {
        validate: |object, old| validate_metadata(object, old, true, names::subdomain),
        columns: &[Column::name(), Column::age()],
        cells: |object, now| {
            let name = json::at(object, "/metadata/name").clone();
            vec![name, table::age(object, now)]
        },
        ..KindSpec::PLAIN
    };

    /// The same for a kind without namespace.
    const CLUSTER: KindSpec = KindSpec {
        namespaced: false,
        validate: |object, old| validate_metadata(object, old, false, names::subdomain),
        fields: |object| metadata_fields(object, false),
        field_names: &["metadata.name"],
        ..KindSpec::NAMESPACED
    };

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        joined(self.group, self.version)
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
    /// What it says instead where the object is the result of a strategic merge patch.
    pub restoring: Option<String>,
}

/// All built-in kinds that are stored.
pub fn all() -> &'static [KindSpec] {
    static ALL: &[KindSpec] = &[
        config_map::SPEC,
        endpoints::SPEC,
        event::SPEC,
        limit_range::SPEC,
        namespace::SPEC,
        node::SPEC,
        persistent_volume::SPEC,
        persistent_volume_claim::SPEC,
        pod::SPEC,
        resource_quota::SPEC,
        secret::SPEC,
        service::SPEC,
        service_account::SPEC,
        deployment::SPEC,
        replica_set::SPEC,
        stateful_set::SPEC,
        daemon_set::SPEC,
        controller_revision::SPEC,
        replication_controller::SPEC,
        pod_template::SPEC,
        job::SPEC,
        cron_job::SPEC,
        pod_disruption_budget::SPEC,
        priority_class::SPEC,
        runtime_class::SPEC,
        autoscaler::SPEC,
        lease::SPEC,
        endpoint_slice::SPEC,
        flow_schema::SPEC,
        priority_level::SPEC,
        ingress::SPEC,
        ingress_class::SPEC,
        network_policy::SPEC,
        service_range::ADDRESS,
        service_range::RANGE,
        rbac::CLUSTER_ROLE,
        rbac::CLUSTER_ROLE_BINDING,
        rbac::ROLE,
        rbac::ROLE_BINDING,
        signing_request::SPEC,
        csi::CAPACITY,
        csi::DRIVER,
        csi::NODE,
        storage_class::ATTRIBUTES,
        storage_class::STORAGE,
        volume_attachment::SPEC,
        admission_policy::MUTATING,
        admission_policy::MUTATING_BINDING,
        webhook::MUTATING,
        admission_policy::VALIDATING,
        admission_policy::VALIDATING_BINDING,
        webhook::VALIDATING,
        crd::SPEC,
        api_service::SPEC,
        component_status::SPEC,
        device::CLAIM,
        device::CLASS,
        device::SLICE,
        device::TEMPLATE,
    ];
    ALL
}

/// A body that is sent to a subresource and never stored: Scale, Binding, Eviction, DeleteOptions.
pub struct RequestSpec {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub decode: fn(&mut Value) -> Result<Vec<UnknownField>, TypeError>,
    pub validate: fn(&Value) -> Vec<FieldError>,
}

/// The request-only kinds: `autoscaling/v1 Scale`, `v1 Binding`, `policy/v1 Eviction`,
/// `DeleteOptions` of whatever version.
pub fn request(api_version: &str, kind: &str) -> Option<&'static RequestSpec> {
    requests::ALL
        .iter()
        .find(|one| one.kind == kind && (one.api_version == api_version || kind == "DeleteOptions"))
}

/// Whether a pod asks for no processor and no memory at all.
pub(crate) fn is_best_effort(pod: &Value) -> bool {
    pod::quality_class(pod) == "BestEffort"
}

/// The name rule of most kinds (and of custom resources): an RFC 1123 subdomain.
pub fn subdomain_name(name: &str) -> Vec<String> {
    names::subdomain(name)
}

/// The typed check of a kind that the table of types knows.
fn check(api_version: &str, kind: &str, value: &mut Value) -> Result<Vec<UnknownField>, TypeError> {
    match Model::get().root(api_version, kind) {
        Some(root) => model::check(root, value),
        None => Ok(Vec::new()),
    }
}

/// The fields that selectors on every kind may name.
fn metadata_fields(object: &Value, namespaced: bool) -> Vec<(Box<str>, Box<str>)> {
    let mut fields = vec![(
        "metadata.name".into(),
        json::text(object, "/metadata/name").into(),
    )];
    if namespaced {
        let namespace = json::text(object, "/metadata/namespace").into();
        fields.push(("metadata.namespace".into(), namespace));
    }
    fields
}

/// Writes to the object itself never touch its status: none at first, then the stored one.
fn status_only(object: &mut Value, old: Option<&Value>) {
    match old {
        Some(old) => json::carry(object, old, "status"),
        None => {
            if let Value::Object(map) = object {
                map.insert("status".to_owned(), serde_json::json!({}));
            }
        }
    }
}
