//! Custom kinds from Rust types, and kinds known only at run time.

use anyhow::{Context, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, CustomResource, CustomResourceExt, Discovery, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery::{self, Scope, verbs},
    runtime::wait::{await_condition, conditions},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{object, refusal, session};

/// A lock of a canal.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, JsonSchema)]
#[kube(
    group = "kube.test",
    version = "v1",
    kind = "Lock",
    namespaced,
    status = "LockStatus",
    shortname = "lk",
    category = "canals",
    printcolumn = r#"{"name":"Gates","type":"integer","jsonPath":".spec.gates"}"#,
    scale(
        spec_replicas_path = ".spec.gates",
        status_replicas_path = ".status.open"
    ),
    selectable = ".spec.canal",
    validation = kube::core::cel::Rule::new("self.spec.gates % 2 == 0").message("gates come in pairs")
)]
#[serde(rename_all = "camelCase")]
struct LockSpec {
    #[schemars(range(min = 2, max = 8))]
    gates: i32,
    #[serde(default = "canal")]
    canal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    keeper: Option<Keeper>,
}

#[derive(Serialize, Deserialize, Clone, Debug, JsonSchema)]
enum Keeper {
    Person(String),
    Machine { number: u16 },
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, JsonSchema)]
struct LockStatus {
    open: Option<i32>,
}

fn canal() -> String {
    "Grand Union".to_owned()
}

pub fn a_derived_definition_is_served_and_checked() -> anyhow::Result<()> {
    session("kube-derived", async |s| {
        let definitions: Api<CustomResourceDefinition> = s.all();
        let apply = PatchParams::apply("kube-test").force();
        let post = PostParams::default();
        definitions
            .patch("locks.kube.test", &apply, &Patch::Apply(Lock::crd()))
            .await?;
        await_condition(
            definitions.clone(),
            "locks.kube.test",
            conditions::is_crd_established(),
        )
        .await?;
        let api: Api<Lock> = s.api();
        let lock: Lock = object(json!({
            "apiVersion": "kube.test/v1", "kind": "Lock",
            "metadata": {"name": "low"}, "spec": {"gates": 4}
        }))?;
        let made = api.create(&post, &lock).await?;
        ensure!(made.spec.canal == "Grand Union" && made.metadata.generation == Some(1));
        for (gates, words) in [
            (3, "gates come in pairs"),
            (10, "spec.gates in body should be less than or equal to 8"),
        ] {
            let mut wrong = Lock::new("wrong", made.spec.clone());
            wrong.spec.gates = gates;
            let status = refusal(api.create(&post, &wrong).await, 422, "Invalid")?;
            ensure!(status.message.contains(words), "{status:?}");
        }
        // An enum with data became a schema with oneOf.
        let keeper = json!({"spec": {"keeper": {"Person": "Ann", "Machine": {"number": 1}}}});
        refusal(
            api.patch("low", &PatchParams::default(), &Patch::Merge(&keeper))
                .await,
            422,
            "Invalid",
        )?;
        let keeper = json!({"spec": {"keeper": {"Machine": {"number": 7}}}});
        let kept = api
            .patch("low", &PatchParams::default(), &Patch::Merge(&keeper))
            .await?;
        ensure!(matches!(
            kept.spec.keeper,
            Some(Keeper::Machine { number: 7 })
        ));
        ensure!(kept.metadata.generation == Some(2));
        let status = json!({"status": {"open": 1}});
        let opened = api
            .patch_status("low", &PatchParams::default(), &Patch::Merge(&status))
            .await?;
        ensure!(
            opened.metadata.generation == Some(2),
            "a status is no new generation"
        );
        let scale = api.get_scale("low").await?;
        ensure!(scale.spec.and_then(|s| s.replicas) == Some(4));
        ensure!(scale.status.map(|s| s.replicas) == Some(1));
        let mut upper = Lock::new("upper", made.spec.clone());
        upper.spec.canal = "Regent's".into();
        api.create(&post, &upper).await?;
        let found = api
            .list(&ListParams::default().fields("spec.canal=Regent's"))
            .await?;
        ensure!(found.items.len() == 1 && found.items[0].name_any() == "upper");
        let mut applied = Lock::new("upper", upper.spec.clone());
        applied.spec.gates = 6;
        let status = refusal(
            api.patch(
                "upper",
                &PatchParams::apply("other"),
                &Patch::Apply(&applied),
            )
            .await,
            409,
            "Conflict",
        )?;
        ensure!(status.message.contains(".spec.gates"), "{status:?}");
        let definition = definitions.get("locks.kube.test").await?;
        definitions
            .delete("locks.kube.test", &DeleteParams::default())
            .await?;
        let uid = definition.uid().context("uid")?;
        await_condition(definitions, "locks.kube.test", conditions::is_deleted(&uid)).await?;
        ensure!(api.get("low").await.is_err());
        Ok(())
    })
}

pub fn kinds_are_found_by_discovery_and_used_as_dynamic_objects() -> anyhow::Result<()> {
    session("kube-dynamic", async |s| {
        // Group by group as older clients do, and in two requests.
        for discovery in [
            Discovery::new(s.client.clone())
                .exclude(&["kube.test", "river.test"])
                .run()
                .await?,
            Discovery::new(s.client.clone())
                .exclude(&["kube.test", "river.test"])
                .run_aggregated()
                .await?,
        ] {
            for (group, version, kind, plural, scope) in [
                ("", "v1", "Pod", "pods", Scope::Namespaced),
                ("apps", "v1", "Deployment", "deployments", Scope::Namespaced),
                (
                    "rbac.authorization.k8s.io",
                    "v1",
                    "ClusterRole",
                    "clusterroles",
                    Scope::Cluster,
                ),
                (
                    "autoscaling",
                    "v1",
                    "HorizontalPodAutoscaler",
                    "horizontalpodautoscalers",
                    Scope::Namespaced,
                ),
                (
                    "eyot.dev",
                    "v1alpha1",
                    "Pipeline",
                    "pipelines",
                    Scope::Namespaced,
                ),
            ] {
                let wanted = GroupVersionKind::gvk(group, version, kind);
                let (resource, can) = discovery
                    .resolve_gvk(&wanted)
                    .with_context(|| format!("{wanted:?}"))?;
                ensure!(
                    resource.plural == plural && can.scope == scope,
                    "{resource:?} {can:?}"
                );
                ensure!(can.supports_operation(verbs::WATCH));
            }
            let (_, can) = discovery
                .resolve_gvk(&GroupVersionKind::gvk("apps", "v1", "Deployment"))
                .context("Deployment")?;
            let mut parts: Vec<&str> = can
                .subresources
                .iter()
                .map(|(r, _)| r.plural.as_str())
                .collect();
            parts.sort_unstable();
            ensure!(
                parts == ["scale", "status"]
                    || parts == ["deployments/scale", "deployments/status"],
                "{parts:?}"
            );
            let autoscaling = discovery.get("autoscaling").context("autoscaling")?;
            ensure!(autoscaling.preferred_version() == Some("v2"));
        }
        let wanted = GroupVersionKind::gvk("networking.k8s.io", "v1", "NetworkPolicy");
        let (resource, _) = discovery::pinned_kind(&s.client, &wanted).await?;
        ensure!(resource.plural == "networkpolicies");
        let api: Api<DynamicObject> = Api::namespaced_with(s.client.clone(), s.space, &resource);
        let policy =
            DynamicObject::new("open", &resource).data(json!({"spec": {"podSelector": {}}}));
        let made = api.create(&PostParams::default(), &policy).await?;
        ensure!(
            made.data["spec"]["policyTypes"] == json!(["Ingress"]),
            "{made:?}"
        );
        ensure!(
            made.types
                .as_ref()
                .is_some_and(|t| t.kind == "NetworkPolicy")
        );
        let listed = api.list(&ListParams::default()).await?;
        ensure!(listed.types.kind == "NetworkPolicyList" && listed.items.len() == 1);
        // A kind that nobody knows is not there.
        let unknown = ApiResource::from_gvk(&GroupVersionKind::gvk("kube.test", "v9", "Nothing"));
        let nothing: Api<DynamicObject> = Api::namespaced_with(s.client.clone(), s.space, &unknown);
        let answer = nothing.list(&ListParams::default()).await;
        ensure!(
            matches!(&answer, Err(kube::Error::Api(status)) if status.code == 404),
            "{answer:?}"
        );
        Ok(())
    })
}
