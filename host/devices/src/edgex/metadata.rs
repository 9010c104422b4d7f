//! core-metadata: devices, profiles, device services and provision watchers, read and written.

mod devices;
mod profiles;
mod services;
mod units;
mod watchers;

use eyot_edgex::objects::{created, new_name, page};
use http::{Method, StatusCode};
use serde_json::json;

use super::{
    Edgex, no_such_method,
    objects::{self, Entity, updated},
    reply::{Failure, Reply},
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

fn done() -> Result<Reply, Failure> {
    Ok(Reply::ok(json!({})))
}

fn locked(message: String) -> Failure {
    Failure {
        status: StatusCode::CONFLICT,
        message,
    }
}
