//! Watches of everything: one for each kind that the API serves, begun and ended as kinds come
//! and go with their CustomResourceDefinitions.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use eyot_client::Queue;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::{
    Api, Client, Resource,
    api::DynamicObject,
    core::{ApiResource, DynamicResourceScope},
    runtime::watcher::{self, Event},
};
use serde::{Deserialize, Deserializer};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{World, graph::Item, key_of};
use crate::resources::{self, Served};

/// After a change of a CustomResourceDefinition its kind may be served a little later.
const SETTLE: Duration = Duration::from_secs(1);
/// Kinds may also come without a definition, from other API servers.
const REFRESH: Duration = Duration::from_secs(10 * 60);

/// An object of any kind, of which only what is needed is read. Whole objects are asked for
/// nevertheless: those the API has ready as they are, and metadata alone it would have to make.
#[derive(Debug, Clone, Deserialize)]
struct Owned {
    #[serde(deserialize_with = "owning")]
    metadata: ObjectMeta,
}

impl Resource for Owned {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::kind(of)
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::group(of)
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::version(of)
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::api_version(of)
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Of the metadata what says who owns whom.
fn owning<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Read {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        deletion_timestamp: Option<Time>,
        finalizers: Option<Vec<String>>,
        owner_references: Option<Vec<OwnerReference>>,
    }
    let read = Read::deserialize(from)?;
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        deletion_timestamp: read.deletion_timestamp,
        finalizers: read.finalizers,
        owner_references: read.owner_references,
        ..ObjectMeta::default()
    })
}

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
    let mut next = Duration::ZERO;
    while !stop.is_cancelled() {
        // Once more a while after the last change.
        next = tokio::select! {
            () = tokio::time::sleep(next) => if next == SETTLE { REFRESH } else { SETTLE },
            () = changed.notified() => SETTLE,
            () = stop.cancelled() => break,
        };
        let served = match resources::discover(&client).await {
            Ok(served) => served,
            Err(error) => {
                tracing::debug!(%error, "kinds could not be discovered");
                next = SETTLE;
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
    let api: Api<Owned> = Api::all_with(client, &served.resource);
    // One object after the other: a page of whole objects could be large.
    let events = watcher::watcher(api, watcher::Config::default().streaming_lists());
    let mut listed: HashSet<Arc<str>> = HashSet::new();
    let take = |event: Event<Owned>| {
        let looks = match event {
            Event::Init => return listed.clear(),
            Event::InitApply(object) => {
                let item = Item::new(served.clone(), object.metadata);
                listed.insert(item.shared_uid());
                world.graph().put(item)
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut listed);
                world.graph().retain(&served, &listed)
            }
            Event::Apply(object) => world
                .graph()
                .put(Item::new(served.clone(), object.metadata)),
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

fn look(queue: &Queue, uids: Vec<Arc<str>>) {
    uids.iter().for_each(|uid| queue.add(key_of(uid)));
}
