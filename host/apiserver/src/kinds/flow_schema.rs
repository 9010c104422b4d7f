//! FlowSchema: which requests are handled with which priority.
//!
//! Two of them are fixed: the one that lets administrators through, and the one that takes what no
//! other did. Their content cannot be changed, since a server relies on it.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::{Findings, structure, text_or_empty},
    json::{at, child, fill, has, int, items, list, text},
    metadata::{ANEW, judge},
    names, status_only,
};
use crate::table::{self, Column};

pub(super) const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
const DEFAULT_PRECEDENCE: i64 = 1000;
const MAX_PRECEDENCE: i64 = 10_000;
const DISTINGUISHERS: [&str; 2] = ["ByNamespace", "ByUser"];
const SUBJECTS: [&str; 3] = ["Group", "ServiceAccount", "User"];
const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

pub(super) const SPEC: KindSpec = KindSpec {
    group: GROUP,
    kind: "FlowSchema",
    list_kind: "FlowSchemaList",
    plural: "flowschemas",
    singular: "flowschema",
    status: true,
    generation: true,
    decode: |value| check(VERSION, "FlowSchema", value),
    default,
    prepare: status_only,
    validate: |object, old| {
        judge(object, old, false, names::subdomain, ANEW, || {
            let mut errors = Findings::default();
            spec(object, &mut errors);
            conditions(object, &mut errors);
            errors.done()
        })
    },
    status_keeps_metadata: true,
    validate_status: |object, _| {
        let mut errors = Findings::default();
        conditions(object, &mut errors);
        errors.done()
    },
    columns: &[
        Column::name(),
        Column::new("PriorityLevel", "The priority that requests get."),
        Column::new("MatchingPrecedence", "The lowest number is asked first."),
        Column::new("DistinguisherMethod", "What makes requests one flow."),
        Column::age(),
        Column::new("MissingPL", "Whether the priority level is missing."),
    ],
    cells: |object, now| {
        let spec = at(object, "/spec");
        let dangling = list(object, "/status/conditions")
            .iter()
            .rev()
            .find(|one| text(one, "/type") == "Dangling")
            .map_or("?", |one| text(one, "/status"));
        let method = match at(spec, "/distinguisherMethod") {
            Value::Null => "<none>",
            method => text(method, "/type"),
        };
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(spec, "/priorityLevelConfiguration/name")),
            json!(int(spec, "/matchingPrecedence")),
            json!(method),
            table::age(object, now),
            json!(dangling),
        ]
    },
    ..KindSpec::CLUSTER
};

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    fill(
        child(spec, "priorityLevelConfiguration"),
        "name",
        Value::from(""),
    );
    if int(spec, "/matchingPrecedence") == 0
        && let Value::Object(spec) = &mut *spec
    {
        spec.insert("matchingPrecedence".to_owned(), DEFAULT_PRECEDENCE.into());
    }
    for rule in items(spec, "rules") {
        fill(rule, "subjects", Value::Null);
    }
    child(object, "status");
}

/// What the spec of a schema must be whose content is fixed.
pub(crate) fn fixed(name: &str) -> Option<Value> {
    let groups: &[&str] = match name {
        "exempt" => &["system:masters"],
        "catch-all" => &["system:unauthenticated", "system:authenticated"],
        _ => return None,
    };
    let subjects: Vec<Value> = groups
        .iter()
        .map(|group| json!({"kind": "Group", "group": {"name": group}}))
        .collect();
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": name},
        "matchingPrecedence": if name == "exempt" { 1 } else { MAX_PRECEDENCE },
        "rules": [{
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                               "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }],
    });
    if name == "catch-all" {
        spec["distinguisherMethod"] = json!({"type": "ByUser"});
    }
    Some(spec)
}

fn spec(object: &Value, errors: &mut Findings) {
    let (name, spec) = (text(object, "/metadata/name"), at(object, "/spec"));
    let (precedence, field) = (int(spec, "/matchingPrecedence"), "spec.matchingPrecedence");
    if precedence <= 0 {
        errors.invalid(field, precedence, "must be a positive value");
    }
    if precedence > MAX_PRECEDENCE {
        let detail = format!("must not be greater than {MAX_PRECEDENCE}");
        errors.invalid(field, precedence, &detail);
    }
    if precedence == 1 && name != "exempt" {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.invalid(field, precedence, detail);
    }
    let method = at(spec, "/distinguisherMethod");
    if !method.is_null() && !DISTINGUISHERS.contains(&text(method, "/type")) {
        let shown = json!({"Type": text(method, "/type")});
        errors.unsupported("spec.distinguisherMethod.type", shown, &DISTINGUISHERS);
    }
    let level = text(spec, "/priorityLevelConfiguration/name");
    let field = "spec.priorityLevelConfiguration.name";
    if level.is_empty() {
        errors.required(field, "must reference a priority level");
    } else {
        errors.named(field, level, names::subdomain);
    }
    for (index, one) in list(spec, "/rules").iter().enumerate() {
        rule(one, &format!("spec.rules[{index}]"), errors);
    }
    if fixed(name).is_some_and(|fixed| !same(&fixed, spec)) {
        let detail = format!("spec of '{name}' must equal the fixed value");
        errors.invalid_shown("spec", &shown(spec), &detail);
    }
}

/// Equal but for what is empty in one and absent in the other.
pub(super) fn same(left: &Value, right: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => a.keys().chain(b.keys()).all(|key| {
            let none = &Value::Null;
            same(a.get(key).unwrap_or(none), b.get(key).unwrap_or(none))
        }),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => left == right || (empty(left) && empty(right)),
    }
}

fn rule(rule: &Value, field: &str, errors: &mut Findings) {
    let subjects = list(rule, "/subjects");
    if subjects.is_empty() {
        let detail = "subjects must contain at least one value";
        errors.required(format!("{field}.subjects"), detail);
    }
    for (index, one) in subjects.iter().enumerate() {
        subject(one, &format!("{field}.subjects[{index}]"), errors);
    }
    let resources = list(rule, "/resourceRules");
    let urls = list(rule, "/nonResourceRules");
    if resources.is_empty() && urls.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.required(field, detail);
    }
    for (index, one) in resources.iter().enumerate() {
        resource_rule(one, &format!("{field}.resourceRules[{index}]"), errors);
    }
    for (index, one) in urls.iter().enumerate() {
        url_rule(one, &format!("{field}.nonResourceRules[{index}]"), errors);
    }
}

fn subject(subject: &Value, field: &str, errors: &mut Findings) {
    let kind = text(subject, "/kind");
    // The field of the kind first, then those of the others.
    let mut fields = [
        ("serviceAccount", "ServiceAccount"),
        ("user", "User"),
        ("group", "Group"),
    ];
    let Some(own) = fields.iter().position(|(_, of)| *of == kind) else {
        return errors.unsupported(format!("{field}.kind"), kind, &SUBJECTS);
    };
    fields[..=own].rotate_right(1);
    for (index, (name, of)) in fields.iter().enumerate() {
        let (one, field) = (at(subject, &format!("/{name}")), format!("{field}.{name}"));
        match (index, one.is_null()) {
            (0, true) => {
                let detail = format!("{name} is required when subject kind is '{of}'");
                errors.required(field, &detail);
            }
            (0, false) => who(one, of, &field, errors),
            (_, true) => {}
            (_, false) => {
                let detail = format!("{name} is forbidden when subject kind is not '{of}'");
                errors.forbidden(&field, &detail);
            }
        }
    }
}

fn who(one: &Value, kind: &str, field: &str, errors: &mut Findings) {
    let (name, at_name) = (text(one, "/name"), format!("{field}.name"));
    if name.is_empty() {
        errors.required(&at_name, "");
    } else if kind == "ServiceAccount" && name != "*" {
        errors.named(&at_name, name, names::subdomain);
    }
    if kind == "ServiceAccount" {
        let (namespace, field) = (text(one, "/namespace"), format!("{field}.namespace"));
        if namespace.is_empty() {
            errors.required(field, "must specify namespace for service account");
        } else {
            errors.named(&field, namespace, names::label);
        }
    }
}

/// `*` alone, or a list without it. Answers whether there is anything more to check.
fn whole_or_parts(
    rule: &Value,
    name: &str,
    what: &str,
    field: &str,
    errors: &mut Findings,
) -> bool {
    let given = list(rule, &format!("/{name}"));
    let whole = given.iter().any(|one| one == "*");
    if whole && given.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.invalid(format!("{field}.{name}"), given.to_vec(), &detail);
    }
    !whole
}

fn verbs(rule: &Value, field: &str, errors: &mut Findings) {
    let given = list(rule, "/verbs");
    if given.is_empty() {
        let detail = "verbs must contain at least one value";
        return errors.required(format!("{field}.verbs"), detail);
    }
    let known = |verb: &Value| verb.as_str().is_some_and(|verb| VERBS.contains(&verb));
    if whole_or_parts(rule, "verbs", "verbs", field, errors) && !given.iter().all(known) {
        errors.unsupported(format!("{field}.verbs"), given.to_vec(), &VERBS);
    }
}

fn url_rule(rule: &Value, field: &str, errors: &mut Findings) {
    verbs(rule, field, errors);
    let (name, urls) = ("nonResourceURLs", list(rule, "/nonResourceURLs"));
    if urls.is_empty() {
        let detail = "nonResourceURLs must contain at least one value";
        return errors.required(format!("{field}.{name}"), detail);
    }
    if !whole_or_parts(rule, name, "non-resource URLs", field, errors) {
        return;
    }
    for (index, url) in urls.iter().enumerate() {
        let url = url.as_str().unwrap_or_default();
        let stars = url.matches('*').count();
        let why = if url.is_empty() {
            "must not be empty"
        } else if url == "/" {
            continue;
        } else if !url.starts_with('/') {
            "must start with slash"
        } else if url.contains(' ') {
            "must not contain white-space"
        } else if url.contains("//") {
            "must not contain double slash"
        } else if stars > 1 || (stars == 1 && !url.ends_with("/*")) {
            "wildcard can only do suffix matching"
        } else {
            continue;
        };
        errors.invalid(format!("{field}.{name}[{index}]"), url, why);
    }
}

fn resource_rule(rule: &Value, field: &str, errors: &mut Findings) {
    verbs(rule, field, errors);
    for (name, what, need) in [
        (
            "apiGroups",
            "api groups",
            "resource rules must supply at least one api group",
        ),
        (
            "resources",
            "resources",
            "resource rules must supply at least one resource",
        ),
    ] {
        if list(rule, &format!("/{name}")).is_empty() {
            errors.required(format!("{field}.{name}"), need);
        } else {
            whole_or_parts(rule, name, what, field, errors);
        }
    }
    let namespaces = list(rule, "/namespaces");
    if namespaces.is_empty() && at(rule, "/clusterScope") != &Value::Bool(true) {
        let detail =
            "resource rules that are not cluster scoped must supply at least one namespace";
        errors.required(format!("{field}.namespaces"), detail);
    } else if whole_or_parts(rule, "namespaces", "namespaces", field, errors) {
        for (index, one) in namespaces.iter().enumerate() {
            let one = one.as_str().unwrap_or_default();
            for why in names::label(one) {
                let detail =
                    format!("each member of this list must be '*' or a DNS-1123 label; {why}");
                errors.invalid(format!("{field}.namespaces[{index}]"), one, &detail);
            }
        }
    }
}

/// The rules of conditions, the same for schemas and levels.
pub(super) fn conditions(object: &Value, errors: &mut Findings) {
    let mut seen = HashSet::new();
    for (index, one) in list(object, "/status/conditions").iter().enumerate() {
        let (kind, field) = (
            text(one, "/type"),
            format!("status.conditions[{index}].type"),
        );
        if !seen.insert(kind) {
            errors.duplicate(&field, kind);
        }
        if kind.is_empty() {
            errors.required(field, "must not be empty");
        }
    }
}

/// The spec as the real server prints it in a finding.
fn shown(spec: &Value) -> String {
    let raw = |shown: Vec<String>| format!("[{}]", shown.join(","));
    let name = |one: &Value| match one {
        Value::Null => "null".to_owned(),
        one => structure(&[("Name", &text_or_empty(one, "/name"))]),
    };
    let subjects = |rule: &Value| {
        let one = |one: &Value| {
            let account = match at(one, "/serviceAccount") {
                Value::Null => "null".to_owned(),
                account => structure(&[
                    ("Namespace", &text_or_empty(account, "/namespace")),
                    ("Name", &text_or_empty(account, "/name")),
                ]),
            };
            format!(
                "{{\"Kind\":{},\"User\":{},\"Group\":{},\"ServiceAccount\":{account}}}",
                text_or_empty(one, "/kind"),
                name(at(one, "/user")),
                name(at(one, "/group")),
            )
        };
        raw(list(rule, "/subjects").iter().map(one).collect())
    };
    let resources = |rule: &Value| {
        let one = |one: &Value| {
            structure(&[
                ("Verbs", at(one, "/verbs")),
                ("APIGroups", at(one, "/apiGroups")),
                ("Resources", at(one, "/resources")),
                ("ClusterScope", &json!(at(one, "/clusterScope") == true)),
                ("Namespaces", at(one, "/namespaces")),
            ])
        };
        match has(rule, "/resourceRules") {
            true => raw(list(rule, "/resourceRules").iter().map(one).collect()),
            false => "null".to_owned(),
        }
    };
    let urls = |rule: &Value| {
        let one = |one: &Value| {
            structure(&[
                ("Verbs", at(one, "/verbs")),
                ("NonResourceURLs", at(one, "/nonResourceURLs")),
            ])
        };
        match has(rule, "/nonResourceRules") {
            true => raw(list(rule, "/nonResourceRules").iter().map(one).collect()),
            false => "null".to_owned(),
        }
    };
    let rules = match at(spec, "/rules") {
        Value::Null => "null".to_owned(),
        rules => raw(list(rules, "")
            .iter()
            .map(|rule| {
                format!(
                    "{{\"Subjects\":{},\"ResourceRules\":{},\"NonResourceRules\":{}}}",
                    subjects(rule),
                    resources(rule),
                    urls(rule),
                )
            })
            .collect()),
    };
    let method = match at(spec, "/distinguisherMethod") {
        Value::Null => "null".to_owned(),
        method => structure(&[("Type", &text_or_empty(method, "/type"))]),
    };
    format!(
        "{{\"PriorityLevelConfiguration\":{},\"MatchingPrecedence\":{},\"DistinguisherMethod\":\
         {method},\"Rules\":{rules}}}",
        name(at(spec, "/priorityLevelConfiguration")),
        int(spec, "/matchingPrecedence"),
    )
}
