//! Many things happen on both sides while the link fails in every way, from seeds; in the end the link
//! is whole, and both sides say the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    MAPS, create,
    link::{Link, Mode},
    map,
    site::{Agent, Disk, Machine, NODE, PODS, Side, cloud, pod, pods, status, until},
    until_ready,
};

/// Things that happen in one run.
const STEPS: u32 = 120;
const NAMES: u64 = 6;

/// Small and the same everywhere: SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

struct Run {
    dice: Dice,
    cloud: Side,
    link: Link,
    machine: Machine,
    /// `None` while it is being started again.
    agent: Option<Agent>,
    disk: Disk,
    /// How often a pod's containers restarted by themselves, by uid: what the cloud must know.
    restarts: BTreeMap<String, u64>,
    events: u32,
}

impl Run {
    fn side(&self) -> Side {
        self.agent.as_ref().unwrap().side.clone()
    }

    async fn step(&mut self) {
        let name = format!("p{}", self.dice.roll(NAMES));
        match self.dice.roll(12) {
            0 | 1 => {
                let _ = self.cloud.ask("POST", PODS, Some(&pod(&name))).await;
            }
            2 => {
                let _ = self.cloud.ask("DELETE", &pods(&name), None).await;
            }
            3 => {
                let force = json!({"gracePeriodSeconds": 0});
                let _ = self.cloud.ask("DELETE", &pods(&name), Some(&force)).await;
            }
            4 => {
                let labels =
                    json!({"metadata": {"labels": {"turn": self.dice.roll(99).to_string()}}});
                let _ = self.cloud.ask("PATCH", &pods(&name), Some(&labels)).await;
            }
            5 => {
                let map = map(&format!("{name}-settings"), &self.dice.roll(99).to_string());
                if self.cloud.ask("POST", MAPS, Some(&map)).await.is_err() {
                    let path = format!("{MAPS}/{name}-settings");
                    let _ = self.cloud.ask("PATCH", &path, Some(&map)).await;
                }
            }
            6 => {
                let path = format!("{MAPS}/{name}-settings");
                let _ = self.cloud.ask("DELETE", &path, None).await;
            }
            7 => self.restart(&name).await,
            8 => self.event().await,
            9 => self.break_link(),
            10 => self.link.set(Mode::Whole),
            _ => {
                if self.dice.roll(8) == 0 {
                    self.kill_agent().await;
                }
            }
        }
        for _ in 0..self.dice.roll(30) {
            tokio::task::yield_now().await;
        }
    }

    fn break_link(&mut self) {
        let mode = match self.dice.roll(4) {
            0 => Mode::Cut,
            1 => Mode::Deaf,
            2 => Mode::Twice,
            _ => Mode::Slow(self.dice.roll(40) as u32),
        };
        self.link.set(mode);
    }

    /// A container of a pod that runs here ends and is started again.
    async fn restart(&mut self, name: &str) {
        let side = self.side();
        let Some(pod) = side.get(&pods(name)).await else {
            return;
        };
        let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
        if pod["status"]["phase"] != "Running" || !pod["metadata"]["deletionTimestamp"].is_null() {
            return;
        }
        let count = self.restarts.entry(uid.clone()).or_default();
        *count += 1;
        let told = json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "i",
            "ready": true, "restartCount": *count}]});
        status(&side, name, &uid, &told).await;
    }

    async fn event(&mut self) {
        self.events += 1;
        let event = json!({"metadata": {"name": format!("e{}", self.events), "namespace": "default"},
            "involvedObject": {"kind": "Node", "name": NODE}, "reason": "Told",
            "message": "so", "type": "Normal"});
        let path = "/api/v1/namespaces/default/events";
        let user = format!("system:node:{NODE}");
        let side = self.side();
        let told = side.ask_as(&user, "POST", path, Some(&event));
        told.await.unwrap();
    }

    /// The agent is killed and started again on its file; what runs goes on.
    async fn kill_agent(&mut self) {
        self.agent = None;
        let agent = Agent::on_disk(&mut self.disk, &self.link, &self.machine).await;
        self.agent = Some(agent);
    }

    /// Both sides say the same.
    async fn alike(&self) -> Result<(), String> {
        let (there, here) = (self.cloud.all(PODS).await, self.side().all(PODS).await);
        let uids = |all: &BTreeMap<String, Value>| -> Vec<Value> {
            all.values()
                .map(|pod| pod["metadata"]["uid"].clone())
                .collect()
        };
        if uids(&there) != uids(&here) {
            return Err(format!("{:?} there, {:?} here", there.keys(), here.keys()));
        }
        for (name, pod) in &there {
            let own = &here[name];
            for part in [
                "/metadata/labels",
                "/status/phase",
                "/status/containerStatuses",
                "/status/podIP",
            ] {
                if pod.pointer(part) != own.pointer(part) {
                    let (pod, own) = (pod.pointer(part), own.pointer(part));
                    return Err(format!("{name}{part}: {pod:?} there, {own:?} here"));
                }
            }
            if pod["status"]["phase"] != "Running"
                || !pod["metadata"]["deletionTimestamp"].is_null()
            {
                return Err(format!("{name} is not settled: {}", pod["status"]));
            }
            let uid = pod["metadata"]["uid"].as_str().unwrap();
            let told = &pod["status"]["containerStatuses"][0]["restartCount"];
            if self.restarts.get(uid).is_some_and(|count| told != *count) {
                return Err(format!(
                    "{name} restarted {:?} times, {told} told",
                    self.restarts[uid]
                ));
            }
        }
        let mut running: Vec<String> = there.keys().cloned().collect();
        running.sort();
        if self.machine.running() != running {
            return Err(format!("{:?} run", self.machine.running()));
        }
        let (maps, own) = (self.cloud.all(MAPS).await, self.side().all(MAPS).await);
        for name in there.keys() {
            let name = format!("{name}-settings");
            let word =
                |all: &BTreeMap<String, Value>| all.get(&name).map(|map| map["data"].clone());
            if word(&maps) != word(&own) {
                return Err(format!(
                    "{name}: {:?} there, {:?} here",
                    word(&maps),
                    word(&own)
                ));
            }
        }
        let events = self.cloud.all("/api/v1/namespaces/default/events").await;
        let lost: Vec<_> = (1..=self.events)
            .filter(|n| !events.contains_key(&format!("e{n}")))
            .collect();
        match lost.is_empty() {
            true => Ok(()),
            false => Err(format!("events {lost:?} are not there")),
        }
    }
}

async fn run(seed: u64) {
    let cloud = cloud().await;
    let (link, machine) = (Link::new(&cloud.api, NODE), Machine::default());
    let mut disk = Disk::new();
    let agent = Agent::on_disk(&mut disk, &link, &machine).await;
    until_ready(&cloud).await;
    create(&cloud, PODS, &pod("p0")).await;
    let mut run = Run {
        dice: Dice(seed),
        cloud,
        link,
        machine,
        agent: Some(agent),
        disk,
        restarts: BTreeMap::new(),
        events: 0,
    };
    for _ in 0..STEPS {
        run.step().await;
    }
    run.link.set(Mode::Whole);
    until(&format!("seed {seed}: both sides are alike"), || {
        run.alike()
    })
    .await;
    for (uid, starts) in run.machine.starts() {
        assert_eq!(
            starts, 1,
            "seed {seed}: pod {uid} was started more than once"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_link_does_nothing_is_lost_nothing_restarts_and_both_sides_converge() {
    // One more with EYOT_MIRROR_SEED=N.
    let given = std::env::var("EYOT_MIRROR_SEED").ok();
    let seeds = match given.and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..12,
    };
    for seed in seeds {
        run(seed).await;
    }
}
