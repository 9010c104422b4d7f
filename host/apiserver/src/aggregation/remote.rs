//! A group and version for which another server answers.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use eyot_http::Body;
use serde_json::{Value, json};

use super::GROUP;
use crate::{
    api::Options,
    object::{at, text},
    webhook::{self, Http, Service, Trust},
};

/// As the catalog has it: nothing in it changes.
pub(crate) struct Remote {
    /// `v1beta1.metrics.k8s.io`
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) group_priority: i64,
    pub(crate) version_priority: i64,
    pub(crate) link: Arc<Link>,
    /// Its last check passed: requests are passed on.
    pub(crate) is_available: bool,
    /// What it said of itself when it was last asked.
    pub(crate) known: Arc<Known>,
}

impl Remote {
    /// The version as the aggregated discovery document has it.
    pub(crate) fn discovery(&self) -> Value {
        let freshness = if self.known.is_fresh {
            "Current"
        } else {
            "Stale"
        };
        let mut version = json!({"version": self.version, "freshness": freshness});
        if let Some(resources) = &self.known.resources {
            version["resources"] = resources.clone();
        }
        version
    }

    /// Whether requests and documents are the same with the other one.
    pub(super) fn is_same(&self, other: &Remote) -> bool {
        let numbers = |one: &Remote| (one.group_priority, one.version_priority, one.is_available);
        self.name == other.name
            && numbers(self) == numbers(other)
            && Arc::ptr_eq(&self.link, &other.link)
            && Arc::ptr_eq(&self.known, &other.known)
    }
}

/// What a server says about its group and version. Empty until it was asked.
#[derive(Default, Clone, PartialEq)]
pub(crate) struct Known {
    /// It answered the last time, too.
    pub(crate) is_fresh: bool,
    /// `resources` of the aggregated discovery document.
    pub(crate) resources: Option<Value>,
    /// The hash of its OpenAPI v3 document; none without one.
    pub(crate) v3: Option<String>,
    /// Its paths and definitions of OpenAPI v2, and their hash.
    pub(crate) v2: Option<(Value, String)>,
}

impl Known {
    /// The same, from a server that no longer answers.
    pub(crate) fn gone_stale(&self) -> Known {
        Known {
            is_fresh: false,
            ..self.clone()
        }
    }
}

/// How a server is reached.
pub(crate) struct Link {
    /// Where it is and how it is believed: what is compared when the APIService changes.
    target: Target,
    /// `https://name.namespace.svc:443`
    pub(crate) origin: String,
    /// For requests of users. `Err` says why no connection can be made.
    pub(crate) http: Result<Http<Body>, String>,
    /// For checks, which tell nothing and believe nothing: any certificate will do.
    pub(crate) checks: Result<Http<Body>, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    service: Service,
    authority: Vec<u8>,
    trusts_all: bool,
}

impl Link {
    pub(crate) fn service(&self) -> &Service {
        &self.target.service
    }
}

/// What an APIService says.
pub(crate) struct Said {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) group_priority: i64,
    pub(crate) version_priority: i64,
    target: Target,
}

impl Said {
    /// `None` for what this server answers itself: APIServices without a Service, the core group,
    /// and APIServices themselves, which must remain within reach whatever they say.
    pub(crate) fn parse(api_service: &Value) -> Option<Said> {
        let service = at(api_service, &["spec", "service"]).filter(|one| one.is_object())?;
        let group = text(api_service, &["spec", "group"]);
        if matches!(group, "" | GROUP) {
            return None;
        }
        let number = |key: &str| at(api_service, &["spec", key]).and_then(Value::as_i64);
        let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
        let bundle = BASE64_STANDARD.decode(text(api_service, &["spec", "caBundle"]));
        let trusts_all = at(api_service, &["spec", "insecureSkipTLSVerify"]);
        Some(Said {
            name: text(api_service, &["metadata", "name"]).to_owned(),
            group: group.to_owned(),
            version: text(api_service, &["spec", "version"]).to_owned(),
            group_priority: number("groupPriorityMinimum").unwrap_or_default(),
            version_priority: number("versionPriority").unwrap_or_default(),
            target: Target {
                service: Service {
                    namespace: text(service, &["namespace"]).to_owned(),
                    name: text(service, &["name"]).to_owned(),
                    port: u16::try_from(port).unwrap_or_default(),
                },
                authority: bundle.unwrap_or_default(),
                trusts_all: trusts_all == Some(&Value::Bool(true)),
            },
        })
    }

    /// The link to it: the one that is there, if it leads to the same place.
    pub(crate) fn link(
        &self,
        store: &eyot_store::Store,
        options: &Options,
        before: Option<&Arc<Link>>,
    ) -> Arc<Link> {
        if let Some(same) = before.filter(|link| link.target == self.target) {
            return same.clone();
        }
        let identity = options.front_proxy.as_ref();
        let connect = |trust: Trust<'_>| {
            let config = webhook::tls_config(trust, identity)?;
            let service = Some(self.target.service.clone());
            Ok(webhook::connections(
                config,
                store,
                options.dialer.clone(),
                service,
            ))
        };
        let Service {
            namespace,
            name,
            port,
        } = &self.target.service;
        Arc::new(Link {
            origin: format!("https://{name}.{namespace}.svc:{port}"),
            http: connect(match self.target.trusts_all {
                true => Trust::Anybody,
                false => Trust::Authorities(&self.target.authority),
            }),
            checks: connect(Trust::Anybody),
            target: self.target.clone(),
        })
    }
}
