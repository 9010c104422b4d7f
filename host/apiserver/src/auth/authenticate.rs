//! Who sends a request: the authenticators in Kubernetes' order.
//!
//! A user set by this process comes first, since nothing from the wire can become one. Then the
//! client certificate, which the TLS listener has held against the client CA: common name is
//! the user, organisations are the groups. Then a bearer token. Who shows neither is anonymous; who
//! shows a certificate or a token that nobody accepts is refused, not anonymous.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use eyot_http::{Peer, Request};
use eyot_store::Store;
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{node, oidc::Anonymous, token::Tokens};
use crate::{
    failure::Failure,
    user::{Identity, User},
};

/// Tells which credential was used.
pub(crate) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// The attribute of a certificate's subject that carries the user's UID, as Kubernetes has it.
const UID: &str = "1.3.6.1.4.1.57683.2";

/// A WebSocket of a browser can set no header; its token travels as a protocol of this name.
const WEBSOCKET: &str = "base64url.bearer.authorization.k8s.io.";

/// The user behind a request. What showed it is taken out of the headers, so that nothing behind
/// this can leak it. Who shows nothing may come where `anonymous` says.
pub(crate) async fn authenticate(
    store: &Store,
    tokens: &Tokens,
    anonymous: &Anonymous,
    request: &mut Request,
) -> Result<User, Failure> {
    if let Some(user) = request.extensions().get::<User>() {
        return Ok(user.clone());
    }
    let peer = request.extensions().get::<Peer>();
    let shown = peer.map_or(Ok(None), |peer| of_connection(store, peer));
    let headers = request.headers_mut();
    let token = match bearer(headers) {
        Some(token) => Some(token),
        None => of_websocket(headers)?,
    };
    headers.remove(header::AUTHORIZATION);
    match (shown, token) {
        (Ok(Some(user)), _) => Ok(user),
        // A good token makes up for a bad certificate.
        (_, Some(token)) => match tokens.find(&token, &tokens.own_audience()).await {
            Ok(known) => Ok(known.user),
            Err(why) => {
                tracing::debug!(%why, "a token was refused");
                Err(Failure::unauthorized())
            }
        },
        (Ok(None), None) if anonymous.is_allowed(request.uri().path()) => Ok(User::anonymous()),
        (_, None) => Err(Failure::unauthorized()),
    }
}

/// The token of an `Authorization` header.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    let is_one = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty();
    is_one.then(|| token.to_owned())
}

/// The token among the protocols that a WebSocket offers; the others stay.
fn of_websocket(headers: &mut HeaderMap) -> Result<Option<String>, Failure> {
    let upgrades = headers.get(header::UPGRADE);
    if upgrades.is_none_or(|to| !to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Ok(None);
    }
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offered: Vec<String> = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|protocol| protocol.trim().to_owned())
        .collect();
    let (tokens, others): (Vec<String>, Vec<String>) = offered
        .into_iter()
        .partition(|protocol| protocol.starts_with(WEBSOCKET));
    let encoded = match tokens.as_slice() {
        [] => return Ok(None),
        // With nothing else to choose from, the answer would have to repeat the token.
        [one] if !others.is_empty() => one.trim_start_matches(WEBSOCKET),
        _ => return Err(Failure::unauthorized()),
    };
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(encoded).ok();
    let token = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let token = token.filter(|token| !token.is_empty());
    let token = token.ok_or_else(Failure::unauthorized)?;
    if let Ok(others) = HeaderValue::from_str(&others.join(", ")) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, others);
    }
    Ok(Some(token))
}

/// What the certificate of a connection says, read once for all of its requests.
struct Shown {
    user: Option<User>,
    /// Seconds since 1970, as the next.
    begins: i64,
    expires: i64,
}

/// A certificate that is no good.
struct Refused;

/// The user that the certificate of a connection names; `None` if it names nobody.
fn of_connection(store: &Store, peer: &Peer) -> Result<Option<User>, Refused> {
    let certificate = match &peer.certificate {
        None => return Ok(None),
        Some(Ok(certificate)) => certificate,
        Some(Err(why)) => {
            tracing::debug!(address = %peer.address, %why, "a client certificate was refused");
            return Err(Refused);
        }
    };
    let Some(shown) = peer.memo.get_or_init(|| Arc::new(read(certificate))) else {
        return Err(Refused);
    };
    // The handshake may be long ago.
    if Timestamp::now().as_second() > shown.expires {
        return Err(Refused);
    }
    if let Some(name) = shown.user.as_ref().and_then(node::name_of)
        && node::is_revoked(store, name, shown.begins, Timestamp::now())
    {
        tracing::debug!(
            node = name,
            "a node shows a certificate from before it was deleted"
        );
        return Err(Refused);
    }
    Ok(shown.user.clone())
}

fn read(der: &[u8]) -> Shown {
    let nobody = Shown {
        user: None,
        begins: 0,
        expires: i64::MAX,
    };
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return nobody;
    };
    let subject = certificate.subject();
    let name = subject.iter_common_name().next();
    let Some(name) = name
        .and_then(|name| name.as_str().ok())
        .filter(|name| !name.is_empty())
    else {
        return nobody;
    };
    let uid = subject
        .iter_attributes()
        .find(|attribute| attribute.attr_type().to_id_string() == UID)
        .and_then(|attribute| attribute.as_str().ok());
    let groups = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .map(str::to_owned);
    let credential = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
    let identity = Identity {
        name: name.to_owned(),
        uid: uid.unwrap_or_default().to_owned(),
        groups: groups.collect(),
        extra: [(CREDENTIAL_ID.to_owned(), vec![credential])].into(),
    };
    Shown {
        user: Some(identity.authenticated()),
        begins: certificate.validity().not_before.timestamp(),
        expires: certificate.validity().not_after.timestamp(),
    }
}
