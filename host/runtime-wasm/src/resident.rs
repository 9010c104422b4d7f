//! Instances that live on and are called: those of drivers, steps and exporters.
//!
//! Every call is bounded in processor time (the guest computes) and in elapsed time (it waits for
//! its transports). An instance whose call was cut off or trapped is in no state to be called
//! again; it answers every later call with the reason.

use std::{sync::Arc, time::Duration};

use wasmtime::Store;
use wasmtime::component::Instance;

use crate::{clock::Clock, failure, program::Program, state::State};

/// Memory of one instance, which comes on top of the pod's own limit: a driver has one instance
/// per device.
pub(crate) const MEMORY: u64 = 64 << 20;
/// Elapsed time of one call; transports have time limits of their own well below it.
pub(crate) const ELAPSED: Duration = Duration::from_secs(30);
/// Processor time of one call: a batch takes milliseconds.
pub(crate) const COMPUTING: Duration = Duration::from_secs(5);

/// The guest trapped or was cut off; the text says how.
#[derive(Debug, Clone)]
pub(crate) struct Trapped(pub(crate) String);

/// Runs calls of one instance, and remembers if one killed it.
pub(crate) struct Resident {
    clock: Clock,
    dead: Option<Trapped>,
    /// Keeps the machine code mapped and the program in the cache.
    _program: Arc<Program>,
}

impl Resident {
    pub(crate) fn new(clock: Clock, program: Arc<Program>) -> Self {
        Self {
            clock,
            dead: None,
            _program: program,
        }
    }

    /// Instantiate; the guest's own start code is under the same bounds as a call.
    pub(crate) async fn instantiate(
        &mut self,
        pre: &crate::program::InstancePre,
        store: &mut Store<State>,
    ) -> Result<Instance, Trapped> {
        let call = pre.instantiate_async(store);
        self.call("instantiation", call).await
    }

    /// Await `call`, which is a call into the instance, within the bounds.
    pub(crate) async fn call<T>(
        &mut self,
        name: &str,
        call: impl Future<Output = wasmtime::Result<T>>,
    ) -> Result<T, Trapped> {
        if let Some(Trapped(reason)) = &self.dead {
            return Err(Trapped(format!("the instance ended before: {reason}")));
        }
        let measured = self.clock.measure(Some(COMPUTING), call);
        // Also if this future is dropped half-way.
        self.dead = Some(Trapped(format!("its {name} was abandoned")));
        let reason = match tokio::time::timeout(ELAPSED, measured).await {
            Ok(Ok(value)) => {
                self.dead = None;
                return Ok(value);
            }
            Ok(Err(error)) => format!("{name}: {}", failure::describe(&error)),
            Err(_) => format!("{name}: did not return within {ELAPSED:?}"),
        };
        self.dead = Some(Trapped(reason.clone()));
        Err(Trapped(reason))
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.is_some()
    }
}
