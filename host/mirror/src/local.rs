//! Writing what the cloud says into the store of this node, below admission: no client of this node's
//! API can write so, since none has the store.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use eyot_store::{Key, Object, Store, WriteError};
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

use crate::{
    kind::{Kind, collection, kind},
    marks,
    merge::{Step, step},
};

/// Attempts at a write that others are faster with.
const ATTEMPTS: usize = 32;
/// Pods that wait for the end of one of the same name.
const WAITING: usize = 1000;

#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) store: Store,
    /// This node's own API, for what is more than a write: the end of a pod.
    api: Client,
    root_ca: Arc<str>,
    /// Pods of the cloud whose names others still have here.
    waiting: Arc<Mutex<HashMap<Key, Value>>>,
}

/// Why something was not written here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    #[error("this node's store: {0}")]
    Store(#[from] WriteError),
    #[error("this node's API: {0}")]
    Api(#[from] kube::Error),
    #[error("{0} was changed here all the time")]
    Contended(Key),
}

impl Local {
    pub(crate) fn new(store: Store, api: Client, root_ca: &str) -> Self {
        Self {
            store,
            api,
            root_ca: root_ca.into(),
            waiting: Arc::default(),
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<(Arc<Object>, Value)> {
        let found = self.store.get(key)?;
        let value = parsed(&found);
        Some((found, value))
    }

    /// What there is of a kind.
    pub(crate) fn keys(&self, kind: &Kind, namespace: Option<&str>) -> Vec<Key> {
        let list = self.store.list(&kind.resource(), namespace);
        list.objects
            .iter()
            .map(|object| object.key.clone())
            .collect()
    }

    /// Make the local object what the cloud's says.
    pub(crate) async fn put(&self, kind: &Kind, cloud: &Value) -> Result<(), LocalError> {
        let key = kind.key_of(cloud);
        if kind.is_own(&key) {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let found = self.get(&key);
            let local = found.as_ref().map(|(_, value)| value);
            let written = match step(kind, cloud, local, &self.root_ca) {
                Step::Nothing => return Ok(()),
                Step::Leave => {
                    tracing::warn!(%key, "the cloud's is left out: one of that name was made here");
                    return Ok(());
                }
                Step::EndFirst => {
                    self.wait_for_end(&key, cloud);
                    return self.end(&key).await;
                }
                Step::Write(next) => match &found {
                    None => self.store.create(key.clone(), next).await,
                    Some((object, _)) => self.store.update(&key, object.revision, next).await,
                },
            };
            match written {
                Ok(_) => return Ok(()),
                Err(WriteError::Conflict { .. } | WriteError::Exists(_) | WriteError::NotFound) => {
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(LocalError::Contended(key))
    }

    /// The cloud has it no longer.
    pub(crate) async fn gone(&self, kind: &Kind, key: &Key) -> Result<(), LocalError> {
        self.lock().remove(key);
        let Some((_, local)) = self.get(key) else {
            return Ok(());
        };
        if kind.is_own(key) || marks::is_made_here(&local) {
            return Ok(());
        }
        if kind.is("pods") {
            return self.end(key).await;
        }
        match self.store.delete(key, None).await {
            Ok(_) | Err(WriteError::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// End a pod as its users would: with its grace, by the node.
    async fn end(&self, key: &Key) -> Result<(), LocalError> {
        let Some((_, local)) = self.get(key) else {
            return Ok(());
        };
        if !local["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let path = match kind("pods") {
            Some(pods) => format!("{}/{}", pods.path(&key.namespace), key.name),
            None => return Ok(()),
        };
        let options = json!({ "preconditions": { "uid": local["metadata"]["uid"] } });
        let request = Request::builder()
            .method(Method::DELETE)
            .uri(path)
            .header("content-type", "application/json")
            .body(options.to_string().into_bytes());
        let request = request.map_err(kube::Error::HttpError)?;
        match self.api.request::<Value>(request).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Write an event.
    pub(crate) async fn record(&self, namespace: &str, event: &Value) -> Result<(), LocalError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(collection("", "v1", "events", namespace))
            .header("content-type", "application/json")
            .body(event.to_string().into_bytes());
        let request = request.map_err(kube::Error::HttpError)?;
        Ok(self.api.request::<Value>(request).await.map(drop)?)
    }

    fn wait_for_end(&self, key: &Key, cloud: &Value) {
        let mut waiting = self.lock();
        // Beyond the limit the next list of the cloud's pods brings it.
        if waiting.len() < WAITING || waiting.contains_key(key) {
            waiting.insert(key.clone(), cloud.clone());
        }
    }

    /// The pod that waited for the end of the one that had its name.
    pub(crate) fn successor(&self, key: &Key) -> Option<Value> {
        self.lock().remove(key)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Value>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn parsed(object: &Object) -> Value {
    // The store holds JSON objects and nothing else.
    serde_json::from_slice(&object.json).unwrap_or_default()
}
