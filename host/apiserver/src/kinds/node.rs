//! Node: a machine that runs pods.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{at, carry, child, entries, fill, list, text},
    metadata::invalid,
    metadata_fields, names, validate_metadata,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "",
    version: "v1",
    kind: "Node",
    list_kind: "NodeList",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    namespaced: false,
    status: true,
    scale: false,
    generation: false,
    decode: |value| check("v1", "Node", value),
    default,
    prepare: |object, old| {
        // A node may bring its status along when it registers.
        if let Some(old) = old {
            carry(object, old, "status");
        }
    },
    validate: |object, old| {
        let mut errors = validate_metadata(object, old, false, names::subdomain);
        errors.extend(taints(object));
        errors
    },
    fields: |object| {
        let mut fields = metadata_fields(object, false);
        let closed = at(object, "/spec/unschedulable") == &Value::Bool(true);
        let closed = if closed { "true" } else { "false" };
        fields.push(("spec.unschedulable".into(), closed.into()));
        fields
    },
    field_names: &["metadata.name", "spec.unschedulable"],
    columns: &[
        Column::name(),
        Column::new("Status", "Ready or not, and whether new pods are kept off."),
        Column::new("Roles", "Roles that its labels name."),
        Column::age(),
        Column::new("Version", "Version of the node agent."),
        Column::new("Internal-IP", "Address inside the site.").wide(),
        Column::new("External-IP", "Address outside, if there is one.").wide(),
        Column::new("OS-Image", "Operating system.").wide(),
        Column::new("Kernel-Version", "Kernel.").wide(),
        Column::new("Container-Runtime", "What runs the containers.").wide(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(status(object)),
            json!(roles(object)),
            table::age(object, now),
            json!(text(object, "/status/nodeInfo/kubeletVersion")),
            json!(address(object, "InternalIP")),
            json!(address(object, "ExternalIP")),
            json!(or(text(object, "/status/nodeInfo/osImage"), "<unknown>")),
            json!(or(
                text(object, "/status/nodeInfo/kernelVersion"),
                "<unknown>"
            )),
            json!(or(
                text(object, "/status/nodeInfo/containerRuntimeVersion"),
                "<unknown>"
            )),
        ]
    },
    ..KindSpec::PLAIN
};

fn default(object: &mut Value) {
    child(object, "spec");
    let status = child(object, "status");
    fill(
        child(child(status, "daemonEndpoints"), "kubeletEndpoint"),
        "Port",
        0,
    );
    let info = child(status, "nodeInfo");
    for name in [
        "machineID",
        "systemUUID",
        "bootID",
        "kernelVersion",
        "osImage",
        "containerRuntimeVersion",
        "kubeletVersion",
        "kubeProxyVersion",
        "operatingSystem",
        "architecture",
    ] {
        fill(info, name, "");
    }
    // What can be allocated is everything there is, unless the node keeps some back.
    if let Some(capacity) = status.get("capacity").cloned() {
        fill(status, "allocatable", capacity);
    }
}

fn taints(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (index, taint) in list(object, "/spec/taints").iter().enumerate() {
        let field = format!("metadata.taints[{index}]");
        let key = text(taint, "/key");
        errors.extend(
            names::qualified(key)
                .iter()
                .map(|one| invalid(format!("{field}.key"), key, one)),
        );
        let value = text(taint, "/value");
        let found = names::label_value(value);
        errors.extend(
            found
                .iter()
                .map(|one| invalid(format!("{field}.value"), value, one)),
        );
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effects.contains(&text(taint, "/effect")) {
            let effect = at(taint, "/effect");
            errors.push(FieldError::not_supported(
                format!("{field}.effect"),
                effect,
                &effects,
            ));
        }
        if !seen.insert((key, text(taint, "/effect"))) {
            errors.push(FieldError::duplicate(field, taint));
        }
    }
    errors
}

fn status(object: &Value) -> String {
    let ready = list(object, "/status/conditions")
        .iter()
        .find(|one| text(one, "/type") == "Ready");
    let mut status = match ready.map(|one| text(one, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if at(object, "/spec/unschedulable") == &Value::Bool(true) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(object: &Value) -> String {
    let mut roles: Vec<&str> = entries(object, "/metadata/labels")
        .filter_map(|(key, value)| {
            key.strip_prefix("node-role.kubernetes.io/").or_else(|| {
                (key == "kubernetes.io/role")
                    .then(|| value.as_str())
                    .flatten()
            })
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    }
}

fn address<'a>(object: &'a Value, kind: &str) -> &'a str {
    let found = list(object, "/status/addresses")
        .iter()
        .find(|one| text(one, "/type") == kind);
    found.map_or("<none>", |one| text(one, "/address"))
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}
