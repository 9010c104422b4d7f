//! Keeps `status.typeChecking` of ValidatingAdmissionPolicies: after each change of a policy's spec
//! its rules are checked against the kinds that it is about.
//!
//! It reads policies, the catalog and schemas, and writes the status as its own field manager, as
//! an apply would. A policy is looked at once for each generation: kinds that are defined later do
//! not bring it back.

use std::{sync::Weak, time::Duration};

use eyot_store::{Object, WriteError};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{super::written, typing};
use crate::{
    api::Api,
    managed::{self, Write},
    object::{self, at},
};

const STORAGE: &str = "validatingadmissionpolicies.admissionregistration.k8s.io";
const MANAGER: &str = "validatingadmissionpolicy-status-controller";
/// After a write that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Keep the status of all policies until the server stops.
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
        let seen = store.revision();
        let mut failed = false;
        for stored in store.list(STORAGE, None).objects {
            // Compiling takes its time.
            let checker = api.clone();
            let checked = tokio::task::spawn_blocking(move || {
                let next = checked(&checker, &stored)?;
                Some((stored, next))
            });
            let Ok(Some((stored, next))) = checked.await else {
                continue;
            };
            match store.update(&stored.key, stored.revision, next).await {
                // Somebody else wrote it, which brings it back.
                Ok(_) | Err(WriteError::NotFound | WriteError::Conflict { .. }) => {}
                Err(error) => {
                    let policy = &stored.key.name;
                    tracing::warn!(%error, %policy, "the status of a policy was not written");
                    failed = true;
                }
            }
        }
        drop(api);
        tokio::select! {
            () = stop.cancelled() => return,
            () = written(&store, STORAGE, seen) => {}
            () = tokio::time::sleep(PAUSE), if failed => {}
        }
    }
}

/// The policy with what was found; `None` if this generation was looked at already.
fn checked(api: &Api, stored: &Object) -> Option<Value> {
    let policy: Value = serde_json::from_slice(&stored.json).ok()?;
    let number = |path: &[&str]| at(&policy, path).and_then(Value::as_i64).unwrap_or(0);
    let generation = number(&["metadata", "generation"]);
    if generation <= number(&["status", "observedGeneration"]) {
        return None;
    }
    let warnings = typing::warnings(api, &policy);
    let found = match warnings.is_empty() {
        true => json!({}),
        false => json!({"expressionWarnings": warnings}),
    };
    let config = json!({
        "apiVersion": policy.get("apiVersion"), "kind": policy.get("kind"),
        "metadata": {"name": object::name(&policy)},
        "status": {"observedGeneration": generation, "typeChecking": found},
    });
    let catalog = api.catalog();
    let resource = catalog.all().iter().find(|one| &*one.storage == STORAGE)?;
    let none = |_: &str| None;
    let write = Write::new(resource, "status", MANAGER, &none, Timestamp::now())?;
    let mut next = managed::apply(&write, Some(&policy), &config, true).ok()?;
    managed::settle(&resource.api_version(), &resource.kind, &mut next);
    Some(next)
}
