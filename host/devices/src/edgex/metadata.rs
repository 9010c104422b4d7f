//! core-metadata: devices, profiles, device services and provision watchers, read and written.

/// Do each item in turn, and tell what came of it. (Not a function: an async closure that borrows
/// is not known to be `Send`.)
macro_rules! each {
    ($items:expr, $item:pat => $act:block) => {{
        let mut outcomes = Vec::new();
        for one in $items {
            let request_id = one.request_id.clone();
            let $item = one;
            let act: Result<Done, Failure> = async { $act }.await;
            outcomes.push(super::super::reply::outcome(&request_id, act));
        }
        Ok(Reply::many(outcomes))
    }};
}

mod devices;
mod profiles;
mod services;
mod units;
mod watchers;

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::{
    Edgex,
    body::Fields,
    no_such_method,
    objects::{self, Entity},
    reply::{Done, Failure, Reply},
    request::Parsed,
};

pub(super) use devices::{all as devices, judge, one as device};
pub(super) use profiles::add_one as add_profile;

const GET: &Method = &Method::GET;
const POST: &Method = &Method::POST;
const PUT: &Method = &Method::PUT;
const PATCH: &Method = &Method::PATCH;
const DELETE: &Method = &Method::DELETE;

/// Answer a request of core-metadata; `None` if the path is none of its own.
pub(super) async fn route(
    edgex: &Edgex,
    request: &Parsed,
    path: &[&str],
) -> Option<Result<Reply, Failure>> {
    let method = &request.method;
    Some(match (path, method) {
        (["device"], POST) => devices::add(edgex, request).await,
        (["device"], PATCH) => devices::update(edgex, request).await,
        (["device", "all"], GET) => devices::all(edgex, request),
        (["device", "check", "name", name], GET) => exists::<eyot_api::Device>(edgex, name),
        (["device", "id", id], GET) => devices::identified(edgex, id),
        (["device", "name", name], GET) => devices::one(edgex, name),
        (["device", "name", name], DELETE) => devices::remove(edgex, name).await,
        (["device", "profile", "name", name], GET) => devices::of_profile(edgex, request, name),
        (["device", "service", "name", name], GET) => devices::of_service(edgex, request, name),

        (["deviceprofile"], POST) => profiles::add(edgex, request).await,
        (["deviceprofile"], PUT) => profiles::replace(edgex, request).await,
        (["deviceprofile", "uploadfile"], POST) => profiles::upload(edgex, request, false).await,
        (["deviceprofile", "uploadfile"], PUT) => profiles::upload(edgex, request, true).await,
        (["deviceprofile", "all"], GET) => profiles::list(edgex, request, |_| true),
        (["deviceprofile", "basicinfo"], PATCH) => profiles::update_info(edgex, request).await,
        (["deviceprofile", "basicinfo", "all"], GET) => profiles::info(edgex, request),
        (["deviceprofile", "name", name], GET) => profiles::one(edgex, name),
        (["deviceprofile", "name", name], DELETE) => profiles::remove(edgex, name).await,
        (["deviceprofile", "name", name, "tags"], PATCH) => {
            profiles::tags(edgex, request, name).await
        }
        (["deviceprofile", "resource"], POST) => profiles::add_resources(edgex, request).await,
        (["deviceprofile", "resource"], PATCH) => profiles::edit_resources(edgex, request).await,
        (["deviceprofile", "name", name, "resource", resource], DELETE) => {
            profiles::remove_resource(edgex, name, resource).await
        }
        (["deviceprofile", "deviceCommand"], POST) => profiles::add_commands(edgex, request).await,
        (["deviceprofile", "deviceCommand"], PATCH) => {
            profiles::edit_commands(edgex, request).await
        }
        (["deviceprofile", "name", name, "deviceCommand", command], DELETE) => {
            profiles::remove_command(edgex, name, command).await
        }
        (["deviceprofile", "manufacturer", maker], GET) => {
            profiles::list(edgex, request, |profile| profile.manufacturer == *maker)
        }
        (["deviceprofile", "model", model], GET) => {
            profiles::list(edgex, request, |profile| profile.model == *model)
        }
        (["deviceprofile", "manufacturer", maker, "model", model], GET) => {
            profiles::list(edgex, request, |profile| {
                profile.manufacturer == *maker && profile.model == *model
            })
        }
        (["deviceresource", "profile", profile, "resource", name], GET) => {
            profiles::resource(edgex, profile, name)
        }

        (["deviceservice"], POST) => services::add(edgex, request).await,
        (["deviceservice"], PATCH) => services::update(edgex, request).await,
        (["deviceservice", "all"], GET) => services::all(edgex, request),
        (["deviceservice", "name", name], GET) => services::one(edgex, name),
        (["deviceservice", "name", name], DELETE) => services::remove(edgex, name).await,

        (["provisionwatcher"], POST) => watchers::add(edgex, request).await,
        (["provisionwatcher"], PATCH) => watchers::update(edgex, request).await,
        (["provisionwatcher", "all"], GET) => watchers::list(edgex, request, |_| true),
        (["provisionwatcher", "name", name], GET) => watchers::one(edgex, name),
        (["provisionwatcher", "name", name], DELETE) => watchers::remove(edgex, name).await,
        (["provisionwatcher", "service", "name", name], GET) => {
            watchers::list(edgex, request, |watcher| watcher.service_name == *name)
        }
        (["provisionwatcher", "profile", "name", name], GET) => {
            watchers::list(edgex, request, |watcher| {
                watcher.discovered_device.profile_name == *name
            })
        }

        (["uom"], GET) => Ok(units::all()),
        (path, _) if is_known(path) => Err(no_such_method(request)),
        _ => return None,
    })
}

/// Whether a path is one of the above, for another method.
fn is_known(path: &[&str]) -> bool {
    matches!(
        path,
        ["uom"]
            | ["device" | "deviceprofile" | "deviceservice" | "provisionwatcher"]
            | ["device", "all"]
            | ["device", "check" | "profile" | "service", "name", _]
            | ["device", "id" | "name", _]
            | [
                "deviceprofile",
                "uploadfile" | "all" | "basicinfo" | "resource" | "deviceCommand"
            ]
            | ["deviceprofile", "basicinfo", "all"]
            | ["deviceprofile", "name" | "manufacturer" | "model", _]
            | ["deviceprofile", "name", _, "tags"]
            | ["deviceprofile", "name", _, "resource" | "deviceCommand", _]
            | ["deviceprofile", "manufacturer", _, "model", _]
            | ["deviceresource", "profile", _, "resource", _]
            | ["deviceservice" | "provisionwatcher", "all"]
            | ["deviceservice" | "provisionwatcher", "name", _]
            | ["provisionwatcher", "service" | "profile", "name", _]
    )
}

fn exists<K: Entity>(edgex: &Edgex, name: &str) -> Result<Reply, Failure> {
    objects::named::<K>(edgex, name).map(|_| Reply::ok(json!({})))
}

/// One page of what is wanted, under `field`.
fn page<K: Entity>(
    request: &Parsed,
    field: &str,
    mut all: Vec<Arc<K>>,
    shown: impl Fn(&K) -> Json,
) -> Result<Reply, Failure> {
    let labels = labels(request);
    all.retain(|object| labels.iter().all(|label| object.labels().contains(label)));
    let (total, page) = request.page()?.of(all)?;
    let page: Vec<Json> = page.iter().map(|object| shown(object)).collect();
    Ok(Reply::ok(json!({ "totalCount": total, field: page })))
}

fn labels(request: &Parsed) -> Vec<String> {
    let given = request
        .query
        .get("labels")
        .map(String::as_str)
        .unwrap_or_default();
    given
        .split(',')
        .filter(|label| !label.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The object that an update is about.
fn updated<K: Entity>(edgex: &Edgex, content: &Fields) -> Result<Arc<K>, Failure> {
    let text = |name: &str| content.get(name).and_then(Json::as_str);
    let name = text("name");
    let object = match text("id").filter(|id| !id.trim().is_empty()) {
        Some(id) => objects::identified::<K>(edgex, id)?,
        None => objects::named::<K>(edgex, name.unwrap_or_default())?,
    };
    if let Some(name) = name
        && name != object.edgex_name()
    {
        return Err(Failure::bad_request(format!(
            "{} name '{name}' does not match the existing '{}'",
            K::CALLED,
            object.edgex_name()
        )));
    }
    Ok(object)
}

/// The name that a new object is asked to have.
fn new_name(content: &mut Fields) -> String {
    for kept in ["id", "created", "modified"] {
        content.remove(kept);
    }
    match content.remove("name") {
        Some(Json::String(name)) => name,
        _ => String::new(),
    }
}

fn created<K: Entity>(object: &K) -> Done {
    Done::Created(object.meta().uid.clone().unwrap_or_default())
}

fn done() -> Result<Reply, Failure> {
    Ok(Reply::ok(json!({})))
}

fn locked(message: String) -> Failure {
    Failure {
        status: StatusCode::CONFLICT,
        message,
    }
}
