//! The watches of a process: one for each kind, however many parts look at it.
//!
//! A part that needs to know objects of a kind asks for them, and that is all it does:
//!
//! ```no_run
//! # use eyot_client::{Cache, Watches};
//! # use k8s_openapi::api::core::v1::Node;
//! # fn part(watches: &Watches) {
//! let nodes: Cache<Node> = watches.of();
//! # }
//! ```
//!
//! The first who asks starts the watch; everybody gets the same cache, so ten controllers that look
//! at pods hold each pod once. Who begins to listen later is told of what is there already.

use std::{
    any::{Any, TypeId},
    borrow::Cow,
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use kube::{Api, Client, Resource, runtime::watcher};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::Cache;

/// What a part of the host can keep a copy of.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// A type, and which of its objects by a field selector.
type Which = (TypeId, Cow<'static, str>);

/// Starts each watch once. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Watches {
    client: Client,
    stop: CancellationToken,
    caches: Arc<Mutex<HashMap<Which, Box<dyn Any + Send>>>>,
}

impl Watches {
    /// Nothing is watched yet. What will be ends with `stop`.
    pub fn new(client: Client, stop: CancellationToken) -> Self {
        Self {
            client,
            stop,
            caches: Arc::default(),
        }
    }

    /// All objects of a kind. Needs a Tokio runtime around it.
    pub fn of<K: Kind>(&self) -> Cache<K> {
        self.some("")
    }

    /// The objects of a kind that this field selector selects, in a cache of their own.
    pub fn some<K: Kind>(&self, fields: impl Into<Cow<'static, str>>) -> Cache<K> {
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        let fields = fields.into();
        let which = (TypeId::of::<K>(), fields.clone());
        let known = caches.get(&which);
        if let Some(cache) = known.and_then(|cache| cache.downcast_ref::<Cache<K>>()) {
            return cache.clone();
        }
        let cache: Cache<K> = Cache::default();
        caches.insert(which, Box::new(cache.clone()));
        let config = match &*fields {
            "" => watcher::Config::default(),
            fields => watcher::Config::default().fields(fields),
        };
        let (api, stop, feeding) = (
            Api::all(self.client.clone()),
            self.stop.clone(),
            cache.clone(),
        );
        tokio::spawn(async move { feeding.run(api, config, stop).await });
        cache
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use k8s_openapi::api::core::v1::{ConfigMap, Node};

    use super::*;

    #[tokio::test]
    async fn a_kind_is_watched_once_for_all_who_ask() {
        let nowhere = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            let mut answer = http::Response::new(kube::client::Body::empty());
            *answer.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            Ok::<_, Infallible>(answer)
        });
        let stop = CancellationToken::new();
        let watches = Watches::new(Client::new(nowhere, "default"), stop.clone());
        let (one, other): (Cache<Node>, Cache<Node>) = (watches.of(), watches.clone().of());
        assert!(one.is(&other));
        let (all, named): (Cache<ConfigMap>, Cache<ConfigMap>) =
            (watches.of(), watches.some("metadata.name=a"));
        assert!(!all.is(&named));
        assert!(named.is(&watches.some("metadata.name=a")));
        stop.cancel();
    }
}
