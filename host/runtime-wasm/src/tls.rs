//! TLS of what guests connect to: whom they trust, and who they are.

use std::sync::{Arc, LazyLock};

use eyot_runtime::guest::Tls;
use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// The settings of a client. Without any it trusts the authorities that the machine trusts, and
/// shows nothing of itself.
///
/// # Errors
///
/// Certificates or a key that cannot be read, in words that show none of them.
pub(crate) fn client(settings: Option<&Tls>) -> Result<Arc<ClientConfig>, String> {
    static MACHINE: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    static USUAL: LazyLock<Result<Arc<ClientConfig>, String>> =
        LazyLock::new(|| build(MACHINE.clone(), None));
    let Some(settings) = settings.filter(|settings| **settings != Tls::default()) else {
        return USUAL.clone();
    };
    let roots = match &settings.authorities {
        None => MACHINE.clone(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem, "cacert")? {
                let added = roots.add(certificate);
                added.map_err(|error| format!("cacert: {error}"))?;
            }
            Arc::new(roots)
        }
    };
    build(roots, settings.identity.as_ref())
}

fn build(
    roots: Arc<RootCertStore>,
    identity: Option<&(String, String)>,
) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let Some((chain, key)) = identity else {
        return Ok(Arc::new(config.with_no_client_auth()));
    };
    let chain = certificates(chain, "clientcert")?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
    let key = key.map_err(|error| format!("clientkey: {error}"))?;
    let config = config.with_client_auth_cert(chain, key);
    Ok(Arc::new(
        config.map_err(|error| format!("clientcert: {error}"))?,
    ))
}

fn certificates(pem: &str, name: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes());
    let all: Result<Vec<_>, _> = all.collect();
    match all {
        Ok(all) if all.is_empty() => Err(format!("{name}: there is no certificate in it")),
        Ok(all) => Ok(all),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named_and_not_shown() {
        let with = |authorities: Option<&str>, identity: Option<(&str, &str)>| {
            let owned = |(chain, key): (&str, &str)| (chain.to_owned(), key.to_owned());
            client(Some(&Tls {
                authorities: authorities.map(str::to_owned),
                identity: identity.map(owned),
            }))
        };
        client(None).unwrap();
        with(None, None).unwrap();
        assert!(
            with(Some("secret"), None)
                .unwrap_err()
                .starts_with("cacert: ")
        );
        let begun = "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n";
        let error = with(Some(begun), None).unwrap_err();
        assert!(
            error.starts_with("cacert: ") && !error.contains("c2Vj"),
            "{error}"
        );
        let error = with(None, Some((begun, "secret"))).unwrap_err();
        assert!(
            error.starts_with("clientkey: ") && !error.contains("secret"),
            "{error}"
        );
    }
}
