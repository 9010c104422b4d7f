//! Schemas that change under the objects, and parts that no schema describes.

use serde_json::{Value, json};

use super::fixture::Lab;

fn schema(list: &str, map: &str) -> Value {
    let mut list_schema = json!({"type": "array", "items": {"type": "object", "required": ["name"],
        "properties": {"name": {"type": "string"}, "value": {"type": "string"}}}});
    if list == "map" {
        list_schema["x-kubernetes-list-type"] = json!("map");
        list_schema["x-kubernetes-list-map-keys"] = json!(["name"]);
    }
    json!({"properties": {
        "list": list_schema,
        "struct": {"type": "object", "x-kubernetes-map-type": map,
                   "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
    }})
}

#[test]
fn what_becomes_atomic_is_owned_whole() {
    let mut lab = Lab::new(schema("map", "granular"));
    lab.apply(
        "one",
        json!({"struct": {"a": "1"}, "list": [{"name": "x", "value": "1"}]}),
    )
    .apply("two", json!({"struct": {"b": "2"}}));
    lab.change_schema(schema("atomic", "atomic"));
    lab.refused(
        "two",
        json!({"struct": {"b": "3"}}),
        "Apply failed with 1 conflict: conflict with \"one\": .struct",
    )
    .force("two", json!({"struct": {"b": "3"}}))
    .is(json!({"struct": {"b": "3"}, "list": [{"name": "x", "value": "1"}]}))
    .owns("one", "Apply", &[".list"])
    .owns("two", "Apply", &[".struct"]);
}

#[test]
fn what_becomes_granular_is_owned_as_it_is_written() {
    let mut lab = Lab::new(schema("atomic", "atomic"));
    lab.apply("one", json!({"struct": {"a": "1", "b": "2"}}));
    lab.change_schema(schema("map", "granular"));
    lab.apply("one", json!({"struct": {"a": "1"}}))
        .owns("one", "Apply", &[".struct.a"])
        .is(json!({"struct": {"a": "1", "b": "2"}}));
}

#[test]
fn without_a_schema_objects_are_their_fields_and_lists_are_leaves() {
    let open = json!({"properties": {
        "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }});
    Lab::new(open)
        .apply(
            "one",
            json!({"spec": {"a": {"x": 1}, "list": [{"name": "a"}]}}),
        )
        .apply("two", json!({"spec": {"a": {"y": 1}}}))
        .is(json!({"spec": {"a": {"x": 1, "y": 1}, "list": [{"name": "a"}]}}))
        .refused(
            "two",
            json!({"spec": {"list": [{"name": "b"}]}}),
            "Apply failed with 1 conflict: conflict with \"one\": .spec.list",
        )
        .apply("two", json!({"spec": {}}))
        .is(json!({"spec": {"a": {"x": 1}, "list": [{"name": "a"}]}}))
        // What was an object becomes a number: of another owner then.
        .force("two", json!({"spec": {"a": 5}}))
        .is(json!({"spec": {"a": 5, "list": [{"name": "a"}]}}));
}
