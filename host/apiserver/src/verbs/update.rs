//! `PUT` and `PATCH`: the next state of an object, made from its present one.
//!
//! Both are the same loop: read, make the next state, write if nothing came between, else again.
//! A client that says which revision it means gets a conflict instead of another try, because on
//! the second look the revision differs.

use std::sync::Arc;

use eyot_http::{Body, Response};
use eyot_store::{Object, WriteError};
use http::StatusCode;
use serde_json::Value;

use crate::{
    admission::{self, Admitted, Attributes, Kind, Operation},
    api::Api,
    call::{self, Call},
    crd::{
        self,
        convert::{self, to_storage},
    },
    failure::Failure,
    kinds::{self, PartSpec},
    managed, media, object, reply,
    resource::{Definition, Resource, carry},
    schema::Judgement,
    service_addresses::records,
    verbs::{
        apply,
        create::{authorize, clean, create_decoded, write_failure},
        managers::Tracking,
        patch::Patch,
    },
};

/// Tries against other writers of the same object, before the client is told of the conflict.
const ATTEMPTS: usize = 16;
/// Tries of a `PUT` against others who create or delete the same object.
const CREATIONS: usize = 4;
/// The store's name of what nodes and leaders renew.
const LEASES: &str = "leases.coordination.k8s.io";
/// Metadata that only the server sets, whatever was sent.
const SYSTEM_OWNED: [&str; 3] = ["uid", "creationTimestamp", "generation"];
/// The signs of a deletion: never taken away by an update, and refused by the rules where they are
/// added.
const DELETION: [&str; 2] = ["deletionTimestamp", "deletionGracePeriodSeconds"];

/// Which part of the object a write is about.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status alone.
    Status,
    /// `spec.finalizers` of a namespace.
    Finalize,
    /// What the kind says is behind this subresource.
    Other(&'static PartSpec),
}

impl Part {
    /// The subresource through which this part is written.
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Part::Main => "",
            Part::Status => "status",
            Part::Finalize => "finalize",
            Part::Other(part) => part.name,
        }
    }
}

/// What became of an object.
pub(crate) enum Written {
    Object(Arc<Object>),
    /// A dry run: as it would be.
    Imagined(Value),
}

pub(crate) async fn put(
    api: &Arc<Api>,
    mut call: Call,
    part: Part,
    body: Body,
) -> Result<Response, Failure> {
    call.query.check_write("UpdateOptions", false)?;
    let media = call.media().to_owned();
    let (mut sent, notes) = media::read(&media, &call::read(body).await?, &call.resource.kind)?;
    call.notes = notes;
    call.check_type(&mut sent)?;
    call.check_place(&mut sent)?;
    let change = |_: &Value| Ok(sent.clone());
    let creates = matches!(part, Part::Main) && call.resource.put_creates();
    for _ in 0..CREATIONS {
        if creates && api.store.get(&call.key()).is_none() {
            match make(api, &call, sent.clone()).await {
                // Somebody else was quicker.
                Err(failure) if failure.is_exists() => {}
                done => return done,
            }
        }
        match update(api, &call, part, &change).await {
            // It went meanwhile.
            Err(failure) if creates && failure.is_not_found() => {}
            written => {
                let (written, warnings) = written?;
                return answer(&call, &written, &warnings);
            }
        }
    }
    Err(call.resource.modified(&call.name))
}

/// Make an object that is not there. A uid means one that was; a revision is nothing to go by.
async fn make(api: &Arc<Api>, call: &Call, mut sent: Value) -> Result<Response, Failure> {
    authorize(api, call)?;
    let uid = object::uid(&sent);
    if !uid.is_empty() {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
        return Err(call.resource.conflict(&call.name, &why));
    }
    let managers = Tracking::of(&sent);
    let warnings = call.report(call.resource.decode(&mut sent)?)?;
    create_decoded(api, call, sent, managers, warnings).await
}

pub(crate) async fn patch(
    api: &Arc<Api>,
    call: Call,
    part: Part,
    body: Body,
) -> Result<Response, Failure> {
    if call.media() == apply::MEDIA {
        return apply::apply(api, call, part, body).await;
    }
    let patch = Patch::read(&call, body).await?;
    let change = |current: &Value| Ok(patch.apply(&call.resource, current)?);
    let (written, warnings) = update_as(api, &call, part, &change, Through::Patch(&patch)).await?;
    answer(&call, &written, &warnings)
}

pub(crate) fn answer(
    call: &Call,
    written: &Written,
    warnings: &[String],
) -> Result<Response, Failure> {
    match written {
        Written::Object(object) => reply::stored(call, StatusCode::OK, object, warnings),
        Written::Imagined(value) => reply::value(call, StatusCode::OK, value, warnings),
    }
}

/// A subresource that shows the object in another shape, in which admission judges the write.
pub(crate) struct Door<'a> {
    pub(crate) subresource: &'static str,
    pub(crate) kind: Kind<'static>,
    /// The shape, from the object.
    pub(crate) show: &'a (dyn Fn(&Value) -> Value + Send + Sync),
    /// Take over into the object what was changed in the shape.
    pub(crate) put: &'a (dyn Fn(&mut Value, &Value) + Send + Sync),
}

/// Makes the next state of an object from its present one.
pub(crate) type Change<'a> = dyn Fn(&Value) -> Result<Value, Failure> + Send + Sync + 'a;

/// Write what `change` makes of the object, until no other writer comes between.
pub(crate) async fn update(
    api: &Arc<Api>,
    call: &Call,
    part: Part,
    change: &Change<'_>,
) -> Result<(Written, Vec<String>), Failure> {
    update_as(api, call, part, change, Through::Nothing).await
}

/// How a change comes to the object.
#[derive(Clone, Copy)]
pub(crate) enum Through<'a> {
    Nothing,
    /// By a patch, which answers for what it made of the object.
    Patch(&'a Patch),
    /// With its managed fields.
    Apply,
    /// With its managed fields, and seen by admission in another shape.
    Door(&'a Door<'a>),
}

/// The same, for a change that brings its managed fields.
pub(crate) async fn update_as(
    api: &Arc<Api>,
    call: &Call,
    part: Part,
    change: &Change<'_>,
    through: Through<'_>,
) -> Result<(Written, Vec<String>), Failure> {
    let (resource, key) = (&call.resource, call.key());
    for _ in 0..ATTEMPTS {
        let stored = api
            .store
            .get(&key)
            .ok_or_else(|| resource.not_found(&call.name))?;
        convert::prepare(api, resource, [&stored]).await?;
        let current = resource.value(&stored)?;
        // What admission reserved is held until the write is done.
        let (next, warnings, _admitted) =
            next(api, call, part, &current, change(&current)?, through).await?;
        let same = next == current || managed::same_but_for_times(&next, &current);
        if same && !resource.is_stale(&stored, &next) {
            return Ok((Written::Object(stored), warnings));
        }
        if call.query.dry_run {
            return Ok((Written::Imagined(next), warnings));
        }
        let written = if is_finished(resource, &next) {
            // The last finalizer is gone: this write is the end of the object.
            match delete(api, resource, &stored, &current).await {
                Ok(_) => {
                    return Ok((Written::Imagined(next), warnings));
                }
                Err(error) => Err(error),
            }
        } else {
            let next = to_storage(api, resource, next).await?;
            write(api, call, &stored, next).await
        };
        match written {
            Ok(object) => {
                if matches!(part, Part::Main) {
                    records::settle(api, resource, &key).await;
                }
                convert::prepare(api, resource, [&object]).await?;
                return Ok((Written::Object(object), warnings));
            }
            Err(WriteError::Conflict { .. }) => {}
            Err(error) => return Err(write_failure(call, &call.name, &error)),
        }
    }
    Err(resource.modified(&call.name))
}

async fn write(
    api: &Arc<Api>,
    call: &Call,
    stored: &Object,
    next: Value,
) -> Result<Arc<Object>, WriteError> {
    let key = &stored.key;
    if is_renewal(stored, &next) {
        return api.store.renew(key, stored.revision, next).await;
    }
    if &*call.resource.storage != crd::STORAGE {
        return api.store.update(key, stored.revision, next).await;
    }
    let group = object::text(&next, &["spec", "group"]).to_owned();
    let (store, key, revision) = (api.store.clone(), key.clone(), stored.revision);
    let write = async move { store.update(&key, revision, next).await };
    api.write_definition(&group, write).await
}

/// Whether a write says nothing but that the holder of a lease is still there. Such writes come every
/// few seconds for as long as a node lives, and are the only ones that may reach the disk later:
/// who watches leases measures by its own clock from when it saw a change, so a renewal that a power
/// cut took is as if it had come a little late.
fn is_renewal(stored: &Object, next: &Value) -> bool {
    if &*stored.key.resource != LEASES {
        return false;
    }
    let bare = |lease: &Value| {
        let mut lease = lease.clone();
        for (part, field) in [
            ("spec", "renewTime"),
            ("metadata", "managedFields"),
            ("metadata", "resourceVersion"),
        ] {
            object::member(&mut lease, part).remove(field);
        }
        lease
    };
    let before = serde_json::from_slice::<Value>(&stored.json);
    before.is_ok_and(|before| bare(&before) == bare(next))
}

/// Delete an object that nothing keeps, and do what must happen once it is gone.
pub(crate) async fn delete(
    api: &Arc<Api>,
    resource: &Resource,
    stored: &Object,
    current: &Value,
) -> Result<Arc<Object>, WriteError> {
    let (key, revision) = (stored.key.clone(), Some(stored.revision));
    if &*resource.storage == crd::STORAGE {
        let store = api.store.clone();
        let write = async move { store.delete(&key, revision).await };
        let group = object::text(current, &["spec", "group"]);
        return api.write_definition(group, write).await;
    }
    let gone = api.store.delete(&key, revision).await?;
    records::settle(api, resource, &key).await;
    Ok(gone)
}

/// The complete next state, checked, from what the client made of the present one.
async fn next(
    api: &Arc<Api>,
    call: &Call,
    part: Part,
    current: &Value,
    mut sent: Value,
    through: Through<'_>,
) -> Result<(Value, Vec<String>, Admitted), Failure> {
    let resource = &call.resource;
    call.check_type(&mut sent)?;
    let managers = match through {
        Through::Nothing | Through::Patch(_) => Tracking::of(&sent),
        Through::Apply | Through::Door(_) => Tracking::Brought,
    };
    let mut warnings = decode(call, through, current, &mut sent)?;
    call.check_place(&mut sent)?;
    clean(&mut sent, resource.is_custom());
    check_identity(call, current, &sent)?;
    let brought = managed::take_out(&mut sent);
    let mut next = shape(call, part, current, sent);
    managed::put_back(&mut next, brought);
    managers
        .track(api, call, part.subresource(), Some(current), &mut next)
        .await?;
    let attributes = Attributes {
        subresource: part.subresource(),
        old: Some(current),
        ..Attributes::new(call, Operation::Update)
    };
    let mut addresses = None;
    let mut admitted = match through {
        Through::Nothing | Through::Patch(_) | Through::Apply => {
            let mutated = admission::mutate(api, &attributes, &mut next).await?;
            warnings.extend(mutated.warnings);
            if mutated.changed {
                let managers = managed::take_out(&mut next);
                next = shape(call, part, current, next);
                managed::put_back(&mut next, managers);
            }
            if matches!(part, Part::Main) {
                let (old, trial) = (Some(current), call.query.dry_run);
                addresses = api.addresses.complete(resource, &mut next, old, trial)?;
            }
            warnings.extend(finish(call, part, current, &mut next)?);
            admission::validate(api, &attributes, &next).await?
        }
        Through::Door(door) => {
            let (old, mut shown) = ((door.show)(current), (door.show)(&next));
            let attributes = Attributes {
                subresource: door.subresource,
                sent: Some(door.kind),
                old: Some(&old),
                ..attributes
            };
            let mutated = admission::mutate(api, &attributes, &mut shown).await?;
            warnings.extend(mutated.warnings);
            if mutated.changed {
                (door.put)(&mut next, &shown);
            }
            warnings.extend(finish(call, part, current, &mut next)?);
            let shown = (door.show)(&next);
            admission::validate(api, &attributes, &shown).await?
        }
    };
    object::check_depth(&next)?;
    admitted.addresses = addresses;
    warnings.extend(admitted.warnings.iter().cloned());
    Ok((next, warnings, admitted))
}

/// Check the types of what a change made of the object. Answers warnings.
fn decode(
    call: &Call,
    through: Through<'_>,
    current: &Value,
    sent: &mut Value,
) -> Result<Vec<String>, Failure> {
    let Through::Patch(patch) = through else {
        return call.report(call.resource.decode(sent)?);
    };
    let patched = || patch.apply(&call.resource, current).unwrap_or_default();
    match call.resource.try_decode(sent) {
        Ok(unknown) => patch.report(call, &patched, unknown),
        Err(error) => Err(patch.unreadable(&patched(), error)),
    }
}

/// What a write of this part makes of the present state: the part as it was sent, all else as it is.
fn shape(call: &Call, part: Part, current: &Value, mut sent: Value) -> Value {
    let resource = &call.resource;
    let mut next = match part {
        Part::Main => sent,
        Part::Status => {
            let mut next = current.clone();
            carry(&mut next, Some(&sent), "status");
            // Those who report on an object also mark it while they do.
            object::keep_metadata(&mut next, &sent, marks(resource));
            next
        }
        Part::Finalize => {
            let mut next = current.clone();
            let finalizers = sent
                .pointer("/spec/finalizers")
                .cloned()
                .unwrap_or_default();
            object::member(&mut next, "spec").insert("finalizers".into(), finalizers);
            next
        }
        Part::Other(part) => {
            (part.merge)(&mut sent, current);
            sent
        }
    };
    object::keep_metadata(&mut next, current, &SYSTEM_OWNED);
    object::fill_metadata(&mut next, current, &DELETION);
    let version = object::resource_version(current).to_owned();
    object::metadata(&mut next).insert("resourceVersion".into(), version.into());
    resource.default(&mut next);
    match part {
        Part::Main => resource.prepare(&mut next, Some(current)),
        Part::Status => resource.prepare_status(&mut next, current),
        Part::Finalize | Part::Other(_) => {}
    }
    next
}

/// The metadata that a write of the status may change.
fn marks(resource: &Resource) -> &'static [&'static str] {
    match resource.definition {
        Definition::Custom(_) => &[],
        Definition::Builtin(spec) if spec.status_keeps_metadata => &[],
        Definition::Builtin(_) => match (resource.group.as_str(), resource.plural.as_str()) {
            ("", "pods") => &["labels", "annotations", "finalizers"],
            ("apps", "deployments") => &["annotations", "finalizers", "ownerReferences"],
            _ => &["labels", "annotations", "finalizers", "ownerReferences"],
        },
    }
}

/// Count the change, and check the next state against the kind's rules. Answers warnings.
fn finish(
    call: &Call,
    part: Part,
    current: &Value,
    next: &mut Value,
) -> Result<Vec<String>, Failure> {
    let resource = &call.resource;
    let counted = matches!(part, Part::Main | Part::Other(_));
    if counted && resource.has_generation() && counts(next) != counts(current) {
        let generation = current
            .pointer("/metadata/generation")
            .and_then(Value::as_i64);
        let generation = generation.unwrap_or(0) + 1;
        object::metadata(next).insert("generation".into(), generation.into());
    }
    let judged = match part {
        Part::Main => resource.validate(next, Some(current)),
        Part::Status => resource.validate_status(next, current),
        Part::Finalize => Judgement {
            errors: kinds::validate_finalize(next, current),
            ..Judgement::default()
        },
        Part::Other(part) => Judgement {
            errors: (part.validate)(next, current),
            ..Judgement::default()
        },
    };
    if !judged.errors.is_empty() {
        return Err(resource.invalid(&call.name, &judged.errors));
    }
    let mut warnings = match part {
        Part::Main | Part::Other(_) => resource.warnings(next, Some(current)),
        Part::Status | Part::Finalize => Vec::new(),
    };
    warnings.extend(judged.warnings);
    Ok(warnings)
}

/// What `metadata.generation` counts the changes of: everything but metadata and status.
fn counts(value: &Value) -> Vec<(&String, &Value)> {
    let members = value.as_object().into_iter().flatten();
    members
        .filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status"))
        .collect()
}

/// Whether the client means this object, at this revision.
fn check_identity(call: &Call, current: &Value, sent: &Value) -> Result<(), Failure> {
    let (uid, wanted) = (object::uid(current), object::uid(sent));
    if !wanted.is_empty() && wanted != uid {
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
        );
        return Err(call.resource.conflict(&call.name, &why));
    }
    let wanted = object::wanted_version(sent);
    if wanted.is_empty() && call.resource.needs_revision() {
        return Err(call.resource.needs_revision_given(&call.name));
    }
    if !wanted.is_empty() && wanted != object::resource_version(current) {
        return Err(call.resource.modified(&call.name));
    }
    Ok(())
}

/// Whether a deleted object waits for nothing any more.
fn is_finished(resource: &Resource, value: &Value) -> bool {
    let grace = value
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    let spec_finalizers = value.pointer("/spec/finalizers").and_then(Value::as_array);
    object::is_deleting(value)
        && !object::has_finalizers(value)
        && grace.unwrap_or(0) == 0
        && !(resource.is("", "namespaces") && spec_finalizers.is_some_and(|f| !f.is_empty()))
}
