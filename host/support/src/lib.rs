//! EdgeX's support services: notifications that reach people and programs, and jobs that are due at
//! certain times; and alerts, which become notifications ([`alerts`]).
//!
//! What is configuration is an object of the Kubernetes API, seen by kubectl (Subscription,
//! ScheduleJob, AlertRule); what happened is a row of [`eyot_store::Records`] (notifications, transmissions, runs).
//! EdgeX's REST API is a door onto both: [`Rest`].
//!
//! What it must not know: Wasm, SQL, and how devices are reached. A command for a device is a request
//! to core-command, which it is given as a service; a message for EdgeX's bus is handed to a function.
//!
//! Nothing is held in memory that could not be found again, and nothing runs while there is nothing to
//! do: no file, no thread and no timer of its own on a host that never notified anybody.

mod alerts;
mod clock;
mod notifications;
mod outbox;
mod rest;
mod scheduler;

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use eyot_api::{ScheduleJob, Subscription};
use eyot_client::Watches;
use eyot_edgex::{Cache, Objects};
use eyot_store::Records;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;

pub use alerts::{Measured, Observed};
pub use outbox::mail::{MailError, MailServer};
pub use rest::{Rest, SupportService};

use alerts::Alerts;
use clock::Clock;
use outbox::Outbox;

/// What the support services need.
pub struct Options {
    pub client: kube::Client,
    /// The copies that this process shares, for what alerts are about.
    pub watches: Watches,
    pub records: Arc<Records>,
    /// The namespace that EdgeX sees.
    pub namespace: String,
    /// Who takes e-mail; `None` if nobody does.
    pub mail: Option<MailServer>,
    /// EdgeX's bus.
    pub publish: Publish,
    /// core-command.
    pub commands: Commands,
}

/// The REST API of core-command.
pub type Commands = BoxCloneSyncService<eyot_http::Request, eyot_http::Response, Infallible>;

/// Puts a message on EdgeX's bus, under a topic; false if it is lost.
pub type Publish = Arc<dyn Fn(String, Bytes) -> bool + Send + Sync>;

/// The support services. Cheap to clone.
#[derive(Clone)]
pub struct Support {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    namespace: String,
    clock: Clock,
    records: Arc<Records>,
    subscriptions: Cache<Subscription>,
    jobs: Cache<ScheduleJob>,
    triggers: scheduler::Triggers,
    alerts: Alerts,
    publish: Publish,
    commands: Commands,
    outbox: Outbox,
    /// There is something to distribute or to deliver.
    work: Notify,
    /// EdgeX's clients write objects one after the other: names are looked up before they are made.
    writing: tokio::sync::Mutex<()>,
}

impl Support {
    pub fn new(options: Options) -> Self {
        let outbox = Outbox::new(
            options.client.clone(),
            options.namespace.clone(),
            options.mail,
        );
        let triggers = scheduler::Triggers::new();
        let alerts = Alerts::new(&options.watches);
        Self {
            inner: Arc::new(Inner {
                client: options.client,
                namespace: options.namespace,
                clock: Clock::default(),
                records: options.records,
                subscriptions: Cache::new(&Arc::default()),
                jobs: Cache::new(&triggers.changed),
                triggers,
                alerts,
                publish: options.publish,
                commands: options.commands,
                outbox,
                work: Notify::new(),
                writing: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// The REST API of one of the services.
    pub fn service_of(&self, service: SupportService) -> Rest {
        Rest::new(self.inner.clone(), service)
    }

    /// Tell of a reading, for alerts. Never waits.
    pub fn observe(&self, reading: &Observed<'_>) {
        self.inner.alerts.observe(reading);
    }

    /// Run until `stop` is cancelled. Call it once.
    pub async fn run(&self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let inner = self.inner.clone();
        let cancel = stop.clone();
        tasks.spawn(async move {
            inner.subscriptions.run(inner.client.clone(), cancel).await;
        });
        let (inner, cancel) = (self.inner.clone(), stop.clone());
        tasks.spawn(async move { inner.jobs.run(inner.client.clone(), cancel).await });
        let (inner, cancel) = (self.inner.clone(), stop.clone());
        tasks.spawn(async move { scheduler::run(inner, cancel).await });
        let (inner, cancel) = (self.inner.clone(), stop.clone());
        tasks.spawn(async move { notifications::deliver(inner, cancel).await });
        let inner = self.inner.clone();
        tasks.spawn(async move { alerts::run(inner, stop).await });
        while tasks.join_next().await.is_some() {}
    }
}

impl Inner {
    fn subscriptions(&self) -> Objects<'_, Subscription> {
        Objects {
            client: &self.client,
            namespace: &self.namespace,
            cache: &self.subscriptions,
        }
    }

    fn jobs(&self) -> Objects<'_, ScheduleJob> {
        Objects {
            client: &self.client,
            namespace: &self.namespace,
            cache: &self.jobs,
        }
    }
}

#[cfg(test)]
mod tests;
