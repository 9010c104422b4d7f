//! The rules of a pod spec, for pods and for templates, in Kubernetes' words.

use std::{collections::HashSet, net::IpAddr};

use serde_json::Value;

use super::container;
use crate::{
    field_error::FieldError,
    kinds::{
        json::{at, entries, has, int, list, text},
        metadata::{self, invalid},
        names,
    },
};

/// Checks a pod spec at `field`, with defaults in place.
pub(in crate::kinds) fn pod_spec(spec: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let volumes = volumes(spec, field, &mut errors);
    if list(spec, "/containers").is_empty() {
        errors.push(FieldError::required(format!("{field}.containers"), ""));
    }
    let mut seen = HashSet::new();
    for group in ["containers", "initContainers"] {
        for (index, one) in list(spec, &format!("/{group}")).iter().enumerate() {
            let field = format!("{field}.{group}[{index}]");
            let init = group == "initContainers";
            errors.extend(container::validate(one, &field, init, &volumes));
            let name = text(one, "/name");
            if !name.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(
                    format!("{field}.name"),
                    at(one, "/name"),
                ));
            }
        }
    }
    one_of(
        spec,
        field,
        "restartPolicy",
        &["Always", "OnFailure", "Never"],
        &mut errors,
    );
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(spec, field, "dnsPolicy", &policies, &mut errors);
    if int(spec, "/terminationGracePeriodSeconds") < 0 {
        errors.push(FieldError::invalid(
            format!("{field}.terminationGracePeriodSeconds"),
            at(spec, "/terminationGracePeriodSeconds"),
            "must be greater than or equal to 0",
        ));
    }
    if has(spec, "/activeDeadlineSeconds") {
        let seconds = int(spec, "/activeDeadlineSeconds");
        if !(1..=i64::from(i32::MAX)).contains(&seconds) {
            errors.push(FieldError::invalid(
                format!("{field}.activeDeadlineSeconds"),
                at(spec, "/activeDeadlineSeconds"),
                "must be between 1 and 2147483647, inclusive",
            ));
        }
    }
    named(spec, field, "nodeName", names::subdomain, &mut errors);
    named(spec, field, "hostname", names::label, &mut errors);
    named(spec, field, "subdomain", names::label, &mut errors);
    named(
        spec,
        field,
        "serviceAccountName",
        names::subdomain,
        &mut errors,
    );
    errors.extend(metadata::labels(
        at(spec, "/nodeSelector"),
        &format!("{field}.nodeSelector"),
    ));
    errors.extend(identities(
        at(spec, "/securityContext"),
        &format!("{field}.securityContext"),
    ));
    tolerations(spec, field, &mut errors);
    affinity(spec, field, &mut errors);
    host_aliases(spec, field, &mut errors);
    spread(spec, field, &mut errors);
    errors
}

fn one_of(
    object: &Value,
    field: &str,
    name: &str,
    supported: &[&str],
    errors: &mut Vec<FieldError>,
) {
    let value = at(object, &format!("/{name}"));
    if !supported.contains(&value.as_str().unwrap_or_default()) {
        errors.push(FieldError::not_supported(
            format!("{field}.{name}"),
            value,
            supported,
        ));
    }
}

fn named(
    spec: &Value,
    field: &str,
    name: &str,
    rule: fn(&str) -> Vec<String>,
    errors: &mut Vec<FieldError>,
) {
    let value = text(spec, &format!("/{name}"));
    if !value.is_empty() {
        errors.extend(
            rule(value)
                .iter()
                .map(|detail| invalid(format!("{field}.{name}"), value, detail)),
        );
    }
}

/// User and group numbers of a security context.
pub(super) fn identities(context: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in ["runAsUser", "runAsGroup", "fsGroup"] {
        let value = at(context, &format!("/{name}"));
        let valid = value.is_null()
            || value
                .as_i64()
                .is_some_and(|id| (0..=i64::from(i32::MAX)).contains(&id));
        if !valid {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(
                format!("{field}.{name}"),
                value,
                detail,
            ));
        }
    }
    errors
}

/// Checks the volumes and answers their names.
fn volumes<'a>(spec: &'a Value, field: &str, errors: &mut Vec<FieldError>) -> HashSet<&'a str> {
    let mut known = HashSet::new();
    for (index, volume) in list(spec, "/volumes").iter().enumerate() {
        let field = format!("{field}.volumes[{index}]");
        let name = text(volume, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{field}.name"), ""));
        } else {
            for detail in names::label(name) {
                errors.push(invalid(format!("{field}.name"), name, &detail));
            }
            if !known.insert(name) {
                errors.push(FieldError::duplicate(
                    format!("{field}.name"),
                    at(volume, "/name"),
                ));
            }
        }
        errors.extend(source(volume, &field));
    }
    known
}

/// What each volume source cannot do without.
const NEEDED: [(&str, &str); 6] = [
    ("hostPath", "path"),
    ("configMap", "name"),
    ("secret", "secretName"),
    ("persistentVolumeClaim", "claimName"),
    ("csi", "driver"),
    ("nfs", "server"),
];

fn source(volume: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut sources: Vec<&str> = entries(volume, "")
        .map(|(name, _)| name.as_str())
        .filter(|name| *name != "name")
        .collect();
    if sources.is_empty() {
        errors.push(FieldError::required(field, "must specify a volume type"));
    }
    // An empty directory is checked first in Kubernetes, so it is never the one too many.
    sources.sort_by_key(|name| *name != "emptyDir");
    for extra in sources.iter().skip(1) {
        let detail = "may not specify more than 1 volume type";
        errors.push(FieldError::forbidden(format!("{field}.{extra}"), detail));
    }
    if let Some(first) = sources.first() {
        for (source, needed) in NEEDED {
            if *first == source && text(volume, &format!("/{source}/{needed}")).is_empty() {
                errors.push(FieldError::required(
                    format!("{field}.{source}.{needed}"),
                    "",
                ));
            }
        }
    }
    errors
}

fn tolerations(spec: &Value, field: &str, errors: &mut Vec<FieldError>) {
    for (index, one) in list(spec, "/tolerations").iter().enumerate() {
        let field = format!("{field}.tolerations[{index}]");
        let (key, operator) = (text(one, "/key"), text(one, "/operator"));
        for detail in if key.is_empty() {
            Vec::new()
        } else {
            names::qualified(key)
        } {
            errors.push(invalid(format!("{field}.key"), key, &detail));
        }
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all \
                          values and all keys\"";
            errors.push(invalid(format!("{field}.operator"), operator, detail));
        }
        if has(one, "/tolerationSeconds") && text(one, "/effect") != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(invalid(
                format!("{field}.effect"),
                text(one, "/effect"),
                detail,
            ));
        }
        match operator {
            "" | "Equal" => {
                for detail in names::label_value(text(one, "/value")) {
                    errors.push(invalid(
                        format!("{field}.operator"),
                        text(one, "/value"),
                        &detail,
                    ));
                }
            }
            "Exists" if !text(one, "/value").is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(
                    format!("{field}.operator"),
                    one,
                    detail,
                ));
            }
            "Exists" => {}
            _ => errors.push(FieldError::not_supported(
                format!("{field}.operator"),
                at(one, "/operator"),
                &["Equal", "Exists"],
            )),
        }
        let effect = at(one, "/effect");
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !text(one, "/effect").is_empty() && !effects.contains(&text(one, "/effect")) {
            errors.push(FieldError::not_supported(
                format!("{field}.effect"),
                effect,
                &effects,
            ));
        }
    }
}

fn affinity(spec: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for kind in ["nodeAffinity", "podAffinity", "podAntiAffinity"] {
        let terms = list(spec, &format!("/affinity/{kind}/{preferred}"));
        for (index, term) in terms.iter().enumerate() {
            if !(1..=100).contains(&int(term, "/weight")) {
                errors.push(FieldError::invalid(
                    format!("{field}.affinity.{kind}.{preferred}[{index}].weight"),
                    at(term, "/weight"),
                    "must be in the range 1-100",
                ));
            }
        }
    }
}

fn host_aliases(spec: &Value, field: &str, errors: &mut Vec<FieldError>) {
    for (index, alias) in list(spec, "/hostAliases").iter().enumerate() {
        let field = format!("{field}.hostAliases[{index}]");
        errors.extend(address(text(alias, "/ip"), &format!("{field}.ip")));
        for (at, name) in list(alias, "/hostnames").iter().enumerate() {
            for detail in names::subdomain(name.as_str().unwrap_or_default()) {
                errors.push(FieldError::invalid(
                    format!("{field}.hostnames[{at}]"),
                    name,
                    &detail,
                ));
            }
        }
    }
}

/// An IP address of either family.
pub(in crate::kinds) fn address(text: &str, field: &str) -> Option<FieldError> {
    let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    text.parse::<IpAddr>()
        .is_err()
        .then(|| invalid(field, text, detail))
}

fn spread(spec: &Value, field: &str, errors: &mut Vec<FieldError>) {
    for (index, one) in list(spec, "/topologySpreadConstraints").iter().enumerate() {
        let field = format!("{field}.topologySpreadConstraints[{index}]");
        if int(one, "/maxSkew") <= 0 {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(
                format!("{field}.maxSkew"),
                at(one, "/maxSkew"),
                detail,
            ));
        }
        if text(one, "/topologyKey").is_empty() {
            errors.push(FieldError::required(
                format!("{field}.topologyKey"),
                "can not be empty",
            ));
        }
        let supported = ["DoNotSchedule", "ScheduleAnyway"];
        one_of(one, &field, "whenUnsatisfiable", &supported, errors);
    }
}
