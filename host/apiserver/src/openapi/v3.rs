//! OpenAPI v3 from what v2 says, for servers behind this one that know only the older form.

use serde_json::{Map, Value, json};

/// Paths and schemas of a v2 document, which came from a parser, so nothing in it is deep.
pub(super) fn parts(document: &Value) -> (Map<String, Value>, Map<String, Value>) {
    let members = |key: &str| {
        let map = document.get(key).and_then(Value::as_object);
        map.into_iter().flatten()
    };
    let paths = members("paths").map(|(name, item)| (name.clone(), path(item)));
    let schemas = members("definitions").map(|(name, schema)| (name.clone(), renamed(schema)));
    (paths.collect(), schemas.collect())
}

/// The same with references to where v3 keeps schemas.
fn renamed(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match value.as_str() {
                Some(reference) if key == "$ref" => {
                    let to = reference.replacen("#/definitions/", "#/components/schemas/", 1);
                    (key.clone(), to.into())
                }
                _ => (key.clone(), renamed(value)),
            })
            .collect(),
        Value::Array(items) => items.iter().map(renamed).collect(),
        other => other.clone(),
    }
}

fn path(item: &Value) -> Value {
    let members = item.as_object().into_iter().flatten();
    members
        .map(|(key, value)| match key.as_str() {
            "parameters" => (key.clone(), parameters(value)),
            _ => (key.clone(), operation(value)),
        })
        .collect()
}

/// All but the body, which v3 has elsewhere.
fn parameters(list: &Value) -> Value {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    let others = list.iter().filter(|one| one["in"] != "body");
    others.map(parameter).collect()
}

fn parameter(flat: &Value) -> Value {
    let (mut parameter, mut schema) = (Map::new(), Map::new());
    for (key, value) in flat.as_object().into_iter().flatten() {
        match key.as_str() {
            "name" | "in" | "description" | "required" => {
                parameter.insert(key.clone(), value.clone());
            }
            _ => {
                schema.insert(key.clone(), value.clone());
            }
        }
    }
    parameter.insert("schema".to_owned(), renamed(&schema.into()));
    parameter.into()
}

fn operation(operation: &Value) -> Value {
    let mut converted = Map::new();
    for (key, value) in operation.as_object().into_iter().flatten() {
        match key.as_str() {
            "parameters" => {
                converted.insert(key.clone(), parameters(value));
            }
            "responses" => {
                let responses = value.as_object().into_iter().flatten();
                let produces = media(operation, "produces");
                let responses: Map<String, Value> = responses
                    .map(|(code, one)| (code.clone(), response(one, &produces)))
                    .collect();
                converted.insert(key.clone(), responses.into());
            }
            "consumes" | "produces" | "schemes" => {}
            _ => {
                converted.insert(key.clone(), value.clone());
            }
        }
    }
    let all = operation.get("parameters").and_then(Value::as_array);
    let body = all.into_iter().flatten().find(|one| one["in"] == "body");
    if let Some(body) = body {
        let mut request = json!({"content": content(body, &media(operation, "consumes"))});
        for key in ["description", "required"] {
            if let Some(value) = body.get(key) {
                request[key] = value.clone();
            }
        }
        converted.insert("requestBody".to_owned(), request);
    }
    converted.into()
}

fn response(response: &Value, produces: &[&str]) -> Value {
    let mut converted = json!({"description": response["description"]});
    if response.get("schema").is_some() {
        converted["content"] = content(response, produces);
    }
    converted
}

/// The schema of `owner` in each of these forms.
fn content(owner: &Value, forms: &[&str]) -> Value {
    let schema = owner
        .get("schema")
        .map(renamed)
        .unwrap_or_else(|| json!({}));
    let forms = forms.iter();
    forms
        .map(|form| ((*form).to_owned(), json!({ "schema": schema })))
        .collect::<Map<String, Value>>()
        .into()
}

fn media<'a>(operation: &'a Value, key: &str) -> Vec<&'a str> {
    let list = operation.get(key).and_then(Value::as_array);
    let list: Vec<&str> = list
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    match list.is_empty() {
        true => vec!["application/json"],
        false => list,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_says_the_same_in_the_newer_form() {
        let old = json!({
            "paths": {"/apis/a/v1/things": {
                "parameters": [{"name": "pretty", "in": "query", "type": "string", "uniqueItems": true}],
                "post": {
                    "operationId": "make", "consumes": ["*/*"], "schemes": ["https"],
                    "produces": ["application/json", "application/yaml"],
                    "parameters": [{"name": "body", "in": "body", "required": true,
                                    "schema": {"$ref": "#/definitions/Thing"}}],
                    "responses": {
                        "200": {"description": "OK", "schema": {"$ref": "#/definitions/Thing"}},
                        "401": {"description": "Unauthorized"},
                    },
                    "x-kubernetes-action": "post",
                },
            }},
            "definitions": {"Thing": {"type": "object", "properties": {
                "others": {"type": "array", "items": {"$ref": "#/definitions/Thing"}}}}},
        });
        let (paths, schemas) = parts(&old);
        let thing = json!({"schema": {"$ref": "#/components/schemas/Thing"}});
        assert_eq!(
            json!(paths),
            json!({"/apis/a/v1/things": {
                "parameters": [{"name": "pretty", "in": "query",
                                "schema": {"type": "string", "uniqueItems": true}}],
                "post": {
                    "operationId": "make", "parameters": [], "x-kubernetes-action": "post",
                    "requestBody": {"required": true, "content": {"*/*": thing}},
                    "responses": {
                        "200": {"description": "OK", "content": {
                            "application/json": thing, "application/yaml": thing}},
                        "401": {"description": "Unauthorized"},
                    },
                },
            }})
        );
        let items = &schemas["Thing"]["properties"]["others"]["items"];
        assert_eq!(items, &thing["schema"]);
    }
}
