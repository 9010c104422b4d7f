//! Pipelines: events through steps into exporters.
//!
//! ```text
//!  bus ──▶ inlet ──▶ queue ──▶ steps (one task) ──┬─▶ queue ──▶ exporter (a task each)
//!          selects                                ├─▶ queue ──▶ exporter
//!                                                 └─▶ queue ──▶ steps of a branch ──▶ …
//! ```
//!
//! The steps of a pipeline run in one task, one batch at a time, so order is kept; each exporter and
//! each branch has a queue and a task of its own, so that one whose destination is away holds up no
//! other. The queues ([`lane`]) are in memory as long as they are short and on disk where they are
//! not; [`stock`] says what is promised of them, [`depot`] saves them.
//!
//! An edit of the spec starts the pipeline anew: the tasks end, and the next ones go on with the same
//! queues. What is lost is only what waited for an exporter or a branch that the edit has removed; it
//! is counted as dropped, and an Event says so. Queues go by the names of their stages.

mod codec;
mod config;
mod depot;
mod door;
mod examine;
mod lane;
mod listener;
mod progress;
mod runner;
mod settings;
mod stage;
mod stock;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use eyot_api::Pipeline;
use eyot_client::Recorder;
use eyot_runtime::{ImageStore, guest::StepLoader};
use kube::ResourceExt;
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::runner::{Run, same};
use crate::{
    bus::{Bus, Inlet},
    catalog::Cache,
};

pub(crate) use depot::Depot;
pub use door::{PREFIX, PipelineDoor};
pub use examine::{Contents, PipelineExaminer, PipelineFindings};
pub(crate) use settings::LOCAL_BROKER;

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
    task: JoinHandle<()>,
}

/// Run the pipelines that exist until `stop` is cancelled, with what they have yet to deliver in
/// `depot`.
pub(crate) async fn run(
    context: Context,
    pipelines: Cache<Pipeline>,
    changed: Arc<Notify>,
    bus: Bus,
    depot: Arc<Depot>,
    stop: CancellationToken,
) {
    // Ends last, so that what the others leave is saved.
    let saving = CancellationToken::new();
    let saver = tokio::spawn({
        let (depot, saving) = (depot.clone(), saving.clone());
        async move { depot.save(saving).await }
    });
    tokio::select! {
        () = pipelines.synced() => {}
        () = stop.cancelled() => {}
    }
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut ending = JoinSet::new();
    while !stop.is_cancelled() {
        let wanted: HashMap<String, Arc<Pipeline>> = pipelines
            .all()
            .into_iter()
            .filter_map(|pipeline| Some((pipeline.uid()?, pipeline)))
            .collect();
        let stale: HashSet<_> = running
            .iter()
            .filter(|(uid, now)| {
                let wanted = wanted.get(*uid);
                wanted.is_none_or(|wanted| !same(&now.pipeline, wanted))
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        let mut ended = HashMap::new();
        for uid in stale {
            if let Some(old) = running.remove(&uid) {
                old.stop.cancel();
                ended.insert(uid, old.task);
            }
        }
        for (uid, pipeline) in &wanted {
            if running.contains_key(uid) || pipeline.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let before = ended.remove(uid);
            let now = start(&context, &depot, uid, pipeline, before, stop.child_token()).await;
            running.insert(uid.clone(), now);
        }
        bus.set_inlets(
            running
                .values()
                .filter_map(|running| running.inlet.clone())
                .collect(),
        );
        for (_, task) in ended {
            ending.spawn(task);
        }
        let all_ended = ending.is_empty();
        if all_ended {
            depot.forget(|uid| !wanted.contains_key(uid)).await;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = changed.notified() => {}
            // What they leave behind can be removed.
            Some(_) = ending.join_next(), if !all_ended => {}
        }
    }
    for (_, running) in running {
        let _ = running.task.await;
    }
    while ending.join_next().await.is_some() {}
    saving.cancel();
    let _ = saver.await;
    depot.spool().close().await;
}

/// Start a pipeline; its tasks begin when those of the run `before` have ended, its inlet at once.
async fn start(
    context: &Context,
    depot: &Depot,
    uid: &str,
    pipeline: &Arc<Pipeline>,
    before: Option<JoinHandle<()>>,
    stop: CancellationToken,
) -> Running {
    let plan = config::check(&pipeline.spec);
    let source = plan.as_ref().map(|plan| plan.trunk.limits);
    let source = source.unwrap_or_else(|_| config::usual_limits());
    let mut run = Run {
        pipeline: pipeline.clone(),
        stock: depot.stock(uid, source).await,
        plan,
    };
    let inlet = run.inlet();
    let (context, cancel) = (context.clone(), stop.clone());
    let task = tokio::spawn(async move {
        if let Some(before) = before {
            let _ = before.await;
        }
        run.run(context, cancel).await;
    });
    Running {
        pipeline: pipeline.clone(),
        inlet,
        stop,
        task,
    }
}
