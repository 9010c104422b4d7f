//! The task that keeps APIServices true: which there are, which of the servers behind them can be
//! reached, and what those say of themselves.
//!
//! Without servers behind this one it sleeps until an APIService or the catalog changes. With some
//! it also looks at each of them twice a minute, sooner if it did not answer or if something behind
//! its Service changed. What was found is taken into the catalog first and then told in the status,
//! so that who reads the status finds it to be true.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use eyot_store::{Object, Store, WriteError};
use futures::{StreamExt, future::select_all, stream};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Remote, STORAGE,
    check::{Ground, Verdict, check, ground},
    fetch::fetch,
    local,
    remote::{Known, Link, Said},
    trust,
};
use crate::{api::Api, crd::status::set_condition, object::at, verbs::managers::track_own_status};

/// Between two checks of a server that answers.
const PERIOD: Duration = Duration::from_secs(30);
/// Between two checks at least, and at first where one failed.
const PAUSE: Duration = Duration::from_secs(1);
/// What is written behind a Service within this time is looked at together.
const BURST: Duration = Duration::from_millis(100);
/// Servers asked at the same time.
const AT_ONCE: usize = 16;
/// Servers behind this one. Those beyond are not found.
const SERVERS: usize = 256;
/// A resource, and the one namespace that matters, if there is one.
type Watched = (&'static str, Option<&'static str>);
/// What this task keeps.
const OWN: [Watched; 2] = [(STORAGE, None), ("configmaps", Some(trust::NAMESPACE))];
/// What a Service leads to depends on these.
const BEHIND: [Watched; 4] = [
    ("services", None),
    ("endpointslices.discovery.k8s.io", None),
    ("endpoints", None),
    ("pods", None),
];

/// A server, from one look to the next.
struct State {
    said: Said,
    link: Arc<Link>,
    verdict: Option<Verdict>,
    known: Arc<Known>,
    /// What the verdict stands on.
    ground: Option<Ground>,
    looked: Option<Instant>,
    next: Instant,
    pause: Duration,
}

type States = BTreeMap<String, State>;

/// Keep the APIServices until the server stops.
pub(crate) async fn keep(api: Weak<Api>) {
    let Some(strong) = api.upgrade() else {
        return;
    };
    let (stop, store) = (strong.options.shutdown.clone(), strong.store.clone());
    let changed = strong.aggregation.changed.clone();
    drop(strong);
    let mut states = States::new();
    // Up to where it was looked what changed behind Services: a wake for another reason must not
    // skip any of it.
    let mut followed = store.revision();
    while !stop.is_cancelled() {
        let Some(api) = api.upgrade() else {
            return;
        };
        let seen = store.revision();
        if let Err(error) = local::reconcile(&api, false).await {
            tracing::warn!(%error, "the list of APIServices was not brought up to date");
        }
        if let Err(error) = trust::publish(&api).await {
            tracing::warn!(%error, "what servers behind this one must know was not published");
        }
        if let Some(true) = stop.run_until_cancelled(round(&api, &mut states)).await {
            let _one_at_a_time = api.definitions.lock().await;
            api.reload();
        }
        tell(&api, &states).await;
        drop(api);
        let due = states.values().map(|state| state.next).min();
        let waits = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let behind: &[_] = if states.is_empty() { &[] } else { &BEHIND };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
            () = written(&store, &OWN, seen) => {}
            () = waits => {}
            () = settled(&store, behind, followed) => {
                followed = store.revision();
                for state in states.values_mut() {
                    if state.ground.as_ref() != Some(&ground(&store, &state.link)) {
                        let soonest = state.looked.map_or_else(Instant::now, |at| at + PAUSE);
                        state.next = state.next.min(soonest);
                    }
                }
            }
        }
    }
}

/// Look at what is due. Answers whether the catalog must be made anew.
async fn round(api: &Api, states: &mut States) -> bool {
    read(api, states);
    let now = Instant::now();
    let due = states.iter().filter(|(_, state)| state.next <= now);
    let looks = due.map(|(name, state)| async move {
        let (group, version) = (&state.said.group, &state.said.version);
        let ground = ground(&api.store, &state.link);
        let verdict = check(&ground, &state.link, group, version).await;
        let known = match verdict.is_available {
            true => fetch(&state.link, group, version, &state.known).await,
            false => state.known.gone_stale(),
        };
        (name.clone(), ground, verdict, known)
    });
    let looks: Vec<_> = looks.collect();
    let found: Vec<_> = stream::iter(looks)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for (name, ground, verdict, known) in found {
        let Some(state) = states.get_mut(&name) else {
            continue;
        };
        if state.verdict.as_ref() != Some(&verdict) && !verdict.is_available {
            api.metrics.unavailable(&name, verdict.reason);
        }
        state.pause = match verdict.is_available {
            true => PAUSE,
            false => (state.pause * 2).min(PERIOD),
        };
        let looked = Instant::now();
        state.looked = Some(looked);
        state.next = looked
            + if verdict.is_available {
                PERIOD
            } else {
                state.pause
            };
        state.verdict = Some(verdict);
        state.ground = Some(ground);
        if *state.known != known {
            state.known = Arc::new(known);
        }
    }
    let remotes = states.values().map(|state| {
        Arc::new(Remote {
            name: state.said.name.clone(),
            group: state.said.group.clone(),
            version: state.said.version.clone(),
            group_priority: state.said.group_priority,
            version_priority: state.said.version_priority,
            link: state.link.clone(),
            is_available: state.verdict.as_ref().is_some_and(|one| one.is_available),
            known: state.known.clone(),
        })
    });
    api.aggregation.replace(remotes.collect())
}

/// Take the APIServices as they are stored now.
fn read(api: &Api, states: &mut States) {
    let stored = api.store.list(STORAGE, None).objects;
    let parsed = stored
        .iter()
        .filter_map(|one| Said::parse(&serde_json::from_slice(&one.json).ok()?));
    let mut before = std::mem::take(states);
    for said in parsed.take(SERVERS) {
        let held = before.remove(&said.name);
        let link = said.link(&api.store, &api.options, held.as_ref().map(|one| &one.link));
        let state = match held {
            Some(held) if Arc::ptr_eq(&held.link, &link) => State { said, ..held },
            _ => State {
                said,
                link,
                verdict: None,
                known: Arc::default(),
                ground: None,
                looked: None,
                next: Instant::now(),
                pause: PAUSE / 2,
            },
        };
        states.insert(state.said.name.clone(), state);
    }
}

/// Write what was found into the statuses that say something else.
async fn tell(api: &Api, states: &States) {
    let local = Verdict::local();
    for stored in api.store.list(STORAGE, None).objects {
        let Ok(current) = serde_json::from_slice::<Value>(&stored.json) else {
            continue;
        };
        let verdict = match at(&current, &["spec", "service"]) {
            None => Some(&local),
            Some(_) => states
                .get(&*stored.key.name)
                .and_then(|state| state.verdict.as_ref()),
        };
        let Some(verdict) = verdict else {
            continue;
        };
        if let Err(error) = note(api, &stored, current, verdict).await {
            let name = &stored.key.name;
            tracing::warn!(%error, %name, "the status of an APIService was not written");
        }
    }
}

async fn note(
    api: &Api,
    stored: &Object,
    current: Value,
    verdict: &Verdict,
) -> Result<(), WriteError> {
    let mut next = current.clone();
    let status = if verdict.is_available {
        "True"
    } else {
        "False"
    };
    let (reason, message) = (verdict.reason, &verdict.message);
    set_condition(
        &mut next,
        "Available",
        status,
        reason,
        message,
        Timestamp::now(),
    );
    if next == current {
        return Ok(());
    }
    if let Some(kind) = api.catalog().find(super::GROUP, "v1", "apiservices") {
        track_own_status(kind, &current, &mut next);
    }
    match api.store.update(&stored.key, stored.revision, next).await {
        // Who was quicker has woken this task.
        Ok(_) | Err(WriteError::Conflict { .. } | WriteError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The same for what is written often: until a moment later, so that a burst counts once.
async fn settled(store: &Store, resources: &[Watched], after: u64) {
    written(store, resources, after).await;
    tokio::time::sleep(BURST).await;
}

/// Wait until somebody writes an object of one of these resources after this revision.
async fn written(store: &Store, resources: &[Watched], after: u64) {
    if resources.is_empty() {
        return std::future::pending().await;
    }
    let waits = resources.iter().map(|(resource, namespace)| {
        Box::pin(async move {
            // What can no longer be followed from there has surely been written.
            if let Ok(mut watch) = store.watch(resource, *namespace, after) {
                let _ = watch.next().await;
            }
        })
    });
    select_all(waits).await;
}
