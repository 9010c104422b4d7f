//! NetworkPolicy: who may talk to the pods of a namespace, and to whom they may talk.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::Findings,
    ip,
    json::{at, child, fill, has, items, list, text},
    metadata::{TWICE, judge},
    names,
    workload::{selector_text, validate_selector},
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

const TYPES: [&str; 2] = ["Ingress", "Egress"];

pub(super) const SPEC: KindSpec = KindSpec {
    group: "networking.k8s.io",
    kind: "NetworkPolicy",
    list_kind: "NetworkPolicyList",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    generation: true,
    decode: |value| check("networking.k8s.io/v1", "NetworkPolicy", value),
    default,
    validate,
    warnings,
    columns: &[
        Column::name(),
        Column::new("Pod-Selector", "Which pods it is about."),
        Column::age(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(selector_text(at(object, "/spec/podSelector"))),
            table::age(object, now),
        ]
    },
    ..KindSpec::NAMESPACED
};

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    child(spec, "podSelector");
    for direction in ["ingress", "egress"] {
        for rule in items(spec, direction) {
            for port in items(rule, "ports") {
                fill(port, "protocol", "TCP");
            }
        }
    }
    let both = !list(spec, "/egress").is_empty();
    let types = if both { &TYPES[..] } else { &TYPES[..1] };
    fill(spec, "policyTypes", json!(types));
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    judge(object, old, true, names::subdomain, TWICE, || rules(object))
}

fn rules(object: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let spec = at(object, "/spec");
    let selector = at(spec, "/podSelector");
    errors.extend(validate_selector(selector, "spec.podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(spec, &format!("/{direction}")).iter().enumerate() {
            let field = format!("spec.{direction}[{index}]");
            for (index, one) in list(rule, "/ports").iter().enumerate() {
                port(one, &format!("{field}.ports[{index}]"), &mut errors);
            }
            for (index, one) in list(rule, &format!("/{peers}")).iter().enumerate() {
                peer(one, &format!("{field}.{peers}[{index}]"), &mut errors);
            }
        }
    }
    let types = at(spec, "/policyTypes");
    if list(types, "").len() > TYPES.len() {
        let detail = "may not specify more than two policyTypes";
        errors.invalid("spec.policyTypes", types.clone(), detail);
        return errors.done();
    }
    for (index, kind) in list(types, "").iter().enumerate() {
        let field = format!("spec.policyTypes[{index}]");
        errors.one_of(field, kind.as_str().unwrap_or_default(), &TYPES);
    }
    errors.done()
}

/// Ranges that are taken although they are spelled unusually.
fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    let mut all = Vec::new();
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = list(object, &format!("/spec/{direction}")).iter();
        for (rule, given) in rules.enumerate() {
            let given = list(given, &format!("/{peers}")).iter().enumerate();
            for (index, peer) in given {
                let block = at(peer, "/ipBlock");
                let field = format!("spec.{direction}[{rule}].{peers}[{index}].ipBlock");
                let whole = text(block, "/cidr");
                all.extend(ip::range_warnings(whole, &format!("{field}.cidr")));
                for (index, part) in list(block, "/except").iter().enumerate() {
                    let part = part.as_str().unwrap_or_default();
                    all.extend(ip::range_warnings(
                        part,
                        &format!("{field}.except[{index}]"),
                    ));
                }
            }
        }
    }
    all
}

fn port(one: &Value, field: &str, errors: &mut Findings) {
    if let Some(protocol) = at(one, "/protocol").as_str() {
        let supported = ["TCP", "UDP", "SCTP"];
        errors.one_of(format!("{field}.protocol"), protocol, &supported);
    }
    let end = at(one, "/endPort").as_i64();
    let (at_port, at_end) = (format!("{field}.port"), format!("{field}.endPort"));
    match at(one, "/port") {
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or_default();
            for detail in names::port_number(number) {
                errors.invalid(&at_port, number, &detail);
            }
            if let Some(end) = end {
                if end < number {
                    let detail = "must be greater than or equal to `port`";
                    errors.invalid(&at_end, end, detail);
                }
                for detail in names::port_number(end) {
                    errors.invalid(&at_end, end, &detail);
                }
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                let detail = "may not be specified when `port` is non-numeric";
                errors.invalid(&at_end, end, detail);
            }
            errors.named(&at_port, name, names::port_name);
        }
        _ => {
            if let Some(end) = end {
                let detail = "may not be specified when `port` is not specified";
                errors.invalid(&at_end, end, detail);
            }
        }
    }
}

fn peer(one: &Value, field: &str, errors: &mut Findings) {
    let mut peers = 0;
    for name in ["podSelector", "namespaceSelector"] {
        let selector = at(one, &format!("/{name}"));
        if !selector.is_null() {
            peers += 1;
            errors.extend(validate_selector(selector, &format!("{field}.{name}")));
        }
    }
    let block = has(one, "/ipBlock");
    if block {
        peers += 1;
        ip_block(at(one, "/ipBlock"), &format!("{field}.ipBlock"), errors);
    }
    if peers == 0 {
        errors.required(field, "must specify a peer");
    } else if peers > 1 && block {
        errors.forbidden(field, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(block: &Value, field: &str, errors: &mut Findings) {
    let (cidr, at_cidr) = (text(block, "/cidr"), format!("{field}.cidr"));
    if cidr.is_empty() {
        return errors.required(at_cidr, "");
    }
    errors.extend(ip::legacy_range(cidr, &at_cidr));
    let Some((_, whole)) = ip::parse_range(cidr) else {
        return;
    };
    for (index, except) in list(block, "/except").iter().enumerate() {
        let field = format!("{field}.except[{index}]");
        let text = except.as_str().unwrap_or_default();
        errors.extend(ip::legacy_range(text, &field));
        if let Some((_, part)) = ip::parse_range(text)
            && (!whole.contains(part.first) || whole.bits >= part.bits)
        {
            errors.invalid(field, text, "must be a strict subset of `cidr`");
        }
    }
}
