//! PersistentVolume: a piece of storage that outlives the pods that use it.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::Findings,
    json::{at, child, entries, fill, has, list, text},
    metadata::{Look, finalizer, judge},
    names, node_selector, pod,
    resource_name::quantity,
    status_only, volume_source,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

/// Held until no claim is bound to the volume.
const PROTECTION: &str = "kubernetes.io/pv-protection";
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
pub(super) const MODES: [&str; 2] = ["Block", "Filesystem"];
const ACCESS: [(&str, &str); 4] = [
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];

pub(super) const SPEC: KindSpec = KindSpec {
    kind: "PersistentVolume",
    list_kind: "PersistentVolumeList",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    status: true,
    decode: |value| check("v1", "PersistentVolume", value),
    default: |object| {
        let spec = child(object, "spec");
        fill(spec, "persistentVolumeReclaimPolicy", "Retain");
        fill(spec, "volumeMode", "Filesystem");
        if has(spec, "/hostPath") {
            fill(child(spec, "hostPath"), "type", "");
        }
        fill(child(object, "status"), "phase", "Pending");
    },
    prepare: |object, old| {
        status_only(object, old);
        if old.is_none() {
            finalizer(object, PROTECTION);
            let status = child(object, "status");
            fill(status, "phase", "Pending");
            fill(status, "lastPhaseTransitionTime", now());
        }
    },
    prepare_status: |object, old| {
        let same = |pointer: &str| at(object, pointer) == at(old, pointer);
        if !same("/status/phase") && same("/status/lastPhaseTransitionTime") {
            child(object, "status")["lastPhaseTransitionTime"] = now().into();
        }
    },
    validate,
    warnings,
    columns: &[
        Column::name(),
        Column::new("Capacity", "How much fits in."),
        Column::new("Access Modes", "Who may mount it at once."),
        Column::new("Reclaim Policy", "What becomes of it after its claim."),
        Column::new("Status", "Available, Bound, Released or Failed."),
        Column::new("Claim", "The claim that it is bound to."),
        Column::new("StorageClass", "The class that it belongs to."),
        Column::new("VolumeAttributesClass", "The class of its attributes."),
        Column::new("Reason", "Why it is in that state."),
        Column::age(),
        Column::new("VolumeMode", "A file system or a raw device.").wide(),
    ],
    cells: |object, now| {
        let claim = at(object, "/spec/claimRef");
        let claim = if claim.is_null() {
            String::new()
        } else {
            format!("{}/{}", text(claim, "/namespace"), text(claim, "/name"))
        };
        vec![
            json!(text(object, "/metadata/name")),
            json!(amount(at(object, "/spec/capacity/storage"))),
            json!(access_modes(at(object, "/spec/accessModes"))),
            json!(text(object, "/spec/persistentVolumeReclaimPolicy")),
            json!(phase(object)),
            json!(claim),
            json!(class(object)),
            json!(or_unset(at(object, "/spec/volumeAttributesClassName"))),
            json!(text(object, "/status/reason")),
            table::age(object, now),
            json!(or_unset(at(object, "/spec/volumeMode"))),
        ]
    },
    ..KindSpec::CLUSTER
};

fn now() -> String {
    crate::object::timestamp(jiff::Timestamp::now())
}

/// Deletion shows before anything else.
pub(super) fn phase(object: &Value) -> &str {
    if has(object, "/metadata/deletionTimestamp") {
        return "Terminating";
    }
    text(object, "/status/phase")
}

/// The storage class, which old clients name in an annotation.
pub(super) fn class(object: &Value) -> &str {
    let annotated = entries(object, "/metadata/annotations")
        .find(|(key, _)| *key == CLASS_ANNOTATION)
        .and_then(|(_, value)| value.as_str());
    annotated.unwrap_or_else(|| text(object, "/spec/storageClassName"))
}

pub(super) fn amount(value: &Value) -> &str {
    value.as_str().unwrap_or("0")
}

pub(super) fn or_unset(value: &Value) -> &str {
    value.as_str().unwrap_or("<unset>")
}

/// `RWO,ROX`: each mode once, in a fixed order.
pub(super) fn access_modes(modes: &Value) -> String {
    let given = list(modes, "");
    let short: Vec<&str> = ACCESS
        .iter()
        .filter(|(long, _)| given.iter().any(|mode| mode == long))
        .map(|(_, short)| *short)
        .collect();
    short.join(",")
}

/// The rules of `accessModes`, but for how many there must be.
pub(super) fn check_access_modes(modes: &[Value], at_spec: &str, errors: &mut Findings) {
    let field = format!("{at_spec}.accessModes");
    let mut supported: Vec<&str> = ACCESS.iter().map(|(long, _)| *long).collect();
    supported.sort_unstable();
    let (mut alone, mut shared) = (false, false);
    for mode in modes {
        let mode = mode.as_str().unwrap_or_default();
        errors.one_of(&field, mode, &supported);
        if mode == "ReadWriteOncePod" {
            alone = true;
        } else if supported.contains(&mode) {
            shared = true;
        }
    }
    if alone && shared {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.forbidden(field, detail);
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    const LOOKS: &[Look] = &[Look::Whole, Look::Rules, Look::Whole, Look::Rules];
    let spec = at(object, "/spec");
    let mut errors = judge(object, old, false, names::subdomain, LOOKS, || {
        let mut errors = Findings::default();
        let name = text(object, "/metadata/name");
        validate_spec(spec, name, false, "spec", &mut errors);
        errors.done()
    });
    if let Some(old) = old {
        let mut found = Findings::default();
        changes(spec, at(old, "/spec"), &mut found);
        errors.extend(found.done());
    }
    errors
}

/// What a client should be told about a volume that is accepted all the same.
fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    let spec = at(object, "/spec");
    let mut all = Vec::new();
    let notes = at(object, "/metadata/annotations");
    for (key, since, field) in [
        (CLASS_ANNOTATION, "v1.8", "storageClassName"),
        (MOUNT_OPTIONS, "v1.31", "mountOptions"),
    ] {
        if notes.get(key).is_some() {
            all.push(format!(
                "metadata.annotations[{key}]: deprecated since {since}; use \"{field}\" attribute \
                 instead"
            ));
        }
    }
    if text(spec, "/persistentVolumeReclaimPolicy") == "Recycle" {
        let text = "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. \
                    Instead, the recommended approach is to use dynamic provisioning.";
        all.push(text.to_owned());
    }
    let terms = list(spec, "/nodeAffinity/required/nodeSelectorTerms");
    for (index, term) in terms.iter().enumerate() {
        let field = format!("spec.nodeAffinity.required.nodeSelectorTerms[{index}]");
        pod::warnings::term(term, &field, false, &mut all);
    }
    all.extend(pod::warnings::driver(spec, "spec"));
    all
}

const INLINE: &str = "may not be specified in the context of inline volumes";

/// The rules of a volume's spec. An inline one stands in a pod instead of an object of its own: it
/// is a CSI volume, and what ties a volume to claims and nodes is not for it.
pub(super) fn validate_spec(
    spec: &Value,
    name: &str,
    inline: bool,
    field: &str,
    errors: &mut Findings,
) {
    if inline {
        if has(spec, "/claimRef") {
            errors.forbidden(format!("{field}.claimRef"), INLINE);
        }
        if entries(spec, "/capacity").next().is_some() {
            errors.forbidden(format!("{field}.capacity"), INLINE);
        }
        if !has(spec, "/csi") {
            let detail = "has to be specified in the context of inline volumes";
            errors.required(format!("{field}.csi"), detail);
        }
    }
    let modes = list(spec, "/accessModes");
    if modes.is_empty() {
        errors.required(format!("{field}.accessModes"), "");
    }
    check_access_modes(modes, field, errors);
    if !inline {
        capacity(at(spec, "/capacity"), errors);
    }
    let policy = text(spec, "/persistentVolumeReclaimPolicy");
    let at_policy = format!("{field}.persistentVolumeReclaimPolicy");
    if inline && !matches!(policy, "" | "Retain") {
        let detail = "may only be Retain in the context of inline volumes";
        errors.forbidden(&at_policy, detail);
    } else if !policy.is_empty() {
        errors.one_of(&at_policy, policy, &["Delete", "Recycle", "Retain"]);
    }
    let affinity = at(spec, "/nodeAffinity");
    let at_affinity = format!("{field}.nodeAffinity");
    if inline && !affinity.is_null() {
        errors.forbidden(at_affinity, INLINE);
    } else if has(affinity, "/required") {
        let field = format!("{at_affinity}.required");
        node_selector::validate(at(affinity, "/required"), &field, errors);
    } else if !affinity.is_null() {
        let detail = "must specify required node constraints";
        errors.required(format!("{at_affinity}.required"), detail);
    }
    volume_source::validate(spec, name, field, errors);
    if policy == "Recycle" && is_root(text(spec, "/hostPath/path")) {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(&at_policy, detail);
    }
    let class = text(spec, "/storageClassName");
    let at_class = format!("{field}.storageClassName");
    if inline && !class.is_empty() {
        errors.forbidden(at_class, INLINE);
    } else if !class.is_empty() {
        errors.named(&at_class, class, names::subdomain);
    }
    if let Some(mode) = at(spec, "/volumeMode").as_str() {
        let field = format!("{field}.volumeMode");
        if inline && mode != "Filesystem" {
            let detail = "may not specify volumeMode other than Filesystem in the context of \
                          inline volumes";
            errors.forbidden(field, detail);
        } else if !inline {
            errors.one_of(field, mode, &MODES);
        }
    }
    if !inline {
        attributes_class(spec, errors);
    }
}

fn capacity(capacity: &Value, errors: &mut Findings) {
    let given = entries(capacity, "").count();
    if given == 0 {
        errors.required("spec.capacity", "");
    }
    if !has(capacity, "/storage") || given > 1 {
        errors.unsupported("spec.capacity", capacity.clone(), &["storage"]);
    }
    for (name, value) in entries(capacity, "") {
        let field = format!("spec.capacity[{name}]");
        basic(value, &field, errors);
        positive(value, &field, errors);
    }
}

/// An amount that is not below zero, shown in whole units.
pub(super) fn basic(value: &Value, field: &str, errors: &mut Findings) {
    if let Some(amount) = quantity(value).filter(|amount| amount.is_negative()) {
        let whole = i64::try_from(amount.milli() / 1000).unwrap_or(i64::MIN);
        errors.invalid(field, whole, "must be a valid resource quantity");
    }
}

/// An amount above zero.
pub(super) fn positive(value: &Value, field: &str, errors: &mut Findings) {
    if quantity(value).is_some_and(|amount| amount.is_negative() || amount.is_zero()) {
        errors.invalid(field, value.clone(), "must be greater than zero");
    }
}

/// `/`, however it is written.
fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "." | ".."))
}

fn attributes_class(spec: &Value, errors: &mut Findings) {
    let Some(class) = at(spec, "/volumeAttributesClassName").as_str() else {
        return;
    };
    let field = "spec.volumeAttributesClassName";
    if class.is_empty() {
        errors.required(field, "an empty string is disallowed");
    } else {
        errors.named(field, class, names::subdomain);
    }
    if !has(spec, "/csi") {
        let detail = "has to be specified when using volumeAttributesClassName";
        errors.required("spec.csi", detail);
    }
}

fn changes(spec: &Value, old: &Value, errors: &mut Findings) {
    // A secret for growing a volume may be named later.
    let without_secret = |spec: &Value| {
        let mut csi = at(spec, "/csi").clone();
        if !has(old, "/csi/controllerExpandSecretRef") {
            super::json::remove(&mut csi, "controllerExpandSecretRef");
        }
        csi
    };
    let moved = volume_source::names().any(|name| match name {
        "csi" => without_secret(spec) != without_secret(old),
        name => spec.get(name) != old.get(name),
    });
    if moved {
        let source = |spec: &Value| {
            let names = volume_source::names();
            let given = names.filter_map(|name| Some((name.to_owned(), spec.get(name)?.clone())));
            Value::Object(given.collect())
        };
        let detail = format!(
            "spec.persistentvolumesource is immutable after creation\n{}",
            pod::difference(&source(old), &source(spec))
        );
        errors.forbidden("spec.persistentvolumesource", &detail);
    }
    errors.immutable(spec, old, "/volumeMode", "volumeMode");
    if has(old, "/nodeAffinity") && at(spec, "/nodeAffinity") != at(old, "/nodeAffinity") {
        let detail = "field is immutable, except for updating from beta label to GA";
        errors.invalid("nodeAffinity", at(spec, "/nodeAffinity").clone(), detail);
    }
    if has(old, "/volumeAttributesClassName") && !has(spec, "/volumeAttributesClassName") {
        let detail = "update from non-nil value to nil is forbidden";
        errors.forbidden("spec.volumeAttributesClassName", detail);
    }
}
