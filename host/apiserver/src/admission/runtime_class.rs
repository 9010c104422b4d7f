//! `RuntimeClass`: what the class that a pod names adds to it: overhead, node selector, tolerations.

use eyot_store::Key;
use serde_json::{Map, Value};

use super::{Attributes, Mutated};
use crate::{
    api::Api,
    failure::Failure,
    object::{self, at, text},
    quantity::Quantity,
};

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

pub(super) fn mutate(
    api: &Api,
    attributes: &Attributes<'_>,
    pod: &mut Value,
    mutated: &mut Mutated,
) -> Result<(), Failure> {
    if !attributes.creates("", "pods") {
        return Ok(());
    }
    let Some(class) = find(api, attributes, pod)? else {
        return Ok(());
    };
    if let Some(fixed) = at(&class, &["overhead", "podFixed"]) {
        let own = at(pod, &["spec", "overhead"]);
        if own.is_some_and(|own| !same(own, fixed)) {
            return Err(attributes.forbidden(pod, MISMATCH));
        }
        object::member(pod, "spec").insert("overhead".into(), fixed.clone());
        mutated.changed = true;
    }
    if let Some(scheduling) = class.get("scheduling").filter(|s| !s.is_null()) {
        select(attributes, pod, scheduling)?;
        tolerate(pod, scheduling);
        mutated.changed = true;
    }
    Ok(())
}

pub(super) fn validate(api: &Api, attributes: &Attributes<'_>, pod: &Value) -> Result<(), Failure> {
    if !attributes.creates("", "pods") {
        return Ok(());
    }
    let class = find(api, attributes, pod)?;
    let fixed = class
        .as_ref()
        .and_then(|class| at(class, &["overhead", "podFixed"]));
    let own = at(pod, &["spec", "overhead"]).filter(|own| !own.is_null());
    match (fixed, own) {
        (Some(fixed), own) if !own.is_some_and(|own| same(own, fixed)) => {
            Err(attributes.forbidden(pod, MISMATCH))
        }
        (None, Some(_)) => {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined \
                       Overhead";
            Err(attributes.forbidden(pod, why))
        }
        _ => Ok(()),
    }
}

/// The class that the pod names, which must exist.
fn find(api: &Api, attributes: &Attributes<'_>, pod: &Value) -> Result<Option<Value>, Failure> {
    let name = at(pod, &["spec", "runtimeClassName"]).and_then(Value::as_str);
    let Some(name) = name else {
        return Ok(None);
    };
    let key = Key::new("runtimeclasses.node.k8s.io", "", name);
    match api.store.get(&key) {
        Some(stored) => serde_json::from_slice(&stored.json).map_err(Failure::internal),
        None => {
            let why = format!("pod rejected: RuntimeClass {name:?} not found");
            Err(attributes.forbidden(pod, why))
        }
    }
}

/// Whether two resource lists are the same amounts.
fn same(one: &Value, other: &Value) -> bool {
    let amounts = |value: &Value| -> Vec<(String, Option<Quantity>)> {
        let entries = value.as_object().into_iter().flatten();
        let amount = |v: &Value| v.as_str().and_then(|text| text.parse().ok());
        let mut amounts: Vec<_> = entries.map(|(k, v)| (k.clone(), amount(v))).collect();
        amounts.sort_by(|a, b| a.0.cmp(&b.0));
        amounts
    };
    amounts(one) == amounts(other)
}

fn select(attributes: &Attributes<'_>, pod: &mut Value, scheduling: &Value) -> Result<(), Failure> {
    let wanted = scheduling.get("nodeSelector").and_then(Value::as_object);
    let Some(wanted) = wanted else {
        return Ok(());
    };
    for (key, value) in wanted {
        let own = at(pod, &["spec", "nodeSelector", key]);
        if let Some(own) = own
            && own != value
        {
            let shown = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; \
                 pod.spec.nodeSelector[{key}] = {}",
                shown(value),
                shown(own)
            );
            return Err(attributes.forbidden(pod, why));
        }
    }
    let spec = object::member(pod, "spec");
    let selector = spec
        .entry("nodeSelector")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(selector) = selector.as_object_mut() {
        selector.extend(
            wanted
                .iter()
                .map(|(key, value)| (key.clone(), value.clone())),
        );
    }
    Ok(())
}

/// Join the tolerations, without those that others include.
fn tolerate(pod: &mut Value, scheduling: &Value) {
    let list = |value: Option<&Value>| -> Vec<Value> {
        value.and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut all = list(at(pod, &["spec", "tolerations"]));
    all.extend(list(scheduling.get("tolerations")));
    let mut merged: Vec<Value> = Vec::new();
    for (index, one) in all.iter().enumerate() {
        let redundant = merged.iter().any(|other| includes(other, one))
            || all[index + 1..]
                .iter()
                .any(|other| other != one && includes(other, one));
        if !redundant {
            merged.push(one.clone());
        }
    }
    if !merged.is_empty() {
        object::member(pod, "spec").insert("tolerations".into(), merged.into());
    }
}

/// Whether whatever `small` tolerates `big` tolerates too.
fn includes(big: &Value, small: &Value) -> bool {
    if big == small {
        return true;
    }
    let of = |toleration: &'_ Value, key: &str| text(toleration, &[key]).to_owned();
    let all_keys = of(big, "key").is_empty() && of(big, "operator") == "Exists";
    if of(big, "key") != of(small, "key") && !all_keys {
        return false;
    }
    let effect = of(big, "effect");
    if effect != of(small, "effect") && !effect.is_empty() {
        return false;
    }
    let seconds = |t: &Value| t.get("tolerationSeconds").and_then(Value::as_i64);
    if effect == "NoExecute"
        && let Some(long) = seconds(big)
        && seconds(small).is_none_or(|short| short > long)
    {
        return false;
    }
    match of(big, "operator").as_str() {
        "" | "Equal" => {
            matches!(of(small, "operator").as_str(), "" | "Equal")
                && of(big, "value") == of(small, "value")
        }
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::tolerate;

    #[track_caller]
    fn check(pod: Value, class: Value, expected: Value) {
        let mut object = json!({"spec": {"tolerations": pod}});
        tolerate(&mut object, &json!({"tolerations": class}));
        assert_eq!(object["spec"]["tolerations"], expected);
    }

    #[test]
    fn tolerations_join_without_those_that_others_include() {
        let exists = json!({"key": "k", "operator": "Exists"});
        let equal = json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"});
        let other = json!({"key": "o", "operator": "Exists"});
        check(json!([equal]), json!([exists]), json!([exists]));
        check(json!([exists]), json!([exists]), json!([exists]));
        check(json!([equal]), json!([other]), json!([equal, other]));
        let all = json!({"operator": "Exists"});
        check(json!([equal, other]), json!([all]), json!([all]));
        let short = json!({
            "key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5
        });
        let long = json!({
            "key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9
        });
        check(json!([short]), json!([long]), json!([long]));
        check(json!([long]), json!([short]), json!([long]));
    }
}
