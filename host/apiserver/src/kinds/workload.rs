//! What the kinds that make pods share: a selector, a template, counts and shares of replicas.

use serde_json::Value;

use super::{
    descent::Descent,
    findings::Shape,
    json::{at, child, entries, fill, has, list, text},
    metadata::{self, invalid},
    names, pod,
};
use crate::{field_error::FieldError, selector::LabelSelector};

/// Defaults of `spec` where there are replicas and a template.
pub(super) fn default(spec: &mut Value) {
    fill(spec, "replicas", 1);
    pod::default_template(child(spec, "template"));
}

/// How a Deployment's and a DaemonSet's strategy is printed.
pub(super) const STRATEGY: Shape = Shape::Fields(&[
    ("type", Shape::Plain("\"\"")),
    (
        "rollingUpdate",
        Shape::Fields(&[
            ("maxUnavailable", Shape::Plain("0")),
            ("maxSurge", Shape::Plain("0")),
        ]),
    ),
]);

/// The selector at `spec.selector`, which must be given and select something; `kind` as Kubernetes
/// calls it there. Says whether it can be used.
pub(super) fn selector(f: &mut Descent, spec: &Value, kind: &str, required: bool) -> bool {
    let selector = at(spec, "/selector");
    if selector.is_null() {
        if required {
            f.required("selector", "");
        }
        return true;
    }
    let before = f.count();
    f.selector(spec, "selector");
    let usable = f.count() == before;
    if is_everything(selector) {
        let detail = format!("empty selector is invalid for {kind}");
        f.invalid("selector", selector.clone(), &detail);
    }
    usable
}

pub(super) fn is_everything(selector: &Value) -> bool {
    entries(selector, "/matchLabels").next().is_none()
        && list(selector, "/matchExpressions").is_empty()
}

/// The template's labels must be among what the selector selects.
pub(super) fn selects_template(f: &mut Descent, spec: &Value) {
    let labels = at(spec, "/template/metadata/labels");
    let matches = LabelSelector::from_json(at(spec, "/selector"))
        .is_ok_and(|selector| selector.matches_json(labels));
    if !matches {
        let detail = "`selector` does not match template `labels`";
        f.invalid("template.metadata.labels", labels.clone(), detail);
    }
}

/// The template of pods that are replaced for ever: they always restart, and have no end.
pub(super) fn lasting_template(f: &mut Descent, spec: &Value, kind: &str) {
    let field = f.field("template");
    f.extend(pod::validate_template(at(spec, "/template"), &field));
    lasts(f, spec, kind);
}

pub(super) fn lasts(f: &mut Descent, spec: &Value, kind: &str) {
    let policy = text(spec, "/template/spec/restartPolicy");
    if policy != "Always" {
        f.unsupported("template.spec.restartPolicy", policy, &["Always"]);
    }
    if has(spec, "/template/spec/activeDeadlineSeconds") {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        f.forbidden("template.spec.activeDeadlineSeconds", &detail);
    }
}

/// Warnings about a workload called `what` with the template at `pointer`: of a new one, or of one
/// whose spec changed.
pub(super) fn warnings(object: &Value, old: Option<&Value>, pointer: &str) -> Vec<String> {
    let generation = |object: &Value| at(object, "/metadata/generation").clone();
    if old.is_some_and(|old| generation(old) == generation(object)) {
        return Vec::new();
    }
    let prefix = format!("{}.", pointer.trim_start_matches('/').replace('/', "."));
    let name = match old {
        None => pod::warnings::name(object, "Pod names and hostnames"),
        Some(_) => None,
    };
    let template = at(object, pointer);
    if template.is_null() {
        return name.into_iter().collect();
    }
    name.into_iter()
        .chain(pod::warnings::of(template, &prefix))
        .collect()
}

// Counts and shares.

/// A percentage, spelled `25%`.
fn percent(text: &str) -> Option<i64> {
    text.strip_suffix('%')
        .filter(|digits| !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()))?
        .parse()
        .ok()
}

/// The number in a count or a percentage; of anything else zero.
pub(super) fn amount(value: &Value) -> i64 {
    match value {
        Value::String(text) => percent(text).unwrap_or_default(),
        value => value.as_i64().unwrap_or_default(),
    }
}

/// A count that is not negative, or a percentage.
pub(super) fn share(f: &mut Descent, object: &Value, name: &str) {
    match at(object, &format!("/{name}")) {
        Value::String(text) if percent(text).is_none() => {
            let detail = "a valid percent string must be a numeric string followed by an ending \
                          '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            f.invalid(name, text.as_str(), detail);
        }
        Value::String(_) => {}
        _ => f.not_negative(object, name),
    }
}

/// A share of something is at most all of it.
pub(super) fn at_most_all(f: &mut Descent, object: &Value, name: &str) {
    let value = at(object, &format!("/{name}"));
    if value
        .as_str()
        .and_then(percent)
        .is_some_and(|share| share > 100)
    {
        f.invalid(name, value.clone(), "must not be greater than 100%");
    }
}

/// Counts in a status: none negative, none of `parts` above `replicas`.
pub(super) fn status_counts(f: &mut Descent, status: &Value, counts: &[&str], parts: &[&str]) {
    let count = |name: &str| at(status, &format!("/{name}")).as_i64().unwrap_or_default();
    for name in counts {
        f.not_negative(status, name);
    }
    for name in parts {
        if count(name) > count("replicas") {
            f.invalid(name, count(name), "cannot be greater than status.replicas");
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        // StatefulSets say it with the full path.
        let of = match counts.contains(&"currentReplicas") {
            true => "status.readyReplicas",
            false => "readyReplicas",
        };
        let detail = format!("cannot be greater than {of}");
        f.invalid("availableReplicas", count("availableReplicas"), &detail);
    }
}

/// How often names collided never becomes less.
pub(super) fn collisions(f: &mut Descent, object: &Value, old: &Value) {
    let count = |object: &Value| at(object, "/status/collisionCount").as_i64();
    let (new, old) = (count(object), count(old));
    if old.is_some() && new.unwrap_or(-1) < old.unwrap_or_default() {
        let value = new.unwrap_or_default();
        f.invalid("status.collisionCount", value, "cannot be decremented");
    }
}

/// A `metav1.LabelSelector`.
pub(super) fn validate_selector(selector: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = metadata::labels(
        at(selector, "/matchLabels"),
        &format!("{field}.matchLabels"),
    );
    for (index, one) in list(selector, "/matchExpressions").iter().enumerate() {
        let field = format!("{field}.matchExpressions[{index}]");
        let values = list(one, "/values");
        match text(one, "/operator") {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                format!("{field}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                format!("{field}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            operator => errors.push(FieldError::invalid(
                format!("{field}.operator"),
                &Value::from(operator),
                "not a valid selector operator",
            )),
        }
        let key = text(one, "/key");
        let found = names::qualified(key);
        errors.extend(
            found
                .iter()
                .map(|detail| invalid(format!("{field}.key"), key, detail)),
        );
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            let found = names::label_value(value);
            errors.extend(
                found
                    .iter()
                    .map(|detail| invalid(format!("{field}.values[{index}]"), value, detail)),
            );
        }
    }
    errors
}

// What is printed.

/// `a=b,c in (d,e)`, as kubectl shows a selector; `<none>` for an empty one.
pub(super) fn selector_text(selector: &Value) -> String {
    if selector.is_null() {
        return "<none>".to_owned();
    }
    let mut parts: Vec<String> = entries(selector, "/matchLabels")
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for one in list(selector, "/matchExpressions") {
        let key = text(one, "/key");
        let values: Vec<&str> = list(one, "/values")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        parts.push(match text(one, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.sort();
    if parts.is_empty() {
        "<none>".to_owned()
    } else {
        parts.join(",")
    }
}

/// `a=b,c=d`, `<none>` for none.
pub(super) fn labels_text(labels: &Value) -> String {
    let parts: Vec<String> = entries(labels, "")
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if parts.is_empty() {
        "<none>".to_owned()
    } else {
        parts.join(",")
    }
}

/// Names and images of the containers of the template at `pointer`, each joined with commas.
pub(super) fn containers(object: &Value, pointer: &str) -> (String, String) {
    let containers = list(at(object, pointer), "/spec/containers");
    let joined = |name: &str| {
        let all = containers.iter().map(|one| text(one, name));
        all.collect::<Vec<_>>().join(",")
    };
    (joined("/name"), joined("/image"))
}
