//! The four workflows of the distribution specification's conformance suite, step by step over a
//! socket, with every optional feature on: what that suite would ask, this asks. Where the suite
//! accepts several answers, the one that this registry is to give is asked for.

mod data;

use bytes::Bytes;
use http::{Method, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio_util::sync::DropGuard;

use super::{Answer, Fixture, descriptor, serve};
use crate::{
    manifest::{OCI_INDEX, OCI_MANIFEST},
    name::{Algorithm, Digest},
};

const NAME: &str = "conformance/myorg/myrepo";
const OTHER: &str = "conformance/myorg/other";
const EMPTY_JSON: &str = "application/vnd.oci.empty.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The codes of the specification, in its order.
const CODES: [&str; 14] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];

struct Suite {
    client: Client<HttpConnector, eyot_http::Body>,
    base: String,
    _f: Fixture,
    _stop: DropGuard,
}

impl Suite {
    async fn new() -> Self {
        let f = Fixture::new();
        let (address, stop) = serve(&f.registry).await;
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            base: format!("http://{address}"),
            _f: f,
            _stop: stop,
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        // A location may be a path or a whole URL.
        let uri = match path.starts_with('/') {
            true => format!("{}{path}", self.base),
            false => path.to_owned(),
        };
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(eyot_http::full(body)).unwrap();
        let (parts, body) = self.client.request(request).await.unwrap().into_parts();
        let body = eyot_http::collect(body, 8 << 20).await.unwrap();
        let answer = Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        };
        if answer.status.is_client_error() && !answer.body.is_empty() {
            let error = &answer.json()["errors"][0];
            let code = error["code"].as_str().unwrap().to_owned();
            assert!(CODES.contains(&code.as_str()), "{answer:?}");
            assert!(error["message"].is_string(), "{answer:?}");
        }
        answer
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    async fn head(&self, path: &str) -> Answer {
        self.send(Method::HEAD, path, &[], "").await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// Open a session; where it is.
    async fn session(&self, name: &str) -> String {
        let path = format!("/v2/{name}/blobs/uploads/");
        let answer = self
            .send(Method::POST, &path, &[("content-length", "0")], "")
            .await;
        located(answer.is(202))
    }

    async fn close(&self, location: &str, digest: &Digest, body: impl Into<Bytes>) -> Answer {
        let joint = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{joint}digest={digest}");
        let headers = [("content-type", "application/octet-stream")];
        self.send(Method::PUT, &path, &headers, body).await
    }

    async fn blob(&self, content: &str) -> Digest {
        let digest = Digest::of(content.as_bytes());
        let session = self.session(NAME).await;
        located(
            self.close(&session, &digest, content.to_owned())
                .await
                .is(201),
        );
        digest
    }

    async fn manifest(&self, reference: &str, media_type: &str, content: &Value) -> Answer {
        let path = format!("/v2/{NAME}/manifests/{reference}");
        let headers = [("content-type", media_type)];
        self.send(Method::PUT, &path, &headers, content.to_string())
            .await
    }

    async fn patch(&self, location: &str, range: &str, body: &str) -> Answer {
        let headers = [
            ("content-type", "application/octet-stream"),
            ("content-range", range),
        ];
        self.send(Method::PATCH, location, &headers, body.to_owned())
            .await
    }
}

#[track_caller]
fn located(answer: Answer) -> String {
    let location = answer.header("location").to_owned();
    assert!(!location.is_empty(), "{answer:?}");
    location
}

fn digest_of(manifest: &Value) -> Digest {
    Digest::of(manifest.to_string().as_bytes())
}

/// An image of one layer; `number` makes it another one than the next.
async fn image(suite: &Suite, number: u32) -> (Value, Digest, Digest) {
    let config = json!({ "architecture": "amd64", "os": "linux", "number": number }).to_string();
    let layer = format!("layer {number}");
    let (c, l) = (suite.blob(&config).await, suite.blob(&layer).await);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(CONFIG, &c, config.len()),
        "layers": [descriptor(LAYER, &l, layer.len())],
    });
    (manifest, c, l)
}

#[tokio::test]
async fn pull() {
    let suite = Suite::new().await;
    let (manifest, config, layer) = image(&suite, 0).await;
    suite
        .manifest("tagtest0", OCI_MANIFEST, &manifest)
        .await
        .is(201);
    let digest = digest_of(&manifest);
    let unknown = Digest::of(b"nobody pushed this");

    // Blobs.
    let blob = |digest: &Digest| format!("/v2/{NAME}/blobs/{digest}");
    suite.head(&blob(&unknown)).await.is(404);
    let head = suite.head(&blob(&config)).await.is(200);
    assert_eq!(head.header("docker-content-digest"), config.to_string());
    suite
        .get(&blob(&unknown))
        .await
        .refused(404, "BLOB_UNKNOWN");
    suite.get(&blob(&config)).await.is(200);

    // Manifests.
    let path = |reference: &str| format!("/v2/{NAME}/manifests/{reference}");
    suite.head(&path(".INVALID_MANIFEST_NAME")).await.is(404);
    suite.head(&path("nope")).await.is(404);
    suite
        .get(&path(".INVALID_MANIFEST_NAME"))
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    for reference in [digest.to_string(), "tagtest0".to_owned()] {
        for method in [Method::HEAD, Method::GET] {
            let accept = [("accept", OCI_MANIFEST)];
            let answer = suite
                .send(method, &path(&reference), &accept, "")
                .await
                .is(200);
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            assert_eq!(answer.header("content-type"), OCI_MANIFEST);
            let length = manifest.to_string().len().to_string();
            assert_eq!(answer.header("content-length"), length);
        }
    }

    // Error codes.
    let (at, headers) = (
        path("sha256:totallywrong"),
        [("content-type", OCI_MANIFEST)],
    );
    let wrong = suite.send(Method::PUT, &at, &headers, "blablabla").await;
    wrong.refused(400, "DIGEST_INVALID");

    // Teardown.
    suite.delete(&path(&digest.to_string())).await.is(202);
    suite.delete(&blob(&config)).await.is(202);
    suite.delete(&blob(&layer)).await.is(202);
}

#[tokio::test]
async fn push() {
    let suite = Suite::new().await;
    let blob = |digest: &Digest| format!("/v2/{NAME}/blobs/{digest}");

    // Streamed.
    let content = "NBA Jam on my NBA toast";
    let digest = Digest::of(content.as_bytes());
    let session = suite.session(NAME).await;
    let stream = [("content-type", "application/octet-stream")];
    let answer = suite
        .send(Method::PATCH, &session, &stream, content)
        .await
        .is(202);
    let answer = suite.close(&located(answer), &digest, "").await.is(201);
    assert_eq!(located(answer), blob(&digest));

    // Monolithic, in one request and in two.
    let config = r#"{"architecture":"amd64"}"#;
    let of_config = Digest::of(config.as_bytes());
    suite
        .get(&blob(&Digest::of(b"x")))
        .await
        .refused(404, "BLOB_UNKNOWN");
    let post = format!("/v2/{NAME}/blobs/uploads/?digest={of_config}");
    located(
        suite
            .send(Method::POST, &post, &stream, config)
            .await
            .is(201),
    );
    suite.get(&blob(&of_config)).await.is(200);
    let session = suite.session(NAME).await;
    located(suite.close(&session, &of_config, config).await.is(201));
    suite.get(&blob(&of_config)).await.is(200);

    // By the other digest that is registered, too.
    let long = Digest::of_with(Algorithm::Sha512, config.as_bytes());
    let session = suite.session(NAME).await;
    let answer = suite.close(&session, &long, config).await.is(201);
    assert_eq!(answer.header("docker-content-digest"), long.to_string());
    assert_eq!(suite.get(&blob(&long)).await.is(200).body, config);

    // In chunks.
    let (first, second) = ("Hello, ", "how are you today?");
    let whole = format!("{first}{second}");
    let digest_b = Digest::of(whole.as_bytes());
    let (range_1, range_2) = ("0-6".to_owned(), format!("7-{}", whole.len() - 1));
    let session = suite.session(NAME).await;
    let early = suite.patch(&session, &range_2, second).await;
    early.refused(416, "BLOB_UPLOAD_INVALID");
    let session = suite.session(NAME).await;
    let answer = suite.patch(&session, &range_1, first).await.is(202);
    assert_eq!(answer.header("range"), range_1);
    suite.patch(&session, &range_1, first).await.is(416);
    let stale = suite.get(&session).await.is(204);
    assert_eq!(stale.header("range"), range_1);
    let answer = suite.patch(&located(stale), &range_2, second).await.is(202);
    assert_eq!(answer.header("range"), format!("0-{}", whole.len() - 1));
    located(suite.close(&located(answer), &digest_b, "").await.is(201));
    assert_eq!(suite.get(&blob(&digest_b)).await.is(200).body, whole);
    // The last chunk may come with the end.
    let session = suite.session(NAME).await;
    let answer = suite.patch(&session, &range_1, first).await.is(202);
    let path = format!("{}?digest={digest_b}", located(answer));
    let last = [("content-range", range_2.as_str())];
    suite.send(Method::PUT, &path, &last, second).await.is(201);

    // Mounted from another repository. Without being told from where, none is searched for: that
    // would tell who has what.
    let mount = |rest: String| format!("/v2/{OTHER}/blobs/uploads/?mount={rest}");
    let post = async |rest: String| suite.send(Method::POST, &mount(rest), &[], "").await;
    located(post(Digest::of(b"nobody").to_string()).await.is(202));
    let answer = post(format!("{digest}&from={NAME}")).await.is(201);
    let location = located(answer);
    assert_eq!(location, format!("/v2/{OTHER}/blobs/{digest}"));
    suite.get(&location).await.is(200);
    let answer = post(format!("{}&from={NAME}", Digest::of(b"nobody")))
        .await
        .is(202);
    assert!(located(answer).starts_with(&format!("/v2/{OTHER}/blobs/uploads/")));
    post(digest.to_string()).await.is(202);

    // Manifests.
    let path = |reference: &str| format!("/v2/{NAME}/manifests/{reference}");
    suite.get(&path(".INVALID_MANIFEST_NAME")).await.is(404);
    let (manifest, ..) = image(&suite, 1).await;
    for number in 0..4 {
        let answer = suite
            .manifest(&format!("test{number}"), OCI_MANIFEST, &manifest)
            .await;
        assert_eq!(
            located(answer.is(201)),
            path(&digest_of(&manifest).to_string())
        );
    }
    let mut empty = manifest.clone();
    empty["layers"] = json!([]);
    located(
        suite
            .manifest("emptylayer", OCI_MANIFEST, &empty)
            .await
            .is(201),
    );
    suite
        .get(&path(&digest_of(&manifest).to_string()))
        .await
        .is(200);
    let by_long = Digest::of_with(Algorithm::Sha512, manifest.to_string().as_bytes());
    suite
        .manifest(&by_long.to_string(), OCI_MANIFEST, &manifest)
        .await
        .is(201);
    suite.get(&path(&by_long.to_string())).await.is(200);

    // Teardown.
    for gone in [digest_of(&manifest), digest_of(&empty), by_long] {
        suite.delete(&path(&gone.to_string())).await.is(202);
    }
    for gone in [digest, of_config, digest_b] {
        suite.delete(&blob(&gone)).await.is(202);
    }
}

#[tokio::test]
async fn content_discovery() {
    let suite = Suite::new().await;
    let (manifest, ..) = image(&suite, 2).await;
    for number in 0..4 {
        suite
            .manifest(&format!("test{number}"), OCI_MANIFEST, &manifest)
            .await
            .is(201);
    }

    // Tags, whole, limited and from a start.
    let list = async |query: &str| {
        let answer = suite
            .get(&format!("/v2/{NAME}/tags/list{query}"))
            .await
            .is(200);
        let body = answer.json();
        assert_eq!(body["name"], NAME);
        let tags = body["tags"].as_array().unwrap().clone();
        (tags, answer.header("link").to_owned())
    };
    let (all, _) = list("").await;
    assert_eq!(all, ["test0", "test1", "test2", "test3"]);
    let (half, link) = list("?n=2").await;
    assert_eq!(half, all[..2]);
    assert_eq!(
        link,
        format!("</v2/{NAME}/tags/list?n=2&last=test1>; rel=\"next\"")
    );
    let (rest, link) = list("?n=2&last=test1").await;
    assert_eq!((rest, link.as_str()), (all[2..].to_vec(), ""));
    let (beyond, _) = list("?last=test3").await;
    assert!(beyond.is_empty());

    // Referrers: pushed before and after their subject, and to one that never comes.
    let (subject, ..) = image(&suite, 4).await;
    let empty = suite.blob("{}").await;
    let absent = Digest::of(b"never pushed");
    let blob_a = suite.blob("NHL Peanut Butter on my NHL bagel").await;
    let (type_a, type_b) = (
        "application/vnd.nba.strawberry.jam.croissant",
        "application/vnd.nhl.peanut.butter.bagel",
    );
    let referrer = |config_type: &str, artifact_type: Option<&str>, to: &Digest, note: &str| {
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(config_type, &empty, 2),
            "subject": descriptor(OCI_MANIFEST, to, subject.to_string().len()),
            "layers": [descriptor("application/octet-stream", &blob_a, 33)],
            "annotations": { "org.opencontainers.conformance.test": note },
        });
        if let Some(artifact_type) = artifact_type {
            manifest["artifactType"] = json!(artifact_type);
        }
        manifest
    };
    let of = digest_of(&subject);
    let push = async |manifest: &Value, media_type: &str, to: &Digest| {
        let reference = digest_of(manifest).to_string();
        let answer = suite
            .manifest(&reference, media_type, manifest)
            .await
            .is(201);
        assert_eq!(answer.header("oci-subject"), to.to_string());
    };
    let config_a = referrer(type_a, None, &of, "a config");
    let layer_a = referrer(EMPTY_JSON, Some(type_a), &of, "a layer");
    let config_b = referrer(type_b, None, &of, "b config");
    let layer_b = referrer(EMPTY_JSON, Some(type_b), &of, "b layer");
    push(&config_a, OCI_MANIFEST, &of).await;
    push(&layer_a, OCI_MANIFEST, &of).await;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "artifactType": "application/vnd.food.stand",
        "manifests": [
            descriptor(OCI_MANIFEST, &digest_of(&config_a), config_a.to_string().len()),
            descriptor(OCI_MANIFEST, &digest_of(&layer_a), layer_a.to_string().len()),
        ],
        "subject": descriptor(OCI_MANIFEST, &of, subject.to_string().len()),
        "annotations": { "org.opencontainers.conformance.test": "index" },
    });
    push(&index, OCI_INDEX, &of).await;
    suite
        .manifest("tagtest0", OCI_MANIFEST, &subject)
        .await
        .is(201);
    push(&config_b, OCI_MANIFEST, &of).await;
    push(&layer_b, OCI_MANIFEST, &of).await;
    let to_absent = referrer(EMPTY_JSON, Some(type_a), &absent, "c");
    push(&to_absent, OCI_MANIFEST, &absent).await;

    let referrers = async |to: &Digest, query: &str| {
        let answer = suite
            .get(&format!("/v2/{NAME}/referrers/{to}{query}"))
            .await
            .is(200);
        assert_eq!(answer.header("content-type"), OCI_INDEX);
        let body = answer.json();
        assert_eq!(
            (&body["schemaVersion"], &body["mediaType"]),
            (&json!(2), &json!(OCI_INDEX))
        );
        let entries = body["manifests"].as_array().unwrap().clone();
        (entries, answer.header("oci-filters-applied").to_owned())
    };
    let (none, _) = referrers(&Digest::of(b"x"), "").await;
    assert!(none.is_empty());
    let (all, filters) = referrers(&of, "").await;
    assert_eq!((all.len(), filters.as_str()), (5, ""));
    for entry in &all {
        let digest = entry["digest"].as_str().unwrap();
        let pushed = [&config_a, &layer_a, &config_b, &layer_b, &index];
        let pushed = pushed
            .into_iter()
            .find(|m| digest_of(m).to_string() == digest)
            .unwrap();
        assert_eq!(entry["annotations"], pushed["annotations"]);
        assert_eq!(entry["size"], pushed.to_string().len());
        assert_eq!(entry["mediaType"], pushed["mediaType"]);
        let expected = match pushed["artifactType"].as_str() {
            Some(artifact_type) => artifact_type,
            None => pushed["config"]["mediaType"].as_str().unwrap(),
        };
        assert_eq!(entry["artifactType"], expected);
    }
    let (some, filters) = referrers(&of, &format!("?artifactType={type_a}")).await;
    assert_eq!((some.len(), filters.as_str()), (2, "artifactType"));
    let (one, _) = referrers(&absent, "").await;
    assert_eq!(one.len(), 1);
    assert_eq!(one[0]["digest"], digest_of(&to_absent).to_string());
}

#[tokio::test]
async fn content_management() {
    let suite = Suite::new().await;
    let (manifest, config, _) = image(&suite, 3).await;
    suite
        .manifest("tagtest0", OCI_MANIFEST, &manifest)
        .await
        .is(201);
    suite
        .manifest("kept", OCI_MANIFEST, &manifest)
        .await
        .is(201);
    let path = |reference: &str| format!("/v2/{NAME}/manifests/{reference}");
    let tags = async || {
        let answer = suite.get(&format!("/v2/{NAME}/tags/list")).await.is(200);
        answer.json()["tags"].as_array().unwrap().len()
    };
    assert_eq!(tags().await, 2);
    suite.delete(&path("tagtest0")).await.is(202);
    suite
        .get(&path("tagtest0"))
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(tags().await, 1);
    let digest = digest_of(&manifest).to_string();
    suite.get(&path(&digest)).await.is(200);
    suite.delete(&path(&digest)).await.is(202);
    suite
        .get(&path(&digest))
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    suite
        .delete(&path(&digest))
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(tags().await, 0);
    let blob = format!("/v2/{NAME}/blobs/{config}");
    suite.delete(&blob).await.is(202);
    suite.get(&blob).await.refused(404, "BLOB_UNKNOWN");
    suite.delete(&blob).await.refused(404, "BLOB_UNKNOWN");
    // An upload that was given up is gone, too.
    let session = suite.session(NAME).await;
    suite.delete(&session).await.is(204);
    suite
        .get(&session)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(suite.get("/v2/").await.status, StatusCode::OK);
    let answer = suite.send(Method::POST, &path("x"), &[], "").await;
    answer.refused(405, "UNSUPPORTED");
}
