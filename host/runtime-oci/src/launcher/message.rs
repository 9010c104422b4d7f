//! What the host and the launcher say to each other.
//!
//! Requests are one datagram each on a SEQPACKET socket: JSON, with the program's standard streams
//! and a reply pipe attached as descriptors. When the launcher has reaped the worker, it sends the
//! worker's JSON answer through the reply pipe, and [`REAPED`]. The pipe stays open for as long as
//! the program runs that was made; then its exit code follows, in decimal digits, and the end. An
//! end without a code means that the launcher died, not the program.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::PathBuf,
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};

/// A request holds three paths and an identifier: this is ample, and a SEQPACKET socket takes it
/// in one piece.
pub(super) const MAX_REQUEST: usize = 32 * 1024;

/// Three streams, the far end of the input, and the reply pipe.
const MAX_FDS: usize = 5;

/// The longest error text that is worth showing in a container's status.
pub(super) const MAX_REPLY: usize = 16 * 1024;

/// Ends a reply. Never part of JSON, which escapes control characters.
pub(super) const REAPED: u8 = 0x04;

/// First datagram from the launcher to each host that connects: it understood that it is one, and
/// keeps its hands off the output of containers from now on. Its process id follows in digits.
pub(super) const READY: &[u8] = b"ready ";

/// What a launcher is told on its command line about the host that it serves, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Which build of the program the launcher is; a newer host starts one of its own.
    pub build: String,
    /// Directory of the sockets by which later hosts reach it.
    pub sockets: PathBuf,
    /// Directories of containers: configuration, pipes and exit code.
    pub bundles: PathBuf,
    /// Directories of containers: what is large, such as output that no host took.
    pub containers: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Build the container up to the point where its program would be executed.
    Create {
        id: String,
        bundle: PathBuf,
        states: PathBuf,
        stdio: Stdio,
    },
    /// Execute the program of a created container.
    Start { id: String, states: PathBuf },
    /// Close the input of a container that was started with one.
    CloseInput { id: String },
    /// Start the first process of a new namespace of processes, in these other namespaces.
    Pause { namespaces: Vec<PathBuf> },
    /// Execute another program in a container that runs.
    Exec {
        id: String,
        states: PathBuf,
        /// File with the program as an OCI `process`.
        process: PathBuf,
        stdio: Stdio,
    },
}

/// What a program's standard streams are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Stdio {
    /// The descriptors that come with the request: input if there is one, output, error; and with
    /// `keep` the far end of the input, which the launcher keeps open.
    Pipes { stdin: bool, keep: bool },
    /// A new terminal, whose master is sent to this socket.
    Terminal { socket: PathBuf },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Process identifier, in the host's namespace, of the container's first process, or of the
    /// program that was executed in it.
    Created {
        pid: i32,
    },
    Started,
    Closed,
    /// The program does not exist or may not be executed.
    NoProgram {
        message: String,
    },
    Failed {
        message: String,
    },
}

impl Place {
    /// The socket of the launcher with that process id.
    pub(super) fn socket(&self, pid: u32) -> PathBuf {
        self.sockets.join(format!("{}-{pid}.sock", self.build))
    }
}

/// Send one datagram with descriptors; never blocks.
pub(super) fn send(socket: BorrowedFd<'_>, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(data)],
        control,
        flags,
        None,
    )?;
    Ok(())
}

/// Receive one datagram with its descriptors; empty data means that the other side is gone.
pub(crate) fn receive(socket: &impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut data = vec![0; MAX_REQUEST];
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(&mut data)];
    let received = recvmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            fds.extend(raw.into_iter().map(own));
        }
    }
    let length = received.bytes;
    if received.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::other("the request is too long"));
    }
    data.truncate(length);
    Ok((data, fds))
}

#[expect(
    unsafe_code,
    reason = "descriptors received over a socket come as plain numbers"
)]
fn own(raw: RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the kernel just installed this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
