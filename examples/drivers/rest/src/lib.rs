//! Devices that speak HTTP, as EdgeX's REST service has them.
//!
//! | who | request | body |
//! |---|---|---|
//! | the device, at any time | `POST /api/v3/resource/DEVICE/RESOURCE` to the device service | the value: a text, JSON for objects and arrays, anything for Binary |
//! | the driver, to read | `GET http://HOST:PORT/PATH/RESOURCE?QUERY` | – ; the answer's is as above |
//! | the driver, to write | `PUT http://HOST:PORT/PATH/RESOURCE?QUERY` | the value |
//!
//! The protocol `REST` of a device has `Host`, `Port` and `Path`, and may have `Scheme` (`https`),
//! `Timeout` in seconds and `CredentialsName`: a Secret with `username` and `password`, or with
//! `token`. A device that only sends needs no such protocol. `QUERY` is what the command was asked
//! with.

#[cfg(test)]
mod tests;

use std::{fmt::Write, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use eyot_sdk::{
    Binary, Delivery, Device, Driver, Error, ProtocolError, ReadRequest, Reading, Value, ValueType,
    WriteRequest,
    http::{Client, Host, Request, Response},
    lenient, publish,
};
use serde::Deserialize;
use serde_json::Value as Json;

/// The protocol's name in device files.
const PROTOCOL: &str = "REST";
/// Longest time for an answer: the host gives a call 30 seconds.
const LONGEST: f64 = 20.0;

pub struct Rest<C> {
    client: C,
    /// `None` for a device that only sends.
    target: Option<Target>,
}

/// Where commands go.
#[derive(Debug)]
struct Target {
    /// `http://HOST:PORT/PATH`, without a slash at the end.
    base: String,
    timeout: Duration,
    authorization: Option<String>,
}

/// `protocols.REST` of a device.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    host: String,
    #[serde(deserialize_with = "lenient::number")]
    port: u16,
    #[serde(default)]
    path: String,
    #[serde(default = "http")]
    scheme: String,
    #[serde(default, deserialize_with = "lenient::optional")]
    timeout: Option<f64>,
    #[serde(default)]
    credentials: Credentials,
}

fn http() -> String {
    "http".to_owned()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Credentials {
    username: Option<String>,
    password: Option<String>,
    token: Option<String>,
}

/// `attributes` of a device resource: only what a command was asked with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attributes {
    #[serde(default)]
    url_raw_query: String,
}

impl Properties {
    fn target(self) -> Result<Target, Error> {
        let wrong = |property: &str, message: &str| {
            Err(Error::invalid(
                format!("protocols.{PROTOCOL}.{property}"),
                message,
            ))
        };
        if !["http", "https"].contains(&self.scheme.as_str()) {
            return wrong("Scheme", "must be http or https");
        }
        let host = self.host.trim_matches(['[', ']']);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return wrong("Host", "must be a name or an address");
        }
        let timeout = self.timeout.unwrap_or(5.0);
        if !(0.001..=LONGEST).contains(&timeout) {
            return wrong("Timeout", "must be 0.001 to 20 seconds");
        }
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host.to_owned(),
        };
        let path: String = self
            .path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| format!("/{}", encoded(part)))
            .collect();
        let Credentials {
            username,
            password,
            token,
        } = self.credentials;
        let basic = username.map(|user| {
            let password = password.unwrap_or_default();
            format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
        });
        Ok(Target {
            base: format!("{}://{host}:{}{path}", self.scheme, self.port),
            timeout: Duration::from_secs_f64(timeout),
            authorization: token.map(|token| format!("Bearer {token}")).or(basic),
        })
    }
}

impl Target {
    fn request(&self, method: &str, resource: &str, attributes: &Attributes) -> Request {
        let mut url = format!("{}/{}", self.base, encoded(resource));
        if !attributes.url_raw_query.is_empty() {
            url = format!("{url}?{}", attributes.url_raw_query);
        }
        let mut request = Request::new(method, url);
        request.timeout = self.timeout;
        match &self.authorization {
            Some(authorization) => request.with_header("authorization", authorization),
            None => request,
        }
    }
}

impl<C: Client> Rest<C> {
    fn target(&self) -> Result<&Target, Error> {
        self.target.as_ref().ok_or_else(|| {
            Error::NotSupported(format!(
                "the device names no {PROTOCOL} protocol: it sends, and cannot be asked or told"
            ))
        })
    }

    fn send(&mut self, request: &Request) -> Result<Response, Error> {
        let answer = self.client.send(request)?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        let said = String::from_utf8_lossy(&answer.body);
        let said: String = said.chars().take(200).collect();
        Err(Error::Protocol(ProtocolError {
            code: answer.status.into(),
            message: format!("{} {}: {said}", request.method, request.url),
        }))
    }
}

impl<C: Client + Default> Driver for Rest<C> {
    type Attributes = Attributes;

    fn open(device: &Device) -> Result<Self, Error> {
        let has = device.protocols.iter().any(|p| p.name == PROTOCOL);
        let target = match has {
            true => Some(device.protocol::<Properties>(PROTOCOL)?.target()?),
            false => None,
        };
        Ok(Self {
            client: C::default(),
            target,
        })
    }

    fn read(&mut self, requests: &[ReadRequest<'_, Attributes>]) -> Result<Vec<Reading>, Error> {
        let mut readings = Vec::with_capacity(requests.len());
        for asked in requests {
            let request = self
                .target()?
                .request("GET", asked.resource, asked.attributes);
            let answer = self.send(&request)?;
            let media_type = answer.header("content-type").unwrap_or_default();
            let value = decode(&answer.body, media_type, asked.value_type);
            let garbled = |text| Error::Garbled(format!("{}: {text}", request.url));
            readings.push(asked.answer(value.map_err(garbled)?));
        }
        Ok(readings)
    }

    fn write(&mut self, requests: &[WriteRequest<'_, Attributes>]) -> Result<(), Error> {
        for told in requests {
            let request = self
                .target()?
                .request("PUT", told.resource, told.attributes);
            let request = match told.value {
                Value::Binary(binary) => request.with_body(&binary.media_type, binary.data.clone()),
                value => match value.to_json() {
                    json @ (Json::Array(_) | Json::Object(_)) => {
                        request.with_body("application/json", json.to_string())
                    }
                    _ => request.with_body("text/plain", value.to_text()),
                },
            };
            self.send(&request)?;
        }
        Ok(())
    }

    fn deliver(&mut self, delivery: &Delivery<'_, Attributes>) -> Result<(), Error> {
        let resource = &delivery.resource;
        let value = decode(delivery.body, delivery.media_type, resource.value_type);
        let value = value.map_err(|text| Error::invalid(resource.resource, text))?;
        publish(resource.resource, vec![resource.answer(value)])
    }
}

/// The value in a body.
fn decode(body: &[u8], media_type: &str, of: ValueType) -> Result<Value, String> {
    if of == ValueType::Binary {
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        return Ok(Value::Binary(Binary {
            data: body.to_vec(),
            media_type: match media_type {
                "" => "application/octet-stream".to_owned(),
                named => named.to_owned(),
            },
        }));
    }
    let text = std::str::from_utf8(body).map_err(|_| "the body is no UTF-8".to_owned())?;
    // What is meant to be a text is taken as it stands.
    if of == ValueType::String {
        return Ok(Value::Text(text.to_owned()));
    }
    let json = serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.trim().to_owned()));
    if json.is_null() {
        return Err("null is no value".to_owned());
    }
    Value::from_json(&json, of)
}

/// A part of a path.
fn encoded(part: &str) -> String {
    let mut out = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte.into());
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

eyot_sdk::export_driver!(Rest<Host>);
