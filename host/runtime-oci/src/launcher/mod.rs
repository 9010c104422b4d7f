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

pub(crate) mod message;
mod program;
mod serve;

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{self, Child, Command},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, SockFlag, SockType, socketpair},
    unistd::pipe2,
};
use tokio::{io::AsyncReadExt, net::unix::pipe, sync::Semaphore};

use self::message::{MAX_REPLY, MAX_REQUEST, READY, REAPED, Reply, Request, Stdio, receive, send};
use crate::kernel;

pub use serve::main_if_launcher;

/// First argument that turns the binary into a launcher. An option, so that a test harness or
/// another binary that does not know it refuses it instead of doing something else.
const ARGUMENT: &str = "--container-launcher";

/// Workers at one time: more than the processors of a small machine only wait for each other.
const PARALLEL_REQUESTS: usize = 8;

/// Longer than the launcher gives a worker, so that its verdict arrives first.
const REPLY_TIMEOUT: Duration = Duration::from_secs(75);

/// A fresh launcher has nothing to do but say that it is there.
const READY_TIMEOUT_MILLIS: u16 = 10_000;

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
            } => {
                let stdio = Stdio::Pipes {
                    stdin: stdin.is_some(),
                };
                (stdio, stdin.into_iter().chain([stdout, stderr]).collect())
            }
        }
    }
}

/// The host's handle; cheap to clone. The launcher ends when the last one is dropped.
#[derive(Clone)]
pub struct Launcher {
    inner: Arc<Inner>,
}

struct Inner {
    process: Mutex<Option<Process>>,
    permits: Semaphore,
}

struct Process {
    socket: OwnedFd,
    child: Child,
}

/// Make the host the subreaper and start the launcher. The calling binary must have called
/// [`main_if_launcher`] first in its `main`.
pub fn start() -> Result<Launcher, LauncherError> {
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|errno| LauncherError::Start(errno.into()))?;
    let process = Process::spawn()?;
    Ok(Launcher {
        inner: Arc::new(Inner {
            process: Mutex::new(Some(process)),
            permits: Semaphore::new(PARALLEL_REQUESTS),
        }),
    })
}

impl Launcher {
    /// Build a container. The answer is the process id of its first process, which is now a child
    /// of this process.
    pub(crate) async fn create(
        &self,
        id: &str,
        bundle: &Path,
        states: &Path,
        ends: Ends,
    ) -> Result<i32, LauncherError> {
        let (stdio, fds) = ends.split();
        let request = Request::Create {
            id: id.into(),
            bundle: bundle.into(),
            states: states.into(),
            stdio,
        };
        match self.request(&request, fds).await? {
            Reply::Created { pid } => Ok(pid),
            reply => Err(unexpected(reply)),
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
    ) -> Result<i32, LauncherError> {
        let (stdio, fds) = ends.split();
        let request = Request::Exec {
            id: id.into(),
            states: states.into(),
            process: process.into(),
            stdio,
        };
        match self.request(&request, fds).await? {
            Reply::Created { pid } => Ok(pid),
            reply => Err(unexpected(reply)),
        }
    }

    /// Execute the program of a created container.
    pub(crate) async fn start(&self, id: &str, states: &Path) -> Result<(), LauncherError> {
        let request = Request::Start {
            id: id.into(),
            states: states.into(),
        };
        match self.request(&request, Vec::new()).await? {
            Reply::Started => Ok(()),
            reply => Err(unexpected(reply)),
        }
    }

    /// Process id of the launcher, if one runs.
    pub fn pid(&self) -> Option<u32> {
        let process = self
            .inner
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        process.as_ref().map(|process| process.child.id())
    }

    async fn request(
        &self,
        request: &Request,
        mut fds: Vec<OwnedFd>,
    ) -> Result<Reply, LauncherError> {
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
        Reply::Created { .. } | Reply::Started => {
            LauncherError::Container("the launcher answered another question".into())
        }
    }
}

/// Read up to the mark that the worker has been reaped. End-of-file without it: the launcher died.
async fn read_reply(reader: OwnedFd) -> Result<Reply, LauncherError> {
    let mut reader = pipe::Receiver::from_owned_fd(reader).map_err(LauncherError::Io)?;
    let mut text = Vec::new();
    loop {
        let read = reader
            .read_buf(&mut text)
            .await
            .map_err(LauncherError::Io)?;
        if text.last() == Some(&REAPED) {
            text.pop();
            break;
        }
        if read == 0 || text.len() > MAX_REPLY {
            return Err(LauncherError::Gone);
        }
    }
    if text.is_empty() {
        let message = "the worker that built the container was killed or ran out of time";
        return Ok(Reply::Failed {
            message: message.into(),
        });
    }
    serde_json::from_slice(&text).map_err(|error| LauncherError::Io(error.into()))
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
        drop(slot.take());
        let process = Process::spawn()?;
        tracing::warn!(
            pid = process.child.id(),
            "the container launcher had ended; started again"
        );
        let sent = send(process.socket.as_fd(), text, &fds).map_err(LauncherError::Io);
        *slot = Some(process);
        sent
    }
}

fn gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionReset | ConnectionRefused | NotConnected
    )
}

impl Process {
    fn spawn() -> Result<Self, LauncherError> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|errno| LauncherError::Start(errno.into()))?;
        let view = match kernel::read_only_view(Path::new("/proc/self/exe")) {
            Ok(view) => Some(view),
            Err(error) => {
                tracing::debug!(%error, "no read-only view of the binary; executing it directly");
                None
            }
        };
        let program = match &view {
            Some(view) => format!("/proc/self/fd/{}", view.as_raw_fd()),
            None => "/proc/self/exe".to_owned(),
        };
        // A process group of its own: Ctrl-C in the host's terminal is the host's to handle. No
        // environment: nothing of the host's reaches a container by accident.
        let mut child = Command::new(program)
            .arg(ARGUMENT)
            .env_clear()
            .stdin(process::Stdio::from(theirs))
            .stdout(process::Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(LauncherError::Start)?;
        if is_ready(&ours).map_err(LauncherError::Start)? {
            return Ok(Self {
                socket: ours,
                child,
            });
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(LauncherError::NotALauncher)
    }
}

fn is_ready(socket: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(READY_TIMEOUT_MILLIS))? == 0 {
        return Ok(false);
    }
    match receive(socket) {
        Ok((data, _)) => Ok(data == READY),
        Err(error) if gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The launcher ends when it sees the socket closed. Waiting for that here could block on a
        // worker, so it is killed: a worker already under way finishes by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
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
