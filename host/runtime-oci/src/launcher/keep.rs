//! What the launcher keeps of containers, with a host or without: the wait for their end, the far
//! end of their input, and, while no host is there, their output.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use eyot_runtime::LogStream;
use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::Pid,
};

use super::{
    message::Place,
    spill::{PIECE, Writer},
};
use crate::{bundle, kernel};

/// A program that was made and has not ended.
pub(super) struct Kept {
    pid: Pid,
    ended: OwnedFd,
    /// Where its exit code goes, if the host is still there.
    reply: File,
    /// The container that it is the first process of.
    pub(super) container: Option<String>,
    /// The far end of its input, so that the end of a host is not the end of the input.
    pub(super) input: Option<OwnedFd>,
}

impl Kept {
    /// Take over a process that has become the launcher's child.
    pub(super) fn new(
        pid: i32,
        reply: OwnedFd,
        container: Option<String>,
        input: Option<OwnedFd>,
    ) -> io::Result<Self> {
        Ok(Self {
            pid: Pid::from_raw(pid),
            ended: kernel::pidfd_open(pid)?,
            reply: File::from(reply),
            container,
            input,
        })
    }

    pub(super) fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Reap it, and tell how it ended: on disk for a later host, and the host that asked for it.
    pub(super) fn bury(mut self, place: Option<&Place>) {
        let code = match waitpid(self.pid, None) {
            Ok(WaitStatus::Exited(_, code)) => code,
            Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
            _ => return,
        };
        if let (Some(place), Some(id)) = (place, &self.container) {
            // The bundle is gone if the container was never started.
            let _ = bundle::write_exit(&place.bundles.join(id), code);
        }
        let _ = self.reply.write_all(code.to_string().as_bytes());
    }
}

/// The output of all containers, taken while there is no host.
pub(super) struct Drain {
    /// Two launchers must not take it at once. The kernel lets go of it with the process.
    _lock: File,
    streams: Vec<Stream>,
    /// One a container.
    writers: Vec<Writer>,
}

struct Stream {
    pipe: File,
    kind: LogStream,
    writer: usize,
}

impl Drain {
    /// Begin; `None` if another launcher does it.
    pub(super) fn begin(place: &Place) -> io::Result<Option<Self>> {
        let lock = File::create(place.sockets.with_file_name("drain.lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut drain = Self {
            _lock: lock,
            streams: Vec::new(),
            writers: Vec::new(),
        };
        for entry in fs::read_dir(&place.bundles)? {
            let entry = entry?;
            drain
                .writers
                .push(Writer::new(&place.containers.join(entry.file_name())));
            let writer = drain.writers.len() - 1;
            for (kind, path) in bundle::output_pipes(&entry.path()) {
                if let Ok(pipe) = open(&path) {
                    drain.streams.push(Stream { pipe, kind, writer });
                }
            }
        }
        Ok(Some(drain))
    }

    /// What is to be watched for input, in the order that [`Self::take`] expects. Of a container
    /// of which enough is kept nothing more is taken.
    pub(super) fn pipes(&self) -> impl Iterator<Item = Option<BorrowedFd<'_>>> {
        self.streams.iter().map(|stream| {
            let full = self.writers.get(stream.writer).is_none_or(Writer::is_full);
            (!full).then(|| stream.pipe.as_fd())
        })
    }

    /// Whether every container has ended.
    pub(super) fn is_over(&self) -> bool {
        self.streams.is_empty()
    }

    /// Take what is there from each pipe for which `ready` says so; ended ones are let go.
    pub(super) fn take(&mut self, ready: &[bool]) {
        let mut ready = ready.iter().copied();
        let writers = &mut self.writers;
        self.streams.retain_mut(|stream| {
            !ready.next().unwrap_or(false)
                || writers
                    .get_mut(stream.writer)
                    .is_some_and(|writer| stream.take(writer))
        });
    }

    /// Take what is there from all, before a host takes over.
    pub(super) fn finish(mut self) {
        let all = vec![true; self.streams.len()];
        self.take(&all);
    }
}

impl Stream {
    /// Whether it can have more later.
    fn take(&mut self, writer: &mut Writer) -> bool {
        let mut piece = vec![0; PIECE];
        while !writer.is_full() {
            match self.pipe.read(&mut piece) {
                Ok(0) => return false,
                Ok(read) => {
                    let data = piece.get(..read).unwrap_or_default();
                    writer.keep(self.kind, data);
                }
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}
