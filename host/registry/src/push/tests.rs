//! Pushing files of every kind into a registry behind a socket.

use std::{fs, path::Path};

use eyot_runtime::{ImageContent, ImageStore};
use serde_json::json;

use super::{Artifact, Kind, Options, Progress, PushError, push};
use crate::{
    name::Digest,
    tests::{Fixture, empty_tar, layout, serve},
};

/// The smallest component: header and one empty custom section.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0\0\x02\x01x";

#[tokio::test]
async fn a_component_is_pushed_once_and_runs_by_its_short_name() {
    let f = Fixture::new();
    let (address, _stop) = serve(&f.registry).await;
    let path = f.dir.path().join("guest.wasm");
    fs::write(&path, COMPONENT).unwrap();
    let artifact = Artifact::open(&path).unwrap();
    assert_eq!(artifact.kind, Kind::WasmComponent);
    let mut told = Vec::new();
    let digest = push(&address, "demo/x:v1", &artifact, &Options::default(), |p| {
        told.push(p)
    })
    .await
    .unwrap();
    let total = artifact.blobs.iter().map(|blob| blob.size).sum();
    assert_eq!(told.last(), Some(&Progress { sent: total, total }));
    assert!(
        told.windows(2).all(|pair| pair[0].sent <= pair[1].sent),
        "{told:?}"
    );
    let again = push(
        &address,
        "demo/x:v2",
        &artifact,
        &Options::default(),
        |_| {},
    )
    .await
    .unwrap();
    assert_eq!((&again, Some(&digest)), (&digest, artifact.digest()));

    let image = f.registry.resolve("demo/x:v1").await.unwrap();
    assert_eq!(image.digest, again.to_string());
    let ImageContent::Wasm { path, digest } = &*image.content else {
        panic!("{image:?}")
    };
    assert_eq!(fs::read(path).unwrap(), COMPONENT);
    assert_eq!(*digest, Digest::of(COMPONENT).to_string());
}

#[tokio::test]
async fn a_layout_and_both_kinds_of_archive_are_pushed() {
    let f = Fixture::new();
    let (address, _stop) = serve(&f.registry).await;
    let dir = f.dir.path().join("layout");
    let layer = empty_tar(3 << 20);
    let digest = layout(&dir, &layer);
    let artifact = Artifact::open(&dir).unwrap();
    let pushed = push(
        &address,
        "demo/layout",
        &artifact,
        &Options::default(),
        |_| {},
    )
    .await
    .unwrap();
    assert_eq!((artifact.kind, &pushed), (Kind::OciLayout, &digest));

    let oci = f.dir.path().join("oci.tar");
    archive(&oci, |tar| tar.append_dir_all(".", &dir).unwrap());
    let artifact = Artifact::open(&oci).unwrap();
    let pushed = push(
        &address,
        "demo/oci:v1",
        &artifact,
        &Options::default(),
        |_| {},
    )
    .await
    .unwrap();
    assert_eq!((artifact.kind, &pushed), (Kind::OciArchive, &digest));

    let config = json!({ "rootfs": { "diff_ids": [Digest::of(&layer).to_string()] } }).to_string();
    let saved = json!([{ "Config": "c.json", "RepoTags": ["a:b"], "Layers": ["l/layer.tar"] }]);
    let docker = f.dir.path().join("docker.tar");
    archive(&docker, |tar| {
        file(tar, "manifest.json", saved.to_string().as_bytes());
        file(tar, "c.json", config.as_bytes());
        file(tar, "real.tar", &layer);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "l/layer.tar", "../real.tar")
            .unwrap();
    });
    let packed = f.dir.path().join("docker.tar.gz");
    let mut encoder = flate2::write::GzEncoder::new(
        fs::File::create(&packed).unwrap(),
        flate2::Compression::fast(),
    );
    std::io::copy(&mut fs::File::open(&docker).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    for path in [docker, packed] {
        let artifact = Artifact::open(&path).unwrap();
        assert_eq!(artifact.kind, Kind::DockerArchive);
        push(
            &address,
            "demo/docker:v1",
            &artifact,
            &Options::default(),
            |_| {},
        )
        .await
        .unwrap();
        let image = f.registry.resolve("demo/docker:v1").await.unwrap();
        let ImageContent::Oci { layers, .. } = &*image.content else {
            panic!("{image:?}")
        };
        assert_eq!(fs::read(&layers[0].path).unwrap(), layer);
    }
}

fn archive(path: &Path, fill: impl FnOnce(&mut tar::Builder<fs::File>)) {
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    fill(&mut tar);
    tar.finish().unwrap();
}

fn file(tar: &mut tar::Builder<fs::File>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content).unwrap();
}

#[test]
fn a_file_that_is_no_artifact_is_told_what_it_is() {
    #[track_caller]
    fn check(content: &[u8], words: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        let error = Artifact::open(file.path()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(
            error.contains(&file.path().display().to_string()),
            "{error}"
        );
    }
    check(b"", "is empty");
    check(b"(component)", "wasm-tools parse");
    check(b"kind: Pod", "a text file");
    check(b"\x7fELF\x02\x01", "native program");
    check(&[0x28, 0xb5, 0x2f, 0xfd, 0], "zstd");
    check(b"\0asm\x0d\0\x01\0\0\x7fx", "truncated");
    check(b"\0asm\x0d\0", "within the header");
    check(b"\x01\x02\x03", "010203");
    let dir = tempfile::tempdir().unwrap();
    let error = Artifact::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("without index.json"), "{error}");
    let error = Artifact::open(&dir.path().join("none"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("none") && error.contains("cannot be read"),
        "{error}"
    );
}

#[test]
fn a_layout_with_a_truncated_or_altered_blob_is_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let digest = layout(dir.path(), &empty_tar(4096));
    let blobs = dir.path().join("blobs/sha256");
    let layer = blobs.join(Digest::of(&empty_tar(4096)).hex());
    fs::write(&layer, "short").unwrap();
    let error = Artifact::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("5 bytes instead of 4096"), "{error}");
    fs::remove_file(&layer).unwrap();
    let error = Artifact::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("is missing"), "{error}");
    fs::write(blobs.join(digest.hex()), "{}").unwrap();
    let error = Artifact::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("has the digest"), "{error}");
}

#[test]
fn a_truncated_archive_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    layout(&dir.path().join("l"), &empty_tar(1 << 20));
    let path = dir.path().join("oci.tar");
    archive(&path, |tar| {
        tar.append_dir_all(".", dir.path().join("l")).unwrap()
    });
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = Artifact::open(&path).unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_pushed_is_said_with_the_remedy() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), COMPONENT).unwrap();
    let artifact = Artifact::open(file.path()).unwrap();
    let push = async |registry: &str, reference: &str| {
        push(registry, reference, &artifact, &Options::default(), |_| {})
            .await
            .unwrap_err()
    };
    let error = push("127.0.0.1:1", "demo/x").await;
    assert!(matches!(error, PushError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("eyot up"), "{error}");
    let error = push("127.0.0.1:1", "registry.invalid/demo/x").await;
    assert!(matches!(error, PushError::Unreachable { .. }), "{error}");
    assert!(!error.to_string().contains("eyot up"), "{error}");
    let error = push("127.0.0.1:1", "Demo").await;
    assert!(matches!(error, PushError::Reference { .. }), "{error}");
}
