//! OpenAPI: what `kubectl explain`, client-side validation and generic clients read.
//!
//! Version 3 has one document for each group and version, version 2 has one for everything. They are
//! made when somebody asks, from the catalog, the Rust types and the stored definitions, and kept
//! compressed; what nobody asks for costs nothing. A document's hash is that of what it is made
//! from, not of its bytes: so the index, which names all hashes, can be answered without making any
//! document, and a changed definition changes the hashes of its own group only.

mod custom;
mod declare;
mod gnostic;
mod paths;
mod roots;
mod schemas;
#[cfg(test)]
mod tests;
mod v2;
mod v3;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use eyot_http::Response;
use eyot_store::Key;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

pub(crate) use self::declare::type_of;
use self::{
    custom::{Form, Published},
    schemas::Wanted,
};
use crate::{
    aggregation, api::Api, catalog::Catalog, compress, crd, discovery, failure::Failure, media,
    resource::Resource,
};

/// Documents kept at once, compressed: those of every built-in group, and room for custom ones.
const KEPT: usize = 96;
/// What stands beside the groups and their versions.
const FIXED: [&str; 5] = [
    ".well-known/openid-configuration",
    "api",
    "apis",
    "openid/v1/jwks",
    "version",
];
/// How long a client may keep a document that it asked for by its hash.
const IMMUTABLE: Duration = Duration::from_secs(365 * 24 * 3600);

const JSON: &str = "application/json";
const V3: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
const V3_OLD: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
const V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V2_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Where in `/openapi` a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    /// `/openapi/v2`
    V2,
    /// `/openapi/v3`
    Index,
    /// `/openapi/v3/apis/apps/v1`, by what stands after `v3`.
    V3(String),
}

/// The documents that were asked for.
#[derive(Default)]
pub(crate) struct Documents(Mutex<VecDeque<Kept>>);

struct Kept {
    path: String,
    hash: String,
    protobuf: bool,
    /// gzip
    body: Bytes,
}

/// Path of each document, and the hash of what it is made from.
pub(crate) type Index = BTreeMap<String, String>;

/// A hash of the code and the tables that make documents: when a new release makes others from the
/// same catalog, clients must not take theirs for current.
const MAKER: u64 = {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    hash = fnv(hash, include_bytes!("mod.rs"));
    hash = fnv(hash, include_bytes!("custom.rs"));
    hash = fnv(hash, include_bytes!("paths.rs"));
    hash = fnv(hash, include_bytes!("schemas.rs"));
    hash = fnv(hash, include_bytes!("enums.txt"));
    hash = fnv(hash, include_bytes!("defaults.txt"));
    fnv(hash, include_bytes!("../model/types.txt"))
};

const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

pub(crate) async fn answer(
    api: &Arc<Api>,
    page: &Page,
    method: &Method,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<Response, Failure> {
    if method != Method::GET && method != Method::HEAD {
        return Err(Failure::method_not_allowed());
    }
    let catalog = api.catalog();
    let index = catalog.openapi.get_or_init(|| index(&catalog));
    match page {
        Page::Index => {
            let paths: Map<String, Value> = index
                .iter()
                .map(|(path, hash)| {
                    let url = format!("/openapi/v3/{path}?hash={hash}");
                    (path.clone(), json!({"serverRelativeURL": url}))
                })
                .collect();
            let body = serde_json::to_vec(&json!({"paths": paths})).map_err(Failure::internal)?;
            let tag = sum([body.as_slice()]);
            if let Some(response) = not_modified(headers, &tag) {
                return Ok(response);
            }
            let mut response = http::Response::new(eyot_http::full(body));
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
            insert(&mut response, header::ETAG, &format!("\"{tag}\""));
            Ok(response)
        }
        Page::V3(path) => {
            if let Some(remote) = catalog.remote_at(path)
                && remote.known.v3.is_some()
            {
                return aggregation::document(remote, path, headers, query).await;
            }
            let Some(hash) = index.get(path) else {
                return Ok(eyot_http::text(StatusCode::NOT_FOUND, ""));
            };
            let Some(media) = choose(headers, &[(JSON, JSON), (V3, V3), (V3_OLD, V3)]) else {
                return Ok(eyot_http::text(StatusCode::NOT_ACCEPTABLE, ""));
            };
            let asked = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
                .find(|(key, value)| key == "hash" && !value.is_empty())
                .map(|(_, value)| value);
            if asked.as_ref().is_some_and(|asked| *asked != hash.as_str()) {
                let mut response = eyot_http::text(StatusCode::MOVED_PERMANENTLY, "");
                insert(
                    &mut response,
                    header::LOCATION,
                    &format!("/openapi/v3/{path}?hash={hash}"),
                );
                return Ok(response);
            }
            let mut response = send(api, &catalog, path, hash, media, headers).await?;
            if asked.is_some() {
                let cache = HeaderValue::from_static("public, immutable");
                response.headers_mut().insert(header::CACHE_CONTROL, cache);
                if let Ok(until) = jiff::Timestamp::try_from(SystemTime::now() + IMMUTABLE) {
                    let text = until.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                    insert(&mut response, header::EXPIRES, &text);
                }
            }
            Ok(response)
        }
        Page::V2 => {
            let Some(media) = choose(headers, &[(JSON, JSON), (V2, V2), (V2_OLD, V2)]) else {
                return Ok(eyot_http::text(StatusCode::NOT_ACCEPTABLE, ""));
            };
            let remotes = catalog.remotes.iter();
            let others = remotes.filter_map(|one| one.known.v2.as_ref().map(|(_, hash)| hash));
            let hash = sum(index.values().chain(others).map(String::as_bytes));
            send(api, &catalog, "v2", &hash, media, headers).await
        }
    }
}

/// The first form in `Accept` among those offered: what to look for, and what it is then called.
fn choose(headers: &HeaderMap, offered: &[(&'static str, &'static str)]) -> Option<&'static str> {
    let clauses = media::accepted(headers);
    if clauses.is_empty() {
        return offered.first().map(|(_, name)| *name);
    }
    clauses.iter().find_map(|clause| {
        let matching = offered.iter().find(|(media, _)| clause.admits(media));
        matching.map(|(_, name)| *name)
    })
}

fn not_modified(headers: &HeaderMap, tag: &str) -> Option<Response> {
    let held = headers.get(header::IF_NONE_MATCH)?.to_str().ok()?;
    if held.trim_matches('"') != tag {
        return None;
    }
    let mut response = http::Response::new(eyot_http::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    insert(&mut response, header::ETAG, &format!("\"{tag}\""));
    Some(response)
}

fn insert(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

async fn send(
    api: &Arc<Api>,
    catalog: &Arc<Catalog>,
    path: &str,
    hash: &str,
    media: &'static str,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let vary = HeaderValue::from_static("Accept");
    if let Some(mut response) = not_modified(headers, hash) {
        response.headers_mut().insert(header::VARY, vary);
        return Ok(response);
    }
    let protobuf = media != JSON;
    let body = match api.documents.find(path, hash, protobuf) {
        Some(body) => body,
        None => {
            let (maker, catalog, named) = (api.clone(), catalog.clone(), path.to_owned());
            let made =
                tokio::task::spawn_blocking(move || make(&maker, &catalog, &named, protobuf));
            let body = made
                .await
                .map_err(Failure::internal)?
                .map_err(Failure::internal)?;
            api.documents.keep(path, hash, protobuf, body.clone());
            body
        }
    };
    let mut response = if compress::is_accepted(headers) {
        let mut response = http::Response::new(eyot_http::full(body));
        let gzip = HeaderValue::from_static("gzip");
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, gzip);
        response
    } else {
        let plain = compress::undo(&body).map_err(Failure::internal)?;
        http::Response::new(eyot_http::full(plain))
    };
    let sent = response.headers_mut();
    sent.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    sent.append(header::VARY, vary);
    sent.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    insert(&mut response, header::ETAG, &format!("\"{hash}\""));
    Ok(response)
}

impl Documents {
    fn find(&self, path: &str, hash: &str, protobuf: bool) -> Option<Bytes> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept
            .iter()
            .find(|one| one.path == path && one.hash == hash && one.protobuf == protobuf);
        found.map(|one| one.body.clone())
    }

    /// Keep a document in place of an older one of that path.
    fn keep(&self, path: &str, hash: &str, protobuf: bool, body: Bytes) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|one| one.path != path || (one.hash == hash && one.protobuf != protobuf));
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        let (path, hash) = (path.to_owned(), hash.to_owned());
        kept.push_back(Kept {
            path,
            hash,
            protobuf,
            body,
        });
    }
}

/// In hexadecimal, as Kubernetes writes them.
fn sum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut digest = Sha512::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    hex::encode_upper(digest.finalize())
}

fn index(catalog: &Catalog) -> Index {
    let maker = format!("{} {MAKER}", env!("CARGO_PKG_VERSION"));
    let mut index = Index::new();
    let mut groups = BTreeSet::new();
    for (group, version) in discovery::local_versions(catalog) {
        let mut text = format!("{maker} {:?}", discovery::unstored(&group, &version));
        for resource in catalog.of(&group, &version) {
            let below: Vec<_> = discovery::subresources(resource)
                .into_iter()
                .map(|sub| {
                    (
                        sub.name,
                        sub.group,
                        sub.version,
                        sub.kind.to_owned(),
                        sub.verbs,
                    )
                })
                .collect();
            text.push_str(&format!(
                "\n{:?}",
                (
                    (&resource.plural, &resource.kind, &resource.list_kind),
                    (resource.namespaced, &resource.stamp),
                    (discovery::verbs(resource), below),
                )
            ));
        }
        index.insert(paths::root(&group, &version), sum([text.as_bytes()]));
        if !group.is_empty() {
            groups.insert(format!("apis/{group}"));
        }
    }
    for remote in catalog.remotes.iter() {
        groups.insert(format!("apis/{}", remote.group));
        let (v3, v2) = (&remote.known.v3, &remote.known.v2);
        // Who knows only the older form is translated.
        if let Some(hash) = v3.as_ref().or(v2.as_ref().map(|(_, hash)| hash)) {
            index.insert(paths::root(&remote.group, &remote.version), hash.clone());
        }
    }
    for path in FIXED.map(str::to_owned).into_iter().chain(groups) {
        let hash = sum([maker.as_bytes(), path.as_bytes()]);
        index.insert(path, hash);
    }
    index
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": discovery::KUBERNETES_VERSION})
}

fn security() -> Value {
    json!({"BearerToken": {
        "type": "apiKey", "description": "Bearer Token authentication",
        "name": "authorization", "in": "header",
    }})
}

/// Make a document, compressed.
fn make(api: &Api, catalog: &Catalog, path: &str, protobuf: bool) -> std::io::Result<Bytes> {
    let body = match (path, protobuf) {
        ("v2", _) => return make_v2(api, catalog, protobuf),
        (_, false) => serde_json::to_vec(&make_v3(api, catalog, path))?,
        (_, true) => gnostic::v3::document(&make_v3(api, catalog, path)),
    };
    compress::gzip(&body)
}

fn make_v3(api: &Api, catalog: &Catalog, path: &str) -> Value {
    let parts: Vec<&str> = path.split('/').collect();
    let (paths, schemas) = match *parts.as_slice() {
        ["api", version] => version_parts(api, catalog, "", version, Form::V3),
        ["apis", group, version] if let Some(remote) = catalog.remote(group, version) => {
            let v2 = remote.known.v2.as_ref();
            v2.map(|(document, _)| v3::parts(document))
                .unwrap_or_default()
        }
        ["apis", group, version] => version_parts(api, catalog, group, version, Form::V3),
        _ => single_parts(&parts),
    };
    json!({
        "openapi": "3.0.0", "info": info(), "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": security()},
    })
}

/// Paths and schemas of one group and version.
fn version_parts(
    api: &Api,
    catalog: &Catalog,
    group: &str,
    version: &str,
    form: Form,
) -> (Map<String, Value>, Map<String, Value>) {
    let unstored = discovery::unstored(group, version);
    let resources = || catalog.of(group, version).map(AsRef::as_ref);
    let mut wanted: Vec<Wanted<'_>> = Vec::new();
    let mut custom: Vec<&Resource> = Vec::new();
    for resource in resources() {
        if resource.is_custom() {
            custom.push(resource);
        } else {
            wanted.push(Wanted {
                group,
                version,
                kind: &resource.kind,
                list_kind: Some(&resource.list_kind),
            });
        }
        for sub in discovery::subresources(resource) {
            let foreign = !sub.group.is_empty();
            let options = matches!(sub.name, "attach" | "exec" | "portforward" | "proxy");
            if !options && (foreign || sub.kind != resource.kind) {
                let (group, version) = if foreign {
                    (sub.group, sub.version)
                } else {
                    (group, version)
                };
                let known = wanted
                    .iter()
                    .any(|one| one.group == group && one.kind == sub.kind);
                if !known {
                    // The subresource lives as long as the resource does.
                    let kind: &str = sub.kind;
                    wanted.push(Wanted {
                        group,
                        version,
                        kind,
                        list_kind: None,
                    });
                }
            }
        }
    }
    for (_, _, _, _, kind, _) in &unstored {
        if !wanted
            .iter()
            .any(|one| one.group == group && one.kind == *kind)
        {
            wanted.push(Wanted {
                group,
                version,
                kind,
                list_kind: None,
            });
        }
    }
    let paths = paths::of_version(group, version, resources(), &unstored);
    let mut schemas = schemas::builtin(&wanted, (group, version));
    for resource in custom {
        let definition = definition_of(api, resource);
        let published = published(resource, definition.as_ref());
        schemas.extend(custom::schemas(&published, form));
    }
    keep_reachable(&paths, &mut schemas);
    (paths, schemas)
}

/// Leave out what nothing refers to, directly or not.
fn keep_reachable(paths: &Map<String, Value>, schemas: &mut Map<String, Value>) {
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> = Vec::new();
    paths.values().for_each(|path| references(path, &mut open));
    while let Some(name) = open.pop() {
        if let Some(schema) = schemas.get(&name)
            && reached.insert(name)
        {
            references(schema, &mut open);
        }
    }
    schemas.retain(|name, _| reached.contains(name));
}

/// The names of the schemas that are referred to. Values nest no deeper than a parsed schema does.
fn references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value
                    .as_str()
                    .and_then(|text| text.strip_prefix(schemas::COMPONENTS))
                {
                    Some(name) if key == "$ref" => into.push(name.to_owned()),
                    _ => references(value, into),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, into)),
        _ => {}
    }
}

/// The definition of a custom resource. It is read when it is needed: the catalog keeps only what
/// every request needs.
fn definition_of(api: &Api, resource: &Resource) -> Option<Value> {
    let name = format!("{}.{}", resource.plural, resource.group);
    let stored = api.store.get(&Key::new(crd::STORAGE, "", name.as_str()))?;
    serde_json::from_slice(&stored.json).ok()
}

/// A custom resource with the schema that its definition gives this version.
fn published<'a>(resource: &'a Resource, definition: Option<&'a Value>) -> Published<'a> {
    let schema = definition.and_then(|definition| {
        let versions = definition.pointer("/spec/versions")?.as_array()?;
        let version = versions
            .iter()
            .find(|one| one["name"] == resource.version.as_str())?;
        version.pointer("/schema/openAPIV3Schema")
    });
    Published {
        group: &resource.group,
        version: &resource.version,
        kind: &resource.kind,
        list_kind: &resource.list_kind,
        plural: &resource.plural,
        schema,
    }
}

/// Documents of one path: the lists of groups and versions, the server's version, its issuer of
/// tokens.
fn single_parts(parts: &[&str]) -> (Map<String, Value>, Map<String, Value>) {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
    match *parts {
        [".well-known", ..] => return (paths::of_issuer(), Map::new()),
        ["openid", ..] => return (paths::of_issuer_keys(), Map::new()),
        _ => {}
    }
    let (path, id, tag, description, schema) = match *parts {
        ["api"] => (
            "/api/".to_owned(),
            "getCoreAPIVersions".to_owned(),
            "core".to_owned(),
            "get available API versions",
            format!("{META}.APIVersions"),
        ),
        ["apis"] => (
            "/apis/".to_owned(),
            "getAPIVersions".to_owned(),
            "apis".to_owned(),
            "get available API versions",
            format!("{META}.APIGroupList"),
        ),
        ["apis", group] => (
            format!("/apis/{group}/"),
            format!("get{}APIGroup", paths::camel(group)),
            paths::tag(group),
            "get information of a group",
            format!("{META}.APIGroup"),
        ),
        _ => (
            "/version/".to_owned(),
            "getCodeVersion".to_owned(),
            "version".to_owned(),
            "get the version information for this server",
            "io.k8s.apimachinery.pkg.version.Info".to_owned(),
        ),
    };
    let paths = paths::of_document(&path, &id, &tag, description, &schema);
    (paths, schemas::single(&schema))
}

/// The whole of v2, written group by group so that only one of them is in memory as values.
fn make_v2(api: &Api, catalog: &Catalog, protobuf: bool) -> std::io::Result<Bytes> {
    let head = json!({"swagger": "2.0", "info": info()});
    let tail = json!({"securityDefinitions": security(), "security": [{"BearerToken": []}]});
    let mut writer = V2Writer::default();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut add = |(paths, schemas): (Map<String, Value>, Map<String, Value>)| {
        for (path, item) in paths {
            writer.path(&path, &v2::path(&item), protobuf);
        }
        for (name, mut schema) in schemas {
            if seen.insert(name.clone()) {
                v2::schema(&name, &mut schema);
                writer.definition(&name, &schema, protobuf);
            }
        }
    };
    let mut groups: BTreeSet<String> = BTreeSet::new();
    for (group, version) in discovery::local_versions(catalog) {
        add(version_parts(api, catalog, &group, &version, Form::V2));
        if !group.is_empty() {
            groups.insert(group);
        }
    }
    groups.extend(catalog.remotes.iter().map(|remote| remote.group.clone()));
    for group in &groups {
        add(single_parts(&["apis", group]));
    }
    for path in FIXED {
        add(single_parts(&path.split('/').collect::<Vec<_>>()));
    }
    for remote in catalog.remotes.iter() {
        let Some((document, _)) = &remote.known.v2 else {
            continue;
        };
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            writer.path(path, item, protobuf);
        }
        for (name, schema) in document["definitions"].as_object().into_iter().flatten() {
            // All servers have the types of metadata in common.
            if seen.insert(name.clone()) {
                writer.definition(name, schema, protobuf);
            }
        }
    }
    compress::gzip(&writer.finish(&head, &tail, protobuf)?)
}

/// Collects v2 in one of its two forms.
#[derive(Default)]
struct V2Writer {
    paths: Vec<u8>,
    definitions: Vec<u8>,
    parts: gnostic::v2::Parts,
}

impl V2Writer {
    fn path(&mut self, path: &str, item: &Value, protobuf: bool) {
        if protobuf {
            self.parts.path(path, item);
        } else {
            member(&mut self.paths, path, item);
        }
    }

    fn definition(&mut self, name: &str, schema: &Value, protobuf: bool) {
        if protobuf {
            self.parts.definition(name, schema);
        } else {
            member(&mut self.definitions, name, schema);
        }
    }

    fn finish(self, head: &Value, tail: &Value, protobuf: bool) -> std::io::Result<Vec<u8>> {
        if protobuf {
            let mut document = gnostic::Message::default();
            gnostic::v2::head(&mut document, head);
            self.parts.finish(&mut document);
            gnostic::v2::tail(&mut document, tail);
            return Ok(document.into_bytes());
        }
        let mut body = serde_json::to_vec(head)?;
        body.pop();
        for (key, members) in [("paths", self.paths), ("definitions", self.definitions)] {
            body.extend_from_slice(format!(",\"{key}\":{{").as_bytes());
            body.extend_from_slice(&members);
            body.push(b'}');
        }
        let tail = serde_json::to_vec(tail)?;
        body.push(b',');
        body.extend_from_slice(tail.get(1..).unwrap_or_default());
        Ok(body)
    }
}

/// `"name":value` in an object that is being written.
fn member(into: &mut Vec<u8>, name: &str, value: &Value) {
    if !into.is_empty() {
        into.push(b',');
    }
    // Both always have a form in JSON.
    into.extend_from_slice(Value::from(name).to_string().as_bytes());
    into.push(b':');
    into.extend_from_slice(value.to_string().as_bytes());
}
