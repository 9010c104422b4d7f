//! One run of one pipeline: its inlet, its tasks and their queues, until its spec changes.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use eyot_api::Pipeline;
use eyot_runtime::{guest::Item, reading::Event};
use kube::ResourceExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    config::{self, Selector},
    progress::Progress,
    queue::Queue,
    stage::{Kind, Stopped, Worker},
};
use crate::{bus::Inlet, loss::Loss};

/// Items in one call of a component, as the contract says.
const BATCH: usize = 1000;
/// How long a first item waits for others. Short, for latency: while a call runs the next batch
/// gathers by itself, so under load batches are large without waiting.
const LINGER: Duration = Duration::from_millis(2);
/// Items that wait for one component, unless the spec says otherwise.
const QUEUE: usize = 10_000;

struct Door {
    namespace: String,
    selector: Selector,
    queue: Arc<Queue>,
    progress: Arc<Progress>,
    loss: Loss,
}

impl Inlet for Door {
    fn offer(&self, namespace: &str, event: &Arc<Event>) {
        if namespace != self.namespace {
            return;
        }
        let Some(event) = self.selector.select(event) else {
            return;
        };
        self.progress.received.fetch_add(1, Ordering::Relaxed);
        let lost = self.queue.push([Item::Event(event)]);
        count_lost(&self.progress, &self.loss, lost);
    }
}

fn count_lost(progress: &Progress, loss: &Loss, lost: usize) {
    if lost > 0 {
        progress
            .dropped
            .fetch_add(i64::try_from(lost).unwrap_or(i64::MAX), Ordering::Relaxed);
        loss.lost(lost as u64);
    }
}

/// The inlet of a pipeline, unless its spec makes no sense, and the task that is all the rest.
pub(super) fn prepare(
    context: &Context,
    pipeline: Arc<Pipeline>,
    stop: CancellationToken,
) -> (
    Option<Arc<dyn Inlet>>,
    impl Future<Output = ()> + Send + use<>,
) {
    let context = context.clone();
    let progress = Arc::new(Progress::default());
    let limit = pipeline
        .spec
        .queue_limit
        .and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.unwrap_or(QUEUE);
    let namespace = pipeline.namespace().unwrap_or_default();
    let place = |stage: &str| Loss::new(format!("pipeline {}/{}", pipeline.name_any(), stage));
    let queue = Arc::new(Queue::new(limit));
    let selector = config::check(&pipeline.spec);
    let problem = selector.as_ref().err().cloned();
    let inlet = selector.ok().map(|selector| {
        Arc::new(Door {
            namespace,
            selector,
            queue: queue.clone(),
            progress: progress.clone(),
            loss: place("source"),
        }) as Arc<dyn Inlet>
    });
    let worker = |stage: &eyot_api::Stage, kind| {
        Worker::new(
            stage.clone(),
            kind,
            context.clone(),
            progress.clone(),
            stop.clone(),
        )
    };
    let steps: Vec<Worker> = pipeline
        .spec
        .steps
        .iter()
        .map(|s| worker(s, Kind::Step))
        .collect();
    let exporters: Vec<(Worker, Arc<Queue>, Loss)> = pipeline
        .spec
        .exporters
        .iter()
        .map(|s| {
            (
                worker(s, Kind::Exporter),
                Arc::new(Queue::new(limit)),
                place(&s.name),
            )
        })
        .collect();
    let task = async move {
        let mut queues = vec![queue.clone()];
        let mut tasks = JoinSet::new();
        if let Some(problem) = problem {
            progress.fault("", "InvalidSpec", problem);
        } else {
            let mut outlets = Vec::new();
            for (worker, queue, loss) in exporters {
                queues.push(queue.clone());
                outlets.push((queue.clone(), loss));
                tasks.spawn(export(worker, queue, progress.clone(), stop.clone()));
            }
            tasks.spawn(process(
                steps,
                queue,
                outlets,
                progress.clone(),
                stop.clone(),
            ));
        }
        progress.report(&context, &pipeline, &queues, &stop).await;
        while tasks.join_next().await.is_some() {}
    };
    (inlet, task)
}

/// Take batches through the steps, to all exporters.
async fn process(
    mut steps: Vec<Worker>,
    queue: Arc<Queue>,
    outlets: Vec<(Arc<Queue>, Loss)>,
    progress: Arc<Progress>,
    stop: CancellationToken,
) {
    for step in &mut steps {
        if step.load().await.is_err() {
            return;
        }
    }
    loop {
        let batch = tokio::select! {
            batch = queue.batch(BATCH, LINGER) => batch,
            () = stop.cancelled() => return,
        };
        let end = batch.end();
        let Ok(items) = through(&mut steps, batch.items).await else {
            return;
        };
        if let Some(((last, last_loss), others)) = outlets.split_last() {
            for (outlet, loss) in others {
                count_lost(&progress, loss, outlet.push(items.iter().cloned()));
            }
            count_lost(&progress, last_loss, last.push(items));
        }
        queue.done(end);
    }
}

async fn through(steps: &mut [Worker], mut items: Vec<Item>) -> Result<Vec<Item>, Stopped> {
    for step in steps {
        let mut next = Vec::with_capacity(items.len());
        // A step may make more of a batch than fits the next call.
        for batch in items.chunks(BATCH) {
            next.extend(step.pass(batch).await?.items);
        }
        items = next;
    }
    Ok(items)
}

/// Deliver batches, in order.
async fn export(
    mut exporter: Worker,
    queue: Arc<Queue>,
    progress: Arc<Progress>,
    stop: CancellationToken,
) {
    if exporter.load().await.is_err() {
        return;
    }
    loop {
        let batch = tokio::select! {
            batch = queue.batch(BATCH, Duration::ZERO) => batch,
            () = stop.cancelled() => return,
        };
        let Ok(passed) = exporter.pass(&batch.items).await else {
            return;
        };
        let delivered = i64::try_from(passed.taken).unwrap_or(i64::MAX);
        progress.delivered.fetch_add(delivered, Ordering::Relaxed);
        queue.done(batch.end());
    }
}
