//! Device profiles of core-metadata.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use eyot_api::{
    Device, DeviceCommand, DeviceProfile, DeviceProfileSpec, DeviceResource, ProvisionWatcher,
    ReadWrite,
};
use eyot_edgex::each;
use http::StatusCode;
use serde_json::{Value as Json, json};

use super::super::{
    Edgex,
    body::{self, Check, Fields, Item},
    dto, objects,
    reply::{Done, Failure, Reply},
    request::Parsed,
};
use super::{created, done, locked, new_name, page, updated};

/// What an update of the basic information may change.
const INFO: &[&str] = &["manufacturer", "model", "description", "labels"];
/// What an update of a resource or a command may change.
const PART: &[&str] = &["description", "isHidden", "tags"];
const READ_WRITE: &[&str] = &["R", "W", "RW", "WR"];

pub(super) fn list(
    edgex: &Edgex,
    request: &Parsed,
    wanted: impl Fn(&DeviceProfileSpec) -> bool,
) -> Result<Reply, Failure> {
    let mut all = objects::all::<DeviceProfile>(edgex);
    all.retain(|profile| wanted(&profile.spec));
    let devices = objects::all::<Device>(edgex);
    page(request, "profiles", all, |profile| {
        linked(&devices, profile, dto::profile(profile))
    })
}

pub(super) fn info(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let all = objects::all::<DeviceProfile>(edgex);
    let devices = objects::all::<Device>(edgex);
    page(request, "profiles", all, |profile| {
        linked(&devices, profile, dto::basic_info(profile))
    })
}

pub(super) fn one(edgex: &Edgex, name: &str) -> Result<Reply, Failure> {
    let profile = objects::named::<DeviceProfile>(edgex, name)?;
    let devices = objects::all::<Device>(edgex);
    let shown = linked(&devices, &profile, dto::profile(&profile));
    Ok(Reply::ok(json!({ "profile": shown })))
}

/// How many devices have the profile.
fn linked(devices: &[Arc<Device>], profile: &DeviceProfile, mut shown: Json) -> Json {
    let name = profile.edgex_name();
    let count = devices
        .iter()
        .filter(|device| device.spec.profile_name == name)
        .count();
    shown["linkedDeviceCount"] = count.into();
    shown
}

pub(super) fn resource(edgex: &Edgex, profile: &str, name: &str) -> Result<Reply, Failure> {
    let profile = objects::named::<DeviceProfile>(edgex, profile)?;
    match profile.spec.resource(name) {
        Some(resource) => Ok(Reply::ok(json!({ "resource": resource }))),
        None => Err(Failure::not_found(format!("resource {name} not exists"))),
    }
}

pub(super) async fn add(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let items = read(request)?;
    let _writing = edgex.writing().await;
    each!(items, mut item => {
        let name = new_name(&mut item.content);
        let profile = objects::add(edgex, &name, described(item.content)?).await?;
        Ok(created(&profile))
    })
}

/// Keep a profile that is no client's, under this name. Whoever calls holds the right to write.
pub(in crate::edgex) async fn add_one(
    edgex: &Edgex,
    name: &str,
    mut content: Fields,
) -> Result<(), Failure> {
    let mut check = Check::new("profile".to_owned());
    rules(&mut check, &content);
    check.done()?;
    new_name(&mut content);
    let profile = described(content)?;
    agrees(&profile.spec)?;
    objects::add(edgex, name, profile).await?;
    Ok(())
}

pub(super) async fn replace(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let items = read(request)?;
    let _writing = edgex.writing().await;
    each!(items, mut item => {
        let name = new_name(&mut item.content);
        put(edgex, &name, described(item.content)?).await
    })
}

async fn put(edgex: &Edgex, name: &str, profile: DeviceProfile) -> Result<Done, Failure> {
    let known = objects::named::<DeviceProfile>(edgex, name)?;
    objects::change(edgex, &*known, |known| {
        let name = known.spec.name.take();
        known.spec = DeviceProfileSpec {
            name,
            ..profile.spec.clone()
        };
        Ok(())
    })
    .await?;
    Ok(Done::Changed)
}

/// The items of a request that holds whole profiles, checked.
fn read(request: &Parsed) -> Result<Vec<Item>, Failure> {
    let items = body::items(request, "DeviceProfileRequest", "profile", rules)?;
    for item in &items {
        let mut content = item.content.clone();
        new_name(&mut content);
        agrees(&described(content)?.spec)?;
    }
    Ok(items)
}

fn described(content: Fields) -> Result<DeviceProfile, Failure> {
    let spec: DeviceProfileSpec = body::read(content)?;
    Ok(DeviceProfile::new("", spec))
}

/// The shape of a profile.
fn rules(check: &mut Check, profile: &Fields) {
    check.required(profile, "name");
    for text in ["manufacturer", "model", "description"] {
        check.text(profile, text);
    }
    check.each(profile, "deviceResources", resource_rules);
    check.each(profile, "deviceCommands", command_rules);
}

fn resource_rules(check: &mut Check, resource: &Fields) {
    check.required(resource, "name");
    check.inside(resource, "properties", |check, properties| {
        check.value_type(properties);
        check.one_of(properties, "readWrite", READ_WRITE, true);
    });
    check.map(resource, "attributes", false);
    check.map(resource, "tags", false);
}

fn command_rules(check: &mut Check, command: &Fields) {
    check.required(command, "name");
    check.one_of(command, "readWrite", READ_WRITE, true);
    check.each(command, "resourceOperations", |check, operation| {
        check.required(operation, "deviceResource");
    });
}

/// What the parts of a profile must agree on.
fn agrees(profile: &DeviceProfileSpec) -> Result<(), Failure> {
    let bad = |message: String| Err(Failure::bad_request(message));
    let mut resources = HashMap::new();
    for resource in &profile.device_resources {
        if resources.insert(&resource.name, resource).is_some() {
            return bad(format!("device resource {} is duplicated", resource.name));
        }
    }
    let mut names = HashSet::new();
    for command in &profile.device_commands {
        if !names.insert(&command.name) {
            return bad(format!("device command {} is duplicated", command.name));
        }
        for operation in &command.resource_operations {
            let name = &operation.device_resource;
            let Some(resource) = resources.get(name) else {
                return bad(format!(
                    "device command's resource {name} doesn't match any device resource"
                ));
            };
            if !allows(resource.properties.read_write, command.read_write) {
                return bad(format!(
                    "device command's ReadWrite permission '{}' doesn't align the device resource",
                    command.read_write.as_str()
                ));
            }
        }
    }
    Ok(())
}

fn allows(resource: ReadWrite, command: ReadWrite) -> bool {
    (resource.readable() || !command.readable()) && (resource.writable() || !command.writable())
}

/// A profile file, in a form's field `file`.
pub(super) async fn upload(
    edgex: &Edgex,
    request: &Parsed,
    replacing: bool,
) -> Result<Reply, Failure> {
    let text = form_file(request).await?;
    let mut profile = DeviceProfile::from_edgex_yaml(&text)
        .map_err(|error| Failure::bad_request(error.to_string()))?;
    let name = profile.edgex_name().into_owned();
    profile.spec.name = None;
    agrees(&profile.spec)?;
    let _writing = edgex.writing().await;
    if replacing {
        put(edgex, &name, profile).await?;
        return done();
    }
    let stored = objects::add(edgex, &name, profile).await?;
    Ok(Reply::with(
        StatusCode::CREATED,
        json!({ "id": stored.metadata.uid }),
    ))
}

async fn form_file(request: &Parsed) -> Result<String, Failure> {
    let broken = |error: multer::Error| Failure::bad_request(format!("the form: {error}"));
    let content_type = request.content_type.as_deref().unwrap_or_default();
    let boundary = multer::parse_boundary(content_type).map_err(|_| {
        Failure::bad_request(
            "missing yaml file: send it as multipart/form-data in a field named \"file\"",
        )
    })?;
    let body = request.body.clone();
    let body = futures::stream::iter([Ok::<_, std::convert::Infallible>(body)]);
    let mut form = multer::Multipart::new(body, boundary);
    while let Some(field) = form.next_field().await.map_err(broken)? {
        if field.name() == Some("file") {
            let bytes = field.bytes().await.map_err(broken)?;
            return String::from_utf8(bytes.into())
                .map_err(|_| Failure::bad_request("the file is not UTF-8"));
        }
    }
    Err(Failure::bad_request("missing yaml file"))
}

pub(super) async fn update_info(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let items = body::items(
        request,
        "DeviceProfileBasicInfoRequest",
        "basicinfo",
        |check, info| {
            check.identity(info);
            for text in ["manufacturer", "model", "description"] {
                check.text(info, text);
            }
        },
    )?;
    let _writing = edgex.writing().await;
    each!(items, item => {
        let profile = updated::<DeviceProfile>(edgex, &item.content)?;
        objects::change(edgex, &*profile, |profile| {
            body::patch(&mut profile.spec, &item.content, INFO)
        })
        .await?;
        Ok(Done::Changed)
    })
}

pub(super) async fn remove(edgex: &Edgex, name: &str) -> Result<Reply, Failure> {
    let _writing = edgex.writing().await;
    let profile = objects::named::<DeviceProfile>(edgex, name)?;
    unused(edgex, name, "delete")?;
    let watchers = objects::all::<ProvisionWatcher>(edgex);
    let watched =
        |watcher: &Arc<ProvisionWatcher>| watcher.spec.discovered_device.profile_name == name;
    if watchers.iter().any(watched) {
        return Err(locked(
            "fail to delete the device profile when associated provisionWatcher exists".to_owned(),
        ));
    }
    objects::remove(edgex, &*profile).await?;
    done()
}

fn unused(edgex: &Edgex, profile: &str, what: &str) -> Result<(), Failure> {
    let devices = objects::all::<Device>(edgex);
    if devices
        .iter()
        .any(|device| device.spec.profile_name == profile)
    {
        return Err(locked(format!(
            "fail to {what} the device profile when associated device exists"
        )));
    }
    Ok(())
}

pub(super) async fn tags(edgex: &Edgex, request: &Parsed, name: &str) -> Result<Reply, Failure> {
    let content = body::object(request)?;
    body::envelope_id(&content, "DeviceProfileTagsRequest")?;
    let mut check = Check::new("DeviceProfileTagsRequest".to_owned());
    for list in ["deviceResources", "deviceCommands"] {
        check.each(&content, list, |check, part| {
            check.required(part, "name");
            check.map(part, "tags", true);
        });
    }
    check.done()?;
    let _writing = edgex.writing().await;
    let profile = objects::named::<DeviceProfile>(edgex, name)?;
    objects::change(edgex, &*profile, |profile| {
        for (name, tags) in tagged(&content, "deviceResources") {
            let part = resource_of(&mut profile.spec, name)?;
            part.tags.extend(tags.clone());
        }
        for (name, tags) in tagged(&content, "deviceCommands") {
            let part = command_of(&mut profile.spec, name)?;
            part.tags.extend(tags.clone());
        }
        Ok(())
    })
    .await?;
    done()
}

/// Names and new tags, from a list that was checked.
fn tagged<'a>(content: &'a Fields, list: &str) -> impl Iterator<Item = (&'a str, &'a Fields)> {
    let parts = content.get(list).and_then(Json::as_array);
    parts
        .into_iter()
        .flatten()
        .filter_map(|part| Some((part.get("name")?.as_str()?, part.get("tags")?.as_object()?)))
}

fn resource_of<'a>(
    profile: &'a mut DeviceProfileSpec,
    name: &str,
) -> Result<&'a mut DeviceResource, Failure> {
    let mut parts = profile.device_resources.iter_mut();
    parts
        .find(|part| part.name == name)
        .ok_or_else(|| Failure::not_found("device resource not found"))
}

fn command_of<'a>(
    profile: &'a mut DeviceProfileSpec,
    name: &str,
) -> Result<&'a mut DeviceCommand, Failure> {
    let mut parts = profile.device_commands.iter_mut();
    parts
        .find(|part| part.name == name)
        .ok_or_else(|| Failure::not_found("device command not found"))
}

/// Change the profile that an item names beside its content.
async fn edit(
    edgex: &Edgex,
    item: &Item,
    edit: impl Fn(&mut DeviceProfileSpec) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let name = item.envelope.get("profileName").and_then(Json::as_str);
    let profile = objects::named::<DeviceProfile>(edgex, name.unwrap_or_default())?;
    objects::change(edgex, &*profile, |profile| {
        edit(&mut profile.spec)?;
        agrees(&profile.spec)
    })
    .await?;
    Ok(())
}

/// Items about parts of profiles, each beside the profile's name.
fn parts(
    request: &Parsed,
    called: &str,
    part: &str,
    rules: impl Fn(&mut Check, &Fields),
) -> Result<Vec<Item>, Failure> {
    let items = body::items(request, called, part, rules)?;
    for item in &items {
        let mut check = Check::new(called.to_owned());
        check.required(&item.envelope, "profileName");
        check.done()?;
    }
    Ok(items)
}

pub(super) async fn add_resources(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let items = parts(
        request,
        "AddDeviceResourceRequest",
        "resource",
        resource_rules,
    )?;
    let _writing = edgex.writing().await;
    each!(items, item => {
        let resource: DeviceResource = body::read(item.content.clone())?;
        edit(edgex, &item, |profile| {
            profile.device_resources.push(resource.clone());
            Ok(())
        })
        .await?;
        Ok(Done::Added)
    })
}

pub(super) async fn edit_resources(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let called = "UpdateDeviceResourceRequest";
    let items = parts(request, called, "resource", part_rules)?;
    let _writing = edgex.writing().await;
    each!(items, item => {
        let name = item.content.get("name").and_then(Json::as_str);
        edit(edgex, &item, |profile| {
            let resource = resource_of(profile, name.unwrap_or_default())?;
            body::patch(resource, &item.content, PART)
        })
        .await?;
        Ok(Done::Changed)
    })
}

pub(super) async fn add_commands(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let called = "AddDeviceCommandRequest";
    let items = parts(request, called, "deviceCommand", command_rules)?;
    let _writing = edgex.writing().await;
    each!(items, item => {
        let command: DeviceCommand = body::read(item.content.clone())?;
        edit(edgex, &item, |profile| {
            profile.device_commands.push(command.clone());
            Ok(())
        })
        .await?;
        Ok(Done::Added)
    })
}

pub(super) async fn edit_commands(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let called = "UpdateDeviceCommandRequest";
    let items = parts(request, called, "deviceCommand", part_rules)?;
    let _writing = edgex.writing().await;
    each!(items, item => {
        let name = item.content.get("name").and_then(Json::as_str);
        edit(edgex, &item, |profile| {
            let command = command_of(profile, name.unwrap_or_default())?;
            body::patch(command, &item.content, PART)
        })
        .await?;
        Ok(Done::Changed)
    })
}

fn part_rules(check: &mut Check, part: &Fields) {
    check.required(part, "name");
    check.text(part, "description");
    check.map(part, "tags", false);
}

pub(super) async fn remove_resource(
    edgex: &Edgex,
    profile: &str,
    name: &str,
) -> Result<Reply, Failure> {
    remove_part(edgex, profile, |spec| {
        resource_of(spec, name)?;
        spec.device_resources.retain(|part| part.name != name);
        Ok(())
    })
    .await
}

pub(super) async fn remove_command(
    edgex: &Edgex,
    profile: &str,
    name: &str,
) -> Result<Reply, Failure> {
    remove_part(edgex, profile, |spec| {
        command_of(spec, name)?;
        spec.device_commands.retain(|part| part.name != name);
        Ok(())
    })
    .await
}

async fn remove_part(
    edgex: &Edgex,
    profile: &str,
    edit: impl Fn(&mut DeviceProfileSpec) -> Result<(), Failure>,
) -> Result<Reply, Failure> {
    let _writing = edgex.writing().await;
    let found = objects::named::<DeviceProfile>(edgex, profile)?;
    unused(edgex, profile, "update")?;
    objects::change(edgex, &*found, |profile| {
        edit(&mut profile.spec)?;
        agrees(&profile.spec)
    })
    .await?;
    done()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A profile of so many resources, and as many commands that each name one of the last.
    fn large(count: usize) -> DeviceProfileSpec {
        let resource = |n: usize| {
            let properties = json!({ "valueType": "Int16", "readWrite": "RW" });
            json!({ "name": format!("R{n}"), "properties": properties })
        };
        let command = |n: usize| {
            let operations = json!([{ "deviceResource": format!("R{}", count - 1 - n) }]);
            json!({ "name": format!("C{n}"), "readWrite": "R", "resourceOperations": operations })
        };
        let profile = json!({
            "deviceResources": (0..count).map(resource).collect::<Vec<_>>(),
            "deviceCommands": (0..count).map(command).collect::<Vec<_>>(),
        });
        serde_json::from_value(profile).unwrap()
    }

    #[test]
    fn a_profile_of_a_hundred_thousand_resources_is_checked_in_moderate_time() {
        let profile = large(100_000);
        let start = Instant::now();
        assert!(agrees(&profile).is_ok());
        // Compared each with each, these would take minutes.
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_command_that_names_itself_is_no_resource() {
        let mut profile = large(2);
        profile.device_commands[0].resource_operations[0].device_resource = "C0".to_owned();
        let refused = agrees(&profile).unwrap_err();
        assert!(refused.message.contains("C0"), "{}", refused.message);
    }
}
