//! Who a node is: its key, its certificate, and the authority that it believes.

use std::sync::Arc;

use eyot_http::trust::{Trust, trusting};
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Credential;

/// How the user of a node is called, in front of the node's name.
const USER: &str = "system:node:";

/// A node's identity. The texts are PEM.
#[derive(Clone)]
pub struct Identity {
    pub authority: String,
    pub certificate: String,
    pub key: String,
    /// The name of the Node.
    pub node: String,
    /// From when the certificate is good.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
}

/// Why there is no identity in what was read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate of this node cannot be read")]
    Certificate,
    #[error("the certificate is for {0:?}, which is no node")]
    NoNode(String),
    #[error("certificate and key of this node do not fit: {0}")]
    Pair(String),
    #[error("the certificate of the server's authority cannot be used: {0}")]
    Authority(String),
}

impl Identity {
    /// Put it together, and see that it fits.
    ///
    /// # Errors
    ///
    /// Says which part is no good. One that has expired is as good as another here.
    pub fn read(
        authority: String,
        certificate: String,
        key: String,
    ) -> Result<Self, IdentityError> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| IdentityError::Certificate)?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|_| IdentityError::Certificate)?;
        let name = parsed.subject().iter_common_name().next();
        let name = name.and_then(|name| name.as_str().ok()).unwrap_or_default();
        let node = name
            .strip_prefix(USER)
            .filter(|node| !node.is_empty())
            .ok_or_else(|| IdentityError::NoNode(name.to_owned()))?;
        let time = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|_| IdentityError::Certificate)
        };
        let identity = Self {
            node: node.to_owned(),
            from: time(parsed.validity().not_before)?,
            to: time(parsed.validity().not_after)?,
            authority,
            certificate,
            key,
        };
        identity.credential()?;
        Ok(identity)
    }

    /// How the node shows it.
    pub fn credential(&self) -> Result<Credential, IdentityError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| IdentityError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| IdentityError::Pair(error.to_string()))?;
        // An empty one would mean all that the machine trusts.
        CertificateDer::from_pem_slice(self.authority.as_bytes())
            .map_err(|error| IdentityError::Authority(error.to_string()))?;
        let mut tls = trusting(Trust::Authorities(self.authority.as_bytes()))
            .map_err(IdentityError::Authority)?
            .with_client_auth_cert(chain, key)
            .map_err(|error| IdentityError::Pair(error.to_string()))?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Credential {
            tls: Arc::new(tls),
            bearer: None,
        })
    }

    /// When it should be renewed: when between 60 and 80 percent of its life are over, so that nodes
    /// that joined together do not renew together. `at` is between 0 and 1.
    pub fn renewal(&self, at: f64) -> Timestamp {
        let life = self.to.duration_since(self.from);
        let part = life.mul_f64(0.6 + 0.2 * at.clamp(0.0, 1.0));
        self.from.checked_add(part).unwrap_or(self.to)
    }

    pub fn has_expired(&self, now: Timestamp) -> bool {
        now >= self.to
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An authority, and certificates of it.
    pub(crate) fn signed(common_name: &str, days: i64) -> (String, String, String) {
        use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_ca_cert_der(ca.der(), key).unwrap();
        let own = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after =
            rcgen::date_time_ymd(2020, 1, 1) + std::time::Duration::from_secs(days as u64 * 86_400);
        let certificate = params.signed_by(&own, &issuer).unwrap();
        (ca.pem(), certificate.pem(), own.serialize_pem())
    }

    #[test]
    fn an_identity_knows_its_node_and_when_it_is_due() {
        let (ca, certificate, key) = signed("system:node:edge-7", 100);
        let identity = Identity::read(ca, certificate, key).unwrap();
        assert_eq!(identity.node, "edge-7");
        let day = |at: f64| {
            let after = identity.renewal(at).duration_since(identity.from);
            after.as_hours() / 24
        };
        assert_eq!((day(0.0), day(1.0)), (60, 80));
        assert!(identity.has_expired(Timestamp::now()));
        assert!(!identity.has_expired(identity.from));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let (ca, certificate, key) = signed("system:node:a", 1);
        let of = |ca: &str, certificate: &str, key: &str| {
            let read = Identity::read(ca.to_owned(), certificate.to_owned(), key.to_owned());
            read.err().unwrap().to_string()
        };
        assert!(of("", &certificate, &key).contains("authority"));
        assert!(of(&ca, "junk", &key).contains("cannot be read"));
        assert!(of(&ca, &certificate, "junk").contains("do not fit"));
        let (_, other, _) = signed("admin", 1);
        assert!(of(&ca, &other, &key).contains("no node"));
    }
}
