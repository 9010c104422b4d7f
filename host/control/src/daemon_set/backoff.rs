//! How long to leave a node alone whose pod failed: a pod that fails at once must not be replaced
//! as fast as it fails.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_client::Key;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(15 * 60);

/// By DaemonSet and node.
#[derive(Default)]
pub(super) struct Backoff {
    delays: Mutex<HashMap<(Key, String), Delay>>,
}

#[derive(Clone, Copy)]
struct Delay {
    since: Instant,
    long: Duration,
}

impl Backoff {
    /// How much longer the failed pod of a node is to be left; nothing if it may go now.
    pub(super) fn left(&self, set: &Key, node: &str) -> Option<Duration> {
        let delay = *self.delays().get(&(set.clone(), node.to_owned()))?;
        let left = delay.long.checked_sub(delay.since.elapsed())?;
        (!left.is_zero()).then_some(left)
    }

    /// A failed pod is taken away: the next one waits for longer, unless this was long ago.
    pub(super) fn failed(&self, set: &Key, node: &str) {
        let mut delays = self.delays();
        delays.retain(|_, delay| delay.since.elapsed() < LAST * 2);
        let delay = delays.entry((set.clone(), node.to_owned()));
        let delay = delay
            .and_modify(|delay| delay.long = (delay.long * 2).min(LAST))
            .or_insert_with(|| Delay {
                since: Instant::now(),
                long: FIRST,
            });
        delay.since = Instant::now();
    }

    pub(super) fn forget(&self, set: &Key) {
        self.delays().retain(|(of, _), _| of != set);
    }

    fn delays(&self) -> MutexGuard<'_, HashMap<(Key, String), Delay>> {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_double_and_are_forgotten_when_all_went_well_for_long() {
        let (backoff, set) = (Backoff::default(), Key::new("d", "agent"));
        assert_eq!(backoff.left(&set, "n"), None);
        for seconds in [1, 2, 4] {
            backoff.failed(&set, "n");
            assert_eq!(backoff.left(&set, "n"), Some(Duration::from_secs(seconds)));
            assert_eq!(backoff.left(&set, "other"), None);
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(backoff.left(&set, "n"), None);
        }
        tokio::time::advance(LAST * 2).await;
        backoff.failed(&set, "n");
        assert_eq!(backoff.left(&set, "n"), Some(FIRST));
    }
}
