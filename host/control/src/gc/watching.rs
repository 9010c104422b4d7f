//! Watches of everything: one for each kind that the API serves, begun and ended as kinds come
//! and go with their CustomResourceDefinitions.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use eyot_client::Queue;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client,
    api::{DynamicObject, PartialObjectMeta},
    runtime::watcher::{self, Event},
};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{World, graph::Item, key_of};
use crate::resources::{self, Served};

/// After a change of a CustomResourceDefinition its kind may be served a little later.
const SETTLE: Duration = Duration::from_secs(1);
/// Kinds may also come without a definition, from other API servers.
const REFRESH: Duration = Duration::from_secs(10 * 60);

type Meta = PartialObjectMeta<DynamicObject>;

/// Feed the graph until `stop` is cancelled.
pub(super) async fn watch_everything(
    client: Client,
    world: Arc<World>,
    queue: Queue,
    stop: CancellationToken,
) {
    let mut watched: HashMap<String, CancellationToken> = HashMap::new();
    let mut watches = JoinSet::new();
    let changed = Arc::new(Notify::new());
    let mut again = Some(Duration::ZERO);
    while !stop.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(again.unwrap_or(REFRESH)) => {}
            () = changed.notified() => {}
            () = stop.cancelled() => break,
        }
        // Once more after a while, whatever came first.
        again = if again == Some(SETTLE) {
            None
        } else {
            Some(SETTLE)
        };
        let served = match resources::discover(&client).await {
            Ok(served) => served,
            Err(error) => {
                tracing::debug!(%error, "kinds could not be discovered");
                again = Some(SETTLE);
                continue;
            }
        };
        let served: HashMap<String, Arc<Served>> = served
            .into_iter()
            .map(|served| (name(&served), Arc::new(served)))
            .collect();
        watched.retain(|name, stop| {
            let stays = served.contains_key(name);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (name, served) in &served {
            if !watched.contains_key(name) {
                let stop = stop.child_token();
                watched.insert(name.clone(), stop.clone());
                let (world, queue) = (world.clone(), queue.clone());
                let kinds = served.is("apiextensions.k8s.io", "CustomResourceDefinition");
                let changed = kinds.then(|| changed.clone());
                watches.spawn(watch(
                    client.clone(),
                    served.clone(),
                    world,
                    queue,
                    changed,
                    stop,
                ));
            }
        }
        *world.served.write().unwrap_or_else(PoisonError::into_inner) =
            served.into_values().collect();
        while watches.try_join_next().is_some() {}
    }
    while watches.join_next().await.is_some() {}
}

fn name(served: &Served) -> String {
    let resource = &served.resource;
    format!(
        "{}.{}/{}",
        resource.plural, resource.group, resource.version
    )
}

async fn watch(
    client: Client,
    served: Arc<Served>,
    world: Arc<World>,
    queue: Queue,
    changed: Option<Arc<Notify>>,
    stop: CancellationToken,
) {
    let api: Api<Meta> = Api::all_with(client, &served.resource);
    let events = watcher::watcher(api, watcher::Config::default());
    let mut listed = HashSet::new();
    let take = |event: Event<Meta>| {
        let looks = match event {
            Event::Init => return listed.clear(),
            Event::InitApply(object) => {
                let item = item(&served, object.metadata);
                listed.insert(item.uid().to_owned());
                world.graph().put(item)
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut listed);
                world.graph().retain(&served, &listed)
            }
            Event::Apply(object) => world.graph().put(item(&served, object.metadata)),
            Event::Delete(object) => {
                let uid = object.metadata.uid.unwrap_or_default();
                world.graph().remove(&uid)
            }
        };
        look(&queue, looks);
        if let Some(changed) = &changed {
            changed.notify_one();
        }
    };
    eyot_client::follow(events, stop, take).await;
    // The kind is no longer served, so none of its objects are.
    let looks = world.graph().retain(&served, &HashSet::new());
    look(&queue, looks);
}

/// Of the metadata only what says who owns whom is kept: there is one of these for every object.
fn item(served: &Arc<Served>, meta: ObjectMeta) -> Item {
    let meta = ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        deletion_timestamp: meta.deletion_timestamp,
        finalizers: meta.finalizers,
        owner_references: meta.owner_references,
        ..ObjectMeta::default()
    };
    Item {
        served: served.clone(),
        meta: Arc::new(meta),
    }
}

fn look(queue: &Queue, uids: Vec<String>) {
    uids.iter().for_each(|uid| queue.add(key_of(uid)));
}
