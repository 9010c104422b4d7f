//! Volumes of a pod: directories of this machine, filled before its containers start and kept current
//! while they run.
//!
//! | volume | where it lies |
//! |---|---|
//! | `emptyDir` | below the pod's directory, on disk or as a file system in memory |
//! | `configMap` | below the pod's directory ([`atomic`]), [`refresh`]ed |
//! | `secret`, `downwardAPI`, `projected` | the same, in [`memory`] |
//! | `image` | below the pod's directory, mounted by the runtime ([`images`]) |
//! | `hostPath` | where it says |
//! | `persistentVolumeClaim`, `ephemeral` | where the PersistentVolume says, `local` or `hostPath` ([`claim`]) |
//!
//! What lies below the pod's directory goes with the pod ([`mounted::remove`]); nothing else is ever
//! mounted in there but parts of volumes ([`sub_path`]). Setting up is idempotent: a host that is
//! started again finds its volumes and leaves what containers wrote.

mod atomic;
pub(crate) mod claim;
pub(crate) mod empty_dir;
mod host_path;
pub(crate) mod images;
pub(crate) mod memory;
pub(crate) mod mounted;
mod mounts;
pub(crate) mod objects;
mod options;
mod payload;
pub(crate) mod refresh;
mod sub_path;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Pod, Volume};

use self::{
    claim::{Backing, Backings},
    payload::From,
};
pub(crate) use self::{
    memory::Directories,
    mounts::mounts,
    payload::{sources, tokens},
};
use crate::{
    env::{Facts, Sources},
    ownership,
};

/// Why a volume cannot be set up. Shown in a `FailedMount` event, mostly in the kubelet's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
    SetUp { volume: String, reason: String },
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {path}: {error}")]
    Io {
        volume: String,
        path: PathBuf,
        error: io::Error,
    },
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], \
         failed to process volumes=[{volume}]: error processing PVC {claim}: {reason}"
    )]
    Claim {
        volume: String,
        claim: String,
        reason: String,
    },
    #[error("failed to prepare subPath for volumeMount \"{volume}\": {reason}")]
    SubPath { volume: String, reason: String },
    #[error("container \"{container}\" mounts volume \"{volume}\", which the pod does not have")]
    Unknown { container: String, volume: String },
}

/// Where the volumes of a pod are, by name.
pub(crate) type Places = BTreeMap<String, Place>;

/// One volume that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub path: PathBuf,
    /// Never writable, whatever the mount says: it mirrors an object of the API, or the claim says so.
    pub read_only: bool,
}

/// Set up all volumes of `pod` below its directories. Blocking.
pub(crate) fn set_up(
    pod: &Pod,
    directories: &Directories,
    sources: &Sources,
    facts: &Facts,
    backings: &Backings,
) -> Result<Places, VolumeError> {
    let group = Group::of(pod);
    let from = From {
        pod,
        sources,
        facts,
    };
    let mut places = Places::new();
    for volume in payload::volumes(pod) {
        let path = directories.of(volume);
        let fails = |reason: String| set_up_failed(&volume.name, reason);
        let place = if let Some(source) = &volume.host_path {
            let type_ = source.type_.as_deref().unwrap_or_default();
            host_path::check(&source.path, type_).map_err(fails)?;
            Place {
                path: PathBuf::from(&source.path),
                read_only: false,
            }
        } else if let Some(source) = &volume.empty_dir {
            empty_dir::set_up(pod, source, &path, facts.node_memory).map_err(fails)?;
            give(group.as_ref(), volume, &path, false)?;
            Place {
                path,
                read_only: false,
            }
        } else if let Some(backing) = backings.get(&volume.name) {
            claimed(volume, backing, &path, group.as_ref())?
        } else if volume.image.is_some() {
            // It was mounted there, or the pod would not have come so far.
            Place {
                path,
                read_only: true,
            }
        } else if payload::is_written(volume) {
            write(volume, &path, &from, group.as_ref())?;
            Place {
                path,
                read_only: true,
            }
        } else {
            return Err(fails(
                "this kind of volume is not supported by this node: use emptyDir, configMap, \
                 secret, downwardAPI, projected, image, hostPath or persistentVolumeClaim"
                    .to_owned(),
            ));
        };
        places.insert(volume.name.clone(), place);
    }
    Ok(places)
}

/// Bring what volumes show of the API up to date. Those that can be are, also if others cannot.
/// Blocking.
pub(crate) fn update(
    pod: &Pod,
    directories: &Directories,
    sources: &Sources,
    facts: &Facts,
) -> Result<(), VolumeError> {
    let group = Group::of(pod);
    let from = From {
        pod,
        sources,
        facts,
    };
    let mut first = Ok(());
    for volume in payload::volumes(pod).filter(|volume| payload::is_written(volume)) {
        let path = directories.of(volume);
        // Only what was set up: the directory goes when the pod does.
        if path.is_dir() {
            let written = write(volume, &path, &from, group.as_ref());
            first = first.and(written);
        }
    }
    first
}

fn write(
    volume: &Volume,
    path: &Path,
    from: &From<'_>,
    group: Option<&Group>,
) -> Result<(), VolumeError> {
    let files =
        payload::files(volume, from).map_err(|reason| set_up_failed(&volume.name, reason))?;
    let own = |new: &Path| group.map_or(Ok(()), |group| group.give(new, true));
    let written = atomic::write(path, &files, own);
    written.map_err(|error| VolumeError::Io {
        volume: volume.name.clone(),
        path: path.to_owned(),
        error,
    })?;
    give(group, volume, path, true)
}

fn claimed(
    volume: &Volume,
    backing: &Backing,
    place: &Path,
    group: Option<&Group>,
) -> Result<Place, VolumeError> {
    let fails = |reason: String| set_up_failed(&backing.name, reason);
    match &backing.host_path {
        // As a `hostPath` of the pod itself: the machine's, and nobody's group.
        Some(type_) => {
            let path = backing.path.to_string_lossy();
            host_path::check(&path, type_).map_err(fails)?;
        }
        None => {
            let found = fs::metadata(&backing.path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => fails(format!(
                    "path \"{}\" does not exist",
                    backing.path.display()
                )),
                _ => fails(format!("{}: {error}", backing.path.display())),
            })?;
            if !found.is_dir() {
                let path = backing.path.display();
                return Err(fails(format!("path \"{path}\" is not a directory")));
            }
            if !backing.read_only {
                give(group, volume, &backing.path, false)?;
            }
        }
    }
    let path = match backing.options.is_empty() {
        true => backing.path.clone(),
        false => {
            options::bind(&backing.path, place, &backing.options).map_err(fails)?;
            place.to_owned()
        }
    };
    Ok(Place {
        path,
        read_only: backing.read_only,
    })
}

fn set_up_failed(volume: &str, reason: String) -> VolumeError {
    VolumeError::SetUp {
        volume: volume.to_owned(),
        reason,
    }
}

/// The group that a pod's volumes are given to: its `fsGroup`.
struct Group {
    id: i64,
    on_root_mismatch: bool,
}

impl Group {
    fn of(pod: &Pod) -> Option<Self> {
        let context = pod.spec.as_ref()?.security_context.as_ref()?;
        let policy = context.fs_group_change_policy.as_deref();
        Some(Self {
            id: context.fs_group?,
            on_root_mismatch: policy == Some("OnRootMismatch"),
        })
    }

    fn give(&self, path: &Path, read_only: bool) -> io::Result<()> {
        let group = u32::try_from(self.id)
            .map_err(|_| io::Error::other(format!("fsGroup {} is out of range", self.id)))?;
        ownership::give(path, group, read_only, self.on_root_mismatch)
    }
}

fn give(
    group: Option<&Group>,
    volume: &Volume,
    path: &Path,
    read_only: bool,
) -> Result<(), VolumeError> {
    let given = group.map_or(Ok(()), |group| group.give(path, read_only));
    given.map_err(|error| set_up_failed(&volume.name, format!("applyFSGroup failed: {error}")))
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
