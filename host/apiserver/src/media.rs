//! What form a client wants its answer in, and what form its body has.
//!
//! Objects are JSON from the body to the store and back; the other forms (YAML, Kubernetes' protobuf)
//! are translations at the edge, made only for clients that ask for them.

use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::Value;

use crate::{
    failure::Failure,
    protobuf,
    reading::{self, Notes},
};

/// The shape of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    /// The object itself.
    Object,
    /// `meta.k8s.io` `Table`
    Table(Meta),
    /// Only the metadata of one object; of a watch's objects too.
    Partial(Meta),
    /// Only the metadata of the objects of a list.
    PartialList(Meta),
}

/// The version of `meta.k8s.io` that a client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Meta {
    V1,
    V1Beta1,
}

impl Meta {
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Meta::V1 => "meta.k8s.io/v1",
            Meta::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Encoding {
    Json,
    /// JSON with line breaks.
    Pretty,
    Yaml,
    Protobuf,
}

/// What an endpoint can answer beside JSON objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Custom resources have no protobuf form, but their metadata has.
    pub(crate) protobuf: bool,
    /// Tables: what is stored has them, questions do not.
    pub(crate) table: bool,
    /// A stream of events, which YAML has no form for.
    pub(crate) stream: bool,
}

impl Offer {
    const MEDIA: [(&'static str, Encoding); 3] = [
        ("application/json", Encoding::Json),
        ("application/yaml", Encoding::Yaml),
        ("application/vnd.kubernetes.protobuf", Encoding::Protobuf),
    ];

    /// The refusal of a client that accepts none of this.
    fn refusal(self) -> Failure {
        let suffix = if self.stream { ";stream=watch" } else { "" };
        let media: Vec<String> = Offer::MEDIA
            .iter()
            .filter(|(_, encoding)| match encoding {
                Encoding::Yaml => !self.stream,
                Encoding::Protobuf => self.protobuf,
                _ => true,
            })
            .map(|(media, _)| format!("{media}{suffix}"))
            .collect();
        Failure::not_acceptable(format!(
            "only the following media types are accepted: {}",
            media.join(", ")
        ))
    }
}

/// The first form in `Accept` that can be given.
pub(crate) fn negotiate(headers: &HeaderMap, offer: Offer) -> Result<(Format, Encoding), Failure> {
    if is_plain_json(headers) {
        return Ok((Format::Object, Encoding::Json));
    }
    let clauses = accepted(headers);
    for clause in &clauses {
        for (media, encoding) in Offer::MEDIA {
            if clause.admits(media)
                && let Some(format) = clause.format(encoding, offer)
            {
                let pretty = encoding == Encoding::Json && clause.parameter("pretty") == Some("1");
                let encoding = if pretty { Encoding::Pretty } else { encoding };
                return Ok((format, encoding));
            }
        }
    }
    // No media type at all was one of ours: told by the router before anything else is looked at.
    let known = clauses
        .iter()
        .any(|clause| Offer::MEDIA.iter().any(|(media, _)| clause.admits(media)));
    if known || !offer.protobuf {
        return Err(offer.refusal());
    }
    Err(Failure::not_acceptable(
        "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, \
         application/vnd.kubernetes.protobuf, application/json;stream=watch, \
         application/vnd.kubernetes.protobuf;stream=watch",
    ))
}

/// What nearly every request says, found without taking it apart.
fn is_plain_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::ACCEPT).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(value), None) => matches!(
            value.as_bytes(),
            b"application/json" | b"*/*" | b"application/json, */*" | b""
        ),
        _ => false,
    }
}

/// How an answer that is no stored object is to be written: errors, reviews, statuses.
pub(crate) fn encoding(headers: &HeaderMap) -> Encoding {
    if is_plain_json(headers) {
        return Encoding::Json;
    }
    // Where another shape is asked for, an error has none: JSON then.
    let clauses = accepted(headers);
    let plain = clauses
        .iter()
        .filter(|clause| clause.parameter("as").is_none());
    plain
        .flat_map(|clause| {
            Offer::MEDIA
                .iter()
                .filter(|(media, _)| clause.admits(media))
        })
        .map(|(_, encoding)| *encoding)
        .next()
        .unwrap_or(Encoding::Json)
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

    fn parameter(&self, name: &str) -> Option<&'a str> {
        let found = self.parameters.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| *value)
    }

    /// The shape that the parameters ask for, if it is offered in this encoding.
    fn format(&self, encoding: Encoding, offer: Offer) -> Option<Format> {
        if encoding == Encoding::Yaml && offer.stream {
            return None;
        }
        match self.parameter("stream") {
            None | Some("") => {}
            Some("watch") if encoding != Encoding::Yaml => {}
            Some(_) => return None,
        }
        let (shape, version, group) = (
            self.parameter("as"),
            self.parameter("v"),
            self.parameter("g"),
        );
        if (shape, version, group) == (None, None, None) {
            return (encoding != Encoding::Protobuf || offer.protobuf).then_some(Format::Object);
        }
        let meta = match (group, version) {
            (Some("meta.k8s.io"), Some("v1")) => Meta::V1,
            (Some("meta.k8s.io"), Some("v1beta1")) => Meta::V1Beta1,
            _ => return None,
        };
        match shape {
            Some("Table") if offer.table && encoding != Encoding::Protobuf => {
                Some(Format::Table(meta))
            }
            Some("PartialObjectMetadata") => Some(Format::Partial(meta)),
            Some("PartialObjectMetadataList") => Some(Format::PartialList(meta)),
            _ => None,
        }
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

/// Read an object from a body of the given media type. `kind` is what it should be, for errors.
pub(crate) fn read(media: &str, body: &Bytes, kind: &str) -> Result<(Value, Notes), Failure> {
    let read = match media {
        "application/json" => reading::json(body, true)
            .map_err(|error| format!("couldn't get version/kind; json parse error: {error}")),
        "application/yaml" | "text/yaml" => reading::yaml(body),
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body)
            .map(|decoded| (decoded.value, Notes::default()))
            .map_err(|error| error.to_string()),
        _ => {
            return Err(Failure::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types \
                 include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
            ));
        }
    };
    let (value, notes) = read.map_err(|error| {
        Failure::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {error} ({})",
            summary(body)
        ))
    })?;
    if value.is_object() {
        return Ok((value, notes));
    }
    let shape = match value {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        // Nothing at all is an object without a type.
        _ => return Ok((Value::Object(serde_json::Map::new()), notes)),
    };
    Err(Failure::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; \
         json parse error: json: cannot unmarshal {shape} into Go value of type struct {{ APIVersion \
         string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
         \"json:\\\"kind,omitempty\\\"\" }} ({})",
        summary(body)
    )))
}

/// The same where repeated fields are of no interest.
pub(crate) fn decode(media: &str, body: &Bytes, kind: &str) -> Result<Value, Failure> {
    read(media, body, kind).map(|(value, _)| value)
}

/// The beginning of a body, for errors.
fn summary(body: &[u8]) -> String {
    const LENGTH: usize = 30;
    let start = body.get(..LENGTH).unwrap_or(body);
    let more = if body.len() > LENGTH { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => format!("{}{more}", hex::encode(start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: Offer = Offer {
        protobuf: true,
        table: true,
        stream: false,
    };

    #[track_caller]
    fn check(accept: &str, offer: Offer, expected: Option<(Format, Encoding)>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, http::HeaderValue::from_str(accept).unwrap());
        assert_eq!(negotiate(&headers, offer).ok(), expected, "{accept}");
    }

    #[test]
    fn the_first_form_that_can_be_given_wins() {
        use Encoding::{Json, Pretty, Protobuf, Yaml};
        use Format::{Object, Partial, PartialList, Table};
        const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
        let table = |version: &str| format!("application/json;as=Table;v={version};g=meta.k8s.io");
        for (accept, expected) in [
            ("application/json".to_owned(), (Object, Json)),
            ("application/json, */*".to_owned(), (Object, Json)),
            ("application/json;pretty=1".to_owned(), (Object, Pretty)),
            (
                "application/yaml, application/json".to_owned(),
                (Object, Yaml),
            ),
            (
                "application/json;q=0.5,application/yaml;q=0.9".to_owned(),
                (Object, Yaml),
            ),
            (format!("{PROTOBUF},application/json"), (Object, Protobuf)),
            (
                format!("{},{},application/json", table("v1"), table("v1beta1")),
                (Table(Meta::V1), Json),
            ),
            (
                format!("{},application/json", table("v1beta1")),
                (Table(Meta::V1Beta1), Json),
            ),
            (format!("{},application/json", table("v9")), (Object, Json)),
            (
                format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,{}", table("v1")),
                (Table(Meta::V1), Json),
            ),
            (
                format!("{PROTOBUF};as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
                (Partial(Meta::V1), Protobuf),
            ),
            (
                "application/json;as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io".to_owned(),
                (PartialList(Meta::V1Beta1), Json),
            ),
        ] {
            check(&accept, STORED, Some(expected));
        }
        for accept in [
            "text/html",
            "application/cbor",
            &table("v9"),
            "application/json;stream=other",
        ] {
            check(accept, STORED, None);
        }
    }

    #[test]
    fn what_an_endpoint_does_not_have_is_passed_over() {
        const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
        let custom = Offer {
            protobuf: false,
            ..STORED
        };
        let question = Offer {
            table: false,
            ..STORED
        };
        let watch = Offer {
            stream: true,
            ..STORED
        };
        check(PROTOBUF, custom, None);
        check(
            &format!("{PROTOBUF},application/json"),
            custom,
            Some((Format::Object, Encoding::Json)),
        );
        check(
            &format!("{PROTOBUF};as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
            custom,
            Some((Format::Partial(Meta::V1), Encoding::Protobuf)),
        );
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io",
            question,
            None,
        );
        check("application/yaml", watch, None);
        check(
            &format!("{PROTOBUF};stream=watch"),
            watch,
            Some((Format::Object, Encoding::Protobuf)),
        );
    }
}
