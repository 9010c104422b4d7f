//! Pods as who decides about them sees them.
//!
//! There are many thousands of pods, every one is looked at by a dozen controllers, the scheduler
//! and the network, and as Kubernetes' full types hold one it takes seven kilobytes and more, most
//! of it room for what only a node reads: how containers are started, probed and confined, and
//! what volumes hold. [`Pod`] has the rest, under the same names and of the same types where there
//! is no reason for others, and is read from the same JSON: what it lacks is passed over while
//! reading. Who needs a further field adds it here. Who needs the whole of one pod asks the API.
//!
//! A view is never written: it cannot be serialised. What is made or changed is made as the full
//! type, or as a patch.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1 as full,
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference, Time},
    },
};
use kube::Resource;
use serde::{Deserialize, Deserializer, de::IgnoredAny};

/// What kubectl keeps for itself: as long as all the rest.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A pod. Its metadata lacks `managedFields`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Pod {
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    pub spec: Option<PodSpec>,
    pub status: Option<PodStatus>,
}

/// What placing a pod, keeping its owner's promises and leading to it needs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    pub active_deadline_seconds: Option<i64>,
    pub affinity: Option<full::Affinity>,
    #[serde(deserialize_with = "list")]
    pub containers: Vec<Container>,
    pub host_network: Option<bool>,
    pub hostname: Option<String>,
    #[serde(deserialize_with = "some_list")]
    pub init_containers: Option<Vec<Container>>,
    pub node_name: Option<String>,
    pub node_selector: Option<BTreeMap<String, String>>,
    pub overhead: Option<BTreeMap<String, Quantity>>,
    pub preemption_policy: Option<String>,
    pub priority: Option<i32>,
    pub priority_class_name: Option<String>,
    #[serde(deserialize_with = "some_list")]
    pub readiness_gates: Option<Vec<full::PodReadinessGate>>,
    #[serde(deserialize_with = "some_list")]
    pub resource_claims: Option<Vec<full::PodResourceClaim>>,
    pub resources: Option<full::ResourceRequirements>,
    pub restart_policy: Option<String>,
    pub runtime_class_name: Option<String>,
    pub scheduler_name: Option<String>,
    #[serde(deserialize_with = "some_list")]
    pub scheduling_gates: Option<Vec<full::PodSchedulingGate>>,
    pub service_account_name: Option<String>,
    pub subdomain: Option<String>,
    pub termination_grace_period_seconds: Option<i64>,
    #[serde(deserialize_with = "some_list")]
    pub tolerations: Option<Vec<full::Toleration>>,
    #[serde(deserialize_with = "some_list")]
    pub topology_spread_constraints: Option<Vec<full::TopologySpreadConstraint>>,
    /// Those that are, or become, claims; and of those that only one pod at a time may use.
    #[serde(deserialize_with = "volumes")]
    pub volumes: Option<Vec<Volume>>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    pub name: String,
    pub image: Option<String>,
    #[serde(deserialize_with = "some_list")]
    pub ports: Option<Vec<full::ContainerPort>>,
    pub resources: Option<full::ResourceRequirements>,
    pub restart_policy: Option<String>,
}

/// A volume that decides where a pod can run and whose deletion waits for it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    pub name: String,
    pub ephemeral: Option<Box<full::EphemeralVolumeSource>>,
    pub persistent_volume_claim: Option<full::PersistentVolumeClaimVolumeSource>,
    pub aws_elastic_block_store: Option<Box<full::AWSElasticBlockStoreVolumeSource>>,
    pub gce_persistent_disk: Option<Box<full::GCEPersistentDiskVolumeSource>>,
    pub iscsi: Option<Box<full::ISCSIVolumeSource>>,
    pub rbd: Option<Box<full::RBDVolumeSource>>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    #[serde(deserialize_with = "some_list")]
    pub conditions: Option<Vec<PodCondition>>,
    #[serde(deserialize_with = "some_list")]
    pub container_statuses: Option<Vec<ContainerStatus>>,
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
    #[serde(deserialize_with = "some_list")]
    pub init_container_statuses: Option<Vec<ContainerStatus>>,
    pub message: Option<String>,
    pub nominated_node_name: Option<String>,
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(rename = "podIPs", deserialize_with = "some_list")]
    pub pod_ips: Option<Vec<full::PodIP>>,
    pub qos_class: Option<String>,
    pub reason: Option<String>,
    pub start_time: Option<Time>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCondition {
    pub last_transition_time: Option<Time>,
    pub message: Option<String>,
    pub reason: Option<String>,
    pub status: String,
    #[serde(rename = "type")]
    pub type_: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    pub name: String,
    pub ready: bool,
    pub restart_count: i32,
    pub started: Option<bool>,
    pub state: Option<Box<full::ContainerState>>,
}

impl Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        full::Pod::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        full::Pod::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        full::Pod::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        full::Pod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What is planned as the full type is judged by the same rules as what is seen.
impl From<full::PodSpec> for PodSpec {
    fn from(spec: full::PodSpec) -> Self {
        let containers = |all: Vec<full::Container>| all.into_iter().map(Container::from).collect();
        Self {
            active_deadline_seconds: spec.active_deadline_seconds,
            affinity: spec.affinity,
            containers: containers(spec.containers),
            host_network: spec.host_network,
            hostname: spec.hostname,
            init_containers: spec.init_containers.map(containers),
            node_name: spec.node_name,
            node_selector: spec.node_selector,
            overhead: spec.overhead,
            preemption_policy: spec.preemption_policy,
            priority: spec.priority,
            priority_class_name: spec.priority_class_name,
            readiness_gates: spec.readiness_gates,
            resource_claims: spec.resource_claims,
            resources: spec.resources,
            restart_policy: spec.restart_policy,
            runtime_class_name: spec.runtime_class_name,
            scheduler_name: spec.scheduler_name,
            scheduling_gates: spec.scheduling_gates,
            service_account_name: spec.service_account_name,
            subdomain: spec.subdomain,
            termination_grace_period_seconds: spec.termination_grace_period_seconds,
            tolerations: spec.tolerations,
            topology_spread_constraints: spec.topology_spread_constraints,
            volumes: spec.volumes.map(|all| {
                let all = all.into_iter().map(Volume::from);
                all.filter(Volume::matters).collect()
            }),
        }
    }
}

impl From<full::Container> for Container {
    fn from(container: full::Container) -> Self {
        Self {
            name: container.name,
            image: container.image,
            ports: container.ports,
            resources: container.resources,
            restart_policy: container.restart_policy,
        }
    }
}

impl From<full::Volume> for Volume {
    fn from(volume: full::Volume) -> Self {
        Self {
            name: volume.name,
            ephemeral: volume.ephemeral.map(Box::new),
            persistent_volume_claim: volume.persistent_volume_claim,
            aws_elastic_block_store: volume.aws_elastic_block_store.map(Box::new),
            gce_persistent_disk: volume.gce_persistent_disk.map(Box::new),
            iscsi: volume.iscsi.map(Box::new),
            rbd: volume.rbd.map(Box::new),
        }
    }
}

impl Volume {
    fn matters(&self) -> bool {
        let bare = Self {
            name: self.name.clone(),
            ..Self::default()
        };
        *self != bare
    }
}

/// Metadata as they are kept: the writers of fields are not even read.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    #[serde(deserialize_with = "some_list")]
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "managedFields")]
    _managed_fields: Option<IgnoredAny>,
    name: Option<String>,
    namespace: Option<String>,
    #[serde(deserialize_with = "some_list")]
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    uid: Option<String>,
}

fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let mut read = Metadata::deserialize(from)?;
    if let Some(annotations) = &mut read.annotations {
        annotations.remove(LAST_APPLIED);
    }
    Ok(ObjectMeta {
        annotations: read.annotations.filter(|all| !all.is_empty()),
        creation_timestamp: read.creation_timestamp,
        deletion_grace_period_seconds: read.deletion_grace_period_seconds,
        deletion_timestamp: read.deletion_timestamp,
        finalizers: read.finalizers,
        generate_name: read.generate_name,
        generation: read.generation,
        labels: read.labels,
        managed_fields: None,
        name: read.name,
        namespace: read.namespace,
        owner_references: read.owner_references,
        resource_version: read.resource_version,
        self_link: None,
        uid: read.uid,
    })
}

/// A list without spare room: reading leaves room for three more.
fn some_list<'de, T, D>(from: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let mut read: Option<Vec<T>> = Option::deserialize(from)?;
    if let Some(list) = &mut read {
        list.shrink_to_fit();
    }
    Ok(read)
}

/// As [`some_list`]; null is none.
fn list<'de, T, D>(from: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(some_list(from)?.unwrap_or_default())
}

fn volumes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Volume>>, D::Error> {
    let mut read: Option<Vec<Volume>> = Option::deserialize(from)?;
    if let Some(list) = &mut read {
        list.retain(Volume::matters);
        list.shrink_to_fit();
    }
    Ok(read.filter(|list| !list.is_empty()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn whole() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "p", "labels": {"a": "b"}, "resourceVersion": "7",
                "annotations": {LAST_APPLIED: "{}"},
                "managedFields": [{"manager": "m", "operation": "Update", "fieldsV1": {"f:a": {}}}],
            },
            "spec": {
                "nodeName": "n", "restartPolicy": "Always", "containers": [{
                    "name": "c", "image": "i", "command": ["x"], "env": [{"name": "A"}],
                    "livenessProbe": {"httpGet": {"port": "http"}},
                    "ports": [{"containerPort": 80, "hostPort": 80}],
                    "resources": {"requests": {"cpu": "1"}},
                }],
                "volumes": [
                    {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "config", "configMap": {"name": "c"}},
                ],
                "tolerations": [{"key": "k", "operator": "Exists"}],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
                "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null}],
                "containerStatuses": [{
                    "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 2,
                    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "lastState": {},
                }],
            },
        })
    }

    #[test]
    fn what_others_than_a_node_read_is_there() {
        let pod: Pod = serde_json::from_value(whole()).unwrap();
        let meta = &pod.metadata;
        assert_eq!(
            (meta.name.as_deref(), meta.resource_version.as_deref()),
            (Some("p"), Some("7"))
        );
        assert_eq!(meta.managed_fields, None);
        assert_eq!(meta.annotations, None);
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("n"));
        assert_eq!(
            spec.containers[0].ports.as_ref().unwrap()[0].host_port,
            Some(80)
        );
        let volumes = spec.volumes.as_ref().unwrap();
        assert_eq!(
            (volumes.len(), volumes.capacity(), &*volumes[0].name),
            (1, 1, "claim")
        );
        let status = pod.status.as_ref().unwrap();
        assert_eq!(status.pod_ips.as_ref().unwrap()[0].ip, "10.0.0.1");
        assert_eq!(
            status.container_statuses.as_ref().unwrap()[0].restart_count,
            2
        );
    }

    #[test]
    fn what_is_planned_looks_like_what_is_read() {
        let whole = whole();
        let planned: full::PodSpec = serde_json::from_value(whole["spec"].clone()).unwrap();
        let seen: PodSpec = serde_json::from_value(whole["spec"].clone()).unwrap();
        assert_eq!(PodSpec::from(planned), seen);
    }

    #[test]
    fn null_is_nothing() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": null},
            "spec": {"containers": null, "volumes": null, "tolerations": null},
        }))
        .unwrap();
        let expected = PodSpec::default();
        assert_eq!(pod.spec, Some(expected));
    }

    /// Whoever adds to the view sees here what that costs for each pod.
    #[test]
    fn a_pod_stays_small() {
        let sizes = [
            size_of::<Pod>(),
            size_of::<Container>(),
            size_of::<ContainerStatus>(),
        ];
        assert!(
            sizes
                .iter()
                .zip([1800, 200, 64])
                .all(|(is, most)| *is <= most),
            "{sizes:?}"
        );
    }
}
