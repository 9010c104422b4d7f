//! Keeping parts of the host's table as the objects say: one loop for all who do.
//!
//! A keeper looks at the world, sets the rules that should be there, and says what a user should know.
//! When it is woken, how changes are gathered, when it tries again and how complaints are told is here.

use std::{collections::HashSet, future::Future, io, sync::Arc, time::Duration};

use eyot_client::{EventType, Recorder};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::Notify;

use crate::{Cluster, table::Table};

/// Changes that come within this time of each other are made together: a rollout is many.
pub(crate) const GATHER: Duration = Duration::from_millis(15);
/// The pause after a change that the kernel refused.
const AGAIN: Duration = Duration::from_secs(5);

/// What a user should know about an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Complaint {
    pub namespace: String,
    pub name: String,
    pub message: String,
}

/// The kind of object that complaints are about.
pub(crate) struct About {
    pub api_version: &'static str,
    pub kind: &'static str,
    /// Of the events.
    pub reason: &'static str,
}

/// Keeps a part of the table.
pub(crate) trait Keeper: Send {
    /// Whose rules these are, for the log.
    const RULES: &'static str;
    const ABOUT: About;

    /// Bring the table to what the objects say now.
    fn pass(
        &mut self,
        cluster: &Cluster,
        table: &Arc<Table>,
    ) -> impl Future<Output = io::Result<Vec<Complaint>>> + Send;
}

/// Work for ever, whenever `changed` says that there is something to do.
pub(crate) async fn keep<K: Keeper>(
    mut keeper: K,
    cluster: &Cluster,
    table: &Arc<Table>,
    changed: &Notify,
    client: Client,
) {
    let recorder = Recorder::new(client, "eyot-network");
    cluster.synced().await;
    let mut told = HashSet::new();
    loop {
        match keeper.pass(cluster, table).await {
            Ok(complaints) => told = tell(&recorder, &K::ABOUT, told, complaints).await,
            Err(error) => {
                tracing::warn!(%error, "the rules for {} could not be set; trying again", K::RULES);
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        }
        changed.notified().await;
        tokio::time::sleep(GATHER).await;
    }
}

/// Record each complaint once, for as long as it holds.
async fn tell(
    recorder: &Recorder,
    about: &About,
    told: HashSet<Complaint>,
    complaints: Vec<Complaint>,
) -> HashSet<Complaint> {
    let complaints: HashSet<Complaint> = complaints.into_iter().collect();
    for complaint in complaints.difference(&told) {
        let Complaint {
            namespace,
            name,
            message,
        } = complaint;
        tracing::warn!(
            kind = about.kind,
            namespace,
            name,
            message,
            "{}",
            about.reason
        );
        let object = ObjectReference {
            api_version: Some(about.api_version.to_owned()),
            kind: Some(about.kind.to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            ..ObjectReference::default()
        };
        recorder
            .event(&object, EventType::Warning, about.reason, message)
            .await;
    }
    complaints
}
