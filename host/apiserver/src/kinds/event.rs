//! Event: something worth telling about an object. Served as `v1` and as `events.k8s.io/v1`, which
//! name the same fields differently; it is stored once, as `v1`.

use serde_json::{Map, Value, json};

use super::{
    Face, KindSpec, check,
    findings::{Findings, IMMUTABLE},
    json::{at, child, fill, has, int, text},
    metadata_fields, names, validate_metadata,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "",
    version: "v1",
    kind: "Event",
    put_creates: true,
    list_kind: "EventList",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    status: false,
    scale: false,
    generation: false,
    decode: |value| check("v1", "Event", value),
    default: |object| {
        child(object, "involvedObject");
        child(object, "source");
        for name in ["firstTimestamp", "lastTimestamp", "eventTime"] {
            fill(object, name, Value::Null);
        }
        fill(object, "reportingComponent", "");
        fill(object, "reportingInstance", "");
    },
    prepare: |_, _| {},
    validate,
    fields,
    field_names: &[
        "metadata.name",
        "metadata.namespace",
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    columns: &[
        Column::new("Last Seen", "When it happened last."),
        Column::new("Type", "Normal or Warning."),
        Column::new("Reason", "Why, in one word."),
        Column::new("Object", "What it happened to."),
        Column::new("Subobject", "The part of the object.").wide(),
        Column::new("Source", "Who reported it.").wide(),
        Column::new("Message", "What happened."),
        Column::new("First Seen", "When it happened first.").wide(),
        Column::new("Count", "How often it happened.").wide(),
        Column::name().wide(),
    ],
    cells: |object, now| {
        let seen = |names: &[&str]| {
            let given = names
                .iter()
                .find_map(|name| text(object, name).parse().ok());
            match given {
                Some(when) => json!(table::since(when, now)),
                None => json!("<unknown>"),
            }
        };
        let count = match (int(object, "/count"), int(object, "/series/count")) {
            (0, 0) => 1,
            (0, series) => series,
            (count, _) => count,
        };
        vec![
            seen(&[
                "/series/lastObservedTime",
                "/lastTimestamp",
                "/firstTimestamp",
                "/eventTime",
            ]),
            json!(text(object, "/type")),
            json!(text(object, "/reason")),
            json!(subject(object)),
            json!(text(object, "/involvedObject/fieldPath")),
            json!(source(object)),
            json!(text(object, "/message").trim()),
            seen(&["/firstTimestamp", "/eventTime"]),
            json!(count.to_string()),
            json!(text(object, "/metadata/name")),
        ]
    },
    faces: &[Face {
        group: "events.k8s.io",
        version: "v1",
        decode: |value| check("events.k8s.io/v1", "Event", value),
        default: |object| {
            for (name, value) in [
                ("eventTime", Value::Null),
                ("deprecatedFirstTimestamp", Value::Null),
                ("deprecatedLastTimestamp", Value::Null),
            ] {
                fill(object, name, value);
            }
            child(object, "regarding");
            child(object, "deprecatedSource");
        },
        to_stored: |object| *object = from_events_v1(object),
        from_stored: |object| *object = to_events_v1(object),
        fields: &[
            ("metadata.name", "metadata.name"),
            ("metadata.namespace", "metadata.namespace"),
            ("reason", "reason"),
            ("regarding.kind", "involvedObject.kind"),
            ("regarding.namespace", "involvedObject.namespace"),
            ("regarding.name", "involvedObject.name"),
            ("regarding.uid", "involvedObject.uid"),
            ("regarding.apiVersion", "involvedObject.apiVersion"),
            (
                "regarding.resourceVersion",
                "involvedObject.resourceVersion",
            ),
            ("regarding.fieldPath", "involvedObject.fieldPath"),
            ("reportingController", "reportingComponent"),
            ("type", "type"),
        ],
        validate: Some(validate_new),
    }],
    ..KindSpec::PLAIN
};

fn subject(object: &Value) -> String {
    let kind = text(object, "/involvedObject/kind").to_lowercase();
    format!("{kind}/{}", text(object, "/involvedObject/name"))
}

fn source(object: &Value) -> String {
    let component = match text(object, "/source/component") {
        "" => text(object, "/reportingComponent"),
        component => component,
    };
    let host = match text(object, "/source/host") {
        "" => text(object, "/reportingInstance"),
        host => host,
    };
    if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = validate_metadata(object, old, true, names::path_segment);
    let namespace = text(object, "/metadata/namespace");
    let subject = text(object, "/involvedObject/namespace");
    // Events about objects without a namespace live in `default`.
    let fits = subject == namespace || (subject.is_empty() && namespace == "default");
    if !fits {
        let value = at(object, "/involvedObject/namespace");
        let value = if value.is_null() {
            json!("")
        } else {
            value.clone()
        };
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid(
            "involvedObject.namespace",
            &value,
            detail,
        ));
    }
    errors
}

/// The rules of `events.k8s.io/v1`, which knows no legacy fields and changes the series alone.
fn validate_new(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    errors.extend(validate(object, old));
    if let Some(old) = old {
        for (pointer, field) in [
            ("/involvedObject", "involvedObject"),
            ("/reason", "reason"),
            ("/message", "message"),
            ("/source", "source"),
            ("/firstTimestamp", "firstTimestamp"),
            ("/lastTimestamp", "lastTimestamp"),
            ("/count", "count"),
            ("/type", "type"),
            ("/eventTime", "eventTime"),
            ("/action", "action"),
            ("/related", "related"),
            ("/reportingComponent", "reportingController"),
            ("/reportingInstance", "reportingInstance"),
        ] {
            if at(object, pointer) != at(old, pointer) {
                errors.invalid(field, at(object, pointer).clone(), IMMUTABLE);
            }
        }
        return errors.done();
    }
    if !has(object, "/eventTime") {
        errors.required("eventTime", "");
    }
    if !matches!(text(object, "/type"), "Normal" | "Warning") {
        let detail = format!("has invalid value: {}", text(object, "/type"));
        errors.invalid("type", "", &detail);
    }
    for name in ["firstTimestamp", "lastTimestamp"] {
        if has(object, &format!("/{name}")) {
            errors.invalid(name, "", "needs to be unset");
        }
    }
    if int(object, "/count") != 0 {
        errors.invalid("count", "", "needs to be unset");
    }
    let source = at(object, "/source");
    if !text(source, "/component").is_empty() || !text(source, "/host").is_empty() {
        errors.invalid("source", "", "needs to be unset");
    }
    errors.done()
}

fn fields(object: &Value) -> Vec<(Box<str>, Box<str>)> {
    let mut fields = metadata_fields(object, true);
    let mut add = |name: &str, value: &str| fields.push((name.into(), value.into()));
    for name in [
        "kind",
        "namespace",
        "name",
        "uid",
        "apiVersion",
        "resourceVersion",
        "fieldPath",
    ] {
        let value = text(object, &format!("/involvedObject/{name}"));
        add(&format!("involvedObject.{name}"), value);
    }
    add("reason", text(object, "/reason"));
    add("reportingComponent", text(object, "/reportingComponent"));
    add("type", text(object, "/type"));
    let source = match text(object, "/source/component") {
        "" => text(object, "/reportingComponent"),
        component => component,
    };
    add("source", source);
    fields
}

/// Fields of `v1` with their names in `events.k8s.io/v1`; all others are the same in both.
const RENAMED: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];
const OTHER_RENAMED: (&str, &str) = ("reportingComponent", "reportingController");

/// From the stored form to `events.k8s.io/v1`.
pub fn to_events_v1(event: &Value) -> Value {
    renamed(event, "events.k8s.io/v1", |(old, new)| (old, new))
}

/// From `events.k8s.io/v1` to the stored form.
pub fn from_events_v1(event: &Value) -> Value {
    renamed(event, "v1", |(old, new)| (new, old))
}

fn renamed(
    event: &Value,
    version: &str,
    way: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> Value {
    let mut out = Map::new();
    for (name, value) in event.as_object().into_iter().flatten() {
        let pair = RENAMED
            .into_iter()
            .chain([OTHER_RENAMED])
            .map(way)
            .find(|(from, _)| from == name);
        out.insert(
            pair.map_or(name.as_str(), |(_, to)| to).to_owned(),
            value.clone(),
        );
    }
    out.insert("apiVersion".to_owned(), json!(version));
    if has(event, "/kind") {
        out.insert("kind".to_owned(), json!("Event"));
    }
    Value::Object(out)
}
