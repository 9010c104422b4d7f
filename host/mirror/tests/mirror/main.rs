//! A node and its cloud as two API servers, and a link between them that fails in every way.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod link;
mod partitions;
mod site;

use eyot_mirror::Link as Reached;
use eyot_store::Store;
use serde_json::{Value, json};

use crate::{
    link::{Link, Mode},
    site::{Agent, Disk, Machine, NODE, PODS, Side, cloud, pod, pods, status, until},
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEVICES: &str = "/apis/eyot.dev/v1alpha1/namespaces/default/devices";
const EVENTS: &str = "/api/v1/namespaces/default/events";

fn memory() -> Store {
    Store::in_memory(eyot_apiserver::extract)
}

fn map(name: &str, word: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "data": {"word": word}})
}

async fn create(side: &Side, path: &str, object: &Value) -> Value {
    side.ask("POST", path, Some(object)).await.unwrap()
}

/// A cloud, a link to it and an agent that has found it.
async fn connected() -> (Side, Link, Machine, Agent) {
    let cloud = cloud().await;
    let (link, machine) = (Link::new(&cloud.api, NODE), Machine::default());
    let agent = Agent::start(memory(), &link, &machine).await;
    until_ready(&cloud).await;
    (cloud, link, machine, agent)
}

async fn until_ready(cloud: &Side) {
    until("the node is ready in the cloud", || async {
        let node = cloud.get(&format!("/api/v1/nodes/{NODE}")).await;
        let node = node.ok_or("no node")?;
        match node["status"]["conditions"][0]["status"] == "True" {
            true => Ok(()),
            false => Err(node.to_string()),
        }
    })
    .await;
}

async fn until_filled(agent: &Agent) {
    until("everything is here", || async {
        match *agent.filled.borrow() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    })
    .await;
}

async fn until_phase(side: &Side, name: &str, phase: &str) {
    until(&format!("pod {name} is {phase}"), || async {
        let pod = side.get(&pods(name)).await.ok_or("no pod")?;
        match pod["status"]["phase"] == phase {
            true => Ok(()),
            false => Err(pod["status"].to_string()),
        }
    })
    .await;
}

async fn until_gone(side: &Side, path: &str) {
    until(&format!("{path} is gone"), || async {
        match side.get(path).await {
            None => Ok(()),
            Some(found) => Err(found.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_and_what_it_leads_to_come_here_as_they_are_and_its_status_goes_there() {
    let (cloud, _link, machine, agent) = connected().await;
    create(&cloud, MAPS, &map("a-settings", "one")).await;
    create(&cloud, MAPS, &map("others", "secret")).await;
    let made = create(&cloud, PODS, &pod("a")).await;
    until_phase(&cloud, "a", "Running").await;
    let here = agent.side.get(&pods("a")).await.unwrap();
    for field in ["uid", "creationTimestamp", "generation", "labels"] {
        assert_eq!(here["metadata"][field], made["metadata"][field], "{field}");
    }
    assert_eq!(here["spec"], made["spec"]);
    let maps = agent.side.all(MAPS).await;
    assert_eq!(maps["a-settings"]["data"]["word"], "one");
    assert!(!maps.contains_key("others"), "it concerns nobody here");
    let changed = map("a-settings", "two");
    cloud
        .ask("PATCH", &format!("{MAPS}/a-settings"), Some(&changed))
        .await
        .unwrap();
    until("the change arrives", || async {
        let maps = agent.side.all(MAPS).await;
        match maps["a-settings"]["data"]["word"] == "two" {
            true => Ok(()),
            false => Err(maps["a-settings"].to_string()),
        }
    })
    .await;
    // The pod goes with its grace, by the node; then what only it led to goes.
    cloud.ask("DELETE", &pods("a"), None).await.unwrap();
    until_gone(&cloud, &pods("a")).await;
    until_gone(&agent.side, &pods("a")).await;
    until_gone(&agent.side, &format!("{MAPS}/a-settings")).await;
    assert_eq!(machine.starts().len(), 1);
    assert!(machine.running().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_everything_goes_on_and_both_sides_find_together_without_a_restart() {
    let (cloud, link, machine, mut agent) = connected().await;
    for name in ["stays", "goes", "ends"] {
        create(&cloud, PODS, &pod(name)).await;
        until_phase(&cloud, name, "Running").await;
    }
    link.set(Mode::Cut);
    let cut = agent.mirror.wait_for(|link| *link == Reached::CutOff);
    tokio::time::timeout(std::time::Duration::from_secs(60), cut)
        .await
        .unwrap()
        .unwrap();
    // There: one is force-deleted, one is new. Here: one finishes, with events.
    let force = json!({"gracePeriodSeconds": 0});
    cloud
        .ask("DELETE", &pods("goes"), Some(&force))
        .await
        .unwrap();
    create(&cloud, PODS, &pod("comes")).await;
    let ends = agent.side.get(&pods("ends")).await.unwrap();
    let uid = ends["metadata"]["uid"].as_str().unwrap();
    status(&agent.side, "ends", uid, &json!({"phase": "Succeeded"})).await;
    for number in 0..5 {
        let event = json!({"metadata": {"name": format!("e{number}"), "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "ends", "namespace": "default", "uid": uid},
            "reason": "Told", "message": number.to_string(), "type": "Normal"});
        agent
            .side
            .ask_as("system:node:edge-1", "POST", EVENTS, Some(&event))
            .await
            .unwrap();
    }
    // Who reads here reads everything; what is the cloud's cannot be changed here.
    assert_eq!(agent.side.all(PODS).await.len(), 3);
    let refused = agent
        .side
        .ask_as("admin", "DELETE", &pods("stays"), None)
        .await;
    assert_eq!(refused, Err(403));
    link.set(Mode::Whole);
    until_phase(&cloud, "ends", "Succeeded").await;
    until_phase(&cloud, "comes", "Running").await;
    until_gone(&agent.side, &pods("goes")).await;
    until("the events arrive", || async {
        let events = cloud.all(EVENTS).await;
        let told: Vec<_> = (0..5)
            .filter(|n| events.contains_key(&format!("e{n}")))
            .collect();
        match told.len() {
            5 => Ok(()),
            _ => Err(format!("{told:?}")),
        }
    })
    .await;
    let events = cloud.all(EVENTS).await;
    let at = |n: u32| -> u64 {
        let version = events[&format!("e{n}")]["metadata"]["resourceVersion"].as_str();
        version.unwrap().parse().unwrap()
    };
    assert!((0..4).all(|n| at(n) < at(n + 1)), "in order");
    assert!(machine.starts().values().all(|starts| *starts == 1));
    assert_eq!(machine.running(), ["comes", "stays"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebooted_while_cut_off_it_starts_from_its_file() {
    let cloud = cloud().await;
    let (link, machine) = (Link::new(&cloud.api, NODE), Machine::default());
    let mut disk = Disk::new();
    let agent = Agent::on_disk(&mut disk, &link, &machine).await;
    until_ready(&cloud).await;
    create(&cloud, MAPS, &map("a-settings", "one")).await;
    create(&cloud, PODS, &pod("a")).await;
    until_phase(&cloud, "a", "Running").await;
    until_filled(&agent).await;
    link.set(Mode::Cut);
    drop(agent);
    // A machine that was switched off runs nothing.
    let rebooted = Machine::default();
    let agent = Agent::on_disk(&mut disk, &link, &rebooted).await;
    assert!(*agent.filled.borrow(), "it was, before");
    until("the pod is started from the file", || async {
        match rebooted.running() == ["a"] {
            true => Ok(()),
            false => Err(format!("{:?}", rebooted.running())),
        }
    })
    .await;
    assert!(agent.side.all(MAPS).await.contains_key("a-settings"));
    let before = cloud.get(&pods("a")).await.unwrap();
    link.set(Mode::Whole);
    create(&cloud, PODS, &pod("b")).await;
    until_phase(&cloud, "b", "Running").await;
    let after = cloud.get(&pods("a")).await.unwrap();
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert!(rebooted.starts().values().all(|starts| *starts == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_store_is_filled_again_and_no_pod_notices() {
    let (cloud, link, machine, agent) = connected().await;
    for name in ["a", "b"] {
        create(&cloud, PODS, &pod(name)).await;
        until_phase(&cloud, name, "Running").await;
    }
    drop(agent);
    link.set(Mode::Cut);
    let mut agent = Agent::start(memory(), &link, &machine).await;
    let cut = agent.mirror.wait_for(|link| *link == Reached::CutOff);
    tokio::time::timeout(std::time::Duration::from_secs(60), cut)
        .await
        .unwrap()
        .unwrap();
    assert!(!*agent.filled.borrow(), "nobody has filled it");
    link.set(Mode::Whole);
    until_filled(&agent).await;
    until("the store is filled", || async {
        match agent.side.all(PODS).await.len() {
            2 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    until_phase(&agent.side, "a", "Running").await;
    assert!(machine.starts().values().all(|starts| *starts == 1));
    assert_eq!(machine.running(), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_of_the_same_name_waits_for_the_end_of_the_first() {
    let (cloud, link, machine, _agent) = connected().await;
    let first = create(&cloud, PODS, &pod("a")).await;
    until_phase(&cloud, "a", "Running").await;
    link.set(Mode::Cut);
    let force = json!({"gracePeriodSeconds": 0});
    cloud.ask("DELETE", &pods("a"), Some(&force)).await.unwrap();
    let second = create(&cloud, PODS, &pod("a")).await;
    link.set(Mode::Whole);
    until_phase(&cloud, "a", "Running").await;
    let starts = machine.starts();
    for made in [first, second] {
        assert_eq!(starts[made["metadata"]["uid"].as_str().unwrap()], 1);
    }
    assert_eq!(machine.running(), ["a"]);
}

fn device() -> Value {
    json!({"apiVersion": "eyot.dev/v1alpha1", "kind": "Device",
        "metadata": {"name": "pump", "namespace": "default"},
        "spec": {"serviceName": "s", "profileName": "p", "desired": {"Speed": 1}}})
}

fn speed(speed: u32) -> Value {
    json!({"spec": {"desired": {"Speed": speed}}})
}

async fn until_speed(side: &Side, speed: u32) {
    until(&format!("the speed is {speed}"), || async {
        let device = side
            .get(&format!("{DEVICES}/pump"))
            .await
            .ok_or("no device")?;
        match device["spec"]["desired"]["Speed"] == speed
            && device["metadata"]["annotations"][eyot_mirror::marks::CHANGED].is_null()
        {
            true => Ok(()),
            false => Err(device.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_changed_here_while_cut_off_is_changed_there_unless_it_was_changed_there_too() {
    let (cloud, link, _machine, agent) = connected().await;
    let path = format!("{DEVICES}/pump");
    create(&cloud, DEVICES, &device()).await;
    until_speed(&agent.side, 1).await;
    link.set(Mode::Cut);
    for turn in [2, 3] {
        let change = speed(turn);
        let done = agent.side.ask_as("admin", "PATCH", &path, Some(&change));
        done.await.unwrap();
    }
    let observed = json!({"status": {"operatingState": "UP", "last": "Speed 3"}});
    let status = format!("{path}/status");
    let done = agent.side.ask("PATCH", &status, Some(&observed));
    done.await.unwrap();
    link.set(Mode::Whole);
    until_speed(&cloud, 3).await;
    until_speed(&agent.side, 3).await;
    until("its status arrives", || async {
        let device = cloud.get(&path).await.ok_or("no device")?;
        match device["status"]["last"] == "Speed 3" {
            true => Ok(()),
            false => Err(device.to_string()),
        }
    })
    .await;
    // Both sides: the cloud's holds, and an event says so.
    link.set(Mode::Cut);
    let change = speed(7);
    let done = agent.side.ask_as("admin", "PATCH", &path, Some(&change));
    done.await.unwrap();
    cloud.ask("PATCH", &path, Some(&speed(5))).await.unwrap();
    link.set(Mode::Whole);
    until_speed(&agent.side, 5).await;
    until("an event says so in the cloud", || async {
        let events = cloud.all(EVENTS).await;
        let said = |event: &Value| event["reason"] == "Overridden";
        match events.values().any(said) {
            true => Ok(()),
            false => Err(format!("{:?}", events.keys())),
        }
    })
    .await;
    assert_eq!(
        cloud.get(&path).await.unwrap()["spec"]["desired"]["Speed"],
        5
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_made_here_runs_cut_off_and_the_cloud_is_shown_it() {
    let (cloud, link, machine, agent) = connected().await;
    link.set(Mode::Cut);
    let mut own = pod("own");
    own["spec"]["nodeName"].take();
    own["spec"]["automountServiceAccountToken"] = false.into();
    let account = json!({"metadata": {"name": "default", "namespace": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    agent
        .side
        .ask_as("admin", "POST", accounts, Some(&account))
        .await
        .unwrap();
    agent
        .side
        .ask_as("admin", "POST", PODS, Some(&own))
        .await
        .unwrap();
    until_phase(&agent.side, "own", "Running").await;
    link.set(Mode::Whole);
    let there = format!("own-{NODE}");
    until_phase(&cloud, &there, "Running").await;
    assert_eq!(agent.side.all(PODS).await.len(), 1, "it does not come back");
    agent
        .side
        .ask_as("admin", "DELETE", &pods("own"), None)
        .await
        .unwrap();
    until_gone(&cloud, &pods(&there)).await;
    assert_eq!(machine.starts().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_idle_writes_nothing() {
    let (cloud, link, _machine, _agent) = connected().await;
    create(&cloud, PODS, &pod("a")).await;
    until_phase(&cloud, "a", "Running").await;
    // A change of something else comes after whatever was still to be written.
    let before = link.writes.load(std::sync::atomic::Ordering::Relaxed);
    for turn in 0..20 {
        let labels = json!({"metadata": {"labels": {"turn": turn.to_string()}}});
        cloud.ask("PATCH", &pods("a"), Some(&labels)).await.unwrap();
    }
    create(&cloud, PODS, &pod("b")).await;
    until_phase(&cloud, "b", "Running").await;
    let after = link.writes.load(std::sync::atomic::Ordering::Relaxed);
    assert!(after - before <= 3, "{} writes", after - before);
}
