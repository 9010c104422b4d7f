//! What form a client wants its answer in, and what form its body has.
//!
//! Answers are always JSON: every client accepts it, protobuf clients too. Bodies may also be YAML
//! or Kubernetes' protobuf, which kubectl sends for typed writes without asking.

use http::{HeaderMap, header};
use serde_json::Value;

use crate::{failure::Failure, protobuf};

/// The shape of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    /// The object itself.
    Object,
    /// `meta.k8s.io/v1 Table`
    Table,
    /// Only the metadata.
    Partial,
}

/// The first form in `Accept` that this server can give.
pub(crate) fn negotiate(headers: &HeaderMap) -> Result<Format, Failure> {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return Ok(Format::Object);
    }
    for clause in values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','))
    {
        if let Some(format) = clause_format(clause) {
            return Ok(format);
        }
    }
    Err(Failure::not_acceptable())
}

fn clause_format(clause: &str) -> Option<Format> {
    let mut parts = clause.split(';').map(str::trim);
    let accepted = matches!(
        parts.next()?,
        "" | "*/*"
            | "application/*"
            | "application/json"
            | "application/yaml"
            | "application/vnd.kubernetes.protobuf"
    );
    let (mut shape, mut version, mut group) = ("", "", "");
    for parameter in parts {
        match parameter.split_once('=') {
            Some(("as", value)) => shape = value,
            Some(("v", value)) => version = value,
            Some(("g", value)) => group = value,
            _ => {}
        }
    }
    let format = match (shape, version, group) {
        ("", ..) => Format::Object,
        ("Table", "v1", "meta.k8s.io") => Format::Table,
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "v1", "meta.k8s.io") => {
            Format::Partial
        }
        _ => return None,
    };
    accepted.then_some(format)
}

/// One clause of `Accept`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Clause<'a>> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().filter(|media| !media.is_empty())?;
        let mut clause = Clause {
            media,
            parameters: Vec::new(),
            quality: 1.0,
        };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let (key, value) = (key.trim(), value.trim().trim_matches('"'));
            match key {
                "q" => clause.quality = value.parse().unwrap_or(1.0),
                _ => clause.parameters.push((key, value)),
            }
        }
        Some(clause)
    }

    /// Whether this media type is, or is among, what is meant.
    pub(crate) fn admits(&self, media: &str) -> bool {
        self.media == media
            || self.media == "*/*"
            || self
                .media
                .strip_suffix('*')
                .is_some_and(|kind| kind.ends_with('/') && media.starts_with(kind))
    }
}

/// What a client accepts, the most wanted first; empty where it does not say.
pub(crate) fn accepted(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let values = headers.get_all(header::ACCEPT).iter();
    let mut clauses: Vec<Clause<'_>> = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(Clause::parse)
        .collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

/// The media type of the body, without parameters; JSON if none is given.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    match value
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
    {
        "" => "application/json",
        media => media,
    }
}

/// Read an object from a body of the given media type.
pub(crate) fn decode(media: &str, body: &[u8]) -> Result<Value, Failure> {
    match media {
        "application/json" => parse_json(body),
        "application/yaml" | "text/yaml" => {
            let text = std::str::from_utf8(body)
                .map_err(|error| Failure::bad_request(format!("the body is not UTF-8: {error}")))?;
            serde_saphyr::from_str(text).map_err(|error| {
                Failure::bad_request(format!("the body is not valid YAML: {error}"))
            })
        }
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body)
            .map(|decoded| decoded.value)
            .map_err(|error| Failure::bad_request(error.to_string())),
        other => Err(Failure::unsupported_media_type(format!(
            "the body of the request was in an unknown format ({other}) - accepted media types \
             include: application/json, application/yaml, application/vnd.kubernetes.protobuf"
        ))),
    }
}

fn parse_json(body: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::bad_request(format!(
            "the object provided is unrecognized: invalid JSON: {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, expected: Option<Format>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, http::HeaderValue::from_str(accept).unwrap());
        assert_eq!(negotiate(&headers).ok(), expected, "{accept}");
    }

    #[test]
    fn the_first_form_that_can_be_given_wins() {
        check("application/json", Some(Format::Object));
        check("application/json, */*", Some(Format::Object));
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            Some(Format::Object),
        );
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some(Format::Table),
        );
        check(
            "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
            Some(Format::Object),
        );
        check(
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            Some(Format::Partial),
        );
        check("text/html", None);
    }
}
