//! The registry through its doors: the API as a conformance suite would use it, the image store as
//! a node does, and skopeo where it is installed.

mod conformance;
mod guard;
mod hostile;

use std::{path::Path, process::Command};

use bytes::Bytes;
use eyot_http::{Request, Response};
use eyot_runtime::{ImageContent, ImageError, ImageStore};
use http::{Method, StatusCode, header};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    Registry,
    manifest::{OCI_INDEX, OCI_MANIFEST, WASM_CONFIG, WASM_LAYER},
    name::{Algorithm, Digest},
    pull::Registries,
};

/// A registry in a directory of its own, called without a socket.
pub(crate) struct Fixture {
    pub(crate) registry: Registry,
    pub(crate) dir: tempfile::TempDir,
}

/// One answer, read in whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.is(status);
        assert_eq!(answer.json()["errors"][0]["code"], code, "{answer:?}");
        answer
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            registry: open(dir.path()),
            dir,
        }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::new(eyot_http::full(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let response: Response = self.registry.service().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = eyot_http::collect(body, 1 << 24).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        self.send(Method::POST, path, &[], "").await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], "").await
    }

    pub(crate) async fn patch(&self, path: &str, range: &str, body: &str) -> Answer {
        self.send(
            Method::PATCH,
            path,
            &[("content-range", range)],
            body.to_owned(),
        )
        .await
    }

    pub(crate) async fn blob(&self, name: &str, content: impl Into<Bytes>) -> Digest {
        let content = content.into();
        let digest = Digest::of(&content);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        self.send(Method::POST, &path, &[], content).await.is(201);
        digest
    }

    pub(crate) async fn manifest(&self, name: &str, reference: &str, content: &Value) -> Answer {
        let media = content["mediaType"]
            .as_str()
            .unwrap_or(OCI_MANIFEST)
            .to_owned();
        let path = format!("/v2/{name}/manifests/{reference}");
        self.send(
            Method::PUT,
            &path,
            &[("content-type", &media)],
            content.to_string(),
        )
        .await
    }

    /// An image of a configuration and one layer, tagged.
    pub(crate) async fn image(&self, name: &str, tag: &str) -> (Value, Digest) {
        let config = self.blob(name, "{}").await;
        let layer = self.blob(name, "layer").await;
        let manifest = image_manifest(&config, &layer);
        self.manifest(name, tag, &manifest).await.is(201);
        let digest = Digest::of(manifest.to_string().as_bytes());
        (manifest, digest)
    }
}

pub(crate) fn open(dir: &Path) -> Registry {
    let address = ([127, 0, 0, 1], 5000).into();
    Registry::open(dir, address, Registries::default()).unwrap()
}

pub(crate) fn descriptor(media: &str, digest: &Digest, size: usize) -> Value {
    json!({ "mediaType": media, "digest": digest.to_string(), "size": size })
}

fn image_manifest(config: &Digest, layer: &Digest) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config, 2),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer, 5)],
    })
}

#[tokio::test]
async fn a_blob_pushed_in_each_way_is_pulled_whole_and_in_ranges() {
    let f = Fixture::new();
    f.get("/v2/").await.is(200);
    let digest = Digest::of(b"Hello, how are you today?");
    let read = format!("/v2/a/b/c/blobs/{digest}");
    f.get(&read).await.refused(404, "BLOB_UNKNOWN");

    // POST, then PUT with everything.
    let started = f.post("/v2/a/b/c/blobs/uploads/").await.is(202);
    let put = format!("{}?digest={digest}", started.header("location"));
    let answer = f
        .send(Method::PUT, &put, &[], "Hello, how are you today?")
        .await
        .is(201);
    assert_eq!(answer.header("location"), read);
    let answer = f.get(&read).await.is(200);
    assert_eq!(answer.body, "Hello, how are you today?");
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    let head = f.send(Method::HEAD, &read, &[], "").await.is(200);
    assert_eq!((head.header("content-length"), head.body.len()), ("25", 0));

    // Chunks, one of them out of order; their state can be asked for.
    let started = f.post("/v2/chunked/blobs/uploads/").await.is(202);
    let at = started.header("location").to_owned();
    f.patch(&at, "3-24", "lo, how are you today?").await.is(416);
    let answer = f.patch(&at, "0-2", "Hel").await.is(202);
    assert_eq!(answer.header("range"), "0-2");
    f.patch(&at, "0-2", "Hel").await.is(416);
    f.patch(&at, "3-20", "too short")
        .await
        .refused(400, "SIZE_INVALID");
    assert_eq!(f.get(&at).await.is(204).header("range"), "0-2");
    f.patch(&at, "3-24", "lo, how are you today?").await.is(202);
    f.send(Method::PUT, &format!("{at}?digest={digest}"), &[], "")
        .await
        .is(201);
    assert_eq!(
        f.get(&format!("/v2/chunked/blobs/{digest}"))
            .await
            .is(200)
            .body
            .len(),
        25
    );
    f.get(&at).await.refused(404, "BLOB_UPLOAD_UNKNOWN");

    // Streamed without Content-Range; the last bytes with the PUT; SHA-512.
    let at = f
        .post("/v2/streamed/blobs/uploads/")
        .await
        .header("location")
        .to_owned();
    f.send(Method::PATCH, &at, &[], "Hello, ").await.is(202);
    let long = Digest::of_with(Algorithm::Sha512, b"Hello, world");
    f.send(Method::PUT, &format!("{at}?digest={long}"), &[], "world")
        .await
        .is(201);
    assert_eq!(
        f.get(&format!("/v2/streamed/blobs/{long}"))
            .await
            .is(200)
            .body,
        "Hello, world"
    );

    // Ranges.
    for (range, status, body, of) in [
        ("bytes=0-4", 206, "Hello", "bytes 0-4/25"),
        ("bytes=20-", 206, "oday?", "bytes 20-24/25"),
        ("bytes=-6", 206, "today?", "bytes 19-24/25"),
        ("bytes=20-99", 206, "oday?", "bytes 20-24/25"),
        ("bytes=0-0,5-6", 200, "Hello, how are you today?", ""),
        ("lines=1-2", 200, "Hello, how are you today?", ""),
    ] {
        let answer = f
            .send(Method::GET, &read, &[("range", range)], "")
            .await
            .is(status);
        assert_eq!(
            (&answer.body[..], answer.header("content-range")),
            (body.as_bytes(), of)
        );
    }
    let beyond = f
        .send(Method::GET, &read, &[("range", "bytes=25-")], "")
        .await
        .is(416);
    assert_eq!(beyond.header("content-range"), "bytes */25");
}

#[tokio::test]
async fn an_upload_that_does_not_match_its_digest_leaves_nothing() {
    let f = Fixture::new();
    let other = Digest::of(b"other");
    let path = format!("/v2/x/blobs/uploads/?digest={other}");
    f.send(Method::POST, &path, &[], "content")
        .await
        .refused(400, "DIGEST_INVALID");
    let at = f
        .post("/v2/x/blobs/uploads/")
        .await
        .header("location")
        .to_owned();
    let put = format!("{at}?digest={other}");
    f.send(Method::PUT, &put, &[], "content")
        .await
        .refused(400, "DIGEST_INVALID");
    f.send(Method::PUT, &put, &[], "other")
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    let at = f
        .post("/v2/x/blobs/uploads/")
        .await
        .header("location")
        .to_owned();
    f.send(Method::PUT, &at, &[], "content")
        .await
        .refused(400, "DIGEST_INVALID");
    f.send(Method::PUT, &format!("{at}?digest=md5:0"), &[], "")
        .await
        .refused(400, "DIGEST_INVALID");
    f.get(&at.replace("/x/", "/y/"))
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    f.delete(&at).await.is(204);
    f.get(&at).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(
        std::fs::read_dir(f.dir.path().join("uploads"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        std::fs::read_dir(f.dir.path().join("blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
    f.post("/v2/UPPER/blobs/uploads/")
        .await
        .refused(400, "NAME_INVALID");
    f.post("/v2/a/../b/blobs/uploads/")
        .await
        .refused(400, "NAME_INVALID");
    f.send(Method::PUT, "/v2/x/blobs/uploads/", &[], "")
        .await
        .refused(405, "UNSUPPORTED");
    f.get("/v2/nothing").await.refused(404, "UNSUPPORTED");
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository_and_deleted_from_one_only() {
    let f = Fixture::new();
    let digest = f.blob("from", "shared").await;
    let mount = |from: &str| format!("/v2/to/blobs/uploads/?mount={digest}&from={from}");
    f.post(&mount("nobody")).await.is(202);
    f.post(&format!("/v2/to/blobs/uploads/?mount={digest}"))
        .await
        .is(202);
    let answer = f.post(&mount("from")).await.is(201);
    assert_eq!(answer.header("location"), format!("/v2/to/blobs/{digest}"));
    f.delete(&format!("/v2/from/blobs/{digest}")).await.is(202);
    f.get(&format!("/v2/from/blobs/{digest}"))
        .await
        .refused(404, "BLOB_UNKNOWN");
    f.delete(&format!("/v2/from/blobs/{digest}"))
        .await
        .refused(404, "BLOB_UNKNOWN");
    assert_eq!(
        f.get(&format!("/v2/to/blobs/{digest}")).await.is(200).body,
        "shared"
    );
}

#[tokio::test]
async fn a_manifest_is_kept_byte_for_byte_and_goes_with_its_tags() {
    let f = Fixture::new();
    f.get("/v2/x/manifests/.INVALID_MANIFEST_NAME")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    f.get("/v2/x/tags/list").await.refused(404, "NAME_UNKNOWN");
    let (manifest, digest) = f.image("x", "v1").await;
    f.manifest("x", "v2", &manifest).await.is(201);
    f.manifest("x", &digest.to_string(), &manifest)
        .await
        .is(201);
    for reference in ["v1", "v2", &digest.to_string()] {
        let answer = f.get(&format!("/v2/x/manifests/{reference}")).await.is(200);
        assert_eq!(answer.body, manifest.to_string());
        assert_eq!(answer.header("content-type"), OCI_MANIFEST);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    }
    f.delete("/v2/x/manifests/v2").await.is(202);
    f.delete("/v2/x/manifests/v2")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    f.get("/v2/x/manifests/v1").await.is(200);
    f.delete(&format!("/v2/x/manifests/{digest}")).await.is(202);
    f.get("/v2/x/manifests/v1")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    f.get(&format!("/v2/x/manifests/{digest}"))
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(
        f.get("/v2/x/tags/list").await.is(200).json()["tags"],
        json!([])
    );
}

#[tokio::test]
async fn a_manifest_that_is_wrong_or_incomplete_is_refused() {
    let f = Fixture::new();
    let path = "/v2/x/manifests/v1";
    f.send(Method::PUT, path, &[], "blabla")
        .await
        .refused(400, "MANIFEST_INVALID");
    let big = vec![b' '; crate::content::MANIFEST_LIMIT + 1];
    f.send(Method::PUT, path, &[], big)
        .await
        .refused(413, "MANIFEST_INVALID");
    let (config, layer) = (f.blob("x", "{}").await, Digest::of(b"layer"));
    let manifest = image_manifest(&config, &layer);
    let answer = f
        .manifest("x", "v1", &manifest)
        .await
        .refused(400, "MANIFEST_BLOB_UNKNOWN");
    let message = answer.json()["errors"][0]["message"].to_string();
    assert!(message.contains(&layer.to_string()), "{message}");
    f.blob("x", "layer").await;
    f.manifest("x", &layer.to_string(), &manifest)
        .await
        .refused(400, "DIGEST_INVALID");
    f.manifest("x", "-v1", &manifest)
        .await
        .refused(400, "MANIFEST_INVALID");
    let list = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor(OCI_MANIFEST, &layer, 5)],
    });
    f.manifest("x", "all", &list)
        .await
        .refused(400, "MANIFEST_BLOB_UNKNOWN");
    f.get("/v2/x/manifests/v1")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn lists_come_in_pages_that_link_to_the_next() {
    let f = Fixture::new();
    for tag in ["b", "a", "c", "B"] {
        f.image("deep/er/name", tag).await;
    }
    f.image("other", "v1").await;
    let all = f.get("/v2/deep/er/name/tags/list").await.is(200);
    assert_eq!(
        all.json(),
        json!({ "name": "deep/er/name", "tags": ["B", "a", "b", "c"] })
    );
    assert_eq!(all.header("link"), "");
    let mut path = "/v2/deep/er/name/tags/list?n=3".to_owned();
    let mut pages = Vec::new();
    loop {
        let page = f.get(&path).await.is(200);
        pages.push(page.json()["tags"].clone());
        let Some((link, rel)) = page.header("link").split_once('>') else {
            break;
        };
        assert_eq!(rel, "; rel=\"next\"");
        path = link.trim_start_matches('<').to_owned();
    }
    assert_eq!(pages, [json!(["B", "a", "b"]), json!(["c"])]);
    let none = f.get("/v2/deep/er/name/tags/list?n=0").await.is(200);
    assert_eq!(
        (&none.json()["tags"], none.header("link")),
        (&json!([]), "")
    );
    let after = f.get("/v2/deep/er/name/tags/list?n=1&last=a").await.is(200);
    assert_eq!(after.json()["tags"], json!(["b"]));
    f.get("/v2/other/tags/list?n=many").await.is(400);
    let catalog = f.get("/v2/_catalog").await.is(200);
    assert_eq!(
        catalog.json(),
        json!({ "repositories": ["deep/er/name", "other"] })
    );
}

#[tokio::test]
async fn referrers_are_listed_before_and_after_their_subject_exists() {
    let f = Fixture::new();
    let config = f.blob("x", "{}").await;
    let layer = f.blob("x", "layer").await;
    let subject_manifest = image_manifest(&config, &layer);
    let subject = Digest::of(subject_manifest.to_string().as_bytes());
    let list = format!("/v2/x/referrers/{subject}");
    let empty = f.get(&list).await.is(200);
    assert_eq!(empty.json()["manifests"], json!([]));
    assert_eq!(empty.header("content-type"), OCI_INDEX);

    let mut typed = image_manifest(&config, &layer);
    typed["artifactType"] = json!("application/signature");
    typed["subject"] = descriptor(OCI_MANIFEST, &subject, 1);
    typed["annotations"] = json!({ "who": "me" });
    let answer = f.manifest("x", "signed", &typed).await.is(201);
    assert_eq!(answer.header("oci-subject"), subject.to_string());
    let mut plain = image_manifest(&config, &layer);
    plain["subject"] = descriptor(OCI_MANIFEST, &subject, 1);
    let plain_digest = Digest::of(plain.to_string().as_bytes());
    f.manifest("x", &plain_digest.to_string(), &plain)
        .await
        .is(201);
    f.manifest("x", "v1", &subject_manifest).await.is(201);

    let all = f.get(&list).await.is(200).json();
    assert_eq!(all["manifests"].as_array().unwrap().len(), 2, "{all}");
    let answer = f
        .get(&format!("{list}?artifactType=application/signature"))
        .await
        .is(200);
    assert_eq!(answer.header("oci-filters-applied"), "artifactType");
    let found = &answer.json()["manifests"];
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["annotations"], json!({ "who": "me" }));
    assert_eq!(found[0]["size"], typed.to_string().len());
    // Without an artifact type, that of the configuration stands for it.
    let of_config = "application/vnd.oci.image.config.v1+json".replace('+', "%2B");
    let answer = f
        .get(&format!("{list}?artifactType={of_config}"))
        .await
        .is(200);
    assert_eq!(
        answer.json()["manifests"][0]["digest"],
        plain_digest.to_string()
    );

    f.delete(&format!("/v2/x/manifests/{plain_digest}"))
        .await
        .is(202);
    assert_eq!(
        f.get(&list).await.json()["manifests"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    f.get("/v2/x/referrers/sha256:0")
        .await
        .refused(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_opening_again_and_what_was_not_is_gone() {
    let f = Fixture::new();
    let (manifest, _) = f.image("x", "v1").await;
    let at = f
        .post("/v2/x/blobs/uploads/")
        .await
        .header("location")
        .to_owned();
    f.send(Method::PATCH, &at, &[], "half").await.is(202);
    // As after kill -9: nothing of the first registry is told to end.
    let leftover = f.dir.path().join("uploads/part-of-a-dead-process");
    std::fs::write(&leftover, "half").unwrap();
    let again = Fixture {
        registry: open(f.dir.path()),
        dir: tempfile::tempdir().unwrap(),
    };
    assert!(!leftover.exists());
    again.get(&at).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(
        again.get("/v2/x/manifests/v1").await.is(200).body,
        manifest.to_string()
    );
}

#[tokio::test]
async fn wasm_is_found_in_each_shape_that_tools_push_it_in() {
    let f = Fixture::new();
    let wasm = f.blob("demo/x", "\0asm").await;
    let note = f.blob("demo/x", "# read me").await;
    // As wkg writes it: what the component needs and gives stands in the configuration.
    let described = json!({
        "created": "2026-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip2",
        "layerDigests": [wasm.to_string()],
        "component": {"exports": ["wasi:cli/run@0.2.0"], "imports": [], "target": null},
    });
    let described = f.blob("demo/x", described.to_string()).await;
    let empty = f.blob("demo/x", "{}").await;
    let config = |media_type: &str, digest: &Digest| descriptor(media_type, digest, 2);
    let mut program = descriptor(WASM_LAYER, &wasm, 4);
    program["annotations"] = json!({"org.opencontainers.image.title": "x.wasm"});
    let readme = descriptor("text/markdown", &note, 9);
    let nothing = "application/vnd.oci.empty.v1+json";
    for (name, config, layers, found) in [
        ("wkg", config(WASM_CONFIG, &described), vec![&program], true),
        ("bare", config(WASM_CONFIG, &empty), vec![&program], true),
        (
            "with-notes",
            config(WASM_CONFIG, &empty),
            vec![&readme, &program],
            true,
        ),
        // A file alone, as `oras push x.wasm:application/wasm` does it.
        ("file", config(nothing, &empty), vec![&program], true),
        (
            "files",
            config(nothing, &empty),
            vec![&readme, &program],
            false,
        ),
        ("notes", config(WASM_CONFIG, &empty), vec![&readme], false),
    ] {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": WASM_LAYER,
            "config": config, "layers": layers,
            "annotations": {"org.opencontainers.image.version": "1.0.0"},
        });
        f.manifest("demo/x", name, &manifest).await.is(201);
        let image = f.registry.resolve(&format!("demo/x:{name}")).await;
        let digest = image.as_ref().ok().and_then(|image| match &*image.content {
            ImageContent::Wasm { digest, .. } => Some(digest.clone()),
            ImageContent::Oci { .. } => None,
        });
        assert_eq!(digest, found.then(|| wasm.to_string()), "{name}: {image:?}");
    }
}

#[tokio::test]
async fn a_reference_becomes_an_image_by_what_its_manifest_holds() {
    let f = Fixture::new();
    let wasm = f.blob("demo/x", "\0asm").await;
    let config = f.blob("demo/x", "{}").await;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(WASM_CONFIG, &config, 2),
        "layers": [descriptor(WASM_LAYER, &wasm, 4)],
    });
    f.manifest("demo/x", "v1", &manifest).await.is(201);
    for reference in [
        "demo/x:v1",
        "127.0.0.1:5000/demo/x:v1",
        "localhost:5000/demo/x:v1",
    ] {
        let image = f.registry.resolve(reference).await.unwrap();
        assert_eq!(image.reference, reference);
        let ImageContent::Wasm { path, digest } = &*image.content else {
            panic!("{image:?}")
        };
        assert_eq!(std::fs::read(path).unwrap(), b"\0asm");
        assert_eq!(*digest, wasm.to_string());
    }

    let layer = f.blob("demo/c", "layer").await;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Env": ["A=1=2"], "Cmd": ["sh"], "Entrypoint": null, "User": "" },
        "rootfs": { "type": "layers", "diff_ids": [layer.to_string()] },
    });
    let config = f.blob("demo/c", config.to_string()).await;
    let manifest = image_manifest(&config, &layer);
    let digest = Digest::of(manifest.to_string().as_bytes());
    f.manifest("demo/c", &digest.to_string(), &manifest)
        .await
        .is(201);
    let mut here = descriptor(OCI_MANIFEST, &digest, 1);
    let arch = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    here["platform"] = json!({ "os": "linux", "architecture": arch });
    let mut there = descriptor(OCI_MANIFEST, &digest, 1);
    there["platform"] = json!({ "os": "plan9", "architecture": "mips" });
    let index = |entries: Vec<&Value>| json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    f.manifest("demo/c", "latest", &index(vec![&there, &here]))
        .await
        .is(201);
    f.manifest("demo/c", "foreign", &index(vec![&there]))
        .await
        .is(201);
    let image = f.registry.resolve("demo/c").await.unwrap();
    assert_eq!(image.digest, digest.to_string());
    let ImageContent::Oci { layers, config } = &*image.content else {
        panic!("{image:?}")
    };
    assert_eq!(layers[0].diff_id, layer.to_string());
    assert_eq!(config.env, [("A".to_owned(), "1=2".to_owned())]);
    assert_eq!(
        (&config.cmd[..], &config.user),
        (&["sh".to_owned()][..], &None)
    );

    let foreign = f.registry.resolve("demo/c:foreign").await.unwrap_err();
    assert!(foreign.to_string().contains("plan9/mips"), "{foreign}");
    std::fs::remove_file(&layers[0].path).unwrap();
    let damaged = f.registry.resolve("demo/c").await.unwrap_err();
    assert!(matches!(damaged, ImageError::Damaged { .. }), "{damaged}");
    for (reference, remedy) in [
        ("demo/none:v1", "eyot push demo/none:v1 FILE"),
        ("ghcr.io/a/b:v1", "eyot push a/b:v1 FILE"),
    ] {
        let error = f.registry.resolve(reference).await.unwrap_err();
        assert!(matches!(error, ImageError::NotFound { .. }), "{error}");
        assert!(error.to_string().contains(remedy), "{error}");
    }
    let error = f.registry.resolve("Not Valid").await.unwrap_err();
    assert!(matches!(error, ImageError::Reference { .. }), "{error}");
}

/// Serve a registry on a port of its own.
pub(crate) async fn serve(registry: &Registry) -> (String, tokio_util::sync::DropGuard) {
    let listener = eyot_http::bind("registry", ([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(eyot_http::serve(
        listener,
        None,
        registry.service(),
        stop.clone(),
    ));
    (address, stop.drop_guard())
}

/// An OCI layout directory with one image of one gzipped layer; its digest.
pub(crate) fn layout(dir: &Path, layer: &[u8]) -> Digest {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        digest
    };
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer).to_string()] },
    });
    let config = config.to_string();
    let (config_digest, layer_digest) = (put(config.as_bytes()), put(layer));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config.len()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer_digest, layer.len())],
    });
    let manifest = manifest.to_string();
    let digest = put(manifest.as_bytes());
    let entry = descriptor(OCI_MANIFEST, &digest, manifest.len());
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    digest
}

/// An empty tar archive of the given length: two blocks of zeros, padded.
pub(crate) fn empty_tar(length: usize) -> Vec<u8> {
    vec![0; length.next_multiple_of(512).max(1024)]
}

#[tokio::test]
async fn skopeo_copies_an_image_in_and_out_unchanged() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("SKIPPED skopeo_copies_an_image_in_and_out_unchanged: skopeo is not installed");
        return;
    }
    let f = Fixture::new();
    let (address, _stop) = serve(&f.registry).await;
    let work = tempfile::tempdir().unwrap();
    let digest = layout(&work.path().join("in"), &empty_tar(5 << 20));
    let image = format!("docker://{address}/some/deep/name:v1");
    let run = async |args: &[&str]| {
        let output = tokio::process::Command::new("skopeo")
            .args(args)
            .output()
            .await
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "skopeo {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let path = |name: &str| format!("oci:{}", work.path().join(name).display());
    run(&[
        "copy",
        "--insecure-policy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        &path("in"),
        &image,
    ])
    .await;
    run(&[
        "copy",
        "--insecure-policy",
        "--preserve-digests",
        "--src-tls-verify=false",
        &image,
        &path("out"),
    ])
    .await;
    let out = std::fs::read(work.path().join("out/index.json")).unwrap();
    let out: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(out["manifests"][0]["digest"], digest.to_string());
    let inspected = run(&["inspect", "--tls-verify=false", &image]).await;
    assert!(inspected.contains(&digest.to_string()), "{inspected}");
    run(&["delete", "--tls-verify=false", &image]).await;
    f.get("/v2/some/deep/name/manifests/v1").await.is(404);
}

#[tokio::test]
async fn a_length_is_told_for_manifests_too() {
    let f = Fixture::new();
    let (manifest, _) = f.image("x", "v1").await;
    let head = f
        .send(Method::HEAD, "/v2/x/manifests/v1", &[], "")
        .await
        .is(200);
    let length = head.header(header::CONTENT_LENGTH.as_str());
    assert_eq!(length, manifest.to_string().len().to_string());
}
