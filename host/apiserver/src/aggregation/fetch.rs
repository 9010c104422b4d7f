//! What a server behind this one says of itself: its part of discovery and of OpenAPI.

use std::time::Duration;

use bytes::Bytes;
use http::header;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use super::{
    pass::own,
    remote::{Known, Link},
};
use crate::object::text;

const PATIENCE: Duration = Duration::from_secs(10);
/// Of one document. Those of the largest servers that exist are half of it.
const LIMIT: usize = 8 * 1024 * 1024;

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                         application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
                         application/json";
const JSON: &str = "application/json";

/// Ask the server. What it does not answer is as it was, and no longer fresh.
pub(crate) async fn fetch(link: &Link, group: &str, version: &str, before: &Known) -> Known {
    let resources = match aggregated(link, group, version).await {
        Some(found) => Some(found),
        None => legacy(link, group, version).await,
    };
    let v3 = v3(link, group, version).await;
    // The older document is large: it is read again only if there is reason to think it changed.
    let v2 = match &before.v2 {
        Some(held) if v3.is_some() && v3 == before.v3 => Some(held.clone()),
        _ => v2(link, group, version).await,
    };
    Known {
        is_fresh: resources.is_some(),
        resources: resources.or_else(|| before.resources.clone()),
        v3,
        v2,
    }
}

async fn ask(link: &Link, path: &str, accept: &'static str) -> Option<Bytes> {
    let http = link.http.as_ref().ok()?;
    let request = own(&format!("{}{path}", link.origin), accept).ok()?;
    let exchange = async {
        let response = http.request(request).await.ok()?;
        if !response.status().is_success() || response.headers().contains_key(header::LOCATION) {
            return None;
        }
        eyot_http::collect(response.into_body(), LIMIT).await.ok()
    };
    tokio::time::timeout(PATIENCE, exchange).await.ok()?
}

async fn ask_json(link: &Link, path: &str, accept: &'static str) -> Option<Value> {
    serde_json::from_slice(&ask(link, path, accept).await?).ok()
}

async fn aggregated(link: &Link, group: &str, version: &str) -> Option<Value> {
    let document = ask_json(link, "/apis", DISCOVERY).await?;
    if text(&document, &["kind"]) != "APIGroupDiscoveryList" {
        return None;
    }
    let groups = document.get("items")?.as_array()?;
    let group = groups
        .iter()
        .find(|one| text(one, &["metadata", "name"]) == group)?;
    let versions = group.get("versions")?.as_array()?;
    let found = versions
        .iter()
        .find(|one| text(one, &["version"]) == version)?;
    let resources = found.get("resources").cloned().unwrap_or_else(|| json!([]));
    is_well_formed(&resources).then_some(resources)
}

/// Whether clients can read it: what one server says must not spoil the document for all others.
fn is_well_formed(resources: &Value) -> bool {
    let is_text = |one: &Value, key: &str| one.get(key).is_none_or(Value::is_string);
    let are_words = |one: &Value, key: &str| match one.get(key) {
        None => true,
        Some(list) => list
            .as_array()
            .is_some_and(|list| list.iter().all(Value::is_string)),
    };
    let is_kind = |one: &Value| match one.get("responseKind") {
        None | Some(Value::Null) => true,
        Some(kind) => {
            let words = ["group", "version", "kind"];
            kind.is_object() && words.iter().all(|key| is_text(kind, key))
        }
    };
    let is_entry = |one: &Value| {
        let texts = ["resource", "subresource", "scope", "singularResource"];
        let words = ["verbs", "shortNames", "categories"];
        one.is_object()
            && texts.iter().all(|key| is_text(one, key))
            && words.iter().all(|key| are_words(one, key))
            && is_kind(one)
    };
    let Some(all) = resources.as_array() else {
        return false;
    };
    all.iter().all(|one| {
        let below = match one.get("subresources") {
            None => true,
            Some(list) => list
                .as_array()
                .is_some_and(|list| list.iter().all(is_entry)),
        };
        is_entry(one) && below
    })
}

async fn legacy(link: &Link, group: &str, version: &str) -> Option<Value> {
    let list = ask_json(link, &format!("/apis/{group}/{version}"), JSON).await?;
    let resources = (text(&list, &["kind"]) == "APIResourceList").then(|| converted(&list));
    resources.filter(is_well_formed)
}

/// The resources of an `APIResourceList` as the aggregated document has them.
fn converted(list: &Value) -> Value {
    let all = list.get("resources").and_then(Value::as_array);
    let all: Vec<&Value> = all.into_iter().flatten().collect();
    let response_kind = |one: &Value| {
        let word = |key: &str| text(one, &[key]).to_owned();
        json!({"group": word("group"), "version": word("version"), "kind": word("kind")})
    };
    let verbs = |one: &Value| one.get("verbs").cloned().unwrap_or_else(|| json!([]));
    let mut resources: Vec<Value> = Vec::new();
    for one in &all {
        let name = text(one, &["name"]);
        let (parent, below) = match name.split_once('/') {
            Some((parent, below)) => (parent, Some(below)),
            None => (name, None),
        };
        let namespaced = one.get("namespaced") == Some(&Value::Bool(true));
        let scope = if namespaced { "Namespaced" } else { "Cluster" };
        let at = resources
            .iter()
            .position(|known| text(known, &["resource"]) == parent);
        let at = at.unwrap_or_else(|| {
            resources.push(json!({"resource": parent, "scope": scope, "verbs": []}));
            resources.len() - 1
        });
        let Some(entry) = resources.get_mut(at) else {
            continue;
        };
        match below {
            Some(below) => {
                let sub = json!({
                    "subresource": below, "responseKind": response_kind(one), "verbs": verbs(one),
                });
                match entry.get_mut("subresources").and_then(Value::as_array_mut) {
                    Some(list) => list.push(sub),
                    None => entry["subresources"] = json!([sub]),
                }
            }
            None => {
                entry["responseKind"] = response_kind(one);
                entry["singularResource"] = text(one, &["singularName"]).into();
                entry["verbs"] = verbs(one);
                for key in ["shortNames", "categories"] {
                    if let Some(words) = one.get(key) {
                        entry[key] = words.clone();
                    }
                }
            }
        }
    }
    resources.into()
}

/// The hash of its document, from its list of documents.
async fn v3(link: &Link, group: &str, version: &str) -> Option<String> {
    let index = ask_json(link, "/openapi/v3", JSON).await?;
    let entry = index.get("paths")?.get(format!("apis/{group}/{version}"))?;
    let url = text(entry, &["serverRelativeURL"]);
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let hash = pairs.find(|(key, _)| key == "hash");
    Some(hash.map_or_else(String::new, |(_, hash)| hash.into_owned()))
}

/// What of its document is about this group and version.
async fn v2(link: &Link, group: &str, version: &str) -> Option<(Value, String)> {
    let body = ask(link, "/openapi/v2", JSON).await?;
    let hash = hex::encode_upper(Sha512::digest(&body));
    let mut document: Value = serde_json::from_slice(&body).ok()?;
    let root = format!("/apis/{group}/{version}/");
    let mut paths = match document.get_mut("paths").map(Value::take) {
        Some(Value::Object(paths)) => paths,
        _ => Map::new(),
    };
    paths.retain(|path, _| format!("{path}/").starts_with(&root));
    let definitions = match document.get_mut("definitions").map(Value::take) {
        Some(Value::Object(definitions)) => definitions,
        _ => Map::new(),
    };
    Some((json!({"paths": paths, "definitions": definitions}), hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_could_not_read_is_not_passed_on() {
        let good = json!([{"resource": "a", "scope": "Cluster", "verbs": ["get"],
                           "responseKind": {"group": "", "version": "", "kind": "A"},
                           "subresources": [{"subresource": "status", "verbs": []}]}]);
        assert!(is_well_formed(&good));
        for (pointer, bad) in [
            ("", json!({})),
            ("/0", json!("a")),
            ("/0/resource", json!(1)),
            ("/0/verbs", json!("get")),
            ("/0/verbs/0", json!(1)),
            ("/0/responseKind", json!("A")),
            ("/0/responseKind/kind", json!({})),
            ("/0/subresources", json!({})),
            ("/0/subresources/0/verbs", Value::Null),
        ] {
            let mut wrong = good.clone();
            *wrong.pointer_mut(pointer).unwrap() = bad;
            assert!(!is_well_formed(&wrong), "{pointer}");
        }
    }

    #[test]
    fn an_old_list_says_the_same_as_the_aggregated_document() {
        let list = json!({"kind": "APIResourceList", "resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
             "verbs": ["get", "list"], "shortNames": ["fl"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder",
             "verbs": ["get"]},
            {"name": "lone/scale", "group": "autoscaling", "version": "v1", "kind": "Scale",
             "namespaced": false, "verbs": ["update"]},
        ]});
        let own = json!({"group": "", "version": "", "kind": "Flunder"});
        assert_eq!(
            converted(&list),
            json!([
                {"resource": "flunders", "scope": "Namespaced", "singularResource": "flunder",
                 "verbs": ["get", "list"], "shortNames": ["fl"], "responseKind": own,
                 "subresources": [
                    {"subresource": "status", "responseKind": own, "verbs": ["get"]}]},
                {"resource": "lone", "scope": "Cluster", "verbs": [], "subresources": [
                    {"subresource": "scale", "verbs": ["update"],
                     "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}}]},
            ])
        );
    }
}
