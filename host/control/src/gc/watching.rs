//! Watches of everything: one for each kind that the API serves, begun and ended as kinds come
//! and go with their CustomResourceDefinitions.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use eyot_client::{Cache, Change, Queue};
use futures::TryStreamExt;
use kube::{
    Api, Client,
    api::{DynamicObject, PartialObjectMeta},
    runtime::watcher,
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
    let cache = Cache::<Meta>::default();
    let (graph, looks) = (world.clone(), queue.clone());
    let of = served.clone();
    cache.listen(move |change| {
        note(&graph, &looks, &of, &change);
        if let Some(changed) = &changed {
            changed.notify_one();
        }
    });
    let api: Api<Meta> = Api::all_with(client, &served.resource);
    let events = watcher::watcher(api, watcher::Config::default());
    // Of the metadata only what says who owns whom is kept.
    let events = events.map_ok(|event| {
        event.modify(|object| {
            let meta = &mut object.metadata;
            (meta.labels, meta.annotations, meta.managed_fields) = (None, None, None);
        })
    });
    cache.follow(events, stop).await;
    // The kind is no longer served, so none of its objects are.
    for object in cache.list() {
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        look(&queue, world.graph().remove(uid));
    }
}

fn note(world: &World, queue: &Queue, served: &Arc<Served>, change: &Change<'_, Meta>) {
    let uid = |object: &Arc<Meta>| object.metadata.uid.clone().unwrap_or_default();
    let (before, after) = (change.before.map(uid), change.after.map(uid));
    let mut graph = world.graph();
    if let Some(gone) = before.filter(|before| after.as_ref() != Some(before)) {
        look(queue, graph.remove(&gone));
    }
    if let Some(object) = change.after {
        let meta = Arc::new(object.metadata.clone());
        look(
            queue,
            graph.put(Item {
                served: served.clone(),
                meta,
            }),
        );
    }
}

fn look(queue: &Queue, uids: Vec<String>) {
    uids.iter().for_each(|uid| queue.add(key_of(uid)));
}
