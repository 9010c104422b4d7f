//! Every error a client can get, as the `metav1.Status` that Kubernetes clients act upon.
//!
//! Tools branch on `reason` and show `message`, so both are Kubernetes' own for the same mistake.
//! A [`Failure`] is made where the mistake is seen and turned into an answer in one place.

use std::{borrow::Cow, collections::HashSet};

use eyot_http::Response;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::{field_error::FieldError, patch::PatchError, selector::SelectorError};

/// A refused or failed request.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    code: StatusCode,
    /// Empty where Kubernetes gives none.
    reason: Cow<'static, str>,
    message: String,
    /// `None` leaves `details` out, as Kubernetes does for plain bad requests.
    details: Option<Map<String, Value>>,
    /// With which token a list that expired can go on, inconsistently.
    token: String,
}

impl Failure {
    pub(crate) fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Failure {
        Failure::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// `resource` is `pods` or `deployments.apps`.
    pub(crate) fn not_found(group: &str, plural: &str, name: &str) -> Failure {
        let message = format!("{} {name:?} not found", qualified(plural, group));
        Failure::new(StatusCode::NOT_FOUND, "NotFound", message).about(group, plural, name)
    }

    /// The path leads nowhere in the API.
    pub(crate) fn no_such_resource() -> Failure {
        let message = "the server could not find the requested resource";
        Failure::new(StatusCode::NOT_FOUND, "NotFound", message).with_details()
    }

    /// Nothing was measured that goes by this name.
    pub(crate) fn metric_not_found(message: String) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(crate) fn method_not_allowed() -> Failure {
        let message = "the server does not allow this method on the requested resource";
        Failure::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).with_details()
    }

    /// A new object of a definition that is being deleted.
    pub(crate) fn terminating(group: &str, plural: &str) -> Failure {
        let message = "create not allowed while custom resource definition is terminating";
        Failure::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
            .about(group, plural, "")
    }

    pub(crate) fn already_exists(group: &str, plural: &str, name: &str) -> Failure {
        let message = format!("{} {name:?} already exists", qualified(plural, group));
        Failure::new(StatusCode::CONFLICT, "AlreadyExists", message).about(group, plural, name)
    }

    /// The object changed since the client read it, or is not the one it meant.
    pub(crate) fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Failure {
        let resource = qualified(plural, group);
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Failure::new(StatusCode::CONFLICT, "Conflict", message).about(group, plural, name)
    }

    /// The usual conflict.
    pub(crate) fn modified(group: &str, plural: &str, name: &str) -> Failure {
        let why = "the object has been modified; \
                   please apply your changes to the latest version and try again";
        Failure::conflict(group, plural, name, why)
    }

    pub(crate) fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Failure {
        let resource = qualified(plural, group);
        let message = match name {
            "" => format!("{resource} is forbidden: {why}"),
            name => format!("{resource} {name:?} is forbidden: {why}"),
        };
        Failure::new(StatusCode::FORBIDDEN, "Forbidden", message).about(group, plural, name)
    }

    /// A path outside of the resources.
    pub(crate) fn forbidden_path(why: &str) -> Failure {
        let message = format!("forbidden: {why}");
        Failure::new(StatusCode::FORBIDDEN, "Forbidden", message).with_details()
    }

    /// One or more fields of an object are wrong.
    pub(crate) fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Failure {
        // Kubernetes keeps duplicates among the causes, not in the sentence.
        let mut seen = HashSet::new();
        let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        texts.retain(|text| seen.insert(text.clone()));
        let all = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {all}", qualified(kind, group));
        let causes = errors
            .iter()
            .map(|e| json!({"reason": e.reason(), "message": e.message(), "field": e.field}))
            .collect();
        let code = StatusCode::UNPROCESSABLE_ENTITY;
        Failure::new(code, "Invalid", message)
            .about(group, kind, name)
            .causes(causes)
    }

    /// Fields of an applied configuration belong to others.
    pub(crate) fn apply_conflict(message: String, causes: Vec<Value>) -> Failure {
        Failure::new(StatusCode::CONFLICT, "Conflict", message).causes(causes)
    }

    /// What Kubernetes answers from the depth, without a reason: some malformed patches.
    pub(crate) fn unexplained(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    /// The continue token or the revision of a watch is no longer held.
    pub(crate) fn expired(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::GONE, "Expired", message)
    }

    pub(crate) fn too_large(limit: usize) -> Failure {
        let message = format!("Request entity too large: limit is {limit}");
        let code = StatusCode::PAYLOAD_TOO_LARGE;
        Failure::new(code, "RequestEntityTooLarge", message).with_details()
    }

    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Failure {
        Failure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
    }

    pub(crate) fn not_acceptable(message: impl Into<String>) -> Failure {
        let code = StatusCode::NOT_ACCEPTABLE;
        Failure::new(code, "NotAcceptable", message).with_details()
    }

    /// A list was asked for at a revision that does not exist yet.
    pub(crate) fn revision_too_large(asked: u64, current: u64) -> Failure {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let cause = json!({
            "reason": "ResourceVersionTooLarge", "message": "Too large resource version"
        });
        let mut failure = Failure::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
            .with_details()
            .causes(vec![cause]);
        failure
            .details()
            .insert("retryAfterSeconds".into(), json!(1));
        failure
    }

    pub(crate) fn internal(message: impl std::fmt::Display) -> Failure {
        let text = format!("Internal error occurred: {message}");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", text)
            .with_details()
            .causes(vec![json!({"message": message.to_string()})])
    }

    /// Something beside this server failed, which Kubernetes has no reason for.
    pub(crate) fn unknown(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    /// More is asked than can be served.
    pub(crate) fn too_many_requests() -> Failure {
        let message = "Too many requests, please try again later.";
        let code = StatusCode::TOO_MANY_REQUESTS;
        let mut failure = Failure::new(code, "TooManyRequests", message).with_details();
        failure
            .details()
            .insert("retryAfterSeconds".into(), json!(1));
        failure
    }

    /// An eviction that a disruption budget forbids now; retry after so many seconds, if that is
    /// known.
    pub(crate) fn disrupts_too_much(cause: &str, retry: u64) -> Failure {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let code = StatusCode::TOO_MANY_REQUESTS;
        let mut failure = Failure::new(code, "TooManyRequests", message);
        if retry > 0 {
            let details = failure.details();
            details.insert("retryAfterSeconds".into(), json!(retry));
        }
        failure.causes(vec![
            json!({"reason": "DisruptionBudget", "message": cause}),
        ])
    }

    /// The request took longer than requests may.
    pub(crate) fn timeout() -> Failure {
        let message = "Timeout: request did not complete within the allotted timeout";
        Failure::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).with_details()
    }

    /// The same for a write that was read, but did not get through admission and storage in time.
    pub(crate) fn write_timeout() -> Failure {
        let message = "Timeout: request did not complete within requested timeout - context deadline exceeded";
        Failure::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).with_details()
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Failure {
        Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            message,
        )
    }

    /// The disk is full; the message says what to do.
    pub(crate) fn insufficient_storage(message: impl Into<String>) -> Failure {
        let code = StatusCode::INSUFFICIENT_STORAGE;
        Failure::new(code, "InsufficientStorage", message).with_details()
    }

    /// Name the token with which the list can go on.
    pub(crate) fn going_on(mut self, token: &str) -> Failure {
        self.0.token = token.to_owned();
        self
    }

    /// A Status that somebody else made: what is no error becomes one.
    pub(crate) fn from_status(status: &Value) -> Failure {
        let text = |key: &str| status.get(key).and_then(Value::as_str).unwrap_or_default();
        let code = status.get("code").and_then(Value::as_u64);
        let code = code.and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok());
        let code = code.filter(|code| code.as_u16() >= 400);
        let mut failure =
            Failure::new(code.unwrap_or(StatusCode::BAD_REQUEST), "", text("message"));
        failure.0.reason = text("reason").to_owned().into();
        failure.0.details = status.get("details").and_then(Value::as_object).cloned();
        failure
    }

    /// Set the causes in `details`.
    pub(crate) fn causes(mut self, causes: Vec<Value>) -> Failure {
        self.details().insert("causes".into(), Value::Array(causes));
        self
    }

    /// Whether an object of that name is there already.
    pub(crate) fn is_exists(&self) -> bool {
        self.0.reason == "AlreadyExists"
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.0.reason == "NotFound"
    }

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn code(&self) -> StatusCode {
        self.0.code
    }

    /// The `Status` object, as it also stands in an ERROR event of a watch.
    pub(crate) fn status(&self) -> Value {
        let parts = &self.0;
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": parts.message, "code": parts.code.as_u16(),
        });
        if !parts.reason.is_empty() {
            status["reason"] = parts.reason.as_ref().into();
        }
        if !parts.token.is_empty() {
            status["metadata"]["continue"] = parts.token.as_str().into();
        }
        if let Some(details) = &parts.details {
            status["details"] = Value::Object(details.clone());
        }
        status
    }

    pub(crate) fn response(&self) -> Response {
        let mut response = eyot_http::json(self.0.code, &self.status());
        let details = self.0.details.as_ref();
        let seconds = details.and_then(|details| details.get("retryAfterSeconds"));
        if let Some(seconds) = seconds.and_then(Value::as_u64).filter(|s| *s > 0) {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Failure {
        Failure(Box::new(Parts {
            code,
            reason: reason.into(),
            message: message.into(),
            details: None,
            token: String::new(),
        }))
    }

    /// `details`, if only empty ones.
    pub(crate) fn with_details(mut self) -> Failure {
        self.details();
        self
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Failure {
        let details = self.details();
        for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                details.insert(key.into(), value.into());
            }
        }
        self
    }

    fn details(&mut self) -> &mut Map<String, Value> {
        self.0.details.get_or_insert_default()
    }
}

impl From<SelectorError> for Failure {
    fn from(error: SelectorError) -> Failure {
        Failure::bad_request(error.to_string())
    }
}

impl From<PatchError> for Failure {
    fn from(error: PatchError) -> Failure {
        match error {
            PatchError::Malformed(message) => Failure::bad_request(message),
            PatchError::Unprocessable(_) | PatchError::TestFailed => {
                let message = error.to_string();
                Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with_details()
            }
            PatchError::Unexplained(message) => Failure::unexplained(message),
            PatchError::TooLarge(message) => Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                format!("Request entity too large: {message}"),
            ),
        }
    }
}

/// `pods`, `deployments.apps`.
pub(crate) fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}
