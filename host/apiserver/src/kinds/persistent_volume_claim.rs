//! PersistentVolumeClaim: a pod's wish for storage, bound to a volume that fulfils it.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::Findings,
    json::{at, child, entries, fill, has, list, remove, text},
    metadata::{Look, finalizer, judge},
    names,
    persistent_volume::{
        CLASS_ANNOTATION, MODES, access_modes, amount, basic, check_access_modes, class, or_unset,
        phase, positive,
    },
    resource_name::{self, quantity},
    status_only,
    workload::validate_selector,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

/// Held until no pod uses the claim.
const PROTECTION: &str = "kubernetes.io/pvc-protection";
const SNAPSHOTS: &str = "snapshot.storage.k8s.io";

pub(super) const SPEC: KindSpec = KindSpec {
    kind: "PersistentVolumeClaim",
    list_kind: "PersistentVolumeClaimList",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    status: true,
    decode: |value| check("v1", "PersistentVolumeClaim", value),
    default: |object| {
        let spec = child(object, "spec");
        fill(spec, "volumeMode", "Filesystem");
        child(spec, "resources");
        fill(child(object, "status"), "phase", "Pending");
    },
    prepare,
    validate,
    warnings,
    validate_status,
    columns: &[
        Column::name(),
        Column::new("Status", "Pending, Bound or Lost."),
        Column::new("Volume", "The volume that it is bound to."),
        Column::new("Capacity", "How much that volume holds."),
        Column::new("Access Modes", "Who may mount it at once."),
        Column::new("StorageClass", "The class that was asked for."),
        Column::new("VolumeAttributesClass", "The class of its attributes."),
        Column::age(),
        Column::new("VolumeMode", "A file system or a raw device.").wide(),
    ],
    cells: |object, now| {
        let volume = text(object, "/spec/volumeName");
        let (capacity, modes) = if volume.is_empty() {
            ("", String::new())
        } else {
            (
                amount(at(object, "/status/capacity/storage")),
                access_modes(at(object, "/status/accessModes")),
            )
        };
        vec![
            json!(text(object, "/metadata/name")),
            json!(phase(object)),
            json!(volume),
            json!(capacity),
            json!(modes),
            json!(class(object)),
            json!(or_unset(at(object, "/spec/volumeAttributesClassName"))),
            table::age(object, now),
            json!(or_unset(at(object, "/spec/volumeMode"))),
        ]
    },
    ..KindSpec::NAMESPACED
};

fn prepare(object: &mut Value, old: Option<&Value>) {
    status_only(object, old);
    if old.is_none() {
        child(object, "status")["phase"] = "Pending".into();
        finalizer(object, PROTECTION);
    }
    let spec = child(object, "spec");
    let source = at(spec, "/dataSource");
    // Other sources than these two have their own field only.
    let old_style = match (text(source, "/kind"), text(source, "/apiGroup")) {
        ("PersistentVolumeClaim", "") => true,
        ("VolumeSnapshot", group) => group == SNAPSHOTS,
        _ => false,
    };
    let had_one = old.is_some_and(|old| has(old, "/spec/dataSource"));
    if !source.is_null() && !old_style && !had_one {
        remove(spec, "dataSource");
    }
    // Both fields say the same; either may be left out.
    match (has(spec, "/dataSource"), has(spec, "/dataSourceRef")) {
        (true, false) => {
            let given = at(spec, "/dataSource").clone();
            fill(spec, "dataSourceRef", given);
        }
        (false, true) if text(spec, "/dataSourceRef/namespace").is_empty() => {
            let given = at(spec, "/dataSourceRef").clone();
            let plain = matches!(
                text(&given, "/kind"),
                "PersistentVolumeClaim" | "VolumeSnapshot"
            );
            if plain {
                fill(spec, "dataSource", given);
            }
        }
        _ => {}
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    const LOOKS: &[Look] = &[
        Look::Whole,
        Look::Rules,
        Look::Changes,
        Look::Whole,
        Look::Rules,
    ];
    let mut errors = judge(object, old, true, names::subdomain, LOOKS, || {
        let mut errors = Findings::default();
        let old_spec = old.map(|old| at(old, "/spec"));
        validate_spec(at(object, "/spec"), old_spec, &mut errors);
        errors.done()
    });
    if let Some(old) = old {
        let mut found = Findings::default();
        changes(object, old, &mut found);
        errors.extend(found.done());
    }
    errors
}

/// What a client should be told about a claim that is accepted all the same.
fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    let annotated =
        entries(object, "/metadata/annotations").any(|(key, _)| key == CLASS_ANNOTATION);
    let note = annotated.then(|| {
        format!(
            "metadata.annotations[{CLASS_ANNOTATION}]: deprecated since v1.8; use \
             \"storageClassName\" attribute instead"
        )
    });
    let spec = spec_warnings(at(object, "/spec"), "spec");
    note.into_iter().chain(spec).collect()
}

/// The same of a claim's spec at `field`.
pub(super) fn spec_warnings(spec: &Value, field: &str) -> Vec<String> {
    let mut all = Vec::new();
    for which in ["requests", "limits"] {
        let value = at(spec, &format!("/resources/{which}/storage"));
        let field = format!("{field}.resources.{which}[storage]");
        super::pod::warnings::fraction(value, &field, &mut all);
    }
    all
}

pub(super) fn validate_spec(spec: &Value, old: Option<&Value>, errors: &mut Findings) {
    let modes = list(spec, "/accessModes");
    if modes.is_empty() {
        let detail = "at least 1 access mode is required";
        errors.required("spec.accessModes", detail);
    }
    if has(spec, "/selector") {
        errors.extend(validate_selector(at(spec, "/selector"), "spec.selector"));
    }
    check_access_modes(modes, "spec", errors);
    let storage = at(spec, "/resources/requests/storage");
    if storage.is_null() {
        errors.required("spec.resources[storage]", "");
    } else {
        positive(storage, "spec.resources[storage]", errors);
    }
    let class = text(spec, "/storageClassName");
    if !class.is_empty() {
        errors.named("spec.storageClassName", class, names::subdomain);
    }
    if let Some(mode) = at(spec, "/volumeMode").as_str() {
        errors.one_of("spec.volumeMode", mode, &MODES);
    }
    let lenient = old
        .is_some_and(|old| has(old, "/dataSource/apiGroup") || has(old, "/dataSourceRef/apiGroup"));
    for name in ["dataSource", "dataSourceRef"] {
        let source = at(spec, &format!("/{name}"));
        if !source.is_null() {
            data_source(source, &format!("spec.{name}"), lenient, errors);
        }
    }
    data_sources(spec, errors);
    let class = text(spec, "/volumeAttributesClassName");
    if !class.is_empty() {
        errors.named("spec.volumeAttributesClassName", class, names::subdomain);
    }
}

fn data_source(source: &Value, field: &str, lenient: bool, errors: &mut Findings) {
    let (kind, group) = (text(source, "/kind"), text(source, "/apiGroup"));
    for name in ["name", "kind"] {
        if text(source, &format!("/{name}")).is_empty() {
            errors.required(format!("{field}.{name}"), "");
        }
    }
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.invalid(field, kind, detail);
    }
    if !group.is_empty() && !lenient {
        errors.named(&format!("{field}.apiGroup"), group, names::subdomain);
    }
    let namespace = text(source, "/namespace");
    if !namespace.is_empty() {
        errors.named(&format!("{field}.namespace"), namespace, names::label);
    }
}

fn data_sources(spec: &Value, errors: &mut Findings) {
    let (old_style, source) = (at(spec, "/dataSource"), at(spec, "/dataSourceRef"));
    if old_style.is_null() || source.is_null() {
        return;
    }
    let detail = if !text(source, "/namespace").is_empty() {
        "may not be specified when dataSourceRef.namespace is specified"
    } else if ["/apiGroup", "/kind", "/name"]
        .iter()
        .any(|part| at(old_style, part) != at(source, part))
    {
        "must match dataSourceRef"
    } else {
        return;
    };
    errors.invalid("spec", json!({}), detail);
}

fn changes(object: &Value, old: &Value, errors: &mut Findings) {
    let (spec, stored) = (at(object, "/spec"), at(old, "/spec"));
    let (mut new, mut same) = (spec.clone(), stored.clone());
    // A volume is named once; a class may be named where none was.
    if text(stored, "/volumeName").is_empty() {
        let name = at(spec, "/volumeName").clone();
        same["volumeName"] = name;
    }
    let annotation = |object: &Value| {
        entries(object, "/metadata/annotations")
            .find(|(key, _)| *key == CLASS_ANNOTATION)
            .map(|(_, value)| value.clone())
            .unwrap_or_default()
    };
    let (annotated, before) = (annotation(object), annotation(old));
    let given = at(spec, "/storageClassName");
    let first = !has(stored, "/storageClassName") && !given.is_null();
    let upgraded = first && !before.is_null() && *given == before;
    if !upgraded && annotated != before {
        errors.invalid(
            format!("metadata.annotations.{CLASS_ANNOTATION}"),
            annotated.as_str().unwrap_or_default(),
            super::findings::IMMUTABLE,
        );
    }
    if first && (before.is_null() || upgraded) {
        remove(&mut new, "storageClassName");
    }
    if text(object, "/status/phase") == "Bound" {
        for spec in [&mut new, &mut same] {
            if let Some(requests) = spec.pointer_mut("/resources/requests") {
                remove(requests, "storage");
            }
        }
        if has(spec, "/volumeAttributesClassName") {
            remove(&mut new, "volumeAttributesClassName");
            remove(&mut same, "volumeAttributesClassName");
        }
    }
    for spec in [&mut new, &mut same] {
        if !has(spec, "/volumeName") {
            remove(spec, "volumeName");
        }
    }
    if new != same {
        let detail = format!(
            "spec is immutable after creation except resources.requests and \
             volumeAttributesClassName for bound claims\n{}",
            super::pod::difference(&same, &new)
        );
        errors.forbidden("spec", &detail);
    }
    size(spec, stored, at(old, "/status/capacity/storage"), errors);
    errors.immutable(spec, stored, "/volumeMode", "volumeMode");
    if has(stored, "/volumeAttributesClassName") {
        let field = "spec.volumeAttributesClassName";
        match at(spec, "/volumeAttributesClassName").as_str() {
            None => errors.forbidden(field, "update from non-nil value to nil is forbidden"),
            Some("") if !text(stored, "/volumeAttributesClassName").is_empty() => {
                let detail = "update from non-nil value to an empty string is forbidden";
                errors.forbidden(field, detail);
            }
            Some(_) => {}
        }
    }
}

/// A claim shrinks only down to what it really has, to give up on a growth that failed.
fn size(spec: &Value, stored: &Value, real: &Value, errors: &mut Findings) {
    let pointer = "/resources/requests/storage";
    let (Some(new), Some(before)) = (quantity(at(spec, pointer)), quantity(at(stored, pointer)))
    else {
        return;
    };
    let shrinks = new < before;
    if shrinks && quantity(real).is_some_and(|real| new <= real) {
        let detail = "field can not be less than status.capacity";
        errors.forbidden("spec.resources.requests.storage", detail);
    }
}

fn validate_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    errors.extend(super::metadata::validate_update(object, old));
    for (name, value) in entries(object, "/status/capacity") {
        basic(value, &format!("status.capacity[{name}]"), &mut errors);
    }
    let states = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    for (name, state) in entries(object, "/status/allocatedResourceStatuses") {
        let field = "status.allocatedResourceStatus";
        resource_key(name, field, &mut errors);
        if !states.iter().any(|known| state == known) {
            errors.unsupported(field, name.as_str(), &states);
        }
    }
    for (name, value) in entries(object, "/status/allocatedResources") {
        let before = errors.count();
        resource_key(name, "status.allocatedResources", &mut errors);
        if errors.count() == before {
            let field = format!("status.allocatedResources[{name}]");
            basic(value, &field, &mut errors);
        }
    }
    errors.done()
}

fn resource_key(name: &str, field: &str, errors: &mut Findings) {
    let sentences = names::qualified(name);
    for detail in &sentences {
        errors.invalid(field, name, detail);
    }
    if sentences.is_empty() && resource_name::is_native(name) && name != "storage" {
        errors.unsupported(field, name, &["storage"]);
    }
}
