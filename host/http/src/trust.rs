//! TLS towards other people's servers: whose certificates are believed.

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    client::WantsClientCert,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::Credulous;

/// Whose certificates are good.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// Those of these authorities, in PEM; none means those that the machine trusts.
    Authorities(&'a [u8]),
    /// Everybody's.
    Anybody,
}

/// A client's configuration that believes `trust`, to be told who the client is. An error says what
/// is wrong with the authorities.
pub fn trusting(trust: Trust<'_>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(match trust {
        Trust::Authorities([]) => builder.with_root_certificates(machine_roots()),
        Trust::Authorities(pem) => builder.with_root_certificates(Arc::new(roots(pem)?)),
        Trust::Anybody => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous::new(provider))),
    })
}

/// The authorities of a bundle in PEM.
fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        let why = "unable to load root certificates: unable to parse bytes as PEM block";
        return Err(why.to_owned());
    }
    Ok(roots)
}

/// The authorities that the machine trusts, read once and only if they are needed.
fn machine_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    };
    ROOTS.get_or_init(load).clone()
}
