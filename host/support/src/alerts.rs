//! Alerts: conditions of readings, pods and nodes that become notifications.
//!
//! ```text
//!  readings ─▶ observe ─┐
//!  pods, nodes ─▶ look ─┼─▶ ledger: what holds since when ─▶ run: notifications, status of the rules
//!  AlertRules ─▶ follow ┘
//! ```
//!
//! A rule's [condition](rule) is a pure function of one reading, pod or node; the [`Ledger`] knows what
//! holds and what was told of. Whoever brings a reading waits for nobody: it changes the ledger, and the
//! task that runs does the rest. What was told of is in the rule's status, which is how a host that
//! is started again does not tell it again. A host that dies between a notification and its status does.

mod ledger;
mod rule;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use eyot_api::{AlertRule, AlertRuleStatus, alert_rule::Alert};
use eyot_client::{Cache, Key, Watches, view::Pod};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::{
    ledger::{Ledger, Outcome},
    rule::Rule,
};
use crate::{Inner, notifications::Notice};

pub use rule::{Measured, Observed};

/// How often pods are looked at again: some conditions end by time alone.
const LOOK: Duration = Duration::from_secs(60);
/// Before a notification that could not be stored is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Alerts that a status shows.
const SHOWN: usize = 64;
const SENDER: &str = "eyot-alerts";
const CATEGORY: &str = "alert";

pub(crate) struct Alerts {
    rules: Cache<AlertRule>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    ledger: Mutex<Ledger>,
    /// Whether any rule is about readings.
    of_readings: AtomicBool,
    /// Something holds or does not any more, or a rule is another.
    changed: Arc<Notify>,
}

impl Alerts {
    pub(crate) fn new(watches: &Watches) -> Self {
        let changed = Arc::new(Notify::new());
        let (rules, pods, nodes) = (watches.of(), watches.of(), watches.of());
        wake(&rules, &changed);
        wake(&pods, &changed);
        wake(&nodes, &changed);
        Self {
            rules,
            pods,
            nodes,
            ledger: Mutex::default(),
            of_readings: AtomicBool::new(false),
            changed,
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn observe(&self, reading: &Observed<'_>) {
        if self.of_readings.load(Ordering::Relaxed) && self.ledger().observe(reading) {
            self.changed.notify_one();
        }
    }

    /// Whether readings are looked at.
    #[cfg(test)]
    pub(crate) fn is_awake(&self) -> bool {
        self.of_readings.load(Ordering::Relaxed)
    }

    /// Take over the rules as they are now.
    fn follow(&self) {
        let rules = self.rules.list();
        let mut ledger = self.ledger();
        ledger.retain(|key| rules.iter().any(|rule| Key::of(&rule.metadata) == *key));
        for rule in &rules {
            let known = rule.status.iter().flat_map(|status| &status.alerts);
            let known = known.map(|alert| (alert.object.clone(), alert.since.0));
            ledger.set(Key::of(&rule.metadata), Rule::of(rule), known);
        }
        let listens = ledger.rules().any(|rule| rule.is_of_readings());
        self.of_readings.store(listens, Ordering::Relaxed);
    }

    /// Look at all pods and nodes that a rule is about.
    fn look(&self) {
        let now = Timestamp::now();
        let mut ledger = self.ledger();
        if ledger.rules().any(Rule::is_of_pods) {
            ledger.pods(&self.pods.list(), now);
        }
        if ledger.rules().any(Rule::is_of_nodes) {
            ledger.nodes(&self.nodes.list());
        }
    }
}

fn wake<K: Send + Sync + 'static>(cache: &Cache<K>, whom: &Arc<Notify>) {
    let whom = whom.clone();
    cache.listen(move |_| whom.notify_one());
}

/// Tell of alerts until `stop` is cancelled.
pub(crate) async fn run(inner: Arc<Inner>, stop: CancellationToken) {
    let alerts = &inner.alerts;
    let synced = async {
        tokio::join!(
            alerts.rules.synced(),
            alerts.pods.synced(),
            alerts.nodes.synced()
        )
    };
    if stop.run_until_cancelled(synced).await.is_none() {
        return;
    }
    loop {
        alerts.follow();
        alerts.look();
        let told = tell(&inner).await;
        let next = match told {
            Ok(next) => next.unwrap_or(LOOK).min(LOOK),
            Err(()) => AGAIN,
        };
        tokio::select! {
            () = alerts.changed.notified() => {}
            () = tokio::time::sleep(next) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Make notifications of what is due; when the next may be.
async fn tell(inner: &Inner) -> Result<Option<Duration>, ()> {
    let alerts = &inner.alerts;
    let (due, next) = alerts.ledger().due(Instant::now());
    let mut failed = None;
    for outcome in due {
        let notice = notice(&outcome);
        match notice.raise(inner).await {
            Ok(_) => alerts.ledger().told(&outcome),
            Err(failure) => {
                let message = format!(
                    "{} could not be told of: {}",
                    outcome.object, failure.message
                );
                tracing::warn!(rule = %outcome.rule, message, "an alert");
                failed = Some((outcome.rule, message));
            }
        }
    }
    for rule in alerts.rules.list() {
        let key = Key::of(&rule.metadata);
        let Some(mut status) = status(&alerts.ledger(), &key) else {
            continue;
        };
        if let Some((_, message)) = failed.as_ref().filter(|(of, _)| *of == key) {
            status.last_error.get_or_insert_with(|| message.clone());
        }
        if rule.status.as_ref() != Some(&status) {
            let api: Api<AlertRule> = Api::namespaced(inner.client.clone(), &key.namespace);
            let patch = json!({"status": {
                "firing": status.firing, "alerts": status.alerts, "lastError": status.last_error,
            }});
            let params = PatchParams::default();
            let written = api
                .patch_status(&key.name, &params, &Patch::Merge(patch))
                .await;
            match written {
                Err(kube::Error::Api(answer)) if answer.code == 404 => {}
                Err(error) => {
                    tracing::warn!(rule = %key, %error, "the status of an AlertRule");
                    return Err(());
                }
                Ok(_) => {}
            }
        }
    }
    match failed {
        Some(_) => Err(()),
        None => Ok(next),
    }
}

fn status(ledger: &Ledger, key: &Key) -> Option<AlertRuleStatus> {
    let (rule, told) = ledger.of(key)?;
    let mut firing = 0;
    let mut alerts = Vec::new();
    for (object, since) in told {
        firing += 1;
        if alerts.len() < SHOWN {
            // Whole seconds, as they are stored.
            let since = Timestamp::from_second(since.as_second()).unwrap_or(since);
            alerts.push(Alert {
                object: object.to_owned(),
                since: Time(since),
            });
        }
    }
    Some(AlertRuleStatus {
        firing,
        alerts,
        last_error: rule.error().map(str::to_owned),
    })
}

fn notice(outcome: &Outcome) -> Notice {
    Notice {
        category: outcome.category.clone().unwrap_or_else(|| CATEGORY.into()),
        labels: outcome.labels.clone(),
        content: outcome.content.clone(),
        content_type: "text/plain".to_owned(),
        description: format!("AlertRule {}", outcome.rule),
        sender: SENDER.to_owned(),
        severity: outcome.severity.to_owned(),
        ..Notice::default()
    }
}
