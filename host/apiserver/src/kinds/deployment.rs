//! Deployment: keeps pods of the newest template running and rolls changes out.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    descent::Descent,
    json::{at, child, fill, has, int, text},
    metadata, names, status_only, validate_metadata, workload,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    list_kind: "DeploymentList",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    status: true,
    scale: true,
    generation: true,
    decode: |value| check("apps/v1", "Deployment", value),
    default,
    prepare,
    validate,
    warnings: |object, old| workload::warnings(object, old, "/spec/template"),
    // The labels of a deployment are its owner's, not its controller's.
    prepare_status: |object, old| {
        super::json::carry(child(object, "metadata"), at(old, "/metadata"), "labels");
    },
    validate_status,
    columns: &[
        Column::name(),
        Column::new("Ready", "Pods that are ready, of those wanted."),
        Column::new("Up-to-date", "Pods of the newest template."),
        Column::new(
            "Available",
            "Pods that have been ready long enough to count.",
        ),
        Column::age(),
        Column::new("Containers", "Names of the template's containers.").wide(),
        Column::new("Images", "Images of the template's containers.").wide(),
        Column::new("Selector", "Which pods belong to the deployment.").wide(),
    ],
    cells: |object, now| {
        let (names, images) = workload::containers(object, "/spec/template");
        let count = |pointer: &str| int(object, pointer);
        vec![
            json!(text(object, "/metadata/name")),
            json!(format!(
                "{}/{}",
                count("/status/readyReplicas"),
                count("/spec/replicas")
            )),
            json!(count("/status/updatedReplicas").to_string()),
            json!(count("/status/availableReplicas").to_string()),
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
    workload::default(spec);
    let strategy = child(spec, "strategy");
    fill(strategy, "type", "RollingUpdate");
    if text(strategy, "/type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        fill(rolling, "maxUnavailable", "25%");
        fill(rolling, "maxSurge", "25%");
    }
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
}

fn prepare(object: &mut Value, old: Option<&Value>) {
    status_only(object, old);
    // A change of annotations counts as one of the spec: rollouts note their causes there.
    if let Some(old) = old
        && at(old, "/metadata/annotations") != at(object, "/metadata/annotations")
    {
        metadata::count_change(object, old);
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.extend(validate_metadata(object, old, true, names::subdomain));
    let spec = at(object, "/spec");
    f.within("spec", |f| {
        f.not_negative(spec, "replicas");
        if workload::selector(f, spec, "deployment", true) {
            let selector = at(spec, "/selector");
            if selector.is_null() || !workload::is_everything(selector) {
                workload::selects_template(f, spec);
            }
            workload::lasting_template(f, spec, "ReplicaSet");
        } else {
            let detail = "invalid label selector";
            f.invalid("selector", at(spec, "/selector").clone(), detail);
        }
        strategy(f, at(spec, "/strategy"));
        f.not_negative(spec, "minReadySeconds");
        f.not_negative(spec, "revisionHistoryLimit");
        f.not_negative(spec, "progressDeadlineSeconds");
        if let Some(deadline) = at(spec, "/progressDeadlineSeconds").as_i64()
            && deadline <= int(spec, "/minReadySeconds")
        {
            let detail = "must be greater than minReadySeconds";
            f.invalid("progressDeadlineSeconds", deadline, detail);
        }
        if let Some(old) = old {
            f.immutable(spec, at(old, "/spec"), "selector");
        }
    });
    f.into_errors()
}

fn strategy(f: &mut Descent, strategy: &Value) {
    match text(strategy, "/type") {
        "Recreate" => {
            if has(strategy, "/rollingUpdate") {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                f.forbidden("strategy.rollingUpdate", detail);
            }
        }
        "RollingUpdate" => f.within("strategy", |f| {
            f.inside(strategy, "rollingUpdate", |f, rolling| {
                workload::share(f, rolling, "maxUnavailable");
                workload::share(f, rolling, "maxSurge");
                let zero = |name: &str| workload::amount(at(rolling, name)) == 0;
                if zero("/maxUnavailable") && zero("/maxSurge") {
                    let detail = "may not be 0 when `maxSurge` is 0";
                    f.invalid(
                        "maxUnavailable",
                        at(rolling, "/maxUnavailable").clone(),
                        detail,
                    );
                }
                workload::at_most_all(f, rolling, "maxUnavailable");
            });
        }),
        _ => {
            let shown = workload::STRATEGY.show(strategy);
            f.unsupported_shown("strategy", &shown, &["Recreate", "RollingUpdate"]);
        }
    }
}

fn validate_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.extend(metadata::validate_update(object, old));
    f.within("status", |f| {
        let counts = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ];
        let parts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
        workload::status_counts(f, at(object, "/status"), &counts, &parts);
    });
    workload::collisions(&mut f, object, old);
    f.into_errors()
}
