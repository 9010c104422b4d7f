//! `pods/eviction`: a delete that disruption budgets may veto, as `kubectl drain` asks for it.
//!
//! A grant is taken off the budget's `disruptionsAllowed` and noted in its `disruptedPods` before the
//! pod is deleted, against the version that was read: of two evictions at once one waits for the
//! other. How much is allowed is reckoned by the disruption controller.

mod budget;

use std::sync::Arc;

use eyot_http::{Body, Response};
use eyot_store::WriteError;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use self::budget::Budget;
use crate::{
    admission::{self, Attributes, Kind, Operation},
    api::Api,
    call::{self, Call},
    failure::Failure,
    media, object, reply,
    verbs::{
        create::write_failure,
        delete::{DeleteOptions, Door, remove},
    },
};

const EVICTION: Kind<'_> = Kind {
    group: "policy",
    version: "v1",
    kind: "Eviction",
};
/// Tries against other writers of the pod and of its budget.
const ATTEMPTS: usize = 16;

pub(crate) async fn evict(api: &Arc<Api>, call: Call, body: Body) -> Result<Response, Failure> {
    let media = call.media().to_owned();
    let mut eviction = media::decode(&media, &call::read(body).await?, "Eviction")?;
    let sent = eviction.get("deleteOptions").unwrap_or(&Value::Null);
    let options = DeleteOptions::parse(&call, sent)?;
    let options = DeleteOptions {
        door: Door::Eviction,
        ..options
    };
    let attributes = Attributes {
        subresource: "eviction",
        sent: Some(EVICTION),
        options: &Value::Null,
        dry_run: options.dry_run,
        ..Attributes::new(&call, Operation::Create)
    };
    let admitted = admission::admit(api, &attributes, &mut eviction).await?;
    let options = granted(api, &call, options).await?;
    if !options.dry_run {
        mark(api, &call, &options).await?;
    }
    remove(api, &call, &options).await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    let mut response = eyot_http::json(StatusCode::CREATED, &status);
    reply::warn(&mut response, &admitted.warnings);
    Ok(response)
}

/// Returns how to delete the pod once no budget forbids it.
async fn granted(
    api: &Arc<Api>,
    call: &Call,
    mut options: DeleteOptions,
) -> Result<DeleteOptions, Failure> {
    let mut contended = None;
    for _ in 0..ATTEMPTS {
        let stored = api
            .store
            .get(&call.key())
            .ok_or_else(|| call.resource.not_found(&call.name))?;
        let pod = call.resource.value(&stored)?;
        if is_no_disruption(&pod) {
            return Ok(options);
        }
        let mut budgets = budget::of_pod(api, &call.namespace, &pod)?;
        let Some(budget) = budgets.pop() else {
            return Ok(options);
        };
        if !budgets.is_empty() {
            let message = "This pod has more than one PodDisruptionBudget, which the eviction \
                           subresource does not support.";
            return Err(Failure::unknown(message));
        }
        if !is_ready(&pod) && budget.lets_unready_go() {
            // Unless it became ready meanwhile.
            let version = object::resource_version(&pod);
            options.uid.get_or_insert(object::uid(&pod).to_owned());
            if options.resource_version.is_none() {
                options.resource_version = Some(version.to_owned());
            }
            return Ok(options);
        }
        let next = budget.grant(&call.name, Timestamp::now())?;
        if options.dry_run || store(api, call, &budget, next).await? {
            return Ok(options);
        }
        contended = Some(budget.name().to_owned());
    }
    let name = contended.unwrap_or_default();
    let why = format!("couldn't update PodDisruptionBudget {name:?} due to conflicts");
    Err(Failure::conflict(
        "policy",
        "poddisruptionbudgets",
        &name,
        &why,
    ))
}

/// Whether the budget could be written before somebody else did.
async fn store(api: &Api, call: &Call, budget: &Budget, next: Value) -> Result<bool, Failure> {
    match api.store.update(&budget.key, budget.revision, next).await {
        Ok(_) => Ok(true),
        Err(WriteError::Conflict { .. } | WriteError::NotFound) => Ok(false),
        Err(error) => Err(write_failure(call, budget.name(), &error)),
    }
}

/// Say on the pod why it goes. What is asked of its version is asked here.
async fn mark(api: &Api, call: &Call, options: &DeleteOptions) -> Result<(), Failure> {
    let key = call.key();
    for _ in 0..ATTEMPTS {
        let Some(stored) = api.store.get(&key) else {
            return Ok(());
        };
        let mut pod = call.resource.value(&stored)?;
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        let as_asked = is(&options.uid, object::uid(&pod))
            && is(&options.resource_version, object::resource_version(&pod));
        // A version that was asked for would be another one after this.
        if !as_asked || options.resource_version.is_some() || object::is_deleting(&pod) {
            return Ok(());
        }
        let now = object::timestamp(Timestamp::now());
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastTransitionTime": now,
            "lastProbeTime": null,
        });
        let status = object::member(&mut pod, "status");
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        if let Some(conditions) = conditions.as_array_mut() {
            conditions.retain(|found| found["type"] != "DisruptionTarget");
            conditions.push(condition);
        }
        match api.store.update(&key, stored.revision, pod).await {
            Ok(_) | Err(WriteError::NotFound) => return Ok(()),
            Err(WriteError::Conflict { .. }) => {}
            Err(error) => return Err(write_failure(call, &call.name, &error)),
        }
    }
    Err(call.resource.modified(&call.name))
}

/// A pod that does not run (any more), or is going anyway, is nobody's loss.
fn is_no_disruption(pod: &Value) -> bool {
    let phase = object::text(pod, &["status", "phase"]);
    matches!(phase, "Succeeded" | "Failed" | "Pending") || object::is_deleting(pod)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|found| found["type"] == "Ready" && found["status"] == "True")
}
