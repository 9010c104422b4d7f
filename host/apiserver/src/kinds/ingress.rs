//! Ingress: which requests from outside reach which service.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::Findings,
    ip,
    json::{at, child, entries, fill, has, int, list, text},
    metadata::{Look, judge},
    names, status_only,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
/// What a path cannot mean, or could mean two things.
const UNCLEAR: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
/// Hosts that a table shows.
const SHOWN: usize = 3;

pub(super) const SPEC: KindSpec = KindSpec {
    group: "networking.k8s.io",
    kind: "Ingress",
    list_kind: "IngressList",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    status: true,
    generation: true,
    decode: |value| check("networking.k8s.io/v1", "Ingress", value),
    default: |object| {
        child(object, "spec");
        fill(child(object, "status"), "loadBalancer", json!({}));
    },
    prepare: status_only,
    validate,
    warnings: |object, old| match old {
        // Only who makes one is told.
        None => warnings(object),
        Some(_) => Vec::new(),
    },
    validate_status,
    columns: &[
        Column::name(),
        Column::new("Class", "Whose work the rules are."),
        Column::new("Hosts", "Hosts with rules."),
        Column::new("Address", "Where the outside finds it."),
        Column::new("Ports", "Ports that are listened on."),
        Column::age(),
    ],
    cells: |object, now| {
        let class = at(object, "/spec/ingressClassName");
        let secured = !list(object, "/spec/tls").is_empty();
        vec![
            json!(text(object, "/metadata/name")),
            json!(class.as_str().unwrap_or("<none>")),
            json!(hosts(list(object, "/spec/rules"))),
            json!(addresses(object)),
            json!(if secured { "80, 443" } else { "80" }),
            table::age(object, now),
        ]
    },
    ..KindSpec::NAMESPACED
};

fn hosts(rules: &[Value]) -> String {
    let all: Vec<&str> = rules
        .iter()
        .map(|rule| text(rule, "/host"))
        .filter(|host| !host.is_empty())
        .collect();
    let shown = all
        .get(..SHOWN.min(all.len()))
        .unwrap_or_default()
        .join(",");
    match all.len() {
        0 => "*".to_owned(),
        n if n >= SHOWN && rules.len() > SHOWN => {
            format!("{shown} + {} more...", rules.len() - SHOWN)
        }
        _ => shown,
    }
}

fn addresses(object: &Value) -> String {
    let mut all: Vec<&str> = list(object, "/status/loadBalancer/ingress")
        .iter()
        .map(|one| match text(one, "/ip") {
            "" => text(one, "/hostname"),
            address => address,
        })
        .filter(|one| !one.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    all.join(",")
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    const LOOKS: &[Look] = &[Look::Changes, Look::Whole, Look::Rules];
    judge(object, old, true, names::subdomain, LOOKS, || {
        rules(object, old)
    })
}

/// The class in the old place.
fn warnings(object: &Value) -> Vec<String> {
    let annotated =
        entries(object, "/metadata/annotations").any(|(key, _)| key == CLASS_ANNOTATION);
    let old_style = annotated && !has(object, "/spec/ingressClassName");
    Vec::from_iter(old_style.then(|| {
        format!(
            "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' \
             instead"
        )
    }))
}

fn rules(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let spec = at(object, "/spec");
    let rules = list(spec, "/rules");
    if rules.is_empty() && !has(spec, "/defaultBackend") {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.invalid("spec", at(spec, "/rules").clone(), detail);
    }
    if has(spec, "/defaultBackend") {
        let field = "spec.defaultBackend";
        backend(at(spec, "/defaultBackend"), field, &mut errors);
    }
    for (index, rule) in rules.iter().enumerate() {
        validate_rule(rule, &format!("spec.rules[{index}]"), &mut errors);
    }
    let bad_before = old.is_some_and(has_bad_secret);
    for (index, tls) in list(spec, "/tls").iter().enumerate() {
        let field = format!("spec.tls[{index}]");
        for (index, host) in list(tls, "/hosts").iter().enumerate() {
            let field = format!("{field}.hosts[{index}]");
            host_name(host.as_str().unwrap_or_default(), &field, &mut errors);
        }
        let secret = text(tls, "/secretName");
        if !secret.is_empty() && !bad_before {
            errors.named(&format!("{field}.secretName"), secret, names::subdomain);
        }
    }
    let class = at(spec, "/ingressClassName").as_str();
    if let Some(class) = class {
        errors.named("spec.ingressClassName", class, names::subdomain);
    }
    let annotated =
        entries(object, "/metadata/annotations").find(|(key, _)| *key == CLASS_ANNOTATION);
    if let (None, Some(class), Some((_, annotated))) = (old, class, annotated)
        && annotated != class
    {
        let detail = "must match `ingressClassName` when both are specified";
        errors.invalid(
            format!("annotations.{CLASS_ANNOTATION}"),
            annotated.clone(),
            detail,
        );
    }
    errors.done()
}

fn has_bad_secret(old: &Value) -> bool {
    list(old, "/spec/tls").iter().any(|tls| {
        let name = text(tls, "/secretName");
        !name.is_empty() && !names::subdomain(name).is_empty()
    })
}

fn host_name(host: &str, field: &str, errors: &mut Findings) {
    let rule = if host.contains('*') {
        names::wildcard_subdomain
    } else {
        names::subdomain
    };
    errors.named(field, host, rule);
}

fn validate_rule(rule: &Value, field: &str, errors: &mut Findings) {
    let host = text(rule, "/host");
    if !host.is_empty() {
        let field = format!("{field}.host");
        if ip::parse(host).is_some() {
            errors.invalid(&field, host, "must be a DNS name, not an IP address");
        }
        host_name(host, &field, errors);
    }
    let http = at(rule, "/http");
    if http.is_null() {
        return;
    }
    let paths = list(http, "/paths");
    if paths.is_empty() {
        errors.required(format!("{field}.http.paths"), "");
    }
    for (index, path) in paths.iter().enumerate() {
        validate_path(path, &format!("{field}.http.paths[{index}]"), errors);
    }
}

fn validate_path(given: &Value, field: &str, errors: &mut Findings) {
    let (path, at_path) = (text(given, "/path"), format!("{field}.path"));
    let Some(kind) = at(given, "/pathType").as_str() else {
        errors.required(format!("{field}.pathType"), "pathType must be specified");
        return;
    };
    match kind {
        "Exact" | "Prefix" => {
            if !path.starts_with('/') {
                errors.invalid(&at_path, path, "must be an absolute path");
            }
            for part in UNCLEAR.iter().filter(|part| path.contains(**part)) {
                errors.invalid(&at_path, path, &format!("must not contain '{part}'"));
            }
            for end in ["/..", "/."].iter().filter(|end| path.ends_with(**end)) {
                errors.invalid(&at_path, path, &format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                errors.invalid(&at_path, path, "must be an absolute path");
            }
        }
        other => errors.unsupported(format!("{field}.pathType"), other, &PATH_TYPES),
    }
    backend(at(given, "/backend"), &format!("{field}.backend"), errors);
}

fn backend(backend: &Value, field: &str, errors: &mut Findings) {
    let (resource, service) = (at(backend, "/resource"), at(backend, "/service"));
    match (resource.is_null(), service.is_null()) {
        (false, false) => {
            let detail = "cannot set both resource and service backends";
            errors.invalid(field, "", detail);
        }
        (false, true) => typed_reference(resource, &format!("{field}.resource"), errors),
        (true, false) => {
            let name = text(service, "/name");
            errors.required_name(&format!("{field}.service.name"), name, names::label);
            let (port, number) = (text(service, "/port/name"), int(service, "/port/number"));
            match (port, number) {
                ("", 0) => errors.required(field, "port name or number is required"),
                ("", number) => {
                    for detail in names::port_number(number) {
                        let field = format!("{field}.service.port.number");
                        errors.invalid(field, number, &detail);
                    }
                }
                (port, 0) => {
                    let field = format!("{field}.service.port.name");
                    errors.named(&field, port, names::port_name);
                }
                _ => errors.invalid(field, "", "cannot set both port name & port number"),
            }
        }
        (true, true) => errors.invalid(field, "", "resource or service backend is required"),
    }
}

/// `core/v1 TypedLocalObjectReference`, and what begins like it.
pub(super) fn typed_reference(reference: &Value, field: &str, errors: &mut Findings) {
    if let Some(group) = at(reference, "/apiGroup").as_str() {
        errors.named(&format!("{field}.apiGroup"), group, names::subdomain);
    }
    for name in ["kind", "name"] {
        let value = text(reference, &format!("/{name}"));
        errors.required_name(&format!("{field}.{name}"), value, names::path_segment);
    }
}

fn validate_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    errors.extend(super::metadata::validate_update(object, old));
    load_balancer_hosts(object, &mut errors, |_, _, _| {});
    errors.done()
}

/// Addresses and names at which a load balancer answers; `more` has a say about each entry.
pub(super) fn load_balancer_hosts(
    object: &Value,
    errors: &mut Findings,
    more: fn(&Value, &str, &mut Findings),
) {
    for (index, one) in list(object, "/status/loadBalancer/ingress")
        .iter()
        .enumerate()
    {
        let field = format!("status.loadBalancer.ingress[{index}]");
        let (address, host) = (text(one, "/ip"), text(one, "/hostname"));
        if !address.is_empty() {
            errors.extend(ip::legacy(address, &format!("{field}.ip")));
        }
        more(one, &field, errors);
        if !host.is_empty() {
            let field = format!("{field}.hostname");
            errors.named(&field, host, names::subdomain);
            if ip::parse(host).is_some() {
                errors.invalid(&field, host, "must be a DNS name, not an IP address");
            }
        }
    }
}
