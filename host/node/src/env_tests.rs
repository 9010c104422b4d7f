use serde_json::{Value, json};

use super::*;

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "u1",
            "labels": { "app": "web" }, "annotations": { "note/x": "hi" },
        },
        "spec": { "nodeName": "n1", "containers": [] },
    }))
    .unwrap()
}

fn known() -> Sources {
    let map = json!({ "metadata": { "name": "cfg" }, "data": { "COLOR": "red", "SIZE": "9" } });
    let secret = json!({ "metadata": { "name": "key" }, "data": { "TOKEN": "czNjcmV0" } });
    Sources {
        config_maps: [
            ("cfg".to_owned(), Some(serde_json::from_value(map).unwrap())),
            ("none".to_owned(), None),
        ]
        .into(),
        secrets: [(
            "key".to_owned(),
            Some(serde_json::from_value(secret).unwrap()),
        )]
        .into(),
        ..Sources::default()
    }
}

fn made(container: Value) -> Result<Vec<(String, String)>, String> {
    let mut container = container;
    container["name"] = json!("c");
    let container: Container = serde_json::from_value(container).unwrap();
    let facts = Facts {
        host_ip: "10.0.0.1".into(),
        pod_ip: "10.244.0.7".into(),
        node_cpu_millis: 2000,
        node_memory: 1 << 30,
    };
    environment(&container, &pod(), &known(), &facts, BTreeMap::new())
        .map_err(|error| error.to_string())
}

#[track_caller]
fn check(container: Value, expected: &[(&str, &str)]) {
    let expected: Vec<(String, String)> = expected
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    assert_eq!(made(container), Ok(expected));
}

#[test]
fn literals_see_the_variables_written_before_them() {
    check(
        json!({ "env": [
            { "name": "A", "value": "1" },
            { "name": "B", "value": "$(A)-$(LATER)-$$(A)" },
            { "name": "LATER", "value": "2" },
            { "name": "A", "value": "3" },
        ]}),
        &[("A", "3"), ("B", "1-$(LATER)-$(A)"), ("LATER", "2")],
    );
}

#[test]
fn whole_config_maps_and_secrets_come_with_their_prefix() {
    check(
        json!({
            "envFrom": [
                { "configMapRef": { "name": "cfg" }, "prefix": "C_" },
                { "secretRef": { "name": "key" } },
                { "configMapRef": { "name": "none", "optional": true } },
            ],
            "env": [{ "name": "TOKEN", "value": "mine" }],
        }),
        &[("C_COLOR", "red"), ("C_SIZE", "9"), ("TOKEN", "mine")],
    );
}

#[test]
fn single_keys_and_fields_of_the_pod_are_resolved() {
    check(
        json!({
            "resources": { "limits": { "memory": "64Mi" } },
            "env": [
                { "name": "K", "valueFrom": { "configMapKeyRef": { "name": "cfg", "key": "COLOR" } } },
                { "name": "S", "valueFrom": { "secretKeyRef": { "name": "key", "key": "TOKEN" } } },
                { "name": "NO", "valueFrom": { "secretKeyRef": { "name": "key", "key": "X", "optional": true } } },
                { "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                { "name": "APP", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['app']" } } },
                { "name": "NOTE", "valueFrom": { "fieldRef": { "fieldPath": "metadata.annotations['note/x']" } } },
                { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
                { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
                { "name": "MEM", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory", "divisor": "1Mi" } } },
                { "name": "CPU", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } },
            ],
        }),
        &[
            ("K", "red"),
            ("S", "s3cret"),
            ("NAME", "web"),
            ("APP", "web"),
            ("NOTE", "hi"),
            ("NODE", "n1"),
            ("IP", "10.244.0.7"),
            ("MEM", "64"),
            ("CPU", "2"),
        ],
    );
}

#[test]
fn what_is_missing_is_named_in_the_words_of_kubernetes() {
    for (env, message) in [
        (
            json!({ "envFrom": [{ "configMapRef": { "name": "none" } }] }),
            "configmap \"none\" not found",
        ),
        (
            json!({ "env": [{ "name": "K", "valueFrom": { "secretKeyRef": { "name": "nope", "key": "x" } } }] }),
            "secret \"nope\" not found",
        ),
        (
            json!({ "env": [{ "name": "K", "valueFrom": { "configMapKeyRef": { "name": "cfg", "key": "x" } } }] }),
            "couldn't find key x in ConfigMap shop/cfg",
        ),
    ] {
        assert_eq!(made(env), Err(message.to_owned()));
    }
}

#[test]
fn offered_variables_stand_behind_the_containers_own_and_may_be_named_by_them() {
    let container: Container = serde_json::from_value(json!({
        "name": "c",
        "env": [
            { "name": "URL", "value": "http://$(DB_SERVICE_HOST)" },
            { "name": "DB_SERVICE_PORT", "value": "mine" },
        ],
    }))
    .unwrap();
    let offered = [("DB_SERVICE_HOST", "10.0.0.9"), ("DB_SERVICE_PORT", "5432")];
    let offered = offered.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let made = environment(
        &container,
        &pod(),
        &known(),
        &Facts::default(),
        offered.into(),
    )
    .unwrap();
    let made: Vec<String> = made.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        made,
        [
            "URL=http://10.0.0.9",
            "DB_SERVICE_PORT=mine",
            "DB_SERVICE_HOST=10.0.0.9"
        ]
    );
}
