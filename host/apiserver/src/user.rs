//! Who sends a request.
//!
//! A client shows a certificate (common name = user, organisations = groups); the host's own parts
//! call in process as a user set beforehand. Bearer tokens will be one more case of
//! [`authenticate`]. Only health and version answer strangers. What a user may do is one function,
//! [`authorize`], today the same for all.

use eyot_http::{Peer, Request};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::failure::Failure;

/// An authenticated client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> User {
        User {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        }
    }
}

/// The user behind a request.
///
/// The TLS listener has verified the certificate against the client CA already; a `User` among the
/// extensions was put there by this process, since nothing from the wire can become one.
pub(crate) fn authenticate(request: &Request) -> Result<User, Failure> {
    if let Some(user) = request.extensions().get::<User>() {
        return Ok(user.clone());
    }
    let certificate = request
        .extensions()
        .get::<Peer>()
        .and_then(|peer| peer.certificate.as_ref());
    certificate
        .and_then(|certificate| of_certificate(certificate))
        .map(with_authenticated)
        .ok_or_else(Failure::unauthorized)
}

/// Whether a user may do what it asks: any known user may, until there are roles.
pub(crate) fn authorize(_user: &User) -> Result<(), Failure> {
    Ok(())
}

fn of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .map(str::to_owned);
    (!name.is_empty()).then(|| User {
        name,
        groups: groups.collect(),
    })
}

fn with_authenticated(mut user: User) -> User {
    let group = "system:authenticated";
    if !user.groups.iter().any(|g| g == group) {
        user.groups.push(group.to_owned());
    }
    user
}
