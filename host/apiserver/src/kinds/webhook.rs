//! ValidatingWebhookConfiguration and MutatingWebhookConfiguration: whom to ask about writes.

use std::collections::HashSet;

use http::Uri;
use serde_json::{Value, json};

use super::{
    KindSpec,
    admission_expression::request_condition,
    admission_rule::{
        FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, default_rules, match_conditions,
        rule,
    },
    check,
    findings::Findings,
    json::{at, child, fill, has, int, items, list, text},
    names, validate_metadata_of_any,
    workload::validate_selector,
};
use crate::{
    cel::request::Names,
    field_error::FieldError,
    table::{self, Column},
};

const SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
/// Versions of AdmissionReview that are spoken.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const LONGEST_TIMEOUT: i64 = 30;

pub(super) const VALIDATING: KindSpec = KindSpec {
    group: "admissionregistration.k8s.io",
    kind: "ValidatingWebhookConfiguration",
    needs_revision: true,
    list_kind: "ValidatingWebhookConfigurationList",
    plural: "validatingwebhookconfigurations",
    singular: "validatingwebhookconfiguration",
    categories: &["api-extensions"],
    generation: true,
    decode: |value| {
        let version = "admissionregistration.k8s.io/v1";
        check(version, "ValidatingWebhookConfiguration", value)
    },
    default: |object| {
        for hook in items(object, "webhooks") {
            default(hook);
        }
    },
    validate,
    columns: COLUMNS,
    cells,
    ..KindSpec::CLUSTER
};

pub(super) const MUTATING: KindSpec = KindSpec {
    group: "admissionregistration.k8s.io",
    kind: "MutatingWebhookConfiguration",
    needs_revision: true,
    list_kind: "MutatingWebhookConfigurationList",
    plural: "mutatingwebhookconfigurations",
    singular: "mutatingwebhookconfiguration",
    categories: &["api-extensions"],
    generation: true,
    decode: |value| {
        let version = "admissionregistration.k8s.io/v1";
        check(version, "MutatingWebhookConfiguration", value)
    },
    default: |object| {
        for hook in items(object, "webhooks") {
            default(hook);
            fill(hook, "reinvocationPolicy", "Never");
        }
    },
    validate,
    columns: COLUMNS,
    cells,
    ..KindSpec::CLUSTER
};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::integer("Webhooks", "How many are asked."),
    Column::age(),
];

fn cells(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    vec![
        json!(text(object, "/metadata/name")),
        json!(list(object, "/webhooks").len()),
        table::age(object, now),
    ]
}

fn default(hook: &mut Value) {
    fill(hook, "failurePolicy", "Fail");
    fill(hook, "matchPolicy", "Equivalent");
    fill(hook, "timeoutSeconds", 10);
    child(hook, "namespaceSelector");
    child(hook, "objectSelector");
    default_rules(hook, "rules");
    let config = child(hook, "clientConfig");
    if has(config, "/service") {
        fill(child(config, "service"), "port", 443);
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    errors.extend(validate_metadata_of_any(
        object,
        old,
        false,
        names::subdomain,
    ));
    let hooks = list(object, "/webhooks");
    let before = old.map_or(&[][..], |old| list(old, "/webhooks"));
    // Conditions that did not change are not looked at again.
    let same = old.is_some()
        && hooks.len() == before.len()
        && hooks
            .iter()
            .zip(before)
            .all(|(new, old)| at(new, "/matchConditions") == at(old, "/matchConditions"));
    let mut seen = HashSet::new();
    for (index, hook) in hooks.iter().enumerate() {
        let field = format!("webhooks[{index}]");
        webhook(hook, &field, &mut errors);
        if !same {
            let conditions = list(hook, "/matchConditions");
            let check = |text: &str| request_condition(text, &Names::default());
            let field = format!("{field}.matchConditions");
            match_conditions(conditions, &field, &check, &mut errors);
        }
        reviews(
            hook,
            &format!("{field}.admissionReviewVersions"),
            &mut errors,
        );
        let name = text(hook, "/name");
        if !name.is_empty() && !seen.insert(name) {
            errors.duplicate(format!("{field}.name"), name);
        }
    }
    errors.done()
}

fn webhook(hook: &Value, field: &str, errors: &mut Findings) {
    full_name(text(hook, "/name"), &format!("{field}.name"), errors);
    for (index, one) in list(hook, "/rules").iter().enumerate() {
        rule(one, &format!("{field}.rules[{index}]"), errors);
    }
    let policies = [
        ("failurePolicy", &FAILURE_POLICIES[..]),
        ("matchPolicy", &MATCH_POLICIES),
    ];
    for (name, supported) in policies {
        if let Some(policy) = at(hook, &format!("/{name}")).as_str() {
            errors.one_of(format!("{field}.{name}"), policy, supported);
        }
    }
    let effects = format!("{field}.sideEffects");
    match at(hook, "/sideEffects").as_str() {
        None => {
            let detail = format!("must specify one of {}", SIDE_EFFECTS.join(", "));
            errors.required(effects, &detail);
        }
        Some(given) => errors.one_of(effects, given, &SIDE_EFFECTS),
    }
    if let Some(seconds) = at(hook, "/timeoutSeconds").as_i64()
        && !(1..=LONGEST_TIMEOUT).contains(&seconds)
    {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(format!("{field}.timeoutSeconds"), seconds, detail);
    }
    for name in ["namespaceSelector", "objectSelector"] {
        let selector = at(hook, &format!("/{name}"));
        if !selector.is_null() {
            errors.extend(validate_selector(selector, &format!("{field}.{name}")));
        }
    }
    if let Some(policy) = at(hook, "/reinvocationPolicy").as_str() {
        let field = format!("{field}.reinvocationPolicy");
        errors.one_of(field, policy, &REINVOCATION_POLICIES);
    }
    client(
        at(hook, "/clientConfig"),
        &format!("{field}.clientConfig"),
        errors,
    );
}

/// `policy.example.com`
fn full_name(name: &str, field: &str, errors: &mut Findings) {
    if name.is_empty() {
        return errors.required(field, "");
    }
    let sentences = names::subdomain(name);
    if !sentences.is_empty() {
        return errors.invalid(field, name, &sentences.join(","));
    }
    if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.invalid(field, name, detail);
    }
}

/// Where to ask: exactly one of a URL and a service of the cluster.
pub(super) fn client(config: &Value, field: &str, errors: &mut Findings) {
    let (url, service) = (at(config, "/url").as_str(), at(config, "/service"));
    match (url, service.is_null()) {
        (Some(url), true) => check_url(url, &format!("{field}.url"), errors),
        (None, false) => check_service(service, &format!("{field}.service"), errors),
        _ => errors.required(field, "exactly one of url or service is required"),
    }
}

fn check_url(url: &str, field: &str, errors: &mut Findings) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (scheme, behind) = rest.split_once("://").unwrap_or(("", rest));
    let authority = behind.split(['/', '?']).next().unwrap_or_default();
    if rest.parse::<Uri>().is_err() && !authority.is_empty() {
        let detail = format!("url must be a valid URL: parse {url:?}: invalid URL{FORM}");
        return errors.required(field, &detail);
    }
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{FORM}");
        errors.invalid(field, scheme, &detail);
    }
    let authority = if scheme.is_empty() { "" } else { authority };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        errors.invalid(field, "", &format!("host must be specified{FORM}"));
    }
    if !user.is_empty() {
        let detail = "user information is not permitted in the URL";
        errors.invalid(field, user, detail);
    }
    if !fragment.is_empty() {
        let detail = "fragments are not permitted in the URL";
        errors.invalid(field, fragment, detail);
    }
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    if !query.is_empty() {
        let detail = "query parameters are not permitted in the URL";
        errors.invalid(field, query, detail);
    }
}

fn check_service(service: &Value, field: &str, errors: &mut Findings) {
    for name in ["name", "namespace"] {
        if text(service, &format!("/{name}")).is_empty() {
            let detail = format!("service {name} is required");
            errors.required(format!("{field}.{name}"), &detail);
        }
    }
    let port = int(service, "/port");
    let sentences = names::port_number(port);
    if !sentences.is_empty() {
        let detail = format!("port is not valid: {}", sentences.join(","));
        errors.invalid(format!("{field}.port"), port, &detail);
    }
    let (path, field) = (text(service, "/path"), format!("{field}.path"));
    match path {
        "" | "/" => return,
        "//" => return errors.invalid(field, path, "segment[0] may not be empty"),
        _ => {}
    }
    if !path.starts_with('/') {
        errors.invalid(&field, path, "must start with a '/'");
    }
    let mut chars = path.chars();
    chars.next();
    let inner = chars.as_str();
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    for (index, step) in inner.split('/').enumerate() {
        if step.is_empty() {
            let detail = format!("segment[{index}] may not be empty");
            errors.invalid(&field, path, &detail);
            continue;
        }
        for why in names::subdomain(step) {
            errors.invalid(&field, path, &format!("segment[{index}]: {why}"));
        }
    }
}

fn reviews(hook: &Value, field: &str, errors: &mut Findings) {
    let versions = list(hook, "/admissionReviewVersions");
    if versions.is_empty() {
        let detail = format!("must specify one of {}", REVIEWS.join(", "));
        return errors.required(field, &detail);
    }
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let (version, field) = (
            version.as_str().unwrap_or_default(),
            format!("{field}[{index}]"),
        );
        if !seen.insert(version) {
            errors.invalid(field, version, "duplicate version");
            continue;
        }
        errors.named(&field, version, names::label_1035);
    }
    if !REVIEWS.iter().any(|known| seen.contains(known)) {
        let detail = format!("must include at least one of {}", REVIEWS.join(", "));
        errors.invalid(field, versions.to_vec(), &detail);
    }
}
