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
    Container, ContainerError, ContainerSpec, ExecSpec, Exit, ImageContent, Input, LogSink,
    LogStream, Process, Signal, Usage, process::Source,
};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use tokio::{io::AsyncReadExt, sync::watch};

use crate::{
    exec::{self, Entrance},
    kernel,
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

/// A container whose program has just been executed.
pub(crate) struct Started {
    pub(crate) pidfd: OwnedFd,
    pub(crate) streams: Streams,
}

impl Started {
    /// For a container that must not stay: its process would otherwise remain as a zombie.
    pub(crate) async fn kill_and_reap(self) {
        let _ = kernel::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = tokio::time::timeout(KILL_TIMEOUT, ended(Arc::new(self.pidfd))).await;
    }
}

pub(crate) struct OciContainer {
    shared: Arc<Shared>,
    id: String,
    group: String,
    pod_group: String,
    directories: Directories,
    pidfd: Arc<OwnedFd>,
    stop_signal: i32,
    exit: watch::Receiver<Option<Exit>>,
    input: Option<Arc<Entrance>>,
}

impl OciContainer {
    pub(crate) fn supervise(
        shared: &Arc<Shared>,
        id: String,
        group: String,
        directories: Directories,
        spec: &ContainerSpec,
        started: Started,
    ) -> Arc<dyn Container> {
        let (publish, exit) = watch::channel(None);
        let pidfd = Arc::new(started.pidfd);
        let of_image = match spec.image.content.as_ref() {
            ImageContent::Oci { config, .. } => config.stop_signal.as_deref(),
            ImageContent::Wasm { .. } => None,
        };
        let stop_signal = spec.stop_signal.as_deref().or(of_image);
        let streams = started.streams;
        let stdout = (LogStream::Stdout, streams.stdout);
        let stderr = streams.stderr.map(|from| (LogStream::Stderr, from));
        let output: Vec<_> = std::iter::once(stdout)
            .chain(stderr)
            .map(|(stream, from)| tokio::spawn(copy_output(from, stream, Arc::clone(&spec.log))))
            .collect();
        let input = streams.stdin.filter(|_| spec.stdin || spec.tty);
        let input = input.map(|stdin| Arc::new(Entrance::new(stdin, streams.terminal)));
        let (supervised, supervised_pidfd) = (Arc::clone(shared), Arc::clone(&pidfd));
        let (supervised_id, supervised_group) = (id.clone(), group.clone());
        tokio::spawn(async move {
            let code = ended(supervised_pidfd).await.unwrap_or_else(|error| {
                tracing::error!(container = supervised_id, %error, "exit code is lost");
                255
            });
            let mut exit = Exit::from_code(code);
            if code != 0 && supervised.hierarchies.ran_out_of_memory(&supervised_group) {
                exit.reason = "OOMKilled";
            }
            let mut output = output.into_iter();
            let drained = async {
                for task in &mut output {
                    let _ = task.await;
                }
            };
            if tokio::time::timeout(OUTPUT_GRACE, drained).await.is_err() {
                tracing::warn!(
                    container = supervised_id,
                    "output is still open after the end"
                );
            }
            publish.send_replace(Some(exit));
        });
        Arc::new(Self {
            shared: Arc::clone(shared),
            id,
            group,
            pod_group: format!("{}/{}", shared.options.cgroup_parent, spec.pod.uid),
            directories,
            pidfd,
            stop_signal: stop_signal.and_then(signal_number).unwrap_or(libc::SIGTERM),
            exit,
            input,
        })
    }
}

#[async_trait]
impl Container for OciContainer {
    fn id(&self) -> &str {
        &self.id
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
            Signal::Terminate => self.stop_signal,
            Signal::Kill => libc::SIGKILL,
        };
        match kernel::pidfd_send_signal(self.pidfd.as_fd(), number) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(
                ContainerError::Runtime(format!("signal {number} to {}: {error}", self.id)),
            ),
            _ => Ok(()),
        }
    }

    async fn exec(&self, spec: ExecSpec) -> Result<Process, ContainerError> {
        if self.exit.borrow().is_some() {
            return Err(ContainerError::Runtime("the container has ended".into()));
        }
        exec::exec(&self.shared, &self.id, spec).await
    }

    fn input(&self) -> Option<Arc<dyn Input>> {
        let input = Arc::clone(self.input.as_ref()?);
        Some(input)
    }

    async fn usage(&self) -> Option<Usage> {
        if self.exit.borrow().is_some() {
            return None;
        }
        self.shared.hierarchies.usage(&self.group)
    }

    async fn remove(&self) -> Result<(), ContainerError> {
        if self.exit.borrow().is_none() {
            self.signal(Signal::Kill).await?;
            if tokio::time::timeout(KILL_TIMEOUT, self.wait())
                .await
                .is_err()
            {
                return Err(ContainerError::Runtime(format!("{} does not end", self.id)));
            }
        }
        let (shared, group) = (Arc::clone(&self.shared), self.group.clone());
        let pod_group = self.pod_group.clone();
        let directories = Directories {
            bundle: self.directories.bundle.clone(),
            state: self.directories.state.clone(),
            overlay: Overlay::new(self.directories.overlay.directory.clone()),
        };
        tokio::task::spawn_blocking(move || {
            shared.clear_group(&group, &pod_group)?;
            directories.remove()
        })
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(|error| ContainerError::Runtime(format!("removing {}: {error}", self.id)))
    }
}

fn lost() -> Exit {
    Exit {
        code: 255,
        reason: "Error",
        message: "the host stopped watching the container".into(),
    }
}

/// Wait for the process behind a pidfd and take its exit code as a shell would say it.
pub(crate) async fn ended(pidfd: Arc<OwnedFd>) -> io::Result<i32> {
    let watched = kernel::watch(pidfd)?;
    let _ready = watched.readable().await?;
    match waitid(Id::PIDFd(watched.get_ref().as_fd()), WaitPidFlag::WEXITED)? {
        WaitStatus::Exited(_, code) => Ok(code),
        WaitStatus::Signaled(_, signal, _) => Ok(128 + signal as i32),
        other => Err(io::Error::other(format!("unexpected state {other:?}"))),
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
fn signal_number(text: &str) -> Option<i32> {
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
