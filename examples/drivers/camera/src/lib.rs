//! ONVIF cameras. Profiles and devices are those of EdgeX's ONVIF service.
//!
//! The protocol `Onvif` of a device has `Address` and `Port` (80 without it), and may have
//! `CredentialsName`: a Secret with `username`, `password` and `mode`. Modes are `usernametoken`,
//! `digest`, `both` (without one) and `none`; `basic` may stand beside them with a comma, for cameras
//! that give pictures for nothing better. `Timeout` is in seconds. `Events`, `true` or a topic
//! expression such as `tns1:VideoSource//.`, has the camera's events pulled from the start.
//!
//! Attributes of a resource: `service` (Device, Media, Media2, PTZ, Imaging, Event, Analytics, EdgeX)
//! with `getFunction` and `setFunction`, any function of that service. Parameters of a reading are a
//! JSON object in the query, as itself or in base 64 (`?jsonObject=…`); those of a writing are the
//! value. Without a `ProfileToken` the camera's first profile is meant.
//!
//! Of the service `EdgeX`: `GetSnapshot`, a picture as Binary; `CameraEvent`, the resource that events
//! become; `SubscribeCameraEvent` with `subscribeType: PullPoint`, and `UnsubscribeCameraEvent`.

mod camera;
mod clock;
mod digest;
mod discovery;
mod soap;
mod xml;

#[cfg(test)]
mod tests;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use eyot_sdk::{
    Binary, Device, DiscoveredDevice, Driver, Error, ReadRequest, Reading, Resource,
    Service as Own, Value, ValueType, WriteRequest,
    http::{Client, Host},
    lenient, log,
    net::Udp,
    publish,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::{
    camera::Camera,
    soap::{Caller, Login, Service},
};

/// The protocol's name in device files.
const PROTOCOL: &str = "Onvif";
/// Longest time for an answer: a reading may need several, and the host gives a call 30 seconds.
const LONGEST: f64 = 10.0;
/// How often events are asked for.
const PULL: Duration = Duration::from_secs(1);

pub struct Onvif<C> {
    camera: Camera<C>,
    /// What is asked for from the start, if anything.
    events: Option<String>,
    /// The resource that events become.
    event: Option<Resource<Attributes>>,
}

/// `protocols.Onvif` of a device.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    address: String,
    #[serde(default, deserialize_with = "lenient::optional")]
    port: Option<u16>,
    #[serde(default, deserialize_with = "lenient::optional")]
    timeout: Option<f64>,
    #[serde(default, deserialize_with = "lenient::text")]
    events: String,
    #[serde(default)]
    credentials: Option<Credentials>,
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    mode: String,
}

/// `attributes` of a device resource.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attributes {
    service: String,
    get_function: String,
    set_function: String,
    subscribe_type: String,
    default_topic_filter: String,
    url_raw_query: String,
}

impl Attributes {
    fn is_edgex(&self) -> bool {
        self.service.eq_ignore_ascii_case("EdgeX")
    }

    fn service(&self, resource: &str) -> Result<Service, Error> {
        Service::parse(&self.service).ok_or_else(|| {
            let message = "must be Device, Media, Media2, PTZ, Imaging, Event, Analytics or EdgeX";
            Error::attribute(resource, "service", message)
        })
    }

    /// The parameters that a reading was asked with.
    fn parameters(&self) -> Result<Json, Error> {
        let mut pairs = self.url_raw_query.split('&');
        let Some(text) = pairs.find_map(|pair| pair.strip_prefix("jsonObject=")) else {
            return Ok(Json::Null);
        };
        let text = decoded(text);
        let json = serde_json::from_slice(&text).ok().or_else(|| {
            let padding = text
                .iter()
                .rposition(|byte| *byte != b'=')
                .map_or(0, |at| at + 1);
            let bytes = STANDARD_NO_PAD.decode(&text[..padding]);
            serde_json::from_slice(&bytes.ok()?).ok()
        });
        json.ok_or_else(|| {
            Error::invalid(
                "jsonObject",
                "must be a JSON object, as itself or in base 64",
            )
        })
    }
}

/// A part of a query without its percent signs.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        let code = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

impl Credentials {
    fn login(self) -> Result<Option<Login>, Error> {
        let mut login = Login {
            username: self.username,
            password: self.password,
            ..Login::default()
        };
        let mode = match self.mode.as_str() {
            "" => "both".to_owned(),
            mode => mode.to_ascii_lowercase(),
        };
        for mode in mode.split(',').map(str::trim) {
            match mode {
                "none" => {}
                "usernametoken" => login.token = true,
                "digest" => login.digest = true,
                "basic" => login.basic = true,
                "both" => (login.token, login.digest) = (true, true),
                _ => {
                    return Err(Error::invalid(
                        format!("protocols.{PROTOCOL}.Credentials.mode"),
                        "modes are usernametoken, digest, both, basic and none",
                    ));
                }
            }
        }
        Ok((login.token || login.digest || login.basic).then_some(login))
    }
}

impl<C: Client> Onvif<C> {
    fn with_client(device: &Device, client: C) -> Result<Self, Error> {
        let properties: Properties = device.protocol(PROTOCOL)?;
        let wrong = |property: &str, message: &str| {
            Err(Error::invalid(
                format!("protocols.{PROTOCOL}.{property}"),
                message,
            ))
        };
        let host = properties.address.trim_matches(['[', ']']);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return wrong("Address", "must be a name or an address");
        }
        let port = properties.port.unwrap_or(80);
        let place = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let timeout = properties.timeout.unwrap_or(5.0);
        if !(0.001..=LONGEST).contains(&timeout) {
            return wrong("Timeout", "must be 0.001 to 10 seconds");
        }
        let login = properties.credentials.map(Credentials::login).transpose()?;
        let caller = Caller::new(client, login.flatten(), Duration::from_secs_f64(timeout));
        Ok(Self {
            camera: Camera::new(caller, place),
            events: match properties.events.to_ascii_lowercase().as_str() {
                "" | "false" => None,
                "true" => Some(String::new()),
                _ => Some(properties.events),
            },
            event: None,
        })
    }

    fn get(&mut self, request: &ReadRequest<'_, Attributes>) -> Result<Value, Error> {
        let attributes = request.attributes;
        let function = attributes.get_function.as_str();
        if function.is_empty() {
            return Err(request.invalid("getFunction", "is missing"));
        }
        let parameters = attributes.parameters()?;
        if !attributes.is_edgex() {
            let service = attributes.service(request.resource)?;
            let answer = self.camera.function(service, function, &parameters)?;
            return of_type(answer, request);
        }
        match function {
            "GetSnapshot" if request.value_type == ValueType::Binary => {
                let picture = self.camera.snapshot(&parameters)?;
                let media_type = picture.header("content-type").unwrap_or("image/jpeg");
                let media_type = media_type.split(';').next().unwrap_or_default().trim();
                Ok(Value::Binary(Binary {
                    media_type: media_type.to_owned(),
                    data: picture.body,
                }))
            }
            "GetSnapshot" => Err(request.invalid("getFunction", "gives a Binary")),
            // Nothing has happened since nobody asked.
            "CameraEvent" => Ok(Value::Null(request.value_type.name().to_owned())),
            other => Err(Error::NotSupported(format!("{other} of the service EdgeX"))),
        }
    }

    fn set(&mut self, request: &WriteRequest<'_, Attributes>) -> Result<(), Error> {
        let attributes = request.attributes;
        let function = attributes.set_function.as_str();
        if function.is_empty() {
            return Err(request.invalid("setFunction", "is missing"));
        }
        let parameters = request.value.to_json();
        if !attributes.is_edgex() {
            let service = attributes.service(request.resource)?;
            let parameters = match parameters {
                Json::Object(_) => parameters,
                // A single value is that of the member that is named like the resource.
                other => json!({ request.resource: other }),
            };
            return self
                .camera
                .function(service, function, &parameters)
                .map(drop);
        }
        match (function, attributes.subscribe_type.as_str()) {
            ("SubscribeCameraEvent", "PullPoint" | "") => {
                let asked = parameters["TopicFilter"].as_str();
                let filter = asked.unwrap_or(&attributes.default_topic_filter);
                self.camera.subscribe(filter)
            }
            ("UnsubscribeCameraEvent", _) => {
                self.camera.unsubscribe();
                Ok(())
            }
            (other, kind) => Err(Error::NotSupported(format!(
                "{other} {kind} of the service EdgeX"
            ))),
        }
    }
}

/// The answer to a function, as the value that is wanted: the whole, or its only member.
fn of_type(answer: Json, request: &ReadRequest<'_, Attributes>) -> Result<Value, Error> {
    let wanted = request.value_type;
    let value = match (wanted, answer) {
        (ValueType::Object, Json::Object(members)) => {
            Value::Object(Json::Object(members).to_string())
        }
        // A function that answers nothing but that it has succeeded.
        (ValueType::Object, other) if other == "" => Value::Object("{}".to_owned()),
        (ValueType::String, other @ Json::Object(_)) => Value::Text(other.to_string()),
        (_, Json::Object(members)) if members.len() == 1 => {
            let only = members.into_iter().next().map(|(_, only)| only);
            let value = Value::from_json(&only.unwrap_or_default(), wanted);
            value.map_err(|text| request.invalid("getFunction", text))?
        }
        (_, other) => {
            let value = Value::from_json(&other, wanted);
            value.map_err(|text| request.invalid("getFunction", text))?
        }
    };
    Ok(value)
}

impl<C: Client + Default> Driver for Onvif<C> {
    type Attributes = Attributes;

    fn open(device: &Device) -> Result<Self, Error> {
        Self::with_client(device, C::default())
    }

    fn read(&mut self, requests: &[ReadRequest<'_, Attributes>]) -> Result<Vec<Reading>, Error> {
        let answers = requests
            .iter()
            .map(|request| Ok(request.answer(self.get(request)?)));
        answers.collect()
    }

    fn write(&mut self, requests: &[WriteRequest<'_, Attributes>]) -> Result<(), Error> {
        requests.iter().try_for_each(|request| self.set(request))
    }

    fn subscribe(&mut self, resources: Vec<Resource<Attributes>>) -> Result<(), Error> {
        self.event = resources.into_iter().find(|resource| {
            let attributes = &resource.attributes;
            attributes.is_edgex() && attributes.get_function == "CameraEvent"
        });
        match self.event {
            Some(_) => Ok(()),
            None => Err(Error::NotSupported("no resource is for events".into())),
        }
    }

    fn poll(&mut self) -> Result<Option<Duration>, Error> {
        if let Some(filter) = &self.events
            && !self.camera.is_subscribed()
        {
            let filter = filter.clone();
            self.camera.subscribe(&filter)?;
        }
        for event in self.camera.pull()? {
            if let Some(resource) = &self.event {
                let value = match resource.value_type {
                    ValueType::Object => Value::Object(event.to_string()),
                    _ => Value::Text(event.to_string()),
                };
                if let Err(error) = publish(&resource.name, vec![resource.reading(value)]) {
                    log::warn(format!("an event is dropped: {error:?}"));
                }
            }
        }
        Ok(Some(PULL))
    }

    fn discover(service: &Own, _options: &str) -> Result<Vec<DiscoveredDevice>, Error> {
        discovery::search(&mut Udp::default(), &service.properties)
    }

    fn close(&mut self) {
        self.camera.unsubscribe();
    }
}

eyot_sdk::export_driver!(Onvif<Host>);
