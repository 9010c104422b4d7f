//! The examples of Kubernetes' own documentation of server-side apply.

use serde_json::{Value, json};

use super::fixture::Lab;

fn config_map(data: Value) -> Value {
    json!({"metadata": {"name": "test-cm", "namespace": "default", "labels": {"test-label": "test"}},
           "data": data})
}

#[test]
fn the_config_map_example() {
    let mut lab = Lab::builtin("v1", "ConfigMap");
    lab.apply("kubectl", config_map(json!({"key": "some value"})));
    let managed = lab.object.as_ref().unwrap()["metadata"]["managedFields"].clone();
    assert_eq!(
        managed,
        json!([{
            "manager": "kubectl", "operation": "Apply", "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": {"f:test-label": {}}}, "f:data": {"f:key": {}}},
        }])
    );
    let mut changed = config_map(json!({"key": "new value"}));
    changed["metadata"]["labels"] = json!({"test-label": "test"});
    lab.update("kube-controller-manager", changed)
        .owns("kubectl", "Apply", &[".metadata.labels.test-label"])
        .owns("kube-controller-manager", "Update", &[".data.key"])
        .refused(
            "kubectl",
            config_map(json!({"key": "some value"})),
            "Apply failed with 1 conflict: conflict with \"kube-controller-manager\" using v1: .data.key",
        )
        // Giving the field up instead of fighting for it.
        .apply("kubectl", json!({"metadata": {"name": "test-cm", "namespace": "default",
                                              "labels": {"test-label": "test"}}}))
        .owns("kube-controller-manager", "Update", &[".data.key"]);
    assert_eq!(lab.object.unwrap()["data"], json!({"key": "new value"}));
}

fn deployment(replicas: Option<i32>) -> Value {
    let mut object = json!({
        "metadata": {"name": "nginx-deployment"},
        "spec": {"selector": {"matchLabels": {"app": "nginx"}},
                 "template": {"metadata": {"labels": {"app": "nginx"}},
                              "spec": {"containers": [{"name": "nginx", "image": "nginx:1.14.2"}]}}},
    });
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = json!(replicas);
    }
    object
}

#[test]
fn the_replicas_of_a_deployment_change_hands() {
    let replicas = json!({"metadata": {"name": "nginx-deployment"}, "spec": {"replicas": 3}});
    let mut scaled = deployment(Some(5));
    let mut lab = Lab::builtin("apps/v1", "Deployment");
    lab.apply("kubectl", deployment(Some(3)))
        .apply("handover-to-hpa", replicas)
        .apply("kubectl", deployment(None))
        .owns("handover-to-hpa", "Apply", &[".spec.replicas"]);
    assert_eq!(lab.object.as_ref().unwrap()["spec"]["replicas"], 3);
    scaled["metadata"]["name"] = json!("nginx-deployment");
    lab.update("hpa", scaled)
        .owns("hpa", "Update", &[".spec.replicas"])
        .managers(&["kubectl", "hpa"]);
    lab.apply("kubectl", deployment(None));
    assert_eq!(lab.object.as_ref().unwrap()["spec"]["replicas"], 5);
}

#[test]
fn ports_are_told_apart_by_port_and_protocol() {
    let service = |ports: Value| json!({"metadata": {"name": "s"}, "spec": {"ports": ports}});
    Lab::builtin("v1", "Service")
        .apply("one", service(json!([{"name": "a", "port": 80}])))
        .apply(
            "two",
            service(json!([{"name": "b", "port": 80, "protocol": "UDP"}])),
        )
        .owns(
            "one",
            "Apply",
            &[
                r#".spec.ports[port=80,protocol="TCP"]"#,
                r#".spec.ports[port=80,protocol="TCP"].name"#,
                r#".spec.ports[port=80,protocol="TCP"].port"#,
            ],
        )
        .refused(
            "two",
            service(json!([{"name": "x", "port": 80}])),
            "Apply failed with 1 conflict: conflict with \"one\": \
             .spec.ports[port=80,protocol=\"TCP\"].name",
        )
        // The type asks for a port; none is port 0 here, which validation refuses later.
        .apply("three", service(json!([{"name": "x"}])))
        .owns(
            "three",
            "Apply",
            &[
                r#".spec.ports[port=0,protocol="TCP"]"#,
                r#".spec.ports[port=0,protocol="TCP"].name"#,
            ],
        );
}

#[test]
fn selectors_and_references_have_one_owner() {
    let with = |selector: Value| json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": selector}}});
    Lab::builtin("apps/v1", "Deployment")
        .apply("one", with(json!({"a": "1"})))
        .owns("one", "Apply", &[".spec.selector"])
        .refused(
            "two",
            with(json!({"b": "1"})),
            "Apply failed with 1 conflict: conflict with \"one\": .spec.selector",
        );
}
