//! `DELETE` of one object: at once, after a grace period, or when its finalizers let it go.

use std::sync::Arc;

use eyot_http::{Body, Response};
use eyot_store::{Object, WriteError};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    admission::{self, Attributes, Operation},
    api::Api,
    call::{self, Call},
    cleanup,
    crd::{self, convert},
    failure::Failure,
    field_error::FieldError,
    kinds, media, object, reply,
    verbs::{create::write_failure, update},
};

/// Tries against other writers of the same object.
const ATTEMPTS: usize = 16;
/// What Kubernetes gives a pod that does not say.
const POD_GRACE: i64 = 30;

/// How to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
    /// The finalizer that the propagation policy asks for.
    pub(crate) policy: Option<&'static str>,
    /// As they were sent in the body.
    pub(crate) sent: Value,
    /// By which door the deletion came.
    pub(crate) door: Door,
}

/// How a deletion was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Door {
    #[default]
    Object,
    /// With all of its collection.
    Collection,
    /// As an eviction, which was admitted as such.
    Eviction,
}

/// What became of the object.
pub(crate) enum Deleted {
    /// It is gone; this was its last state.
    Gone(Arc<Object>),
    /// It is marked, and goes when its grace period or its finalizers end.
    Marked(Arc<Object>),
    Imagined(Arc<Object>),
}

pub(crate) async fn delete(api: &Arc<Api>, call: Call, body: Body) -> Result<Response, Failure> {
    let options = DeleteOptions::read(&call, body).await?;
    let (deleted, warnings) = remove(api, &call, &options).await?;
    match deleted {
        Deleted::Marked(object) => reply::stored(&call, StatusCode::OK, &object, &warnings),
        Deleted::Gone(object) | Deleted::Imagined(object) => {
            if ["pods", "services", "serviceaccounts"]
                .iter()
                .any(|r| call.resource.is("", r))
            {
                return reply::stored(&call, StatusCode::OK, &object, &warnings);
            }
            let uid = object::uid(&call.resource.value(&object)?).to_owned();
            let mut response = reply::success(&call, StatusCode::OK, &uid);
            reply::warn(&mut response, &warnings);
            Ok(response)
        }
    }
}

impl DeleteOptions {
    /// From the query and the body; the body wins.
    pub(crate) async fn read(call: &Call, body: Body) -> Result<DeleteOptions, Failure> {
        let body = call::read(body).await?;
        let sent = match body.is_empty() {
            true => Value::Null,
            false => media::decode(call.media(), &body, "DeleteOptions")?,
        };
        DeleteOptions::parse(call, &sent)
    }

    pub(crate) fn parse(call: &Call, sent: &Value) -> Result<DeleteOptions, Failure> {
        let query = &call.query;
        let string = |path: &str| {
            sent.pointer(path)
                .and_then(Value::as_str)
                .filter(|s| !s.is_empty())
                .map(str::to_owned)
        };
        let policy = string("/propagationPolicy")
            .or_else(|| Some(query.propagation_policy.clone()).filter(|policy| !policy.is_empty()));
        let orphan = sent
            .get("orphanDependents")
            .and_then(Value::as_bool)
            .or(query.orphan_dependents);
        let policy = match policy.as_deref() {
            None if orphan == Some(true) => Some("orphan"),
            None | Some("Background") => None,
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            Some(other) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                let error =
                    FieldError::not_supported("propagationPolicy", &other.into(), &supported);
                return Err(Failure::invalid(
                    "meta.k8s.io",
                    "DeleteOptions",
                    "",
                    &[error],
                ));
            }
        };
        let dry_run = sent
            .get("dryRun")
            .and_then(Value::as_array)
            .is_some_and(|d| !d.is_empty());
        Ok(DeleteOptions {
            grace: sent
                .get("gracePeriodSeconds")
                .and_then(Value::as_i64)
                .or(query.grace_period_seconds),
            uid: string("/preconditions/uid"),
            resource_version: string("/preconditions/resourceVersion"),
            dry_run: dry_run || query.dry_run,
            policy,
            sent: sent.clone(),
            door: Door::Object,
        })
    }
}

/// Delete the object that the call names; with warnings for the client.
pub(crate) async fn remove(
    api: &Arc<Api>,
    call: &Call,
    options: &DeleteOptions,
) -> Result<(Deleted, Vec<String>), Failure> {
    let (resource, key) = (&call.resource, call.key());
    let mut warnings = Vec::new();
    if options.door == Door::Object
        && resource.is("scheduling.k8s.io", "priorityclasses")
        && kinds::priority_class::stands(&call.name)
    {
        let why = "this is a system priority class and cannot be deleted";
        return Err(Failure::forbidden(
            &resource.group,
            &resource.plural,
            &call.name,
            why,
        ));
    }
    for _ in 0..ATTEMPTS {
        let stored = api
            .store
            .get(&key)
            .ok_or_else(|| resource.not_found(&call.name))?;
        convert::prepare(api, resource, [&stored]).await?;
        let current = resource.value(&stored)?;
        check_preconditions(call, options, &current)?;
        if options.door != Door::Eviction {
            let mut attributes = Attributes {
                old: Some(&current),
                options: &options.sent,
                dry_run: options.dry_run,
                ..Attributes::new(call, Operation::Delete)
            };
            if options.door == Door::Collection {
                attributes.name = "";
            }
            warnings = admission::admit(api, &attributes, &mut Value::Null)
                .await?
                .warnings;
        }
        let next = mark(call, options, &current, Timestamp::now());
        if options.dry_run {
            return Ok((Deleted::Imagined(stored), warnings));
        }
        let done = match next {
            None => update::delete(api, resource, &stored, &current)
                .await
                .map(Deleted::Gone),
            Some(next) if next == current => return Ok((Deleted::Marked(stored), warnings)),
            Some(next) => {
                let next = convert::to_storage(api, resource, next).await?;
                let marked = store_mark(api, call, &stored, next).await;
                if let Ok(marked) = &marked {
                    convert::prepare(api, resource, [marked]).await?;
                }
                marked.map(Deleted::Marked)
            }
        };
        match done {
            Ok(deleted) => return Ok((deleted, warnings)),
            Err(WriteError::Conflict { .. }) => {}
            Err(error) => return Err(write_failure(call, &call.name, &error)),
        }
    }
    Err(resource.modified(&call.name))
}

async fn store_mark(
    api: &Arc<Api>,
    call: &Call,
    stored: &Object,
    next: Value,
) -> Result<Arc<Object>, WriteError> {
    let (key, revision) = (stored.key.clone(), stored.revision);
    if &*call.resource.storage != crd::STORAGE {
        return api.store.update(&key, revision, next).await;
    }
    let group = object::text(&next, &["spec", "group"]).to_owned();
    let (held, store, name) = (api.clone(), api.store.clone(), call.name.clone());
    // Once it is marked, it takes no new objects.
    let write = async move {
        let marked = store.update(&key, revision, next).await?;
        cleanup::start(&held, &name);
        Ok(marked)
    };
    api.write_definition(&group, write).await
}

fn check_preconditions(
    call: &Call,
    options: &DeleteOptions,
    current: &Value,
) -> Result<(), Failure> {
    let uid = object::uid(current);
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). \
             The object might have been deleted and then recreated"
        );
        return Err(Failure::conflict(
            &call.resource.group,
            &call.resource.kind,
            &call.name,
            &why,
        ));
    }
    let version = object::resource_version(current);
    if let Some(wanted) = options
        .resource_version
        .as_deref()
        .filter(|wanted| *wanted != version)
    {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the \
             ResourceVersion in record ({version}). The object might have been modified"
        );
        return Err(Failure::conflict(
            &call.resource.group,
            &call.resource.kind,
            &call.name,
            &why,
        ));
    }
    Ok(())
}

/// The object marked for deletion; `None` if nothing keeps it.
fn mark(call: &Call, options: &DeleteOptions, current: &Value, now: Timestamp) -> Option<Value> {
    let resource = &call.resource;
    let mut next = current.clone();
    // The policy decides about the garbage collector's finalizers, whatever was there.
    let mut finalizers: Vec<Value> = object::at(current, &["metadata", "finalizers"])
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if !object::is_deleting(current) {
        finalizers.retain(|f| *f != "orphan" && *f != "foregroundDeletion");
        finalizers.extend(options.policy.map(Value::from));
        if &*resource.storage == crd::STORAGE && !finalizers.contains(&crd::CLEANUP.into()) {
            finalizers.push(crd::CLEANUP.into());
        }
    }
    let grace = match resource.is("", "pods") {
        true => pod_grace(options, current),
        false => 0,
    };
    let keeps_itself = resource.is("", "namespaces")
        && current
            .pointer("/spec/finalizers")
            .and_then(Value::as_array)
            .is_some_and(|f| !f.is_empty());
    if grace == 0 && finalizers.is_empty() && !keeps_itself {
        return None;
    }
    let metadata = object::metadata(&mut next);
    if !finalizers.is_empty() {
        metadata.insert("finalizers".into(), finalizers.into());
    }
    let before = metadata
        .get("deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    let fresh = !object::is_deleting(current);
    // A second delete may only shorten the grace period.
    if fresh || before.is_some_and(|before| grace < before) {
        let at = now + SignedDuration::from_secs(grace);
        metadata.insert("deletionTimestamp".into(), object::timestamp(at).into());
        let is_definition = &*resource.storage == crd::STORAGE;
        if !resource.is("", "namespaces") && !is_definition {
            metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        }
        if fresh
            && !is_definition
            && let Some(generation) = metadata.get("generation").and_then(Value::as_i64)
        {
            metadata.insert("generation".into(), (generation + 1).into());
        }
        if resource.is("", "namespaces") {
            object::member(&mut next, "status").insert("phase".into(), json!("Terminating"));
        }
    }
    if &*resource.storage == crd::STORAGE {
        crd::status::set_terminating(&mut next, now);
    }
    Some(next)
}

/// Seconds that a pod's containers get; none if no node runs them.
fn pod_grace(options: &DeleteOptions, pod: &Value) -> i64 {
    let phase = object::text(pod, &["status", "phase"]);
    if object::text(pod, &["spec", "nodeName"]).is_empty()
        || matches!(phase, "Failed" | "Succeeded")
    {
        return 0;
    }
    let own = pod
        .pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_i64);
    match options.grace {
        Some(grace) if grace >= 0 => grace,
        // Negative means "as soon as possible, but let the node do it".
        Some(_) => 1,
        None => match pod
            .pointer("/metadata/deletionGracePeriodSeconds")
            .and_then(Value::as_i64)
        {
            Some(set) if object::is_deleting(pod) => set,
            _ => own.unwrap_or(POD_GRACE).max(0),
        },
    }
}
