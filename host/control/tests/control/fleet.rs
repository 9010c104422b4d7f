//! Groups of nodes, and applications for them.

use eyot_api::{EdgeApplication, NODE_GROUP_LABEL, NodeGroup};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use super::*;

impl World {
    async fn know_the_kinds(&self) {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for definition in eyot_api::crds() {
            definitions
                .create(&PostParams::default(), &definition)
                .await
                .unwrap();
        }
    }

    async fn member(&self, name: &str, labels: Value) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = typed(json!({"metadata": {"name": name, "labels": labels}}));
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({"status": {
            "allocatable": {"cpu": "8", "memory": "1Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let params = PatchParams::default();
        let patch = Patch::Merge(status);
        nodes.patch_status(name, &params, &patch).await.unwrap();
    }

    async fn group(&self, name: &str, spec: Value) {
        let groups: Api<NodeGroup> = Api::all(self.client.clone());
        let group = typed(json!({
            "apiVersion": "eyot.dev/v1alpha1", "kind": "NodeGroup", "metadata": {"name": name},
            "spec": spec,
        }));
        let made = async || groups.create(&PostParams::default(), &group).await.ok();
        until("the kind is served", made).await;
    }

    async fn is_in(&self, node: &str, group: Option<&str>) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        until(&format!("{node} is in {group:?}"), || async {
            let node = nodes.get(node).await.unwrap();
            let label = node.labels().get(NODE_GROUP_LABEL).map(String::as_str);
            (label == group).then_some(())
        })
        .await;
    }

    /// Names of the nodes that the ready pods of a Deployment are on.
    async fn places(&self, deployment: &str) -> Vec<String> {
        let pods = self
            .api::<Pod>()
            .list(&ListParams::default())
            .await
            .unwrap();
        let mut places: Vec<String> = pods
            .iter()
            .filter(|pod| pod.name_any().starts_with(&format!("{deployment}-")))
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .filter_map(|pod| pod.spec.as_ref()?.node_name.clone())
            .collect();
        places.sort();
        places
    }
}

fn application(groups: Value) -> Value {
    let web = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "shop/web:v1"}]},
            },
        },
    });
    json!({
        "apiVersion": "eyot.dev/v1alpha1", "kind": "EdgeApplication", "metadata": {"name": "shop"},
        "spec": {
            "workloadTemplate": {"manifests": [
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}},
                web,
            ]},
            "workloadScope": {"targetNodeGroups": groups},
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_is_where_its_groups_are_and_different_in_each() {
    let world = start().await;
    world.know_the_kinds().await;
    world.member("n1", json!({})).await;
    world.member("n2", json!({"site": "s"})).await;
    world.member("n3", json!({})).await;
    world.kubelet("never");
    world
        .group("north", json!({"nodes": ["n1", "later"]}))
        .await;
    world
        .group("south", json!({"matchLabels": {"site": "s"}}))
        .await;
    world.is_in("n1", Some("north")).await;
    world.is_in("n2", Some("south")).await;
    let groups: Api<NodeGroup> = Api::all(world.client.clone());
    until("the group is told of its nodes", || async {
        let status = groups.get("north").await.unwrap().status?;
        let status = serde_json::to_value(status.node_statuses).unwrap();
        let ready =
            json!({"nodeName": "n1", "readyStatus": "Ready", "selectionStatus": "Succeeded"});
        (status[0]["nodeName"] == "later" && status[1] == ready).then_some(())
    })
    .await;

    let applications: Api<EdgeApplication> = world.api();
    let north = json!({"name": "north", "overriders": {"replicas": 2, "imageOverriders": [
        {"component": "Registry", "operator": "add", "value": "north.example"},
    ]}});
    let both = application(json!([north, {"name": "south"}]));
    let made = async || {
        let params = PostParams::default();
        applications
            .create(&params, &typed(both.clone()))
            .await
            .ok()
    };
    until("the kind is served", made).await;
    until("all that is asked for is there", || async {
        let status = applications.get("shop").await.unwrap().status?;
        let names: Vec<String> = status
            .workload_status
            .iter()
            .map(|one| format!("{} {:?}", one.identifier.name, one.conditions))
            .collect();
        (names
            == [
                "settings Available",
                "web-north Available",
                "web-south Available",
            ])
        .then_some(())
    })
    .await;
    assert_eq!(world.places("web-north").await, ["n1", "n1"]);
    assert_eq!(world.places("web-south").await, ["n2"]);
    let deployments: Api<Deployment> = world.api();
    let image = |deployment: Deployment| {
        let spec = deployment.spec.unwrap().template.spec.unwrap();
        spec.containers[0].image.clone().unwrap()
    };
    let found = deployments.get("web-north").await.unwrap();
    assert_eq!(image(found), "north.example/shop/web:v1");
    let found = deployments.get("web-south").await.unwrap();
    assert_eq!(image(found), "shop/web:v1");

    // A node that leaves its group is left by the group's pods.
    let moved = Patch::Merge(json!({"spec": {"nodes": ["n3"]}}));
    groups
        .patch("north", &PatchParams::default(), &moved)
        .await
        .unwrap();
    world.is_in("n1", None).await;
    world.is_in("n3", Some("north")).await;
    until("the pods are where the group is", || async {
        (world.places("web-north").await == ["n3", "n3"]).then_some(())
    })
    .await;

    // A group that is not meant any more loses what was made for it, and nothing else is touched.
    let uid = async |name: &str| deployments.get(name).await.unwrap().metadata.uid;
    let before = uid("web-north").await;
    let one = application(json!([north]));
    let params = PatchParams::apply("test").force();
    applications
        .patch("shop", &params, &Patch::Apply(&one))
        .await
        .unwrap();
    until("web-south goes", || async {
        deployments
            .get_opt("web-south")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    assert_eq!(uid("web-north").await, before);

    // With the application goes all.
    applications
        .delete("shop", &DeleteParams::default())
        .await
        .unwrap();
    let settings: Api<ConfigMap> = world.api();
    until("the Deployment goes", || async {
        let left = deployments.get_opt("web-north").await.unwrap();
        left.is_none().then_some(())
    })
    .await;
    until("the ConfigMap goes", || async {
        let left = settings.get_opt("settings").await.unwrap();
        left.is_none().then_some(())
    })
    .await;
    // And with the group its label.
    groups
        .delete("south", &DeleteParams::default())
        .await
        .unwrap();
    world.is_in("n2", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_application_may_not_make_is_told_and_not_made() {
    let world = start().await;
    world.know_the_kinds().await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "mine"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
    });
    let wrong = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"ports": [{"port": 70_000}]},
    });
    let right = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}});
    let application = json!({
        "apiVersion": "eyot.dev/v1alpha1", "kind": "EdgeApplication", "metadata": {"name": "greedy"},
        "spec": {
            "workloadTemplate": {"manifests": [binding, wrong, right]},
            "workloadScope": {},
        },
    });
    let applications: Api<EdgeApplication> = world.api();
    let made = async || {
        let params = PostParams::default();
        applications
            .create(&params, &typed(application.clone()))
            .await
            .ok()
    };
    until("the kind is served", made).await;
    let told = until("the status tells of each", || async {
        let status = applications.get("greedy").await.unwrap().status?;
        let told: Vec<String> = status
            .workload_status
            .into_iter()
            .map(|one| one.message.unwrap_or_default())
            .collect();
        (told.len() == 3).then_some(told)
    })
    .await;
    assert!(told[0].contains("no \"RoleBinding\""), "{}", told[0]);
    assert!(
        told[1].contains("must be between 1 and 65535"),
        "{}",
        told[1]
    );
    assert_eq!(told[2], "");
    world.comes_to_rest().await;
}
