//! The one task that waits until a job is due, and lets it be done.
//!
//! What it has done it finds in the records, so each life of the host goes on from there: times that
//! went by in between were missed, which is recorded, and made up for once if the job says so. The
//! same holds when the clock jumps ahead or the machine slept. A clock that is set back a little does
//! not make a job due twice for one time; set back far, it begins anew from the time that it is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_api::{AdminState, ScheduleAction, ScheduleJob};
use eyot_edgex::{Failure, objects::modified};
use eyot_store::records::Run;
use futures::future::join_all;
use http::StatusCode;
use kube::ResourceExt;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{FEW, MOST, actions::carry_out, timing::Timing};
use crate::Inner;

const SUCCEEDED: &str = "SUCCEEDED";
const FAILED: &str = "FAILED";
const MISSED: &str = "MISSED";
/// Actions that are carried out at once.
const AT_ONCE: usize = 32;
/// When to look at the clock again, whatever a timer says.
const LOOK: Duration = Duration::from_secs(30);
/// A time that went by longer ago was missed. Longer than it takes to notice that a clock was set.
const LATE: i64 = 60_000;
/// A clock that was set back by no more than this is only put right.
const SLEW: i64 = 5_000;
/// A job that was changed so shortly ago has missed nothing: its time of change is in whole seconds.
const FRESH: i64 = 5_000;
/// Missed times that are recorded of one job: the last ones.
const TOLD: usize = 100;
/// Jobs that wait because somebody has triggered them.
const TRIGGERED: usize = 1000;
/// Records since the old ones were looked at.
const UNTRIMMED: i64 = (MOST - FEW) / 4;

/// What wakes the task: a changed job, or one that is to be carried out whatever its time.
pub(crate) struct Triggers {
    pulled: Mutex<Vec<Arc<ScheduleJob>>>,
    pub changed: Arc<Notify>,
}

impl Triggers {
    pub(crate) fn new() -> Self {
        Self {
            pulled: Mutex::default(),
            changed: Arc::default(),
        }
    }

    fn pulled(&self) -> MutexGuard<'_, Vec<Arc<ScheduleJob>>> {
        self.pulled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Let a job be carried out.
    pub(super) fn pull(&self, job: Arc<ScheduleJob>) -> Result<(), Failure> {
        let mut pulled = self.pulled();
        if pulled.len() >= TRIGGERED {
            return Err(Failure {
                status: StatusCode::TOO_MANY_REQUESTS,
                message: "too many jobs are triggered at once; try again".to_owned(),
            });
        }
        pulled.push(job);
        self.changed.notify_one();
        Ok(())
    }
}

/// A job as the task knows it.
struct Known {
    job: Arc<ScheduleJob>,
    /// `None` if it makes no sense.
    timing: Option<Timing>,
    /// When it was last changed.
    changed: i64,
    /// Up to when everything that was due is done or recorded.
    until: i64,
    under_way: bool,
}

struct Work {
    inner: Arc<Inner>,
    known: HashMap<String, Known>,
    /// Each answers the uid of its job.
    doing: JoinSet<String>,
    room: Arc<Semaphore>,
    untrimmed: i64,
}

/// Carry out jobs when they are due, until `stop` is cancelled.
pub(crate) async fn run(inner: Arc<Inner>, stop: CancellationToken) {
    let mut work = Work {
        inner: inner.clone(),
        known: HashMap::new(),
        doing: JoinSet::new(),
        room: Arc::new(Semaphore::new(AT_ONCE)),
        untrimmed: UNTRIMMED,
    };
    let working = async {
        loop {
            let woken = inner.triggers.changed.notified();
            work.learn().await;
            work.triggered();
            let pause = work.look().await;
            tokio::select! {
                () = woken => {}
                Some(done) = work.doing.join_next() => {
                    if let Ok(uid) = done
                        && let Some(known) = work.known.get_mut(&uid)
                    {
                        known.under_way = false;
                    }
                }
                () = sleep(pause.unwrap_or(LOOK)), if pause.is_some() => {}
            }
        }
    };
    stop.run_until_cancelled(working).await;
}

impl Work {
    /// Take on new and changed jobs, and forget those that are gone.
    async fn learn(&mut self) {
        let jobs = self.inner.jobs().all();
        let uid = |job: &ScheduleJob| job.metadata.uid.clone().unwrap_or_default();
        self.known
            .retain(|known, _| jobs.iter().any(|job| uid(job) == *known));
        for job in jobs {
            let uid = uid(&job);
            let before = self.known.get(&uid);
            if before.is_some_and(|known| known.job.spec == job.spec) {
                continue;
            }
            let timing = Timing::of(&job.spec.definition)
                .inspect_err(|why| {
                    tracing::warn!(job = job.name_any(), why, "a schedule job is never due");
                })
                .ok();
            let now = self.inner.clock.now();
            let changed = modified(&job.metadata).map_or(now, |time| time.as_millisecond());
            let mut known = Known {
                under_way: before.is_some_and(|known| known.under_way),
                until: match before {
                    Some(_) => now,
                    None => self.done_until(&job, changed, now).await,
                },
                job,
                timing,
                changed,
            };
            if !known.unlocked() {
                known.until = now;
            }
            self.known.insert(uid, known);
        }
    }

    /// Up to when an earlier life has done everything.
    async fn done_until(&self, job: &ScheduleJob, changed: i64, now: i64) -> i64 {
        if now - changed < FRESH {
            return now;
        }
        if !self.inner.records.any().await {
            return changed;
        }
        let latest = self.inner.records.latest_runs(&job.edgex_name()).await;
        let latest = match latest {
            Ok(latest) => latest.iter().map(|run| run.scheduled).max(),
            Err(error) => {
                tracing::warn!(%error, "what was missed is not known");
                return now;
            }
        };
        latest.map_or(changed, |latest| latest.max(changed))
    }

    /// Carry out what was triggered.
    fn triggered(&mut self) {
        let pulled = std::mem::take(&mut *self.inner.triggers.pulled());
        for job in pulled {
            if job.spec.admin_state == AdminState::Unlocked {
                self.carry_out(String::new(), &job, self.inner.clock.now());
            }
        }
    }

    /// Do what is due; how long nothing will be after that, `None` if nothing is ever.
    async fn look(&mut self) -> Option<Duration> {
        let now = self.inner.clock.now();
        let mut next: Option<i64> = None;
        let mut due = Vec::new();
        let mut missed = Vec::new();
        for (uid, known) in &mut self.known {
            let Some(timing) = known.timing.clone().filter(|_| known.unlocked()) else {
                continue;
            };
            if now < known.until - SLEW {
                known.until = now;
            }
            let mut times = known.passed(&timing, now);
            // What is only just due is carried out, unless the last one still is.
            let last = match times.last() {
                Some(last) if now - last <= LATE && !known.under_way => times.pop(),
                _ => None,
            };
            let make_up = !times.is_empty()
                && last.is_none()
                && known.job.spec.auto_trigger_missed_records
                && !known.under_way;
            missed.extend(
                times
                    .iter()
                    .flat_map(|at| records(&known.job, *at, now, MISSED)),
            );
            if let Some(at) = last.or(make_up.then_some(now)) {
                known.under_way = true;
                due.push((uid.clone(), known.job.clone(), at));
            }
            known.until = known.until.max(now.min(last.unwrap_or(now)));
            if let Some(at) = timing.next(known.until, known.changed) {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        self.keep(missed).await;
        for (uid, job, at) in due {
            self.carry_out(uid, &job, at);
        }
        next.map(|next| {
            let wait = u64::try_from(next - self.inner.clock.now()).unwrap_or(0);
            Duration::from_millis(wait.max(1)).min(LOOK)
        })
    }

    async fn keep(&mut self, runs: Vec<Run>) {
        if runs.is_empty() {
            return;
        }
        self.untrimmed += i64::try_from(runs.len()).unwrap_or(UNTRIMMED);
        keep(&self.inner, runs).await;
    }

    /// Carry out the actions of a job, each by itself, and record what came of each.
    fn carry_out(&mut self, uid: String, job: &Arc<ScheduleJob>, at: i64) {
        self.untrimmed += i64::try_from(job.spec.actions.len()).unwrap_or(UNTRIMMED);
        let trim = self.untrimmed >= UNTRIMMED;
        if trim {
            self.untrimmed = 0;
        }
        let (inner, job, room) = (self.inner.clone(), job.clone(), self.room.clone());
        self.doing.spawn(async move {
            let actions = 0..job.spec.actions.len();
            let each = actions.map(|n| done(inner.clone(), job.clone(), n, room.clone()));
            let outcomes = join_all(each).await;
            let mut runs = records(&job, at, inner.clock.now(), FAILED);
            for (run, outcome) in runs.iter_mut().zip(outcomes) {
                outcome.clone_into(&mut run.status);
            }
            keep(&inner, runs).await;
            if trim && let Err(error) = inner.records.trim_runs(MOST, FEW).await {
                tracing::warn!(%error, "old records of schedule jobs stay");
            }
            uid
        });
    }
}

/// Carry out one action of a job; how it went.
async fn done(
    inner: Arc<Inner>,
    job: Arc<ScheduleJob>,
    number: usize,
    room: Arc<Semaphore>,
) -> &'static str {
    let _room = room.acquire().await;
    let Some(action) = job.spec.actions.get(number).cloned() else {
        return FAILED;
    };
    match carry_out(inner, action).await {
        Ok(()) => SUCCEEDED,
        Err(why) => {
            tracing::warn!(job = job.name_any(), why, "a scheduled action failed");
            FAILED
        }
    }
}

impl Known {
    fn unlocked(&self) -> bool {
        self.job.spec.admin_state == AdminState::Unlocked
    }

    /// The times that have passed since everything was done, at most the last [`TOLD`].
    fn passed(&self, timing: &Timing, now: i64) -> Vec<i64> {
        let mut from = self.until;
        // Of a short interval and a long absence only the end is looked at.
        if let Some(every) = timing.interval() {
            let span = every.saturating_mul(i64::try_from(TOLD).unwrap_or(i64::MAX));
            from = from.max(now.saturating_sub(span));
        }
        let mut times = std::collections::VecDeque::new();
        while let Some(at) = timing.next(from, self.changed).filter(|at| *at <= now) {
            times.push_back(at);
            if times.len() > TOLD {
                times.pop_front();
            }
            from = at;
        }
        times.into()
    }
}

/// The records, made now, of one time of a job: one for each action.
fn records(job: &ScheduleJob, at: i64, now: i64, status: &str) -> Vec<Run> {
    let actions = job.spec.actions.iter().enumerate();
    let record = |(index, action): (usize, &ScheduleAction)| {
        let whole = serde_json::to_vec(action).unwrap_or_default();
        let digest = hex::encode(Sha256::digest(&whole));
        let mut shown = action.clone();
        shown.payload = None;
        Run {
            id: Uuid::new_v4().to_string(),
            job: job.edgex_name().into_owned(),
            step: format!("{index}-{}", &digest[..16]),
            action: serde_json::to_string(&shown).unwrap_or_default(),
            status: status.to_owned(),
            scheduled: at,
            created: now,
        }
    };
    actions.map(record).collect()
}

async fn keep(inner: &Inner, runs: Vec<Run>) {
    if let Err(error) = inner.records.add_runs(runs).await {
        tracing::warn!(%error, "what a schedule job has done is not recorded");
    }
}
