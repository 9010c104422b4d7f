//! Volumes of pods that run: what they show follows the API, and what is claimed outlives pods.

use std::path::PathBuf;

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::api::{Patch, PatchParams};

use super::*;

impl World {
    fn maps(&self) -> Api<ConfigMap> {
        self.pods_namespace()
    }

    fn pods_namespace<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn map(&self, text: &str) {
        let map = json!({ "metadata": { "name": "cfg" }, "data": { "a.conf": text } });
        let map = serde_json::from_value(map).unwrap();
        self.maps()
            .create(&PostParams::default(), &map)
            .await
            .unwrap();
    }

    async fn patch<K>(&self, name: &str, patch: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = self.pods_namespace();
        let params = PatchParams::default();
        api.patch(name, &params, &Patch::Merge(patch))
            .await
            .unwrap();
    }

    async fn volume(&self, pod: &str, volume: &str) -> PathBuf {
        let pod = self.pods().get(pod).await.unwrap();
        let directory = self.directory.path().join("pods");
        let directory = directory.join(pod.metadata.uid.unwrap());
        directory.join("volumes").join(volume)
    }
}

async fn until_true(what: &str, look: impl Fn() -> bool) {
    let seen = async {
        while !look() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, seen)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

fn reads(path: &Path, text: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|read| read == text)
}

fn with(volumes: &Value) -> Value {
    let mut spec = one(&["serve"]);
    spec["volumes"] = volumes.clone();
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_volumes_show_follows_the_api_while_a_pod_runs() {
    let world = World::new().await;
    world.map("one").await;
    let pod = with(&json!([
        { "name": "cfg", "configMap": { "name": "cfg" } },
        { "name": "later", "secret": { "secretName": "later", "optional": true } },
        { "name": "me", "downwardAPI": { "items": [
            { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } } ] } },
    ]));
    world.create("web", pod).await;
    world.until("web", is_ready).await;
    let file = world.volume("web", "cfg").await.join("a.conf");
    assert!(reads(&file, "one"));
    assert_eq!(
        std::fs::read_link(&file).unwrap(),
        Path::new("..data/a.conf")
    );
    world
        .patch::<ConfigMap>("cfg", json!({ "data": { "a.conf": "two" } }))
        .await;
    until_true("the new text", || reads(&file, "two")).await;

    let later = world.volume("web", "later").await.join("key");
    assert!(!later.exists());
    let secret = json!({ "metadata": { "name": "later" }, "stringData": { "key": "s" } });
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = world.pods_namespace();
    let secret = serde_json::from_value(secret).unwrap();
    secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
    until_true("the optional secret", || reads(&later, "s")).await;

    let labels = world.volume("web", "me").await.join("labels");
    world
        .patch::<Pod>("web", json!({ "metadata": { "labels": { "a": "b" } } }))
        .await;
    until_true("the label", || reads(&labels, "a=\"b\"")).await;

    // What is deleted is still shown, and that is told.
    world
        .maps()
        .delete("cfg", &DeleteParams::default())
        .await
        .unwrap();
    let said = "MountVolume.SetUp failed for volume \"cfg\" : configmap \"cfg\" not found";
    world.until_event("web", "FailedMount", said).await;
    assert!(reads(&file, "two"));
    world.map("three").await;
    until_true("the one that came back", || reads(&file, "three")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_immutable_config_map_is_shown_and_a_missing_one_awaited() {
    let world = World::new().await;
    let volumes = json!([{ "name": "cfg", "configMap": { "name": "cfg" } }]);
    world.create("web", with(&volumes)).await;
    let said = "MountVolume.SetUp failed for volume \"cfg\" : configmap \"cfg\" not found";
    world.until_event("web", "FailedMount", said).await;
    world
        .until("web", |status| waits_for(status, "ContainerCreating"))
        .await;
    let map =
        json!({ "metadata": { "name": "cfg" }, "data": { "a.conf": "x" }, "immutable": true });
    let map = serde_json::from_value(map).unwrap();
    world
        .maps()
        .create(&PostParams::default(), &map)
        .await
        .unwrap();
    world.until("web", is_ready).await;
    let file = world.volume("web", "cfg").await.join("a.conf");
    assert!(reads(&file, "x"));
    let directory = world.directory.path().join("pods");
    world
        .pods()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    world.until_gone("web").await;
    until_true("the pod's directory is gone", || is_empty(&directory)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_chose_the_node_gets_a_directory_that_goes_when_it_is_released() {
    let world = World::new().await;
    let class = json!({ "metadata": { "name": "local-path" }, "allowVolumeExpansion": true,
        "provisioner": "eyot.dev/local-path", "volumeBindingMode": "WaitForFirstConsumer" });
    let classes: Api<StorageClass> = Api::all(world.client.clone());
    let class = serde_json::from_value(class).unwrap();
    classes
        .create(&PostParams::default(), &class)
        .await
        .unwrap();
    let claims: Api<PersistentVolumeClaim> = world.pods_namespace();
    let claim = json!({
        "metadata": { "name": "c", "annotations": {
            "volume.kubernetes.io/storage-provisioner": "eyot.dev/local-path",
            "volume.kubernetes.io/selected-node": "n1",
        } },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "local-path",
                  "resources": { "requests": { "storage": "1Gi" } } },
    });
    let claim = serde_json::from_value(claim).unwrap();
    let claim = claims.create(&PostParams::default(), &claim).await.unwrap();
    let name = format!("pvc-{}", claim.metadata.uid.unwrap());
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    let there = |volume: Option<&PersistentVolume>| volume.is_some();
    let made = timeout(PATIENCE, await_condition(volumes.clone(), &name, there)).await;
    let path = made
        .unwrap()
        .unwrap()
        .unwrap()
        .spec
        .unwrap()
        .local
        .unwrap()
        .path;
    assert!(Path::new(&path).is_dir());
    assert!(Path::new(&path).starts_with(world.directory.path().canonicalize().unwrap()));

    // Nobody binds here but the test.
    let volume = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }]);
    world.create("web", with(&volume)).await;
    let said = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], \
                failed to process volumes=[v]: error processing PVC default/c: PVC is not bound";
    world.until_event("web", "FailedMount", said).await;
    world
        .patch::<PersistentVolumeClaim>("c", json!({ "spec": { "volumeName": name } }))
        .await;
    let bound = json!({ "status": { "phase": "Bound", "capacity": { "storage": "1Gi" } } });
    let params = PatchParams::default();
    claims
        .patch_status("c", &params, &Patch::Merge(bound))
        .await
        .unwrap();
    world.until("web", is_ready).await;

    let more = json!({ "spec": { "resources": { "requests": { "storage": "2Gi" } } } });
    world.patch::<PersistentVolumeClaim>("c", more).await;
    let grown = |claim: Option<&PersistentVolumeClaim>| {
        let status = claim.and_then(|claim| claim.status.as_ref());
        let capacity = status.and_then(|status| status.capacity.as_ref());
        capacity.is_some_and(|capacity| capacity["storage"].0 == "2Gi")
    };
    let told = timeout(PATIENCE, await_condition(claims.clone(), "c", grown)).await;
    told.unwrap().unwrap();

    std::fs::write(Path::new(&path).join("data"), "kept").unwrap();
    world
        .pods()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    world.until_gone("web").await;
    assert!(reads(&Path::new(&path).join("data"), "kept"));
    let released = json!({ "status": { "phase": "Released" } });
    volumes
        .patch_status(&name, &params, &Patch::Merge(released))
        .await
        .unwrap();
    until_true("the data is gone", || !Path::new(&path).exists()).await;
    let let_go = |volume: Option<&PersistentVolume>| {
        let finalizers = volume.and_then(|volume| volume.metadata.finalizers.as_ref());
        finalizers.is_none_or(|held| held.iter().all(|one| one == "kubernetes.io/pv-protection"))
    };
    let gone = timeout(PATIENCE, await_condition(volumes, &name, let_go)).await;
    gone.unwrap().unwrap();
}
