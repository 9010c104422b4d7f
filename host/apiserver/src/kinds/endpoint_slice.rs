//! EndpointSlice: some of the addresses behind a service, with what is known of each.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    endpoints::PROTOCOLS,
    findings::Findings,
    ip,
    json::{at, child, fill, has, items, list, text},
    metadata::{self, ANEW, judge},
    names,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_TOPOLOGY: usize = 16;
const MAX_HINTS: usize = 8;
/// Ports and addresses that a table shows.
const SHOWN: usize = 3;

pub(super) const SPEC: KindSpec = KindSpec {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    list_kind: "EndpointSliceList",
    plural: "endpointslices",
    singular: "endpointslice",
    generation: true,
    decode: |value| check("discovery.k8s.io/v1", "EndpointSlice", value),
    default: |object| {
        fill(object, "endpoints", Value::Null);
        fill(object, "ports", Value::Null);
        for endpoint in items(object, "endpoints") {
            child(endpoint, "conditions");
        }
        for port in items(object, "ports") {
            fill(port, "name", "");
            fill(port, "protocol", "TCP");
        }
    },
    prepare: |object, old| {
        // Services find their slices by labels, so those count, too.
        if let Some(old) = old
            && at(old, "/metadata/labels") != at(object, "/metadata/labels")
        {
            metadata::count_change(object, old);
        }
        for endpoint in items(object, "endpoints") {
            super::json::remove(endpoint, "deprecatedTopology");
        }
    },
    validate,
    warnings,
    columns: &[
        Column::name(),
        Column::new("AddressType", "What sort of addresses it holds."),
        Column::new("Ports", "Ports of every endpoint, the first few."),
        Column::new("Endpoints", "Addresses, the first few."),
        Column::age(),
    ],
    cells: |object, now| {
        let ports = list(object, "/ports").iter().map(|port| {
            match (at(port, "/port").as_i64(), at(port, "/name").as_str()) {
                (Some(number), _) => number.to_string(),
                (None, name) => name.unwrap_or("*").to_owned(),
            }
        });
        let addresses = list(object, "/endpoints")
            .iter()
            .flat_map(|endpoint| list(endpoint, "/addresses"))
            .map(|one| one.as_str().unwrap_or_default().to_owned());
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/addressType")),
            json!(shown(ports)),
            json!(shown(addresses)),
            table::age(object, now),
        ]
    },
    ..KindSpec::NAMESPACED
};

fn shown(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    let joined = all
        .get(..SHOWN.min(all.len()))
        .unwrap_or_default()
        .join(",");
    if all.len() > SHOWN {
        format!("{joined} + {} more...", all.len() - SHOWN)
    } else if joined.is_empty() {
        "<unset>".to_owned()
    } else {
        joined
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let judged = judge(object, old, true, names::subdomain, ANEW, || rules(object));
    errors.extend(judged);
    if let Some(old) = old {
        errors.immutable(object, old, "/addressType", "addressType");
    }
    errors.done()
}

/// Kinds of addresses that are going, and addresses that are spelled unusually.
fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    if text(object, "/addressType") == "FQDN" {
        return vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()];
    }
    let mut all = Vec::new();
    for (index, endpoint) in list(object, "/endpoints").iter().enumerate() {
        for (at_address, address) in list(endpoint, "/addresses").iter().enumerate() {
            let field = format!("endpoints[{index}].addresses[{at_address}]");
            all.extend(ip::warning(address.as_str().unwrap_or_default(), &field));
        }
    }
    all
}

fn rules(object: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let kind = text(object, "/addressType");
    errors.required_one_of("addressType", kind, &ADDRESS_TYPES);
    let endpoints = list(object, "/endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.too_many("endpoints", endpoints.len(), MAX_ENDPOINTS);
    } else {
        for (index, one) in endpoints.iter().enumerate() {
            endpoint(one, kind, &format!("endpoints[{index}]"), &mut errors);
        }
    }
    ports(list(object, "/ports"), &mut errors);
    errors.done()
}

fn endpoint(one: &Value, kind: &str, field: &str, errors: &mut Findings) {
    let addresses = list(one, "/addresses");
    let at_addresses = format!("{field}.addresses");
    if addresses.is_empty() {
        errors.required(&at_addresses, "must contain at least 1 address");
    } else if addresses.len() > MAX_ADDRESSES {
        errors.too_many(&at_addresses, addresses.len(), MAX_ADDRESSES);
    }
    for (index, address) in addresses.iter().enumerate() {
        let field = format!("{at_addresses}[{index}]");
        check_address(address.as_str().unwrap_or_default(), kind, &field, errors);
    }
    if let Some(node) = at(one, "/nodeName").as_str() {
        errors.named(&format!("{field}.nodeName"), node, names::subdomain);
    }
    let topology = at(one, "/deprecatedTopology");
    let at_topology = format!("{field}.deprecatedTopology");
    let labels = topology.as_object().map_or(0, serde_json::Map::len);
    if labels > MAX_TOPOLOGY {
        errors.too_many(&at_topology, labels, MAX_TOPOLOGY);
    }
    errors.extend(super::metadata::labels(topology, &at_topology));
    if let Some(host) = at(one, "/hostname").as_str() {
        errors.named(&format!("{field}.hostname"), host, names::label);
    }
    if has(one, "/hints") {
        let hints = at(one, "/hints");
        for (name, rule) in [
            ("forZones", names::label_value as fn(&str) -> Vec<String>),
            ("forNodes", names::subdomain),
        ] {
            let all = list(hints, &format!("/{name}"));
            let field = format!("{field}.hints.{name}");
            if all.len() > MAX_HINTS {
                errors.too_many(&field, all.len(), MAX_HINTS);
                continue;
            }
            let mut seen = HashSet::new();
            for (index, one) in all.iter().enumerate() {
                let (field, name) = (format!("{field}[{index}].name"), text(one, "/name"));
                if !seen.insert(name) {
                    errors.duplicate(&field, name);
                }
                errors.named(&field, name, rule);
            }
        }
    }
}

fn check_address(address: &str, kind: &str, field: &str, errors: &mut Findings) {
    match kind {
        "IPv4" | "IPv6" => {
            let found = ip::legacy(address, field);
            if found.is_empty() {
                if ip::is_ipv6(address) != Some(kind == "IPv6") {
                    errors.invalid(field, address, &format!("must be an {kind} address"));
                }
                errors.extend(ip::ordinary(address, field));
            }
            errors.extend(found);
        }
        "FQDN" => full_name(address, field, errors),
        _ => {}
    }
}

fn full_name(name: &str, field: &str, errors: &mut Findings) {
    if name.is_empty() {
        return errors.required(field, "");
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let sentences = names::subdomain(name);
    if !sentences.is_empty() {
        return errors.invalid(field, name, &sentences.join(","));
    }
    if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        return errors.invalid(field, name, detail);
    }
    for label in name.split('.') {
        let sentences = names::label(label);
        if !sentences.is_empty() {
            errors.invalid(field, label, &sentences.join(","));
        }
    }
}

fn ports(ports: &[Value], errors: &mut Findings) {
    if ports.len() > MAX_PORTS {
        return errors.too_many("ports", ports.len(), MAX_PORTS);
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("ports[{index}]");
        let name = text(port, "/name");
        if !name.is_empty() {
            errors.named(&format!("{field}.name"), name, names::label);
        }
        if !seen.insert(name) {
            errors.duplicate(format!("{field}.name"), name);
        }
        let protocol = text(port, "/protocol");
        errors.required_one_of(format!("{field}.protocol"), protocol, &PROTOCOLS);
        if let Some(protocol) = at(port, "/appProtocol").as_str() {
            let field = format!("{field}.appProtocol");
            errors.named(&field, protocol, names::qualified);
        }
    }
}
