//! Refusals, impersonation, leases and events.

use anyhow::{Context, ensure};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Pod, Secret, ServiceAccount},
        events::v1::Event as Recorded,
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::json;

use super::{Session, object, refusal, session};

pub fn refusals_are_statuses_with_causes() -> anyhow::Result<()> {
    session("kube-refusals", async |s| {
        let pods: Api<Pod> = s.api();
        let post = PostParams::default();
        let wrong = object(json!({
            "metadata": {"name": "wrong"},
            "spec": {"restartPolicy": "Sometimes", "containers": [{"name": "A", "image": "i"}]}
        }))?;
        let status = refusal(pods.create(&post, &wrong).await, 422, "Invalid")?;
        ensure!(status.is_failure() && status.is_invalid());
        let details = status.details.context("details")?;
        ensure!(
            (details.name.as_str(), details.kind.as_str()) == ("wrong", "Pod"),
            "{details:?}"
        );
        let fields: Vec<(&str, &str)> = details
            .causes
            .iter()
            .map(|c| (c.field.as_str(), c.reason.as_str()))
            .collect();
        ensure!(
            fields
                == [
                    ("spec.containers[0].name", "FieldValueInvalid"),
                    ("spec.restartPolicy", "FieldValueNotSupported")
                ],
            "{fields:?}"
        );
        let status = refusal(pods.get("nothing").await, 404, "NotFound")?;
        ensure!(status.is_not_found());
        let details = status.details.context("details")?;
        ensure!(
            (details.name.as_str(), details.kind.as_str()) == ("nothing", "pods"),
            "{details:?}"
        );
        let selector = ListParams::default().fields("spec.nothing=1");
        refusal(pods.list(&selector).await, 400, "BadRequest")?;
        let nowhere: Api<ConfigMap> = Api::namespaced(s.client.clone(), "kube-nowhere");
        let map = object(json!({"metadata": {"name": "a"}}))?;
        let status = refusal(nowhere.create(&post, &map).await, 404, "NotFound")?;
        ensure!(
            status.message == "namespaces \"kube-nowhere\" not found",
            "{status:?}"
        );
        // A request without a method for it.
        let request = http::Request::builder()
            .method("PATCH")
            .uri(format!("/api/v1/namespaces/{}/configmaps", s.space))
            .body(Vec::new())?;
        refusal(
            s.client.request::<ConfigMap>(request).await,
            405,
            "MethodNotAllowed",
        )?;
        Ok(())
    })
}

fn acting_as(s: &Session, user: &str, groups: &[&str]) -> anyhow::Result<Client> {
    let mut config = s.config.clone();
    config.auth_info.impersonate = Some(user.to_owned());
    config.auth_info.impersonate_groups = Some(groups.iter().map(|&g| g.to_owned()).collect());
    Ok(Client::try_from(config)?)
}

pub fn who_is_impersonated_has_that_users_rights() -> anyhow::Result<()> {
    session("kube-rights", async |s| {
        let post = PostParams::default();
        let role = object(json!({
            "metadata": {"name": "reader"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]
        }))?;
        s.api::<Role>().create(&post, &role).await?;
        let binding = object(json!({
            "metadata": {"name": "reader"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "readers"}]
        }))?;
        s.api::<RoleBinding>().create(&post, &binding).await?;
        let ann = acting_as(s, "ann", &["readers"])?;
        let maps: Api<ConfigMap> = Api::namespaced(ann.clone(), s.space);
        maps.list(&ListParams::default()).await?;
        let secrets: Api<Secret> = Api::namespaced(ann.clone(), s.space);
        let status = refusal(secrets.list(&ListParams::default()).await, 403, "Forbidden")?;
        ensure!(
            status.message
                == format!(
                    "secrets is forbidden: User \"ann\" cannot list resource \"secrets\" in API group \"\" \
                     in the namespace \"{}\"",
                    s.space
                ),
            "{status:?}"
        );
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&review)?)?;
        let who: serde_json::Value = ann.request(request).await?;
        ensure!(who["status"]["userInfo"]["username"] == "ann", "{who}");
        ensure!(
            who["status"]["userInfo"]["groups"] == json!(["readers", "system:authenticated"]),
            "{who}"
        );
        whoever_has_no_right_to_impersonates_nobody(s).await
    })
}

async fn whoever_has_no_right_to_impersonates_nobody(s: &Session) -> anyhow::Result<()> {
    let accounts: Api<ServiceAccount> = s.api();
    let plain: ServiceAccount = object(json!({"metadata": {"name": "plain"}}))?;
    accounts.create(&PostParams::default(), &plain).await?;
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": 600}
    });
    let answer: serde_json::Value = accounts
        .create_subresource("token", "plain", &PostParams::default(), &request)
        .await?;
    let token = answer["status"]["token"].as_str().context("token")?;
    let mut config = s.config.clone();
    config.auth_info = object(json!({"token": token, "as": "ann", "as-groups": ["readers"]}))?;
    let maps: Api<ConfigMap> = Api::namespaced(Client::try_from(config)?, s.space);
    let status = refusal(maps.list(&ListParams::default()).await, 403, "Forbidden")?;
    ensure!(
        status.message.contains(
            "User \"system:serviceaccount:kube-rights:plain\" cannot impersonate-on:user-info:list \
             resource \"configmaps\""
        ),
        "{status:?}"
    );
    Ok(())
}

/// One attempt of a candidate to hold a lease: to take it when it is free or ran out, to renew it
/// when it holds it already. Whether it holds it afterwards. What leader election does everywhere.
async fn attempt(api: &Api<Lease>, candidate: &str, now: Timestamp) -> anyhow::Result<bool> {
    let post = PostParams::default();
    let Some(mut lease) = api.get_opt("leader").await? else {
        let lease = object(json!({
            "metadata": {"name": "leader"},
            "spec": {
                "holderIdentity": candidate, "leaseDurationSeconds": 15, "leaseTransitions": 0,
                "acquireTime": MicroTime(now), "renewTime": MicroTime(now)
            }
        }))?;
        return won(api.create(&post, &lease).await);
    };
    let spec = lease.spec.as_mut().context("spec")?;
    let until = spec.renew_time.as_ref().map_or(0, |t| t.0.as_second())
        + i64::from(spec.lease_duration_seconds.unwrap_or_default());
    if spec.holder_identity.as_deref() != Some(candidate) {
        if now.as_second() < until {
            return Ok(false);
        }
        spec.holder_identity = Some(candidate.to_owned());
        spec.acquire_time = Some(MicroTime(now));
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
    }
    spec.renew_time = Some(MicroTime(now));
    // With the revision that was read: of two that try at once, one is refused.
    won(api.replace("leader", &post, &lease).await)
}

fn won(answer: Result<Lease, kube::Error>) -> anyhow::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub fn one_of_two_candidates_holds_the_lease() -> anyhow::Result<()> {
    session("kube-leases", async |s| {
        let api: Api<Lease> = s.api();
        let start = Timestamp::now();
        let at = |seconds: i64| Timestamp::from_second(start.as_second() + seconds);
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        for round in 0..4 {
            // Each round the lease has run out, and all try at once.
            let now = at(round * 60)?;
            let all = names.iter().map(|name| attempt(&api, name, now));
            let held = futures::future::try_join_all(all).await?;
            let winners: Vec<&str> = names
                .iter()
                .zip(held)
                .filter_map(|(name, held)| held.then_some(*name))
                .collect();
            ensure!(
                winners.len() == 1,
                "round {round}: {winners:?} all hold the lease"
            );
            let lease = api.get("leader").await?;
            let spec = lease.spec.context("spec")?;
            ensure!(spec.holder_identity.as_deref() == Some(winners[0]));
            ensure!(
                attempt(&api, winners[0], at(round * 60 + 10)?).await?,
                "renewing"
            );
            let other = names
                .iter()
                .find(|name| **name != winners[0])
                .context("other")?;
            ensure!(
                !attempt(&api, other, at(round * 60 + 20)?).await?,
                "renewed, so it is held"
            );
        }
        Ok(())
    })
}

pub fn events_are_recorded_and_counted() -> anyhow::Result<()> {
    session("kube-events", async |s| {
        let map: ConfigMap = object(json!({"metadata": {"name": "eventful"}}))?;
        let map = s
            .api::<ConfigMap>()
            .create(&PostParams::default(), &map)
            .await?;
        let reporter = Reporter {
            controller: "kube.test/controller".into(),
            instance: Some("one".into()),
        };
        let recorder = Recorder::new(s.client.clone(), reporter);
        for _ in 0..3 {
            let event = Event {
                type_: EventType::Warning,
                reason: "Leaking".into(),
                note: Some("water at the lower gate".into()),
                action: "Inspecting".into(),
                secondary: None,
            };
            recorder.publish(&event, &map.object_ref(&())).await?;
        }
        let events = s
            .api::<Recorded>()
            .list(&ListParams::default().fields("reason=Leaking"))
            .await?;
        ensure!(events.items.len() == 1, "{:?}", events.items);
        let event = &events.items[0];
        ensure!(
            event
                .series
                .as_ref()
                .is_some_and(|series| series.count == 3),
            "{event:?}"
        );
        ensure!(event.regarding.as_ref().and_then(|r| r.uid.clone()) == map.uid());
        // The older group shows the same object under the names of its fields.
        let core: Api<k8s_openapi::api::core::v1::Event> = s.api();
        let uid = map.uid().context("uid")?;
        let chosen =
            ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning"));
        let same = core.list(&chosen).await?;
        ensure!(same.items.len() == 1 && same.items[0].uid() == event.uid());
        ensure!(same.items[0].message.as_deref() == Some("water at the lower gate"));
        // What an event says stays said.
        let note = json!({"note": "dry again"});
        let (name, plain) = (event.name_any(), PatchParams::default());
        let api = s.api::<Recorded>();
        refusal(
            api.patch(&name, &plain, &Patch::Merge(&note)).await,
            422,
            "Invalid",
        )?;
        Ok(())
    })
}
