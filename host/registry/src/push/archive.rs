//! OCI layouts and archives: of directories, of tar files, and what `docker save` writes.

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::json;

use super::artifact::{
    Artifact, ArtifactError, Blob, GZIP, Kind, ManifestFile, Named, Slice, Source, is_tar,
};
use crate::{
    content::MANIFEST_LIMIT,
    manifest::{Content, Descriptor, Manifest, OCI_INDEX, OCI_MANIFEST},
    name::Digest,
};

/// Entries of an archive: far beyond real images, and a bound to what a strange one can cost.
const ENTRIES: usize = 100_000;
/// Indexes within indexes.
const INDEX_DEPTH: usize = 4;
/// Largest unpacked archive.
const UNPACKED_LIMIT: u64 = 64 * 1024 * 1024 * 1024;

/// An OCI layout in a directory: all images in it, with their names.
pub(super) fn directory(path: &Path) -> Result<Vec<Named>, ArtifactError> {
    let files = Files {
        path: path.to_owned(),
        entries: None,
    };
    if files.find("index.json")?.is_none() {
        let found = "a directory without index.json".to_owned();
        return Err(ArtifactError::Unknown {
            path: path.to_owned(),
            found,
        });
    }
    layout(&files, Kind::OciLayout)
}

/// A tar archive of either kind, in `file`; `path` is what the user called it.
pub(super) fn tar(path: &Path, file: &Path) -> Result<Vec<Named>, ArtifactError> {
    let entries =
        index(file).map_err(|error| damaged(path, format!("as a tar archive, {error}")))?;
    let files = Files {
        path: path.to_owned(),
        entries: Some(entries),
    };
    // What newer docker saves is both; the layout keeps the digests as they were.
    if files.find("index.json")?.is_some() {
        return layout(&files, Kind::OciArchive);
    }
    if files.find("manifest.json")?.is_some() {
        return docker(&files);
    }
    let found = "a tar archive without index.json and manifest.json".to_owned();
    Err(ArtifactError::Unknown {
        path: path.to_owned(),
        found,
    })
}

/// A compressed archive, unpacked into a temporary file.
pub(super) fn gzip(path: &Path) -> Result<Vec<Named>, ArtifactError> {
    let read = |source| ArtifactError::Read {
        path: path.to_owned(),
        source,
    };
    let mut unpacked = tempfile::NamedTempFile::new().map_err(read)?;
    let mut source = io::Read::take(
        GzDecoder::new(File::open(path).map_err(read)?),
        UNPACKED_LIMIT,
    );
    io::copy(&mut source, &mut unpacked)
        .map_err(|error| damaged(path, format!("unpacking it failed: {error}")))?;
    let mut start = Vec::new();
    let slice = Slice::whole(unpacked.path()).map_err(read)?;
    io::Read::read_to_end(
        &mut io::Read::take(slice.open().map_err(read)?, 512),
        &mut start,
    )
    .map_err(read)?;
    if !is_tar(&start) {
        let found = "compressed, and not a tar archive inside".to_owned();
        return Err(ArtifactError::Unknown {
            path: path.to_owned(),
            found,
        });
    }
    let mut all = tar(path, unpacked.path())?;
    let unpacked = Arc::new(unpacked);
    for named in &mut all {
        named.artifact._unpacked = Some(unpacked.clone());
    }
    Ok(all)
}

fn damaged(path: &Path, reason: String) -> ArtifactError {
    ArtifactError::Damaged {
        path: path.to_owned(),
        reason,
    }
}

/// A directory, or the entries of a tar archive.
struct Files {
    path: PathBuf,
    entries: Option<HashMap<String, Slice>>,
}

impl Files {
    fn find(&self, name: &str) -> Result<Option<Slice>, ArtifactError> {
        if let Some(entries) = &self.entries {
            return Ok(entries.get(name).cloned());
        }
        match Slice::whole(&self.path.join(name)) {
            Ok(slice) => Ok(Some(slice)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ArtifactError::Read {
                path: self.path.join(name),
                source,
            }),
        }
    }

    fn need(&self, name: &str) -> Result<Slice, ArtifactError> {
        self.find(name)?
            .ok_or_else(|| damaged(&self.path, format!("{name} is missing")))
    }

    /// A small file in whole.
    fn read(&self, name: &str) -> Result<Vec<u8>, ArtifactError> {
        let slice = self.need(name)?;
        slice
            .read(MANIFEST_LIMIT)
            .map_err(|error| damaged(&self.path, format!("{name}: {error}")))
    }
}

/// Where the entries of a tar archive are.
fn index(file: &Path) -> io::Result<HashMap<String, Slice>> {
    let mut entries = HashMap::new();
    let mut links = Vec::new();
    let total = std::fs::metadata(file)?.len();
    let mut archive = tar::Archive::new(File::open(file)?);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entries.len() >= ENTRIES {
            return Err(io::Error::other(format!(
                "it has more than {ENTRIES} entries"
            )));
        }
        let name = entry
            .path()?
            .to_string_lossy()
            .trim_start_matches("./")
            .to_owned();
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let (offset, length) = (entry.raw_file_position(), entry.size());
            if offset.saturating_add(length) > total {
                return Err(io::Error::other(format!("it is truncated within {name}")));
            }
            entries.insert(
                name,
                Slice {
                    path: file.to_owned(),
                    offset,
                    length,
                },
            );
        } else if let (true, Some(target)) =
            (kind.is_symlink() || kind.is_hard_link(), entry.link_name()?)
        {
            links.push((
                name,
                kind.is_symlink(),
                target.to_string_lossy().into_owned(),
            ));
        }
    }
    // A layer that two images share is a link in what docker wrote for long.
    for (name, relative, target) in links {
        let base = name.rsplit_once('/').map_or("", |(base, _)| base);
        let target = if relative {
            resolve(base, &target)
        } else {
            target
        };
        if let Some(slice) = entries.get(target.trim_start_matches("./")).cloned() {
            entries.insert(name, slice);
        }
    }
    Ok(entries)
}

fn resolve(base: &str, target: &str) -> String {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn layout(files: &Files, kind: Kind) -> Result<Vec<Named>, ArtifactError> {
    let bytes = files.read("index.json")?;
    let index = parse(files, "index.json", Some(OCI_INDEX), &bytes)?;
    let Content::Index { manifests } = index.content else {
        return Err(damaged(&files.path, "index.json is no index".to_owned()));
    };
    if manifests.is_empty() {
        return Err(damaged(&files.path, "index.json lists no image".to_owned()));
    }
    let mut found: Vec<Named> = Vec::new();
    for root in &manifests {
        let digest = root.digest.parse::<Digest>().ok();
        let names = layout_names(root);
        // One image with several names is listed once for each.
        let known = found
            .iter_mut()
            .find(|named| named.artifact.digest() == digest.as_ref());
        if let Some(known) = known {
            known.names.extend(names);
            continue;
        }
        let mut artifact = Artifact {
            kind,
            blobs: vec![],
            manifests: vec![],
            _unpacked: None,
        };
        gather(files, root, INDEX_DEPTH, &mut artifact)?;
        found.push(Named { names, artifact });
    }
    Ok(found)
}

/// The names in a layout: containerd writes whole ones beside the specification's, which may be a tag
/// alone.
fn layout_names(descriptor: &Descriptor) -> Vec<String> {
    let annotations = descriptor.annotations.as_ref();
    let name = |key: &str| annotations.and_then(|all| all.get(key)).cloned();
    name("io.containerd.image.name")
        .or_else(|| name("org.opencontainers.image.ref.name"))
        .into_iter()
        .collect()
}

/// Add a manifest after everything that it refers to.
fn gather(
    files: &Files,
    descriptor: &Descriptor,
    depth: usize,
    into: &mut Artifact,
) -> Result<(), ArtifactError> {
    let (digest, name) = locate(files, descriptor)?;
    if into
        .manifests
        .iter()
        .any(|manifest| manifest.digest == digest)
    {
        return Ok(());
    }
    let bytes = files.read(&name)?;
    let found = Digest::of_with(digest.algorithm(), &bytes);
    if found != digest {
        return Err(damaged(
            &files.path,
            format!("{name} has the digest {found}"),
        ));
    }
    let manifest = parse(files, &name, Some(&descriptor.media_type), &bytes)?;
    match &manifest.content {
        Content::Index { .. } if depth == 0 => {
            let reason = format!("more than {INDEX_DEPTH} indexes within each other");
            return Err(damaged(&files.path, reason));
        }
        Content::Index { manifests } => {
            for child in manifests {
                gather(files, child, depth - 1, into)?;
            }
        }
        Content::Image { config, layers } => {
            for blob in layers
                .iter()
                .filter(|l| l.urls.is_empty())
                .chain([config.as_ref()])
            {
                add(files, blob, into)?;
            }
        }
    }
    let media_type = manifest.media_type;
    into.manifests.push(ManifestFile {
        digest,
        media_type,
        bytes: bytes.into(),
    });
    Ok(())
}

fn add(files: &Files, descriptor: &Descriptor, into: &mut Artifact) -> Result<(), ArtifactError> {
    let (digest, name) = locate(files, descriptor)?;
    if into.blobs.iter().any(|blob| blob.digest == digest) {
        return Ok(());
    }
    let slice = files.need(&name)?;
    if slice.length != descriptor.size {
        let (found, expected) = (slice.length, descriptor.size);
        let reason = format!("{name} has {found} bytes instead of {expected}: it is truncated");
        return Err(damaged(&files.path, reason));
    }
    into.blobs.push(Blob {
        digest,
        size: slice.length,
        source: Source::Slice(slice),
    });
    Ok(())
}

fn locate(files: &Files, descriptor: &Descriptor) -> Result<(Digest, String), ArtifactError> {
    let digest: Digest = descriptor
        .digest
        .parse()
        .map_err(|error| damaged(&files.path, format!("{error}")))?;
    let name = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
    Ok((digest, name))
}

fn parse(
    files: &Files,
    place: &str,
    media_type: Option<&str>,
    bytes: &[u8],
) -> Result<Manifest, ArtifactError> {
    Manifest::parse(media_type, bytes).map_err(|source| ArtifactError::Manifest {
        path: files.path.clone(),
        place: place.to_owned(),
        source,
    })
}

/// One image in the `manifest.json` of a docker archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn docker(files: &Files) -> Result<Vec<Named>, ArtifactError> {
    let saved: Vec<Saved> = serde_json::from_slice(&files.read("manifest.json")?)
        .map_err(|error| damaged(&files.path, format!("manifest.json: {error}")))?;
    if saved.is_empty() {
        let reason = "manifest.json lists no image".to_owned();
        return Err(damaged(&files.path, reason));
    }
    let named = |saved: Saved| {
        Ok(Named {
            artifact: saved_image(files, &saved)?,
            names: saved.repo_tags.unwrap_or_default(),
        })
    };
    saved.into_iter().map(named).collect()
}

fn saved_image(files: &Files, saved: &Saved) -> Result<Artifact, ArtifactError> {
    let config = Blob::of_bytes(files.read(&saved.config)?);
    let mut blobs: Vec<Blob> = Vec::new();
    let mut layers = Vec::new();
    for name in &saved.layers {
        let slice = files.need(name)?;
        let failed = |error: io::Error| damaged(&files.path, format!("{name}: {error}"));
        let (digest, size) = (slice.digest().map_err(failed)?, slice.length);
        let mut start = [0; 2];
        let compressed = io::Read::read_exact(&mut slice.open().map_err(failed)?, &mut start)
            .is_ok()
            && start == GZIP;
        let suffix = if compressed { "+gzip" } else { "" };
        layers.push(json!({
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
            "digest": digest.to_string(),
            "size": size,
        }));
        if !blobs.iter().any(|blob| blob.digest == digest) {
            blobs.push(Blob {
                digest,
                size,
                source: Source::Slice(slice),
            });
        }
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.digest.to_string(),
            "size": config.size,
        },
        "layers": layers,
    });
    blobs.push(config);
    let bytes = Bytes::from(manifest.to_string());
    let manifest = ManifestFile {
        digest: Digest::of(&bytes),
        media_type: OCI_MANIFEST.to_owned(),
        bytes,
    };
    Ok(Artifact {
        kind: Kind::DockerArchive,
        blobs,
        manifests: vec![manifest],
        _unpacked: None,
    })
}
