//! What an object keeps although the schema of its definition became stricter, keyword by keyword.
//!
//! The steps are those of Kubernetes' own tests of ratcheting: a definition is made stricter, then
//! an object that was valid before is applied again and again, in its own words.

use eyot_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::{bytes, ok, raw, server};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mycrds.x.test";
const OBJECT: &str = "/apis/x.test/v1beta1/mycrds/a?fieldManager=manager&force=true";

/// One step in the life of an object and its definition.
enum Step {
    /// The schema of the `content` is this one from now on.
    Schema(Value),
    /// Apply this content, which is taken.
    Taken(Value),
    /// Apply this content, which is refused.
    Refused(Value),
}
use Step::{Refused, Schema, Taken};

fn versions(content: &Value) -> Value {
    json!([{"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
        "type": "object", "properties": {"content": content}}}}])
}

async fn apply(server: &ApiServer, content: &Value) -> (u16, Value) {
    let body = json!({"apiVersion": "x.test/v1beta1", "kind": "MyCrd", "metadata": {"name": "a"},
                      "content": content});
    let media = [("content-type", "application/apply-patch+yaml")];
    let answer = raw(server, "PATCH", OBJECT, &media, body.to_string()).await;
    let code = answer.status().as_u16();
    let body = bytes(answer).await;
    (code, serde_json::from_slice(&body).unwrap())
}

async fn follow(steps: Vec<Step>) {
    let server = server().await;
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "metadata": {"name": "mycrds.x.test"},
        "spec": {"group": "x.test", "scope": "Cluster", "versions": versions(&any),
                 "names": {"plural": "mycrds", "kind": "MyCrd"}},
    });
    ok(&server, "POST", CRDS, definition).await;
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Schema(schema) => {
                let change = json!({"spec": {"versions": versions(&schema)}});
                ok(&server, "PATCH", CRD, change).await;
            }
            Taken(content) => {
                let (code, answer) = apply(&server, &content).await;
                assert!(code < 300, "step {number}: {content}: {answer}");
            }
            Refused(content) => {
                let (code, answer) = apply(&server, &content).await;
                assert_eq!(code, 422, "step {number}: {content}: {answer}");
            }
        }
    }
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

fn text() -> Value {
    json!({"type": "string"})
}

#[tokio::test]
async fn bounds_of_numbers() {
    let number = json!({"type": "integer"});
    follow(vec![
        Schema(object(
            json!({"min": number, "max": number, "both": number}),
        )),
        Taken(json!({"min": 0, "max": 1000, "both": 50})),
        Schema(object(json!({
            "min": {"type": "integer", "minimum": 10},
            "max": {"type": "integer", "maximum": 20},
            "both": {"type": "integer", "minimum": 10, "maximum": 20},
            "free": number}))),
        Taken(json!({"min": 0, "max": 1000, "both": 50, "free": 50})),
        Refused(json!({"min": 5, "max": 1000, "both": 50, "free": 50})),
        Refused(json!({"min": 5, "max": 21, "both": 50, "free": 50})),
        Taken(json!({"min": 11, "max": 1000, "both": 50, "free": 50})),
        Taken(json!({"min": 11, "max": 19, "both": 15, "free": 50})),
        Refused(json!({"min": 0, "max": 19, "both": 15, "free": 50})),
    ])
    .await;
}

#[tokio::test]
async fn words_of_an_enumeration() {
    follow(vec![
        Schema(object(json!({"word": text()}))),
        Taken(json!({"word": "fine for now"})),
        Schema(object(
            json!({"word": {"type": "string", "enum": ["A", "B"]}, "other": text()}),
        )),
        Taken(json!({"word": "fine for now"})),
        Taken(json!({"word": "fine for now", "other": "anything"})),
        Refused(json!({"word": "D", "other": "anything"})),
        Taken(json!({"word": "A", "other": "anything"})),
        Refused(json!({"word": "fine for now", "other": "anything"})),
    ])
    .await;
}

#[tokio::test]
async fn values_and_numbers_of_properties() {
    let map = |more: Value| {
        let mut map = json!({"type": "object", "additionalProperties": text()});
        map.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        map
    };
    let numbers = |items: Value| json!({"type": "object", "additionalProperties": items});
    let two = json!({"k1": "hi", "k2": "there"});
    let three = json!({"k1": "hi", "k2": "there", "k3": "buddy"});
    follow(vec![
        Schema(object(
            json!({"nums": numbers(json!({"type": "integer"})), "bound": map(json!({})), "free": map(json!({}))}),
        )),
        Taken(json!({"nums": {"a": 1, "b": 1_000_000}, "bound": two})),
        Schema(object(
            json!({"nums": numbers(json!({"type": "integer", "minimum": 1000})),
                "bound": map(json!({"minProperties": 1, "maxProperties": 1})), "free": map(json!({}))}),
        )),
        Taken(json!({"nums": {"a": 1, "b": 2000}, "bound": two})),
        Refused(json!({"nums": {"a": 2, "b": 2000}, "bound": two})),
        Taken(json!({"nums": {"a": 1, "b": 2000}, "bound": two, "free": {"k": "yo"}})),
        Refused(json!({"nums": {"a": 1, "b": 2000}, "bound": {"k1": "changed", "k2": "there"}})),
        Schema(object(
            json!({"bound": map(json!({"minProperties": 2})), "free": map(json!({}))}),
        )),
        Taken(json!({"bound": three})),
        Refused(json!({"bound": {"k1": "hi"}})),
        Schema(object(
            json!({"bound": map(json!({"maxProperties": 1})), "free": map(json!({}))}),
        )),
        Taken(json!({"bound": three, "free": {"k1": "v", "k2": "v"}})),
        Refused(json!({"bound": {"k1": "hi", "k2": "theirs", "k3": "buddy"}})),
    ])
    .await;
}

#[tokio::test]
async fn lengths_of_lists() {
    let list = |more: Value| {
        let mut list = json!({"type": "array", "items": text()});
        list.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        object(json!({"list": list, "field": text()}))
    };
    let three = json!(["v1", "v2", "v3"]);
    let ten = json!(["v1", "v2", "v3", "4", "5", "6", "7", "8", "9", "10"]);
    for (bound, longer, right) in [
        (
            json!({"minItems": 10}),
            json!(["v1", "v2", "v3", "v4"]),
            ten,
        ),
        (json!({"maxItems": 1}), json!(["v1", "v2"]), json!(["v1"])),
    ] {
        follow(vec![
            Schema(list(json!({}))),
            Taken(json!({"list": three})),
            Schema(list(bound)),
            Taken(json!({"list": three, "field": "value"})),
            Refused(json!({"list": ["v2", "v2", "v3"]})),
            Refused(json!({"list": longer})),
            Taken(json!({"list": right})),
            Refused(json!({"list": three})),
        ])
        .await;
    }
}

#[tokio::test]
async fn lengths_patterns_and_formats_of_texts() {
    let long = "valueThatsVeryLongSee";
    follow(vec![
        Schema(object(
            json!({"short": text(), "long": text(), "word": text()}),
        )),
        Taken(json!({"short": "value", "long": long, "word": "no digits"})),
        Schema(object(json!({
            "short": {"type": "string", "minLength": 10},
            "long": {"type": "string", "maxLength": 15},
            "word": {"type": "string", "pattern": "^[1-9]+$"}, "other": text()}))),
        Taken(json!({"short": "value", "long": long, "word": "no digits", "other": "o"})),
        Taken(json!({"short": "valuelength13", "long": long, "word": "no digits"})),
        Taken(json!({"short": "valuelength13", "long": "l2", "word": "no digits"})),
        Refused(json!({"short": "valuelength13", "long": "valuewithlength17"})),
        Refused(json!({"short": "value", "long": "l2", "word": "no digits"})),
        Refused(json!({"short": "valuelength13", "long": long, "word": "no digits"})),
        Refused(json!({"short": "valuelength13", "long": "l2", "word": "w123"})),
        Taken(json!({"word": "123"})),
    ])
    .await;
    let format = |format: &str| {
        object(json!({"field": {"type": "string", "format": format}, "other": text()}))
    };
    let bytes = "dGhpcyBpcyBwYXNzd29yZA==";
    follow(vec![
        Schema(object(json!({"field": text()}))),
        Taken(json!({"field": "doesnt abide any format"})),
        Schema(format("byte")),
        Taken(json!({"field": "doesnt abide any format", "other": "value"})),
        Refused(json!({"field": "asd"})),
        Taken(json!({"field": bytes})),
        Schema(format("date-time")),
        Taken(json!({"field": bytes, "other": "value2"})),
        Taken(json!({"field": "2018-11-13T20:20:39+00:00", "other": "value2"})),
        Refused(json!({"field": bytes, "other": "value2"})),
        Refused(json!({"field": "doesnt abide any format"})),
    ])
    .await;
}

#[tokio::test]
async fn items_with_keys_wherever_they_stand() {
    let schema = |bound: Value, port: Value| {
        let mut list = json!({
            "type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name", "port"],
            "items": {"type": "object", "required": ["name", "port"],
                      "properties": {"name": text(), "port": port, "field": text()}}});
        list.as_object_mut()
            .unwrap()
            .extend(bound.as_object().unwrap().clone());
        object(json!({"list": list}))
    };
    let number = || json!({"type": "integer"});
    let item =
        |name: &str, port: u16, field: &str| json!({"name": name, "port": port, "field": field});
    let (nginx, etcd, api) = (
        item("nginx", 443, "value"),
        item("etcd", 2379, "value"),
        item("api", 6443, "value"),
    );
    let more = item("dev", 8080, "value");
    let changed = item("api", 6443, "another value of a key that is kept");
    follow(vec![
        Schema(schema(json!({}), number())),
        Taken(json!({"list": [nginx, etcd, api]})),
        Schema(schema(json!({"maxItems": 2}), number())),
        Taken(json!({"list": [api, nginx, etcd]})),
        Refused(json!({"list": [api, nginx, etcd, more]})),
        Schema(schema(
            json!({}),
            json!({"type": "integer", "multipleOf": 2}),
        )),
        Taken(json!({"list": [nginx, etcd, api]})),
        Taken(json!({"list": [nginx, etcd, changed, more]})),
        Refused(json!({"list": [nginx, etcd, changed, item("dev", 8081, "value")]})),
    ])
    .await;
}

#[tokio::test]
async fn items_of_atomic_lists_are_new_ones() {
    let schema = |value: Value| {
        object(json!({
            "values": {"type": "array", "items": {"type": "object", "additionalProperties": value}},
            "other": text()}))
    };
    let first = json!({"name": "1", "key": "value"});
    let second = json!({"name": "2", "key": "value"});
    let wider = json!({"name": "2", "key": "value", "key2": "valid value"});
    follow(vec![
        Schema(schema(text())),
        Taken(json!({"values": [first, second]})),
        Schema(schema(json!({"type": "string", "minLength": 6}))),
        Refused(json!({"values": [first, {"name": "2", "key": "bad"}]})),
        Taken(json!({"values": [first, second], "other": "hello world"})),
        Refused(json!({"values": [first, wider]})),
        Refused(json!({"values": [wider, first]})),
    ])
    .await;
}

#[tokio::test]
async fn rules_about_what_was_are_never_passed_over() {
    let rule = |rule: Value| {
        object(
            json!({"field": {"type": "string", "x-kubernetes-validations": [rule]},
                                           "other": text()}),
        )
    };
    follow(vec![
        Schema(rule(
            json!({"rule": "!oldSelf.hasValue()", "message": "only once", "optionalOldSelf": true}),
        )),
        Taken(json!({"field": "value"})),
        Refused(json!({"field": "value2"})),
        Refused(json!({"field": "value", "other": "o"})),
    ])
    .await;
    follow(vec![
        Schema(object(json!({"field": text(), "other": text()}))),
        Taken(json!({"field": "mine", "other": "mine"})),
        Schema(rule(
            json!({"rule": "oldSelf != 'mine' || self == 'valid'"}),
        )),
        Refused(json!({"field": "mine", "other": "new"})),
        Taken(json!({"field": "valid", "other": "new"})),
    ])
    .await;
}

#[tokio::test]
async fn rules_about_what_is_are_passed_over_where_nothing_changed() {
    let schema = |rules: Value| {
        let mut text = json!({"type": "string", "maxLength": 64});
        text["x-kubernetes-validations"] = rules;
        object(
            json!({"field": {"type": "object", "maxProperties": 16, "additionalProperties": {
            "type": "object", "properties": {"text": text, "number": {"type": "integer"}}}}}),
        )
    };
    let prefix = json!({"rule": "self.startsWith('k8s')", "message": "strings must have a prefix"});
    let odd = json!({"rule": "size(self) % 2 == 1", "message": "strings must have an odd length"});
    let item = |text: &str, number: u16| json!({"text": text, "number": number});
    follow(vec![
        Schema(schema(json!([]))),
        Taken(json!({"field": {"a": item("a string", 5), "b": item("another string", 15)}})),
        Schema(schema(json!([prefix]))),
        Taken(json!({"field": {"a": item("a string", 5), "b": item("another string", 15),
                               "d": item("k8s third string", 7)}})),
        Taken(json!({"field": {"a": item("a string", 15), "b": item("another string", 10),
                               "d": item("k8s third string", 7)}})),
        Refused(json!({"field": {"a": item("a string", 15), "b": item("changed", 10),
                                 "d": item("k8s third string", 7)}})),
        Schema(schema(json!([prefix, odd]))),
        Taken(json!({"field": {"a": item("a string", 1000), "d": item("k8s third string", 7000)}})),
        Refused(
            json!({"field": {"a": item("k8s third string", 1000), "d": item("a string", 7000)}}),
        ),
        Taken(json!({"field": {"a": item("k8s a stringy", 1000), "d": item("k8s third stringy", 7000)}})),
    ])
    .await;
}

#[tokio::test]
async fn combinations_are_never_passed_over() {
    for strict in [
        json!({"allOf": [{"properties": {"field": {"enum": ["A"]}}}]}),
        json!({"oneOf": [{"properties": {"field": {"enum": ["A"]}}}]}),
        json!({"anyOf": [{"properties": {"field": {"enum": ["A"]}}}]}),
        json!({"not": {"properties": {"field": {"enum": ["mine"]}}}}),
    ] {
        let loose = object(json!({"field": text(), "other": text()}));
        let mut schema = loose.clone();
        schema
            .as_object_mut()
            .unwrap()
            .extend(strict.as_object().unwrap().clone());
        follow(vec![
            Schema(loose),
            Taken(json!({"field": "mine", "other": "mine"})),
            Schema(schema),
            Refused(json!({"field": "mine", "other": "new"})),
            Taken(json!({"field": "A", "other": "new"})),
        ])
        .await;
    }
}
