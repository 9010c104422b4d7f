//! The ConfigMaps and Secrets that volumes of running pods show, each watched once however many pods
//! show it, and no longer than one does. What is immutable is read and then left alone.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::AbortHandle};

/// What is known of an object: nothing yet, that there is none, or what it says.
pub(crate) type Known<K> = Option<Option<Arc<K>>>;

/// All objects that are watched, by namespace and name.
pub(crate) struct Objects {
    client: Client,
    config_maps: Kept<ConfigMap>,
    secrets: Kept<Secret>,
}

type Kept<K> = Mutex<HashMap<(String, String), Weak<Watched<K>>>>;

/// One object. Who drops the last handle ends the watch.
pub(crate) struct Watched<K> {
    latest: watch::Receiver<Known<K>>,
    task: AbortHandle,
}

impl<K> Watched<K> {
    /// Sees the object as it is, and changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Known<K>> {
        self.latest.clone()
    }
}

impl<K> Drop for Watched<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Objects {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
        }
    }

    pub(crate) fn config_map(&self, namespace: &str, name: &str) -> Arc<Watched<ConfigMap>> {
        let api = Api::namespaced(self.client.clone(), namespace);
        keep(&self.config_maps, api, namespace, name, |map| {
            map.immutable == Some(true)
        })
    }

    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Arc<Watched<Secret>> {
        let api = Api::namespaced(self.client.clone(), namespace);
        keep(&self.secrets, api, namespace, name, |secret| {
            secret.immutable == Some(true)
        })
    }
}

fn keep<K>(
    kept: &Kept<K>,
    api: Api<K>,
    namespace: &str,
    name: &str,
    is_immutable: fn(&K) -> bool,
) -> Arc<Watched<K>>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (namespace.to_owned(), name.to_owned());
    if let Some(known) = kept.get(&key).and_then(Weak::upgrade) {
        return known;
    }
    kept.retain(|_, watched| watched.strong_count() > 0);
    let (show, latest) = watch::channel(None);
    let name = name.to_owned();
    let task = tokio::spawn(async move { follow(api, &name, &show, is_immutable).await });
    let watched = Arc::new(Watched {
        latest,
        task: task.abort_handle(),
    });
    kept.insert(key, Arc::downgrade(&watched));
    watched
}

async fn follow<K>(
    api: Api<K>,
    name: &str,
    show: &watch::Sender<Known<K>>,
    is_immutable: fn(&K) -> bool,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut seen = std::pin::pin!(watch_object(api, name).default_backoff());
    while let Some(next) = seen.next().await {
        match next {
            Ok(object) => {
                let done = object.as_ref().is_some_and(is_immutable);
                show.send_replace(Some(object.map(Arc::new)));
                if done {
                    break;
                }
            }
            Err(error) => {
                tracing::debug!(name, %error, "watching an object of a volume failed; trying again");
            }
        }
    }
    // It says the same for as long as anybody asks.
    if show.borrow().is_some() {
        show.closed().await;
    }
}
