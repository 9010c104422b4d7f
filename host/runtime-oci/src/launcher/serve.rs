//! The launcher process: single-threaded from its first to its last instruction.
//!
//! It forks one worker for each request and, beside that, only waits: for workers, for the programs
//! that they made, and, while no host is connected, for the output of containers ([`super::keep`]).
//! So it never holds a lock that a fork could copy, and what libcontainer does to a process
//! (working directory, dumpable flag, out-of-memory score) dies with the worker. A worker that hangs
//! is killed. Without a host and without containers the launcher ends.
#![expect(
    unsafe_code,
    reason = "fork: this process has one thread, which is checked at start"
)]

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    syscall::syscall::SyscallType,
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket,
        },
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork, pipe2},
};

use super::{
    ARGUMENT,
    keep::{Drain, Kept},
    message::{MAX_REPLY, Place, READY, REAPED, Reply, Request, Stdio, receive, send},
    pause,
    program::{MARK, Program},
};
use crate::kernel;

/// Hosts that connect at one time: one, and one that replaces it.
const WAITING_HOSTS: i32 = 4;

/// How soon to look again whether another launcher has stopped taking output.
const DRAIN_AGAIN: Duration = Duration::from_secs(1);

/// Far above what creating a container takes on a slow disk; past it the worker is stuck.
const WORKER_TIMEOUT: Duration = Duration::from_secs(60);

/// Become the launcher if this process was started as one, and never return; otherwise return at
/// once. Every binary that calls [`super::start`] must call this first in `main`, before a thread
/// or an async runtime exists.
#[expect(
    clippy::disallowed_methods,
    reason = "the launcher's own process ends, not the host"
)]
pub fn main_if_launcher() {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_none_or(|argument| argument != ARGUMENT) {
        return;
    }
    match serve() {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            let _ = writeln!(io::stderr(), "container launcher: {error}");
            std::process::exit(1)
        }
    }
}

struct Worker {
    pid: Pid,
    ended: OwnedFd,
    /// What it answers.
    answer: File,
    /// Where the answer goes.
    reply: OwnedFd,
    deadline: Instant,
    /// The container that it makes, with the far end of its input.
    container: Option<(String, Option<OwnedFd>)>,
}

/// Everything that the launcher waits for.
struct Server {
    place: Option<Place>,
    listener: Option<Listener>,
    hosts: Vec<OwnedFd>,
    workers: Vec<Worker>,
    kept: Vec<Kept>,
    drain: Option<Drain>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "no thread can be surprised: there is only one"
)]
fn serve() -> io::Result<()> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "started with {threads} threads instead of one"
        )));
    }
    let host = take_socket()?;
    let _ = nix::sys::prctl::set_name(c"eyot-launcher");
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    std::env::set_current_dir("/")?;
    // Ctrl-C in the host's terminal is the host's to handle, and the end of that terminal too.
    nix::unistd::setsid()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    let place = match std::env::args().nth(2) {
        Some(text) => Some(serde_json::from_str::<Place>(&text)?),
        None => None,
    };
    let listener = place.as_ref().map(Listener::bind).transpose()?;
    let mut server = Server {
        place,
        listener,
        hosts: Vec::new(),
        workers: Vec::new(),
        kept: Vec::new(),
        drain: None,
    };
    server.welcome(host);
    while !server.is_over() {
        server.turn()?;
    }
    Ok(())
}

/// The host passes its end as standard input. It moves out of the way, so that no container
/// inherits it.
fn take_socket() -> io::Result<OwnedFd> {
    let raw = fcntl(io::stdin().as_fd(), FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: fcntl just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let null = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(socket)
}

/// The socket on which later hosts connect; its file goes with it.
struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    fn bind(place: &Place) -> io::Result<Self> {
        let path = place.socket(std::process::id());
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let _ = fs::remove_file(&path);
        bind(socket.as_raw_fd(), &UnixAddr::new(&path)?)?;
        listen(&socket, Backlog::new(WAITING_HOSTS)?)?;
        Ok(Self { socket, path })
    }

    fn accept(&self) -> Option<OwnedFd> {
        let raw = accept4(self.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC).ok()?;
        // SAFETY: accept just made this descriptor for us.
        Some(unsafe { OwnedFd::from_raw_fd(raw) })
    }
}

/// What one wait found, in the order of the lists of [`Server`].
struct Ready {
    listener: bool,
    hosts: Vec<bool>,
    workers: Vec<bool>,
    kept: Vec<bool>,
    drain: Vec<bool>,
}

impl Server {
    /// Nobody asks for anything and nothing is kept.
    fn is_over(&self) -> bool {
        let drained = self.drain.as_ref().is_none_or(Drain::is_over);
        // Without a place no later host can come for what is kept.
        let empty = self.place.is_none() || (self.kept.is_empty() && drained);
        self.hosts.is_empty() && self.workers.is_empty() && empty
    }

    /// A host takes over the output of containers, from the moment that it hears this.
    fn welcome(&mut self, host: OwnedFd) {
        if let Some(drain) = self.drain.take() {
            drain.finish();
        }
        let ready = [READY, std::process::id().to_string().as_bytes()].concat();
        if send(host.as_fd(), &ready, &[]).is_ok() {
            self.hosts.push(host);
        }
    }

    /// Wait for something to happen, and deal with it.
    fn turn(&mut self) -> io::Result<()> {
        let ready = self.wait()?;
        self.bury(&ready.kept);
        self.dismiss(&ready.workers);
        for (index, ready) in ready.hosts.into_iter().enumerate().rev() {
            if !ready {
                continue;
            }
            let Some(host) = self.hosts.get(index) else {
                continue;
            };
            match receive(host) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok((data, fds)) if !data.is_empty() => self.hire(&data, fds),
                _gone => drop(self.hosts.swap_remove(index)),
            }
        }
        if let Some(drain) = &mut self.drain {
            drain.take(&ready.drain);
        }
        if ready.listener
            && let Some(host) = self.listener.as_ref().and_then(Listener::accept)
        {
            self.welcome(host);
        }
        if self.hosts.is_empty()
            && self.drain.is_none()
            && let Some(place) = &self.place
        {
            self.drain = Drain::begin(place).unwrap_or_default();
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Ready> {
        fn watch<'a>(
            fds: &mut Vec<PollFd<'a>>,
            more: impl Iterator<Item = BorrowedFd<'a>>,
        ) -> usize {
            let before = fds.len();
            fds.extend(more.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            fds.len() - before
        }
        let mut fds = Vec::new();
        let listener = self.listener.iter().map(|listener| listener.socket.as_fd());
        let listeners = watch(&mut fds, listener);
        let hosts = watch(&mut fds, self.hosts.iter().map(AsFd::as_fd));
        let workers = watch(&mut fds, self.workers.iter().map(|w| w.ended.as_fd()));
        let kept = watch(&mut fds, self.kept.iter().map(Kept::ended));
        let pipes: Vec<_> = self.drain.iter().flat_map(Drain::pipes).collect();
        watch(&mut fds, pipes.iter().copied().flatten());
        match poll(&mut fds, self.patience()) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        let mut next = |count: usize| ready.by_ref().take(count).collect::<Vec<_>>();
        Ok(Ready {
            listener: next(listeners).contains(&true),
            hosts: next(hosts),
            workers: next(workers),
            kept: next(kept),
            drain: pipes
                .iter()
                .map(|pipe| pipe.is_some() && ready.next().unwrap_or(false))
                .collect(),
        })
    }

    /// Until the next deadline of a worker, or the next look at what another launcher does.
    fn patience(&self) -> PollTimeout {
        let now = Instant::now();
        let worker = self.workers.iter().map(|worker| worker.deadline).min();
        // One millisecond more, so that the deadline has passed when poll returns.
        let worker = worker.map(|at| at.saturating_duration_since(now) + Duration::from_millis(1));
        let waits = self.hosts.is_empty() && self.drain.is_none();
        let drain = waits.then_some(DRAIN_AGAIN);
        let least = worker.into_iter().chain(drain).min();
        least.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        })
    }

    /// Reap the programs that have ended.
    fn bury(&mut self, ended: &[bool]) {
        for (index, _) in ended.iter().enumerate().rev().filter(|(_, ended)| **ended) {
            if index < self.kept.len() {
                self.kept.swap_remove(index).bury(self.place.as_ref());
            }
        }
    }

    /// Reap the workers that have ended, and kill those that are overdue.
    fn dismiss(&mut self, ended: &[bool]) {
        let now = Instant::now();
        for (index, ended) in ended.iter().enumerate().rev() {
            let Some(worker) = self.workers.get(index) else {
                continue;
            };
            if *ended {
                let worker = self.workers.swap_remove(index);
                self.kept.extend(worker.finish());
            } else if worker.deadline <= now {
                let _ = kill(worker.pid, Signal::SIGKILL);
            }
        }
    }

    /// Fork a worker for one request, or do at once what needs none.
    fn hire(&mut self, data: &[u8], mut fds: Vec<OwnedFd>) {
        let Some(reply) = fds.pop() else { return };
        let refuse = |reply, message| {
            let mut reply = File::from(reply);
            let _ = write_reply(&mut reply, &Reply::Failed { message });
            let _ = reply.write_all(&[REAPED]);
        };
        let request: Request = match serde_json::from_slice(data) {
            Ok(request) => request,
            Err(error) => return refuse(reply, error.to_string()),
        };
        let container = match &request {
            Request::CloseInput { id } => {
                let of = |kept: &&mut Kept| kept.container.as_ref() == Some(id);
                if let Some(kept) = self.kept.iter_mut().find(of) {
                    kept.input = None;
                }
                let mut reply = File::from(reply);
                let _ = write_reply(&mut reply, &Reply::Closed);
                let _ = reply.write_all(&[REAPED]);
                return;
            }
            Request::Create { id, stdio, .. } => {
                let keep = matches!(stdio, Stdio::Pipes { keep: true, .. });
                Some((id.clone(), keep.then(|| fds.pop()).flatten()))
            }
            Request::Start { .. } | Request::Exec { .. } | Request::Pause { .. } => None,
        };
        let (answer, told) = match pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK) {
            Ok(pipe) => pipe,
            Err(errno) => return refuse(reply, errno.desc().into()),
        };
        // SAFETY: this process has a single thread, so the child may do anything.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { child }) => match kernel::pidfd_open(child.as_raw()) {
                Ok(ended) => self.workers.push(Worker {
                    pid: child,
                    ended,
                    answer: File::from(answer),
                    reply,
                    deadline: Instant::now() + WORKER_TIMEOUT,
                    container,
                }),
                Err(error) => {
                    let _ = kill(child, Signal::SIGKILL);
                    let _ = waitpid(child, None);
                    refuse(reply, error.to_string());
                }
            },
            Ok(ForkResult::Child) => {
                // What the launcher holds must not live on in this worker or its container.
                self.hosts.clear();
                self.workers.clear();
                self.kept.clear();
                self.drain = None;
                if let Some(listener) = self.listener.take() {
                    // Its file stays: it is the launcher's.
                    drop(listener.socket);
                }
                drop((reply, answer, container));
                work(request, fds, told)
            }
            Err(errno) => {
                let message = format!("the container launcher cannot fork: {}", errno.desc());
                refuse(reply, message);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            let _ = fs::remove_file(&listener.path);
        }
    }
}

impl Worker {
    /// Reap it and pass its answer on; the program that it made, if it did.
    fn finish(mut self) -> Option<Kept> {
        let _ = waitpid(self.pid, None);
        let mut text = Vec::new();
        // Without the end of file: a container's process holds a copy of the pipe until it executes
        // its program. The error is that there is no more.
        let _ = (&mut self.answer)
            .take(MAX_REPLY as u64)
            .read_to_end(&mut text);
        let made = match serde_json::from_slice(&text) {
            Ok(Reply::Created { pid }) => Some(pid),
            _ => None,
        };
        text.push(REAPED);
        let mut reply = File::from(self.reply);
        let _ = reply.write_all(&text);
        let (container, input) = self.container.unzip();
        Kept::new(made?, reply.into(), container, input.flatten()).ok()
    }
}

fn work(request: Request, fds: Vec<OwnedFd>, reply_to: OwnedFd) -> ! {
    reset_signals();
    // What libcontainer leaves of an attempt that failed becomes this process's child, see `bury`.
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| perform(request, fds)));
    let outcome = match outcome {
        Ok(Ok(reply)) => reply,
        Ok(Err(message)) => match message.find(MARK) {
            Some(at) => Reply::NoProgram {
                message: message[at + MARK.len()..].to_owned(),
            },
            None => Reply::Failed { message },
        },
        Err(_) => Reply::Failed {
            message: "libcontainer panicked".into(),
        },
    };
    if !matches!(outcome, Reply::Created { .. } | Reply::Started) {
        bury();
    }
    let _ = write_reply(&mut File::from(reply_to), &outcome);
    // SAFETY: ends this process at once; nothing of the launcher's may run a second time here.
    unsafe { libc::_exit(0) }
}

/// End and reap the processes of a failed attempt. Left alone they would become the host's, which
/// does not know them, and one that died in a container's pid namespace would keep that from ending.
fn bury() {
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    for pid in children.split_whitespace().flat_map(str::parse) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    while waitpid(None, None).is_ok() {}
}

/// A program inherits which signals are ignored, and the Rust runtime ignores SIGPIPE, `nohup`
/// SIGHUP. A container's program starts with none ignored and none blocked.
fn reset_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        // SAFETY: the default action installs no handler. SIGKILL and SIGSTOP refuse, harmlessly.
        let _ = unsafe { sigaction(signal, &default) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

fn write_reply(to: &mut File, reply: &Reply) -> io::Result<()> {
    let mut text = serde_json::to_vec(reply)?;
    if text.len() > MAX_REPLY {
        let message = "libcontainer failed with an error too long to show".into();
        text = serde_json::to_vec(&Reply::Failed { message })?;
    }
    to.write_all(&text)
}

fn perform(request: Request, fds: Vec<OwnedFd>) -> Result<Reply, String> {
    match request {
        Request::CloseInput { .. } => Err("closing an input needs no worker".into()),
        Request::Create {
            id,
            bundle,
            states,
            stdio,
        } => builder(id, states, Program::first(), stdio, fds)?
            .as_init(bundle)
            .with_systemd(false)
            .with_detach(true)
            .as_sibling(false)
            .build()
            .map_err(|error| chain(&error))
            .and_then(|container| container.pid().ok_or("libcontainer made no process".into()))
            .map(|pid| Reply::Created { pid: pid.as_raw() }),
        Request::Exec {
            id,
            states,
            process,
            stdio,
        } => {
            let container = Container::load(states.join(&id)).map_err(|error| chain(&error))?;
            let program = Program::in_container(container.bundle()).map_err(|e| chain(&e))?;
            builder(id, states, program, stdio, fds)?
                .as_tenant()
                .with_process(Some(process))
                .with_detach(true)
                .as_sibling(false)
                .build()
                .map(|pid| Reply::Created { pid: pid.as_raw() })
                .map_err(|error| chain(&error))
        }
        Request::Pause { namespaces } => {
            pause::start(&namespaces).map(|pid| Reply::Created { pid: pid.as_raw() })
        }
        Request::Start { id, states } => Container::load(states.join(id))
            .and_then(|mut container| container.start())
            .map(|()| Reply::Started)
            .map_err(|error| chain(&error)),
    }
}

/// What building a container and executing a program in one have in common.
fn builder(
    id: String,
    states: PathBuf,
    program: Program,
    stdio: Stdio,
    fds: Vec<OwnedFd>,
) -> Result<ContainerBuilder, String> {
    let mut builder = ContainerBuilder::new(id, SyscallType::default())
        .with_root_path(states)
        .and_then(|builder| builder.with_executor(program).validate_id())
        .map_err(|error| chain(&error))?;
    let mut fds = fds.into_iter();
    match stdio {
        Stdio::Terminal { socket } => return Ok(builder.with_console_socket(Some(socket))),
        Stdio::Pipes { stdin: true, .. } => builder.stdin = fds.next(),
        Stdio::Pipes { stdin: false, .. } => builder.stdin = None,
    }
    let (Some(stdout), Some(stderr)) = (fds.next(), fds.next()) else {
        return Err("a program needs standard output and standard error".into());
    };
    Ok(builder.with_stdout(stdout).with_stderr(stderr))
}

/// The whole chain in one line; a source whose text its parent already contains is left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
