//! Keeps what a pod's volumes show current while it runs: ConfigMaps and Secrets as they change, the
//! pod's own labels and annotations, and tokens before they expire.
//!
//! Each change is written as soon as it is seen, in one step for each volume ([`super::atomic`]). What
//! can no longer be told (a ConfigMap that was deleted) leaves the volume as it is, with an event.

use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use eyot_client::EventType;
use eyot_runtime::PodRef;
use futures::future::select_all;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod, Secret};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    objects::{Known, Watched},
    payload,
};
use crate::{
    context::Context,
    env::{Facts, Sources},
    fetch::{self, Tokens},
};

/// Pause before tokens are asked for again that were refused.
const AGAIN: Duration = Duration::from_secs(30);
/// The longest sleep: a machine that slept finds its clock ahead.
const LONGEST: Duration = Duration::from_secs(300);

/// One pod whose volumes are kept current.
pub(crate) struct Refresh {
    pub(crate) context: Arc<Context>,
    pub(crate) reference: PodRef,
    /// The pod as it was when its volumes were set up.
    pub(crate) pod: Arc<Pod>,
    /// The pod as it is.
    pub(crate) updates: watch::Receiver<Option<Arc<Pod>>>,
    pub(crate) facts: Facts,
    pub(crate) tokens: Tokens,
    /// Whom events are about.
    pub(crate) object: ObjectReference,
}

/// Whether there is anything to keep current.
pub(crate) fn concerns(pod: &Pod) -> bool {
    payload::volumes(pod).any(payload::is_written)
}

impl Refresh {
    /// Work until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut watched = Subscriptions::of(&self.context, &self.reference.namespace, &self.pod);
        let is_downward = payload::volumes(&self.pod).any(payload::is_downward);
        let mut said = String::new();
        loop {
            let due = self.tokens.due();
            tokio::select! {
                () = cancel.cancelled() => return,
                () = watched.changed() => {}
                changed = self.updates.changed() => {
                    // The pod's actor is gone, or the pod is: neither needs this any more.
                    let Some(pod) = changed.ok().and_then(|()| self.updates.borrow_and_update().clone()) else {
                        return;
                    };
                    let before = std::mem::replace(&mut self.pod, pod);
                    if !is_downward || same_fields(&before, &self.pod) {
                        continue;
                    }
                }
                () = sleep_until(due) => {
                    if !self.renew().await {
                        continue;
                    }
                }
            }
            let Some(mut sources) = watched.sources() else {
                continue;
            };
            sources.tokens = self.tokens.texts();
            if let Some(message) = self.write(sources).await
                && message != said
            {
                self.context.events.record(
                    self.object.clone(),
                    EventType::Warning,
                    "FailedMount",
                    message.clone(),
                );
                said = message;
            }
        }
    }

    /// Whether there are new tokens.
    async fn renew(&mut self) -> bool {
        if !self.tokens.are_due() {
            return false;
        }
        let (client, namespace) = (&self.context.client, &self.reference.namespace);
        match fetch::tokens(client, namespace, &self.pod).await {
            Ok(tokens) => {
                self.tokens = tokens;
                true
            }
            Err(error) => {
                tracing::warn!(pod = %self.reference, %error, "tokens were not renewed; trying again");
                self.tokens.put_off(AGAIN);
                false
            }
        }
    }

    /// Bring the volumes up to date; what went wrong, if anything.
    async fn write(&self, sources: Sources) -> Option<String> {
        let directories = self.context.volumes_of(&self.reference.uid);
        let (pod, facts) = (Arc::clone(&self.pod), self.facts.clone());
        let written = tokio::task::spawn_blocking(move || {
            super::update(&pod, &directories, &sources, &facts)
        });
        match written.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }
}

fn same_fields(before: &Pod, after: &Pod) -> bool {
    let (before, after) = (&before.metadata, &after.metadata);
    before.labels == after.labels && before.annotations == after.annotations
}

async fn sleep_until(due: Option<Duration>) {
    match due {
        Some(left) => tokio::time::sleep(left.min(LONGEST)).await,
        None => std::future::pending().await,
    }
}

/// By name: what keeps an object watched, and what it says.
type Shown<K> = HashMap<String, (Arc<Watched<K>>, watch::Receiver<Known<K>>)>;

/// The objects that the volumes of one pod show.
struct Subscriptions {
    config_maps: Shown<ConfigMap>,
    secrets: Shown<Secret>,
}

impl Subscriptions {
    fn of(context: &Context, namespace: &str, pod: &Pod) -> Self {
        let (maps, secrets) = payload::sources(pod);
        let config_maps = maps.into_iter().map(|name| {
            let watched = context.objects.config_map(namespace, &name);
            let latest = watched.subscribe();
            (name, (watched, latest))
        });
        let secrets = secrets.into_iter().map(|name| {
            let watched = context.objects.secret(namespace, &name);
            let latest = watched.subscribe();
            (name, (watched, latest))
        });
        let mut all = Self {
            config_maps: config_maps.collect(),
            secrets: secrets.collect(),
        };
        // What is there already may be newer than what was written.
        for (_, latest) in all.config_maps.values_mut() {
            latest.mark_changed();
        }
        for (_, latest) in all.secrets.values_mut() {
            latest.mark_changed();
        }
        all
    }

    async fn changed(&mut self) {
        type Change<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
        fn change<K: Send + Sync>(latest: &mut watch::Receiver<Known<K>>) -> Change<'_> {
            Box::pin(async {
                // A watch that ended for good tells nothing new.
                if latest.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            })
        }
        let maps = self.config_maps.values_mut();
        let maps = maps.map(|(_, latest)| change(latest));
        let secrets = self.secrets.values_mut();
        let secrets = secrets.map(|(_, latest)| change(latest));
        let all: Vec<Change<'_>> = maps.chain(secrets).collect();
        if all.is_empty() {
            std::future::pending::<()>().await;
        }
        select_all(all).await;
    }

    /// What they say; `None` until all are known.
    fn sources(&self) -> Option<Sources> {
        let mut sources = Sources::default();
        for (name, (_, latest)) in &self.config_maps {
            let known = latest.borrow().clone()?;
            let known = known.map(|map| (*map).clone());
            sources.config_maps.insert(name.clone(), known);
        }
        for (name, (_, latest)) in &self.secrets {
            let known = latest.borrow().clone()?;
            let known = known.map(|secret| (*secret).clone());
            sources.secrets.insert(name.clone(), known);
        }
        Some(sources)
    }
}
