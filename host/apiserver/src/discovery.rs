//! What this server offers: the documents from which kubectl, dashboards and clients learn the
//! resources, in the aggregated form (two requests in all) and the old one (one per group).

use bytes::Bytes;
use eyot_http::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::{catalog::Catalog, media, resource::Resource};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// The Kubernetes API that is spoken, and the server that speaks it.
const MINOR: &str = "36";

/// `/version`
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.2+eyot.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    })
}

/// `/api`
pub(crate) fn core_versions(catalog: &Catalog, headers: &HeaderMap) -> Response {
    if media::wants_aggregated_discovery(headers) {
        return aggregated(group_list(vec![discovery(catalog, "", &["v1"])]));
    }
    eyot_http::json(
        StatusCode::OK,
        &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
    )
}

/// `/apis`
pub(crate) fn groups(catalog: &Catalog, headers: &HeaderMap) -> Response {
    if media::wants_aggregated_discovery(headers) {
        let bytes = catalog.aggregated.get_or_init(|| {
            let groups = catalog.groups();
            group_list(
                groups
                    .iter()
                    .map(|(g, versions)| discovery(catalog, g, versions))
                    .collect(),
            )
        });
        return aggregated(bytes.clone());
    }
    let groups: Vec<Value> = catalog
        .groups()
        .iter()
        .map(|(name, versions)| group(name, versions))
        .collect();
    let list = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups});
    eyot_http::json(StatusCode::OK, &list)
}

/// `/apis/<group>`
pub(crate) fn one_group(catalog: &Catalog, name: &str) -> Option<Response> {
    let groups = catalog.groups();
    let (name, versions) = groups.iter().find(|(group, _)| *group == name)?;
    let mut document = group(name, versions);
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Some(eyot_http::json(StatusCode::OK, &document))
}

/// `/api/v1`, `/apis/<group>/<version>`
pub(crate) fn resources(catalog: &Catalog, group: &str, version: &str) -> Option<Response> {
    let mut list: Vec<Value> = Vec::new();
    for resource in catalog.of(group, version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular,
            "namespaced": resource.namespaced, "kind": resource.kind, "verbs": verbs(resource),
        });
        words(&mut entry, resource);
        list.push(entry);
        for sub in subresources(resource) {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if !sub.group.is_empty() {
                entry["group"] = sub.group.into();
                entry["version"] = sub.version.into();
            }
            list.push(entry);
        }
    }
    if list.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let document = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
        "resources": list,
    });
    Some(eyot_http::json(StatusCode::OK, &document))
}

/// `/`
pub(crate) fn root(catalog: &Catalog) -> Value {
    let mut paths: Vec<String> = ["/api", "/api/v1", "/apis"].map(str::to_owned).into();
    for (group, versions) in catalog.groups() {
        paths.push(format!("/apis/{group}"));
        paths.extend(
            versions
                .iter()
                .map(|version| format!("/apis/{group}/{version}")),
        );
    }
    paths.extend(["/healthz", "/livez", "/readyz", "/version"].map(str::to_owned));
    json!({"paths": paths})
}

fn group(name: &str, versions: &[&str]) -> Value {
    let version =
        |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let all: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": name, "versions": all, "preferredVersion": all.first()})
}

fn group_list(items: Vec<Value>) -> Bytes {
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items,
    });
    serde_json::to_vec(&list).unwrap_or_default().into()
}

fn aggregated(body: Bytes) -> Response {
    let mut response = http::Response::new(eyot_http::full(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// One group with all its resources.
fn discovery(catalog: &Catalog, group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let resources: Vec<Value> = catalog
                .of(group, version)
                .map(|resource| aggregated_resource(resource))
                .collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() {
        json!({})
    } else {
        json!({"name": group})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular, "verbs": verbs(resource),
    });
    words(&mut entry, resource);
    let subresources: Vec<Value> = subresources(resource)
        .iter()
        .map(|sub| {
            let (group, version) = match sub.group {
                "" => (resource.group.as_str(), resource.version.as_str()),
                group => (group, sub.version),
            };
            json!({
                "subresource": sub.name, "responseKind": kind(group, version, sub.kind),
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

fn words(entry: &mut Value, resource: &Resource) {
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
}

fn verbs(resource: &Resource) -> Vec<&'static str> {
    let all = VERBS.iter().copied();
    // Nobody may empty the cluster with one request.
    all.filter(|verb| !(resource.is("", "namespaces") && *verb == "deletecollection"))
        .collect()
}

struct Subresource<'a> {
    name: &'static str,
    /// Empty: the resource's own group and version.
    group: &'static str,
    version: &'static str,
    kind: &'a str,
    verbs: &'static [&'static str],
}

fn subresources(resource: &Resource) -> Vec<Subresource<'_>> {
    let own = resource.kind.as_str();
    let sub = |name, group, version, kind, verbs| Subresource {
        name,
        group,
        version,
        kind,
        verbs,
    };
    let mut all = Vec::new();
    if resource.is("", "pods") {
        all.push(sub("binding", "", "", "Binding", &["create"] as &[_]));
        all.push(sub("eviction", "policy", "v1", "Eviction", &["create"]));
        all.push(sub("log", "", "", own, &["get"]));
    }
    if resource.is("", "namespaces") {
        all.push(sub("finalize", "", "", own, &["update"]));
    }
    if resource.scale.is_some() {
        all.push(sub(
            "scale",
            "autoscaling",
            "v1",
            "Scale",
            &["get", "patch", "update"],
        ));
    }
    if resource.status {
        all.push(sub("status", "", "", own, &["get", "patch", "update"]));
    }
    all
}
