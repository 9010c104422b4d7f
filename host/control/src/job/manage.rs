//! Which pods a Job that goes on needs more or less. Pure.

use std::{cmp::Reverse, collections::HashMap, sync::Arc, time::Duration};

use eyot_client::view::Pod;
use k8s_openapi::api::batch::v1::Job;

use super::{
    backoff, of_index,
    plan::{View, is_leaving, natural, sooner},
    policy::{self, Verdict},
    template::Maker,
};
use crate::{
    pod::{self, NewPod},
    pod_control::BURST,
};

/// How often the pods of an index failed so far, on each pod of the index.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Further failures, which the Job's policy ignores.
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Change {
    pub(super) create: Vec<NewPod>,
    /// Taken away, and counted.
    pub(super) stop: Vec<Arc<Pod>>,
    /// Taken away as if they had not been.
    pub(super) drop: Vec<Arc<Pod>>,
}

/// What to make or take away now, and after which time to look again.
pub(super) fn manage(view: &View<'_>, pods: &[Arc<Pod>]) -> (Change, Option<Duration>) {
    let mut change = Change::default();
    if view.is_suspended() {
        change.drop = view.active.clone();
        return (change, None);
    }
    let parallelism = natural(Some(view.spec.parallelism.unwrap_or(1)));
    let active = view.active.len();
    let wanted = match view.completions {
        // Whoever succeeds first tells the others to end by themselves.
        None if view.succeeded > 0 => active,
        None => size(parallelism),
        Some(completions) => size(completions.saturating_sub(view.succeeded).min(parallelism)),
    };
    change.drop = surplus(view, active.saturating_sub(wanted));
    change.drop.truncate(BURST);
    if !change.drop.is_empty() {
        return (change, None);
    }
    let leaving = match view.waits_for_end() {
        true => view.mine.iter().filter(|pod| is_leaving(pod)).count(),
        false => 0,
    };
    let missing = wanted.saturating_sub(leaving).saturating_sub(active);
    if missing == 0 {
        return (change, None);
    }
    let per_index = view.failed_indexes.is_some();
    if !per_index {
        let ended = |phase: &'static str| {
            let pods = view.mine.iter().map(AsRef::as_ref);
            pods.filter(move |pod: &&Pod| pod::phase(pod) == phase)
        };
        let gone = view.mine.iter().map(AsRef::as_ref);
        let gone = gone.filter(|pod| !view.waits_for_end() && is_leaving(pod));
        let failed = ended("Failed").chain(gone);
        let left = backoff::of_all(ended("Succeeded"), failed, view.now);
        if !left.is_zero() {
            return (change, Some(left));
        }
    }
    let missing = missing.min(BURST);
    let taken = pods.iter().filter_map(|pod| pod.metadata.name.clone());
    let mut maker = Maker {
        job: view.job,
        taken: taken.collect(),
    };
    if !view.indexed {
        change.create = (0..missing).map(|_| maker.pod(None)).collect();
        return (change, None);
    }
    let mut again = None;
    for index in pending(view, missing) {
        let before = view.kept.get(&index);
        let left = before.map_or(Duration::ZERO, |before| {
            let last = backoff::ended(before).unwrap_or(view.now);
            backoff::left(failures_in_all(before).saturating_add(1), last, view.now)
        });
        if !left.is_zero() {
            again = sooner(again, Some(left));
            continue;
        }
        let mut pod = maker.pod(Some(index));
        if per_index {
            note_failures(view.job, &mut pod, before.map(AsRef::as_ref));
        }
        change.create.push(pod);
    }
    (change, again)
}

fn size(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// The first indexes that nobody works on.
fn pending(view: &View<'_>, count: usize) -> Vec<u32> {
    let leaving = view
        .mine
        .iter()
        .filter(|pod| view.waits_for_end() && is_leaving(pod));
    let taken = view.active.iter().chain(leaving);
    let mut done = view
        .succeeded_indexes
        .with(taken.filter_map(|pod| of_index(pod)));
    if let Some(failed) = &view.failed_indexes {
        done = done.and(failed);
    }
    done.missing(count, view.completions.unwrap_or(0))
}

/// At least so many of the active pods; and in any case those of an Indexed Job that have no valid
/// index, or one that another has.
fn surplus(view: &View<'_>, at_least: usize) -> Vec<Arc<Pod>> {
    let mut ordered = view.active.clone();
    ordered.sort_by_cached_key(|pod| progress(pod));
    let (mut gone, mut left) = (Vec::new(), Vec::new());
    if view.indexed {
        let completions = view.completions.unwrap_or(0);
        let mut best: HashMap<u32, Arc<Pod>> = HashMap::new();
        for pod in ordered {
            match of_index(&pod).filter(|index| *index < completions) {
                None => gone.push(pod),
                // The later one has come further.
                Some(index) => gone.extend(best.insert(index, pod)),
            }
        }
        left.extend(best.into_values());
        left.sort_by_cached_key(|pod| progress(pod));
    } else {
        left = ordered;
    }
    let more = at_least.saturating_sub(gone.len()).min(left.len());
    gone.extend(left.drain(..more));
    gone
}

/// The lower, the less is lost.
fn progress(pod: &Pod) -> impl Ord + use<> {
    let phase = match pod::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (
        pod::node(pod).is_some(),
        phase,
        pod::is_ready(pod),
        Reverse(pod::ready_since(pod)),
        Reverse(pod::restarts(pod)),
        Reverse(created),
        pod.metadata.uid.clone(),
    )
}

/// How often the index failed before this pod: counted, and ignored.
pub(super) fn failures(pod: &Pod) -> (u32, u32) {
    let annotations = pod.metadata.annotations.as_ref();
    let number = |name: &str| {
        let text = annotations.and_then(|all| all.get(name));
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    (number(FAILURES), number(IGNORED))
}

pub(super) fn failures_in_all(pod: &Pod) -> u32 {
    let (counted, ignored) = failures(pod);
    counted.saturating_add(ignored)
}

fn note_failures(job: &Job, pod: &mut NewPod, before: Option<&Pod>) {
    let (mut counted, mut ignored) = before.map(failures).unwrap_or_default();
    if let Some(before) = before {
        match policy::verdict(job, before) {
            Verdict::Ignore => ignored = ignored.saturating_add(1),
            _ => counted = counted.saturating_add(1),
        }
    }
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(FAILURES.to_owned(), counted.to_string());
    if ignored > 0 {
        annotations.insert(IGNORED.to_owned(), ignored.to_string());
    }
}
