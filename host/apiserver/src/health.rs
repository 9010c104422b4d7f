//! `/healthz`, `/livez` and `/readyz`: what is asked by load balancers, scripts and upgrade tools.
//!
//! The names of the checks are those of Kubernetes' API server, because tools look for them; each is
//! answered by what plays that part here. A plain probe costs a few look-ups in memory.

use eyot_http::Response;
use form_urlencoded::parse;
use http::{HeaderValue, StatusCode, header};

use crate::{
    api::{Api, STANDING, namespace_key},
    unstored,
};

/// A request to one of the three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) endpoint: Endpoint,
    /// One check of the endpoint, or all.
    pub(crate) check: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Healthz,
    Livez,
    Readyz,
}

impl Endpoint {
    const ALL: [Endpoint; 3] = [Endpoint::Healthz, Endpoint::Livez, Endpoint::Readyz];

    /// From the first segment of the path.
    pub(crate) fn of(segment: &str) -> Option<Endpoint> {
        Endpoint::ALL.into_iter().find(|one| one.name() == segment)
    }

    fn name(self) -> &'static str {
        match self {
            Endpoint::Healthz => "healthz",
            Endpoint::Livez => "livez",
            Endpoint::Readyz => "readyz",
        }
    }

    fn checks(self) -> impl Iterator<Item = &'static Check> {
        CHECKS
            .iter()
            .filter(move |check| !check.readiness || self == Endpoint::Readyz)
    }
}

struct Check {
    name: &'static str,
    /// Asked by `/readyz` only.
    readiness: bool,
    /// The reason stays in the log and in the answer to that one check: the summary is public.
    run: fn(&Api) -> Result<(), String>,
}

const fn check(name: &'static str, run: fn(&Api) -> Result<(), String>) -> Check {
    Check {
        name,
        readiness: false,
        run,
    }
}

const fn readiness(name: &'static str, run: fn(&Api) -> Result<(), String>) -> Check {
    Check {
        name,
        readiness: true,
        run,
    }
}

/// In the order in which they are shown.
static CHECKS: &[Check] = &[
    check("ping", |_| Ok(())),
    check("log", |_| Ok(())),
    check("etcd", store),
    readiness("etcd-readiness", store),
    readiness("informer-sync", served),
    check(
        "poststarthook/start-apiserver-admission-initializer",
        served,
    ),
    check(
        "poststarthook/start-kube-apiserver-admission-initializer",
        served,
    ),
    check("poststarthook/generic-apiserver-start-informers", served),
    check("poststarthook/storage-object-count-tracker-hook", store),
    check("poststarthook/start-apiextensions-informers", definitions),
    check("poststarthook/start-apiextensions-controllers", definitions),
    check("poststarthook/crd-informer-synced", definitions),
    check("poststarthook/bootstrap-controller", namespaces),
    check(
        "poststarthook/start-system-namespaces-controller",
        namespaces,
    ),
    check(
        "poststarthook/scheduling/bootstrap-system-priority-classes",
        served,
    ),
    check(
        "poststarthook/start-cluster-authentication-info-controller",
        served,
    ),
    check("poststarthook/start-kube-aggregator-informers", served),
    check("poststarthook/apiservice-registration-controller", served),
    check(
        "poststarthook/apiservice-status-available-controller",
        served,
    ),
    check("poststarthook/apiservice-discovery-controller", served),
    check("poststarthook/kube-apiserver-autoregistration", served),
    check("autoregister-completion", served),
    check("poststarthook/apiservice-openapi-controller", served),
    check("poststarthook/apiservice-openapiv3-controller", served),
    readiness("shutdown", |api| {
        match api.options.shutdown.is_cancelled() {
            true => Err("process is shutting down".to_owned()),
            false => Ok(()),
        }
    }),
];

/// Objects can be read.
pub(crate) fn store(api: &Api) -> Result<(), String> {
    match api.store.revision() {
        0 => Err("the store has not seen a single write yet".to_owned()),
        _ => Ok(()),
    }
}

/// What must stand from the first start stands.
fn namespaces(api: &Api) -> Result<(), String> {
    let missing = STANDING
        .iter()
        .find(|name| api.store.get(&namespace_key(name)).is_none());
    missing.map_or(Ok(()), |name| {
        Err(format!("namespace {name:?} does not exist"))
    })
}

/// The catalog holds what is built in.
fn served(api: &Api) -> Result<(), String> {
    match api.catalog().find("", "v1", "namespaces") {
        Some(_) => Ok(()),
        None => Err("no resource is served".to_owned()),
    }
}

/// The catalog holds at least what the stored definitions define.
fn definitions(api: &Api) -> Result<(), String> {
    let catalog = api.catalog();
    let custom = catalog
        .all()
        .iter()
        .any(|one| one.is_custom() && !unstored::holds(one));
    let stored = api.store.list(crate::crd::STORAGE, None).objects;
    let established = |object: &eyot_store::Object| {
        serde_json::from_slice(&object.json).is_ok_and(|crd| crate::crd::is_established(&crd))
    };
    // Only where nothing custom is served is it worth reading the definitions again.
    if custom || !stored.iter().any(|object| established(object)) {
        Ok(())
    } else {
        Err("stored definitions are not served".to_owned())
    }
}

/// All paths below the three endpoints, for `/`.
pub(crate) fn paths() -> Vec<String> {
    let mut paths = Vec::new();
    for endpoint in Endpoint::ALL {
        paths.push(format!("/{}", endpoint.name()));
        let checks = endpoint.checks();
        paths.extend(checks.map(|check| format!("/{}/{}", endpoint.name(), check.name)));
    }
    paths
}

pub(crate) fn answer(api: &Api, probe: &Probe, query: Option<&str>) -> Response {
    let name = probe.endpoint.name();
    if let Some(asked) = &probe.check {
        return match probe.endpoint.checks().find(|check| check.name == asked) {
            Some(check) => match (check.run)(api) {
                Ok(()) => plain(StatusCode::OK, "ok"),
                Err(error) => {
                    let text = format!("internal server error: {error}\n");
                    plain(StatusCode::INTERNAL_SERVER_ERROR, text)
                }
            },
            None => eyot_http::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
    }
    let (mut verbose, mut excluded) = (false, Vec::new());
    for (key, value) in parse(query.unwrap_or_default().as_bytes()) {
        match &*key {
            "verbose" => verbose = true,
            "exclude" if !excluded.contains(&value) => excluded.push(value),
            _ => {}
        }
    }
    let (mut text, mut failed) = (String::new(), false);
    for check in probe.endpoint.checks() {
        let before = excluded.len();
        excluded.retain(|name| *name != check.name);
        if excluded.len() < before {
            text.push_str(&format!("[+]{} excluded: ok\n", check.name));
            continue;
        }
        match (check.run)(api) {
            Ok(()) => text.push_str(&format!("[+]{} ok\n", check.name)),
            Err(error) => {
                failed = true;
                tracing::warn!(check = check.name, %error, "{name} check failed");
                text.push_str(&format!("[-]{} failed: reason withheld\n", check.name));
            }
        }
    }
    if !excluded.is_empty() {
        excluded.sort();
        let quoted: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        text.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            quoted.join(",")
        ));
    }
    if failed {
        return plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{text}{name} check failed\n"),
        );
    }
    if verbose {
        plain(StatusCode::OK, format!("{text}{name} check passed\n"))
    } else {
        plain(StatusCode::OK, "ok")
    }
}

fn plain(code: StatusCode, text: impl Into<String>) -> Response {
    let mut response = eyot_http::text(code, text);
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}
