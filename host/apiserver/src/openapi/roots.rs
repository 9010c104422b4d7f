//! The Rust types behind the built-in kinds, from which schemas and descriptions come.
//!
//! `k8s-openapi` was generated from Kubernetes' own documents and can describe each of its types;
//! here is only the list of those that stand at the top: everything below is found from them. Kinds
//! that are not served cost nothing but their line.

use k8s_openapi::{
    Resource,
    api::{
        admissionregistration, apps, authentication, authorization, autoscaling, batch,
        certificates, coordination, core, discovery, events, flowcontrol, networking, node, policy,
        rbac, resource, scheduling, storage,
    },
    apiextensions_apiserver::pkg::apis::apiextensions,
    apimachinery::pkg::{apis::meta, runtime::RawExtension},
    kube_aggregator::pkg::apis::apiregistration,
};
use schemars::{JsonSchema, SchemaGenerator};

/// A type that can be sent or answered by itself.
pub(super) struct Root {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    /// The name of its schema.
    pub(super) name: fn() -> std::borrow::Cow<'static, str>,
    /// Puts the schema and all that it refers to among the generator's definitions.
    pub(super) add: fn(&mut SchemaGenerator),
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

macro_rules! roots {
    ($($type:ty),* $(,)?) => {
        &[$(Root {
            api_version: <$type as Resource>::API_VERSION,
            kind: <$type as Resource>::KIND,
            name: <$type as JsonSchema>::schema_name,
            add: add::<$type>,
        }),*]
    };
}

pub(super) static ROOTS: &[Root] = roots![
    core::v1::Binding,
    core::v1::ComponentStatus,
    core::v1::ConfigMap,
    core::v1::Endpoints,
    core::v1::Event,
    core::v1::LimitRange,
    core::v1::Namespace,
    core::v1::Node,
    core::v1::PersistentVolume,
    core::v1::PersistentVolumeClaim,
    core::v1::Pod,
    core::v1::PodTemplate,
    core::v1::ReplicationController,
    core::v1::ResourceQuota,
    core::v1::Secret,
    core::v1::Service,
    core::v1::ServiceAccount,
    admissionregistration::v1::MutatingAdmissionPolicy,
    admissionregistration::v1::MutatingAdmissionPolicyBinding,
    admissionregistration::v1::MutatingWebhookConfiguration,
    admissionregistration::v1::ValidatingAdmissionPolicy,
    admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    admissionregistration::v1::ValidatingWebhookConfiguration,
    apiextensions::v1::CustomResourceDefinition,
    apiregistration::v1::APIService,
    apps::v1::ControllerRevision,
    apps::v1::DaemonSet,
    apps::v1::Deployment,
    apps::v1::ReplicaSet,
    apps::v1::StatefulSet,
    authentication::v1::SelfSubjectReview,
    authentication::v1::TokenRequest,
    authentication::v1::TokenReview,
    authorization::v1::LocalSubjectAccessReview,
    authorization::v1::SelfSubjectAccessReview,
    authorization::v1::SelfSubjectRulesReview,
    authorization::v1::SubjectAccessReview,
    autoscaling::v1::HorizontalPodAutoscaler,
    autoscaling::v1::Scale,
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::CronJob,
    batch::v1::Job,
    certificates::v1::CertificateSigningRequest,
    coordination::v1::Lease,
    discovery::v1::EndpointSlice,
    events::v1::Event,
    flowcontrol::v1::FlowSchema,
    flowcontrol::v1::PriorityLevelConfiguration,
    networking::v1::IPAddress,
    networking::v1::Ingress,
    networking::v1::IngressClass,
    networking::v1::NetworkPolicy,
    networking::v1::ServiceCIDR,
    node::v1::RuntimeClass,
    policy::v1::Eviction,
    policy::v1::PodDisruptionBudget,
    rbac::v1::ClusterRole,
    rbac::v1::ClusterRoleBinding,
    rbac::v1::Role,
    rbac::v1::RoleBinding,
    resource::v1::DeviceClass,
    resource::v1::ResourceClaim,
    resource::v1::ResourceClaimTemplate,
    resource::v1::ResourceSlice,
    scheduling::v1::PriorityClass,
    storage::v1::CSIDriver,
    storage::v1::CSINode,
    storage::v1::CSIStorageCapacity,
    storage::v1::StorageClass,
    storage::v1::VolumeAttachment,
    storage::v1::VolumeAttributesClass,
    meta::v1::APIGroup,
    meta::v1::APIGroupList,
    meta::v1::APIResourceList,
    meta::v1::APIVersions,
    meta::v1::Status,
];

/// What every group and version refers to.
pub(super) fn add_common(generator: &mut SchemaGenerator) {
    add::<meta::v1::APIResourceList>(generator);
    add::<meta::v1::DeleteOptions>(generator);
    add::<meta::v1::ListMeta>(generator);
    add::<meta::v1::ObjectMeta>(generator);
    add::<meta::v1::Patch>(generator);
    add::<meta::v1::Status>(generator);
    add::<meta::v1::WatchEvent<RawExtension>>(generator);
}

pub(super) fn find(api_version: &str, kind: &str) -> Option<&'static Root> {
    ROOTS
        .iter()
        .find(|root| root.api_version == api_version && root.kind == kind)
}
