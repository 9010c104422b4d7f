//! What a claim asks for.

use serde_json::Value;

use super::{
    counts::{self, bounded, set},
    parts::{configuration, fully_qualified_name, selectors, tolerations},
};
use crate::kinds::{
    findings::Findings,
    json::{at, fill, has, int, items, list, text},
    names,
};

const BAD_REFERENCE: &str = "must be the name of a request in the claim or the name of a request and \
                             a subrequest separated by '/'";
const MODES: [&str; 2] = ["All", "ExactCount"];

/// The defaults of a claim's `spec`.
pub(super) fn default(spec: &mut Value) {
    let Some(devices) = spec.get_mut("devices") else {
        return;
    };
    for request in items(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly") {
            amount(exactly);
        }
        items(request, "firstAvailable").for_each(amount);
    }
}

fn amount(request: &mut Value) {
    fill(request, "allocationMode", "ExactCount");
    if text(request, "/allocationMode") == "ExactCount" && int(request, "/count") == 0 {
        request["count"] = 1.into();
    }
}

/// The rules of a claim's `spec`, which stands at `field`.
pub(super) fn validate(spec: &Value, field: &str, errors: &mut Findings) {
    let devices = at(spec, "/devices");
    let field = format!("{field}.devices");
    let requests = list(devices, "/requests");
    set(
        requests,
        counts::REQUESTS,
        &format!("{field}.requests"),
        errors,
        |one| at(one, "/name").clone(),
        request,
    );
    bounded(
        list(devices, "/constraints"),
        counts::CONSTRAINTS,
        &format!("{field}.constraints"),
        errors,
        |one, field, errors| constraint(one, field, requests, errors),
    );
    bounded(
        list(devices, "/config"),
        counts::CONFIGURATIONS,
        &format!("{field}.config"),
        errors,
        |one, field, errors| {
            references(one, field, requests, errors);
            configuration(one, field, false, errors);
        },
    );
}

fn request(request: &Value, field: &str, errors: &mut Findings) {
    let name = text(request, "/name");
    errors.named(&format!("{field}.name"), name, names::label);
    let alternatives = list(request, "/firstAvailable");
    match (has(request, "/exactly"), alternatives.is_empty()) {
        (false, true) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required";
            errors.required(field, detail);
        }
        (true, false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple \
                          fields are set";
            errors.invalid(field, Value::Null, detail);
        }
        (true, true) => wish(at(request, "/exactly"), &format!("{field}.exactly"), errors),
        (false, false) => set(
            alternatives,
            counts::ALTERNATIVES,
            &format!("{field}.firstAvailable"),
            errors,
            |one| at(one, "/name").clone(),
            |one, field, errors| {
                let name = text(one, "/name");
                errors.named(&format!("{field}.name"), name, names::label);
                wish(one, field, errors);
            },
        ),
    }
}

/// Which devices, and how many.
fn wish(wish: &Value, field: &str, errors: &mut Findings) {
    let at_class = format!("{field}.deviceClassName");
    match text(wish, "/deviceClassName") {
        "" => errors.required(at_class, ""),
        class => errors.named(&at_class, class, names::subdomain),
    }
    selectors(wish, field, false, errors);
    let count = int(wish, "/count");
    match text(wish, "/allocationMode") {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.invalid(format!("{field}.count"), count, detail);
        }
        "ExactCount" if count <= 0 => {
            errors.invalid(format!("{field}.count"), count, "must be greater than zero");
        }
        "All" | "ExactCount" => {}
        other => errors.unsupported(format!("{field}.allocationMode"), other, &MODES),
    }
    tolerations(wish, field, errors);
}

fn constraint(constraint: &Value, field: &str, requests: &[Value], errors: &mut Findings) {
    references(constraint, field, requests, errors);
    for key in ["matchAttribute", "distinctAttribute"] {
        if has(constraint, &format!("/{key}")) {
            let name = text(constraint, &format!("/{key}"));
            return fully_qualified_name(name, &format!("{field}.{key}"), errors);
        }
    }
    let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but \
                  multiple fields are set";
    errors.required(field, detail);
}

/// The list `requests` below `owner`, which names requests of the claim.
pub(super) fn references(owner: &Value, field: &str, requests: &[Value], errors: &mut Findings) {
    set(
        list(owner, "/requests"),
        counts::REQUESTS,
        &format!("{field}.requests"),
        errors,
        Value::clone,
        |one, field, errors| reference(one.as_str().unwrap_or_default(), field, requests, errors),
    );
}

/// `request` or `request/alternative`.
pub(super) fn reference(name: &str, field: &str, requests: &[Value], errors: &mut Findings) {
    let segments: Vec<&str> = name.split('/').collect();
    let found = match segments.as_slice() {
        [request] => requests.iter().any(|one| text(one, "/name") == *request),
        [request, alternative] => requests
            .iter()
            .filter(|one| text(one, "/name") == *request)
            .flat_map(|one| list(one, "/firstAvailable"))
            .any(|one| text(one, "/name") == *alternative),
        _ => return errors.invalid(field, name, BAD_REFERENCE),
    };
    for segment in segments {
        errors.named(field, segment, names::label);
    }
    if !found {
        errors.invalid(field, name, BAD_REFERENCE);
    }
}
