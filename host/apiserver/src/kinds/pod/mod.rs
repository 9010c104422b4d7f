//! Pod: the unit that nodes run.

mod container;
mod defaults;
mod print;
mod quality;
mod validate;

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{at, carry, child, has, int, list, text},
    metadata_fields, names, status_only, validate_metadata,
};
use crate::{field_error::FieldError, table::Column};

pub(super) use self::{
    defaults::pod_spec as default_pod_spec,
    validate::{address, pod_spec as validate_pod_spec},
};

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
    if let Some(old) = old {
        // Only binding assigns a node; a replace that leaves it out keeps it.
        if !has(pod, "/spec/nodeName") && has(old, "/spec/nodeName") {
            carry(child(pod, "spec"), at(old, "/spec"), "nodeName");
        }
    }
}

fn validate(pod: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = validate_metadata(pod, old, true, names::subdomain);
    errors.extend(validate_pod_spec(at(pod, "/spec"), "spec"));
    if let Some(old) = old {
        errors.extend(changes(pod, old));
    }
    errors
}

/// What of a pod's spec may change once it exists.
fn changes(pod: &Value, old: &Value) -> Option<FieldError> {
    let mut allowed = at(pod, "/spec").clone();
    let old = at(old, "/spec");
    for group in ["containers", "initContainers"] {
        let stored = list(old, &format!("/{group}"));
        for (container, stored) in super::json::items(&mut allowed, group).zip(stored) {
            carry(container, stored, "image");
        }
    }
    let may_shorten = !has(old, "/activeDeadlineSeconds")
        || int(&allowed, "/activeDeadlineSeconds") <= int(old, "/activeDeadlineSeconds");
    if has(&allowed, "/activeDeadlineSeconds") && may_shorten {
        carry(&mut allowed, old, "activeDeadlineSeconds");
    }
    let tolerations = list(&allowed, "/tolerations");
    if list(old, "/tolerations")
        .iter()
        .all(|one| tolerations.contains(one))
    {
        carry(&mut allowed, old, "tolerations");
    }
    if int(old, "/terminationGracePeriodSeconds") < 0 {
        carry(&mut allowed, old, "terminationGracePeriodSeconds");
    }
    // Gates may go one by one, which lets the scheduler see the pod.
    let gates = list(&allowed, "/schedulingGates");
    if gates
        .iter()
        .all(|one| list(old, "/schedulingGates").contains(one))
    {
        carry(&mut allowed, old, "schedulingGates");
    }
    (allowed != *old).then(|| {
        FieldError::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
             additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to \
             be set to 1 if it was previously negative)",
        )
    })
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
