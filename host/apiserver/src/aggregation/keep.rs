//! The task that keeps APIServices true: it sleeps until something is written that they depend on.

use std::sync::Weak;

use eyot_store::Store;
use futures::future::select_all;

use super::{STORAGE, local};
use crate::api::Api;

/// Keep the APIServices until the server stops.
pub(crate) async fn keep(api: Weak<Api>) {
    let Some(strong) = api.upgrade() else {
        return;
    };
    let (stop, store) = (strong.options.shutdown.clone(), strong.store.clone());
    let changed = strong.aggregation.changed.clone();
    drop(strong);
    while !stop.is_cancelled() {
        let Some(api) = api.upgrade() else {
            return;
        };
        let seen = store.revision();
        if let Err(error) = local::reconcile(&api, false).await {
            tracing::warn!(%error, "the list of APIServices was not brought up to date");
        }
        drop(api);
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
            () = written(&store, &[STORAGE], seen) => {}
        }
    }
}

/// Wait until somebody writes an object of one of these resources after this revision.
async fn written(store: &Store, resources: &[&str], after: u64) {
    let waits = resources.iter().map(|resource| {
        Box::pin(async move {
            // What can no longer be followed from there has surely been written.
            if let Ok(mut watch) = store.watch(resource, None, after) {
                let _ = watch.next().await;
            }
        })
    });
    select_all(waits).await;
}
