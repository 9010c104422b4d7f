//! PodDisruptionBudget: how many of a set of pods may be evicted at a time.

use serde_json::{Value, json};

use super::{
    KindSpec, check, conditions,
    descent::Descent,
    findings::{Findings, Shape},
    json::{at, child, fill, has, int, list, text},
    metadata, names, status_only, workload,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

const COUNTS: [&str; 4] = [
    "disruptionsAllowed",
    "currentHealthy",
    "desiredHealthy",
    "expectedPods",
];

pub(super) const SPEC: KindSpec = KindSpec {
    group: "policy",
    kind: "PodDisruptionBudget",
    needs_revision: true,
    list_kind: "PodDisruptionBudgetList",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    status: true,
    generation: true,
    decode: |value| check("policy/v1", "PodDisruptionBudget", value),
    default: |object| {
        child(object, "spec");
        let status = child(object, "status");
        for name in COUNTS {
            fill(status, name, 0);
        }
    },
    prepare: status_only,
    validate,
    validate_status,
    columns: &[
        Column::name(),
        Column::new(
            "Min Available",
            "Pods that must stay, as a number or a share.",
        ),
        Column::new(
            "Max Unavailable",
            "Pods that may go, as a number or a share.",
        ),
        Column::integer(
            "Allowed Disruptions",
            "Evictions that would be allowed now.",
        ),
        Column::age(),
    ],
    cells: |object, now| {
        let share = |pointer: &str| match at(object, pointer) {
            Value::Null => json!("N/A"),
            Value::String(text) => json!(text),
            number => json!(number.to_string()),
        };
        vec![
            json!(text(object, "/metadata/name")),
            share("/spec/minAvailable"),
            share("/spec/maxUnavailable"),
            json!(int(object, "/status/disruptionsAllowed")),
            table::age(object, now),
        ]
    },
    ..KindSpec::PLAIN
};

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let found = rules(object);
    match old {
        Some(old) => {
            let mut errors = metadata::common_update(object, old, true);
            errors.extend(found);
            errors
        }
        // Kubernetes does not look at the metadata before the rest is right, and any name that fits
        // into a path will do.
        None if found.is_empty() => metadata::generic(object, true, names::path_segment),
        None => found,
    }
}

/// How a spec is printed.
const SHOWN: Shape = Shape::Fields(&[
    ("minAvailable", Shape::Plain("null")),
    ("selector", Shape::Plain("null")),
    ("maxUnavailable", Shape::Plain("null")),
    ("unhealthyPodEvictionPolicy", Shape::Plain("null")),
]);

fn rules(object: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    let spec = at(object, "/spec");
    f.within("spec", |f| {
        let both = ["minAvailable", "maxUnavailable"];
        if both.iter().all(|name| has(spec, &format!("/{name}"))) {
            let shown = SHOWN.show(spec);
            let detail = "minAvailable and maxUnavailable cannot be both set";
            f.push(FieldError::invalid_shown("spec", &shown, detail));
        }
        for name in both {
            workload::share(f, spec, name);
            workload::at_most_all(f, spec, name);
        }
        f.selector(spec, "selector");
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        f.one_of_if_given(spec, "unhealthyPodEvictionPolicy", &policies);
    });
    f.into_errors()
}

fn validate_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.extend(metadata::validate_update(object, old));
    let mut told = Findings::default();
    let all = list(object, "/status/conditions");
    conditions::validate(all, "status.conditions", &mut told);
    f.extend(told.done());
    f.within("status", |f| {
        for name in COUNTS {
            f.not_negative(at(object, "/status"), name);
        }
    });
    f.into_errors()
}
