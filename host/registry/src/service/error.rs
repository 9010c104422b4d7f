//! Errors as the specification has them: a code for programs, a message for people.

use std::io;

use eyot_http::{BodyError, Response};
use http::{StatusCode, header::CONTENT_RANGE};
use serde_json::json;

use crate::{manifest::ManifestError, name::NameError, upload::UploadError};

#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// For 416: the length of the content.
    length: Option<u64>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            length: None,
        }
    }

    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn range(message: impl Into<String>, length: u64) -> Self {
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        Self {
            length: Some(length),
            ..Self::new(status, "SIZE_INVALID", message)
        }
    }

    pub(super) fn name(error: &NameError) -> Self {
        Self::bad("NAME_INVALID", error.to_string())
    }

    pub(super) fn digest(error: &NameError) -> Self {
        Self::bad("DIGEST_INVALID", error.to_string())
    }

    pub(super) fn method(allowed: &str) -> Self {
        let message = format!("this path takes {allowed}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message)
    }

    pub(super) fn into_response(self) -> Response {
        let errors = json!({ "errors": [{ "code": self.code, "message": self.message }] });
        let mut response = eyot_http::json(self.status, &errors);
        if let Some(length) = self.length
            && let Ok(value) = format!("bytes */{length}").parse()
        {
            response.headers_mut().insert(CONTENT_RANGE, value);
        }
        response
    }
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        tracing::error!(%error, "the registry's content store failed");
        let (status, message) = match error.kind() {
            io::ErrorKind::StorageFull => (
                StatusCode::INSUFFICIENT_STORAGE,
                "the disk is full".to_owned(),
            ),
            _ => (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the content store failed: {error}"),
            ),
        };
        Self::new(status, "UNKNOWN", message)
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        let message = error.to_string();
        match error {
            UploadError::Io(error) => error.into(),
            UploadError::TooMany => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message)
            }
            UploadError::Unknown => Self::not_found("BLOB_UPLOAD_UNKNOWN", message),
            UploadError::OutOfOrder { .. } => Self::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "BLOB_UPLOAD_INVALID",
                message,
            ),
            UploadError::Length { .. } => Self::bad("SIZE_INVALID", message),
            UploadError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message)
            }
            UploadError::Digest { .. } => Self::bad("DIGEST_INVALID", message),
            UploadError::Broken(_) => Self::bad("BLOB_UPLOAD_INVALID", message),
            UploadError::Stalled => {
                Self::new(StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID", message)
            }
        }
    }
}

impl From<ManifestError> for ApiError {
    fn from(error: ManifestError) -> Self {
        Self::bad("MANIFEST_INVALID", error.to_string())
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, "MANIFEST_INVALID", error.to_string())
    }
}
