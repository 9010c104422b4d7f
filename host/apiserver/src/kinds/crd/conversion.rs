//! How objects become what another version of their definition says: not at all, or by a webhook.

use serde_json::Value;

use super::super::{
    json::{at, has, list, text},
    metadata::invalid,
    names,
};
use crate::field_error::FieldError;

const FIELD: &str = "spec.conversion";
/// Versions of the question that this server asks.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

pub(super) fn check(
    conversion: &Value,
    old: Option<&Value>,
    was_established: bool,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let strategy = text(conversion, "/strategy");
    let config = at(conversion, "/webhook/clientConfig");
    let reviews = list(conversion, "/webhook/conversionReviewVersions");
    match strategy {
        "Webhook" => {
            errors.extend(client(config, old, was_established));
            errors.extend(review_versions(reviews, old));
        }
        "None" => {
            let detail = "should not be set when strategy is not set to Webhook";
            if !config.is_null() {
                let field = format!("{FIELD}.webhookClientConfig");
                errors.push(FieldError::forbidden(field, detail));
            }
            if !reviews.is_empty() {
                let field = format!("{FIELD}.conversionReviewVersions");
                errors.push(FieldError::forbidden(field, detail));
            }
        }
        "" => errors.push(FieldError::required(format!("{FIELD}.strategy"), "")),
        _ => {
            let value = at(conversion, "/strategy");
            let supported = ["None", "Webhook"];
            let field = format!("{FIELD}.strategy");
            errors.push(FieldError::not_supported(field, value, &supported));
        }
    }
    errors
}

fn client(config: &Value, old: Option<&Value>, was_established: bool) -> Vec<FieldError> {
    let field = format!("{FIELD}.webhookClientConfig");
    if config.is_null() {
        let detail = "required when strategy is set to Webhook";
        return vec![FieldError::required(field, detail)];
    }
    let mut errors = Vec::new();
    match (has(config, "/url"), has(config, "/service")) {
        (true, false) => errors.extend(url(text(config, "/url"), &format!("{field}.url"))),
        (false, true) => {
            errors.extend(service(at(config, "/service"), &format!("{field}.service")));
        }
        _ => {
            let detail = "exactly one of url or service is required";
            errors.push(FieldError::required(&field, detail));
        }
    }
    // One that was wrong already, or that was never used, may stay wrong.
    let bundle = text(config, "/caBundle");
    let before = old.map_or("", |old| text(old, "/webhook/clientConfig/caBundle"));
    let tolerated = !was_established || (!before.is_empty() && !is_bundle(before));
    if !bundle.is_empty() && !tolerated && !is_bundle(bundle) {
        let detail = "unable to load root certificates: unable to parse bytes as PEM block";
        let field = format!("{field}.caBundle");
        errors.push(FieldError::invalid_shown(field, "\"<redacted>\"", detail));
    }
    errors
}

/// Whether a definition names an authority for its webhook that nobody can trust by.
pub(crate) fn bundle_is_broken(crd: &Value) -> bool {
    let bundle = text(crd, "/spec/conversion/webhook/clientConfig/caBundle");
    !bundle.is_empty() && !is_bundle(bundle)
}

/// Base64 of PEM with at least one certificate.
fn is_bundle(text: &str) -> bool {
    use base64::Engine;
    let engine = base64::engine::general_purpose::STANDARD;
    let Ok(pem) = engine.decode(text) else {
        return false;
    };
    let mut blocks = x509_parser::pem::Pem::iter_from_buffer(&pem).peekable();
    blocks.peek().is_some()
        && blocks.all(|block| block.is_ok_and(|block| block.parse_x509().is_ok()))
}

fn url(text: &str, field: &str) -> Vec<FieldError> {
    let form = "desired format: https://host[/path]";
    let wrong = |detail: String| vec![invalid(field, text, &detail)];
    let Some((scheme, rest)) = text.split_once("://") else {
        let why = format!("url must be a valid URL: parse {text:?}: invalid URI; {form}");
        return wrong(why);
    };
    let mut errors = Vec::new();
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme; {form}");
        errors.extend(wrong(detail));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        errors.extend(wrong(format!("host must be specified; {form}")));
    }
    if authority.contains('@') {
        let detail = "user information is not permitted in the URL";
        errors.extend(wrong(detail.to_owned()));
    }
    if rest.contains('#') {
        let detail = "fragments are not permitted in the URL";
        errors.extend(wrong(detail.to_owned()));
    }
    if rest.contains('?') {
        let detail = "query parameters are not permitted in the URL";
        errors.extend(wrong(detail.to_owned()));
    }
    errors
}

fn service(service: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (name, detail) in [
        ("name", "service name is required"),
        ("namespace", "service namespace is required"),
    ] {
        if text(service, &format!("/{name}")).is_empty() {
            errors.push(FieldError::required(format!("{field}.{name}"), detail));
        }
    }
    let port = at(service, "/port").as_i64().unwrap_or(443);
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let detail = format!("port is not valid: {}", wrong.join(","));
        let field = format!("{field}.port");
        errors.push(FieldError::invalid(field, &port.into(), &detail));
    }
    errors.extend(path(at(service, "/path"), &format!("{field}.path")));
    errors
}

fn path(path: &Value, field: &str) -> Vec<FieldError> {
    let Some(text) = path.as_str() else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    if text.is_empty() || text == "/" {
        return errors;
    }
    if text == "//" {
        errors.push(invalid(field, text, "segment[0] may not be empty"));
        return errors;
    }
    if !text.starts_with('/') {
        errors.push(invalid(field, text, "must start with a '/'"));
    }
    let inner = text.strip_prefix('/').unwrap_or(text);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    for (index, segment) in inner.split('/').enumerate() {
        if segment.is_empty() {
            let detail = format!("segment[{index}] may not be empty");
            errors.push(invalid(field, text, &detail));
            continue;
        }
        for why in names::subdomain(segment) {
            let detail = format!("segment[{index}]: {why}");
            errors.push(invalid(field, text, &detail));
        }
    }
    errors
}

fn review_versions(versions: &[Value], old: Option<&Value>) -> Vec<FieldError> {
    let field = format!("{FIELD}.conversionReviewVersions");
    if versions.is_empty() {
        return vec![FieldError::required(field, "")];
    }
    let mut errors = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if versions.iter().take(index).any(|before| before == version) {
            errors.push(FieldError::invalid(field, version, "duplicate version"));
            continue;
        }
        let name = version.as_str().unwrap_or_default();
        errors.extend(
            names::label_1035(name)
                .iter()
                .map(|why| invalid(&field, name, why)),
        );
    }
    let known = |version: &Value| REVIEWS.iter().any(|known| version == known);
    let before = old.map_or(&[][..], |old| {
        list(old, "/webhook/conversionReviewVersions")
    });
    let was_known = before.is_empty() || before.iter().any(known);
    if was_known && !versions.iter().any(known) {
        let detail = format!("must include at least one of {}", REVIEWS.join(", "));
        errors.push(FieldError::invalid(field, &Value::from(versions), &detail));
    }
    errors
}
