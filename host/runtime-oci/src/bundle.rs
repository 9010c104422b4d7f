//! The directory of a container's bundle, beside `config.json`: what a later host needs to take the
//! container on.
//!
//! ```text
//! record.json     who it is; written once its program was executed. Without it nobody owns it
//! stdout, stderr  named pipes. The container holds both ends of them, so that it never writes to a
//!                 pipe that nobody can read from, and a later host finds what it wrote
//! stdin           named pipe, if it has an input
//! exit            its exit code, written by the launcher
//! ```

use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use eyot_runtime::{Left, LogStream, ServiceClass};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;

/// A container as its host wrote it down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) left: Left,
    pub(crate) pid: i32,
    /// When the process began, in the kernel's ticks since boot: tells it from a later one that was
    /// given the same number.
    pub(crate) began: u64,
    pub(crate) stop_signal: i32,
    pub(crate) stdin: bool,
    /// Of its pod: tells its control group.
    #[serde(default)]
    pub(crate) class: ServiceClass,
    /// See [`Identity`](crate::container::Identity).
    #[serde(default)]
    pub(crate) crowded: bool,
}

impl Record {
    /// Write it so that it is there whole or not at all.
    pub(crate) fn write(&self, bundle: &Path) -> io::Result<()> {
        replace(&bundle.join("record.json"), &serde_json::to_vec(self)?)
    }

    /// `None` if there is none that makes sense.
    pub(crate) fn read(bundle: &Path) -> Option<Self> {
        let text = fs::read(bundle.join("record.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

pub(crate) fn write_exit(bundle: &Path, code: i32) -> io::Result<()> {
    replace(&bundle.join("exit"), code.to_string().as_bytes())
}

/// The exit code, if the container has ended and its launcher saw it.
pub(crate) fn read_exit(bundle: &Path) -> Option<i32> {
    fs::read_to_string(bundle.join("exit")).ok()?.parse().ok()
}

/// Where the container's output comes from.
pub(crate) fn output_pipes(bundle: &Path) -> [(LogStream, PathBuf); 2] {
    [
        (LogStream::Stdout, bundle.join("stdout")),
        (LogStream::Stderr, bundle.join("stderr")),
    ]
}

/// Make a pipe for output: the host's end, and the container's.
pub(crate) fn make_output(path: &Path) -> io::Result<(pipe::Receiver, OwnedFd)> {
    make_pipe(path)?;
    // Both ends: see the module's documentation.
    let end = OpenOptions::new().read(true).write(true).open(path)?;
    Ok((open_output(path)?, end.into()))
}

/// The host's end of a pipe for output that is there.
pub(crate) fn open_output(path: &Path) -> io::Result<pipe::Receiver> {
    pipe::OpenOptions::new().open_receiver(path)
}

/// Make the pipe for input: the host's end, the container's, and one for the launcher.
pub(crate) fn make_input(bundle: &Path) -> io::Result<(pipe::Sender, OwnedFd, OwnedFd)> {
    let path = bundle.join("stdin");
    make_pipe(&path)?;
    let nonblocking = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)?;
    let kept = OpenOptions::new().write(true).open(&path)?;
    // Opened again without the flag, which would be the container's to wonder about.
    let end = OpenOptions::new().read(true).open(&path)?;
    drop(nonblocking);
    Ok((open_input(bundle)?, end.into(), kept.into()))
}

/// The host's end of the pipe for input; an error if the container reads from it no more.
pub(crate) fn open_input(bundle: &Path) -> io::Result<pipe::Sender> {
    pipe::OpenOptions::new().open_sender(bundle.join("stdin"))
}

/// Every user of the container may open its standard streams by name (`/dev/stdout`); outside of it
/// the directory is root's alone.
fn make_pipe(path: &Path) -> io::Result<()> {
    mkfifo(path, Mode::from_bits_truncate(0o600))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
}
