//! An index over stored objects that is current whenever it is asked.
//!
//! The index is brought up to date by whoever reads it, from the store's own log of changes: no
//! task runs behind it, an idle host does nothing, and because a write is acknowledged only after
//! its watchers were woken, a reader that comes after the acknowledgement sees the write. While
//! nothing changed, reading costs a comparison for each resource. An index that nobody reads is never
//! built.

use std::sync::{PoisonError, RwLock};

use eyot_store::{Change, ChangeKind, Key, Mark, Object, Store, Watch};

/// Something that is made of objects.
pub(crate) trait Index: Default + Send + Sync + 'static {
    /// The store's names of the resources it is made of.
    const RESOURCES: &'static [&'static str];

    /// Take in an object as it is now; one of the same key may be held already.
    fn put(&mut self, resource: &str, object: &Object);

    /// The object is gone.
    fn remove(&mut self, resource: &str, key: &Key);
}

/// An [`Index`] with the watches that keep it current.
pub(crate) struct Follower<I> {
    store: Store,
    /// Of the last write to each resource.
    marks: Vec<Mark>,
    state: RwLock<State<I>>,
}

struct State<I> {
    index: I,
    /// One for each resource, in their order; none before the first reading.
    watches: Vec<Watch>,
    /// The marks up to which the index is made.
    seen: Vec<u64>,
}

impl<I: Index> Follower<I> {
    pub(crate) fn new(store: Store) -> Follower<I> {
        let state = RwLock::new(State {
            index: I::default(),
            watches: Vec::new(),
            seen: Vec::new(),
        });
        let marks = I::RESOURCES.iter().map(|name| store.mark(name)).collect();
        Follower {
            store,
            marks,
            state,
        }
    }

    /// Read the index as of now.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&I) -> T) -> T {
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if self.is_current(&state.seen) {
                return read(&state.index);
            }
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // Read before the changes are: what comes in between is looked for once more next time.
        let marks = self.marks.iter().map(Mark::get).collect();
        state.catch_up(&self.store);
        state.seen = marks;
        read(&state.index)
    }

    fn is_current(&self, seen: &[u64]) -> bool {
        let marks = self.marks.iter().map(Mark::get);
        !seen.is_empty() && marks.eq(seen.iter().copied())
    }
}

impl<I: Index> State<I> {
    fn catch_up(&mut self, store: &Store) {
        if self.watches.is_empty() || self.follow().is_err() {
            self.build(store);
        }
    }

    fn follow(&mut self) -> Result<(), eyot_store::Expired> {
        for (resource, watch) in I::RESOURCES.iter().zip(&mut self.watches) {
            while let Some(Change { kind, object, .. }) = watch.try_next()? {
                match kind {
                    ChangeKind::Deleted => self.index.remove(resource, &object.key),
                    ChangeKind::Added | ChangeKind::Modified => self.index.put(resource, &object),
                }
            }
        }
        Ok(())
    }

    /// From what is stored; watches begin where the lists ended.
    fn build(&mut self, store: &Store) {
        self.index = I::default();
        self.watches.clear();
        for resource in I::RESOURCES {
            let snapshot = store.list(resource, None);
            for object in &snapshot.objects {
                self.index.put(resource, object);
            }
            match store.watch(resource, None, snapshot.revision) {
                Ok(watch) => self.watches.push(watch),
                // The log moved on meanwhile: the next reader builds anew.
                Err(_) => return self.watches.clear(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[derive(Default)]
    struct Names(BTreeSet<String>);

    impl Index for Names {
        const RESOURCES: &'static [&'static str] = &["roles", "bindings"];

        fn put(&mut self, resource: &str, object: &Object) {
            self.0.insert(format!("{resource}/{}", object.key.name));
        }

        fn remove(&mut self, resource: &str, key: &Key) {
            self.0.remove(&format!("{resource}/{}", key.name));
        }
    }

    #[tokio::test]
    async fn a_reader_sees_every_write_that_was_acknowledged_before() {
        let store = Store::in_memory(|_, _| Vec::new());
        let follower: Follower<Names> = Follower::new(store.clone());
        let held = || follower.read(|names| names.0.iter().cloned().collect::<Vec<_>>().join(" "));
        let value = json!({"metadata": {}});
        let key = |resource: &str, name: &str| Key::new(resource, "", name);
        store
            .create(key("roles", "a"), value.clone())
            .await
            .unwrap();
        assert_eq!(held(), "roles/a");
        for name in 0..200 {
            let name = name.to_string();
            store
                .create(key("bindings", &name), value.clone())
                .await
                .unwrap();
            assert!(held().contains(&format!("bindings/{name}")));
            store.delete(&key("bindings", &name), None).await.unwrap();
            assert_eq!(held(), "roles/a");
        }
        store.create(key("others", "x"), value).await.unwrap();
        store.delete(&key("roles", "a"), None).await.unwrap();
        assert_eq!(held(), "");
    }
}
