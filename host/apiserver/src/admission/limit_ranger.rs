//! `LimitRanger`: what LimitRanges of a namespace give to containers that ask for nothing, and how
//! much or little they let containers, pods and claims ask for.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{
    Attributes, Mutated, Operation,
    resources::{Amounts, Which, amounts, containers, of_container, of_spec},
};
use crate::{
    api::Api,
    failure::Failure,
    object::{self, text},
    quantity::Quantity,
};

pub(super) const RESOURCES: &[&str] = &["limitranges"];
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// One entry of `spec.limits`.
#[derive(Debug)]
pub(super) struct Limit {
    kind: String,
    min: Amounts,
    max: Amounts,
    default: Amounts,
    default_request: Amounts,
    ratio: Amounts,
}

/// The LimitRanges of each namespace that has any, in the order of their names.
pub(super) type Ranges = HashMap<String, Vec<Vec<Limit>>>;

pub(super) fn compile(stored: &[Value]) -> Ranges {
    let mut ranges = Ranges::new();
    for range in stored {
        let limits = object::at(range, &["spec", "limits"]).and_then(Value::as_array);
        let limits = limits.into_iter().flatten().map(|limit| Limit {
            kind: text(limit, &["type"]).to_owned(),
            min: amounts(limit.get("min")),
            max: amounts(limit.get("max")),
            default: amounts(limit.get("default")),
            default_request: amounts(limit.get("defaultRequest")),
            ratio: amounts(limit.get("maxLimitRequestRatio")),
        });
        let of = ranges
            .entry(object::namespace(range).to_owned())
            .or_default();
        of.push(limits.collect());
    }
    ranges
}

pub(super) fn mutate(
    api: &Api,
    attributes: &Attributes<'_>,
    pod: &mut Value,
    mutated: &mut Mutated,
) {
    if !attributes.creates("", "pods") {
        return;
    }
    let ranges = api.admission.limits.get(&api.store);
    for range in ranges.get(&attributes.call.namespace).into_iter().flatten() {
        mutated.changed |= default(range, pod);
    }
}

/// Give containers what they leave out; the pod is told about it in an annotation.
fn default(range: &[Limit], pod: &mut Value) -> bool {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for limit in range.iter().filter(|limit| limit.kind == "Container") {
        requests.extend(limit.default_request.clone());
        limits.extend(limit.default.clone());
    }
    let mut said = Vec::new();
    for (group, title) in [
        ("containers", "container"),
        ("initContainers", "init container"),
    ] {
        let list = pod.pointer_mut(&format!("/spec/{group}"));
        for container in list.and_then(Value::as_array_mut).into_iter().flatten() {
            let name = text(container, &["name"]).to_owned();
            // Limits are given first, but requests are told of first.
            let set = |container: &mut Value, which: Which, defaults: &Amounts| {
                let set = fill(container, which, defaults);
                let kind = which.key().trim_end_matches('s');
                (!set.is_empty()).then(|| format!("{} {kind} for {title} {name}", set.join(", ")))
            };
            let limited = set(container, Which::Limits, &limits);
            let requested = set(container, Which::Requests, &requests);
            said.extend(requested.into_iter().chain(limited));
        }
    }
    if said.is_empty() {
        return false;
    }
    let text = format!("LimitRanger plugin set: {}", said.join("; "));
    let annotations = object::metadata(pod)
        .entry("annotations")
        .or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(ANNOTATION.into(), text.into());
    }
    true
}

fn fill(container: &mut Value, which: Which, defaults: &Amounts) -> Vec<String> {
    let missing: Vec<(&String, &Quantity)> = defaults
        .iter()
        .filter(|(name, _)| {
            let own = object::at(container, &["resources", which.key(), name]);
            own.is_none_or(Value::is_null)
        })
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let list = object::member(container, "resources")
        .entry(which.key())
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(list) = list.as_object_mut() {
        let given = missing
            .iter()
            .map(|(name, amount)| ((*name).clone(), json!(amount.to_string())));
        list.extend(given);
    }
    missing.into_iter().map(|(name, _)| name.clone()).collect()
}

pub(super) fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<(), Failure> {
    let resource = &attributes.call.resource;
    let (pod, claim) = (
        resource.is("", "pods"),
        resource.is("", "persistentvolumeclaims"),
    );
    let handled = match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => pod || claim,
        // Of a pod nothing that counts here can change, but for a resize.
        (Operation::Update, "") => claim,
        (Operation::Update, "resize") => pod,
        _ => false,
    };
    if !handled || attributes.old.is_some_and(object::is_deleting) {
        return Ok(());
    }
    let ranges = api.admission.limits.get(&api.store);
    for range in ranges.get(&attributes.call.namespace).into_iter().flatten() {
        let mut errors: Vec<String> = Vec::new();
        for limit in range {
            let found = match limit.kind.as_str() {
                "Container" if pod => of_containers(limit, object),
                "Pod" if pod => {
                    let (requests, limits) = (
                        of_spec(object, Which::Requests),
                        of_spec(object, Which::Limits),
                    );
                    check(limit, &requests, &limits)
                }
                "PersistentVolumeClaim" if claim => of_claim(limit, object),
                _ => Vec::new(),
            };
            errors.extend(found);
        }
        let mut seen: Vec<String> = Vec::new();
        for error in errors {
            if !seen.contains(&error) {
                seen.push(error);
            }
        }
        match seen.as_slice() {
            [] => {}
            [one] => return Err(attributes.forbidden(object, one)),
            many => return Err(attributes.forbidden(object, format!("[{}]", many.join(", ")))),
        }
    }
    Ok(())
}

fn of_containers(limit: &Limit, pod: &Value) -> Vec<String> {
    let all = containers(pod, "containers").chain(containers(pod, "initContainers"));
    all.flat_map(|container| {
        let requests = of_container(container, Which::Requests);
        check(limit, &requests, &of_container(container, Which::Limits))
    })
    .collect()
}

/// Claims ask for storage; limits mean nothing there.
fn of_claim(limit: &Limit, claim: &Value) -> Vec<String> {
    let requests = of_container(&claim["spec"], Which::Requests);
    let (kind, none) = (&limit.kind, Amounts::new());
    let below = limit
        .min
        .iter()
        .filter_map(|(name, min)| at_least(kind, name, min, &requests, &none));
    let above = limit
        .max
        .iter()
        .filter_map(|(name, max)| match requests.get(name) {
            None => Some(format!(
                "maximum {name} usage per {kind} is {max}.  No request is specified"
            )),
            Some(request) if request > max => Some(format!(
                "maximum {name} usage per {kind} is {max}, but request is {request}"
            )),
            Some(_) => None,
        });
    below.chain(above).collect()
}

fn check(limit: &Limit, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let kind = &limit.kind;
    let below = limit
        .min
        .iter()
        .filter_map(|(name, min)| at_least(kind, name, min, requests, limits));
    let above = limit
        .max
        .iter()
        .filter_map(|(name, max)| at_most(kind, name, max, requests, limits));
    let apart = limit
        .ratio
        .iter()
        .filter_map(|(name, max)| ratio(kind, name, max, requests, limits));
    below.chain(above).chain(apart).collect()
}

fn at_least(
    kind: &str,
    name: &str,
    min: &Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let start = format!("minimum {name} usage per {kind} is {min}");
    match (requests.get(name), limits.get(name)) {
        (None, _) => Some(format!("{start}.  No request is specified")),
        (Some(request), _) if request < min => Some(format!("{start}, but request is {request}")),
        (_, Some(limit)) if limit < min => Some(format!("{start}, but limit is {limit}")),
        _ => None,
    }
}

fn at_most(
    kind: &str,
    name: &str,
    max: &Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let start = format!("maximum {name} usage per {kind} is {max}");
    match (requests.get(name), limits.get(name)) {
        (_, None) => Some(format!("{start}.  No limit is specified")),
        (_, Some(limit)) if limit > max => Some(format!("{start}, but limit is {limit}")),
        (Some(request), _) if request > max => Some(format!("{start}, but request is {request}")),
        _ => None,
    }
}

fn ratio(
    kind: &str,
    name: &str,
    max: &Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let start = format!("{name} max limit to request ratio per {kind} is {max}, but");
    let set = |amounts: &Amounts| {
        amounts
            .get(name)
            .filter(|amount| !amount.is_zero())
            .copied()
    };
    let Some(request) = set(requests) else {
        return Some(format!("{start} no request is specified or request is 0"));
    };
    let Some(limit) = set(limits) else {
        return Some(format!("{start} no limit is specified or limit is 0"));
    };
    let found = limit.as_float() / request.as_float();
    (found > max.as_float()).then(|| format!("{start} provided ratio is {found:.6}"))
}

#[cfg(test)]
#[path = "limit_ranger_tests.rs"]
mod tests;
