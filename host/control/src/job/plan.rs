//! What to do about a Job's pods, and what to say of it. Pure.
//!
//! Every pod carries a finalizer until it is counted, and is counted in four steps, each of which
//! may be the last before the host is killed: its uid is written to the status' *uncounted* list;
//! the finalizer is taken back; the cache shows that; the uid leaves the list in the same write in
//! which the counter grows. So no pod is forgotten, and none is counted twice. Pods of an Indexed
//! Job that succeeded need no uid: their index in `completedIndexes` is enough.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use eyot_client::{EventType, view::Pod};
use jiff::Timestamp;
use k8s_openapi::{
    api::batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    FINALIZER, backoff, conditions,
    indexes::Indexes,
    manage::{self, Change},
    of_index,
    policy::{self, Verdict},
};
use crate::{
    owner::Selects,
    pod,
    pod_control::{Claim, claim},
};

/// Uids in the status at most: it must not grow without bounds.
const UNCOUNTED: usize = 500;

/// In the order in which it is to be carried out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) claim: Claim<Pod>,
    /// Pods that were taken in and would not be counted: they need the finalizer.
    pub(super) hold: Vec<Arc<Pod>>,
    pub(super) change: Change,
    /// The whole status.
    pub(super) status: JobStatus,
    /// Pods whose finalizer may go once the status is stored.
    pub(super) release: Vec<Arc<Pod>>,
    /// To be told once the status is stored.
    pub(super) events: Vec<(EventType, String, String)>,
    /// When something will be due.
    pub(super) again: Option<Duration>,
}

/// How a Job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    success: bool,
    reason: String,
    message: String,
    /// Whether the status says so already.
    known: bool,
}

/// The Job and its pods, with the answers that all steps ask for.
pub(super) struct View<'a> {
    pub(super) job: &'a Job,
    pub(super) spec: &'a JobSpec,
    pub(super) mine: &'a [Arc<Pod>],
    pub(super) active: Vec<Arc<Pod>>,
    pub(super) completions: Option<u32>,
    pub(super) indexed: bool,
    pub(super) succeeded: u32,
    pub(super) succeeded_indexes: Indexes,
    pub(super) failed_indexes: Option<Indexes>,
    /// Of each index, the failed pod that is kept until its successor is there: its annotations
    /// say how often the index failed.
    pub(super) kept: HashMap<u32, Arc<Pod>>,
    pub(super) now: Timestamp,
}

impl View<'_> {
    pub(super) fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// Whether a pod is replaced only once it has ended for good.
    pub(super) fn waits_for_end(&self) -> bool {
        waits_for_end(self.spec)
    }

    fn is_valid(&self, pod: &Pod) -> bool {
        is_valid(self.indexed, self.completions, pod)
    }

    fn terminating(&self) -> usize {
        self.mine.iter().filter(|pod| is_leaving(pod)).count()
    }
}

fn waits_for_end(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

fn is_valid(indexed: bool, completions: Option<u32>, pod: &Pod) -> bool {
    !indexed || of_index(pod).is_some_and(|index| index < completions.unwrap_or(0))
}

pub(super) fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && !pod::has_ended(pod)
}

pub(super) fn is_tracked(pod: &Pod) -> bool {
    let finalizers = pod.metadata.finalizers.as_ref();
    finalizers.is_some_and(|all| all.iter().any(|found| found == FINALIZER))
}

fn is_failed(spec: &JobSpec, pod: &Pod) -> bool {
    match pod::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        // One that was told to go may never come to say how it ended.
        _ => !waits_for_end(spec) && pod.metadata.deletion_timestamp.is_some(),
    }
}

pub(super) fn selects(job: &Job) -> Selects {
    Selects::of(job.spec.as_ref().and_then(|spec| spec.selector.as_ref()))
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

pub(super) fn natural(n: Option<i32>) -> u32 {
    n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

/// Compare a Job with the pods of its namespace. `awaits`: the pods do not show yet what was done
/// before, so none may be added, taken away, or missed.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], awaits: bool, now: Timestamp) -> Plan {
    let empty = JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&empty);
    let claim = claim(&job.metadata, &selects(job), pods, |_| true);
    let mut plan = Plan {
        status: job.status.clone().unwrap_or_default(),
        claim,
        hold: Vec::new(),
        change: Change::default(),
        release: Vec::new(),
        events: Vec::new(),
        again: None,
    };
    let mine = plan.claim.mine.clone();
    if conditions::is_finished(job) {
        plan.release = mine.into_iter().filter(|pod| is_tracked(pod)).collect();
        return plan;
    }
    let mut counts = Uncounted::of(&mut plan.status, &mine);
    if job.metadata.deletion_timestamp.is_none() {
        let untracked = |pod: &&Arc<Pod>| pod::is_active(pod) && !is_tracked(pod);
        plan.hold = mine.iter().filter(untracked).cloned().collect();
    }
    let indexed = spec.completion_mode.as_deref() == Some("Indexed");
    let completions = spec.completions.and_then(|n| u32::try_from(n).ok());
    let fresh = |pod: &&Arc<Pod>| is_tracked(pod) && is_valid(indexed, completions, pod);
    let newly_succeeded = mine
        .iter()
        .filter(fresh)
        .filter(|pod| pod::phase(pod) == "Succeeded" && !counts.succeeded.contains(uid(pod)));
    let newly_failed = mine.iter().filter(fresh).filter(|pod| {
        is_failed(spec, pod)
            && !counts.failed.contains(uid(pod))
            && policy::verdict(job, pod) != Verdict::Ignore
    });
    let mut view = View {
        job,
        spec,
        mine: &mine,
        active: mine
            .iter()
            .filter(|pod| pod::is_active(pod))
            .cloned()
            .collect(),
        completions,
        indexed,
        succeeded: natural(plan.status.succeeded).saturating_add(natural(Some(count(
            newly_succeeded.count() + counts.succeeded.len(),
        )))),
        succeeded_indexes: Indexes::default(),
        failed_indexes: None,
        kept: HashMap::new(),
        now,
    };
    let failed = natural(plan.status.failed).saturating_add(natural(Some(count(
        newly_failed.count() + counts.failed.len(),
    ))));
    if plan.status.start_time.is_none() && !view.is_suspended() {
        plan.status.start_time = Some(Time(now));
    }
    let previous = view.count_indexes();
    let mut end = end(&view, &plan.status, failed, &mut plan.again);
    let mut active = view.active.len();
    let mut ready = view.active.iter().filter(|pod| pod::is_ready(pod)).count();
    let mut terminating = view.terminating();
    if end.is_some() {
        plan.change.stop = view.active.clone();
        if awaits {
            end = None;
        }
    } else {
        let managed = !awaits && job.metadata.deletion_timestamp.is_none();
        if managed {
            let (change, again) = manage::manage(&view, pods);
            plan.change = change;
            plan.again = sooner(plan.again, again);
        }
        active += plan.change.create.len();
        let left = active - plan.change.drop.len().min(active);
        let enough = completions.map_or(view.succeeded > 0, |wanted| view.succeeded >= wanted);
        if enough && left == 0 {
            end = Some(End {
                success: true,
                reason: "CompletionsReached".to_owned(),
                message: "Reached expected number of succeeded pods".to_owned(),
                known: false,
            });
        } else if managed {
            plan.say_suspended(&view);
        }
    }
    for gone in plan.change.stop.iter().chain(&plan.change.drop) {
        active = active.saturating_sub(1);
        ready -= usize::from(pod::is_ready(gone)).min(ready);
        terminating += 1;
    }
    let whole = plan.track(&view, &mut counts, end.as_ref(), &previous);
    plan.status.uncounted_terminated_pods = Some(counts.written());
    plan.status.active = Some(count(active)).filter(|n| *n > 0);
    plan.status.ready = Some(count(ready));
    plan.status.terminating = Some(count(terminating));
    if let Some(end) = end {
        let settled = whole && counts.is_empty() && plan.release.is_empty() && terminating == 0;
        plan.finish(&view, &end, settled);
    }
    plan
}

pub(super) fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Pods that ended, and may still have their finalizer.
struct Uncounted {
    succeeded: HashSet<String>,
    failed: HashSet<String>,
    order: UncountedTerminatedPods,
}

impl Uncounted {
    /// Those of the status; the ones that lost their finalizer move to its counters.
    fn of(status: &mut JobStatus, mine: &[Arc<Pod>]) -> Self {
        let tracked: HashSet<&str> = mine
            .iter()
            .filter(|pod| is_tracked(pod))
            .map(|pod| uid(pod))
            .collect();
        let listed = status.uncounted_terminated_pods.take().unwrap_or_default();
        let settle = |list: Option<Vec<String>>, counter: &mut Option<i32>| {
            let list = list.unwrap_or_default();
            let (waiting, done): (Vec<_>, Vec<_>) = list
                .into_iter()
                .partition(|uid| tracked.contains(uid.as_str()));
            let sum = counter.unwrap_or(0).saturating_add(count(done.len()));
            *counter = Some(sum).filter(|n| *n != 0);
            waiting
        };
        let succeeded = settle(listed.succeeded, &mut status.succeeded);
        let failed = settle(listed.failed, &mut status.failed);
        Self {
            succeeded: succeeded.iter().cloned().collect(),
            failed: failed.iter().cloned().collect(),
            order: UncountedTerminatedPods {
                succeeded: Some(succeeded),
                failed: Some(failed),
            },
        }
    }

    fn succeeds(&mut self, pod: &Pod) {
        if self.succeeded.insert(uid(pod).to_owned()) {
            let list = self.order.succeeded.get_or_insert_default();
            list.push(uid(pod).to_owned());
        }
    }

    fn fails(&mut self, pod: &Pod) {
        if self.failed.insert(uid(pod).to_owned()) {
            let list = self.order.failed.get_or_insert_default();
            list.push(uid(pod).to_owned());
        }
    }

    fn len(&self) -> usize {
        self.succeeded.len() + self.failed.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn written(&self) -> UncountedTerminatedPods {
        let filled = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
        UncountedTerminatedPods {
            succeeded: filled(&self.order.succeeded),
            failed: filled(&self.order.failed),
        }
    }
}

impl View<'_> {
    /// Which indexes succeeded and failed. Answers those that the status has as succeeded.
    fn count_indexes(&mut self) -> Indexes {
        let Some(completions) = self.completions.filter(|_| self.indexed) else {
            return Indexes::default();
        };
        let status = self.job.status.as_ref();
        let done = status.and_then(|status| status.completed_indexes.as_deref());
        let previous = Indexes::parse(done.unwrap_or_default(), completions);
        let tracked: Vec<&Arc<Pod>> = self
            .mine
            .iter()
            .filter(|pod| is_tracked(pod) && self.is_valid(pod))
            .collect();
        let succeeded = tracked
            .iter()
            .filter(|pod| pod::phase(pod) == "Succeeded")
            .filter_map(|pod| of_index(pod));
        self.succeeded_indexes = previous.with(succeeded);
        self.succeeded = self.succeeded_indexes.total();
        let Some(limit) = self.spec.backoff_limit_per_index else {
            return previous;
        };
        let had = status.and_then(|status| status.failed_indexes.as_deref());
        let failed = tracked
            .iter()
            .filter(|pod| self.fails_index(pod, limit))
            .filter_map(|pod| of_index(pod));
        let failed = Indexes::parse(had.unwrap_or_default(), completions).with(failed);
        self.kept = self.kept(&tracked, &failed);
        self.failed_indexes = Some(failed);
        previous
    }

    fn fails_index(&self, pod: &Pod, limit: i32) -> bool {
        is_failed(self.spec, pod)
            && match policy::verdict(self.job, pod) {
                Verdict::FailIndex => true,
                Verdict::Ignore => false,
                Verdict::Count | Verdict::FailJob(_) => {
                    manage::failures(pod).0 >= natural(Some(limit))
                }
            }
    }

    fn kept(&self, tracked: &[&Arc<Pod>], failed: &Indexes) -> HashMap<u32, Arc<Pod>> {
        let replaced: HashSet<u32> = self.active.iter().filter_map(|pod| of_index(pod)).collect();
        let mut kept: HashMap<u32, Arc<Pod>> = HashMap::new();
        let rank = |pod: &Pod| (manage::failures_in_all(pod), backoff::ended(pod));
        for pod in tracked {
            let Some(index) = of_index(pod).filter(|_| is_failed(self.spec, pod)) else {
                continue;
            };
            let over =
                replaced.contains(&index) || self.succeeded_indexes.has(index) || failed.has(index);
            if !over && kept.get(&index).is_none_or(|last| rank(last) <= rank(pod)) {
                kept.insert(index, (*pod).clone());
            }
        }
        kept
    }
}

/// Whether and how the Job is over, by what is known before anything is done.
fn end(
    view: &View<'_>,
    status: &JobStatus,
    failed: u32,
    again: &mut Option<Duration>,
) -> Option<End> {
    let standing = |kind: &str, success: bool| {
        conditions::holds(status, kind).map(|condition| End {
            success,
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
            known: true,
        })
    };
    let new = |success: bool, reason: &str, message: &str| {
        Some(End {
            success,
            reason: reason.to_owned(),
            message: message.to_owned(),
            known: false,
        })
    };
    let known =
        standing(conditions::SUCCESS, true).or_else(|| standing(conditions::FAILURE, false));
    if known.is_some() {
        return known;
    }
    let (job, spec) = (view.job, view.spec);
    let failed_pods = view.mine.iter().filter(|pod| is_failed(spec, pod));
    for pod in failed_pods {
        if let Verdict::FailJob(message) = policy::verdict(job, pod) {
            return new(false, "PodFailurePolicy", &message);
        }
    }
    let limit = natural(Some(spec.backoff_limit.unwrap_or(6)));
    if failed > limit || restarts_too_often(view, limit) {
        let message = "Job has reached the specified backoff limit";
        return new(false, "BackoffLimitExceeded", message);
    }
    let deadline = spec
        .active_deadline_seconds
        .filter(|_| !view.is_suspended());
    if let (Some(seconds), Some(start)) = (deadline, &status.start_time) {
        let allowed = Duration::from_secs(seconds.max(0).unsigned_abs());
        let passed = view.now.duration_since(start.0);
        let passed = Duration::try_from(passed).unwrap_or_default();
        if passed >= allowed {
            let message = "Job was active longer than specified deadline";
            return new(false, "DeadlineExceeded", message);
        }
        *again = sooner(*again, Some(allowed - passed));
    }
    let completions = view.completions.filter(|_| view.indexed)?;
    if let Some(indexes) = &view.failed_indexes {
        let most = spec.max_failed_indexes.map(|most| natural(Some(most)));
        let total = indexes.total();
        if most.is_some_and(|most| total > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return new(false, "MaxFailedIndexesExceeded", message);
        }
        if total > 0 && total.saturating_add(view.succeeded_indexes.total()) >= completions {
            return new(false, "FailedIndexes", "Job has failed indexes");
        }
    }
    let policy = spec.success_policy.as_ref();
    let message = policy::success(policy, &view.succeeded_indexes, completions)?;
    new(true, "SuccessPolicy", &message)
}

/// Pods that are restarted in place fail as often as they are restarted.
fn restarts_too_often(view: &View<'_>, limit: u32) -> bool {
    let template = view.spec.template.spec.as_ref();
    if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let living = view.mine.iter().filter(|pod| !pod::has_ended(pod));
    let statuses = living.filter_map(|pod| pod.status.as_ref()).flat_map(|s| {
        let init = s.init_container_statuses.iter().flatten();
        s.container_statuses.iter().flatten().chain(init)
    });
    let restarts: u32 = statuses
        .map(|container| natural(Some(container.restart_count)))
        .fold(0, u32::saturating_add);
    restarts > 0 && restarts >= limit
}

impl Plan {
    fn say_suspended(&mut self, view: &View<'_>) {
        let (status, reason, message) = match view.is_suspended() {
            true => ("True", "JobSuspended", "Job suspended"),
            false => ("False", "JobResumed", "Job resumed"),
        };
        let set = conditions::ensure(
            &mut self.status,
            conditions::SUSPENDED,
            (status, reason, message),
            view.now,
        );
        if !set {
            return;
        }
        let event = match view.is_suspended() {
            true => "Suspended",
            false => {
                // The deadline counts from here.
                self.status.start_time = Some(Time(view.now));
                "Resumed"
            }
        };
        self.events
            .push((EventType::Normal, event.to_owned(), message.to_owned()));
    }

    /// Note the pods that have ended. Answers whether all of them were.
    fn track(
        &mut self,
        view: &View<'_>,
        counts: &mut Uncounted,
        end: Option<&End>,
        previous: &Indexes,
    ) -> bool {
        let mut tracked: Vec<&Arc<Pod>> = view.mine.iter().filter(|pod| is_tracked(pod)).collect();
        tracked.sort_by_key(|pod| of_index(pod));
        // They are let go without being counted.
        let dropped: HashSet<&str> = self.change.drop.iter().map(|pod| uid(pod)).collect();
        let fails_all = end.is_some_and(|end| !end.success);
        let (mut whole, mut new_indexes) = (true, 0);
        for pod in tracked {
            if dropped.contains(uid(pod)) {
                continue;
            }
            let failed = is_failed(view.spec, pod);
            let succeeded = pod::phase(pod) == "Succeeded";
            let over = view.job.metadata.deletion_timestamp.is_some() || end.is_some();
            let kept = of_index(pod).and_then(|index| view.kept.get(&index));
            let is_kept = kept.is_some_and(|kept| uid(kept) == uid(pod));
            if !(over || succeeded || (failed && !is_kept)) {
                continue;
            }
            if counts.len() + new_indexes >= UNCOUNTED {
                whole = false;
                break;
            }
            self.release.push(pod.clone());
            if succeeded && !counts.failed.contains(uid(pod)) {
                match of_index(pod).filter(|_| view.indexed) {
                    Some(index) => new_indexes += usize::from(!previous.has(index)),
                    None if !view.indexed => counts.succeeds(pod),
                    None => {}
                }
            } else if (failed || fails_all)
                && view.is_valid(pod)
                && policy::verdict(view.job, pod) != Verdict::Ignore
            {
                counts.fails(pod);
            }
        }
        if view.indexed {
            let done = Some(view.succeeded_indexes.to_string());
            self.status.completed_indexes = done.filter(|done| !done.is_empty());
            let total = i32::try_from(view.succeeded_indexes.total()).unwrap_or(i32::MAX);
            self.status.succeeded = Some(total).filter(|n| *n > 0);
            self.status.failed_indexes = view.failed_indexes.as_ref().map(ToString::to_string);
        }
        whole
    }

    /// First say that the Job is ending, so that no more pods are made; once everything is
    /// `settled`, that it has ended.
    fn finish(&mut self, view: &View<'_>, end: &End, settled: bool) {
        let (ending, ended) = match end.success {
            true => (conditions::SUCCESS, conditions::COMPLETE),
            false => (conditions::FAILURE, conditions::FAILED),
        };
        let said = ("True", end.reason.as_str(), end.message.as_str());
        if !end.known {
            conditions::ensure(&mut self.status, ending, said, view.now);
            return;
        }
        if !settled {
            return;
        }
        conditions::ensure(&mut self.status, ended, said, view.now);
        self.again = None;
        if !end.success {
            let event = (EventType::Warning, end.reason.clone(), end.message.clone());
            return self.events.push(event);
        }
        self.status.completion_time = Some(Time(view.now));
        if view
            .completions
            .is_some_and(|wanted| natural(self.status.succeeded) > wanted)
        {
            let message = "Too many succeeded pods running after completion count reached";
            let reason = "TooManySucceededPods".to_owned();
            self.events
                .push((EventType::Warning, reason, message.to_owned()));
        }
        let (reason, message) = ("Completed".to_owned(), "Job completed".to_owned());
        self.events.push((EventType::Normal, reason, message));
    }
}
