use serde_json::{Value, json};

use super::{Kind, Model, check};

#[track_caller]
fn checked(kind: &str, value: Value) -> Result<(Value, Vec<String>), String> {
    let root = Model::get().root("v1", kind).unwrap();
    let mut value = value;
    let unknown = check(root, &mut value).map_err(|error| error.message)?;
    Ok((value, unknown.into_iter().map(|field| field.path).collect()))
}

#[test]
fn the_table_knows_every_type_that_it_names() {
    let model = Model::get();
    assert!(model.types.len() > 500);
    for root in ["Pod", "Secret", "Namespace", "Node", "Service", "Event"] {
        assert!(
            model
                .root("v1", root)
                .is_some_and(|of| of.number(1).is_some()),
            "{root}"
        );
    }
    assert!(model.root("apps/v1", "Deployment").is_some());
    assert!(model.root("nope/v1", "Deployment").is_none());
    let spec = model.named("core.v1.PodSpec").unwrap();
    let containers = spec.field("containers").unwrap();
    assert_eq!(
        (containers.strategy.merge, containers.strategy.key),
        (true, "name")
    );
    assert!(matches!(containers.kind, Kind::List(_)));
}

#[test]
fn bodies_come_out_in_stored_form() {
    let (value, unknown) = checked(
        "Pod",
        json!({"apiVersion": "v1", "kind": "Pod", "bogus": 1,
            "metadata": {"creationTimestamp": null, "labels": {}, "deletionTimestamp": "2026-01-01T02:00:00.5+02:00"},
            "spec": {"containers": [{"name": "c", "typo": {}, "args": [],
                "resources": {"limits": {"cpu": 0.5, "memory": "2048Ki"}, "requests": {"cpu": "100u"}}}]}}),
    )
    .unwrap();
    assert_eq!(unknown, ["bogus", "spec.containers[0].typo"]);
    assert_eq!(
        value,
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "c",
                "resources": {"limits": {"cpu": "500m", "memory": "2Mi"}, "requests": {"cpu": "1m"}}}]}})
    );
}

#[test]
fn an_empty_value_goes_unless_go_holds_a_pointer() {
    let (value, _) = checked(
        "Pod",
        json!({"spec": {"hostNetwork": false, "nodeName": "", "hostUsers": false, "priority": 0,
            "enableServiceLinks": false, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "", "stdin": false, "env": [{"name": "a", "value": ""}],
                "ports": [{"containerPort": 0, "hostPort": 0, "name": ""}],
                "securityContext": {"privileged": false, "runAsUser": 0},
                "volumeMounts": [{"name": "v", "mountPath": "", "readOnly": false}]}],
            "volumes": [{"name": "v", "hostPath": {"path": "/v", "type": ""}}]}}),
    )
    .unwrap();
    assert_eq!(
        value,
        json!({"spec": {"hostUsers": false, "priority": 0,
            "enableServiceLinks": false, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "", "env": [{"name": "a"}],
                "ports": [{"containerPort": 0}],
                "securityContext": {"privileged": false, "runAsUser": 0},
                "volumeMounts": [{"name": "v", "mountPath": ""}]}],
            "volumes": [{"name": "v", "hostPath": {"path": "/v", "type": ""}}]}})
    );
}

#[test]
fn null_in_a_list_or_a_map_is_an_empty_value() {
    let (value, _) = checked(
        "Pod",
        json!({"metadata": {"labels": {"a": null}}, "spec": {"nodeSelector": null,
            "containers": [null, {"name": "c", "args": [null], "resources": {"limits": {"cpu": null}}}]}}),
    )
    .unwrap();
    assert_eq!(
        value,
        json!({"metadata": {"labels": {"a": ""}}, "spec": {
            "containers": [{}, {"name": "c", "args": [""], "resources": {"limits": {"cpu": "0"}}}]}})
    );
}

#[test]
fn wrong_types_are_named_as_go_names_them() {
    let error = |kind: &str, value: Value| checked(kind, value).unwrap_err();
    assert_eq!(
        error("Pod", json!({"spec": "x"})),
        "json: cannot unmarshal string into Go struct field Pod.spec of type v1.PodSpec"
    );
    assert_eq!(
        error("Pod", json!({"spec": {"containers": {}}})),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"
    );
    assert_eq!(
        error("Pod", json!({"spec": {"priority": 1.5}})),
        "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32"
    );
    assert_eq!(
        error("Pod", json!([])),
        "json: cannot unmarshal array into Go value of type v1.Pod"
    );
    assert!(error("Secret", json!({"data": {"a": "%"}})).contains("illegal base64"));
    assert!(
        error("Pod", json!({"metadata": {"creationTimestamp": "soon"}})).contains("parsing time")
    );
}
