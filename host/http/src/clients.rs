//! TLS of a listener, and what becomes of clients' certificates.
//!
//! A client whose certificate is no good is told so in words, by an answer to its request, as
//! Kubernetes does: the handshake ends well for everyone who holds the key of what he shows, and the
//! certificate is judged after it. That also judges a resumed session anew.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

/// How a listener speaks TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    clients: Option<Clients>,
}

impl Tls {
    /// With a configuration that has `clients` for its verifier, so that it finishes every
    /// handshake.
    pub fn judging(config: Arc<ServerConfig>, clients: Clients) -> Self {
        Self {
            config,
            clients: Some(clients),
        }
    }

    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// The certificate that a client showed in its handshake, or why it is no good. `None` if it
    /// showed none.
    pub fn judge(
        &self,
        shown: Option<&[CertificateDer<'static>]>,
    ) -> Option<Result<CertificateDer<'static>, rustls::Error>> {
        let (own, others) = shown?.split_first()?;
        let verdict = match &self.clients {
            Some(Clients(judge)) => judge.verify_client_cert(own, others, UnixTime::now()),
            // The handshake judged it.
            None => Ok(ClientCertVerified::assertion()),
        };
        Some(verdict.map(|_| own.clone()))
    }
}

impl From<Arc<ServerConfig>> for Tls {
    /// Of clients' certificates the configuration itself thinks what it likes.
    fn from(config: Arc<ServerConfig>) -> Self {
        Self {
            config,
            clients: None,
        }
    }
}

/// Lets every client finish its handshake; the verifier in it judges afterwards.
#[derive(Debug, Clone)]
pub struct Clients(Arc<dyn ClientCertVerifier>);

impl Clients {
    pub fn new(judge: Arc<dyn ClientCertVerifier>) -> Self {
        Self(judge)
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _own: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }
}
