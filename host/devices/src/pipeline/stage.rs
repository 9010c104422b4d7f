//! One component of a pipeline at work: loaded, called, and loaded anew when it traps.
//!
//! Every outcome that a call can have is dealt with here; the tasks above only see what came out.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use eyot_api::Stage;
use eyot_runtime::guest::{Exporter, Item, Step, StepError};
use tokio_util::sync::CancellationToken;

use super::{Context, config, progress::Progress};
use crate::backoff::Backoff;

/// Delays between tries to load a component or to deliver a batch.
const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
/// A batch that a component has trapped on so often is taken for the cause.
const TRAPS: u32 = 3;
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
    async fn call(&mut self, batch: &[Item]) -> Result<Vec<Item>, StepError> {
        match self {
            Self::Step(step) => step.process(batch).await,
            Self::Exporter(exporter) => exporter.deliver(batch).await.map(|()| Vec::new()),
        }
    }
}

pub(super) struct Worker {
    stage: Stage,
    kind: Kind,
    context: Context,
    progress: Arc<Progress>,
    stop: CancellationToken,
    guest: Option<Guest>,
    backoff: Backoff,
}

/// What became of a batch.
pub(super) struct Passed {
    /// What the component made of it; empty for exporters.
    pub items: Vec<Item>,
    /// How many of the batch it has taken.
    pub taken: usize,
}

/// The pipeline is stopping, or waits for an edit until it is stopped.
pub(super) struct Stopped;

impl Worker {
    pub(super) fn new(
        stage: Stage,
        kind: Kind,
        context: Context,
        progress: Arc<Progress>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            stage,
            kind,
            context,
            progress,
            stop,
            guest: None,
            backoff: RETRY,
        }
    }

    /// Load the component, as often as it takes.
    pub(super) async fn load(&mut self) -> Result<(), Stopped> {
        while self.guest.is_none() {
            let loaded = tokio::select! {
                loaded = instance(&self.stage, &self.kind, &self.context) => loaded,
                () = self.stop.cancelled() => return Err(Stopped),
            };
            match loaded {
                Ok(guest) => {
                    self.guest = Some(guest);
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
        };
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            // Parts are known to be bad: only for the last item is it worth to be sure.
            let traps = if part.len() == batch.len() || part.len() == 1 {
                TRAPS
            } else {
                1
            };
            match self.part(part, traps).await? {
                Ok(items) => {
                    passed.items.extend(items);
                    passed.taken += part.len();
                }
                // Find the item that is to blame, so that the others still pass. In order.
                Err(_) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.push(second);
                    parts.push(first);
                }
                Err(error) => self.set_aside(part, &error),
            }
        }
        Ok(passed)
    }

    /// One part of a batch: what came out, or why it never will.
    async fn part(
        &mut self,
        part: &[Item],
        most: u32,
    ) -> Result<Result<Vec<Item>, StepError>, Stopped> {
        let mut traps = 0;
        loop {
            self.load().await?;
            let Some(guest) = self.guest.as_mut() else {
                return Err(Stopped);
            };
            let outcome = tokio::select! {
                outcome = tokio::time::timeout(CALL, guest.call(part)) => outcome,
                () = self.stop.cancelled() => return Err(Stopped),
            };
            let outcome = outcome
                .unwrap_or_else(|_| Err(StepError::Trapped(format!("no return within {CALL:?}"))));
            match outcome {
                Ok(items) => {
                    self.backoff.reset();
                    self.progress.works(&self.stage.name);
                    return Ok(Ok(items));
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

    fn set_aside(&self, part: &[Item], error: &StepError) {
        let count = i64::try_from(part.len()).unwrap_or(i64::MAX);
        self.progress.failed.fetch_add(count, Ordering::Relaxed);
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

/// Load the component. An error has a reason, a message, and whether only an edit helps.
async fn instance(
    stage: &Stage,
    kind: &Kind,
    context: &Context,
) -> Result<Guest, (&'static str, String, bool)> {
    let image = context.images.obtain(&stage.image).await;
    let image = image.map_err(|error| ("ImageError", error.to_string(), false))?;
    let settings = config::settings(stage);
    let loader = &context.loader;
    let guest = match kind {
        Kind::Step => loader.step(&image, &settings).await.map(Guest::Step),
        Kind::Exporter => {
            let grants = config::grants(stage);
            loader
                .exporter(&image, &settings, grants)
                .await
                .map(Guest::Exporter)
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
