//! `PATCH` with `application/apply-patch+yaml`: server-side apply, which creates what is not there.

use std::sync::Arc;

use bytes::Bytes;
use eyot_http::{Body, Response};
use eyot_store::Object;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    api::Api,
    call::{self, Call},
    crd::convert,
    failure::Failure,
    managed::{self, Write},
    object,
    patch::go_name,
    query::FieldValidation,
    reading::{self, Notes},
    verbs::{
        create::{authorize, create_decoded},
        managers::{self, Served, Tracking},
        update::{Part, Through, answer, update_as},
    },
};

pub(crate) const MEDIA: &str = "application/apply-patch+yaml";

/// Tries against others who create or delete the same object.
const ATTEMPTS: usize = 4;

/// A configuration, as it was sent.
pub(crate) struct Config {
    pub(crate) value: Value,
    /// Keys that stand twice, in a sentence: a fault, or a warning.
    twice: Option<String>,
}

impl Config {
    pub(crate) async fn read(call: &Call, body: Body) -> Result<Config, Failure> {
        call.query.check_write("PatchOptions", true)?;
        let body = call::read(body).await?;
        let (value, notes) = decode(&body)
            .map_err(|error| Failure::bad_request(format!("error decoding YAML: {error}")))?;
        if !value.is_object() {
            let found = go_name(&value);
            return Err(Failure::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot \
                 unmarshal {found} into Go value of type map[string]interface {{}}"
            )));
        }
        let twice = (!notes.is_empty())
            .then(|| format!("error converting YAML to JSON: {}", notes.sentence(&[])));
        Ok(Config { value, twice })
    }

    /// What to make of keys that stand twice: an error, warnings, nothing.
    pub(crate) fn warnings(&self, call: &Call) -> Result<Vec<String>, Failure> {
        match (&self.twice, call.query.field_validation) {
            (None, _) | (_, FieldValidation::Ignore) => Ok(Vec::new()),
            (Some(twice), FieldValidation::Warn) => Ok(vec![twice.clone()]),
            (Some(twice), FieldValidation::Strict) => Err(Failure::bad_request(format!(
                "error strict decoding YAML: {twice}"
            ))),
        }
    }
}

/// Read YAML, or JSON, which is YAML too and what nearly all clients send.
fn decode(body: &Bytes) -> Result<(Value, Notes), String> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
        && let Ok((value, notes)) = reading::json(body, true)
        && notes.is_empty()
    {
        return Ok((value, notes));
    }
    reading::yaml(body)
}

pub(crate) async fn apply(
    api: &Arc<Api>,
    call: Call,
    part: Part,
    body: Body,
) -> Result<Response, Failure> {
    let config = Config::read(&call, body).await?;
    let force = call.query.force.unwrap_or(false);
    let versions = Served::new(api, &call.resource);
    let make = |live: Option<&Value>| -> Result<Value, Failure> {
        let (subresource, manager) = (part.subresource(), managers::name(&call));
        let now = Timestamp::now();
        Write::new(&call.resource, subresource, &manager, &versions, now)
            .ok_or_else(|| Failure::internal("the type of this kind is not known"))
            .and_then(|write| managed::apply(&write, live, &config.value, force))
            .and_then(|applied| config.warnings(&call).map(|_| applied))
            .and_then(|applied| match versions.is_complete() {
                true => Ok(applied),
                false => Err(call.resource.modified(&call.name)),
            })
    };
    let change = |live: &Value| make(Some(live));
    for _ in 0..ATTEMPTS {
        if let Some(stored) = api.store.get(&call.key()) {
            look(api, &call, &versions, &stored, &change).await?;
        }
        if api.store.get(&call.key()).is_some() {
            let written = update_as(api, &call, part, &change, Through::Apply).await;
            return match written {
                // It went meanwhile.
                Err(failure) if failure.is_not_found() && matches!(part, Part::Main) => continue,
                // It changed meanwhile, and must be seen in another version again.
                Err(_) if !versions.is_complete() => continue,
                Err(failure) => Err(failure),
                Ok((written, mut warnings)) => {
                    warnings.extend(config.warnings(&call)?);
                    answer(&call, &written, &warnings)
                }
            };
        }
        if !matches!(part, Part::Main) {
            return Err(call.resource.not_found(&call.name));
        }
        match create(api, &call, &config, make(None)?).await {
            // Somebody else was quicker.
            Err(failure) if failure.is_exists() => {}
            done => return done,
        }
    }
    Err(call.resource.modified(&call.name))
}

/// Find out what the change will need to see in other versions, where only a webhook can show it.
async fn look(
    api: &Api,
    call: &Call,
    versions: &Served<'_>,
    stored: &Arc<Object>,
    change: &(dyn Fn(&Value) -> Result<Value, Failure> + Send + Sync),
) -> Result<(), Failure> {
    if call.resource.converted.is_none() {
        return Ok(());
    }
    convert::prepare(api, &call.resource, [stored]).await?;
    let live = call.resource.value(stored)?;
    for _ in 0..managers::ROUNDS {
        // What it answers is not known to be right before there is nothing more to find out.
        let _ = change(&live);
        if !versions.fetch(api).await? {
            break;
        }
    }
    Ok(())
}

async fn create(
    api: &Arc<Api>,
    call: &Call,
    config: &Config,
    mut value: Value,
) -> Result<Response, Failure> {
    authorize(api, call)?;
    let mut warnings = config.warnings(call)?;
    call.check_type(&mut value)?;
    warnings.extend(call.report(call.resource.decode(&mut value)?)?);
    if !object::uid(&value).is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {}, and no existing object was found",
            object::uid(&value)
        );
        return Err(call.resource.conflict(&call.name, &why));
    }
    call.check_place(&mut value)?;
    create_decoded(api, call, value, Tracking::Brought, warnings).await
}
