mod rfc;

use serde_json::{Value, json};

use super::{json, merge, strategic};

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec})
}

#[track_caller]
fn check(spec: Value, patch: Value, expected: Value) {
    let merged = strategic("", "Pod", &pod(spec), &json!({"spec": patch})).unwrap();
    assert_eq!(merged["spec"], expected);
}

#[track_caller]
fn check_refused(patch: Value, code: u16, message: &str) {
    let current = pod(json!({"containers": [{"name": "a"}]}));
    let error = strategic("", "Pod", &current, &patch).unwrap_err();
    assert_eq!(
        (error.status().0, error.to_string()),
        (code, message.to_owned())
    );
}

#[test]
fn a_new_container_comes_first_as_in_kubernetes() {
    check(
        json!({"containers": [{"name": "c", "image": "x"}]}),
        json!({"containers": [{"name": "e", "image": "e"}]}),
        json!({"containers": [{"name": "e", "image": "e"}, {"name": "c", "image": "x"}]}),
    );
}

#[test]
fn a_container_changes_by_name_and_keeps_the_rest() {
    check(
        json!({"containers": [{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "1"}]}),
        json!({"containers": [{"name": "b", "image": "2", "env": [{"name": "X", "value": "1"}]}]}),
        json!({"containers": [{"name": "a", "image": "1", "tty": true},
                              {"name": "b", "image": "2", "env": [{"name": "X", "value": "1"}]}]}),
    );
}

#[test]
fn directives_delete_and_replace_elements() {
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"name": "a", "$patch": "delete"}]}),
        json!({"containers": [{"name": "b"}]}),
    );
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
        json!({"containers": [{"name": "c"}]}),
    );
    check(
        json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}}),
        json!({"securityContext": {"$patch": "replace", "runAsUser": 3}}),
        json!({"securityContext": {"runAsUser": 3}}),
    );
    check(
        json!({"securityContext": {"runAsUser": 1}, "nodeName": "n"}),
        json!({"securityContext": {"$patch": "delete"}}),
        json!({"securityContext": {}, "nodeName": "n"}),
    );
}

#[test]
fn set_element_order_orders_the_joined_list() {
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "d"}],
               "containers": [{"name": "d", "image": "x"}]}),
        json!({"containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}, {"name": "d", "image": "x"}]}),
    );
}

#[test]
fn lists_without_a_merge_strategy_are_replaced() {
    check(
        json!({"tolerations": [{"key": "a"}], "containers": [{"name": "a", "args": ["1", "2"]}]}),
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["3"]}]}),
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["3"]}]}),
    );
}

#[test]
fn primitive_lists_join_and_delete() {
    let current =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"finalizers": ["x/a", "x/b"]}});
    let finalizers = |patch: Value| {
        strategic("", "Pod", &current, &json!({"metadata": patch})).unwrap()["metadata"]
            .get("finalizers")
            .cloned()
    };
    assert_eq!(
        finalizers(json!({"finalizers": ["x/c"]})),
        Some(json!(["x/c", "x/a", "x/b"]))
    );
    assert_eq!(
        finalizers(json!({"finalizers": ["x/b"]})),
        Some(json!(["x/a", "x/b"]))
    );
    assert_eq!(
        finalizers(json!({"$deleteFromPrimitiveList/finalizers": ["x/a"]})),
        Some(json!(["x/b"]))
    );
    assert_eq!(
        finalizers(json!({"$deleteFromPrimitiveList/finalizers": ["x/a"],
                          "$setElementOrder/finalizers": ["x/b"]})),
        Some(json!(["x/b"]))
    );
    assert_eq!(finalizers(json!({"finalizers": null})), None);
}

#[test]
fn retain_keys_drops_the_other_fields() {
    let current = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let merged = strategic("apps", "Deployment", &current, &patch).unwrap();
    assert_eq!(merged["spec"]["strategy"], json!({"type": "Recreate"}));
    check(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
    );
}

#[test]
fn null_removes_and_new_values_lose_their_directives() {
    check(
        json!({"nodeSelector": {"a": "1", "b": "2"}}),
        json!({"nodeSelector": {"a": null}, "volumes": [{"name": "x", "$patch": "delete"}, {"name": "y"}]}),
        json!({"nodeSelector": {"b": "2"}, "volumes": [{"name": "y"}]}),
    );
}

#[test]
fn conditions_join_by_type() {
    let current = json!({"apiVersion": "v1", "kind": "Pod", "status": {"conditions": [
        {"type": "Ready", "status": "False"}, {"type": "PodScheduled", "status": "True"}]}});
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let merged = strategic("", "Pod", &current, &patch).unwrap();
    assert_eq!(
        merged["status"]["conditions"],
        json!([{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}])
    );
}

#[test]
fn broken_strategic_patches_are_refused() {
    let spec = |spec: Value| json!({"spec": spec});
    for (patch, code, message) in [
        (
            spec(json!({"containers": [{"image": "x"}]})),
            500,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (
            spec(json!({"containers": [{"$patch": "delete", "image": "x"}]})),
            500,
            "map: map[$patch:delete image:x] does not contain declared merge key: name",
        ),
        (
            spec(json!({"$patch": "explode"})),
            500,
            "unknown patch type: explode in map: map[$patch:explode]",
        ),
        (
            spec(json!({"containers": [{"$patch": "merge", "name": "a"}]})),
            500,
            "merging lists cannot yet be specified in the patch",
        ),
        (
            spec(json!({"$retainKeys": "x"})),
            400,
            "invalid patch format of retainKeys",
        ),
        (
            spec(json!({"$retainKeys": ["nodeName"], "hostname": "h"})),
            400,
            "invalid patch format of retainKeys",
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}}),
            400,
            "invalid patch format of primitive list",
        ),
        (
            spec(json!({"$setElementOrder/containers": "x"})),
            500,
            "expected a []interface {}, but received a string",
        ),
        (
            spec(json!({
                "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
                "containers": [{"name": "b"}, {"name": "a"}],
            })),
            500,
            "The order in patch list:\n[map[name:b] map[name:a]]\n doesn't match \
             $setElementOrder list:\n[map[name:a] map[name:b]]\n",
        ),
        (
            json!([]),
            400,
            "json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
    ] {
        check_refused(patch, code, message);
    }
    let current = pod(json!({"containers": [{"name": "a"}]}));
    assert_eq!(
        strategic("", "Pod", &current, &Value::Null).unwrap(),
        current
    );
}

#[test]
fn merge_patches_follow_rfc_7386() {
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": "b"}),
            json!({"b": "c"}),
            json!({"a": "b", "b": "c"}),
        ),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (
            json!({"e": null}),
            json!({"a": 1}),
            json!({"e": null, "a": 1}),
        ),
        (
            json!({}),
            json!({"a": {"bb": {"ccc": null}}}),
            json!({"a": {"bb": {}}}),
        ),
    ];
    for (current, patch, expected) in cases {
        assert_eq!(merge(&current, &patch).unwrap(), expected, "{patch}");
    }
    assert!(merge(&json!({}), &json!("nonsense")).is_err());
}

#[test]
fn json_patches_apply_and_fail_as_one() {
    let current = json!({"data": {"a": "1"}});
    let patched = json(
        &current,
        &json!([{"op": "add", "path": "/data/b", "value": "2"},
                {"op": "move", "from": "/data/a", "path": "/data/c"}]),
    );
    assert_eq!(patched.unwrap(), json!({"data": {"b": "2", "c": "1"}}));
    let failed = json(
        &current,
        &json!([{"op": "test", "path": "/data/a", "value": "0"}]),
    );
    assert_eq!(failed.unwrap_err().status(), (422, "Invalid"));
    assert_eq!(json(&current, &json!({})).unwrap_err().status().0, 400);
    assert_eq!(
        json(&current, &json!([{"op": "explode"}]))
            .unwrap_err()
            .status()
            .0,
        422
    );
}

#[test]
fn json_patches_cannot_blow_an_object_up() {
    let many = vec![json!({"op": "test", "path": "", "value": {}}); 10_001];
    assert_eq!(
        json(&json!({}), &Value::Array(many))
            .unwrap_err()
            .status()
            .0,
        413
    );
    let doubling: Vec<Value> = (0..64)
        .map(|at| json!({"op": "copy", "from": "", "path": format!("/k{at}")}))
        .collect();
    let error = json(&json!({"seed": "0123456789"}), &Value::Array(doubling)).unwrap_err();
    assert_eq!(error.status().0, 422);
}

#[test]
fn a_field_that_is_to_be_replaced_does_not_join() {
    let current = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "1"}}}});
    let patch = json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}});
    let merged = strategic("policy", "PodDisruptionBudget", &current, &patch).unwrap();
    assert_eq!(
        merged["spec"],
        json!({"minAvailable": 1, "selector": {"matchLabels": {"b": "2"}}})
    );
}
