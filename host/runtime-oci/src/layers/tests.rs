use std::{
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
};

use tar::{Builder, EntryType, Header};

use super::*;

type Archive = Builder<Vec<u8>>;

fn add(archive: &mut Archive, kind: EntryType, name: &str, link: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    // Written by hand: the builder refuses the names that are of interest here.
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory {
        0o750
    } else {
        0o640
    });
    header.set_uid(12);
    header.set_gid(34);
    header.set_mtime(1_000_000);
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.append(&header, content).unwrap();
}

fn file(archive: &mut Archive, name: &str, content: &str) {
    add(archive, EntryType::Regular, name, "", content.as_bytes());
}

fn layer(directory: &Path, tar: &[u8], gzip: bool) -> Layer {
    let path = directory.join("blob");
    if gzip {
        let mut encoder = flate2::write::GzEncoder::new(
            File::create(&path).unwrap(),
            flate2::Compression::fast(),
        );
        encoder.write_all(tar).unwrap();
        encoder.finish().unwrap();
    } else {
        fs::write(&path, tar).unwrap();
    }
    Layer {
        path,
        digest: "sha256:blob".into(),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        diff_id: format!("sha256:{}", hex::encode(Sha256::digest(tar))),
    }
}

/// Unpack what `fill` puts in an archive; `None` if this process may not.
async fn unpacked(
    fill: impl FnOnce(&mut Archive),
) -> (tempfile::TempDir, Result<PathBuf, LayerError>) {
    let directory = tempfile::tempdir().unwrap();
    let mut archive = Builder::new(Vec::new());
    fill(&mut archive);
    let tar = archive.into_inner().unwrap();
    let layers = Layers::new(directory.path().join("layers"));
    let result = layers.ensure(&layer(directory.path(), &tar, true)).await;
    (directory, result)
}

fn is_root(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED {test}: changing owners and making nodes needs root");
    }
    is_root
}

#[tokio::test]
async fn files_keep_content_owner_mode_and_time() {
    if !is_root("files_keep_content_owner_mode_and_time") {
        return;
    }
    let (_keep, result) = unpacked(|archive| {
        add(archive, EntryType::Directory, "./etc/", "", b"");
        file(archive, "etc/motd", "hello");
        add(archive, EntryType::Symlink, "etc/link", "/etc/motd", b"");
        add(archive, EntryType::Link, "etc/hard", "etc/motd", b"");
    })
    .await;
    let root = result.unwrap();
    assert_eq!(fs::read_to_string(root.join("etc/motd")).unwrap(), "hello");
    let metadata = fs::metadata(root.join("etc/motd")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (12, 34));
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    assert_eq!(metadata.mtime(), 1_000_000);
    assert_eq!(metadata.nlink(), 2);
    assert_eq!(
        fs::read_link(root.join("etc/link")).unwrap(),
        Path::new("/etc/motd")
    );
    let directory = fs::metadata(root.join("etc")).unwrap();
    assert_eq!(
        (directory.permissions().mode() & 0o7777, directory.mtime()),
        (0o750, 1_000_000)
    );
}

#[tokio::test]
async fn whiteouts_take_the_form_that_overlayfs_reads() {
    if !is_root("whiteouts_take_the_form_that_overlayfs_reads") {
        return;
    }
    let (_keep, result) = unpacked(|archive| {
        add(archive, EntryType::Directory, "dir", "", b"");
        file(archive, "dir/.wh.gone", "");
        add(archive, EntryType::Directory, "opaque", "", b"");
        file(archive, "opaque/.wh..wh..opq", "");
    })
    .await;
    let root = result.unwrap();
    let gone = fs::symlink_metadata(root.join("dir/gone")).unwrap();
    assert!(gone.file_type().is_char_device());
    assert_eq!(gone.rdev(), 0);
    assert!(!root.join("opaque/.wh..wh..opq").exists());
    let shown = std::process::Command::new("getfattr")
        .args([
            "-n",
            "trusted.overlay.opaque",
            "--only-values",
            "--absolute-names",
        ])
        .arg(root.join("opaque"))
        .output();
    match shown {
        Ok(shown) => assert_eq!(String::from_utf8_lossy(&shown.stdout), "y"),
        Err(error) => eprintln!("SKIPPED check of the opaque attribute: getfattr: {error}"),
    }
}

#[tokio::test]
async fn nothing_leaves_the_layer_directory() {
    if !is_root("nothing_leaves_the_layer_directory") {
        return;
    }
    let (keep, result) = unpacked(|archive| file(archive, "../escaped", "x")).await;
    assert!(
        result
            .unwrap_err()
            .to_string()
            .contains("the path contains \"..\"")
    );
    assert!(!keep.path().join("layers/escaped").exists());

    // Links are followed with the layer as the root, whatever they say.
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap().to_owned();
    let (_keep, result) = unpacked(|archive| {
        add(archive, EntryType::Symlink, "up", "../../../..", b"");
        file(archive, "up/inside", "x");
        add(archive, EntryType::Symlink, "abs", &target, b"");
        file(archive, "late", "x");
    })
    .await;
    let root = result.unwrap();
    assert_eq!(fs::read_to_string(root.join("inside")).unwrap(), "x");

    let (_keep, result) = unpacked(|archive| {
        add(archive, EntryType::Symlink, "abs", &target, b"");
        file(archive, "abs/evil", "x");
    })
    .await;
    assert!(
        result.is_err(),
        "the target does not exist inside the layer"
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);

    let (_keep, result) =
        unpacked(|archive| add(archive, EntryType::Link, "passwd", "/etc/passwd", b"")).await;
    let error = result.unwrap_err().to_string();
    assert!(
        error.contains("a hard link to /etc/passwd, which is not in this layer"),
        "{error}"
    );
}

#[tokio::test]
async fn a_later_entry_replaces_an_earlier_one_of_another_kind() {
    if !is_root("a_later_entry_replaces_an_earlier_one_of_another_kind") {
        return;
    }
    let (_keep, result) = unpacked(|archive| {
        add(archive, EntryType::Directory, "a", "", b"");
        file(archive, "a/b", "1");
        file(archive, "a", "2");
        add(archive, EntryType::Symlink, "c", "/etc/shadow", b"");
        file(archive, "c", "3");
    })
    .await;
    let root = result.unwrap();
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "2");
    assert_eq!(fs::read_to_string(root.join("c")).unwrap(), "3");
}

#[tokio::test]
async fn a_wrong_digest_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let empty = Builder::new(Vec::new()).into_inner().unwrap();
    let mut layer = layer(directory.path(), &empty, false);
    layer.diff_id = format!("sha256:{}", "0".repeat(64));
    let layers = Layers::new(directory.path().join("layers"));
    let error = layers.ensure(&layer).await.unwrap_err();
    assert!(matches!(error, LayerError::Digest { .. }), "{error}");
    assert_eq!(
        fs::read_dir(directory.path().join("layers"))
            .unwrap()
            .count(),
        0
    );
    layer.diff_id = "sha256:../../etc".into();
    assert!(matches!(
        layers.ensure(&layer).await,
        Err(LayerError::DiffId { .. })
    ));
}

#[tokio::test]
async fn damaged_and_unknown_archives_are_errors_of_the_image() {
    let directory = tempfile::tempdir().unwrap();
    let layers = Layers::new(directory.path().join("layers"));
    let mut archive = Builder::new(Vec::new());
    file(&mut archive, "big", &"x".repeat(100_000));
    let tar = archive.into_inner().unwrap();
    let layer = layer(directory.path(), &tar, true);
    let blob = fs::read(&layer.path).unwrap();
    for (content, expected) in [
        (&blob[..blob.len() / 2], "cannot be unpacked"),
        (&b"\x28\xb5\x2f\xfd...."[..], "zstd"),
        (
            &b"no archive at all, but long enough to look at"[..],
            "layer sha256:blob",
        ),
    ] {
        fs::write(&layer.path, content).unwrap();
        let error = layers.ensure(&layer).await.unwrap_err();
        assert!(error.is_permanent(), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn concurrent_requests_unpack_once() {
    if !is_root("concurrent_requests_unpack_once") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut archive = Builder::new(Vec::new());
    file(&mut archive, "x", "y");
    let layer = layer(directory.path(), &archive.into_inner().unwrap(), false);
    let layers = Arc::new(Layers::new(directory.path().join("layers")));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (layers, layer) = (Arc::clone(&layers), layer.clone());
            tokio::spawn(async move { layers.ensure(&layer).await.unwrap() })
        })
        .collect();
    let mut inodes = Vec::new();
    for task in tasks {
        inodes.push(fs::metadata(task.await.unwrap()).unwrap().ino());
    }
    inodes.dedup();
    assert_eq!(inodes.len(), 1);
}

#[tokio::test]
async fn a_layer_that_no_image_has_goes_and_the_others_stay() {
    let directory = tempfile::tempdir().unwrap();
    let layers = Layers::new(directory.path().join("layers"));
    let mut unpacked = Vec::new();
    for name in ["a", "b"] {
        let empty = Builder::new(Vec::new()).into_inner().unwrap();
        let mut layer = layer(directory.path(), &empty, false);
        // Only the names count here.
        layer.diff_id = format!("sha256:{}", name.repeat(64));
        fs::create_dir_all(layers.path(&layer).unwrap().join("etc")).unwrap();
        unpacked.push(layer);
    }
    layers.collect(&unpacked).await.unwrap();
    assert!(
        unpacked
            .iter()
            .all(|layer| layers.path(layer).unwrap().is_dir())
    );
    layers.collect(&unpacked[..1]).await.unwrap();
    let left: Vec<bool> = unpacked
        .iter()
        .map(|layer| layers.path(layer).unwrap().is_dir())
        .collect();
    assert_eq!(left, [true, false]);
    let names = fs::read_dir(directory.path().join("layers")).unwrap();
    assert_eq!(names.count(), 1);
}

#[tokio::test]
async fn a_layer_that_is_mounted_stays_whatever_images_there_are() {
    if !is_root("a_layer_that_is_mounted_stays_whatever_images_there_are") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let layers = Layers::new(directory.path().join("layers"));
    let mut archive = Builder::new(Vec::new());
    file(&mut archive, "x", "y");
    let layer = layer(directory.path(), &archive.into_inner().unwrap(), false);
    let path = layers.ensure(&layer).await.unwrap();
    let overlay = crate::overlay::Overlay::new(directory.path().join("container"));
    if overlay.mount(std::slice::from_ref(&path)).is_err() {
        eprintln!("SKIPPED: no overlay on this file system");
        return;
    }
    layers.collect(&[]).await.unwrap();
    assert!(path.join("x").is_file());
    overlay.remove().unwrap();
    layers.collect(&[]).await.unwrap();
    assert!(!path.exists());
}
