//! `eyot:device/log`: lines of a driver in its pod's log, with the device's name.

use std::sync::Arc;

use eyot_runtime::{LogSink, LogStream};

use crate::{
    bindings::log::{Host, Level},
    failure::cut,
};

/// Longest message, as the contract says.
const MESSAGE: usize = 4 << 10;

/// The log of one instance.
pub(crate) struct Client(Option<(Arc<dyn LogSink>, String)>);

impl Client {
    pub(crate) fn new(sink: Arc<dyn LogSink>, device: String) -> Self {
        Self(Some((sink, device)))
    }

    pub(crate) fn silent() -> Self {
        Self(None)
    }
}

impl Host for Client {
    fn write(&mut self, level: Level, mut message: String) -> wasmtime::Result<()> {
        let Some((sink, device)) = &self.0 else {
            return Ok(());
        };
        let level = match level {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
        };
        cut(&mut message, MESSAGE);
        // One message is one line, or a guest could forge the lines of another device.
        let message = message.replace(['\n', '\r'], " ");
        sink.write(
            LogStream::Stdout,
            format!("{level} {device}: {message}\n").as_bytes(),
        );
        Ok(())
    }
}
