//! TLS towards webhooks and extension servers: whom we believe, and who we are.

pub(crate) use eyot_http::trust::Trust;
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::aggregation::FrontProxy;

/// A configuration that believes `trust`, and shows a certificate where one is given.
pub(crate) fn config(
    trust: Trust<'_>,
    identity: Option<&FrontProxy>,
) -> Result<ClientConfig, String> {
    let builder = eyot_http::trust::trusting(trust)?;
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
