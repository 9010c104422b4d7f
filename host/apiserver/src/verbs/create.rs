//! `POST` to a collection.

use std::sync::Arc;

use eyot_http::{Body, Response};
use eyot_store::{Object, WriteError};
use http::StatusCode;
use jiff::Timestamp;
use rand::RngExt;
use serde_json::Value;

use crate::{
    admission::{self, Admitted, Attributes, Operation},
    api::{Api, namespace_key, storage_failure},
    auth,
    call::{self, Call},
    crd::{
        self,
        convert::{self, to_storage},
    },
    failure::Failure,
    media, object, reply,
    service_addresses::records,
    verbs::managers::Tracking,
};

/// Letters and digits of generated names: no vowels, so that no words arise.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How often a generated name that is taken is made anew.
const NAME_ATTEMPTS: usize = 8;
/// Longest prefix of a generated name: five letters must still fit into a DNS label.
const PREFIX: usize = 58;

pub(crate) async fn create(
    api: &Arc<Api>,
    mut call: Call,
    body: Body,
) -> Result<Response, Failure> {
    if call.resource.terminating {
        return Err(Failure::terminating(
            &call.resource.group,
            &call.resource.plural,
        ));
    }
    call.query.check_write("CreateOptions", false)?;
    let media = call.media().to_owned();
    let (mut value, notes) = media::read(&media, &call::read(body).await?, &call.resource.kind)?;
    call.notes = notes;
    call.check_type(&mut value)?;
    let managers = Tracking::of(&value);
    let warnings = call.report(call.resource.decode(&mut value)?)?;
    call.check_place(&mut value)?;
    if !object::wanted_version(&value).is_empty() {
        return Err(Failure::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    create_decoded(api, &call, value, managers, warnings).await
}

/// Whether the user may also create: for writes to an object that turns out not to be there.
pub(crate) fn authorize(api: &Api, call: &Call) -> Result<(), Failure> {
    let resource = &call.resource;
    let asked = auth::Attributes {
        verb: "create".into(),
        group: resource.group.as_str().into(),
        version: resource.version.as_str().into(),
        resource: resource.plural.as_str().into(),
        namespace: call.namespace.as_str().into(),
        name: call.name.as_str().into(),
        ..auth::Attributes::default()
    };
    let decided = api.authorizer.require(&call.user, &asked);
    decided.map(|_| ()).map_err(|(_, refusal)| refusal)
}

/// Create an object that was decoded and is in its place. `warnings` are for the client.
pub(crate) async fn create_decoded(
    api: &Arc<Api>,
    call: &Call,
    mut value: Value,
    managers: Tracking,
    mut warnings: Vec<String>,
) -> Result<Response, Failure> {
    warnings.extend(prepare(api, call, &mut value, managers).await?);
    let prefix = generate_prefix(&value);
    for attempt in 1.. {
        let mut prepared = match &prefix {
            Some(_) => value.clone(),
            None => std::mem::take(&mut value),
        };
        if let Some(prefix) = &prefix {
            let name = format!("{prefix}{}", suffix());
            object::metadata(&mut prepared).insert("name".into(), name.into());
        }
        // Held until the object is stored.
        let mut admitted = check(api, call, &mut prepared).await?;
        warnings.append(&mut admitted.warnings);
        if call.query.dry_run {
            if api
                .store
                .get(&call.key_of(object::name(&prepared)))
                .is_some()
            {
                return Err(exists(call, object::name(&prepared)));
            }
            return reply::value(call, StatusCode::CREATED, &prepared, &warnings);
        }
        let name = object::name(&prepared).to_owned();
        let to_store = to_storage(api, &call.resource, prepared).await?;
        match write(api, call, to_store).await {
            Ok(object) => {
                records::settle(api, &call.resource, &object.key).await;
                convert::prepare(api, &call.resource, [&object]).await?;
                return reply::stored(call, StatusCode::CREATED, &object, &warnings);
            }
            Err(WriteError::Exists(_)) if prefix.is_some() && attempt < NAME_ATTEMPTS => {}
            Err(WriteError::Exists(_)) => return Err(exists(call, &name)),
            // The namespace went while the object was on its way.
            Err(WriteError::NotFound) => {
                return Err(Failure::not_found("", "namespaces", &call.namespace));
            }
            Err(error) => return Err(write_failure(call, &name, &error)),
        }
    }
    Err(Failure::internal("unreachable"))
}

/// Complete an object that is about to be created, all but what is its alone; with warnings for the
/// client.
async fn prepare(
    api: &Api,
    call: &Call,
    value: &mut Value,
    managers: Tracking,
) -> Result<Vec<String>, Failure> {
    let resource = &call.resource;
    clean(value, resource.is_custom());
    reset(value);
    // What is set on the object's behalf after this belongs to nobody.
    let managers = managers.granting(resource, value);
    resource.default(value);
    managers.track(api, call, "", None, value).await?;
    resource.prepare(value, None);
    resource.default(value);
    let name = object::name(value).to_owned();
    let attributes = Attributes {
        name: &name,
        ..Attributes::new(call, Operation::Create)
    };
    let mutated = admission::mutate(api, &attributes, value).await?;
    if mutated.changed {
        reset(value);
        resource.prepare(value, None);
        resource.default(value);
    }
    Ok(mutated.warnings)
}

/// Drop what only the server sets, whoever set it.
fn reset(value: &mut Value) {
    let metadata = object::metadata(value);
    for key in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "uid",
        "creationTimestamp",
    ] {
        metadata.remove(key);
    }
}

/// Give the object its identity, and check it as it would be stored.
async fn check(api: &Api, call: &Call, value: &mut Value) -> Result<Admitted, Failure> {
    let resource = &call.resource;
    let metadata = object::metadata(value);
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert(
        "creationTimestamp".into(),
        object::timestamp(Timestamp::now()).into(),
    );
    if resource.has_generation() {
        metadata.insert("generation".into(), 1.into());
    }
    resource.requested_by(value, &call.user);
    let mut remarks = resource.warnings(value, None);
    resource.identified(value);
    let trial = call.query.dry_run;
    let addresses = api.addresses.complete(resource, value, None, trial)?;
    object::check_depth(value)?;
    let judged = resource.validate(value, None);
    if !judged.errors.is_empty() {
        return Err(resource.invalid(object::name(value), &judged.errors));
    }
    if object::name(value).is_empty() {
        let error = crate::field_error::FieldError::required(
            "metadata.name",
            "name or generateName is required",
        );
        return Err(resource.invalid("", &[error]));
    }
    let attributes = Attributes {
        name: object::name(value),
        ..Attributes::new(call, Operation::Create)
    };
    remarks.extend(judged.warnings);
    let mut admitted = admission::validate(api, &attributes, value).await?;
    admitted.warnings.splice(0..0, remarks);
    admitted.addresses = addresses;
    Ok(admitted)
}

async fn write(api: &Arc<Api>, call: &Call, value: Value) -> Result<Arc<Object>, WriteError> {
    let key = call.key_of(object::name(&value));
    if &*call.resource.storage == crd::STORAGE {
        let group = object::text(&value, &["spec", "group"]).to_owned();
        let store = api.store.clone();
        let write = async move { store.create(key, value).await };
        return api.write_definition(&group, write).await;
    }
    let object = api.store.create(key.clone(), value).await?;
    // The namespace may have been removed after it was looked at; then nobody would ever delete
    // this object.
    if call.resource.namespaced && api.store.get(&namespace_key(&call.namespace)).is_none() {
        let _ = api.store.delete(&key, Some(object.revision)).await;
        return Err(WriteError::NotFound);
    }
    Ok(object)
}

/// The prefix of the name to be made, if one must be made.
fn generate_prefix(value: &Value) -> Option<String> {
    let prefix = object::text(value, &["metadata", "generateName"]);
    if !object::name(value).is_empty() || prefix.is_empty() {
        return None;
    }
    Some(prefix.chars().take(PREFIX).collect())
}

/// Five letters that make a generated name unique.
pub(crate) fn suffix() -> String {
    let mut rng = rand::rng();
    (0..5)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}

/// Drop what is never stored: null metadata, and for typed kinds all nulls, which mean "not set"
/// there.
pub(crate) fn clean(value: &mut Value, custom: bool) {
    if !custom {
        drop_nulls(value);
    }
    let metadata = object::metadata(value);
    metadata.retain(|_, value| !value.is_null());
    metadata.remove("selfLink");
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn exists(call: &Call, name: &str) -> Failure {
    Failure::already_exists(&call.resource.group, &call.resource.plural, name)
}

/// What the client hears when the store refused a write.
pub(crate) fn write_failure(call: &Call, name: &str, error: &WriteError) -> Failure {
    match error {
        WriteError::NotFound => call.resource.not_found(name),
        WriteError::Conflict { .. } => call.resource.modified(name),
        WriteError::Exists(_) => exists(call, name),
        WriteError::TooLarge { limit, .. } => Failure::too_large(*limit),
        WriteError::Closed => Failure::unavailable(error.to_string()),
        other => storage_failure(other),
    }
}
