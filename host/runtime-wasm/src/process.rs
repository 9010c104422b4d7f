//! Processes: components that export `wasi:cli/run`. One instance, from start to exit.

use std::sync::Arc;

use eyot_runtime::{ContainerError, ContainerSpec, Exit};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::{
    capability::{Capabilities, Given},
    clock::Clock,
    container::{Resources, Signals},
    egress::{Egress, Outgoing},
    engine::WasmEngine,
    failure,
    memory::Draw,
    program::{InstancePre, Program},
    sockets::Sockets,
    state::{State, Surroundings},
};

/// Prepare the process of `spec`: the future runs it.
pub(crate) fn process(
    engine: &WasmEngine,
    program: Arc<Program>,
    pre: InstancePre,
    spec: &ContainerSpec,
    egress: Arc<Egress>,
    signals: &Signals,
    resources: &Resources,
) -> Result<impl Future<Output = Exit> + Send + 'static, ContainerError> {
    let sockets = Sockets::new(spec, egress.clone(), engine.resolver.clone());
    let surroundings = Surroundings {
        spec: spec.clone(),
        sockets: sockets.clone(),
    };
    let wasi = surroundings.wasi(&arguments(spec))?;
    let given = Given::of(&engine.shared, spec)?;
    let outgoing = Outgoing::new(egress, engine.resolver.clone());
    let clock = Clock::new(engine.ticker.clone(), resources.cpu.clone());
    let draw = Draw::new(resources.memory.clone());
    let mut store = State::new(wasi, draw, Capabilities::of(&engine.shared, &given))
        .with_network(outgoing, sockets)
        .into_store(&engine.engine, &clock);
    let terminate = signals.terminate.clone();
    Ok(async move {
        let run = async {
            let command = CommandPre::new(pre)?.instantiate_async(&mut store).await?;
            command.wasi_cli_run().call_run(&mut store).await
        };
        let exit = tokio::select! {
            result = clock.measure(None, run) => failure::exit(result),
            // WASI has no signals: the guest ends at the next tick, as a program without a
            // handler for SIGTERM does.
            () = terminate.cancelled() => Exit { code: 143, reason: "Error", message: String::new() },
        };
        // Its last unfinished line goes to the log before anybody hears of the end.
        drop(store);
        drop(program);
        exit
    })
}

/// What the guest gets as its arguments: `command` and `args` of the manifest as for any
/// container; a component has no entry point to replace, so its own name comes first otherwise.
fn arguments(spec: &ContainerSpec) -> Vec<String> {
    let mut all = spec.command.clone();
    if all.is_empty() {
        let name = spec.image.reference.rsplit('/').next().unwrap_or_default();
        let name = name.split(['@', ':']).next().unwrap_or_default();
        all.push(name.to_owned());
    }
    all.extend(spec.args.iter().cloned());
    all
}
