//! Pulls between two registries over a real socket, with a gate before the other one that asks for
//! credentials and breaks connections.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use eyot_http::{Body, Request, Response};
use eyot_runtime::{Credential, ImageContent, ImageError, ImageStore};
use futures::{FutureExt, future::BoxFuture};
use http::{StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Registries;
use crate::{
    Registry, RegistryService,
    manifest::{OCI_INDEX, OCI_MANIFEST},
    name::Digest,
    tests::{Fixture, descriptor},
};

/// What the gate does.
#[derive(Default)]
struct Rules {
    /// Of these, Basic.
    user: Option<(&'static str, &'static str)>,
    /// By tokens, which the same user gets at `/token`, and everybody if there is none.
    tokens: bool,
    /// Connections that bring blobs end after that many bytes, that many times.
    cut: Option<(usize, u32)>,
    /// Every blob has its first byte changed.
    corrupt: bool,
    /// Blobs are redirected to `/elsewhere`, where credentials are an error.
    redirect: bool,
    seen: Vec<(String, Option<String>)>,
}

#[derive(Clone)]
struct Gate {
    inner: RegistryService,
    rules: Arc<Mutex<Rules>>,
    address: String,
}

impl tower::Service<Request> for Gate {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let gate = self.clone();
        async move { Ok(gate.answer(request).await) }.boxed()
    }
}

fn bare(status: u16) -> http::response::Builder {
    http::Response::builder().status(status)
}

impl Gate {
    async fn answer(mut self, mut request: Request) -> Response {
        let path = request.uri().path().to_owned();
        let (shown, range) = {
            let said = |name: header::HeaderName| {
                let value = request.headers().get(name)?;
                Some(value.to_str().unwrap().to_owned())
            };
            (said(header::AUTHORIZATION), said(header::RANGE))
        };
        let is_blob = path.contains("/blobs/");
        {
            let mut rules = self.rules.lock().unwrap();
            rules
                .seen
                .push((format!("{} {path}", request.method()), range));
            let basic = rules.user.map(|(user, password)| {
                format!(
                    "Basic {}",
                    BASE64_STANDARD.encode(format!("{user}:{password}"))
                )
            });
            if path == "/token" {
                assert!(request.uri().query().unwrap().contains("service=gate"));
                return match basic.is_none() || basic == shown {
                    true => eyot_http::json(StatusCode::OK, &json!({ "token": "good" })),
                    false => bare(401).body(eyot_http::empty()).unwrap(),
                };
            }
            if let Some(rest) = path.strip_prefix("/elsewhere") {
                assert_eq!(shown, None, "credentials leaked");
                *request.uri_mut() = rest.parse().unwrap();
            } else {
                let (expected, challenge) = match rules.tokens {
                    true => (
                        Some("Bearer good".to_owned()),
                        format!(
                            "Bearer realm=\"http://{}/token\",service=\"gate\"",
                            self.address
                        ),
                    ),
                    false => (basic, "Basic realm=\"gate\"".to_owned()),
                };
                if expected.is_some() && expected != shown {
                    let denied = bare(401).header(header::WWW_AUTHENTICATE, challenge);
                    return denied.body(eyot_http::empty()).unwrap();
                }
                if rules.redirect && is_blob {
                    let other = self.address.replace("127.0.0.1", "localhost");
                    let to = format!("http://{other}/elsewhere{path}");
                    let away = bare(307).header(header::LOCATION, to);
                    return away.body(eyot_http::empty()).unwrap();
                }
            }
        }
        let response = tower::Service::call(&mut self.inner, request)
            .await
            .unwrap();
        if !is_blob {
            return response;
        }
        let (parts, body) = response.into_parts();
        let mut bytes = body.collect().await.unwrap().to_bytes().to_vec();
        let mut rules = self.rules.lock().unwrap();
        if rules.corrupt {
            bytes[0] ^= 1;
        }
        let body: Body = match &mut rules.cut {
            Some((at, times)) if *times > 0 && bytes.len() > *at => {
                *times -= 1;
                let first = Bytes::from(bytes[..*at].to_vec());
                let broken = Err(std::io::Error::other("cut"));
                eyot_http::from_stream(futures::stream::iter([Ok(first), broken]))
            }
            _ => eyot_http::full(bytes),
        };
        Response::from_parts(parts, body)
    }
}

/// Another registry behind a gate.
struct Other {
    f: Fixture,
    address: String,
    rules: Arc<Mutex<Rules>>,
    _stop: DropGuard,
}

impl Other {
    async fn new(rules: Rules) -> Self {
        let f = Fixture::new();
        let listener = eyot_http::bind("other", ([127, 0, 0, 1], 0).into())
            .await
            .unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let rules = Arc::new(Mutex::new(rules));
        let gate = Gate {
            inner: f.registry.service(),
            rules: rules.clone(),
            address: address.clone(),
        };
        let stop = CancellationToken::new();
        tokio::spawn(eyot_http::serve(listener, None, gate, stop.clone()));
        Self {
            f,
            address,
            rules,
            _stop: stop.drop_guard(),
        }
    }

    /// Push an image of one layer with this content.
    async fn push(&self, name: &str, tag: &str, layer: &[u8]) -> (Value, Digest) {
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer).to_string()] },
        })
        .to_string();
        let layer_digest = self.f.blob(name, layer.to_vec()).await;
        let config_digest = self.f.blob(name, config.clone()).await;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config.len()),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer_digest, layer.len())],
        });
        self.f.manifest(name, tag, &manifest).await.is(201);
        let digest = Digest::of(manifest.to_string().as_bytes());
        (manifest, digest)
    }

    fn reference(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    fn seen(&self, words: &str) -> Vec<(String, Option<String>)> {
        let rules = self.rules.lock().unwrap();
        let of = rules.seen.iter().filter(|(line, _)| line.contains(words));
        of.cloned().collect()
    }

    fn credential(&self, user: &str, password: &str) -> [Credential; 1] {
        [Credential {
            scope: self.address.clone(),
            user: user.to_owned(),
            password: password.to_owned(),
            identity_token: None,
        }]
    }
}

#[track_caller]
fn layer_of(image: &eyot_runtime::Image) -> Vec<u8> {
    let ImageContent::Oci { layers, .. } = &*image.content else {
        panic!("{image:?}")
    };
    std::fs::read(&layers[0].path).unwrap()
}

fn again(f: &Fixture) -> Registry {
    crate::tests::open(f.dir.path())
}

#[tokio::test]
async fn an_image_of_another_registry_is_fetched_once_and_then_here() {
    let other = Other::new(Rules::default()).await;
    let f = Fixture::new();
    let (_, digest) = other.push("deep/er/x", "v1", b"layer one").await;
    let reference = other.reference("deep/er/x:v1");
    let error = f.registry.find(&reference, &[]).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound { .. }), "{error}");

    let pulls = (0..8).map(|_| f.registry.pull(&reference, &[]));
    for pulled in futures::future::join_all(pulls).await {
        let pulled = pulled.unwrap();
        assert_eq!(pulled.image.digest, digest.to_string());
        assert!(pulled.size > 9, "{pulled:?}");
        assert_eq!(layer_of(&pulled.image), b"layer one");
    }
    assert_eq!(other.seen("GET /v2/deep/er/x/blobs/").len(), 2);
    assert_eq!(other.seen("GET /v2/deep/er/x/manifests/").len(), 1);
    // It is not a repository of this registry, and it is still here after a restart.
    f.get("/v2/deep/er/x/tags/list").await.is(404);
    let image = again(&f).find(&reference, &[]).await.unwrap();
    assert_eq!(layer_of(&image), b"layer one");
    // Asking again costs a question.
    f.registry.pull(&reference, &[]).await.unwrap();
    assert_eq!(other.seen("GET /v2/deep/er/x/manifests/").len(), 1);
    // By its digest, too.
    let by_digest = other.reference(&format!("deep/er/x@{digest}"));
    f.registry.pull(&by_digest, &[]).await.unwrap();
    assert_eq!(other.seen("GET /v2/deep/er/x/blobs/").len(), 2);

    let missing = other.reference("deep/er/x:v2");
    let error = f.registry.pull(&missing, &[]).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&missing) && text.ends_with("not found"),
        "{text}"
    );
}

#[tokio::test]
async fn a_tag_that_moved_is_seen_by_a_pull_and_what_nobody_needs_goes() {
    let other = Other::new(Rules::default()).await;
    let f = Fixture::new();
    let kept = f.blob("mine", "pushed").await;
    let (_, first) = other.push("x", "v1", b"first").await;
    let reference = other.reference("x:v1");
    f.registry.pull(&reference, &[]).await.unwrap();
    let (_, second) = other.push("x", "v1", b"second, longer").await;
    let before = f.registry.find(&reference, &[]).await.unwrap();
    assert_eq!(before.digest, first.to_string());
    let pulled = f.registry.pull(&reference, &[]).await.unwrap();
    assert_eq!(pulled.image.digest, second.to_string());

    let list = f.registry.list().await.unwrap();
    let names: Vec<&str> = list
        .iter()
        .flat_map(|i| &i.names)
        .map(String::as_str)
        .collect();
    let (old, new) = (format!("x@{first}"), format!("x@{second}"));
    assert!(list.iter().all(|image| image.fetched), "{list:?}");
    assert_eq!(
        names,
        [
            other.reference(&new),
            reference.clone(),
            other.reference(&old)
        ]
    );
    assert!(f.registry.forget(&first.to_string()).await.unwrap() > 0);
    assert_eq!(f.registry.forget(&first.to_string()).await.unwrap(), 0);
    assert_eq!(
        layer_of(&f.registry.resolve(&reference).await.unwrap()),
        b"second, longer"
    );
    f.registry.forget(&second.to_string()).await.unwrap();
    assert!(f.registry.resolve(&reference).await.is_err());
    // What was pushed without a manifest yet is not touched.
    f.get(&format!("/v2/mine/blobs/{kept}")).await.is(200);
    let blobs = std::fs::read_dir(f.dir.path().join("blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 1);
}

#[tokio::test]
async fn what_was_had_for_a_secret_is_given_to_those_who_have_it() {
    for tokens in [false, true] {
        let other = Other::new(Rules {
            user: Some(("me", "secret")),
            tokens,
            redirect: true,
            ..Rules::default()
        })
        .await;
        let f = Fixture::new();
        other.push("x", "v1", b"layer").await;
        let reference = other.reference("x:v1");
        for (credentials, words) in [
            (vec![], "access denied"),
            (other.credential("me", "wrong").to_vec(), "access denied"),
        ] {
            let error = f.registry.pull(&reference, &credentials).await.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert!(!error.to_string().contains("wrong"), "{error}");
        }
        let mine = other.credential("me", "secret");
        // Of several, the one that opens counts.
        let several = [other.credential("you", "x"), mine.clone()].concat();
        let pulled = f.registry.pull(&reference, &several).await.unwrap();
        assert_eq!(layer_of(&pulled.image), b"layer");
        for registry in [&f.registry, &again(&f)] {
            assert!(registry.find(&reference, &mine).await.is_ok());
            assert!(registry.find(&reference, &[]).await.is_err());
            assert!(
                registry
                    .find(&reference, &other.credential("me", "x"))
                    .await
                    .is_err()
            );
            // The host itself may.
            assert!(registry.resolve(&reference).await.is_ok());
        }
        let ledger = std::fs::read_dir(f.dir.path().join("images")).unwrap();
        for entry in ledger {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            assert!(!text.contains("secret"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_token_is_had_without_a_name_too() {
    let other = Other::new(Rules {
        tokens: true,
        ..Rules::default()
    })
    .await;
    let f = Fixture::new();
    other.push("x", "v1", b"layer").await;
    let reference = other.reference("x:v1");
    f.registry.pull(&reference, &[]).await.unwrap();
    assert!(f.registry.find(&reference, &[]).await.is_ok());
}

#[tokio::test]
async fn a_blob_that_breaks_off_goes_on_where_it_was() {
    let half = 1 << 20;
    let other = Other::new(Rules {
        cut: Some((half, 2)),
        ..Rules::default()
    })
    .await;
    let f = Fixture::new();
    let layer: Vec<u8> = (0..3 * half).map(|i| (i % 251) as u8).collect();
    other.push("x", "v1", &layer).await;
    let pulled = f
        .registry
        .pull(&other.reference("x:v1"), &[])
        .await
        .unwrap();
    assert_eq!(layer_of(&pulled.image), layer);
    let path = format!("/blobs/{}", Digest::of(&layer));
    let ranges: Vec<Option<String>> = other.seen(&path).into_iter().map(|(_, r)| r).collect();
    let from = |at: usize| Some(format!("bytes={at}-"));
    assert_eq!(ranges, [None, from(half), from(2 * half)]);
}

#[tokio::test]
async fn content_that_is_not_what_was_asked_for_leaves_nothing() {
    let other = Other::new(Rules {
        corrupt: true,
        ..Rules::default()
    })
    .await;
    let f = Fixture::new();
    other.push("x", "v1", b"layer").await;
    let error = f
        .registry
        .pull(&other.reference("x:v1"), &[])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("has the digest"), "{error}");
    assert_eq!(f.registry.list().await.unwrap(), []);
    assert!(f.registry.sweep().unwrap() > 0);
    for dir in ["uploads", "blobs/sha256", "images"] {
        let left = std::fs::read_dir(f.dir.path().join(dir)).unwrap().count();
        assert_eq!(left, 0, "{dir}");
    }
}

#[tokio::test]
async fn a_server_that_always_breaks_off_is_given_up() {
    let other = Other::new(Rules {
        cut: Some((10, u32::MAX)),
        ..Rules::default()
    })
    .await;
    let f = Fixture::new();
    other.push("x", "v1", &[7; 4096]).await;
    let error = f
        .registry
        .pull(&other.reference("x:v1"), &[])
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Fetch { .. }), "{error}");
    let asked = other.seen("/blobs/").len();
    assert!(asked < 20, "{asked}");
    let left = std::fs::read_dir(f.dir.path().join("uploads")).unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn mirrors_are_asked_first_and_may_fail() {
    let (origin, mirror) = (
        Other::new(Rules::default()).await,
        Other::new(Rules::default()).await,
    );
    origin.push("x", "v1", b"origin").await;
    origin.push("y", "v1", b"only there").await;
    mirror.push("hub/x", "v1", b"mirror").await;
    let settings = format!(
        "search = ['{0}']\n[registry.'{0}']\nmirrors = ['http://127.0.0.1:1', 'http://{1}/hub']",
        origin.address, mirror.address
    );
    let dir = tempfile::tempdir().unwrap();
    let settings: Registries = toml::from_str(&settings).unwrap();
    let registry = Registry::open(dir.path(), ([127, 0, 0, 1], 5000).into(), settings).unwrap();
    for (reference, expected) in [
        (origin.reference("x:v1"), &b"mirror"[..]),
        (origin.reference("y:v1"), b"only there"),
        // A name without a host is looked for in what is set.
        ("y:v1".to_owned(), b"only there"),
    ] {
        let pulled = registry.pull(&reference, &[]).await.unwrap();
        assert_eq!(layer_of(&pulled.image), expected, "{reference}");
        assert!(registry.find(&reference, &[]).await.is_ok());
    }
    let error = registry.pull("none:v1", &[]).await.unwrap_err().to_string();
    assert!(error.contains("eyot push none:v1 FILE"), "{error}");
    assert!(error.contains(&origin.reference("none:v1")), "{error}");
}

#[tokio::test]
async fn of_an_index_only_what_runs_here_is_fetched_and_foreign_layers_are_refused() {
    let other = Other::new(Rules::default()).await;
    let f = Fixture::new();
    let (_, here) = other.push("x", "here", b"for this machine").await;
    let (_, there) = other.push("x", "there", b"for another").await;
    let entry = |digest: &Digest, os: &str, architecture: &str| {
        let mut entry = descriptor(OCI_MANIFEST, digest, 1);
        entry["platform"] = json!({ "os": os, "architecture": architecture });
        entry
    };
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [entry(&there, "plan9", "mips"), entry(&here, "linux", own)],
    });
    other.f.manifest("x", "all", &index).await.is(201);
    let pulled = f
        .registry
        .pull(&other.reference("x:all"), &[])
        .await
        .unwrap();
    assert_eq!(pulled.image.digest, here.to_string());
    assert_eq!(layer_of(&pulled.image), b"for this machine");
    let theirs = format!("/blobs/{}", Digest::of(b"for another"));
    assert_eq!(other.seen(&theirs), []);
    let list = f.registry.list().await.unwrap();
    assert_eq!(list[0].runs, here.to_string());
    assert_eq!(
        list[0].digest,
        Digest::of(index.to_string().as_bytes()).to_string()
    );

    let config = other.f.blob("x", "{}").await;
    let mut foreign = descriptor(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        &Digest::of(b"far away"),
        8,
    );
    foreign["urls"] = json!(["https://example.invalid/layer"]);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config, 2),
        "layers": [foreign],
    });
    other.f.manifest("x", "foreign", &manifest).await.is(201);
    let error = f
        .registry
        .pull(&other.reference("x:foreign"), &[])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("foreign layer"), "{error}");
}

#[tokio::test]
async fn an_image_that_is_pushed_here_under_anothers_name_wins() {
    let f = Fixture::new();
    let (_, digest) = f.image("registry.invalid/a/b", "v1").await;
    let error = f.registry.pull("registry.invalid/a/b:v1", &[]).await;
    // The fixture's configuration is no container's: found here, and nobody else was asked.
    let error = error.unwrap_err();
    assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
    let list = f.registry.list().await.unwrap();
    assert_eq!(
        (list[0].digest.clone(), list[0].fetched),
        (digest.to_string(), false)
    );
}
