//! What others know: which pods belong together, for those that do not say how they are spread (they
//! serve the same Services, or have the same owner), and what pods claim of storage.

use eyot_client::{Cache, Key, view::Pod};
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, StatefulSet},
        core::v1::{Node, ReplicationController, Service},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    class::Class,
    core::{Outside, Taken},
    selector::Selector,
};
use crate::{
    service,
    storage::scheduling::{Promise, Storage, Wishes},
};

/// Those who are asked.
pub(crate) struct Others {
    pub(crate) pods: Cache<Pod>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) storage: Storage,
    pub(crate) services: Cache<Service>,
    pub(crate) sets: Cache<ReplicaSet>,
    pub(crate) stateful_sets: Cache<StatefulSet>,
    pub(crate) replication_controllers: Cache<ReplicationController>,
}

impl Outside for Others {
    fn wishes(&self, pod: &Key) -> Result<Wishes, String> {
        self.pods
            .get(pod)
            .map_or_else(|| Ok(Wishes::default()), |pod| self.storage.wishes(&pod))
    }

    fn objections(&self, wishes: &Wishes, node: &str) -> Vec<String> {
        let node = self.nodes.get(&Key::new("", node));
        node.map_or_else(Vec::new, |node| self.storage.objections(wishes, &node))
    }

    fn reserve(&self, wishes: &Wishes, node: &str) -> Result<Option<Promise>, Taken> {
        let Some(node) = self.nodes.get(&Key::new("", node)) else {
            return Err(Taken);
        };
        self.storage.promise(wishes, &node).map(Some).ok_or(Taken)
    }

    fn family(&self, class: &Class) -> Option<Selector> {
        let meta = ObjectMeta {
            labels: Some(class.labels.clone()),
            ..ObjectMeta::default()
        };
        let services = self.services.list_in(&class.namespace);
        let serving = services.iter().filter(|one| service::selects(one, &meta));
        let mut family = Selector::default();
        for labels in serving.filter_map(|one| service::selector(one)) {
            family = family.and(Selector::of_labels(labels.iter()));
        }
        let owner = class.owner.as_ref();
        let key = owner.map(|owner| Key::new(&class.namespace, &owner.name));
        let selector = match (owner.map(|owner| &*owner.kind), key) {
            (Some("ReplicaSet"), Some(key)) => self
                .sets
                .get(&key)
                .and_then(|set| Some(Selector::of(&set.spec.as_ref()?.selector))),
            (Some("StatefulSet"), Some(key)) => {
                let set = self.stateful_sets.get(&key);
                set.and_then(|set| Some(Selector::of(&set.spec.as_ref()?.selector)))
            }
            (Some("ReplicationController"), Some(key)) => {
                let found = self.replication_controllers.get(&key);
                found.and_then(|found| {
                    let labels = found.spec.as_ref()?.selector.as_ref()?;
                    Some(Selector::of_labels(labels.iter()))
                })
            }
            _ => None,
        };
        let family = family.and(selector.unwrap_or_default());
        (!family.is_empty()).then_some(family)
    }
}
