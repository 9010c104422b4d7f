//! What this server offers: the documents from which kubectl, dashboards and clients learn the
//! resources, in the aggregated form (two requests in all) and the old one (one per group).
//!
//! Both forms are two spellings of one [`Listing`], made from the catalog; so they cannot disagree.
//! The aggregated documents are encoded once per catalog, the old ones per request: nobody asks for
//! those often.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use eyot_http::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

use crate::{
    aggregation::{Remote, group_priority, version_priority},
    catalog::Catalog,
    crd, custom_metrics,
    path::ResourcePath,
    resource::Resource,
    review, unstored,
};

/// In the order in which Kubernetes names them.
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
/// For custom resources Kubernetes has another order.
const CUSTOM_VERBS: [&str; 8] = [
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];
/// While a definition is being deleted nothing new can be made of it.
const TERMINATING_VERBS: [&str; 5] = ["delete", "deletecollection", "get", "list", "watch"];

/// The Kubernetes API that is spoken.
const MINOR: &str = "36";
/// Objects of the version before are still understood.
const COMPATIBLE: &str = "35";

/// The version of Kubernetes that this server goes by, and nodes of the same host with it.
pub const KUBERNETES_VERSION: &str = concat!("v1.36.2+eyot.", env!("CARGO_PKG_VERSION"));

/// `/version`
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR,
        "emulationMajor": "1", "emulationMinor": MINOR,
        "minCompatibilityMajor": "1", "minCompatibilityMinor": COMPATIBLE,
        "gitVersion": KUBERNETES_VERSION,
        "gitCommit": "", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    })
}

/// One of the two versions of the aggregated document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aggregated {
    V2,
    V2Beta1,
}

impl Aggregated {
    fn version(self) -> &'static str {
        match self {
            Aggregated::V2 => "v2",
            Aggregated::V2Beta1 => "v2beta1",
        }
    }

    /// The one that `Accept` asks for before any plain form.
    fn asked(headers: &HeaderMap) -> Option<Aggregated> {
        let values = headers.get_all(header::ACCEPT).iter();
        let clauses = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        for clause in clauses {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            if !matches!(media, "application/json" | "application/*" | "*/*") {
                continue;
            }
            let (mut kind, mut group, mut version) = ("", "", "");
            for parameter in parts {
                match parameter.split_once('=') {
                    Some(("as", value)) => kind = value,
                    Some(("g", value)) => group = value,
                    Some(("v", value)) => version = value,
                    _ => {}
                }
            }
            match (kind, group, version) {
                ("", "", "") => return None,
                ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => {
                    return Some(Aggregated::V2);
                }
                ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => {
                    return Some(Aggregated::V2Beta1);
                }
                _ => {}
            }
        }
        None
    }
}

/// An aggregated document as it is sent.
pub(crate) struct Document {
    body: Bytes,
    /// With its quotes.
    etag: String,
}

/// `/api`
pub(crate) fn core_versions(catalog: &Catalog, headers: &HeaderMap) -> Response {
    if let Some(asked) = Aggregated::asked(headers) {
        return aggregated(catalog, true, asked, headers);
    }
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let addresses: Vec<Value> = host
        .map(|host| json!({"clientCIDR": "0.0.0.0/0", "serverAddress": host}))
        .into_iter()
        .collect();
    let document = json!({
        "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses,
    });
    varied(eyot_http::json(StatusCode::OK, &document))
}

/// `/apis`
pub(crate) fn groups(catalog: &Catalog, headers: &HeaderMap) -> Response {
    if let Some(asked) = Aggregated::asked(headers) {
        return aggregated(catalog, false, asked, headers);
    }
    let listing = Listing::new(catalog);
    let groups: Vec<Value> = listing.named().map(Group::legacy).collect();
    let list = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups});
    varied(eyot_http::json(StatusCode::OK, &list))
}

/// `/apis/<group>`
pub(crate) fn one_group(catalog: &Catalog, name: &str) -> Option<Response> {
    let listing = Listing::new(catalog);
    let group = listing.named().find(|group| group.name == name)?;
    let mut document = group.legacy();
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Some(eyot_http::json(StatusCode::OK, &document))
}

/// `/api/v1`, `/apis/<group>/<version>`
pub(crate) fn resources(catalog: &Catalog, group: &str, version: &str) -> Option<Response> {
    let listing = Listing::new(catalog);
    let group = listing.groups.iter().find(|one| one.name == group)?;
    let found = group.versions.iter().find(|one| one.name == version)?;
    let mut list: Vec<Value> = Vec::new();
    for entry in &found.entries {
        entry.legacy(&mut list);
    }
    let document = json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version(group.name, version), "resources": list,
    });
    Some(eyot_http::json(StatusCode::OK, &document))
}

/// `/`
pub(crate) fn root(catalog: &Catalog) -> Value {
    let mut paths: Vec<String> = ["/api", "/api/v1", "/apis", "/apis/"]
        .map(str::to_owned)
        .into();
    let listing = Listing::new(catalog);
    for group in listing.named() {
        paths.push(format!("/apis/{}", group.name));
        let versions = group.versions.iter();
        paths.extend(versions.map(|version| format!("/apis/{}/{}", group.name, version.name)));
    }
    paths.extend(crate::health::paths());
    paths.extend(
        [
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openapi/v3/",
            "/version",
        ]
        .map(str::to_owned),
    );
    paths.sort();
    json!({"paths": paths})
}

fn aggregated(catalog: &Catalog, core: bool, asked: Aggregated, headers: &HeaderMap) -> Response {
    let kept = &catalog.aggregated[usize::from(core)];
    let document = kept.get_or_init(|| Document::new(&Listing::new(catalog), core));
    let mut response = http::Response::new(eyot_http::empty());
    let media = match asked {
        Aggregated::V2 => HeaderValue::from_static(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        ),
        Aggregated::V2Beta1 => HeaderValue::from_static(
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        ),
    };
    let sent = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        sent.insert(header::ETAG, etag);
    }
    sent.insert(header::VARY, HeaderValue::from_static("Accept"));
    sent.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    let held = headers.get(header::IF_NONE_MATCH);
    if held.is_some_and(|held| held.as_bytes() == document.etag.as_bytes()) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    sent.insert(header::CONTENT_TYPE, media);
    *response.body_mut() = eyot_http::full(document.body(asked));
    response
}

impl Document {
    fn new(listing: &Listing<'_>, core: bool) -> Document {
        let groups = listing
            .groups
            .iter()
            .filter(|group| group.name.is_empty() == core);
        let items: Vec<Value> = groups.map(Group::aggregated).collect();
        let document = json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
            "metadata": {}, "items": items,
        });
        let body: Bytes = serde_json::to_vec(&document).unwrap_or_default().into();
        let etag = format!("\"{}\"", hex::encode_upper(Sha512::digest(&body)));
        Document { body, etag }
    }

    /// The two versions differ in nothing but their name, which stands at the start.
    fn body(&self, asked: Aggregated) -> Bytes {
        const NAME: &[u8] = b"apidiscovery.k8s.io/v2\"";
        let at = match asked {
            Aggregated::V2 => None,
            Aggregated::V2Beta1 => self.body.windows(NAME.len()).position(|part| part == NAME),
        };
        let Some(at) = at else {
            return self.body.clone();
        };
        let after = at + NAME.len() - "v2\"".len();
        let mut body = Vec::with_capacity(self.body.len() + 8);
        body.extend_from_slice(&self.body[..after]);
        body.extend_from_slice(asked.version().as_bytes());
        body.extend_from_slice(&self.body[after + "v2".len()..]);
        body.into()
    }
}

fn varied(mut response: Response) -> Response {
    let accept = HeaderValue::from_static("Accept");
    response.headers_mut().insert(header::VARY, accept);
    response
}

/// Everything that is served, groups in Kubernetes' order, versions from the preferred down.
struct Listing<'a> {
    groups: Vec<Group<'a>>,
}

struct Group<'a> {
    name: &'a str,
    /// Higher ones come first.
    priority: i64,
    versions: Vec<Version<'a>>,
}

struct Version<'a> {
    name: &'a str,
    /// Higher ones come first.
    priority: i64,
    entries: Vec<Entry<'a>>,
    /// The server that answers in place of this one.
    remote: Option<&'a Remote>,
}

/// One resource.
struct Entry<'a> {
    plural: &'a str,
    singular: &'a str,
    kind: &'a str,
    namespaced: bool,
    verbs: &'a [&'static str],
    short_names: &'a [String],
    categories: &'a [String],
    /// Says under which version objects are kept, without saying which.
    storage_hash: String,
    subresources: Vec<Subresource<'a>>,
}

/// What can only be created, is answered and not stored: group, version, plural, singular, kind,
/// whether it lives in a namespace.
pub(crate) type Unstored = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    bool,
);

/// Those of one group and version that the server answers to.
pub(crate) fn unstored(group: &str, version: &str) -> Vec<Unstored> {
    let all = UNSTORED.into_iter();
    all.filter(|(g, v, plural, _, _, namespaced)| {
        *g == group && *v == version && is_answered(g, v, plural, *namespaced)
    })
    .collect()
}

/// Groups and versions that this server answers for itself, in the order of discovery.
pub(crate) fn local_versions(catalog: &Catalog) -> Vec<(String, String)> {
    let listing = Listing::new(catalog);
    let all = listing.groups.iter().flat_map(|group| {
        let own = group.versions.iter().filter(|one| one.remote.is_none());
        own.map(|version| (group.name.to_owned(), version.name.to_owned()))
    });
    all.collect()
}

const UNSTORED: [Unstored; 7] = [
    ("", "v1", "bindings", "binding", "Binding", true),
    (
        "authentication.k8s.io",
        "v1",
        "selfsubjectreviews",
        "selfsubjectreview",
        "SelfSubjectReview",
        false,
    ),
    (
        "authentication.k8s.io",
        "v1",
        "tokenreviews",
        "tokenreview",
        "TokenReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        "LocalSubjectAccessReview",
        true,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        "SelfSubjectAccessReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        "SelfSubjectRulesReview",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "subjectaccessreviews",
        "subjectaccessreview",
        "SubjectAccessReview",
        false,
    ),
];

/// Whether the server answers to such a resource.
fn is_answered(group: &str, version: &str, plural: &str, namespaced: bool) -> bool {
    plural == "bindings"
        || review::is_review(&ResourcePath {
            group: group.into(),
            version: version.into(),
            resource: plural.into(),
            namespace: namespaced.then(|| "default".into()),
            name: None,
            subresource: None,
            goes_on: false,
        })
}

impl<'a> Listing<'a> {
    fn new(catalog: &'a Catalog) -> Listing<'a> {
        let mut entries: Vec<(&str, &str, Entry<'_>)> = catalog
            .all()
            .iter()
            .map(|resource| {
                (
                    resource.group.as_str(),
                    resource.version.as_str(),
                    Entry::of(resource),
                )
            })
            .collect();
        for (group, version, plural, singular, kind, namespaced) in UNSTORED {
            if is_answered(group, version, plural, namespaced) {
                let entry = Entry {
                    plural,
                    singular,
                    kind,
                    namespaced,
                    verbs: &["create"],
                    short_names: &[],
                    categories: &[],
                    storage_hash: String::new(),
                    subresources: Vec::new(),
                };
                entries.push((group, version, entry));
            }
        }
        let mut groups: Vec<Group<'_>> = Vec::new();
        for (group, version, entry) in entries {
            // Whoever answers for a version answers for all of it.
            if catalog.remote(group, version).is_none() {
                let priority = (group_priority(group), version_priority(group, version));
                version_of(&mut groups, group, version, priority)
                    .entries
                    .push(entry);
            }
        }
        for remote in catalog.remotes.iter() {
            let priority = (remote.group_priority, remote.version_priority);
            version_of(&mut groups, &remote.group, &remote.version, priority).remote = Some(remote);
        }
        groups.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.name.cmp(b.name)));
        for group in &mut groups {
            let rank =
                |version: &Version<'_>| (version.priority, crd::version_priority(version.name));
            let versions = &mut group.versions;
            versions.sort_by(|a, b| rank(b).cmp(&rank(a)).then(a.name.cmp(b.name)));
            for version in versions {
                version.entries.sort_by(|a, b| a.plural.cmp(b.plural));
            }
        }
        Listing { groups }
    }

    /// All but the core group.
    fn named(&self) -> impl Iterator<Item = &Group<'a>> {
        self.groups.iter().filter(|group| !group.name.is_empty())
    }
}

/// The version among the groups, made if need be. A group stands where the highest of its versions
/// wants it.
fn version_of<'g, 'a>(
    groups: &'g mut Vec<Group<'a>>,
    group: &'a str,
    version: &'a str,
    (of_group, of_version): (i64, i64),
) -> &'g mut Version<'a> {
    let at = groups.iter().position(|known| known.name == group);
    let at = at.unwrap_or_else(|| {
        groups.push(Group {
            name: group,
            priority: of_group,
            versions: Vec::new(),
        });
        groups.len() - 1
    });
    let group = &mut groups[at];
    group.priority = group.priority.max(of_group);
    let at = group
        .versions
        .iter()
        .position(|known| known.name == version);
    let at = at.unwrap_or_else(|| {
        group.versions.push(Version {
            name: version,
            priority: of_version,
            entries: Vec::new(),
            remote: None,
        });
        group.versions.len() - 1
    });
    &mut group.versions[at]
}

impl Group<'_> {
    fn legacy(&self) -> Value {
        let version = |version: &Version<'_>| {
            json!({
                "groupVersion": group_version(self.name, version.name), "version": version.name,
            })
        };
        let all: Vec<Value> = self.versions.iter().map(version).collect();
        json!({"name": self.name, "versions": all, "preferredVersion": all.first()})
    }

    fn aggregated(&self) -> Value {
        let version = |version: &Version<'_>| {
            if let Some(remote) = version.remote {
                return remote.discovery();
            }
            let resources: Vec<Value> = version.entries.iter().map(Entry::aggregated).collect();
            json!({"version": version.name, "resources": resources, "freshness": "Current"})
        };
        let metadata = if self.name.is_empty() {
            json!({})
        } else {
            json!({"name": self.name})
        };
        let versions: Vec<Value> = self.versions.iter().map(version).collect();
        json!({"metadata": metadata, "versions": versions})
    }
}

impl<'a> Entry<'a> {
    fn of(resource: &'a Resource) -> Entry<'a> {
        Entry {
            plural: &resource.plural,
            singular: &resource.singular,
            kind: &resource.kind,
            namespaced: resource.namespaced,
            verbs: verbs(resource),
            short_names: &resource.short_names,
            categories: &resource.categories,
            storage_hash: storage_hash(resource),
            subresources: subresources(resource),
        }
    }

    /// The resource and, after it, its subresources.
    fn legacy(&self, list: &mut Vec<Value>) {
        let mut entry = json!({
            "name": self.plural, "singularName": self.singular, "namespaced": self.namespaced,
            "kind": self.kind, "verbs": self.verbs,
        });
        self.words(&mut entry);
        if !self.storage_hash.is_empty() {
            entry["storageVersionHash"] = self.storage_hash.as_str().into();
        }
        if !self.verbs.is_empty() {
            list.push(entry);
        }
        for sub in &self.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", self.plural, sub.name), "singularName": "",
                "namespaced": self.namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if !sub.group.is_empty() {
                entry["group"] = sub.group.into();
            }
            if !sub.version.is_empty() {
                entry["version"] = sub.version.into();
            }
            list.push(entry);
        }
    }

    fn aggregated(&self) -> Value {
        // An empty group and version say: as the resource's own.
        let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
        let mut entry = json!({
            "resource": self.plural, "responseKind": kind("", "", self.kind),
            "scope": if self.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": self.singular, "verbs": self.verbs,
        });
        self.words(&mut entry);
        let subresources: Vec<Value> = self
            .subresources
            .iter()
            .map(|sub| {
                json!({
                    "subresource": sub.name, "verbs": sub.verbs,
                    "responseKind": kind(sub.group, sub.version, sub.kind),
                })
            })
            .collect();
        if !subresources.is_empty() {
            entry["subresources"] = subresources.into();
        }
        entry
    }

    fn words(&self, entry: &mut Value) {
        if !self.short_names.is_empty() {
            entry["shortNames"] = json!(self.short_names);
        }
        if !self.categories.is_empty() {
            entry["categories"] = json!(self.categories);
        }
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// What a resource can be asked for.
pub(crate) fn verbs(resource: &Resource) -> &'static [&'static str] {
    const NAMESPACES: [&str; 7] = [
        "create", "delete", "get", "list", "patch", "update", "watch",
    ];
    if resource.is("", "namespaces") {
        // Nobody may empty the cluster with one request.
        &NAMESPACES
    } else if resource.group == custom_metrics::GROUP {
        // Of the pods themselves nothing is served here.
        &[]
    } else if unstored::holds(resource) {
        &["get", "list"]
    } else if !resource.is_custom() {
        &VERBS
    } else if resource.terminating {
        &TERMINATING_VERBS
    } else {
        &CUSTOM_VERBS
    }
}

/// As Kubernetes makes it, so that migration tools see the same.
fn storage_hash(resource: &Resource) -> String {
    if resource.storage_version.is_empty() {
        return String::new();
    }
    // The core events are how all events are kept.
    let group = match (resource.group.as_str(), resource.plural.as_str()) {
        ("events.k8s.io", "events") => "",
        (group, _) => group,
    };
    let text = format!("{group}/{}/{}", resource.storage_version, resource.kind);
    let digest = Sha256::digest(text.as_bytes());
    STANDARD.encode(digest.get(..8).unwrap_or_default())
}

pub(crate) struct Subresource<'a> {
    pub(crate) name: &'static str,
    /// Empty: the resource's own group and version.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'a str,
    pub(crate) verbs: &'static [&'static str],
}

/// What is served below a resource, by name.
pub(crate) fn subresources(resource: &Resource) -> Vec<Subresource<'_>> {
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
        for (name, kind) in [
            ("attach", "PodAttachOptions"),
            ("exec", "PodExecOptions"),
            ("portforward", "PodPortForwardOptions"),
        ] {
            all.push(sub(name, "", "", kind, &["create", "get"]));
        }
    }
    for (plural, kind) in [
        ("nodes", "NodeProxyOptions"),
        ("pods", "PodProxyOptions"),
        ("services", "ServiceProxyOptions"),
    ] {
        if resource.is("", plural) {
            let verbs = &["create", "delete", "get", "patch", "update"];
            all.push(sub("proxy", "", "", kind, verbs));
        }
    }
    if resource.is("", "serviceaccounts") {
        let (group, version) = ("authentication.k8s.io", "v1");
        all.push(sub("token", group, version, "TokenRequest", &["create"]));
    }
    if resource.is("", "namespaces") {
        all.push(sub("finalize", "", "", own, &["update"]));
    }
    if resource.group == custom_metrics::GROUP {
        all.push(sub(custom_metrics::REQUESTS, "", "", own, &["get"]));
    }
    if resource.scale.is_some() {
        let verbs = &["get", "patch", "update"];
        all.push(sub("scale", "autoscaling", "v1", "Scale", verbs));
    }
    if resource.status {
        all.push(sub("status", "", "", own, &["get", "patch", "update"]));
    }
    for part in resource.parts() {
        all.push(sub(part.name, "", "", own, part.verbs));
    }
    if resource.is_custom() {
        // Kubernetes names the status of a custom resource first.
        all.sort_by_key(|sub| sub.name != "status");
    } else {
        all.sort_by_key(|sub| sub.name);
    }
    all
}
