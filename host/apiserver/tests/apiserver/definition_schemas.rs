//! What the schema of a definition does to its objects: lists, whole objects inside, pruning,
//! defaults, subresources, rules. The cases are those that Kubernetes tests its own server with.

use eyot_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::{get, ok, send, server};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.x.test";
const THINGS: &str = "/apis/x.test/v1/things";

fn definition(schema: Value, more: Value) -> Value {
    let mut version = json!({"name": "v1", "served": true, "storage": true,
                             "schema": {"openAPIV3Schema": schema}});
    version
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    json!({
        "metadata": {"name": "things.x.test"},
        "spec": {"group": "x.test", "scope": "Cluster", "versions": [version],
                 "names": {"plural": "things", "kind": "Thing"}},
    })
}

async fn defined(schema: Value, more: Value) -> ApiServer {
    let server = server().await;
    ok(&server, "POST", CRDS, definition(schema, more)).await;
    server
}

async fn redefine(server: &ApiServer, schema: Value) {
    let versions = definition(schema, json!({}))["spec"]["versions"].take();
    ok(
        server,
        "PATCH",
        CRD,
        json!({"spec": {"versions": versions}}),
    )
    .await;
}

fn thing(name: &str, fields: Value) -> Value {
    let mut thing = json!({"apiVersion": "x.test/v1", "kind": "Thing", "metadata": {"name": name}});
    thing
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    thing
}

/// The places and the first words of all that is wrong.
#[track_caller]
fn causes((code, status): (u16, Value)) -> Vec<String> {
    assert_eq!(code, 422, "{status}");
    let causes = status["details"]["causes"].as_array().unwrap();
    let told = |cause: &Value| {
        let message = cause["message"].as_str().unwrap();
        format!("{}: {message}", cause["field"].as_str().unwrap())
    };
    causes.iter().map(told).collect()
}

#[tokio::test]
async fn items_of_keyed_lists_and_sets_are_different_ones() {
    let keyed = |keys: Value| {
        json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys,
               "items": {"type": "object", "required": ["a", "b"], "properties": {
                   "a": {"type": "integer"}, "b": {"type": "integer"}}}})
    };
    let set = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {
        "type": "object", "x-kubernetes-map-type": "atomic",
        "additionalProperties": {"type": "integer"}}});
    let schema =
        |keys: Value| json!({"type": "object", "properties": {"map": keyed(keys), "set": set}});
    let server = defined(schema(json!(["a", "b"])), json!({})).await;
    let good = json!({"map": [{"a": 1, "b": 1}, {"a": 1, "b": 2}],
                      "set": [{"a": 1, "b": 1}, {"a": 1}, {}]});
    let made = ok(&server, "POST", THINGS, thing("a", good)).await;
    let bad = json!({"map": [{"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 1}],
                     "set": [{"a": 1}, {"b": 1}, {"a": 1}]});
    assert_eq!(
        causes(send(&server, "POST", THINGS, thing("b", bad)).await),
        [
            "map[2]: Duplicate value: {\"a\":1,\"b\":1}",
            "set[2]: Duplicate value: {\"a\":1}",
        ]
    );
    // With another key two items are the same; what was so before may stay.
    redefine(&server, schema(json!(["a"]))).await;
    let mut changed = made;
    changed["metadata"]["labels"] = json!({"x": "y"});
    ok(&server, "PUT", &format!("{THINGS}/a"), changed).await;
}

#[tokio::test]
async fn whole_objects_inside_are_held_to_what_objects_are() {
    let whole = json!({"type": "object", "x-kubernetes-embedded-resource": true,
                       "x-kubernetes-preserve-unknown-fields": true});
    let mut nested = whole.clone();
    nested["properties"] = json!({"embedded": whole});
    let schema = json!({"type": "object", "properties": {
        "embedded": whole, "nested": nested,
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let server = defined(schema, json!({})).await;
    let inner = |more: Value| {
        let mut object = json!({"apiVersion": "foo/v1", "kind": "Foo",
                                "metadata": {"name": "foo", "unspecified": "bar"}});
        let fields = object.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        object
    };
    let object = thing(
        "a",
        json!({"embedded": inner(json!({})), "free": inner(json!({})),
               "nested": inner(json!({"embedded": inner(json!({}))}))}),
    );
    let made = ok(&server, "POST", THINGS, object).await;
    for path in ["/embedded", "/nested", "/nested/embedded"] {
        let metadata = made.pointer(path).unwrap()["metadata"].clone();
        assert_eq!(metadata, json!({"name": "foo"}), "{path}");
    }
    assert_eq!(made["free"]["metadata"]["unspecified"], "bar");
    let wrong = inner(json!({"metadata": {"name": "n", "namespace": 42}}));
    let wrong = thing("b", json!({"embedded": wrong}));
    let (code, refused) = send(&server, "POST", THINGS, wrong).await;
    assert_eq!(code, 400, "{refused}");
    assert_eq!(
        refused["message"],
        "Thing in version \"v1\" cannot be handled as a Thing: embedded.metadata: Invalid value: \
         {\"name\":\"n\",\"namespace\":42}: json: cannot unmarshal number into Go struct field \
         ObjectMeta.namespace of type string"
    );
    let wrong = |more: Value| {
        let mut object = inner(json!({"kind": "%", "metadata": {"name": ".."}}));
        let fields = object.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        object
    };
    let mut object = thing(
        "b",
        json!({"embedded": wrong(json!({})),
               "nested": wrong(json!({"embedded": wrong(json!({}))}))}),
    );
    object["metadata"]["labels"] = json!({"foo": "x y"});
    let found = causes(send(&server, "POST", THINGS, object).await).join("\n");
    for part in [
        "metadata.labels: Invalid value: \"x y\"",
        "embedded.kind: Invalid value: \"%\"",
        "embedded.metadata.name: Invalid value: \"..\"",
        "nested.kind: Invalid value: \"%\"",
        "nested.metadata.name: Invalid value: \"..\"",
        "nested.embedded.kind: Invalid value: \"%\"",
        "nested.embedded.metadata.name: Invalid value: \"..\"",
    ] {
        assert!(found.contains(part), "{part} is not in {found}");
    }
    let found = causes(send(&server, "POST", THINGS, thing("c", json!({"embedded": {}}))).await);
    assert_eq!(
        found,
        [
            "embedded.apiVersion: Required value: must not be empty",
            "embedded.kind: Required value: must not be empty",
        ]
    );
}

#[tokio::test]
async fn what_the_schema_does_not_name_is_dropped_unless_it_is_kept_there() {
    let schema = json!({"type": "object", "properties": {
        "alpha": {"type": "string"},
        "beta": {"type": "number"},
        "kept": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "strict": {"type": "object", "properties": {"a": {"type": "string"}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {
                "a": {"type": "string"}}}}}},
        "status": {"type": "object", "properties": {"alpha": {"type": "string"}}}}});
    let server = defined(schema, json!({"subresources": {"status": {}}})).await;
    let object = thing(
        "a",
        json!({"alpha": "x", "beta": 42.0, "unspecified": 1, "status": {"alpha": "no"}, "kept": {
            "any": {"deep": [1]}, "strict": {"a": "a", "b": "b"}, "list": [{"a": "a", "b": "b"}]}}),
    );
    let made = ok(&server, "POST", THINGS, object).await;
    assert_eq!(made.get("unspecified"), None);
    assert_eq!(made.get("status"), None);
    assert_eq!(
        made["kept"],
        json!({"any": {"deep": [1]}, "strict": {"a": "a"}, "list": [{"a": "a"}]})
    );
    let mut next = made;
    next["alpha"] = json!("not through here");
    next["status"] = json!({"alpha": "yes", "unspecified": 1});
    let seen = ok(&server, "PUT", &format!("{THINGS}/a/status"), next).await;
    assert_eq!(
        (&seen["alpha"], &seen["status"]),
        (&json!("x"), &json!({"alpha": "yes"}))
    );
    assert_eq!(seen["metadata"]["generation"], 1);
    let patch = json!({"unspecified": 1, "kept": {"strict": {"c": 1, "a": "b"}}});
    let seen = ok(&server, "PATCH", &format!("{THINGS}/a"), patch).await;
    assert_eq!(seen.get("unspecified"), None);
    assert_eq!(seen["kept"]["strict"], json!({"a": "b"}));
    assert_eq!(seen["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_default_stays_once_it_was_stored() {
    let schema = |defaults: &[(&str, u64)]| {
        let mut properties = json!({"a": {"type": "integer"}, "b": {"type": "integer"},
            "n": {"type": "integer", "nullable": true, "default": 7},
            "m": {"type": "integer", "default": 8}});
        for (name, default) in defaults {
            properties[name]["default"] = (*default).into();
        }
        json!({"type": "object", "properties": properties})
    };
    let server = defined(schema(&[("a", 42)]), json!({})).await;
    let made = ok(
        &server,
        "POST",
        THINGS,
        thing("x", json!({"n": null, "m": null})),
    )
    .await;
    // A null that may be stays; one that may not is as if it were not there.
    assert_eq!(
        (&made["a"], &made["n"], &made["m"]),
        (&json!(42), &Value::Null, &json!(8))
    );
    let path = format!("{THINGS}/x");
    let numbers = |seen: Value| (seen.get("a").cloned(), seen.get("b").cloned());
    redefine(&server, schema(&[("a", 42), ("b", 42)])).await;
    let seen = numbers(get(&server, &path).await.1);
    assert_eq!(seen, (Some(json!(42)), Some(json!(42))));
    // What was never stored goes with its default.
    redefine(&server, schema(&[])).await;
    let seen = numbers(get(&server, &path).await.1);
    assert_eq!(seen, (Some(json!(42)), None));
    redefine(&server, schema(&[("a", 43), ("b", 43)])).await;
    let mut next = get(&server, &path).await.1;
    next.as_object_mut().unwrap().remove("b");
    let seen = numbers(ok(&server, "PUT", &path, next).await);
    assert_eq!(seen, (Some(json!(42)), Some(json!(43))));
    redefine(&server, schema(&[])).await;
    let seen = numbers(get(&server, &path).await.1);
    assert_eq!(seen, (Some(json!(42)), Some(json!(43))));
}

#[tokio::test]
async fn a_status_has_defaults_once_there_is_one() {
    let schema = json!({"type": "object", "properties": {"status": {
        "type": "object", "properties": {"num": {"type": "integer", "default": 42}}}}});
    let server = defined(schema, json!({"subresources": {"status": {}}})).await;
    let made = ok(&server, "POST", THINGS, thing("a", json!({}))).await;
    assert_eq!(made.get("status"), None);
    let mut next = made;
    next["status"] = json!({});
    let seen = ok(&server, "PUT", &format!("{THINGS}/a/status"), next).await;
    assert_eq!(seen["status"]["num"], 42);
}

#[tokio::test]
async fn rules_see_an_old_value_only_where_there_is_one() {
    let schema = json!({"type": "object", "properties": {"spec": {
        "type": "object",
        "properties": {"x": {"type": "integer", "maximum": 1000}, "y": {"type": "integer"}},
        "x-kubernetes-validations": [
            {"rule": "!oldSelf.hasValue() ? self.x == 1 : self.x >= oldSelf.value().x",
             "optionalOldSelf": true, "message": "begins at one and grows", "fieldPath": ".x"},
            {"rule": "!has(oldSelf.y) || has(self.y)", "messageExpression": "'y was ' + \
             string(oldSelf.y)", "reason": "FieldValueRequired"}]}}});
    let server = defined(schema, json!({})).await;
    let spec = |x: u64| json!({"spec": {"x": x}});
    assert_eq!(
        causes(send(&server, "POST", THINGS, thing("a", spec(2))).await),
        ["spec.x: Invalid value: \"object\": begins at one and grows"]
    );
    ok(
        &server,
        "POST",
        THINGS,
        thing("a", json!({"spec": {"x": 1, "y": 5}})),
    )
    .await;
    let path = format!("{THINGS}/a");
    ok(&server, "PATCH", &path, spec(3)).await;
    assert_eq!(
        causes(send(&server, "PATCH", &path, spec(2)).await),
        ["spec.x: Invalid value: \"object\": begins at one and grows"]
    );
    let patch = json!({"spec": {"y": null}});
    assert_eq!(
        causes(send(&server, "PATCH", &path, patch).await),
        ["spec: Required value: y was 5"]
    );
}

#[tokio::test]
async fn rules_that_may_cost_too_much_are_refused_with_the_definition() {
    let server = server().await;
    let rule = |rule: &str| json!([{"rule": rule}]);
    let asked = async |schema: Value| {
        let schema = json!({"type": "object", "properties": {"f": schema}});
        causes(send(&server, "POST", CRDS, definition(schema, json!({}))).await)
    };
    let at = "spec.validation.openAPIV3Schema.properties[f]";
    // Nobody says how many items there are.
    let found = asked(json!({"type": "array", "items": {"type": "string"},
        "x-kubernetes-validations": rule("self.all(x, self.all(y, x == y))")}))
    .await;
    let start = format!(
        "{at}.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of "
    );
    assert!(found[0].starts_with(&start), "{found:?}");
    assert!(
        found[0].ends_with(
            "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where \
             arrays, maps, and strings are declared)"
        ),
        "{found:?}"
    );
    // The same with limits is fine.
    let schema = json!({"type": "object", "properties": {"f": {
        "type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10},
        "x-kubernetes-validations": rule("self.all(x, self.all(y, x == y))")}}});
    ok(&server, "POST", CRDS, definition(schema, json!({}))).await;
    ok(&server, "DELETE", CRD, Value::Null).await;
    let found = asked(json!({"type": "string", "x-kubernetes-validations": [
        {"rule": "true", "message": " "},
        {"rule": "", "reason": "Nope"},
        {"rule": "true", "fieldPath": ".a"}]}))
    .await;
    let rules = format!("{at}.x-kubernetes-validations");
    let told = found.join("\n");
    for part in [
        "[0].message: Invalid value: \" \": message must be non-empty if specified",
        "[1].rule: Required value: rule is not specified",
        "[1].reason: Unsupported value: \"Nope\"",
        "[2].fieldPath: Invalid value: \".a\"",
    ] {
        let part = format!("{rules}{part}");
        assert!(told.contains(&part), "{part} is not in {told}");
    }
    let found = asked(json!({"type": "string", "x-kubernetes-validations": [
        {"rule": "true", "messageExpression": "1"},
        {"rule": "self == 'a'", "optionalOldSelf": true}]}))
    .await;
    assert_eq!(
        found,
        [
            format!(
                "{rules}[0].messageExpression: Invalid value: {{\"Rule\":\"true\",\"Message\":\"\",\
                 \"MessageExpression\":\"1\",\"Reason\":null,\"FieldPath\":\"\",\
                 \"OptionalOldSelf\":null}}: messageExpression must evaluate to a string"
            ),
            format!(
                "{rules}[1].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not \
                 used in rule"
            ),
        ]
    );
}
