use serde_json::{Value, json};

use super::Schema;

fn spec(schema: Value) -> Schema {
    let root = json!({"type": "object", "properties": {"spec": schema}});
    Schema::parse(&root, "schema").unwrap()
}

/// The errors of `spec`, one text each.
#[track_caller]
fn check(schema: Value, value: Value, expected: &[&str]) {
    let object = json!({"apiVersion": "a/v1", "kind": "A", "metadata": {}, "spec": value});
    let errors: Vec<String> = spec(schema)
        .validate(&object)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(errors, expected);
}

#[track_caller]
fn refused(schema: Value, expected: &str) {
    let errors = Schema::parse(&schema, "s").unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(
        errors.iter().any(|one| one == expected),
        "{expected}\nnot in {errors:#?}"
    );
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

#[test]
fn types_are_checked_in_kubernetes_words() {
    let schema = object(
        json!({"n": {"type": "integer"}, "l": {"type": "array", "items": {"type": "string"}}}),
    );
    check(schema.clone(), json!({"n": 1, "l": ["a"]}), &[]);
    check(
        schema.clone(),
        json!({"n": "x"}),
        &[r#"spec.n: Invalid value: "string": spec.n in body must be of type integer: "string""#],
    );
    check(
        schema.clone(),
        json!({"l": ["a", 1]}),
        &[
            r#"spec.l[1]: Invalid value: "integer": spec.l[1] in body must be of type string: "integer""#,
        ],
    );
    check(
        schema.clone(),
        json!({"n": null}),
        &[r#"spec.n: Invalid value: "null": spec.n in body must be of type integer: "null""#],
    );
    check(schema, json!({"n": 1.0}), &[]);
    check(
        object(json!({"n": {"type": "integer", "nullable": true}})),
        json!({"n": null}),
        &[],
    );
    check(
        object(json!({"p": {"x-kubernetes-int-or-string": true}})),
        json!({"p": true}),
        &[
            r#"spec.p: Invalid value: "boolean": spec.p in body must be of type integer,string: "boolean""#,
        ],
    );
}

#[test]
fn bounds_lengths_and_patterns_hold() {
    let number = object(json!({"n": {"type": "integer", "minimum": 1, "maximum": 10}}));
    check(
        number.clone(),
        json!({"n": 11}),
        &["spec.n: Invalid value: 11: spec.n in body should be less than or equal to 10"],
    );
    check(
        number,
        json!({"n": 0}),
        &["spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1"],
    );
    check(
        object(json!({"n": {"type": "number", "maximum": 1, "exclusiveMaximum": true}})),
        json!({"n": 1}),
        &["spec.n: Invalid value: 1: spec.n in body should be less than 1"],
    );
    check(
        object(json!({"n": {"type": "number", "multipleOf": 0.1}})),
        json!({"n": 0.3}),
        &[],
    );
    let text =
        object(json!({"t": {"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^a"}}));
    check(
        text.clone(),
        json!({"t": "a"}),
        &[r#"spec.t: Invalid value: "a": spec.t in body should be at least 2 chars long"#],
    );
    check(text.clone(), json!({"t": "aéé"}), &[]);
    check(
        text.clone(),
        json!({"t": "aaaa"}),
        &["spec.t: Too long: may not be more than 3 bytes"],
    );
    check(
        text,
        json!({"t": "bb"}),
        &[r#"spec.t: Invalid value: "bb": spec.t in body should match '^a'"#],
    );
    let list = object(
        json!({"l": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "integer"}}}),
    );
    check(
        list.clone(),
        json!({"l": []}),
        &["spec.l: Invalid value: 0: spec.l in body should have at least 1 items"],
    );
    check(
        list,
        json!({"l": [1, 2, 3]}),
        &["spec.l: Too many: 3: must have at most 2 items"],
    );
}

#[test]
fn required_enum_and_format_hold() {
    let mut schema = object(json!({"a": {"type": "string", "enum": ["x", "y"]}}));
    schema["required"] = json!(["a"]);
    check(schema.clone(), json!({}), &["spec.a: Required value"]);
    check(
        schema,
        json!({"a": "z"}),
        &[r#"spec.a: Unsupported value: "z": supported values: "x", "y""#],
    );
    let formats = [
        ("date-time", "2026-01-01T00:00:00Z", "yesterday"),
        ("ipv4", "10.0.0.1", "10.0.0"),
        ("cidr", "10.0.0.0/8", "10.0.0.0/99"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e"),
        ("byte", "AP8=", "%"),
        ("duration", "1h30m", "soon"),
        ("date", "2026-01-31", "2026-02-31"),
        ("uri", "http://x", "x y"),
        ("mac", "00:11:22:33:44:55", "00:11"),
        ("unheard-of", "anything", ""),
    ];
    for (format, good, bad) in formats {
        let schema = object(json!({"t": {"type": "string", "format": format}}));
        check(schema.clone(), json!({"t": good}), &[]);
        if !bad.is_empty() {
            let text = format!(
                "spec.t: Invalid value: {bad:?}: spec.t in body must be of type {format}: {bad:?}"
            );
            check(schema, json!({"t": bad}), &[&text]);
        }
    }
}

#[test]
fn lists_with_keys_have_no_duplicates() {
    let schema = object(
        json!({"l": {"type": "array", "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["k"], "items": object(json!({"k": {"type": "string"}, "v": {"type": "integer"}}))}}),
    );
    check(
        schema,
        json!({"l": [{"k": "a"}, {"k": "b"}, {"k": "a", "v": 1}]}),
        &[r#"spec.l[2]: Duplicate value: {"k":"a"}"#],
    );
    let set = object(
        json!({"l": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}),
    );
    check(
        set,
        json!({"l": ["a", "a"]}),
        &[r#"spec.l[1]: Duplicate value: "a""#],
    );
}

#[test]
fn combinations_hold() {
    let one_of = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    check(one_of.clone(), json!({"a": "1"}), &[]);
    check(
        one_of,
        json!({}),
        &[
            r#"spec: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found none valid"#,
        ],
    );
    let any_of = object(json!({"n": {"x-kubernetes-int-or-string": true,
        "anyOf": [{"type": "integer"}, {"type": "string"}]}}));
    check(any_of, json!({"n": "25%"}), &[]);
    let not = json!({"type": "object", "properties": {"a": {"type": "string"}}, "not": {"required": ["a"]}});
    check(
        not,
        json!({"a": "1"}),
        &[r#"spec: Invalid value: "": "spec" must not validate the schema (not)"#],
    );
}

#[test]
fn rules_that_are_not_evaluated_are_mentioned_beside_other_faults() {
    let mut schema = object(json!({"n": {"type": "integer"}}));
    schema["x-kubernetes-validations"] = json!([{"rule": "self.n > 1"}]);
    check(schema.clone(), json!({"n": 1}), &[]);
    let object = json!({"spec": {"n": "x"}});
    let errors = spec(schema).validate(&object);
    assert!(
        errors[1]
            .to_string()
            .starts_with("<nil>: Invalid value: null: some validation rules")
    );
}

#[test]
fn unknown_fields_are_dropped_and_named() {
    let schema = spec(json!({"type": "object", "properties": {
        "a": {"type": "string"},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                 "properties": {"in": {"type": "object", "properties": {}}}},
        "map": {"type": "object", "additionalProperties": object(json!({"v": {"type": "string"}}))},
        "any": {"type": "object", "additionalProperties": true},
        "list": {"type": "array", "items": object(json!({"v": {"type": "string"}}))},
    }}));
    let mut object = json!({"apiVersion": "x/v1", "kind": "X",
        "metadata": {"name": "n", "bogus": 1, "labels": {"a": "b"}},
        "extra": 1,
        "spec": {"a": "1", "b": 2, "open": {"free": 1, "in": {"x": 1}},
                 "map": {"k": {"v": "1", "w": 2}}, "any": {"x": {"y": 1}},
                 "list": [{"v": "1"}, {"w": 1}]}});
    let mut dropped = schema.prune(&mut object);
    dropped.sort();
    assert_eq!(
        dropped,
        [
            "extra",
            "metadata.bogus",
            "spec.b",
            "spec.list[1].w",
            "spec.map.k.w",
            "spec.open.in.x"
        ]
    );
    assert_eq!(
        object,
        json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n", "labels": {"a": "b"}},
            "spec": {"a": "1", "open": {"free": 1, "in": {}}, "map": {"k": {"v": "1"}},
                     "any": {"x": {"y": 1}}, "list": [{"v": "1"}, {}]}})
    );
}

#[test]
fn defaults_fill_what_is_absent() {
    let schema = spec(json!({"type": "object", "default": {}, "properties": {
        "n": {"type": "integer", "default": 3},
        "null": {"type": "string", "nullable": true, "default": "x"},
        "deep": {"type": "object", "properties": {"d": {"type": "boolean", "default": true}}},
        "list": {"type": "array", "items": object(json!({"e": {"type": "string", "default": "e"}}))},
    }}));
    let mut bare = json!({"metadata": {"name": "a"}});
    schema.default(&mut bare);
    assert_eq!(bare["spec"], json!({"n": 3, "null": "x"}));
    let mut given =
        json!({"spec": {"n": null, "null": null, "deep": {}, "list": [{}, {"e": "f"}]}});
    schema.default(&mut given);
    assert_eq!(
        given["spec"],
        json!({"n": 3, "null": null, "deep": {"d": true}, "list": [{"e": "e"}, {"e": "f"}]})
    );
}

#[test]
fn schemas_that_are_not_structural_are_refused_by_path() {
    refused(
        json!({"type": "string"}),
        r#"s.type: Invalid value: "string": must be object at the root"#,
    );
    refused(
        json!({}),
        "s.type: Required value: must not be empty at the root",
    );
    refused(
        object(json!({"a": {}})),
        "s.properties[a].type: Required value: must not be empty for specified object fields",
    );
    refused(
        object(json!({"a": {"type": "array"}})),
        "s.properties[a].items: Required value: must be specified",
    );
    refused(
        object(json!({"a": {"type": "array", "items": {}}})),
        "s.properties[a].items.type: Required value: must not be empty for specified array items",
    );
    refused(
        object(json!({"a": {"type": "text"}})),
        r#"s.properties[a].type: Unsupported value: "text": supported values: "array", "boolean", "integer", "number", "object", "string""#,
    );
    refused(
        object(json!({"a": {"type": "object", "$ref": "x"}})),
        "s.properties[a].$ref: Forbidden: $ref is not supported",
    );
    let both = json!({"type": "object", "properties": {"a": {"type": "string"}},
        "additionalProperties": {"type": "string"}});
    refused(
        object(json!({"x": both})),
        "s.properties[x].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
    );
    let errors = Schema::parse(
        &object(json!({"a": {"type": "string", "pattern": "("}})),
        "s",
    );
    assert!(
        errors.unwrap_err()[0]
            .to_string()
            .starts_with("s.properties[a].pattern: Invalid value")
    );
    let errors = Schema::parse(
        &object(json!({"a": {"type": "integer", "default": "x"}})),
        "s",
    );
    assert!(
        errors.unwrap_err()[0]
            .to_string()
            .starts_with("s.properties[a].default: Invalid value")
    );
    let mut deep = json!({"type": "string"});
    for _ in 0..80 {
        deep = object(json!({"a": deep}));
    }
    let errors = Schema::parse(&deep, "s").unwrap_err();
    assert!(
        errors
            .iter()
            .any(|one| one.to_string().contains("nest at most"))
    );
}

#[test]
fn a_schema_is_never_a_reason_to_refuse_everything() {
    let mut object = json!({"spec": {"free": 1}});
    let schema: Schema = Default::default();
    assert!(schema.prune(&mut object).is_empty());
    assert!(schema.validate(&object).is_empty());
    assert_eq!(object, json!({"spec": {"free": 1}}));
}
