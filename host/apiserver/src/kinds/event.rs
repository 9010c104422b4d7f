//! Event: something worth telling about an object. Served as `v1` and as `events.k8s.io/v1`, which
//! name the same fields differently; it is stored once, as `v1`.

use serde_json::{Map, Value, json};

use super::{
    Face, KindSpec, check,
    findings::{Findings, IMMUTABLE, structure, text_or_empty},
    json::{at, child, fill, has, int, text},
    metadata, metadata_fields, names,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

/// Bytes of an instance, an action and a reason.
const LONGEST: usize = 128;
const LONGEST_MESSAGE: usize = 1024;
/// What `events.k8s.io/v1` never changes, and the names that its errors have for it. The reason is
/// looked at twice there.
const LASTING: [(&str, &str); 14] = [
    ("involvedObject", "involvedObject"),
    ("reason", "reason"),
    ("message", "message"),
    ("source", "source"),
    ("firstTimestamp", "firstTimestamp"),
    ("lastTimestamp", "lastTimestamp"),
    ("count", "count"),
    ("reason", "reason"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingComponent", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

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

/// The rules of `v1`, of which there are few for the sake of old clients.
fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    if let Some(old) = old {
        errors.extend(metadata::common_update(object, old, true));
    }
    legacy(object, &mut errors);
    if old.is_none() && errors.count() == 0 {
        errors.extend(metadata::generic(object, true, names::path_segment));
    }
    errors.done()
}

/// The rules of `events.k8s.io/v1`, which knows no legacy fields and changes the series alone.
fn validate_new(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    match old {
        None => create(object, &mut errors),
        Some(old) => update(object, old, &mut errors),
    }
    errors.done()
}

/// What holds in both versions.
fn legacy(object: &Value, errors: &mut Findings) {
    let namespace = text(object, "/metadata/namespace");
    let subject = text(object, "/involvedObject/namespace");
    let is_new = has(object, "/eventTime");
    // Events about objects without a namespace live in `default`, and new ones in the system's, too.
    let fits = match subject {
        "" if is_new => matches!(namespace, "default" | "kube-system"),
        "" => namespace == "default",
        _ if is_new => true,
        subject => subject == namespace,
    };
    if !fits {
        let detail = "does not match event.namespace";
        errors.invalid("involvedObject.namespace", subject, detail);
    }
    if !is_new {
        return;
    }
    let controller = text(object, "/reportingComponent");
    let field = "reportingController";
    if controller.is_empty() {
        errors.required(field, "");
    }
    errors.named(field, controller, names::qualified);
    for name in ["reportingInstance", "action", "reason"] {
        let given = text(object, &format!("/{name}"));
        if given.is_empty() {
            errors.required(name, "");
        }
        bounded(name, given, LONGEST, errors);
    }
    let message = text(object, "/message");
    bounded("message", message, LONGEST_MESSAGE, errors);
}

fn bounded(field: &str, text: &str, most: usize, errors: &mut Findings) {
    if text.len() > most {
        let detail = format!("can have at most {most} characters");
        errors.invalid(field, "", &detail);
    }
}

fn create(object: &Value, errors: &mut Findings) {
    legacy(object, errors);
    errors.extend(metadata::whole(object, true, names::subdomain));
    series(object, errors);
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
}

fn update(object: &Value, old: &Value, errors: &mut Findings) {
    errors.extend(metadata::common_update(object, old, true));
    legacy(object, errors);
    errors.extend(metadata::of_kind_update(object, old));
    if at(object, "/series") != at(old, "/series") {
        series(object, errors);
    }
    for (name, field) in LASTING {
        let pointer = format!("/{name}");
        let given = at(object, &pointer);
        if given == at(old, &pointer) {
            continue;
        }
        match name {
            "involvedObject" | "related" => {
                errors.invalid_shown(field, &reference(given), IMMUTABLE);
            }
            "source" => {
                let part = |pointer| text_or_empty(given, pointer);
                let (component, host) = (part("/component"), part("/host"));
                let shown = structure(&[("Component", &component), ("Host", &host)]);
                errors.invalid_shown(field, &shown, IMMUTABLE);
            }
            "count" => errors.invalid(field, int(object, &pointer), IMMUTABLE),
            _ if name.ends_with("Timestamp") || name == "eventTime" => {
                errors.invalid(field, given.clone(), IMMUTABLE);
            }
            _ => errors.invalid(field, text(object, &pointer), IMMUTABLE),
        }
    }
}

/// Something that goes on is told of again no sooner than the second time.
fn series(object: &Value, errors: &mut Findings) {
    if !has(object, "/series") {
        return;
    }
    if int(object, "/series/count") < 2 {
        errors.invalid("series.count", "", "should be at least 2");
    }
    if !has(object, "/series/lastObservedTime") {
        errors.required("series.lastObservedTime", "");
    }
}

/// How the real server shows a reference in an error.
fn reference(of: &Value) -> String {
    if of.is_null() {
        return "null".to_owned();
    }
    let part = |pointer| text_or_empty(of, pointer);
    structure(&[
        ("Kind", &part("/kind")),
        ("Namespace", &part("/namespace")),
        ("Name", &part("/name")),
        ("UID", &part("/uid")),
        ("APIVersion", &part("/apiVersion")),
        ("ResourceVersion", &part("/resourceVersion")),
        ("FieldPath", &part("/fieldPath")),
    ])
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
