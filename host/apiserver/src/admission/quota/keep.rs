//! Notes in each quota's status what is used, after every change: what admission cannot see coming
//! is objects that go, pods that end, and quotas that are new.
//!
//! It sleeps until a quota is written, or something that one of them counts; what did not change
//! since is not measured again.

use std::{collections::BTreeSet, sync::Weak, time::Duration};

use futures::future;

use super::{super::written, measure, note};
use crate::api::Api;

/// How soon a change shows in the status: what comes in meanwhile is counted together.
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
    while !stop.is_cancelled() {
        let Some(api) = api.upgrade() else {
            return;
        };
        let quotas = api.admission.quotas.get(&store);
        let seen = store.revision();
        let mut counted = BTreeSet::from(["resourcequotas".to_owned()]);
        api.admission.ledger.retain(&quotas);
        for (namespace, quotas) in quotas.iter() {
            let mut turn = api.admission.ledger.turn(namespace).await;
            for quota in quotas {
                let resources = measure::counted(&api, &quota.hard).into_iter();
                counted.extend(resources.map(|(resource, _)| resource));
                let used = turn.used(&api, namespace, quota);
                if let Err(error) = note(&api, namespace, quota, &used).await {
                    tracing::warn!(%error, namespace, "the status of a quota was not written");
                }
            }
        }
        let idle = quotas.is_empty();
        drop((quotas, api));
        let news = counted.iter().map(|name| written(&store, name, seen));
        let news = async {
            future::select_all(news.map(Box::pin)).await;
            if !idle {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = news => {}
            () = tokio::time::sleep(RECOUNT), if !idle => {}
        }
    }
}
