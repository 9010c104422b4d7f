//! `wasi:logging/logging`: lines in the log of the container.

use std::sync::Arc;

use eyot_runtime::{LogSink, LogStream};

use crate::{
    bindings::logging::{Host, Level},
    failure::cut,
};

/// Longest message and longest context.
const MESSAGE: usize = 16 << 10;
const CONTEXT: usize = 256;

/// The log of one container.
#[derive(Clone, Default)]
pub(crate) struct Client(Option<Arc<dyn LogSink>>);

impl Client {
    pub(crate) fn new(log: Arc<dyn LogSink>) -> Self {
        Self(Some(log))
    }
}

impl Host for Client {
    async fn log(
        &mut self,
        level: Level,
        mut context: String,
        mut message: String,
    ) -> wasmtime::Result<()> {
        let Some(log) = &self.0 else { return Ok(()) };
        let level = match level {
            Level::Trace => "TRACE",
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
            Level::Critical => "CRITICAL",
        };
        cut(&mut context, CONTEXT);
        cut(&mut message, MESSAGE);
        let about = if context.is_empty() { "" } else { ": " };
        // One message is one line.
        let line = format!("{level} {context}{about}{message}").replace(['\n', '\r'], " ");
        log.write(LogStream::Stderr, format!("{line}\n").as_bytes());
        Ok(())
    }
}
