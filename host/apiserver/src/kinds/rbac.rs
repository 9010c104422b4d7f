//! Role, ClusterRole and their bindings: who may do what.
//!
//! The kinds alone; what they allow is decided elsewhere.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::{Findings, structure, text_or_empty},
    json::{at, child, fill, items, list, text},
    metadata::{ANEW_THEN_CHANGES, judge},
    names,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const ROLE: KindSpec = KindSpec {
    group: GROUP,
    kind: "Role",
    put_creates: true,
    list_kind: "RoleList",
    plural: "roles",
    singular: "role",
    decode: |value| check("rbac.authorization.k8s.io/v1", "Role", value),
    default: |object| fill(object, "rules", Value::Null),
    validate: |object, old| {
        judge(
            object,
            old,
            true,
            names::path_segment,
            ANEW_THEN_CHANGES,
            || rules(object, true),
        )
    },
    columns: CREATED,
    cells: |object, _| created(object),
    ..KindSpec::NAMESPACED
};

pub(super) const CLUSTER_ROLE: KindSpec = KindSpec {
    group: GROUP,
    kind: "ClusterRole",
    put_creates: true,
    list_kind: "ClusterRoleList",
    plural: "clusterroles",
    singular: "clusterrole",
    decode: |value| check("rbac.authorization.k8s.io/v1", "ClusterRole", value),
    default: |object| fill(object, "rules", Value::Null),
    validate: |object, old| {
        judge(
            object,
            old,
            false,
            names::path_segment,
            ANEW_THEN_CHANGES,
            || {
                let mut errors = rules(object, false);
                errors.extend(aggregation(object));
                errors
            },
        )
    },
    columns: CREATED,
    cells: |object, _| created(object),
    ..KindSpec::CLUSTER
};

pub(super) const ROLE_BINDING: KindSpec = KindSpec {
    group: GROUP,
    kind: "RoleBinding",
    put_creates: true,
    list_kind: "RoleBindingList",
    plural: "rolebindings",
    singular: "rolebinding",
    decode: |value| check("rbac.authorization.k8s.io/v1", "RoleBinding", value),
    default: default_binding,
    validate: |object, old| {
        let mut errors = judge(
            object,
            old,
            true,
            names::path_segment,
            ANEW_THEN_CHANGES,
            || binding(object, true),
        );
        errors.extend(old.and_then(|old| changed_role(object, old)));
        errors
    },
    columns: BINDING,
    cells: binding_cells,
    ..KindSpec::NAMESPACED
};

pub(super) const CLUSTER_ROLE_BINDING: KindSpec = KindSpec {
    group: GROUP,
    kind: "ClusterRoleBinding",
    put_creates: true,
    list_kind: "ClusterRoleBindingList",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    decode: |value| check("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", value),
    default: default_binding,
    validate: |object, old| {
        let mut errors = judge(
            object,
            old,
            false,
            names::path_segment,
            ANEW_THEN_CHANGES,
            || binding(object, false),
        );
        errors.extend(old.and_then(|old| changed_role(object, old)));
        errors
    },
    columns: BINDING,
    cells: binding_cells,
    ..KindSpec::CLUSTER
};

const CREATED: &[Column] = &[Column::name(), Column::created()];

fn created(object: &Value) -> Vec<Value> {
    vec![
        json!(text(object, "/metadata/name")),
        json!(text(object, "/metadata/creationTimestamp")),
    ]
}

const BINDING: &[Column] = &[
    Column::name(),
    Column::new("Role", "The role that is given."),
    Column::age(),
    Column::new("Users", "Users who get it.").wide(),
    Column::new("Groups", "Groups whose members get it.").wide(),
    Column::new("ServiceAccounts", "Service accounts that get it.").wide(),
];

fn binding_cells(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let subjects = |kind: &str| {
        let of_kind = list(object, "/subjects")
            .iter()
            .filter(|one| text(one, "/kind") == kind);
        let shown: Vec<String> = of_kind
            .map(|one| match kind {
                "ServiceAccount" => format!("{}/{}", text(one, "/namespace"), text(one, "/name")),
                _ => text(one, "/name").to_owned(),
            })
            .collect();
        json!(shown.join(", "))
    };
    let role = at(object, "/roleRef");
    vec![
        json!(text(object, "/metadata/name")),
        json!(format!("{}/{}", text(role, "/kind"), text(role, "/name"))),
        table::age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn default_binding(object: &mut Value) {
    fill(child(object, "roleRef"), "apiGroup", GROUP);
    for subject in items(object, "subjects") {
        if matches!(text(subject, "/kind"), "User" | "Group") {
            fill(subject, "apiGroup", GROUP);
        }
    }
}

fn rules(object: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Findings::default();
    for (index, rule) in list(object, "/rules").iter().enumerate() {
        validate_rule(rule, namespaced, &format!("rules[{index}]"), &mut errors);
    }
    errors.done()
}

fn validate_rule(rule: &Value, namespaced: bool, field: &str, errors: &mut Findings) {
    let none = |name: &str| list(rule, &format!("/{name}")).is_empty();
    if none("verbs") {
        let detail = "verbs must contain at least one value";
        errors.required(format!("{field}.verbs"), detail);
    }
    if !none("nonResourceURLs") {
        let urls = at(rule, "/nonResourceURLs");
        let field = format!("{field}.nonResourceURLs");
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.invalid(&field, urls.clone(), detail);
        }
        if !none("apiGroups") || !none("resources") || !none("resourceNames") {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&field, urls.clone(), detail);
        }
        return;
    }
    if none("apiGroups") {
        let detail = "resource rules must supply at least one api group";
        errors.required(format!("{field}.apiGroups"), detail);
    }
    if none("resources") {
        let detail = "resource rules must supply at least one resource";
        errors.required(format!("{field}.resources"), detail);
    }
}

fn aggregation(object: &Value) -> Vec<FieldError> {
    let mut found = Findings::default();
    if !at(object, "/aggregationRule").is_object() {
        return Vec::new();
    }
    let selectors = list(object, "/aggregationRule/clusterRoleSelectors");
    let field = "aggregationRule.clusterRoleSelectors";
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        found.required(field, detail);
    }
    for (index, selector) in selectors.iter().enumerate() {
        let field = format!("{field}[{index}]");
        found.extend(super::workload::validate_selector(selector, &field));
    }
    found.done()
}

fn binding(object: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let role = at(object, "/roleRef");
    errors.one_of("roleRef.apiGroup", text(role, "/apiGroup"), &[GROUP]);
    let kinds = if namespaced {
        &["Role", "ClusterRole"][..]
    } else {
        &["ClusterRole"]
    };
    errors.one_of("roleRef.kind", text(role, "/kind"), kinds);
    errors.required_name("roleRef.name", text(role, "/name"), names::path_segment);
    for (index, one) in list(object, "/subjects").iter().enumerate() {
        subject(one, namespaced, &format!("subjects[{index}]"), &mut errors);
    }
    errors.done()
}

/// Who is given a role may change, but not which role.
fn changed_role(object: &Value, old: &Value) -> Option<FieldError> {
    let role = at(object, "/roleRef");
    let shown = structure(&[
        ("APIGroup", &text_or_empty(role, "/apiGroup")),
        ("Kind", &text_or_empty(role, "/kind")),
        ("Name", &text_or_empty(role, "/name")),
    ]);
    let changed = at(old, "/roleRef") != role;
    changed.then(|| FieldError::invalid_shown("roleRef", &shown, "cannot change roleRef"))
}

fn subject(one: &Value, namespaced: bool, field: &str, errors: &mut Findings) {
    let (name, group) = (text(one, "/name"), text(one, "/apiGroup"));
    let (at_name, at_group) = (format!("{field}.name"), format!("{field}.apiGroup"));
    if name.is_empty() {
        errors.required(&at_name, "");
    }
    match text(one, "/kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.named(&at_name, name, names::subdomain);
            }
            errors.one_of(at_group, group, &[""]);
            if !namespaced && text(one, "/namespace").is_empty() {
                errors.required(format!("{field}.namespace"), "");
            }
        }
        kind @ ("User" | "Group") => {
            if name.is_empty() {
                let detail = format!("{} name cannot be empty", kind.to_lowercase());
                errors.invalid(&at_name, name, &detail);
            }
            errors.one_of(at_group, group, &[GROUP]);
        }
        other => {
            let supported = ["ServiceAccount", "User", "Group"];
            errors.unsupported(format!("{field}.kind"), other, &supported);
        }
    }
}
