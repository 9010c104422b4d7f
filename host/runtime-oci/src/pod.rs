//! What the containers of one pod share here, without a process that holds it: the namespaces of
//! System V IPC and of the host name, and `/dev/shm`. The network namespace is the network's.
//!
//! They are made with the pod's first container and removed when the pod is released, so that a
//! segment outlives the container that made it, also when that is started again and is the only one.
//! A host that finds them and no container of the pod removes them, too.
//!
//! Only processes cannot be shared without one that is the first of them ([`PodSpace::share`]).

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::{kernel, overlay, recover};

/// As container runtimes size it.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

/// Paths of what one pod's containers share.
#[derive(Debug, Clone)]
pub(crate) struct PodSpace {
    directory: PathBuf,
}

impl PodSpace {
    /// Below `state_dir`, for the pod with this identifier.
    pub(crate) fn new(state_dir: &Path, uid: &str) -> Self {
        Self {
            directory: all(state_dir).join(uid),
        }
    }

    pub(crate) fn ipc(&self) -> PathBuf {
        self.directory.join("ipc")
    }

    pub(crate) fn uts(&self) -> PathBuf {
        self.directory.join("uts")
    }

    pub(crate) fn shm(&self) -> PathBuf {
        self.directory.join("shm")
    }

    /// Make what is not there; the pod's host name is `hostname`. Blocks. What an interrupted call
    /// left is made anew: the last step is the mark of the whole.
    pub(crate) fn ensure(&self, hostname: &str) -> io::Result<()> {
        if self.made().exists() {
            return Ok(());
        }
        self.remove()?;
        fs::create_dir_all(self.shm())?;
        let hard = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
        let (shm, options) = (self.shm(), Some(SHM_OPTIONS));
        mount(Some("shm"), &shm, Some("tmpfs"), hard, options)?;
        let (ipc, uts, hostname) = (self.ipc(), self.uts(), hostname.to_owned());
        File::create(&ipc)?;
        File::create(&uts)?;
        // A thread of its own: it is in the new namespaces for the rest of its life.
        let pinned = std::thread::spawn(move || -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?;
            // That of the thread's own namespace, which a container that joins it does not name.
            fs::write("/proc/sys/kernel/hostname", hostname)?;
            for (name, path) in [("ipc", ipc), ("uts", uts)] {
                let own = PathBuf::from(format!("/proc/thread-self/ns/{name}"));
                let none = None::<&str>;
                mount(Some(&own), &path, none, MsFlags::MS_BIND, none)?;
            }
            Ok(())
        });
        let pinned = pinned.join();
        pinned.map_err(|_| io::Error::other("the thread that makes namespaces panicked"))??;
        File::create(self.made()).map(drop)
    }

    /// Have the namespace of processes that all containers of the pod share; `start` starts its first
    /// process. Blocks. If that was killed, which ended all others, there is a new one.
    pub(crate) fn share(&self, start: impl FnOnce() -> io::Result<i32>) -> io::Result<()> {
        if self.first().is_some() {
            return Ok(());
        }
        overlay::unmount(&self.pid())?;
        let pid = start()?;
        let began = recover::began(pid)?;
        fs::write(self.first_file(), format!("{pid} {began}"))?;
        File::create(self.pid())?;
        let own = PathBuf::from(format!("/proc/{pid}/ns/pid"));
        let none = None::<&str>;
        Ok(mount(
            Some(&own),
            &self.pid(),
            none,
            MsFlags::MS_BIND,
            none,
        )?)
    }

    pub(crate) fn pid(&self) -> PathBuf {
        self.directory.join("pid")
    }

    /// The first of the shared processes, if it is there.
    fn first(&self) -> Option<OwnedFd> {
        let text = fs::read_to_string(self.first_file()).ok()?;
        let (pid, began) = text.split_once(' ')?;
        let (pid, began): (i32, u64) = (pid.parse().ok()?, began.parse().ok()?);
        // First the number, then the look whether it is still the same process.
        let open = kernel::pidfd_open(pid).ok()?;
        recover::began(pid)
            .is_ok_and(|at| at == began)
            .then_some(open)
    }

    fn first_file(&self) -> PathBuf {
        self.directory.join("first")
    }

    fn made(&self) -> PathBuf {
        self.directory.join("made")
    }

    /// Idempotent. Blocks.
    pub(crate) fn remove(&self) -> io::Result<()> {
        if let Some(first) = self.first() {
            // It ends all others of its namespace.
            kernel::pidfd_send_signal(first.as_fd(), libc::SIGKILL)?;
        }
        for path in [self.ipc(), self.uts(), self.shm(), self.pid()] {
            overlay::unmount(&path)?;
        }
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// The directory with one entry for each pod.
pub(crate) fn all(state_dir: &Path) -> PathBuf {
    state_dir.join("pods")
}
