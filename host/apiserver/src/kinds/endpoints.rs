//! Endpoints: the addresses behind a service, in the form that EndpointSlice has replaced.

use serde_json::{Map, Value, json};

use super::{
    KindSpec, check,
    findings::Findings,
    ip,
    json::{at, child, fill, has, int, items, list, text},
    metadata::{Look, judge},
    names,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// Addresses that a table shows.
const SHOWN: usize = 3;

pub(super) const SPEC: KindSpec = KindSpec {
    kind: "Endpoints",
    put_creates: true,
    list_kind: "EndpointsList",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    decode: |value| check("v1", "Endpoints", value),
    default: |object| {
        for subset in items(object, "subsets") {
            for port in items(subset, "ports") {
                fill(port, "protocol", "TCP");
            }
        }
    },
    prepare: |object, _| {
        (SPEC.default)(object);
        if subsets(object).is_empty() {
            repack(object);
        }
    },
    validate: |object, old| {
        const LOOKS: &[Look] = &[Look::Changes, Look::Whole, Look::Rules];
        judge(object, old, true, names::subdomain, LOOKS, || {
            subsets(object)
        })
    },
    deprecated: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    columns: &[
        Column::name(),
        Column::new("Endpoints", "Addresses and ports, the first few."),
        Column::age(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(shown(object)),
            table::age(object, now),
        ]
    },
    ..KindSpec::NAMESPACED
};

fn shown(object: &Value) -> String {
    let all = list(object, "/subsets");
    if all.is_empty() {
        return "<none>".to_owned();
    }
    let (mut shown, mut count) = (Vec::new(), 0);
    for subset in all {
        let addresses = list(subset, "/addresses");
        let ports = list(subset, "/ports");
        let mut show = |port: Option<i64>| {
            count += addresses.len();
            for address in addresses.iter().take(SHOWN.saturating_sub(shown.len())) {
                let address = text(address, "/ip");
                shown.push(match port {
                    None => address.to_owned(),
                    Some(port) if address.contains(':') => format!("[{address}]:{port}"),
                    Some(port) => format!("{address}:{port}"),
                });
            }
        };
        if ports.is_empty() {
            show(None);
        }
        for port in ports {
            show(Some(int(port, "/port")));
        }
    }
    let joined = shown.join(",");
    if count > SHOWN {
        format!("{joined} + {} more...", count - SHOWN)
    } else {
        joined
    }
}

fn subsets(object: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    for (index, subset) in list(object, "/subsets").iter().enumerate() {
        let field = format!("subsets[{index}]");
        if list(subset, "/addresses").is_empty() && list(subset, "/notReadyAddresses").is_empty() {
            errors.required(&field, "must specify `addresses` or `notReadyAddresses`");
        }
        for name in ["addresses", "notReadyAddresses"] {
            for (index, one) in list(subset, &format!("/{name}")).iter().enumerate() {
                address(one, &format!("{field}.{name}[{index}]"), &mut errors);
            }
        }
        let ports = list(subset, "/ports");
        for (index, port) in ports.iter().enumerate() {
            let field = format!("{field}.ports[{index}]");
            check_port(port, ports.len() > 1, &field, &mut errors);
        }
    }
    errors.done()
}

fn address(address: &Value, field: &str, errors: &mut Findings) {
    let (ip, at_ip) = (text(address, "/ip"), format!("{field}.ip"));
    errors.extend(ip::legacy(ip, &at_ip));
    let host = text(address, "/hostname");
    if !host.is_empty() {
        errors.named(&format!("{field}.hostname"), host, names::label);
    }
    if let Some(node) = at(address, "/nodeName").as_str() {
        errors.named(&format!("{field}.nodeName"), node, names::subdomain);
    }
    errors.extend(ip::ordinary(ip, &at_ip));
}

fn check_port(port: &Value, needs_name: bool, field: &str, errors: &mut Findings) {
    let name = text(port, "/name");
    if !name.is_empty() {
        errors.named(&format!("{field}.name"), name, names::label);
    } else if needs_name {
        errors.required(format!("{field}.name"), "");
    }
    let number = int(port, "/port");
    for detail in names::port_number(number) {
        errors.invalid(format!("{field}.port"), number, &detail);
    }
    let protocol = text(port, "/protocol");
    errors.required_one_of(format!("{field}.protocol"), protocol, &PROTOCOLS);
    if let Some(protocol) = at(port, "/appProtocol").as_str() {
        let field = format!("{field}.appProtocol");
        errors.named(&field, protocol, names::qualified);
    }
}

/// Bring subsets into the form in which each address stands once for each set of ports it has, and
/// addresses are in order: what the controllers of Kubernetes compare with.
fn repack(object: &mut Value) {
    /// Places of addresses, each with whether it is ready.
    type Hosts = Vec<(usize, bool)>;
    let mut addresses: Vec<Value> = Vec::new();
    let mut by_port: Vec<(Value, Hosts)> = Vec::new();
    for subset in list(object, "/subsets") {
        let mut ports = list(subset, "/ports").to_vec();
        if ports.is_empty() {
            ports.push(Value::Null);
        }
        for port in ports {
            let at_port = match by_port.iter().position(|(known, _)| *known == port) {
                Some(at) => at,
                None => {
                    by_port.push((port, Hosts::new()));
                    by_port.len() - 1
                }
            };
            let Some((_, hosts)) = by_port.get_mut(at_port) else {
                continue;
            };
            for (name, ready) in [("/addresses", true), ("/notReadyAddresses", false)] {
                for one in list(subset, name) {
                    let same = |known: &Value| {
                        text(known, "/ip") == text(one, "/ip")
                            && text(known, "/targetRef/uid") == text(one, "/targetRef/uid")
                    };
                    let place = addresses.iter().position(same).unwrap_or_else(|| {
                        addresses.push(one.clone());
                        addresses.len() - 1
                    });
                    match hosts.iter_mut().find(|(known, _)| *known == place) {
                        // Who is not ready in one place is ready nowhere.
                        Some((_, was)) => *was &= ready,
                        None => hosts.push((place, ready)),
                    }
                }
            }
        }
    }
    let key = |place: usize| {
        let of = |pointer| {
            addresses
                .get(place)
                .map(|one| text(one, pointer).to_owned())
        };
        (of("/ip"), of("/targetRef/uid"))
    };
    let mut packed: Vec<(Hosts, Vec<Value>)> = Vec::new();
    for (port, mut hosts) in by_port {
        hosts.sort_by_key(|(place, _)| key(*place));
        let port = Some(port).filter(|port| !port.is_null());
        match packed.iter_mut().find(|(known, _)| *known == hosts) {
            Some((_, ports)) => ports.extend(port),
            None => packed.push((hosts, port.into_iter().collect())),
        }
    }
    let subsets: Vec<Value> = packed
        .into_iter()
        .map(|(hosts, ports)| {
            let mut subset = Map::new();
            for (name, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                let group: Vec<Value> = hosts
                    .iter()
                    .filter(|(_, is)| *is == ready)
                    .filter_map(|(place, _)| addresses.get(*place).cloned())
                    .collect();
                if !group.is_empty() {
                    subset.insert(name.to_owned(), group.into());
                }
            }
            if !ports.is_empty() {
                subset.insert("ports".to_owned(), ports.into());
            }
            subset.into()
        })
        .collect();
    if has(object, "/subsets") {
        *child(object, "subsets") = subsets.into();
    }
}
