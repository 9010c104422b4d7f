//! One run of one pipeline: its inlet and its tasks, until its spec changes. What waits is in the
//! pipeline's [`Stock`], which outlives the run.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use eyot_api::Pipeline;
use eyot_client::EventType;
use eyot_runtime::{guest::Item, reading::Event};
use kube::ResourceExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    config::{Exit, Plan, Selector, Way},
    listener,
    progress::Progress,
    stage::{Kind, Stopped, Worker},
    stock::{Batch, Outcome, Stock},
};
use crate::{bus::Inlet, clock, loss::Loss};

/// Items in one call of a component, as the contract says.
const BATCH: usize = 1000;
/// How long a first item waits for others. Short, for latency: while a call runs the next batch
/// gathers by itself, so under load batches are large without waiting.
const LINGER: Duration = Duration::from_millis(2);
/// An item that is older has waited: it counts for the rate at which an exporter drains.
const WAITED: Duration = Duration::from_secs(1);
/// Batches a second, at most, in which a limited rate is spent: so many are no burst.
const SLICES: u32 = 10;
/// How long who posts an event waits until it is safe.
const PATIENCE: Duration = Duration::from_secs(10);

struct Door {
    namespace: String,
    selector: Selector,
    stock: Arc<Stock>,
    loss: Loss,
}

impl Door {
    fn wants(&self, namespace: &str, event: &Arc<Event>) -> Option<Item> {
        if namespace != self.namespace {
            return None;
        }
        self.selector.select(event).map(Item::Event)
    }
}

#[async_trait]
impl Inlet for Door {
    fn offer(&self, namespace: &str, event: &Arc<Event>) {
        if let Some(item) = self.wants(namespace, event) {
            self.loss.lost(self.stock.offer(&item));
        }
    }

    async fn take(&self, namespace: &str, events: &[Arc<Event>]) -> Result<(), String> {
        let wanted = events
            .iter()
            .filter_map(|event| self.wants(namespace, event));
        let items: Vec<Item> = wanted.collect();
        if items.is_empty() {
            return Ok(());
        }
        let taken = tokio::time::timeout(PATIENCE, self.stock.take(&items)).await;
        taken.map_err(|_| match self.stock.fault() {
            Some(fault) => format!("the event cannot be kept for a pipeline: {fault}"),
            None => "a pipeline has no room for the event".to_owned(),
        })
    }
}

/// A pipeline that can be run.
pub(super) struct Run {
    pub pipeline: Arc<Pipeline>,
    pub stock: Arc<Stock>,
    /// Or what is wrong with the spec.
    pub plan: Result<Plan, String>,
}

impl Run {
    /// Where the bus brings events to, unless the spec makes no sense.
    pub(super) fn inlet(&mut self) -> Option<Arc<dyn Inlet>> {
        let plan = self.plan.as_mut().ok()?;
        Some(Arc::new(Door {
            namespace: self.pipeline.namespace().unwrap_or_default(),
            selector: std::mem::take(&mut plan.selector),
            stock: self.stock.clone(),
            loss: self.loss("source"),
        }))
    }

    fn loss(&self, stage: &str) -> Loss {
        Loss::new(format!("pipeline {}/{}", self.pipeline.name_any(), stage))
    }

    /// Run until `stop` is cancelled.
    pub(super) async fn run(self, context: Context, stop: CancellationToken) {
        let progress = Arc::new(Progress::new(self.stock.clone()));
        let mut tasks = JoinSet::new();
        let plan = match &self.plan {
            Err(problem) => {
                progress.fault("", "InvalidSpec", problem.clone());
                None
            }
            Ok(plan) => Some(plan),
        };
        let begin = async {
            let Some(plan) = plan else { return };
            tokio::select! {
                () = self.stock.opened() => self.begin(plan, &context, &progress, &stop, &mut tasks),
                () = stop.cancelled() => {}
            }
        };
        tokio::join!(
            begin,
            progress.report(&context, &self.pipeline, plan, &stop)
        );
        while tasks.join_next().await.is_some() {}
    }

    /// Start the tasks.
    fn begin(
        &self,
        plan: &Plan,
        context: &Context,
        progress: &Arc<Progress>,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        let names: Vec<&str> = plan.stages().map(|stage| stage.name.as_str()).collect();
        for (queue, count) in self.stock.reconcile(&plan.queues(), &names) {
            let message = format!("{count} items are lost: {queue} is gone from the pipeline");
            tracing::warn!(pipeline = %self.pipeline.name_any(), "{message}");
            progress.say(EventType::Warning, "Discarded", message);
        }
        if let Some(source) = self.pipeline.spec.source.mqtt.clone() {
            tasks.spawn(listener::listen(
                self.pipeline.clone(),
                source,
                self.stock.clone(),
                context.clone(),
                progress.clone(),
                stop.clone(),
            ));
        }
        for way in plan.ways() {
            self.start(way, plan, context, progress, stop, tasks);
        }
    }

    fn start(
        &self,
        way: &Way,
        plan: &Plan,
        context: &Context,
        progress: &Arc<Progress>,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        let worker = |stage: &eyot_api::Stage, kind| {
            Worker::new(
                stage.clone(),
                kind,
                self.pipeline.namespace().unwrap_or_default(),
                context.clone(),
                progress.clone(),
                stop.clone(),
            )
        };
        let mut outlets: Vec<String> = way.exits.iter().map(|exit| exit.queue.clone()).collect();
        if way.queue == plan.trunk.queue {
            outlets.extend(plan.branches.iter().map(|branch| branch.queue.clone()));
        }
        let losses = outlets.iter().map(|outlet| self.loss(outlet)).collect();
        for exit in &way.exits {
            let exporter = Exporter {
                worker: worker(&exit.stage, Kind::Exporter),
                exit: exit.clone(),
                stock: self.stock.clone(),
                stop: stop.clone(),
            };
            tasks.spawn(exporter.run());
        }
        let steps = Steps {
            steps: way
                .steps
                .iter()
                .map(|step| worker(step, Kind::Step).remembering(self.stock.memory(&step.name)))
                .collect(),
            queue: way.queue.clone(),
            outlets,
            losses,
            stock: self.stock.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(steps.run());
    }
}

/// What the steps of a way have to do.
enum Due {
    Batch(Batch),
    /// A step has asked to be called.
    Step(usize),
}

/// The steps of a way.
struct Steps {
    steps: Vec<Worker>,
    queue: String,
    outlets: Vec<String>,
    losses: Vec<Loss>,
    stock: Arc<Stock>,
    stop: CancellationToken,
}

impl Steps {
    /// Take batches through the steps, to all outlets.
    async fn run(mut self) {
        for step in &mut self.steps {
            if step.load().await.is_err() {
                return;
            }
        }
        loop {
            let waiting = async {
                self.stock.room(&self.outlets).await;
                self.stock.batch(&self.queue, BATCH, LINGER).await
            };
            let first = self.steps.iter().enumerate();
            let first = first
                .filter_map(|(at, step)| Some((step.wake()?, at)))
                .min();
            let time = async {
                match first {
                    Some((wake, at)) => {
                        tokio::time::sleep_until(wake).await;
                        at
                    }
                    None => std::future::pending().await,
                }
            };
            let due = tokio::select! {
                // A step that is to look at what it remembers does so before it is given more.
                biased;
                () = self.stop.cancelled() => return,
                at = time => Due::Step(at),
                batch = waiting => Due::Batch(batch),
            };
            let done = match due {
                Due::Batch(batch) => {
                    let items = batch.items.clone();
                    self.pass(0, items, batch, Outcome::default()).await
                }
                Due::Step(at) => self.tick(at).await,
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Let a step do what is due, and take what comes of it through those behind it.
    async fn tick(&mut self, at: usize) -> Result<(), Stopped> {
        let Some(step) = self.steps.get_mut(at) else {
            return Ok(());
        };
        let passed = step.tick().await?;
        if passed.items.is_empty() && passed.outcome.is_empty() {
            return Ok(());
        }
        let nothing = Batch {
            items: Vec::new(),
            at: clock::nanoseconds() / 1_000_000,
            end: 0,
        };
        self.pass(at + 1, passed.items, nothing, passed.outcome)
            .await
    }

    /// Take items through the steps from `first` on, to all outlets; with them `batch` is done with.
    async fn pass(
        &mut self,
        first: usize,
        mut items: Vec<Item>,
        batch: Batch,
        mut outcome: Outcome,
    ) -> Result<(), Stopped> {
        for step in self.steps.iter_mut().skip(first) {
            let mut next = Vec::with_capacity(items.len());
            // A step may make more of a batch than fits the next call.
            for part in items.chunks(BATCH) {
                let passed = step.pass(part).await?;
                next.extend(passed.items);
                outcome.add(passed.outcome);
            }
            items = next;
        }
        let lost = self
            .stock
            .advance(&self.queue, &batch, &self.outlets, &items, outcome);
        for (loss, lost) in self.losses.iter().zip(lost) {
            loss.lost(lost);
        }
        Ok(())
    }
}

/// An exporter at work.
struct Exporter {
    worker: Worker,
    exit: Exit,
    stock: Arc<Stock>,
    stop: CancellationToken,
}

impl Exporter {
    /// Deliver batches, in order.
    async fn run(mut self) {
        if self.worker.load().await.is_err() {
            return;
        }
        let slice = self.exit.drain.map(|rate| (rate / SLICES).max(1));
        let most = slice.map_or(BATCH, |slice| BATCH.min(slice as usize));
        loop {
            let batch = tokio::select! {
                batch = self.stock.batch(&self.exit.queue, most, Duration::ZERO) => batch,
                () = self.stop.cancelled() => return,
            };
            let begun = tokio::time::Instant::now();
            let Ok(passed) = self.worker.pass(&batch.items).await else {
                return;
            };
            let age = (clock::nanoseconds() / 1_000_000).saturating_sub(batch.at);
            let counts = &self.stock.counts;
            let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            counts
                .delivered
                .fetch_add(whole(passed.taken as u64), Ordering::Relaxed);
            counts.latency.store(whole(age), Ordering::Relaxed);
            if passed.outcome.letters.is_empty() {
                self.stock
                    .tell(&self.exit.stage.name, "delivered", &batch.items);
            }
            self.stock
                .advance(&self.exit.queue, &batch, &[], &[], passed.outcome);
            let Some(rate) = self.exit.drain else {
                continue;
            };
            if u128::from(age) >= WAITED.as_millis() {
                let each = Duration::from_secs(1) / rate;
                let count = u32::try_from(batch.items.len()).unwrap_or(u32::MAX);
                let until = begun + each.saturating_mul(count);
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = self.stop.cancelled() => return,
                }
            }
        }
    }
}

/// Whether two runs are of the same spec.
pub(super) fn same(running: &Pipeline, wanted: &Pipeline) -> bool {
    running.spec == wanted.spec
        && running.uid() == wanted.uid()
        && wanted.metadata.deletion_timestamp.is_none()
}
