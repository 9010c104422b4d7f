//! Which of several computing guests has its turn: processor time in proportion to the requests of
//! their containers (`resources.requests.cpu`), however many instances each has.
//!
//! Guests that compute for longer than a tick contend. Each container has a *virtual time*: its
//! processor time divided by its weight. At every tick a guest makes room, and does not go on while
//! one that waits is behind it in virtual time by more than a tick. Who waits for nothing is not held
//! up, so no processor idles while a guest could compute; a container that comes or comes back
//! begins with the virtual time of the last: nobody saves up.
//!
//! The same rule as in fair queueing (Demers, Keshav, Shenker, 1989) and the kernel's CFS.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU8, Ordering},
};

use crate::clock::{Cpu, TICK};

/// The weight of a container that requests a whole processor, as of control groups.
pub(crate) const WHOLE: u64 = 1024;
/// The least, for those that request nothing.
const LEAST: u64 = 2;

/// Shares for a request in thousandths of a processor, as the kubelet reckons them.
pub(crate) fn weight(request_millis: Option<u64>) -> u64 {
    (request_millis.unwrap_or(0).saturating_mul(WHOLE) / 1000).clamp(LEAST, 256 * WHOLE)
}

/// The containers that contend.
#[derive(Default)]
pub(crate) struct Fair(Mutex<Vec<Contender>>);

struct Contender {
    cpu: Arc<Cpu>,
    running: usize,
    waiting: usize,
}

impl Fair {
    fn contenders(&self) -> MutexGuard<'_, Vec<Contender>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const AWAY: u8 = 0;
const RUNNING: u8 = 1;
const WAITING: u8 = 2;

/// The part of one instance in the contest.
pub(crate) struct Claim {
    fair: Arc<Fair>,
    cpu: Arc<Cpu>,
    state: AtomicU8,
}

impl Claim {
    pub(crate) fn new(fair: Arc<Fair>, cpu: Arc<Cpu>) -> Self {
        let state = AtomicU8::new(AWAY);
        Self { fair, cpu, state }
    }

    /// It computes again, if it was waiting to.
    pub(crate) fn run(&self) {
        if self.state.load(Ordering::Relaxed) == WAITING {
            self.change(RUNNING);
        }
    }

    /// It could compute, and lets others go first.
    pub(crate) fn wait(&self) {
        self.change(WAITING);
    }

    /// It does not want to compute.
    pub(crate) fn leave(&self) {
        if self.state.load(Ordering::Relaxed) != AWAY {
            self.change(AWAY);
        }
    }

    /// Whether anybody else contends.
    pub(crate) fn has_rivals(&self) -> bool {
        let contenders = self.fair.contenders();
        contenders
            .iter()
            .any(|other| !Arc::ptr_eq(&other.cpu, &self.cpu))
    }

    /// Whether nobody waits who has had less.
    pub(crate) fn may_run(&self) -> bool {
        let ahead = self.cpu.virtual_time();
        let slice = self.cpu.virtual_of(TICK);
        let contenders = self.fair.contenders();
        !contenders.iter().any(|other| {
            other.waiting > 0
                && !Arc::ptr_eq(&other.cpu, &self.cpu)
                && other.cpu.virtual_time().saturating_add(slice) < ahead
        })
    }

    fn change(&self, state: u8) {
        let mut contenders = self.fair.contenders();
        let before = self.state.swap(state, Ordering::Relaxed);
        if before == state {
            return;
        }
        let found = contenders
            .iter()
            .position(|c| Arc::ptr_eq(&c.cpu, &self.cpu));
        let index = found.unwrap_or_else(|| {
            let last = contenders.iter().map(|c| c.cpu.virtual_time()).min();
            self.cpu.catch_up(last.unwrap_or(0));
            contenders.push(Contender {
                cpu: self.cpu.clone(),
                running: 0,
                waiting: 0,
            });
            contenders.len() - 1
        });
        let Some(own) = contenders.get_mut(index) else {
            return;
        };
        match before {
            RUNNING => own.running -= 1,
            WAITING => own.waiting -= 1,
            _ => {}
        }
        match state {
            RUNNING => own.running += 1,
            WAITING => own.waiting += 1,
            _ => {}
        }
        if own.running + own.waiting == 0 {
            contenders.swap_remove(index);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn claim(fair: &Arc<Fair>, request: u64) -> Claim {
        Claim::new(fair.clone(), Cpu::new(None, Some(request)))
    }

    #[test]
    fn requests_changeshares_as_of_control_groups() {
        assert_eq!(weight(None), 2);
        assert_eq!(weight(Some(250)), 256);
        assert_eq!(weight(Some(u64::MAX)), 256 * WHOLE);
    }

    /// One processor, ticks given to whoever may run, in turn: what each has had.
    fn simulate(requests: &[u64], ticks: usize) -> Vec<Duration> {
        let fair = Arc::new(Fair::default());
        let claims: Vec<Claim> = requests.iter().map(|r| claim(&fair, *r)).collect();
        claims.iter().for_each(Claim::wait);
        let mut next = 0;
        for _ in 0..ticks {
            let able = (0..claims.len())
                .map(|step| (next + step) % claims.len())
                .find(|index| claims[*index].may_run());
            let index = able.expect("somebody may always run");
            claims[index].run();
            claims[index].cpu.charge(TICK.as_nanos() as u64);
            claims[index].wait();
            next = index + 1;
        }
        claims.iter().map(|claim| claim.cpu.used()).collect()
    }

    #[test]
    fn time_is_shared_in_proportion_to_requests() {
        let used = simulate(&[100, 300, 600], 1000);
        for (used, share) in used.iter().zip([0.1, 0.3, 0.6]) {
            let had = used.as_secs_f64() / (TICK * 1000).as_secs_f64();
            assert!((had - share).abs() < 0.02, "{had} instead of {share}");
        }
    }

    #[test]
    fn who_comes_late_is_not_owed_what_it_missed() {
        let fair = Arc::new(Fair::default());
        let (early, late) = (claim(&fair, 500), claim(&fair, 500));
        early.wait();
        early.cpu.charge(60_000_000_000);
        late.wait();
        assert!(early.may_run() && late.may_run());
        late.leave();
        assert!(!early.has_rivals());
    }
}
