//! Claims, volumes and the pods that want them; nobody mounts anything here.

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};

use super::*;

impl World {
    async fn class(&self, name: &str, provisioner: &str, mode: &str) {
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        let class = typed(json!({
            "metadata": { "name": name }, "provisioner": provisioner, "volumeBindingMode": mode,
        }));
        classes
            .create(&PostParams::default(), &class)
            .await
            .unwrap();
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    pub(super) async fn volume(&self, name: &str, spec: Value) {
        let mut volume = json!({ "metadata": { "name": name }, "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "2Gi" },
            "hostPath": { "path": "/tmp/none" },
        } });
        let spec = spec.as_object().unwrap().clone();
        volume["spec"].as_object_mut().unwrap().extend(spec);
        let volume = typed(volume);
        self.volumes()
            .create(&PostParams::default(), &volume)
            .await
            .unwrap();
    }

    async fn claim(&self, name: &str, spec: Value) {
        let mut claim = json!({ "metadata": { "name": name }, "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } },
        } });
        let spec = spec.as_object().unwrap().clone();
        claim["spec"].as_object_mut().unwrap().extend(spec);
        let claims: Api<PersistentVolumeClaim> = self.api();
        claims
            .create(&PostParams::default(), &typed(claim))
            .await
            .unwrap();
    }

    async fn user(&self, name: &str, claim: &str) {
        let pods: Api<Pod> = self.api();
        let pod = typed(json!({ "metadata": { "name": name }, "spec": {
            "containers": [{ "name": "c", "image": "i" }],
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }],
        } }));
        pods.create(&PostParams::default(), &pod).await.unwrap();
    }

    async fn claim_phase(&self, name: &str, phase: &str) -> PersistentVolumeClaim {
        let claims: Api<PersistentVolumeClaim> = self.api();
        until(&format!("claim {name} is {phase}"), || async {
            let claim = claims.get_opt(name).await.unwrap()?;
            (claim.status.as_ref()?.phase.as_deref() == Some(phase)).then_some(claim)
        })
        .await
    }

    async fn volume_phase(&self, name: &str, phase: &str) -> PersistentVolume {
        until(&format!("volume {name} is {phase}"), || async {
            let volume = self.volumes().get_opt(name).await.unwrap()?;
            (volume.status.as_ref()?.phase.as_deref() == Some(phase)).then_some(volume)
        })
        .await
    }

    async fn runs(&self, name: &str) {
        let pods: Api<Pod> = self.api();
        until(&format!("pod {name} has a node"), || async {
            pods.get(name).await.unwrap().spec?.node_name
        })
        .await;
    }

    /// Until the pod is told this.
    async fn is_told(&self, name: &str, why: &str) {
        let pods: Api<Pod> = self.api();
        until(&format!("pod {name} is told {why:?}"), || async {
            let conditions = pods.get(name).await.unwrap().status?.conditions?;
            let mut said = conditions.iter().filter_map(|c| c.message.clone());
            said.find(|message| message.contains(why))
        })
        .await;
    }
}

#[tokio::test]
async fn a_claim_gets_a_volume_and_the_volume_outlives_it() {
    let world = start().await;
    world.volume("v", json!({ "storageClassName": "" })).await;
    world.volume_phase("v", "Available").await;
    world.claim("c", json!({ "storageClassName": "" })).await;
    let claim = world.claim_phase("c", "Bound").await;
    assert_eq!(claim.spec.unwrap().volume_name.as_deref(), Some("v"));
    let capacity = claim.status.unwrap().capacity.unwrap();
    assert_eq!(capacity["storage"].0, "2Gi");
    let volume = world.volume_phase("v", "Bound").await;
    let held = volume.spec.unwrap().claim_ref.unwrap();
    assert_eq!(held.uid, claim.metadata.uid);
    let claims: Api<PersistentVolumeClaim> = world.api();
    claims.delete("c", &DeleteParams::default()).await.unwrap();
    world.volume_phase("v", "Released").await;
    // Whoever comes next does not get what the last one wrote.
    world.claim("c", json!({ "storageClassName": "" })).await;
    until("the successor is told", || async {
        let events: Api<Event> = world.api();
        let all = events.list(&ListParams::default()).await.unwrap();
        all.into_iter().find(|event| {
            event.message.as_deref()
                == Some(
                    "no persistent volumes available for this claim and no storage class is set",
                )
        })
    })
    .await;
    world.claim_phase("c", "Pending").await;
}

#[tokio::test]
async fn a_lost_volume_and_one_that_nobody_deletes_are_told() {
    let world = start().await;
    let delete = json!({ "storageClassName": "", "persistentVolumeReclaimPolicy": "Delete" });
    world.volume("v", delete).await;
    world
        .claim("c", json!({ "storageClassName": "", "volumeName": "v" }))
        .await;
    world.claim_phase("c", "Bound").await;
    let claims: Api<PersistentVolumeClaim> = world.api();
    claims.delete("c", &DeleteParams::default()).await.unwrap();
    let failed = world.volume_phase("v", "Failed").await;
    let said = failed.status.unwrap().message.unwrap();
    assert!(
        said.ends_with("no deletable volume plugin matched"),
        "{said}"
    );
    world.volume("w", json!({ "storageClassName": "" })).await;
    world.claim("d", json!({ "storageClassName": "" })).await;
    world.claim_phase("d", "Bound").await;
    let volumes = world.volumes();
    volumes.delete("w", &DeleteParams::default()).await.unwrap();
    // Force it away although it is bound.
    let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    let _ = volumes.patch("w", &PatchParams::default(), &patch).await;
    world.claim_phase("d", "Lost").await;
    world.node("2").await;
    world.user("p", "d").await;
    let said = "persistentvolumeclaim \"d\" bound to non-existent persistentvolume \"w\"";
    world.is_told("p", said).await;
}

#[tokio::test]
async fn a_claim_that_waits_is_bound_to_what_its_pods_node_reaches() {
    let world = start().await;
    world.node("2").await;
    world
        .class(
            "local",
            "kubernetes.io/no-provisioner",
            "WaitForFirstConsumer",
        )
        .await;
    world
        .claim("c", json!({ "storageClassName": "local" }))
        .await;
    world.user("p", "c").await;
    world
        .is_told(
            "p",
            "1 node(s) didn't find available persistent volumes to bind",
        )
        .await;
    let on = |node: &str| {
        json!({ "storageClassName": "local", "nodeAffinity": { "required": {
        "nodeSelectorTerms": [{ "matchFields": [
            { "key": "metadata.name", "operator": "In", "values": [node] }] }],
    } } })
    };
    world.volume("far", on("elsewhere")).await;
    world.volume_phase("far", "Available").await;
    world.volume("near", on("n")).await;
    world.runs("p").await;
    let claim = world.claim_phase("c", "Bound").await;
    assert_eq!(claim.spec.unwrap().volume_name.as_deref(), Some("near"));
    world
        .claim(
            "d",
            json!({ "storageClassName": "local", "volumeName": "far" }),
        )
        .await;
    world.claim_phase("d", "Bound").await;
    world.user("q", "d").await;
    world
        .is_told(
            "q",
            "1 node(s) didn't match PersistentVolume's node affinity",
        )
        .await;
    world.user("r", "none").await;
    world
        .is_told("r", "persistentvolumeclaim \"none\" not found")
        .await;
}

#[tokio::test]
async fn a_volume_is_made_for_the_node_that_was_chosen() {
    let world = start().await;
    world.node("2").await;
    world.class("made", "x.dev/y", "WaitForFirstConsumer").await;
    world
        .claim("c", json!({ "storageClassName": "made" }))
        .await;
    let claims: Api<PersistentVolumeClaim> = world.api();
    world.user("p", "c").await;
    let claim = until("the provisioner is asked", || async {
        let claim = claims.get("c").await.unwrap();
        let notes = claim.metadata.annotations.clone()?;
        let asked = notes.get("volume.kubernetes.io/storage-provisioner")? == "x.dev/y";
        (asked && notes.get("volume.kubernetes.io/selected-node")? == "n").then_some(claim)
    })
    .await;
    // Play the provisioner.
    let held = json!({ "kind": "PersistentVolumeClaim", "apiVersion": "v1", "name": "c",
                       "namespace": "default", "uid": claim.metadata.uid });
    world
        .volume(
            "pvc-1",
            json!({ "storageClassName": "made", "claimRef": held }),
        )
        .await;
    world.runs("p").await;
    world.claim_phase("c", "Bound").await;
    world.volume_phase("pvc-1", "Bound").await;
}

#[tokio::test]
async fn a_claim_for_one_pod_goes_to_one_pod_at_a_time() {
    let world = start().await;
    world.node("2").await;
    let single = json!({ "storageClassName": "", "accessModes": ["ReadWriteOncePod"] });
    world.volume("v", single.clone()).await;
    world.claim("c", single).await;
    world.claim_phase("c", "Bound").await;
    world.user("p", "c").await;
    world.runs("p").await;
    world.user("q", "c").await;
    let said = "node has pod using PersistentVolumeClaim with the same name and \
                ReadWriteOncePod access mode";
    world.is_told("q", said).await;
    let pods: Api<Pod> = world.api();
    let now = DeleteParams::default().grace_period(0);
    pods.delete("p", &now).await.unwrap();
    world.runs("q").await;
}

#[tokio::test]
async fn an_ephemeral_volume_has_a_claim_of_its_own() {
    let world = start().await;
    world.node("2").await;
    let pods: Api<Pod> = world.api();
    world.volume("v", json!({ "storageClassName": "" })).await;
    let pod = typed(json!({ "metadata": { "name": "p" }, "spec": {
        "containers": [{ "name": "c", "image": "i" }],
        "volumes": [{ "name": "s", "ephemeral": { "volumeClaimTemplate": { "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "resources": { "requests": { "storage": "1Gi" } },
        } } } }],
    } }));
    pods.create(&PostParams::default(), &pod).await.unwrap();
    world.runs("p").await;
    let claim = world.claim_phase("p-s", "Bound").await;
    assert_eq!(claim.metadata.owner_references.unwrap()[0].name, "p");
}

#[tokio::test]
async fn a_default_class_that_comes_late_is_given_to_claims_that_name_none() {
    let world = start().await;
    world.claim("c", json!({})).await;
    let classes: Api<StorageClass> = Api::all(world.client.clone());
    let class = typed(
        json!({ "provisioner": "x.dev/y", "metadata": { "name": "late",
        "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } } }),
    );
    classes
        .create(&PostParams::default(), &class)
        .await
        .unwrap();
    let claims: Api<PersistentVolumeClaim> = world.api();
    until("the claim has the class", || async {
        let claim = claims.get("c").await.unwrap();
        (claim.spec?.storage_class_name.as_deref() == Some("late")).then_some(())
    })
    .await;
}
