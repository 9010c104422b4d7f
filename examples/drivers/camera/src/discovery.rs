//! Finding cameras: WS-Discovery 1.1 over UDP, as ONVIF's core specification has it (7).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use eyot_sdk::{DiscoveredDevice, Error, Protocol, net::Datagrams};
use roxmltree::Document;
use serde_json::{Value as Json, json};

use crate::{digest::nonce, xml};

/// How long answers are waited for after the last question.
const PATIENCE: Duration = Duration::from_secs(3);
/// Addresses that are asked one by one.
const HOSTS: usize = 4096;
/// Cameras that are taken.
const CAMERAS: usize = 4096;

/// Ask the places that a service may look at; `properties` are its own, as JSON.
pub fn search(
    transport: &mut impl Datagrams,
    properties: &str,
) -> Result<Vec<DiscoveredDevice>, Error> {
    let places = places(properties)?;
    let mut found: BTreeMap<String, DiscoveredDevice> = BTreeMap::new();
    let mut refused = None;
    for (at, place) in places.iter().enumerate() {
        if let Err(error) = transport.send(place, probe().as_bytes()) {
            refused = Some(error);
        }
        // What has come meanwhile is taken, so that nothing has to wait for all questions.
        if at % 64 == 63 {
            collect(transport, Instant::now(), &mut found)?;
        }
    }
    collect(transport, Instant::now() + PATIENCE, &mut found)?;
    match refused {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found.into_values().collect()),
    }
}

fn collect(
    transport: &mut impl Datagrams,
    until: Instant,
    found: &mut BTreeMap<String, DiscoveredDevice>,
) -> Result<(), Error> {
    while let Some(datagram) = transport.receive(until)? {
        for device in matches(&String::from_utf8_lossy(&datagram.data), datagram.from.ip()) {
            if found.len() < CAMERAS {
                found.insert(device.name.clone(), device);
            }
        }
    }
    Ok(())
}

/// The places of the property `discovery`: networks are all of their addresses.
fn places(properties: &str) -> Result<Vec<String>, Error> {
    let wrong = |message: String| Error::invalid("properties.discovery", message);
    let parsed: Json = serde_json::from_str(properties).unwrap_or_default();
    let texts: Vec<&str> = match &parsed["discovery"] {
        Json::String(text) => text.split(',').collect(),
        Json::Array(all) => all.iter().filter_map(Json::as_str).collect(),
        _ => {
            return Err(wrong(
                "is missing: for example 239.255.255.250:3702, or 192.168.1.0/24:3702".into(),
            ));
        }
    };
    let mut places = Vec::new();
    for text in texts {
        let text = text.trim();
        // Other ports are for asking what was found.
        let Some(place) = text.strip_suffix(":3702") else {
            continue;
        };
        let Some((network, bits)) = place.split_once('/') else {
            places.push(text.to_owned());
            continue;
        };
        let hosts = network
            .parse::<Ipv4Addr>()
            .ok()
            .zip(bits.parse::<u32>().ok());
        let (network, bits) = hosts
            .filter(|(_, bits)| (20..=32).contains(bits))
            .ok_or_else(|| {
                wrong(format!(
                    "{text}: networks are of IPv4, with 20 bits or more"
                ))
            })?;
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let first = u32::from(network) & mask;
        let hosts = (first..=first | !mask).map(|host| format!("{}:3702", Ipv4Addr::from(host)));
        places.extend(hosts);
        if places.len() > HOSTS {
            return Err(wrong(format!("more than {HOSTS} addresses")));
        }
    }
    match places.is_empty() {
        true => Err(wrong(
            "names no place with port 3702, at which cameras are found".into(),
        )),
        false => Ok(places),
    }
}

fn probe() -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <e:Envelope xmlns:e=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:w=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:d=\"http://schemas.xmlsoap.org/ws/2005/04/discovery\" \
         xmlns:dn=\"http://www.onvif.org/ver10/network/wsdl\">\
         <e:Header><w:MessageID>uuid:{}</w:MessageID>\
         <w:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</w:To>\
         <w:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe</w:Action></e:Header>\
         <e:Body><d:Probe><d:Types>dn:NetworkVideoTransmitter</d:Types></d:Probe></e:Body>\
         </e:Envelope>",
        unique()
    )
}

/// A UUID, version 4.
fn unique() -> String {
    let mut bytes = nonce();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// The cameras in an answer; none if it is no such answer.
fn matches(message: &str, from: IpAddr) -> Vec<DiscoveredDevice> {
    let Ok(document) = Document::parse(message) else {
        return Vec::new();
    };
    let all = document.descendants().filter(|node| {
        let is_match = node.tag_name().name() == "ProbeMatch";
        is_match && xml::text(*node, "XAddrs").is_some()
    });
    let cameras = all.filter_map(|node| {
        let reference = xml::text(node, "Address")?;
        let reference = reference.rsplit(':').next().unwrap_or(reference);
        let addresses = xml::text(node, "XAddrs")?;
        let (host, port) = place(addresses, from)?;
        let scope = |name: &str| {
            let scopes = xml::text(node, "Scopes")?.split_whitespace();
            let prefix = format!("onvif://www.onvif.org/{name}/");
            let mut found = scopes.filter_map(|scope| scope.strip_prefix(prefix.as_str()));
            found.next().map(|value| value.replace("%20", " "))
        };
        let (name, hardware) = (scope("name"), scope("hardware"));
        let text = |found: &Option<String>| found.clone().unwrap_or_default();
        let properties = json!({
            "Address": host,
            "Port": port,
            "EndpointRefAddress": reference,
            "FriendlyName": text(&name),
            "HardwareId": text(&hardware),
            "DeviceStatus": "Reachable",
        });
        // The reference stays what it is wherever the camera is.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let own: String = reference.chars().filter(|c| plain(*c)).take(100).collect();
        if own.is_empty() {
            return None;
        }
        Some(DiscoveredDevice {
            name: format!("onvif-{own}"),
            protocols: vec![Protocol {
                name: "Onvif".to_owned(),
                properties: properties.to_string(),
            }],
            description: format!("{} {}", text(&name), text(&hardware))
                .trim()
                .to_owned(),
            labels: vec!["auto-discovery".to_owned()],
        })
    });
    cameras.collect()
}

/// Host and port of the address at which the camera answered, else of the first that it has.
fn place(addresses: &str, from: IpAddr) -> Option<(String, String)> {
    let all = addresses.split_whitespace().filter_map(|url| {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split('/').next()?;
        let usual = if scheme == "https" { "443" } else { "80" };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => (host, port),
            _ => (authority, usual),
        };
        Some((host.to_owned(), port.to_owned()))
    });
    let all: Vec<_> = all.collect();
    let own = from.to_string();
    let same = all.iter().find(|(host, _)| *host == own);
    same.or(all.first()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_asked_address_by_address() {
        let of = |discovery: Json| places(&json!({ "discovery": discovery }).to_string());
        let all = of(json!(
            "10.0.0.4/30:3702, 239.255.255.250:3702,10.0.0.0/24:80"
        ))
        .unwrap();
        assert_eq!(
            all,
            [
                "10.0.0.4:3702",
                "10.0.0.5:3702",
                "10.0.0.6:3702",
                "10.0.0.7:3702",
                "239.255.255.250:3702"
            ]
        );
        assert_eq!(of(json!(["10.1.0.0/20:3702"])).unwrap().len(), 4096);
        for wrong in [
            json!("10.0.0.0/8:3702"),
            json!("x/24:3702"),
            json!("10.0.0.1:80"),
            json!(1),
        ] {
            assert!(of(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_names_the_camera_and_where_it_is() {
        let answer = r#"<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope" xmlns:d="urn:d" xmlns:w="urn:w">
            <e:Body><d:ProbeMatches><d:ProbeMatch>
            <w:EndpointReference><w:Address>urn:uuid:1419d68a-1dd2</w:Address></w:EndpointReference>
            <d:Scopes>onvif://www.onvif.org/name/Front%20Door onvif://www.onvif.org/hardware/X1</d:Scopes>
            <d:XAddrs>http://192.168.1.9/onvif http://10.0.0.7:8080/onvif</d:XAddrs>
            </d:ProbeMatch></d:ProbeMatches></e:Body></e:Envelope>"#;
        let found = matches(answer, [10, 0, 0, 7].into());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "onvif-1419d68a-1dd2");
        let properties: Json = serde_json::from_str(&found[0].protocols[0].properties).unwrap();
        assert_eq!(properties["Address"], "10.0.0.7");
        assert_eq!(properties["Port"], "8080");
        assert_eq!(properties["FriendlyName"], "Front Door");
        for nonsense in ["", "<a/>", "<ProbeMatch><XAddrs>x</XAddrs></ProbeMatch>"] {
            assert!(
                matches(nonsense, [10, 0, 0, 7].into()).is_empty(),
                "{nonsense}"
            );
        }
    }
}
