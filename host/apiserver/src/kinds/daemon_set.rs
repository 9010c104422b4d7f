//! DaemonSet: one pod on each node that fits.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    descent::Descent,
    json::{at, child, fill, int, text},
    metadata::{self, TWICE, judge},
    names, pod, status_only, workload,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

/// Counts the changes of the template; once a field, kept for old controllers.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const COUNTS: [&str; 4] = [
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
];

pub(super) const SPEC: KindSpec = KindSpec {
    group: "apps",
    version: "v1",
    kind: "DaemonSet",
    list_kind: "DaemonSetList",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    status: true,
    generation: true,
    decode: |value| check("apps/v1", "DaemonSet", value),
    default,
    prepare,
    validate,
    validate_status,
    warnings: |object, old| {
        let all = workload::warnings(object, old, "/spec/template");
        let name = |one: &String| one.starts_with("metadata.name");
        all.into_iter().filter(|one| !name(one)).collect()
    },
    columns: &[
        Column::name(),
        Column::integer("Desired", "Nodes that should run a pod."),
        Column::integer("Current", "Nodes that run one."),
        Column::integer("Ready", "Nodes whose pod is ready."),
        Column::integer("Up-to-date", "Nodes that run a pod of the newest template."),
        Column::integer(
            "Available",
            "Nodes whose pod has been ready long enough to count.",
        ),
        Column::new("Node Selector", "Which nodes should run a pod."),
        Column::age(),
        Column::new("Containers", "Names of the template's containers.").wide(),
        Column::new("Images", "Images of the template's containers.").wide(),
        Column::new("Selector", "Which pods belong to the set.").wide(),
    ],
    cells: |object, now| {
        let (names, images) = workload::containers(object, "/spec/template");
        let count = |name: &str| json!(int(object, &format!("/status/{name}")));
        vec![
            json!(text(object, "/metadata/name")),
            count("desiredNumberScheduled"),
            count("currentNumberScheduled"),
            count("numberReady"),
            count("updatedNumberScheduled"),
            count("numberAvailable"),
            json!(workload::labels_text(at(
                object,
                "/spec/template/spec/nodeSelector"
            ))),
            table::age(object, now),
            json!(names),
            json!(images),
            json!(workload::selector_text(at(object, "/spec/selector"))),
        ]
    },
    ..KindSpec::PLAIN
};

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    pod::default_template(child(spec, "template"));
    let strategy = child(spec, "updateStrategy");
    fill(strategy, "type", "RollingUpdate");
    if text(strategy, "/type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        fill(rolling, "maxUnavailable", 1);
        fill(rolling, "maxSurge", 0);
    }
    fill(spec, "revisionHistoryLimit", 10);
    let status = child(object, "status");
    for name in COUNTS {
        fill(status, name, 0);
    }
}

fn generation(object: &Value) -> i64 {
    let text = at(object, "/metadata/annotations").get(TEMPLATE_GENERATION);
    text.and_then(Value::as_str)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

fn prepare(object: &mut Value, old: Option<&Value>) {
    status_only(object, old);
    let count = match old {
        None => generation(object).max(1),
        Some(old) if at(old, "/spec/template") == at(object, "/spec/template") => generation(old),
        Some(old) => generation(old) + 1,
    };
    let annotations = child(child(object, "metadata"), "annotations");
    annotations[TEMPLATE_GENERATION] = count.to_string().into();
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = judge(object, old, true, names::subdomain, TWICE, || rules(object));
    let mut f = Descent::at("spec");
    if let Some(old) = old {
        f.immutable(at(object, "/spec"), at(old, "/spec"), "selector");
    }
    errors.extend(f.into_errors());
    errors
}

fn rules(object: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    let spec = at(object, "/spec");
    f.within("spec", |f| {
        let before = f.count();
        f.selector(spec, "selector");
        if f.count() == before {
            workload::selects_template(f, spec);
        }
        let selector = at(spec, "/selector");
        if !selector.is_null() && workload::is_everything(selector) {
            let detail = "empty selector is invalid for daemonset";
            f.invalid("selector", selector.clone(), detail);
        }
        workload::lasting_template(f, spec, "DaemonSet");
        f.not_negative(spec, "minReadySeconds");
        strategy(f, at(spec, "/updateStrategy"));
        f.not_negative(spec, "revisionHistoryLimit");
    });
    f.into_errors()
}

fn strategy(f: &mut Descent, strategy: &Value) {
    match text(strategy, "/type") {
        "OnDelete" => {}
        "RollingUpdate" => f.within("updateStrategy", |f| {
            f.inside(strategy, "rollingUpdate", |f, rolling| {
                for check in [workload::share, workload::at_most_all] {
                    check(f, rolling, "maxUnavailable");
                    check(f, rolling, "maxSurge");
                }
                let some = |name: &str| workload::amount(at(rolling, name)) != 0;
                match (some("/maxUnavailable"), some("/maxSurge")) {
                    (true, true) => {
                        let detail = "may not be set when maxUnavailable is non-zero";
                        f.invalid("maxSurge", at(rolling, "/maxSurge").clone(), detail);
                    }
                    (false, false) => {
                        f.required("maxUnavailable", "cannot be 0 when maxSurge is 0");
                    }
                    _ => {}
                }
            });
        }),
        _ => {
            let shown = workload::STRATEGY.show(strategy);
            f.unsupported_shown("updateStrategy", &shown, &["RollingUpdate", "OnDelete"]);
        }
    }
}

fn validate_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.extend(metadata::validate_update(object, old));
    f.within("status", |f| {
        let status = at(object, "/status");
        for name in COUNTS.into_iter().chain([
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ]) {
            f.not_negative(status, name);
        }
    });
    workload::collisions(&mut f, object, old);
    f.into_errors()
}
