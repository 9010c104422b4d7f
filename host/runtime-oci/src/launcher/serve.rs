//! The launcher process: single-threaded from its first to its last instruction.
//!
//! It forks one worker for each request and does nothing else, so it never holds a lock that a
//! fork could copy, and what libcontainer does to a process (working directory, dumpable flag,
//! out-of-memory score) dies with the worker. A worker that hangs is killed. When the host is
//! gone, the socket says so and the launcher ends; containers are left to the next host's sweep.
#![expect(
    unsafe_code,
    reason = "fork: this process has one thread, which is checked at start"
)]

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    syscall::syscall::SyscallType,
};
use nix::{
    fcntl::{FcntlArg, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork},
};

use super::{
    ARGUMENT,
    message::{MAX_REPLY, READY, REAPED, Reply, Request, Stdio, receive, send},
    program::{MARK, Program},
};
use crate::kernel;

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
    reply: OwnedFd,
    deadline: Instant,
}

#[expect(
    clippy::disallowed_methods,
    reason = "no thread can be surprised: there is only one"
)]
fn serve() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "started with {threads} threads instead of one"
        )));
    }
    let socket = take_socket()?;
    let _ = nix::sys::prctl::set_name(c"eyot-launcher");
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    std::env::set_current_dir("/")?;
    send(socket.as_fd(), READY, &[])?;

    let mut workers: Vec<Worker> = Vec::new();
    loop {
        let (requested, ended) = await_event(&socket, &workers)?;
        let now = Instant::now();
        for (index, ended) in ended.into_iter().enumerate().rev() {
            if !ended
                && workers
                    .get(index)
                    .is_some_and(|worker| worker.deadline <= now)
            {
                let _ = workers
                    .get(index)
                    .map(|worker| kill(worker.pid, Signal::SIGKILL));
            } else if ended {
                let worker = workers.swap_remove(index);
                let _ = waitpid(worker.pid, None);
                let _ = File::from(worker.reply).write_all(&[REAPED]);
            }
        }
        if requested {
            match receive(&socket) {
                Ok((data, _)) if data.is_empty() => return Ok(()),
                Ok((data, fds)) => {
                    if let Some(worker) = hire(&data, fds, &mut workers, &socket) {
                        workers.push(worker);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The host passes its end as standard input. It moves out of the way, so that no container
/// inherits it.
fn take_socket() -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let raw = fcntl(io::stdin().as_fd(), FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: fcntl just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let null = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(socket)
}

/// Wait for a request, for the end of a worker, or for the next deadline.
fn await_event(socket: &OwnedFd, workers: &[Worker]) -> io::Result<(bool, Vec<bool>)> {
    let mut fds = vec![PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    fds.extend(
        workers
            .iter()
            .map(|worker| PollFd::new(worker.ended.as_fd(), PollFlags::POLLIN)),
    );
    let timeout =
        workers
            .iter()
            .map(|worker| worker.deadline)
            .min()
            .map_or(PollTimeout::NONE, |deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                // One millisecond more, so that the deadline has passed when poll returns.
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            });
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
    let requested = ready.next().unwrap_or(false);
    Ok((requested, ready.collect()))
}

/// Fork a worker for one request.
fn hire(
    data: &[u8],
    mut fds: Vec<OwnedFd>,
    workers: &mut Vec<Worker>,
    socket: &OwnedFd,
) -> Option<Worker> {
    let reply = fds.pop()?;
    // SAFETY: this process has a single thread, so the child may do anything.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => match kernel::pidfd_open(child.as_raw()) {
            Ok(ended) => {
                let deadline = Instant::now() + WORKER_TIMEOUT;
                Some(Worker {
                    pid: child,
                    ended,
                    reply,
                    deadline,
                })
            }
            Err(_) => {
                let _ = kill(child, Signal::SIGKILL);
                let _ = waitpid(child, None);
                let _ = File::from(reply).write_all(&[REAPED]);
                None
            }
        },
        Ok(ForkResult::Child) => {
            // The others' reply pipes must not live on in this worker or its container.
            workers.clear();
            let _ = nix::unistd::close(std::os::fd::AsRawFd::as_raw_fd(socket));
            work(data, fds, reply)
        }
        Err(errno) => {
            let message = format!("the container launcher cannot fork: {}", errno.desc());
            let mut reply = File::from(reply);
            let _ = write_reply(&mut reply, &Reply::Failed { message });
            let _ = reply.write_all(&[REAPED]);
            None
        }
    }
}

fn work(data: &[u8], fds: Vec<OwnedFd>, reply_to: OwnedFd) -> ! {
    reset_signals();
    // What libcontainer leaves of an attempt that failed becomes this process's child, see `bury`.
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| perform(data, fds)));
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

fn perform(data: &[u8], fds: Vec<OwnedFd>) -> Result<Reply, String> {
    let request = serde_json::from_slice(data).map_err(|error| error.to_string())?;
    match request {
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
        Stdio::Pipes { stdin: true } => builder.stdin = fds.next(),
        Stdio::Pipes { stdin: false } => builder.stdin = None,
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
