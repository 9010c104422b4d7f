//! EdgeApplication: the same workloads for several groups of nodes, with what differs from group to
//! group.

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lenient;

/// Workloads for groups of nodes. Fields and meanings are those of KubeEdge's EdgeApplication.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "eyot.dev",
    version = "v1alpha1",
    kind = "EdgeApplication",
    plural = "edgeapplications",
    singular = "edgeapplication",
    shortname = "eapp",
    category = "eyot",
    namespaced,
    status = "EdgeApplicationStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Objects","type":"integer","jsonPath":".status.objects"}"#,
    printcolumn = r#"{"name":"Available","type":"integer","jsonPath":".status.available"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["workloadScope"]))]
pub struct EdgeApplicationSpec {
    /// What is to be there.
    #[serde(deserialize_with = "lenient::nullable")]
    pub workload_template: ResourceTemplate,
    /// Where it is to be there.
    #[serde(deserialize_with = "lenient::nullable")]
    pub workload_scope: WorkloadScope,
}

/// Objects to be made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct ResourceTemplate {
    /// Objects of the application's namespace. Those with pods (Deployment, StatefulSet, DaemonSet, Job,
    /// CronJob) are made once for each group, as NAME-GROUP, and their pods go to its nodes; all others
    /// are made once.
    #[serde(deserialize_with = "lenient::nullable")]
    #[schemars(schema_with = "manifests")]
    pub manifests: Vec<Value>,
}

fn manifests(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 256,
        "items": {
            "type": "object",
            "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true
        }
    })
}

/// The groups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct WorkloadScope {
    #[serde(deserialize_with = "lenient::nullable")]
    #[schemars(length(max = 1024))]
    pub target_node_groups: Vec<TargetNodeGroup>,
}

/// One group, and what is different there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["name"]))]
pub struct TargetNodeGroup {
    /// A NodeGroup, which may be made later.
    pub name: String,
    #[serde(deserialize_with = "lenient::nullable")]
    pub overriders: Overriders,
}

/// What differs from the template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct Overriders {
    /// Replicas of Deployments and StatefulSets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub image_overriders: Vec<ImageOverrider>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env_overriders: Vec<EnvOverrider>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub command_overriders: Vec<CommandArgsOverrider>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub args_overriders: Vec<CommandArgsOverrider>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub resources_overriders: Vec<ResourcesOverrider>,
}

/// Changes a part of images' names: `[registry/]repository[:tag|@digest]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["component", "operator"]))]
pub struct ImageOverrider {
    /// Which image; those of all containers if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicate: Option<ImagePredicate>,
    pub component: ImageComponent,
    /// `add` puts the value behind the part.
    pub operator: OverriderOperator,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub value: String,
}

/// Names one image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["path"]))]
pub struct ImagePredicate {
    /// A JSON pointer into the object, such as `/spec/template/spec/containers/0/image`.
    pub path: String,
}

/// A part of an image's name; `Tag` is the tag or the digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImageComponent {
    #[default]
    Registry,
    Repository,
    Tag,
}

/// What is done with the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OverriderOperator {
    #[default]
    Add,
    Remove,
    Replace,
}

/// Changes a container's environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["containerName", "operator"]))]
pub struct EnvOverrider {
    pub container_name: String,
    /// `remove` goes by the names alone; `replace` also adds what is not there.
    pub operator: OverriderOperator,
    /// Variables as containers have them.
    #[serde(deserialize_with = "lenient::nullable")]
    #[schemars(schema_with = "variables")]
    pub value: Vec<Value>,
}

fn variables(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": { "name": { "type": "string" } },
            "x-kubernetes-preserve-unknown-fields": true
        }
    })
}

/// Changes a container's command or its arguments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["containerName", "operator"]))]
pub struct CommandArgsOverrider {
    pub container_name: String,
    pub operator: AddOrRemove,
    #[serde(deserialize_with = "lenient::nullable")]
    pub value: Vec<String>,
}

/// What is done with words of a command: those that are added come last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AddOrRemove {
    #[default]
    Add,
    Remove,
}

/// Sets a container's resources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["containerName", "value"]))]
pub struct ResourcesOverrider {
    pub container_name: String,
    /// In place of what the template has.
    #[schemars(schema_with = "lenient::any_map")]
    pub value: Value,
}

/// What has become of the objects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct EdgeApplicationStatus {
    /// One entry for each object, in the order of the manifests.
    #[serde(deserialize_with = "lenient::nullable")]
    pub workload_status: Vec<ManifestStatus>,
    /// How many objects there are to be...
    pub objects: u32,
    /// ...and how many of these are available.
    pub available: u32,
}

/// What has become of one object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["identifier"]))]
pub struct ManifestStatus {
    pub identifier: ResourceIdentifier,
    pub conditions: ManifestCondition,
    /// Why the object cannot be made or changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// An object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["ordinal"]))]
pub struct ResourceIdentifier {
    /// Which manifest, counted from 0.
    pub ordinal: i32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// How far an object is: `Available` once it is there and all its pods are ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ManifestCondition {
    #[default]
    Processing,
    Available,
}
