//! Schemas of custom resources, from their definitions: whole for OpenAPI v3, and cut down to what
//! v2 can say and kubectl can read for v2.

use serde_json::{Map, Value, json};

use super::schemas::{self, COMPONENTS};

/// The description that every object's metadata has.
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// A schema was parsed before it was stored, so it is not deeper; this keeps recursion safe anyway.
const MAX_DEPTH: usize = 128;

/// `com.example.stable.v1.CronTab` of `stable.example.com`.
pub(super) fn name(group: &str, version: &str, kind: &str) -> String {
    let mut labels: Vec<&str> = group.split('.').collect();
    labels.reverse();
    format!("{}.{version}.{kind}", labels.join("."))
}

/// A version of a definition, as far as it is published.
pub(super) struct Published<'a> {
    pub(super) group: &'a str,
    pub(super) version: &'a str,
    pub(super) kind: &'a str,
    pub(super) list_kind: &'a str,
    pub(super) plural: &'a str,
    /// `openAPIV3Schema`
    pub(super) schema: Option<&'a Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    V2,
    V3,
}

/// The schemas of the object and of its list, with their names.
pub(super) fn schemas(published: &Published<'_>, form: Form) -> [(String, Value); 2] {
    let Published {
        group,
        version,
        kind,
        list_kind,
        plural,
        schema,
    } = published;
    let name = name(group, version, kind);
    let preserve =
        schema.is_some_and(|schema| flag(schema, "x-kubernetes-preserve-unknown-fields"));
    let mut object = match schema {
        Some(schema) if form == Form::V3 || !preserve => {
            let mut object = (*schema).clone();
            if form == Form::V2 {
                to_v2(&mut object, 0);
            }
            embed(&mut object, 0);
            complete(&mut object);
            object
        }
        // Anything more would make kubectl refuse what it does not know.
        _ => json!({"type": "object"}),
    };
    schemas::mark(&mut object, &[(group, version, kind)]);
    let mut list = schemas::list(&name, kind, list_kind);
    list["properties"]["items"]["description"] = format!(
        "List of {plural}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"
    )
    .into();
    if let Some(Value::Object(metadata)) = list.pointer_mut("/properties/metadata") {
        metadata.remove("default");
    }
    schemas::mark(&mut list, &[(group, version, list_kind)]);
    let list_name = name_of_list(group, version, list_kind);
    [(name, object), (list_name, list)]
}

fn name_of_list(group: &str, version: &str, list_kind: &str) -> String {
    name(group, version, list_kind)
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// What every object has: its type and its metadata.
fn complete(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else {
        return;
    };
    let properties = map
        .entry("properties")
        .or_insert_with(|| Value::Object(Map::new()));
    let Some(properties) = properties.as_object_mut() else {
        return;
    };
    properties.insert(
        "apiVersion".into(),
        json!({"description": schemas::API_VERSION, "type": "string"}),
    );
    properties.insert(
        "kind".into(),
        json!({"description": schemas::KIND, "type": "string"}),
    );
    let reference = json!([{"$ref": format!("{COMPONENTS}{OBJECT_META}")}]);
    properties.insert(
        "metadata".into(),
        json!({"description": METADATA, "allOf": reference}),
    );
}

/// The same for every whole object inside.
fn embed(schema: &mut Value, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    children(schema, |child| embed(child, depth + 1));
    if flag(schema, "x-kubernetes-embedded-resource") {
        complete(schema);
    }
}

/// The schemas directly below, other than those of junctors.
fn children(schema: &mut Value, mut visit: impl FnMut(&mut Value)) {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(&mut visit);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = schema.get_mut(key).filter(|child| child.is_object()) {
            visit(child);
        }
    }
}

/// Leave out what OpenAPI v2 does not have, and what kubectl's reader of it trips over.
fn to_v2(schema: &mut Value, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    let Some(map) = schema.as_object_mut() else {
        return;
    };
    for key in ["allOf", "anyOf", "oneOf", "not"] {
        map.remove(key);
    }
    if map.remove("nullable") == Some(true.into()) {
        for key in ["type", "items", "properties"] {
            map.remove(key);
        }
    }
    let preserve = map.get("x-kubernetes-preserve-unknown-fields") == Some(&true.into());
    if preserve {
        map.remove("items");
        map.remove("properties");
    }
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if (kind == "array" && !map.contains_key("items")) || (kind == "object" && preserve) {
        map.remove("type");
    }
    let nullable: Vec<String> = match map.get("properties") {
        Some(Value::Object(properties)) => properties
            .iter()
            .filter(|(_, property)| flag(property, "nullable"))
            .map(|(name, _)| name.clone())
            .collect(),
        _ => Vec::new(),
    };
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| !nullable.iter().any(|one| *name == one.as_str()));
        if required.is_empty() {
            map.remove("required");
        }
    }
    if map
        .get("additionalProperties")
        .is_some_and(|schema| flag(schema, "nullable"))
    {
        map.remove("required");
    }
    children(schema, |child| to_v2(child, depth + 1));
}
