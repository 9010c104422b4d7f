//! StorageClass and VolumeAttributesClass: sorts of storage that claims ask for by name.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::Findings,
    json::{at, entries, fill, list, text},
    metadata::{ANEW_THEN_CHANGES, judge},
    names,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

/// Keys and values of all parameters together.
const PARAMETERS_SIZE: usize = 256 * 1024;
const PARAMETERS: usize = 512;
const DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const MODES: [&str; 2] = ["Immediate", "WaitForFirstConsumer"];

pub(super) const STORAGE: KindSpec = KindSpec {
    group: "storage.k8s.io",
    kind: "StorageClass",
    list_kind: "StorageClassList",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    decode: |value| check("storage.k8s.io/v1", "StorageClass", value),
    default: |object| {
        fill(object, "provisioner", "");
        fill(object, "reclaimPolicy", "Delete");
        fill(object, "volumeBindingMode", "Immediate");
    },
    validate,
    warnings,
    columns: &[
        Column::name(),
        Column::new("Provisioner", "Who makes volumes of the class."),
        Column::new("ReclaimPolicy", "What becomes of a volume after its claim."),
        Column::new("VolumeBindingMode", "When a volume is made and bound."),
        Column::new("AllowVolumeExpansion", "Whether claims may grow."),
        Column::age(),
    ],
    cells: |object, now| {
        let or = |pointer: &str, otherwise: &str| match text(object, pointer) {
            "" => json!(otherwise),
            given => json!(given),
        };
        let name = text(object, "/metadata/name");
        let default = entries(object, "/metadata/annotations")
            .any(|(key, value)| DEFAULT.contains(&key.as_str()) && value == "true");
        let name = if default {
            format!("{name} (default)")
        } else {
            name.to_owned()
        };
        vec![
            json!(name),
            json!(text(object, "/provisioner")),
            or("/reclaimPolicy", "Delete"),
            or("/volumeBindingMode", "Immediate"),
            json!(at(object, "/allowVolumeExpansion") == true),
            table::age(object, now),
        ]
    },
    ..KindSpec::CLUSTER
};

pub(super) const ATTRIBUTES: KindSpec = KindSpec {
    group: "storage.k8s.io",
    kind: "VolumeAttributesClass",
    list_kind: "VolumeAttributesClassList",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    short_names: &["vac"],
    decode: |value| check("storage.k8s.io/v1", "VolumeAttributesClass", value),
    default: |object| fill(object, "driverName", ""),
    validate: |object, old| {
        let rules = || {
            let mut errors = Findings::default();
            provisioner(object, "driverName", &mut errors);
            parameters(object, &mut errors);
            if entries(object, "/parameters").next().is_none() {
                let detail = "must contain at least one key/value pair";
                errors.required("parameters", detail);
            }
            errors.done()
        };
        let looks = ANEW_THEN_CHANGES;
        let mut errors = Findings::default();
        errors.extend(judge(object, old, false, names::subdomain, looks, rules));
        for name in ["driverName", "parameters"] {
            unchanged(object, old, name, &mut errors);
        }
        errors.done()
    },
    columns: &[
        Column::name(),
        Column::new("DriverName", "Whose volumes it is for."),
        Column::age(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/driverName")),
            table::age(object, now),
        ]
    },
    ..KindSpec::CLUSTER
};

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let looks = ANEW_THEN_CHANGES;
    let judged = judge(object, old, false, names::subdomain, looks, || {
        rules(object)
    });
    errors.extend(judged);
    for name in ["parameters", "provisioner", "reclaimPolicy"] {
        unchanged(object, old, name, &mut errors);
    }
    if let Some(old) = old {
        let field = "volumeBindingMode";
        errors.immutable(object, old, "/volumeBindingMode", field);
    }
    errors.done()
}

/// Old labels of nodes.
fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    let mut all = Vec::new();
    for (term, one) in list(object, "/allowedTopologies").iter().enumerate() {
        let expressions = list(one, "/matchLabelExpressions").iter();
        for (index, one) in expressions.enumerate() {
            if let Some(why) = super::pod::warnings::deprecated(text(one, "/key")) {
                all.push(format!(
                    "allowedTopologies[{term}].matchLabelExpressions[{index}].key: {why}"
                ));
            }
        }
    }
    all
}

fn rules(object: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    provisioner(object, "provisioner", &mut errors);
    parameters(object, &mut errors);
    let policy = text(object, "/reclaimPolicy");
    if !policy.is_empty() {
        errors.one_of("reclaimPolicy", policy, &["Delete", "Retain"]);
    }
    let mode = text(object, "/volumeBindingMode");
    errors.one_of("volumeBindingMode", mode, &MODES);
    topologies(list(object, "/allowedTopologies"), &mut errors);
    errors.done()
}

fn unchanged(object: &Value, old: Option<&Value>, name: &str, errors: &mut Findings) {
    if old.is_some_and(|old| object.get(name) != old.get(name)) {
        errors.forbidden(name, &format!("updates to {name} are forbidden."));
    }
}

fn provisioner(object: &Value, field: &str, errors: &mut Findings) {
    let name = text(object, &format!("/{field}"));
    if name.is_empty() {
        return errors.required(field, "");
    }
    // Capitals are taken, and shown as they are.
    for detail in names::qualified(&name.to_lowercase()) {
        errors.invalid(field, name, &detail);
    }
}

fn parameters(object: &Value, errors: &mut Findings) {
    let field = "parameters";
    if entries(object, "/parameters").count() > PARAMETERS {
        return errors.too_long(field, PARAMETERS);
    }
    let mut size = 0;
    for (key, value) in entries(object, "/parameters") {
        if key.is_empty() {
            errors.invalid(field, key.as_str(), "field can not be empty.");
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > PARAMETERS_SIZE {
        errors.too_long(field, PARAMETERS_SIZE);
    }
}

fn topologies(terms: &[Value], errors: &mut Findings) {
    let mut seen: Vec<Vec<(&str, Vec<&str>)>> = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let field = format!("allowedTopologies[{index}].matchLabelExpressions");
        let mut expressions: Vec<(&str, Vec<&str>)> = Vec::new();
        for (index, one) in list(term, "/matchLabelExpressions").iter().enumerate() {
            let field = format!("{field}[{index}]");
            let (key, values) = (text(one, "/key"), list(one, "/values"));
            if values.is_empty() {
                errors.required(format!("{field}.values"), "");
            }
            let mut set = HashSet::new();
            for (index, value) in values.iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                if !set.insert(value) {
                    errors.duplicate(format!("{field}.values[{index}]"), value);
                }
            }
            errors.named(&format!("{field}.key"), key, names::qualified);
            if expressions.iter().any(|(known, _)| *known == key) {
                errors.duplicate(format!("{field}.key"), key);
            }
            let mut values: Vec<&str> = set.into_iter().collect();
            values.sort_unstable();
            expressions.push((key, values));
        }
        expressions.sort();
        if seen.contains(&expressions) {
            errors.duplicate(field, "");
        }
        seen.push(expressions);
    }
}
