//! Objects that are to be told to the cloud, each once, in the order in which they changed first. It
//! holds no more than there are objects here, so it needs no other bound.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use eyot_store::Key;
use tokio::sync::Notify;

/// An object that is here no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) uid: String,
    /// Whether it was made here.
    pub(crate) made: bool,
}

#[derive(Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    filled: Notify,
}

#[derive(Default)]
struct Inner {
    next: u64,
    order: BTreeMap<u64, Key>,
    entries: HashMap<Key, (u64, Option<Gone>)>,
}

impl Queue {
    /// Have an object looked at; `gone` tells that it, or one of its name, is here no longer.
    pub(crate) fn add(&self, key: Key, gone: Option<Gone>) {
        let mut inner = self.lock();
        if let Some((_, held)) = inner.entries.get_mut(&key) {
            *held = gone.or(held.take());
            return;
        }
        inner.next += 1;
        let number = inner.next;
        inner.order.insert(number, key.clone());
        inner.entries.insert(key, (number, gone));
        drop(inner);
        self.filled.notify_one();
    }

    /// The one that has waited longest, taken out.
    pub(crate) async fn take(&self) -> (Key, Option<Gone>) {
        loop {
            {
                let mut inner = self.lock();
                if let Some((_, key)) = inner.order.pop_first() {
                    let gone = inner.entries.remove(&key).and_then(|(_, gone)| gone);
                    return (key, gone);
                }
            }
            self.filled.notified().await;
        }
    }

    /// Put back what could not be told, before all others.
    pub(crate) fn put_back(&self, key: Key, gone: Option<Gone>) {
        let mut inner = self.lock();
        if let Some((number, held)) = inner.entries.remove(&key) {
            inner.order.remove(&number);
            inner.entries.insert(key.clone(), (0, held.or(gone)));
        } else {
            inner.entries.insert(key.clone(), (0, gone));
        }
        // Numbers begin at one, and one task takes and puts back.
        inner.order.insert(0, key);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().order.is_empty()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().order.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_object_waits_once_in_the_order_of_its_first_change() {
        let queue = Queue::default();
        let key = |name: &str| Key::new("pods", "default", name);
        let gone = || {
            Some(Gone {
                uid: "1".into(),
                made: false,
            })
        };
        queue.add(key("a"), None);
        queue.add(key("b"), gone());
        queue.add(key("a"), gone());
        queue.add(key("b"), None);
        assert_eq!(queue.take().await, (key("a"), gone()));
        queue.add(key("a"), None);
        queue.put_back(key("a"), gone());
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.take().await, (key("a"), gone()));
        assert_eq!(queue.take().await, (key("b"), gone()));
        assert_eq!(queue.len(), 0);
    }
}
