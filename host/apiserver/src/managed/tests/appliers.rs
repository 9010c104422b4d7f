//! Several managers of one object: conflicts, shared fields, and fields that change hands.

use serde_json::{Value, json};

use super::fixture::Lab;

fn lab() -> Lab {
    Lab::new(json!({"properties": {
        "list": {"type": "array", "x-kubernetes-list-type": "map",
                 "x-kubernetes-list-map-keys": ["name"],
                 "items": {"type": "object", "required": ["name"], "properties": {
                     "name": {"type": "string"}, "value": {"type": "integer"}}}},
        "number": {"type": "integer"}, "text": {"type": "string"},
        "struct": {"type": "object", "properties": {
            "name": {"type": "string"}, "scalar": {"type": "string"},
            "complex": {"type": "object", "properties": {"name": {"type": "string"}}}}},
    }}))
}

fn list(names: &[&str]) -> Value {
    let items: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    json!({"list": items})
}

#[test]
fn each_removes_its_own() {
    lab()
        .apply("one", list(&["a", "b"]))
        .apply("two", list(&["c"]))
        .apply("one", list(&["a"]))
        .is(list(&["a", "c"]));
    lab()
        .apply("one", list(&["a", "b", "c"]))
        .apply("two", list(&["c", "d"]))
        .apply("one", list(&["a"]))
        .is(list(&["a", "c", "d"]));
}

#[test]
fn the_same_value_is_shared_and_another_is_a_conflict() {
    let zero = || json!({"list": [{"name": "a", "value": 0}]});
    let owned = [
        r#".list[name="a"]"#,
        r#".list[name="a"].name"#,
        r#".list[name="a"].value"#,
    ];
    lab()
        .apply("one", zero())
        .apply("two", zero())
        .owns("one", "Apply", &owned)
        .owns("two", "Apply", &owned)
        .refused(
            "two",
            json!({"list": [{"name": "a", "value": 1}]}),
            r#"Apply failed with 1 conflict: conflict with "one": .list[name="a"].value"#,
        )
        .is(zero());
}

#[test]
fn conflicts_name_every_manager_and_field() {
    lab()
        .apply("one", json!({"number": 1, "text": "a"}))
        .update("two", json!({"number": 1, "text": "b"}))
        .refused(
            "three",
            json!({"number": 2, "text": "c"}),
            "Apply failed with 2 conflicts: conflicts with \"one\":\n- .number\nconflicts with \
             \"two\" using v1:\n- .text",
        )
        .force("three", json!({"number": 2, "text": "c"}))
        .is(json!({"number": 2, "text": "c"}))
        .managers(&["three"]);
}

#[test]
fn an_updater_takes_fields_and_is_not_pruned() {
    lab()
        .apply("applier", json!({"struct": {"name": "a", "scalar": "a"}}))
        .update("updater", json!({"struct": {"name": "a", "scalar": "b"}}))
        .owns("updater", "Update", &[".struct.scalar"])
        .owns("applier", "Apply", &[".struct.name"])
        .apply("applier", json!({"struct": {"name": "a"}}))
        .is(json!({"struct": {"name": "a", "scalar": "b"}}));
}

#[test]
fn a_field_goes_when_its_last_owner_gives_it_up() {
    lab()
        .apply("one", json!({"struct": {"name": "a", "scalar": "a"}}))
        .apply("one", json!({"struct": {"name": "a"}}))
        .is(json!({"struct": {"name": "a"}}));
    lab()
        .apply("one", json!({"struct": {"name": "a", "scalar": "a"}}))
        .apply("two", json!({"struct": {"scalar": "a"}}))
        .apply("one", json!({"struct": {"name": "a"}}))
        .is(json!({"struct": {"name": "a", "scalar": "a"}}))
        .owns("two", "Apply", &[".struct.scalar"]);
    lab()
        .update("updater", json!({"struct": {"name": "a", "scalar": "a"}}))
        .apply("applier", json!({"struct": {"name": "a", "scalar": "a"}}))
        .apply("applier", json!({"struct": {"name": "a"}}))
        .is(json!({"struct": {"name": "a", "scalar": "a"}}))
        .owns(
            "updater",
            "Update",
            &[".struct", ".struct.name", ".struct.scalar"],
        );
    lab()
        .apply(
            "one",
            json!({"struct": {"name": "a", "complex": {"name": "b"}}}),
        )
        .apply("two", json!({"struct": {"complex": {"name": "b"}}}))
        .apply("one", json!({"struct": {"name": "a"}}))
        .is(json!({"struct": {"name": "a", "complex": {"name": "b"}}}))
        .apply("two", json!({}))
        .is(json!({"struct": {"name": "a"}}));
}

#[test]
fn removed_fields_have_no_owner() {
    lab()
        .apply("one", json!({"number": 1, "text": "a"}))
        .update("two", json!({"text": "a"}))
        .owns("one", "Apply", &[".text"])
        .managers(&["one"]);
}

#[test]
fn applying_nothing_gives_everything_up() {
    lab()
        .apply("one", json!({"number": 1}))
        .apply("one", json!({}))
        .is(json!({}))
        .managers(&[]);
}
