//! Sets, keyed lists and the order of what is in them.

use serde_json::{Value, json};

use super::fixture::Lab;

fn set(items: &[&str]) -> Value {
    json!({"list": items})
}

fn lab() -> Lab {
    Lab::new(json!({"properties": {
        "list": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "atomic": {"type": "array", "items": {"type": "string"}},
        "ports": {"type": "array", "x-kubernetes-list-type": "map",
                  "x-kubernetes-list-map-keys": ["port", "protocol"],
                  "items": {"type": "object", "required": ["port"], "properties": {
                      "port": {"type": "integer"}, "name": {"type": "string"},
                      "protocol": {"type": "string", "default": "TCP"}}}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic",
                  "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
    }}))
}

#[test]
fn sets_grow_shrink_and_take_the_order_of_the_configuration() {
    lab()
        .apply("default", set(&["a", "c"]))
        .apply("default", set(&["a", "b", "c", "d"]))
        .is(set(&["a", "b", "c", "d"]))
        .apply("default", set(&["a", "d", "c", "b"]))
        .is(set(&["a", "d", "c", "b"]))
        .apply("default", set(&["a", "c"]))
        .is(set(&["a", "c"]))
        .owns("default", "Apply", &[r#".list[="a"]"#, r#".list[="c"]"#]);
}

#[test]
fn elements_of_others_stay_between_those_of_the_configuration() {
    lab()
        .apply("default", set(&["a", "c"]))
        .update("controller", set(&["a", "b", "c", "d"]))
        .apply("default", set(&["a", "aprime", "c", "cprime"]))
        .is(set(&["a", "b", "aprime", "c", "d", "cprime"]))
        .owns(
            "controller",
            "Update",
            &[r#".list[="b"]"#, r#".list[="d"]"#],
        );
    lab()
        .apply("default", set(&["a", "c"]))
        .update("controller", set(&["a", "b", "c", "d"]))
        .apply("default", set(&["a", "b", "c"]))
        .is(set(&["a", "b", "c", "d"]))
        .owns(
            "default",
            "Apply",
            &[r#".list[="a"]"#, r#".list[="b"]"#, r#".list[="c"]"#],
        )
        .owns(
            "controller",
            "Update",
            &[r#".list[="b"]"#, r#".list[="d"]"#],
        );
    lab()
        .apply("default", set(&["a", "b", "c", "d"]))
        .update("controller", set(&["a", "d", "c", "b"]))
        .apply("default", set(&["a", "b", "c", "d"]))
        .is(set(&["a", "b", "c", "d"]))
        .managers(&["default"]);
}

#[test]
fn keys_that_are_left_out_have_their_default() {
    lab()
        .apply("one", json!({"ports": [{"port": 80}]}))
        .apply("two", json!({"ports": [{"port": 80, "protocol": "UDP"}]}))
        .is(json!({"ports": [{"port": 80}, {"port": 80, "protocol": "UDP"}]}))
        .owns(
            "one",
            "Apply",
            &[
                r#".ports[port=80,protocol="TCP"]"#,
                r#".ports[port=80,protocol="TCP"].port"#,
            ],
        )
        .apply("one", json!({"ports": [{"port": 80, "name": "http"}]}))
        .is(json!({"ports": [{"port": 80, "name": "http"}, {"port": 80, "protocol": "UDP"}]}));
}

#[test]
fn what_is_atomic_has_one_owner() {
    lab()
        .apply("one", json!({"atomic": ["a"], "whole": {"a": "1"}}))
        .refused(
            "two",
            json!({"atomic": ["b"], "whole": {"b": "2"}}),
            "Apply failed with 2 conflicts: conflicts with \"one\":\n- .atomic\n- .whole",
        )
        .force("two", json!({"atomic": ["b"], "whole": {"b": "2"}}))
        .is(json!({"atomic": ["b"], "whole": {"b": "2"}}))
        .managers(&["two"]);
}

#[test]
fn configurations_that_do_not_fit_are_refused_by_path() {
    let failed =
        |why: &str| format!("failed to create typed patch object (/; /v1, Kind=Thing): {why}");
    lab()
        .refused("m", json!({"nope": 1}), &failed(".nope: field not declared in schema"))
        .refused(
            "m",
            json!({"list": ["a", "a"]}),
            &failed(r#".list: duplicate entries for key [="a"]"#),
        )
        .refused(
            "m",
            json!({"ports": [{"name": "x"}]}),
            &failed(
                ".ports: element 0: associative list with keys has an element that omits key \
                 field \"port\" (and doesn't have default value)",
            ),
        )
        .refused(
            "m",
            json!({"ports": [{"port": "x"}]}),
            &failed(r#".ports[port="x",protocol="TCP"].port: expected numeric (int or float), got string"#),
        )
        .refused(
            "m",
            json!({"atomic": [1], "list": 5}),
            &failed(
                "errors:\n  .atomic[0]: expected string, got &value.valueUnstructured{Value:1}\n  \
                 .list: expected list, got &{5}",
            ),
        )
        .refused(
            "m",
            json!({"whole": []}),
            &failed(".whole: expected map, got &{[]}"),
        );
}
