//! Clients that are slow, many, broken or lying, and a disk that is full.

use std::io;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Method;
use serde_json::json;

use super::{Fixture, descriptor, image_manifest};
use crate::{
    manifest::{OCI_INDEX, OCI_MANIFEST},
    name::Digest,
    upload::{Upload, UploadError},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_blob_pushed_by_many_at_once_is_there_once_for_all() {
    let f = Fixture::new();
    let content = Bytes::from(vec![7; 1 << 20]);
    let digest = Digest::of(&content);
    let pushes = (0..16).map(|number| {
        let (f, content) = (&f, content.clone());
        async move { f.blob(&format!("repository/{}", number % 4), content).await }
    });
    let pushed = futures::future::join_all(pushes).await;
    assert!(pushed.iter().all(|found| *found == digest));
    for number in 0..4 {
        let path = format!("/v2/repository/{number}/blobs/{digest}");
        assert_eq!(f.get(&path).await.is(200).body, content);
    }
    let left = |dir: &str| std::fs::read_dir(f.dir.path().join(dir)).unwrap().count();
    assert_eq!((left("blobs/sha256"), left("uploads")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_sending_is_given_up_and_may_go_on_later() {
    let dir = tempfile::tempdir().unwrap();
    let upload = Upload::new(dir.path(), None, 1000).unwrap();
    let first = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"half "))]);
    let body = eyot_http::from_stream(first.chain(stream::pending()));
    let error = upload.append(body, None).await.unwrap_err();
    assert!(matches!(error, UploadError::Stalled), "{error}");
    assert_eq!(upload.length(), 5);
    upload.append(eyot_http::full("whole"), None).await.unwrap();
    upload.finish(&Digest::of(b"half whole")).await.unwrap();
}

#[tokio::test]
async fn a_body_that_is_longer_than_it_may_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let upload = Upload::new(dir.path(), None, 10).unwrap();
    let body = eyot_http::full(vec![0; 11]);
    let error = upload.append(body, None).await.unwrap_err();
    assert!(
        matches!(error, UploadError::TooLarge { limit: 10 }),
        "{error}"
    );
}

#[tokio::test]
async fn a_broken_body_keeps_what_came_and_a_wrong_digest_keeps_nothing() {
    let f = Fixture::new();
    let at = f
        .post("/v2/x/blobs/uploads/")
        .await
        .header("location")
        .to_owned();
    let parts = [
        Ok(Bytes::from_static(b"abc")),
        Err(io::Error::other("the network is gone")),
    ];
    let upload = f
        .registry
        .uploads()
        .find(&"x".parse().unwrap(), at.rsplit('/').next().unwrap())
        .unwrap();
    let body = eyot_http::from_stream(stream::iter(parts));
    let error = upload.append(body, None).await.unwrap_err();
    assert!(matches!(error, UploadError::Broken(_)), "{error}");
    assert_eq!(f.get(&at).await.is(204).header("range"), "0-2");
    drop(upload);
    let truncated = format!("{at}?digest={}", Digest::of(b"abcdef"));
    let answer = f.send(Method::PUT, &truncated, &[], "").await;
    answer.refused(400, "DIGEST_INVALID");
    f.get(&at).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn manifests_made_to_hurt_are_refused_and_cost_little() {
    let f = Fixture::new();
    let config = f.blob("x", "{}").await;
    // Deep nesting, an enormous list of things that are not there, and references to itself.
    let deep = format!(
        "{{\"schemaVersion\":2,\"config\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let put = async |body: String, kind: &str| {
        let headers = [("content-type", kind)];
        f.send(Method::PUT, "/v2/x/manifests/v1", &headers, body)
            .await
    };
    put(deep, OCI_MANIFEST)
        .await
        .refused(400, "MANIFEST_INVALID");
    let mut many = image_manifest(&config, &Digest::of(b"layer"));
    let layer = many["layers"][0].clone();
    many["layers"] = std::iter::repeat_n(layer, 15_000).collect();
    assert!(many.to_string().len() < 4 << 20);
    put(many.to_string(), OCI_MANIFEST)
        .await
        .refused(400, "MANIFEST_BLOB_UNKNOWN");
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor(OCI_INDEX, &Digest::of(b"itself"), 1)],
    });
    put(index.to_string(), OCI_INDEX)
        .await
        .refused(400, "MANIFEST_BLOB_UNKNOWN");
    let negative = r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:0","size":-1},"layers":[]}"#;
    put(negative.to_owned(), OCI_MANIFEST)
        .await
        .refused(400, "MANIFEST_INVALID");
    f.get("/v2/x/manifests/v1").await.is(404);
}

#[test]
fn a_full_disk_is_told_as_such() {
    let full = io::Error::from(io::ErrorKind::StorageFull);
    let answer = crate::service::error_answer(UploadError::Io(full));
    assert_eq!(answer.status(), 507);
    let broken = io::Error::from(io::ErrorKind::PermissionDenied);
    assert_eq!(
        crate::service::error_answer(UploadError::Io(broken)).status(),
        500
    );
    assert_eq!(
        crate::service::error_answer(UploadError::Stalled).status(),
        408
    );
}
