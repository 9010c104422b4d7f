//! The list of entries: what clients may say of it, its order and its limit.

use serde_json::{Value, json};

use super::fixture::Lab;
use crate::managed::{entry, is_reset, same_but_for_times, set};

fn map(data: Value) -> Value {
    json!({"metadata": {"name": "a"}, "data": data})
}

fn with(managers: Value, data: Value) -> Value {
    json!({"metadata": {"name": "a", "managedFields": managers}, "data": data})
}

#[test]
fn the_oldest_of_many_updaters_are_joined() {
    let mut lab = Lab::builtin("v1", "ConfigMap");
    let mut data = json!({});
    for at in 0..12 {
        data[format!("k{at:02}")] = json!("x");
        lab.update(&format!("m{at:02}"), map(data.clone()));
    }
    let mut expected: Vec<String> = vec!["ancient-changes".to_owned()];
    expected.extend((3..12).map(|at| format!("m{at:02}")));
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    lab.managers(&expected).owns(
        "ancient-changes",
        "Update",
        &[".data", ".data.k00", ".data.k01", ".data.k02"],
    );
}

#[test]
fn clients_may_write_entries_and_nonsense_is_ignored() {
    let mine = json!([{"manager": "me", "operation": "Apply", "apiVersion": "v1",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}, "x:unknown": {}}}}]);
    let lab = || {
        let mut lab = Lab::builtin("v1", "ConfigMap");
        lab.update("one", map(json!({"a": "1"})));
        lab
    };
    lab()
        .update("two", with(mine.clone(), json!({"a": "1"})))
        .managers(&["me"])
        .owns("me", "Apply", &[".data.a"]);
    for (key, value) in [
        ("operation", json!("Nope")),
        ("apiVersion", json!("")),
        ("fieldsType", json!("FieldsV2")),
        ("fieldsV1", json!({"f:data": 5})),
        ("fieldsV1", json!({"nope": {}})),
        ("fieldsV1", json!({"k:{": {}})),
    ] {
        let mut wrong = mine.clone();
        wrong[0][key] = value;
        lab()
            .update("two", with(wrong, json!({"a": "1"})))
            .managers(&["one"]);
    }
}

#[test]
fn an_empty_list_or_entry_forgets_everybody() {
    assert!(is_reset(&with(json!([]), json!({}))));
    assert!(is_reset(&with(json!([{}]), json!({}))));
    assert!(!is_reset(&with(json!([{"manager": "m"}]), json!({}))));
    assert!(!is_reset(&with(Value::Null, json!({}))));
    assert!(!is_reset(&map(json!({}))));
}

#[test]
fn elements_are_read_in_any_spelling() {
    let fields =
        json!({"f:l": {"k:{ \"b\": 1,\"a\":\"<x>\"}": {}, "v: \"s\"": {".": {}}, "i:03": {}}});
    let read = set::read(&fields).unwrap();
    assert_eq!(
        Value::Object(read),
        json!({"f:l": {"k:{\"a\":\"\\u003cx\\u003e\",\"b\":1}": {}, "v:\"s\"": {}, "i:3": {}}})
    );
    assert!(set::read(&json!({"f:a": {"x": {}}})).is_err());
    assert!(set::read(&json!([])).is_err());
    let mut deep = json!({});
    for _ in 0..300 {
        deep = json!({"f:a": deep});
    }
    assert!(set::read(&deep).is_err());
}

#[test]
fn set_algebra_tells_parents_from_children() {
    let set = |value: Value| set::read(&value).unwrap();
    let parent = || set(json!({"f:a": {}}));
    let child = || set(json!({"f:a": {"f:b": {}}}));
    let both = || set(json!({"f:a": {".": {}, "f:b": {}}}));
    let minus = |mut one: set::Node, other: set::Node| {
        set::subtract(&mut one, &other);
        one
    };
    let plus = |mut one: set::Node, other: set::Node| {
        set::unite(&mut one, other);
        one
    };
    let cut = |mut one: set::Node, other: set::Node| {
        set::cut(&mut one, &other);
        one
    };
    assert_eq!(plus(parent(), child()), both());
    assert_eq!(plus(child(), parent()), both());
    assert_eq!(minus(both(), parent()), child());
    assert_eq!(minus(both(), child()), parent());
    assert_eq!(minus(parent(), child()), parent());
    assert_eq!(minus(child(), parent()), child());
    assert!(set::is_empty(&minus(both(), both())));
    assert!(set::is_empty(&cut(both(), parent())));
    assert_eq!(cut(both(), child()), parent());
    assert_eq!(set::intersection(&both(), &child()), child());
    assert!(set::is_empty(&set::intersection(&parent(), &child())));
    assert_eq!(set::paths(&both()), [".a", ".a.b"]);
}

#[test]
fn times_alone_are_no_change() {
    let object = |time: &str, data: &str| {
        with(
            json!([{"manager": "m", "operation": "Update", "time": time, "fieldsV1": {"f:data": {}}}]),
            json!({"a": data}),
        )
    };
    let (one, later) = (
        object("2026-01-01T00:00:00Z", "1"),
        object("2026-01-02T00:00:00Z", "1"),
    );
    assert!(same_but_for_times(&one, &later));
    assert!(!same_but_for_times(
        &one,
        &object("2026-01-01T00:00:00Z", "2")
    ));
    assert!(!same_but_for_times(&one, &map(json!({"a": "1"}))));
    let entries = entry::stored(&one).unwrap().clone();
    assert_eq!(entry::trusted(entries).len(), 1);
}
