//! EdgeX's REST API (v3, as EdgeX 4 serves it): a second door onto the same objects and readings.
//!
//! Of core-metadata the reading side, of core-data queries, and core-command. One namespace of the
//! Kubernetes API is what EdgeX sees. Answers and errors have EdgeX's envelope; a name in a path is
//! percent-decoded after the path is split, so it may contain anything.

mod command;
mod data;
mod metadata;
mod reply;
mod request;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use eyot_api::{Device, DeviceProfile};
use futures::future::BoxFuture;
use http::{Method, StatusCode};
use serde_json::json;
use tower::Service;

use self::{
    reply::{Failure, Reply, reply},
    request::Parsed,
};
use crate::{service::Inner, status::DeviceKey};

/// Which of EdgeX's services answers: two of them answer the same paths differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgexService {
    CoreData,
    CoreMetadata,
    CoreCommand,
    All,
}

impl EdgexService {
    fn name(self) -> &'static str {
        match self {
            Self::CoreData => "core-data",
            Self::CoreMetadata => "core-metadata",
            Self::CoreCommand => "core-command",
            Self::All => "eyot",
        }
    }

    fn is(self, other: Self) -> bool {
        self == other || self == Self::All
    }
}

/// The REST API as a service. Cheap to clone.
#[derive(Clone)]
pub struct Edgex {
    inner: Arc<Inner>,
    service: EdgexService,
}

impl Service<eyot_http::Request> for Edgex {
    type Response = eyot_http::Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<eyot_http::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: eyot_http::Request) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let correlation = request::correlation(&request);
            let outcome = match request::parse(request).await {
                Ok(request) => this.route(&request).await,
                Err(failure) => Err(failure),
            };
            Ok(reply(outcome, &correlation))
        })
    }
}

impl Edgex {
    pub(crate) fn new(inner: Arc<Inner>, service: EdgexService) -> Self {
        Self { inner, service }
    }

    async fn route(&self, request: &Parsed) -> Result<Reply, Failure> {
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        let path = match path.as_slice() {
            ["api", "v3", rest @ ..] => rest,
            _ => return Err(no_such_path(request)),
        };
        let answer = match path {
            ["ping"] => Some(Ok(self.ping())),
            ["version"] => Some(Ok(Reply::ok(json!({
                "version": env!("CARGO_PKG_VERSION"),
                "serviceName": self.service.name(),
            })))),
            ["event", ..] | ["reading", ..] if self.service.is(EdgexService::CoreData) => {
                data::route(self, request, path).await
            }
            ["device", "name", device] if self.service == EdgexService::All => {
                let mut both = metadata::device(self, device)?;
                both.merge(command::commands(self, device)?);
                get_only(request, both)
            }
            ["device", "all"] if self.service == EdgexService::All => {
                let mut both = metadata::devices(self, request, |_| true)?;
                both.merge(command::all(self, request)?);
                get_only(request, both)
            }
            ["device", ..] if self.service.is(EdgexService::CoreCommand) => {
                match command::route(self, request, path).await {
                    None if self.service == EdgexService::All => {
                        metadata::route(self, request, path)
                    }
                    answer => answer,
                }
            }
            [
                "device" | "deviceprofile" | "deviceresource" | "deviceservice",
                ..,
            ] if self.service.is(EdgexService::CoreMetadata) => {
                metadata::route(self, request, path)
            }
            _ => None,
        };
        answer.unwrap_or_else(|| Err(no_such_path(request)))
    }

    fn ping(&self) -> Reply {
        let now = jiff::Timestamp::now()
            .strftime("%a, %d %b %Y %H:%M:%S UTC")
            .to_string();
        Reply::ok(json!({ "timestamp": now, "serviceName": self.service.name() }))
    }

    /// A device of EdgeX's namespace, by its EdgeX name or its object's.
    fn device(&self, name: &str) -> Result<(DeviceKey, Arc<Device>), Failure> {
        let namespace = self.inner.namespace.as_str();
        let named = self.inner.devices.all();
        let found = match named.get(&(namespace.to_owned(), name.to_owned())) {
            Some(device) if device.edgex_name() == name => Some(device),
            _ => named
                .iter()
                .find(|((ns, _), device)| ns == namespace && device.edgex_name() == name)
                .map(|(_, device)| device),
        };
        let device = found.cloned().ok_or_else(|| {
            Failure::not_found(format!(
                "device {name} does not exist in namespace {namespace}"
            ))
        })?;
        let object = device.metadata.name.clone().unwrap_or_default();
        Ok((
            DeviceKey {
                namespace: namespace.into(),
                name: object.into(),
            },
            device,
        ))
    }

    /// All devices of EdgeX's namespace, by name.
    fn all_devices(&self) -> Vec<Arc<Device>> {
        let all = self.inner.devices.all();
        let mine = all
            .iter()
            .filter(|((namespace, _), _)| *namespace == self.inner.namespace);
        let mut devices: Vec<_> = mine.map(|(_, device)| device.clone()).collect();
        devices.sort_by(|a, b| a.edgex_name().cmp(&b.edgex_name()));
        devices
    }

    fn profile(&self, name: &str) -> Result<Arc<DeviceProfile>, Failure> {
        let namespace = self.inner.namespace.as_str();
        if let Some(profile) = self.inner.profiles.get(namespace, name) {
            return Ok(profile);
        }
        let all = self.inner.profiles.all();
        all.iter()
            .find(|((ns, _), profile)| ns == namespace && profile.edgex_name() == name)
            .map(|(_, profile)| profile.clone())
            .ok_or_else(|| {
                Failure::not_found(format!(
                    "device profile {name} does not exist in namespace {namespace}"
                ))
            })
    }

    fn all_profiles(&self) -> Vec<Arc<DeviceProfile>> {
        let all = self.inner.profiles.all();
        let mine = all
            .iter()
            .filter(|((namespace, _), _)| *namespace == self.inner.namespace);
        let mut profiles: Vec<_> = mine.map(|(_, profile)| profile.clone()).collect();
        profiles.sort_by(|a, b| a.edgex_name().cmp(&b.edgex_name()));
        profiles
    }
}

/// Wrap the answer of a path that can only be read.
fn get_only(request: &Parsed, answer: Reply) -> Option<Result<Reply, Failure>> {
    Some(if request.method == Method::GET {
        Ok(answer)
    } else {
        Err(no_such_method(request))
    })
}

fn no_such_path(request: &Parsed) -> Failure {
    Failure::not_found(format!("there is nothing at {}", request.raw_path))
}

fn no_such_method(request: &Parsed) -> Failure {
    Failure {
        status: StatusCode::METHOD_NOT_ALLOWED,
        message: format!(
            "{} is not possible on {}; change devices and profiles through the Kubernetes API",
            request.method, request.raw_path
        ),
    }
}
