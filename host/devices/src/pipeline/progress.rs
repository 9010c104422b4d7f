//! How a pipeline does: counted by its tasks, written to its status sparingly.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use eyot_api::{CONDITION_READY, Pipeline, PipelineStatus};
use eyot_client::EventType;
use eyot_store::SpoolError;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Context, config::Plan, stock::Stock};
use crate::clock;

/// Least time between two writes of the counts.
const PAUSE: Duration = Duration::from_secs(2);
/// The condition that says whether what waits is on the disk, as far as it is to be.
const CONDITION_SAVED: &str = "Saved";
/// Longest error text in a status.
const ERROR: usize = 1024;

/// Shared by the tasks of one pipeline.
pub(super) struct Progress {
    stock: Arc<Stock>,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    /// Components that are loaded and configured.
    loaded: BTreeSet<String>,
    /// What is wrong now, by component.
    faults: BTreeMap<String, Fault>,
    last_error: Option<String>,
    unsaid: Vec<(EventType, &'static str, String)>,
}

#[derive(Clone, PartialEq, Eq)]
struct Fault {
    reason: &'static str,
    message: String,
}

impl Progress {
    pub(super) fn new(stock: Arc<Stock>) -> Self {
        Self {
            stock,
            state: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Something is to be said, once.
    pub(super) fn say(&self, kind: EventType, reason: &'static str, message: String) {
        self.state().unsaid.push((kind, reason, message));
        self.news.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The component is ready for work.
    pub(super) fn loaded(&self, stage: &str) {
        let mut state = self.state();
        let news = state.faults.remove(stage).is_some() | state.loaded.insert(stage.to_owned());
        drop(state);
        if news {
            self.news.notify_one();
        }
    }

    /// The component works (again).
    pub(super) fn works(&self, stage: &str) {
        let mut state = self.state();
        if state.faults.remove(stage).is_some() {
            drop(state);
            self.news.notify_one();
        }
    }

    /// The component is not there: not loaded any more, if it was.
    pub(super) fn unloaded(&self, stage: &str, reason: &'static str, message: String) {
        self.state().loaded.remove(stage);
        self.fault(stage, reason, message);
    }

    /// Something went wrong with the component.
    pub(super) fn fault(&self, stage: &str, reason: &'static str, message: String) {
        let message = if stage.is_empty() {
            message
        } else {
            format!("{stage}: {message}")
        };
        let message = message[..message.floor_char_boundary(ERROR)].to_owned();
        let mut state = self.state();
        state.last_error = Some(message.clone());
        let fault = Fault { reason, message };
        // One event for one kind of trouble, not one for every try.
        if state
            .faults
            .get(stage)
            .is_none_or(|known| known.reason != reason)
        {
            state
                .unsaid
                .push((EventType::Warning, reason, fault.message.clone()));
            self.news.notify_one();
        }
        state.faults.insert(stage.to_owned(), fault);
    }

    /// Write the status until `stop` is cancelled, and once more then.
    pub(super) async fn report(
        &self,
        context: &Context,
        pipeline: &Pipeline,
        plan: Option<&Plan>,
        stop: &CancellationToken,
    ) {
        let stages = plan.into_iter().flat_map(Plan::stages);
        let stages: BTreeSet<String> = stages.map(|stage| stage.name.clone()).collect();
        let queues: Vec<String> = plan
            .into_iter()
            .flat_map(Plan::queues)
            .map(|(name, _)| name)
            .collect();
        let mut written: Option<PipelineStatus> = None;
        let mut pause = tokio::time::interval_at(Instant::now() + PAUSE, PAUSE);
        loop {
            let stopped = tokio::select! {
                () = stop.cancelled() => true,
                () = self.news.notified() => false,
                _ = pause.tick() => false,
            };
            let before = written.as_ref().or(pipeline.status.as_ref());
            let status = self.status(pipeline, &stages, &queues, before);
            let unsaid = std::mem::take(&mut self.state().unsaid);
            if written.as_ref() != Some(&status) && write(context, pipeline, &status, before).await
            {
                let ready = |status: &PipelineStatus| {
                    status
                        .conditions
                        .iter()
                        .any(|c| c.type_ == CONDITION_READY && c.status == "True")
                };
                if ready(&status) && !before.is_some_and(ready) {
                    let message = "all components are loaded and configured";
                    say(context, pipeline, EventType::Normal, "Ready", message).await;
                }
                written = Some(status);
            }
            for (kind, reason, message) in unsaid {
                say(context, pipeline, kind, reason, &message).await;
            }
            if stopped {
                return;
            }
        }
    }

    fn status(
        &self,
        pipeline: &Pipeline,
        stages: &BTreeSet<String>,
        queues: &[String],
        before: Option<&PipelineStatus>,
    ) -> PipelineStatus {
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (queued, queued_bytes) = self.stock.waiting();
        let waiting = queues.iter().map(|queue| {
            let count = self.stock.waiting_in(queue);
            (queue.clone(), whole(count))
        });
        let waiting: BTreeMap<String, i64> = waiting.collect();
        let unsaved = self.stock.fault();
        let counts = &self.stock.counts;
        let state = self.state();
        let count = |counter: &AtomicI64| counter.load(Ordering::Relaxed);
        let missing: Vec<_> = stages
            .iter()
            .filter(|stage| !state.loaded.contains(*stage))
            .cloned()
            .collect();
        let blocking = state
            .faults
            .iter()
            .find(|(stage, _)| !state.loaded.contains(*stage));
        let (status, reason, message) = match blocking {
            Some((_, fault)) => ("False", fault.reason, fault.message.clone()),
            None if !missing.is_empty() => (
                "False",
                "Loading",
                format!("loading {}", missing.join(", ")),
            ),
            None => ("True", "Running", String::new()),
        };
        let conditions = before
            .map(|status| status.conditions.as_slice())
            .unwrap_or_default();
        let condition = |kind: &str, status: &str, reason: &str, message: String| {
            let since = conditions
                .iter()
                .find(|c| c.type_ == kind && c.status == status);
            Condition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: reason.to_owned(),
                message,
                last_transition_time: since
                    .map(|condition| condition.last_transition_time.clone())
                    .or_else(|| clock::kubernetes(clock::nanoseconds()))
                    .unwrap_or(Time(jiff::Timestamp::UNIX_EPOCH)),
                observed_generation: pipeline.metadata.generation,
            }
        };
        let saved = match &unsaved {
            None => condition(CONDITION_SAVED, "True", "Saved", String::new()),
            Some(error @ SpoolError::Full(_)) => {
                condition(CONDITION_SAVED, "False", "DiskFull", error.to_string())
            }
            Some(error) => condition(CONDITION_SAVED, "False", "DiskFailed", error.to_string()),
        };
        let ready = condition(CONDITION_READY, status, reason, message);
        let latency = count(&counts.latency);
        PipelineStatus {
            received: count(&counts.received),
            delivered: count(&counts.delivered),
            dropped: count(&counts.dropped),
            failed: count(&counts.failed),
            queued: whole(queued),
            queued_bytes: whole(queued_bytes),
            latency_milliseconds: (count(&counts.delivered) > 0).then_some(latency),
            queues: waiting,
            last_error: match state.faults.values().next() {
                Some(fault) => Some(fault.message.clone()),
                // Over now, but what was set aside stays set aside.
                None if count(&counts.failed) > 0 => state.last_error.clone(),
                None => None,
            },
            observed_generation: pipeline.metadata.generation,
            conditions: vec![ready, saved],
        }
    }
}

async fn write(
    context: &Context,
    pipeline: &Pipeline,
    status: &PipelineStatus,
    before: Option<&PipelineStatus>,
) -> bool {
    let namespace = pipeline.namespace().unwrap_or_default();
    let api: Api<Pipeline> = Api::namespaced(context.client.clone(), &namespace);
    let name = pipeline.name_any();
    let known = &status.queues;
    let mut status = serde_json::to_value(status).unwrap_or_default();
    // A merge patch removes what is null.
    for field in ["lastError", "latencyMilliseconds"] {
        if status.get(field).is_none() {
            status[field] = serde_json::Value::Null;
        }
    }
    let queues = before.into_iter().flat_map(|before| before.queues.keys());
    for gone in queues.filter(|queue| !known.contains_key(*queue)) {
        status["queues"][gone] = serde_json::Value::Null;
    }
    let patch = serde_json::json!({ "status": status });
    match api
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => true,
        Err(kube::Error::Api(error)) if error.code == 404 => true,
        Err(error) => {
            tracing::warn!(pipeline = %name, %error, "pipeline status was not written");
            false
        }
    }
}

async fn say(
    context: &Context,
    pipeline: &Pipeline,
    kind: EventType,
    reason: &'static str,
    message: &str,
) {
    context
        .recorder
        .event(&pipeline.object_ref(&()), kind, reason, message)
        .await;
}
