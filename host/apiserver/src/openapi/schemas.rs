//! Component schemas of the built-in kinds, as Kubernetes publishes them.
//!
//! Structure and descriptions come from the Rust types ([`super::roots`]), which know neither
//! defaults nor how lists merge; those come from the table of types ([`crate::model`]), and the
//! values of enumerations from `enums.txt`. Nothing is kept: schemas are made when a document is.

use std::{collections::HashMap, sync::OnceLock};

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::roots;
use crate::model::{Field, Model, Structure, Type};

/// Where references lead in OpenAPI v3.
pub(super) const COMPONENTS: &str = "#/components/schemas/";

pub(super) const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
pub(super) const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const LIST_METADATA: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// A kind that a document needs the schema of.
pub(super) struct Wanted<'a> {
    pub(super) group: &'a str,
    pub(super) version: &'a str,
    pub(super) kind: &'a str,
    /// Also of its list.
    pub(super) list_kind: Option<&'a str>,
}

/// The name of a built-in kind's schema.
pub(super) fn name(group: &str, version: &str, kind: &str) -> String {
    match roots::find(&api_version(group, version), kind) {
        Some(root) => (root.name)().into_owned(),
        None => format!(
            "io.k8s.{}.{version}.{kind}",
            group.split('.').next().unwrap_or_default()
        ),
    }
}

/// The schemas of these kinds and of all that they refer to, and those that every document has.
/// `own` is the group and version of the document.
pub(super) fn builtin(wanted: &[Wanted<'_>], own: (&str, &str)) -> Map<String, Value> {
    let mut generator = settings().into_generator();
    roots::add_common(&mut generator);
    for one in wanted {
        let api_version = api_version(one.group, one.version);
        if let Some(root) = roots::find(&api_version, one.kind) {
            (root.add)(&mut generator);
        }
    }
    let mut schemas = generator.take_definitions(false);
    for (name, schema) in &mut schemas {
        dress(name, schema);
    }
    for one in wanted {
        let name = name(one.group, one.version, one.kind);
        let schema = schemas
            .entry(name.as_str())
            .or_insert_with(|| unknown(one.kind));
        mark(schema, &[(one.group, one.version, one.kind)]);
        if let Some(list_kind) = one.list_kind {
            let mut list = list(&name, one.kind, list_kind);
            mark(&mut list, &[(one.group, one.version, list_kind)]);
            schemas.insert(format!("{name}List"), list);
        }
    }
    // The one kind that is part of another group's (of a StatefulSet).
    if let Some(schema) = schemas.get_mut("io.k8s.api.core.v1.PersistentVolumeClaim") {
        mark(schema, &[("", "v1", "PersistentVolumeClaim")]);
    }
    for kind in ["DeleteOptions", "WatchEvent"] {
        let name = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
        if let Some(schema) = schemas.get_mut(&name) {
            match own {
                ("", "v1") => mark(schema, &[("", "v1", kind)]),
                (group, version) => mark(schema, &[("", "v1", kind), (group, version, kind)]),
            }
        }
    }
    for kind in [
        "APIResourceList",
        "APIGroup",
        "APIGroupList",
        "APIVersions",
        "Status",
    ] {
        let name = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
        if let Some(schema) = schemas.get_mut(&name) {
            mark(schema, &[("", "v1", kind)]);
        }
    }
    schemas
}

/// The schema of one document of discovery, with what it refers to.
pub(super) fn single(name: &str) -> Map<String, Value> {
    if name.ends_with(".version.Info") {
        return Map::from_iter([(name.to_owned(), version_info())]);
    }
    let kind = name.rsplit('.').next().unwrap_or_default();
    let mut generator = settings().into_generator();
    if let Some(root) = roots::find("v1", kind) {
        (root.add)(&mut generator);
    }
    let mut schemas = generator.take_definitions(false);
    for (name, schema) in &mut schemas {
        dress(name, schema);
    }
    for kind in ["APIGroup", "APIGroupList", "APIVersions"] {
        let name = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
        if let Some(schema) = schemas.get_mut(&name) {
            mark(schema, &[("", "v1", kind)]);
        }
    }
    schemas
}

/// What `/version` answers.
fn version_info() -> Value {
    let required = [
        "major",
        "minor",
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ];
    let optional = [
        "emulationMajor",
        "emulationMinor",
        "minCompatibilityMajor",
        "minCompatibilityMinor",
    ];
    let properties: Map<String, Value> = required
        .iter()
        .map(|name| ((*name).to_owned(), json!({"type": "string", "default": ""})))
        .chain(
            optional
                .iter()
                .map(|name| ((*name).to_owned(), json!({"type": "string"}))),
        )
        .collect();
    json!({
        "description": "The version of this server and of the API that it speaks.",
        "type": "object", "required": required, "properties": properties,
    })
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2019_09().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.transforms.clear();
        settings.meta_schema = None;
    })
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Say which group, version and kind a schema belongs to.
pub(super) fn mark(schema: &mut Value, kinds: &[(&str, &str, &str)]) {
    let kinds: Vec<Value> = kinds
        .iter()
        .map(|(group, version, kind)| json!({"group": group, "version": version, "kind": kind}))
        .collect();
    if let Some(map) = schema.as_object_mut() {
        map.insert("x-kubernetes-group-version-kind".into(), kinds.into());
    }
}

/// The schema of the list of a kind whose own schema has this name.
pub(super) fn list(name: &str, kind: &str, list_kind: &str) -> Value {
    json!({
        "description": format!("{list_kind} is a list of {kind}"),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"description": API_VERSION, "type": "string"},
            "items": {
                "description": format!("List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", plural(kind)),
                "type": "array",
                "items": {"$ref": format!("{COMPONENTS}{name}")},
            },
            "kind": {"description": KIND, "type": "string"},
            "metadata": {
                "description": LIST_METADATA,
                "default": {},
                "allOf": [{"$ref": format!("{COMPONENTS}io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")}],
            },
        },
    })
}

/// `deployments` of `Deployment`, for the description of a list.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if kind.ends_with("ss") => format!("{kind}es"),
        _ if kind.ends_with('s') => kind,
        _ => format!("{kind}s"),
    }
}

/// A kind that is served and has no type of its own here.
fn unknown(kind: &str) -> Value {
    json!({
        "description": kind,
        "type": "object",
        "properties": {
            "apiVersion": {"description": API_VERSION, "type": "string"},
            "kind": {"description": KIND, "type": "string"},
            "metadata": {"allOf": [
                {"$ref": format!("{COMPONENTS}io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")},
            ]},
        },
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

/// The name in the table of types of what has this name in OpenAPI.
fn model_name(name: &str) -> Option<&str> {
    const PREFIXES: [&str; 4] = [
        "io.k8s.api.",
        "io.k8s.apimachinery.pkg.apis.",
        "io.k8s.apiextensions-apiserver.pkg.apis.",
        "io.k8s.kube-aggregator.pkg.apis.",
    ];
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))
}

fn dress(name: &str, schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else {
        return;
    };
    // Types that JSON shows in more than one shape.
    match name.rsplit('.').next().unwrap_or_default() {
        "Quantity" => {
            map.remove("x-kubernetes-int-or-string");
            map.insert(
                "oneOf".into(),
                json!([{"type": "string"}, {"type": "number"}]),
            );
            return;
        }
        "IntOrString" => {
            map.remove("x-kubernetes-int-or-string");
            map.insert("format".into(), "int-or-string".into());
            map.insert(
                "oneOf".into(),
                json!([{"type": "integer"}, {"type": "string"}]),
            );
            return;
        }
        "JSON"
        | "JSONSchemaPropsOrArray"
        | "JSONSchemaPropsOrBool"
        | "JSONSchemaPropsOrStringArray" => {
            map.retain(|key, _| key == "description");
            return;
        }
        "WatchEvent" => watch_event(map),
        _ => {}
    }
    let Some(name) = model_name(name) else {
        return;
    };
    let model = Model::get().named(name);
    required(name, map);
    if model.is_some_and(|model| model.atomic) {
        map.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if let Some(unions) = unions(name) {
        map.insert("x-kubernetes-unions".into(), unions);
    }
    let needed = map.get("required").cloned().unwrap_or_default();
    let needed = needed.as_array().map_or(&[][..], Vec::as_slice);
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        for (field, property) in properties {
            let required = needed.iter().any(|one| one == field.as_str());
            dress_property(name, model, field, property, required);
        }
    }
}

/// The Rust types demand metadata where Kubernetes does not, and names in references to objects.
fn required(name: &str, map: &mut Map<String, Value>) {
    const OPTIONAL_NAMES: [&str; 8] = [
        "core.v1.ConfigMapEnvSource",
        "core.v1.ConfigMapKeySelector",
        "core.v1.ConfigMapProjection",
        "core.v1.ConfigMapVolumeSource",
        "core.v1.LocalObjectReference",
        "core.v1.SecretEnvSource",
        "core.v1.SecretKeySelector",
        "core.v1.SecretProjection",
    ];
    if name == "events.v1.Event" {
        map.insert("required".into(), json!(["eventTime"]));
    }
    let Some(Value::Array(required)) = map.get_mut("required") else {
        return;
    };
    required.retain(|field| match field.as_str() {
        Some("metadata") => name == "core.v1.Event",
        Some("name") => !OPTIONAL_NAMES.contains(&name),
        _ => true,
    });
    if required.is_empty() {
        map.remove("required");
    }
}

/// The description of its object stands at the type itself in the Rust form.
fn watch_event(map: &mut Map<String, Value>) {
    let Some(text) = map.get("description").and_then(Value::as_str) else {
        return;
    };
    let (own, object) = text.split_once("\n\n").unwrap_or((text, ""));
    let (own, object) = (own.to_owned(), object.trim_end().to_owned());
    map.insert("description".into(), own.into());
    if let Some(Value::Object(property)) =
        map.get_mut("properties").and_then(|p| p.get_mut("object"))
    {
        property.insert("description".into(), object.into());
    }
}

/// Types of which exactly one member may be set, chosen by another.
fn unions(name: &str) -> Option<Value> {
    let (discriminator, fields): (_, &[&str]) = match name {
        "core.v1.AppArmorProfile" | "core.v1.SeccompProfile" => ("type", &["localhostProfile"]),
        "core.v1.PodSchedulingGroup" => ("", &["podGroupName"]),
        "flowcontrol.v1.LimitResponse" => ("type", &["queuing"]),
        "flowcontrol.v1.PriorityLevelConfigurationSpec" => ("type", &["exempt", "limited"]),
        "flowcontrol.v1.Subject" => ("kind", &["group", "serviceAccount", "user"]),
        _ => return None,
    };
    let fields: Map<String, Value> = fields
        .iter()
        .map(|field| {
            let (first, rest) = field.split_at(1);
            (
                (*field).to_owned(),
                format!("{}{rest}", first.to_uppercase()).into(),
            )
        })
        .collect();
    let mut union = json!({"fields-to-discriminateBy": fields});
    if !discriminator.is_empty() {
        union["discriminator"] = discriminator.into();
    }
    Some(json!([union]))
}

fn dress_property(
    name: &str,
    model: Option<&Type>,
    field: &str,
    property: &mut Value,
    required: bool,
) {
    let Some(map) = property.as_object_mut() else {
        return;
    };
    let found = model.and_then(|model| model.field(field));
    if let Some(found) = found {
        extend(found, map);
    }
    let place = format!("{name}.{field}");
    if let Some(default) = default(&place, map, required) {
        map.insert("default".into(), default);
    }
    // A reference allows nothing beside it.
    if map.len() > 1
        && let Some(reference) = map.remove("$ref")
    {
        map.insert("allOf".into(), json!([{"$ref": reference}]));
    }
    if let Some(values) = enumeration(&place) {
        let inner = ["items", "additionalProperties"]
            .into_iter()
            .find(|key| map.get(*key).is_some_and(Value::is_object));
        if let Some(Value::Object(inner)) = inner.and_then(|key| map.get_mut(key)) {
            inner.insert("enum".into(), json!(values));
        } else {
            map.insert("enum".into(), json!(values));
            let text = map
                .get("description")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let mut text = format!("{text}\n\nPossible enum values:");
            for value in &values {
                text.push_str(&format!("\n - `{value:?}`"));
            }
            map.insert("description".into(), text.into());
        }
    }
}

/// How lists and maps merge.
fn extend(field: &Field, map: &mut Map<String, Value>) {
    let strategy = &field.strategy;
    let strategies: Vec<&str> = [
        (strategy.merge, "merge"),
        (strategy.retain_keys, "retainKeys"),
        (strategy.replace, "replace"),
    ]
    .into_iter()
    .filter_map(|(has, name)| has.then_some(name))
    .collect();
    if !strategies.is_empty() {
        map.insert(
            "x-kubernetes-patch-strategy".into(),
            strategies.join(",").into(),
        );
    }
    if !strategy.key.is_empty() {
        map.insert("x-kubernetes-patch-merge-key".into(), strategy.key.into());
    }
    let is_list = map.get("type") == Some(&json!("array"));
    let (key, structure) = match is_list {
        true => ("x-kubernetes-list-type", field.listing()),
        false => ("x-kubernetes-map-type", field.structure),
    };
    let structure = match structure {
        Structure::Unsaid => return,
        Structure::Atomic => "atomic",
        Structure::Granular => "granular",
        Structure::Set => "set",
        Structure::Map(keys) => {
            let keys: Vec<&str> = keys.split(',').collect();
            map.insert("x-kubernetes-list-map-keys".into(), json!(keys));
            "map"
        }
    };
    map.insert(key.into(), structure.into());
}

/// One of the tables beside this file: what stands in it for each field.
type Table = HashMap<&'static str, &'static str>;

fn table(text: &'static str) -> Table {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once('|'))
        .flat_map(|(value, fields)| fields.split(' ').map(move |field| (field, value)))
        .collect()
}

/// The values that a text field may have, if they are enumerated.
fn enumeration(field: &str) -> Option<Vec<&'static str>> {
    static ENUMS: OnceLock<Table> = OnceLock::new();
    let enums = ENUMS.get_or_init(|| table(include_str!("enums.txt")));
    Some(enums.get(field)?.split(',').collect())
}

/// What a field is where nobody set it: for what is required, and for the parts that every object
/// has, the empty value of its type, unless the table says otherwise.
fn default(field: &str, property: &Map<String, Value>, required: bool) -> Option<Value> {
    static DEFAULTS: OnceLock<Table> = OnceLock::new();
    /// Types with a form of their own in JSON: they have no empty value.
    const SCALAR: [&str; 10] = [
        "FieldsV1",
        "IntOrString",
        "JSON",
        "JSONSchemaPropsOrArray",
        "JSONSchemaPropsOrBool",
        "JSONSchemaPropsOrStringArray",
        "MicroTime",
        "Quantity",
        "RawExtension",
        "Time",
    ];
    let defaults = DEFAULTS.get_or_init(|| table(include_str!("defaults.txt")));
    if let Some(text) = defaults.get(field) {
        return serde_json::from_str(text).ok();
    }
    if let Some(reference) = property.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('.').next().unwrap_or_default();
        let part = field.rsplit('.').next().unwrap_or_default();
        let held = required || matches!(part, "metadata" | "spec" | "status");
        return (held && !SCALAR.contains(&name)).then(|| json!({}));
    }
    match property.get("type").and_then(Value::as_str) {
        Some("string") if required => Some(json!("")),
        Some("integer" | "number") if required => Some(json!(0)),
        Some("boolean") if required => Some(json!(false)),
        _ => None,
    }
}
