//! From client-side apply to server-side apply.

use serde_json::{Value, json};

use super::fixture::Lab;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

/// What `kubectl apply` leaves behind.
fn client_side(applied: Value, live: Value) -> Value {
    let mut object = map(live);
    object["metadata"]["annotations"] = json!({ANNOTATION: map(applied).to_string()});
    object
}

fn lab(applied: Value, live: Value) -> Lab {
    let mut lab = Lab::builtin("v1", "ConfigMap");
    lab.update("kubectl-client-side-apply", client_side(applied, live));
    lab
}

#[test]
fn kubectl_does_not_conflict_with_what_it_applied_before() {
    let mut lab = lab(json!({"a": "1"}), json!({"a": "1"}));
    lab.apply("kubectl", map(json!({"a": "2"})));
    let object = lab.object.clone().unwrap();
    assert_eq!(object["data"], json!({"a": "2"}));
    let kept = object["metadata"]["annotations"][ANNOTATION]
        .as_str()
        .unwrap();
    assert!(kept.ends_with('\n'));
    assert_eq!(
        serde_json::from_str::<Value>(kept).unwrap(),
        map(json!({"a": "2"}))
    );
    lab.owns("kubectl", "Apply", &[".data.a"]);
}

#[test]
fn others_do_conflict() {
    lab(json!({"a": "1"}), json!({"a": "1"})).refused(
        "someone",
        map(json!({"a": "2"})),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.a",
    );
}

#[test]
fn what_changed_since_is_a_conflict_for_kubectl_too() {
    lab(json!({"a": "1", "b": "1"}), json!({"a": "1", "b": "1"}))
        .update(
            "edit",
            client_side(json!({"a": "1", "b": "1"}), json!({"a": "9", "b": "1"})),
        )
        .refused(
            "kubectl",
            map(json!({"a": "2", "b": "2"})),
            "Apply failed with 1 conflict: conflict with \"edit\" using v1: .data.a",
        );
}

#[test]
fn what_was_there_before_anybody_was_tracked_has_a_manager_of_its_own() {
    let mut lab = Lab::builtin("v1", "ConfigMap");
    lab.object = Some(map(json!({"a": "1"})));
    lab.update("someone", map(json!({"a": "1", "b": "1"})))
        .managers(&[]);
    lab.apply("applier", map(json!({"c": "1"})))
        .owns(
            "before-first-apply",
            "Update",
            &[".data", ".data.a", ".data.b"],
        )
        .owns("applier", "Apply", &[".data.c"]);
}
