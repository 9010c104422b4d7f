//! EdgeX's envelope around answers and errors.

use eyot_http::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value as Json, json};

use crate::device::CommandError;

const CORRELATION: HeaderName = HeaderName::from_static("x-correlation-id");

/// A good answer: the fields beside the envelope's own.
pub(super) struct Reply {
    fields: Map<String, Json>,
    body: Option<String>,
}

impl Reply {
    pub(super) fn ok(fields: Json) -> Self {
        let fields = if let Json::Object(fields) = fields {
            fields
        } else {
            Map::new()
        };
        Self { fields, body: None }
    }

    /// An answer whose body is written already.
    pub(super) fn written(body: String) -> Self {
        Self {
            fields: Map::new(),
            body: Some(body),
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.fields.extend(other.fields);
    }
}

/// A bad answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub status: StatusCode,
    pub message: String,
}

impl Failure {
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            message: message.into(),
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
        }
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: message.into(),
        }
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        use crate::source::SourceError;
        let status = match &error {
            CommandError::NoDevice(_) | CommandError::Source(SourceError::Unknown { .. }) => {
                StatusCode::NOT_FOUND
            }
            CommandError::Source(SourceError::WriteOnly { .. } | SourceError::ReadOnly { .. }) => {
                StatusCode::METHOD_NOT_ALLOWED
            }
            CommandError::Source(_) | CommandError::Refused { .. } => StatusCode::BAD_REQUEST,
            CommandError::Locked(_) | CommandError::Down { .. } => StatusCode::LOCKED,
            CommandError::NotServed { .. } | CommandError::Busy(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            CommandError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            CommandError::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self {
            status,
            message: error.to_string(),
        }
    }
}

/// Make the HTTP answer.
pub(super) fn reply(outcome: Result<Reply, Failure>, correlation: &str) -> Response {
    let mut response = match outcome {
        Ok(Reply {
            body: Some(body), ..
        }) => {
            let mut response = eyot_http::text(StatusCode::OK, body);
            let json = HeaderValue::from_static("application/json");
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, json);
            response
        }
        Ok(Reply { fields, .. }) => {
            let mut json = json!({ "apiVersion": "v3", "statusCode": 200 });
            if let Some(all) = json.as_object_mut() {
                all.extend(fields);
            }
            eyot_http::json(StatusCode::OK, &json)
        }
        Err(Failure { status, message }) => eyot_http::json(
            status,
            &json!({ "apiVersion": "v3", "message": message, "statusCode": status.as_u16() }),
        ),
    };
    if let Ok(correlation) = HeaderValue::from_str(correlation) {
        response.headers_mut().insert(CORRELATION, correlation);
    }
    response
}
