//! What webhooks and admission policies share: which requests they are about, and the conditions
//! under which they are.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    findings::Findings,
    json::{at, child, fill, items, list, text},
    names,
    workload::validate_selector,
};

pub(super) const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
pub(super) const REINVOCATION_POLICIES: [&str; 2] = ["IfNeeded", "Never"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const MAX_CONDITIONS: usize = 64;

pub(super) fn default_rules(object: &mut Value, name: &str) {
    for rule in items(object, name) {
        fill(rule, "scope", "*");
    }
}

/// Defaults of `MatchResources`, where it is given.
pub(super) fn default_match(object: &mut Value, name: &str) {
    if object.get(name).is_none_or(Value::is_null) {
        return;
    }
    let resources = child(object, name);
    fill(resources, "matchPolicy", "Equivalent");
    child(resources, "namespaceSelector");
    child(resources, "objectSelector");
    default_rules(resources, "resourceRules");
    default_rules(resources, "excludeResourceRules");
}

fn texts<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    list(value, &format!("/{name}"))
        .iter()
        .map(|one| one.as_str().unwrap_or_default())
        .collect()
}

/// `RuleWithOperations`
pub(super) fn rule(rule: &Value, field: &str, errors: &mut Findings) {
    let operations = texts(rule, "operations");
    let at_operations = format!("{field}.operations");
    if operations.is_empty() {
        errors.required(&at_operations, "");
    }
    alone(&operations, &at_operations, "operations", errors);
    for (index, operation) in operations.iter().enumerate() {
        errors.one_of(format!("{at_operations}[{index}]"), operation, &OPERATIONS);
    }
    let groups = texts(rule, "apiGroups");
    let at_groups = format!("{field}.apiGroups");
    if groups.is_empty() {
        errors.required(&at_groups, "");
    }
    alone(&groups, &at_groups, "API groups", errors);
    let versions = texts(rule, "apiVersions");
    let at_versions = format!("{field}.apiVersions");
    if versions.is_empty() {
        errors.required(&at_versions, "");
    }
    alone(&versions, &at_versions, "API versions", errors);
    for (index, _) in versions
        .iter()
        .enumerate()
        .filter(|(_, one)| one.is_empty())
    {
        errors.required(format!("{at_versions}[{index}]"), "");
    }
    resources(
        &texts(rule, "resources"),
        &format!("{field}.resources"),
        errors,
    );
    if let Some(scope) = at(rule, "/scope").as_str() {
        errors.one_of(format!("{field}.scope"), scope, &SCOPES);
    }
}

/// A wildcard says all that can be said.
fn alone(all: &[&str], field: &str, what: &str, errors: &mut Findings) {
    if all.len() > 1 && all.contains(&"*") {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.invalid(field, serde_json::json!(all), &detail);
    }
}

fn resources(all: &[&str], field: &str, errors: &mut Findings) {
    if all.is_empty() {
        errors.required(field, "");
    }
    let (mut any_subresource, mut any_resource) = (HashSet::new(), HashSet::new());
    let mut plain = false;
    for (index, one) in all.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if one.is_empty() {
            errors.required(field, "");
            continue;
        }
        let Some((resource, subresource)) = one.split_once('/') else {
            plain = *one != "*";
            continue;
        };
        if any_subresource.contains(resource) {
            let detail = format!("if '{resource}/*' is present, must not specify {one}");
            errors.invalid(&field, *one, &detail);
        }
        if any_resource.contains(subresource) {
            let detail = format!("if '*/{subresource}' is present, must not specify {one}");
            errors.invalid(&field, *one, &detail);
        }
        if subresource == "*" {
            any_subresource.insert(resource);
        }
        if resource == "*" {
            any_resource.insert(subresource);
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.invalid(field, serde_json::json!(all), detail);
    }
    if all.contains(&"*") && plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(field, serde_json::json!(all), detail);
    }
}

/// `MatchResources`
pub(super) fn match_resources(resources: &Value, field: &str, errors: &mut Findings) {
    let policy = text(resources, "/matchPolicy");
    errors.required_one_of(format!("{field}.matchPolicy"), policy, &MATCH_POLICIES);
    for name in ["namespaceSelector", "objectSelector"] {
        let (selector, field) = (
            at(resources, &format!("/{name}")),
            format!("{field}.{name}"),
        );
        if selector.is_null() {
            errors.required(field, "");
        } else {
            errors.extend(validate_selector(selector, &field));
        }
    }
    for name in ["resourceRules", "excludeResourceRules"] {
        for (index, one) in list(resources, &format!("/{name}")).iter().enumerate() {
            let field = format!("{field}.{name}[{index}]");
            let mut seen = HashSet::new();
            for (index, name) in texts(one, "resourceNames").into_iter().enumerate() {
                let field = format!("{field}.resourceNames[{index}]");
                errors.named(&field, name, names::path_segment);
                if !seen.insert(name) {
                    errors.duplicate(field, name);
                }
            }
            rule(one, &field, errors);
        }
    }
}

/// Conditions on a request, in CEL; `check` says what is wrong with an expression.
pub(super) fn match_conditions(
    conditions: &[Value],
    field: &str,
    check: &dyn Fn(&str) -> Option<String>,
    errors: &mut Findings,
) {
    if conditions.len() > MAX_CONDITIONS {
        errors.too_many(field, conditions.len(), MAX_CONDITIONS);
    }
    let mut seen = HashSet::new();
    for (index, one) in conditions.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let expression = text(one, "/expression").trim();
        if expression.is_empty() {
            errors.required(format!("{field}.expression"), "");
        } else if let Some(why) = check(expression) {
            errors.invalid(format!("{field}.expression"), expression, &why);
        }
        let (name, at_name) = (text(one, "/name"), format!("{field}.name"));
        errors.required_name(&at_name, name, names::qualified);
        if !name.is_empty() && !seen.insert(name) {
            errors.duplicate(at_name, name);
        }
    }
}
