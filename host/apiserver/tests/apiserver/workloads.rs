//! The workload kinds through the server: what the machinery around a kind does for them.

use eyot_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::{get, ok, pod, raw, send, server};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "x"}},
           "spec": {"containers": [{"name": "c", "image": "x"}]}})
}

async fn warnings(server: &ApiServer, method: &str, path: &str, body: Value) -> Vec<String> {
    let kind = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let headers = [("content-type", kind)];
    let answer = raw(server, method, path, &headers, body.to_string()).await;
    assert!(answer.status().is_success(), "{}", answer.status());
    answer
        .headers()
        .get_all("warning")
        .iter()
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_systems_priorities_stand_from_the_start() {
    let server = server().await;
    const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let (_, list) = get(&server, CLASSES).await;
    let classes: Vec<(&str, i64)> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["metadata"]["name"].as_str().unwrap(),
                one["value"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        classes,
        [
            ("system-cluster-critical", 2_000_000_000),
            ("system-node-critical", 2_000_001_000)
        ]
    );
    let path = format!("{CLASSES}/system-node-critical");
    let (code, status) = send(&server, "DELETE", &path, Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "priorityclasses.scheduling.k8s.io \"system-node-critical\" is forbidden: this is a \
         system priority class and cannot be deleted"
    );
}

#[tokio::test]
async fn a_job_made_from_a_prefix_has_its_own_name_and_uid_in_its_labels() {
    let server = server().await;
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"generateName": "j-"},
        "spec": {"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "x"}]}}}});
    let path = "/apis/batch/v1/namespaces/default/jobs";
    let made = ok(&server, "POST", path, job).await;
    let labels = &made["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["job-name"], made["metadata"]["name"]);
    assert_eq!(
        labels["batch.kubernetes.io/controller-uid"],
        made["metadata"]["uid"]
    );
    assert_eq!(
        made["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"],
        made["metadata"]["uid"]
    );
    assert_eq!(made["metadata"]["generation"], 1);
}

#[tokio::test]
async fn what_has_replicas_scales() {
    let server = server().await;
    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "a"}, "spec": {"template": template()}});
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "a"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template()}});
    for (path, body) in [
        (
            "/api/v1/namespaces/default/replicationcontrollers",
            controller,
        ),
        ("/apis/apps/v1/namespaces/default/statefulsets", set),
    ] {
        ok(&server, "POST", path, body).await;
        let scale = format!("{path}/a/scale");
        let (_, shown) = get(&server, &scale).await;
        assert_eq!(shown["status"]["selector"], "app=x", "{path}");
        assert_eq!(shown["spec"]["replicas"], 1, "{path}");
        // What `kubectl get --subresource=scale` shows.
        let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        let table = crate::bytes(raw(&server, "GET", &scale, &accept, "").await).await;
        let table: Value = serde_json::from_slice(&table).unwrap();
        let columns = table["columnDefinitions"].as_array().unwrap().iter();
        let columns: Vec<&str> = columns.map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(columns, ["Name", "Desired", "Available", "Age"], "{path}");
        let cells = table["rows"][0]["cells"].as_array().unwrap();
        assert_eq!(cells[..3], [json!("a"), json!(1), json!(0)], "{path}");
        ok(&server, "PATCH", &scale, json!({"spec": {"replicas": 4}})).await;
        let (_, object) = get(&server, &format!("{path}/a")).await;
        assert_eq!(object["spec"]["replicas"], 4, "{path}");
        assert_eq!(object["metadata"]["generation"], 2, "{path}");
    }
}

#[tokio::test]
async fn a_pod_is_resized_and_gets_ephemeral_containers_through_doors_of_their_own() {
    let server = server().await;
    let mut body = pod("a");
    body["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}});
    let name = body["spec"]["containers"][0]["name"].clone();
    let made = ok(&server, "POST", PODS, body).await;
    assert_eq!(made["metadata"]["generation"], 1);
    let resize = json!({"spec": {"containers": [{"name": name, "resources": {"requests": {"cpu": "500m"}}}]}});
    let path = format!("{PODS}/a/resize");
    let headers = [("content-type", "application/strategic-merge-patch+json")];
    let answer = raw(&server, "PATCH", &path, &headers, resize.to_string()).await;
    assert_eq!(answer.status(), 200);
    let (_, resized) = get(&server, &path).await;
    assert_eq!(
        resized["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "2"}})
    );
    assert_eq!(resized["metadata"]["generation"], 2);
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "x"}]}});
    let path = format!("{PODS}/a/ephemeralcontainers");
    let answer = raw(&server, "PATCH", &path, &headers, debug.to_string()).await;
    assert_eq!(answer.status(), 200);
    let (_, debugged) = get(&server, &format!("{PODS}/a")).await;
    assert_eq!(debugged["spec"]["ephemeralContainers"][0]["name"], "d");
    // Not through the front door.
    let nothing = json!({"spec": {"ephemeralContainers": null}});
    let (code, _) = send(&server, "PATCH", &format!("{PODS}/a"), nothing).await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn warnings_come_with_the_answer_when_a_template_is_new() {
    let server = server().await;
    let mut template = template();
    template["spec"]["nodeSelector"] = json!({"beta.kubernetes.io/os": "linux"});
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let said = warnings(&server, "POST", path, body).await;
    let why = "299 - \"spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since \
               v1.14; use \\\"kubernetes.io/os\\\" instead\"";
    assert_eq!(said, [why]);
    let path = format!("{path}/a");
    let labels = json!({"metadata": {"labels": {"x": "y"}}});
    assert!(warnings(&server, "PATCH", &path, labels).await.is_empty());
    let replicas = json!({"spec": {"replicas": 2}});
    assert_eq!(warnings(&server, "PATCH", &path, replicas).await, [why]);
}

#[tokio::test]
async fn a_deployments_annotations_count_as_a_change_of_what_is_wanted() {
    let server = server().await;
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template()}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    ok(&server, "POST", path, body).await;
    let path = format!("{path}/a");
    for (change, generation) in [
        (json!({"metadata": {"labels": {"a": "b"}}}), 1),
        (json!({"metadata": {"annotations": {"a": "b"}}}), 2),
        (json!({"spec": {"replicas": 2}}), 3),
        (
            json!({"metadata": {"annotations": {"a": "c"}}, "spec": {"replicas": 3}}),
            4,
        ),
    ] {
        let object = ok(&server, "PATCH", &path, change.clone()).await;
        assert_eq!(object["metadata"]["generation"], generation, "{change}");
    }
}
