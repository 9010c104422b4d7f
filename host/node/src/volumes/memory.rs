//! Secrets are kept in memory, never on a disk: there is one file system in memory for those of all
//! pods, made with the host and gone with the machine.
//!
//! One mount for all costs nothing for each pod, where the kubelet has one for each volume. Without
//! root there is no such place, and they lie on disk, readable for the host's own user only.

use std::{
    io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Volume;
use nix::mount::{MsFlags, mount};

use super::{atomic, mounted};

/// What all secrets of a node may take: a Secret has 1 MiB at most, and most have some hundred bytes.
const SIZE: &str = "size=25%,mode=0750";

/// Directories of one pod's volumes.
#[derive(Debug, Clone)]
pub(crate) struct Directories {
    pub disk: PathBuf,
    /// What must not reach a disk.
    pub memory: Option<PathBuf>,
}

impl Directories {
    /// Where this volume lies, if it is one of those that lie below the pod's directories.
    pub(super) fn of(&self, volume: &Volume) -> PathBuf {
        let disk = self.disk.join(&volume.name);
        match &self.memory {
            // One that an earlier host put on disk stays where containers have it.
            Some(memory) if is_secret(volume) && !disk.is_dir() => memory.join(&volume.name),
            _ => disk,
        }
    }
}

/// Whether a volume shows what is secret, or may be. ConfigMaps are on disk, as in Kubernetes.
fn is_secret(volume: &Volume) -> bool {
    volume.secret.is_some() || volume.projected.is_some() || volume.downward_api.is_some()
}

/// Have the place for secrets at `directory`; `None` where it cannot be had. Blocking.
pub(crate) fn open(directory: &Path) -> Option<PathBuf> {
    let made = || -> io::Result<()> {
        atomic::make_directory(directory)?;
        if mounted::is_point(directory)? {
            return Ok(());
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        Ok(mount(
            Some("eyot-secrets"),
            directory,
            Some("tmpfs"),
            flags,
            Some(SIZE),
        )?)
    };
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    match made() {
        Ok(()) => Some(directory.to_owned()),
        Err(error) => {
            tracing::warn!(
                path = %directory.display(), %error,
                "no file system in memory for secrets of pods: they are kept on disk"
            );
            None
        }
    }
}

/// Take down what a host that does not run any more kept at `directory`. Blocking.
///
/// # Errors
///
/// It is in use, or not this user's.
pub fn forget(directory: &Path) -> io::Result<()> {
    mounted::remove(directory)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_lie_in_memory_and_the_rest_on_disk() {
        let root = tempfile::tempdir().unwrap();
        let directories = Directories {
            disk: root.path().join("disk"),
            memory: Some(root.path().join("memory")),
        };
        let place = |source: &str| {
            let volume = json!({ "name": "v", source: {} });
            directories.of(&serde_json::from_value(volume).unwrap())
        };
        for source in ["secret", "projected", "downwardAPI"] {
            assert_eq!(place(source), root.path().join("memory/v"), "{source}");
        }
        for source in ["configMap", "emptyDir"] {
            assert_eq!(place(source), root.path().join("disk/v"), "{source}");
        }
        std::fs::create_dir_all(root.path().join("disk/v")).unwrap();
        assert_eq!(
            place("secret"),
            root.path().join("disk/v"),
            "of an earlier host"
        );
    }
}
