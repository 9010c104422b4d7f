//! `resource.k8s.io`: devices that pods can ask for. What there is stands in ResourceSlices, kinds of
//! devices in DeviceClasses, and who wants what in ResourceClaims and their templates.

mod claim;
mod counts;
mod parts;
mod slice;
mod status;

use serde_json::{Value, json};

use self::parts::{configuration, selectors};
use super::{
    KindSpec, check,
    findings::Findings,
    json::{at, has, list, text},
    metadata, metadata_fields, names, resource_name, validate_metadata,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

const GROUP: &str = "resource.k8s.io";
const VERSION: &str = "resource.k8s.io/v1";

pub(super) const CLASS: KindSpec = KindSpec {
    group: GROUP,
    kind: "DeviceClass",
    list_kind: "DeviceClassList",
    plural: "deviceclasses",
    singular: "deviceclass",
    generation: true,
    decode: |value| check(VERSION, "DeviceClass", value),
    validate: validate_class,
    ..KindSpec::CLUSTER
};

pub(super) const CLAIM: KindSpec = KindSpec {
    group: GROUP,
    kind: "ResourceClaim",
    list_kind: "ResourceClaimList",
    plural: "resourceclaims",
    singular: "resourceclaim",
    status: true,
    decode: |value| check(VERSION, "ResourceClaim", value),
    default: |object| {
        if let Some(spec) = object.get_mut("spec") {
            claim::default(spec);
        }
    },
    prepare: super::status_only,
    validate: |object, old| {
        let mut errors = Findings::default();
        errors.extend(validate_metadata(object, old, true, names::subdomain));
        match old {
            Some(old) => errors.immutable(object, old, "/spec", "spec"),
            None => claim::validate(at(object, "/spec"), "spec", &mut errors),
        }
        errors.done()
    },
    status_keeps_metadata: true,
    prepare_status: status::prepare,
    validate_status: status::validate,
    columns: &[
        Column::name(),
        Column::new(
            "State",
            "How far the claim is: pending, allocated, reserved.",
        ),
        Column::age(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(status::state(object)),
            table::age(object, now),
        ]
    },
    ..KindSpec::NAMESPACED
};

pub(super) const TEMPLATE: KindSpec = KindSpec {
    group: GROUP,
    kind: "ResourceClaimTemplate",
    list_kind: "ResourceClaimTemplateList",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    decode: |value| check(VERSION, "ResourceClaimTemplate", value),
    default: |object| {
        if let Some(spec) = object.pointer_mut("/spec/spec") {
            claim::default(spec);
        }
    },
    validate: |object, old| {
        let mut errors = Findings::default();
        errors.extend(validate_metadata(object, old, true, names::subdomain));
        if let Some(old) = old {
            errors.immutable(object, old, "/spec", "spec");
            return errors.done();
        }
        let marks = at(object, "/spec/metadata");
        errors.extend(metadata::labels(
            at(marks, "/labels"),
            "spec.metadata.labels",
        ));
        errors.extend(metadata::annotations(
            at(object, "/spec"),
            "spec.metadata.annotations",
        ));
        claim::validate(at(object, "/spec/spec"), "spec.spec", &mut errors);
        errors.done()
    },
    ..KindSpec::NAMESPACED
};

pub(super) const SLICE: KindSpec = KindSpec {
    group: GROUP,
    kind: "ResourceSlice",
    list_kind: "ResourceSliceList",
    plural: "resourceslices",
    singular: "resourceslice",
    generation: true,
    decode: |value| check(VERSION, "ResourceSlice", value),
    default: slice::default,
    prepare: |object, _| slice::drop_unserved(object),
    validate: slice::validate,
    fields: |object| {
        let mut fields = metadata_fields(object, false);
        for name in ["nodeName", "driver"] {
            let value = text(object, &format!("/spec/{name}"));
            fields.push((format!("spec.{name}").into(), value.into()));
        }
        fields
    },
    field_names: &["metadata.name", "spec.nodeName", "spec.driver"],
    columns: &[
        Column::name(),
        Column::new("Node", "The node that has the devices."),
        Column::new("Driver", "Who manages them."),
        Column::new("Pool", "The pool that they are part of."),
        Column::age(),
    ],
    cells: |object, now| {
        let node = match text(object, "/spec/nodeName") {
            "" => "<unset>",
            name => name,
        };
        vec![
            json!(text(object, "/metadata/name")),
            json!(node),
            json!(text(object, "/spec/driver")),
            json!(text(object, "/spec/pool/name")),
            table::age(object, now),
        ]
    },
    ..KindSpec::CLUSTER
};

fn validate_class(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    errors.extend(validate_metadata(object, old, false, names::subdomain));
    // What was stored was right when it was stored.
    let is_stored = |name: &str| {
        let pointer = format!("/spec/{name}");
        old.is_some_and(|old| at(old, &pointer) == at(object, &pointer))
    };
    let spec = at(object, "/spec");
    selectors(spec, "spec", is_stored("selectors"), &mut errors);
    let stored = is_stored("config");
    counts::bounded(
        list(spec, "/config"),
        counts::CONFIGURATIONS,
        "spec.config",
        &mut errors,
        |one, field, errors| {
            configuration(one, field, stored, errors);
        },
    );
    if has(spec, "/extendedResourceName") {
        let name = text(spec, "/extendedResourceName");
        if !resource_name::is_extended(name) {
            let detail = "must be a valid extended resource name";
            errors.invalid("spec.extendedResourceName", name, detail);
        }
    }
    errors.done()
}
