//! The controllers: each compares what the API says is wanted with what it says there is, and acts
//! on the difference through the API alone. Nothing here knows where the API is served from, or
//! what runs a pod.
//!
//! | part | reads | writes |
//! |---|---|---|
//! | `deployment` | Deployments, ReplicaSets, Pods | ReplicaSets, Deployment status |
//! | `replica_set` | ReplicaSets, ReplicationControllers, Pods | Pods, their status |
//! | `daemon_set` | DaemonSets, Nodes, Pods, ControllerRevisions | Pods, ControllerRevisions, DaemonSet status |
//! | `stateful_set` | StatefulSets, Pods, claims, ControllerRevisions | Pods, claims, ControllerRevisions, StatefulSet status |
//! | `scheduler` | Pods, Nodes, what Pods claim, Namespaces, PodDisruptionBudgets, Services, owners of pods | bindings, the condition `PodScheduled`, deletions of Pods for more important ones |
//! | `storage` | claims, volumes, classes, Pods | claims, volumes, their phases; ephemeral volumes' claims |
//! | `namespace` | Namespaces, everything in ending ones | deletions |
//! | `service_account` | Namespaces, ServiceAccounts named `default` | the missing ones |
//! | `root_ca` | Namespaces, ConfigMaps named `kube-root-ca.crt` | the missing and the wrong ones |
//! | `claim_protection` | claims, volumes, Pods | finalizers of the deleted ones |
//! | `node_labels` | Nodes | their labels of before |
//! | `node_life` | Nodes, their Leases, Pods | conditions of silent nodes, their `NoExecute` taints, readiness of their Pods |
//! | `node_ranges` | Nodes | the ranges of addresses of their pods |
//! | `pod_gc` | Pods, Nodes | ends of Pods that nobody else ends |
//! | `node_taint` | Nodes | their `NoSchedule` taints |
//! | `taint_eviction` | Nodes, Pods | deletions of Pods that do not bear a `NoExecute` taint |
//! | `certificates` | CertificateSigningRequests | their approval, certificate and end |
//! | `cluster_roles` | ClusterRoles | the rules of those that gather |
//! | `disruption` | PodDisruptionBudgets, Pods, scales | PodDisruptionBudget status |
//! | `horizontal_pod_autoscaler` | HorizontalPodAutoscalers, scales, Pods, what the APIs of metrics say | scales, HorizontalPodAutoscaler status |
//! | `endpoint_slice` | Services, Pods, Nodes, hand-written Endpoints | EndpointSlices |
//! | `endpoints` | Services, Pods | Endpoints |
//! | `cron_job` | CronJobs, Jobs | Jobs, CronJob status |
//! | `job` | Jobs, Pods | Pods, Job status; deletes Jobs whose time is over |
//! | `fleet` | NodeGroups, EdgeApplications, Nodes, Pods | labels of nodes, the objects of EdgeApplications, the status of both |
//! | `service_ranges` | ServiceCIDRs, IPAddresses | finalizers and readiness of ServiceCIDRs |
//! | `gc` | the metadata of everything | deletions, owner references |
//!
//! Where several hosts share a database, [`election`] says whose controllers run.
//!
//! Pods are made, taken away and adopted through `pod_control`. A part is a pure `plan` (or `choose`, or `decide`) and a thin shell that performs it; retry,
//! de-duplication and status are [`eyot_client::controller`]'s.

mod announce;
mod certificates;
mod claim_protection;
mod clients;
mod clock;
mod cluster_roles;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
pub mod election;
mod endpoint_slice;
mod endpoints;
mod error;
mod fleet;
mod gc;
mod history;
mod horizontal_pod_autoscaler;
mod job;
mod names;
mod namespace;
mod node_labels;
mod node_life;
mod node_ranges;
mod node_taint;
mod owner;
mod pod;
mod pod_control;
mod pod_gc;
mod replica_set;
mod resources;
mod root_ca;
mod rounding;
mod scheduler;
mod service;
mod service_account;
mod service_ranges;
#[cfg(test)]
mod simulation;
mod stateful_set;
mod storage;
mod taint_eviction;
mod trigger;
mod wiring;
mod workloads;

use std::{fmt::Debug, sync::Arc};

use eyot_api::{EdgeApplication, NodeGroup};
use eyot_client::{Cache, Controller, Key, Watches, view::Pod};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    certificates::v1::CertificateSigningRequest,
    core::v1::{
        ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, ReplicationController,
        Service, ServiceAccount,
    },
    networking::v1::ServiceCIDR,
    policy::v1::PodDisruptionBudget,
    rbac::v1::ClusterRole,
    storage::v1::StorageClass,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, Resource, runtime::watcher};
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    announce::Announcer,
    certificates::Certificates,
    cluster_roles::ClusterRoles,
    namespace::Namespaces,
    node_taint::NodeTaints,
    root_ca::RootCas,
    scheduler::{Others, Scheduler, Watched},
    service_account::ServiceAccounts,
    service_ranges::ServiceRanges,
    storage::scheduling::Storage,
};
pub use certificates::{
    authority::{Authority, AuthorityError},
    wish::WishError,
};
pub use clients::Clients;
pub use error::ControlError;
pub use node_ranges::{NodeRanges, Range, RangeError};
pub use scheduler::config::{ConfigError, SchedulerConfig};

/// The local copies that the controllers share.
struct Caches {
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    daemon_sets: Cache<DaemonSet>,
    stateful_sets: Cache<StatefulSet>,
    revisions: Cache<ControllerRevision>,
    replication_controllers: Cache<ReplicationController>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    namespaces: Cache<Namespace>,
    services: Cache<Service>,
    budgets: Cache<PodDisruptionBudget>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    /// Those named `default`.
    accounts: Cache<ServiceAccount>,
    cluster_roles: Cache<ClusterRole>,
    requests: Cache<CertificateSigningRequest>,
    service_ranges: Cache<ServiceCIDR>,
}

impl Caches {
    fn of(watches: &Watches) -> Self {
        Self {
            deployments: watches.of(),
            sets: watches.of(),
            daemon_sets: watches.of(),
            stateful_sets: watches.of(),
            revisions: watches.of(),
            replication_controllers: watches.of(),
            pods: watches.of(),
            nodes: watches.of(),
            namespaces: watches.of(),
            services: watches.of(),
            budgets: watches.of(),
            claims: watches.of(),
            volumes: watches.of(),
            classes: watches.of(),
            accounts: watches.some(service_account::SELECTED),
            cluster_roles: watches.of(),
            requests: watches.of(),
            service_ranges: watches.of(),
        }
    }
}

/// What the controllers need to know beside what the API tells them.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The authority that signed the API's certificate, in PEM, to be published in each namespace.
    pub root_ca: Option<String>,
    /// Signs the certificates that are asked for and approved; without one, nobody does.
    pub authority: Option<Arc<Authority>>,
    /// How pods are placed on nodes.
    pub scheduler: SchedulerConfig,
    /// Where nodes' ranges of addresses come from; without it nobody gives them any.
    pub node_ranges: Option<NodeRanges>,
}

/// Run all controllers until `stop` is cancelled, then let them finish what they began.
/// They look at the copies of `watches`, and each writes through its own of `clients`.
pub async fn run(clients: Clients, watches: Watches, options: Options, stop: CancellationToken) {
    let caches = Caches::of(&watches);
    let mut tasks = JoinSet::new();
    schedule(
        &mut tasks,
        &clients,
        &caches,
        &watches,
        options.scheduler,
        &stop,
    );
    workloads::run(&mut tasks, &clients, &caches, &stop);
    lead_fleet(&mut tasks, &clients, &caches, &watches, &stop);
    tasks.spawn(end_namespaces(&clients, &caches).run(stop.clone()));
    tasks.spawn(account_namespaces(&clients, &caches).run(stop.clone()));
    tasks.spawn(taint(&clients, &caches).run(stop.clone()));
    tasks.spawn(release_claims(&clients, &caches).run(stop.clone()));
    tasks.spawn(release_volumes(&clients, &caches).run(stop.clone()));
    tasks.spawn(gather_roles(&clients, &caches).run(stop.clone()));
    tasks.spawn(hold_ranges(&clients, &caches).run(stop.clone()));
    tasks.spawn(certify(&clients, &caches, options.authority).run(stop.clone()));
    if let Some(bundle) = options.root_ca {
        let config_maps = watches.some(root_ca::SELECTED);
        let publishing = publish(&clients, &caches, config_maps, bundle);
        tasks.spawn(publishing.run(stop.clone()));
    }
    if let Some(ranges) = options.node_ranges {
        let (client, nodes) = (clients.controller("node-controller"), caches.nodes.clone());
        let announcer = Announcer::start(client.clone(), "cidrAllocator", stop.clone());
        let giving = Controller::new(node_ranges::Giving::new(client, nodes, announcer, ranges))
            // One after the other, so that no two get the same range.
            .concurrency(1)
            .on(&caches.nodes, |change| Some(change.key.clone()));
        tasks.spawn(giving.run(stop.clone()));
    }
    let collector = clients.controller("generic-garbage-collector");
    tasks.spawn(gc::run(collector, stop.clone()));
    let wiring = wiring::Wiring {
        clients: &clients,
        stop: &stop,
        watches: &watches,
        pods: &caches.pods,
        nodes: &caches.nodes,
        claims: &caches.claims,
        volumes: &caches.volumes,
        classes: &caches.classes,
        tasks: &mut tasks,
    };
    wiring.start();
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller broke off");
        }
    }
}

fn schedule(
    tasks: &mut JoinSet<()>,
    clients: &Clients,
    caches: &Caches,
    watches: &Watches,
    config: SchedulerConfig,
    stop: &CancellationToken,
) {
    let client = clients.scheduler();
    let announcer = Announcer::start(client.clone(), "default-scheduler", stop.clone());
    let devices = Cache::trimmed(scheduler::devices::trim);
    let watched = Watched {
        pods: &caches.pods,
        nodes: &caches.nodes,
        namespaces: &caches.namespaces,
        budgets: &caches.budgets,
        devices: &devices,
    };
    let storage = Storage::new(
        client.clone(),
        caches.pods.clone(),
        caches.claims.clone(),
        caches.volumes.clone(),
        caches.classes.clone(),
    );
    let others = Others {
        pods: caches.pods.clone(),
        nodes: caches.nodes.clone(),
        storage,
        services: caches.services.clone(),
        sets: caches.sets.clone(),
        stateful_sets: caches.stateful_sets.clone(),
        replication_controllers: caches.replication_controllers.clone(),
    };
    let scheduler = Scheduler::new(client, &watched, others, announcer, config);
    follow(tasks, clients.reader(), watches, devices, stop);
    let (pods, nodes) = (caches.pods.clone(), caches.nodes.clone());
    let (claims, volumes) = (caches.claims.clone(), caches.volumes.clone());
    let (classes, namespaces) = (caches.classes.clone(), caches.namespaces.clone());
    let stop = stop.clone();
    tasks.spawn(async move {
        let synced = async {
            tokio::join!(pods.synced(), nodes.synced(), namespaces.synced());
            tokio::join!(claims.synced(), volumes.synced(), classes.synced());
        };
        if stop.run_until_cancelled(synced).await.is_some() {
            scheduler.run(stop).await;
        }
    });
}

/// Follow objects of a kind of our own once the API knows what that is.
fn follow<K>(
    tasks: &mut JoinSet<()>,
    client: Client,
    watches: &Watches,
    cache: Cache<K>,
    stop: &CancellationToken,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let name = format!("metadata.name={}.{}", K::plural(&()), K::group(&()));
    let definitions: Cache<CustomResourceDefinition> = watches.some(name);
    let known = Arc::new(Notify::new());
    let tell = known.clone();
    definitions.listen(move |_| tell.notify_one());
    let stop = stop.clone();
    tasks.spawn(async move {
        if stop.run_until_cancelled(known.notified()).await.is_some() {
            cache
                .run(Api::all(client), watcher::Config::default(), stop)
                .await;
        }
    });
}

/// What concerns many machines.
fn lead_fleet(
    tasks: &mut JoinSet<()>,
    clients: &Clients,
    caches: &Caches,
    watches: &Watches,
    stop: &CancellationToken,
) {
    let groups: Cache<NodeGroup> = Cache::default();
    let applications: Cache<EdgeApplication> = Cache::default();
    fleet::run(tasks, clients, caches, &groups, &applications, stop);
    follow(tasks, clients.reader(), watches, groups, stop);
    follow(tasks, clients.reader(), watches, applications, stop);
}

fn account_namespaces(clients: &Clients, caches: &Caches) -> Controller<ServiceAccounts> {
    Controller::new(ServiceAccounts {
        client: clients.controller("service-account-controller"),
        namespaces: caches.namespaces.clone(),
        accounts: caches.accounts.clone(),
    })
    .on(&caches.namespaces, |change| Some(change.key.clone()))
    .on(&caches.accounts, |change| {
        Some(Key::new("", &change.key.namespace))
    })
}

/// `config_maps`: those of the name in question.
fn publish(
    clients: &Clients,
    caches: &Caches,
    config_maps: Cache<ConfigMap>,
    bundle: String,
) -> Controller<RootCas> {
    Controller::new(RootCas {
        client: clients.controller("root-ca-cert-publisher"),
        namespaces: caches.namespaces.clone(),
        config_maps: config_maps.clone(),
        bundle,
    })
    .on(&caches.namespaces, |change| Some(change.key.clone()))
    .on(&config_maps, |change| {
        Some(Key::new("", &change.key.namespace))
    })
}

fn hold_ranges(clients: &Clients, caches: &Caches) -> Controller<ServiceRanges> {
    let all = caches.service_ranges.clone();
    Controller::new(ServiceRanges {
        client: clients.controller("service-cidrs-controller"),
        ranges: caches.service_ranges.clone(),
    })
    // One that comes or goes may be what another waits for.
    .on(&caches.service_ranges, move |_| {
        let keys = all.list().into_iter().map(|one| Key::of(&one.metadata));
        keys.collect::<Vec<_>>()
    })
}

fn certify(
    clients: &Clients,
    caches: &Caches,
    authority: Option<Arc<Authority>>,
) -> Controller<Certificates> {
    Controller::new(Certificates {
        client: clients.controller("certificate-controller"),
        requests: caches.requests.clone(),
        authority,
    })
    .on(&caches.requests, |change| Some(change.key.clone()))
}

fn gather_roles(clients: &Clients, caches: &Caches) -> Controller<ClusterRoles> {
    Controller::new(ClusterRoles {
        client: clients.controller("clusterrole-aggregation-controller"),
        roles: caches.cluster_roles.clone(),
    })
    .on(&caches.cluster_roles, |_| Some(cluster_roles::key()))
}

fn release_claims(clients: &Clients, caches: &Caches) -> Controller<claim_protection::Claims> {
    let claims = caches.claims.clone();
    Controller::new(claim_protection::Claims {
        client: clients.controller("pvc-protection-controller"),
        claims: caches.claims.clone(),
        pods: caches.pods.clone(),
    })
    .on(&caches.claims, |change| Some(change.key.clone()))
    .on(&caches.pods, move |change| {
        let pod = change.object()?;
        let names = claim_protection::of_pod(pod).into_iter();
        names
            .map(|name| Key::new(&change.key.namespace, &name))
            .find(|key| {
                claims
                    .get(key)
                    .is_some_and(|c| c.metadata.deletion_timestamp.is_some())
            })
    })
}

fn release_volumes(clients: &Clients, caches: &Caches) -> Controller<claim_protection::Volumes> {
    Controller::new(claim_protection::Volumes {
        client: clients.controller("pv-protection-controller"),
        volumes: caches.volumes.clone(),
    })
    .on(&caches.volumes, |change| Some(change.key.clone()))
}

fn taint(clients: &Clients, caches: &Caches) -> Controller<NodeTaints> {
    Controller::new(NodeTaints {
        client: clients.controller("node-controller"),
        nodes: caches.nodes.clone(),
    })
    .on(&caches.nodes, |change| Some(change.key.clone()))
}

fn end_namespaces(clients: &Clients, caches: &Caches) -> Controller<Namespaces> {
    let ending = |namespace: &Namespace| namespace.metadata.deletion_timestamp.is_some();
    Controller::new(Namespaces {
        client: clients.controller("namespace-controller"),
        namespaces: caches.namespaces.clone(),
    })
    .on(&caches.namespaces, move |change| {
        change
            .after
            .filter(|namespace| ending(namespace))
            .map(|_| change.key.clone())
    })
}
