//! How a process ended that this one may not be the parent of.
//!
//! A container's parent is the launcher that made it. If that died, its processes have become
//! children of the host that started it, or, if that has died too, of the machine's first process.
//! So there are three who may know: the kernel, for a child; the launcher, in the bundle; and the
//! kernel, for anybody who watches, if it is a new one.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::{bundle, kernel};

/// A launcher writes the code down within milliseconds of the end, on a busy machine within a
/// second.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(5);

/// Wait for the process behind a pidfd and say its exit code as a shell would. `bundle` is the one
/// of the container whose first process it is.
pub(crate) async fn ended(pidfd: Arc<OwnedFd>, bundle: Option<&Path>) -> io::Result<i32> {
    let watched = kernel::watch(Arc::clone(&pidfd))?;
    let _ready = watched.readable().await?;
    let looking = async {
        loop {
            if let Some(code) = look(&pidfd, bundle) {
                return code;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    found.map_err(|_| io::Error::other("nobody knows how the process ended"))
}

fn look(pidfd: &OwnedFd, bundle: Option<&Path>) -> Option<i32> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    match waitid(Id::PIDFd(pidfd.as_fd()), flags) {
        Ok(WaitStatus::Exited(_, code)) => return Some(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => return Some(128 + signal as i32),
        // Not our child.
        _ => {}
    }
    if let Some(code) = bundle.and_then(bundle::read_exit) {
        return Some(code);
    }
    let status = kernel::pidfd_exit_status(pidfd.as_fd()).ok()?;
    Some(match status & 0x7f {
        0 => status >> 8 & 0xff,
        signal => 128 + signal,
    })
}
