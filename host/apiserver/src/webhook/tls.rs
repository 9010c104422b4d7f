//! TLS towards other people's servers: whom we believe, and who we are.

use std::sync::{Arc, OnceLock};

use eyot_http::Credulous;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::aggregation::FrontProxy;

/// Whose certificates are good.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trust<'a> {
    /// Those of these authorities, in PEM; none means those that the machine trusts.
    Authorities(&'a [u8]),
    /// Everybody's.
    Anybody,
}

/// A configuration that believes `trust`, and shows a certificate where one is given.
pub(crate) fn config(
    trust: Trust<'_>,
    identity: Option<&FrontProxy>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match trust {
        Trust::Authorities([]) => builder.with_root_certificates(machine_roots()),
        Trust::Authorities(pem) => builder.with_root_certificates(Arc::new(roots(pem)?)),
        Trust::Anybody => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous::new(provider))),
    };
    let Some(identity) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("the front proxy's certificate: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
        .map_err(|error| format!("the front proxy's key: {error}"))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("the front proxy's certificate: {error}"))
}

/// The authorities of a `caBundle`.
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
