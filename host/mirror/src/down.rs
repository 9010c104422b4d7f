//! From the cloud to here: what the cloud shows of each kind is listed once, then watched, and written
//! into this node's store.
//!
//! Nothing about it is remembered. After a cut the watch goes on at its revision if the cloud still
//! knows that, else the list is compared, object by object, with what is here; what is equal is not
//! written, so nobody here hears of it. What a start finds in the store is used at once and compared
//! when there is somebody to compare it with.

use std::{collections::HashSet, sync::Arc};

use eyot_store::Key;
use futures::StreamExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    context::{Context, Shown},
    kind::{Kind, Which},
    local::{LocalError, parsed},
    marks,
    remote::RemoteError,
};

/// What marks a pod that a node told the cloud of.
pub(crate) const MIRROR_POD: &str = "kubernetes.io/config.mirror";

/// Some objects of one kind.
pub(crate) struct Source {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: String,
    pub(crate) fields: String,
}

/// Why following had to be begun again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interrupted {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Local(#[from] LocalError),
}

impl Source {
    /// All of a kind that concern the node.
    pub(crate) fn of(kind: &'static Kind, node: &str) -> Self {
        Self {
            kind,
            namespace: String::new(),
            fields: match kind.which {
                Which::Own => format!("metadata.name={node}"),
                Which::Bound => format!("spec.nodeName={node}"),
                Which::Every | Which::Wanted => String::new(),
            },
        }
    }

    /// One object.
    pub(crate) fn one(kind: &'static Kind, key: &Key) -> Self {
        Self {
            kind,
            namespace: key.namespace.to_string(),
            fields: format!("metadata.name={}", key.name),
        }
    }

    /// Keep up with the cloud until told to stop.
    pub(crate) async fn follow(self, context: Arc<Context>, stop: CancellationToken) {
        let work = async {
            let (mut at, mut failures) = (None, 0);
            loop {
                match self.turn(&context, &mut at, &mut failures).await {
                    // The cloud ended a watch, as it does from time to time.
                    Ok(()) => {
                        context.pause(0, self.kind.plural).await;
                        continue;
                    }
                    Err(Interrupted::Remote(RemoteError::Expired)) => at = None,
                    Err(Interrupted::Remote(RemoteError::Unreachable(why))) => {
                        context.link.lost(&why);
                    }
                    Err(error) => {
                        tracing::warn!(kind = self.kind.plural, %error, "not mirrored; trying again");
                        at = None;
                        // Nobody waits for what this node is not shown, by an older cloud say.
                        if let Interrupted::Remote(RemoteError::Refused(_) | RemoteError::Missing) =
                            error
                        {
                            context.filling.has(self.kind, &context.local).await;
                        }
                    }
                }
                context.pause(failures, self.kind.plural).await;
                failures += 1;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// List if need be, then watch until the cloud ends that.
    async fn turn(
        &self,
        context: &Arc<Context>,
        at: &mut Option<String>,
        failures: &mut u32,
    ) -> Result<(), Interrupted> {
        let (remote, kind) = (&context.remote, self.kind);
        let after = match at {
            Some(after) => after.clone(),
            None => {
                let (items, revision) = remote.list(kind, &self.namespace, &self.fields).await?;
                self.settle(context, items).await?;
                context.filling.has(kind, &context.local).await;
                at.insert(revision).clone()
            }
        };
        let mut events = remote
            .watch(kind, &self.namespace, &self.fields, &after)
            .await?;
        context.link.found();
        *failures = 0;
        while let Some(event) = events.next().await {
            let (change, object) = event?;
            let revision = object["metadata"]["resourceVersion"].as_str();
            let revision = revision.unwrap_or_default().to_owned();
            match &*change {
                "ADDED" | "MODIFIED" => context.take(kind, object).await?,
                "DELETED" => context.lose(kind, &kind.key_of(&object)).await?,
                _ => {}
            }
            *at = Some(revision);
        }
        Ok(())
    }

    /// Make what is here be what was listed.
    async fn settle(&self, context: &Arc<Context>, items: Vec<Value>) -> Result<(), LocalError> {
        let kind = self.kind;
        let listed: HashSet<Key> = items.iter().map(|item| kind.key_of(item)).collect();
        for item in items {
            context.take(kind, item).await?;
        }
        // An own Node that the cloud does not have is made there.
        if kind.which == Which::Own {
            context.touch(kind.key("", &context.node));
            return Ok(());
        }
        let name = self.fields.strip_prefix("metadata.name=");
        let namespace = Some(&*self.namespace).filter(|namespace| !namespace.is_empty());
        let here = context.local.keys(kind, namespace);
        for key in here.iter().filter(|key| !listed.contains(key)) {
            if name.is_none_or(|name| *key.name == *name) {
                context.lose(kind, key).await?;
            }
        }
        Ok(())
    }
}

impl Context {
    /// Take an object as the cloud shows it.
    pub(crate) async fn take(&self, kind: &Kind, cloud: Value) -> Result<(), LocalError> {
        let key = kind.key_of(&cloud);
        let is_pod = kind.is("pods");
        // What this node told of its own pods comes back.
        if is_pod && marks::mark(&cloud, MIRROR_POD).is_some() {
            return Ok(());
        }
        if kind.observed {
            self.shown.put(&key, Shown::of(kind, &cloud));
        }
        let local = self.local.get(&key);
        if is_pod && local.is_none() {
            // So that it finds what it needs when it starts.
            self.fetch_wanted(&cloud).await;
        }
        let changed_here = local.as_ref().and_then(|(_, local)| marks::base(local));
        // A change that was made here is weighed against the cloud's by who sends it.
        if changed_here.is_none() {
            self.local.put(kind, &cloud).await?;
        }
        if kind.observed {
            self.touch(key);
        }
        if is_pod {
            self.wants.notify_one();
        }
        Ok(())
    }

    /// The cloud has an object no longer.
    pub(crate) async fn lose(&self, kind: &Kind, key: &Key) -> Result<(), LocalError> {
        self.shown.remove(key);
        if kind.which == Which::Own {
            self.touch(key.clone());
            return Ok(());
        }
        self.local.gone(kind, key).await?;
        if kind.is("pods") {
            self.wants.notify_one();
        }
        Ok(())
    }

    /// The pods here that are the cloud's.
    pub(crate) fn mirrored_pods(&self) -> Vec<Value> {
        let pods = self.local.store.list("pods", None);
        let pods = pods.objects.iter().map(|pod| parsed(pod));
        pods.filter(|pod| !marks::is_made_here(pod)).collect()
    }
}
