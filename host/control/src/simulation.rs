//! The controllers of workloads in a world that is out to get them, the same for the same seed.
//!
//! A seed makes one workload and a run of events in random order: the scheduler places its pods on
//! nodes that have just enough room, the caches learn of writes late, and in between lose their watch and list anew; requests fail before or after they took effect;
//! the controllers die between any two writes and start again from nothing; pods come up, fail and
//! are deleted; the user changes the image and the size. Time stands still but where it is moved, and
//! the wall clock is set, forth and back, while it does.
//!
//! All the while the world is held to what was promised (`promises`), and once the faults stop it
//! must come to rest with what was asked for, and then nobody writes any more.
//!
//! A seed that fails is printed; `EYOT_SEED=<seed>` runs it alone.

pub(crate) mod api;
pub(crate) mod controllers;
mod promises;
mod rng;

use std::{
    num::NonZero,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use serde_json::{Value, json};

use self::{
    api::Truth,
    controllers::{Controllers, KINDS},
    promises::Promises,
    rng::Rng,
};
use crate::clock;

/// Events of a run while there are faults, and at most so many forties of them until there is rest.
const WILD: usize = 150;
const CALM: usize = 200;
const SEEDS: u64 = 100;
/// So many seconds the wall clock is wrong at most.
const SKEW: u64 = 60;

/// What a seed makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Workload {
    Deployment,
    DaemonSet,
    StatefulSet,
}

impl Workload {
    fn plural(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::DaemonSet => "daemonsets",
            Self::StatefulSet => "statefulsets",
        }
    }
}

struct World {
    rng: Rng,
    truth: Truth,
    client: Client,
    nodes: Vec<Node>,
    controllers: Controllers,
    workload: Workload,
    promises: Promises,
    /// Pods fail and are deleted, and sizes change. Without, more can be promised.
    rough: bool,
    start: tokio::time::Instant,
    /// By how many seconds the wall clock is wrong.
    skew: i64,
    /// The version at which it was last looked whether the promises hold.
    held: Option<usize>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let truth = Truth::new(rng.next());
        let client = truth.client();
        let workload = *rng.pick(&[
            Workload::Deployment,
            Workload::DaemonSet,
            Workload::StatefulSet,
        ]);
        let node = |n: u64| {
            let node = json!({
                "metadata": { "name": format!("n{n}") },
                "status": {
                    "allocatable": { "cpu": promises::ROOM.to_string(), "pods": "100" },
                    "conditions": [{ "type": "Ready", "status": "True" }],
                },
            });
            serde_json::from_value(node).unwrap()
        };
        let nodes: Vec<Node> = (0..1 + rng.below(4)).map(node).collect();
        let (spec, promises) = promises::made(&mut rng, workload, nodes.len());
        truth.put(workload.plural(), workload_object(workload, spec));
        let controllers = Controllers::start(&client, &truth, &nodes).await;
        let rough = rng.chance(50);
        let mut world = Self {
            rng,
            truth,
            client,
            nodes,
            controllers,
            workload,
            promises,
            rough,
            start: tokio::time::Instant::now(),
            skew: 0,
            held: None,
        };
        world.pass(0).await;
        world
    }

    async fn pass(&mut self, seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        let elapsed = SignedDuration::try_from(self.start.elapsed()).unwrap();
        let skew = SignedDuration::from_secs(self.skew);
        clock::simulate(Some(Timestamp::constant(1_800_000_000, 0) + elapsed + skew));
        self.controllers.wake();
    }

    /// One event; whether there was any.
    async fn step(&mut self, wild: bool) -> bool {
        let roll = self.rng.below(100);
        match roll {
            0..2 if wild => self.die().await,
            2..4 if wild => {
                let kind = *self.rng.pick(&KINDS);
                self.controllers.relist(&self.truth, kind).await;
            }
            4..10 if wild => self.user(),
            10..11 if wild => {
                let skew = i64::try_from(self.rng.below(2 * SKEW)).unwrap();
                self.skew = skew - SKEW.cast_signed();
                self.pass(0).await;
            }
            11..15 if wild => {
                let seconds = 1 + self.rng.below(5);
                self.pass(seconds).await;
            }
            15..45 => return self.node(wild && self.rough) || self.truth.collect(),
            45..65 => return self.deliver().await,
            65..75 => return self.controllers.schedule().await,
            _ => return self.controllers.reconcile(&mut self.rng).await,
        }
        true
    }

    async fn deliver(&mut self) -> bool {
        let behind = self.controllers.behind(&self.truth);
        if behind.is_empty() {
            return false;
        }
        let kind = *self.rng.pick(&behind);
        self.controllers.deliver(&self.truth, kind).await;
        true
    }

    /// Let the controllers die, perhaps in the middle of what they do.
    async fn die(&mut self) {
        self.truth.die_in(self.rng.below(4));
        if self.rng.chance(30) {
            self.controllers.schedule_and_die().await;
        } else {
            self.controllers.reconcile(&mut self.rng).await;
        }
        self.truth.revive();
        self.controllers = Controllers::start(&self.client, &self.truth, &self.nodes).await;
    }

    fn user(&mut self) {
        // One roll-out upon another is for the rough: then there may be nothing that works to keep.
        if !self.rough && !self.promises.is_settled(&self.truth) {
            return;
        }
        let image = format!("i:{}", self.rng.below(4));
        let mut patch = json!({ "spec": { "template": { "spec": { "containers": [
            { "name": "c", "image": image,
              "resources": { "requests": { "cpu": "1" } } }] } } } });
        if self.rough && self.rng.chance(40) && self.workload != Workload::DaemonSet {
            patch = json!({ "spec": { "replicas": self.rng.below(6) } });
        } else if self.rough && self.rng.chance(30) {
            let pods = self.truth.list("pods");
            if let Some(pod) = (!pods.is_empty()).then(|| self.rng.pick(&pods).clone()) {
                self.truth
                    .delete("pods", pod["metadata"]["name"].as_str().unwrap());
            }
            return;
        }
        self.truth.patch(self.workload.plural(), "web", &patch);
    }

    /// Something happens to a pod on its node; whether anything could.
    fn node(&mut self, fails: bool) -> bool {
        let can = |pod: &&Value| {
            let status = &pod["status"];
            let ended = matches!(status["phase"].as_str(), Some("Failed" | "Succeeded"));
            let leaving = pod["metadata"].get("deletionTimestamp").is_some();
            let working = status["conditions"][0]["status"] == "True";
            leaving || !ended && pod["spec"].get("nodeName").is_some() && (!working || fails)
        };
        let rng = &mut self.rng;
        let pod = self.truth.with("pods", |pods| {
            let pods: Vec<&Value> = pods.into_iter().filter(can).collect();
            (!pods.is_empty()).then(|| (*rng.pick(&pods)).clone())
        });
        let Some(pod) = pod else { return false };
        let name = pod["metadata"]["name"].as_str().unwrap();
        if pod["metadata"].get("deletionTimestamp").is_some() {
            self.truth.remove("pods", name);
        } else if fails && self.rng.chance(20) {
            let patch = json!({ "status": { "phase": "Failed", "conditions": null } });
            self.truth.patch("pods", name, &patch);
        } else {
            let ready = if fails && self.rng.chance(20) {
                "False"
            } else {
                "True"
            };
            let patch = json!({ "status": { "phase": "Running", "conditions": [
                { "type": "Ready", "status": ready, "lastTransitionTime": clock::now() }] } });
            self.truth.patch("pods", name, &patch);
        }
        true
    }

    /// Run without faults until nothing happens any more.
    async fn rest(&mut self) {
        for _ in 0..CALM {
            let mut quiet = true;
            for _ in 0..40 {
                quiet &= !self.step(false).await;
                self.hold();
            }
            let behind = self.controllers.behind(&self.truth);
            if quiet && behind.is_empty() && self.controllers.is_idle() {
                match self.controllers.next_due() {
                    // Only deadlines of what is done already lie so far ahead.
                    Some(due) if due <= Duration::from_secs(120) => {
                        self.pass(due.as_secs() + 1).await;
                    }
                    _ => return,
                }
            }
        }
        panic!("no rest");
    }

    fn hold(&mut self) {
        // Only a write can break anything.
        let version = self.truth.version();
        if self.held == Some(version) {
            return;
        }
        self.held = Some(version);
        if let Err(broken) = self.promises.hold(&self.truth, self.rough) {
            panic!("{broken}; what was written:\n{}", self.truth.told());
        }
    }
}

fn workload_object(workload: Workload, spec: Value) -> Value {
    let kind = format!("{workload:?}");
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": "web", "namespace": "d" },
        "spec": {
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": "i:0",
                    "resources": { "requests": { "cpu": "1" } } }] },
            },
        },
    });
    api::merge(&mut object["spec"], &spec);
    object
}

async fn run(seed: u64) {
    let mut world = World::new(seed).await;
    // What took effect unknown to a Deployment it cannot count: less can be promised.
    world.truth.faults(true, world.rough);
    for _ in 0..WILD {
        world.step(true).await;
        world.hold();
    }
    world.truth.faults(false, false);
    world.rest().await;
    world
        .promises
        .kept(&world.truth, world.workload, world.nodes.len());
    let version = world.truth.version();
    world.controllers = Controllers::start(&world.client, &world.truth, &world.nodes).await;
    while world.controllers.schedule().await {}
    while world.controllers.reconcile(&mut world.rng).await {}
    assert_eq!(
        version,
        world.truth.version(),
        "somebody writes where all is well"
    );
}

#[test]
fn whatever_happens_the_promises_are_kept_and_the_world_comes_to_rest() {
    let chosen = std::env::var("EYOT_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    let seeds = chosen.map_or(0..SEEDS, |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let one = move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .start_paused(true)
                    .build();
                runtime.unwrap().block_on(run(seed));
            };
            let ended = std::panic::catch_unwind(one);
            clock::simulate(None);
            if ended.is_err() {
                failed.lock().unwrap().push(seed);
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "EYOT_SEED=<seed> runs one alone: {failed:?} fail"
    );
}
