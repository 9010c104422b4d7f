//! Client certificates at a listener: the handshake succeeds, and what a certificate is worth is said
//! by the answer.

use std::sync::Arc;

use eyot_http::{Clients, Tls};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{ok, server};

type Issuer = rcgen::Issuer<'static, KeyPair>;

fn authority() -> (CertificateDer<'static>, Issuer) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "ca");
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    (certificate, Issuer::new(params, key))
}

type Pair = (CertificateDer<'static>, PrivateKeyDer<'static>);

fn leaf(issuer: &Issuer, purpose: ExtendedKeyUsagePurpose, until: i32) -> Pair {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "jane");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![purpose];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (certificate, key)
}

struct Door {
    address: String,
    roots: Arc<RootCertStore>,
    token: String,
    _stop: DropGuard,
}

impl Door {
    async fn open(ca: CertificateDer<'static>, issuer: &Issuer) -> Door {
        let mut roots = RootCertStore::empty();
        roots.add(ca).unwrap();
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        let clients = Clients::new(clients.unwrap());
        let (certificate, key) = leaf(issuer, ExtendedKeyUsagePurpose::ServerAuth, 2090);
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(Arc::new(clients.clone()))
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let server = server().await;
        let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
        let token = ok(&server, "POST", path, json!({"spec": {}})).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let tls = Tls::judging(Arc::new(config), clients);
        tokio::spawn(eyot_http::serve(listener, Some(tls), server, stop.clone()));
        Door {
            address,
            roots,
            token: token["status"]["token"].as_str().unwrap().to_owned(),
            _stop: stop.drop_guard(),
        }
    }

    /// Who the server says that the client is: a user, or the reason of a refusal.
    async fn ask(&self, shown: Option<&Pair>, headers: &str) -> String {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let config = match shown {
            Some((certificate, key)) => config
                .with_client_auth_cert(vec![certificate.clone()], key.clone_key())
                .unwrap(),
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.unwrap();
        let body = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
        let request = format!(
            "POST /apis/authentication.k8s.io/v1/selfsubjectreviews HTTP/1.1\r\nHost: x\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\
             {headers}\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).expect(&answer);
        let user = &body["status"]["userInfo"]["username"];
        match user.as_str() {
            Some(user) => user.to_owned(),
            None => {
                assert_eq!(body["kind"], "Status", "{body}");
                format!("{} {}", body["code"], body["reason"].as_str().unwrap())
            }
        }
    }
}

#[tokio::test]
async fn a_bad_client_certificate_is_answered() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let (ca, issuer) = authority();
    let (_, stranger) = authority();
    let door = Door::open(ca, &issuer).await;
    let good = leaf(&issuer, ClientAuth, 2090);
    assert_eq!(door.ask(Some(&good), "").await, "jane");
    let account = "system:serviceaccount:default:default";
    let token = format!("Authorization: Bearer {}\r\n", door.token);
    assert_eq!(door.ask(None, &token).await, account);
    for (what, bad) in [
        ("unknown authority", leaf(&stranger, ClientAuth, 2090)),
        ("expired", leaf(&issuer, ClientAuth, 2021)),
        ("of a server", leaf(&issuer, ServerAuth, 2090)),
    ] {
        let refused = "401 Unauthorized";
        assert_eq!(door.ask(Some(&bad), "").await, refused, "{what}");
        // A token may make up for it.
        assert_eq!(door.ask(Some(&bad), &token).await, account, "{what}");
        let forged = "Authorization: Bearer nonsense\r\n";
        assert_eq!(door.ask(Some(&bad), forged).await, refused, "{what}");
    }
}
