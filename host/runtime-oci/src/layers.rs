//! Unpacked image layers: one directory for each, shared by all containers whose image has it.
//!
//! A layer is unpacked once, into a directory named by its `diff_id` (the digest of the
//! uncompressed archive, which is verified), in the form that overlayfs stacks: a deletion is a
//! character device 0:0, a hidden directory carries `trusted.overlay.opaque`. It is written under
//! a temporary name and renamed when complete and on disk, so a directory with the final name is
//! always whole, whatever was killed when.
//!
//! See the OCI image specification, "Image Layer Filesystem Changeset", and the kernel's
//! `Documentation/filesystems/overlayfs.rst`.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use eyot_runtime::image::Layer;
use sha2::{Digest, Sha256};

use crate::{overlay, rooted::Rooted, unpack, zstd};

/// Uncompressed size of one layer. Larger ones are archives made to fill the disk.
const MAX_LAYER_BYTES: u64 = 32 << 30;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    #[error("layer {layer}: its diff_id {diff_id:?} is not sha256:<64 hex digits>")]
    DiffId { layer: String, diff_id: String },
    #[error("layer {layer} is damaged: its content is {actual}, the image says {expected}")]
    Digest {
        layer: String,
        expected: String,
        actual: String,
    },
    #[error("layer {layer} cannot be unpacked: {reason}")]
    Content { layer: String, reason: String },
    #[error("unpacking layer {layer} into {}: {source}", path.display())]
    Io {
        layer: String,
        path: PathBuf,
        source: io::Error,
    },
}

impl LayerError {
    /// Whether trying again is of no use until the image changes.
    pub(crate) fn is_permanent(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

pub(crate) struct Layers {
    directory: PathBuf,
    /// One lock per layer being unpacked, so that concurrent requests do the work once.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Held for reading from before a layer is looked for until it is part of a mount, for writing
    /// while unused ones are removed.
    collecting: tokio::sync::RwLock<()>,
}

impl Layers {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            busy: Mutex::default(),
            collecting: tokio::sync::RwLock::default(),
        }
    }

    /// Keep all layers that are there until the guard is dropped.
    pub(crate) async fn hold(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.collecting.read().await
    }

    /// Remove the layers that are neither among `kept` nor part of a mount.
    pub(crate) async fn collect(&self, kept: &[Layer]) -> io::Result<()> {
        let names: HashSet<String> = (kept.iter())
            .filter_map(|layer| hex_of(layer).ok())
            .map(str::to_owned)
            .collect();
        let directory = self.directory.clone();
        let _alone = self.collecting.write().await;
        tokio::task::spawn_blocking(move || collect(&directory, &names))
            .await
            .map_err(io::Error::other)?
    }

    /// Where the layer is, or will be.
    pub(crate) fn path(&self, layer: &Layer) -> Result<PathBuf, LayerError> {
        Ok(self.directory.join(hex_of(layer)?))
    }

    /// Unpack the layer if it is not there yet.
    pub(crate) async fn ensure(&self, layer: &Layer) -> Result<PathBuf, LayerError> {
        let path = self.path(layer)?;
        if path.is_dir() {
            return Ok(path);
        }
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(busy.entry(layer.diff_id.clone()).or_default())
        };
        let guard = lock.lock().await;
        let result = if path.is_dir() {
            Ok(())
        } else {
            let (layer, path) = (layer.clone(), path.clone());
            let name = layer.digest.clone();
            tokio::task::spawn_blocking(move || unpack_layer(&layer, &path))
                .await
                .unwrap_or_else(|error| {
                    Err(LayerError::Content {
                        layer: name,
                        reason: error.to_string(),
                    })
                })
        };
        drop(guard);
        self.busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&layer.diff_id);
        result.map(|()| path)
    }

    /// Remove what an earlier host was unpacking when it ended.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(PARTIAL) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

const PARTIAL: &str = ".partial";

fn collect(directory: &Path, kept: &HashSet<String>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    // The kernel's own word on what is in use, also for containers that an earlier host started.
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy());
        let Some(name) = name.map(std::borrow::Cow::into_owned) else {
            continue;
        };
        // Names of 64 digits: one that is in no line is in no mount.
        if kept.contains(&name) || name.ends_with(PARTIAL) || mounts.contains(&name) {
            continue;
        }
        // By the name first, so that what is left by a host that ends here is swept by the next.
        let doomed = directory.join(format!("{name}{PARTIAL}"));
        fs::rename(&path, &doomed)?;
        fs::remove_dir_all(&doomed)?;
        tracing::info!(layer = name, "unpacked layer removed: no image has it");
    }
    Ok(())
}

fn hex_of(layer: &Layer) -> Result<&str, LayerError> {
    layer
        .diff_id
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .ok_or_else(|| LayerError::DiffId {
            layer: layer.digest.clone(),
            diff_id: layer.diff_id.clone(),
        })
}

fn unpack_layer(layer: &Layer, path: &Path) -> Result<(), LayerError> {
    let io = |source| LayerError::Io {
        layer: layer.digest.clone(),
        path: path.to_owned(),
        source,
    };
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(io)?;
    }
    path.parent()
        .map_or(Ok(()), overlay::private_directory)
        .map_err(io)?;
    fs::create_dir(&partial).map_err(io)?;
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o755)).map_err(io)?;
    let result = unpack_into(layer, &partial).and_then(|()| {
        fs::rename(&partial, path).map_err(io)?;
        path.parent()
            .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
            .map_err(io)
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    result
}

fn unpack_into(layer: &Layer, directory: &Path) -> Result<(), LayerError> {
    let io = |source| LayerError::Io {
        layer: layer.digest.clone(),
        path: directory.to_owned(),
        source,
    };
    let root = Rooted::open(directory).map_err(io)?;
    let mut archive = Hashing {
        inner: decompressed(layer)?.take(MAX_LAYER_BYTES),
        hash: Sha256::new(),
        read: 0,
    };
    unpack::unpack(&root, &mut archive).map_err(|error| match error {
        unpack::UnpackError::Archive(reason) => LayerError::Content {
            layer: layer.digest.clone(),
            reason,
        },
        unpack::UnpackError::Write { path, source } => LayerError::Io {
            layer: layer.digest.clone(),
            path,
            source,
        },
    })?;
    // The digest covers the padding after the last entry too.
    io::copy(&mut archive, &mut io::sink()).map_err(|error| LayerError::Content {
        layer: layer.digest.clone(),
        reason: error.to_string(),
    })?;
    if archive.read >= MAX_LAYER_BYTES {
        return Err(LayerError::Content {
            layer: layer.digest.clone(),
            reason: format!("it is larger than {MAX_LAYER_BYTES} bytes"),
        });
    }
    let actual = format!("sha256:{}", hex::encode(archive.hash.finalize()));
    if actual != layer.diff_id {
        return Err(LayerError::Digest {
            layer: layer.digest.clone(),
            expected: layer.diff_id.clone(),
            actual,
        });
    }
    nix::unistd::syncfs(root.root()).map_err(|errno| io(errno.into()))
}

/// The archive inside the blob. The first bytes decide, because media types are often wrong.
fn decompressed(layer: &Layer) -> Result<Box<dyn Read>, LayerError> {
    let io = |source| LayerError::Io {
        layer: layer.digest.clone(),
        path: layer.path.clone(),
        source,
    };
    let mut blob = io::BufReader::with_capacity(64 * 1024, File::open(&layer.path).map_err(io)?);
    let start = io::BufRead::fill_buf(&mut blob).map_err(io)?;
    if start.starts_with(zstd::MAGIC) {
        return Ok(Box::new(zstd::Frames::new(blob)));
    }
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(blob)));
    }
    Ok(Box::new(blob))
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
    read: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.read += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
