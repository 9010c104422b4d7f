//! The rules of one container.

use std::collections::HashSet;

use serde_json::Value;

use super::validate::identities;
use crate::{
    field_error::FieldError,
    kinds::{
        json::{at, entries, has, int, list, text},
        metadata::invalid,
        names,
    },
    quantity::Quantity,
};

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

pub(super) fn validate(
    container: &Value,
    field: &str,
    init: bool,
    volumes: &HashSet<&str>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(container, "/name");
    if name.is_empty() {
        errors.push(FieldError::required(format!("{field}.name"), ""));
    } else {
        let field = format!("{field}.name");
        errors.extend(
            names::label(name)
                .iter()
                .map(|detail| invalid(&field, name, detail)),
        );
    }
    let image = text(container, "/image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{field}.image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(invalid(format!("{field}.image"), image, detail));
    }
    ports(container, field, &mut errors);
    environment(container, field, &mut errors);
    mounts(container, field, volumes, &mut errors);
    let sidecar = text(container, "/restartPolicy") == "Always";
    for probe in PROBES {
        let field = format!("{field}.{probe}");
        let value = at(container, &format!("/{probe}"));
        if value.is_null() {
            continue;
        }
        if init && !sidecar {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(field, detail));
        } else {
            errors.extend(check_probe(value, &field, probe));
        }
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    if !policies.contains(&text(container, "/imagePullPolicy")) {
        let value = at(container, "/imagePullPolicy");
        let field = format!("{field}.imagePullPolicy");
        errors.push(FieldError::not_supported(field, value, &policies));
    }
    resources(container, field, &mut errors);
    let context = at(container, "/securityContext");
    errors.extend(identities(context, &format!("{field}.securityContext")));
    errors
}

fn port_number(value: &Value, field: String, errors: &mut Vec<FieldError>) {
    for detail in names::port_number(value.as_i64().unwrap_or_default()) {
        errors.push(FieldError::invalid(field.clone(), value, &detail));
    }
}

fn ports(container: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let mut named = HashSet::new();
    for (index, port) in list(container, "/ports").iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        let name = text(port, "/name");
        if !name.is_empty() {
            let found = names::port_name(name);
            errors.extend(
                found
                    .iter()
                    .map(|one| invalid(format!("{field}.name"), name, one)),
            );
            if found.is_empty() && !named.insert(name) {
                errors.push(FieldError::duplicate(
                    format!("{field}.name"),
                    at(port, "/name"),
                ));
            }
        }
        if has(port, "/containerPort") {
            let number = at(port, "/containerPort");
            port_number(number, format!("{field}.containerPort"), errors);
        } else {
            errors.push(FieldError::required(format!("{field}.containerPort"), ""));
        }
        if int(port, "/hostPort") != 0 {
            port_number(at(port, "/hostPort"), format!("{field}.hostPort"), errors);
        }
        let protocols = ["SCTP", "TCP", "UDP"];
        if !protocols.contains(&text(port, "/protocol")) {
            let value = at(port, "/protocol");
            let field = format!("{field}.protocol");
            errors.push(FieldError::not_supported(field, value, &protocols));
        }
    }
}

const SOURCES: [&str; 5] = [
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "fileKeyRef",
];

fn environment(container: &Value, field: &str, errors: &mut Vec<FieldError>) {
    for (index, variable) in list(container, "/env").iter().enumerate() {
        let field = format!("{field}.env[{index}]");
        let name = text(variable, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{field}.name"), ""));
        } else {
            let found = names::env_name(name);
            errors.extend(
                found
                    .iter()
                    .map(|one| invalid(format!("{field}.name"), name, one)),
            );
        }
        if has(variable, "/valueFrom") {
            value_from(variable, &format!("{field}.valueFrom"), errors);
        }
    }
    for (index, source) in list(container, "/envFrom").iter().enumerate() {
        let field = format!("{field}.envFrom[{index}]");
        match (has(source, "/configMapRef"), has(source, "/secretRef")) {
            (true, true) => {
                let detail = "may not have more than one field specified at a time";
                errors.push(invalid(field, "", detail));
            }
            (false, false) => {
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                errors.push(invalid(field, "", detail));
            }
            _ => {}
        }
    }
}

fn value_from(variable: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let source = at(variable, "/valueFrom");
    let given = SOURCES
        .iter()
        .filter(|name| has(source, &format!("/{name}")))
        .count();
    if given == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or \
                      `secretKeyRef`";
        errors.push(invalid(field, "", detail));
        return;
    }
    if !text(variable, "/value").is_empty() {
        errors.push(invalid(
            field,
            "",
            "may not be specified when `value` is not empty",
        ));
    }
    if given > 1 {
        let detail = "may not have more than one field specified at a time";
        errors.push(invalid(field, "", detail));
    }
    if has(source, "/fieldRef") {
        let path = text(source, "/fieldRef/fieldPath");
        let at = format!("{field}.fieldRef.fieldPath");
        if path.is_empty() {
            errors.push(FieldError::required(at, ""));
        } else if !known_field(path) {
            let detail = format!("error converting fieldPath: field label not supported: {path}");
            errors.push(invalid(at, path, &detail));
        }
    }
    for reference in ["configMapKeyRef", "secretKeyRef"] {
        if has(source, &format!("/{reference}"))
            && text(source, &format!("/{reference}/key")).is_empty()
        {
            errors.push(FieldError::required(format!("{field}.{reference}.key"), ""));
        }
    }
}

/// Fields of the pod that an environment variable may take its value from.
fn known_field(path: &str) -> bool {
    let keyed = ["metadata.labels['", "metadata.annotations['"];
    keyed
        .iter()
        .any(|prefix| path.starts_with(prefix) && path.ends_with("']"))
        || matches!(
            path,
            "metadata.name"
                | "metadata.namespace"
                | "metadata.uid"
                | "spec.nodeName"
                | "spec.serviceAccountName"
                | "status.hostIP"
                | "status.hostIPs"
                | "status.podIP"
                | "status.podIPs"
        )
}

fn mounts(container: &Value, field: &str, volumes: &HashSet<&str>, errors: &mut Vec<FieldError>) {
    let mut paths = HashSet::new();
    for (index, mount) in list(container, "/volumeMounts").iter().enumerate() {
        let field = format!("{field}.volumeMounts[{index}]");
        let name = text(mount, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{field}.name"), ""));
        }
        if !volumes.contains(name) {
            errors.push(FieldError::not_found(
                format!("{field}.name"),
                &Value::from(name),
            ));
        }
        let path = text(mount, "/mountPath");
        if path.is_empty() {
            errors.push(FieldError::required(format!("{field}.mountPath"), ""));
        } else if !paths.insert(path) {
            errors.push(invalid(
                format!("{field}.mountPath"),
                path,
                "must be unique",
            ));
        }
        let sub = text(mount, "/subPath");
        if sub.starts_with('/') {
            errors.push(invalid(
                format!("{field}.subPath"),
                sub,
                "must be a relative path",
            ));
        } else if sub.split('/').any(|part| part == "..") {
            errors.push(invalid(
                format!("{field}.subPath"),
                sub,
                "must not contain '..'",
            ));
        }
    }
}

const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];

fn check_probe(probe: &Value, field: &str, name: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let given: Vec<&str> = HANDLERS
        .into_iter()
        .filter(|one| has(probe, &format!("/{one}")))
        .collect();
    if given.is_empty() {
        errors.push(FieldError::required(field, "must specify a handler type"));
    }
    for extra in given.iter().skip(1) {
        let detail = "may not specify more than 1 handler type";
        errors.push(FieldError::forbidden(format!("{field}.{extra}"), detail));
    }
    if given.contains(&"exec") && list(probe, "/exec/command").is_empty() {
        errors.push(FieldError::required(format!("{field}.exec.command"), ""));
    }
    for handler in ["httpGet", "tcpSocket"] {
        if given.contains(&handler) {
            let port = at(probe, &format!("/{handler}/port"));
            if port.is_number() || port.is_null() {
                port_number(port, format!("{field}.{handler}.port"), &mut errors);
            }
        }
    }
    let counts = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    for count in counts {
        if int(probe, &format!("/{count}")) < 0 {
            let value = at(probe, &format!("/{count}"));
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(
                format!("{field}.{count}"),
                value,
                detail,
            ));
        }
    }
    if name != "readinessProbe" && int(probe, "/successThreshold") > 1 {
        let value = at(probe, "/successThreshold");
        errors.push(FieldError::invalid(
            format!("{field}.successThreshold"),
            value,
            "must be 1",
        ));
    }
    errors
}

/// Resources of containers that need no domain prefix.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

fn resources(container: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let field = format!("{field}.resources");
    for which in ["limits", "requests"] {
        for (name, value) in entries(container, &format!("/resources/{which}")) {
            let at = format!("{field}.{which}[{name}]");
            errors.extend(
                names::qualified(name)
                    .iter()
                    .map(|one| invalid(&at, name, one)),
            );
            if !name.contains('/')
                && !STANDARD.contains(&name.as_str())
                && !name.starts_with("hugepages-")
            {
                let one = "must be a standard resource type or fully qualified";
                errors.push(invalid(&at, name, one));
                errors.push(invalid(
                    &at,
                    name,
                    "must be a standard resource for containers",
                ));
            }
            let quantity = value
                .as_str()
                .and_then(|text| text.parse::<Quantity>().ok());
            if quantity.is_some_and(|quantity| quantity.is_negative()) {
                let detail = "must be greater than or equal to 0";
                errors.push(FieldError::invalid(&at, value, detail));
            }
            if name.contains('/') && quantity.is_some_and(|quantity| !quantity.is_integer()) {
                errors.push(FieldError::invalid(&at, value, "must be an integer"));
            }
        }
    }
    for (name, request) in entries(container, "/resources/requests") {
        let limit = entries(container, "/resources/limits").find(|(one, _)| *one == name);
        let Some((_, limit)) = limit else { continue };
        let amount = |value: &Value| {
            value
                .as_str()
                .and_then(|text| text.parse::<Quantity>().ok())
        };
        if let (Some(request_amount), Some(limit_amount)) = (amount(request), amount(limit)) {
            let field = format!("{field}.requests");
            if name.contains('/') && request_amount != limit_amount {
                let detail = format!("must be equal to {name} limit of {limit_amount}");
                errors.push(FieldError::invalid(field, request, &detail));
            } else if request_amount > limit_amount {
                let detail =
                    format!("must be less than or equal to {name} limit of {limit_amount}");
                errors.push(FieldError::invalid(field, request, &detail));
            }
        }
    }
}
