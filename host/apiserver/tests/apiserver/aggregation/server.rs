//! A real server behind the API server: HTTPS, client certificates, discovery, OpenAPI, a resource.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use eyot_apiserver::{FRONT_PROXY, FrontProxy};
use eyot_http::{Peer, Request, Response, Upgrade};
use futures::future::BoxFuture;
use http::{StatusCode, header};
use http_body_util::BodyExt;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub const GROUP: &str = "wardle.example.com";

/// Serves `flunders` in `wardle.example.com/v1alpha1`.
pub struct Extension {
    pub address: SocketAddr,
    /// PEM of the authority that signed its certificate.
    pub authority: String,
    pub state: Arc<State>,
    _stop: DropGuard,
}

#[derive(Default)]
pub struct State {
    /// What came below the group: method, path with query, headers, body.
    pub seen: Mutex<Vec<(String, String, http::HeaderMap, String)>>,
    /// Nothing but errors is answered.
    pub is_broken: AtomicBool,
    /// Only the old documents are served.
    pub is_old: AtomicBool,
}

struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { params, key, pem }
    }

    /// Certificate and key, in PEM.
    fn sign(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// What an API server shows to the servers behind it.
pub fn front_proxy() -> FrontProxy {
    let authority = Authority::new();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, FRONT_PROXY);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let (certificate, key) = authority.sign(params);
    FrontProxy {
        authority: authority.pem,
        certificate,
        key,
    }
}

impl Extension {
    /// For the Service `sample` of the namespace `default`. It talks only to who has a certificate
    /// of this authority.
    pub async fn start(clients: &str) -> Extension {
        let authority = Authority::new();
        let names = vec!["sample.default.svc".to_owned()];
        let (certificate, key) = authority.sign(CertificateParams::new(names).unwrap());
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(clients.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, stop) = (Arc::<State>::default(), CancellationToken::new());
        let held = state.clone();
        let service = tower::service_fn(move |request: Request| {
            let state = held.clone();
            let answer: BoxFuture<'static, Result<Response, Infallible>> =
                Box::pin(async move { Ok(state.answer(request).await) });
            answer
        });
        let config = Some(Arc::new(config).into());
        tokio::spawn(eyot_http::serve(listener, config, service, stop.clone()));
        Extension {
            address,
            authority: authority.pem,
            state,
            _stop: stop.drop_guard(),
        }
    }
}

impl State {
    async fn answer(&self, request: Request) -> Response {
        if self.is_broken.load(Ordering::SeqCst) {
            return eyot_http::text(StatusCode::INTERNAL_SERVER_ERROR, "broken");
        }
        assert!(
            request
                .extensions()
                .get::<Peer>()
                .unwrap()
                .certificate
                .is_some()
        );
        let (mut parts, body) = request.into_parts();
        let upgrade = Upgrade::take(&mut parts.extensions);
        let path = parts.uri.path().to_owned();
        let aggregated = parts
            .headers
            .get(header::ACCEPT)
            .is_some_and(|accept| accept.to_str().unwrap().contains("APIGroupDiscoveryList"));
        let document = match path.as_str() {
            "/apis" if aggregated && !self.is_old.load(Ordering::SeqCst) => Some(discovery()),
            "/apis" => Some(json!({"kind": "APIGroupList", "groups": []})),
            "/openapi/v3" if self.is_old.load(Ordering::SeqCst) => {
                return eyot_http::text(StatusCode::NOT_FOUND, "");
            }
            "/openapi/v3" => Some(json!({"paths": {"apis/wardle.example.com/v1alpha1": {
                "serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=ABC"}}})),
            "/openapi/v3/apis/wardle.example.com/v1alpha1" => {
                Some(json!({"openapi": "3.0.0", "info": {"title": "flunders"}}))
            }
            "/openapi/v2" => Some(json!({"swagger": "2.0", "paths": {
                "/apis/wardle.example.com/v1alpha1/flunders": {"get": {"responses": {}}},
                "/apis/other/v1/things": {},
            }, "definitions": {"com.example.Flunder": {"type": "object"}}})),
            "/apis/wardle.example.com/v1alpha1" => Some(json!({
                "kind": "APIResourceList", "apiVersion": "v1",
                "groupVersion": "wardle.example.com/v1alpha1",
                "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true,
                               "kind": "Flunder", "verbs": ["get", "list", "watch"]}],
            })),
            _ => None,
        };
        if let Some(document) = document {
            return eyot_http::json(StatusCode::OK, &document);
        }
        let body = body.collect().await.unwrap().to_bytes();
        let target = parts.uri.path_and_query().unwrap().to_string();
        self.seen.lock().unwrap().push((
            parts.method.to_string(),
            target.clone(),
            parts.headers,
            String::from_utf8(body.to_vec()).unwrap(),
        ));
        if let Some(upgrade) = upgrade.filter(|_| path.ends_with("/echo")) {
            tokio::spawn(async move {
                let mut connection = upgrade.connection().await.unwrap();
                let mut word = [0; 4];
                connection.read_exact(&mut word).await.unwrap();
                word.reverse();
                connection.write_all(&word).await.unwrap();
            });
            return eyot_http::upgrade::switching("websocket");
        }
        if target.contains("watch=true") {
            let events = futures::stream::iter((0..2).map(|n| {
                let event =
                    json!({"type": "ADDED", "object": {"metadata": {"name": n.to_string()}}});
                Ok::<_, Infallible>(format!("{event}\n").into())
            }));
            // It goes on for as long as the client listens.
            let forever = futures::stream::pending();
            let mut response = http::Response::new(eyot_http::from_stream(
                futures::StreamExt::chain(events, forever),
            ));
            let media = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            return response;
        }
        let flunder = json!({"kind": "Flunder", "apiVersion": "wardle.example.com/v1alpha1",
                             "metadata": {"name": "a"}});
        eyot_http::json(StatusCode::CREATED, &flunder)
    }
}

fn discovery() -> Value {
    let kind = json!({"group": GROUP, "version": "v1alpha1", "kind": "Flunder"});
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "items": [{"metadata": {"name": GROUP}, "versions": [{
            "version": "v1alpha1", "freshness": "Current",
            "resources": [{
                "resource": "flunders", "singularResource": "flunder", "scope": "Namespaced",
                "responseKind": kind, "verbs": ["get", "list", "watch"],
            }],
        }]}],
    })
}
