//! Configuration made ready for use, once for each change of it.
//!
//! Plug-ins are configured by stored objects: webhooks, policies, quotas, classes. Reading them on
//! every write would make every write pay for them. An [`Index`] holds what a plug-in made of them,
//! together with the revision of the last write to any of those resources, and makes it anew when
//! that has moved. A look at it costs a comparison, so a write that no configuration concerns pays
//! next to nothing; and since the store moves the mark before it answers a write, a client that has
//! just configured something sees its very next request judged by it.

use std::sync::{Arc, PoisonError, RwLock};

use eyot_store::{Mark, Store};
use serde_json::Value;

pub(crate) struct Index<T> {
    resources: &'static [&'static str],
    marks: Vec<Mark>,
    compile: fn(&[Value]) -> T,
    held: RwLock<Option<(u64, Arc<T>)>>,
}

impl<T> Index<T> {
    /// Of all objects of these resources (by the store's names); `compile` gets them parsed, in the
    /// order of resources, namespaces and names.
    pub(crate) fn new(
        store: &Store,
        resources: &'static [&'static str],
        compile: fn(&[Value]) -> T,
    ) -> Index<T> {
        Index {
            resources,
            marks: resources.iter().map(|name| store.mark(name)).collect(),
            compile,
            held: RwLock::new(None),
        }
    }

    pub(crate) fn get(&self, store: &Store) -> Arc<T> {
        // Read before the objects are: what changes in between is compiled once more next time.
        let mark = self.marks.iter().map(Mark::get).max();
        let mark = mark.unwrap_or_default();
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, value)) = &*held
            && *at == mark
        {
            return value.clone();
        }
        drop(held);
        let stored = self
            .resources
            .iter()
            .flat_map(|r| store.list(r, None).objects);
        let parsed: Vec<Value> = stored
            .filter_map(|object| serde_json::from_slice(&object.json).ok())
            .collect();
        let value = Arc::new((self.compile)(&parsed));
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Some((mark, value.clone()));
        value
    }
}
