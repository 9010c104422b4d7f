//! A running container of a Wasm image: a task, and the handles on it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use eyot_runtime::{Container, ContainerError, ContainerSpec, Exit, Limits, Signal, Usage};
use sha2::{Digest, Sha256};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{clock::Cpu, memory::Budget};

/// What its task is asked to do.
#[derive(Clone, Default)]
pub(crate) struct Signals {
    pub(crate) terminate: CancellationToken,
    pub(crate) kill: CancellationToken,
}

/// What a container may use, and how much it does.
#[derive(Clone)]
pub(crate) struct Resources {
    pub(crate) cpu: Arc<Cpu>,
    pub(crate) memory: Arc<Budget>,
    /// Requests answered; of a web service only.
    pub(crate) requests: Option<Arc<AtomicU64>>,
}

impl Resources {
    pub(crate) fn of(spec: &ContainerSpec) -> Self {
        Self {
            cpu: Cpu::new(spec.limits.cpu_millis, spec.limits.cpu_request_millis),
            memory: Budget::new(spec.limits.memory),
            requests: None,
        }
    }

    /// The same for a container whose requests are counted.
    pub(crate) fn counting(self) -> Self {
        let requests = Some(Arc::default());
        Self { requests, ..self }
    }
}

pub(crate) struct WasmContainer {
    id: String,
    signals: Signals,
    resources: Resources,
    exit: watch::Receiver<Option<Exit>>,
}

impl WasmContainer {
    /// Run `work` as the container's task. Kill ends it wherever it is.
    pub(crate) fn spawn(
        on: &Handle,
        spec: &ContainerSpec,
        signals: Signals,
        resources: Resources,
        work: impl Future<Output = Exit> + Send + 'static,
    ) -> Arc<dyn Container> {
        let (sender, exit) = watch::channel(None);
        let kill = signals.kill.clone();
        let work = on.spawn(work);
        on.spawn(async move {
            let abort = work.abort_handle();
            let mut work = work;
            let end = tokio::select! {
                end = &mut work => end,
                () = kill.cancelled() => {
                    abort.abort();
                    // The guest stops at its next tick; what it wrote until then is in the log.
                    work.await
                }
            };
            let exit = end.unwrap_or_else(|error| match error.is_cancelled() {
                true => Exit {
                    code: 137,
                    reason: "Error",
                    message: String::new(),
                },
                false => failed(&error.to_string()),
            });
            sender.send_replace(Some(exit));
        });
        Arc::new(Self {
            id: id(spec),
            signals,
            resources,
            exit,
        })
    }
}

fn failed(message: &str) -> Exit {
    tracing::error!(message, "the host failed while it ran a guest");
    Exit {
        code: 134,
        reason: "Error",
        message: format!("the host failed: {message}"),
    }
}

/// Never used twice, and of the form that Kubernetes tools expect of a container ID.
fn id(spec: &ContainerSpec) -> String {
    let name = format!("{}/{}/{}", spec.pod.uid, spec.name, spec.attempt);
    hex::encode(Sha256::digest(name))
}

#[async_trait]
impl Container for WasmContainer {
    fn id(&self) -> &str {
        &self.id
    }

    async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|exit| exit.clone());
        ended.unwrap_or_else(|| failed("the engine was dropped"))
    }

    async fn signal(&self, signal: Signal) -> Result<(), ContainerError> {
        match signal {
            Signal::Terminate => self.signals.terminate.cancel(),
            Signal::Kill => self.signals.kill.cancel(),
        }
        Ok(())
    }

    async fn usage(&self) -> Option<Usage> {
        let running = self.exit.borrow().is_none();
        let Resources {
            cpu,
            memory,
            requests,
        } = &self.resources;
        running.then(|| Usage {
            memory: memory.used(),
            cpu: cpu.used(),
            requests: requests.as_ref().map(|count| count.load(Ordering::Relaxed)),
        })
    }

    async fn resize(&self, limits: &Limits) -> Result<(), ContainerError> {
        let Resources { cpu, memory, .. } = &self.resources;
        if let (Err(used), Some(limit)) = (memory.resize(limits.memory), limits.memory) {
            return Err(ContainerError::below_usage(limit, used));
        }
        cpu.resize(limits.cpu_millis, limits.cpu_request_millis);
        Ok(())
    }

    async fn remove(&self) -> Result<(), ContainerError> {
        Ok(())
    }
}
