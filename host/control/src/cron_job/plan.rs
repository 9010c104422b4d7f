//! Whether a CronJob's next Job is due, and what its status says. Pure.

use std::{collections::HashSet, sync::Arc, time::Duration};

use eyot_api::cron::{self, Schedule};
use eyot_client::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use crate::{job::conditions, owner};

/// The annotation that tells a Job for when it was meant.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed starts than this are worth a warning.
const MISSED: i64 = 100;
/// To wake a little later than due, never just before.
const LATE: SignedDuration = SignedDuration::from_millis(100);

/// In the order in which it is to be carried out.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plan {
    /// Jobs that run and give way to the next.
    pub(super) replace: Vec<ObjectReference>,
    pub(super) start: Option<Start>,
    /// As it is without the started one.
    pub(super) status: CronJobStatus,
    /// The oldest of the ended ones.
    pub(super) forget: Vec<Arc<Job>>,
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// When to look again.
    pub(super) again: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Start {
    pub(super) job: Box<Job>,
    pub(super) scheduled: Timestamp,
}

/// Compare a CronJob with its Jobs. `gone` are the uids of active ones that are no more.
pub(super) fn plan(
    cron: &CronJob,
    jobs: &[Arc<Job>],
    gone: &HashSet<String>,
    now: Timestamp,
) -> Plan {
    let spec = &cron.spec;
    let mut plan = Plan {
        status: cron.status.clone().unwrap_or_default(),
        ..Plan::default()
    };
    plan.note(jobs, gone);
    plan.history(spec, jobs);
    if cron.metadata.deletion_timestamp.is_none() {
        plan.schedule(cron, spec, now);
    }
    plan.status.active = plan.status.active.take().filter(|all| !all.is_empty());
    plan
}

/// The reference of a Job in the list of active ones.
pub(super) fn is_active(status: &CronJobStatus, job: &Job) -> bool {
    let mut active = status.active.iter().flatten();
    active.any(|found| found.uid == job.metadata.uid)
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

impl Plan {
    fn say(&mut self, kind: EventType, reason: &'static str, message: String) {
        self.events.push((kind, reason, message));
    }

    /// What became of the active Jobs.
    fn note(&mut self, jobs: &[Arc<Job>], gone: &HashSet<String>) {
        for job in jobs {
            let active = is_active(&self.status, job);
            let Some(end) = conditions::ended(job) else {
                if !active {
                    let message = format!(
                        "Saw a job that the controller did not create or forgot: {}",
                        name(&job.metadata)
                    );
                    self.say(EventType::Warning, "UnexpectedJob", message);
                }
                continue;
            };
            if active {
                let list = self.status.active.get_or_insert_default();
                list.retain(|found| found.uid != job.metadata.uid);
                let (job, end) = (name(&job.metadata), &end.type_);
                let message = format!("Saw completed job: {job}, condition: {end}");
                self.say(EventType::Normal, "SawCompletedJob", message);
            }
            let completed = job.status.as_ref().and_then(|s| s.completion_time.clone());
            if completed > self.status.last_successful_time {
                self.status.last_successful_time = completed;
            }
        }
        let list = self.status.active.take().unwrap_or_default();
        let is_gone =
            |found: &ObjectReference| found.uid.as_ref().is_some_and(|uid| gone.contains(uid));
        let (lost, left) = list.into_iter().partition(is_gone);
        self.status.active = Some(left);
        for lost in lost {
            let message = format!(
                "Active job went missing: {}",
                lost.name.as_deref().unwrap_or_default()
            );
            self.say(EventType::Normal, "MissingJob", message);
        }
    }

    fn history(&mut self, spec: &CronJobSpec, jobs: &[Arc<Job>]) {
        let limits = [
            (conditions::COMPLETE, spec.successful_jobs_history_limit),
            (conditions::FAILED, spec.failed_jobs_history_limit),
        ];
        for (kind, limit) in limits {
            let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
                continue;
            };
            let ended = |job: &&Arc<Job>| {
                conditions::ended(job).is_some_and(|end| end.type_ == kind)
                    && job.metadata.deletion_timestamp.is_none()
            };
            let mut ended: Vec<_> = jobs.iter().filter(ended).cloned().collect();
            ended.sort_by_cached_key(|job| {
                let start = job.status.as_ref().and_then(|s| s.start_time.clone());
                (start.is_none(), start, job.metadata.name.clone())
            });
            ended.truncate(ended.len().saturating_sub(limit));
            self.forget.extend(ended);
        }
    }

    fn schedule(&mut self, cron: &CronJob, spec: &CronJobSpec, now: Timestamp) {
        let given = spec.time_zone.as_deref().unwrap_or_default();
        let zone = match cron::zone(given) {
            Ok(zone) => zone,
            Err(why) => {
                let message = format!("invalid timeZone: {given:?}: {why}");
                return self.say(EventType::Warning, "UnknownTimeZone", message);
            }
        };
        if spec.suspend == Some(true) {
            return;
        }
        let text = &spec.schedule;
        let schedule = match Schedule::parse(text, zone.clone()) {
            Ok(schedule) => schedule,
            Err(why) => {
                let message = format!("unparseable schedule: {text:?} : {why}");
                return self.say(EventType::Warning, "UnparseableSchedule", message);
            }
        };
        let last = self.status.last_schedule_time.as_ref().map(|time| time.0);
        let created = cron.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let since = last.or(created).unwrap_or(now);
        let missed = missed(&schedule, since, spec.starting_deadline_seconds, now);
        let (scheduled, count) = match missed {
            Ok(missed) => missed,
            Err(why) => {
                let message = format!("invalid schedule: {text} : {why}");
                return self.say(EventType::Warning, "InvalidSchedule", message);
            }
        };
        let base = scheduled.unwrap_or(since);
        let next = schedule.next(base).filter(|next| *next > now);
        let next = next.or_else(|| schedule.next(now));
        self.again = next.and_then(|next| {
            let left = next.duration_since(now).saturating_add(LATE);
            Duration::try_from(left).ok()
        });
        let Some(scheduled) = scheduled else { return };
        if count > MISSED {
            let message = "too many missed start times. Set or decrease \
                           .spec.startingDeadlineSeconds or check clock skew";
            self.say(EventType::Warning, "TooManyMissedTimes", message.to_owned());
        }
        let deadline = spec.starting_deadline_seconds;
        let deadline = deadline.map(|seconds| SignedDuration::from_secs(seconds.max(0)));
        if deadline.is_some_and(|deadline| now.duration_since(scheduled) > deadline) {
            let when = scheduled.strftime("%a, %d %b %Y %H:%M:%S +0000");
            let message = format!("Missed scheduled time to start a job: {when}");
            return self.say(EventType::Warning, "MissSchedule", message);
        }
        let job = new_job(cron, spec, scheduled, &zone);
        let mut active = self.status.active.iter().flatten();
        if last == Some(scheduled) || active.any(|found| found.name == job.metadata.name) {
            return;
        }
        let runs = self
            .status
            .active
            .as_ref()
            .is_some_and(|all| !all.is_empty());
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if runs => {
                let message = "Not starting job because prior execution is running and \
                               concurrency policy is Forbid";
                return self.say(EventType::Normal, "JobAlreadyActive", message.to_owned());
            }
            Some("Replace") => self.replace = self.status.active.take().unwrap_or_default(),
            _ => {}
        }
        self.start = Some(Start {
            job: Box::new(job),
            scheduled,
        });
    }
}

/// The latest start that is due, and how many were missed before it (about).
fn missed(
    schedule: &Schedule,
    since: Timestamp,
    deadline: Option<i64>,
    now: Timestamp,
) -> Result<(Option<Timestamp>, i64), &'static str> {
    let oldest = deadline.and_then(|seconds| {
        let deadline = SignedDuration::from_secs(seconds.max(0));
        now.checked_sub(deadline).ok()
    });
    let since = oldest.map_or(since, |oldest| since.max(oldest));
    let never = "time difference between two schedules is less than 1 second";
    let first = schedule.next(since).ok_or(never)?;
    if first > now {
        return Ok((None, 0));
    }
    let Some(second) = schedule.next(first).filter(|second| *second <= now) else {
        return Ok((Some(first), 0));
    };
    // By the distance of the first two, so that years of absence cost no more than an hour.
    let step = second.duration_since(first).as_secs();
    if step < 1 {
        return Err(never);
    }
    let count = now.duration_since(first).as_secs() / step + 1;
    let mut at = first;
    // Where starts have gaps, as those of weekdays, the leap may land after the latest: then back,
    // ever further.
    let mut steps = count - 2;
    let mut back = 1;
    while steps > 0 {
        let leap = SignedDuration::from_secs(step.saturating_mul(steps));
        at = first.checked_add(leap).unwrap_or(first);
        if schedule.next(at).is_some_and(|next| next <= now) {
            break;
        }
        steps -= back;
        back *= 2;
        at = first;
    }
    let mut latest = first;
    while let Some(next) = schedule.next(at).filter(|next| *next <= now) {
        (latest, at) = (next, next);
    }
    Ok((Some(latest), count))
}

/// `<name>-<minutes since the epoch>`: a repeated pass names the same Job.
fn new_job(
    cron: &CronJob,
    spec: &CronJobSpec,
    scheduled: Timestamp,
    zone: &jiff::tz::TimeZone,
) -> Job {
    let from = spec.job_template.metadata.clone().unwrap_or_default();
    let minutes = scheduled.as_second().div_euclid(60);
    let mut annotations = from.annotations.unwrap_or_default();
    let clock = scheduled.to_zoned(zone.clone());
    let format = match zone == &jiff::tz::TimeZone::UTC {
        true => "%Y-%m-%dT%H:%M:%SZ",
        false => "%Y-%m-%dT%H:%M:%S%:z",
    };
    annotations.insert(SCHEDULED.to_owned(), clock.strftime(format).to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{minutes}", name(&cron.metadata))),
            namespace: cron.metadata.namespace.clone(),
            labels: from.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner::reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

/// The status once a Job was started.
pub(super) fn started(status: &mut CronJobStatus, job: ObjectReference, scheduled: Timestamp) {
    status.active.get_or_insert_default().push(job);
    status.last_schedule_time = Some(Time(scheduled));
}
