//! Processor time of guests: measured, shared fairly and bounded.
//!
//! A ticker advances the engine's epoch every 10 ms while any guest computes. At each tick a
//! computing guest gives way to the other tasks of its thread; there it is stopped if its call has
//! had its bound, and made to wait if its container has had all that it may (`limits.cpu`) or more
//! than its share ([`crate::fair`]). Time is measured around each poll of a guest's future, so host calls on the guest's behalf count and
//! waiting does not.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use wasmtime::{Engine, EngineWeak, Store, UpdateDeadline};

use crate::fair::{self, Claim, Fair};

/// How often a computing guest is interrupted: short enough that others hardly wait, long enough
/// to cost nothing.
pub(crate) const TICK: Duration = Duration::from_millis(10);
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
    /// Among the guests that it interrupts.
    fair: Arc<Fair>,
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
            fair: Arc::default(),
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
pub(crate) struct Cpu {
    used: AtomicU64,
    /// Thousandths of a processor that it may have; 0 is without a bound.
    bound: AtomicU64,
    /// A bucket of processor time that fills at that rate.
    level: Mutex<Level>,
    weight: AtomicU64,
    /// Nanoseconds divided by the weight, see [`crate::fair`].
    virtual_time: AtomicU64,
}

struct Level {
    /// Nanoseconds that may still be used; below zero is debt.
    left: f64,
    at: Instant,
}

impl Cpu {
    /// Of a container with this limit and this request, in thousandths of a processor.
    pub(crate) fn new(millis: Option<u64>, request: Option<u64>) -> Arc<Self> {
        let cpu = Self {
            used: AtomicU64::new(0),
            bound: AtomicU64::new(0),
            level: Mutex::new(Level {
                left: 0.0,
                at: Instant::now(),
            }),
            weight: AtomicU64::new(0),
            virtual_time: AtomicU64::new(0),
        };
        cpu.resize(millis, request);
        if let Some(rate) = cpu.rate() {
            cpu.level().left = rate * PERIOD.as_nanos() as f64;
        }
        Arc::new(cpu)
    }

    /// From now on it has this limit and this request.
    pub(crate) fn resize(&self, millis: Option<u64>, request: Option<u64>) {
        self.bound.store(millis.unwrap_or(0), Ordering::Relaxed);
        self.weight.store(fair::weight(request), Ordering::Relaxed);
    }

    /// Seconds of processor time per second that it may have.
    fn rate(&self) -> Option<f64> {
        let millis = self.bound.load(Ordering::Relaxed);
        (millis > 0).then_some(millis as f64 / 1000.0)
    }

    fn level(&self) -> MutexGuard<'_, Level> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    pub(crate) fn virtual_time(&self) -> u64 {
        self.virtual_time.load(Ordering::Relaxed)
    }

    /// The virtual time that so much processor time is worth.
    pub(crate) fn virtual_of(&self, time: Duration) -> u64 {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        nanos.saturating_mul(fair::WHOLE) / self.weight.load(Ordering::Relaxed).max(1)
    }

    pub(crate) fn catch_up(&self, to: u64) {
        self.virtual_time.fetch_max(to, Ordering::Relaxed);
    }

    pub(crate) fn charge(&self, nanos: u64) {
        self.used.fetch_add(nanos, Ordering::Relaxed);
        let worth = self.virtual_of(Duration::from_nanos(nanos));
        self.virtual_time.fetch_add(worth, Ordering::Relaxed);
        if self.rate().is_some() {
            self.level().left -= nanos as f64;
        }
    }

    /// How long to wait until the container may compute again.
    pub(crate) fn debt(&self) -> Option<Duration> {
        let rate = self.rate()?;
        let mut level = self.level();
        let now = Instant::now();
        let earned = now.duration_since(level.at).as_nanos() as f64 * rate;
        level.left = (level.left + earned).min(rate * PERIOD.as_nanos() as f64);
        level.at = now;
        (level.left < 0.0).then(|| Duration::from_nanos((-level.left / rate) as u64))
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
    claim: Claim,
    /// The current poll ends because the guest gives way, not because it waits for something.
    gives_way: AtomicBool,
}

impl Times {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Clock {
    pub(crate) fn new(ticker: Arc<Ticker>, cpu: Arc<Cpu>) -> Self {
        let claim = Claim::new(ticker.fair.clone(), cpu.clone());
        let shared = Arc::new(Times {
            start: Instant::now(),
            since: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            bound: AtomicU64::new(u64::MAX),
            claim,
            gives_way: AtomicBool::new(false),
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
            if let Some(debt) = cpu.debt() {
                let wait = Box::pin(tokio::time::sleep(debt));
                return Ok(UpdateDeadline::YieldCustom(1, wait));
            }
            times.gives_way.store(true, Ordering::Relaxed);
            Ok(match times.claim.has_rivals() {
                true => UpdateDeadline::YieldCustom(1, Box::pin(turn(times.clone()))),
                false => UpdateDeadline::Yield(1),
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
        let _contest = Contest(&self.shared.claim);
        std::future::poll_fn(|context| {
            let _poll = Poll::enter(self);
            call.as_mut().poll(context)
        })
        .await
    }
}

/// Make room once, and then until it is the guest's turn.
async fn turn(times: Arc<Times>) {
    let mut again = pin!(tokio::task::yield_now());
    let mut made_room = false;
    let mut pause = pin!(tokio::time::sleep(TICK / 2));
    std::future::poll_fn(|context| {
        let room = made_room || again.as_mut().poll(context).is_ready();
        made_room = room;
        if room && times.claim.may_run() {
            return std::task::Poll::Ready(());
        }
        times.gives_way.store(true, Ordering::Relaxed);
        while room && pause.as_mut().poll(context).is_ready() {
            pause.as_mut().reset(tokio::time::Instant::now() + TICK / 2);
        }
        std::task::Poll::Pending
    })
    .await;
}

/// The end of a call is the end of its contending, also if it was dropped.
struct Contest<'a>(&'a Claim);

impl Drop for Contest<'_> {
    fn drop(&mut self) {
        self.0.leave();
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
        clock.shared.gives_way.store(false, Ordering::Relaxed);
        clock.shared.claim.run();
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
        match times.gives_way.load(Ordering::Relaxed) {
            true => times.claim.wait(),
            false => times.claim.leave(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_over_its_share_waits_for_as_long_as_earning_it_takes() {
        let cpu = Cpu::new(Some(500), None);
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
    fn a_limit_can_be_raised_and_lifted_while_the_container_runs() {
        let cpu = Cpu::new(Some(500), None);
        cpu.charge(150_000_000);
        cpu.resize(Some(2000), None);
        let debt = cpu.debt().unwrap();
        assert!(debt <= Duration::from_millis(50), "{debt:?}");
        cpu.resize(None, None);
        assert_eq!(cpu.debt(), None);
    }

    #[test]
    fn a_container_without_a_limit_never_waits() {
        let cpu = Cpu::new(None, None);
        cpu.charge(u64::MAX / 2);
        assert_eq!(cpu.debt(), None);
    }
}
