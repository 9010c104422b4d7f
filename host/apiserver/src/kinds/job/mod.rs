//! Job: pods that run to an end.

mod indexes;
mod rules;
mod status;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{at, child, entries, fill, has, int, items, list, remove, text},
    metadata_fields, pod, status_only, workload,
};
use crate::table::{self, Column};

pub(super) use self::rules::{spec_warnings, template};

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
/// The label that a generated selector looks at.
const SELECTED: &str = UID_LABELS[1];

pub(super) const SPEC: KindSpec = KindSpec {
    group: "batch",
    kind: "Job",
    list_kind: "JobList",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    status: true,
    generation: true,
    decode: |value| check("batch/v1", "Job", value),
    default,
    prepare: status_only,
    identified,
    validate: rules::validate,
    validate_status: status::validate,
    warnings: |object, old| {
        let mut all = match old {
            None => pod::warnings::name(object, "Pod names and hostnames"),
            Some(_) => None,
        }
        .into_iter()
        .collect::<Vec<_>>();
        let generation = |object: &Value| at(object, "/metadata/generation").clone();
        if old.is_none_or(|old| generation(old) != generation(object)) {
            all.extend(spec_warnings(at(object, "/spec"), "spec"));
        }
        all
    },
    fields: |object| {
        let mut fields = metadata_fields(object, true);
        let succeeded = int(object, "/status/succeeded").to_string();
        fields.push(("status.successful".into(), succeeded.into()));
        fields
    },
    field_names: &["metadata.name", "metadata.namespace", "status.successful"],
    columns: &[
        Column::name(),
        Column::new("Status", "How far it is."),
        Column::new("Completions", "Pods that succeeded, of those wanted."),
        Column::new("Duration", "How long it has run, or ran."),
        Column::age(),
        Column::new("Containers", "Names of the template's containers.").wide(),
        Column::new("Images", "Images of the template's containers.").wide(),
        Column::new("Selector", "Which pods belong to the job.").wide(),
    ],
    cells,
    ..KindSpec::PLAIN
};

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    if !has(spec, "/completions") && !has(spec, "/parallelism") {
        fill(spec, "completions", 1);
    }
    fill(spec, "parallelism", 1);
    let per_index = has(spec, "/backoffLimitPerIndex");
    fill(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    fill(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    fill(spec, "manualSelector", false);
    let policy = if has(spec, "/podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    fill(spec, "podReplacementPolicy", policy);
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in items(policy, "rules") {
            for pattern in items(rule, "onPodConditions") {
                fill(pattern, "status", "True");
            }
        }
    }
    pod::default_template(child(spec, "template"));
    // A new job gets its labels once those of its template are complete.
    if has(object, "/metadata/uid") {
        labels_of_template(object);
    }
}

/// A job without labels has those of its pods.
fn labels_of_template(object: &mut Value) {
    let labels = at(object, "/spec/template/metadata/labels").clone();
    if !labels.is_null() && entries(object, "/metadata/labels").next().is_none() {
        child(object, "metadata")["labels"] = labels;
    }
}

/// Unless the user chooses, pods are told apart by the uid of their job.
fn identified(object: &mut Value) {
    let manual = at(object, "/spec/manualSelector") == &Value::Bool(true);
    let labelled = has(object, "/spec/template/metadata/labels");
    if !manual {
        let name = text(object, "/metadata/name").to_owned();
        let uid = text(object, "/metadata/uid").to_owned();
        let spec = child(object, "spec");
        let labels = child(child(child(spec, "template"), "metadata"), "labels");
        for label in NAME_LABELS {
            fill(labels, label, name.as_str());
        }
        for label in UID_LABELS {
            fill(labels, label, uid.as_str());
        }
        let matched = child(child(spec, "selector"), "matchLabels");
        fill(matched, SELECTED, uid.as_str());
    }
    if labelled {
        labels_of_template(object);
    }
    let metadata = child(object, "metadata");
    if entries(metadata, "/labels").next().is_none() {
        remove(metadata, "labels");
    }
}

fn condition(object: &Value, kind: &str) -> bool {
    list(object, "/status/conditions")
        .iter()
        .any(|one| text(one, "/type") == kind && text(one, "/status") == "True")
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = workload::containers(object, "/spec/template");
    let succeeded = int(object, "/status/succeeded");
    let parallelism = int(object, "/spec/parallelism");
    let completions = match at(object, "/spec/completions").as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let time = |name: &str| text(object, &format!("/status/{name}")).parse().ok();
    let duration = match (time("startTime"), time("completionTime")) {
        (Some(start), Some(end)) => table::since(start, end),
        (Some(start), None) => table::since(start, now),
        (None, _) => String::new(),
    };
    let states = [
        ("Complete", condition(object, "Complete")),
        ("Failed", condition(object, "Failed")),
        ("Terminating", has(object, "/metadata/deletionTimestamp")),
        ("Suspended", condition(object, "Suspended")),
        ("FailureTarget", condition(object, "FailureTarget")),
        (
            "SuccessCriteriaMet",
            condition(object, "SuccessCriteriaMet"),
        ),
    ];
    let state = states.iter().find(|(_, holds)| *holds);
    vec![
        json!(text(object, "/metadata/name")),
        json!(state.map_or("Running", |(name, _)| name)),
        json!(completions),
        json!(duration),
        table::age(object, now),
        json!(names),
        json!(images),
        json!(workload::selector_text(at(object, "/spec/selector"))),
    ]
}
