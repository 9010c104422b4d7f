//! The part of OpenAPI v3 that kubectl needs before it applies anything: which kinds can be
//! patched, and that the server itself checks fields (`fieldValidation`).
//!
//! Without these documents kubectl refuses to apply. Schemas (`kubectl explain`) are not in them.

use eyot_http::Response;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde_json::{Map, Value, json};

use crate::{catalog::Catalog, resource::Resource};

/// `/openapi/v3`
pub(crate) fn index(catalog: &Catalog) -> Value {
    let mut paths = Map::new();
    for resource in catalog.all() {
        let root = root(resource);
        let url = format!("/openapi/v3/{root}");
        paths.insert(root, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>`
pub(crate) fn group_version(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let mut paths = Map::new();
    for resource in catalog.of(group, version) {
        let scope = if resource.namespaced {
            "namespaces/{namespace}/"
        } else {
            ""
        };
        let path = format!("/{}/{scope}{}/{{name}}", root(resource), resource.plural);
        paths.insert(path, item(resource));
    }
    let info = json!({"title": "Eyot", "version": env!("CARGO_PKG_VERSION")});
    (!paths.is_empty()).then(|| json!({"openapi": "3.0.0", "info": info, "paths": paths}))
}

/// `/openapi/v2`, without any definition: kubectl asks for it when a manifest's kind is not served,
/// and says so better when it gets an answer. In protobuf if asked for that, which kubectl does.
pub(crate) fn v2(headers: &HeaderMap) -> Response {
    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let accept = headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if !accept.contains("proto-openapi") {
        let info = json!({"title": "Eyot", "version": env!("CARGO_PKG_VERSION")});
        let document = json!({"swagger": "2.0", "info": info, "paths": {}});
        return eyot_http::json(StatusCode::OK, &document);
    }
    // Field 1 of the message Document: the version of the specification.
    let mut response = Response::new(eyot_http::full(&b"\x0a\x032.0"[..]));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    response
}

fn root(resource: &Resource) -> String {
    match resource.group.as_str() {
        "" => format!("api/{}", resource.version),
        group => format!("apis/{group}/{}", resource.version),
    }
}

/// The operation on one object that kubectl looks at.
fn item(resource: &Resource) -> Value {
    let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"]
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}}))
        .collect();
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let content = |media: &str| (media.to_owned(), json!({"schema": {"type": "object"}}));
    // Strategic merge is left out on purpose: it would make kubectl ask for schemas here, instead
    // of using those that it was built with.
    let bodies: Map<String, Value> = [
        "application/json-patch+json",
        "application/merge-patch+json",
    ]
    .map(content)
    .into_iter()
    .collect();
    json!({"patch": {
        "operationId": format!("patch{}", resource.kind),
        "parameters": parameters,
        "requestBody": {"content": bodies, "required": true},
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": kind,
    }})
}
