//! What the host and the launcher say to each other.
//!
//! Requests are one datagram each on a SEQPACKET socket: JSON, with the container's standard
//! output, standard error and a reply pipe attached as descriptors. The worker writes its JSON
//! answer to the reply pipe; when the launcher has reaped the worker, it adds [`REAPED`]. Only
//! then may the host wait for the container's process: before, the kernel has not yet made it the
//! host's child. (End-of-file cannot carry that news, because the container's own process holds a
//! copy of the pipe until it executes its program.)

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

/// The longest error text that is worth showing in a container's status.
pub(super) const MAX_REPLY: usize = 16 * 1024;

/// Ends a reply. Never part of JSON, which escapes control characters.
pub(super) const REAPED: u8 = 0x04;

/// First datagram from the launcher: it understood that it is one.
pub(super) const READY: &[u8] = b"ready";

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Build the container up to the point where its program would be executed.
    Create {
        id: String,
        bundle: PathBuf,
        states: PathBuf,
    },
    /// Execute the program of a created container.
    Start { id: String, states: PathBuf },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Process identifier, in the host's namespace, of the container's first process.
    Created {
        pid: i32,
    },
    Started,
    /// The program does not exist or may not be executed.
    NoProgram {
        message: String,
    },
    Failed {
        message: String,
    },
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
pub(super) fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut data = vec![0; MAX_REQUEST];
    let mut control = nix::cmsg_space!([RawFd; 3]);
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
