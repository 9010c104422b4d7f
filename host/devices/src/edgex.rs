//! EdgeX's REST API (v3, as EdgeX 4 serves it): a second door onto the same objects and readings.
//!
//! Core-metadata, core-data, core-command and core-keeper. One namespace of the Kubernetes API is what EdgeX
//! sees. Answers and errors have EdgeX's envelope; a name in a path is
//! percent-decoded after the path is split, so it may contain anything.

mod aggregate;
mod command;
mod data;
mod device_service;
mod discovery;
mod dto;
mod events;
mod keeper;
mod messages;
mod metadata;
mod numeric;
mod objects;
mod system_events;
mod telemetry;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use eyot_api::Device;
use eyot_edgex::{basics, body, reply, request};
use eyot_edgex::{no_such_method, no_such_path};
use futures::future::BoxFuture;
use http::Method;
use tower::Service;

pub(crate) use self::{
    discovery::{Searches, search_by_itself},
    events::{Foreign, stored_event},
    keeper::watch_over,
    messages::{FILTERS, answer},
    system_events::announce,
    telemetry::{Counters, tell as tell_telemetry},
};
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
    CoreKeeper,
    /// The device services of the host's own drivers, each below its name.
    DeviceServices,
    All,
}

impl EdgexService {
    fn name(self) -> &'static str {
        match self {
            Self::CoreData => "core-data",
            Self::CoreMetadata => "core-metadata",
            Self::CoreCommand => "core-command",
            Self::CoreKeeper => "core-keeper",
            Self::DeviceServices => "device-services",
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
    /// The device service that is spoken to, of [`EdgexService::DeviceServices`].
    device_service: Option<Arc<str>>,
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
            let outcome = match request::parse(request, &correlation).await {
                Ok(request) => this.route(&request).await,
                Err(failure) => Err(failure),
            };
            Ok(reply(outcome, &correlation))
        })
    }
}

impl Edgex {
    pub(crate) fn new(inner: Arc<Inner>, service: EdgexService) -> Self {
        Self {
            inner,
            service,
            device_service: None,
        }
    }

    /// As what it answers.
    fn name(&self) -> &str {
        match &self.device_service {
            Some(name) => name,
            None => self.service.name(),
        }
    }

    fn basics(&self) -> basics::Service<'_> {
        basics::Service {
            name: self.name(),
            client: &self.inner.client,
            namespace: &self.inner.namespace,
            settings: &serde_json::Value::Null,
        }
    }

    async fn route(&self, request: &Parsed) -> Result<Reply, Failure> {
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        if self.service == EdgexService::DeviceServices {
            return device_service::route(self, request, &path).await;
        }
        let path = match path.as_slice() {
            ["api", "v3", rest @ ..] => rest,
            _ => return Err(no_such_path(request)),
        };
        if let Some(answer) = basics::route(self.basics(), request, path).await {
            return answer;
        }
        let answer = match path {
            ["event", ..] | ["reading", ..] if self.service.is(EdgexService::CoreData) => {
                data::route(self, request, path).await
            }
            ["device", "name", device] if self.service == EdgexService::All => {
                let mut both = metadata::device(self, device)?;
                both.merge(command::commands(self, device)?);
                get_only(request, both)
            }
            ["device", "all"] if self.service == EdgexService::All => {
                let mut both = metadata::devices(self, request)?;
                both.merge(command::all(self, request)?);
                get_only(request, both)
            }
            ["device", ..] if self.service.is(EdgexService::CoreCommand) => {
                match command::route(self, request, path).await {
                    None if self.service == EdgexService::All => {
                        metadata::route(self, request, path).await
                    }
                    answer => answer,
                }
            }
            [
                "device" | "deviceprofile" | "deviceresource" | "deviceservice"
                | "provisionwatcher" | "uom",
                ..,
            ] if self.service.is(EdgexService::CoreMetadata) => {
                metadata::route(self, request, path).await
            }
            ["kvs" | "registry", ..] if self.service.is(EdgexService::CoreKeeper) => {
                keeper::route(self, request, path).await
            }
            _ => None,
        };
        answer.unwrap_or_else(|| Err(no_such_path(request)))
    }

    /// Held while metadata is written: names are looked up before objects are made.
    async fn writing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.writing.lock().await
    }

    /// A device of EdgeX's namespace.
    fn device(&self, name: &str) -> Result<(DeviceKey, Arc<Device>), Failure> {
        let device = objects::named::<Device>(self, name)?;
        Ok((DeviceKey::of(&device.metadata), device))
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
