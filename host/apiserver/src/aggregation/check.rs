//! Whether the server behind an APIService can be reached: Kubernetes' checks in their order, in its
//! words.

use std::{net::SocketAddr, time::Duration};

use eyot_store::{Key, Object, Store};
use futures::future::select_ok;
use serde_json::Value;

use super::{pass::own, remote::Link};
use crate::{
    kinds::api_service::LOCAL,
    object::text,
    webhook::{self, Backing},
};

/// Asked at once, because behind a Service may be servers that answer and servers that do not.
const ATTEMPTS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(5);

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) is_available: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Verdict {
    /// On what this server answers itself.
    pub(crate) fn local() -> Verdict {
        Verdict {
            is_available: true,
            reason: LOCAL.0,
            message: LOCAL.1.to_owned(),
        }
    }
}

/// What stands behind the Service: its revision, and the addresses or what is wrong with it. While
/// this stays the same, a check has no reason to find something else.
pub(crate) type Ground = (u64, Result<Vec<SocketAddr>, (&'static str, String)>);

pub(crate) fn ground(store: &Store, link: &Link) -> Ground {
    let service = link.service();
    let key = Key::new(
        "services",
        service.namespace.as_str(),
        service.name.as_str(),
    );
    let stored = store.get(&key);
    let revision = stored.as_ref().map_or(0, |stored| stored.revision);
    (revision, backing(store, link, stored.as_deref()))
}

pub(crate) async fn check(ground: &Ground, link: &Link, group: &str, version: &str) -> Verdict {
    let failed = |(reason, message): (&'static str, String)| Verdict {
        is_available: false,
        reason,
        message,
    };
    if let Err(why) = &ground.1 {
        return failed(why.clone());
    }
    match answers(link, group, version).await {
        Ok(()) => Verdict {
            is_available: true,
            reason: "Passed",
            message: "all checks passed".to_owned(),
        },
        Err(why) => failed(("FailedDiscoveryCheck", why)),
    }
}

/// Whether there is a Service of that port with something behind it.
fn backing(
    store: &Store,
    link: &Link,
    stored: Option<&Object>,
) -> Result<Vec<SocketAddr>, (&'static str, String)> {
    let webhook::Service {
        namespace,
        name,
        port,
    } = link.service();
    let place = format!("service/{name} in {namespace:?}");
    let service = stored.and_then(|one| serde_json::from_slice::<Value>(&one.json).ok());
    let Some(service) = service else {
        return Err(("ServiceNotFound", format!("{place} is not present")));
    };
    let spec = service.get("spec").unwrap_or(&Value::Null);
    if text(spec, &["type"]) != "ClusterIP" {
        return Ok(Vec::new());
    }
    let Some(found) = webhook::port_of(spec, *port) else {
        let why = format!("{place} is not listening on port {port}");
        return Err(("ServicePortError", why));
    };
    match webhook::backing(store, link.service(), spec, found) {
        Backing::Ready(addresses) => Ok(addresses),
        Backing::Unready => {
            let port = text(found, &["name"]);
            let why =
                format!("endpointslices for {place} have no addresses with port name {port:?}");
            Err(("MissingEndpoints", why))
        }
        Backing::Nothing => {
            let why = format!("cannot find endpointslices for {place}");
            Err(("EndpointsNotFound", why))
        }
    }
}

/// Whether it answers for its group and version.
async fn answers(link: &Link, group: &str, version: &str) -> Result<(), String> {
    let http = link.checks.as_ref().map_err(Clone::clone)?;
    let url = format!("{}/apis/{group}/{version}", link.origin);
    let attempts = (0..ATTEMPTS).map(|_| {
        let url = &url;
        Box::pin(async move {
            let fails = |why: String| format!("failing or missing response from {url}: {why}");
            let request = own(url, "application/json")
                .map_err(|error| fails(error.status()["message"].to_string()))?;
            let sent = tokio::time::timeout(PATIENCE, http.request(request)).await;
            let response = sent
                .map_err(|_| fails(format!("Get {url:?}: context deadline exceeded")))?
                .map_err(|error| fails(format!("Get {url:?}: {}", webhook::root(&error))))?;
            let code = response.status();
            match code.is_success() {
                true => Ok(()),
                false => Err(fails(format!("bad status from {url}: {}", code.as_u16()))),
            }
        })
    });
    select_ok(attempts).await.map(|_| ())
}
