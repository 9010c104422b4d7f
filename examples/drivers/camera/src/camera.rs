//! A camera: its services, profiles, picture and events.

use std::time::{Duration, Instant};

use eyot_sdk::{
    Error, ProtocolError,
    http::{Client, Request, Response},
};
use roxmltree::Node;
use serde_json::{Map, Value as Json, json};

use crate::{
    clock,
    soap::{self, Call, Caller, Service},
    xml,
};

/// Messages that are pulled at once.
const MESSAGES: u32 = 32;
/// How long a subscription lasts without being renewed; it is renewed after half of that.
const LASTS: Duration = Duration::from_secs(600);
/// How long the camera may wait for a message that is not there yet.
const WAITS: &str = "PT1S";

const ADDRESSING: &str = "http://www.w3.org/2005/08/addressing";
const NOTIFICATION: &str = "http://docs.oasis-open.org/wsn/b-2";

/// Functions that are about a profile: the first one, unless the command names another.
const OF_A_PROFILE: [&str; 18] = [
    "AbsoluteMove",
    "ContinuousMove",
    "GetPresets",
    "GetSnapshotUri",
    "GetStatus",
    "GetStreamUri",
    "GotoHomePosition",
    "GotoPreset",
    "RelativeMove",
    "RemovePreset",
    "SendAuxiliaryCommand",
    "SetHomePosition",
    "SetPreset",
    "Stop",
    "AddPTZConfiguration",
    "RemovePTZConfiguration",
    "AddMetadataConfiguration",
    "RemoveMetadataConfiguration",
];

pub struct Camera<C> {
    pub caller: Caller<C>,
    /// `HOST:PORT` by which the camera is reached, whatever it calls itself.
    place: String,
    services: Vec<(Service, String)>,
    /// Whether the camera was asked for its clock and its services.
    met: bool,
    profile: Option<String>,
    pull: Option<Pull>,
}

/// A subscription to events.
#[derive(Debug)]
struct Pull {
    url: String,
    /// What has to be repeated to the subscription's address.
    reference: String,
    renew: Instant,
    /// What was asked for, to ask again.
    filter: String,
}

impl<C: Client> Camera<C> {
    pub fn new(caller: Caller<C>, place: String) -> Self {
        Self {
            caller,
            place,
            services: Vec::new(),
            met: false,
            profile: None,
            pull: None,
        }
    }

    /// Call a function; the answer is its response as JSON.
    pub fn function(
        &mut self,
        service: Service,
        name: &str,
        parameters: &Json,
    ) -> Result<Json, Error> {
        let mut parameters = match parameters {
            Json::Null => Map::new(),
            Json::Object(members) => members.clone(),
            other => return Err(Error::Other(format!("{other} is no object of parameters"))),
        };
        if OF_A_PROFILE.contains(&name) && !parameters.contains_key("ProfileToken") {
            let profile = self.profile()?;
            parameters.insert("ProfileToken".to_owned(), profile.into());
        }
        if name == "GetStreamUri" && service == Service::Media {
            let usual = json!({ "Stream": "RTP-Unicast", "Transport": { "Protocol": "RTSP" } });
            parameters.entry("StreamSetup").or_insert(usual);
        }
        let parameters = xml::parameters(&parameters.into()).map_err(Error::Other)?;
        let url = self.service(service)?;
        self.call(service, &url, name, &parameters, |answer| {
            Ok(xml::json(answer))
        })
    }

    fn call<T>(
        &mut self,
        service: Service,
        url: &str,
        name: &str,
        parameters: &str,
        read: impl FnOnce(Node<'_, '_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let call = Call {
            url,
            namespace: service.namespace(),
            action: format!("{}/{name}", service.namespace()),
            body: format!("<s:{name}>{parameters}</s:{name}>"),
            headers: String::new(),
        };
        self.caller.call(&call, read)
    }

    fn device_url(&self) -> String {
        format!("http://{}/onvif/device_service", self.place)
    }

    /// Ask the camera for its clock, without which no token is true, and for its services.
    fn meet(&mut self) -> Result<(), Error> {
        if self.met {
            return Ok(());
        }
        let url = self.device_url();
        let login = self.caller.login.take();
        // This is answered to everybody, except by cameras that do not keep to the specification.
        let clock = self.call(
            Service::Device,
            &url,
            "GetSystemDateAndTime",
            "",
            |answer| Ok(utc(answer)),
        );
        self.caller.login = login;
        match clock {
            Ok(Some(at)) => self.caller.ahead = at - soap::now(),
            Ok(None) | Err(Error::Protocol(_) | Error::Garbled(_)) => {}
            Err(error) => return Err(error),
        }
        let all = "<s:IncludeCapability>false</s:IncludeCapability>";
        let found = self.call(Service::Device, &url, "GetServices", all, |answer| {
            Ok(services(answer))
        });
        let found = match found {
            Ok(found) if !found.is_empty() => found,
            // Older cameras say it in another way.
            Ok(_)
            | Err(Error::Protocol(ProtocolError {
                code: 400 | 500 | 501,
                ..
            })) => {
                let all = "<s:Category>All</s:Category>";
                self.call(Service::Device, &url, "GetCapabilities", all, |answer| {
                    Ok(capabilities(answer))
                })?
            }
            Err(error) => return Err(error),
        };
        let here = found.into_iter();
        self.services = here
            .map(|(service, url)| (service, self.reachable(&url)))
            .collect();
        self.met = true;
        Ok(())
    }

    /// Where a service of the camera is.
    fn service(&mut self, service: Service) -> Result<String, Error> {
        self.meet()?;
        let mut known = self.services.iter();
        match known.find(|(of, _)| *of == service) {
            Some((_, url)) => Ok(url.clone()),
            None if service == Service::Device => Ok(self.device_url()),
            None => Err(Error::Protocol(ProtocolError {
                code: 404,
                message: format!("the camera has no service {service:?}"),
            })),
        }
    }

    /// A URL of the camera as it can be reached: cameras behind a gateway, and those that were moved,
    /// name addresses that nobody else knows.
    fn reachable(&self, url: &str) -> String {
        let scheme = if url.starts_with("https://") {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}{}", self.place, soap::path_of(url))
    }

    /// The token of the first profile.
    fn profile(&mut self) -> Result<String, Error> {
        if let Some(profile) = &self.profile {
            return Ok(profile.clone());
        }
        let url = self.service(Service::Media)?;
        let found = self.call(Service::Media, &url, "GetProfiles", "", |answer| {
            let first = xml::find(answer, "Profiles");
            Ok(first
                .and_then(|first| first.attribute("token"))
                .map(str::to_owned))
        })?;
        let none = || ProtocolError {
            code: 404,
            message: "the camera has no profile".to_owned(),
        };
        let found = found.ok_or_else(|| Error::Protocol(none()))?;
        self.profile = Some(found.clone());
        Ok(found)
    }

    /// The picture of a profile as it is now.
    pub fn snapshot(&mut self, parameters: &Json) -> Result<Response, Error> {
        let answer = self.function(Service::Media, "GetSnapshotUri", parameters)?;
        let url = answer["MediaUri"]["Uri"].as_str().unwrap_or_default();
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(Error::Garbled(format!(
                "{url:?} is no address of a picture"
            )));
        };
        // The host is the one that is known; the port may be another.
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let named = authority.rsplit_once(':').map(|(_, port)| port);
        let own = self.place.rsplit_once(':').unwrap_or((&self.place, "80"));
        let usual = if scheme == "https" { "443" } else { "80" };
        let port = named
            .filter(|port| port.parse::<u16>().is_ok())
            .unwrap_or(usual);
        let url = format!("{scheme}://{}:{port}{}", own.0, soap::path_of(url));
        let answer = self.caller.send(Request::new("GET", &url))?;
        if answer.status != 200 {
            return Err(Error::Protocol(ProtocolError {
                code: answer.status.into(),
                message: format!("{url}: the camera gives no picture"),
            }));
        }
        Ok(answer)
    }

    pub fn is_subscribed(&self) -> bool {
        self.pull.is_some()
    }

    /// Have the camera keep its events for us. `filter` is a topic expression, or empty for all.
    pub fn subscribe(&mut self, filter: &str) -> Result<(), Error> {
        self.unsubscribe();
        let url = self.service(Service::Event)?;
        let dialect = "http://www.onvif.org/ver10/tev/topicExpression/ConcreteSet";
        let topics = match filter {
            "" => String::new(),
            filter => format!(
                "<s:Filter><n:TopicExpression xmlns:n=\"{NOTIFICATION}\" Dialect=\"{dialect}\">{}\
                 </n:TopicExpression></s:Filter>",
                xml::escaped(filter)
            ),
        };
        let namespace = Service::Event.namespace();
        let call = Call {
            url: &url,
            namespace,
            action: format!("{namespace}/EventPortType/CreatePullPointSubscriptionRequest"),
            body: format!(
                "<s:CreatePullPointSubscription>{topics}<s:InitialTerminationTime>PT{}S\
                 </s:InitialTerminationTime></s:CreatePullPointSubscription>",
                LASTS.as_secs()
            ),
            headers: String::new(),
        };
        let found = self.caller.call(&call, |answer| {
            let reference = xml::find(answer, "SubscriptionReference");
            let address = reference.and_then(|reference| xml::text(reference, "Address"));
            let parameters = reference.and_then(|r| xml::find(r, "ReferenceParameters"));
            let parameters = parameters.map_or(String::new(), |p| repeated(p));
            Ok(address.map(|address| (address.to_owned(), parameters)))
        })?;
        let Some((address, reference)) = found else {
            return Err(Error::Garbled("the subscription has no address".into()));
        };
        self.pull = Some(Pull {
            url: self.reachable(&address),
            reference,
            renew: Instant::now() + LASTS / 2,
            filter: filter.to_owned(),
        });
        Ok(())
    }

    /// The events that have come since the last time.
    pub fn pull(&mut self) -> Result<Vec<Json>, Error> {
        let Some(pull) = &self.pull else {
            return Ok(Vec::new());
        };
        if Instant::now() >= pull.renew {
            self.renew()?;
        }
        let namespace = Service::Event.namespace();
        let body = format!(
            "<s:PullMessages><s:Timeout>{WAITS}</s:Timeout><s:MessageLimit>{MESSAGES}\
             </s:MessageLimit></s:PullMessages>"
        );
        let action = format!("{namespace}/PullPointSubscription/PullMessagesRequest");
        let outcome = self.at_pull_point(namespace, action, body, |answer| {
            let messages = answer.descendants();
            let messages = messages.filter(|n| n.tag_name().name() == "NotificationMessage");
            Ok(messages.map(event).collect())
        });
        if let Err(Error::Protocol(_)) = &outcome
            && let Some(lost) = self.pull.take()
        {
            // The camera has forgotten it, for example because it was switched off.
            self.subscribe(&lost.filter)?;
            return Ok(Vec::new());
        }
        outcome
    }

    fn renew(&mut self) -> Result<(), Error> {
        let body = format!(
            "<s:Renew><s:TerminationTime>PT{}S</s:TerminationTime></s:Renew>",
            LASTS.as_secs()
        );
        let action = "http://docs.oasis-open.org/wsn/bw-2/SubscriptionManager/RenewRequest";
        let renewed = self.at_pull_point(NOTIFICATION, action.to_owned(), body, |_| Ok(()));
        match renewed {
            // Pulling shows whether it still stands.
            Ok(()) | Err(Error::Protocol(_)) => {}
            Err(error) => return Err(error),
        }
        if let Some(pull) = &mut self.pull {
            pull.renew = Instant::now() + LASTS / 2;
        }
        Ok(())
    }

    /// Have it keep events no longer.
    pub fn unsubscribe(&mut self) {
        if self.pull.is_some() {
            let action =
                "http://docs.oasis-open.org/wsn/bw-2/SubscriptionManager/UnsubscribeRequest";
            let body = "<s:Unsubscribe/>".to_owned();
            // What is not ended ends by itself.
            let _ = self.at_pull_point(NOTIFICATION, action.to_owned(), body, |_| Ok(()));
            self.pull = None;
        }
    }

    fn at_pull_point<T>(
        &mut self,
        namespace: &str,
        action: String,
        body: String,
        read: impl FnOnce(Node<'_, '_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(pull) = &self.pull else {
            return Err(Error::Other("not subscribed".into()));
        };
        let (url, reference) = (pull.url.clone(), &pull.reference);
        let headers = format!(
            "<a:Action xmlns:a=\"{ADDRESSING}\">{action}</a:Action>\
             <a:To xmlns:a=\"{ADDRESSING}\">{}</a:To>{reference}",
            xml::escaped(&url)
        );
        let call = Call {
            url: &url,
            namespace,
            action,
            body,
            headers,
        };
        self.caller.call(&call, read)
    }
}

/// The camera's clock.
fn utc(answer: Node<'_, '_>) -> Option<i64> {
    let utc = xml::find(answer, "UTCDateTime")?;
    let number = |name: &str| xml::text(utc, name)?.parse::<i64>().ok();
    clock::instant(
        (number("Year")?, number("Month")?, number("Day")?),
        (number("Hour")?, number("Minute")?, number("Second")?),
    )
}

fn services(answer: Node<'_, '_>) -> Vec<(Service, String)> {
    let all = answer.descendants();
    let all = all.filter(|node| node.tag_name().name() == "Service");
    let known = all.filter_map(|node| {
        let namespace = xml::text(node, "Namespace")?;
        let service = Service::ALL
            .into_iter()
            .find(|s| s.namespace() == namespace)?;
        Some((service, xml::text(node, "XAddr")?.to_owned()))
    });
    known.collect()
}

fn capabilities(answer: Node<'_, '_>) -> Vec<(Service, String)> {
    let names = [
        (Service::Device, "Device"),
        (Service::Media, "Media"),
        (Service::Ptz, "PTZ"),
        (Service::Imaging, "Imaging"),
        (Service::Event, "Events"),
        (Service::Analytics, "Analytics"),
    ];
    let known = names.into_iter().filter_map(|(service, name)| {
        let address = xml::text(xml::find(answer, name)?, "XAddr")?;
        Some((service, address.to_owned()))
    });
    known.collect()
}

/// Reference parameters as headers (WS-Addressing 1.0, SOAP binding, section 3.3). They are texts.
fn repeated(parameters: Node<'_, '_>) -> String {
    let all = parameters.children().filter(Node::is_element);
    let headers = all.map(|node| {
        let tag = node.tag_name();
        format!(
            "<p:{0} xmlns:p=\"{1}\" xmlns:a=\"{ADDRESSING}\" a:IsReferenceParameter=\"true\">{2}</p:{0}>",
            tag.name(),
            xml::escaped(tag.namespace().unwrap_or_default()),
            xml::escaped(node.text().unwrap_or_default()),
        )
    });
    headers.collect()
}

/// An event as a reading: topic, instant, what it is about and what is said of it.
fn event(message: Node<'_, '_>) -> Json {
    let items = |of: &str| {
        let node = xml::find(message, of);
        let items = node.into_iter().flat_map(|node| node.descendants());
        let items = items.filter(|node| node.tag_name().name() == "SimpleItem");
        let pairs = items.filter_map(|item| {
            let value = item.attribute("Value").unwrap_or_default();
            Some((item.attribute("Name")?.to_owned(), Json::from(value)))
        });
        pairs.collect::<Map<_, _>>()
    };
    let inner = message.descendants();
    let mut inner = inner.filter(|node| node.attribute("UtcTime").is_some());
    let inner = inner.next();
    let attribute = |name: &str| {
        inner
            .and_then(|node| node.attribute(name))
            .unwrap_or_default()
    };
    json!({
        "Topic": xml::text(message, "Topic").unwrap_or_default(),
        "UtcTime": attribute("UtcTime"),
        "PropertyOperation": attribute("PropertyOperation"),
        "Source": items("Source"),
        "Key": items("Key"),
        "Data": items("Data"),
    })
}
