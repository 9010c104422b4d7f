//! `ResourceQuota`: how much of everything a namespace may hold, exactly.
//!
//! What a namespace holds is counted from the stored objects, each measured once for each of its
//! revisions. A write that a quota is about takes the namespace's turn, is checked against what is
//! there, notes the new sum in the quota's status, and keeps the turn until it is done or has failed:
//! so no two writes can pass on the same remainder, and a namespace without quotas waits for nobody.
//! What objects give back when they change or go is noted by [`mod@keep`], in its own turn.

mod keep;
mod measure;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use eyot_store::{Key, WriteError};
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

pub(crate) use self::keep::keep;
use self::measure::{Measured, Scope, is_terminating};
use super::{
    Admitted, Attributes, Operation,
    resources::{self, Amounts, amounts},
};
use crate::{
    api::Api,
    failure::Failure,
    object::{self, at, text},
    quantity::Quantity,
};

pub(super) const RESOURCES: &[&str] = &["resourcequotas"];
/// Tries to write a quota's status against others who write the quota.
const ATTEMPTS: usize = 8;

/// One quota, as far as it decides.
#[derive(Debug)]
pub(super) struct Quota {
    name: String,
    hard: Amounts,
    scopes: Vec<Scope>,
}

/// The quotas of each namespace that has any, by name.
pub(super) type Quotas = HashMap<String, Vec<Quota>>;

pub(super) fn compile(stored: &[Value]) -> Quotas {
    let mut quotas = Quotas::new();
    for quota in stored {
        let of = quotas.entry(object::namespace(quota).to_owned());
        of.or_default().push(Quota {
            name: object::name(quota).to_owned(),
            hard: amounts(at(quota, &["spec", "hard"])),
            scopes: measure::scopes(quota.get("spec").unwrap_or(&Value::Null)),
        });
    }
    quotas
}

/// Whose turn it is in each namespace, and what its objects were measured at.
#[derive(Default)]
pub(super) struct Ledger(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Book>>>>);

/// What the objects of one namespace hold.
#[derive(Default)]
pub(super) struct Book {
    /// By the store's resource, then by name, with the revision that was measured.
    measured: HashMap<String, HashMap<Arc<str>, (u64, Measured)>>,
}

/// A namespace's turn.
pub(super) type Turn = OwnedMutexGuard<Book>;

impl Ledger {
    async fn turn(&self, namespace: &str) -> Turn {
        let book = {
            let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            books.entry(namespace.to_owned()).or_default().clone()
        };
        book.lock_owned().await
    }

    /// Forget namespaces that have no quotas (any more).
    fn retain(&self, quotas: &Quotas) {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        books.retain(|namespace, book| {
            quotas.contains_key(namespace) || Arc::strong_count(book) > 1
        });
    }
}

impl Book {
    /// What the stored objects use of what the quota limits.
    fn used(&mut self, api: &Api, namespace: &str, quota: &Quota) -> Amounts {
        let mut used = Amounts::new();
        for (resource, plural) in measure::counted(api, &quota.hard) {
            let names = measure::concerned(&resource, &plural, &quota.hard);
            for name in &names {
                used.entry(name.clone()).or_insert(Quantity::whole(0));
            }
            let stored = api.store.list(&resource, Some(namespace)).objects;
            let before = self.measured.remove(&resource).unwrap_or_default();
            let mut now = HashMap::with_capacity(stored.len());
            for object in stored {
                let known = before
                    .get(&object.key.name)
                    .filter(|(at, _)| *at == object.revision);
                let measured = match known {
                    Some((_, measured)) => measured.clone(),
                    None => match serde_json::from_slice(&object.json) {
                        Ok(value) => Measured::of(&resource, &value),
                        Err(_) => continue,
                    },
                };
                if quota.scopes.iter().all(|scope| measured.is_in(scope)) {
                    resources::add(&mut used, &masked(&measured.usage, &names));
                }
                now.insert(object.key.name.clone(), (object.revision, measured));
            }
            self.measured.insert(resource, now);
        }
        used
    }
}

fn masked(amounts: &Amounts, names: &[String]) -> Amounts {
    let held = amounts.iter().filter(|(name, _)| names.contains(name));
    held.map(|(name, amount)| (name.clone(), *amount)).collect()
}

pub(super) async fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
    admitted: &mut Admitted,
) -> Result<(), Failure> {
    let namespace = attributes.call.namespace.as_str();
    if namespace.is_empty() || object.is_null() || !is_counted(attributes, object) {
        return Ok(());
    }
    if !api.admission.quotas.get(&api.store).contains_key(namespace) {
        return Ok(());
    }
    let mut turn = api.admission.ledger.turn(namespace).await;
    // As they are now that it is our turn.
    let quotas = api.admission.quotas.get(&api.store);
    let Some(quotas) = quotas.get(namespace) else {
        return Ok(());
    };
    let resource = &attributes.call.resource;
    let (stored, plural) = (resource.storage.to_string(), resource.plural.as_str());
    // Measured in the form in which it is stored.
    let next = Measured::of(&stored, &resource.stored(object.clone()));
    let before = attributes
        .old
        .filter(|_| attributes.operation == Operation::Update)
        .map(|old| Measured::of(&stored, &resource.stored(old.clone())));
    let mut sums = Vec::new();
    for quota in quotas {
        let names = measure::concerned(&stored, plural, &quota.hard);
        if names.is_empty() || !quota.scopes.iter().all(|scope| next.is_in(scope)) {
            continue;
        }
        if let Some(why) = measure::missing(&stored, object, &names) {
            let why = format!("failed quota: {}: {why}", quota.name);
            return Err(attributes.forbidden(object, why));
        }
        let counted = before
            .as_ref()
            .filter(|before| quota.scopes.iter().all(|scope| before.is_in(scope)));
        let mut wanted = masked(&next.usage, &names);
        if let Some(before) = counted {
            for (name, amount) in &mut wanted {
                if let Some(held) = before.usage.get(name) {
                    let more = amount.minus(*held);
                    *amount = if more.is_negative() {
                        Quantity::whole(0)
                    } else {
                        more
                    };
                }
            }
        }
        wanted.retain(|_, amount| !amount.is_zero());
        if wanted.is_empty() {
            continue;
        }
        let mut used = turn.used(api, namespace, quota);
        check(quota, &wanted, &used).map_err(|why| attributes.forbidden(object, why))?;
        resources::add(&mut used, &wanted);
        sums.push((quota, used));
    }
    if sums.is_empty() || attributes.dry_run {
        return Ok(());
    }
    for (quota, used) in sums {
        note(api, namespace, quota, &used)
            .await
            .map_err(Failure::internal)?;
    }
    admitted.turn = Some(turn);
    Ok(())
}

/// Whether a write can change what is counted.
fn is_counted(attributes: &Attributes<'_>, object: &Value) -> bool {
    let resource = &attributes.call.resource;
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => true,
        (Operation::Update, "") if resource.is("", "pods") => attributes
            .old
            .is_some_and(|old| is_terminating(old) != is_terminating(object)),
        (Operation::Update, "") => {
            resource.is("", "services") || resource.is("", "persistentvolumeclaims")
        }
        (Operation::Update, "resize") => resource.is("", "pods"),
        _ => false,
    }
}

fn check(quota: &Quota, wanted: &Amounts, used: &Amounts) -> Result<(), String> {
    let zero = Quantity::whole(0);
    let exceeded: Vec<&String> = wanted
        .iter()
        .filter(|(name, amount)| {
            let held = used.get(*name).copied().unwrap_or(zero);
            let hard = quota.hard.get(*name).copied().unwrap_or(zero);
            held.join(**amount) > hard
        })
        .map(|(name, _)| name)
        .collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let shown = |amounts: &Amounts| {
        let pairs = exceeded.iter().map(|name| {
            let amount = amounts.get(*name).copied().unwrap_or(zero);
            format!("{name}={amount}")
        });
        pairs.collect::<Vec<_>>().join(",")
    };
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.name,
        shown(wanted),
        shown(used),
        shown(&quota.hard)
    ))
}

/// Write what is used into the quota's status, if it is not there already.
async fn note(api: &Api, namespace: &str, quota: &Quota, used: &Amounts) -> Result<(), WriteError> {
    let key = Key::new("resourcequotas", namespace, quota.name.as_str());
    let list = |amounts: &Amounts| -> BTreeMap<String, String> {
        amounts
            .iter()
            .map(|(k, v)| (k.clone(), v.to_string()))
            .collect()
    };
    let status = json!({"hard": list(&quota.hard), "used": list(used)});
    for _ in 0..ATTEMPTS {
        let Some(stored) = api.store.get(&key) else {
            return Ok(());
        };
        let parsed = serde_json::from_slice::<Value>(&stored.json);
        let Ok(mut value) = parsed else {
            return Ok(());
        };
        // It was changed since it was read: whoever changed it is followed by a recount.
        let hard = amounts(at(&value, &["spec", "hard"]));
        if value.get("status") == Some(&status) || hard != quota.hard {
            return Ok(());
        }
        value["status"] = status.clone();
        match api.store.update(&key, stored.revision, value).await {
            Err(WriteError::Conflict { .. }) => {}
            Err(WriteError::NotFound) | Ok(_) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    tracing::debug!(
        namespace,
        quota = quota.name,
        "the status of a quota was not written"
    );
    Ok(())
}

/// A word of a resource's quota: `requests.cpu` of pods.
fn named(value: &Value, path: &[&str]) -> Option<Quantity> {
    text(value, path).parse().ok()
}
