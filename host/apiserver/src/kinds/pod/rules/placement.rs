//! The rules of where a pod may go: affinity, tolerations, spreading, gates.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::Context;
use crate::kinds::{
    descent::Descent,
    json::{at, entries, has, int, list, text},
    names,
};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const BOTH: &str = "exists in both matchLabelKeys and labelSelector";

pub(super) fn affinity(f: &mut Descent, context: &Context<'_>) {
    f.inside(context.spec, "affinity", |f, affinity| {
        f.inside(affinity, "nodeAffinity", |f, nodes| {
            f.inside(nodes, REQUIRED, node_selector);
            f.each(nodes, PREFERRED, |f, _, term| {
                weight(f, term);
                f.inside(term, "preference", |f, term| node_term(f, term, false));
            });
        });
        for kind in ["podAffinity", "podAntiAffinity"] {
            f.inside(affinity, kind, |f, pods| {
                f.each(pods, REQUIRED, |f, _, term| pod_term(f, term));
                f.each(pods, PREFERRED, |f, _, term| {
                    weight(f, term);
                    f.within("podAffinityTerm", |f| {
                        pod_term(f, at(term, "/podAffinityTerm"))
                    });
                });
            });
        }
    });
}

fn weight(f: &mut Descent, term: &Value) {
    let weight = int(term, "/weight");
    if !(1..=100).contains(&weight) {
        f.invalid("weight", weight, "must be in the range 1-100");
    }
}

/// A `NodeSelector`.
fn node_selector(f: &mut Descent, selector: &Value) {
    if list(selector, "/nodeSelectorTerms").is_empty() {
        let detail = "must have at least one node selector term";
        return f.required("nodeSelectorTerms", detail);
    }
    f.each(selector, "nodeSelectorTerms", |f, _, term| {
        node_term(f, term, true)
    });
}

/// Values of preferences are not looked at: they may name what no node has.
fn node_term(f: &mut Descent, term: &Value, values: bool) {
    f.each(term, "matchExpressions", |f, _, one| {
        let given = list(one, "/values");
        let operator = text(one, "/operator");
        match operator {
            "In" | "NotIn" if given.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                f.required("values", detail);
            }
            "Exists" | "DoesNotExist" if !given.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                f.forbidden("values", detail);
            }
            "Gt" | "Lt" if given.len() != 1 => {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                f.required("values", detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => f.invalid("operator", operator, "not a valid selector operator"),
        }
        f.named("key", text(one, "/key"), names::qualified);
        if values {
            f.each(one, "values", |f, _, value| {
                f.named("", value.as_str().unwrap_or_default(), names::label_value);
            });
        }
    });
    f.each(term, "matchFields", |f, _, one| {
        let operator = text(one, "/operator");
        match operator {
            "In" | "NotIn" if list(one, "/values").len() != 1 => {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node \
                              field selector";
                f.required("values", detail);
            }
            "In" | "NotIn" => {}
            _ => f.invalid("operator", operator, "not a valid selector operator"),
        }
        if text(one, "/key") == "metadata.name" {
            f.each(one, "values", |f, _, value| {
                f.named("", value.as_str().unwrap_or_default(), names::subdomain);
            });
        } else {
            f.invalid("key", text(one, "/key"), "not a valid field selector key");
        }
    });
}

fn pod_term(f: &mut Descent, term: &Value) {
    f.selector(term, "labelSelector");
    f.selector(term, "namespaceSelector");
    for name in list(term, "/namespaces") {
        f.named("namespace", name.as_str().unwrap_or_default(), names::label);
    }
    label_keys(f, term);
    if text(term, "/topologyKey").is_empty() {
        f.required("topologyKey", "can not be empty");
    }
    f.named("topologyKey", text(term, "/topologyKey"), names::qualified);
}

/// Keys whose values a new pod's own labels give, for selectors.
fn label_keys(f: &mut Descent, term: &Value) {
    for name in ["matchLabelKeys", "mismatchLabelKeys"] {
        if list(term, &format!("/{name}")).is_empty() {
            continue;
        }
        if !has(term, "/labelSelector") {
            let detail = "must not be specified when labelSelector is not set";
            f.forbidden(name, detail);
            continue;
        }
        f.each(term, name, |f, _, key| {
            f.named("", key.as_str().unwrap_or_default(), names::qualified);
        });
    }
    let keys = |name: &str| -> Vec<&str> {
        let keys = list(term, &format!("/{name}"));
        keys.iter().filter_map(Value::as_str).collect()
    };
    let (matching, other) = (keys("matchLabelKeys"), keys("mismatchLabelKeys"));
    // The selector holds an expression for each key already; a second one is the user's.
    let places: BTreeMap<&str, usize> = matching
        .iter()
        .enumerate()
        .map(|(index, key)| (*key, index))
        .collect();
    let mut seen: HashSet<&str> = entries(term, "/labelSelector/matchLabels")
        .map(|(key, _)| key.as_str())
        .collect();
    for one in list(term, "/labelSelector/matchExpressions") {
        let key = text(one, "/key");
        if let Some(index) = places.get(key).filter(|_| seen.contains(key)) {
            f.item(index, |f| f.invalid("", key, BOTH));
        }
        seen.insert(key);
    }
    f.within("matchLabelKeys", |f| {
        for (index, key) in matching.iter().enumerate() {
            if other.contains(key) {
                let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
                f.item(index, |f| f.invalid("", *key, detail));
            }
        }
    });
}

/// The `tolerations` of a spec.
pub(in crate::kinds) fn tolerations(f: &mut Descent, spec: &Value) {
    f.each(spec, "tolerations", |f, _, one| {
        let (key, operator) = (text(one, "/key"), text(one, "/operator"));
        let (effect, value) = (text(one, "/effect"), text(one, "/value"));
        if !key.is_empty() {
            f.named("key", key, names::qualified);
        }
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all \
                          values and all keys\"";
            f.invalid("operator", operator, detail);
        }
        if has(one, "/tolerationSeconds") && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            f.invalid("effect", effect, detail);
        }
        match operator {
            "" | "Equal" => {
                let found = names::label_value(value);
                if !found.is_empty() {
                    f.invalid("operator", value, &found.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                f.invalid("operator", value, detail);
            }
            "Exists" => {}
            "Lt" | "Gt" => decimal(f, value),
            _ => f.unsupported("operator", operator, &["Equal", "Exists"]),
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effect.is_empty() && !effects.contains(&effect) {
            f.unsupported("effect", effect, &effects);
        }
    });
}

fn decimal(f: &mut Descent, value: &str) {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let plain = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
    let canonical = value == "0" || (plain && !digits.starts_with('0'));
    if value.is_empty() {
        f.invalid("value", value, "must be non-empty");
    } else if !canonical {
        let detail = "must be a valid decimal integer in canonical form";
        f.invalid("value", value, detail);
    }
    if value.parse::<i64>().is_err() {
        let why = if plain {
            "value out of range"
        } else {
            "invalid syntax"
        };
        let detail = format!("strconv.ParseInt: parsing {value:?}: {why}");
        f.invalid("value", value, &detail);
    }
}

pub(super) fn gates(f: &mut Descent, spec: &Value) {
    let mut seen = HashSet::new();
    f.each(spec, "schedulingGates", |f, _, gate| {
        let name = text(gate, "/name");
        f.named("", name, names::qualified);
        if !seen.insert(name) {
            f.duplicate("", name);
        }
    });
}

pub(super) fn spread(f: &mut Descent, spec: &Value) {
    let all = list(spec, "/topologySpreadConstraints");
    let key = |one: &Value| {
        let topology = text(one, "/topologyKey").to_owned();
        (topology, text(one, "/whenUnsatisfiable").to_owned())
    };
    let mut later: HashMap<(String, String), usize> = HashMap::new();
    for one in all {
        *later.entry(key(one)).or_default() += 1;
    }
    f.each(spec, "topologySpreadConstraints", |f, _, one| {
        let pair = key(one);
        let (topology, action) = &pair;
        if int(one, "/maxSkew") <= 0 {
            f.invalid("maxSkew", int(one, "/maxSkew"), "must be greater than zero");
        }
        if topology.is_empty() {
            f.required("topologyKey", "can not be empty");
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action.as_str()) {
            f.unsupported("whenUnsatisfiable", action.as_str(), &actions);
        }
        if let Some(rest) = later.get_mut(&pair) {
            *rest -= 1;
            if *rest > 0 {
                let pair = format!("{{{topology}, {action}}}");
                f.duplicate("{topologyKey, whenUnsatisfiable}", pair);
            }
        }
        if let Some(least) = at(one, "/minDomains").as_i64() {
            if least <= 0 {
                f.invalid("minDomains", least, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                );
                f.invalid("minDomains", least, &detail);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            f.one_of_if_given(one, policy, &["Honor", "Ignore"]);
        }
        label_keys(f, one);
        f.selector(one, "labelSelector");
    });
}
