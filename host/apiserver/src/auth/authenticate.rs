//! Who sends a request: the authenticators in Kubernetes' order.
//!
//! A user set by this process comes first, since nothing from the wire can become one. Then the
//! client certificate, which the TLS listener has verified against the client CA: common name is
//! the user, organisations are the groups. Then a bearer token. Who shows neither is anonymous; who
//! shows a token that nobody accepts is refused, not anonymous.

use std::sync::Arc;

use eyot_http::{Peer, Request};
use http::{HeaderMap, header};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    failure::Failure,
    user::{Identity, User},
};

/// Tells which credential was used.
pub(crate) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// The attribute of a certificate's subject that carries the user's UID, as Kubernetes has it.
const UID: &str = "1.3.6.1.4.1.57683.2";

/// The user behind a request.
pub(crate) fn authenticate(request: &Request) -> Result<User, Failure> {
    if let Some(user) = request.extensions().get::<User>() {
        return Ok(user.clone());
    }
    let peer = request.extensions().get::<Peer>();
    if let Some(user) = peer.and_then(of_connection) {
        return Ok(user);
    }
    match bearer(request.headers()) {
        // Nobody issues tokens yet.
        Some(_) => Err(Failure::unauthorized()),
        None => Ok(User::anonymous()),
    }
}

/// The token of an `Authorization` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// What the certificate of a connection says, read once for all of its requests.
struct Shown {
    user: Option<User>,
    /// Seconds since 1970.
    expires: i64,
}

fn of_connection(peer: &Peer) -> Option<User> {
    let certificate = peer.certificate.as_ref()?;
    let shown = peer.memo.get_or_init(|| Arc::new(read(certificate)))?;
    // The handshake may be long ago.
    (Timestamp::now().as_second() <= shown.expires)
        .then(|| shown.user.clone())
        .flatten()
}

fn read(der: &[u8]) -> Shown {
    let nobody = Shown {
        user: None,
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
        expires: certificate.validity().not_after.timestamp(),
    }
}
