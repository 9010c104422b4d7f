//! The controllers with their caches, each step of which the simulation asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use eyot_client::{Cache, Key, Reconciler, Requeue};
use futures::stream;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, ReplicaSet},
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
};
use kube::{Client, Resource, runtime::watcher::Event};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    api::{Truth, VOLUME, Written},
    rng::Rng,
};
use crate::{
    announce::Announcer,
    daemon_set::{self, DaemonSets},
    deployment::{self, Deployments},
    pod_control::{Awaited, PodControl},
    replica_set::{self, Replicas},
    scheduler::{Others, Scheduler, Watched, config::SchedulerConfig},
    stateful_set::{self, StatefulSets},
    storage::scheduling::Storage,
};

pub(super) const KINDS: [&str; 7] = [
    "deployments",
    "replicasets",
    "pods",
    "daemonsets",
    "statefulsets",
    "controllerrevisions",
    "persistentvolumeclaims",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Which {
    Deployment,
    ReplicaSet,
    DaemonSet,
    StatefulSet,
}

/// What is under way when everything ends.
const AT_DEATH: Duration = Duration::from_millis(1);

type Dirty = Arc<Mutex<BTreeSet<(Which, Key)>>>;

pub(super) struct Controllers {
    deployments: Deployments,
    sets: Replicas<ReplicaSet>,
    daemons: DaemonSets,
    stateful: StatefulSets,
    scheduler: Scheduler,
    /// What there is to look at, now and later.
    dirty: Dirty,
    due: BTreeMap<(Which, Key), Instant>,
    /// How many of all writes each kind's watch has come through.
    seen: BTreeMap<&'static str, usize>,
}

impl Controllers {
    /// With caches that have just listed everything.
    pub(super) async fn start(client: &Client, truth: &Truth, nodes: &[Node]) -> Self {
        let pods = Cache::default();
        let control = || PodControl::new(client.clone(), pods.clone(), Announcer::silent());
        let revisions: Cache<ControllerRevision> = Cache::default();
        let sets: Cache<ReplicaSet> = Cache::default();
        let node_cache: Cache<Node> = Cache::default();
        let claims: Cache<PersistentVolumeClaim> = Cache::default();
        let volumes: Cache<PersistentVolume> = Cache::default();
        let volume = serde_json::from_value(json!({ "metadata": { "name": VOLUME } }));
        show(&volumes, [Event::Apply(volume.unwrap())]).await;
        let watched = Watched {
            pods: &pods,
            nodes: &node_cache,
            namespaces: &Cache::default(),
            budgets: &Cache::default(),
            devices: &Cache::default(),
        };
        let others = Others {
            pods: pods.clone(),
            nodes: node_cache.clone(),
            storage: Storage::new(
                client.clone(),
                pods.clone(),
                claims.clone(),
                volumes,
                Cache::default(),
            ),
            services: Cache::default(),
            sets: sets.clone(),
            stateful_sets: Cache::default(),
            replication_controllers: Cache::default(),
        };
        let config = SchedulerConfig::default();
        let announcer = Announcer::silent();
        let scheduler = Scheduler::new(client.clone(), &watched, others, announcer, config);
        show(&node_cache, nodes.iter().cloned().map(Event::Apply)).await;
        let mut all = Self {
            scheduler,
            deployments: Deployments {
                client: client.clone(),
                deployments: Cache::default(),
                sets: sets.clone(),
                pods: pods.clone(),
                announcer: Announcer::silent(),
                awaited: Awaited::default(),
            },
            sets: Replicas {
                client: client.clone(),
                sets,
                pods: pods.clone(),
                control: control(),
            },
            daemons: DaemonSets::new(
                client.clone(),
                Cache::default(),
                pods.clone(),
                node_cache,
                revisions.clone(),
                control(),
            ),
            stateful: StatefulSets {
                client: client.clone(),
                sets: Cache::default(),
                pods: pods.clone(),
                claims,
                revisions,
                control: control(),
            },
            dirty: Dirty::default(),
            due: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        all.listen();
        for kind in KINDS {
            all.relist(truth, kind).await;
        }
        all
    }

    fn listen(&self) {
        let add = |which: Which| {
            let dirty = self.dirty.clone();
            move |keys: Vec<Key>| {
                let keys = keys.into_iter().map(|key| (which, key));
                dirty.lock().unwrap().extend(keys);
            }
        };
        let own = |key: &Key| vec![key.clone()];
        let (of, all) = (add(Which::Deployment), &self.deployments.deployments);
        all.listen(move |change| of(own(change.key)));
        let (of, owners) = (add(Which::Deployment), all.clone());
        self.sets
            .sets
            .listen(move |change| of(deployment::of_set(&owners, &change)));
        let (of, owners, sets) = (add(Which::Deployment), all.clone(), self.sets.sets.clone());
        self.sets.pods.listen(move |change| {
            let key = deployment::of_ended_pod(&owners, &sets, &change);
            of(key.into_iter().collect());
        });
        let (of, all) = (add(Which::ReplicaSet), &self.sets.sets);
        all.listen(move |change| of(own(change.key)));
        let (of, owners) = (add(Which::ReplicaSet), all.clone());
        self.sets
            .pods
            .listen(move |change| of(replica_set::of_pod(&owners, &change)));
        let (of, all) = (add(Which::DaemonSet), &self.daemons.sets);
        all.listen(move |change| of(own(change.key)));
        let (of, owners) = (add(Which::DaemonSet), all.clone());
        self.daemons
            .pods
            .listen(move |change| of(daemon_set::of_dependent(&owners, &change)));
        let (of, owners) = (add(Which::DaemonSet), all.clone());
        let revisions = &self.daemons.revisions;
        revisions.listen(move |change| of(daemon_set::of_dependent(&owners, &change)));
        let (of, all) = (add(Which::StatefulSet), &self.stateful.sets);
        all.listen(move |change| of(own(change.key)));
        let (of, owners) = (add(Which::StatefulSet), all.clone());
        self.stateful
            .pods
            .listen(move |change| of(stateful_set::of_dependent(&owners, &change)));
        let (of, owners) = (add(Which::StatefulSet), all.clone());
        revisions.listen(move |change| of(stateful_set::of_dependent(&owners, &change)));
        let (of, owners) = (add(Which::StatefulSet), all.clone());
        let claims = &self.stateful.claims;
        claims.listen(move |change| of(stateful_set::of_claim(&owners, &change)));
    }

    /// The kinds of whose writes the caches do not know all.
    pub(super) fn behind(&self, truth: &Truth) -> Vec<&'static str> {
        let behind = |kind: &&'static str| truth.place(kind, self.seen[kind]).is_some();
        KINDS.into_iter().filter(behind).collect()
    }

    /// The watch of a kind tells one write.
    pub(super) async fn deliver(&mut self, truth: &Truth, kind: &'static str) {
        if let Some((at, written)) = truth.next(kind, self.seen[kind]) {
            self.seen.insert(kind, at + 1);
            self.tell(kind, Told::One(written)).await;
        }
    }

    /// The watch of a kind broke off and is begun again.
    pub(super) async fn relist(&mut self, truth: &Truth, kind: &'static str) {
        self.seen.insert(kind, truth.version());
        self.tell(kind, Told::All(truth.list(kind))).await;
    }

    async fn tell(&self, kind: &str, told: Told) {
        match kind {
            "deployments" => told.to(&self.deployments.deployments).await,
            "replicasets" => told.to(&self.sets.sets).await,
            "pods" => told.to(&self.sets.pods).await,
            "daemonsets" => told.to(&self.daemons.sets).await,
            "statefulsets" => told.to(&self.stateful.sets).await,
            "controllerrevisions" => told.to(&self.daemons.revisions).await,
            _ => told.to(&self.stateful.claims).await,
        }
    }

    /// Look at one thing that is to be looked at; whether there was any.
    pub(super) async fn reconcile(&mut self, rng: &mut Rng) -> bool {
        let dirty: Vec<_> = self.dirty.lock().unwrap().iter().cloned().collect();
        if dirty.is_empty() {
            return false;
        }
        let (which, key) = rng.pick(&dirty).clone();
        self.dirty.lock().unwrap().remove(&(which, key.clone()));
        let result = match which {
            Which::Deployment => self.deployments.reconcile(&key).await,
            Which::ReplicaSet => self.sets.reconcile(&key).await,
            Which::DaemonSet => self.daemons.reconcile(&key).await,
            Which::StatefulSet => self.stateful.reconcile(&key).await,
        };
        match result {
            Ok(Requeue::OnChange) => {}
            Ok(Requeue::After(delay)) => {
                self.due.insert((which, key), Instant::now() + delay);
            }
            Err(_) => {
                self.dirty.lock().unwrap().insert((which, key));
            }
        }
        true
    }

    /// Place a pod that waits for it; whether there was any.
    pub(super) async fn schedule(&self) -> bool {
        let decided = self.scheduler.decide();
        match decided {
            Some(decided) => {
                self.scheduler.perform(decided).await;
                true
            }
            None => false,
        }
    }

    /// The same for a scheduler that dies before it knows how that ended.
    pub(super) async fn schedule_and_die(&self) {
        if let Some(decided) = self.scheduler.decide() {
            // It would ask for ever how it ended.
            let _ = tokio::time::timeout(AT_DEATH, self.scheduler.perform(decided)).await;
        }
    }

    /// Look at what has become due.
    pub(super) fn wake(&mut self) {
        let now = Instant::now();
        let due = self.due.extract_if(.., |_, at| *at <= now);
        self.dirty.lock().unwrap().extend(due.map(|(what, _)| what));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.dirty.lock().unwrap().is_empty() && self.scheduler.is_idle()
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        let scheduler = self.scheduler.due();
        let next = self.due.values().copied().chain(scheduler).min();
        next.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

enum Told {
    One(Written),
    All(Vec<serde_json::Value>),
}

impl Told {
    async fn to<K>(self, cache: &Cache<K>)
    where
        K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let read = |value| serde_json::from_value::<K>(value).unwrap();
        match self {
            Self::One(one) if one.gone => show(cache, [Event::Delete(read(one.object))]).await,
            Self::One(one) => show(cache, [Event::Apply(read(one.object))]).await,
            Self::All(all) => {
                let all = all.into_iter().map(|one| Event::InitApply(read(one)));
                let all: Vec<_> = all.collect();
                let events = std::iter::once(Event::Init).chain(all);
                show(cache, events.chain([Event::InitDone])).await;
            }
        }
    }
}

pub(crate) async fn show<K>(cache: &Cache<K>, events: impl IntoIterator<Item = Event<K>>)
where
    K: Resource + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    let events: Vec<_> = events.into_iter().map(Ok).collect();
    cache
        .follow(stream::iter(events), CancellationToken::new())
        .await;
}
