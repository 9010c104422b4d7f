//! What a Service may say.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    super::{
        findings::{Findings, IMMUTABLE, structure, text_or_empty},
        ip,
        json::{at, has, int, list, text},
        metadata, names, validate_metadata,
    },
    addresses, externally_accessible, is_headless, needs_health_check,
};
use crate::field_error::FieldError;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const AFFINITIES: [&str; 2] = ["ClientIP", "None"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const FAMILY_POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];
const MODES: [&str; 2] = ["Proxy", "VIP"];
/// A day.
const LONGEST_AFFINITY: i64 = 86_400;
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
const STAYS: &str = "may not change once set";

pub(super) fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    errors.extend(validate_metadata(object, old, true, names::label));
    let spec = at(object, "/spec");
    if let Some(old) = old {
        let before = at(old, "/spec");
        changed_addresses(spec, before, &mut errors);
        changed_families(spec, before, &mut errors);
        let class = at(spec, "/loadBalancerClass");
        let both = [spec, before]
            .iter()
            .all(|one| text(one, "/type") == "LoadBalancer");
        if both && class != at(before, "/loadBalancerClass") {
            errors.invalid("spec.loadBalancerClass", class.clone(), STAYS);
        }
        if needs_health_check(spec)
            && needs_health_check(before)
            && at(spec, "/healthCheckNodePort") != at(before, "/healthCheckNodePort")
        {
            errors.forbidden("spec.healthCheckNodePort", IMMUTABLE);
        }
    }
    if old.is_some() {
        errors.extend(metadata::whole(object, true, names::label));
    }
    let note = |name: &str| at(object, "/metadata/annotations").get(name);
    if let (Some(mode), Some(hints)) = (note(MODE), note(HINTS))
        && mode != hints
    {
        let field = format!("metadata.annotations[{MODE}]");
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        errors.invalid(field, mode.clone(), &detail);
    }
    by_type(spec, &mut errors);
    ports(spec, &mut errors);
    errors.extend(metadata::labels(at(spec, "/selector"), "spec.selector"));
    affinity(spec, &mut errors);
    cluster_addresses(spec, &mut errors);
    for (index, address) in list(spec, "/externalIPs").iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        let field = format!("spec.externalIPs[{index}]");
        let wrong = ip::legacy(address, &field);
        match wrong.is_empty() {
            true => errors.extend(ip::ordinary(address, &field)),
            false => errors.extend(wrong),
        }
    }
    errors.required_one_of("spec.type", text(spec, "/type"), &TYPES);
    port_pairs(spec, &mut errors);
    balancer(object, &mut errors);
    traffic(spec, &mut errors);
    errors.done()
}

fn by_type(spec: &Value, errors: &mut Findings) {
    let kind = text(spec, "/type");
    let headless = is_headless(spec);
    if list(spec, "/ports").is_empty() && !headless && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    if headless && matches!(kind, "LoadBalancer" | "NodePort") {
        let detail = format!("may not be set to 'None' for {kind} services");
        errors.invalid("spec.clusterIPs[0]", "None", &detail);
    }
    if kind != "ExternalName" {
        return;
    }
    let detail = "may not be set for ExternalName services";
    for name in ["clusterIPs", "ipFamilies"] {
        if !list(spec, &format!("/{name}")).is_empty() {
            errors.forbidden(format!("spec.{name}"), detail);
        }
    }
    if has(spec, "/ipFamilyPolicy") {
        errors.forbidden("spec.ipFamilyPolicy", detail);
    }
    let given = text(spec, "/externalName");
    let name = given.strip_suffix('.').unwrap_or(given);
    errors.required_name("spec.externalName", name, names::subdomain);
}

fn ports(spec: &Value, errors: &mut Findings) {
    let all = list(spec, "/ports");
    let mut seen = HashSet::new();
    for (index, port) in all.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let (name, at_name) = (text(port, "/name"), format!("{field}.name"));
        if name.is_empty() && all.len() > 1 {
            errors.required(at_name, "");
        } else if !name.is_empty() {
            errors.named(&at_name, name, names::label);
            if !seen.insert(name) {
                errors.duplicate(at_name, name);
            }
        }
        let number = int(port, "/port");
        for why in names::port_number(number) {
            errors.invalid(format!("{field}.port"), number, &why);
        }
        let protocol = text(port, "/protocol");
        errors.required_one_of(format!("{field}.protocol"), protocol, &PROTOCOLS);
        let target = at(port, "/targetPort");
        let at_target = format!("{field}.targetPort");
        match target {
            Value::Number(number) => {
                for why in names::port_number(number.as_i64().unwrap_or_default()) {
                    errors.invalid(&at_target, target.clone(), &why);
                }
            }
            Value::String(name) => errors.named(&at_target, name, names::port_name),
            _ => {}
        }
        if let Some(protocol) = at(port, "/appProtocol").as_str() {
            errors.named(&format!("{field}.appProtocol"), protocol, names::qualified);
        }
    }
}

fn affinity(spec: &Value, errors: &mut Findings) {
    let kind = text(spec, "/sessionAffinity");
    errors.required_one_of("spec.sessionAffinity", kind, &AFFINITIES);
    let (config, field) = (
        at(spec, "/sessionAffinityConfig"),
        "spec.sessionAffinityConfig",
    );
    let detail = "when session affinity type is ClientIP";
    let seconds = at(config, "/clientIP/timeoutSeconds");
    match kind {
        "None" if !config.is_null() => {
            errors.forbidden(field, "must not be set when session affinity is None");
        }
        "ClientIP" if config.is_null() => errors.required(field, detail),
        "ClientIP" if !has(config, "/clientIP") => {
            errors.required(format!("{field}.clientIP"), detail);
        }
        "ClientIP" if seconds.is_null() => {
            errors.required(format!("{field}.clientIP.timeoutSeconds"), detail);
        }
        "ClientIP"
            if !seconds
                .as_i64()
                .is_some_and(|n| (1..=LONGEST_AFFINITY).contains(&n)) =>
        {
            let detail = format!("must be greater than 0 and less than {LONGEST_AFFINITY}");
            let field = format!("{field}.clientIP.timeoutSeconds");
            errors.invalid(field, seconds.clone(), &detail);
        }
        _ => {}
    }
}

/// The rules of `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`, which hold before
/// addresses are given out and after.
pub(super) fn cluster_addresses(spec: &Value, errors: &mut Findings) {
    if text(spec, "/type") == "ExternalName" {
        return;
    }
    let (field, given) = ("spec.clusterIPs", list(spec, "/clusterIPs"));
    let single = text(spec, "/clusterIP");
    match given.first() {
        None if !single.is_empty() => errors.required(field, ""),
        Some(_) if single.is_empty() => {
            let detail = "must be empty when `clusterIP` is not specified";
            errors.invalid(field, given.to_vec(), detail);
        }
        Some(first) if first != single => {
            errors.invalid(field, given.to_vec(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let mut seen = HashSet::new();
    for (index, family) in addresses(spec, "ipFamilies").into_iter().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        errors.one_of(&field, family, &FAMILIES);
        if !seen.insert(family) {
            errors.duplicate(field, family);
        }
    }
    if let Some(policy) = at(spec, "/ipFamilyPolicy").as_str() {
        errors.one_of("spec.ipFamilyPolicy", policy, &FAMILY_POLICIES);
    }
    let all = addresses(spec, "clusterIPs");
    let mut bad = false;
    for (index, address) in all.iter().enumerate() {
        if index == 0 && *address == "None" {
            if all.len() > 1 {
                bad = true;
                let detail = "'None' must be the first and only value";
                errors.invalid(field, given.to_vec(), detail);
            }
            continue;
        }
        let wrong = ip::legacy(address, &format!("{field}[{index}]"));
        bad |= !wrong.is_empty();
        errors.extend(wrong);
    }
    if all.len() > 2 {
        errors.invalid(field, given.to_vec(), "may only hold up to 2 values");
    }
    if bad {
        return;
    }
    let six = |address: &str| ip::is_ipv6(address) == Some(true);
    if all.len() > 1 && (all.iter().all(|one| six(one)) || !all.iter().any(|one| six(one))) {
        let detail = "may specify no more than one IP for each IP family";
        errors.invalid(field, given.to_vec(), detail);
    }
    if is_headless(spec) {
        return;
    }
    let families = addresses(spec, "ipFamilies");
    for (index, (address, family)) in all.iter().zip(families).enumerate() {
        if FAMILIES.contains(&family) && six(address) != (family == "IPv6") {
            let detail =
                format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.invalid(format!("{field}[{index}]"), *address, &detail);
        }
    }
}

/// Both have addresses of their own at all.
fn comparable(spec: &Value, before: &Value) -> bool {
    [spec, before]
        .iter()
        .all(|one| text(one, "/type") != "ExternalName")
}

fn changed_addresses(spec: &Value, before: &Value, errors: &mut Findings) {
    if !comparable(spec, before) || (is_headless(spec) && is_headless(before)) {
        return;
    }
    let (now, then) = (list(spec, "/clusterIPs"), list(before, "/clusterIPs"));
    let first = "spec.clusterIPs[0]";
    if now.len() == then.len() {
        for (index, _) in now
            .iter()
            .zip(then)
            .enumerate()
            .filter(|(_, (a, b))| a != b)
        {
            errors.invalid(format!("spec.clusterIPs[{index}]"), now.to_vec(), STAYS);
        }
        return;
    }
    if now.is_empty() {
        let shown = at(spec, "/clusterIPs").clone();
        errors.invalid(first, shown, "primary clusterIP can not be unset");
    }
    if let (Some(a), Some(b)) = (now.first(), then.first())
        && a != b
    {
        errors.invalid(first, now.to_vec(), STAYS);
    }
    let policy = at(spec, "/ipFamilyPolicy");
    if then.len() > now.len() && now.len() == 1 && policy != "SingleStack" {
        let detail = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.invalid("spec.ipFamilyPolicy", policy.clone(), detail);
    }
}

fn changed_families(spec: &Value, before: &Value, errors: &mut Findings) {
    if !comparable(spec, before) || is_headless(spec) || is_headless(before) {
        return;
    }
    let (now, then) = (list(spec, "/ipFamilies"), list(before, "/ipFamilies"));
    let first = "spec.ipFamilies[0]";
    if now.len() == then.len() {
        for _ in now.iter().zip(then).filter(|(a, b)| a != b) {
            errors.invalid(first, now.to_vec(), STAYS);
        }
        return;
    }
    let addresses = at(spec, "/clusterIPs").clone();
    if then.len() > now.len() && list(&addresses, "").is_empty() {
        let shown = at(spec, "/ipFamilies").clone();
        errors.invalid(first, shown, "primary ipFamily can not be unset");
    }
    if let (Some(a), Some(b)) = (now.first(), then.first())
        && a != b
    {
        // The real server shows the addresses here.
        errors.invalid(first, addresses, STAYS);
    }
    let policy = at(spec, "/ipFamilyPolicy");
    if then.len() > now.len() && now.len() == 1 && policy != "SingleStack" {
        let detail = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.invalid("spec.ipFamilyPolicy", policy.clone(), detail);
    }
}

/// Ports of nodes where there may be none, and pairs that stand twice.
fn port_pairs(spec: &Value, errors: &mut Findings) {
    let all = list(spec, "/ports");
    if text(spec, "/type") == "ClusterIP" {
        for (index, port) in all.iter().enumerate() {
            if int(port, "/nodePort") != 0 {
                let detail = "may not be used when `type` is 'ClusterIP'";
                errors.forbidden(format!("spec.ports[{index}].nodePort"), detail);
            }
        }
    }
    let mut seen = HashSet::new();
    for (index, port) in all.iter().enumerate() {
        let number = int(port, "/nodePort");
        if number != 0 && !seen.insert((text(port, "/protocol"), number)) {
            errors.duplicate(format!("spec.ports[{index}].nodePort"), number);
        }
    }
    let mut seen = HashSet::new();
    for (index, port) in all.iter().enumerate() {
        let number = int(port, "/port");
        if !seen.insert((text(port, "/protocol"), number)) {
            let shown = structure(&[
                ("Name", &json!("")),
                ("Protocol", &text_or_empty(port, "/protocol")),
                ("AppProtocol", &Value::Null),
                ("Port", &json!(number)),
                ("TargetPort", &json!(0)),
                ("NodePort", &json!(0)),
            ]);
            errors.duplicate_shown(format!("spec.ports[{index}]"), &shown);
        }
    }
}

fn balancer(object: &Value, errors: &mut Findings) {
    let spec = at(object, "/spec");
    let is_balancer = text(spec, "/type") == "LoadBalancer";
    let ranges = addresses(spec, "loadBalancerSourceRanges");
    let note = at(object, "/metadata/annotations")
        .get(RANGES)
        .and_then(Value::as_str);
    let (field, given): (_, Vec<(usize, &str)>) = match note {
        _ if !ranges.is_empty() => (
            "spec.LoadBalancerSourceRanges".to_owned(),
            ranges.into_iter().enumerate().collect(),
        ),
        Some(note) => (
            format!("metadata.annotations[{RANGES}]"),
            match note.trim() {
                "" => Vec::new(),
                note => note.split(',').enumerate().collect(),
            },
        ),
        None => (String::new(), Vec::new()),
    };
    if !field.is_empty() && !is_balancer {
        errors.forbidden(&field, BALANCER_ONLY);
    }
    for (index, range) in given {
        let field = match field.starts_with("spec") {
            true => format!("{field}[{index}]"),
            false => field.clone(),
        };
        errors.extend(ip::legacy_range(range.trim(), &field));
    }
    let ports = has(spec, "/allocateLoadBalancerNodePorts");
    if ports && !is_balancer {
        errors.forbidden("spec.allocateLoadBalancerNodePorts", BALANCER_ONLY);
    }
    if !ports && is_balancer {
        errors.required("allocateLoadBalancerNodePorts", "");
    }
    match at(spec, "/loadBalancerClass").as_str() {
        Some(class) if is_balancer => {
            errors.named("spec.loadBalancerClass", class, names::qualified);
        }
        Some(_) => errors.forbidden("spec.loadBalancerClass", BALANCER_ONLY),
        None => {}
    }
}

fn traffic(spec: &Value, errors: &mut Findings) {
    let (policy, field) = (
        text(spec, "/externalTrafficPolicy"),
        "spec.externalTrafficPolicy",
    );
    if externally_accessible(spec) {
        errors.required_one_of(field, policy, &POLICIES);
    } else if !policy.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.invalid(field, policy, detail);
    }
    let (port, field) = (
        int(spec, "/healthCheckNodePort"),
        "spec.healthCheckNodePort",
    );
    match (needs_health_check(spec), port) {
        (false, 0) => {}
        (false, _) => {
            let detail = "may only be set when `type` is 'LoadBalancer' and \
                          `externalTrafficPolicy` is 'Local'";
            errors.invalid(field, port, detail);
        }
        (true, 0) => errors.required(field, ""),
        (true, _) => {
            for why in names::port_number(port) {
                errors.invalid(field, port, &why);
            }
        }
    }
    let field = "spec.internalTrafficPolicy";
    match at(spec, "/internalTrafficPolicy").as_str() {
        Some(policy) => errors.one_of(field, policy, &POLICIES),
        None if matches!(
            text(spec, "/type"),
            "ClusterIP" | "LoadBalancer" | "NodePort"
        ) =>
        {
            errors.required(field, "");
        }
        None => {}
    }
    if let Some(given) = at(spec, "/trafficDistribution").as_str() {
        errors.one_of("spec.trafficDistribution", given, &DISTRIBUTIONS);
    }
}

/// The rules of a status: where a balancer was set up.
pub(super) fn validate_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    errors.extend(metadata::validate_update(object, old));
    let (given, field) = (
        list(object, "/status/loadBalancer/ingress"),
        "status.loadBalancer.ingress",
    );
    if text(object, "/spec/type") != "LoadBalancer" {
        if !given.is_empty() {
            let detail = "may only be used when `spec.type` is 'LoadBalancer'";
            errors.forbidden(field, detail);
        }
        return errors.done();
    }
    for (index, one) in given.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let (address, host) = (text(one, "/ip"), text(one, "/hostname"));
        if !address.is_empty() {
            errors.extend(ip::legacy(address, &format!("{field}.ip")));
        }
        let at_mode = format!("{field}.ipMode");
        match at(one, "/ipMode").as_str() {
            None if !address.is_empty() => {
                errors.required(at_mode, "must be specified when `ip` is set");
            }
            Some(_) if address.is_empty() => {
                errors.forbidden(&at_mode, "may not be specified when `ip` is not set");
            }
            Some(mode) => errors.one_of(at_mode, mode, &MODES),
            None => {}
        }
        if !host.is_empty() {
            let field = format!("{field}.hostname");
            errors.named(&field, host, names::subdomain);
            if ip::parse(host).is_some() {
                errors.invalid(&field, host, "must be a DNS name, not an IP address");
            }
        }
    }
    errors.done()
}

/// What is accepted and yet probably not meant.
pub(super) fn warnings(object: &Value) -> Vec<String> {
    let spec = at(object, "/spec");
    let mut found = Vec::new();
    if at(object, "/metadata/annotations").get(HINTS).is_some() {
        found.push(format!(
            "annotation {HINTS} is deprecated, please use {MODE} instead"
        ));
    }
    let kind = text(spec, "/type");
    if kind != "ExternalName" && !is_headless(spec) {
        for (index, address) in addresses(spec, "clusterIPs").into_iter().enumerate() {
            found.extend(ip::warning(address, &format!("spec.clusterIPs[{index}]")));
        }
    }
    let external = addresses(spec, "externalIPs");
    let headless = kind == "ClusterIP" && text(spec, "/clusterIP") == "None";
    if headless {
        if !text(spec, "/loadBalancerIP").is_empty() {
            found.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if !external.is_empty() {
            found.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if text(spec, "/sessionAffinity") != "None" {
            found.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    for (index, address) in external.iter().enumerate() {
        found.extend(ip::warning(address, &format!("spec.externalIPs[{index}]")));
    }
    if !external.is_empty() && !headless && kind != "ExternalName" {
        let text =
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
        found.push(text.to_owned());
    }
    found.extend(ip::warning(
        text(spec, "/loadBalancerIP"),
        "spec.loadBalancerIP",
    ));
    for (index, range) in addresses(spec, "loadBalancerSourceRanges")
        .into_iter()
        .enumerate()
    {
        let field = format!("spec.loadBalancerSourceRanges[{index}]");
        found.extend(ip::range_warnings(range, &field));
    }
    if kind == "ExternalName" && !external.is_empty() {
        found.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !text(spec, "/externalName").is_empty() {
        let text = "spec.externalName is ignored when spec.type is not \"ExternalName\"";
        found.push(text.to_owned());
    }
    if text(spec, "/trafficDistribution") == "PreferClose" {
        let text =
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"";
        found.push(text.to_owned());
    }
    found
}
