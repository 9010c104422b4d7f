//! What one request leaves behind, from coming in to the last byte of its answer.

use std::{net::IpAddr, sync::Arc};

use eyot_http::{Peer, Request, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    Audit,
    body::{Ear, keeping},
    event::{Captured, Event, Head, ObjectRef, Sent, status},
    policy::{Level, Orders, Stage},
};
use crate::{
    admission::Notes,
    api::BODY_LIMIT,
    auth::{Attributes, Impersonated, Verdict},
    media,
    user::User,
};

/// Larger answers are not recorded, only that they were too large.
const ANSWER_LIMIT: usize = 8 * 1024 * 1024;
/// Of a client's name for itself, what is recorded: Kubernetes' figure.
const AGENT: usize = 1024;

const DECISION: &str = "authorization.k8s.io/decision";
const REASON: &str = "authorization.k8s.io/reason";

/// The trail of one request.
pub(crate) enum Trail {
    /// Nothing is recorded.
    Off,
    /// It is not yet known whether it is.
    Begun(Audit, HeaderValue, Timestamp),
    /// Something is. Tells the end of the request when it is dropped.
    On(Box<Open>),
}

pub(crate) struct Open {
    audit: Audit,
    head: Arc<Head>,
    omit: Vec<Stage>,
    is_long: bool,
    notes: Notes,
    impersonated: Option<Impersonated>,
    /// The media type of the body, and what was heard of it.
    sent: Option<(String, Ear)>,
    /// What the log needs of the answer's body, as it goes by.
    answering: Option<Ear>,
    answered: Option<Captured>,
    status: Option<Value>,
    is_told: bool,
}

impl Trail {
    /// For a request that has just come in, with its id.
    pub(crate) fn begin(audit: Option<&Audit>, id: &HeaderValue) -> Trail {
        match audit {
            None => Trail::Off,
            Some(audit) => Trail::Begun(audit.clone(), id.clone(), Timestamp::now()),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        !matches!(self, Trail::Off)
    }

    /// It is known who asks for what: begin to record what the policy wants to have recorded. From
    /// here on the request is listened to, and its extensions hold the notes of the trail.
    pub(crate) fn known(&mut self, user: &User, asked: &Attributes<'_>, request: &mut Request) {
        self.open(Some(user), asked, request);
        let Trail::On(open) = self else {
            return;
        };
        open.tell(Stage::RequestReceived);
        request.extensions_mut().insert(open.notes.clone());
        if open.listens(asked) {
            let ear = Ear::default();
            let body = std::mem::replace(request.body_mut(), eyot_http::empty());
            *request.body_mut() = ear.listen(body, BODY_LIMIT);
            let media = media::content_type(request.headers()).to_owned();
            open.sent = Some((media, ear));
        }
    }

    /// The request is refused before it is known whose it is. One event says so.
    pub(crate) fn refused(
        &mut self,
        asked: &Attributes<'_>,
        request: &Request,
        code: StatusCode,
        why: &str,
    ) {
        self.open(None, asked, request);
        if let Trail::On(open) = self {
            open.status = Some(status(code, &[("message", why)]));
            open.tell(Stage::ResponseStarted);
            open.is_told = true;
        }
    }

    fn open(&mut self, user: Option<&User>, asked: &Attributes<'_>, request: &Request) {
        let Trail::Begun(audit, id, received) = std::mem::replace(self, Trail::Off) else {
            return;
        };
        let policy = &audit.0.policy;
        let Some(orders) = policy.orders(user, asked).cloned() else {
            return audit.count(Level::None);
        };
        audit.count(orders.level);
        *self = Trail::On(Box::new(Open::new(
            audit, &id, received, orders, user, asked, request,
        )));
    }

    /// The user acts as another.
    pub(crate) fn impersonates(&mut self, other: &Impersonated) {
        if let Trail::On(open) = self {
            open.impersonated = Some(other.clone());
        }
    }

    /// What the authorizers say to the request.
    pub(crate) fn decided(&self, verdict: Verdict, reason: &dyn std::fmt::Display) {
        if let Trail::On(open) = self {
            let decision = match verdict {
                Verdict::Allow => "allow",
                Verdict::Deny | Verdict::NoOpinion => "forbid",
            };
            open.notes.add(DECISION, decision);
            open.notes.add(REASON, reason.to_string());
        }
    }

    /// The request hit a bug.
    pub(crate) fn panicked(self, why: &str) {
        if let Trail::On(mut open) = self {
            let message = format!("APIServer panic'd: {why}");
            let words = [
                ("status", "Failure"),
                ("message", &message),
                ("reason", "InternalError"),
            ];
            open.status = Some(status(StatusCode::INTERNAL_SERVER_ERROR, &words));
            open.tell(Stage::Panic);
            open.is_told = true;
        }
    }

    /// The answer, which must be in JSON still, on its way out.
    pub(crate) async fn answered(self, response: Response) -> Response {
        let Trail::On(mut open) = self else {
            return response;
        };
        open.status = Some(status(response.status(), &[]));
        let wanted = open.wants(&response);
        let is_whole = response.body().size_hint().exact().is_some();
        let (parts, body) = response.into_parts();
        let body = match (is_whole, wanted) {
            (true, true) => match body.collect().await {
                Ok(body) => {
                    let bytes = body.to_bytes();
                    open.answered = Some(Captured::of(bytes.clone()));
                    eyot_http::full(bytes)
                }
                // Bodies that are whole do not break off.
                Err(_) => eyot_http::empty(),
            },
            (false, true) => {
                let ear = Ear::default();
                open.answering = Some(ear.clone());
                ear.listen(body, ANSWER_LIMIT)
            }
            (_, false) => body,
        };
        if open.is_long {
            open.tell(Stage::ResponseStarted);
        }
        let body = match is_whole {
            // Dropped here, it tells the end.
            true => body,
            false => keeping(body, open),
        };
        http::Response::from_parts(parts, body)
    }
}

impl Open {
    fn new(
        audit: Audit,
        id: &HeaderValue,
        received: Timestamp,
        orders: Orders,
        user: Option<&User>,
        asked: &Attributes<'_>,
        request: &Request,
    ) -> Open {
        let text = |text: &str| text.to_owned();
        let object = asked.path.is_none().then(|| ObjectRef {
            resource: text(&asked.resource),
            namespace: text(&asked.namespace),
            name: text(&asked.name),
            api_group: text(&asked.group),
            api_version: text(&asked.version),
            subresource: text(&asked.subresource),
            ..ObjectRef::default()
        });
        let uri = request.uri().path_and_query();
        let peer = request.extensions().get::<Peer>();
        let head = Head {
            id: String::from_utf8_lossy(id.as_bytes()).into_owned(),
            level: orders.level,
            omit_managed_fields: orders.omit_managed_fields,
            uri: uri.map_or_else(|| "/".to_owned(), ToString::to_string),
            verb: text(&asked.verb),
            user: user.cloned(),
            sources: sources(request.headers(), peer.map(|peer| peer.address.ip())),
            agent: agent(request.headers()),
            object,
            received,
        };
        Open {
            audit,
            head: Arc::new(head),
            omit: orders.omit_stages,
            is_long: asked.is_long_running(),
            notes: Notes::kept(),
            impersonated: None,
            sent: None,
            answering: None,
            answered: None,
            status: None,
            is_told: false,
        }
    }

    /// Whether the body of the request is of interest: what it creates is named in it.
    fn listens(&self, asked: &Attributes<'_>) -> bool {
        let is_object = matches!(&*asked.verb, "create" | "update");
        let is_sent = matches!(&*asked.verb, "patch" | "delete" | "deletecollection");
        let wanted = is_object || is_sent && self.head.level >= Level::Request;
        wanted && self.head.object.is_some() && !self.is_long
    }

    /// Whether the body of the answer is of interest: errors say what went wrong, deletions what
    /// became of them.
    fn wants(&self, response: &Response) -> bool {
        let media = response.headers().get(header::CONTENT_TYPE);
        let is_json = media.is_some_and(|media| media == "application/json");
        let is_status = response.status().as_u16() >= 400 || self.head.verb == "delete";
        // A watch is no object.
        let is_object = self.head.level == Level::RequestResponse && self.head.object.is_some();
        is_json && (is_status || is_object) && (!self.is_long || is_status)
    }

    fn tell(&mut self, stage: Stage) {
        if self.omit.contains(&stage) {
            return;
        }
        let is_end = matches!(stage, Stage::ResponseComplete | Stage::Panic);
        let sent = self.sent.as_ref().filter(|_| is_end);
        let sent = sent.map(|(media, ear)| Sent {
            media: media.clone(),
            captured: ear.take(),
        });
        if let Some(ear) = self.answering.as_ref().filter(|_| is_end) {
            self.answered = Some(ear.take());
        }
        let at = match stage {
            Stage::RequestReceived => self.head.received,
            _ => Timestamp::now(),
        };
        self.audit.0.log.add(Event {
            head: self.head.clone(),
            stage,
            at,
            impersonated: self.impersonated.clone(),
            status: self.status.clone(),
            sent,
            answered: self.answered.clone(),
            annotations: self.notes.all(),
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if std::mem::replace(&mut self.is_told, true) {
            return;
        }
        // The client was gone before there was an answer.
        let early = [
            ("status", "Success"),
            ("message", "Connection closed early"),
        ];
        let status = self.status.take();
        self.status = status.or_else(|| Some(super::event::status(StatusCode::OK, &early)));
        self.tell(Stage::ResponseComplete);
    }
}

/// The addresses that a request came by, the client's first: what proxies say, then the one that
/// nobody can make up.
fn sources(headers: &HeaderMap, peer: Option<IpAddr>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let said = |name: &str| -> Vec<IpAddr> {
        let parts = text(name).unwrap_or_default().split(',');
        parts.filter_map(|part| part.trim().parse().ok()).collect()
    };
    let mut sources = said("x-forwarded-for");
    if sources.is_empty() {
        sources = said("x-real-ip");
    }
    if let Some(peer) = peer.map(|peer| peer.to_canonical())
        && sources.last() != Some(&peer)
    {
        sources.push(peer);
    }
    sources.iter().map(ToString::to_string).collect()
}

fn agent(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT);
    let agent = agent.map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    let mut agent = agent.unwrap_or_default().into_owned();
    if agent.len() > AGENT {
        agent.truncate(agent.floor_char_boundary(AGENT));
        agent.push_str("...TRUNCATED");
    }
    agent
}

/// With what a request tries to show who sends it, in the words of Kubernetes' events. To be asked
/// before it is authenticated.
pub(crate) fn attempted(request: &Request) -> String {
    let mut methods = Vec::new();
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.and_then(|value| value.to_str().ok());
    let scheme = authorization.and_then(|value| value.trim().split_once(' '));
    match scheme
        .map(|(scheme, _)| scheme.to_ascii_lowercase())
        .as_deref()
    {
        Some("basic") => methods.push("basic"),
        Some("bearer") => methods.push("bearer"),
        _ => {}
    }
    let peer = request.extensions().get::<Peer>();
    if peer.is_some_and(|peer| peer.certificate.is_some()) {
        methods.push("x509");
    }
    match methods.as_slice() {
        [] => "Authentication failed, no credentials provided".to_owned(),
        methods => format!("Authentication failed, attempted: {}", methods.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_believed_but_the_peer_comes_last() {
        let check = |headers: &[(&'static str, &str)], peer: &str, expected: &[&str]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.parse().unwrap());
            }
            assert_eq!(sources(&map, peer.parse().ok()), expected);
        };
        check(&[], "10.0.0.1", &["10.0.0.1"]);
        check(&[], "", &[]);
        check(&[], "::ffff:10.0.0.1", &["10.0.0.1"]);
        let forwarded = ("x-forwarded-for", "1.1.1.1, nonsense,2.2.2.2");
        let real = ("x-real-ip", "3.3.3.3");
        check(&[forwarded, real], "2.2.2.2", &["1.1.1.1", "2.2.2.2"]);
        check(&[real], "::1", &["3.3.3.3", "::1"]);
    }

    #[test]
    fn a_long_name_is_cut() {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, "a".repeat(2000).parse().unwrap());
        assert_eq!(
            agent(&headers),
            format!("{}...TRUNCATED", "a".repeat(AGENT))
        );
    }
}
