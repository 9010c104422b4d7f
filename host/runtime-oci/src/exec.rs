//! Another program in a container that runs, and the way into the container's own.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use eyot_runtime::{
    ContainerError, ExecSpec, Exit, Input, Process, ProcessControl, TerminalSize, process::Sink,
};
use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    sync::{Mutex, watch},
};

use crate::{
    ended::ended,
    kernel,
    launcher::{Launcher, LauncherError},
    runtime::Shared,
    streams::{self, Streams, Terminal},
};

/// Run `spec` in the container of that identifier.
pub(crate) async fn exec(
    shared: &Arc<Shared>,
    id: &str,
    spec: ExecSpec,
) -> Result<Process, ContainerError> {
    let failed = |what: &str, error: io::Error| ContainerError::Runtime(format!("{what}: {error}"));
    let bundle = shared.bundles().join(id);
    let file = File::write(&bundle, &spec).map_err(|error| failed("the program's file", error))?;
    let (waiting, ends) = streams::open(&shared.terminals(), spec.stdin, spec.tty)
        .map_err(|error| failed("standard streams", error))?;
    let launched = shared
        .launcher
        .exec(id, &shared.states(), &file.0, ends)
        .await;
    drop(file);
    let made = launched.map_err(|error| match error {
        LauncherError::NoProgram(reason) => ContainerError::Config {
            field: "command".into(),
            reason,
        },
        error => ContainerError::Runtime(error.to_string()),
    })?;
    // A program that has ended already is reaped by then, and tells its code all the same.
    let pidfd = kernel::pidfd_open(made.pid).ok().map(Arc::new);
    let (publish, exit) = watch::channel(None);
    let watched = pidfd.clone();
    tokio::spawn(async move {
        let code = match (made.exit.code().await, watched) {
            (Some(code), _) => code,
            (None, Some(pidfd)) => ended(pidfd, None).await.unwrap_or(255),
            (None, None) => 255,
        };
        publish.send_replace(Some(Exit::from_code(code)));
    });
    let streams = waiting.ready().await;
    let streams = streams.inspect_err(|_| kill(pidfd.as_deref()));
    let streams = streams.map_err(|error| failed("the program's terminal", error))?;
    Ok(Process {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        control: Arc::new(Control {
            pidfd,
            exit,
            terminal: streams.terminal,
        }),
    })
}

/// The program as libcontainer reads it, for the time of one request.
struct File(std::path::PathBuf);

impl File {
    /// The container's own process with another command.
    fn write(bundle: &Path, spec: &ExecSpec) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let config: Value = serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
        let mut process = config.get("process").cloned().unwrap_or_default();
        process["args"] = Value::from(spec.command.clone());
        process["terminal"] = Value::from(spec.tty);
        let path = bundle.join(format!("exec-{number}.json"));
        fs::write(&path, process.to_string())?;
        Ok(Self(path))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

struct Control {
    /// `None` if it had ended before it could be watched.
    pidfd: Option<Arc<OwnedFd>>,
    exit: watch::Receiver<Option<Exit>>,
    terminal: Option<Terminal>,
}

#[async_trait]
impl ProcessControl for Control {
    async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or_else(|| Exit::from_code(255)),
            Err(_) => Exit::from_code(255),
        }
    }

    async fn kill(&self) {
        kill(self.pidfd.as_deref());
    }

    fn resize(&self, size: TerminalSize) -> io::Result<()> {
        resize(self.terminal.as_ref(), size)
    }
}

fn kill(pidfd: Option<&OwnedFd>) {
    // It may have ended already, which is as good.
    let _ = pidfd.map(|pidfd| kernel::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL));
}

fn resize(terminal: Option<&Terminal>, size: TerminalSize) -> io::Result<()> {
    match terminal {
        Some(terminal) => terminal.resize(size),
        None => Err(io::Error::other("the program has no terminal")),
    }
}

/// The way into a container that was started with an input.
pub(crate) struct Entrance {
    stdin: Mutex<Option<Sink>>,
    terminal: Option<Terminal>,
    /// Who holds the input open beside this host, and for which container.
    launcher: Launcher,
    container: String,
}

impl Entrance {
    pub(crate) fn new(launcher: &Launcher, container: &str, streams: &mut Streams) -> Option<Self> {
        Some(Self {
            stdin: Mutex::new(Some(streams.stdin.take()?)),
            terminal: streams.terminal.take(),
            launcher: launcher.clone(),
            container: container.to_owned(),
        })
    }
}

#[async_trait]
impl Input for Entrance {
    async fn write(&self, data: &[u8]) -> io::Result<()> {
        match self.stdin.lock().await.as_mut() {
            Some(stdin) => stdin.write_all(data).await,
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    async fn close(&self) {
        // A terminal stays open for who attaches next.
        if self.terminal.is_none() {
            self.stdin.lock().await.take();
            // Without a launcher nobody holds it any more.
            let _ = self.launcher.close_input(&self.container).await;
        }
    }

    fn resize(&self, size: TerminalSize) -> io::Result<()> {
        resize(self.terminal.as_ref(), size)
    }
}
