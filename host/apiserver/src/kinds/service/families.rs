//! What is inferred of a Service's addresses before any are given out.
//!
//! Services had one address before they had two, so each of these fields comes in a singular and a
//! plural form; clients send either, or send back what they were given with one thing changed.
//! These functions find out what is meant. The registry of addresses calls them around its work.

use serde_json::{Value, json};

use super::{
    super::{
        findings::Findings,
        ip,
        json::{at, carry, child, has, int, items, list, remove, text},
    },
    addresses, externally_accessible, has_node_ports, is_headless, needs_health_check, rules,
};
use crate::field_error::FieldError;

/// The singular and the plural form of a new service say the same.
pub(crate) fn normalise_new(service: &mut Value) {
    let spec = child(service, "spec");
    let single = text(spec, "/clusterIP").to_owned();
    if !single.is_empty() && list(spec, "/clusterIPs").is_empty() {
        set(spec, "clusterIPs", json!([single]));
    }
}

/// What was given out and is left out in an update stays, and both forms say the same.
pub(crate) fn normalise_changed(service: &mut Value, old: &Value) {
    let before = at(old, "/spec");
    let spec = child(service, "spec");
    if [&*spec, before]
        .iter()
        .all(|one| text(one, "/type") != "ExternalName")
    {
        if text(spec, "/clusterIP").is_empty() {
            carry(spec, before, "clusterIP");
        }
        if list(spec, "/clusterIPs").is_empty() && !list(before, "/clusterIPs").is_empty() {
            carry(spec, before, "clusterIPs");
        }
    }
    if has_node_ports(spec) && has_node_ports(before) {
        keep_node_ports(spec, before);
    }
    if needs_health_check(spec)
        && needs_health_check(before)
        && int(spec, "/healthCheckNodePort") == 0
    {
        carry(spec, before, "healthCheckNodePort");
    }
    let same_single = text(spec, "/clusterIP") == text(before, "/clusterIP");
    if list(spec, "/clusterIPs").is_empty() && same_single {
        if !list(before, "/clusterIPs").is_empty() {
            carry(spec, before, "clusterIPs");
        }
    } else if !same_single && list(spec, "/clusterIPs") == list(before, "/clusterIPs") {
        match text(spec, "/clusterIP").to_owned() {
            cleared if cleared.is_empty() && !text(before, "/clusterIP").is_empty() => {
                remove(spec, "clusterIPs");
            }
            single => set(spec, "clusterIPs", json!([single])),
        }
    }
}

/// Ports are known by their names; a number that another port took over is not given back.
fn keep_node_ports(spec: &mut Value, before: &Value) {
    let used = node_ports(spec);
    for port in items(spec, "ports") {
        let stored = list(before, "/ports")
            .iter()
            .rfind(|one| text(one, "/name") == text(port, "/name"));
        if let Some(stored) = stored
            && int(port, "/nodePort") == 0
            && int(stored, "/nodePort") != 0
            && !used.contains(&int(stored, "/nodePort"))
        {
            carry(port, stored, "nodePort");
        }
    }
}

/// All ports of nodes that the service names, without that of the health check.
pub(crate) fn node_ports(spec: &Value) -> Vec<i64> {
    list(spec, "/ports")
        .iter()
        .map(|port| int(port, "/nodePort"))
        .filter(|port| *port != 0)
        .collect()
}

/// Decide on families and policy, where this server has these families, the default first. An
/// update has the stored service too.
pub(crate) fn decide(
    service: &mut Value,
    old: Option<&Value>,
    served: &[&'static str],
) -> Vec<FieldError> {
    let spec = child(service, "spec");
    let before = old.map(|old| at(old, "/spec"));
    if text(spec, "/type") == "ExternalName"
        || before.is_some_and(|before| stays_as_preferred(spec, before))
    {
        return Vec::new();
    }
    let selects = at(spec, "/selector")
        .as_object()
        .is_some_and(|selector| !selector.is_empty());
    let free = text(spec, "/clusterIP") == "None" && !selects;
    if !has(spec, "/ipFamilyPolicy") {
        let stored = before.and_then(|before| at(before, "/ipFamilyPolicy").as_str());
        let policy = stored.unwrap_or(if free {
            "RequireDualStack"
        } else {
            "SingleStack"
        });
        set(spec, "ipFamilyPolicy", json!(policy));
    }
    let mut errors = Findings::default();
    rules::cluster_addresses(spec, &mut errors);
    if errors.count() > 0 {
        return errors.done();
    }
    let policy = text(spec, "/ipFamilyPolicy").to_owned();
    let field = "spec.ipFamilyPolicy";
    if let Some(before) = before {
        for (name, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
            let pointer = format!("/{name}");
            let (now, then) = (list(spec, &pointer), list(before, &pointer));
            if policy == "SingleStack" {
                if now == then && now.len() > 1 {
                    let first = now.first().cloned();
                    set(spec, name, first.into_iter().collect());
                }
            } else if !now.is_empty() && now.len() < then.len() {
                let detail = format!("must be 'SingleStack' to release the secondary {what}");
                errors.invalid(field, policy.as_str(), &detail);
            }
        }
    }
    if policy == "SingleStack" {
        for (name, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if list(spec, &format!("/{name}")).len() == 2 {
                let detail = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are \
                     specified"
                );
                errors.invalid(field, policy.as_str(), &detail);
            }
        }
    }
    let mut families: Vec<String> = addresses(spec, "ipFamilies")
        .into_iter()
        .map(str::to_owned)
        .collect();
    for (index, address) in addresses(spec, "clusterIPs").into_iter().enumerate() {
        if address == "None" {
            break;
        }
        if index < families.len() {
            continue;
        }
        let family = match ip::is_ipv6(address) {
            Some(true) => "IPv6",
            _ => "IPv4",
        };
        if served.contains(&family) {
            families.push(family.to_owned());
        } else {
            let detail = format!("{family} is not configured on this cluster");
            let shown = list(spec, "/clusterIPs").to_vec();
            errors.invalid(format!("spec.clusterIPs[{index}]"), shown, &detail);
        }
    }
    if errors.count() > 0 {
        return errors.done();
    }
    let first = served.first().copied().unwrap_or("IPv4");
    if !free {
        if policy == "RequireDualStack" && served.len() < 2 {
            let detail = "this cluster is not configured for dual-stack services";
            errors.invalid(field, policy.as_str(), detail);
        }
        for (index, family) in families.iter().enumerate() {
            if !served.contains(&family.as_str()) {
                let field = format!("spec.ipFamilies[{index}]");
                let detail = "not configured on this cluster";
                errors.invalid(field, family.as_str(), detail);
            }
        }
        if errors.count() > 0 {
            return errors.done();
        }
    }
    if families.is_empty() {
        families.push(first.to_owned());
    }
    if policy != "SingleStack" && families.len() == 1 && (free || served.len() == 2) {
        let other = match families.first().map(String::as_str) {
            Some("IPv4") => "IPv6",
            _ => "IPv4",
        };
        families.push(other.to_owned());
    }
    set(spec, "ipFamilies", json!(families));
    Vec::new()
}

/// A service that prefers two families is left alone when the server's own have changed meanwhile.
pub(crate) fn stays_as_preferred(spec: &Value, before: &Value) -> bool {
    let prefers = |one: &Value| text(one, "/ipFamilyPolicy") == "PreferDualStack";
    let kind = text(spec, "/type");
    has(spec, "/ipFamilyPolicy")
        && kind == text(before, "/type")
        && matches!(kind, "ClusterIP" | "LoadBalancer" | "NodePort")
        && prefers(spec)
        && (prefers(before) || !has(before, "/ipFamilyPolicy"))
        && list(spec, "/clusterIPs") == list(before, "/clusterIPs")
        && list(spec, "/ipFamilies") == list(before, "/ipFamilies")
}

/// Drop what no longer applies after a change of the type, unless it was changed too: that must
/// fail.
pub(crate) fn drop_inapplicable(service: &mut Value, old: &Value) {
    let before = at(old, "/spec");
    let spec = child(service, "spec");
    let same = |spec: &Value, name: &str| {
        let pointer = format!("/{name}");
        at(spec, &pointer) == at(before, &pointer)
    };
    let (kind, was) = (text(spec, "/type").to_owned(), text(before, "/type"));
    if kind == "ExternalName" && was != "ExternalName" {
        if same(spec, "clusterIP") && same(spec, "clusterIPs") {
            remove(spec, "clusterIP");
            remove(spec, "clusterIPs");
        }
        for name in ["ipFamilies", "ipFamilyPolicy"] {
            if same(spec, name) {
                remove(spec, name);
            }
        }
    }
    if has_node_ports(before) && !has_node_ports(spec) {
        let then = node_ports(before);
        if node_ports(spec).iter().all(|port| then.contains(port)) {
            for port in items(spec, "ports") {
                remove(port, "nodePort");
            }
        }
    }
    for (name, needs) in [
        (
            "healthCheckNodePort",
            needs_health_check as fn(&Value) -> bool,
        ),
        ("allocateLoadBalancerNodePorts", is_balancer),
        ("loadBalancerClass", is_balancer),
        ("externalTrafficPolicy", externally_accessible),
    ] {
        if needs(before) && !needs(spec) && same(spec, name) {
            remove(spec, name);
        }
    }
    if kind != "LoadBalancer" {
        set(child(service, "status"), "loadBalancer", json!({}));
    }
}

fn is_balancer(spec: &Value) -> bool {
    text(spec, "/type") == "LoadBalancer"
}

/// Whether the service gets addresses in the cluster.
pub(crate) fn wants_addresses(spec: &Value) -> bool {
    text(spec, "/type") != "ExternalName" && !is_headless(spec)
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(map) = object {
        map.insert(name.to_owned(), value);
    }
}
