//! Starting containers from a host with many threads.
//!
//! libcontainer forks, changes the working directory and allocates between fork and exec, so in a
//! process with threads it hangs or fails under load. The host therefore keeps a *launcher*: its
//! own binary executed anew, single-threaded, which forks a worker for each request. The worker
//! builds the container and exits; the container's first process, now an orphan, becomes a child
//! of the host, because the host is a subreaper, and the host learns its exit code from a pidfd.
//!
//! Executing anew instead of forking at start means that a launcher which died is simply started
//! again. It is executed through a detached read-only mount of the binary: a container's first
//! process *is* that binary until it executes its program, and a malicious image could otherwise
//! open `/proc/1/exe` to overwrite it (CVE-2019-5736).

mod connect;
mod keep;
pub(crate) mod message;
mod pause;
mod program;
mod serve;
pub(crate) mod spill;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{fcntl::OFlag, unistd::pipe2};
use tokio::{io::AsyncReadExt, net::unix::pipe, sync::Semaphore};

use self::{
    connect::{Process, gone},
    message::{MAX_REPLY, MAX_REQUEST, Place, REAPED, Reply, Request, Stdio, send},
};
use crate::runtime::Options;

pub use serve::main_if_launcher;

/// First argument that turns the binary into a launcher. An option, so that a test harness or
/// another binary that does not know it refuses it instead of doing something else.
const ARGUMENT: &str = "--container-launcher";

/// Workers at one time: more than the processors of a small machine only wait for each other.
const PARALLEL_REQUESTS: usize = 8;

/// Longer than the launcher gives a worker, so that its verdict arrives first.
const REPLY_TIMEOUT: Duration = Duration::from_secs(75);

/// A code with its sign is short; whoever writes more is not a launcher.
const MAX_CODE: u64 = 16;

#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    #[error("cannot start the container launcher: {0}")]
    Start(#[source] io::Error),
    #[error(
        "cannot start the container launcher: the executed program is not one; it must call \
         launcher::main_if_launcher() first in main"
    )]
    NotALauncher,
    /// Nothing about the container is known; the next request starts a new launcher.
    #[error("the container launcher ended unexpectedly; it is started again with the next request")]
    Gone,
    #[error("the container launcher did not answer within {} s", REPLY_TIMEOUT.as_secs())]
    Timeout,
    #[error("request to the container launcher: {0}")]
    Io(#[source] io::Error),
    /// The program does not exist in the image or may not be executed.
    #[error("{0}")]
    NoProgram(String),
    /// libcontainer's error.
    #[error("{0}")]
    Container(String),
}

/// The container's ends of its standard streams.
pub(crate) enum Ends {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
        /// The far end of the input, for the launcher to keep open while no host does.
        keep: Option<OwnedFd>,
    },
    /// A terminal, whose master is to be sent to this socket.
    Terminal { socket: PathBuf },
}

impl Ends {
    fn split(self) -> (Stdio, Vec<OwnedFd>) {
        match self {
            Self::Terminal { socket } => (Stdio::Terminal { socket }, Vec::new()),
            Self::Pipes {
                stdin,
                stdout,
                stderr,
                keep,
            } => {
                let stdio = Stdio::Pipes {
                    stdin: stdin.is_some(),
                    keep: keep.is_some(),
                };
                let fds = stdin.into_iter().chain([stdout, stderr]).chain(keep);
                (stdio, fds.collect())
            }
        }
    }
}

/// The host's handle; cheap to clone. When the last one is dropped, the launcher ends or, if it has
/// containers, keeps them for the next host.
#[derive(Clone)]
pub struct Launcher {
    inner: Arc<Inner>,
}

struct Inner {
    process: Mutex<Option<Process>>,
    permits: Semaphore,
    /// `None` without the privilege to run containers: the launcher ends with this host.
    place: Option<Place>,
    /// Those of other builds: connected, so that they leave output to this host.
    _earlier: Vec<Process>,
}

/// Make the host a subreaper and connect to the launcher that an earlier host left, or start one.
/// The calling binary must have called [`main_if_launcher`] first in its `main`.
pub fn start(options: &Options) -> Result<Launcher, LauncherError> {
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|errno| LauncherError::Start(errno.into()))?;
    let place = connect::place(options).map_err(LauncherError::Start)?;
    let (own, earlier) = match &place {
        Some(place) => connect::find(place).map_err(LauncherError::Start)?,
        None => (None, Vec::new()),
    };
    let process = match own {
        Some(process) => process,
        None => Process::spawn(place.as_ref())?,
    };
    Ok(Launcher {
        inner: Arc::new(Inner {
            process: Mutex::new(Some(process)),
            permits: Semaphore::new(PARALLEL_REQUESTS),
            place,
            _earlier: earlier,
        }),
    })
}

/// A program that was made: its process, and the way on which its exit code comes.
pub(crate) struct Made {
    pub(crate) pid: i32,
    pub(crate) exit: ExitCode,
}

/// Where the launcher says how a program ended.
pub(crate) struct ExitCode {
    pipe: pipe::Receiver,
    text: Vec<u8>,
}

impl ExitCode {
    /// Wait for the code, as a shell would say it; `None` if the launcher died before.
    pub(crate) async fn code(mut self) -> Option<i32> {
        let mut rest = self.pipe.take(MAX_CODE);
        rest.read_to_end(&mut self.text).await.ok()?;
        std::str::from_utf8(&self.text).ok()?.parse().ok()
    }
}

impl Launcher {
    /// Build a container.
    pub(crate) async fn create(
        &self,
        id: &str,
        bundle: &Path,
        states: &Path,
        ends: Ends,
    ) -> Result<Made, LauncherError> {
        let (stdio, fds) = ends.split();
        let request = Request::Create {
            id: id.into(),
            bundle: bundle.into(),
            states: states.into(),
            stdio,
        };
        match self.request(&request, fds).await? {
            (Reply::Created { pid }, exit) => Ok(Made { pid, exit }),
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// Execute the program in the file `process` in a running container. The answer is its process
    /// id; it is now a child of this process.
    pub(crate) async fn exec(
        &self,
        id: &str,
        states: &Path,
        process: &Path,
        ends: Ends,
    ) -> Result<Made, LauncherError> {
        let (stdio, fds) = ends.split();
        let request = Request::Exec {
            id: id.into(),
            states: states.into(),
            process: process.into(),
            stdio,
        };
        match self.request(&request, fds).await? {
            (Reply::Created { pid }, exit) => Ok(Made { pid, exit }),
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// Start the first process of a new namespace of processes, in these other namespaces. The answer
    /// is its process id; it lives until it is killed.
    pub(crate) async fn pause(&self, namespaces: Vec<PathBuf>) -> Result<i32, LauncherError> {
        let request = Request::Pause { namespaces };
        match self.request(&request, Vec::new()).await? {
            (Reply::Created { pid }, _) => Ok(pid),
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// Execute the program of a created container.
    pub(crate) async fn start(&self, id: &str, states: &Path) -> Result<(), LauncherError> {
        let request = Request::Start {
            id: id.into(),
            states: states.into(),
        };
        match self.request(&request, Vec::new()).await? {
            (Reply::Started, _) => Ok(()),
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// Let go of the input of a container: nobody will write to it any more.
    pub(crate) async fn close_input(&self, id: &str) -> Result<(), LauncherError> {
        let request = Request::CloseInput { id: id.into() };
        match self.request(&request, Vec::new()).await? {
            (Reply::Closed, _) => Ok(()),
            (reply, _) => Err(unexpected(reply)),
        }
    }

    /// Process id of the launcher, if one runs.
    pub fn pid(&self) -> Option<u32> {
        let process = self
            .inner
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        process.as_ref().map(|process| process.pid)
    }

    async fn request(
        &self,
        request: &Request,
        mut fds: Vec<OwnedFd>,
    ) -> Result<(Reply, ExitCode), LauncherError> {
        let text = serde_json::to_vec(request).map_err(|error| LauncherError::Io(error.into()))?;
        if text.len() > MAX_REQUEST {
            return Err(LauncherError::Io(io::Error::other(
                "the paths are too long",
            )));
        }
        let _permit = self
            .inner
            .permits
            .acquire()
            .await
            .map_err(|_| LauncherError::Gone)?;
        let (reader, writer) =
            pipe2(OFlag::O_CLOEXEC).map_err(|errno| LauncherError::Io(errno.into()))?;
        fds.push(writer);
        let inner = Arc::clone(&self.inner);
        // Starting a launcher again takes as long as executing a program: not on an async thread.
        tokio::task::spawn_blocking(move || inner.send(&text, &fds))
            .await
            .map_err(|error| LauncherError::Io(io::Error::other(error)))??;
        tokio::time::timeout(REPLY_TIMEOUT, read_reply(reader))
            .await
            .map_err(|_| LauncherError::Timeout)?
    }
}

fn unexpected(reply: Reply) -> LauncherError {
    match reply {
        Reply::NoProgram { message } => LauncherError::NoProgram(message),
        Reply::Failed { message } => LauncherError::Container(message),
        Reply::Created { .. } | Reply::Started | Reply::Closed => {
            LauncherError::Container("the launcher answered another question".into())
        }
    }
}

/// Read up to the mark that the worker has been reaped. End-of-file without it: the launcher died.
async fn read_reply(reader: OwnedFd) -> Result<(Reply, ExitCode), LauncherError> {
    let mut pipe = pipe::Receiver::from_owned_fd(reader).map_err(LauncherError::Io)?;
    let mut text = Vec::new();
    let end = loop {
        let read = pipe.read_buf(&mut text).await.map_err(LauncherError::Io)?;
        if let Some(end) = text.iter().position(|byte| *byte == REAPED) {
            break end;
        }
        if read == 0 || text.len() > MAX_REPLY {
            return Err(LauncherError::Gone);
        }
    };
    let rest = text.split_off(end + 1);
    text.pop();
    let exit = ExitCode { pipe, text: rest };
    if text.is_empty() {
        let message = "the worker that built the container was killed or ran out of time";
        let message = message.into();
        return Ok((Reply::Failed { message }, exit));
    }
    let reply = serde_json::from_slice(&text).map_err(|error| LauncherError::Io(error.into()))?;
    Ok((reply, exit))
}

impl Inner {
    /// Send, on a new launcher if the old one is gone.
    fn send(&self, text: &[u8], fds: &[OwnedFd]) -> Result<(), LauncherError> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut slot = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = slot.as_ref() {
            match send(process.socket.as_fd(), text, &fds) {
                Ok(()) => return Ok(()),
                Err(error) if gone(&error) => {}
                Err(error) => return Err(LauncherError::Io(error)),
            }
        }
        if let (Some(gone), Some(place)) = (slot.take(), &self.place) {
            let _ = std::fs::remove_file(place.socket(gone.pid));
        }
        let process = Process::spawn(self.place.as_ref())?;
        tracing::warn!(
            pid = process.pid,
            "the container launcher had ended; started again"
        );
        let sent = send(process.socket.as_fd(), text, &fds).map_err(LauncherError::Io);
        *slot = Some(process);
        sent
    }
}

/// The write end for an async writer and the read end for a container.
pub(crate) fn input_pipe() -> io::Result<(pipe::Sender, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((pipe::Sender::from_owned_fd(writer)?, reader))
}

/// The read end for an async reader and the write end for a container.
pub(crate) fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((pipe::Receiver::from_owned_fd(reader)?, writer))
}
