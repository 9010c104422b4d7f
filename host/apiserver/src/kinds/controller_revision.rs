//! ControllerRevision: a state that a controller can go back to.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    descent::Descent,
    json::{at, fill, has, int, list, text},
    metadata::{Look, judge},
    names,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "apps",
    version: "v1",
    kind: "ControllerRevision",
    list_kind: "ControllerRevisionList",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    decode: |value| check("apps/v1", "ControllerRevision", value),
    default: |object| fill(object, "revision", 0),
    validate,
    columns: &[
        Column::name(),
        Column::new("Controller", "Whose state it is."),
        Column::new("Revision", "Which of its states."),
        Column::age(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(controller(object)),
            json!(int(object, "/revision")),
            table::age(object, now),
        ]
    },
    ..KindSpec::PLAIN
};

/// `statefulset.apps/web`.
fn controller(object: &Value) -> String {
    let owners = list(object, "/metadata/ownerReferences");
    let owner = owners
        .iter()
        .find(|owner| at(owner, "/controller") == &Value::Bool(true));
    let Some(owner) = owner else {
        return "<none>".to_owned();
    };
    let kind = text(owner, "/kind").to_lowercase();
    let name = text(owner, "/name");
    match text(owner, "/apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    const LOOKS: &[Look] = &[Look::Changes, Look::Whole, Look::Rules];
    let mut f = Descent::at("");
    f.extend(judge(object, old, true, names::subdomain, LOOKS, || {
        let mut f = Descent::at("");
        if !has(object, "/data") {
            f.required("data", "data is mandatory");
        }
        f.not_negative(object, "revision");
        f.into_errors()
    }));
    if let Some(old) = old {
        f.immutable(object, old, "data");
    }
    f.into_errors()
}
