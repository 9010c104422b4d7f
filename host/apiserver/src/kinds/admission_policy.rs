//! ValidatingAdmissionPolicy, MutatingAdmissionPolicy and their bindings: rules about writes, in CEL.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    KindSpec, admission_expression as expression,
    admission_rule::{
        FAILURE_POLICIES, REINVOCATION_POLICIES, default_match, match_conditions, match_resources,
    },
    check, conditions,
    findings::Findings,
    json::{at, child, fill, has, items, list, text},
    names, status_only, validate_metadata_of_any,
    workload::validate_selector,
};
use crate::{
    cel::{Type, names::RESERVED, request::Names},
    field_error::FieldError,
    table::{self, Column},
};

const GROUP: &str = "admissionregistration.k8s.io";
const VERSION: &str = "admissionregistration.k8s.io/v1";
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
const NOT_FOUND_ACTIONS: [&str; 2] = ["Deny", "Allow"];
const PATCHES: [&str; 2] = ["ApplyConfiguration", "JSONPatch"];
const MAX_ANNOTATIONS: usize = 20;
const MAX_ANNOTATION_LENGTH: usize = 5 * 1024;
pub(super) const VALIDATING: KindSpec = KindSpec {
    group: GROUP,
    kind: "ValidatingAdmissionPolicy",
    needs_revision: true,
    list_kind: "ValidatingAdmissionPolicyList",
    plural: "validatingadmissionpolicies",
    singular: "validatingadmissionpolicy",
    categories: &["api-extensions"],
    status: true,
    generation: true,
    decode: |value| check(VERSION, "ValidatingAdmissionPolicy", value),
    default: |object| {
        default_policy(object);
        child(object, "status");
    },
    prepare: status_only,
    validate: |object, old| policy(object, old, validations),
    status_keeps_metadata: true,
    validate_status,
    columns: &[
        Column::name(),
        Column::integer("Validations", "How many rules it has."),
        Column::new("ParamKind", "The kind of its parameters."),
        Column::age(),
    ],
    cells: |object, now| policy_cells(object, "/spec/validations", now),
    ..KindSpec::CLUSTER
};

pub(super) const MUTATING: KindSpec = KindSpec {
    group: GROUP,
    kind: "MutatingAdmissionPolicy",
    needs_revision: true,
    list_kind: "MutatingAdmissionPolicyList",
    plural: "mutatingadmissionpolicies",
    singular: "mutatingadmissionpolicy",
    categories: &["api-extensions"],
    generation: true,
    decode: |value| check(VERSION, "MutatingAdmissionPolicy", value),
    default: default_policy,
    validate: |object, old| policy(object, old, mutations),
    columns: &[
        Column::name(),
        Column::integer("Mutations", "How many changes it makes."),
        Column::new("ParamKind", "The kind of its parameters."),
        Column::age(),
    ],
    cells: |object, now| policy_cells(object, "/spec/mutations", now),
    ..KindSpec::CLUSTER
};

pub(super) const VALIDATING_BINDING: KindSpec = KindSpec {
    group: GROUP,
    kind: "ValidatingAdmissionPolicyBinding",
    needs_revision: true,
    list_kind: "ValidatingAdmissionPolicyBindingList",
    plural: "validatingadmissionpolicybindings",
    singular: "validatingadmissionpolicybinding",
    categories: &["api-extensions"],
    generation: true,
    decode: |value| check(VERSION, "ValidatingAdmissionPolicyBinding", value),
    default: |object| default_match(child(object, "spec"), "matchResources"),
    validate: |object, old| {
        let mut errors = binding(object, old);
        actions(at(object, "/spec/validationActions"), &mut errors);
        errors.done()
    },
    columns: BINDING,
    cells: binding_cells,
    ..KindSpec::CLUSTER
};

pub(super) const MUTATING_BINDING: KindSpec = KindSpec {
    group: GROUP,
    kind: "MutatingAdmissionPolicyBinding",
    needs_revision: true,
    list_kind: "MutatingAdmissionPolicyBindingList",
    plural: "mutatingadmissionpolicybindings",
    singular: "mutatingadmissionpolicybinding",
    categories: &["api-extensions"],
    generation: true,
    decode: |value| check(VERSION, "MutatingAdmissionPolicyBinding", value),
    default: |object| default_match(child(object, "spec"), "matchResources"),
    validate: |object, old| binding(object, old).done(),
    columns: BINDING,
    cells: binding_cells,
    ..KindSpec::CLUSTER
};

const BINDING: &[Column] = &[
    Column::name(),
    Column::new("PolicyName", "The policy that applies."),
    Column::new("ParamRef", "The parameters that it applies with."),
    Column::age(),
];

fn binding_cells(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let params = at(object, "/spec/paramRef");
    let (name, namespace) = (text(params, "/name"), text(params, "/namespace"));
    let shown = match (name, namespace) {
        ("", _) if has(params, "/selector") => {
            super::workload::selector_text(at(params, "/selector"))
        }
        ("", _) => "<unset>".to_owned(),
        // Whether the parameter has a namespace cannot be told from here.
        (name, "") => format!("*/{name}"),
        (name, namespace) => format!("{namespace}/{name}"),
    };
    vec![
        json!(text(object, "/metadata/name")),
        json!(text(object, "/spec/policyName")),
        json!(shown),
        table::age(object, now),
    ]
}

fn policy_cells(object: &Value, rules: &str, now: jiff::Timestamp) -> Vec<Value> {
    let kind = at(object, "/spec/paramKind");
    let kind = if kind.is_null() {
        "<unset>".to_owned()
    } else {
        format!("{}/{}", text(kind, "/apiVersion"), text(kind, "/kind"))
    };
    vec![
        json!(text(object, "/metadata/name")),
        json!(list(object, rules).len()),
        json!(kind),
        table::age(object, now),
    ]
}

fn default_policy(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "failurePolicy", "Fail");
    default_match(spec, "matchConstraints");
    for variable in items(spec, "variables") {
        fill(variable, "name", "");
    }
}

/// The rules of both sorts of policies; `own` are those of one.
fn policy(
    object: &Value,
    old: Option<&Value>,
    own: fn(&Value, &str, &Names, &mut Findings),
) -> Vec<FieldError> {
    let mut errors = Findings::default();
    errors.extend(validate_metadata_of_any(
        object,
        old,
        false,
        names::subdomain,
    ));
    let spec = at(object, "/spec");
    let failure = text(spec, "/failurePolicy");
    errors.required_one_of("spec.failurePolicy", failure, &FAILURE_POLICIES);
    let params = has(spec, "/paramKind");
    if params {
        param_kind(at(spec, "/paramKind"), &mut errors);
    }
    let constraints = at(spec, "/matchConstraints");
    if constraints.is_null() {
        errors.required("spec.matchConstraints", "");
    } else {
        match_resources(constraints, "spec.matchConstraints", &mut errors);
        if list(constraints, "/resourceRules").is_empty() {
            errors.required("spec.matchConstraints.resourceRules", "");
        }
    }
    let mut names = Names {
        params: params.then_some(Type::Dyn),
        ..Names::default()
    };
    let same = old.is_some_and(|old| {
        ["/spec/paramKind", "/spec/matchConditions"]
            .iter()
            .all(|part| at(old, part) == at(object, part))
    });
    if !same {
        let given = list(spec, "/matchConditions");
        let check = |text: &str| expression::request_condition(text, &names);
        match_conditions(given, "spec.matchConditions", &check, &mut errors);
    }
    names.variables = Some(Vec::new());
    for (index, one) in list(spec, "/variables").iter().enumerate() {
        let found = variable(
            one,
            &format!("spec.variables[{index}]"),
            &names,
            &mut errors,
        );
        names.declare(text(one, "/name"), found.unwrap_or(Type::Dyn));
    }
    own(spec, text(object, "/metadata/name"), &names, &mut errors);
    errors.done()
}

fn param_kind(kind: &Value, errors: &mut Findings) {
    let (version, field) = (text(kind, "/apiVersion"), "spec.paramKind.apiVersion");
    match version.matches('/').count() {
        _ if version.is_empty() => errors.required(field, ""),
        0 | 1 => {
            let (group, name) = version.split_once('/').unwrap_or(("", version));
            let sentences = names::subdomain(group);
            if !group.is_empty() && !sentences.is_empty() {
                errors.invalid(field, group, &sentences.join(","));
            }
            let sentences = names::label_1035(name);
            if name.is_empty() {
                errors.invalid(field, version, "version must be specified");
            } else if !sentences.is_empty() {
                errors.invalid(field, name, &sentences.join(","));
            }
        }
        _ => {
            let detail = format!("unexpected GroupVersion string: {version}");
            errors.invalid(field, version, &detail);
        }
    }
    let (name, field) = (text(kind, "/kind"), "spec.paramKind.kind");
    let sentences = names::label_1035(&name.to_lowercase());
    if name.is_empty() {
        errors.required(field, "");
    } else if !sentences.is_empty() {
        let detail = format!(
            "may have mixed case, but should otherwise match: {}",
            sentences.join(",")
        );
        errors.invalid(field, name, &detail);
    }
}

/// The type of a variable, if its expression has one.
fn variable(one: &Value, field: &str, names: &Names, errors: &mut Findings) -> Option<Type> {
    let (name, at_name) = (text(one, "/name"), format!("{field}.name"));
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    let good = name.starts_with(letter)
        && name.chars().all(|c| letter(c) || c.is_ascii_digit())
        && !RESERVED.contains(&name);
    if name.trim().is_empty() {
        errors.required(at_name, "name is not specified");
    } else if !good {
        errors.invalid(at_name, name, "name is not a valid CEL identifier");
    }
    let (text, field) = (text(one, "/expression"), format!("{field}.expression"));
    if text.trim().is_empty() {
        errors.required(field, "expression is not specified");
        return None;
    }
    expression::variable(text, names)
        .map_err(|why| errors.invalid(field, text, &why))
        .ok()
}

fn validations(spec: &Value, name: &str, names: &Names, errors: &mut Findings) {
    let (rules, notes) = (list(spec, "/validations"), list(spec, "/auditAnnotations"));
    if rules.is_empty() && notes.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.required("spec.validations", detail);
        errors.required("spec.auditAnnotations", detail);
    }
    for (index, rule) in rules.iter().enumerate() {
        validation(rule, &format!("spec.validations[{index}]"), names, errors);
    }
    if notes.len() > MAX_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        errors.invalid("spec.auditAnnotations", notes.to_vec(), &detail);
    }
    let mut seen = HashSet::new();
    for (index, note) in notes.iter().enumerate() {
        let field = format!("spec.auditAnnotations[{index}]");
        let (key, at_key) = (text(note, "/key"), format!("{field}.key"));
        if name.is_empty() {
            errors.invalid(&at_key, key, "requires metadata.name be non-empty");
        } else {
            let whole = format!("{name}/{key}");
            errors.named(&at_key, &whole, names::qualified);
        }
        let (given, field) = (
            text(note, "/valueExpression"),
            format!("{field}.valueExpression"),
        );
        let trimmed = given.trim();
        if trimmed.is_empty() {
            errors.required(field, "valueExpression is not specified");
        } else if trimmed.len() > MAX_ANNOTATION_LENGTH {
            let detail = format!("must not exceed {MAX_ANNOTATION_LENGTH} bytes in length");
            errors.required(field, &detail);
        } else if let Some(why) = expression::annotation(trimmed, names) {
            errors.invalid(field, given, &why);
        }
        if !seen.insert(key) {
            errors.duplicate(at_key, key);
        }
    }
}

fn validation(rule: &Value, field: &str, names: &Names, errors: &mut Findings) {
    let (given, at_given) = (text(rule, "/expression"), format!("{field}.expression"));
    if given.trim().is_empty() {
        errors.required(at_given, "expression is not specified");
    } else if let Some(why) = expression::request_condition(given, names) {
        errors.invalid(at_given, given, &why);
    }
    let (maker, at_maker) = (
        text(rule, "/messageExpression"),
        format!("{field}.messageExpression"),
    );
    if !maker.is_empty() && maker.trim().is_empty() {
        errors.invalid(at_maker, maker, "must be non-empty if specified");
    } else if !maker.is_empty()
        && let Some(why) = expression::message(maker, names)
    {
        errors.invalid(at_maker, maker, &why);
    }
    let (message, at_message) = (text(rule, "/message"), format!("{field}.message"));
    if !message.is_empty() && message.trim().is_empty() {
        let detail = "message must be non-empty if specified";
        errors.invalid(at_message, message, detail);
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(at_message, message, "message must not contain line breaks");
    }
    if let Some(reason) = at(rule, "/reason").as_str() {
        errors.one_of(format!("{field}.reason"), reason, &REASONS);
    }
}

fn mutations(spec: &Value, _name: &str, names: &Names, errors: &mut Findings) {
    let all = list(spec, "/mutations");
    if all.is_empty() {
        let detail = "mutations must contain at least one item";
        errors.required("spec.mutations", detail);
    }
    for (index, one) in all.iter().enumerate() {
        mutation(one, &format!("spec.mutations[{index}]"), names, errors);
    }
    let policy = text(spec, "/reinvocationPolicy");
    errors.required_one_of("spec.reinvocationPolicy", policy, &REINVOCATION_POLICIES);
}

fn mutation(one: &Value, field: &str, names: &Names, errors: &mut Findings) {
    let kind = text(one, "/patchType");
    errors.required_one_of(format!("{field}.patchType"), kind, &PATCHES);
    for (patch, name) in [
        ("ApplyConfiguration", "applyConfiguration"),
        ("JSONPatch", "jsonPatch"),
    ] {
        let (given, field) = (at(one, &format!("/{name}")), format!("{field}.{name}"));
        if given.is_null() {
            if kind == patch {
                let detail = format!("must be specified when patchType is {patch}");
                errors.required(field, &detail);
            }
            continue;
        }
        if kind != patch && PATCHES.contains(&kind) {
            let detail = format!("must not be specified when patchType is {kind}");
            errors.forbidden(&field, &detail);
            continue;
        }
        let (text, field) = (text(given, "/expression"), format!("{field}.expression"));
        if text.trim().is_empty() {
            errors.required(field, "expression is not specified");
            continue;
        }
        let check = match patch {
            "JSONPatch" => expression::patch,
            _ => expression::apply,
        };
        if let Some(why) = check(text, names) {
            errors.invalid(field, text, &why);
        }
    }
}

fn validate_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    errors.extend(super::metadata::validate_generic(
        object,
        Some(old),
        false,
        |_| Vec::new(),
    ));
    let status = at(object, "/status");
    for (index, one) in list(status, "/typeChecking/expressionWarnings")
        .iter()
        .enumerate()
    {
        let field = format!("status.typeChecking.expressionWarnings[{index}]");
        for name in ["warning", "fieldRef"] {
            if text(one, &format!("/{name}")).trim().is_empty() {
                errors.required(format!("{field}.{name}"), "");
            }
        }
    }
    let all = list(status, "/conditions");
    conditions::validate(all, "status.conditions", &mut errors);
    errors.done()
}

fn binding(object: &Value, old: Option<&Value>) -> Findings {
    let mut errors = Findings::default();
    errors.extend(validate_metadata_of_any(
        object,
        old,
        false,
        names::subdomain,
    ));
    let spec = at(object, "/spec");
    let policy = text(spec, "/policyName");
    errors.required_name("spec.policyName", policy, names::subdomain);
    if has(spec, "/paramRef") {
        param_ref(at(spec, "/paramRef"), &mut errors);
    }
    if has(spec, "/matchResources") {
        let resources = at(spec, "/matchResources");
        match_resources(resources, "spec.matchResources", &mut errors);
    }
    errors
}

fn param_ref(params: &Value, errors: &mut Findings) {
    let (name, selector) = (text(params, "/name"), at(params, "/selector"));
    let both = "name and selector are mutually exclusive";
    if !name.is_empty() {
        errors.named("spec.paramRef.name", name, names::path_segment);
        if !selector.is_null() {
            errors.forbidden("spec.paramRef.name", both);
        }
    }
    if !selector.is_null() {
        errors.extend(validate_selector(selector, "spec.paramRef.selector"));
        if !name.is_empty() {
            errors.forbidden("spec.paramRef.selector", both);
        }
    }
    if name.is_empty() && selector.is_null() {
        let detail = "one of name or selector must be specified";
        errors.required("spec.paramRef", detail);
    }
    let action = text(params, "/parameterNotFoundAction");
    let field = "spec.paramRef.parameterNotFoundAction";
    errors.required_one_of(field, action, &NOT_FOUND_ACTIONS);
}

fn actions(given: &Value, errors: &mut Findings) {
    let field = "spec.validationActions";
    let mut seen = HashSet::new();
    for (index, action) in list(given, "").iter().enumerate() {
        let action = action.as_str().unwrap_or_default();
        errors.one_of(format!("{field}[{index}]"), action, &ACTIONS);
        if !seen.insert(action) {
            errors.duplicate(format!("{field}[{index}]"), action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure \
                      information in the API response and headers serves no purpose)";
        errors.invalid(field, given.clone(), detail);
    }
    if seen.is_empty() {
        errors.required(field, "at least one validation action is required");
    }
}
