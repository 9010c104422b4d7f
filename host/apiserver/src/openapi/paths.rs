//! Paths and operations of OpenAPI v3: every verb of every resource with its parameters.
//!
//! Made from the same facts as discovery, so what is documented is what is served. Parameters that
//! all operations of a path share stand at the path, as Kubernetes writes them.

use serde_json::{Map, Value, json};

use super::{
    custom,
    schemas::{self, COMPONENTS},
};
use crate::{
    discovery::{self, Unstored},
    resource::Resource,
};

/// What an operation can be told in the query or the path: name, type, description.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = (
    "pretty",
    "string",
    "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).",
);
const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "'All' runs every check and changes nothing.",
);
const FIELD_MANAGER: Parameter = (
    "fieldManager",
    "string",
    "Who makes the change, at most 128 printable characters. Server-side apply requires it.",
);
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What happens with unknown and duplicate fields: 'Ignore' drops them in silence, 'Warn' (the default) says so in a warning, 'Strict' refuses the request and names them all.",
);
const FORCE: Parameter = (
    "force",
    "boolean",
    "Take fields over from other managers. For server-side apply only.",
);
const WRITE: [Parameter; 3] = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCH: [Parameter; 4] = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const CONTINUE: Parameter = (
    "continue",
    "string",
    "The token that the previous page of this list came with. A token that is too old is answered 410 Gone together with one that goes on inconsistently.",
);
const FIELD_SELECTOR: Parameter = (
    "fieldSelector",
    "string",
    "Select objects by the values of their fields. Defaults to everything.",
);
const LABEL_SELECTOR: Parameter = (
    "labelSelector",
    "string",
    "Select objects by their labels. Defaults to everything.",
);
const LIMIT: Parameter = (
    "limit",
    "integer",
    "How many objects one page may hold. Where more exist, the list's metadata carries a token for 'continue', and all pages show the state of the first.",
);
const REVISION: Parameter = (
    "resourceVersion",
    "string",
    "Which state may be shown. See https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions for details.",
);
const REVISION_MATCH: Parameter = (
    "resourceVersionMatch",
    "string",
    "How resourceVersion is meant: 'Exact' or 'NotOlderThan'.",
);
const INITIAL: Parameter = (
    "sendInitialEvents",
    "boolean",
    "Begin a watch with what exists, and mark the end of that with a bookmark. Needs resourceVersionMatch=NotOlderThan and allowWatchBookmarks.",
);
const TIMEOUT: Parameter = (
    "timeoutSeconds",
    "integer",
    "End the list or watch after this time.",
);
const LIST: [Parameter; 10] = [
    (
        "allowWatchBookmarks",
        "boolean",
        "Tell now and then how far a watch has come, by events of type BOOKMARK.",
    ),
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    REVISION,
    REVISION_MATCH,
    INITIAL,
    TIMEOUT,
    (
        "watch",
        "boolean",
        "Stream changes instead of answering a list.",
    ),
];
const DELETE: [Parameter; 5] = [
    DRY_RUN,
    (
        "gracePeriodSeconds",
        "integer",
        "How long the object may take to end. Zero deletes at once; nothing means the default of its kind.",
    ),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Delete an object although what is stored of it cannot be read.",
    ),
    (
        "orphanDependents",
        "boolean",
        "Deprecated: use propagationPolicy.",
    ),
    (
        "propagationPolicy",
        "string",
        "What becomes of dependents: 'Orphan', 'Background' or 'Foreground'.",
    ),
];
const NAMESPACE: Parameter = (
    "namespace",
    "string",
    "object name and auth scope, such as for teams and projects",
);
const PROXY_PATH: Parameter = ("path", "string", "Path to ask for, with its query.");

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Parameters of the subresources that are no objects.
fn options(subresource: &str) -> &'static [Parameter] {
    const STDERR: Parameter = ("stderr", "boolean", "Stream the standard error.");
    const STDIN: Parameter = (
        "stdin",
        "boolean",
        "Stream to the standard input. Defaults to false.",
    );
    const STDOUT: Parameter = ("stdout", "boolean", "Stream the standard output.");
    const TTY: Parameter = ("tty", "boolean", "Allocate a terminal. Defaults to false.");
    const CONTAINER: Parameter = (
        "container",
        "string",
        "Which container. Defaults to the only one.",
    );
    match subresource {
        "attach" => &[CONTAINER, STDERR, STDIN, STDOUT, TTY],
        "exec" => &[
            (
                "command",
                "string",
                "Command to run, one parameter for each argument. No shell is used.",
            ),
            CONTAINER,
            STDERR,
            STDIN,
            STDOUT,
            TTY,
        ],
        "log" => &[
            CONTAINER,
            (
                "follow",
                "boolean",
                "Stream what is written from now on, too.",
            ),
            (
                "insecureSkipTLSVerifyBackend",
                "boolean",
                "Do not verify the certificate of the node.",
            ),
            ("limitBytes", "integer", "How many bytes to answer at most."),
            PRETTY,
            (
                "previous",
                "boolean",
                "The container that ran before this one. Defaults to false.",
            ),
            ("sinceSeconds", "integer", "Only what is younger than this."),
            (
                "stream",
                "string",
                "Which stream: 'All', 'Stdout' or 'Stderr'.",
            ),
            ("tailLines", "integer", "How many lines from the end."),
            (
                "timestamps",
                "boolean",
                "Begin each line with its time. Defaults to false.",
            ),
        ],
        "portforward" => &[(
            "ports",
            "integer",
            "Ports to forward. Needed with WebSockets.",
        )],
        "proxy" => &[PROXY_PATH],
        _ => &[],
    }
}

/// What is known about the document that paths are made for.
struct Writer<'a> {
    group: &'a str,
    version: &'a str,
    /// `CoreV1`, `RbacAuthorizationV1`
    id: String,
    /// `core_v1`, `rbacAuthorization_v1`
    tag: String,
    paths: Map<String, Value>,
}

/// One operation before it is written.
struct Operation {
    method: &'static str,
    id: String,
    description: String,
    /// Empty where there is none.
    action: &'static str,
    /// Group, version and kind.
    kind: Option<(String, String, String)>,
    parameters: Vec<Parameter>,
    /// Schema, media types and whether it must be sent.
    body: Option<(String, Vec<&'static str>, bool)>,
    /// Codes of success and what they carry.
    answers: Vec<(&'static str, Answer)>,
}

#[derive(Clone)]
enum Answer {
    /// An object of this schema in these forms.
    Object(String, Vec<&'static str>),
    /// Something that is no object.
    Text(&'static [&'static str]),
}

/// All paths of one group and version.
pub(super) fn of_version<'a>(
    group: &str,
    version: &str,
    resources: impl Iterator<Item = &'a Resource>,
    unstored: &[Unstored],
) -> Map<String, Value> {
    let mut writer = Writer::new(group, version);
    let list = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";
    writer.document(
        format!("/{}/", root(group, version)),
        format!("get{}APIResources", writer.id),
        "get available resources",
        list,
    );
    for resource in resources {
        writer.resource(resource);
    }
    for (_, _, plural, _, kind, namespaced) in unstored {
        writer.unstored(plural, kind, *namespaced);
    }
    writer.paths
}

/// The one path of `/api`, `/apis` or a group.
pub(super) fn of_document(
    path: &str,
    id: &str,
    tag: &str,
    description: &str,
    schema: &str,
) -> Map<String, Value> {
    let mut writer = Writer::new("", "");
    writer.tag = tag.to_owned();
    writer.document(path.to_owned(), id.to_owned(), description, schema);
    writer.paths
}

/// What clients of other systems read about the issuer of tokens.
pub(super) fn of_issuer() -> Map<String, Value> {
    of_text(
        "/.well-known/openid-configuration/",
        "getServiceAccountIssuerOpenIDConfiguration",
        "WellKnown",
        "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
        "application/json",
    )
}

/// The keys with which its tokens are checked.
pub(super) fn of_issuer_keys() -> Map<String, Value> {
    of_text(
        "/openid/v1/jwks/",
        "getServiceAccountIssuerOpenIDKeyset",
        "openid",
        "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
        "application/jwk-set+json",
    )
}

/// A path whose answer is not described.
fn of_text(path: &str, id: &str, tag: &str, description: &str, media: &str) -> Map<String, Value> {
    let answer = json!({"description": "OK", "content": {media: {"schema": {"type": "string"}}}});
    let get = json!({
        "tags": [tag], "description": description, "operationId": id,
        "responses": {"200": answer, "401": {"description": "Unauthorized"}},
    });
    Map::from_iter([(path.to_owned(), json!({ "get": get }))])
}

/// `api/v1`, `apis/apps/v1`
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// A group as it stands in the names of operations: `Core`, `RbacAuthorization`.
pub(super) fn camel(group: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    group.split(['.', '-']).map(capital).collect()
}

/// The same for tags: `core`, `rbacAuthorization`.
pub(super) fn tag(group: &str) -> String {
    let camel = camel(group);
    let mut letters = camel.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

/// `an APIService`, `a Pod`, `Endpoints`
fn with_article(kind: &str) -> String {
    if kind.ends_with('s') && !kind.ends_with("ss") {
        return kind.to_owned();
    }
    let vowel = kind.starts_with(['A', 'E', 'I', 'O', 'U', 'a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}

impl<'a> Writer<'a> {
    fn new(group: &'a str, version: &'a str) -> Writer<'a> {
        let camel = camel(group);
        Writer {
            group,
            version,
            id: format!("{camel}{}", capital(version)),
            tag: format!("{}_{version}", tag(group)),
            paths: Map::new(),
        }
    }

    fn document(&mut self, path: String, id: String, description: &str, schema: &str) {
        let forms = if path == "/version/" {
            vec![JSON]
        } else {
            vec![JSON, YAML, PROTOBUF]
        };
        let operation = Operation {
            method: "get",
            id,
            description: description.to_owned(),
            action: "",
            kind: None,
            parameters: Vec::new(),
            body: None,
            answers: vec![("200", Answer::Object(schema.to_owned(), forms))],
        };
        self.path(path, &[], vec![operation]);
    }

    fn resource(&mut self, resource: &Resource) {
        let custom = resource.is_custom();
        let kind = resource.kind.as_str();
        let schema = if custom {
            custom::name(self.group, self.version, kind)
        } else {
            schemas::name(self.group, self.version, kind)
        };
        let forms = if custom {
            vec![JSON, YAML]
        } else {
            vec![JSON, YAML, PROTOBUF]
        };
        let shape = Shape {
            kind,
            scope: if resource.namespaced {
                "Namespaced"
            } else {
                ""
            },
            gvk: (
                self.group.to_owned(),
                self.version.to_owned(),
                kind.to_owned(),
            ),
            schema: schema.clone(),
            list: format!("{schema}List"),
            forms,
            custom,
        };
        let root = root(self.group, self.version);
        let base = if resource.namespaced {
            format!("/{root}/namespaces/{{namespace}}/{}", resource.plural)
        } else {
            format!("/{root}/{}", resource.plural)
        };
        let verbs = discovery::verbs(resource);
        let can = |verb: &str| verbs.contains(&verb);
        let place: &[Parameter] = if resource.namespaced {
            &[NAMESPACE, PRETTY]
        } else {
            &[PRETTY]
        };
        if resource.namespaced && can("list") {
            let id = format!("list{}{kind}ForAllNamespaces", self.id);
            let list = self.list(&shape, id, can("watch"));
            self.path(
                format!("/{root}/{}", resource.plural),
                &[PRETTY],
                vec![list],
            );
        }
        let mut collection = Vec::new();
        if can("list") {
            let id = format!("list{}{}{kind}", self.id, shape.scope);
            collection.push(self.list(&shape, id, can("watch")));
        }
        if can("create") {
            let id = format!("create{}{}{kind}", self.id, shape.scope);
            collection.push(shape.write(
                "post",
                id,
                format!("create {}", with_article(kind)),
                "post",
            ));
        }
        if can("deletecollection") {
            let id = format!("delete{}Collection{}{kind}", self.id, shape.scope);
            collection.push(shape.delete(id, true));
        }
        self.path(base.clone(), place, collection);
        let mut object = Vec::new();
        let id = |verb: &str| format!("{verb}{}{}{kind}", self.id, shape.scope);
        if can("get") {
            object.push(shape.read(id("read"), format!("read the specified {kind}")));
        }
        if can("update") {
            object.push(shape.write(
                "put",
                id("replace"),
                format!("replace the specified {kind}"),
                "put",
            ));
        }
        if can("delete") {
            object.push(shape.delete(id("delete"), false));
        }
        if can("patch") {
            object.push(shape.patch(
                id("patch"),
                format!("partially update the specified {kind}"),
            ));
        }
        self.path(format!("{base}/{{name}}"), place, object);
        for sub in discovery::subresources(resource) {
            self.subresource(&shape, &base, place, &sub);
        }
        if !custom && can("watch") {
            self.watches(&shape, resource, &root, place);
        }
    }

    fn list(&self, shape: &Shape<'_>, id: String, watch: bool) -> Operation {
        let mut forms = shape.forms.clone();
        if shape.custom {
            forms = vec![JSON, YAML];
        } else {
            forms.extend([
                "application/json;stream=watch",
                "application/vnd.kubernetes.protobuf;stream=watch",
            ]);
        }
        let kind = shape.kind;
        Operation {
            method: "get",
            id,
            description: if watch {
                format!("list or watch objects of kind {kind}")
            } else {
                format!("list objects of kind {kind}")
            },
            action: "list",
            kind: Some(shape.gvk.clone()),
            parameters: LIST.to_vec(),
            body: None,
            answers: vec![("200", Answer::Object(shape.list.clone(), forms))],
        }
    }

    /// The old paths for watching, which still work.
    fn watches(&mut self, shape: &Shape<'_>, resource: &Resource, root: &str, place: &[Parameter]) {
        const INSTEAD: &str = "deprecated: use the 'watch' parameter with a list operation instead";
        let (plural, kind) = (&resource.plural, shape.kind);
        let watch = |id: String, description: String, action| Operation {
            method: "get",
            id,
            description,
            action,
            kind: Some(shape.gvk.clone()),
            parameters: LIST.to_vec(),
            body: None,
            answers: vec![(
                "200",
                Answer::Object(
                    "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent".to_owned(),
                    vec![
                        JSON,
                        YAML,
                        PROTOBUF,
                        "application/json;stream=watch",
                        "application/vnd.kubernetes.protobuf;stream=watch",
                    ],
                ),
            )],
        };
        let many = format!("watch individual changes to a list of {kind}. {INSTEAD}.");
        let one = format!(
            "watch changes to an object of kind {kind}. {INSTEAD}, filtered to a single item with the 'fieldSelector' parameter."
        );
        let base = if resource.namespaced {
            let id = format!("watch{}{kind}ListForAllNamespaces", self.id);
            let all = watch(id, many.clone(), "watchlist");
            self.path(format!("/{root}/watch/{plural}"), &[PRETTY], vec![all]);
            format!("/{root}/watch/namespaces/{{namespace}}/{plural}")
        } else {
            format!("/{root}/watch/{plural}")
        };
        let id = format!("watch{}{}{kind}", self.id, shape.scope);
        self.path(
            base.clone(),
            place,
            vec![watch(format!("{id}List"), many, "watchlist")],
        );
        self.path(
            format!("{base}/{{name}}"),
            place,
            vec![watch(id, one, "watch")],
        );
    }

    fn subresource(
        &mut self,
        shape: &Shape<'_>,
        base: &str,
        place: &[Parameter],
        sub: &discovery::Subresource<'_>,
    ) {
        let (kind, name) = (shape.kind, sub.name);
        let path = format!("{base}/{{name}}/{name}");
        let (group, version) = match sub.group {
            "" => (self.group, self.version),
            group => (group, sub.version),
        };
        let own = sub.kind == kind && sub.group.is_empty();
        let below = Shape {
            gvk: (group.to_owned(), version.to_owned(), sub.kind.to_owned()),
            schema: if own {
                shape.schema.clone()
            } else {
                schemas::name(group, version, sub.kind)
            },
            list: String::new(),
            forms: shape.forms.clone(),
            ..*shape
        };
        let id = |verb: &str| format!("{verb}{}{}{kind}{}", self.id, shape.scope, capital(name));
        if matches!(name, "attach" | "exec" | "portforward" | "proxy") {
            let place: Vec<Parameter> = place
                .iter()
                .copied()
                .filter(|one| one.0 != PRETTY.0)
                .chain(options(name).iter().copied())
                .collect();
            let methods: &[&'static str] = match name {
                "proxy" => &["get", "put", "post", "delete", "options", "head", "patch"],
                _ => &["get", "post"],
            };
            for with_path in [false, true] {
                if with_path && name != "proxy" {
                    break;
                }
                let connect = |method: &&'static str| Operation {
                    method,
                    id: format!(
                        "connect{}{}{}{kind}{}{}",
                        self.id,
                        capital(method),
                        shape.scope,
                        capital(name),
                        if with_path { "WithPath" } else { "" }
                    ),
                    description: format!(
                        "connect {} requests to {name} of {kind}",
                        method.to_uppercase()
                    ),
                    action: "connect",
                    kind: Some(below.gvk.clone()),
                    parameters: Vec::new(),
                    body: None,
                    answers: vec![("200", Answer::Text(&["*/*"]))],
                };
                let operations = methods.iter().map(connect).collect();
                let path = if with_path {
                    format!("{path}/{{path}}")
                } else {
                    path.clone()
                };
                self.path(path, &place, operations);
            }
            return;
        }
        if name == "log" {
            let mut read = below.read(id("read"), format!("read log of the specified {kind}"));
            read.answers = vec![("200", Answer::Text(&["text/plain", JSON, YAML, PROTOBUF]))];
            let place: Vec<Parameter> = place
                .iter()
                .copied()
                .filter(|one| one.0 != PRETTY.0)
                .chain(options(name).iter().copied())
                .collect();
            self.path(path, &place, vec![read]);
            return;
        }
        let mut operations = Vec::new();
        for verb in sub.verbs {
            match *verb {
                "get" => operations
                    .push(below.read(id("read"), format!("read {name} of the specified {kind}"))),
                "update" => operations.push(below.write(
                    "put",
                    id("replace"),
                    format!("replace {name} of the specified {kind}"),
                    "put",
                )),
                "patch" => operations.push(below.patch(
                    id("patch"),
                    format!("partially update {name} of the specified {kind}"),
                )),
                "create" => operations.push(below.write(
                    "post",
                    id("create"),
                    format!("create {name} of {}", with_article(kind)),
                    "post",
                )),
                _ => {}
            }
        }
        self.path(path, place, operations);
    }

    /// What is asked by creating it.
    fn unstored(&mut self, plural: &str, kind: &str, namespaced: bool) {
        let shape = Shape {
            kind,
            scope: if namespaced { "Namespaced" } else { "" },
            gvk: (
                self.group.to_owned(),
                self.version.to_owned(),
                kind.to_owned(),
            ),
            schema: schemas::name(self.group, self.version, kind),
            list: String::new(),
            forms: vec![JSON, YAML, PROTOBUF],
            custom: false,
        };
        let root = root(self.group, self.version);
        let (path, place): (_, &[Parameter]) = if namespaced {
            (
                format!("/{root}/namespaces/{{namespace}}/{plural}"),
                &[NAMESPACE, PRETTY],
            )
        } else {
            (format!("/{root}/{plural}"), &[PRETTY])
        };
        let id = format!("create{}{}{kind}", self.id, shape.scope);
        let create = shape.write("post", id, format!("create {}", with_article(kind)), "post");
        self.path(path, place, vec![create]);
    }

    /// Write a path: what all its operations share moves up to it.
    fn path(&mut self, path: String, place: &[Parameter], mut operations: Vec<Operation>) {
        let Some(first) = operations.first() else {
            return;
        };
        let mut shared: Vec<Parameter> = first.parameters.clone();
        shared.retain(|one| {
            operations
                .iter()
                .all(|operation| operation.parameters.iter().any(|p| p.0 == one.0))
        });
        for operation in &mut operations {
            operation
                .parameters
                .retain(|one| !shared.iter().any(|p| p.0 == one.0));
        }
        let kind = operations
            .first()
            .and_then(|one| one.kind.as_ref())
            .map_or("", |kind| kind.2.as_str());
        let mut common: Vec<(String, Value)> = shared
            .iter()
            .map(|one| (one.0.to_owned(), query(one)))
            .chain(place.iter().map(|one| match one.0 {
                "namespace" => (one.0.to_owned(), in_path("namespace", NAMESPACE.2)),
                _ => (one.0.to_owned(), query(one)),
            }))
            .collect();
        if path.contains("{name}") {
            common.push((
                "name".to_owned(),
                in_path("name", &format!("name of the {kind}")),
            ));
        }
        if path.ends_with("{path}") {
            common.push(("path".to_owned(), in_path("path", "path to the resource")));
        }
        // A proxy has two of the name `path`: one of the path, then one of the query.
        let place = |one: &(String, Value)| one.1.get("in").map(Value::to_string);
        common.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| place(a).cmp(&place(b))));
        let mut item = Map::new();
        for operation in operations {
            item.insert(operation.method.to_owned(), operation.write(&self.tag));
        }
        if !common.is_empty() {
            let common: Vec<Value> = common.into_iter().map(|(_, value)| value).collect();
            item.insert("parameters".to_owned(), common.into());
        }
        self.paths.insert(path, item.into());
    }
}

/// What operations on one kind have in common.
#[derive(Clone)]
struct Shape<'a> {
    kind: &'a str,
    /// `Namespaced` or nothing.
    scope: &'static str,
    gvk: (String, String, String),
    schema: String,
    list: String,
    forms: Vec<&'static str>,
    custom: bool,
}

impl Shape<'_> {
    fn object(&self) -> Answer {
        Answer::Object(self.schema.clone(), self.forms.clone())
    }

    fn read(&self, id: String, description: String) -> Operation {
        Operation {
            method: "get",
            id,
            description,
            action: "get",
            kind: Some(self.gvk.clone()),
            parameters: Vec::new(),
            body: None,
            answers: vec![("200", self.object())],
        }
    }

    fn write(
        &self,
        method: &'static str,
        id: String,
        description: String,
        action: &'static str,
    ) -> Operation {
        let codes: &[&'static str] = if method == "post" {
            &["200", "201", "202"]
        } else {
            &["200", "201"]
        };
        let media = if self.custom {
            vec![JSON, YAML]
        } else {
            vec!["*/*"]
        };
        Operation {
            method,
            id,
            description,
            action,
            kind: Some(self.gvk.clone()),
            parameters: WRITE.to_vec(),
            body: Some((self.schema.clone(), media, true)),
            answers: codes.iter().map(|code| (*code, self.object())).collect(),
        }
    }

    fn patch(&self, id: String, description: String) -> Operation {
        let mut media = vec![
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
        ];
        if !self.custom {
            media.push("application/strategic-merge-patch+json");
        }
        let patch = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch".to_owned();
        Operation {
            method: "patch",
            id,
            description,
            action: "patch",
            kind: Some(self.gvk.clone()),
            parameters: PATCH.to_vec(),
            body: Some((patch, media, true)),
            answers: vec![("200", self.object()), ("201", self.object())],
        }
    }

    fn delete(&self, id: String, collection: bool) -> Operation {
        let kind = self.kind;
        // These answer the object that is about to go.
        let whole = match self.gvk.0.as_str() {
            "" => matches!(
                kind,
                "PersistentVolume"
                    | "PersistentVolumeClaim"
                    | "Pod"
                    | "PodTemplate"
                    | "ResourceQuota"
                    | "Service"
                    | "ServiceAccount"
            ),
            "storage.k8s.io" => kind != "CSIStorageCapacity",
            "resource.k8s.io" => true,
            _ => false,
        };
        let status = Answer::Object(
            "io.k8s.apimachinery.pkg.apis.meta.v1.Status".to_owned(),
            self.forms.clone(),
        );
        let answer = if whole && !collection {
            self.object()
        } else {
            status
        };
        let mut parameters = DELETE.to_vec();
        if collection {
            parameters.extend(
                LIST.iter()
                    .filter(|one| !matches!(one.0, "allowWatchBookmarks" | "watch")),
            );
            parameters.sort_by_key(|one| one.0);
        }
        let media = if self.custom {
            vec![JSON, YAML]
        } else {
            vec!["*/*"]
        };
        Operation {
            method: "delete",
            id,
            description: if collection {
                format!("delete collection of {kind}")
            } else {
                format!("delete {}", with_article(kind))
            },
            action: if collection {
                "deletecollection"
            } else {
                "delete"
            },
            kind: Some(self.gvk.clone()),
            parameters,
            body: Some((
                "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned(),
                media,
                false,
            )),
            answers: if collection {
                vec![("200", answer)]
            } else {
                vec![("200", answer.clone()), ("202", answer)]
            },
        }
    }
}

impl Operation {
    fn write(self, tag: &str) -> Value {
        let mut responses = Map::new();
        for (code, answer) in self.answers {
            let description = match code {
                "201" => "Created",
                "202" => "Accepted",
                _ => "OK",
            };
            let content: Map<String, Value> = match answer {
                Answer::Object(schema, forms) => forms
                    .into_iter()
                    .map(|form| {
                        (
                            form.to_owned(),
                            json!({"schema": {"$ref": format!("{COMPONENTS}{schema}")}}),
                        )
                    })
                    .collect(),
                Answer::Text(forms) => forms
                    .iter()
                    .map(|form| ((*form).to_owned(), json!({"schema": {"type": "string"}})))
                    .collect(),
            };
            responses.insert(
                code.to_owned(),
                json!({"description": description, "content": content}),
            );
        }
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        let mut operation = json!({
            "tags": [tag], "description": self.description, "operationId": self.id,
            "responses": responses,
        });
        if !self.parameters.is_empty() {
            operation["parameters"] = self.parameters.iter().map(query).collect();
        }
        if let Some((schema, media, required)) = self.body {
            let content: Map<String, Value> = media
                .into_iter()
                .map(|form| {
                    (
                        form.to_owned(),
                        json!({"schema": {"$ref": format!("{COMPONENTS}{schema}")}}),
                    )
                })
                .collect();
            operation["requestBody"] = json!({"content": content});
            if required {
                operation["requestBody"]["required"] = true.into();
            }
        }
        if !self.action.is_empty() {
            operation["x-kubernetes-action"] = self.action.into();
        }
        if let Some((group, version, kind)) = self.kind {
            operation["x-kubernetes-group-version-kind"] =
                json!({"group": group, "version": version, "kind": kind});
        }
        operation
    }
}

fn query((name, kind, description): &Parameter) -> Value {
    json!({
        "name": name, "in": "query", "description": description,
        "schema": {"type": kind, "uniqueItems": true},
    })
}

fn in_path(name: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "path", "description": description, "required": true,
        "schema": {"type": "string", "uniqueItems": true},
    })
}
