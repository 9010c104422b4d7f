//! Reading a request: path segments, query arguments and a bounded body.

use std::collections::HashMap;

use bytes::Bytes;
use eyot_http::{BodyError, Request};
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use crate::reply::Failure;

/// Largest body: what the Kubernetes API takes.
pub const BODY: usize = 3 * 1024 * 1024;
/// Items on a page, unless asked for otherwise, and at most: EdgeX's own figures.
const LIMIT: usize = 20;
pub const MOST: usize = 1024;

pub struct Parsed {
    pub method: Method,
    pub raw_path: String,
    /// Percent-decoded segments.
    pub path: Vec<String>,
    pub query: HashMap<String, String>,
    pub content_type: Option<String>,
    /// The request's correlation identifier.
    pub correlation: String,
    pub body: Bytes,
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub offset: usize,
    pub limit: usize,
}

/// The caller's correlation identifier, or a new one.
pub fn correlation(request: &Request) -> String {
    let given = request
        .headers()
        .get("x-correlation-id")
        .and_then(|id| id.to_str().ok());
    given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

pub async fn parse(request: Request, correlation: &str) -> Result<Parsed, Failure> {
    let (parts, body) = request.into_parts();
    let raw_path = parts.uri.path().to_owned();
    let segments = raw_path.split('/').filter(|segment| !segment.is_empty());
    let path = segments
        .map(|segment| percent_decode_str(segment).decode_utf8().map(Into::into))
        .collect::<Result<Vec<String>, _>>()
        .map_err(|_| Failure::bad_request(format!("{raw_path} is not UTF-8")))?;
    let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let content_type = parts
        .headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .map(str::to_owned);
    let body = eyot_http::collect(body, BODY)
        .await
        .map_err(|error| match error {
            BodyError::TooLarge { .. } => Failure {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                message: error.to_string(),
            },
            BodyError::Broken(_) => Failure::bad_request(error.to_string()),
        })?;
    Ok(Parsed {
        method: parts.method,
        raw_path,
        path,
        query: query.into_owned().collect(),
        content_type,
        correlation: correlation.to_owned(),
        body,
    })
}

impl Parsed {
    pub fn page(&self) -> Result<Page, Failure> {
        Page::asked(&self.query)
    }

    /// The labels that a query asks for, with commas between them.
    pub fn labels(&self) -> Vec<String> {
        let given = self.query.get("labels").map(String::as_str);
        let labels = given.unwrap_or_default().split(',');
        let labels = labels.filter(|label| !label.is_empty());
        labels.map(str::to_owned).collect()
    }

    /// A query argument that is true or false.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Failure> {
        flag(&self.query, name, default)
    }
}

/// The same among arguments that came another way.
pub fn flag(query: &HashMap<String, String>, name: &str, default: bool) -> Result<bool, Failure> {
    match query.get(name).map(String::as_str) {
        None | Some("") => Ok(default),
        // EdgeX 2 wrote yes and no.
        Some("true" | "yes") => Ok(true),
        Some("false" | "no") => Ok(false),
        Some(other) => Err(Failure::bad_request(format!(
            "{name}: {other:?} is neither true nor false"
        ))),
    }
}

/// A whole number in a path that is not negative, such as a time or an age.
pub fn number(called: &str, text: &str) -> Result<i64, Failure> {
    let parsed = text.parse::<i64>().ok().filter(|number| *number >= 0);
    parsed.ok_or_else(|| {
        Failure::bad_request(format!(
            "failed to parse path param {called}'s value {text} into integer"
        ))
    })
}

/// First and last time of a range.
pub fn range(start: &str, end: &str) -> Result<(i64, i64), Failure> {
    let (start, end) = (number("start", start)?, number("end", end)?);
    if end < start {
        return Err(Failure::bad_request(format!(
            "end's value {end} is not allowed to be greater than start's value {start}"
        )));
    }
    Ok((start, end))
}

impl Page {
    /// What `offset` and `limit` of a query say.
    pub fn asked(query: &HashMap<String, String>) -> Result<Self, Failure> {
        let number = |name: &str| {
            query
                .get(name)
                .map(|text| {
                    text.parse::<i64>().map_err(|_| {
                        Failure::bad_request(format!("{name}: {text:?} is not a whole number"))
                    })
                })
                .transpose()
        };
        let offset = number("offset")?.unwrap_or(0);
        let offset = usize::try_from(offset)
            .map_err(|_| Failure::bad_request("offset: must not be negative"))?;
        let limit = match number("limit")? {
            None => LIMIT,
            Some(-1) => MOST,
            Some(limit) => match usize::try_from(limit) {
                Ok(limit) if limit <= MOST => limit,
                _ => {
                    return Err(Failure::bad_request(format!(
                        "limit: -1 to {MOST} is possible"
                    )));
                }
            },
        };
        Ok(Page { offset, limit })
    }

    /// That part of all items; EdgeX's 416 if it begins after the end.
    pub fn of<T>(self, items: Vec<T>) -> Result<(usize, Vec<T>), Failure> {
        let total = items.len();
        self.check(total)?;
        Ok((
            total,
            items
                .into_iter()
                .skip(self.offset)
                .take(self.limit)
                .collect(),
        ))
    }

    pub fn check(self, total: usize) -> Result<(), Failure> {
        // As EdgeX has it, nothing at all is no range that cannot be satisfied.
        if total > 0 && self.offset > total {
            return Err(Failure {
                status: StatusCode::RANGE_NOT_SATISFIABLE,
                message: format!(
                    "offset {} is beyond the {total} items there are",
                    self.offset
                ),
            });
        }
        Ok(())
    }
}
