//! Containers that an earlier life of this host left to this one.
//!
//! They are found before anything is started and wait here for their pods. The actor of a pod takes
//! its own on; when all pods are known, what is left belongs to none and is ended.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use eyot_runtime::{Container, ContainerError, Left, LogSink, LogStream, Runtime};

/// One container, and who runs it.
#[derive(Clone)]
pub(crate) struct Inherited {
    pub scheme: &'static str,
    pub runtime: Arc<dyn Runtime>,
    pub left: Left,
}

impl Inherited {
    /// With the scheme, as in a pod's status.
    pub(crate) fn id(&self) -> String {
        format!("{}://{}", self.scheme, self.left.id)
    }

    /// Take it on; its output goes to `log`.
    pub(crate) async fn adopt(
        &self,
        log: Arc<dyn LogSink>,
    ) -> Result<Arc<dyn Container>, ContainerError> {
        self.runtime.adopt(&self.left, log).await
    }

    /// End and remove it: nobody wants it any more.
    pub(crate) async fn discard(self) {
        let (pod, container) = (&self.left.pod, &self.left.name);
        tracing::info!(%pod, container, "ending a container that no pod wants any more");
        let removed = async {
            self.adopt(Arc::new(NoLog)).await?.remove().await?;
            self.runtime.release(pod).await
        };
        if let Err(error) = removed.await {
            tracing::warn!(%pod, container, %error, "it was not removed");
        }
    }
}

/// The containers that nobody has taken on yet, by the uid of their pod.
#[derive(Default)]
pub(crate) struct Heritage(Mutex<HashMap<String, Vec<Inherited>>>);

impl Heritage {
    pub(crate) fn add(&self, inherited: Inherited) {
        let uid = inherited.left.pod.uid.clone();
        self.all().entry(uid).or_default().push(inherited);
    }

    /// Those of one pod.
    pub(crate) fn take(&self, uid: &str) -> Vec<Inherited> {
        self.all().remove(uid).unwrap_or_default()
    }

    /// Those of pods that `keep` does not know.
    pub(crate) fn take_but(&self, keep: impl Fn(&str) -> bool) -> Vec<Inherited> {
        let mut all = self.all();
        let uids: Vec<String> = all.keys().filter(|uid| !keep(uid)).cloned().collect();
        let taken = uids.iter().filter_map(|uid| all.remove(uid));
        taken.flatten().collect()
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Inherited>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct NoLog;

impl LogSink for NoLog {
    fn write(&self, _: LogStream, _: &[u8]) {}
}
