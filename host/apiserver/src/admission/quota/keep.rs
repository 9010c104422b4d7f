//! Notes in each quota's status what is used, after every change: what admission cannot see coming
//! is objects that go, pods that end, and quotas that are new.
//!
//! Without quotas it sleeps. With some it looks ten times a second whether anything was written, and
//! counts again if so; what did not change since is not measured again.

use std::{sync::Weak, time::Duration};

use super::{super::written, note};
use crate::api::Api;

/// How soon a change shows in the status.
const PAUSE: Duration = Duration::from_millis(100);
/// Pods stop counting when their grace period is over, which nobody writes.
const RECOUNT: Duration = Duration::from_secs(10);

/// Keep the status of all quotas until the server stops.
pub(crate) async fn keep(api: Weak<Api>) {
    let Some(strong) = api.upgrade() else {
        return;
    };
    let (stop, store) = (strong.options.shutdown.clone(), strong.store.clone());
    drop(strong);
    let (mut seen, mut since) = (0, Duration::ZERO);
    while !stop.is_cancelled() {
        let Some(api) = api.upgrade() else {
            return;
        };
        let quotas = api.admission.quotas.get(&store);
        let revision = store.revision();
        if revision != seen || since >= RECOUNT {
            (seen, since) = (revision, Duration::ZERO);
            api.admission.ledger.retain(&quotas);
            for (namespace, quotas) in quotas.iter() {
                let mut turn = api.admission.ledger.turn(namespace).await;
                for quota in quotas {
                    let used = turn.used(&api, namespace, quota);
                    if let Err(error) = note(&api, namespace, quota, &used).await {
                        tracing::warn!(%error, namespace, "the status of a quota was not written");
                    }
                }
            }
        }
        let idle = quotas.is_empty();
        drop((quotas, api));
        tokio::select! {
            () = stop.cancelled() => return,
            () = written(&store, "resourcequotas", seen) => {}
            () = tokio::time::sleep(PAUSE), if !idle => since += PAUSE,
        }
    }
}
