//! The controllers: each compares what the API says is wanted with what it says there is, and acts
//! on the difference through the API alone. Nothing here knows where the API is served from, or
//! what runs a pod.
//!
//! | part | reads | writes |
//! |---|---|---|
//! | `deployment` | Deployments, ReplicaSets, Pods | ReplicaSets, Deployment status |
//! | `replica_set` | ReplicaSets, Pods | Pods, ReplicaSet status |
//! | `scheduler` | Pods, Nodes | bindings, the condition `PodScheduled` |
//! | `namespace` | Namespaces, everything in ending ones | deletions |
//! | `gc` | the metadata of everything | deletions, owner references |
//!
//! A part is a pure `plan` (or `choose`, or `decide`) and a thin shell that performs it; retry,
//! de-duplication and status are [`eyot_client::controller`]'s.

mod announce;
mod deployment;
mod error;
mod gc;
mod names;
mod namespace;
mod owner;
mod pod;
mod replica_set;
mod resources;
mod scheduler;

use std::fmt::Debug;

use eyot_client::{Cache, Controller, Queue};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Namespace, Node, Pod},
};
use kube::{Api, Client, Resource, runtime::watcher};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::{
    announce::Announcer, deployment::Deployments, namespace::Namespaces, replica_set::ReplicaSets,
    scheduler::Scheduler,
};
pub use error::ControlError;

/// The local copies that the controllers share.
#[derive(Default)]
struct Caches {
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    namespaces: Cache<Namespace>,
}

/// Run all controllers until `stop` is cancelled, then let them finish what they began.
pub async fn run(client: Client, stop: CancellationToken) {
    let caches = Caches::default();
    let mut tasks = JoinSet::new();
    tasks.spawn(schedule(&client, &caches, &stop).run(stop.clone()));
    tasks.spawn(replicate(&client, &caches, &stop).run(stop.clone()));
    tasks.spawn(deploy(&client, &caches, &stop).run(stop.clone()));
    tasks.spawn(end_namespaces(&client, &caches).run(stop.clone()));
    tasks.spawn(gc::run(client.clone(), stop.clone()));
    // Last, so that no listener misses anything.
    follow(&mut tasks, &client, caches.deployments, &stop);
    follow(&mut tasks, &client, caches.sets, &stop);
    follow(&mut tasks, &client, caches.pods, &stop);
    follow(&mut tasks, &client, caches.nodes, &stop);
    follow(&mut tasks, &client, caches.namespaces, &stop);
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller broke off");
        }
    }
}

fn follow<K>(tasks: &mut JoinSet<()>, client: &Client, cache: Cache<K>, stop: &CancellationToken)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (api, stop) = (Api::all(client.clone()), stop.clone());
    tasks.spawn(async move { cache.run(api, watcher::Config::default(), stop).await });
}

fn schedule(client: &Client, caches: &Caches, stop: &CancellationToken) -> Controller<Scheduler> {
    let announcer = Announcer::start(client.clone(), "default-scheduler", stop.clone());
    let (pods, nodes) = (caches.pods.clone(), caches.nodes.clone());
    let scheduler = Scheduler::new(client.clone(), pods, nodes, announcer);
    let queue = Queue::default();
    scheduler.listen(&queue);
    let controller = Controller::new(scheduler).concurrency(1).with_queue(queue);
    controller
        .on(&caches.nodes, |_| None)
        .on(&caches.pods, |change| {
            change
                .after
                .filter(|pod| scheduler::is_ours(pod))
                .map(|_| change.key.clone())
        })
}

fn replicate(
    client: &Client,
    caches: &Caches,
    stop: &CancellationToken,
) -> Controller<ReplicaSets> {
    let sets = caches.sets.clone();
    Controller::new(ReplicaSets {
        client: client.clone(),
        sets: caches.sets.clone(),
        pods: caches.pods.clone(),
        announcer: Announcer::start(client.clone(), "replicaset-controller", stop.clone()),
    })
    .on(&caches.sets, |change| Some(change.key.clone()))
    .on(&caches.pods, move |change| {
        replica_set::of_pod(&sets, &change)
    })
}

fn deploy(client: &Client, caches: &Caches, stop: &CancellationToken) -> Controller<Deployments> {
    let (all, of_pods) = (caches.deployments.clone(), caches.deployments.clone());
    let sets = caches.sets.clone();
    Controller::new(Deployments {
        client: client.clone(),
        deployments: caches.deployments.clone(),
        sets: caches.sets.clone(),
        pods: caches.pods.clone(),
        announcer: Announcer::start(client.clone(), "deployment-controller", stop.clone()),
    })
    .on(&caches.deployments, |change| Some(change.key.clone()))
    .on(&caches.sets, move |change| {
        deployment::of_set(&all, &change)
    })
    .on(&caches.pods, move |change| {
        deployment::of_ended_pod(&of_pods, &sets, &change)
    })
}

fn end_namespaces(client: &Client, caches: &Caches) -> Controller<Namespaces> {
    let ending = |namespace: &Namespace| namespace.metadata.deletion_timestamp.is_some();
    Controller::new(Namespaces {
        client: client.clone(),
        namespaces: caches.namespaces.clone(),
    })
    .on(&caches.namespaces, move |change| {
        change
            .after
            .filter(|namespace| ending(namespace))
            .map(|_| change.key.clone())
    })
}
