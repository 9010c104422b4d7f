//! Elements that should differ and do not, which only updates can write.

use serde_json::{Value, json};

use super::fixture::Lab;

fn lab() -> Lab {
    let number = json!({"type": "integer"});
    Lab::new(json!({"properties": {
        "list": {"type": "array", "x-kubernetes-list-type": "map",
                 "x-kubernetes-list-map-keys": ["name"],
                 "items": {"type": "object", "required": ["name"], "properties": {
                     "name": {"type": "string"}, "value1": number, "value2": number}}},
        "unrelated": number,
        "set": {"type": "array", "items": number, "x-kubernetes-list-type": "set"},
    }}))
}

fn set(items: &[i32]) -> Value {
    json!({"set": items})
}

#[test]
fn a_value_that_stands_twice_is_one_field() {
    lab().update("one", set(&[1, 1, 3, 4])).owns(
        "one",
        "Update",
        &[".set", ".set[=1]", ".set[=3]", ".set[=4]"],
    );
    lab()
        .update("one", set(&[1, 3, 4]))
        .update("two", set(&[1, 1, 3, 4]))
        .owns("one", "Update", &[".set", ".set[=3]", ".set[=4]"])
        .owns("two", "Update", &[".set[=1]"]);
    lab()
        .update("one", set(&[1, 1, 3, 4]))
        .update("two", set(&[1, 3, 4]))
        .owns("one", "Update", &[".set", ".set[=3]", ".set[=4]"])
        .owns("two", "Update", &[".set[=1]"]);
}

#[test]
fn applying_a_value_that_stands_twice_leaves_it_once() {
    lab()
        .update("updater", set(&[1, 1, 3, 4]))
        .refused(
            "applier",
            set(&[1]),
            r#"Apply failed with 1 conflict: conflict with "updater" using v1: .set[=1]"#,
        )
        .force("applier", set(&[1]))
        .is(set(&[1, 3, 4]))
        .owns("updater", "Update", &[".set", ".set[=3]", ".set[=4]"]);
    lab()
        .update("updater", set(&[1, 1, 3, 4]))
        .apply("applier", set(&[5]))
        .is(set(&[1, 1, 3, 4, 5]));
}

fn twice() -> Value {
    json!({"list": [{"name": "a", "value1": 1}, {"name": "a", "value1": 2}, {"name": "b", "value1": 3}]})
}

#[test]
fn elements_that_stand_twice_are_owned_together() {
    let b = [
        r#".list[name="b"]"#,
        r#".list[name="b"].name"#,
        r#".list[name="b"].value1"#,
    ];
    let mut all = vec![".list", r#".list[name="a"]"#];
    all.extend(b);
    lab().update("one", twice()).owns("one", "Update", &all);
    let mut changed = twice();
    changed["list"][1]["value2"] = json!(3);
    lab().update("one", twice()).update("two", changed).owns(
        "two",
        "Update",
        &[r#".list[name="a"]"#],
    );
    lab()
        .update("updater", twice())
        .force("applier", json!({"unrelated": 5}))
        .is({
            let mut expected = twice();
            expected["unrelated"] = json!(5);
            expected
        })
        .owns("updater", "Update", &all);
    lab()
        .update("updater", twice())
        .refused(
            "applier",
            json!({"list": [{"name": "a", "value1": 3}]}),
            r#"Apply failed with 1 conflict: conflict with "updater" using v1: .list[name="a"]"#,
        )
        .force("applier", json!({"list": [{"name": "a", "value1": 3}]}))
        .is(json!({"list": [{"name": "a", "value1": 3}, {"name": "b", "value1": 3}]}));
    lab()
        .update("updater", twice())
        .force("applier", json!({"list": [{"name": "b", "value1": 4}]}))
        .is(
            json!({"list": [{"name": "a", "value1": 1}, {"name": "a", "value1": 2},
                            {"name": "b", "value1": 4}]}),
        );
}

#[test]
fn what_an_update_doubled_is_not_removed_by_its_former_applier() {
    lab()
        .apply(
            "applier",
            json!({"list": [{"name": "a", "value1": 1}, {"name": "b", "value1": 3}]}),
        )
        .update("updater", twice())
        .apply("applier", json!({"list": [{"name": "b", "value1": 3}]}))
        .is(twice())
        .owns("updater", "Update", &[r#".list[name="a"]"#]);
}
