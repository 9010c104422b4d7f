//! Events about what the controllers did, written behind their backs: a controller that has
//! created a pod goes on at once, and if very much happens, some of it is not announced.

use std::borrow::Cow;

use eyot_client::{EventType, Recorder};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events waiting to be written; further ones are dropped.
const WAITING: usize = 256;

struct Said {
    about: ObjectReference,
    kind: EventType,
    reason: Cow<'static, str>,
    message: String,
}

/// Announces in the name of one component. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Announcer {
    said: mpsc::Sender<Said>,
}

impl Announcer {
    pub(crate) fn start(client: Client, component: &'static str, stop: CancellationToken) -> Self {
        let (said, mut heard) = mpsc::channel::<Said>(WAITING);
        let recorder = Recorder::new(client, component);
        tokio::spawn(async move {
            while let Some(Some(event)) = stop.run_until_cancelled(heard.recv()).await {
                recorder
                    .event(&event.about, event.kind, &event.reason, &event.message)
                    .await;
            }
        });
        Self { said }
    }

    /// One whom nobody hears.
    #[cfg(test)]
    pub(crate) fn silent() -> Self {
        Self {
            said: mpsc::channel(1).0,
        }
    }

    pub(crate) fn normal<K>(&self, about: &K, reason: impl Into<Cow<'static, str>>, message: String)
    where
        K: Resource<DynamicType = ()>,
    {
        self.say(about, EventType::Normal, reason.into(), message);
    }

    pub(crate) fn warning<K>(
        &self,
        about: &K,
        reason: impl Into<Cow<'static, str>>,
        message: String,
    ) where
        K: Resource<DynamicType = ()>,
    {
        self.say(about, EventType::Warning, reason.into(), message);
    }

    fn say<K>(&self, about: &K, kind: EventType, reason: Cow<'static, str>, message: String)
    where
        K: Resource<DynamicType = ()>,
    {
        let said = Said {
            about: about.object_ref(&()),
            kind,
            reason,
            message,
        };
        if let Err(error) = self.said.try_send(said) {
            let reason = error.into_inner().reason;
            tracing::debug!(
                %reason,
                "too much happens at once: an event is not announced"
            );
        }
    }
}
