//! Distributing notifications and delivering transmissions: one task, which is asleep while there is
//! nothing to do.
//!
//! All it knows is in the records, so it goes on where an earlier life was ended. It waits by a timer
//! for the next transmission that is due, and looks at the wall clock again at least every
//! [`LOOK`], because that may be set.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use eyot_api::{AdminState, Channel, SubscriptionSpec, parse_duration};
use eyot_store::{
    RecordsError,
    records::{Attempt, Escalation, NewTransmission, Notification, Pending},
};
use serde_json::{Value as Json, json};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    BYTES, FEW, MOST, PAUSE, RESENDS,
    notices::{self, Body, CRITICAL},
    transmissions::{ESCALATED, FAILED, RESENDING, SENT},
};
use crate::{Inner, outbox::Letter};

/// Deliveries at once, and of one subscription: one receiver that hangs does not hold up the others.
const AT_ONCE: usize = 16;
const OF_ONE: usize = 4;
/// Transmissions that are looked at together.
const LOOKED_AT: i64 = 256;
/// Notifications that are distributed before the deliveries are looked at again.
const IN_A_ROW: usize = 64;
/// When to look at the clock again, whatever a timer says.
const LOOK: Duration = Duration::from_secs(30);
/// When to try again if the records cannot be read.
const LATER: Duration = Duration::from_secs(5);
/// Attempts that stay noted: the last ones.
const NOTED: usize = 100;
/// Who is told of what could not be delivered.
const ESCALATION: &str = "ESCALATION";
const NOTICE: &str = "This notification is escalated by the transmission";
/// A resend never waits longer than this, whatever is asked for.
const LONGEST: i64 = 366 * 24 * 3600 * 1000;

/// What a delivery came to: what was answered, or why it failed.
type Outcome = Result<String, String>;

struct Work {
    inner: Arc<Inner>,
    deliveries: JoinSet<(Pending, Outcome)>,
    /// What is on its way, by transmission, and how many are of each subscription.
    under_way: HashSet<String>,
    of_one: HashMap<String, usize>,
    /// Notifications since the old ones were looked at.
    new: i64,
}

/// Distribute and deliver until `stop` is cancelled.
pub(crate) async fn deliver(inner: Arc<Inner>, stop: CancellationToken) {
    let mut work = Work {
        inner: inner.clone(),
        deliveries: JoinSet::new(),
        under_way: HashSet::new(),
        of_one: HashMap::new(),
        new: MOST,
    };
    let working = async {
        // Who does not know the subscriptions yet would take it that nobody is interested.
        inner.subscriptions.synced().await;
        loop {
            let woken = inner.work.notified();
            let pause = match work.look().await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(%error, "notifications wait");
                    Some(LATER)
                }
            };
            tokio::select! {
                () = woken => {}
                Some(done) = work.deliveries.join_next() => {
                    // A delivery that panicked is tried again when its turn comes.
                    if let Ok((pending, outcome)) = done {
                        work.note(pending, outcome).await;
                    }
                }
                () = async { sleep(pause.unwrap_or(LOOK)).await }, if pause.is_some() => {}
            }
        }
    };
    stop.run_until_cancelled(working).await;
}

impl Work {
    /// Do what can be done now; how long there is nothing to do after that, `None` for ever.
    async fn look(&mut self) -> Result<Option<Duration>, RecordsError> {
        let inner = self.inner.clone();
        if !inner.records.any().await {
            return Ok(None);
        }
        for _ in 0..IN_A_ROW {
            let Some(notification) = inner.records.waiting().await? else {
                break;
            };
            self.distribute(&notification).await?;
            self.new += 1;
        }
        if self.new >= (MOST - FEW) / 4 {
            self.new = 0;
            inner.records.trim_notifications(MOST, FEW, BYTES).await?;
        }
        let now = inner.clock.now();
        let (due, next) = inner.records.due(now, LOOKED_AT).await?;
        let mut left = false;
        for (id, subscription) in due {
            left |= !self.begin(&id, &subscription).await?;
        }
        if inner.records.waiting().await?.is_some() {
            return Ok(Some(Duration::ZERO));
        }
        // What could not begin begins when another ends.
        Ok(match next {
            _ if left => Some(LOOK),
            None => None,
            Some(next) => {
                let wait = u64::try_from(next - now).unwrap_or(0);
                // What is under way stays due until it is noted.
                let least = if self.under_way.is_empty() { 1 } else { 1000 };
                Some(Duration::from_millis(wait.max(least)).min(LOOK))
            }
        })
    }

    /// Make the transmissions of a notification.
    async fn distribute(&self, notification: &Notification) -> Result<(), RecordsError> {
        let inner = &self.inner;
        let body: Body = read(&notification.body);
        let escalated = notification.status == notices::ESCALATED;
        let again = body.severity == CRITICAL && !escalated;
        let mut to = Vec::new();
        for subscription in inner.subscriptions().all() {
            let spec = &subscription.spec;
            if spec.admin_state == AdminState::Unlocked && interested(spec, notification) {
                channels(&mut to, &subscription.edgex_name(), spec, again);
            }
        }
        let status = match escalated {
            true => notices::ESCALATED,
            false => notices::PROCESSED,
        };
        let records = &inner.records;
        records
            .distribute(&notification.id, status, &to, inner.clock.now())
            .await
    }

    /// Send it on its way, if there is room; false if not.
    async fn begin(&mut self, id: &str, subscription: &str) -> Result<bool, RecordsError> {
        if self.under_way.contains(id) {
            return Ok(true);
        }
        let of_one = self.of_one.get(subscription).copied().unwrap_or(0);
        if self.deliveries.len() >= AT_ONCE || of_one >= OF_ONE {
            return Ok(false);
        }
        let Some(pending) = self.inner.records.pending(id).await? else {
            return Ok(true);
        };
        self.of_one.insert(subscription.to_owned(), of_one + 1);
        self.under_way.insert(id.to_owned());
        let inner = self.inner.clone();
        self.deliveries.spawn(async move {
            let body: Body = read(&pending.notification.body);
            let letter = Letter {
                id: pending.transmission.id.clone(),
                sender: body.sender,
                content: body.content,
                content_type: body.content_type,
            };
            let outcome = match serde_json::from_str::<Channel>(&pending.transmission.channel) {
                Ok(channel) => inner.outbox.send(&channel, &letter).await,
                Err(error) => Err(format!("the channel cannot be read: {error}")),
            };
            (pending, outcome)
        });
        Ok(true)
    }

    /// Note what came of it, and what follows.
    async fn note(&mut self, pending: Pending, outcome: Outcome) {
        let now = self.inner.clock.now();
        let attempt = follow(&self.inner, &pending, outcome, now);
        self.under_way.remove(&pending.transmission.id);
        let subscription = &pending.transmission.subscription;
        if let Some(count) = self.of_one.get_mut(subscription) {
            *count -= 1;
            if *count == 0 {
                self.of_one.remove(subscription);
            }
        }
        if let Err(error) = self.inner.records.attempted(&attempt, now).await {
            // It stays due, and is sent once more.
            tracing::warn!(%error, id = attempt.id, "a delivery could not be noted");
            sleep(LATER).await;
        }
    }
}

/// What an attempt means for its transmission.
fn follow(inner: &Inner, pending: &Pending, outcome: Outcome, now: i64) -> Attempt {
    let transmission = &pending.transmission;
    let body: Body = read(&pending.notification.body);
    let critical = body.severity == CRITICAL && pending.notification.status != notices::ESCALATED;
    let mut records: Vec<Json> = read(&transmission.records);
    let first = records.is_empty();
    let (status, response) = match outcome {
        Ok(response) => (SENT, response),
        Err(why) => (FAILED, why),
    };
    records.push(json!({ "status": status, "response": response, "sent": now }));
    let surplus = records.len().saturating_sub(NOTED);
    records.drain(..surplus);
    let mut attempt = Attempt {
        id: transmission.id.clone(),
        status: status.to_owned(),
        resends: transmission.resends + i64::from(!first),
        records: json!(records).to_string(),
        due: None,
        escalation: None,
    };
    if status == FAILED && critical {
        if pending.remaining > 0 {
            attempt.status = RESENDING.to_owned();
            attempt.due = Some(now.saturating_add(pending.pause));
        } else {
            attempt.status = ESCALATED.to_owned();
            attempt.escalation = escalation(inner, pending, &body, now);
        }
    }
    attempt
}

/// What tells that a notification could not be delivered, if somebody wants to know.
fn escalation(inner: &Inner, pending: &Pending, body: &Body, now: i64) -> Option<Escalation> {
    let Some(subscription) = inner.subscriptions().find(ESCALATION) else {
        tracing::warn!(
            notification = pending.notification.id,
            subscription = pending.transmission.subscription,
            "a critical notification could not be delivered, and no subscription {ESCALATION} is there"
        );
        return None;
    };
    let told = Body {
        content: format!("[{NOTICE} {}] {}", pending.transmission.id, body.content),
        content_type: "text/plain".to_owned(),
        ..body.clone()
    };
    let notification = Notification {
        id: Uuid::new_v4().to_string(),
        created: now,
        modified: now,
        status: notices::ESCALATED.to_owned(),
        acknowledged: false,
        body: serde_json::to_string(&told).unwrap_or_default(),
        ..pending.notification.clone()
    };
    let mut transmissions = Vec::new();
    channels(&mut transmissions, ESCALATION, &subscription.spec, false);
    Some(Escalation {
        notification,
        transmissions,
    })
}

fn interested(spec: &SubscriptionSpec, notification: &Notification) -> bool {
    let category = &notification.category;
    (!category.is_empty() && spec.categories.contains(category))
        || notification
            .labels
            .iter()
            .any(|label| spec.labels.contains(label))
}

/// One transmission for each channel of a subscription.
fn channels(to: &mut Vec<NewTransmission>, name: &str, spec: &SubscriptionSpec, again: bool) {
    let pause = match spec.resend_interval.as_str() {
        "" => PAUSE,
        text => parse_duration(text).map_or(PAUSE, |pause| {
            i64::try_from(pause.as_millis()).unwrap_or(LONGEST)
        }),
    };
    let resends = match spec.resend_limit {
        limit if limit > 0 => limit,
        _ => RESENDS,
    };
    for channel in &spec.channels {
        to.push(NewTransmission {
            id: Uuid::new_v4().to_string(),
            subscription: name.to_owned(),
            channel: serde_json::to_string(channel).unwrap_or_default(),
            resends: if again { resends } else { 0 },
            pause: pause.clamp(1, LONGEST),
        });
    }
}

/// What was written by this program; what cannot be read any more is taken for empty.
fn read<T: serde::de::DeserializeOwned + Default>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_default()
}
