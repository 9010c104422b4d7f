//! Calling the functions of a camera: SOAP 1.2 over HTTP, with what proves who calls.
//!
//! Proofs are those of ONVIF's core specification (5.9): a WS-UsernameToken in the message, made
//! for the camera's own clock, and HTTP digest (RFC 7616) when the camera asks for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD};
use eyot_sdk::{
    Error, ProtocolError,
    http::{Client, Request, Response},
};
use roxmltree::Document;
use sha1::{Digest, Sha1};

use crate::{
    clock,
    digest::{Challenge, nonce},
    xml,
};

/// A service of a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Device,
    Media,
    Media2,
    Ptz,
    Imaging,
    Event,
    Analytics,
}

impl Service {
    pub const ALL: [Self; 7] = [
        Self::Device,
        Self::Media,
        Self::Media2,
        Self::Ptz,
        Self::Imaging,
        Self::Event,
        Self::Analytics,
    ];

    /// From the attribute `service` of EdgeX's profiles.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "device" => Self::Device,
            "media" => Self::Media,
            "media2" => Self::Media2,
            "ptz" => Self::Ptz,
            "imaging" => Self::Imaging,
            "event" => Self::Event,
            "analytics" => Self::Analytics,
            _ => return None,
        })
    }

    pub fn namespace(self) -> &'static str {
        match self {
            Self::Device => "http://www.onvif.org/ver10/device/wsdl",
            Self::Media => "http://www.onvif.org/ver10/media/wsdl",
            Self::Media2 => "http://www.onvif.org/ver20/media/wsdl",
            Self::Ptz => "http://www.onvif.org/ver20/ptz/wsdl",
            Self::Imaging => "http://www.onvif.org/ver20/imaging/wsdl",
            Self::Event => "http://www.onvif.org/ver10/events/wsdl",
            Self::Analytics => "http://www.onvif.org/ver20/analytics/wsdl",
        }
    }
}

/// Who calls, and which proofs of that are given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: String,
    pub token: bool,
    pub digest: bool,
    /// Only where the camera asks for nothing better: it shows the password to who listens.
    pub basic: bool,
}

/// One call.
pub struct Call<'a> {
    pub url: &'a str,
    pub namespace: &'a str,
    pub action: String,
    /// The body's element, with `s` for the namespace.
    pub body: String,
    /// Further headers of the message.
    pub headers: String,
}

/// Calls a camera.
pub struct Caller<C> {
    pub client: C,
    pub login: Option<Login>,
    pub timeout: Duration,
    /// By how many seconds the camera's clock is ahead.
    pub ahead: i64,
    /// What the camera last asked to be proved, and how often that was used.
    challenge: Option<(Challenge, u32)>,
}

impl<C: Client> Caller<C> {
    pub fn new(client: C, login: Option<Login>, timeout: Duration) -> Self {
        Self {
            client,
            login,
            timeout,
            ahead: 0,
            challenge: None,
        }
    }

    /// Call, and hand the answer's body to `read`.
    pub fn call<T>(
        &mut self,
        call: &Call<'_>,
        read: impl FnOnce(roxmltree::Node<'_, '_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let request = Request::new("POST", call.url).with_body(
            &format!(
                "application/soap+xml; charset=utf-8; action=\"{}\"",
                call.action
            ),
            self.envelope(call),
        );
        // Cameras of SOAP 1.1 look here.
        let request = request.with_header("soapaction", &format!("\"{}\"", call.action));
        let answer = self.send(request)?;
        let garbled = |why: String| Error::Garbled(format!("{}: {why}", call.url));
        let text = mended(String::from_utf8_lossy(&answer.body).into_owned());
        let document = Document::parse(&text);
        let document = match document {
            Ok(document) => document,
            Err(_) if answer.status >= 300 => return Err(refused(call.url, &answer, "")),
            Err(error) => return Err(garbled(format!("the answer is no XML: {error}"))),
        };
        let body = xml::find(document.root_element(), "Body");
        let body = body.ok_or_else(|| garbled("the answer is no SOAP message".into()))?;
        let content = body.children().find(roxmltree::Node::is_element);
        match content {
            Some(fault) if fault.tag_name().name() == "Fault" => {
                let reason = xml::text(fault, "Text").or_else(|| xml::text(fault, "faultstring"));
                let mut code = String::new();
                let values = fault
                    .descendants()
                    .filter(|n| n.tag_name().name() == "Value");
                for value in values.filter_map(|value| value.text()) {
                    code = format!("{code}{} ", value.trim());
                }
                let reason = format!("{code}{}", reason.unwrap_or_default());
                Err(refused(call.url, &answer, reason.trim()))
            }
            _ if answer.status >= 300 => Err(refused(call.url, &answer, "")),
            Some(content) => read(content),
            None => Err(garbled("the answer is empty".into())),
        }
    }

    /// Send a request with the proofs that the camera wants.
    pub fn send(&mut self, mut request: Request) -> Result<Response, Error> {
        request.timeout = self.timeout;
        let with_proof = self.proved(&request);
        let proved = with_proof.is_some();
        let answer = self.client.send(with_proof.as_ref().unwrap_or(&request))?;
        let Some(login) = self.login.clone().filter(|_| answer.status == 401) else {
            return Ok(answer);
        };
        let asked: Vec<&str> = answer.headers("www-authenticate").collect();
        let challenge = asked.iter().find_map(|asked| Challenge::parse(asked));
        if let Some(challenge) = challenge.filter(|_| login.digest) {
            // What was proved and is asked for again was wrong, unless only the nonce is old.
            if proved && !challenge.stale {
                return Ok(answer);
            }
            self.challenge = Some((challenge, 0));
            let request = self.proved(&request).unwrap_or(request);
            return self.client.send(&request);
        }
        let wants_basic = asked.iter().any(|asked| {
            asked
                .get(..6)
                .is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic "))
        });
        if login.basic && wants_basic {
            let pair = format!("{}:{}", login.username, login.password);
            let proof = format!("Basic {}", STANDARD.encode(pair));
            return self
                .client
                .send(&request.with_header("authorization", &proof));
        }
        Ok(answer)
    }

    /// The request with a digest, if the camera has asked for one.
    fn proved(&mut self, request: &Request) -> Option<Request> {
        let login = self.login.as_ref().filter(|login| login.digest)?;
        let (challenge, count) = self.challenge.as_mut()?;
        *count += 1;
        let path = path_of(&request.url);
        let proof = challenge.answer(
            &login.username,
            &login.password,
            &request.method,
            path,
            *count,
        );
        Some(request.clone().with_header("authorization", &proof))
    }

    fn envelope(&self, call: &Call<'_>) -> String {
        let token = self.login.as_ref().filter(|login| login.token);
        let token = token.map_or(String::new(), |login| {
            username_token(login, now().saturating_add(self.ahead), &nonce())
        });
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <e:Envelope xmlns:e=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:s=\"{}\" \
             xmlns:tt=\"http://www.onvif.org/ver10/schema\"><e:Header>{token}{}</e:Header>\
             <e:Body>{}</e:Body></e:Envelope>",
            call.namespace, call.headers, call.body
        )
    }
}

/// An answer with the namespaces that it uses and does not name, as some cameras send it: names are
/// looked at without them.
fn mended(mut text: String) -> String {
    for _ in 0..8 {
        let prefix = match Document::parse(&text) {
            Err(roxmltree::Error::UnknownNamespace(prefix, _)) => prefix,
            _ => break,
        };
        let tag = text.match_indices('<').find(|(at, _)| {
            let next = text[at + 1..].chars().next();
            next.is_some_and(|next| next.is_ascii_alphabetic())
        });
        let Some((start, _)) = tag else { break };
        let name = text[start..].find(|c: char| c.is_whitespace() || "/>".contains(c));
        let Some(end) = name else { break };
        text.insert_str(
            start + end,
            &format!(" xmlns:{prefix}=\"urn:unnamed:{prefix}\""),
        );
    }
    text
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH);
    passed.map_or(0, |passed| i64::try_from(passed.as_secs()).unwrap_or(0))
}

/// WS-Security UsernameToken Profile 1.0, 3.1: what is signed is nonce, instant and password.
fn username_token(login: &Login, at: i64, nonce: &[u8; 16]) -> String {
    let created = clock::show(at);
    let mut hash = Sha1::new();
    hash.update(nonce);
    hash.update(created.as_bytes());
    hash.update(login.password.as_bytes());
    let proof = STANDARD.encode(hash.finalize());
    const SECURITY: &str =
        "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
    const UTILITY: &str =
        "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd";
    const PROFILE: &str =
        "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0";
    const ENCODING: &str =
        "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0";
    format!(
        "<w:Security xmlns:w=\"{SECURITY}\" xmlns:u=\"{UTILITY}\" e:mustUnderstand=\"true\">\
         <w:UsernameToken><w:Username>{}</w:Username>\
         <w:Password Type=\"{PROFILE}#PasswordDigest\">{proof}</w:Password>\
         <w:Nonce EncodingType=\"{ENCODING}#Base64Binary\">{}</w:Nonce>\
         <u:Created>{created}</u:Created></w:UsernameToken></w:Security>",
        xml::escaped(&login.username),
        STANDARD.encode(nonce),
    )
}

/// Path and query of a URL.
pub fn path_of(url: &str) -> &str {
    let after = url.split_once("://").map_or(url, |(_, rest)| rest);
    after.find('/').map_or("/", |at| &after[at..])
}

/// The camera said no.
fn refused(url: &str, answer: &Response, reason: &str) -> Error {
    let words = match (answer.status, reason) {
        (401 | 403, _) => "the camera does not accept the user or the password",
        (_, "") => "the camera answered with an error of HTTP",
        _ => "the camera refused",
    };
    Error::Protocol(ProtocolError {
        code: answer.status.into(),
        message: format!("{url}: {words}: {} {reason}", answer.status)
            .trim()
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_that_are_not_named_do_no_harm() {
        let text = mended("<?xml version='1.0'?><e:A><b:C x='1'/></e:A>".to_owned());
        let document = Document::parse(&text).unwrap();
        assert!(xml::find(document.root_element(), "C").is_some());
        assert!(Document::parse(&mended("<e:A".to_owned())).is_err());
    }

    #[test]
    fn a_token_is_that_of_the_specification() {
        // ONVIF Application Programmer's Guide 1.0, 6.1.1.3: nonce, created and digest of "userpassword".
        let nonce = STANDARD.decode("LKqI6G/AikKCQrN0zqZFlg==").unwrap();
        let login = Login {
            username: "user".into(),
            password: "userpassword".into(),
            ..Login::default()
        };
        let at = clock::parse("2010-09-16T07:50:45Z").unwrap();
        let token = username_token(&login, at, &nonce.try_into().unwrap());
        assert!(token.contains(">tuOSpGlFlIXsozq4HFNeeGeFLEI=<"), "{token}");
        assert!(token.contains(">2010-09-16T07:50:45Z<"), "{token}");
    }
}
