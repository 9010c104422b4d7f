//! Processor time of guests: measured, shared fairly and bounded.
//!
//! A ticker advances the engine's epoch every 10 ms while any guest computes. At each tick a
//! computing guest gives way to the other tasks of its thread; there it is stopped if its call has
//! had its bound, and made to wait if its container has had its share (`limits.cpu`). Time is
//! measured around each poll of a guest's future, so host calls on the guest's behalf count and
//! waiting does not.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use wasmtime::{Engine, EngineWeak, Store, UpdateDeadline};

/// How often a computing guest is interrupted: short enough that others hardly wait, long enough
/// to cost nothing.
const TICK: Duration = Duration::from_millis(10);
/// The ticker sleeps for good after this many ticks without a guest computing.
const IDLE_TICKS: u32 = 100;
/// The period over which a container's share of processor time evens out, as in the kernel's CFS
/// bandwidth control.
const PERIOD: Duration = Duration::from_millis(100);

/// A guest used more processor time than one call may.
#[derive(Debug, thiserror::Error)]
#[error("computed for more than {0:?}")]
pub(crate) struct TooLong(pub(crate) Duration);

/// Advances the epoch while guests compute; its thread ends with this.
pub(crate) struct Ticker {
    pulse: Arc<Pulse>,
    thread: Thread,
}

#[derive(Default)]
struct Pulse {
    computing: AtomicUsize,
    asleep: AtomicBool,
    ended: AtomicBool,
}

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Arc<Self>> {
        let pulse = Arc::new(Pulse::default());
        let (weak, shared) = (engine.weak(), pulse.clone());
        let handle = std::thread::Builder::new()
            .name("wasm-ticker".into())
            .spawn(move || shared.beat(&weak))?;
        Ok(Arc::new(Self {
            pulse,
            thread: handle.thread().clone(),
        }))
    }

    fn enter(&self) {
        self.pulse.computing.fetch_add(1, Ordering::SeqCst);
        if self.pulse.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
    }

    fn leave(&self) {
        self.pulse.computing.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.pulse.ended.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl Pulse {
    fn beat(&self, engine: &EngineWeak) {
        let mut idle = 0;
        while !self.ended.load(Ordering::SeqCst) {
            if let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
            }
            idle = if self.computing.load(Ordering::SeqCst) > 0 {
                0
            } else {
                idle + 1
            };
            if idle < IDLE_TICKS {
                std::thread::park_timeout(TICK);
                continue;
            }
            // Said before looking again: a guest that starts after the look wakes us.
            self.asleep.store(true, Ordering::SeqCst);
            if self.computing.load(Ordering::SeqCst) == 0 && !self.ended.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}

/// Processor time of one container, whatever number of instances it has.
#[derive(Default)]
pub(crate) struct Cpu {
    used: AtomicU64,
    share: Option<Share>,
}

/// A bucket of processor time that fills at the container's rate.
struct Share {
    /// Seconds of processor time per second.
    rate: f64,
    level: Mutex<Level>,
}

struct Level {
    /// Nanoseconds that may still be used; below zero is debt.
    left: f64,
    at: Instant,
}

impl Cpu {
    pub(crate) fn new(millis: Option<u64>) -> Arc<Self> {
        let share = millis.filter(|millis| *millis > 0).map(|millis| {
            let rate = millis as f64 / 1000.0;
            let left = rate * PERIOD.as_nanos() as f64;
            Share {
                rate,
                level: Mutex::new(Level {
                    left,
                    at: Instant::now(),
                }),
            }
        });
        Arc::new(Self {
            used: AtomicU64::new(0),
            share,
        })
    }

    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    fn charge(&self, nanos: u64) {
        self.used.fetch_add(nanos, Ordering::Relaxed);
        if let Some(share) = &self.share {
            share
                .level
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .left -= nanos as f64;
        }
    }

    /// How long to wait until the container may compute again.
    pub(crate) fn debt(&self) -> Option<Duration> {
        let share = self.share.as_ref()?;
        let mut level = share.level.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earned = now.duration_since(level.at).as_nanos() as f64 * share.rate;
        level.left = (level.left + earned).min(share.rate * PERIOD.as_nanos() as f64);
        level.at = now;
        (level.left < 0.0).then(|| Duration::from_nanos((-level.left / share.rate) as u64))
    }
}

/// The time of one instance: charges its container and bounds its calls.
#[derive(Clone)]
pub(crate) struct Clock {
    shared: Arc<Times>,
    ticker: Arc<Ticker>,
    cpu: Arc<Cpu>,
}

struct Times {
    start: Instant,
    /// When the current poll began, in nanoseconds after `start`.
    since: AtomicU64,
    /// Used by the current call until the current poll.
    spent: AtomicU64,
    /// What the current call may use, in nanoseconds.
    bound: AtomicU64,
}

impl Times {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Clock {
    pub(crate) fn new(ticker: Arc<Ticker>, cpu: Arc<Cpu>) -> Self {
        let shared = Arc::new(Times {
            start: Instant::now(),
            since: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            bound: AtomicU64::new(u64::MAX),
        });
        Self {
            shared,
            ticker,
            cpu,
        }
    }

    /// Have `store` interrupted at every tick.
    pub(crate) fn govern<T>(&self, store: &mut Store<T>) {
        let (times, cpu) = (self.shared.clone(), self.cpu.clone());
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            let now = times.now();
            let since = times.since.load(Ordering::Relaxed);
            let spent = times.spent.load(Ordering::Relaxed) + now.saturating_sub(since);
            let bound = times.bound.load(Ordering::Relaxed);
            if spent > bound {
                return Err(TooLong(Duration::from_nanos(bound)).into());
            }
            // This poll is charged when it has ended, so the debt is known one tick late.
            Ok(match cpu.debt() {
                Some(debt) => UpdateDeadline::YieldCustom(1, Box::pin(tokio::time::sleep(debt))),
                None => UpdateDeadline::Yield(1),
            })
        });
    }

    /// Run a call into the guest: measured, and stopped by [`TooLong`] when it has used `bound`.
    pub(crate) async fn measure<F: Future>(&self, bound: Option<Duration>, call: F) -> F::Output {
        let bound = bound.map_or(u64::MAX, |b| {
            u64::try_from(b.as_nanos()).unwrap_or(u64::MAX)
        });
        self.shared.bound.store(bound, Ordering::Relaxed);
        self.shared.spent.store(0, Ordering::Relaxed);
        let mut call = pin!(call);
        std::future::poll_fn(|context| {
            let _poll = Poll::enter(self);
            call.as_mut().poll(context)
        })
        .await
    }
}

/// One poll of a guest's future; ends when dropped, also by a panic.
struct Poll<'a>(&'a Clock);

impl<'a> Poll<'a> {
    fn enter(clock: &'a Clock) -> Self {
        clock
            .shared
            .since
            .store(clock.shared.now(), Ordering::Relaxed);
        clock.ticker.enter();
        Self(clock)
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        let times = &self.0.shared;
        self.0.ticker.leave();
        let nanos = times
            .now()
            .saturating_sub(times.since.load(Ordering::Relaxed));
        times.spent.fetch_add(nanos, Ordering::Relaxed);
        self.0.cpu.charge(nanos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_over_its_share_waits_for_as_long_as_earning_it_takes() {
        let cpu = Cpu::new(Some(500));
        assert_eq!(cpu.debt(), None);
        // The bucket holds 50 ms; using 150 leaves a debt of 100, which takes 200 to earn.
        cpu.charge(150_000_000);
        let debt = cpu.debt().unwrap();
        assert!(
            debt > Duration::from_millis(150) && debt <= Duration::from_millis(200),
            "{debt:?}"
        );
        assert_eq!(cpu.used(), Duration::from_millis(150));
    }

    #[test]
    fn a_container_without_a_limit_never_waits() {
        let cpu = Cpu::new(None);
        cpu.charge(u64::MAX / 2);
        assert_eq!(cpu.debt(), None);
    }
}
