//! What the annotations of an Ingress say about how its backends are spoken to. They have the names
//! and values that ingress-nginx gives them, under a prefix of our own.

use std::{str::FromStr, time::Duration};

use k8s_openapi::api::networking::v1::Ingress;

/// What all annotations that are read here begin with.
pub(crate) const PREFIX: &str = "ingress.eyot.dev/";

/// Largest body of a request. Bodies are passed on as they come and held nowhere, so this is no matter
/// of memory.
const BODY: u64 = 1 << 30;
/// How long a backend may take to accept a connection; then the next is tried.
const CONNECT: Duration = Duration::from_secs(5);
/// How long nothing may move while a request is sent, and while its answer is waited for.
const STILL: Duration = Duration::from_secs(60);
/// The longest time that an Ingress may ask for.
const LONGEST: u64 = 24 * 3600;
/// How many backends are tried for one request.
const TRIES: usize = 3;
const MOST_TRIES: usize = 20;

/// How a backend is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Protocol {
    pub http2: bool,
    pub tls: bool,
}

impl Protocol {
    pub(crate) const HTTP: Self = Self::new(false, false);
    const H2C: Self = Self::new(true, false);
    const HTTPS: Self = Self::new(false, true);
    const H2: Self = Self::new(true, true);

    const fn new(http2: bool, tls: bool) -> Self {
        Self { http2, tls }
    }

    /// By the `appProtocol` of a Service's port: Kubernetes' own names, and the usual ones beside
    /// them. Others say nothing that matters here.
    pub(crate) fn of_app_protocol(name: &str) -> Self {
        match name {
            "kubernetes.io/h2c" | "h2c" | "grpc" => Self::H2C,
            "kubernetes.io/wss" | "https" => Self::HTTPS,
            _ => Self::HTTP,
        }
    }

    fn of_annotation(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "HTTP" => Some(Self::HTTP),
            "HTTPS" => Some(Self::HTTPS),
            "GRPC" => Some(Self::H2C),
            "GRPCS" => Some(Self::H2),
            _ => None,
        }
    }
}

/// What an Ingress asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `backend-protocol`: `HTTP`, `HTTPS`, `GRPC` or `GRPCS`; outranks the port's `appProtocol`.
    pub protocol: Option<Protocol>,
    /// `proxy-body-size`: bytes, or with `k`, `m`, `g`; 0 is without limit.
    pub body: Option<u64>,
    /// `proxy-connect-timeout`: seconds.
    pub connect: Duration,
    /// `proxy-send-timeout`: seconds in which nothing moves while the request is sent.
    pub send: Duration,
    /// `proxy-read-timeout`: the same for its answer, once the request is sent.
    pub read: Duration,
    /// `proxy-next-upstream-tries`: backends that are tried for one request.
    pub tries: usize,
    /// `proxy-ssl-verify`: `on` if a backend must show a certificate of the authority in the Secret.
    pub verify: bool,
    /// `proxy-ssl-secret`: the name of a Secret of type `kubernetes.io/tls`, with or without its
    /// namespace, which must be the Ingress's. What is in it is shown to backends, and its `ca.crt`
    /// is whose certificates are good.
    pub secret: Option<String>,
    /// `proxy-ssl-name`: the name that a backend is asked for by and must have.
    pub name: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            protocol: None,
            body: Some(BODY),
            connect: CONNECT,
            send: STILL,
            read: STILL,
            tries: TRIES,
            verify: false,
            secret: None,
            name: None,
        }
    }
}

impl Settings {
    /// What an Ingress says, and what is wrong with it: for that the default holds.
    pub(crate) fn of(ingress: &Ingress) -> (Self, Vec<String>) {
        let (mut settings, mut wrong) = (Self::default(), Vec::new());
        for (name, value) in ingress.metadata.annotations.iter().flatten() {
            if let Some(short) = name.strip_prefix(PREFIX)
                && let Err(why) = settings.take(short, value.trim())
            {
                wrong.push(format!("annotation {name}: {value:?} {why}"));
            }
        }
        (settings, wrong)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "backend-protocol" => {
                let protocol = Protocol::of_annotation(value)
                    .ok_or("is none of HTTP, HTTPS, GRPC and GRPCS")?;
                self.protocol = Some(protocol);
            }
            "proxy-body-size" => self.body = Some(size(value)?).filter(|size| *size > 0),
            "proxy-connect-timeout" => self.connect = seconds(value)?,
            "proxy-send-timeout" => self.send = seconds(value)?,
            "proxy-read-timeout" => self.read = seconds(value)?,
            "proxy-next-upstream-tries" => {
                let fits = |tries: &usize| (1..=MOST_TRIES).contains(tries);
                let tries = value.parse().ok().filter(fits);
                self.tries =
                    tries.ok_or_else(|| format!("is not a number from 1 to {MOST_TRIES}"))?;
            }
            "proxy-ssl-verify" => {
                self.verify = match value {
                    "on" | "true" => true,
                    "off" | "false" => false,
                    _ => return Err("is neither on nor off".to_owned()),
                }
            }
            "proxy-ssl-secret" => {
                let namespaced = value.split('/').count();
                if value.is_empty() || namespaced > 2 {
                    return Err("is not the name of a Secret".to_owned());
                }
                self.secret = Some(value.to_owned());
            }
            "proxy-ssl-name" => self.name = Some(value.to_owned()),
            _ => return Err("has no meaning here".to_owned()),
        }
        Ok(())
    }
}

/// Whole seconds, with or without an `s`.
fn seconds(text: &str) -> Result<Duration, String> {
    let number = u64::from_str(text.strip_suffix('s').unwrap_or(text)).ok();
    number
        .filter(|number| (1..=LONGEST).contains(number))
        .map(Duration::from_secs)
        .ok_or_else(|| format!("is not a number of seconds from 1 to {LONGEST}"))
}

/// Bytes, as nginx writes them.
fn size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (number, shift) = match lower.as_bytes().last() {
        Some(b'k') => (lower.trim_end_matches('k'), 10),
        Some(b'm') => (lower.trim_end_matches('m'), 20),
        Some(b'g') => (lower.trim_end_matches('g'), 30),
        _ => (&*lower, 0),
    };
    u64::from_str(number)
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "is not a size like 8m".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(annotations: &[(&str, &str)]) -> (Settings, Vec<String>) {
        let annotations: serde_json::Map<_, _> = annotations
            .iter()
            .map(|(name, value)| (format!("{PREFIX}{name}"), json!(value)))
            .collect();
        let ingress = json!({"metadata": {"annotations": annotations}});
        Settings::of(&serde_json::from_value(ingress).unwrap())
    }

    #[test]
    fn annotations_say_what_nginx_users_expect() {
        let (settings, wrong) = of(&[
            ("backend-protocol", "grpc"),
            ("proxy-body-size", "8m"),
            ("proxy-connect-timeout", "2"),
            ("proxy-read-timeout", "3600"),
            ("proxy-send-timeout", "90s"),
            ("proxy-next-upstream-tries", "5"),
            ("proxy-ssl-verify", "on"),
            ("proxy-ssl-secret", "d/ca"),
            ("proxy-ssl-name", "api.example"),
        ]);
        assert_eq!(wrong, <[String; 0]>::default());
        let expected = Settings {
            protocol: Some(Protocol::H2C),
            body: Some(8 << 20),
            connect: Duration::from_secs(2),
            send: Duration::from_secs(90),
            read: Duration::from_secs(3600),
            tries: 5,
            verify: true,
            secret: Some("d/ca".to_owned()),
            name: Some("api.example".to_owned()),
        };
        assert_eq!(settings, expected);
        assert_eq!(of(&[("proxy-body-size", "0")]).0.body, None);
    }

    #[test]
    fn what_makes_no_sense_is_said_and_changes_nothing() {
        for (name, value) in [
            ("backend-protocol", "FCGI"),
            ("proxy-body-size", "8 m"),
            ("proxy-body-size", "99999999999999g"),
            ("proxy-read-timeout", "0"),
            ("proxy-read-timeout", "100000"),
            ("proxy-next-upstream-tries", "0"),
            ("proxy-ssl-verify", "maybe"),
            ("proxy-ssl-secret", "a/b/c"),
            ("rewrite-target", "/$1"),
        ] {
            let (settings, wrong) = of(&[(name, value)]);
            assert_eq!(settings, Settings::default(), "{name}");
            assert_eq!(wrong.len(), 1, "{name}");
            assert!(
                wrong[0].contains(name) && wrong[0].contains(value),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn ports_say_what_they_speak() {
        let of = Protocol::of_app_protocol;
        assert_eq!(of("kubernetes.io/h2c"), Protocol::H2C);
        assert_eq!(of("kubernetes.io/ws"), Protocol::HTTP);
        assert_eq!(of("kubernetes.io/wss"), Protocol::HTTPS);
        assert_eq!(of("https"), Protocol::HTTPS);
        assert_eq!(of("example.org/other"), Protocol::HTTP);
    }
}
