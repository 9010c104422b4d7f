//! The life of one pod on this node, as a pure state machine.
//!
//! ```text
//!                 sandbox made            every main container ended for good
//!   Preparing ─────────────────► Active ──────────────────────────────────────┐
//!      │ ▲ failed: again later     │ deleted, past its deadline, host stops    │
//!      └─┘                         ▼                                           ▼
//!      │ deleted               Stopping ── nothing runs any more ────────► Releasing
//!      └───────────────────────────────────────────────────────────────────►   │ sandbox given back
//!                                                                              ▼
//!            Gone ◄── deleted ── Deleting ◄──────── deleted ──────────── Done (Succeeded, Failed)
//! ```
//!
//! [`PodState::step`] takes what happened and answers what is to be done. It does no I/O and reads
//! no clock. After every event it looks at all containers and starts or stops whatever has its
//! turn, so an event that was missed is made up for by the next. Effects are performed by
//! [`super::actor`].

use std::{sync::Arc, time::Duration};

use eyot_client::EventType;
use eyot_runtime::{Exit, Signal};
use tokio::time::Instant;

use super::{
    admission::Refusal,
    event::{Effect, Event, Probed, record, record_failure},
    resize::{Pending, Progress},
    unit::{Failure, FailureKind, Kill, Life, Now, RestartPolicy, Role, Unit, Waiting},
};

/// What a pod gets to end when it was deleted without a grace period.
pub(crate) const FORCED_GRACE: Duration = Duration::from_secs(1);
/// What a container has left at least to end by itself after its `preStop` hook.
const AFTER_HOOK: Duration = Duration::from_secs(2);
/// The code of a container whose program could not be executed, as Kubernetes' runtimes have it.
const NO_PROGRAM: i32 = 128;
const PREPARE_FIRST: Duration = Duration::from_millis(500);
/// Longest pause before the sandbox is tried again.
const PREPARE_LONGEST: Duration = Duration::from_secs(10);

/// Why a pod is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its main containers have ended; only sidecars are left.
    Finished,
    /// It has failed for a reason of its own, which is its [`Verdict`].
    Failed,
    DeleteAsked,
    Vanished,
    /// The host stops and takes its containers with it.
    Shutdown,
}

/// Why a pod failed whatever its containers did: reason and message of its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Preparing {
        tries: u32,
        until: Option<Instant>,
    },
    Active,
    Stopping {
        why: Why,
        deadline: Instant,
    },
    Releasing {
        why: Why,
    },
    /// Ended by itself. Stays until it is deleted.
    Done,
    Deleting,
    Gone,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PodState {
    pub stage: Stage,
    /// Init containers first, then the main ones, then the ephemeral ones, in the order of the
    /// manifest.
    pub units: Vec<Unit>,
    /// `name_namespace(uid)`, as Kubernetes' messages have it.
    pub id: String,
    /// Digests of the images that its volumes show.
    pub volume_images: Vec<String>,
    /// Whether the sandbox is there.
    pub sandboxed: bool,
    /// Grace that the pod's own specification gives its containers.
    pub grace: Duration,
    /// End of `activeDeadlineSeconds`.
    pub deadline: Option<Instant>,
    /// Set for good once the pod as a whole has failed.
    pub verdict: Option<Verdict>,
    /// Why it waits for another node, reason and message of its status.
    pub blocked: Option<Verdict>,
    /// Resources that the manifest wants and the node does not give.
    pub pending: Option<Pending>,
    /// Resources that the node gives and not all containers have yet.
    pub progress: Option<Progress>,
}

impl PodState {
    /// Take one event. The answer's effects are to be performed in their order.
    #[must_use]
    pub(crate) fn step(mut self, event: Event, now: Now) -> (Self, Vec<Effect>) {
        let mut effects = Vec::new();
        self.apply(event, now, &mut effects);
        self.advance(now, &mut effects);
        (self, effects)
    }

    /// The first effects of a pod that was just taken on.
    #[must_use]
    pub(crate) fn begin(mut self, now: Now) -> (Self, Vec<Effect>) {
        let mut effects = Vec::new();
        if matches!(self.stage, Stage::Preparing { .. }) {
            effects.push(Effect::Prepare);
        }
        self.advance(now, &mut effects);
        (self, effects)
    }

    /// When a [`Event::Tick`] is wanted at the latest.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Preparing { until, .. } => [until, self.deadline],
            Stage::Active => [self.next_resize(), self.deadline],
            Stage::Stopping { deadline, .. } => [self.next_force(deadline), None],
            _ => [None, None],
        };
        let units = self.units.iter().filter_map(Unit::deadline);
        match self.stage {
            Stage::Preparing { until: Some(_), .. } | Stage::Active => {
                stage.into_iter().flatten().chain(units).min()
            }
            _ => stage.into_iter().flatten().min(),
        }
    }

    /// Whether what it asked the node for is still its.
    pub(crate) fn holds_resources(&self) -> bool {
        !matches!(self.stage, Stage::Done | Stage::Deleting | Stage::Gone)
    }

    /// Whether a container of it runs or has run.
    pub(crate) fn has_begun(&self) -> bool {
        let begun = |unit: &Unit| unit.life != Life::Waiting || unit.last.is_some();
        self.stage == Stage::Done || self.units.iter().any(begun)
    }

    /// Whether every init container has done its part.
    pub(crate) fn is_initialized(&self) -> bool {
        self.inits()
            .all(|unit| unit.has_passed() || self.mains_begun())
    }

    pub(crate) fn inits(&self) -> impl Iterator<Item = &Unit> {
        self.units
            .iter()
            .filter(|unit| matches!(unit.role, Role::Init | Role::Sidecar))
    }

    pub(crate) fn ephemerals(&self) -> impl Iterator<Item = &Unit> {
        self.units
            .iter()
            .filter(|unit| unit.role == Role::Ephemeral)
    }

    pub(crate) fn mains(&self) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter(|unit| unit.role == Role::Main)
    }

    /// An init container that failed for good takes the pod with it.
    pub(crate) fn init_failed(&self) -> bool {
        self.inits()
            .any(|unit| unit.role == Role::Init && unit.ended().is_some_and(|e| e.code != 0))
    }

    fn mains_begun(&self) -> bool {
        self.mains().any(|unit| unit.life != Life::Waiting)
            && self
                .inits()
                .all(|unit| unit.role == Role::Sidecar || unit.has_passed())
    }

    /// When the next container of a pod that stops has to be killed, or asked to end because time
    /// is over.
    fn next_force(&self, deadline: Instant) -> Option<Instant> {
        let running = self.units.iter().filter_map(Unit::running);
        let times = running.filter_map(|running| match running.kill {
            Kill::No => Some(deadline),
            Kill::Asked { deadline } => Some(deadline),
            Kill::Forced => None,
        });
        times.min()
    }

    fn apply(&mut self, event: Event, now: Now, effects: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::Prepared => self.prepared(),
            Event::PrepareFailed(failures) => self.prepare_failed(failures, now, effects),
            Event::Started { unit, id, image_id } => {
                if let Some(unit) = self.units.get_mut(unit) {
                    unit.start_succeeded(id, image_id, now);
                }
            }
            Event::StartFailed { unit, failure } => self.start_failed(unit, failure, now, effects),
            Event::Exited { unit, exit } => self.exited(unit, exit, now, effects),
            Event::Probed {
                unit,
                attempt,
                probe,
            } => {
                self.probed(unit, attempt, probe, now, effects);
            }
            Event::Evicted(verdict) => self.evicted(verdict, now, effects),
            Event::ImageChanged { unit, image } => self.image_changed(unit, image, now, effects),
            Event::Refused(refusal) => self.refused(refusal, effects),
            Event::Wanted(decision) => self.resize(decision, now, effects),
            Event::Resized {
                unit,
                attempt,
                outcome,
            } => self.resized(unit, attempt, outcome, now, effects),
            Event::DeadlineChanged(deadline) => self.deadline = deadline,
            Event::Joined(units) => self.units.extend(units),
            Event::Hooked {
                unit,
                attempt,
                good,
            } => self.hooked(unit, attempt, good, now, effects),
            Event::Signalled { unit, attempt } => self.signalled(unit, attempt, now),
            Event::DeleteAsked { grace } => self.stop(Why::DeleteAsked, grace, now, effects),
            Event::Vanished => self.stop(Why::Vanished, FORCED_GRACE, now, effects),
            Event::Shutdown { grace } => self.stop(Why::Shutdown, grace, now, effects),
            Event::Released => self.released(effects),
            Event::Deleted => self.stage = Stage::Gone,
        }
    }

    fn prepared(&mut self) {
        if let Stage::Preparing { .. } = self.stage {
            self.sandboxed = true;
            self.stage = Stage::Active;
            for unit in &mut self.units {
                if let Life::Blocked { .. } = unit.life {
                    unit.life = Life::Waiting;
                }
            }
        }
    }

    fn prepare_failed(
        &mut self,
        failures: Vec<(usize, Failure)>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Stage::Preparing { tries, .. } = self.stage else {
            return;
        };
        let mut until = None;
        for (index, unit) in self.units.iter_mut().enumerate() {
            let failed_again = failures.iter().any(|(failed, _)| *failed == index);
            if matches!(unit.life, Life::Blocked { .. }) && !failed_again {
                unit.life = Life::Waiting;
            }
        }
        for (index, failure) in failures {
            let Some(unit) = self.units.get_mut(index) else {
                continue;
            };
            record_failure(index, unit, &failure, effects);
            unit.start_failed(failure, now);
            if let Life::Blocked { until: at, .. } = unit.life {
                until = Some(until.map_or(at, |earlier: Instant| earlier.min(at)));
            }
        }
        let pause = PREPARE_FIRST
            .saturating_mul(1 << tries.min(10))
            .min(PREPARE_LONGEST);
        let until = until.unwrap_or(now.mono + pause);
        self.stage = Stage::Preparing {
            tries: tries.saturating_add(1),
            until: Some(until),
        };
    }

    fn start_failed(
        &mut self,
        index: usize,
        failure: Failure,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(unit) = self.units.get_mut(index) else {
            return;
        };
        if failure.kind != FailureKind::Cancelled {
            record_failure(index, unit, &failure, effects);
        }
        if failure.kind == FailureKind::Program {
            let exit = Exit {
                code: NO_PROGRAM,
                reason: "StartError",
                message: failure.message,
            };
            unit.begun_in_vain(now);
            return self.exited(index, exit, now, effects);
        }
        effects.push(Effect::Clean { unit: index });
        unit.start_failed(failure, now);
    }

    fn exited(&mut self, index: usize, exit: Exit, now: Now, effects: &mut Vec<Effect>) {
        // One of an earlier host may end before the pod is prepared again.
        let active = matches!(self.stage, Stage::Active | Stage::Preparing { .. });
        let Some(unit) = self.units.get_mut(index) else {
            return;
        };
        effects.push(Effect::Clean { unit: index });
        let done = unit.role == Role::Init && exit.code == 0;
        let again = active && (unit.outdated || !done && unit.restarts_after(exit.code));
        unit.exited(exit, again, &self.id, now);
        if let Life::BackingOff { until, .. } = unit.life
            && until > now.mono
        {
            let message = format!(
                "Back-off restarting failed container {} in pod {}",
                unit.name, self.id
            );
            effects.push(record(Some(index), EventType::Warning, "BackOff", message));
        }
    }

    fn probed(
        &mut self,
        index: usize,
        attempt: u32,
        probe: Probed,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(unit) = self.units.get_mut(index) else {
            return;
        };
        if unit.restarts != attempt {
            return;
        }
        let name = unit.name.clone();
        let Life::Running(running) = &mut unit.life else {
            return;
        };
        match probe {
            Probed::Started => running.started = true,
            Probed::Ready(ready) => running.ready = ready,
            Probed::Unhealthy { which, grace } => {
                if running.kill == Kill::No {
                    let then = match unit.policy {
                        RestartPolicy::Never => "",
                        _ => ", will be restarted",
                    };
                    let message = format!("Container {name} failed {which} probe{then}");
                    effects.push(record(Some(index), EventType::Normal, "Killing", message));
                    ask_to_end(index, unit, now.mono + grace, now, effects);
                }
            }
        }
    }

    fn refused(&mut self, refusal: Refusal, effects: &mut Vec<Effect>) {
        let verdict = refusal.verdict();
        match refusal {
            Refusal::Reject { reason, message } => {
                effects.push(record(None, EventType::Warning, reason, message));
                self.verdict = Some(verdict);
                self.stage = Stage::Done;
            }
            Refusal::Block { reason, message } => {
                effects.push(record(None, EventType::Warning, reason, message));
                self.blocked = Some(verdict);
            }
        }
    }

    fn evicted(&mut self, verdict: Verdict, now: Now, effects: &mut Vec<Effect>) {
        if !matches!(self.stage, Stage::Preparing { .. } | Stage::Active) {
            return;
        }
        let message = verdict.message.clone();
        effects.push(record(None, EventType::Warning, "Evicted", message));
        self.verdict = Some(verdict);
        self.stop(Why::Failed, FORCED_GRACE, now, effects);
    }

    /// What runs is ended and started anew; what could not start is tried again at once.
    fn image_changed(&mut self, index: usize, image: String, now: Now, effects: &mut Vec<Effect>) {
        let grace = self.grace;
        let Some(unit) = self.units.get_mut(index) else {
            return;
        };
        unit.image = image;
        let message = match unit.role {
            Role::Sidecar => format!("Init container {} definition changed", unit.name),
            _ => format!(
                "Container {} definition changed, will be restarted",
                unit.name
            ),
        };
        match &mut unit.life {
            // What prepares the pod is left to finish.
            Life::Running(_) if unit.role == Role::Init => {}
            Life::Running(running) if running.kill == Kill::No => {
                effects.push(record(Some(index), EventType::Normal, "Killing", message));
                unit.outdated = true;
                ask_to_end(index, unit, now.mono + grace, now, effects);
            }
            Life::Running(_) => unit.outdated = true,
            Life::Blocked { until, .. } => {
                *until = now.mono;
                if let Stage::Preparing {
                    until: Some(until), ..
                } = &mut self.stage
                {
                    *until = now.mono;
                }
            }
            _ => {}
        }
    }

    /// A hook that failed takes its container with it.
    fn hooked(
        &mut self,
        index: usize,
        attempt: u32,
        good: bool,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let grace = self.grace;
        let Some(unit) = self.units.get_mut(index).filter(|u| u.restarts == attempt) else {
            return;
        };
        let Life::Running(running) = &mut unit.life else {
            return;
        };
        if good {
            running.hooked = false;
        } else if running.kill == Kill::No {
            for (kind, reason, message) in [
                (
                    EventType::Warning,
                    "FailedPostStartHook",
                    "PostStartHook failed",
                ),
                (EventType::Normal, "Killing", "FailedPostStartHook"),
            ] {
                effects.push(record(Some(index), kind, reason, message.to_owned()));
            }
            ask_to_end(index, unit, now.mono + grace, now, effects);
        }
    }

    /// Whatever time a `preStop` hook took, its container has a little left to end by itself.
    fn signalled(&mut self, index: usize, attempt: u32, now: Now) {
        let Some(unit) = self.units.get_mut(index).filter(|u| u.restarts == attempt) else {
            return;
        };
        if let Life::Running(running) = &mut unit.life
            && let Kill::Asked { deadline } = &mut running.kill
        {
            let without_hook = deadline.checked_sub(AFTER_HOOK).unwrap_or(*deadline);
            *deadline = without_hook.max(now.mono + AFTER_HOOK);
        }
    }

    /// Begin to stop, or hurry a stop that has begun.
    fn stop(&mut self, why: Why, grace: Duration, now: Now, effects: &mut Vec<Effect>) {
        let wanted = now.mono + grace;
        match self.stage {
            Stage::Preparing { .. } | Stage::Active => {
                self.stage = Stage::Stopping {
                    why,
                    deadline: wanted,
                };
            }
            Stage::Stopping {
                why: earlier,
                deadline,
            } => {
                let why = later(earlier, why);
                self.stage = Stage::Stopping {
                    why,
                    deadline: deadline.min(wanted),
                };
                for unit in &mut self.units {
                    if let Life::Running(running) = &mut unit.life
                        && let Kill::Asked { deadline } = &mut running.kill
                    {
                        *deadline = wanted.min(*deadline);
                    }
                }
            }
            Stage::Releasing { why: earlier } => {
                self.stage = Stage::Releasing {
                    why: later(earlier, why),
                };
            }
            Stage::Done | Stage::Deleting => match why {
                Why::DeleteAsked if self.stage == Stage::Done => {
                    self.stage = Stage::Deleting;
                    effects.push(Effect::Delete);
                }
                Why::Vanished | Why::Shutdown => self.stage = Stage::Gone,
                _ => {}
            },
            Stage::Gone => {}
        }
    }

    fn released(&mut self, effects: &mut Vec<Effect>) {
        self.sandboxed = false;
        let Stage::Releasing { why } = self.stage else {
            return;
        };
        self.stage = match why {
            Why::Finished | Why::Failed => Stage::Done,
            Why::Vanished | Why::Shutdown => Stage::Gone,
            Why::DeleteAsked => {
                effects.push(Effect::Delete);
                Stage::Deleting
            }
        };
    }

    /// Do whatever has its turn now.
    fn advance(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if let Stage::Preparing { .. } | Stage::Active = self.stage
            && self.deadline.is_some_and(|deadline| now.mono >= deadline)
        {
            let message =
                "Pod was active on the node longer than the specified deadline".to_owned();
            self.verdict = Some(Verdict {
                reason: "DeadlineExceeded".to_owned(),
                message: message.clone(),
            });
            effects.push(record(None, EventType::Normal, "DeadlineExceeded", message));
            self.stage = Stage::Stopping {
                why: Why::Failed,
                deadline: now.mono + self.grace,
            };
        }
        if let Stage::Preparing {
            tries,
            until: Some(until),
        } = self.stage
        {
            self.flip_waiting(now, effects);
            if now.mono >= until {
                self.stage = Stage::Preparing { tries, until: None };
                effects.push(Effect::Prepare);
            }
        }
        if self.stage == Stage::Active {
            self.advance_active(now, effects);
        }
        if let Stage::Stopping { why, deadline } = self.stage {
            self.advance_stopping(why, deadline, now, effects);
        }
    }

    fn advance_active(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.flip_waiting(now, effects);
        let mut its_turn = true;
        for (index, unit) in self.units.iter_mut().enumerate() {
            force_overdue(index, unit, now, effects);
            // Whoever has begun before may go on; the others wait for the init containers above.
            if unit.life != Life::Waiting || its_turn || unit.role == Role::Ephemeral {
                start_if_due(index, unit, now, effects);
            }
            let first = matches!(unit.role, Role::Init | Role::Sidecar);
            if first && !unit.has_passed() || unit.holds_others() {
                its_turn = false;
            }
        }
        self.advance_resize(now, effects);
        let finished = self.init_failed() || self.mains().all(|unit| unit.ended().is_some());
        if finished {
            self.stage = Stage::Stopping {
                why: Why::Finished,
                deadline: now.mono + self.grace,
            };
        }
    }

    fn flip_waiting(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for (index, unit) in self.units.iter_mut().enumerate() {
            let Life::Blocked { why, flip, .. } = &mut unit.life else {
                continue;
            };
            if let Some((at, next)) = flip.take() {
                if now.mono >= at {
                    let message = format!("Back-off pulling image \"{}\"", unit.image);
                    effects.push(record(Some(index), EventType::Normal, "BackOff", message));
                    *why = next;
                } else {
                    *flip = Some((at, next));
                }
            }
        }
    }

    /// Main containers go first, then the sidecars that served them.
    fn advance_stopping(
        &mut self,
        why: Why,
        deadline: Instant,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let overdue = now.mono >= deadline;
        let mains_live = self
            .units
            .iter()
            .any(|u| u.role != Role::Sidecar && u.is_live());
        for (index, unit) in self.units.iter_mut().enumerate() {
            if unit.role == Role::Sidecar && mains_live && !overdue {
                continue;
            }
            match &mut unit.life {
                Life::Creating { .. } => effects.push(Effect::Cancel { unit: index }),
                Life::Running(running) => {
                    if running.kill == Kill::No {
                        let message = format!("Stopping container {}", unit.name);
                        effects.push(record(Some(index), EventType::Normal, "Killing", message));
                        ask_to_end(index, unit, deadline, now, effects);
                    } else if let Kill::Asked { deadline: own } = &mut running.kill {
                        // What was asked to end for a reason of its own may have been given longer.
                        let latest = match unit.has_pre_stop {
                            true => deadline + AFTER_HOOK,
                            false => deadline,
                        };
                        *own = latest.min(*own);
                    }
                    force_overdue(index, unit, now, effects);
                }
                // What does not run now never will.
                Life::BackingOff { .. } | Life::Blocked { .. } => match unit.last.take() {
                    Some(last) => unit.life = Life::Ended(last),
                    None => unit.life = Life::Waiting,
                },
                Life::Waiting | Life::Ended(_) => {}
            }
        }
        if !self.units.iter().any(Unit::is_live) {
            self.stage = Stage::Releasing { why };
            effects.push(Effect::Release);
        }
    }
}

/// Deleting outranks finishing; an object that is gone outranks both.
fn later(earlier: Why, new: Why) -> Why {
    match (earlier, new) {
        (Why::Shutdown, _) | (_, Why::Shutdown) => Why::Shutdown,
        (Why::Vanished, _) => Why::Vanished,
        _ => new,
    }
}

fn start_if_due(index: usize, unit: &mut Unit, now: Now, effects: &mut Vec<Effect>) {
    let shown = match &unit.life {
        Life::Waiting => None,
        Life::Blocked { why, until, .. } if now.mono >= *until => Some(why.clone()),
        Life::BackingOff { until, .. } if now.mono >= *until => {
            unit.restarts = unit.restarts.saturating_add(1);
            None
        }
        _ => return,
    };
    unit.life = Life::Creating { shown };
    unit.applied = Arc::clone(&unit.allocated);
    (unit.resize_restarts, unit.resizing) = (false, false);
    effects.push(Effect::Start { unit: index });
}

/// Ask a container that runs to end until `deadline`, after its `preStop` hook if there is time.
pub(super) fn ask_to_end(
    index: usize,
    unit: &mut Unit,
    deadline: Instant,
    now: Now,
    effects: &mut Vec<Effect>,
) {
    let Life::Running(running) = &mut unit.life else {
        return;
    };
    let grace = deadline.duration_since(now.mono);
    if unit.has_pre_stop && !grace.is_zero() {
        running.kill = Kill::Asked {
            deadline: deadline + AFTER_HOOK,
        };
        effects.push(Effect::Stop { unit: index, grace });
    } else {
        running.kill = Kill::Asked { deadline };
        effects.push(Effect::Signal {
            unit: index,
            signal: Signal::Terminate,
        });
    }
}

fn force_overdue(index: usize, unit: &mut Unit, now: Now, effects: &mut Vec<Effect>) {
    if let Life::Running(running) = &mut unit.life
        && let Kill::Asked { deadline } = running.kill
        && now.mono >= deadline
    {
        running.kill = Kill::Forced;
        effects.push(Effect::Signal {
            unit: index,
            signal: Signal::Kill,
        });
    }
}

/// Why a container that never started is not running, before anything failed.
pub(crate) fn waiting_turn(has_inits: bool) -> Waiting {
    let reason = if has_inits {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    Waiting {
        reason,
        message: String::new(),
    }
}
