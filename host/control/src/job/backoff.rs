//! How long to wait before a failed pod is replaced. Pure, and known from the pods themselves, so
//! that a restart of the host forgets nothing.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::pod;
use eyot_client::view::{ContainerStatus, Pod};

/// After the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);

/// What is left of the delay after so many failures in a row, the last of which was then.
pub(super) fn left(failures: u32, last: Timestamp, now: Timestamp) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else {
        return Duration::ZERO;
    };
    let delay = FIRST
        .saturating_mul(2u32.saturating_pow(doublings))
        .min(LONGEST);
    let passed = now.duration_since(last).max(SignedDuration::ZERO);
    delay.saturating_sub(passed.unsigned_abs())
}

/// The delay for a Job as a whole: failures since the last success count.
pub(super) fn of_all<'a>(
    succeeded: impl Iterator<Item = &'a Pod>,
    failed: impl Iterator<Item = &'a Pod>,
    now: Timestamp,
) -> Duration {
    let success = succeeded.filter_map(ended).max();
    let since = failed
        .filter_map(ended)
        .filter(|at| success.is_none_or(|success| *at > success));
    let (count, last) = since.fold((0u32, None), |(count, last), at| {
        (count.saturating_add(1), last.max(Some(at)))
    });
    last.map_or(Duration::ZERO, |last| left(count, last, now))
}

/// When a pod ended: by its containers, else by its readiness, else by when it was told to go.
pub(super) fn ended(pod: &Pod) -> Option<Timestamp> {
    by_containers(pod)
        .or_else(|| {
            let ready = pod::condition(pod, "Ready").filter(|ready| ready.status == "False")?;
            ready.last_transition_time.as_ref().map(|time| time.0)
        })
        .or_else(|| {
            let deadline = pod.metadata.deletion_timestamp.as_ref()?.0;
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
            deadline.checked_sub(SignedDuration::from_secs(grace)).ok()
        })
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

fn by_containers(pod: &Pod) -> Option<Timestamp> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let sidecar = |status: &&ContainerStatus| {
        let mut init = spec.init_containers.iter().flatten();
        init.any(|c| c.name == status.name && c.restart_policy.as_deref() == Some("Always"))
    };
    let main = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    let mut last = None;
    for container in main.chain(init.filter(sidecar)) {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        last = last.max(Some(ended.finished_at.as_ref()?.0));
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_ten_seconds_to_ten_minutes() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        for (failures, passed, expected) in [
            (0, 0, 0),
            (1, 0, 10),
            (2, 5, 15),
            (3, 0, 40),
            (7, 0, 600),
            (90, 100, 500),
            (1, 11, 0),
            (1, -5, 10),
        ] {
            let left = left(failures, at(1000), at(1000 + passed));
            assert_eq!(left.as_secs(), expected, "{failures} {passed}");
        }
    }
}
