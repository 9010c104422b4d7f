//! Plans step by step, and whole roll-outs: plan, apply to a picture of the ReplicaSets, let the
//! pods of the picture become ready, and again until nothing is left to do.

use std::sync::Arc;

use eyot_client::view::Pod;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

use super::{
    conditions,
    plan::{Plan, Sets, Write, plan},
    rolling,
};

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn deployment(spec: Value) -> Deployment {
    let mut value = json!({
        "metadata": { "name": "web", "namespace": "d", "uid": "dep", "generation": 1 },
        "spec": {
            "replicas": 4,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": "i:1" }] },
            },
        },
    });
    merge(&mut value["spec"], spec);
    serde_json::from_value(value).unwrap()
}

fn merge(into: &mut Value, patch: Value) {
    match patch {
        Value::Object(map) if into.is_object() => {
            for (key, value) in map {
                merge(&mut into[key], value);
            }
        }
        other => *into = other,
    }
}

fn image(deployment: &mut Deployment, image: &str) {
    let template = &mut deployment.spec.as_mut().unwrap().template;
    template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
    *deployment.metadata.generation.get_or_insert_default() += 1;
}

/// A picture of a cluster with one Deployment.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    now: Timestamp,
    /// Pods of these images never become ready.
    broken: Vec<&'static str>,
    /// The fewest available and the most pods that were ever seen.
    fewest: i32,
    most: i32,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        let (sets, broken) = (Vec::new(), Vec::new());
        Self {
            deployment,
            sets,
            now: now(),
            broken,
            fewest: i32::MAX,
            most: 0,
        }
    }

    fn plan(&self) -> Plan {
        let sets: Vec<_> = self.sets.iter().cloned().map(Arc::new).collect();
        plan(&self.deployment, &sets, &self.pods(), self.now)
    }

    /// As many pods of each set as its status says.
    fn pods(&self) -> Vec<Arc<Pod>> {
        let of = |set: &ReplicaSet| {
            let owner = crate::owner::reference(set);
            let count = set.status.as_ref().map_or(0, |status| status.replicas);
            let mut pod = Pod::default();
            pod.metadata.owner_references = Some(vec![owner]);
            std::iter::repeat_n(Arc::new(pod), usize::try_from(count).unwrap()).collect::<Vec<_>>()
        };
        self.sets.iter().flat_map(of).collect()
    }

    fn apply(&mut self, plan: Plan) {
        for write in plan.writes {
            match write {
                Write::Create(set) => {
                    let mut set = *set;
                    let uid = format!("uid-{}", set.metadata.name.clone().unwrap());
                    assert!(
                        self.sets
                            .iter()
                            .all(|s| s.metadata.name != set.metadata.name)
                    );
                    set.metadata.uid = Some(uid);
                    set.metadata.creation_timestamp = Some(Time(self.now));
                    set.metadata.generation = Some(1);
                    self.sets.push(set);
                }
                Write::Scale { set, patch, .. } | Write::Set { set, patch } => {
                    let at = self.index(&set);
                    let mut value = serde_json::to_value(&self.sets[at]).unwrap();
                    merge(&mut value, patch);
                    self.sets[at] = serde_json::from_value(value).unwrap();
                }
                Write::Delete { set } => {
                    let at = self.index(&set);
                    self.sets.remove(at);
                }
                Write::Annotate(patch) | Write::Status(patch) => {
                    let mut value = serde_json::to_value(&self.deployment).unwrap();
                    merge(&mut value, patch);
                    self.deployment = serde_json::from_value(value).unwrap();
                }
            }
        }
    }

    fn index(&self, name: &str) -> usize {
        let named = |set: &ReplicaSet| set.metadata.name.as_deref() == Some(name);
        self.sets.iter().position(named).unwrap()
    }

    /// Let every ReplicaSet have the pods that it asks for.
    fn settle(&mut self) {
        for set in &mut self.sets {
            let spec = set.spec.as_ref().unwrap();
            let count = spec.replicas.unwrap();
            let template = spec.template.as_ref().unwrap();
            let image = template.spec.as_ref().unwrap().containers[0]
                .image
                .clone()
                .unwrap();
            let works = if self.broken.contains(&image.as_str()) {
                0
            } else {
                count
            };
            set.status = Some(ReplicaSetStatus {
                replicas: count,
                ready_replicas: Some(works),
                available_replicas: Some(works),
                observed_generation: set.metadata.generation,
                ..ReplicaSetStatus::default()
            });
        }
        let sum = |field: fn(&ReplicaSetStatus) -> i32| -> i32 {
            self.sets
                .iter()
                .filter_map(|set| set.status.as_ref())
                .map(field)
                .sum()
        };
        self.fewest = self
            .fewest
            .min(sum(|status| status.available_replicas.unwrap_or(0)));
        self.most = self.most.max(sum(|status| status.replicas));
    }

    /// Steps until nothing is left to do.
    fn run(&mut self) {
        for _ in 0..100 {
            let plan = self.plan();
            if plan.writes.is_empty() {
                return;
            }
            self.apply(plan);
            self.settle();
            self.now += SignedDuration::from_secs(1);
        }
        unreachable!("no end: {:?}", self.plan());
    }

    fn rolled_out(deployment: Deployment) -> Self {
        let mut world = Self::new(deployment);
        world.run();
        (world.fewest, world.most) = (i32::MAX, 0);
        world
    }

    /// Image and size of each ReplicaSet, oldest first.
    fn sizes(&self) -> Vec<(String, i32)> {
        let of = |set: &ReplicaSet| {
            let spec = set.spec.as_ref().unwrap();
            let template = spec.template.as_ref().unwrap().spec.as_ref().unwrap();
            (
                template.containers[0].image.clone().unwrap(),
                spec.replicas.unwrap(),
            )
        };
        self.sets.iter().map(of).collect()
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let conditions = self
            .deployment
            .status
            .as_ref()
            .unwrap()
            .conditions
            .as_ref()
            .unwrap();
        let found = conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .unwrap();
        (found.status.clone(), found.reason.clone().unwrap())
    }

    fn revision(&self) -> &str {
        &self.deployment.metadata.annotations.as_ref().unwrap()[super::revision::REVISION]
    }
}

fn pairs(sizes: &[(&str, i32)]) -> Vec<(String, i32)> {
    sizes
        .iter()
        .map(|(image, size)| ((*image).to_owned(), *size))
        .collect()
}

fn is(world: &World, kind: &str, status: &str, reason: &str) {
    assert_eq!(
        world.condition(kind),
        (status.to_owned(), reason.to_owned())
    );
}

#[test]
fn a_new_deployment_makes_one_replica_set_that_carries_the_hash() {
    let plan = World::new(deployment(json!({}))).plan();
    let Write::Create(set) = &plan.writes[0] else {
        unreachable!("{plan:?}")
    };
    let spec = set.spec.as_ref().unwrap();
    let hash = &set.metadata.labels.as_ref().unwrap()["pod-template-hash"];
    assert_eq!(
        set.metadata.name.as_deref(),
        Some(format!("web-{hash}").as_str())
    );
    assert_eq!(
        &spec.selector.match_labels.as_ref().unwrap()["pod-template-hash"],
        hash
    );
    assert_eq!(spec.selector.match_labels.as_ref().unwrap()["app"], "web");
    let template = spec.template.as_ref().unwrap().metadata.as_ref().unwrap();
    assert_eq!(
        &template.labels.as_ref().unwrap()["pod-template-hash"],
        hash
    );
    assert_eq!(spec.replicas, Some(4));
    assert_eq!(
        set.metadata.owner_references.as_ref().unwrap()[0].uid,
        "dep"
    );
}

#[test]
fn a_finished_roll_out_says_so_in_the_words_that_clients_wait_for() {
    let world = World::rolled_out(deployment(json!({})));
    let status = world.deployment.status.as_ref().unwrap();
    assert_eq!(status.observed_generation, Some(1));
    let counts = [
        status.replicas,
        status.updated_replicas,
        status.available_replicas,
    ];
    assert_eq!(counts, [Some(4); 3]);
    assert_eq!(status.unavailable_replicas, None);
    is(&world, "Available", "True", "MinimumReplicasAvailable");
    is(&world, "Progressing", "True", "NewReplicaSetAvailable");
    assert_eq!(world.revision(), "1");
    assert_eq!(world.plan(), Plan::default());
}

#[test]
fn a_rolling_update_keeps_within_surge_and_unavailability() {
    for (surge, lack, fewest, most) in [
        (json!("25%"), json!("25%"), 3, 5),
        (json!(1), json!(0), 4, 5),
        (json!(0), json!(1), 3, 4),
        (json!("100%"), json!(0), 4, 8),
        (json!("10%"), json!("10%"), 4, 5),
        (json!("0%"), json!("10%"), 3, 4),
    ] {
        let rolling = json!({ "maxSurge": surge, "maxUnavailable": lack });
        let spec = json!({ "strategy": { "type": "RollingUpdate", "rollingUpdate": rolling } });
        let mut world = World::rolled_out(deployment(spec));
        image(&mut world.deployment, "i:2");
        world.run();
        assert_eq!(
            world.sizes(),
            pairs(&[("i:1", 0), ("i:2", 4)]),
            "{surge} {lack}"
        );
        assert!(
            world.fewest >= fewest,
            "{surge} {lack}: {} available",
            world.fewest
        );
        assert!(world.most <= most, "{surge} {lack}: {} pods", world.most);
        assert_eq!(world.revision(), "2");
        is(&world, "Progressing", "True", "NewReplicaSetAvailable");
    }
}

#[test]
fn a_broken_template_stops_the_roll_out_and_passes_its_deadline() {
    let mut world = World::rolled_out(deployment(json!({ "progressDeadlineSeconds": 60 })));
    world.broken = vec!["i:2"];
    image(&mut world.deployment, "i:2");
    world.run();
    assert_eq!(world.sizes(), pairs(&[("i:1", 3), ("i:2", 2)]));
    is(&world, "Available", "True", "MinimumReplicasAvailable");
    is(&world, "Progressing", "True", "ReplicaSetUpdated");
    let wait = world.plan().again.unwrap();
    assert!(wait.as_secs() <= 61, "{wait:?}");
    world.now += SignedDuration::try_from(wait).unwrap();
    world.run();
    is(&world, "Progressing", "False", "ProgressDeadlineExceeded");
    assert_eq!(world.plan(), Plan::default());
    // And a template that works replaces both.
    image(&mut world.deployment, "i:3");
    world.run();
    assert_eq!(world.sizes(), pairs(&[("i:1", 0), ("i:2", 0), ("i:3", 4)]));
    is(&world, "Progressing", "True", "NewReplicaSetAvailable");
}

#[test]
fn too_few_available_pods_are_told() {
    let mut world = World::new(deployment(json!({})));
    world.broken = vec!["i:1"];
    world.run();
    is(&world, "Available", "False", "MinimumReplicasUnavailable");
    let status = world.deployment.status.as_ref().unwrap();
    assert_eq!(status.unavailable_replicas, Some(4));
}

#[test]
fn going_back_reuses_the_replica_set_under_a_new_revision() {
    let mut world = World::rolled_out(deployment(json!({})));
    image(&mut world.deployment, "i:2");
    world.run();
    image(&mut world.deployment, "i:1");
    world.run();
    assert_eq!(world.sizes(), pairs(&[("i:1", 4), ("i:2", 0)]));
    assert_eq!(world.revision(), "3");
    let annotations = world.sets[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(
        annotations["deployment.kubernetes.io/revision-history"],
        "1"
    );
}

#[test]
fn recreate_starts_nothing_before_the_old_pods_are_gone() {
    let spec = json!({ "strategy": { "type": "Recreate" } });
    let mut world = World::rolled_out(deployment(spec));
    image(&mut world.deployment, "i:2");
    world.run();
    assert_eq!(world.sizes(), pairs(&[("i:1", 0), ("i:2", 4)]));
    assert_eq!((world.fewest, world.most), (0, 4));
    is(&world, "Progressing", "True", "NewReplicaSetAvailable");
}

#[test]
fn scaling_a_settled_deployment_scales_its_replica_set() {
    let mut world = World::rolled_out(deployment(json!({})));
    for size in [7, 0, 2] {
        world.deployment.spec.as_mut().unwrap().replicas = Some(size);
        world.run();
        assert_eq!(world.sizes(), pairs(&[("i:1", size)]));
    }
}

#[test]
fn scaling_in_the_middle_of_a_roll_out_is_spread_by_size() {
    let mut world = World::rolled_out(deployment(json!({ "replicas": 8 })));
    world.broken = vec!["i:2"];
    image(&mut world.deployment, "i:2");
    world.run();
    assert_eq!(world.sizes(), pairs(&[("i:1", 6), ("i:2", 4)]));
    world.deployment.spec.as_mut().unwrap().replicas = Some(16);
    let plan = world.plan();
    world.apply(plan);
    assert_eq!(world.sizes(), pairs(&[("i:1", 12), ("i:2", 8)]));
    world.settle();
    world.broken = vec![];
    world.settle();
    world.run();
    assert_eq!(world.sizes(), pairs(&[("i:1", 0), ("i:2", 16)]));
}

/// The sizes of the current ReplicaSet and of the old ones, oldest first, after `proportional`. Each
/// was last scaled for `before` replicas and at most `most` pods.
#[track_caller]
fn spread(deployment: &Deployment, (before, most): (i32, i32), sizes: &[i32], expected: &[i32]) {
    let set = |(index, size): (usize, &i32)| -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": { "name": index.to_string(), "annotations": {
                "deployment.kubernetes.io/desired-replicas": before.to_string(),
                "deployment.kubernetes.io/max-replicas": most.to_string(),
            }},
            "spec": { "replicas": size, "selector": {} },
            "status": { "replicas": size, "availableReplicas": size },
        }))
        .unwrap()
    };
    let all: Vec<ReplicaSet> = sizes.iter().enumerate().map(set).collect();
    let sets = Sets {
        new: all.first(),
        old: all.iter().skip(1).collect(),
    };
    let mut found = sizes.to_vec();
    for write in rolling::proportional(deployment, &sets) {
        let Write::Scale { set, to, .. } = write else {
            unreachable!("{write:?}")
        };
        found[set.parse::<usize>().unwrap()] = to;
    }
    assert_eq!(found, expected);
}

/// The cases of upstream's `TestScale`.
#[test]
fn a_change_of_size_is_spread_as_upstream_spreads_it() {
    let plain = |replicas: i32| {
        let rolling = json!({ "maxSurge": 0, "maxUnavailable": 1 });
        deployment(json!({ "replicas": replicas, "strategy": { "rollingUpdate": rolling } }))
    };
    let surging = |replicas: i32, surge: i32| {
        let rolling = json!({ "maxSurge": surge, "maxUnavailable": 0 });
        deployment(json!({ "replicas": replicas, "strategy": { "rollingUpdate": rolling } }))
    };
    spread(&plain(12), (10, 10), &[10], &[12]);
    spread(&plain(5), (10, 10), &[10], &[5]);
    spread(&plain(12), (10, 10), &[5, 5], &[6, 6]);
    spread(&plain(5), (10, 10), &[5, 5], &[3, 2]);
    spread(&plain(16), (4, 4), &[2, 1, 1], &[8, 4, 4]);
    spread(&plain(0), (10, 10), &[3, 3, 4], &[0, 0, 0]);
    spread(&surging(20, 2), (10, 12), &[6, 6], &[11, 11]);
    spread(&surging(50, 6), (10, 13), &[5, 8], &[22, 34]);
    // The current one has all there should be: nothing is left to the others.
    spread(&plain(10), (10, 10), &[10, 5, 5], &[10, 0, 0]);
    spread(&plain(5), (10, 10), &[0, 10], &[0, 5]);
}

#[test]
fn a_paused_deployment_forgets_what_is_beyond_its_history() {
    let mut world = World::rolled_out(deployment(json!({ "revisionHistoryLimit": 3 })));
    for version in 2..=3 {
        image(&mut world.deployment, &format!("i:{version}"));
        world.run();
    }
    let spec = world.deployment.spec.as_mut().unwrap();
    (spec.paused, spec.revision_history_limit) = (Some(true), Some(0));
    world.run();
    assert_eq!(world.sizes(), pairs(&[("i:3", 4)]));
}

#[test]
fn a_replica_set_that_cannot_be_made_is_a_condition() {
    let mut world = World::new(deployment(json!({})));
    let message = "Failed to create new replica set \"web-1\": exceeded quota";
    let said = conditions::not_created(&world.deployment, message, world.now).unwrap();
    let [one] = said.as_slice() else {
        unreachable!("{said:?}")
    };
    assert_eq!(
        (
            one.type_.as_str(),
            one.status.as_str(),
            one.reason.as_deref(),
            one.message.as_deref()
        ),
        (
            "Progressing",
            "False",
            Some("ReplicaSetCreateError"),
            Some(message)
        )
    );
    // Said once, and gone once it could be made.
    world.deployment.status.get_or_insert_default().conditions = Some(said.clone());
    let later = world.now + SignedDuration::from_secs(9);
    assert_eq!(
        conditions::not_created(&world.deployment, message, later),
        Some(said)
    );
    world.run();
    is(&world, "Progressing", "True", "NewReplicaSetAvailable");
    let endless = deployment(json!({ "progressDeadlineSeconds": i32::MAX }));
    assert_eq!(conditions::not_created(&endless, message, later), None);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll_out() {
    let mut world = World::rolled_out(deployment(json!({})));
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    image(&mut world.deployment, "i:2");
    world.deployment.spec.as_mut().unwrap().replicas = Some(6);
    world.run();
    assert_eq!(world.sizes(), pairs(&[("i:1", 6)]));
    is(&world, "Progressing", "Unknown", "DeploymentPaused");
    world.deployment.spec.as_mut().unwrap().paused = None;
    world.run();
    assert_eq!(world.sizes(), pairs(&[("i:1", 0), ("i:2", 6)]));
    is(&world, "Progressing", "True", "NewReplicaSetAvailable");
}

#[test]
fn history_is_kept_up_to_its_limit_oldest_first_out() {
    let mut world = World::rolled_out(deployment(json!({ "revisionHistoryLimit": 2 })));
    for version in 2..=5 {
        image(&mut world.deployment, &format!("i:{version}"));
        world.run();
    }
    assert_eq!(world.sizes(), pairs(&[("i:3", 0), ("i:4", 0), ("i:5", 4)]));
    assert_eq!(world.revision(), "5");
}

#[test]
fn a_taken_name_is_avoided_by_counting_the_collision() {
    let mut world = World::new(deployment(json!({})));
    let Write::Create(mut foreign) = world.plan().writes.remove(0) else {
        unreachable!()
    };
    foreign.metadata.owner_references = None;
    foreign.metadata.labels = None;
    foreign.metadata.uid = Some("foreign".into());
    foreign.spec.as_mut().unwrap().replicas = Some(0);
    world.sets.push(*foreign);
    world.run();
    assert_eq!(
        world.deployment.status.as_ref().unwrap().collision_count,
        Some(1)
    );
    assert_eq!(world.sizes(), pairs(&[("i:1", 0), ("i:1", 4)]));
}

#[test]
fn replica_sets_that_were_left_behind_are_adopted() {
    let mut world = World::rolled_out(deployment(json!({})));
    world.sets[0].metadata.owner_references = None;
    world.run();
    assert_eq!(world.sets.len(), 1);
    let owners = world.sets[0].metadata.owner_references.as_ref().unwrap();
    assert_eq!((owners.len(), owners[0].uid.as_str()), (1, "dep"));
}

#[test]
fn a_deployment_that_is_being_deleted_is_left_to_the_collector() {
    let mut world = World::rolled_out(deployment(json!({})));
    world.deployment.metadata.deletion_timestamp = Some(Time(now()));
    image(&mut world.deployment, "i:2");
    let plan = world.plan();
    assert!(
        plan.writes
            .iter()
            .all(|write| matches!(write, Write::Status(_))),
        "{plan:?}"
    );
}
