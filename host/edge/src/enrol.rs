//! Becoming a node: from a join token to a certificate, and from a certificate to the next one.
//!
//! The request is Kubernetes' own (`certificates.k8s.io/v1`, signer
//! `kubernetes.io/kube-apiserver-client-kubelet`), so any Kubernetes control plane can grant it. Its
//! name follows from the key: who asks again with the same key, after a restart, finds the request
//! that it made.

use std::{sync::Arc, time::Duration};

use eyot_http::trust::{Trust, trusting};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use rustls::ClientConfig;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use crate::{
    Address, Credential, Identity, JoinToken, Uplink, identity::IdentityError, pin::Pinned,
    uplink::DialError,
};

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// How long a certificate is asked for: short, because it is renewed by itself; long enough for a
/// machine that is switched off over a long holiday.
const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
const POLL_FIRST: Duration = Duration::from_millis(200);
const POLL_LONGEST: Duration = Duration::from_secs(5);
/// What is approved by itself is so in a moment; after this long somebody has to do it.
const BY_ITSELF: Duration = Duration::from_secs(10);

/// Why a machine did not become a node.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error(
        "the server does not accept the token: it has expired, was deleted, or is another server's; `eyot token create` on the server makes a new one"
    )]
    Token,
    #[error(
        "the server does not accept this node's certificate any more: its Node was deleted, or the authority is another one; `eyot node reset` and join again with a new token"
    )]
    Certificate,
    #[error(
        "the server does not let this token ask for a certificate ({0}); `eyot token create` on the server makes the bindings that it needs"
    )]
    Forbidden(String),
    #[error("the request {request} for a certificate was {what}: {why}")]
    Refused {
        request: String,
        what: &'static str,
        why: String,
    },
    #[error("the key of this node cannot be made or used: {0}")]
    Key(#[from] rcgen::Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("asking the server for a certificate")]
    Api(#[source] kube::Error),
}

/// A server that was found to be the one that the token means, reached with the token.
pub struct Introduction {
    pub uplink: Uplink,
    /// The server's authority, in PEM.
    pub authority: String,
}

/// Find out that a server is the token's.
///
/// # Errors
///
/// It is not reached, is another one, or the clock of this machine is wrong.
pub async fn introduce(server: Address, token: &JoinToken) -> Result<Introduction, EnrolError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pinned = Arc::new(Pinned::new(token.pin, provider.clone()));
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| EnrolError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let credential = Credential {
        tls: Arc::new(tls),
        bearer: None,
    };
    Uplink::new(server.clone(), credential).try_once().await?;
    let authority = pinned
        .authority()
        .ok_or_else(|| EnrolError::Tls("no handshake took place".to_owned()))?;
    let authority = pem("CERTIFICATE", &authority);
    // From here on as any client of that authority's.
    let mut tls = trusting(Trust::Authorities(authority.as_bytes()))
        .map_err(EnrolError::Tls)?
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let credential = Credential {
        tls: Arc::new(tls),
        bearer: Some(token.bearer()),
    };
    Ok(Introduction {
        uplink: Uplink::new(server, credential),
        authority,
    })
}

/// A new private key, in PEM.
pub fn make_key() -> Result<String, EnrolError> {
    Ok(KeyPair::generate()?.serialize_pem())
}

/// Have a certificate made for the key, for the node of that name.
///
/// # Errors
///
/// The server refuses. One that lets the request wait, until somebody approves it, is waited for.
pub async fn certify(
    client: &Client,
    node: &str,
    key: String,
    authority: String,
) -> Result<Identity, EnrolError> {
    let pair = KeyPair::from_pem(&key)?;
    let name = name_of(&pair);
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    match api
        .create(&PostParams::default(), &request(&name, node, &pair)?)
        .await
    {
        Err(kube::Error::Api(answer)) if answer.code == 409 => {}
        Err(kube::Error::Api(answer)) if answer.code == 403 => {
            return Err(EnrolError::Forbidden(answer.message));
        }
        made => drop(made.map_err(refused)?),
    }
    let certificate = wait(&api, &name).await?;
    Ok(Identity::read(authority, certificate, key)?)
}

/// A new identity for a node that has one, by its own right.
pub async fn renew(client: &Client, old: &Identity) -> Result<Identity, EnrolError> {
    let certified = certify(client, &old.node, make_key()?, old.authority.clone()).await;
    certified.map_err(|error| match error {
        EnrolError::Token => EnrolError::Certificate,
        error => error,
    })
}

fn refused(error: kube::Error) -> EnrolError {
    match error {
        kube::Error::Api(answer) if answer.code == 401 => EnrolError::Token,
        error => EnrolError::Api(error),
    }
}

fn name_of(key: &KeyPair) -> String {
    let digest = Sha256::digest(key.subject_public_key_info());
    format!("node-csr-{}", &hex::encode(digest)[..20])
}

fn request(
    name: &str,
    node: &str,
    key: &KeyPair,
) -> Result<CertificateSigningRequest, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{node}"));
    let request = params.serialize_request(key)?.pem()?;
    let usages = ["digital signature", "client auth"];
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: SIGNER.to_owned(),
            usages: Some(usages.map(str::to_owned).to_vec()),
            expiration_seconds: i32::try_from(LIFE.as_secs()).ok(),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

async fn wait(api: &Api<CertificateSigningRequest>, name: &str) -> Result<String, EnrolError> {
    let (since, mut pause, mut told) = (Instant::now(), POLL_FIRST, false);
    loop {
        let request = api.get(name).await.map_err(refused)?;
        let status = request.status.unwrap_or_default();
        let text = status
            .certificate
            .and_then(|certificate| String::from_utf8(certificate.0).ok());
        if let Some(certificate) = text.filter(|text| !text.is_empty()) {
            return Ok(certificate);
        }
        for condition in status.conditions.into_iter().flatten() {
            let what = match condition.type_.as_str() {
                "Denied" => "denied",
                "Failed" => "not signed",
                _ => continue,
            };
            return Err(EnrolError::Refused {
                request: name.to_owned(),
                what,
                why: condition.message.unwrap_or_default(),
            });
        }
        if !told && since.elapsed() >= BY_ITSELF {
            told = true;
            tracing::warn!(
                "the request for a certificate waits for an administrator, as it does where a Node of this name is known already: `kubectl delete node` first, or `kubectl certificate approve {name}`"
            );
        }
        sleep(pause).await;
        pause = POLL_LONGEST.min(pause.mul_f64(1.5));
    }
}

/// When the node must think of the next certificate, counted from `now`; at least a minute away.
pub fn until_renewal(identity: &Identity, now: Timestamp) -> Duration {
    let left = identity.renewal(rand::random()).duration_since(now);
    Duration::try_from(left)
        .unwrap_or_default()
        .max(Duration::from_secs(60))
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let encoded = BASE64_STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
