//! One running container, from its start to the last directory.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use eyot_runtime::{
    Container, ContainerError, ExecSpec, Exit, Input, Limits, LogSink, LogStream, PodLimits,
    Process, Signal, Usage, process::Source,
};
use tokio::{
    io::AsyncReadExt,
    sync::{Mutex, watch},
    task::JoinSet,
};

use crate::{
    bundle,
    ended::ended,
    exec::{self, Entrance},
    kernel,
    launcher::ExitCode,
    overlay::Overlay,
    runtime::Shared,
    streams::Streams,
};

/// Output that comes in one piece; the size of a pipe.
const CHUNK: usize = 64 * 1024;

/// The end of the first process ends all others of its pid namespace, and with them the output.
/// Only a pipe that was passed to a process outside can be open longer; it is given up.
const OUTPUT_GRACE: Duration = Duration::from_secs(5);

/// How long `remove` waits for a container that it had to kill.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a container leaves on file systems.
pub(crate) struct Directories {
    pub(crate) bundle: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) overlay: Overlay,
}

impl Directories {
    /// Idempotent.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.overlay.remove()?;
        for directory in [&self.state, &self.bundle] {
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }
}

/// The first process of a container.
pub(crate) struct Started {
    /// `None` if it had ended and been reaped before it could be watched.
    pub(crate) pidfd: Option<OwnedFd>,
    /// From the launcher that made it; `None` for one that an earlier host started.
    pub(crate) exit: Option<ExitCode>,
    pub(crate) streams: Streams,
}

impl Started {
    /// For a container that must not stay.
    pub(crate) async fn kill(self) {
        let Some(pidfd) = self.pidfd else { return };
        let _ = kernel::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        let ended = ended(Arc::new(pidfd), None);
        let _ = tokio::time::timeout(KILL_TIMEOUT, ended).await;
    }
}

/// What a container is called, where its parts are, and how it wants to be ended.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) id: String,
    /// Its first process is not the first of its namespace: the others do not end with it.
    pub(crate) crowded: bool,
    pub(crate) group: String,
    pub(crate) pod_group: String,
    pub(crate) stop_signal: i32,
}

pub(crate) struct OciContainer {
    shared: Arc<Shared>,
    identity: Identity,
    directories: Directories,
    pidfd: Option<Arc<OwnedFd>>,
    exit: watch::Receiver<Option<Exit>>,
    input: Option<Arc<Entrance>>,
    /// Copy the output to the log.
    output: Arc<Mutex<JoinSet<()>>>,
}

impl OciContainer {
    pub(crate) fn supervise(
        shared: &Arc<Shared>,
        identity: Identity,
        started: Started,
        log: &Arc<dyn LogSink>,
    ) -> Arc<dyn Container> {
        let (publish, exit) = watch::channel(None);
        let directories = shared.directories(&identity.id);
        let pidfd = started.pidfd.map(Arc::new);
        let mut streams = started.streams;
        let input = Entrance::new(&shared.launcher, &identity.id, &mut streams).map(Arc::new);
        let stdout = (LogStream::Stdout, streams.stdout);
        let stderr = streams.stderr.map(|from| (LogStream::Stderr, from));
        let mut output = JoinSet::new();
        for (stream, from) in std::iter::once(stdout).chain(stderr) {
            output.spawn(copy_output(from, stream, Arc::clone(log)));
        }
        let output = Arc::new(Mutex::new(output));
        let watcher = Watcher {
            shared: Arc::clone(shared),
            identity: identity.clone(),
            bundle: directories.bundle.clone(),
            pidfd: pidfd.clone(),
            told: started.exit,
            output: Arc::clone(&output),
        };
        tokio::spawn(async move { publish.send_replace(Some(watcher.exit().await)) });
        Arc::new(Self {
            shared: Arc::clone(shared),
            identity,
            directories,
            pidfd,
            exit,
            input,
            output,
        })
    }
}

/// Waits for the end of a container.
struct Watcher {
    shared: Arc<Shared>,
    identity: Identity,
    bundle: PathBuf,
    pidfd: Option<Arc<OwnedFd>>,
    told: Option<ExitCode>,
    output: Arc<Mutex<JoinSet<()>>>,
}

impl Watcher {
    async fn exit(self) -> Exit {
        let id = &self.identity.id;
        let told = match self.told {
            Some(exit) => exit.code().await,
            None => None,
        };
        let code = match (told.or_else(|| bundle::read_exit(&self.bundle)), self.pidfd) {
            (Some(code), _) => Some(code),
            (None, Some(pidfd)) => ended(pidfd, Some(&self.bundle)).await.ok(),
            (None, None) => None,
        };
        if self.identity.crowded {
            let (shared, group) = (Arc::clone(&self.shared), self.identity.group.clone());
            let killed = tokio::task::spawn_blocking(move || shared.hierarchies.kill(&group));
            if let Ok(Err(error)) = killed.await {
                tracing::warn!(container = id, %error, "processes are left after the first has ended");
            }
        }
        let hierarchies = &self.shared.hierarchies;
        let starved = hierarchies.ran_out_of_memory(&self.identity.group);
        let mut output = self.output.lock().await;
        let drained = async { while output.join_next().await.is_some() {} };
        if tokio::time::timeout(OUTPUT_GRACE, drained).await.is_err() {
            tracing::warn!(container = id, "output is still open after the end");
        }
        let Some(code) = code else { return lost() };
        let mut exit = Exit::from_code(code);
        if code != 0 && starved {
            exit.reason = "OOMKilled";
        }
        exit
    }
}

#[async_trait]
impl Container for OciContainer {
    fn id(&self) -> &str {
        &self.identity.id
    }

    async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or_else(lost),
            Err(_) => lost(),
        }
    }

    async fn signal(&self, signal: Signal) -> Result<(), ContainerError> {
        let number = match signal {
            Signal::Terminate => self.identity.stop_signal,
            Signal::Kill => libc::SIGKILL,
        };
        let Some(pidfd) = &self.pidfd else {
            return Ok(());
        };
        match kernel::pidfd_send_signal(pidfd.as_fd(), number) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(
                ContainerError::Runtime(format!("signal {number} to {}: {error}", self.id())),
            ),
            _ => Ok(()),
        }
    }

    async fn exec(&self, spec: ExecSpec) -> Result<Process, ContainerError> {
        if self.exit.borrow().is_some() {
            return Err(ContainerError::Runtime("the container has ended".into()));
        }
        exec::exec(&self.shared, self.id(), spec).await
    }

    async fn let_go(&self) -> bool {
        // Not the lock: whoever waits for the end has it then, and then there is nothing to stop.
        if let Ok(mut output) = self.output.try_lock() {
            output.shutdown().await;
        }
        true
    }

    fn input(&self) -> Option<Arc<dyn Input>> {
        let input = Arc::clone(self.input.as_ref()?);
        Some(input)
    }

    async fn usage(&self) -> Option<Usage> {
        if self.exit.borrow().is_some() {
            return None;
        }
        self.shared.hierarchies.usage(&self.identity.group)
    }

    async fn resize(&self, limits: &Limits) -> Result<(), ContainerError> {
        let (shared, identity, limits) = (Arc::clone(&self.shared), self.identity.clone(), *limits);
        let changed = tokio::task::spawn_blocking(move || {
            let own = PodLimits {
                memory: limits.memory,
                cpu_millis: limits.cpu_millis,
                cpu_request_millis: limits.cpu_request_millis,
                ..PodLimits::default()
            };
            let hierarchies = &shared.hierarchies;
            let used = hierarchies.usage(&identity.group).map(|usage| usage.memory);
            if let (Some(limit), Some(used)) = (limits.memory, used)
                && used > limit
            {
                return Err(ContainerError::below_usage(limit, used));
            }
            let around = (identity.pod_group.as_str(), &limits.pod);
            let changed = hierarchies.resize(&identity.group, &own, around);
            hierarchies.weigh_classes(&shared.options.cgroup_parent);
            changed.map_err(|error| ContainerError::Runtime(format!("its limits: {error}")))
        });
        let changed = changed.await.map_err(io::Error::other);
        changed.map_err(|error| ContainerError::Runtime(format!("its limits: {error}")))?
    }

    fn written(&self) -> Option<PathBuf> {
        Some(self.directories.overlay.written())
    }

    async fn remove(&self) -> Result<(), ContainerError> {
        if self.exit.borrow().is_none() {
            self.signal(Signal::Kill).await?;
            if tokio::time::timeout(KILL_TIMEOUT, self.wait())
                .await
                .is_err()
            {
                return Err(ContainerError::Runtime(format!(
                    "{} does not end",
                    self.id()
                )));
            }
        }
        let (shared, identity) = (Arc::clone(&self.shared), self.identity.clone());
        tokio::task::spawn_blocking(move || shared.clear(&identity))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| ContainerError::Runtime(format!("removing {}: {error}", self.id())))
    }
}

/// In the words of Kubernetes.
fn lost() -> Exit {
    Exit {
        code: 137,
        reason: "ContainerStatusUnknown",
        message: "The container could not be located when the pod was terminated".into(),
    }
}

async fn copy_output(mut from: Source, stream: LogStream, log: Arc<dyn LogSink>) {
    let mut chunk = Vec::with_capacity(CHUNK);
    loop {
        chunk.clear();
        match from.read_buf(&mut chunk).await {
            Ok(0) => return,
            Ok(_) => log.write(stream, &chunk),
            Err(error) => {
                tracing::warn!(%error, ?stream, "reading a container's output");
                return;
            }
        }
    }
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`: as images write their stop signal.
pub(crate) fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset = offset
            .strip_prefix('+')
            .map_or(Some(0), |offset| offset.parse().ok())?;
        let number = libc::SIGRTMIN().checked_add(offset)?;
        return (number <= libc::SIGRTMAX()).then_some(number);
    }
    format!("SIG{name}")
        .parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_are_read_as_images_write_them() {
        assert_eq!(signal_number("SIGTERM"), Some(libc::SIGTERM));
        assert_eq!(signal_number("quit"), Some(libc::SIGQUIT));
        assert_eq!(signal_number("9"), Some(libc::SIGKILL));
        assert_eq!(signal_number("SIGRTMIN+3"), Some(libc::SIGRTMIN() + 3));
        for wrong in ["", "SIGNOTHING", "0", "99", "RTMIN+77"] {
            assert_eq!(signal_number(wrong), None, "{wrong}");
        }
    }
}
