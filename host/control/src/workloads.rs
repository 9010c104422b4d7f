//! What the controllers of workloads listen to.

use eyot_client::{Cache, Controller};
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    Caches, Clients,
    announce::Announcer,
    daemon_set::{self, DaemonSets},
    deployment::{self, Deployments},
    pod_control::{Awaited, PodControl},
    replica_set::{self, Replicas, Replicated},
    stateful_set::{self, StatefulSets},
};

/// Start the controllers that keep pods.
pub(crate) fn run(
    tasks: &mut JoinSet<()>,
    clients: &Clients,
    caches: &Caches,
    stop: &CancellationToken,
) {
    let sets = replicate(clients, caches, &caches.sets, "replicaset-controller", stop);
    tasks.spawn(sets.run(stop.clone()));
    let (controllers, name) = (&caches.replication_controllers, "replication-controller");
    tasks.spawn(replicate(clients, caches, controllers, name, stop).run(stop.clone()));
    tasks.spawn(run_daemons(clients, caches, stop).run(stop.clone()));
    tasks.spawn(keep_members(clients, caches, stop).run(stop.clone()));
    tasks.spawn(deploy(clients, caches, stop).run(stop.clone()));
}

fn replicate<K: Replicated>(
    clients: &Clients,
    caches: &Caches,
    sets: &Cache<K>,
    component: &'static str,
    stop: &CancellationToken,
) -> Controller<Replicas<K>> {
    let of_pods = sets.clone();
    let client = clients.controller(component);
    Controller::new(Replicas {
        client: client.clone(),
        sets: sets.clone(),
        pods: caches.pods.clone(),
        control: pod_control(&client, caches, component, stop),
    })
    .on(sets, |change| Some(change.key.clone()))
    .on(&caches.pods, move |change| {
        replica_set::of_pod(&of_pods, &change)
    })
}

fn run_daemons(
    clients: &Clients,
    caches: &Caches,
    stop: &CancellationToken,
) -> Controller<DaemonSets> {
    let [of_pods, of_nodes, of_revisions] = [(); 3].map(|()| caches.daemon_sets.clone());
    let client = clients.controller("daemon-set-controller");
    Controller::new(DaemonSets::new(
        client.clone(),
        caches.daemon_sets.clone(),
        caches.pods.clone(),
        caches.nodes.clone(),
        caches.revisions.clone(),
        pod_control(&client, caches, "daemonset-controller", stop),
    ))
    .on(&caches.daemon_sets, |change| Some(change.key.clone()))
    .on(&caches.pods, move |change| {
        daemon_set::of_dependent(&of_pods, &change)
    })
    .on(&caches.nodes, move |change| {
        daemon_set::of_node(&of_nodes, &change)
    })
    .on(&caches.revisions, move |change| {
        daemon_set::of_dependent(&of_revisions, &change)
    })
}

fn keep_members(
    clients: &Clients,
    caches: &Caches,
    stop: &CancellationToken,
) -> Controller<StatefulSets> {
    let [of_pods, of_claims, of_revisions] = [(); 3].map(|()| caches.stateful_sets.clone());
    let client = clients.controller("statefulset-controller");
    Controller::new(StatefulSets {
        client: client.clone(),
        sets: caches.stateful_sets.clone(),
        pods: caches.pods.clone(),
        claims: caches.claims.clone(),
        revisions: caches.revisions.clone(),
        control: pod_control(&client, caches, "statefulset-controller", stop),
    })
    .on(&caches.stateful_sets, |change| Some(change.key.clone()))
    .on(&caches.pods, move |change| {
        stateful_set::of_dependent(&of_pods, &change)
    })
    .on(&caches.claims, move |change| {
        stateful_set::of_claim(&of_claims, &change)
    })
    .on(&caches.revisions, move |change| {
        stateful_set::of_dependent(&of_revisions, &change)
    })
}

/// The hands of a controller that keeps pods; its events come from `component`.
fn pod_control(
    client: &Client,
    caches: &Caches,
    component: &'static str,
    stop: &CancellationToken,
) -> PodControl {
    let announcer = Announcer::start(client.clone(), component, stop.clone());
    PodControl::new(client.clone(), caches.pods.clone(), announcer)
}

fn deploy(clients: &Clients, caches: &Caches, stop: &CancellationToken) -> Controller<Deployments> {
    let client = clients.controller("deployment-controller");
    let (all, of_pods) = (caches.deployments.clone(), caches.deployments.clone());
    let sets = caches.sets.clone();
    Controller::new(Deployments {
        client: client.clone(),
        deployments: caches.deployments.clone(),
        sets: caches.sets.clone(),
        pods: caches.pods.clone(),
        announcer: Announcer::start(client.clone(), "deployment-controller", stop.clone()),
        awaited: Awaited::default(),
    })
    .on(&caches.deployments, |change| Some(change.key.clone()))
    .on(&caches.sets, move |change| {
        deployment::of_set(&all, &change)
    })
    .on(&caches.pods, move |change| {
        deployment::of_ended_pod(&of_pods, &sets, &change)
    })
}
