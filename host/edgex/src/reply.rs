//! EdgeX's envelope around answers and errors.

use bytes::Bytes;
use eyot_http::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value as Json, json};

const CORRELATION: HeaderName = HeaderName::from_static("x-correlation-id");

/// A good answer.
pub struct Reply {
    status: StatusCode,
    content: Content,
}

enum Content {
    /// The fields beside the envelope's own.
    Fields(Map<String, Json>),
    /// Written already: the envelope too.
    Written {
        body: Bytes,
        media_type: &'static str,
    },
    /// One envelope for each item of the request.
    Many(Vec<Json>),
    Nothing,
}

impl Reply {
    pub fn ok(fields: Json) -> Self {
        Self::with(StatusCode::OK, fields)
    }

    pub fn with(status: StatusCode, fields: Json) -> Self {
        let fields = if let Json::Object(fields) = fields {
            fields
        } else {
            Map::new()
        };
        Self {
            status,
            content: Content::Fields(fields),
        }
    }

    /// An answer whose JSON is written already.
    pub fn written(body: String) -> Self {
        Self::encoded("application/json", body)
    }

    /// An answer whose body is written already, as whatever it is.
    pub fn encoded(media_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self {
            status: StatusCode::OK,
            content: Content::Written { body, media_type },
        }
    }

    /// Nothing to say: 204.
    pub fn empty() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            content: Content::Nothing,
        }
    }

    /// What came of each item: 207, whatever it was.
    pub fn many(items: Vec<Json>) -> Self {
        Self {
            status: StatusCode::MULTI_STATUS,
            content: Content::Many(items),
        }
    }

    /// The answer as JSON, for those who ask another way than by HTTP.
    pub fn into_json(self) -> Json {
        match self.content {
            Content::Fields(fields) => envelope(self.status, fields),
            Content::Written { body, .. } => serde_json::from_slice(&body).unwrap_or_default(),
            Content::Many(items) => Json::Array(items),
            Content::Nothing => Json::Null,
        }
    }

    pub fn merge(&mut self, other: Self) {
        if let (Content::Fields(mine), Content::Fields(fields)) = (&mut self.content, other.content)
        {
            mine.extend(fields);
        }
    }
}

/// What came of one item of a request.
pub fn outcome(request_id: &str, outcome: Result<Done, Failure>) -> Json {
    let mut json = match outcome {
        Ok(Done::Created(id)) => json!({ "apiVersion": "v3", "statusCode": 201, "id": id }),
        Ok(Done::Added) => json!({ "apiVersion": "v3", "statusCode": 201 }),
        Ok(Done::Changed) => json!({ "apiVersion": "v3", "statusCode": 200 }),
        Err(Failure { status, message }) => {
            json!({ "apiVersion": "v3", "message": message, "statusCode": status.as_u16() })
        }
    };
    if !request_id.is_empty() {
        json["requestId"] = request_id.into();
    }
    json
}

/// An item that went well.
pub enum Done {
    /// With the new object's identifier.
    Created(String),
    /// A part of an object, which has no identifier of its own.
    Added,
    Changed,
}

/// Do each item in turn, and tell what came of it. (Not a function: an async closure that borrows
/// is not known to be `Send`.)
#[macro_export]
macro_rules! each {
    ($items:expr, $item:pat => $act:block) => {{
        let mut outcomes = Vec::new();
        for one in $items {
            let request_id = one.request_id.clone();
            let $item = one;
            let act: Result<$crate::reply::Done, $crate::Failure> = async { $act }.await;
            outcomes.push($crate::reply::outcome(&request_id, act));
        }
        Ok($crate::Reply::many(outcomes))
    }};
}

/// A bad answer.
#[derive(Debug)]
pub struct Failure {
    pub status: StatusCode,
    pub message: String,
}

impl Failure {
    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            message: message.into(),
        }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
        }
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::CONFLICT,
            message: message.into(),
        }
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            message: message.into(),
        }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: message.into(),
        }
    }
}

fn envelope(status: StatusCode, fields: Map<String, Json>) -> Json {
    let mut json = json!({ "apiVersion": "v3", "statusCode": status.as_u16() });
    if let Some(all) = json.as_object_mut() {
        all.extend(fields);
    }
    json
}

/// Make the HTTP answer.
pub fn reply(outcome: Result<Reply, Failure>, correlation: &str) -> Response {
    let mut response = match outcome {
        Ok(Reply { status, content }) => match content {
            Content::Written { body, media_type } => {
                let mut response = Response::new(eyot_http::full(body));
                *response.status_mut() = status;
                let media_type = HeaderValue::from_static(media_type);
                response
                    .headers_mut()
                    .insert(http::header::CONTENT_TYPE, media_type);
                response
            }
            Content::Many(items) => eyot_http::json(status, &items),
            Content::Nothing => {
                let mut response = Response::new(eyot_http::empty());
                *response.status_mut() = status;
                response
            }
            Content::Fields(fields) => eyot_http::json(status, &envelope(status, fields)),
        },
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
