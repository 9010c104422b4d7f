//! The store as its users see it: in memory, across reopening, on a full disk.

#[cfg(feature = "postgres")]
pub(crate) mod cluster;
mod disk;
mod everywhere;
mod renew;
#[cfg(feature = "postgres")]
mod server;

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    ChangeKind, Expired, Key, Object, OpenError, Snapshot, Store, Watch, WriteError,
    journal::Journal, readings::Readings,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn phase(_: &str, object: &Value) -> Vec<(Box<str>, Box<str>)> {
    let phase = object
        .pointer("/status/phase")
        .and_then(Value::as_str)
        .unwrap_or_default();
    vec![("status.phase".into(), phase.into())]
}

fn pod(name: &str) -> Key {
    Key::new("pods", "default", name)
}

fn value(name: &str, phase: &str) -> Value {
    json!({ "metadata": { "name": name, "labels": { "app": name } }, "status": { "phase": phase } })
}

/// An empty store: in memory, or in a database of its own on the server that the environment names.
async fn fresh() -> Store {
    #[cfg(feature = "postgres")]
    if let Some(url) = cluster::database_of(None).await {
        let dir = tempfile::tempdir().unwrap();
        return server::connect(&url, dir.path()).await;
    }
    Store::in_memory(phase)
}

/// The store of this directory: in a file, or in a database of the same name on the server.
async fn open(dir: &Path) -> Store {
    #[cfg(feature = "postgres")]
    if let Some(url) = cluster::database_of(Some(dir)).await {
        return server::connect(&url, dir).await;
    }
    Store::open(&dir.join("eyot.db"), phase).await.unwrap()
}

fn parsed(object: &Object) -> Value {
    serde_json::from_slice(&object.json).unwrap()
}

fn all(list: &Snapshot) -> Vec<Arc<Object>> {
    list.objects.iter().cloned().collect()
}

async fn next(watch: &mut Watch) -> (ChangeKind, String, u64) {
    let change = timeout(DEADLINE, watch.next()).await.unwrap().unwrap();
    (
        change.kind,
        change.object.key.name.to_string(),
        change.object.revision,
    )
}
