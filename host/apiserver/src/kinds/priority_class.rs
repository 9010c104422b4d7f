//! PriorityClass: a name for how much a pod matters.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    KindSpec, check,
    descent::Descent,
    json::{at, child, fill, int, text},
    metadata_fields, names, validate_metadata,
};
use crate::{
    field_error::FieldError,
    object,
    table::{self, Column},
};

/// What users' own classes may have at most.
const HIGHEST: i64 = 1_000_000_000;
const RESERVED: &str = "system-";

/// The classes that always exist, for what the cluster itself cannot do without: their names, their
/// values and what they are for.
const STANDING: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another \
         node if necessary.",
    ),
];

pub(crate) const STORAGE: &str = "priorityclasses.scheduling.k8s.io";

/// The standing classes as new objects, by name.
pub(crate) fn standing() -> impl Iterator<Item = (&'static str, Value)> {
    STANDING.iter().map(|&(name, value, description)| {
        let object = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {
                "name": name, "uid": uuid::Uuid::new_v4().to_string(), "generation": 1,
                "creationTimestamp": object::timestamp(Timestamp::now()),
            },
            "value": value, "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        });
        (name, object)
    })
}

/// Whether the class always exists.
pub(crate) fn stands(name: &str) -> bool {
    STANDING.iter().any(|(one, ..)| *one == name)
}

pub(super) const SPEC: KindSpec = KindSpec {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    list_kind: "PriorityClassList",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    namespaced: false,
    decode: |value| check("scheduling.k8s.io/v1", "PriorityClass", value),
    default: |object| {
        fill(object, "value", 0);
        fill(object, "preemptionPolicy", "PreemptLowerPriority");
    },
    // It says that there is one state, and there never is another.
    identified: |object| child(object, "metadata")["generation"] = 1.into(),
    validate,
    fields: |object| metadata_fields(object, false),
    field_names: &["metadata.name"],
    columns: &[
        Column::name(),
        Column::integer("Value", "How much the pods matter."),
        Column::boolean(
            "Global-Default",
            "Whether it is for pods that name no class.",
        ),
        Column::age(),
        Column::new(
            "PreemptionPolicy",
            "Whether others are evicted for the pods.",
        ),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(int(object, "/value")),
            json!(at(object, "/globalDefault") == &Value::Bool(true)),
            table::age(object, now),
            json!(text(object, "/preemptionPolicy")),
        ]
    },
    ..KindSpec::PLAIN
};

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.extend(validate_metadata(object, old, false, names::subdomain));
    let (name, value) = (text(object, "/metadata/name"), int(object, "/value"));
    if let Some(old) = old {
        if value != int(old, "/value") {
            f.forbidden("value", "may not be changed in an update.");
        }
        f.immutable(object, old, "preemptionPolicy");
        return f.into_errors();
    }
    if name.starts_with(RESERVED) {
        if let Err(why) = is_standing(object) {
            let detail = format!(
                "priority class names with '{RESERVED}' prefix are reserved for system use only. \
                 error: {why}"
            );
            f.forbidden("metadata.name", &detail);
        }
    } else if value > HIGHEST {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        f.forbidden("value", &detail);
    }
    f.one_of(
        object,
        "preemptionPolicy",
        &["PreemptLowerPriority", "Never"],
    );
    f.into_errors()
}

fn is_standing(object: &Value) -> Result<(), String> {
    let name = text(object, "/metadata/name");
    let Some((_, value, _)) = STANDING.iter().find(|(one, ..)| *one == name) else {
        return Err(format!("{name} is not a known system priority class"));
    };
    if int(object, "/value") != *value {
        return Err(format!("value of {name} PriorityClass must be {value}"));
    }
    if at(object, "/globalDefault") == &Value::Bool(true) {
        return Err(format!(
            "globalDefault of {name} PriorityClass must be false"
        ));
    }
    Ok(())
}
