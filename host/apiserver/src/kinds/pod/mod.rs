//! Pod: the unit that nodes run.

mod defaults;
mod image;
mod parts;
mod print;
mod quality;
mod rules;
mod status;
mod update;
pub(super) mod warnings;

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    descent::Descent,
    json::{at, child, items, list, text},
    metadata, metadata_fields, names, status_only, validate_metadata,
};
use crate::{field_error::FieldError, table::Column};

pub(super) use self::{
    defaults::template as default_template,
    rules::{overhead, template as validate_template, tolerations},
};
pub(super) use self::{quality::class as quality_class, update::difference};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "",
    version: "v1",
    kind: "Pod",
    list_kind: "PodList",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    status: true,
    scale: false,
    generation: true,
    decode: |value| check("v1", "Pod", value),
    default: defaults::pod,
    prepare,
    validate,
    fields,
    field_names: &[
        "metadata.name",
        "metadata.namespace",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ],
    columns: COLUMNS,
    cells: print::cells,
    identified,
    warnings: remarks,
    prepare_status: status::prepare,
    validate_status: status::validate,
    parts: parts::PARTS,
    ..KindSpec::PLAIN
};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new(
        "Ready",
        "Containers that are ready, of all that run for the pod's life.",
    ),
    Column::new("Status", "What the pod is doing, in one word."),
    Column::new(
        "Restarts",
        "How often its containers were restarted, and when last.",
    ),
    Column::age(),
    Column::new("IP", "Address of the pod.").wide(),
    Column::new("Node", "Node that the pod is bound to.").wide(),
    Column::new("Nominated Node", "Node that is being cleared for the pod.").wide(),
    Column::new(
        "Readiness Gates",
        "Extra conditions that are met, of all required.",
    )
    .wide(),
];

fn prepare(pod: &mut Value, old: Option<&Value>) {
    match old {
        Some(_) => status_only(pod, old),
        None => {
            let class = quality::class(pod);
            *child(pod, "status") = json!({"phase": "Pending", "qosClass": class});
        }
    }
}

/// What a new pod gets from its own labels and gates.
fn identified(pod: &mut Value) {
    if !list(pod, "/spec/schedulingGates").is_empty() {
        let conditions = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": null,
        }]);
        child(pod, "status")["conditions"] = conditions;
    }
    if text(pod, "/spec/os/name") != "windows" {
        put_on_armour(pod);
    }
    let labels = at(pod, "/metadata/labels").clone();
    let spec = child(pod, "spec");
    for constraint in items(spec, "topologySpreadConstraints") {
        merge_label_keys(constraint, &labels);
    }
    let Some(affinity) = spec.get_mut("affinity") else {
        return;
    };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = affinity.get_mut(kind) else {
            continue;
        };
        for term in items(pods, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_label_keys(term, &labels);
        }
        for term in items(pods, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = term.get_mut("podAffinityTerm") {
                merge_label_keys(term, &labels);
            }
        }
    }
}

/// AppArmor was asked for by annotations once; the fields that took their place say the same.
fn put_on_armour(pod: &mut Value) {
    for group in rules::GROUPS {
        let all = list(pod, &format!("/spec/{group}"));
        let meant: Vec<Option<Value>> = all
            .iter()
            .map(|one| rules::annotations::unarmed(pod, one).and_then(|(_, profile)| profile))
            .collect();
        for (container, profile) in items(child(pod, "spec"), group).zip(meant) {
            if let Some(profile) = profile {
                child(container, "securityContext")["appArmorProfile"] = profile;
            }
        }
    }
}

/// `matchLabelKeys` name labels whose values the pod's own labels give: the selector is completed
/// once, when the pod is made.
fn merge_label_keys(term: &mut Value, labels: &Value) {
    if !term.get("labelSelector").is_some_and(Value::is_object) {
        return;
    }
    for (keys, operator) in [("/matchLabelKeys", "In"), ("/mismatchLabelKeys", "NotIn")] {
        for key in list(term, keys).to_vec() {
            let Some(value) = key.as_str().and_then(|key| labels.get(key)) else {
                continue;
            };
            let one = json!({"key": key, "operator": operator, "values": [value]});
            let selector = child(term, "labelSelector");
            if let Value::Object(map) = selector {
                let all = map.entry("matchExpressions").or_insert_with(|| json!([]));
                if let Value::Array(all) = all {
                    all.push(one);
                }
            }
        }
    }
}

fn validate(pod: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.extend(validate_metadata(pod, old, true, names::subdomain));
    if old.is_some() {
        f.extend(metadata::whole(pod, true, names::subdomain));
    }
    rules::of_pod(&mut f, pod);
    match old {
        Some(old) => {
            update::changed_annotations(&mut f, pod, old);
            update::spec(&mut f, pod, old);
        }
        None => f.within("spec", |f| {
            let spec = at(pod, "/spec");
            if !list(spec, "/ephemeralContainers").is_empty() {
                f.forbidden("ephemeralContainers", "cannot be set on create");
            }
            if !text(spec, "/nodeName").is_empty() && !list(spec, "/schedulingGates").is_empty() {
                let detail = "cannot be set until all schedulingGates have been cleared";
                f.forbidden("nodeName", detail);
            }
            rules::annotations::agree(f, at(pod, "/metadata/annotations"), spec);
        }),
    }
    f.into_errors()
}

/// Nobody edits pods by hand, so only new ones are worth the look.
fn remarks(pod: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    let name = warnings::name(pod, "the Pod's hostname");
    name.into_iter().chain(warnings::of(pod, "")).collect()
}

fn fields(pod: &Value) -> Vec<(Box<str>, Box<str>)> {
    let mut fields = metadata_fields(pod, true);
    let mut add = |name: &str, value: &str| fields.push((name.into(), value.into()));
    for name in [
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
    ] {
        add(name, text(pod, &format!("/{}", name.replace('.', "/"))));
    }
    let host = at(pod, "/spec/hostNetwork") == &Value::Bool(true);
    add("spec.hostNetwork", if host { "true" } else { "false" });
    add("status.phase", text(pod, "/status/phase"));
    let ip = match list(pod, "/status/podIPs").first() {
        Some(first) => text(first, "/ip"),
        None => text(pod, "/status/podIP"),
    };
    add("status.podIP", ip);
    add("status.podIPs", ip);
    add(
        "status.nominatedNodeName",
        text(pod, "/status/nominatedNodeName"),
    );
    fields
}
