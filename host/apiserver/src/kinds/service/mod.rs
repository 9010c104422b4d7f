//! Service: one stable address for a set of pods.

pub(crate) mod families;
mod rules;

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{at, child, entries, fill, int, items, list, remove, text},
    metadata_fields, status_only,
};
use crate::table::{self, Column};

/// Three hours.
const AFFINITY_SECONDS: i64 = 10_800;

pub(super) const SPEC: KindSpec = KindSpec {
    kind: "Service",
    put_creates: true,
    list_kind: "ServiceList",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    status: true,
    decode: |value| check("v1", "Service", value),
    default,
    prepare: |object, old| {
        status_only(object, old);
        fill(child(object, "status"), "loadBalancer", json!({}));
    },
    validate: rules::validate,
    validate_status: rules::validate_status,
    warnings: |object, _| rules::warnings(object),
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
    match text(spec, "/sessionAffinity") {
        "None" => remove(spec, "sessionAffinityConfig"),
        "ClientIP" => {
            let client = child(child(spec, "sessionAffinityConfig"), "clientIP");
            fill(client, "timeoutSeconds", AFFINITY_SECONDS);
        }
        _ => {}
    }
    for port in items(spec, "ports") {
        fill(port, "protocol", "TCP");
        let target = at(port, "/targetPort");
        if target.is_null() || target == 0 || target == "" {
            remove(port, "targetPort");
            let number = int(port, "/port");
            fill(port, "targetPort", number);
        }
    }
    if externally_accessible(spec) {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    let kind = text(spec, "/type").to_owned();
    if matches!(kind.as_str(), "ClusterIP" | "LoadBalancer" | "NodePort") {
        fill(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
    let balancer = child(child(object, "status"), "loadBalancer");
    if kind == "LoadBalancer" {
        for one in items(balancer, "ingress") {
            if !text(one, "/ip").is_empty() {
                fill(one, "ipMode", "VIP");
            }
        }
    }
}

/// Clients outside of the cluster may reach it.
fn externally_accessible(spec: &Value) -> bool {
    has_node_ports(spec)
        || (text(spec, "/type") == "ClusterIP" && !list(spec, "/externalIPs").is_empty())
}

pub(crate) fn has_node_ports(spec: &Value) -> bool {
    matches!(text(spec, "/type"), "LoadBalancer" | "NodePort")
}

/// A balancer asks the nodes which of them have a pod of the service.
pub(crate) fn needs_health_check(spec: &Value) -> bool {
    text(spec, "/type") == "LoadBalancer" && text(spec, "/externalTrafficPolicy") == "Local"
}

fn is_headless(spec: &Value) -> bool {
    matches!(list(spec, "/clusterIPs"), [only] if only == "None")
}

/// The texts of a list in the spec.
fn addresses<'a>(spec: &'a Value, name: &str) -> Vec<&'a str> {
    let given = at(spec, &format!("/{name}"));
    let texts = given.as_array().into_iter().flatten();
    texts.map(|one| one.as_str().unwrap_or_default()).collect()
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
