//! Names for what a host makes outside of its data directory.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

/// One host on this machine, told apart from others by its data directory, so that two never meet
/// in `/run` or among the control groups, and a restart finds what the run before it left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance(String);

impl Instance {
    /// The host that keeps its data in `data_dir`.
    pub fn of(data_dir: &Path) -> Self {
        let absolute = data_dir
            .canonicalize()
            .or_else(|_| std::path::absolute(data_dir))
            .unwrap_or_else(|_| data_dir.to_owned());
        // The hasher without keys is the same in every run of one version, which is all that a
        // directory needs that is emptied by a reboot.
        let mut hasher = DefaultHasher::new();
        absolute.hash(&mut hasher);
        // Short: paths of sockets below must fit into 107 bytes.
        Self(format!("{:08x}", hasher.finish() >> 32))
    }

    /// Where what is worth nothing after a reboot is kept.
    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run/eyot").join(&self.0)
    }

    /// The control group above all containers of this host.
    pub fn cgroup(&self) -> String {
        format!("/eyot/{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_different_data_share_nothing() {
        let (a, b) = (
            Instance::of(Path::new("/var/lib/eyot")),
            Instance::of(Path::new("/tmp/eyot")),
        );
        assert_ne!(a.run_dir(), b.run_dir());
        assert_ne!(a.cgroup(), b.cgroup());
        assert_eq!(a, Instance::of(Path::new("/var/lib/./eyot")));
    }
}
