//! Pipelines: events through steps into exporters.
//!
//! ```text
//!  bus ──▶ inlet ──▶ queue ──▶ steps (one task) ──┬─▶ queue ──▶ exporter (a task each)
//!          selects                                └─▶ queue ──▶ exporter
//! ```
//!
//! The steps of a pipeline run in one task, one batch at a time, so order is kept; each exporter
//! has a queue and a task of its own, so that one whose destination is away holds up no other. A
//! pipeline's task owns them all and writes its status. An edit of the spec starts the pipeline
//! anew; what was queued in memory is then lost and counted as dropped.

mod config;
mod progress;
mod queue;
mod runner;
mod stage;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use eyot_api::Pipeline;
use eyot_client::{Key, Recorder};
use eyot_runtime::{ImageStore, guest::StepLoader};
use kube::ResourceExt;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, Inlet},
    catalog::Cache,
};

pub(crate) use config::LOCAL_BROKER;

/// What every pipeline works with.
#[derive(Clone)]
pub(crate) struct Context {
    pub client: kube::Client,
    pub recorder: Recorder,
    pub loader: Arc<dyn StepLoader>,
    pub images: Arc<dyn ImageStore>,
}

struct Running {
    pipeline: Arc<Pipeline>,
    inlet: Option<Arc<dyn Inlet>>,
    stop: CancellationToken,
}

/// Run the pipelines that exist until `stop` is cancelled.
pub(crate) async fn run(
    context: Context,
    pipelines: Cache<Pipeline>,
    changed: Arc<Notify>,
    bus: Bus,
    stop: CancellationToken,
) {
    let mut running: HashMap<Key, Running> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let wanted: HashMap<Key, Arc<Pipeline>> = pipelines
            .all()
            .into_iter()
            .map(|pipeline| (Key::of(&pipeline.metadata), pipeline))
            .collect();
        let gone: HashSet<_> = running
            .iter()
            .filter(|(key, now)| {
                wanted
                    .get(*key)
                    .is_none_or(|wanted| !same(&now.pipeline, wanted))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            if let Some(old) = running.remove(&key) {
                old.stop.cancel();
            }
        }
        for (key, pipeline) in &wanted {
            if running.contains_key(key) || pipeline.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let stop = stop.child_token();
            let (inlet, task) = runner::prepare(&context, pipeline.clone(), stop.clone());
            tasks.spawn(task);
            running.insert(
                key.clone(),
                Running {
                    pipeline: pipeline.clone(),
                    inlet,
                    stop,
                },
            );
        }
        bus.set_inlets(
            running
                .values()
                .filter_map(|running| running.inlet.clone())
                .collect(),
        );
        tokio::select! {
            () = stop.cancelled() => break,
            () = changed.notified() => {}
            // Keeps the set of tasks from growing with every edit.
            Some(_) = tasks.join_next() => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}

fn same(running: &Pipeline, wanted: &Pipeline) -> bool {
    running.spec == wanted.spec
        && running.uid() == wanted.uid()
        && wanted.metadata.deletion_timestamp.is_none()
}
