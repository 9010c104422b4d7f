//! Sends to an HTTP server, as EdgeX's `HTTPExport` does.
//!
//! | setting | |
//! |---|---|
//! | `url` | `http://HOST:PORT/PATH` or `https`; `{device}` and `{destination}` stand for the payload's |
//! | `method` | `post` (the default) or `put` |
//! | `mediaType` | the `Content-Type`; by default the payload's own |
//! | `headers` | further headers, as a JSON object of texts |
//! | `headerName`, `headerValue` | one more header; its value is best taken from a Secret |
//! | `combine` | `none` (the default): a request for each item; `lines`: one for all that are delivered together, a line each; `array`: one, as a JSON array |
//! | `timeout` | seconds to wait for the server; 10 if absent |
//!
//! Events are sent as EdgeX JSON. A request carries `X-Correlation-ID`, for an event its id, by which a
//! server knows one that comes twice. A server that takes it answers 2xx. On 408, 425, 429, a 5xx or no answer
//! at all the items are kept and sent again; on any other status they are set aside.

use std::time::Duration;

use eyot_sdk::{
    Error, Exporter, Item, PipelineError,
    http::{Client, Host, Request},
};
use serde::Deserialize;

pub struct Http<C> {
    client: C,
    url: String,
    method: &'static str,
    media_type: Option<String>,
    headers: Vec<(String, String)>,
    combine: Combine,
    timeout: Duration,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    url: String,
    method: Method,
    media_type: Option<String>,
    headers: Option<String>,
    header_name: Option<String>,
    header_value: Option<String>,
    combine: Combine,
    timeout: Option<u16>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    #[default]
    Post,
    Put,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Combine {
    #[default]
    None,
    Lines,
    Array,
}

/// What one request carries.
struct Part {
    media_type: String,
    destination: String,
    device: String,
    data: Vec<u8>,
    id: Option<String>,
}

impl<C: Client + Default> Exporter for Http<C> {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, PipelineError> {
        let url = config.url;
        if !["http://", "https://"]
            .iter()
            .any(|start| url.starts_with(start))
        {
            return Err(wrong(
                "url",
                &format!("{url:?} is not http://HOST:PORT/PATH"),
            ));
        }
        let bare = url.replace("{device}", "").replace("{destination}", "");
        if bare.contains(['{', '}']) {
            let message = "only {device} and {destination} are filled in";
            return Err(wrong("url", message));
        }
        Ok(Self {
            client: C::default(),
            url,
            method: match config.method {
                Method::Post => "POST",
                Method::Put => "PUT",
            },
            media_type: config.media_type.filter(|text| !text.is_empty()),
            headers: headers(config.headers, config.header_name, config.header_value)?,
            combine: config.combine,
            timeout: Duration::from_secs(config.timeout.unwrap_or(10).into()),
        })
    }

    fn deliver(&mut self, batch: Vec<Item>) -> Result<(), PipelineError> {
        let parts: Vec<Part> = batch.into_iter().map(part).collect();
        match self.combine {
            Combine::None => parts.into_iter().try_for_each(|part| self.send(part)),
            Combine::Lines => self.send(combined(parts, b"", b"\n", b"")),
            Combine::Array => self.send(combined(parts, b"[", b",", b"]")),
        }
    }
}

/// The headers of every request.
fn headers(
    all: Option<String>,
    name: Option<String>,
    value: Option<String>,
) -> Result<Vec<(String, String)>, PipelineError> {
    let mut headers = vec![];
    if let Some(text) = all.filter(|text| !text.trim().is_empty()) {
        let named: std::collections::BTreeMap<String, String> = serde_json::from_str(&text)
            .map_err(|error| wrong("headers", &format!("is no JSON object of texts: {error}")))?;
        headers.extend(named);
    }
    match (name, value) {
        (None, None) => {}
        (Some(name), Some(value)) => headers.push((name, value)),
        (Some(_), None) => return Err(wrong("headerValue", "is missing beside \"headerName\"")),
        (None, Some(_)) => return Err(wrong("headerName", "is missing beside \"headerValue\"")),
    }
    // The values are not named: they may be secret.
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    for (name, value) in &headers {
        if name.is_empty() || !name.chars().all(fits) || value.contains(['\r', '\n', '\0']) {
            return Err(wrong("headers", &format!("{name:?} is no header of HTTP")));
        }
    }
    Ok(headers)
}

fn part(item: Item) -> Part {
    match item {
        Item::Payload(payload) => Part {
            media_type: payload.media_type,
            destination: payload.destination,
            device: payload.device,
            data: payload.data,
            id: None,
        },
        Item::Event(event) => Part {
            media_type: "application/json".to_owned(),
            destination: event.source.clone(),
            data: event.to_edgex_json().to_string().into_bytes(),
            device: event.device,
            id: Some(event.id),
        },
    }
}

fn combined(parts: Vec<Part>, start: &[u8], between: &[u8], end: &[u8]) -> Part {
    let mut all = Part {
        media_type: String::new(),
        destination: String::new(),
        device: String::new(),
        data: start.to_vec(),
        id: None,
    };
    for (n, part) in parts.into_iter().enumerate() {
        if n == 0 {
            (all.media_type, all.destination) = (part.media_type, part.destination);
            all.device = part.device;
        } else if !all.data.ends_with(between) {
            all.data.extend(between);
        }
        all.data.extend(part.data);
    }
    all.data.extend(end);
    all
}

impl<C: Client> Http<C> {
    fn send(&mut self, part: Part) -> Result<(), PipelineError> {
        let url = self.url.replace("{device}", &segment(&part.device));
        let url = url.replace("{destination}", &segment(&part.destination));
        let media_type = self.media_type.clone().unwrap_or(part.media_type);
        let mut request = Request::new(self.method, &url).with_body(&media_type, part.data);
        request.timeout = self.timeout;
        if let Some(id) = part.id {
            request = request.with_header("X-Correlation-ID", &id);
        }
        request.headers.extend(self.headers.iter().cloned());
        let response = self.client.send(&request).map_err(|error| match error {
            Error::Invalid(invalid) => wrong("url", &invalid.message),
            error => PipelineError::Retry(error.to_string()),
        })?;
        if (200..300).contains(&response.status) {
            return Ok(());
        }
        let text: String = String::from_utf8_lossy(&response.body)
            .chars()
            .take(200)
            .collect();
        let message = format!("{url} answers {}: {text}", response.status);
        Err(match response.status {
            408 | 425 | 429 | 500.. => PipelineError::Retry(message),
            _ => PipelineError::Rejected(message),
        })
    }
}

/// A name as part of a path.
fn segment(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    let escape = |b: u8| match plain(b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    };
    name.bytes().map(escape).collect()
}

fn wrong(setting: &str, message: &str) -> PipelineError {
    PipelineError::Config(format!("setting {setting:?}: {message}"))
}

eyot_sdk::export_exporter!(Http<Host>);

#[cfg(test)]
mod tests {
    use eyot_sdk::{
        Event, Payload, Reading, Value, from_settings,
        http::{Response, Scripted},
    };

    use super::*;

    fn configure(settings: &[(&str, &str)]) -> Result<Http<Scripted>, PipelineError> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let settings: Vec<_> = settings.iter().map(own).collect();
        Http::configure(from_settings(&settings)?)
    }

    fn payload(data: &str) -> Item {
        Item::Payload(Payload {
            media_type: "text/plain".into(),
            destination: "a b".into(),
            data: data.into(),
            device: "plc/1".into(),
        })
    }

    fn event() -> Item {
        let reading = Reading {
            resource: "T".into(),
            value: Value::Int16(1),
            origin: 1,
            units: String::new(),
            tags: vec![],
        };
        Item::Event(Event {
            id: "id-1".into(),
            device: "plc".into(),
            profile: "p".into(),
            source: "s".into(),
            origin: 1,
            readings: vec![reading],
            tags: vec![],
        })
    }

    /// Deliver with this answer to each request.
    fn deliver(
        settings: &[(&str, &str)],
        status: u16,
        items: Vec<Item>,
    ) -> (Result<(), PipelineError>, Vec<Request>) {
        let mut http = configure(settings).unwrap();
        let answer = || Ok(Response::new(status, "text/plain", "so"));
        http.client.answers = std::iter::repeat_with(answer).take(items.len()).collect();
        (http.deliver(items), http.client.requests)
    }

    #[test]
    fn each_item_is_a_request() {
        let settings = [
            ("url", "http://h:1/x/{device}?d={destination}"),
            ("method", "put"),
            ("headers", r#"{"A": "b"}"#),
            ("headerName", "Authorization"),
            ("headerValue", "Token t"),
        ];
        let (delivered, requests) = deliver(&settings, 204, vec![payload("one"), event()]);
        assert_eq!(delivered, Ok(()));
        assert_eq!(requests[0].url, "http://h:1/x/plc/1?d=a%20b");
        assert_eq!(requests[0].method, "PUT");
        let has = |n: usize, name: &str, value: &str| {
            requests[n]
                .headers
                .contains(&(name.to_owned(), value.to_owned()))
        };
        assert!(has(0, "content-type", "text/plain"), "{requests:?}");
        assert!(has(0, "A", "b") && has(0, "Authorization", "Token t"));
        assert!(has(1, "X-Correlation-ID", "id-1"));
        assert!(has(1, "content-type", "application/json"));
    }

    #[test]
    fn items_can_share_a_request() {
        let lines = [("url", "http://h/"), ("combine", "lines")];
        let (_, requests) = deliver(&lines, 200, vec![payload("one"), payload("two\n")]);
        assert_eq!(requests[0].body, b"one\ntwo\n");
        let array = [
            ("url", "http://h/"),
            ("combine", "array"),
            ("mediaType", "application/json"),
        ];
        let (_, requests) = deliver(&array, 200, vec![payload("1"), payload("2")]);
        assert_eq!(requests[0].body, b"[1,2]");
    }

    #[test]
    fn what_the_server_says_decides_what_becomes_of_the_items() {
        let url = [("url", "http://h/")];
        for status in [408, 429, 500, 503] {
            let (delivered, _) = deliver(&url, status, vec![payload("x")]);
            assert!(
                matches!(delivered, Err(PipelineError::Retry(_))),
                "{status}"
            );
        }
        for status in [301, 400, 401, 404] {
            let (delivered, _) = deliver(&url, status, vec![payload("x")]);
            assert!(
                matches!(delivered, Err(PipelineError::Rejected(_))),
                "{status}"
            );
        }
        let mut away = configure(&url).unwrap();
        let delivered = away.deliver(vec![payload("x")]);
        assert!(matches!(delivered, Err(PipelineError::Retry(_))));
    }

    #[test]
    fn wrong_settings_are_named() {
        for (settings, word) in [
            (&[][..], "url"),
            (&[("url", "mqtt://h")], "mqtt"),
            (&[("url", "http://h/{colour}")], "{device}"),
            (&[("url", "http://h"), ("method", "get")], "method"),
            (&[("url", "http://h"), ("headers", "x")], "headers"),
            (&[("url", "http://h"), ("headerName", "A")], "headerValue"),
            (
                &[("url", "http://h"), ("headers", r#"{"a b": "c"}"#)],
                "a b",
            ),
            (&[("url", "http://h"), ("timeout", "-1")], "timeout"),
        ] {
            let Err(PipelineError::Config(message)) = configure(settings) else {
                panic!("{settings:?}")
            };
            assert!(message.contains(word), "{message}");
        }
    }
}
