//! Writes to InfluxDB by its v2 API, which InfluxDB 1.8 and 3 and others that speak line protocol have, too.
//!
//! | setting | |
//! |---|---|
//! | `url` | `http://HOST:PORT` or `https`, up to before `/api/v2/write` |
//! | `bucket` | where the points go |
//! | `org` | whose bucket it is; servers without organisations need none |
//! | `token` | best taken from a Secret |
//! | `timeout` | seconds to wait for the server; 10 if absent |
//!
//! Events become lines as [`Line`] makes them, and those without a value that a line can have become nothing.
//! Payloads are written as they are: the step `ToLineProtocol` makes such, with further tags.
//!
//! A point is known by its series and its time, so one that is written again is the same point: a batch whose
//! answer was lost does no harm. What is wrong with the items (400, 413, 422: a line or a type that does not fit,
//! a point older than the bucket keeps) is rejected, and the host finds out which item it is by halves, since
//! the server may have taken the others. All else may pass by itself or by what somebody does on the server
//! (no answer, 5xx, 429, a token or bucket that is not there yet): the items are kept and sent again.

use std::time::Duration;

use eyot_sdk::{
    Error, Exporter, Item, PipelineError,
    http::{Client, Host, Request},
    lines::Line,
};
use serde::Deserialize;

/// Most of one request, but for an item that is larger by itself.
const BODY: usize = 4 << 20;
/// What is told of an answer, in characters.
const TOLD: usize = 200;

pub struct Influxdb<C> {
    client: C,
    url: String,
    token: Option<String>,
    timeout: Duration,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Config {
    url: String,
    bucket: String,
    org: Option<String>,
    token: Option<String>,
    timeout: Option<u16>,
}

impl<C: Client + Default> Exporter for Influxdb<C> {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, PipelineError> {
        let base = config.url.trim_end_matches('/');
        let host = ["http://", "https://"]
            .iter()
            .find_map(|scheme| base.strip_prefix(scheme));
        if host.is_none_or(str::is_empty) || base.contains(['?', '#', ' ']) {
            let message = format!("{:?} is not http://HOST:PORT", config.url);
            return Err(wrong("url", &message));
        }
        if config.bucket.is_empty() {
            return Err(wrong("bucket", "is missing"));
        }
        let mut url = format!(
            "{base}/api/v2/write?precision=ns&bucket={}",
            escaped(&config.bucket)
        );
        if let Some(org) = config.org.filter(|org| !org.is_empty()) {
            url.push_str(&format!("&org={}", escaped(&org)));
        }
        // A line break at its end is what files of secrets often have.
        let token = config.token.map(|token| token.trim().to_owned());
        let token = token.filter(|token| !token.is_empty());
        if let Some(token) = &token
            && !token.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        {
            return Err(wrong("token", "has characters that no header can have"));
        }
        Ok(Self {
            client: C::default(),
            url,
            token,
            timeout: Duration::from_secs(config.timeout.unwrap_or(10).into()),
        })
    }

    fn deliver(&mut self, batch: Vec<Item>) -> Result<(), PipelineError> {
        let mut body = Vec::new();
        for item in batch {
            let lines = lines(item);
            if !body.is_empty() && body.len() + lines.len() > BODY {
                self.write(std::mem::take(&mut body))?;
            }
            body.extend(lines);
        }
        match body.is_empty() {
            true => Ok(()),
            false => self.write(body),
        }
    }
}

/// The lines of an item, each with its end.
fn lines(item: Item) -> Vec<u8> {
    match item {
        Item::Event(event) => {
            let line = Line::from(&event);
            match line.fields.is_empty() {
                true => Vec::new(),
                false => line.to_string().into_bytes(),
            }
        }
        Item::Payload(payload) => {
            let mut data = payload.data;
            if !data.is_empty() && !data.ends_with(b"\n") {
                data.push(b'\n');
            }
            data
        }
    }
}

impl<C: Client> Influxdb<C> {
    fn write(&mut self, body: Vec<u8>) -> Result<(), PipelineError> {
        let mut request =
            Request::new("POST", &self.url).with_body("text/plain; charset=utf-8", body);
        request.timeout = self.timeout;
        if let Some(token) = &self.token {
            request = request.with_header("Authorization", &format!("Token {token}"));
        }
        let response = self.client.send(&request).map_err(|error| match error {
            Error::Invalid(invalid) => wrong("url", &invalid.message),
            error => PipelineError::Retry(error.to_string()),
        })?;
        if (200..300).contains(&response.status) {
            return Ok(());
        }
        let text: String = String::from_utf8_lossy(&response.body)
            .chars()
            .take(TOLD)
            .collect();
        let message = format!("{} answers {}: {text}", self.url, response.status);
        Err(match response.status {
            400 | 413 | 422 => PipelineError::Rejected(message),
            _ => PipelineError::Retry(message),
        })
    }
}

/// A name as a value of a query.
fn escaped(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let escape = |b: u8| match plain(b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    };
    name.bytes().map(escape).collect()
}

fn wrong(setting: &str, message: &str) -> PipelineError {
    PipelineError::Config(format!("setting {setting:?}: {message}"))
}

eyot_sdk::export_exporter!(Influxdb<Host>);

#[cfg(test)]
mod tests {
    use eyot_sdk::{
        Event, Payload, Reading, Value, from_settings,
        http::{Response, Scripted},
    };

    use super::*;

    const SETTINGS: [(&str, &str); 4] = [
        ("url", "http://h:8086/"),
        ("bucket", "a b"),
        ("org", "ö"),
        ("token", "t0k==\n"),
    ];

    fn configure(settings: &[(&str, &str)]) -> Result<Influxdb<Scripted>, PipelineError> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let settings: Vec<_> = settings.iter().map(own).collect();
        Influxdb::configure(from_settings(&settings)?)
    }

    fn payload(data: &[u8]) -> Item {
        Item::Payload(Payload {
            media_type: "text/plain".into(),
            destination: String::new(),
            data: data.into(),
            device: "plc".into(),
        })
    }

    fn event(value: Value) -> Item {
        let reading = Reading {
            resource: "T".into(),
            value,
            origin: 1,
            units: String::new(),
            tags: vec![],
        };
        Item::Event(Event {
            id: "id-1".into(),
            device: "plc".into(),
            profile: "p".into(),
            source: "s".into(),
            origin: 7,
            readings: vec![reading],
            tags: vec![],
        })
    }

    /// Deliver with these answers.
    fn deliver(statuses: &[u16], items: Vec<Item>) -> (Result<(), PipelineError>, Vec<Request>) {
        let mut influxdb = configure(&SETTINGS).unwrap();
        let answer = |status: &u16| Ok(Response::new(*status, "application/json", "so"));
        influxdb.client.answers = statuses.iter().map(answer).collect();
        (influxdb.deliver(items), influxdb.client.requests)
    }

    #[test]
    fn a_batch_is_one_request_of_lines() {
        let items = vec![
            event(Value::Int16(-5)),
            payload(b"m f=1 2"),
            event(Value::Null("Int8".into())),
            payload(b"m f=2 3\n"),
        ];
        let (delivered, requests) = deliver(&[204], items);
        assert_eq!(delivered, Ok(()));
        let [request] = &requests[..] else {
            panic!("{requests:?}")
        };
        assert_eq!(request.method, "POST");
        assert_eq!(
            request.url,
            "http://h:8086/api/v2/write?precision=ns&bucket=a%20b&org=%C3%B6"
        );
        let token = ("Authorization".to_owned(), "Token t0k==".to_owned());
        assert!(request.headers.contains(&token), "{request:?}");
        assert_eq!(
            String::from_utf8_lossy(&request.body),
            "p,device=plc,source=s T=-5i 7\nm f=1 2\nm f=2 3\n"
        );
    }

    #[test]
    fn nothing_to_write_is_no_request() {
        let (delivered, requests) = deliver(&[], vec![event(Value::Float64(f64::NAN))]);
        assert_eq!((delivered, requests.len()), (Ok(()), 0));
    }

    #[test]
    fn large_batches_are_cut_between_items() {
        let large = vec![b'x'; BODY / 2];
        let items = vec![payload(&large), payload(&large), payload(b"m f=1 2")];
        let (delivered, requests) = deliver(&[204, 204], items);
        assert_eq!(delivered, Ok(()));
        assert_eq!(requests[0].body.len(), BODY / 2 + 1);
        assert!(requests[1].body.ends_with(b"x\nm f=1 2\n"));
    }

    #[test]
    fn what_the_server_says_decides_what_becomes_of_the_items() {
        for status in [301, 401, 403, 404, 408, 429, 500, 503] {
            let (delivered, _) = deliver(&[status], vec![payload(b"m f=1 2")]);
            assert!(
                matches!(delivered, Err(PipelineError::Retry(_))),
                "{status}"
            );
        }
        for status in [400, 413, 422] {
            let (delivered, _) = deliver(&[status], vec![payload(b"m f=1 2")]);
            let Err(PipelineError::Rejected(message)) = delivered else {
                panic!("{status}")
            };
            assert!(message.contains("so") && !message.contains("t0k"));
        }
        let (delivered, _) = deliver(&[], vec![payload(b"m f=1 2")]);
        assert!(matches!(delivered, Err(PipelineError::Retry(_))));
    }

    #[test]
    fn wrong_settings_are_named() {
        let url = ("url", "http://h");
        for (settings, word) in [
            (&[("bucket", "b")][..], "url"),
            (&[("url", "http://"), ("bucket", "b")], "url"),
            (&[("url", "http://h?x"), ("bucket", "b")], "url"),
            (&[url], "bucket"),
            (&[url, ("bucket", "b"), ("token", "a\nb")], "token"),
            (&[url, ("bucket", "b"), ("timeout", "-1")], "timeout"),
            (&[url, ("bucket", "b"), ("colour", "red")], "colour"),
        ] {
            let Err(PipelineError::Config(message)) = configure(settings) else {
                panic!("{settings:?}")
            };
            assert!(
                message.contains(word) && !message.contains("a\nb"),
                "{message}"
            );
        }
    }
}
