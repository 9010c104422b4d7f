//! HTTP requests of drivers, made by the host: to what the device's protocols name, with TLS for
//! `https` URLs.
//!
//! A driver is generic over [`Client`]: [`Host`] in the component, [`Scripted`] in its tests.

use std::{collections::VecDeque, time::Duration};

use crate::Error;

/// Most that is taken of an answer: what a reading can carry.
pub const BODY_LIMIT: usize = 16 << 20;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `PUT` and so on.
    pub method: String,
    /// `http://HOST:PORT/PATH?QUERY`, or `https`.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body; empty for none.
    pub body: Vec<u8>,
    /// Time for connecting, and again for the answer to begin and for each part of it.
    pub timeout: Duration,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// `200` and so on.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl Request {
    /// A request without a body that waits for up to five seconds.
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: Duration::from_secs(5),
        }
    }

    /// The same with a body.
    pub fn with_body(mut self, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.with_header("content-type", media_type)
    }

    /// The same with a header.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl Response {
    /// An answer for [`Scripted`].
    pub fn new(status: u16, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), media_type.to_owned())],
            body: body.into(),
        }
    }

    /// The first header of that name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All headers of that name, in lower case.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.headers.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_str())
    }
}

/// Sends requests.
pub trait Client {
    /// Send a request and wait for all of the answer. Whatever status it has is no error.
    fn send(&mut self, request: &Request) -> Result<Response, Error>;
}

/// The host's HTTP client. Outside of a component it fails: use [`Scripted`] in tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

#[cfg(not(target_family = "wasm"))]
impl Client for Host {
    fn send(&mut self, request: &Request) -> Result<Response, Error> {
        let url = &request.url;
        Err(Error::Other(format!("{url}: there is no host here")))
    }
}

#[cfg(target_family = "wasm")]
mod wasi {
    use wasip2::http::{
        outgoing_handler,
        types::{
            ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody,
            OutgoingRequest, RequestOptions, Scheme,
        },
    };

    use super::{BODY_LIMIT, Client, Error, Host, Request, Response};

    /// What can be written at once, as WASI has it.
    const CHUNK: usize = 4096;

    impl Client for Host {
        fn send(&mut self, request: &Request) -> Result<Response, Error> {
            let wrong = |what: &str| Error::Other(format!("{}: {what}", request.url));
            let (outgoing, options) = prepared(request).ok_or_else(|| wrong("is no request"))?;
            let body = outgoing.body().map_err(|()| wrong("has no body"))?;
            let answer = outgoing_handler::handle(outgoing, Some(options));
            let answer = answer.map_err(|code| failed(&request.url, &code))?;
            {
                let stream = body.write().map_err(|()| wrong("has no body"))?;
                for chunk in request.body.chunks(CHUNK) {
                    // Whoever does not take the body may still answer why.
                    if stream.blocking_write_and_flush(chunk).is_err() {
                        break;
                    }
                }
            }
            let _ = OutgoingBody::finish(body, None);
            answer.subscribe().block();
            let response = match answer.get() {
                Some(Ok(response)) => response.map_err(|code| failed(&request.url, &code))?,
                _ => return Err(wrong("no answer")),
            };
            read(&request.url, &response)
        }
    }

    fn prepared(request: &Request) -> Option<(OutgoingRequest, RequestOptions)> {
        let (scheme, rest) = request.url.split_once("://")?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("/{path}"),
        };
        let fields = Fields::new();
        for (name, value) in &request.headers {
            fields.append(name, value.as_bytes()).ok()?;
        }
        if !request.body.is_empty() {
            let length = request.body.len().to_string();
            fields.append("content-length", length.as_bytes()).ok()?;
        }
        let outgoing = OutgoingRequest::new(fields);
        let method = match request.method.as_str() {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "PATCH" => Method::Patch,
            other => Method::Other(other.to_owned()),
        };
        outgoing.set_method(&method).ok()?;
        outgoing.set_scheme(Some(&scheme)).ok()?;
        outgoing.set_authority(Some(authority)).ok()?;
        outgoing.set_path_with_query(Some(&path)).ok()?;
        let options = RequestOptions::new();
        let timeout = u64::try_from(request.timeout.as_nanos()).ok();
        options.set_connect_timeout(timeout).ok()?;
        options.set_first_byte_timeout(timeout).ok()?;
        options.set_between_bytes_timeout(timeout).ok()?;
        Some((outgoing, options))
    }

    fn read(url: &str, response: &IncomingResponse) -> Result<Response, Error> {
        let status = response.status();
        let all = response.headers().entries().into_iter();
        let headers = all.map(|(name, value)| {
            let value = String::from_utf8_lossy(&value).into_owned();
            (name.to_ascii_lowercase(), value)
        });
        let headers = headers.collect();
        let broken = || Error::Garbled(format!("{url}: the answer broke off"));
        let incoming: IncomingBody = response.consume().map_err(|()| broken())?;
        let stream = incoming.stream().map_err(|()| broken())?;
        let mut body = Vec::new();
        loop {
            match stream.blocking_read(64 << 10) {
                Ok(chunk) if body.len() + chunk.len() > BODY_LIMIT => {
                    let text = format!("{url}: the answer is longer than {BODY_LIMIT} bytes");
                    return Err(Error::Garbled(text));
                }
                Ok(chunk) => body.extend(chunk),
                Err(wasip2::io::streams::StreamError::Closed) => break,
                Err(_) => return Err(broken()),
            }
        }
        Ok(Response {
            status,
            headers,
            body,
        })
    }

    /// What an error says of the device.
    fn failed(url: &str, code: &ErrorCode) -> Error {
        let text = format!("{url}: {code}");
        match code {
            ErrorCode::ConnectionTimeout
            | ErrorCode::ConnectionReadTimeout
            | ErrorCode::ConnectionWriteTimeout
            | ErrorCode::HttpResponseTimeout => Error::Timeout(text),
            ErrorCode::HttpRequestDenied => {
                Error::Other(format!("{url}: the device's protocols do not name it"))
            }
            ErrorCode::HttpRequestUriInvalid => Error::invalid("protocols", text),
            ErrorCode::HttpProtocolError
            | ErrorCode::HttpResponseIncomplete
            | ErrorCode::HttpResponseTransferCoding(_)
            | ErrorCode::HttpResponseContentCoding(_) => Error::Garbled(text),
            _ => Error::Unreachable(text),
        }
    }
}

/// Answers what a test has put there, and keeps what it was sent.
#[derive(Debug, Clone, Default)]
pub struct Scripted {
    /// The answers to come, one after the other; after the last everything is unreachable.
    pub answers: VecDeque<Result<Response, Error>>,
    /// What was sent.
    pub requests: Vec<Request>,
}

impl Client for Scripted {
    fn send(&mut self, request: &Request) -> Result<Response, Error> {
        self.requests.push(request.clone());
        let gone = || Err(Error::Unreachable(format!("{}: no answer", request.url)));
        self.answers.pop_front().unwrap_or_else(gone)
    }
}
