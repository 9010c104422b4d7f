//! TLS towards backends: who the router says it is, and whom it believes.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

use eyot_http::trust::{Trust, trusting};
use k8s_openapi::api::core::v1::Secret;
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use super::settings::{Protocol, Settings};

/// One way of speaking TLS. Two are the same only if they are one object, which is as long-lived as
/// what it was made from, so that connections outlive changes of other objects.
#[derive(Debug, Clone)]
pub(crate) struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Identity {
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.0.config.clone()
    }

    pub(crate) fn name(&self) -> ServerName<'static> {
        self.0.name.clone()
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// What an identity is made from.
#[derive(PartialEq, Eq, Hash)]
struct Source {
    http2: bool,
    name: String,
    /// In PEM; `None` believes everybody.
    authorities: Option<Vec<u8>>,
    /// Certificate and key, in PEM.
    own: Option<(Vec<u8>, Vec<u8>)>,
}

/// The identities that are in use.
#[derive(Default)]
pub(crate) struct Identities {
    known: HashMap<Source, Identity>,
    /// Those that were asked for since the last [`Self::forget`].
    used: Vec<Identity>,
}

impl Identities {
    /// The identity for a backend of this host name. The error says what is wrong with the Ingress's
    /// Secret.
    pub(crate) fn get(
        &mut self,
        settings: &Settings,
        protocol: Protocol,
        host: &str,
        namespace: &str,
        secret: impl Fn(&str, &str) -> Option<Arc<Secret>>,
    ) -> Result<Identity, String> {
        let source = source(settings, protocol, host, namespace, secret)?;
        let identity = match self.known.get(&source) {
            Some(known) => known.clone(),
            None => {
                let made = make(&source)?;
                self.known.insert(source, made.clone());
                made
            }
        };
        self.used.push(identity.clone());
        Ok(identity)
    }

    /// Let go of what was not asked for since this was called the last time.
    pub(crate) fn forget(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.known.retain(|_, identity| used.contains(identity));
    }
}

fn source(
    settings: &Settings,
    protocol: Protocol,
    host: &str,
    namespace: &str,
    secret: impl Fn(&str, &str) -> Option<Arc<Secret>>,
) -> Result<Source, String> {
    let mut source = Source {
        http2: protocol.http2,
        name: settings.name.clone().unwrap_or_else(|| host.to_owned()),
        authorities: None,
        own: None,
    };
    let named = settings.secret.as_deref();
    let Some(name) = named.map(|named| named.rsplit('/').next().unwrap_or(named)) else {
        return match settings.verify {
            // Those that the machine trusts.
            true => Ok(Source {
                authorities: Some(Vec::new()),
                ..source
            }),
            false => Ok(source),
        };
    };
    if let Some((other, _)) = named.and_then(|named| named.split_once('/'))
        && other != namespace
    {
        return Err(format!("secret {other}/{name} is of another namespace"));
    }
    let secret = secret(namespace, name)
        .ok_or_else(|| format!("secret {name}: not found, or not of type kubernetes.io/tls"))?;
    let entry = |entry: &str| {
        let bytes = secret.data.as_ref()?.get(entry)?;
        Some(bytes.0.clone()).filter(|bytes| !bytes.is_empty())
    };
    source.own = entry("tls.crt").zip(entry("tls.key"));
    if settings.verify {
        let authorities =
            entry("ca.crt").ok_or_else(|| format!("secret {name}: it has no ca.crt"))?;
        source.authorities = Some(authorities);
    }
    Ok(source)
}

fn make(source: &Source) -> Result<Identity, String> {
    let name = ServerName::try_from(source.name.clone())
        .map_err(|error| format!("name {:?}: {error}", source.name))?;
    let trust = match &source.authorities {
        Some(pem) => Trust::Authorities(pem),
        None => Trust::Anybody,
    };
    let builder = trusting(trust)?;
    let mut config = match &source.own {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| format!("tls.crt: {error}"))?;
            let key =
                PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("tls.key: {error}"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("tls.crt and tls.key: {error}"))?
        }
    };
    let alpn: &[u8] = if source.http2 { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Identity(Arc::new(Inner {
        config: Arc::new(config),
        name,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_lasts_as_long_as_what_it_is_made_from() {
        let mut identities = Identities::default();
        let mut get = |settings: &Settings| {
            let protocol = Protocol::of_app_protocol("https");
            identities.get(settings, protocol, "web.d.svc", "d", |_, _| None)
        };
        let plain = Settings::default();
        let first = get(&plain).unwrap();
        assert!(get(&plain).unwrap() == first);
        let named = Settings {
            name: Some("other".into()),
            ..Settings::default()
        };
        assert!(get(&named).unwrap() != first);
        let without = Settings {
            secret: Some("d/no".into()),
            ..Settings::default()
        };
        assert!(get(&without).unwrap_err().contains("not found"));
        let foreign = Settings {
            secret: Some("e/no".into()),
            ..Settings::default()
        };
        assert!(get(&foreign).unwrap_err().contains("another namespace"));
        identities.forget();
        assert_eq!(identities.known.len(), 2);
        identities.forget();
        assert_eq!(identities.known.len(), 0);
    }
}
