//! The rules of a job, and of the job that a schedule makes.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{NAME_LABELS, SELECTED, UID_LABELS, indexes};
use crate::{
    field_error::FieldError,
    kinds::{
        descent::Descent,
        findings::Shape,
        json::{at, carry, child, entries, has, int, items, list, remove, text},
        metadata, names, pod,
    },
    selector::LabelSelector,
};

/// Most pods of an indexed job at a time, and most indexes that may fail: both keep the status short.
const INDEXED: i64 = 100_000;
/// From so many completions on, the limits are lower.
const MANY: i64 = 100_000;
const LIMIT_OF_MANY: i64 = 10_000;
const FAILURE_RULES: usize = 20;
const EXIT_CODES: usize = 255;
const PATTERNS: usize = 20;
const SUCCESS_RULES: usize = 20;
const INDEXES_LENGTH: usize = 64 * 1024;
const MANAGER: usize = 63;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const VALID_POLICIES: &str = "valid values: \"OnFailure\", \"Never\"";

pub(super) fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = at(object, "/spec");
    // A job that exists is looked at as if it were new, and then at what changes.
    let mut f = Descent::at("");
    if let Some(old) = old {
        f.extend(metadata::common_update(object, old, true));
    }
    f.extend(metadata::whole(object, true, names::subdomain));
    generated(&mut f, object);
    let ruled = own(spec);
    f.extend(ruled.iter().cloned());
    last_name(&mut f, object);
    if let Some(old) = old {
        f.extend(metadata::of_kind_update(object, old));
        f.extend(ruled);
        f.within("spec", |f| changes(f, spec, old));
    }
    f.into_errors()
}

/// The rules of a job's own spec, which has a selector.
fn own(spec: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.within("spec", |f| {
        rules(f, spec);
        if has(spec, "/selector") {
            f.selector(spec, "selector");
        } else {
            f.required("selector", "");
        }
        let labels = at(spec, "/template/metadata/labels");
        if let Ok(selector) = LabelSelector::from_json(at(spec, "/selector"))
            && !selector.matches_json(labels)
        {
            let detail = "`selector` does not match template `labels`";
            f.invalid("template.metadata.labels", labels.clone(), detail);
        }
    });
    f.into_errors()
}

/// Pods of an indexed job are called after their index.
fn last_name(f: &mut Descent, object: &Value) {
    let spec = at(object, "/spec");
    let completions = int(spec, "/completions");
    if is_indexed(spec) && completions > 0 {
        let name = text(object, "/metadata/name");
        let last = format!("{name}-{}", completions - 1);
        if !names::label(&last).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {last}");
            f.invalid("metadata.name", name, &detail);
        }
    }
}

/// Rules of a job template; selectors are made with each job.
pub(in crate::kinds) fn template(f: &mut Descent, spec: &Value) {
    rules(f, spec);
    if has(spec, "/selector") {
        let detail = "`selector` will be auto-generated";
        f.invalid("selector", at(spec, "/selector").clone(), detail);
    }
    if at(spec, "/manualSelector") == &Value::Bool(true) {
        f.unsupported("manualSelector", true, &["nil", "false"]);
    }
}

fn is_indexed(spec: &Value) -> bool {
    text(spec, "/completionMode") == "Indexed"
}

/// A generated selector selects by the uid, which template and selector must have unchanged.
fn generated(f: &mut Descent, object: &Value) {
    let spec = at(object, "/spec");
    if at(spec, "/manualSelector") == &Value::Bool(true) || !has(spec, "/selector") {
        return;
    }
    let (name, uid) = (
        text(object, "/metadata/name"),
        text(object, "/metadata/uid"),
    );
    if uid.is_empty() {
        f.required("metadata.uid", "");
    }
    let labels = at(spec, "/template/metadata/labels");
    f.within("spec.template.metadata.labels", |f| {
        for (label, wanted) in [
            (UID_LABELS[0], uid),
            (NAME_LABELS[0], name),
            (UID_LABELS[1], uid),
            (NAME_LABELS[1], name),
        ] {
            let detail = format!("must be '{wanted}'");
            f.item(label, |f| match labels.get(label) {
                None => f.required("", &detail),
                Some(found) if found != wanted => f.invalid("", labels.clone(), &detail),
                Some(_) => {}
            });
        }
    });
    let mut expected = json!({});
    for (label, value) in [
        (UID_LABELS[0], uid),
        (SELECTED, uid),
        (NAME_LABELS[0], name),
        (NAME_LABELS[1], name),
    ] {
        expected[label] = value.into();
    }
    if let Ok(selector) = LabelSelector::from_json(at(spec, "/selector"))
        && !selector.matches_json(&expected)
    {
        let detail = "`selector` not auto-generated";
        f.invalid("spec.selector", at(spec, "/selector").clone(), detail);
    }
}

fn rules(f: &mut Descent, spec: &Value) {
    for count in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        f.not_negative(spec, count);
    }
    if has(spec, "/maxFailedIndexes") && !has(spec, "/backoffLimitPerIndex") {
        f.required("backoffLimitPerIndex", "when maxFailedIndexes is specified");
    }
    if has(spec, "/managedBy") {
        manager(f, text(spec, "/managedBy"));
    }
    mode(f, spec);
    f.inside(spec, "podFailurePolicy", |f, policy| {
        failure_policy(f, policy, spec)
    });
    if has(spec, "/successPolicy") {
        if is_indexed(spec) {
            f.inside(spec, "successPolicy", |f, policy| {
                success_policy(f, policy, spec)
            });
        } else {
            let detail = "requires indexed completion mode";
            let shown = SUCCESS_POLICY.show(at(spec, "/successPolicy"));
            f.invalid_shown("successPolicy", &shown, detail);
        }
    }
    if has(spec, "/podReplacementPolicy") {
        let known: &[&str] = match has(spec, "/podFailurePolicy") {
            true => &["Failed"],
            false => &["Failed", "TerminatingOrFailed"],
        };
        f.one_of_if_given(spec, "podReplacementPolicy", known);
    }
    let field = f.field("template");
    f.extend(pod::validate_template(at(spec, "/template"), &field));
    restart_policy(f, spec);
}

fn restart_policy(f: &mut Descent, spec: &Value) {
    const FIELD: &str = "template.spec.restartPolicy";
    match text(spec, "/template/spec/restartPolicy") {
        "" | "Always" => f.required(FIELD, VALID_POLICIES),
        "Never" => {}
        "OnFailure" if has(spec, "/podFailurePolicy") => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            f.invalid(FIELD, "OnFailure", detail);
        }
        "OnFailure" => {}
        other => f.unsupported(FIELD, other, &["OnFailure", "Never"]),
    }
}

/// `example.com/controller`.
fn manager(f: &mut Descent, name: &str) {
    const FIELD: &str = "managedBy";
    if name.is_empty() {
        f.required(FIELD, "");
    } else {
        for (part, why) in names::domain_prefixed_path(name) {
            f.invalid(FIELD, part, &why);
        }
    }
    if name.len() > MANAGER {
        f.too_long(FIELD, MANAGER);
    }
}

fn mode(f: &mut Descent, spec: &Value) {
    let known = ["NonIndexed", "Indexed"];
    f.one_of_if_given(spec, "completionMode", &known);
    let number = |name: &str| at(spec, &format!("/{name}")).as_i64();
    if !is_indexed(spec) {
        if known.contains(&text(spec, "/completionMode")) || !has(spec, "/completionMode") {
            for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(value) = number(name) {
                    f.invalid(name, value, "requires indexed completion mode");
                }
            }
        }
        return;
    }
    let completions = number("completions");
    let parallelism = number("parallelism").unwrap_or_default();
    let failed = number("maxFailedIndexes");
    if completions.is_none() {
        f.required("completions", "when completion mode is Indexed");
    }
    if parallelism > INDEXED {
        let detail =
            format!("must be less than or equal to {INDEXED} when completion mode is Indexed");
        f.invalid("parallelism", parallelism, &detail);
    }
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        let detail = "must be less than or equal to completions";
        f.invalid("maxFailedIndexes", failed, detail);
    }
    if let Some(failed) = failed.filter(|failed| *failed > INDEXED) {
        let detail = format!("must be less than or equal to {INDEXED}");
        f.invalid("maxFailedIndexes", failed, &detail);
    }
    if completions.is_none_or(|count| count <= MANY) || !has(spec, "/backoffLimitPerIndex") {
        return;
    }
    let detail = format!(
        "must be less than or equal to {LIMIT_OF_MANY} when completions are above {MANY} and used \
         with backoff limit per index"
    );
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {MANY}");
        f.required("maxFailedIndexes", &detail);
    }
    if parallelism > LIMIT_OF_MANY {
        f.invalid("parallelism", parallelism, &detail);
    }
    if let Some(failed) = failed.filter(|failed| *failed > LIMIT_OF_MANY) {
        f.invalid("maxFailedIndexes", failed, &detail);
    }
}

fn failure_policy(f: &mut Descent, policy: &Value, spec: &Value) {
    let rules = list(policy, "/rules");
    if rules.len() > FAILURE_RULES {
        f.too_many("rules", rules.len(), FAILURE_RULES);
    }
    let pod = at(spec, "/template/spec");
    let containers: HashSet<&str> = ["/containers", "/initContainers"]
        .iter()
        .flat_map(|group| list(pod, group))
        .map(|one| text(one, "/name"))
        .collect();
    f.each(policy, "rules", |f, _, rule| {
        match text(rule, "/action") {
            "" => {
                let detail = "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]";
                f.required("action", detail);
            }
            "FailIndex" if !has(spec, "/backoffLimitPerIndex") => {
                let detail = "requires the backoffLimitPerIndex to be set";
                f.invalid("action", "FailIndex", detail);
            }
            action if ACTIONS.contains(&action) => {}
            action => f.unsupported("action", action, &ACTIONS),
        }
        f.inside(rule, "onExitCodes", |f, codes| {
            exit_codes(f, codes, &containers)
        });
        let patterns = list(rule, "/onPodConditions");
        if patterns.len() > PATTERNS {
            f.too_many("onPodConditions", patterns.len(), PATTERNS);
        }
        f.each(rule, "onPodConditions", |f, _, pattern| {
            f.named("type", text(pattern, "/type"), names::qualified);
            let known = ["False", "True", "Unknown"];
            match text(pattern, "/status") {
                "" => f.required("status", "valid values: [\"False\" \"True\" \"Unknown\"]"),
                status if known.contains(&status) => {}
                status => f.unsupported("status", status, &known),
            }
        });
        match (has(rule, "/onExitCodes"), patterns.is_empty()) {
            (true, false) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                f.wrong("", detail);
            }
            (false, true) => {
                let detail = "specifying one of OnExitCodes and OnPodConditions is required";
                f.wrong("", detail);
            }
            _ => {}
        }
    });
}

fn exit_codes(f: &mut Descent, codes: &Value, containers: &HashSet<&str>) {
    let operator = text(codes, "/operator");
    match operator {
        "" => f.required("operator", "valid values: [\"In\" \"NotIn\"]"),
        "In" | "NotIn" => {}
        other => f.unsupported("operator", other, &["In", "NotIn"]),
    }
    if has(codes, "/containerName") && !containers.contains(text(codes, "/containerName")) {
        let detail = "must be one of the container or initContainer names in the pod template";
        f.invalid("containerName", text(codes, "/containerName"), detail);
    }
    let values = list(codes, "/values");
    if values.is_empty() {
        let shown = at(codes, "/values").clone();
        f.invalid("values", shown, "at least one value is required");
    } else if values.len() > EXIT_CODES {
        f.too_many("values", values.len(), EXIT_CODES);
    }
    let mut seen = HashSet::new();
    f.each(codes, "values", |f, _, value| {
        let code = value.as_i64().unwrap_or_default();
        if operator == "In" && code == 0 {
            f.invalid("", code, "must not be 0 for the In operator");
        }
        if !seen.insert(code) {
            f.duplicate("", code);
        }
    });
    if !values.is_sorted_by_key(|value| value.as_i64().unwrap_or_default()) {
        f.invalid("values", values.to_vec(), "must be ordered");
    }
}

fn success_policy(f: &mut Descent, policy: &Value, spec: &Value) {
    let rules = list(policy, "/rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        f.required("rules", detail);
    }
    if rules.len() > SUCCESS_RULES {
        f.too_many("rules", rules.len(), SUCCESS_RULES);
    }
    let completions = int(spec, "/completions");
    f.each(policy, "rules", |f, _, rule| {
        let count = at(rule, "/succeededCount").as_i64();
        let given = at(rule, "/succeededIndexes").as_str();
        if count.is_none() && given.is_none() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            f.required("", detail);
        }
        let mut named = 0;
        if let Some(given) = given {
            if given.len() > INDEXES_LENGTH {
                f.too_long("succeededIndexes", INDEXES_LENGTH);
            }
            match indexes::count(given, completions) {
                Ok(total) => named = total,
                Err(why) => {
                    let detail = format!("error parsing succeededIndexes: {why}");
                    f.invalid("succeededIndexes", given, &detail);
                }
            }
        }
        let Some(count) = count else { return };
        f.not_negative(rule, "succeededCount");
        if count > completions {
            let detail = format!(
                "must be less than or equal to {completions} (the number of specified completions)"
            );
            f.invalid("succeededCount", count, &detail);
        }
        if given.is_some() && count > named {
            let detail = format!(
                "must be less than or equal to {named} (the number of indexes in the specified \
                 succeededIndexes field)"
            );
            f.invalid("succeededCount", count, &detail);
        }
    });
}

/// What of a job may change once it exists.
fn changes(f: &mut Descent, spec: &Value, stored: &Value) {
    let old = at(stored, "/spec");
    if !is_indexed(spec) {
        f.immutable(spec, old, "completions");
    } else if at(spec, "/completions") != at(old, "/completions")
        && has(spec, "/completions")
        && at(spec, "/completions") != at(spec, "/parallelism")
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        f.invalid("completions", at(spec, "/completions").clone(), detail);
    }
    f.immutable(spec, old, "selector");
    let suspended = at(old, "/suspend") == &Value::Bool(true);
    let started = has(stored, "/status/startTime");
    let mut before = at(old, "/template").clone();
    if suspended && !started {
        placement(&mut before, at(spec, "/template"));
    }
    if suspended {
        resources(&mut before, at(spec, "/template"));
    }
    if before != *at(spec, "/template") {
        let detail = "field is immutable";
        f.invalid("template", at(spec, "/template").clone(), detail);
    }
    for (field, shape) in [
        ("completionMode", Shape::Plain("null")),
        ("podFailurePolicy", FAILURE_POLICY),
        ("backoffLimitPerIndex", Shape::Plain("null")),
        ("managedBy", Shape::Plain("null")),
        ("successPolicy", SUCCESS_POLICY),
    ] {
        let pointer = format!("/{field}");
        if at(spec, &pointer) != at(old, &pointer) {
            f.invalid_shown(field, &shape.show(at(spec, &pointer)), "field is immutable");
        }
    }
}

const FAILURE_POLICY: Shape = Shape::Fields(&[(
    "rules",
    Shape::Each(&Shape::Fields(&[
        ("action", Shape::Plain("\"\"")),
        (
            "onExitCodes",
            Shape::Fields(&[
                ("containerName", Shape::Plain("null")),
                ("operator", Shape::Plain("\"\"")),
                ("values", Shape::Plain("null")),
            ]),
        ),
        (
            "onPodConditions",
            Shape::Each(&Shape::Fields(&[
                ("type", Shape::Plain("\"\"")),
                ("status", Shape::Plain("\"\"")),
            ])),
        ),
    ])),
)]);

const SUCCESS_POLICY: Shape = Shape::Fields(&[(
    "rules",
    Shape::Each(&Shape::Fields(&[
        ("succeededIndexes", Shape::Plain("null")),
        ("succeededCount", Shape::Plain("null")),
    ])),
)]);

/// Where the pods of a job go may be decided until it starts.
fn placement(before: &mut Value, new: &Value) {
    let metadata = child(before, "metadata");
    for field in ["annotations", "labels"] {
        carry(metadata, at(new, "/metadata"), field);
    }
    let spec = child(before, "spec");
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        carry(spec, at(new, "/spec"), field);
    }
    let nodes = at(new, "/spec/affinity");
    if has(new, "/spec/affinity/nodeAffinity") || has(spec, "/affinity") {
        carry(child(spec, "affinity"), nodes, "nodeAffinity");
    }
    if nodes.is_null() && entries(spec, "/affinity").next().is_none() {
        remove(spec, "affinity");
    }
}

fn resources(before: &mut Value, new: &Value) {
    let spec = child(before, "spec");
    for group in ["containers", "initContainers"] {
        let new = list(new, &format!("/spec/{group}"));
        for (container, new) in items(spec, group).zip(new) {
            if text(container, "/name") == text(new, "/name") {
                carry(container, new, "resources");
            }
        }
    }
}

/// Warnings about a job's spec at `field`.
pub(in crate::kinds) fn spec_warnings(spec: &Value, field: &str) -> Vec<String> {
    let mut all = Vec::new();
    if is_indexed(spec)
        && int(spec, "/completions") > MANY
        && int(spec, "/parallelism") > LIMIT_OF_MANY
    {
        all.push(format!(
            "{field}: In Indexed Jobs with a number of completions higher than 10^5 and a \
             parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes \
             when a big number of indexes fail"
        ));
    }
    let template = at(spec, "/template");
    all.extend(pod::warnings::of(template, &format!("{field}.template.")));
    all
}
