//! Watchers, reflectors, finalizers and a controller.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, ResourceExt,
    api::{
        DeleteParams, ObjectMeta, PartialObjectMeta, Patch, PatchParams, PostParams, WatchEvent,
        WatchParams,
    },
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        finalizer::{self, finalizer},
        reflector,
        wait::{await_condition, conditions},
        watcher::{self, watcher},
    },
};
use serde_json::json;

use super::{Session, object, session};

async fn make(api: &Api<ConfigMap>, name: &str) -> anyhow::Result<ConfigMap> {
    let map = object(json!({"metadata": {"name": name, "labels": {"watched": "yes"}}}))?;
    Ok(api.create(&PostParams::default(), &map).await?)
}

pub fn a_watcher_goes_on_where_its_stream_ended() -> anyhow::Result<()> {
    session("kube-resume", async |s| {
        let api: Api<ConfigMap> = s.api();
        // The server ends each stream after a second; the watcher must not need another list.
        let config = watcher::Config::default().labels("watched=yes").timeout(1);
        let mut events = pin!(watcher(api.clone(), config));
        let mut lists = 0;
        let mut seen = Vec::new();
        for number in 0..4 {
            let name = format!("seen-{number}");
            let later = async {
                if number > 0 {
                    // Longer than one stream lasts.
                    tokio::time::sleep(Duration::from_millis(1200)).await;
                }
                make(&api, &name).await
            };
            let next = async {
                loop {
                    match events.try_next().await?.context("a watcher never ends")? {
                        watcher::Event::Init => lists += 1,
                        watcher::Event::InitApply(map) | watcher::Event::Apply(map) => {
                            seen.push(map.name_any());
                            return anyhow::Ok(());
                        }
                        _ => {}
                    }
                }
            };
            let (made, next) = tokio::join!(later, next);
            made?;
            next?;
        }
        ensure!(seen == ["seen-0", "seen-1", "seen-2", "seen-3"], "{seen:?}");
        ensure!(lists == 1, "the watcher listed {lists} times");
        api.delete("seen-3", &DeleteParams::default()).await?;
        loop {
            if let watcher::Event::Delete(map) = events.try_next().await?.context("end")? {
                ensure!(map.name_any() == "seen-3");
                break;
            }
        }
        bookmarks(s, &api).await
    })
}

/// Who asks for bookmarks gets one at the end of the stream, with the revision to go on from.
async fn bookmarks(s: &Session, api: &Api<ConfigMap>) -> anyhow::Result<()> {
    let from = api
        .list(&Default::default())
        .await?
        .metadata
        .resource_version
        .context("revision")?;
    // A change of another kind moves the revision on, though this watch sees nothing of it.
    let secret: Secret = object(json!({"metadata": {"name": "elsewhere"}}))?;
    s.api::<Secret>()
        .create(&PostParams::default(), &secret)
        .await?;
    let params = WatchParams::default().timeout(1).labels("watched=never");
    let events: Vec<_> = api.watch(&params, &from).await?.try_collect().await?;
    let [WatchEvent::Bookmark(mark)] = events.as_slice() else {
        bail!("{events:?}");
    };
    ensure!(mark.metadata.resource_version.parse::<u64>()? > from.parse()?);
    Ok(())
}

pub fn a_watcher_begins_anew_when_its_revision_is_gone() -> anyhow::Result<()> {
    session("kube-expired", async |s| {
        let api: Api<ConfigMap> = s.api();
        make(&api, "large").await?;
        let old = api
            .list(&Default::default())
            .await?
            .metadata
            .resource_version
            .context("revision")?;
        // More bytes than the log of one resource keeps.
        for number in 0..24 {
            let data = json!({"data": {"filling": format!("{number}{}", "-".repeat(900_000))}});
            api.patch("large", &PatchParams::default(), &Patch::Merge(&data))
                .await?;
        }
        let params = WatchParams::default().timeout(5);
        let answer = match api.watch(&params, &old).await {
            // Over HTTP 200 the first event says so; a server may also refuse at once.
            Ok(events) => pin!(events).try_next().await?.context("no event")?,
            Err(kube::Error::Api(status)) => WatchEvent::Error(status),
            Err(error) => return Err(error.into()),
        };
        let WatchEvent::Error(status) = answer else {
            bail!("an old revision was served: {answer:?}");
        };
        ensure!(
            status.code == 410 && status.reason == "Expired",
            "{status:?}"
        );
        ensure!(
            status.message.contains("too old resource version"),
            "{status:?}"
        );
        api.delete("large", &DeleteParams::default()).await?;
        Ok(())
    })
}

pub fn streaming_and_paged_lists_fill_the_same_store() -> anyhow::Result<()> {
    session("kube-stores", async |s| {
        let api: Api<ConfigMap> = s.api();
        let names: BTreeSet<String> = (0..12).map(|n| format!("kept-{n}")).collect();
        for name in &names {
            make(&api, name).await?;
        }
        let chosen = watcher::Config::default().labels("watched=yes");
        for config in [
            chosen.clone().page_size(5),
            chosen.clone().any_semantic(),
            chosen.clone().streaming_lists(),
        ] {
            let (store, writer) = reflector::store();
            let stream = reflector(writer, watcher(api.clone(), config.clone())).applied_objects();
            let mut stream = pin!(stream);
            let filled = async {
                store.wait_until_ready().await?;
                let kept: BTreeSet<String> = store.state().iter().map(|m| m.name_any()).collect();
                ensure!(kept == names, "{config:?}: {kept:?}");
                anyhow::Ok(())
            };
            let mut filled = pin!(filled);
            loop {
                tokio::select! {
                    done = &mut filled => { done?; break; }
                    event = stream.try_next() => { event?.context("end")?; }
                }
            }
        }
        Ok(())
    })
}

pub fn a_metadata_watch_carries_no_data() -> anyhow::Result<()> {
    session("kube-metadata", async |s| {
        let api: Api<Secret> = s.api();
        let secret: Secret =
            object(json!({"metadata": {"name": "hidden"}, "stringData": {"k": "geheim"}}))?;
        api.create(&PostParams::default(), &secret).await?;
        let config = watcher::Config::default().fields("metadata.name=hidden");
        let mut events =
            pin!(watcher(s.api::<PartialObjectMeta<Secret>>(), config).applied_objects());
        let first = events.try_next().await?.context("end")?;
        ensure!(first.name_any() == "hidden");
        ensure!(
            !serde_json::to_string(&first)?.contains("Z2VoZWlt"),
            "{first:?}"
        );
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        api.patch_metadata("hidden", &PatchParams::default(), &Patch::Merge(&label))
            .await?;
        let second = events.try_next().await?.context("end")?;
        ensure!(second.labels()["a"] == "b");
        Ok(())
    })
}

pub fn finalizers_hold_an_object_until_they_are_done() -> anyhow::Result<()> {
    const NAME: &str = "kube.test/cleanup";
    session("kube-finalizers", async |s| {
        let api: Api<ConfigMap> = s.api();
        let made = make(&api, "held").await?;
        let uid = made.uid().context("uid")?;
        let step = async |object: ConfigMap| {
            let happened = std::cell::Cell::new("nothing");
            finalizer(&api, NAME, Arc::new(object), async |event| {
                happened.set(match event {
                    finalizer::Event::Apply(_) => "applied",
                    finalizer::Event::Cleanup(_) => "cleaned up",
                });
                Ok::<_, std::convert::Infallible>(Action::await_change())
            })
            .await?;
            anyhow::Ok(happened.get())
        };
        // First it only puts itself on the object.
        ensure!(step(made).await? == "nothing");
        let held = api.get("held").await?;
        ensure!(held.finalizers() == [NAME]);
        ensure!(step(held).await? == "applied");
        let marked = api.delete("held", &DeleteParams::default()).await?;
        let marked = marked.left().context("still there")?;
        ensure!(marked.metadata.deletion_timestamp.is_some());
        ensure!(api.get_opt("held").await?.is_some());
        // Nobody may put another one on an object that is going.
        let more = json!({"metadata": {"finalizers": [NAME, "kube.test/late"]}});
        let late = api
            .patch("held", &PatchParams::default(), &Patch::Merge(&more))
            .await;
        let status = super::refusal(late, 422, "Invalid")?;
        ensure!(
            status
                .message
                .contains("no new finalizers can be added if the object is being deleted"),
            "{status:?}"
        );
        ensure!(step(marked).await? == "cleaned up");
        await_condition(api.clone(), "held", conditions::is_deleted(&uid)).await?;
        Ok(())
    })
}

/// Makes of each ConfigMap that is labelled so a Secret that it owns.
pub fn a_controller_reconciles_what_it_owns() -> anyhow::Result<()> {
    async fn reconcile(
        map: Arc<ConfigMap>,
        secrets: Arc<Api<Secret>>,
    ) -> Result<Action, kube::Error> {
        let Some(owner) = kube::Resource::controller_owner_ref(&*map, &()) else {
            return Ok(Action::await_change());
        };
        let secret = Secret {
            metadata: ObjectMeta {
                name: map.metadata.name.clone(),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            string_data: map.data.clone(),
            ..Secret::default()
        };
        let params = PatchParams::apply("kube-test-controller").force();
        secrets
            .patch(&map.name_any(), &params, &Patch::Apply(&secret))
            .await?;
        Ok(Action::await_change())
    }
    session("kube-controller", async |s| {
        let (maps, secrets): (Api<ConfigMap>, Api<Secret>) = (s.api(), s.api());
        let chosen = watcher::Config::default().labels("watched=yes");
        let controller = Controller::new(maps.clone(), chosen)
            .owns(secrets.clone(), watcher::Config::default())
            .run(
                reconcile,
                |_, error, _| {
                    eprintln!("the case's controller: {error}");
                    Action::requeue(Duration::from_secs(1))
                },
                Arc::new(secrets.clone()),
            )
            .for_each(|_| std::future::ready(()));
        let script = async {
            make(&maps, "copied").await?;
            await_condition(secrets.clone(), "copied", conditions::is_created()).await?;
            let first = secrets.get("copied").await?;
            ensure!(first.owner_references().iter().any(|o| o.name == "copied"));
            // What it owns is made again when somebody deletes it.
            secrets.delete("copied", &DeleteParams::default()).await?;
            let uid = first.uid().context("uid")?;
            let other = move |secret: Option<&Secret>| {
                secret.is_some_and(|s| s.uid().as_ref() != Some(&uid))
            };
            let again = await_condition(secrets.clone(), "copied", other)
                .await?
                .context("secret")?;
            maps.patch(
                "copied",
                &PatchParams::default(),
                &Patch::Merge(json!({"data": {"k": "v"}})),
            )
            .await?;
            let filled = |secret: Option<&Secret>| {
                secret
                    .and_then(|s| s.data.as_ref())
                    .is_some_and(|d| d.get("k").is_some_and(|v| v.0 == b"v"))
            };
            await_condition(secrets.clone(), "copied", filled).await?;
            // And goes with its owner, by garbage collection.
            maps.delete("copied", &DeleteParams::default()).await?;
            let uid = again.uid().context("uid")?;
            await_condition(secrets.clone(), "copied", conditions::is_deleted(&uid)).await?;
            anyhow::Ok(())
        };
        tokio::select! {
            done = script => done,
            () = controller => bail!("the controller ended"),
        }
    })
}
