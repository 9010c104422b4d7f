use serde_json::{Value, json};

use super::{
    Schema,
    definition::{self, Context},
};

fn spec(schema: Value) -> Schema {
    let root = json!({"type": "object", "properties": {"spec": schema}});
    Schema::parse(&root)
}

/// The errors of `spec`, one text each.
#[track_caller]
fn check(schema: Value, value: Value, expected: &[&str]) {
    let object = json!({"apiVersion": "a/v1", "kind": "A", "metadata": {}, "spec": value});
    let errors = spec(schema).validate(&object, None).errors;
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected);
}

fn faults(schema: &Value) -> Vec<String> {
    let errors = definition::check(schema, "s", Context::default());
    errors.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn accepted(schema: Value) {
    assert_eq!(faults(&schema), [""; 0]);
}

#[track_caller]
fn refused(schema: Value, expected: &str) {
    let errors = faults(&schema);
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
    let starts = |schema: Value, start: &str| {
        let found = faults(&schema);
        assert!(found[0].starts_with(start), "{found:?}");
    };
    starts(
        object(json!({"a": {"type": "string", "pattern": "("}})),
        "s.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: ",
    );
    refused(
        object(json!({"a": {"type": "integer", "default": "x"}})),
        r#"s.properties[a].default: Invalid value: "string": s.properties[a].default in body must be of type integer: "string""#,
    );
    let mut deep = json!({"type": "string"});
    for _ in 0..80 {
        deep = object(json!({"a": deep}));
    }
    refused(deep, "s: Forbidden: schemas nest at most 64 levels");
}

#[test]
fn a_schema_is_never_a_reason_to_refuse_everything() {
    let mut object = json!({"spec": {"free": 1}});
    let schema: Schema = Default::default();
    assert!(schema.prune(&mut object).is_empty());
    assert!(schema.validate(&object, None).errors.is_empty());
    assert_eq!(object, json!({"spec": {"free": 1}}));
}

/// A schema whose `spec` has the given rules.
fn ruled(mut schema: Value, rules: Value) -> Schema {
    schema["x-kubernetes-validations"] = rules;
    spec(schema)
}

fn told(schema: &Schema, new: Value, old: Option<Value>) -> (Vec<String>, Vec<String>) {
    let object = |spec: Value| json!({"apiVersion": "a/v1", "kind": "A", "metadata": {"name": "a"}, "spec": spec});
    let judged = schema.validate(&object(new), old.map(object).as_ref());
    let errors = judged.errors.iter().map(ToString::to_string).collect();
    (errors, judged.warnings)
}

#[track_caller]
fn rule(schema: &Schema, new: Value, old: Option<Value>, expected: &[&str]) {
    assert_eq!(told(schema, new, old).0, expected);
}

#[test]
fn rules_hold_or_say_why_not() {
    let numbers = || object(json!({"n": {"type": "integer"}, "m": {"type": "integer"}}));
    let schema = ruled(numbers(), json!([{"rule": "self.n < self.m"}]));
    rule(&schema, json!({"n": 1, "m": 2}), None, &[]);
    rule(
        &schema,
        json!({"n": 2, "m": 2}),
        None,
        &[r#"spec: Invalid value: "object": failed rule: self.n < self.m"#],
    );
    rule(
        &schema,
        json!({"n": 2}),
        None,
        &[r#"spec: Invalid value: "object": no such key: m evaluating rule: self.n < self.m"#],
    );
    let schema = ruled(
        numbers(),
        json!([
            {"rule": "self.n != 1", "message": "not one"},
            {"rule": "self.n != 1", "messageExpression": "'not ' + string(self.n)"},
            {"rule": "self.n != 1", "message": "plain", "messageExpression": "string(self.m)"},
            {"rule": "self.n != 1", "message": "forbidden", "reason": "FieldValueForbidden"},
            {"rule": "self.n != 1", "message": "required", "reason": "FieldValueRequired", "fieldPath": ".m"},
            {"rule": "self.n != 1", "reason": "FieldValueDuplicate"},
        ]),
    );
    rule(
        &schema,
        json!({"n": 1}),
        None,
        &[
            r#"spec: Invalid value: "object": not one"#,
            r#"spec: Invalid value: "object": not 1"#,
            r#"spec: Invalid value: "object": plain"#,
            "spec: Forbidden: forbidden",
            "spec.m: Required value: required",
            r#"spec: Duplicate value: "object""#,
        ],
    );
}

#[test]
fn rules_see_values_as_their_schema_types_them() {
    let holds = |schema: Value, value: Value, text: &str| {
        let schema = ruled(schema, json!([{"rule": text}]));
        rule(&schema, value, None, &[]);
    };
    let text = |format: &str| json!({"type": "string", "format": format});
    holds(
        object(
            json!({"t": text("date-time"), "d": text("duration"), "day": text("date"), "b": text("byte")}),
        ),
        json!({"t": "2026-01-02T03:04:05Z", "d": "1h30m", "day": "2026-01-02", "b": "YWJj"}),
        "self.t > timestamp('2026-01-01T00:00:00Z') && self.d == duration('90m') && \
         self.day.getDate() == 2 && self.b == b'abc'",
    );
    holds(
        object(
            json!({"p": {"x-kubernetes-int-or-string": true}, "q": {"x-kubernetes-int-or-string": true}}),
        ),
        json!({"p": 8, "q": "50%"}),
        "type(self.p) == int && type(self.q) == string && (type(self.q) == int ? self.q > 1 : \
         self.q.endsWith('%'))",
    );
    holds(
        object(
            json!({"a-b": {"type": "integer"}, "c.d/e": {"type": "integer"}, "namespace": {"type": "string"},
                      "x__y": {"type": "integer"}}),
        ),
        json!({"a-b": 1, "c.d/e": 2, "namespace": "n", "x__y": 3}),
        "self.a__dash__b == 1 && self.c__dot__d__slash__e == 2 && self.__namespace__ == 'n' && \
         self.x__underscores__y == 3",
    );
    holds(
        object(json!({"n": {"type": "number"}, "null": {"type": "string", "nullable": true}})),
        json!({"n": 2, "null": null}),
        "self.n == 2.0 && !has(self.__null__)",
    );
    let keyed = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}});
    holds(
        object(json!({"a": keyed, "b": keyed})),
        json!({"a": [{"k": "x", "v": 1}, {"k": "y", "v": 2}], "b": [{"k": "y", "v": 2}, {"k": "x", "v": 1}]}),
        "self.a == self.b && (self.a + self.b).size() == 2",
    );
    let set =
        json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}});
    holds(
        object(json!({"a": set, "b": set})),
        json!({"a": ["x", "y"], "b": ["y", "x"]}),
        "self.a == self.b && (self.a + ['z', 'x']).size() == 3",
    );
    holds(
        json!({"type": "object", "additionalProperties": {"type": "integer"}}),
        json!({"x": 1, "y": 2}),
        "self.all(k, self[k] > 0) && 'x' in self && self.size() == 2",
    );
    let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true,
        "x-kubernetes-preserve-unknown-fields": true});
    holds(
        object(json!({"e": embedded})),
        json!({"e": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}}),
        "self.e.kind == 'Pod' && self.e.metadata.name == 'p'",
    );
}

#[test]
fn rules_of_transition_run_where_there_is_an_old_value() {
    let schema = ruled(
        object(
            json!({"n": {"type": "integer", "x-kubernetes-validations": [
            {"rule": "self >= oldSelf", "message": "may not shrink"}]},
          "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer",
                    "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed"}]}}}}}),
        ),
        json!([{"rule": "oldSelf.hasValue() || self.n == 1", "optionalOldSelf": true, "message": "starts at 1"}]),
    );
    rule(&schema, json!({"n": 1}), None, &[]);
    rule(
        &schema,
        json!({"n": 2}),
        None,
        &[r#"spec: Invalid value: "object": starts at 1"#],
    );
    rule(&schema, json!({"n": 2}), Some(json!({"n": 1})), &[]);
    rule(
        &schema,
        json!({"n": 1}),
        Some(json!({"n": 2})),
        &[r#"spec.n: Invalid value: "integer": may not shrink"#],
    );
    rule(
        &schema,
        json!({"n": 1, "l": [{"k": "new", "v": 5}, {"k": "a", "v": 2}]}),
        Some(json!({"n": 1, "l": [{"k": "a", "v": 1}]})),
        &[r#"spec.l[1].v: Invalid value: "integer": fixed"#],
    );
}

#[test]
fn what_did_not_change_is_not_held_against_the_client() {
    let schema = ruled(
        object(json!({
            "n": {"type": "integer", "maximum": 5},
            "o": {"type": "object", "properties": {"t": {"type": "string", "maxLength": 2}},
                  "x-kubernetes-validations": [{"rule": "self.t != 'bad'", "message": "bad"}]},
        })),
        json!([]),
    );
    let old = json!({"n": 9, "o": {"t": "bad"}});
    let (errors, warnings) = told(
        &schema,
        json!({"n": 9, "o": {"t": "bad"}, "x": 1}),
        Some(old.clone()),
    );
    assert_eq!(errors, [""; 0]);
    assert_eq!(warnings, [r#"spec.o: Invalid value: "object": bad"#]);
    let (errors, _) = told(&schema, json!({"n": 8, "o": {"t": "bad"}}), Some(old));
    assert_eq!(
        errors,
        ["spec.n: Invalid value: 8: spec.n in body should be less than or equal to 5"]
    );
}

#[test]
fn rules_that_are_wrong_are_refused_with_the_definition() {
    let with = |schema: Value, rules: Value| {
        let mut schema = schema;
        schema["x-kubernetes-validations"] = rules;
        object(json!({"spec": schema}))
    };
    let n = || object(json!({"n": {"type": "integer"}}));
    accepted(with(n(), json!([{"rule": "self.n > 1"}])));
    refused(
        with(n(), json!([{"rule": "self.nope > 1"}])),
        "s.properties[spec].x-kubernetes-validations[0].rule: Invalid value: \
         {\"Rule\":\"self.nope \\u003e 1\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\
         \"FieldPath\":\"\",\"OptionalOldSelf\":null}: compilation failed: ERROR: <input>:1:5: undefined \
         field 'nope'\n | self.nope > 1\n | ....^",
    );
    let at = "s.properties[spec].x-kubernetes-validations[0]";
    for (rule, expected) in [
        (
            json!({"rule": " "}),
            format!("{at}.rule: Required value: rule is not specified"),
        ),
        (
            json!({"rule": "true", "message": " "}),
            format!("{at}.message: Invalid value: \" \": message must be non-empty if specified"),
        ),
        (
            json!({"rule": "true", "message": "a\nb"}),
            format!("{at}.message: Invalid value: \"a\\nb\": message must not contain line breaks"),
        ),
        (
            json!({"rule": "true &&\ntrue"}),
            format!(
                "{at}.message: Required value: message must be specified if rule contains line breaks"
            ),
        ),
        (
            json!({"rule": "true", "reason": "Because"}),
            format!(
                "{at}.reason: Unsupported value: \"Because\": supported values: \"FieldValueDuplicate\", \
                 \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\""
            ),
        ),
        (
            json!({"rule": "true", "fieldPath": ".nope"}),
            format!("{at}.fieldPath: Invalid value: \".nope\": fieldPath must be a valid path"),
        ),
        (
            json!({"rule": "true", "optionalOldSelf": true}),
            format!(
                "{at}.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
            ),
        ),
    ] {
        refused(with(n(), json!([rule])), &expected);
    }
    let told = |rule: Value| faults(&with(n(), json!([rule]))).join("\n");
    assert!(told(json!({"rule": "self.n"})).ends_with("cel expression must evaluate to a bool"));
    let message = json!({"rule": "true", "messageExpression": "self.n"});
    assert!(told(message).ends_with("messageExpression must evaluate to a string"));
    let list = json!({"type": "array", "items": {"type": "integer", "x-kubernetes-validations": [
        {"rule": "self == oldSelf"}]}});
    refused(
        object(json!({"l": list})),
        "s.properties[l].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf \
         cannot be used on the uncorrelatable portion of the schema within s.properties[l]",
    );
}

#[test]
fn rules_that_may_cost_too_much_are_refused() {
    let list = |limits: Value| {
        let mut inner = json!({"type": "array", "items": {"type": "string"}});
        let mut schema = object(json!({"l": {"type": "array", "items": {}}}));
        if let Value::Object(limits) = limits {
            for (name, value) in limits {
                inner[name] = value;
            }
        }
        schema["properties"]["l"] = inner;
        schema["x-kubernetes-validations"] =
            json!([{"rule": "self.l.all(a, self.l.all(b, a == b || a.contains('x')))"}]);
        object(json!({"spec": schema}))
    };
    let found = faults(&list(json!({}))).join("\n");
    assert!(
        found.contains(
            "s.properties[spec].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds \
             budget by factor of more than 100x (try simplifying the rule, or adding maxItems, \
             maxProperties, and maxLength where arrays, maps, and strings are declared)"
        ),
        "{found}"
    );
    assert!(
        found.contains(
            "s: Forbidden: x-kubernetes-validations estimated rule cost total for entire"
        )
    );
    accepted(list(
        json!({"maxItems": 10, "items": {"type": "string", "maxLength": 100}}),
    ));
}

#[test]
fn junctors_only_add_conditions() {
    let any = |inner: Value| object(json!({"a": {"type": "integer", "anyOf": [inner]}}));
    accepted(any(json!({"minimum": 1})));
    for (inner, expected) in [
        (
            json!({"type": "integer"}),
            "type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"description": "x"}),
            "description: Forbidden: must be empty to be structural",
        ),
        (
            json!({"nullable": true}),
            "nullable: Forbidden: must be false to be structural",
        ),
        (
            json!({"default": 1}),
            "default: Forbidden: must be undefined to be structural",
        ),
        (
            json!({"additionalProperties": {}}),
            "additionalProperties: Forbidden: must be undefined to be structural",
        ),
        (
            json!({"x-kubernetes-validations": [{"rule": "true"}]}),
            "x-kubernetes-validations: Forbidden: must be empty to be structural",
        ),
    ] {
        refused(any(inner), &format!("s.properties[a].anyOf[0].{expected}"));
    }
    let mut root = object(json!({"a": {"type": "integer"}}));
    root["anyOf"] = json!([{"properties": {"b": {"minimum": 1}}}]);
    refused(
        root,
        "s.properties[b]: Required value: because it is defined in s.anyOf[0].properties[b]",
    );
    let either = json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]});
    accepted(object(json!({"a": either})));
    accepted(object(json!({"a": {"x-kubernetes-int-or-string": true,
        "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"minimum": 1}]}})));
}

#[test]
fn extensions_ask_for_what_they_need() {
    let part = |part: Value| object(json!({"a": part}));
    for (schema, expected) in [
        (
            json!({"type": "string", "x-kubernetes-list-type": "set"}),
            r#"type: Invalid value: "string": must be array if x-kubernetes-list-type is specified"#,
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "bag"}),
            r#"x-kubernetes-list-type: Unsupported value: "bag": supported values: "atomic", "set", "map""#,
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-map-keys": ["k"]}),
            "x-kubernetes-list-type: Required value: must be map if x-kubernetes-list-map-keys is non-empty",
        ),
        (
            json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}),
            "x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                   "items": {"type": "object", "properties": {"k": {"type": "string"}}}}),
            "items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so \
             it must have a default or be a required property",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}),
            "items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with \
             x-kubernetes-list-type=set",
        ),
        (
            json!({"type": "string", "x-kubernetes-map-type": "atomic"}),
            r#"type: Invalid value: "string": must be object if x-kubernetes-map-type is specified"#,
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false}),
            "x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ),
        (
            json!({"type": "object", "x-kubernetes-embedded-resource": true}),
            "properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without \
             x-kubernetes-preserve-unknown-fields",
        ),
    ] {
        refused(part(schema), &format!("s.properties[a].{expected}"));
    }
    refused(
        object(
            json!({"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}),
        ),
        "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but \
         metadata is implicitly specified",
    );
    accepted(object(
        json!({"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}}}),
    ));
    refused(
        object(json!({"a": {"type": "object", "default": {"b": 1}, "properties": {}}})),
        r#"s.properties[a].default: Invalid value: {"b":1}: must not have unknown fields"#,
    );
}

#[test]
fn a_root_beside_a_status_says_less() {
    let mut schema = object(json!({"spec": {"type": "object"}}));
    schema["anyOf"] = json!([{"required": ["spec"]}]);
    let context = Context {
        status: true,
        ..Context::default()
    };
    let found = definition::check(&schema, "s", context)[0].to_string();
    assert!(
        found.starts_with("s: Invalid value: {\"ID\":\"\",\"Schema\":\"\""),
        "{found}"
    );
    assert!(
        found.contains("only [Description Type Format Title Maximum"),
        "{found}"
    );
}

#[test]
fn nulls_where_null_is_no_value_are_dropped() {
    let schema = spec(object(
        json!({"a": {"type": "string"}, "b": {"type": "string", "nullable": true},
        "c": {"type": "string", "default": "d"}}),
    ));
    let mut object = json!({"spec": {"a": null, "b": null, "c": null}});
    assert!(schema.prune(&mut object).is_empty());
    schema.default(&mut object);
    assert_eq!(object, json!({"spec": {"b": null, "c": "d"}}));
}

#[test]
fn embedded_resources_say_what_they_are() {
    let schema = spec(object(
        json!({"e": {"type": "object", "x-kubernetes-embedded-resource": true,
        "x-kubernetes-preserve-unknown-fields": true}}),
    ));
    rule(
        &schema,
        json!({"e": {"kind": "", "metadata": {"name": "No Name", "labels": {"a": "b c"}}}}),
        None,
        &[
            "spec.e.apiVersion: Required value: must not be empty",
            r#"spec.e.kind: Invalid value: "": must not be empty"#,
            "spec.e.metadata.labels: Invalid value: \"b c\": a valid label must be an empty string or consist \
             of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
             character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
             '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ],
    );
}
