//! OpenAPI v2 (Swagger) from what v3 says: the older form that some clients still read.

use serde_json::{Map, Value, json};

/// Schemas nest no deeper than what was parsed before.
const MAX_DEPTH: usize = 160;

/// A component schema of v3 as a definition of v2.
pub(super) fn schema(name: &str, schema: &mut Value) {
    match name.rsplit('.').next().unwrap_or_default() {
        // v2 has no alternatives.
        "Quantity" | "IntOrString" if name.starts_with("io.k8s.apimachinery.") => {
            if let Some(map) = schema.as_object_mut() {
                map.remove("oneOf");
                map.insert("type".into(), "string".into());
            }
        }
        _ => {}
    }
    convert(schema, 0);
}

fn convert(schema: &mut Value, depth: usize) {
    let Some(map) = schema.as_object_mut() else {
        return;
    };
    if depth > MAX_DEPTH {
        map.clear();
        return;
    }
    // Published defaults were never meant for clients of v2.
    map.remove("default");
    let only = match map.get("allOf") {
        Some(Value::Array(all)) if all.len() == 1 => {
            all.first().and_then(|one| one.get("$ref")).cloned()
        }
        _ => None,
    };
    if let Some(reference) = only {
        map.remove("allOf");
        map.insert("$ref".into(), reference);
    }
    for key in ["oneOf", "anyOf", "not", "nullable"] {
        map.remove(key);
    }
    if let Some(Value::String(reference)) = map.get_mut("$ref") {
        *reference = reference.replacen("#/components/schemas/", "#/definitions/", 1);
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties
            .values_mut()
            .for_each(|property| convert(property, depth + 1));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = map.get_mut(key) {
            convert(child, depth + 1);
        }
    }
    if let Some(Value::Array(all)) = map.get_mut("allOf") {
        all.iter_mut().for_each(|one| convert(one, depth + 1));
    }
}

/// A path of v3 as one of v2.
pub(super) fn path(item: &Value) -> Value {
    let Some(item) = item.as_object() else {
        return Value::Null;
    };
    let converted: Map<String, Value> = item
        .iter()
        .map(|(key, value)| match key.as_str() {
            "parameters" => (key.clone(), parameters(value)),
            _ => (key.clone(), operation(value)),
        })
        .collect();
    converted.into()
}

fn parameters(list: &Value) -> Value {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    let flat = |parameter: &Value| {
        let mut flat = parameter.clone();
        if let Some(map) = flat.as_object_mut()
            && let Some(Value::Object(schema)) = map.remove("schema")
        {
            map.extend(schema);
        }
        flat
    };
    list.iter().map(flat).collect()
}

fn operation(operation: &Value) -> Value {
    let mut produces: Vec<&str> = Vec::new();
    let mut responses = Map::new();
    for (code, response) in operation["responses"].as_object().into_iter().flatten() {
        let mut converted = json!({"description": response["description"]});
        for (media, content) in response["content"].as_object().into_iter().flatten() {
            if !produces.contains(&media.as_str()) {
                produces.push(media);
            }
            let mut of = content["schema"].clone();
            convert(&mut of, 0);
            converted["schema"] = of;
        }
        responses.insert(code.clone(), converted);
    }
    let mut listed = parameters(&operation["parameters"]);
    let mut consumes: Vec<&str> = vec!["*/*"];
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        consumes = content.keys().map(String::as_str).collect();
        let mut of = content
            .values()
            .next()
            .map_or(Value::Null, |one| one["schema"].clone());
        convert(&mut of, 0);
        let mut body = json!({"name": "body", "in": "body", "schema": of});
        if operation["requestBody"]["required"] == true {
            body["required"] = true.into();
        }
        if let Some(list) = listed.as_array_mut() {
            list.insert(0, body);
        }
    }
    let mut converted = json!({
        "description": operation["description"], "consumes": consumes, "produces": produces,
        "schemes": ["https"], "tags": operation["tags"],
        "operationId": operation["operationId"], "responses": responses,
    });
    if listed.as_array().is_some_and(|list| !list.is_empty()) {
        converted["parameters"] = listed;
    }
    for key in ["x-kubernetes-action", "x-kubernetes-group-version-kind"] {
        if let Some(value) = operation.get(key) {
            converted[key] = value.clone();
        }
    }
    converted
}
