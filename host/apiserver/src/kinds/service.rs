//! Service: one stable address for a set of pods.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    KindSpec, check, ip,
    json::{at, carry, child, entries, fill, has, items, list, remove, text},
    metadata::{self, invalid},
    metadata_fields, names, status_only, validate_metadata,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

pub(super) const SPEC: KindSpec = KindSpec {
    group: "",
    version: "v1",
    kind: "Service",
    list_kind: "ServiceList",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    namespaced: true,
    status: true,
    scale: false,
    generation: false,
    decode: |value| check("v1", "Service", value),
    default,
    prepare,
    validate,
    fields: |object| {
        let mut fields = metadata_fields(object, true);
        fields.push((
            "spec.clusterIP".into(),
            text(object, "/spec/clusterIP").into(),
        ));
        fields.push(("spec.type".into(), text(object, "/spec/type").into()));
        fields
    },
    field_names: &[
        "metadata.name",
        "metadata.namespace",
        "spec.clusterIP",
        "spec.type",
    ],
    columns: &[
        Column::name(),
        Column::new("Type", "How the service is reached."),
        Column::new("Cluster-IP", "Address inside the cluster."),
        Column::new("External-IP", "Addresses outside the cluster."),
        Column::new("Port(s)", "Ports, with the node's ports after a colon."),
        Column::age(),
        Column::new("Selector", "Which pods stand behind the service.").wide(),
    ],
    cells: |object, now| {
        let address = text(object, "/spec/clusterIP");
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/spec/type")),
            json!(if address.is_empty() {
                "<none>"
            } else {
                address
            }),
            json!(external(object)),
            json!(ports(object)),
            table::age(object, now),
            json!(selector(object)),
        ]
    },
    ..KindSpec::PLAIN
};

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "sessionAffinity", "None");
    fill(spec, "type", "ClusterIP");
    if text(spec, "/sessionAffinity") == "ClientIP" {
        let client = child(child(spec, "sessionAffinityConfig"), "clientIP");
        fill(client, "timeoutSeconds", 10800);
    } else {
        remove(spec, "sessionAffinityConfig");
    }
    for port in items(spec, "ports") {
        fill(port, "protocol", "TCP");
        let same = at(port, "/targetPort") == &json!(0) || text(port, "/targetPort").is_empty();
        if same
            && at(port, "/targetPort")
                .as_i64()
                .is_none_or(|number| number == 0)
        {
            remove(port, "targetPort");
            let number = at(port, "/port").clone();
            fill(port, "targetPort", number);
        }
    }
    let kind = text(spec, "/type").to_owned();
    if kind != "ExternalName" {
        fill(spec, "internalTrafficPolicy", "Cluster");
        fill(spec, "ipFamilies", json!(["IPv4"]));
        fill(spec, "ipFamilyPolicy", "SingleStack");
        match (
            text(spec, "/clusterIP").to_owned(),
            has(spec, "/clusterIPs/0"),
        ) {
            (address, false) if !address.is_empty() => fill(spec, "clusterIPs", json!([address])),
            (address, true) if address.is_empty() => {
                let first = at(spec, "/clusterIPs/0").clone();
                fill(spec, "clusterIP", first);
            }
            _ => {}
        }
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
    let status = child(object, "status");
    fill(status, "loadBalancer", json!({}));
}

/// What the server assigned stays where an update leaves it out.
fn prepare(object: &mut Value, old: Option<&Value>) {
    status_only(object, old);
    fill(child(object, "status"), "loadBalancer", json!({}));
    let Some(old) = old else { return };
    if text(object, "/spec/type") == "ExternalName" {
        return;
    }
    let spec = child(object, "spec");
    for name in ["clusterIP", "clusterIPs"] {
        if !has(spec, &format!("/{name}")) && has(old, &format!("/spec/{name}")) {
            carry(spec, at(old, "/spec"), name);
        }
    }
    if matches!(text(spec, "/type"), "NodePort" | "LoadBalancer") {
        for port in items(spec, "ports") {
            let same = |one: &&Value| {
                at(one, "/port") == at(port, "/port")
                    && at(one, "/protocol") == at(port, "/protocol")
            };
            if let Some(stored) = list(old, "/spec/ports").iter().find(same)
                && has(stored, "/nodePort")
                && !has(port, "/nodePort")
            {
                carry(port, stored, "nodePort");
            }
        }
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = validate_metadata(object, old, true, names::label);
    let spec = at(object, "/spec");
    let kind = text(spec, "/type");
    let headless = text(spec, "/clusterIP") == "None";
    if list(spec, "/ports").is_empty() && kind != "ExternalName" && !headless {
        errors.push(FieldError::required("spec.ports", ""));
    }
    errors.extend(check_ports(spec));
    errors.extend(metadata::labels(at(spec, "/selector"), "spec.selector"));
    let affinities = ["ClientIP", "None"];
    if !affinities.contains(&text(spec, "/sessionAffinity")) {
        let value = at(spec, "/sessionAffinity");
        errors.push(FieldError::not_supported(
            "spec.sessionAffinity",
            value,
            &affinities,
        ));
    }
    if !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(
            "spec.type",
            at(spec, "/type"),
            &TYPES,
        ));
    }
    if kind == "ExternalName" {
        let name = text(spec, "/externalName");
        if name.is_empty() {
            errors.push(FieldError::required("spec.externalName", ""));
        } else {
            let found = names::subdomain(name.trim_end_matches('.'));
            errors.extend(
                found
                    .iter()
                    .map(|one| invalid("spec.externalName", name, one)),
            );
        }
        if has(spec, "/clusterIPs/0") {
            let detail = "may not be set for ExternalName services";
            errors.push(FieldError::forbidden("spec.clusterIPs", detail));
        }
    } else {
        for (index, address) in list(spec, "/clusterIPs").iter().enumerate() {
            let address = address.as_str().unwrap_or_default();
            if !matches!(address, "None" | "") {
                errors.extend(ip::legacy(address, &format!("spec.clusterIPs[{index}]")));
            }
        }
    }
    for (index, address) in list(spec, "/externalIPs").iter().enumerate() {
        let field = format!("spec.externalIPs[{index}]");
        errors.extend(ip::legacy(address.as_str().unwrap_or_default(), &field));
    }
    if let Some(old) = old {
        let stored = at(old, "/spec/clusterIP");
        let both = kind != "ExternalName" && text(old, "/spec/type") != "ExternalName";
        if both && !text(old, "/spec/clusterIP").is_empty() && at(spec, "/clusterIP") != stored {
            let value = at(spec, "/clusterIPs");
            let detail = "may not change once set";
            errors.push(FieldError::invalid("spec.clusterIPs[0]", value, detail));
        }
    }
    errors
}

fn check_ports(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let all = list(spec, "/ports");
    let (mut named, mut numbers) = (HashSet::new(), HashSet::new());
    for (index, port) in all.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let name = text(port, "/name");
        if name.is_empty() {
            if all.len() > 1 {
                errors.push(FieldError::required(format!("{field}.name"), ""));
            }
        } else {
            let found = names::label(name);
            errors.extend(
                found
                    .iter()
                    .map(|one| invalid(format!("{field}.name"), name, one)),
            );
            if !named.insert(name) {
                errors.push(FieldError::duplicate(
                    format!("{field}.name"),
                    at(port, "/name"),
                ));
            }
        }
        let number = at(port, "/port");
        for detail in names::port_number(number.as_i64().unwrap_or_default()) {
            errors.push(FieldError::invalid(
                format!("{field}.port"),
                number,
                &detail,
            ));
        }
        let protocols = ["SCTP", "TCP", "UDP"];
        if !protocols.contains(&text(port, "/protocol")) {
            let value = at(port, "/protocol");
            let field = format!("{field}.protocol");
            errors.push(FieldError::not_supported(field, value, &protocols));
        }
        match at(port, "/targetPort") {
            target @ Value::Number(number) => {
                for detail in names::port_number(number.as_i64().unwrap_or_default()) {
                    errors.push(FieldError::invalid(
                        format!("{field}.targetPort"),
                        target,
                        &detail,
                    ));
                }
            }
            Value::String(name) => {
                let found = names::port_name(name);
                let field = format!("{field}.targetPort");
                errors.extend(found.iter().map(|one| invalid(&field, name, one)));
            }
            _ => {}
        }
        if !numbers.insert((number.as_i64(), text(port, "/protocol"))) {
            errors.push(FieldError::duplicate(field, port));
        }
    }
    errors
}

fn external(object: &Value) -> String {
    let declared = || {
        list(object, "/spec/externalIPs")
            .iter()
            .filter_map(Value::as_str)
    };
    let joined = |parts: Vec<&str>, otherwise: &str| {
        if parts.is_empty() {
            otherwise.to_owned()
        } else {
            parts.join(",")
        }
    };
    match text(object, "/spec/type") {
        "ExternalName" => text(object, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let given = list(object, "/status/loadBalancer/ingress")
                .iter()
                .map(|one| match text(one, "/ip") {
                    "" => text(one, "/hostname"),
                    address => address,
                });
            joined(given.chain(declared()).collect(), "<pending>")
        }
        _ => joined(declared().collect(), "<none>"),
    }
}

fn ports(object: &Value) -> String {
    let shown: Vec<String> = list(object, "/spec/ports")
        .iter()
        .map(|port| {
            let (number, protocol) = (at(port, "/port"), text(port, "/protocol"));
            match at(port, "/nodePort").as_i64() {
                Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
                _ => format!("{number}/{protocol}"),
            }
        })
        .collect();
    if shown.is_empty() {
        "<none>".to_owned()
    } else {
        shown.join(",")
    }
}

fn selector(object: &Value) -> String {
    let pairs: Vec<String> = entries(object, "/spec/selector")
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}
