//! Keeps those who record events from flooding: many similar ones become one, and who has much to
//! say about one object is heard less and less. As Kubernetes' own clients do it.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;

use crate::EventType;

/// From so many similar events on they are combined.
const SIMILAR: usize = 10;
/// Similar events further apart than this have nothing to do with each other.
const INTERVAL: Duration = Duration::from_secs(600);
/// Events about one object that may come at once.
const BURST: f64 = 25.0;
/// How long it takes until one more may come.
const REFILL: Duration = Duration::from_secs(300);
/// Sorts of events, and objects, that are remembered.
const REMEMBERED: usize = 4_096;

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Itself,
    /// It is one of many similar ones.
    Combined,
    /// Too much was said about its object.
    Dropped,
}

/// What one component has recorded lately.
#[derive(Default)]
pub(crate) struct Correlator(Mutex<Lately>);

#[derive(Default)]
struct Lately {
    sorts: HashMap<u64, Sort>,
    objects: HashMap<u64, Bucket>,
}

/// Events that differ in nothing but their message.
struct Sort {
    messages: HashSet<u64>,
    last: Instant,
}

struct Bucket {
    tokens: f64,
    last: Instant,
}

impl Correlator {
    pub(crate) fn observe(
        &self,
        object: &ObjectReference,
        kind: EventType,
        reason: &str,
        message: &str,
        now: Instant,
    ) -> Fate {
        let about = hash((&object.kind, &object.namespace, &object.name, &object.uid));
        let mut lately = self.lately();
        let combined = lately.is_similar(hash((about, kind, reason)), hash(message), now);
        if !lately.may_be_said(about, now) {
            Fate::Dropped
        } else if combined {
            Fate::Combined
        } else {
            Fate::Itself
        }
    }

    fn lately(&self) -> MutexGuard<'_, Lately> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lately {
    fn is_similar(&mut self, sort: u64, message: u64, now: Instant) -> bool {
        make_room(&mut self.sorts, |sort| sort.last);
        let sort = self.sorts.entry(sort).or_insert_with(|| Sort {
            messages: HashSet::new(),
            last: now,
        });
        if now.saturating_duration_since(sort.last) > INTERVAL {
            sort.messages.clear();
        }
        sort.last = now;
        if sort.messages.len() + 1 >= SIMILAR && !sort.messages.contains(&message) {
            return true;
        }
        sort.messages.insert(message);
        false
    }

    fn may_be_said(&mut self, object: u64, now: Instant) -> bool {
        make_room(&mut self.objects, |bucket| bucket.last);
        let bucket = self.objects.entry(object).or_insert(Bucket {
            tokens: BURST,
            last: now,
        });
        let refilled = now.saturating_duration_since(bucket.last).as_secs_f64();
        bucket.tokens = (bucket.tokens + refilled / REFILL.as_secs_f64()).min(BURST);
        bucket.last = now;
        let may = bucket.tokens >= 1.0;
        if may {
            bucket.tokens -= 1.0;
        }
        may
    }
}

/// Forget the older half of what is remembered, if that is much.
fn make_room<T>(all: &mut HashMap<u64, T>, last: impl Fn(&T) -> Instant) {
    if all.len() < REMEMBERED {
        return;
    }
    let mut times: Vec<Instant> = all.values().map(&last).collect();
    let (_, middle, _) = times.select_nth_unstable(REMEMBERED / 2);
    let middle = *middle;
    let mut left = REMEMBERED / 2;
    all.retain(|_, one| {
        let keeps = left > 0 && last(one) >= middle;
        left -= usize::from(keeps);
        keeps
    });
}

fn hash(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(name: &str) -> ObjectReference {
        ObjectReference {
            kind: Some("Pod".into()),
            name: Some(name.into()),
            ..ObjectReference::default()
        }
    }

    fn observe(all: &Correlator, name: &str, message: &str, now: Instant) -> Fate {
        all.observe(&about(name), EventType::Normal, "Created", message, now)
    }

    #[test]
    fn the_tenth_of_similar_events_and_those_after_it_are_combined() {
        let (all, now) = (Correlator::default(), Instant::now());
        for number in 0..9 {
            let fate = observe(&all, "p", &format!("pod {number}"), now);
            assert_eq!(fate, Fate::Itself, "{number}");
        }
        assert_eq!(observe(&all, "p", "pod 9", now), Fate::Combined);
        assert_eq!(
            observe(&all, "p", "pod 3", now),
            Fate::Itself,
            "known by itself"
        );
        assert_eq!(
            observe(&all, "q", "pod 9", now),
            Fate::Itself,
            "about another"
        );
        let other = all.observe(&about("p"), EventType::Normal, "Killed", "pod 9", now);
        assert_eq!(other, Fate::Itself, "for another reason");
        let later = now + INTERVAL + Duration::from_secs(1);
        assert_eq!(observe(&all, "p", "pod 10", later), Fate::Itself);
    }

    #[test]
    fn too_many_events_about_one_object_are_dropped_until_time_has_passed() {
        let (all, now) = (Correlator::default(), Instant::now());
        for _ in 0..25 {
            assert_eq!(observe(&all, "p", "m", now), Fate::Itself);
        }
        assert_eq!(observe(&all, "p", "m", now), Fate::Dropped);
        assert_eq!(observe(&all, "q", "m", now), Fate::Itself);
        let later = now + REFILL + Duration::from_secs(1);
        assert_eq!(observe(&all, "p", "m", later), Fate::Itself);
        assert_eq!(observe(&all, "p", "m", later), Fate::Dropped);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (all, now) = (Correlator::default(), Instant::now());
        for number in 0..3 * REMEMBERED {
            observe(&all, &number.to_string(), "m", now);
        }
        let lately = all.lately();
        assert!(lately.sorts.len() <= REMEMBERED && lately.objects.len() <= REMEMBERED);
        assert!(lately.sorts.len() >= REMEMBERED / 2);
    }
}
