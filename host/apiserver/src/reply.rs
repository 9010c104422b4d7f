//! Answers: objects, lists and Tables in the form that the client asked for.

use bytes::Bytes;
use eyot_http::Response;
use eyot_store::Object;
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    call::Call,
    failure::Failure,
    media::{Format, Meta},
    object,
    table::{IncludeObject, Printer},
};

/// Warnings beyond this many say nothing new, and headers have a limit of their own.
const WARNINGS: usize = 32;

/// A stored object.
pub(crate) fn stored(
    call: &Call,
    code: StatusCode,
    object: &Object,
    warnings: &[String],
) -> Result<Response, Failure> {
    match call.format {
        Format::Object => Ok(bytes(code, call.resource.show(object), warnings)),
        _ => value(call, code, &call.resource.value(object)?, warnings),
    }
}

/// An object that is not (or not yet) stored.
pub(crate) fn value(
    call: &Call,
    code: StatusCode,
    value: &Value,
    warnings: &[String],
) -> Result<Response, Failure> {
    printed(call, &call.resource.printer, code, value, warnings)
}

/// The same, with a Table by another printer than the resource's own.
pub(crate) fn printed(
    call: &Call,
    printer: &Printer,
    code: StatusCode,
    value: &Value,
    warnings: &[String],
) -> Result<Response, Failure> {
    let shown = match call.format {
        Format::Object => serde_json::to_vec(value),
        Format::Partial(meta) => serde_json::to_vec(&partial(value, meta)),
        Format::PartialList(_) => {
            let kind = &call.resource.kind;
            return Err(Failure::not_acceptable(format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{}.{kind})",
                package(call)
            )));
        }
        Format::Table(meta) => {
            let version = meta.api_version();
            let row = printer.row(value, include(call)?, version, Timestamp::now());
            let metadata = json!({"resourceVersion": object::resource_version(value)});
            serde_json::to_vec(&printer.table(metadata, vec![row], version, true))
        }
    };
    Ok(bytes(
        code,
        shown.map_err(Failure::internal)?.into(),
        warnings,
    ))
}

/// An answer of JSON bytes.
pub(crate) fn bytes(code: StatusCode, json: Bytes, warnings: &[String]) -> Response {
    let mut response = http::Response::new(eyot_http::full(json));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    warn(&mut response, warnings);
    response
}

/// Add warnings to an answer, each once.
pub(crate) fn warn(response: &mut Response, warnings: &[String]) {
    for (at, warning) in warnings.iter().enumerate().take(WARNINGS) {
        if warnings[..at].contains(warning) {
            continue;
        }
        let escaped = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// `Status: Success` about one object.
pub(crate) fn success(call: &Call, code: StatusCode, uid: &str) -> Response {
    let mut details = json!({"name": call.name, "kind": call.resource.plural});
    if !call.resource.group.is_empty() {
        details["group"] = call.resource.group.as_str().into();
    }
    if !uid.is_empty() {
        details["uid"] = uid.into();
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details,
    });
    eyot_http::json(code, &status)
}

/// The metadata of an object, as `PartialObjectMetadata`.
pub(crate) fn partial(value: &Value, meta: Meta) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": meta.api_version(),
        "metadata": value.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// What rows of a Table carry.
pub(crate) fn include(call: &Call) -> Result<IncludeObject, Failure> {
    match call.query.include_object.as_str() {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        other => Err(Failure::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: \
             must be 'Metadata', 'Object', 'None', or empty"
        ))),
    }
}

/// The Go package of a resource's types, as Kubernetes' messages name it.
pub(crate) fn package(call: &Call) -> &str {
    match call.resource.group.as_str() {
        _ if call.resource.is_custom() => "unstructured",
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    }
}
