//! What a request's path asks for, as a type: the only place that knows how paths are built.

use std::borrow::Cow;

use http::Uri;
use percent_encoding::percent_decode_str;

use crate::{
    health::{Endpoint, Probe},
    openapi::Page,
};

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// `/`
    Root,
    /// `/healthz`, `/livez`, `/readyz` and anything below.
    Health(Probe),
    /// `/version`
    Version,
    /// `/metrics`
    Metrics,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/apps`
    Group(Cow<'a, str>),
    /// `/api/v1`, `/apis/apps/v1`
    GroupVersion {
        group: Cow<'a, str>,
        version: Cow<'a, str>,
    },
    Resource(ResourcePath<'a>),
    OpenApi(Page),
    /// `/.well-known/openid-configuration`
    Issuer,
    /// `/openid/v1/jwks`
    IssuerKeys,
    Nowhere,
}

/// `/apis/apps/v1/namespaces/default/deployments/web/scale`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResourcePath<'a> {
    pub(crate) group: Cow<'a, str>,
    pub(crate) version: Cow<'a, str>,
    pub(crate) resource: Cow<'a, str>,
    /// `None` for cluster-scoped resources and for all namespaces at once.
    pub(crate) namespace: Option<Cow<'a, str>>,
    pub(crate) name: Option<Cow<'a, str>>,
    pub(crate) subresource: Option<Cow<'a, str>>,
    /// Something follows the subresource, which only servers behind this one have a use for.
    pub(crate) goes_on: bool,
}

impl<'a> Route<'a> {
    pub(crate) fn parse(path: &'a str) -> Route<'a> {
        let mut parts = Vec::with_capacity(8);
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let Ok(part) = percent_decode_str(part).decode_utf8() else {
                return Route::Nowhere;
            };
            parts.push(part);
        }
        let mut parts = parts.into_iter();
        match parts.next().as_deref() {
            None => Route::Root,
            Some(first) if let Some(endpoint) = Endpoint::of(first) => {
                let check: Vec<Cow<'_, str>> = parts.collect();
                Route::Health(Probe {
                    endpoint,
                    check: (!check.is_empty()).then(|| check.join("/")),
                })
            }
            Some("version") if parts.len() == 0 => Route::Version,
            Some("metrics") if parts.len() == 0 => Route::Metrics,
            Some(".well-known") if parts.as_slice() == ["openid-configuration"] => Route::Issuer,
            Some("openid") if parts.as_slice() == ["v1", "jwks"] => Route::IssuerKeys,
            Some("api") => match parts.next() {
                None => Route::CoreVersions,
                Some(version) => below(Cow::Borrowed(""), version, parts.collect()),
            },
            Some("openapi") => {
                let version = parts.next();
                let rest: Vec<Cow<'_, str>> = parts.collect();
                match (version.as_deref(), rest.is_empty()) {
                    (Some("v2"), true) => Route::OpenApi(Page::V2),
                    (Some("v3"), true) => Route::OpenApi(Page::Index),
                    (Some("v3"), false) => Route::OpenApi(Page::V3(rest.join("/"))),
                    _ => Route::Nowhere,
                }
            }
            Some("apis") => match (parts.next(), parts.next()) {
                (None, _) => Route::Groups,
                (Some(group), None) => Route::Group(group),
                (Some(group), Some(version)) => below(group, version, parts.collect()),
            },
            _ => Route::Nowhere,
        }
    }
}

/// The old paths for watching, `/api/v1/watch/pods`, as what they mean: `/api/v1/pods?watch=true`.
pub(crate) fn without_watch(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let at = path.find("/watch/")?;
    let depth = path.get(..at)?.split('/').skip(1).count();
    match (path.starts_with("/api/"), path.starts_with("/apis/"), depth) {
        (true, _, 2) | (_, true, 3) => {}
        _ => return None,
    }
    let (before, after) = (path.get(..at)?, path.get(at + "/watch".len()..)?);
    let query = uri
        .query()
        .map_or_else(String::new, |query| format!("&{query}"));
    format!("{before}{after}?watch=true{query}").parse().ok()
}

fn below<'a>(group: Cow<'a, str>, version: Cow<'a, str>, parts: Vec<Cow<'a, str>>) -> Route<'a> {
    let mut namespace = None;
    let mut rest = parts.as_slice();
    // `/namespaces/x/status` and `/finalize` are about the namespace itself.
    if let [first, name, resource, after @ ..] = rest
        && first == "namespaces"
        && !(group.is_empty() && after.is_empty() && matches!(&**resource, "status" | "finalize"))
    {
        namespace = Some(name.clone());
        rest = &parts[2..];
    }
    let (resource, name, subresource, after) = match rest {
        [] => return Route::GroupVersion { group, version },
        [resource] => (resource, None, None, &[][..]),
        [resource, name] => (resource, Some(name), None, &[][..]),
        [resource, name, subresource, after @ ..] => {
            (resource, Some(name), Some(subresource), after)
        }
    };
    // What follows `proxy` is an address of what is proxied to.
    let is_proxy = subresource.is_some_and(|one| one == "proxy");
    Route::Resource(ResourcePath {
        group,
        version,
        resource: resource.clone(),
        namespace,
        name: name.cloned(),
        subresource: subresource.cloned(),
        goes_on: !after.is_empty() && !is_proxy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: &str) {
        let text = match Route::parse(path) {
            Route::Resource(p) => format!(
                "{}/{} {} ns={} name={} sub={}",
                p.group,
                p.version,
                p.resource,
                p.namespace.as_deref().unwrap_or("-"),
                p.name.as_deref().unwrap_or("-"),
                p.subresource.as_deref().unwrap_or("-")
            ),
            other => format!("{other:?}"),
        };
        assert_eq!(text, expected, "{path}");
    }

    #[test]
    fn collections_objects_and_subresources_are_told_apart() {
        check("/api/v1/pods", "/v1 pods ns=- name=- sub=-");
        check("/api/v1/namespaces/d/pods", "/v1 pods ns=d name=- sub=-");
        check("/api/v1/namespaces/d/pods/a", "/v1 pods ns=d name=a sub=-");
        check(
            "/api/v1/namespaces/d/pods/a/log",
            "/v1 pods ns=d name=a sub=log",
        );
        check(
            "/apis/apps/v1/namespaces/d/deployments/w/scale",
            "apps/v1 deployments ns=d name=w sub=scale",
        );
        check("/api/v1/nodes/n/status", "/v1 nodes ns=- name=n sub=status");
    }

    #[test]
    fn a_namespace_is_a_resource_of_its_own() {
        check("/api/v1/namespaces", "/v1 namespaces ns=- name=- sub=-");
        check("/api/v1/namespaces/d", "/v1 namespaces ns=- name=d sub=-");
        check(
            "/api/v1/namespaces/d/finalize",
            "/v1 namespaces ns=- name=d sub=finalize",
        );
        check(
            "/api/v1/namespaces/d/status",
            "/v1 namespaces ns=- name=d sub=status",
        );
    }

    #[test]
    fn old_paths_for_watching_mean_the_new_ones() {
        let check = |path: &str, expected: Option<&str>| {
            let found = without_watch(&path.parse().unwrap());
            assert_eq!(
                found.map(|uri| uri.to_string()).as_deref(),
                expected,
                "{path}"
            );
        };
        check("/api/v1/watch/pods", Some("/api/v1/pods?watch=true"));
        check(
            "/apis/apps/v1/watch/namespaces/d/deployments/w?timeoutSeconds=1",
            Some("/apis/apps/v1/namespaces/d/deployments/w?watch=true&timeoutSeconds=1"),
        );
        check("/api/v1/namespaces/watch/pods", None);
        check("/api/v1/namespaces/d/pods/p/proxy/watch/x", None);
        check("/watch/x", None);
    }

    #[test]
    fn names_are_percent_decoded_once() {
        check(
            "/api/v1/namespaces/d/events/a%2520b",
            "/v1 events ns=d name=a%20b sub=-",
        );
    }

    #[test]
    fn group_documents_have_routes() {
        assert_eq!(Route::parse("/"), Route::Root);
        assert_eq!(Route::parse("/api"), Route::CoreVersions);
        assert_eq!(Route::parse("/apis/"), Route::Groups);
        assert_eq!(Route::parse("/apis/apps"), Route::Group("apps".into()));
        assert_eq!(
            Route::parse("/apis/apps/v1"),
            Route::GroupVersion {
                group: "apps".into(),
                version: "v1".into()
            }
        );
        assert_eq!(
            Route::parse("/livez/poststarthook/x"),
            Route::Health(Probe {
                endpoint: Endpoint::Livez,
                check: Some("poststarthook/x".into())
            })
        );
        assert_eq!(Route::parse("/openapi/v3"), Route::OpenApi(Page::Index));
        assert_eq!(
            Route::parse("/openapi/v3/apis/apps/v1"),
            Route::OpenApi(Page::V3("apis/apps/v1".into()))
        );
        assert_eq!(Route::parse("/openapi/v2"), Route::OpenApi(Page::V2));
        assert_eq!(Route::parse("/openapi/v1"), Route::Nowhere);
    }
}
