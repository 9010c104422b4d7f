//! A real HTTPS webhook, whose answers the test writes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine, prelude::BASE64_STANDARD};
use eyot_apiserver::{ApiServer, Dialer, Options, Stream, TcpDialer, Where};
use eyot_http::{Request, Response};
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{ok, server_with};

/// What a webhook answers: the `response`, made from the `request`. An answer without a uid gets
/// the right one.
type Answer = dyn Fn(Value) -> BoxFuture<'static, Value> + Send + Sync;

pub struct Webhook {
    pub address: SocketAddr,
    /// PEM of the authority that signed its certificate.
    pub authority: String,
    /// The requests that came, in order.
    pub seen: Arc<Mutex<Vec<Value>>>,
    _stop: DropGuard,
}

impl Webhook {
    /// For `localhost`, `127.0.0.1` and the Service `hook` of the namespace `default`.
    pub async fn start(answer: impl Fn(Value) -> Value + Send + Sync + 'static) -> Webhook {
        Webhook::start_async(move |request| {
            let response = answer(request);
            Box::pin(async move { response })
        })
        .await
    }

    pub async fn start_async(
        answer: impl Fn(Value) -> BoxFuture<'static, Value> + Send + Sync + 'static,
    ) -> Webhook {
        let (authority, config) = certified();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, stop) = (Arc::default(), CancellationToken::new());
        let service = service(Arc::new(answer), Arc::clone(&seen));
        tokio::spawn(eyot_http::serve(
            listener,
            Some(config.into()),
            service,
            stop.clone(),
        ));
        Webhook {
            address,
            authority,
            seen,
            _stop: stop.drop_guard(),
        }
    }

    /// How a configuration names this webhook.
    pub fn target(&self) -> Value {
        json!({
            "url": format!("https://{}/review", self.address),
            "caBundle": BASE64_STANDARD.encode(&self.authority),
        })
    }

    /// `NAME operation resource/subresource object` of what came.
    pub fn calls(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        seen.iter()
            .map(|request| {
                let below = match &request["subResource"] {
                    Value::String(below) => format!("/{below}"),
                    _ => String::new(),
                };
                format!(
                    "{} {}{below} {}",
                    text(&request["operation"]),
                    text(&request["resource"]["resource"]),
                    text(&request["name"])
                )
            })
            .collect()
    }
}

/// TLS for `localhost`, `127.0.0.1` and the Service `hook` of the namespace `default`, and the
/// authority behind it in PEM.
pub fn certified() -> (String, Arc<rustls::ServerConfig>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::from_params(&params, &key);
    let leaf_key = KeyPair::generate().unwrap();
    let names = ["localhost", "127.0.0.1", "hook.default.svc"].map(str::to_owned);
    let leaf = CertificateParams::new(names).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(leaf.pem().as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(leaf_key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    (authority.pem(), Arc::new(config))
}

fn service(
    answer: Arc<Answer>,
    seen: Arc<Mutex<Vec<Value>>>,
) -> impl tower::Service<
    Request,
    Response = Response,
    Error = Infallible,
    Future = BoxFuture<'static, Result<Response, Infallible>>,
> + Clone
+ Send
+ Sync
+ 'static {
    tower::service_fn(move |request: Request| {
        let (answer, seen) = (answer.clone(), seen.clone());
        let future: BoxFuture<'static, _> = Box::pin(async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let review: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(review["kind"], "AdmissionReview");
            seen.lock().unwrap().push(review["request"].clone());
            let mut response = answer(review["request"].clone()).await;
            if let Some(code) = response.get("httpStatus").and_then(Value::as_u64) {
                let code = http::StatusCode::from_u16(code as u16).unwrap();
                return Ok(eyot_http::text(code, "broken"));
            }
            if response.get("uid").is_none() {
                response["uid"] = review["request"]["uid"].clone();
            }
            let answer = json!({
                "kind": "AdmissionReview", "apiVersion": review["apiVersion"],
                "response": response,
            });
            Ok(eyot_http::json(http::StatusCode::OK, &answer))
        });
        future
    })
}

pub fn allow() -> Value {
    json!({"allowed": true})
}

pub fn deny(message: &str) -> Value {
    json!({"allowed": false, "status": {"message": message, "code": 403}})
}

pub fn patch(operations: Value) -> Value {
    json!({
        "allowed": true, "patchType": "JSONPatch",
        "patch": BASE64_STANDARD.encode(operations.to_string()),
    })
}

/// A rule about these resources of the core group.
pub fn rule(operations: &[&str], resources: &[&str]) -> Value {
    json!({
        "operations": operations, "apiGroups": ["*"], "apiVersions": ["*"],
        "resources": resources,
    })
}

/// One webhook of a configuration, with what `more` adds or replaces.
pub fn hook(name: &str, webhook: &Webhook, rules: Value, more: Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.test.eyot.dev"), "clientConfig": webhook.target(),
        "rules": rules, "sideEffects": "None", "admissionReviewVersions": ["v1"],
    });
    if let Value::Object(more) = more {
        hook.as_object_mut().unwrap().extend(more);
    }
    hook
}

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

pub async fn validate(server: &ApiServer, name: &str, hooks: Value) {
    configure(server, "Validating", name, hooks).await;
}

pub async fn mutate(server: &ApiServer, name: &str, hooks: Value) {
    configure(server, "Mutating", name, hooks).await;
}

async fn configure(server: &ApiServer, kind: &str, name: &str, hooks: Value) {
    let body = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": format!("{kind}WebhookConfiguration"),
        "metadata": {"name": name}, "webhooks": hooks,
    });
    let path = format!("{GROUP}/{}webhookconfigurations", kind.to_lowercase());
    ok(server, "POST", &path, body).await;
}

/// Counts connections, and stands in for the network of pods: whatever a Service's address, what
/// answers is on the loopback.
#[derive(Default)]
pub struct Counting {
    pub dials: AtomicUsize,
    pub services: Mutex<Vec<String>>,
}

impl Dialer for Counting {
    fn dial(&self, to: Where) -> BoxFuture<'static, std::io::Result<Box<dyn Stream>>> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        let to = match to {
            Where::Service {
                namespace,
                name,
                addresses,
            } => {
                let said = format!("{namespace}/{name} {}", addresses[0]);
                self.services.lock().unwrap().push(said);
                Where::Host("127.0.0.1".to_owned(), addresses[0].port())
            }
            to @ Where::Host(..) => to,
        };
        TcpDialer.dial(to)
    }
}

pub async fn counting() -> (ApiServer, Arc<Counting>) {
    let counting = Arc::<Counting>::default();
    let options = Options {
        dialer: counting.clone(),
        ..Options::default()
    };
    (server_with(options).await, counting)
}
