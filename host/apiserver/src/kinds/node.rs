//! Node: a machine that runs pods.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::{Findings, structure, text_or_empty},
    ip,
    json::{at, carry, child, entries, fill, list, remove, text},
    metadata::{self, ANEW_THEN_CHANGES, judge},
    metadata_fields, names, resource_name,
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
        // Configuration through the API is no more.
        remove(child(object, "spec"), "configSource");
        remove(child(object, "status"), "config");
    },
    validate: |object, old| {
        let looks = ANEW_THEN_CHANGES;
        let mut errors = judge(object, old, false, names::subdomain, looks, || {
            let mut errors = Findings::default();
            taints(object, &mut errors);
            amounts(object, &mut errors);
            pod_ranges(object, &mut errors);
            errors.done()
        });
        errors.extend(old.into_iter().flat_map(|old| changes(object, old)));
        errors
    },
    validate_status: |object, old| {
        let mut errors = metadata::validate_update(object, old);
        errors.extend(changes(object, old));
        errors
    },
    warnings,
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
    one_range(child(object, "spec"));
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

/// `podCIDR` is the first of `podCIDRs`, whichever of the two was given.
fn one_range(spec: &mut Value) {
    let single = text(spec, "/podCIDR").to_owned();
    let first = list(spec, "/podCIDRs").first().and_then(Value::as_str);
    match first {
        Some(first) if single.is_empty() => {
            let first = first.to_owned();
            fill(spec, "podCIDR", first);
        }
        Some(first) if first == single => {}
        _ if single.is_empty() => {}
        _ => spec["podCIDRs"] = json!([single]),
    }
}

/// What an update of the node or of its status may change.
fn changes(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    amounts(object, &mut errors);
    let addresses = list(object, "/status/addresses");
    for (index, one) in addresses.iter().enumerate() {
        let same = |other: &Value| {
            text(other, "/type") == text(one, "/type")
                && text(other, "/address") == text(one, "/address")
        };
        if addresses.iter().take(index).any(same) {
            let (kind, address) = (text_or_empty(one, "/type"), text_or_empty(one, "/address"));
            let shown = structure(&[("Type", &kind), ("Address", &address)]);
            errors.duplicate_shown(format!("status.addresses[{index}]"), &shown);
        }
    }
    let (before, now) = (list(old, "/spec/podCIDRs"), list(object, "/spec/podCIDRs"));
    let detail = "node updates may not change podCIDR except from \"\" to valid";
    if !before.is_empty() && before.len() != now.len() {
        errors.forbidden("spec.podCIDRs", detail);
    } else {
        for _ in before.iter().zip(now).filter(|(old, new)| old != new) {
            errors.forbidden("spec.podCIDRs", detail);
        }
    }
    let provider = text(old, "/spec/providerID");
    if !provider.is_empty() && provider != text(object, "/spec/providerID") {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden("spec.providerID", detail);
    }
    taints(object, &mut errors);
    if text(object, "/spec/externalID") != text(old, "/spec/externalID") {
        errors.forbidden("spec.externalID", "may not be updated");
    }
    errors.done()
}

fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    let mut all = Vec::new();
    if !text(object, "/spec/externalID").is_empty() {
        let text = "spec.externalID: this field is deprecated, and is unused by Kubernetes";
        all.push(text.to_owned());
    }
    for (index, range) in list(object, "/spec/podCIDRs").iter().enumerate() {
        let range = range.as_str().unwrap_or_default();
        all.extend(ip::range_warnings(
            range,
            &format!("spec.podCIDRs[{index}]"),
        ));
    }
    all
}

fn amounts(object: &Value, errors: &mut Findings) {
    for part in ["capacity", "allocatable"] {
        for (name, amount) in entries(object, &format!("/status/{part}")) {
            resource_name::amount(name, amount, &format!("status.{part}.{name}"), errors);
        }
    }
}

fn pod_ranges(object: &Value, errors: &mut Findings) {
    let (all, field) = (list(object, "/spec/podCIDRs"), "spec.podCIDRs");
    let range = |one: &Value| ip::parse_range(one.as_str().unwrap_or_default());
    for (index, one) in all.iter().enumerate() {
        let text = one.as_str().unwrap_or_default();
        errors.extend(ip::legacy_range(text, &format!("{field}[{index}]")));
    }
    if all.len() < 2 {
        return;
    }
    let known: Vec<bool> = all
        .iter()
        .filter_map(range)
        .map(|(_, range)| range.is_ipv4())
        .collect();
    let both = known.contains(&true) && known.contains(&false);
    if known.len() == all.len() && (!both || all.len() > 2) {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.invalid(field, json!(all), detail);
    }
    for (index, one) in all.iter().enumerate() {
        if all.iter().take(index).any(|other| other == one) {
            errors.duplicate(format!("{field}[{index}]"), one.clone());
        }
    }
}

fn taints(object: &Value, errors: &mut Findings) {
    let mut seen = std::collections::HashSet::new();
    for (index, taint) in list(object, "/spec/taints").iter().enumerate() {
        let field = format!("metadata.taints[{index}]");
        let (key, value) = (text(taint, "/key"), text(taint, "/value"));
        errors.named(&format!("{field}.key"), key, names::qualified);
        let found = names::label_value(value);
        if !found.is_empty() {
            errors.invalid(format!("{field}.value"), value, &found.join(";"));
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        let effect = text(taint, "/effect");
        errors.required_one_of(format!("{field}.effect"), effect, &effects);
        if !seen.insert((key, effect)) {
            let part = |pointer| text_or_empty(taint, pointer);
            let shown = structure(&[
                ("Key", &part("/key")),
                ("Value", &part("/value")),
                ("Effect", &part("/effect")),
                ("TimeAdded", at(taint, "/timeAdded")),
            ]);
            let detail = "taints must be unique by key and effect pair";
            errors.extend([FieldError::duplicate_shown(field, &shown).detailed(detail)]);
        }
    }
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
