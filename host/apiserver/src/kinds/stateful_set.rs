//! StatefulSet: pods with names that last, each with storage of its own.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    descent::Descent,
    findings::Shape,
    json::{at, carry, child, fill, has, int, items, list, text},
    metadata, names, persistent_volume_claim, pod, status_only, validate_metadata, workload,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "apps",
    version: "v1",
    kind: "StatefulSet",
    list_kind: "StatefulSetList",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    status: true,
    scale: true,
    generation: true,
    decode: |value| check("apps/v1", "StatefulSet", value),
    default,
    prepare: status_only,
    validate,
    validate_status,
    warnings,
    columns: &[
        Column::name(),
        Column::new("Ready", "Pods that are ready, of those wanted."),
        Column::age(),
        Column::new("Containers", "Names of the template's containers.").wide(),
        Column::new("Images", "Images of the template's containers.").wide(),
    ],
    cells: |object, now| {
        let (names, images) = workload::containers(object, "/spec/template");
        let (ready, wanted) = (
            int(object, "/status/readyReplicas"),
            int(object, "/spec/replicas"),
        );
        vec![
            json!(text(object, "/metadata/name")),
            json!(format!("{ready}/{wanted}")),
            table::age(object, now),
            json!(names),
            json!(images),
        ]
    },
    ..KindSpec::PLAIN
};

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    workload::default(spec);
    fill(spec, "podManagementPolicy", "OrderedReady");
    let strategy = child(spec, "updateStrategy");
    // Only a strategy that does not even name its type gets all of it.
    if text(strategy, "/type").is_empty() {
        strategy["type"] = "RollingUpdate".into();
        child(strategy, "rollingUpdate");
    }
    if text(strategy, "/type") == "RollingUpdate" && has(strategy, "/rollingUpdate") {
        fill(child(strategy, "rollingUpdate"), "partition", 0);
    }
    fill(spec, "revisionHistoryLimit", 10);
    let policy = child(spec, "persistentVolumeClaimRetentionPolicy");
    fill(policy, "whenDeleted", "Retain");
    fill(policy, "whenScaled", "Retain");
    for claim in items(spec, "volumeClaimTemplates") {
        fill(claim, "apiVersion", "v1");
        fill(claim, "kind", "PersistentVolumeClaim");
        child(claim, "metadata");
        let spec = child(claim, "spec");
        child(spec, "resources");
        fill(spec, "volumeMode", "Filesystem");
        fill(child(claim, "status"), "phase", "Pending");
    }
    let status = child(object, "status");
    fill(status, "replicas", 0);
    fill(status, "availableReplicas", 0);
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut f = Descent::at("");
    // Names that are no labels were allowed once: what exists may go on.
    f.extend(match old {
        None => validate_metadata(object, None, true, names::label),
        Some(old) => metadata::validate_update(object, old),
    });
    let spec = at(object, "/spec");
    f.within("spec", |f| {
        rules(f, spec);
        if let Some(old) = old {
            changes(f, spec, at(old, "/spec"));
        }
    });
    f.into_errors()
}

fn rules(f: &mut Descent, spec: &Value) {
    match text(spec, "/podManagementPolicy") {
        "" => f.required("podManagementPolicy", ""),
        "OrderedReady" | "Parallel" => {}
        other => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            f.invalid("podManagementPolicy", other, detail);
        }
    }
    strategy(f, at(spec, "/updateStrategy"));
    f.inside(spec, "persistentVolumeClaimRetentionPolicy", |f, policy| {
        for name in ["whenDeleted", "whenScaled"] {
            let value = text(policy, &format!("/{name}"));
            if !["Retain", "Delete"].contains(&value) {
                f.unsupported(name, value, &["Retain", "Delete"]);
            }
        }
    });
    f.not_negative(spec, "replicas");
    f.not_negative(spec, "minReadySeconds");
    f.inside(spec, "ordinals", |f, ordinals| {
        f.not_negative(ordinals, "start")
    });
    if workload::selector(f, spec, "statefulset", true) {
        let selector = at(spec, "/selector");
        if selector.is_null() || !workload::is_everything(selector) {
            workload::selects_template(f, spec);
        }
        let field = f.field("template");
        f.extend(pod::validate_template(&with_claims(spec), &field));
    } else {
        f.invalid("selector", at(spec, "/selector").clone(), "");
    }
    workload::lasts(f, spec, "StatefulSet");
    let service = text(spec, "/serviceName");
    if !service.is_empty() {
        f.named("serviceName", service, names::label);
    }
}

/// The template as its pods are made: with a volume for each claim that is made with them.
fn with_claims(spec: &Value) -> Value {
    let mut template = at(spec, "/template").clone();
    let claims: Vec<&str> = list(spec, "/volumeClaimTemplates")
        .iter()
        .map(|claim| text(claim, "/metadata/name"))
        .filter(|name| !name.is_empty())
        .collect();
    if claims.is_empty() {
        return template;
    }
    let pod = child(&mut template, "spec");
    let mut volumes: Vec<Value> = list(pod, "/volumes")
        .iter()
        .filter(|volume| !claims.contains(&text(volume, "/name")))
        .cloned()
        .collect();
    volumes.extend(
        claims
            .iter()
            .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})),
    );
    pod["volumes"] = volumes.into();
    template
}

const ROLLING: Shape = Shape::Fields(&[
    ("partition", Shape::Plain("0")),
    ("maxUnavailable", Shape::Plain("null")),
]);
const STRATEGY: Shape =
    Shape::Fields(&[("type", Shape::Plain("\"\"")), ("rollingUpdate", ROLLING)]);

fn strategy(f: &mut Descent, strategy: &Value) {
    const FIELD: &str = "updateStrategy";
    let rolling = at(strategy, "/rollingUpdate");
    match text(strategy, "/type") {
        "" => f.required(FIELD, ""),
        "OnDelete" => {
            if !rolling.is_null() {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                let shown = ROLLING.show(rolling);
                f.invalid_shown("updateStrategy.rollingUpdate", &shown, detail);
            }
        }
        "RollingUpdate" => f.within(FIELD, |f| {
            f.inside(strategy, "rollingUpdate", |f, rolling| {
                f.not_negative(rolling, "partition");
                if has(rolling, "/maxUnavailable") {
                    workload::share(f, rolling, "maxUnavailable");
                    let value = at(rolling, "/maxUnavailable");
                    if workload::amount(value) == 0 {
                        f.invalid("maxUnavailable", value.clone(), "cannot be 0");
                    }
                    workload::at_most_all(f, rolling, "maxUnavailable");
                }
            });
        }),
        _ => {
            let shown = STRATEGY.show(strategy);
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            f.invalid_shown(FIELD, &shown, detail);
        }
    }
}

const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn changes(f: &mut Descent, spec: &Value, old: &Value) {
    let mut rest = spec.clone();
    for field in MUTABLE {
        carry(&mut rest, old, field);
    }
    if rest != *old {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
                      'template', 'updateStrategy', 'revisionHistoryLimit', \
                      'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        f.forbidden("", detail);
    }
}

fn validate_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.within("status", |f| {
        let counts = [
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ];
        let parts = [
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
        ];
        workload::status_counts(f, at(object, "/status"), &counts, &parts);
    });
    f.extend(metadata::validate_update(object, old));
    workload::collisions(&mut f, object, old);
    f.into_errors()
}

fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut all = workload::warnings(object, old, "/spec/template");
    let unchanged = old
        .is_some_and(|old| at(old, "/metadata/generation") == at(object, "/metadata/generation"));
    for (index, claim) in list(object, "/spec/volumeClaimTemplates")
        .iter()
        .enumerate()
        .filter(|_| !unchanged)
    {
        let field = format!("spec.volumeClaimTemplates[{index}]");
        let claim = at(claim, "/spec");
        all.extend(persistent_volume_claim::spec_warnings(claim, &field));
    }
    if !unchanged && int(object, "/spec/revisionHistoryLimit") < 0 {
        all.push(
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value \
             >= 0 is recommended"
                .to_owned(),
        );
    }
    all
}
