//! One priority level: its seats, and the queues of those who wait for one.
//!
//! A queue has a tag: the time at which its turn comes, on a clock that runs with the work done. The
//! queue with the earliest tag is next; taking a seat moves its tag on by what such a request is
//! expected to take, and giving the seat back corrects that to what it took. So flows share a level
//! by time, not by number of requests, and one that was idle does not save up turns.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{sync::oneshot, time::Instant};

use super::config::Config;
use crate::object;

/// How long a request may wait for a seat: Kubernetes gives a quarter of the request's time.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a request is charged before it is known what it takes, in microseconds.
const EXPECTED: u64 = 1000;
/// Queues of one level at most: the configuration may ask for millions.
const QUEUES: usize = 4096;

/// What the configuration says of a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    exempt: bool,
    /// Seats of its own.
    nominal: usize,
    /// Of these, those that others may use while they are free.
    lendable: usize,
    /// Seats of others that it may use; `None` without limit.
    borrowing: Option<usize>,
    /// `None`: who finds no seat is refused.
    queueing: Option<Queueing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Queueing {
    queues: usize,
    /// Of which a flow may use so many.
    hand: usize,
    /// Requests in one queue.
    length: usize,
}

impl Limits {
    /// The share of a level in all seats.
    pub(super) fn shares(level: &Value) -> usize {
        Limits::part(level)["nominalConcurrencyShares"]
            .as_u64()
            .map_or(0, |shares| {
                usize::try_from(shares).unwrap_or(usize::MAX / 1024)
            })
    }

    fn part(level: &Value) -> &Value {
        let spec = &level["spec"];
        match object::text(spec, &["type"]) {
            "Exempt" => &spec["exempt"],
            _ => &spec["limited"],
        }
    }

    pub(super) fn read(level: &Value, seats: usize, all_shares: usize) -> Limits {
        let part = Limits::part(level);
        let number = |value: &Value| {
            value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
        };
        let nominal = (seats * Limits::shares(level).min(1 << 30)).div_ceil(all_shares);
        let percent = |value: &Value| number(value).map(|percent| nominal * percent / 100);
        let response = &part["limitResponse"];
        let queueing = &response["queuing"];
        let or = |key: &str, default: usize| number(&queueing[key]).unwrap_or(default).max(1);
        Limits {
            exempt: object::text(level, &["spec", "type"]) == "Exempt",
            nominal,
            lendable: percent(&part["lendablePercent"]).unwrap_or(0),
            borrowing: percent(&part["borrowingLimitPercent"]),
            queueing: (object::text(response, &["type"]) == "Queue").then(|| Queueing {
                queues: or("queues", 64).min(QUEUES),
                hand: or("handSize", 8),
                length: or("queueLengthLimit", 50),
            }),
        }
    }
}

pub(super) struct Level {
    pub(super) name: Box<str>,
    exempt: bool,
    taken: AtomicUsize,
    nominal: AtomicUsize,
    lendable: AtomicUsize,
    waiting: AtomicUsize,
    inner: Mutex<Inner>,
}

struct Inner {
    limits: Limits,
    queues: Vec<Queue>,
    /// The tag of the queue that was served last.
    clock: u64,
}

#[derive(Default)]
struct Queue {
    tag: u64,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    call: oneshot::Sender<()>,
    ticket: Arc<Ticket>,
}

/// Whether a seat was taken for somebody who waits. Changes only while the level is locked.
#[derive(Default)]
struct Ticket(AtomicBool);

/// A seat, until it is dropped.
pub(crate) struct Permit {
    level: Arc<Level>,
    config: Arc<Config>,
    /// The queue that it waited in.
    queue: Option<usize>,
    since: Instant,
}

impl Level {
    pub(super) fn new(name: &str, limits: Limits) -> Level {
        let queues = limits.queueing.map_or(0, |queueing| queueing.queues);
        Level {
            name: name.into(),
            exempt: limits.exempt,
            taken: AtomicUsize::new(0),
            nominal: AtomicUsize::new(limits.nominal),
            lendable: AtomicUsize::new(limits.lendable),
            waiting: AtomicUsize::new(0),
            inner: Mutex::new(Inner {
                queues: (0..queues).map(|_| Queue::default()).collect(),
                limits,
                clock: 0,
            }),
        }
    }

    /// Take over other limits. False where the queues differ: then a new level takes this one's
    /// place, and who waits here is still served here.
    pub(super) fn update(&self, limits: &Limits) -> bool {
        let mut inner = self.inner();
        if self.exempt != limits.exempt
            || inner.limits.queueing.map(|q| q.queues) != limits.queueing.map(|q| q.queues)
        {
            return false;
        }
        self.nominal.store(limits.nominal, Ordering::Relaxed);
        self.lendable.store(limits.lendable, Ordering::Relaxed);
        inner.limits = limits.clone();
        true
    }

    pub(super) fn is_exempt(&self) -> bool {
        self.exempt
    }

    /// A seat for a request of this flow; `None` if there is none, nor a place to wait.
    pub(super) async fn take(self: &Arc<Level>, config: &Arc<Config>, flow: u64) -> Option<Permit> {
        // Who comes while others wait waits behind them.
        if self.waiting.load(Ordering::Acquire) == 0 && self.sit_down() {
            return Some(self.permit(config, None));
        }
        let (queue, ticket, called) = {
            let mut inner = self.inner();
            if self.waiting.load(Ordering::Acquire) == 0 && self.find_seat(&inner, config) {
                return Some(self.permit(config, None));
            }
            let queueing = inner.limits.queueing?;
            let queue = inner.deal(flow, &queueing);
            let (call, called) = oneshot::channel();
            let ticket = inner.enqueue(queue, queueing.length, call)?;
            self.waiting.fetch_add(1, Ordering::AcqRel);
            // A seat may have become free between the look and the wait.
            self.serve(&mut inner, config);
            (queue, ticket, called)
        };
        // Leaves the queue if the client goes away or the wait gets too long.
        let mut place = Place {
            level: self,
            config,
            queue,
            ticket: Some(ticket),
        };
        let called = tokio::time::timeout(PATIENCE, called).await;
        match called {
            Ok(Ok(())) => {
                place.ticket = None;
                Some(self.permit(config, Some(queue)))
            }
            _ => None,
        }
    }

    fn permit(self: &Arc<Level>, config: &Arc<Config>, queue: Option<usize>) -> Permit {
        Permit {
            level: self.clone(),
            config: config.clone(),
            queue,
            since: Instant::now(),
        }
    }

    /// Take one of the level's own seats.
    fn sit_down(&self) -> bool {
        let nominal = self.nominal.load(Ordering::Relaxed);
        let next = |taken: usize| (taken < nominal).then_some(taken + 1);
        let taken = self
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        taken.is_ok()
    }

    /// Take a seat of its own, or one that another level has no use for right now.
    fn find_seat(&self, inner: &Inner, config: &Config) -> bool {
        if self.sit_down() {
            return true;
        }
        let (taken, nominal) = (
            self.taken.load(Ordering::Acquire),
            self.nominal.load(Ordering::Relaxed),
        );
        let may_borrow = inner
            .limits
            .borrowing
            .is_none_or(|limit| taken < nominal + limit);
        if !may_borrow || config.free_to_borrow() == 0 {
            return false;
        }
        self.taken.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// Give seats to those who wait, as long as there are both.
    fn serve(&self, inner: &mut Inner, config: &Config) {
        while self.waiting.load(Ordering::Acquire) > 0 && self.find_seat(inner, config) {
            let Some(next) = inner.next() else {
                self.taken.fetch_sub(1, Ordering::AcqRel);
                return;
            };
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            // Who is leaving at this moment finds the ticket used, and gives the seat back.
            next.ticket.0.store(true, Ordering::Release);
            let _ = next.call.send(());
        }
    }

    fn stand_up(&self, config: &Config, queue: Option<usize>, took: Duration) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        if queue.is_none() && self.waiting.load(Ordering::Acquire) == 0 {
            return config.serve_others(self);
        }
        let mut inner = self.inner();
        if let Some(queue) = queue.and_then(|at| inner.queues.get_mut(at)) {
            let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / 2);
            queue.tag = queue.tag.saturating_sub(EXPECTED).saturating_add(took);
        }
        self.serve(&mut inner, config);
        drop(inner);
        config.serve_others(self);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Config {
    /// Seats that levels could lend and nobody has borrowed.
    fn free_to_borrow(&self) -> usize {
        let (mut free, mut borrowed) = (0, 0);
        for level in &self.levels {
            let taken = level.taken.load(Ordering::Acquire);
            let nominal = level.nominal.load(Ordering::Relaxed);
            free += nominal
                .saturating_sub(taken)
                .min(level.lendable.load(Ordering::Relaxed));
            borrowed += taken.saturating_sub(nominal);
        }
        free.saturating_sub(borrowed)
    }

    /// A seat that became free may be what others wait for.
    fn serve_others(&self, but: &Level) {
        for level in &self.levels {
            let waits = level.waiting.load(Ordering::Acquire) > 0;
            if waits && !std::ptr::eq(&**level, but) {
                level.serve(&mut level.inner(), self);
            }
        }
    }
}

impl Inner {
    /// The shortest of the queues that the flow may use: a few of all, drawn by its number, so that
    /// two flows seldom share all of theirs.
    fn deal(&self, flow: u64, queueing: &Queueing) -> usize {
        let count = self.queues.len().max(1);
        let hand = (0..queueing.hand.min(count)).map(|card| {
            let mut hasher = DefaultHasher::new();
            (flow, card).hash(&mut hasher);
            (hasher.finish() % count as u64) as usize
        });
        let length = |at: &usize| self.queues.get(*at).map_or(usize::MAX, |q| q.waiting.len());
        hand.min_by_key(length).unwrap_or(0)
    }

    fn enqueue(
        &mut self,
        at: usize,
        limit: usize,
        call: oneshot::Sender<()>,
    ) -> Option<Arc<Ticket>> {
        let clock = self.clock;
        let queue = self.queues.get_mut(at)?;
        if queue.waiting.len() >= limit {
            return None;
        }
        if queue.waiting.is_empty() {
            // Turns that were not used are gone.
            queue.tag = queue.tag.max(clock);
        }
        let ticket = Arc::new(Ticket::default());
        queue.waiting.push_back(Waiting {
            call,
            ticket: ticket.clone(),
        });
        Some(ticket)
    }

    /// Who is served next.
    fn next(&mut self) -> Option<Waiting> {
        let queues = self.queues.iter_mut();
        let queue = queues
            .filter(|queue| !queue.waiting.is_empty())
            .min_by_key(|queue| queue.tag)?;
        self.clock = self.clock.max(queue.tag);
        queue.tag = queue.tag.saturating_add(EXPECTED);
        queue.waiting.pop_front()
    }
}

/// A place in a queue.
struct Place<'a> {
    level: &'a Arc<Level>,
    config: &'a Arc<Config>,
    queue: usize,
    /// `None` once the seat is somebody else's to give back.
    ticket: Option<Arc<Ticket>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let mut inner = self.level.inner();
        if ticket.0.load(Ordering::Acquire) {
            drop(inner);
            let queue = Some(self.queue);
            return self.level.stand_up(self.config, queue, Duration::ZERO);
        }
        if let Some(queue) = inner.queues.get_mut(self.queue) {
            queue
                .waiting
                .retain(|one| !Arc::ptr_eq(&one.ticket, &ticket));
        }
        self.level.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.level
            .stand_up(&self.config, self.queue, self.since.elapsed());
    }
}
