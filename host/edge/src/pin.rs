//! A pin: the digest of an authority's public key, by which a machine that knows nothing else
//! recognises its server.
//!
//! The form is kubeadm's: `sha256:` and the hexadecimal SHA-256 of the certificate's
//! SubjectPublicKeyInfo (RFC 7469, section 2.4). The server shows its authority's certificate behind
//! its own in the handshake, so the whole check happens before a byte of HTTP is sent: whoever cannot
//! show a chain up to the pinned key, for the name that was asked for, gets no token.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

const PREFIX: &str = "sha256:";

/// The SHA-256 of an authority's SubjectPublicKeyInfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

/// Why a text is no pin.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no pin of an authority: write sha256: and 64 hexadecimal digits")]
pub struct PinError(String);

impl Pin {
    /// The pin of a certificate (DER); `None` if it is none.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let key = certificate.public_key().raw;
        Some(Self(Sha256::digest(key).into()))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", hex::encode(self.0))
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let bytes = text
            .strip_prefix(PREFIX)
            .and_then(|digits| hex::decode(digits).ok())
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| PinError(text.to_owned()))
    }
}

/// Believes a server whose chain goes up to the pinned authority, and remembers that.
#[derive(Debug)]
pub(crate) struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
    found: OnceLock<CertificateDer<'static>>,
}

impl Pinned {
    pub(crate) fn new(pin: Pin, provider: Arc<CryptoProvider>) -> Self {
        Self {
            pin,
            provider,
            found: OnceLock::new(),
        }
    }

    /// The authority, once a handshake has gone well.
    pub(crate) fn authority(&self) -> Option<CertificateDer<'static>> {
        self.found.get().cloned()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = others.iter().find(|one| Pin::of(one) == Some(self.pin));
        // Told apart from a chain that leads somewhere else by what was shown.
        let Some(authority) = pinned else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let authority = authority.clone().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|error| Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(own, others, name, ocsp, now)?;
        let _ = self.found.set(authority);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_written_as_it_is_read() {
        let text = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(text.parse::<Pin>().unwrap().to_string(), text);
        for wrong in ["", "sha256:", "sha256:zz", "md5:00", &text[..70]] {
            assert!(wrong.parse::<Pin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_new_certificate_of_the_same_key_has_the_same_pin() {
        let key = rcgen::KeyPair::generate().unwrap();
        let make = |key: &rcgen::KeyPair, name: &str| {
            let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
            params.self_signed(key).unwrap().der().to_vec()
        };
        let (one, other) = (make(&key, "a"), make(&key, "b"));
        assert_ne!(one, other);
        assert_eq!(Pin::of(&one), Pin::of(&other));
        let stranger = make(&rcgen::KeyPair::generate().unwrap(), "a");
        assert_ne!(Pin::of(&one), Pin::of(&stranger));
        assert_eq!(Pin::of(b"no certificate"), None);
    }
}
