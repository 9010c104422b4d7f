//! Finding devices and describing them: what drivers find, and what becomes of it.
//!
//! A search and a scan go on after their request is answered, one of each service and of each device
//! at a time. Progress is told as EdgeX tells it, at
//! `edgex/system-events/<service>/device/<discovery or profilescan>/<service>`.

mod auto;

use std::{
    collections::HashMap,
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_api::{AdminState, Device, DeviceProfile, DeviceService, DeviceSpec, ProvisionWatcher};
use eyot_edgex::Entity as _;
use eyot_runtime::guest::{DiscoveredDevice, DriverError};
use http::{Method, StatusCode};
use regex::RegexBuilder;
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    Edgex,
    body::{self, Check},
    device_service::own,
    metadata, no_such_method, objects,
    reply::{Failure, Reply},
    request::Parsed,
};
use crate::{Devices, ScanError, clock, source::plain};

pub(crate) use auto::search_by_itself;

/// How long an answer waits for a driver that says at once that it cannot.
const SOON: Duration = Duration::from_secs(1);
/// Longest name of a found device, in bytes.
const NAME: usize = 253;
/// Bytes that a compiled identifier of a watcher may take.
const PATTERN: usize = 256 * 1024;
/// Devices that are named in one message of progress.
const NAMED: usize = 5;

/// Label of a device that was taken in by itself: the object name of the watcher.
const WATCHER_LABEL: &str = "eyot.dev/provision-watcher";

/// What is under way.
#[derive(Default)]
pub(crate) struct Searches {
    all: Mutex<HashMap<Search, Running>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Search {
    /// The devices of a service.
    Devices(String),
    /// The profile of a device.
    Profile(String),
}

struct Running {
    request_id: String,
    stop: CancellationToken,
}

impl Searches {
    fn all(&self) -> MutexGuard<'_, HashMap<Search, Running>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Note that a search begins; `None` if there is one already.
    fn begin(&self, search: &Search, request_id: &str) -> Option<CancellationToken> {
        let mut all = self.all();
        if all.contains_key(search) {
            return None;
        }
        let stop = CancellationToken::new();
        let running = Running {
            request_id: request_id.to_owned(),
            stop: stop.clone(),
        };
        all.insert(search.clone(), running);
        Some(stop)
    }

    fn end(&self, search: &Search) {
        self.all().remove(search);
    }

    /// Break a search off, if its request has this identifier; false if it has another.
    fn stop(&self, search: &Search, request_id: Option<&str>) -> bool {
        let all = self.all();
        let Some(running) = all.get(search) else {
            // Nothing to stop is fine, unless one search was meant.
            return request_id.is_none();
        };
        let meant = request_id.is_none_or(|id| running.request_id == id);
        if meant {
            running.stop.cancel();
        }
        meant
    }
}

/// Answer for a device service; `None` if the path is none of these.
pub(super) async fn route(
    edgex: &Edgex,
    request: &Parsed,
    service: &str,
    path: &[&str],
) -> Option<Result<Reply, Failure>> {
    let devices = Search::Devices(service.to_owned());
    let searches = &edgex.inner.searches;
    Some(match (path, &request.method) {
        (["discovery"], &Method::POST) => discover(edgex, request, service).await,
        (["discovery"], &Method::DELETE) => {
            searches.stop(&devices, None);
            Ok(Reply::ok(json!({})))
        }
        (["discovery", "requestId", id], &Method::DELETE) => {
            if searches.stop(&devices, Some(id)) {
                Ok(Reply::ok(json!({})))
            } else {
                Err(Failure::not_found(format!(
                    "no discovery with the request id {id} is under way"
                )))
            }
        }
        (["profilescan"], &Method::POST) => scan(edgex, request, service).await,
        (["profilescan", "device", "name", name], &Method::DELETE) => {
            stop_scan(edgex, service, name)
        }
        (
            ["discovery"]
            | ["discovery", "requestId", _]
            | ["profilescan"]
            | ["profilescan", "device", "name", _],
            _,
        ) => Err(no_such_method(request)),
        _ => return None,
    })
}

fn unlocked(edgex: &Edgex, service: &str) -> Result<(), Failure> {
    let known = objects::find::<DeviceService>(edgex, service);
    if known.is_some_and(|known| known.spec.admin_state == AdminState::Locked) {
        return Err(failure(&ScanError::Locked(service.to_owned())));
    }
    Ok(())
}

fn failure(error: &ScanError) -> Failure {
    let status = match error {
        ScanError::NotServed(_) => StatusCode::SERVICE_UNAVAILABLE,
        ScanError::Locked(_) => StatusCode::LOCKED,
        ScanError::Driver(DriverError::NotSupported(_)) => StatusCode::NOT_IMPLEMENTED,
        ScanError::Driver(_) | ScanError::Profile(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Failure {
        status,
        message: error.to_string(),
    }
}

fn accepted(request_id: &str, message: &str) -> Reply {
    Reply::with(
        StatusCode::ACCEPTED,
        json!({ "requestId": request_id, "message": message }),
    )
}

async fn discover(edgex: &Edgex, request: &Parsed, service: &str) -> Result<Reply, Failure> {
    unlocked(edgex, service)?;
    let id = request.correlation.clone();
    let of = Search::Devices(service.to_owned());
    let Some(stop) = edgex.inner.searches.begin(&of, &id) else {
        return Ok(accepted(&id, "Device Discovery is under way already"));
    };
    let (edgex, service, asked) = (edgex.clone(), service.to_owned(), id.clone());
    begun(&id, "Device Discovery is triggered", |told| async move {
        if let Err(error) = search(&edgex, &service, &asked, stop).await {
            let _ = told.send(failure(&error));
        }
    })
    .await
}

/// Look for the devices of a service, from the beginning that was noted to the end.
async fn search(
    edgex: &Edgex,
    service: &str,
    request_id: &str,
    stop: CancellationToken,
) -> Result<(), ScanError> {
    let progress = Progress::new(edgex, service, "discovery", request_id);
    progress.tell(0, "", Some(0));
    let devices = Devices::of(&edgex.inner);
    let found = devices.discover(&edgex.inner.namespace, service, "");
    let (outcome, end, message, count) = match stop.run_until_cancelled(found).await {
        None => (Ok(()), -1, "the discovery was stopped".to_owned(), 0),
        Some(Err(error)) => {
            let message = error.to_string();
            (Err(error), -1, message, 0)
        }
        Some(Ok(found)) => {
            let count = found.len();
            (Ok(()), 100, take_in(edgex, service, found).await, count)
        }
    };
    // Who hears of the end can begin anew.
    let of = Search::Devices(service.to_owned());
    edgex.inner.searches.end(&of);
    progress.tell(end, &message, Some(count));
    outcome
}

/// Begin what goes on after the answer, unless it says within a moment that it cannot.
async fn begun<F: Future<Output = ()> + Send + 'static>(
    request_id: &str,
    message: &str,
    work: impl FnOnce(oneshot::Sender<Failure>) -> F,
) -> Result<Reply, Failure> {
    let (told, failed) = oneshot::channel();
    tokio::spawn(work(told));
    match tokio::time::timeout(SOON, failed).await {
        Ok(Ok(failure)) if failure.status != StatusCode::INTERNAL_SERVER_ERROR => Err(failure),
        _ => Ok(accepted(request_id, message)),
    }
}

/// Make devices of what the watchers of the service let in; the answer says what went wrong.
async fn take_in(edgex: &Edgex, service: &str, found: Vec<DiscoveredDevice>) -> String {
    let mut watchers = objects::all::<ProvisionWatcher>(edgex);
    watchers.retain(|watcher| {
        watcher.spec.service_name == service && watcher.spec.admin_state == AdminState::Unlocked
    });
    let watchers: Vec<Watcher> = watchers
        .iter()
        .map(|watcher| Watcher::of(watcher))
        .collect();
    let mut wrong = Vec::new();
    for device in found {
        let name = device.name.clone();
        if let Err(failure) = take(edgex, service, &watchers, device).await {
            tracing::warn!(
                service,
                device = name,
                message = failure.message,
                "a found device was not taken in"
            );
            wrong.push(format!("{name}: {}", failure.message));
        }
    }
    let more = wrong.len().saturating_sub(NAMED);
    wrong.truncate(NAMED);
    if more > 0 {
        wrong.push(format!("and {more} more"));
    }
    wrong.join("; ")
}

async fn take(
    edgex: &Edgex,
    service: &str,
    watchers: &[Watcher],
    found: DiscoveredDevice,
) -> Result<(), Failure> {
    if found.name.trim().is_empty() || found.name.len() > NAME {
        return Err(Failure::bad_request(format!(
            "the name of a device has 1 to {NAME} bytes"
        )));
    }
    let protocols = protocols(&found)?;
    let Some(watcher) = watchers.iter().find(|watcher| watcher.lets_in(&protocols)) else {
        return Ok(());
    };
    let _writing = edgex.writing().await;
    if objects::find::<Device>(edgex, &found.name).is_some() {
        return Ok(());
    }
    let given = &watcher.of.spec.discovered_device;
    let spec = DeviceSpec {
        description: found.description,
        admin_state: given.admin_state,
        service_name: service.to_owned(),
        profile_name: given.profile_name.clone(),
        protocols,
        auto_events: given.auto_events.clone(),
        labels: found.labels,
        properties: given.properties.clone(),
        ..DeviceSpec::default()
    };
    metadata::judge(edgex, &found.name, &spec)?;
    let mut device = Device::new("", spec);
    let watcher = watcher.of.metadata.name.clone().unwrap_or_default();
    // Longer ones are not possible as a label.
    if watcher.len() <= 63 {
        device.metadata.labels = Some([(WATCHER_LABEL.to_owned(), watcher)].into());
    }
    objects::add(edgex, &found.name, device).await?;
    Ok(())
}

type Protocols = std::collections::BTreeMap<String, std::collections::BTreeMap<String, Json>>;

fn protocols(found: &DiscoveredDevice) -> Result<Protocols, Failure> {
    let read = |(name, properties): &(String, String)| {
        let properties = serde_json::from_str(properties).map_err(|error| {
            Failure::bad_request(format!("the properties of protocol {name}: {error}"))
        })?;
        Ok((name.clone(), properties))
    };
    found.protocols.iter().map(read).collect()
}

/// A provision watcher with its patterns ready.
struct Watcher {
    of: ProvisionWatcher,
    identifiers: Vec<(String, regex::Regex)>,
}

impl Watcher {
    /// A watcher one of whose patterns is none lets nothing in.
    fn of(watcher: &ProvisionWatcher) -> Self {
        let patterns = watcher.spec.identifiers.iter();
        let identifiers: Result<Vec<_>, _> = patterns
            .map(|(name, pattern)| {
                let pattern = RegexBuilder::new(pattern).size_limit(PATTERN).build();
                pattern.map(|pattern| (name.clone(), pattern))
            })
            .collect();
        let identifiers = identifiers.unwrap_or_else(|error| {
            let name = watcher.edgex_name().into_owned();
            tracing::warn!(watcher = name, %error, "a provision watcher's identifier is no pattern");
            Vec::new()
        });
        Self {
            of: watcher.clone(),
            identifiers,
        }
    }

    /// As EdgeX has it: one of the protocols has all the identifiers, and no protocol a value that is
    /// blocked. Patterns may match anywhere in a value.
    fn lets_in(&self, protocols: &Protocols) -> bool {
        let allowed = protocols.values().any(|properties| {
            !self.identifiers.is_empty()
                && self.identifiers.iter().all(|(name, pattern)| {
                    let value = properties.get(name).map(plain);
                    value.is_some_and(|value| pattern.is_match(&value))
                })
        });
        let blocking = &self.of.spec.blocking_identifiers;
        let blocked = protocols.values().any(|properties| {
            blocking.iter().any(|(name, values)| {
                let value = properties.get(name).map(plain);
                value.is_some_and(|value| values.contains(&value))
            })
        });
        allowed && !blocked
    }
}

async fn scan(edgex: &Edgex, request: &Parsed, service: &str) -> Result<Reply, Failure> {
    let content = body::object(request)?;
    let called = "ProfileScanRequest";
    let given = body::envelope_id(&content, called)?;
    let mut check = Check::new(called.to_owned());
    check.required(&content, "deviceName");
    check.text(&content, "profileName");
    check.map(&content, "options", false);
    check.done()?;
    let text = |name: &str| content.get(name).and_then(Json::as_str).unwrap_or_default();
    unlocked(edgex, service)?;
    let device = own(edgex, service, text("deviceName"))?;
    let name = device.edgex_name().into_owned();
    let profile = match text("profileName") {
        "" => format!("{name}_profile_{}", clock::nanoseconds() / 1_000_000_000),
        profile => profile.to_owned(),
    };
    if objects::find::<DeviceProfile>(edgex, &profile).is_some() {
        return Err(Failure::conflict(format!(
            "{} name {profile} already exists",
            DeviceProfile::CALLED
        )));
    }
    let id = if given.is_empty() {
        request.correlation.clone()
    } else {
        given
    };
    let search = Search::Profile(name.clone());
    let Some(stop) = edgex.inner.searches.begin(&search, &id) else {
        return Err(Failure::conflict(format!(
            "device {name} is being scanned already"
        )));
    };
    let options = content
        .get("options")
        .map_or_else(String::new, Json::to_string);
    let (edgex, service, asked) = (edgex.clone(), service.to_owned(), id.clone());
    begun(&id, "Device ProfileScan is triggered", |told| async move {
        let progress = Progress::new(&edgex, &service, "profilescan", &asked);
        progress.tell(0, "", None);
        let devices = Devices::of(&edgex.inner);
        let described = devices.profile_scan(&edgex.inner.namespace, &device, &profile, &options);
        let (end, message) = match stop.run_until_cancelled(described).await {
            None => (-1, "the scan was stopped".to_owned()),
            Some(Err(error)) => {
                let message = error.to_string();
                let _ = told.send(failure(&error));
                (-1, message)
            }
            Some(Ok(described)) => match adopt(&edgex, &name, &profile, described).await {
                Ok(()) => (100, String::new()),
                Err(failure) => (-1, failure.message),
            },
        };
        edgex.inner.searches.end(&search);
        progress.tell(end, &message, None);
    })
    .await
}

/// Keep a profile that a driver made, and give it to its device.
async fn adopt(edgex: &Edgex, device: &str, name: &str, profile: Json) -> Result<(), Failure> {
    let Json::Object(profile) = profile else {
        return Err(Failure::bad_request("the driver made no device profile"));
    };
    let _writing = edgex.writing().await;
    metadata::add_profile(edgex, name, profile).await?;
    let device = objects::named::<Device>(edgex, device)?;
    objects::change(edgex, &*device, |device| {
        name.clone_into(&mut device.spec.profile_name);
        Ok(())
    })
    .await?;
    Ok(())
}

fn stop_scan(edgex: &Edgex, service: &str, name: &str) -> Result<Reply, Failure> {
    unlocked(edgex, service)?;
    own(edgex, service, name)?;
    let search = Search::Profile(name.to_owned());
    edgex.inner.searches.stop(&search, None);
    Ok(Reply::ok(json!({})))
}

/// Who is told how far a search is.
struct Progress<'a> {
    edgex: &'a Edgex,
    service: &'a str,
    action: &'static str,
    request_id: String,
}

impl<'a> Progress<'a> {
    fn new(edgex: &'a Edgex, service: &'a str, action: &'static str, request_id: &str) -> Self {
        Self {
            edgex,
            service,
            action,
            request_id: request_id.to_owned(),
        }
    }

    /// 0 at the beginning, 100 at the end, -1 if it failed; with how many devices were found.
    fn tell(&self, progress: i32, message: &str, found: Option<usize>) {
        let mut details = json!({ "requestId": self.request_id, "progress": progress });
        if !message.is_empty() {
            details["message"] = message.into();
        }
        if let Some(found) = found {
            details["discoveredDeviceCount"] = found.into();
        }
        let message = super::system_events::progress(self.service, self.action, details);
        self.edgex.inner.bus.say(message);
    }
}

#[cfg(test)]
mod tests {
    use eyot_api::ProvisionWatcherSpec;

    use super::*;

    fn watcher(spec: Json) -> Watcher {
        let spec: ProvisionWatcherSpec = serde_json::from_value(spec).unwrap();
        Watcher::of(&ProvisionWatcher::new("w", spec))
    }

    fn found(protocols: Json) -> Protocols {
        serde_json::from_value(protocols).unwrap()
    }

    #[test]
    fn a_watcher_lets_in_what_has_all_identifiers_in_one_protocol_and_no_blocked_value() {
        let watcher = watcher(json!({
            "serviceName": "s", "identifiers": { "Address": "^10\\.", "Port": "50" },
            "blockingIdentifiers": { "Port": ["503"] },
        }));
        let lets_in = |protocols: Json| watcher.lets_in(&found(protocols));
        assert!(lets_in(
            json!({ "modbus-tcp": { "Address": "10.0.0.7", "Port": 502 } })
        ));
        assert!(!lets_in(
            json!({ "modbus-tcp": { "Address": "10.0.0.7", "Port": 503 } })
        ));
        assert!(!lets_in(
            json!({ "modbus-tcp": { "Address": "11.0.0.7", "Port": 502 } })
        ));
        assert!(!lets_in(
            json!({ "a": { "Address": "10.0.0.7" }, "b": { "Port": 502 } })
        ));
        assert!(!lets_in(json!({})));
    }

    #[test]
    fn a_watcher_without_identifiers_or_with_a_broken_one_lets_nothing_in() {
        let any = json!({ "x": { "Address": "(" } });
        assert!(!watcher(json!({ "identifiers": {} })).lets_in(&found(any.clone())));
        assert!(!watcher(json!({ "identifiers": { "Address": "(" } })).lets_in(&found(any)));
    }

    #[test]
    fn one_search_of_a_kind_is_under_way_and_is_stopped_by_its_request() {
        let searches = Searches::default();
        let search = Search::Devices("s".to_owned());
        let stop = searches.begin(&search, "one").unwrap();
        assert!(searches.begin(&search, "two").is_none());
        assert!(!searches.stop(&search, Some("two")) && !stop.is_cancelled());
        assert!(searches.stop(&search, Some("one")) && stop.is_cancelled());
        searches.end(&search);
        assert!(searches.stop(&search, None) && !searches.stop(&search, Some("one")));
    }
}
