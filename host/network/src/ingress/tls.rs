//! Certificates for the names that clients ask for (SNI), from Secrets.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use k8s_openapi::api::{core::v1::Secret, networking::v1::Ingress};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::target::Complaint;

/// Certificates by host, as they are now.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    by_host: RwLock<ByHost>,
}

type ByHost = HashMap<String, Arc<CertifiedKey>>;

impl Certificates {
    pub(crate) fn set(&self, by_host: ByHost) {
        *self.by_host.write().unwrap_or_else(PoisonError::into_inner) = by_host;
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let by_host = self.by_host.read().unwrap_or_else(PoisonError::into_inner);
        let name = hello.server_name()?.to_lowercase();
        let wildcard = || by_host.get(&format!("*.{}", name.split_once('.')?.1));
        by_host.get(&name).or_else(wildcard).cloned()
    }
}

pub(crate) fn server_config(
    certificates: Arc<Certificates>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates that these Ingresses name, oldest first, and what is wrong with others.
pub(crate) fn read(
    ingresses: &[&Ingress],
    secret: impl Fn(&str, &str) -> Option<Arc<Secret>>,
) -> (ByHost, Vec<Complaint>) {
    let (mut by_host, mut wrong) = (ByHost::new(), Vec::new());
    for (index, ingress) in ingresses.iter().enumerate() {
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let Some(spec) = &ingress.spec else { continue };
        for tls in spec.tls.iter().flatten() {
            let Some(name) = tls.secret_name.as_deref() else {
                continue;
            };
            let key = secret(namespace, name)
                .ok_or_else(|| "not found, or not of type kubernetes.io/tls".to_owned())
                .and_then(|secret| certified(&secret));
            match key {
                Ok(key) => {
                    let key = Arc::new(key);
                    for host in tls.hosts.iter().flatten() {
                        by_host
                            .entry(host.to_lowercase())
                            .or_insert_with(|| Arc::clone(&key));
                    }
                }
                Err(why) => wrong.push(Complaint {
                    index,
                    reason: "NoCertificate",
                    message: format!("secret {name}: {why}"),
                }),
            }
        }
    }
    (by_host, wrong)
}

fn certified(secret: &Secret) -> Result<CertifiedKey, String> {
    let entry = |name: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(name));
        data.map(|bytes| bytes.0.as_slice())
            .ok_or_else(|| format!("it has no {name}"))
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(entry("tls.crt")?)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt holds no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(entry("tls.key")?)
        .map_err(|error| format!("tls.key: {error}"))?;
    let key = ring::sign::any_supported_type(&key).map_err(|error| format!("tls.key: {error}"))?;
    let certified = CertifiedKey::new(chain, key);
    certified
        .keys_match()
        .map_err(|error| format!("tls.crt and tls.key do not belong together: {error}"))?;
    Ok(certified)
}
