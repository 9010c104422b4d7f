//! Provision watchers of core-metadata.

use eyot_api::{DeviceProfile, ProvisionWatcher, ProvisionWatcherSpec};
use eyot_edgex::each;
use serde_json::{Value as Json, json};

use super::super::{
    Edgex,
    body::{self, Check, Fields},
    dto, objects,
    reply::{Done, Failure, Reply},
    request::Parsed,
};
use super::{created, done, new_name, page, updated};

/// What an update may change; the discovered device is changed field by field.
const FIELDS: &[&str] = &[
    "serviceName",
    "labels",
    "identifiers",
    "blockingIdentifiers",
    "adminState",
];
const DISCOVERED: &[&str] = &["profileName", "adminState", "autoEvents", "properties"];
const ADMIN: &[&str] = &["LOCKED", "UNLOCKED"];

pub(super) fn list(
    edgex: &Edgex,
    request: &Parsed,
    wanted: impl Fn(&ProvisionWatcherSpec) -> bool,
) -> Result<Reply, Failure> {
    let mut all = objects::all::<ProvisionWatcher>(edgex);
    all.retain(|watcher| wanted(&watcher.spec));
    page(request, "provisionWatchers", all, dto::watcher)
}

pub(super) fn one(edgex: &Edgex, name: &str) -> Result<Reply, Failure> {
    let watcher = objects::named::<ProvisionWatcher>(edgex, name)?;
    Ok(Reply::ok(
        json!({ "provisionWatcher": dto::watcher(&watcher) }),
    ))
}

pub(super) async fn add(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let items = body::items(
        request,
        "AddProvisionWatcherRequest",
        "provisionwatcher",
        |check, watcher| {
            check.required(watcher, "name");
            check.required(watcher, "serviceName");
            identifiers(check, watcher, true);
            check.one_of(watcher, "adminState", ADMIN, true);
            check.inside(watcher, "discoveredDevice", |check, discovered| {
                check.one_of(discovered, "adminState", ADMIN, true);
                check.auto_events(discovered);
                check.text(discovered, "profileName");
                check.map(discovered, "properties", false);
            });
        },
    )?;
    let _writing = edgex.writing().await;
    each!(items, mut item => {
        let name = new_name(&mut item.content);
        let spec: ProvisionWatcherSpec = body::read(item.content)?;
        profile_is_there(edgex, &spec)?;
        let watcher = objects::add(edgex, &name, ProvisionWatcher::new("", spec)).await?;
        Ok(created(&watcher))
    })
}

pub(super) async fn update(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let items = body::items(
        request,
        "UpdateProvisionWatcherRequest",
        "provisionwatcher",
        |check, watcher| {
            check.identity(watcher);
            check.not_blank(watcher, "serviceName");
            identifiers(check, watcher, false);
            check.one_of(watcher, "adminState", ADMIN, false);
            check.inside(watcher, "discoveredDevice", |check, discovered| {
                check.one_of(discovered, "adminState", ADMIN, false);
                check.auto_events(discovered);
                check.text(discovered, "profileName");
                check.map(discovered, "properties", false);
            });
        },
    )?;
    let _writing = edgex.writing().await;
    each!(items, item => {
        let content = &item.content;
        let watcher = updated::<ProvisionWatcher>(edgex, content)?;
        objects::change(edgex, &*watcher, |watcher| {
            body::patch(&mut watcher.spec, content, FIELDS)?;
            if let Some(Json::Object(discovered)) = content.get("discoveredDevice") {
                body::patch(&mut watcher.spec.discovered_device, discovered, DISCOVERED)?;
            }
            profile_is_there(edgex, &watcher.spec)
        })
        .await?;
        Ok(Done::Changed)
    })
}

pub(super) async fn remove(edgex: &Edgex, name: &str) -> Result<Reply, Failure> {
    let _writing = edgex.writing().await;
    let watcher = objects::named::<ProvisionWatcher>(edgex, name)?;
    objects::remove(edgex, &*watcher).await?;
    done()
}

fn profile_is_there(edgex: &Edgex, spec: &ProvisionWatcherSpec) -> Result<(), Failure> {
    let name = &spec.discovered_device.profile_name;
    if name.is_empty() || objects::find::<DeviceProfile>(edgex, name).is_some() {
        return Ok(());
    }
    Err(Failure::not_found(format!(
        "device profile '{name}' does not exist"
    )))
}

/// At least one identifier, and each with a value that is a pattern.
fn identifiers(check: &mut Check, watcher: &Fields, needed: bool) {
    let path = check.path("identifiers");
    match watcher.get("identifiers") {
        None | Some(Json::Null) if !needed => {}
        Some(Json::Object(identifiers)) if !identifiers.is_empty() => {
            for (name, pattern) in identifiers {
                let pattern = pattern.as_str().filter(|pattern| !pattern.is_empty());
                match pattern {
                    _ if name.is_empty() => {
                        check.say(format!("{path}[] field is required"));
                    }
                    None => check.say(format!("{path}[{name}] field is required")),
                    Some(pattern) => {
                        if let Err(error) = regex::Regex::new(pattern) {
                            check.say(format!("{path}[{name}] is no regular expression: {error}"));
                        }
                    }
                }
            }
        }
        None | Some(Json::Null | Json::Object(_)) => {
            check.say(format!("{path} field should greater than 0"));
        }
        Some(_) => check.say(format!("{path} field must be an object")),
    }
    check.map(watcher, "blockingIdentifiers", false);
}
