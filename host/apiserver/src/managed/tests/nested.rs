//! Lists in lists, maps in maps, and what remains of them when their owner gives them up.

use serde_json::{Value, json};

use super::fixture::Lab;

pub(super) fn schema() -> Value {
    let text = json!({"type": "string"});
    let set = json!({"type": "array", "items": text, "x-kubernetes-list-type": "set"});
    let map = json!({"type": "object", "additionalProperties": text});
    let list_of = |value: &Value| {
        json!({
            "type": "array",
            "items": {"type": "object", "required": ["name"],
                      "properties": {"name": text, "value": value}},
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        })
    };
    json!({"properties": {
        "listOfLists": list_of(&set), "listOfMaps": list_of(&map),
        "mapOfLists": {"type": "object", "additionalProperties": set},
        "mapOfMaps": {"type": "object", "additionalProperties": map},
        "struct": {"type": "object", "nullable": true,
                   "properties": {"name": text, "value": {"type": "integer"}}},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }})
}

#[track_caller]
fn check(first: Value, second: Value, expected: Value, owned: &[&str]) {
    Lab::new(schema())
        .apply("default", first)
        .apply("default", second)
        .is(expected)
        .owns("default", "Apply", owned);
}

#[test]
fn what_an_applier_no_longer_applies_is_gone() {
    check(
        json!({"listOfLists": [{"name": "a", "value": ["b", "c"]}]}),
        json!({"listOfLists": [{"name": "a", "value": ["a", "c"]}]}),
        json!({"listOfLists": [{"name": "a", "value": ["a", "c"]}]}),
        &[
            r#".listOfLists[name="a"]"#,
            r#".listOfLists[name="a"].name"#,
            r#".listOfLists[name="a"].value[="a"]"#,
            r#".listOfLists[name="a"].value[="c"]"#,
        ],
    );
    check(
        json!({"listOfLists": [{"name": "a", "value": ["b", "c"]}]}),
        json!({"listOfLists": [{"name": "b", "value": ["a"]}]}),
        json!({"listOfLists": [{"name": "b", "value": ["a"]}]}),
        &[
            r#".listOfLists[name="b"]"#,
            r#".listOfLists[name="b"].name"#,
            r#".listOfLists[name="b"].value[="a"]"#,
        ],
    );
    check(
        json!({"listOfMaps": [{"name": "a", "value": {"b": "x", "c": "y"}}]}),
        json!({"listOfMaps": [{"name": "a", "value": {"a": "x", "c": "z"}}]}),
        json!({"listOfMaps": [{"name": "a", "value": {"a": "x", "c": "z"}}]}),
        &[
            r#".listOfMaps[name="a"]"#,
            r#".listOfMaps[name="a"].name"#,
            r#".listOfMaps[name="a"].value.a"#,
            r#".listOfMaps[name="a"].value.c"#,
        ],
    );
    check(
        json!({"mapOfLists": {"a": ["b", "c"]}}),
        json!({"mapOfLists": {"b": ["a", "c"]}}),
        json!({"mapOfLists": {"b": ["a", "c"]}}),
        &[
            ".mapOfLists.b",
            r#".mapOfLists.b[="a"]"#,
            r#".mapOfLists.b[="c"]"#,
        ],
    );
    check(
        json!({"mapOfMaps": {"a": {"b": "x", "c": "y"}}}),
        json!({"mapOfMaps": {"a": {"a": "x", "c": "z"}}}),
        json!({"mapOfMaps": {"a": {"a": "x", "c": "z"}}}),
        &[".mapOfMaps.a", ".mapOfMaps.a.a", ".mapOfMaps.a.c"],
    );
    check(
        json!({"open": {"a": {"b": {"c": null}}, "list": [1, {"x": 1}]}}),
        json!({"open": {"a": {"d": {"c": null}}, "list": [2]}}),
        json!({"open": {"a": {"d": {"c": null}}, "list": [2]}}),
        &[".open.a", ".open.a.d", ".open.a.d.c", ".open.list"],
    );
    check(
        json!({"struct": {"name": "a", "value": 1}}),
        json!({}),
        json!({}),
        &[],
    );
}

#[test]
fn what_another_wrote_into_a_struct_keeps_it() {
    let start = || {
        let mut lab = Lab::new(schema());
        lab.apply("default", json!({"struct": {"name": "a"}}))
            .update("controller", json!({"struct": {"name": "a", "value": 1}}));
        lab
    };
    start()
        .apply("default", json!({}))
        .is(json!({"struct": {"value": 1}}));
    start()
        .apply("default", json!({"struct": {}}))
        .is(json!({"struct": {"value": 1}}));
    start()
        .apply("default", json!({"struct": null}))
        .is(json!({"struct": {"value": 1}}));
    Lab::new(schema())
        .apply("default", json!({"struct": {"name": "a"}}))
        .update("controller", json!({"struct": {"name": "b", "value": 1}}))
        .apply("default", json!({"struct": null}))
        .is(json!({"struct": {"name": "b", "value": 1}}))
        .owns("controller", "Update", &[".struct.name", ".struct.value"]);
}

#[test]
fn an_empty_struct_is_owned_as_such() {
    Lab::new(schema())
        .apply("default", json!({"struct": {"name": "a"}}))
        .apply("default", json!({"struct": null}))
        .owns("default", "Apply", &[".struct"]);
}

#[test]
fn elements_stay_for_those_who_apply_them_too() {
    Lab::new(schema())
        .apply(
            "one",
            json!({"listOfLists": [{"name": "a"}, {"name": "b", "value": ["c"]}]}),
        )
        .apply(
            "two",
            json!({"listOfLists": [{"name": "b", "value": ["d"]}]}),
        )
        .apply("one", json!({"listOfLists": [{"name": "a"}]}))
        .is(json!({"listOfLists": [{"name": "a"}, {"name": "b", "value": ["d"]}]}))
        .owns(
            "one",
            "Apply",
            &[
                r#".listOfLists[name="a"]"#,
                r#".listOfLists[name="a"].name"#,
            ],
        )
        .owns(
            "two",
            "Apply",
            &[
                r#".listOfLists[name="b"]"#,
                r#".listOfLists[name="b"].name"#,
                r#".listOfLists[name="b"].value[="d"]"#,
            ],
        );
}

#[test]
fn what_a_controller_added_to_an_element_stays_with_the_element() {
    let start = || {
        let mut lab = Lab::new(schema());
        lab.apply(
            "one",
            json!({"listOfLists": [{"name": "a"}, {"name": "b", "value": ["c"]}]}),
        )
        .apply(
            "two",
            json!({"listOfLists": [{"name": "b", "value": ["d"]}]}),
        )
        .update(
            "controller",
            json!({"listOfLists": [{"name": "a"}, {"name": "b", "value": ["c", "d", "e"]}]}),
        );
        lab
    };
    start()
        .apply("one", json!({"listOfLists": [{"name": "a"}]}))
        .is(json!({"listOfLists": [{"name": "a"}, {"name": "b", "value": ["d", "e"]}]}))
        .owns(
            "controller",
            "Update",
            &[r#".listOfLists[name="b"].value[="e"]"#],
        );
    // Without its last owner the element goes, with whatever is in it.
    start()
        .apply("one", json!({"listOfLists": [{"name": "a"}]}))
        .apply("two", json!({}))
        .is(json!({"listOfLists": [{"name": "a"}]}))
        .managers(&["one"]);
}
