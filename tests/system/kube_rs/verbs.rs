//! The verbs of typed objects.

use anyhow::{Context, ensure};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Node, Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{
        DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions,
        VersionMatch,
    },
    runtime::wait::{await_condition, conditions},
};
use serde_json::{Value, json};

use super::{Session, object, refusal, session};

fn configmap(name: &str, value: &str) -> anyhow::Result<ConfigMap> {
    object(json!({"metadata": {"name": name, "labels": {"made": "by-kube"}}, "data": {"a": value}}))
}

pub fn an_object_is_made_read_changed_and_deleted() -> anyhow::Result<()> {
    session("kube-life", async |s| {
        let api: Api<ConfigMap> = s.api();
        let post = PostParams::default();
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        api.create(&dry, &configmap("life", "0")?).await?;
        ensure!(api.get_opt("life").await?.is_none(), "a dry run was stored");
        let made = api.create(&post, &configmap("life", "1")?).await?;
        ensure!(made.uid().is_some() && made.creation_timestamp().is_some());
        let status = refusal(
            api.create(&post, &configmap("life", "1")?).await,
            409,
            "AlreadyExists",
        )?;
        ensure!(
            status.message == "configmaps \"life\" already exists",
            "{status:?}"
        );
        let mut changed = made.clone();
        changed
            .data
            .get_or_insert_default()
            .insert("b".into(), "2".into());
        let changed = api.replace("life", &post, &changed).await?;
        ensure!(changed.resource_version() != made.resource_version());
        // The one read before is old now.
        refusal(api.replace("life", &post, &made).await, 409, "Conflict")?;
        let meta = api.get_metadata("life").await?;
        ensure!(meta.labels()["made"] == "by-kube");
        ensure!(meta.resource_version() == changed.resource_version());
        let any = api.get_with("life", &GetParams::any()).await?;
        ensure!(any.data == changed.data);
        // Optimistic changes through an entry.
        let mut entry = match api.entry("life").await? {
            kube::api::entry::Entry::Occupied(entry) => entry,
            kube::api::entry::Entry::Vacant(_) => anyhow::bail!("life is not there"),
        };
        entry
            .get_mut()
            .data
            .get_or_insert_default()
            .insert("c".into(), "3".into());
        entry.commit(&post).await?;
        ensure!(api.get("life").await?.data.context("data")?.len() == 3);
        let gone = api.delete("life", &DeleteParams::default()).await?;
        ensure!(gone.right().is_some_and(|status| status.is_success()));
        ensure!(api.get_opt("life").await?.is_none());
        refusal(api.get("life").await, 404, "NotFound")?;
        several_kinds(s).await
    })
}

/// The same verbs where the server treats a kind in its own way.
async fn several_kinds(s: &Session) -> anyhow::Result<()> {
    let post = PostParams::default();
    let secrets: Api<Secret> = s.api();
    let secret = object(json!({"metadata": {"generateName": "made-"}, "stringData": {"k": "v"}}))?;
    let secret = secrets.create(&post, &secret).await?;
    ensure!(secret.name_any().starts_with("made-") && secret.string_data.is_none());
    ensure!(secret.data.context("data")?["k"].0 == b"v");
    ensure!(secret.type_.as_deref() == Some("Opaque"));
    let nodes: Api<Node> = s.all();
    let node = nodes.get("island").await?;
    ensure!(node.status.and_then(|s| s.node_info).is_some());
    let found: Api<Pod> = s.all();
    // Lists over all namespaces of something that may be empty.
    found
        .list(&ListParams::default().fields("status.phase=Failed"))
        .await?;
    let deployments: Api<Deployment> = s.api();
    let refused = object(json!({
        "metadata": {"name": "wrong"},
        "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        }
    }))?;
    let status = refusal(deployments.create(&post, &refused).await, 422, "Invalid")?;
    ensure!(
        status
            .message
            .contains("`selector` does not match template `labels`"),
        "{status:?}"
    );
    Ok(())
}

pub fn lists_come_in_pages_and_at_their_revision() -> anyhow::Result<()> {
    session("kube-lists", async |s| {
        let api: Api<ConfigMap> = s.api();
        let post = PostParams::default();
        let chosen = ListParams::default().labels("made=by-kube");
        for number in 0..7 {
            api.create(&post, &configmap(&format!("page-{number}"), "x")?)
                .await?;
        }
        let before = api.list(&chosen).await?;
        let revision = before
            .metadata
            .resource_version
            .clone()
            .context("revision")?;
        let mut page = api.list(&chosen.clone().limit(3)).await?;
        ensure!(
            page.metadata.remaining_item_count.is_none(),
            "not counted with a selector"
        );
        // What happens between the pages is not seen on them.
        api.delete("page-6", &DeleteParams::default()).await?;
        let mut names: Vec<String> = page.items.iter().map(ResourceExt::name_any).collect();
        while let Some(token) = page.metadata.continue_.clone().filter(|t| !t.is_empty()) {
            page = api
                .list(&chosen.clone().limit(3).continue_token(&token))
                .await?;
            names.extend(page.items.iter().map(ResourceExt::name_any));
        }
        let all: Vec<String> = (0..7).map(|n| format!("page-{n}")).collect();
        ensure!(names == all, "{names:?}");
        let exact = chosen.clone().at(&revision).matching(VersionMatch::Exact);
        ensure!(api.list(&exact).await?.items.len() == 7);
        let newer = chosen
            .clone()
            .at(&revision)
            .matching(VersionMatch::NotOlderThan);
        ensure!(api.list(&newer).await?.items.len() == 6);
        let counted = api.list(&ListParams::default().limit(2)).await?;
        // Six of ours and the standing kube-root-ca.crt.
        ensure!(
            counted.metadata.remaining_item_count == Some(5),
            "{:?}",
            counted.metadata
        );
        let one = api
            .list(&ListParams::default().fields("metadata.name=page-2"))
            .await?;
        ensure!(one.items.len() == 1);
        refusal(
            api.list(&ListParams::default().continue_token("nonsense"))
                .await,
            400,
            "BadRequest",
        )?;
        let thin = api.list_metadata(&chosen).await?;
        ensure!(thin.items.len() == 6 && thin.items.iter().all(|m| m.uid().is_some()));
        let gone = api
            .delete_collection(&DeleteParams::default(), &chosen)
            .await?;
        ensure!(gone.left().is_some_and(|list| list.items.len() == 6));
        ensure!(api.list(&chosen).await?.items.is_empty());
        Ok(())
    })
}

fn deployment(replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "patched"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "patched"}},
            "template": {
                "metadata": {"labels": {"app": "patched"}},
                "spec": {"containers": [{"name": "main", "image": image}]}
            }
        }
    })
}

pub fn each_kind_of_patch_changes_what_it_says() -> anyhow::Result<()> {
    session("kube-patches", async |s| {
        let api: Api<Deployment> = s.api();
        api.create(&PostParams::default(), &object(deployment(0, "none/one"))?)
            .await?;
        let plain = PatchParams::default();
        let side = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "none/side"}]}}}});
        // A strategic patch merges the list by name; a merge patch puts its own in its place.
        let merged = api
            .patch("patched", &plain, &Patch::Strategic(&side))
            .await?;
        ensure!(
            images(&merged) == ["none/side", "none/one"],
            "{:?}",
            images(&merged)
        );
        let replaced = api.patch("patched", &plain, &Patch::Merge(&side)).await?;
        ensure!(
            images(&replaced) == ["none/side"],
            "{:?}",
            images(&replaced)
        );
        let steps = serde_json::from_value(json!([
            {"op": "test", "path": "/spec/replicas", "value": 0},
            {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "none/two"},
            {"op": "add", "path": "/metadata/labels", "value": {"patched": "yes"}}
        ]))?;
        let stepped = api
            .patch("patched", &plain, &Patch::<()>::Json(steps))
            .await?;
        ensure!(images(&stepped) == ["none/two"] && stepped.labels()["patched"] == "yes");
        let wrong =
            serde_json::from_value(json!([{"op": "test", "path": "/spec/replicas", "value": 9}]))?;
        refusal(
            api.patch("patched", &plain, &Patch::<()>::Json(wrong))
                .await,
            422,
            "Invalid",
        )?;
        let meta = json!({"metadata": {"labels": {"patched": null, "more": "1"}}});
        let meta = api
            .patch_metadata("patched", &plain, &Patch::Merge(&meta))
            .await?;
        ensure!(meta.labels().get("patched").is_none() && meta.labels()["more"] == "1");
        let typo = json!({"spec": {"replica": 3}});
        let strict = PatchParams::default().validation_strict();
        let status = refusal(
            api.patch("patched", &strict, &Patch::Merge(&typo)).await,
            422,
            "Invalid",
        )?;
        ensure!(
            status.message.contains("unknown field \"spec.replica\""),
            "{status:?}"
        );
        api.patch("patched", &plain.validation_ignore(), &Patch::Merge(&typo))
            .await?;
        let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"paused": true}});
        refusal(
            api.patch("patched", &PatchParams::default(), &Patch::Merge(&stale))
                .await,
            409,
            "Conflict",
        )?;
        Ok(())
    })
}

fn images(deployment: &Deployment) -> Vec<&str> {
    let spec = deployment
        .spec
        .as_ref()
        .and_then(|s| s.template.spec.as_ref());
    let containers = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    containers
        .iter()
        .filter_map(|c| c.image.as_deref())
        .collect()
}

pub fn appliers_conflict_until_one_forces() -> anyhow::Result<()> {
    session("kube-apply", async |s| {
        let api: Api<Deployment> = s.api();
        let first = PatchParams::apply("first");
        let second = PatchParams::apply("second");
        api.patch("patched", &first, &Patch::Apply(deployment(0, "none/one")))
            .await?;
        let other = Patch::Apply(deployment(1, "none/two"));
        let status = refusal(api.patch("patched", &second, &other).await, 409, "Conflict")?;
        let causes = status.details.context("details")?.causes;
        let mut fields: Vec<&str> = causes.iter().map(|c| c.field.as_str()).collect();
        fields.sort_unstable();
        ensure!(
            fields
                == [
                    ".spec.replicas",
                    ".spec.template.spec.containers[name=\"main\"].image"
                ],
            "{causes:?}"
        );
        ensure!(
            causes
                .iter()
                .all(|c| c.reason == "FieldManagerConflict"
                    && c.message == "conflict with \"first\""),
            "{causes:?}"
        );
        let forced = api
            .patch("patched", &second.clone().force(), &other)
            .await?;
        ensure!(images(&forced) == ["none/two"]);
        let managers: Vec<_> = forced
            .managed_fields()
            .iter()
            .filter_map(|m| m.manager.as_deref())
            // The Deployment's controller writes its status meanwhile.
            .filter(|manager| *manager != "kube-controller-manager")
            .collect();
        ensure!(managers == ["first", "second"], "{managers:?}");
        // What an applier leaves out, and nobody else owns, goes.
        let mut labelled = deployment(1, "none/two");
        labelled["metadata"]["labels"] = json!({"mine": "yes"});
        let with = api
            .patch("patched", &second, &Patch::Apply(labelled))
            .await?;
        ensure!(with.labels().contains_key("mine"));
        let without = api.patch("patched", &second, &other).await?;
        ensure!(!without.labels().contains_key("mine"));
        // A dry run answers as if, and stores nothing.
        let dry = PatchParams::apply("third").force().dry_run();
        let imagined = api
            .patch("patched", &dry, &Patch::Apply(deployment(5, "none/three")))
            .await?;
        ensure!(imagined.spec.context("spec")?.replicas == Some(5));
        ensure!(api.get("patched").await?.spec.context("spec")?.replicas == Some(1));
        Ok(())
    })
}

pub fn status_and_scale_are_written_apart() -> anyhow::Result<()> {
    session("kube-parts", async |s| {
        let api: Api<ReplicaSet> = s.api();
        let set = json!({
            "metadata": {"name": "parts"},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": "parts"}},
                "template": {"metadata": {"labels": {"app": "parts"}}, "spec": {"containers": [{"name": "c", "image": "none/none"}]}}
            }
        });
        let made = api.create(&PostParams::default(), &object(set)?).await?;
        let scale = api.get_scale("parts").await?;
        ensure!(scale.status.and_then(|s| s.selector).as_deref() == Some("app=parts"));
        let patch = json!({"spec": {"replicas": 1}});
        let scale = api
            .patch_scale("parts", &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        ensure!(scale.spec.and_then(|s| s.replicas) == Some(1));
        let mut scale = api.get_scale("parts").await?;
        scale.spec.get_or_insert_default().replicas = Some(0);
        // The controller may write in between, so whatever revision it is at.
        scale.metadata.resource_version = None;
        api.replace_scale("parts", &PostParams::default(), &scale)
            .await?;
        ensure!(api.get("parts").await?.spec.context("spec")?.replicas == Some(0));
        // Status through its own door only, and its door changes nothing else.
        let patch = json!({"spec": {"replicas": 7}, "status": {"conditions": [
            {"type": "kube.test/Seen", "status": "True"}]}});
        let after = api
            .patch_status("parts", &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        ensure!(after.spec.as_ref().context("spec")?.replicas == Some(0));
        let seen = |set: &ReplicaSet| {
            let all = set.status.as_ref().and_then(|s| s.conditions.as_ref());
            all.is_some_and(|all| all.iter().any(|c| c.type_ == "kube.test/Seen"))
        };
        ensure!(seen(&after));
        let patch = json!({"status": {"conditions": null}});
        let same = api
            .patch("parts", &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        ensure!(seen(&same), "the main door wrote the status");
        ensure!(seen(&api.get_status("parts").await?));
        ensure!(made.uid() == same.uid());
        Ok(())
    })
}

pub fn deletes_keep_their_preconditions_and_spread_as_asked() -> anyhow::Result<()> {
    session("kube-deletes", async |s| {
        let api: Api<ConfigMap> = s.api();
        let post = PostParams::default();
        let owner = api.create(&post, &configmap("owner", "1")?).await?;
        let wrong = DeleteParams::default().preconditions(Preconditions {
            uid: Some("00000000-0000-4000-8000-000000000000".into()),
            resource_version: None,
        });
        let status = refusal(api.delete("owner", &wrong).await, 409, "Conflict")?;
        ensure!(
            status.message.contains("does not match the UID in record"),
            "{status:?}"
        );
        api.delete("owner", &DeleteParams::default().dry_run())
            .await?;
        ensure!(api.get_opt("owner").await?.is_some());
        let owned = |name: &str| {
            object::<ConfigMap>(json!({"metadata": {"name": name, "ownerReferences": [{
                "apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
                "uid": owner.uid(), "blockOwnerDeletion": true
            }]}}))
        };
        let kept = api.create(&post, &owned("kept")?).await?;
        ensure!(kept.owner_references().len() == 1);
        // Orphaned, it stays and forgets its owner.
        api.delete("owner", &DeleteParams::orphan()).await?;
        let uid = owner.uid().context("uid")?;
        await_condition(api.clone(), "owner", conditions::is_deleted(&uid)).await?;
        let kept = api.get("kept").await?;
        ensure!(kept.owner_references().is_empty(), "{:?}", kept.metadata);
        // In the foreground, the owner waits for what it owns.
        let owner = api.create(&post, &configmap("owner", "2")?).await?;
        let mut child = owned("child")?;
        for reference in child.owner_references_mut() {
            reference.uid = owner.uid().context("uid")?;
        }
        let child = api.create(&post, &child).await?;
        let answer = api.delete("owner", &DeleteParams::foreground()).await?;
        let marked = answer.left().context("the owner itself, still there")?;
        ensure!(
            marked.finalizers() == ["foregroundDeletion"],
            "{:?}",
            marked.metadata
        );
        let uid = child.uid().context("uid")?;
        await_condition(api.clone(), "child", conditions::is_deleted(&uid)).await?;
        let uid = owner.uid().context("uid")?;
        await_condition(api.clone(), "owner", conditions::is_deleted(&uid)).await?;
        Ok(())
    })
}
