//! The suite's data: each way of pushing a blob under both digests, with right and with wrong ones,
//! ranges, and each kind of manifest pushed, listed, looked at, pulled and deleted.

use super::*;

/// More than one chunk of any size that a client may choose.
const CHUNK: usize = 1024;

/// Content that no other has.
fn content(label: &str, length: usize) -> String {
    let line = format!("{label} ");
    line.chars().cycle().take(length).collect()
}

fn digest(algorithm: Algorithm, content: &str) -> Digest {
    Digest::of_with(algorithm, content.as_bytes())
}

fn at(digest: &Digest) -> String {
    format!("/v2/{NAME}/blobs/{digest}")
}

/// The ways of pushing a blob.
#[derive(Debug, Clone, Copy)]
enum Way {
    Post,
    PostPut,
    Stream,
    Chunks,
    LastChunkWithEnd,
    OutOfOrder,
}

const WAYS: [Way; 6] = [
    Way::Post,
    Way::PostPut,
    Way::Stream,
    Way::Chunks,
    Way::LastChunkWithEnd,
    Way::OutOfOrder,
];

impl Suite {
    /// Push `content` under `digest`, which may be another's.
    async fn pushed(&self, way: Way, content: &str, digest: &Digest) -> Answer {
        let stream = [("content-type", "application/octet-stream")];
        match way {
            Way::Post => {
                let path = format!("/v2/{NAME}/blobs/uploads/?digest={digest}");
                self.send(Method::POST, &path, &stream, content.to_owned())
                    .await
            }
            Way::PostPut => {
                let session = self.session(NAME).await;
                self.close(&session, digest, content.to_owned()).await
            }
            Way::Stream => {
                let session = self.session(NAME).await;
                let sent = self.send(Method::PATCH, &session, &stream, content.to_owned());
                self.close(&located(sent.await.is(202)), digest, "").await
            }
            Way::Chunks => self.chunks(content, digest, false, false).await,
            Way::LastChunkWithEnd => self.chunks(content, digest, true, false).await,
            Way::OutOfOrder => self.chunks(content, digest, false, true).await,
        }
    }

    async fn chunks(&self, content: &str, digest: &Digest, end: bool, disorder: bool) -> Answer {
        let mut session = self.session(NAME).await;
        let chunks: Vec<&str> = content
            .as_bytes()
            .chunks(CHUNK)
            .map(|chunk| std::str::from_utf8(chunk).unwrap())
            .collect();
        let last = chunks.len() - 1;
        let range = |index: usize| {
            let start = index * CHUNK;
            format!("{start}-{}", start + chunks[index].len() - 1)
        };
        for (index, chunk) in chunks.iter().enumerate() {
            if disorder && index + 1 < chunks.len() {
                let early = self
                    .patch(&session, &range(index + 1), chunks[index + 1])
                    .await;
                early.refused(416, "BLOB_UPLOAD_INVALID");
                session = located(self.get(&session).await.is(204));
            }
            if end && index == last {
                let joint = if session.contains('?') { '&' } else { '?' };
                let path = format!("{session}{joint}digest={digest}");
                let range = range(index);
                let headers = [
                    ("content-type", "application/octet-stream"),
                    ("content-range", range.as_str()),
                ];
                return self
                    .send(Method::PUT, &path, &headers, (*chunk).to_owned())
                    .await;
            }
            let answer = self.patch(&session, &range(index), chunk).await.is(202);
            let so_far = index * CHUNK + chunk.len() - 1;
            assert_eq!(answer.header("range"), format!("0-{so_far}"));
            session = located(answer);
        }
        self.close(&session, digest, "").await
    }

    /// Seen, pulled and deleted for good.
    async fn lives(&self, path: &str, digest: &Digest, content: &str) {
        for method in [Method::HEAD, Method::GET] {
            let body = if method == Method::GET { content } else { "" };
            let answer = self.send(method, path, &[], "").await.is(200);
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            assert_eq!(answer.header("content-length"), content.len().to_string());
            assert!(answer.body == body, "{path}: another content");
        }
    }

    async fn dies(&self, path: &str) {
        self.delete(path).await.is(202);
        self.head(path).await.is(404);
    }
}

async fn blobs(algorithm: Algorithm) {
    let suite = Suite::new().await;
    for way in WAYS {
        let content = content(&format!("{way:?} {algorithm:?}"), CHUNK * 3 - 5);
        let digest = digest(algorithm, &content);
        suite.get(&at(&digest)).await.refused(404, "BLOB_UNKNOWN");
        let answer = suite.pushed(way, &content, &digest).await.is(201);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        assert_eq!(located(answer), at(&digest), "{way:?}");
        suite.lives(&at(&digest), &digest, &content).await;
        suite.dies(&at(&digest)).await;
        // What has another digest is not taken, and nothing of it is left.
        let other = format!("{content}oh no");
        suite
            .pushed(way, &other, &digest)
            .await
            .refused(400, "DIGEST_INVALID");
        suite.head(&at(&digest)).await.is(404);
    }
    for content in ["", "{}"] {
        let digest = digest(algorithm, content);
        suite.pushed(Way::PostPut, content, &digest).await.is(201);
        suite.lives(&at(&digest), &digest, content).await;
        suite.dies(&at(&digest)).await;
    }
    ranges(&suite, algorithm).await;
    mounts(&suite, algorithm).await;
}

async fn ranges(suite: &Suite, algorithm: Algorithm) {
    let content = content("ranges", 2048);
    let digest = digest(algorithm, &content);
    suite.pushed(Way::Post, &content, &digest).await.is(201);
    for (range, part) in [
        ("500-1499", Some(500..1500)),
        ("500-", Some(500..2048)),
        ("-500", Some(1548..2048)),
        ("2000-5000", Some(2000..2048)),
        ("500-0", None),
        ("5000-10000", None),
    ] {
        let range = format!("bytes={range}");
        let headers = [("range", range.as_str())];
        let answer = suite.send(Method::GET, &at(&digest), &headers, "").await;
        let Some(part) = part else {
            assert_eq!(answer.status, 416, "{range}: {answer:?}");
            continue;
        };
        let answer = answer.is(206);
        let told = format!("bytes {}-{}/2048", part.start, part.end - 1);
        assert_eq!(answer.header("content-range"), told);
        assert_eq!(answer.header("content-length"), part.len().to_string());
        assert_eq!(answer.body, content.as_bytes()[part]);
    }
    suite.dies(&at(&digest)).await;
}

async fn mounts(suite: &Suite, algorithm: Algorithm) {
    let content = content("mounted", 512);
    let digest = digest(algorithm, &content);
    let mount = format!("/v2/{OTHER}/blobs/uploads/?mount={digest}&from={NAME}");
    // Not there yet: an upload is begun instead.
    suite.send(Method::POST, &mount, &[], "").await.is(202);
    suite.pushed(Way::Post, &content, &digest).await.is(201);
    let answer = suite.send(Method::POST, &mount, &[], "").await.is(201);
    let there = format!("/v2/{OTHER}/blobs/{digest}");
    assert_eq!(located(answer), there);
    suite.dies(&at(&digest)).await;
    suite.lives(&there, &digest, &content).await;
    suite.dies(&there).await;
    // One that is given up is gone.
    let session = suite.session(NAME).await;
    suite.delete(&session).await.is(204);
    suite
        .get(&session)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn blobs_are_pushed_in_each_way_and_pulled_in_parts_by_sha256() {
    blobs(Algorithm::Sha256).await;
}

#[tokio::test]
async fn blobs_are_pushed_in_each_way_and_pulled_in_parts_by_sha512() {
    blobs(Algorithm::Sha512).await;
}

/// Manifests that are pushed one after the other, each with its tags.
struct Set<'a> {
    suite: &'a Suite,
    algorithm: Algorithm,
    pushed: Vec<(Value, Digest)>,
    tags: Vec<(String, Digest)>,
}

impl<'a> Set<'a> {
    fn new(suite: &'a Suite, algorithm: Algorithm) -> Self {
        Self {
            suite,
            algorithm,
            pushed: Vec::new(),
            tags: Vec::new(),
        }
    }

    async fn blob(&self, media_type: &str, content: &str) -> Value {
        let digest = digest(self.algorithm, content);
        self.suite.pushed(Way::Post, content, &digest).await.is(201);
        descriptor(media_type, &digest, content.len())
    }

    /// An image manifest of a configuration and `layers` layers, with what `more` says.
    async fn image(&self, label: &str, layers: usize, more: Value) -> Value {
        let config = json!({ "os": "linux", "architecture": "amd64", "label": label });
        let config = self.blob(CONFIG, &config.to_string()).await;
        let mut all = Vec::new();
        for number in 0..layers {
            all.push(self.blob(LAYER, &format!("{label}, layer {number}")).await);
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": all,
        });
        with(manifest, more)
    }

    /// An artifact manifest, as the image specification has it.
    async fn artifact(&self, kind: &str, layer: &str, more: Value) -> Value {
        let config = self.blob(EMPTY_JSON, "{}").await;
        let layer = self
            .blob(if layer == "{}" { EMPTY_JSON } else { kind }, layer)
            .await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind,
            "config": config, "layers": [layer],
        });
        with(manifest, more)
    }

    fn index(&self, of: &[&Value], more: Value) -> Value {
        let manifests: Vec<Value> = of.iter().map(|manifest| self.described(manifest)).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        with(index, more)
    }

    fn described(&self, manifest: &Value) -> Value {
        let text = manifest.to_string();
        let kind = manifest["mediaType"].as_str().unwrap();
        descriptor(kind, &digest(self.algorithm, &text), text.len())
    }

    async fn push(&mut self, manifest: &Value, tags: &[&str]) {
        let text = manifest.to_string();
        let digest = digest(self.algorithm, &text);
        let kind = manifest["mediaType"].as_str().unwrap().to_owned();
        let answer = self
            .suite
            .manifest(&digest.to_string(), &kind, manifest)
            .await
            .is(201);
        let subject = manifest["subject"]["digest"].as_str().unwrap_or_default();
        assert_eq!(answer.header("oci-subject"), subject);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        for tag in tags {
            self.suite.manifest(tag, &kind, manifest).await.is(201);
            self.tags.push(((*tag).to_owned(), digest.clone()));
        }
        self.pushed.push((manifest.clone(), digest));
    }

    /// Listed, seen, pulled, referred to, and deleted: tags first, then manifests from the last.
    async fn check(self) {
        let path = |reference: &str| format!("/v2/{NAME}/manifests/{reference}");
        let list = self
            .suite
            .get(&format!("/v2/{NAME}/tags/list"))
            .await
            .is(200)
            .json();
        for (tag, digest) in &self.tags {
            let listed = list["tags"].as_array().unwrap();
            assert!(listed.contains(&json!(tag)), "{tag} in {list}");
            let (manifest, _) = self.pushed.iter().find(|(_, d)| d == digest).unwrap();
            self.suite
                .lives(&path(tag), digest, &manifest.to_string())
                .await;
        }
        for (manifest, digest) in &self.pushed {
            let text = manifest.to_string();
            self.suite
                .lives(&path(&digest.to_string()), digest, &text)
                .await;
            self.referred(manifest, digest).await;
        }
        for (tag, _) in &self.tags {
            self.suite.dies(&path(tag)).await;
        }
        for (_, digest) in self.pushed.iter().rev() {
            self.suite.dies(&path(&digest.to_string())).await;
        }
    }

    /// A manifest with a subject is in the list of its referrers, whole and filtered by its kind.
    async fn referred(&self, manifest: &Value, digest: &Digest) {
        let Some(subject) = manifest["subject"]["digest"].as_str() else {
            return;
        };
        let kind = manifest["artifactType"].as_str();
        let kind =
            kind.unwrap_or_else(|| manifest["config"]["mediaType"].as_str().unwrap_or_default());
        for query in [
            String::new(),
            format!("?artifactType={}", kind.replace('+', "%2B")),
        ] {
            let path = format!("/v2/{NAME}/referrers/{subject}{query}");
            let answer = self.suite.get(&path).await.is(200);
            let filtered = if query.is_empty() { "" } else { "artifactType" };
            assert_eq!(answer.header("oci-filters-applied"), filtered);
            let list = answer.json()["manifests"].as_array().unwrap().clone();
            let own = list
                .iter()
                .find(|entry| entry["digest"] == digest.to_string());
            let own = own.unwrap_or_else(|| panic!("{digest} is not in {path}"));
            assert_eq!(own["mediaType"], manifest["mediaType"]);
            assert_eq!(own["size"], manifest.to_string().len());
            assert_eq!(own["artifactType"], kind);
            assert_eq!(own["annotations"], manifest["annotations"]);
            let others = list.iter().filter(|entry| entry["artifactType"] != kind);
            assert!(query.is_empty() || others.count() == 0, "{path}: {list:?}");
        }
    }
}

/// A document with more fields.
fn with(mut document: Value, more: Value) -> Value {
    let more = more.as_object().cloned().unwrap_or_default();
    document.as_object_mut().unwrap().extend(more);
    document
}

const KINDS: [&str; 2] = [
    "application/vnd.example.oci.conformance.v1",
    "application/vnd.example.oci.conformance.v2",
];

async fn images(algorithm: Algorithm) {
    let suite = Suite::new().await;
    let mut set = Set::new(&suite, algorithm);
    // By tag a manifest has the usual digest, so others are pushed by digest alone.
    let tags = |tag: &'static str| match algorithm {
        Algorithm::Sha256 => vec![tag],
        Algorithm::Sha512 => Vec::new(),
    };
    let image = set.image("image", 2, json!({})).await;
    set.push(&image, &tags("image")).await;
    let empty = set.image("no layers", 0, json!({})).await;
    set.push(&empty, &tags("no-layers")).await;
    let mut data = set.image("data", 1, json!({})).await;
    data["config"]["data"] = json!("e30=");
    set.push(&data, &tags("data-field")).await;
    let custom = set
        .image("custom", 1, json!({ "org.example.custom": { "a": [1] } }))
        .await;
    set.push(&custom, &tags("custom-fields")).await;
    let mut foreign = set.image("foreign", 1, json!({})).await;
    for kind in ["tar", "tar+gzip"] {
        let digest = digest(algorithm, kind);
        let media_type = format!("application/vnd.oci.image.layer.nondistributable.v1.{kind}");
        let mut layer = descriptor(&media_type, &digest, 123_456);
        layer["urls"] = json!([format!("https://store.example.com/blobs/{digest}")]);
        foreign["layers"].as_array_mut().unwrap().push(layer);
    }
    set.push(&foreign, &tags("non-distributable")).await;
    let notes: serde_json::Map<String, Value> = (0..390)
        .map(|number| {
            (
                format!("large-annotation-{number}"),
                json!("A".repeat(10_000)),
            )
        })
        .collect();
    let large = set.image("large", 1, json!({ "annotations": notes })).await;
    set.push(&large, &tags("large-manifest")).await;
    let index = set.index(&[&image, &empty], json!({}));
    set.push(&index, &tags("index")).await;
    let nested = set.index(&[&index, &image], json!({}));
    set.push(&nested, &tags("nested-index")).await;
    let none = set.index(&[], json!({}));
    set.push(&none, &tags("empty-index")).await;
    set.check().await;
}

#[tokio::test]
async fn images_and_indexes_of_each_shape_live_from_push_to_delete() {
    images(Algorithm::Sha256).await;
}

#[tokio::test]
async fn images_and_indexes_live_under_the_other_digest_too() {
    images(Algorithm::Sha512).await;
}

#[tokio::test]
async fn artifacts_and_what_refers_to_others_live_from_push_to_delete() {
    let suite = Suite::new().await;
    let mut set = Set::new(&suite, Algorithm::Sha256);
    let artifact = set.artifact(KINDS[0], "content", json!({})).await;
    set.push(&artifact, &["artifact"]).await;
    let bare = set.artifact(KINDS[0], "{}", json!({})).await;
    set.push(&bare, &["artifact-without-layers"]).await;
    let index = set.index(&[&artifact, &bare], json!({ "artifactType": KINDS[0] }));
    set.push(&index, &["artifact-index"]).await;
    let note = |text: &str| json!({ "org.opencontainers.conformance": text });
    for (number, subject) in [set.described(&artifact), set.described(&index)]
        .iter()
        .enumerate()
    {
        let label = format!("referrer {number}");
        let plain = set.image(&label, 1, json!({ "subject": subject })).await;
        set.push(&plain, &[]).await;
        for (kind, tag) in KINDS.iter().zip(["tagged-1", "tagged-2"]) {
            let more = json!({ "subject": subject, "annotations": note(&label) });
            let referrer = set.artifact(kind, &label, more).await;
            set.push(&referrer, &[tag]).await;
        }
        let more = json!({
            "subject": subject, "artifactType": KINDS[1], "annotations": note("index"),
        });
        let referrer = set.index(&[&artifact], more);
        set.push(&referrer, &[]).await;
    }
    let missing = descriptor(OCI_MANIFEST, &Digest::of(b"missing content"), 123);
    let more = json!({ "subject": missing, "annotations": note("missing") });
    let referrer = set.artifact(KINDS[0], "to nobody", more).await;
    set.push(&referrer, &["missing-subject"]).await;
    // Two referrers of the same tag were pushed: the later one has it.
    set.tags.reverse();
    set.tags.dedup_by_key(|(tag, _)| tag.clone());
    let mut seen = std::collections::HashSet::new();
    set.tags.retain(|(tag, _)| seen.insert(tag.clone()));
    set.check().await;
}

#[tokio::test]
async fn a_manifest_that_is_pushed_by_digest_gets_the_tags_of_its_parameters() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let suite = Suite::new().await;
        let mut set = Set::new(&suite, algorithm);
        let manifest = set.image("tagged", 1, json!({})).await;
        let digest = digest(algorithm, &manifest.to_string());
        let reference = format!("{digest}?tag=one&tag=two");
        let answer = suite
            .manifest(&reference, OCI_MANIFEST, &manifest)
            .await
            .is(201);
        let told: Vec<_> = answer.headers.get_all("oci-tag").iter().collect();
        assert_eq!(told, ["one", "two"]);
        set.pushed.push((manifest.clone(), digest.clone()));
        for tag in ["one", "two"] {
            set.tags.push((tag.to_owned(), digest.clone()));
        }
        let wrong = format!("{digest}?tag=.no");
        suite
            .manifest(&wrong, OCI_MANIFEST, &manifest)
            .await
            .refused(400, "MANIFEST_INVALID");
        set.check().await;
    }
}

#[tokio::test]
async fn manifests_that_are_not_what_they_are_pushed_as_are_refused() {
    let suite = Suite::new().await;
    let set = Set::new(&suite, Algorithm::Sha256);
    let manifest = set.image("bad", 1, json!({})).await;
    let text = manifest.to_string();
    let path = |reference: &str| format!("/v2/{NAME}/manifests/{reference}");
    let put = async |reference: &str, text: &str| {
        let headers = [("content-type", OCI_MANIFEST)];
        suite
            .send(Method::PUT, &path(reference), &headers, text.to_owned())
            .await
    };
    let digest = Digest::of(text.as_bytes()).to_string();
    put(&digest, &format!("{text}  "))
        .await
        .refused(400, "DIGEST_INVALID");
    put("sha256:baddigeststring", &text)
        .await
        .refused(400, "DIGEST_INVALID");
    suite.get(&path("sha256:baddigeststring")).await.is(404);
    suite
        .get(&path(&digest))
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    suite
        .get(&path("missing-tag"))
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    // What it is made of must be there; the suite leaves that to registries.
    let mut sparse = manifest.clone();
    sparse["layers"] = json!([descriptor(LAYER, &Digest::of(b"never pushed"), 12)]);
    suite
        .manifest("sparse", OCI_MANIFEST, &sparse)
        .await
        .refused(400, "MANIFEST_BLOB_UNKNOWN");
}
