//! Programs that run beside a container's own, and the ways into one that runs: what `kubectl
//! exec`, `kubectl attach`, exec probes and lifecycle hooks need of a runtime.

use std::{io, sync::Arc};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::container::{ContainerError, Exit};

/// Where bytes come from.
pub type Source = Box<dyn AsyncRead + Send + Unpin>;
/// Where bytes go; dropped at the end of the input.
pub type Sink = Box<dyn AsyncWrite + Send + Unpin>;

/// A program to be run in a container that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments, not interpreted by any shell.
    pub command: Vec<String>,
    /// On a terminal: one stream for all output, and a size.
    pub tty: bool,
    /// Whether it gets an input; else it reads the end at once.
    pub stdin: bool,
}

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// A program that runs beside the container's own. The streams are the caller's to take.
pub struct Process {
    pub stdin: Option<Sink>,
    pub stdout: Source,
    /// `None` on a terminal.
    pub stderr: Option<Source>,
    pub control: Arc<dyn ProcessControl>,
}

/// What can be done with a program beside its streams.
#[async_trait]
pub trait ProcessControl: Send + Sync {
    /// Resolves when it has ended. May be called by several and after the end.
    async fn wait(&self) -> Exit;

    /// End it now. No error if it has ended.
    async fn kill(&self);

    /// Set the size of its terminal; an error without one.
    fn resize(&self, size: TerminalSize) -> io::Result<()>;
}

/// The way into a container's own program. What a container was started without is refused.
#[async_trait]
pub trait Input: Send + Sync {
    /// Give bytes to its standard input.
    async fn write(&self, data: &[u8]) -> io::Result<()>;

    /// Tell it that its input has ended.
    async fn close(&self);

    fn resize(&self, size: TerminalSize) -> io::Result<()>;
}

/// What a runtime answers that cannot run a second program in a container.
pub fn no_exec(runtime: &str) -> ContainerError {
    ContainerError::Config {
        field: "command".into(),
        reason: format!(
            "a {runtime} container holds no programs that could be executed: look at its logs, or \
             attach to it"
        ),
    }
}
