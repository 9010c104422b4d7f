//! What runs of each pod, for those who want to reach into it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use eyot_runtime::{Container, Sandbox};

/// The pods that have a place in the network or containers, by uid.
#[derive(Default)]
pub(crate) struct Live(Mutex<HashMap<String, Pod>>);

#[derive(Default)]
struct Pod {
    /// Known once the pod was prepared: containers of an earlier host are there before.
    sandbox: Option<Sandbox>,
    containers: HashMap<String, Arc<dyn Container>>,
}

impl Live {
    pub(crate) fn placed(&self, uid: &str, sandbox: &Sandbox) {
        self.pods().entry(uid.to_owned()).or_default().sandbox = Some(sandbox.clone());
    }

    pub(crate) fn started(&self, uid: &str, name: &str, container: &Arc<dyn Container>) {
        let mut pods = self.pods();
        let containers = &mut pods.entry(uid.to_owned()).or_default().containers;
        containers.insert(name.to_owned(), Arc::clone(container));
    }

    pub(crate) fn ended(&self, uid: &str, name: &str) {
        if let Some(pod) = self.pods().get_mut(uid) {
            pod.containers.remove(name);
        }
    }

    pub(crate) fn gone(&self, uid: &str) {
        self.pods().remove(uid);
    }

    pub(crate) fn container(&self, uid: &str, name: &str) -> Option<Arc<dyn Container>> {
        self.pods().get(uid)?.containers.get(name).cloned()
    }

    /// The containers that run: the uid of the pod, the name, and what to reach it by.
    pub(crate) fn running(&self) -> Vec<(String, String, Arc<dyn Container>)> {
        let pods = self.pods();
        let all = pods.iter().flat_map(|(uid, pod)| {
            let containers = pod.containers.iter();
            containers.map(|(name, one)| (uid.clone(), name.clone(), Arc::clone(one)))
        });
        all.collect()
    }

    pub(crate) fn sandbox(&self, uid: &str) -> Option<Sandbox> {
        self.pods().get(uid)?.sandbox.clone()
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Pod>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
