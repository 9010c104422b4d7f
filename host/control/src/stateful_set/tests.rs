//! Plans of StatefulSets: a set with its revisions, pods and claims in; what to do and a status out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eyot_client::view::Pod;
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    core::v1::PersistentVolumeClaim,
};
use serde_json::{Value, json};

use super::{
    claims,
    identity::Member,
    plan::{Input, Plan, plan},
    status::changed,
};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn merge(into: &mut Value, patch: Value) {
    match patch {
        Value::Object(map) => {
            for (key, value) in map {
                merge(&mut into[key], value);
            }
        }
        other => *into = other,
    }
}

fn revision(name: &str, image: &str) -> ControllerRevision {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "data": { "spec": { "template": {
            "$patch": "replace",
            "metadata": { "labels": { "app": "db" } },
            "spec": {
                "containers": [{ "name": "c", "image": image }],
                "volumes": [{ "name": "data", "emptyDir": {} }, { "name": "tmp", "emptyDir": {} }],
            },
        } } },
        "revision": 1,
    }))
    .unwrap()
}

struct World {
    set: StatefulSet,
    pods: Vec<Arc<Pod>>,
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
}

impl World {
    /// A set of three with one claim each, changed as the merge patch of its spec says.
    fn new(spec: Value) -> Self {
        let mut value = json!({
            "metadata": { "name": "db", "namespace": "d", "uid": "set", "generation": 4 },
            "spec": {
                "replicas": 3, "serviceName": "peers",
                "selector": { "matchLabels": { "app": "db" } },
                "template": {},
                "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } },
                "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }],
            },
        });
        merge(&mut value["spec"], spec);
        Self {
            set: serde_json::from_value(value).unwrap(),
            pods: Vec::new(),
            claims: BTreeMap::new(),
        }
    }

    /// With these members of the revision, all working.
    fn with(mut self, revision: &str, ordinals: impl IntoIterator<Item = i32>) -> Self {
        for ordinal in ordinals {
            self.put(ordinal, revision, json!({}));
        }
        self
    }

    /// Put or replace a member's pod, changed as the merge patch says, and its claim.
    fn put(&mut self, ordinal: i32, revision: &str, patch: Value) {
        let name = format!("db-{ordinal}");
        let mut value = json!({
            "metadata": { "name": name, "namespace": "d", "uid": format!("uid-{ordinal}"),
                "labels": {
                    "controller-revision-hash": revision,
                    "statefulset.kubernetes.io/pod-name": name,
                    "apps.kubernetes.io/pod-index": ordinal.to_string(),
                } },
            "spec": { "containers": [] },
            "status": { "phase": "Running", "conditions": [
                { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" },
            ] },
        });
        merge(&mut value, patch);
        self.pods
            .retain(|pod| pod.metadata.name.as_ref() != Some(&name));
        self.pods
            .push(Arc::new(serde_json::from_value(value).unwrap()));
        for claim in claims::claims(&self.set, Member(ordinal)) {
            let name = claim.metadata.name.clone().unwrap();
            self.claims.insert(name, Arc::new(claim));
        }
    }

    fn plan(&self) -> Plan {
        let (old, new) = (revision("old", "i:1"), revision("new", "i:2"));
        plan(&Input {
            set: &self.set,
            current: &old,
            update: &new,
            pods: &self.pods,
            claims: &|name| self.claims.get(name).cloned(),
            now: now(),
        })
    }

    /// Names of the pods that are made and taken away.
    fn does(&self) -> (Vec<String>, Vec<String>) {
        let plan = self.plan();
        let made = plan
            .create
            .iter()
            .filter_map(|pod| pod.metadata.name.clone());
        let gone = plan
            .delete
            .iter()
            .filter_map(|pod| pod.metadata.name.clone());
        (made.collect(), gone.collect())
    }

    #[track_caller]
    fn check(&self, made: &[&str], gone: &[&str]) {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(self.does(), (own(made), own(gone)));
    }
}

fn unready() -> Value {
    json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } })
}

fn leaving() -> Value {
    json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:59:00Z" } })
}

#[test]
fn a_member_has_a_name_labels_a_host_name_and_its_claim() {
    let world = World::new(json!({ "ordinals": { "start": 5 } }));
    let plan = world.plan();
    let [pod] = &plan.create[..] else {
        unreachable!("{plan:?}")
    };
    let meta = &pod.metadata;
    assert_eq!(meta.name.as_deref(), Some("db-5"));
    let labels = meta.labels.as_ref().unwrap();
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "db-5");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "5");
    assert_eq!(labels["controller-revision-hash"], "new");
    assert_eq!(labels["app"], "db");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("db-5"));
    assert_eq!(spec.subdomain.as_deref(), Some("peers"));
    let volumes = json!(spec.volumes);
    assert_eq!(
        volumes,
        json!([
            { "name": "data", "persistentVolumeClaim": { "claimName": "data-db-5" } },
            { "name": "tmp", "emptyDir": {} },
        ])
    );
    let [(of, claim)] = &plan.claims[..] else {
        unreachable!("{plan:?}")
    };
    assert_eq!(
        (of.as_str(), claim.metadata.name.as_deref()),
        ("db-5", Some("data-db-5"))
    );
    assert_eq!(claim.metadata.labels.as_ref().unwrap()["app"], "db");
    assert_eq!(claim.metadata.owner_references, None);
    assert!(claims::is_of(&world.set, "data-db-5") && !claims::is_of(&world.set, "data-dbx-5"));
}

#[test]
fn only_names_of_its_own_make_a_member() {
    let set = World::new(json!({})).set;
    for (name, member) in [
        ("db-0", Some(0)),
        ("db-12", Some(12)),
        ("db-01", None),
        ("db-", None),
        ("db", None),
        ("db-x-0", None),
        ("other-0", None),
        ("db-99999999999", None),
        ("db--1", None),
    ] {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        assert_eq!(Member::of(&set, &pod), member.map(Member), "{name}");
    }
}

#[test]
fn members_come_one_after_the_other_or_all_at_once() {
    World::new(json!({})).check(&["db-0"], &[]);
    let mut world = World::new(json!({})).with("new", [0]);
    world.check(&["db-1"], &[]);
    world.put(0, "new", unready());
    world.check(&[], &[]);
    world.put(0, "new", leaving());
    world.check(&[], &[]);
    let parallel = json!({ "podManagementPolicy": "Parallel" });
    let mut world = World::new(parallel);
    world.check(&["db-0", "db-1", "db-2"], &[]);
    world.put(1, "new", unready());
    world.check(&["db-0", "db-2"], &[]);
}

#[test]
fn the_next_member_waits_for_the_last_to_be_available() {
    let mut world = World::new(json!({ "minReadySeconds": 10 })).with("new", [0]);
    world.check(&["db-1"], &[]);
    let since = json!({ "status": { "conditions": [
        { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:59:53Z" }] } });
    world.put(0, "new", since);
    world.check(&[], &[]);
    assert_eq!(world.plan().again, Some(Duration::from_secs(3)));
}

#[test]
fn a_pod_that_ended_is_taken_away_before_another_takes_its_name() {
    for phase in ["Failed", "Succeeded"] {
        let mut world = World::new(json!({})).with("new", [0, 1, 2]);
        world.put(1, "new", json!({ "status": { "phase": phase } }));
        world.check(&[], &["db-1"]);
    }
}

#[test]
fn members_go_from_the_highest_one_after_the_other_while_the_rest_works() {
    let spec = json!({ "replicas": 1 });
    let mut world = World::new(spec).with("new", 0..4);
    world.check(&[], &["db-3"]);
    world.put(3, "new", leaving());
    world.check(&[], &[]);
    // One that does not work does not keep itself, but others keep it.
    world.put(3, "new", unready());
    world.check(&[], &["db-3"]);
    world.put(2, "new", unready());
    world.check(&[], &[]);
    let parallel = json!({ "replicas": 1, "podManagementPolicy": "Parallel" });
    World::new(parallel)
        .with("new", 0..4)
        .check(&[], &["db-3", "db-2", "db-1"]);
}

#[test]
fn an_update_goes_down_from_the_highest_to_the_partition() {
    let mut world = World::new(json!({})).with("old", 0..3);
    world.check(&[], &["db-2"]);
    world.put(2, "new", unready());
    world.check(&[], &[]);
    world.put(2, "new", json!({}));
    world.check(&[], &["db-1"]);
    let partition = json!({ "updateStrategy": { "rollingUpdate": { "partition": 2 } } });
    let mut world = World::new(partition).with("old", 0..3);
    world.check(&[], &["db-2"]);
    world.put(2, "new", json!({}));
    world.check(&[], &[]);
    // What is below the partition comes back as it was.
    world
        .pods
        .retain(|pod| pod.metadata.name.as_deref() != Some("db-1"));
    let plan = world.plan();
    assert_eq!(
        plan.create[0].metadata.labels.as_ref().unwrap()["controller-revision-hash"],
        "old"
    );
    let image = plan.create[0].spec.as_ref().unwrap().containers[0]
        .image
        .clone();
    assert_eq!(image.as_deref(), Some("i:1"));
}

#[test]
fn an_update_takes_as_many_at_once_as_may_lack() {
    let most = |most: Value| {
        let rolling = json!({ "partition": 0, "maxUnavailable": most });
        json!({ "podManagementPolicy": "Parallel", "updateStrategy": { "rollingUpdate": rolling } })
    };
    World::new(most(json!(2)))
        .with("old", 0..3)
        .check(&[], &["db-2", "db-1"]);
    World::new(most(json!("34%")))
        .with("old", 0..3)
        .check(&[], &["db-2", "db-1"]);
    let mut world = World::new(most(json!(2))).with("old", 0..3);
    world.put(2, "new", unready());
    world.check(&[], &["db-1"]);
    // One that does not work costs nothing.
    world.put(2, "old", unready());
    world.check(&[], &["db-2", "db-1"]);
}

#[test]
fn on_delete_updates_what_somebody_deletes() {
    let on_delete = json!({ "updateStrategy": { "type": "OnDelete", "rollingUpdate": null } });
    let mut world = World::new(on_delete).with("old", 0..3);
    world.check(&[], &[]);
    world.pods.remove(1);
    let plan = world.plan();
    assert_eq!(
        plan.create[0].metadata.labels.as_ref().unwrap()["controller-revision-hash"],
        "new"
    );
}

#[test]
fn claims_belong_to_whom_the_policy_says() {
    let policy = |deleted: &str, scaled: &str| {
        json!({ "replicas": 1, "persistentVolumeClaimRetentionPolicy": {
            "whenDeleted": deleted, "whenScaled": scaled } })
    };
    let owners = |deleted, scaled| {
        let mut world = World::new(json!({})).with("new", 0..2);
        let spec = policy(deleted, scaled);
        let mut value = json!(world.set);
        merge(&mut value["spec"], spec);
        world.set = serde_json::from_value(value).unwrap();
        let plan = world.plan();
        let kind = |(name, patch): &(String, Value)| {
            let owners = &patch["metadata"]["ownerReferences"];
            format!("{name} {}", owners[0]["kind"].as_str().unwrap_or("-"))
        };
        plan.owners.iter().map(kind).collect::<Vec<_>>()
    };
    assert_eq!(owners("Retain", "Retain"), Vec::<String>::new());
    assert_eq!(
        owners("Delete", "Retain"),
        ["data-db-0 StatefulSet", "data-db-1 StatefulSet"]
    );
    assert_eq!(owners("Retain", "Delete"), ["data-db-1 Pod"]);
    assert_eq!(
        owners("Delete", "Delete"),
        ["data-db-0 StatefulSet", "data-db-1 Pod"]
    );
}

#[test]
fn a_claim_that_is_going_keeps_its_successor_waiting_and_a_foreign_one_stays() {
    let mut world = World::new(json!({})).with("new", [0]);
    let mut claim = (*world.claims["data-db-0"]).clone();
    world.pods.clear();
    world.check(&["db-0"], &[]);
    claim.metadata.owner_references = Some(vec![
        serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "name": "db-0", "uid": "former" }))
        .unwrap(),
    ]);
    world
        .claims
        .insert("data-db-0".into(), Arc::new(claim.clone()));
    world.check(&[], &[]);
    claim.metadata.owner_references = Some(vec![
        serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "X", "name": "x", "uid": "x", "controller": true }))
        .unwrap(),
    ]);
    world.claims.insert("data-db-0".into(), Arc::new(claim));
    world.put(0, "new", json!({}));
    assert_eq!(world.plan().owners, []);
}

#[test]
fn a_pod_that_lost_the_labels_of_its_identity_gets_them_back() {
    let mut world = World::new(json!({})).with("new", 0..3);
    world.put(
        1,
        "new",
        json!({ "metadata": { "labels": { "apps.kubernetes.io/pod-index": "7" } } }),
    );
    let labels = world.plan().labels;
    assert_eq!(labels[0].0, "db-1");
    assert_eq!(
        labels[0].1["metadata"]["labels"]["apps.kubernetes.io/pod-index"],
        "1"
    );
}

#[test]
fn the_status_counts_revisions_and_ends_an_update() {
    let mut world = World::new(json!({})).with("old", 0..2).with("new", [2]);
    let plan = world.plan();
    let patch = changed(&world.set, &plan.status).unwrap();
    assert_eq!(
        patch,
        json!({ "status": {
        "observedGeneration": 4, "replicas": 3, "readyReplicas": 3, "availableReplicas": 3,
        "currentReplicas": 2, "updatedReplicas": 1, "currentRevision": "old",
        "updateRevision": "new", "collisionCount": 0,
    } })
    );
    world.set.status = Some(serde_json::from_value(patch["status"].clone()).unwrap());
    assert_eq!(changed(&world.set, &world.plan().status), None);
    world = world.with("new", 0..2);
    let plan = world.plan();
    let status = changed(&world.set, &plan.status).unwrap()["status"].clone();
    assert_eq!(
        (&status["currentRevision"], &status["currentReplicas"]),
        (&json!("new"), &json!(3))
    );
}

#[test]
fn a_set_that_is_being_deleted_is_left_to_the_collector() {
    let mut world = World::new(json!({})).with("old", 0..2);
    let gone = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now());
    world.set.metadata.deletion_timestamp = Some(gone);
    let plan = world.plan();
    assert!(plan.is_idle());
    assert_eq!(plan.status.replicas, 2);
}
