//! One component of a pipeline at work: loaded, called, and loaded anew when it traps.
//!
//! Every outcome that a call can have is dealt with here; the tasks above only see what came out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use eyot_api::Stage;
use eyot_runtime::guest::{Exporter, Item, Processed, Step, StepError, Wake};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    progress::Progress,
    settings::{self, SettingsError},
    stock::{Aside, Outcome},
};
use crate::backoff::Backoff;

/// Delays between tries to load a component or to deliver a batch.
const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
/// A batch that a component has trapped on so often is taken for the cause.
const TRAPS: u32 = 3;
/// Time until a tick that failed for good is due again: batches go on meanwhile.
const TICK_AGAIN: Duration = Duration::from_secs(30);
/// Longest call. A transport's own time limits are shorter.
const CALL: Duration = Duration::from_secs(60);

/// Steps and exporters differ only in what comes out.
pub(super) enum Kind {
    Step,
    Exporter,
}

enum Guest {
    Step(Box<dyn Step>),
    Exporter(Box<dyn Exporter>),
}

impl Guest {
    async fn call(&mut self, call: Call<'_>) -> Result<Processed, StepError> {
        match (self, call) {
            (Self::Step(step), Call::Batch(batch)) => step.process(batch).await,
            (Self::Step(step), Call::Tick) => step.tick().await,
            (Self::Exporter(exporter), Call::Batch(batch)) => {
                let delivered = exporter.deliver(batch).await;
                delivered.map(|()| Processed::default())
            }
            (Self::Exporter(_), Call::Tick) => Ok(Processed::default()),
        }
    }
}

/// What a component is called for.
#[derive(Clone, Copy)]
enum Call<'a> {
    Batch(&'a [Item]),
    /// Its time has come.
    Tick,
}

pub(super) struct Worker {
    stage: Stage,
    kind: Kind,
    namespace: String,
    context: Context,
    progress: Arc<Progress>,
    stop: CancellationToken,
    guest: Option<Guest>,
    backoff: Backoff,
    /// What the component remembers, as it is given to the next instance.
    memory: BTreeMap<String, Bytes>,
    /// When it is to be called, if it asked for that.
    wake: Option<Instant>,
}

/// What became of a batch.
pub(super) struct Passed {
    /// What the component made of it; empty for exporters.
    pub items: Vec<Item>,
    /// How many of the batch it has taken.
    pub taken: usize,
    pub outcome: Outcome,
}

/// The pipeline is stopping, or waits for an edit until it is stopped.
pub(super) struct Stopped;

impl Worker {
    pub(super) fn new(
        stage: Stage,
        kind: Kind,
        namespace: String,
        context: Context,
        progress: Arc<Progress>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            stage,
            kind,
            namespace,
            context,
            progress,
            stop,
            guest: None,
            backoff: RETRY,
            memory: BTreeMap::new(),
            wake: None,
        }
    }

    /// The same for a step that remembers something.
    pub(super) fn remembering(self, memory: BTreeMap<String, Bytes>) -> Self {
        Self { memory, ..self }
    }

    /// When the component is to be called next, if at all.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// Load the component, as often as it takes.
    pub(super) async fn load(&mut self) -> Result<(), Stopped> {
        while self.guest.is_none() {
            // Guests can be sent to other threads and not be shared by them: no reference to the whole.
            let (stage, kind, namespace) = (&self.stage, &self.kind, &self.namespace);
            let memory = self.memory.clone().into_iter().collect();
            let loaded = tokio::select! {
                loaded = instance(stage, kind, namespace, &self.context, memory) => loaded,
                () = self.stop.cancelled() => return Err(Stopped),
            };
            match loaded {
                Ok(guest) => {
                    self.guest = Some(guest);
                    // A step may have missed its time: it looks at what it remembers.
                    self.wake = matches!(self.kind, Kind::Step).then(Instant::now);
                    self.progress.loaded(&self.stage.name);
                }
                Err((reason, message, forever)) => {
                    self.progress.unloaded(&self.stage.name, reason, message);
                    if forever {
                        return wait_for_edit(&self.stop).await;
                    }
                    self.pause().await?;
                }
            }
        }
        Ok(())
    }

    /// Give a batch to the component until it has taken it or parts of it have been set aside.
    pub(super) async fn pass(&mut self, batch: &[Item]) -> Result<Passed, Stopped> {
        let mut passed = Passed {
            items: Vec::new(),
            taken: 0,
            outcome: Outcome::default(),
        };
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            // Parts are known to be bad: only for the last item is it worth to be sure.
            let traps = if part.len() == batch.len() || part.len() == 1 {
                TRAPS
            } else {
                1
            };
            match self.part(Call::Batch(part), traps).await? {
                Ok(processed) => {
                    self.keep(processed, &mut passed);
                    passed.taken += part.len();
                }
                // Find the item that is to blame, so that the others still pass. In order.
                Err(_) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.push(second);
                    parts.push(first);
                }
                Err(error) => self.set_aside(part, &error, &mut passed.outcome),
            }
        }
        Ok(passed)
    }

    /// Tell the component that its time has come. A tick that fails is tried again as a batch is, and
    /// given up for a while if it never succeeds.
    pub(super) async fn tick(&mut self) -> Result<Passed, Stopped> {
        let mut passed = Passed {
            items: Vec::new(),
            taken: 0,
            outcome: Outcome::default(),
        };
        self.load().await?;
        self.wake = None;
        match self.part(Call::Tick, TRAPS).await? {
            Ok(processed) => self.keep(processed, &mut passed),
            Err(error) => {
                self.wake = Some(Instant::now() + TICK_AGAIN);
                self.progress
                    .fault(&self.stage.name, "TickFailed", error.to_string());
            }
        }
        Ok(passed)
    }

    fn keep(&mut self, processed: Processed, passed: &mut Passed) {
        passed.items.extend(processed.items);
        for (key, value) in processed.memory {
            match value.is_empty() {
                true => self.memory.remove(&key),
                false => self.memory.insert(key.clone(), value.clone()),
            };
            let key = (self.stage.name.clone(), key);
            passed.outcome.memory.push((key, value));
        }
        match processed.wake {
            Wake::AsBefore => {}
            Wake::Never => self.wake = None,
            Wake::After(time) => self.wake = Some(Instant::now() + time),
        }
    }

    /// One call: what came of it, or why nothing ever will.
    async fn part(
        &mut self,
        call: Call<'_>,
        most: u32,
    ) -> Result<Result<Processed, StepError>, Stopped> {
        let mut traps = 0;
        loop {
            self.load().await?;
            let Some(guest) = self.guest.as_mut() else {
                return Err(Stopped);
            };
            let outcome = tokio::select! {
                outcome = tokio::time::timeout(CALL, guest.call(call)) => outcome,
                () = self.stop.cancelled() => return Err(Stopped),
            };
            let outcome = outcome
                .unwrap_or_else(|_| Err(StepError::Trapped(format!("no return within {CALL:?}"))));
            match outcome {
                Ok(processed) => {
                    self.backoff.reset();
                    self.progress.works(&self.stage.name);
                    return Ok(Ok(processed));
                }
                Err(error @ StepError::Rejected(_)) => return Ok(Err(error)),
                Err(error @ StepError::Config(_)) => {
                    self.guest = None;
                    let message = error.to_string();
                    self.progress
                        .unloaded(&self.stage.name, "ConfigError", message);
                    wait_for_edit(&self.stop).await?;
                }
                Err(error @ StepError::Trapped(_)) => {
                    self.guest = None;
                    self.progress
                        .fault(&self.stage.name, "Trapped", error.to_string());
                    traps += 1;
                    if traps >= most {
                        return Ok(Err(error));
                    }
                    self.pause().await?;
                }
                Err(error @ StepError::Retry(_)) => {
                    self.progress
                        .fault(&self.stage.name, "Retrying", error.to_string());
                    self.pause().await?;
                }
            }
        }
    }

    fn set_aside(&self, part: &[Item], error: &StepError, outcome: &mut Outcome) {
        let count = part.len();
        let aside = |item: &Item| Aside {
            stage: self.stage.name.clone(),
            reason: error.to_string(),
            item: item.clone(),
        };
        outcome.letters.extend(part.iter().map(aside));
        self.progress
            .fault(&self.stage.name, "SetAside", error.to_string());
        tracing::warn!(stage = %self.stage.name, count, %error, "items set aside");
    }

    async fn pause(&mut self) -> Result<(), Stopped> {
        let delay = self.backoff.next();
        tokio::select! {
            () = tokio::time::sleep(delay) => Ok(()),
            () = self.stop.cancelled() => Err(Stopped),
        }
    }
}

/// Make an instance. An error has a reason, a message, and whether only an edit helps.
async fn instance(
    stage: &Stage,
    kind: &Kind,
    namespace: &str,
    context: &Context,
    memory: Vec<(String, Bytes)>,
) -> Result<Guest, (&'static str, String, bool)> {
    let image = context.images.obtain(&stage.image).await;
    let image = image.map_err(|error| ("ImageError", error.to_string(), false))?;
    let gathered = settings::gather(&context.client, namespace, stage).await;
    let settings::Settings { settings, grants } = gathered.map_err(|error| match error {
        // It may come: a Secret is often made after what uses it.
        SettingsError::Missing(text) => ("MissingSetting", text, false),
        SettingsError::Failed(error) => ("SettingsError", error.to_string(), false),
    })?;
    let loader = &context.loader;
    let guest = match kind {
        Kind::Step => {
            let step = loader.step(&image, &settings, &memory).await;
            step.map(Guest::Step)
        }
        Kind::Exporter => {
            let exporter = loader.exporter(&image, &settings, grants).await;
            exporter.map(Guest::Exporter)
        }
    };
    guest.map_err(|error| match error {
        StepError::Config(_) => ("ConfigError", error.to_string(), true),
        _ => ("LoadError", error.to_string(), false),
    })
}

/// An edit of the pipeline stops this run of it.
async fn wait_for_edit(stop: &CancellationToken) -> Result<(), Stopped> {
    stop.cancelled().await;
    Err(Stopped)
}
