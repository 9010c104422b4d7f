//! The part of OpenAPI v3 that kubectl needs before it applies anything: which kinds can be
//! patched, and that the server itself checks fields (`fieldValidation`).
//!
//! Without these documents kubectl refuses to apply. Schemas (`kubectl explain`) are not in them.

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
