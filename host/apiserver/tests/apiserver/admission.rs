//! What the built-in plug-ins make of writes, as a client sees it.

use serde_json::{Value, json};

use crate::{account, get, ok, pod, send, server};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Send, and insist on this code and message.
#[track_caller]
fn refused(answer: (u16, Value), code: u16, message: &str) {
    assert_eq!(
        (answer.0, answer.1["message"].as_str()),
        (code, Some(message))
    );
}

#[tokio::test]
async fn a_pod_gets_the_token_of_its_account_unless_either_opts_out() {
    let server = server().await;
    let created = ok(&server, "POST", PODS, pod("a")).await;
    let volume = &created["spec"]["volumes"][0];
    let name = volume["name"].as_str().unwrap();
    assert_eq!(name.len(), "kube-api-access-".len() + 5, "{name}");
    assert_eq!(
        volume["projected"],
        json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {
                "name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {
                "apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]})
    );
    let mounts = json!([{
        "name": name, "readOnly": true,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }]);
    assert_eq!(created["spec"]["containers"][0]["volumeMounts"], mounts);
    assert_eq!(created["spec"]["serviceAccountName"], "default");
    assert_eq!(created["spec"]["serviceAccount"], "default");

    let silent = json!({
        "metadata": {"name": "silent"}, "automountServiceAccountToken": false,
        "imagePullSecrets": [{"name": "registry"}],
    });
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    ok(&server, "POST", accounts, silent).await;
    for (name, account, own, mounted) in [
        ("b", "silent", json!(null), false),
        ("c", "silent", json!(true), true),
        ("d", "default", json!(false), false),
    ] {
        let mut wanted = pod(name);
        wanted["spec"]["serviceAccountName"] = json!(account);
        wanted["spec"]["automountServiceAccountToken"] = own;
        let created = ok(&server, "POST", PODS, wanted).await;
        assert_eq!(created["spec"]["volumes"].is_array(), mounted, "{name}");
        let pulls = &created["spec"]["imagePullSecrets"];
        assert_eq!(pulls.is_array(), account == "silent", "{name}");
    }
}

#[tokio::test]
async fn a_new_namespaces_account_is_waited_for_and_others_are_not() {
    let server = server().await;
    let namespace = json!({"metadata": {"name": "n"}});
    ok(&server, "POST", "/api/v1/namespaces", namespace).await;
    let path = "/api/v1/namespaces/n/pods";
    let late = async {
        tokio::task::yield_now().await;
        account(&server, "n").await;
    };
    let (answer, ()) = tokio::join!(send(&server, "POST", path, pod("a")), late);
    assert_eq!(answer.0, 201, "{}", answer.1);
    let mut other = pod("b");
    other["spec"]["serviceAccountName"] = json!("nope");
    refused(
        send(&server, "POST", path, other).await,
        403,
        "pods \"b\" is forbidden: error looking up service account n/nope: serviceaccount \"nope\" \
         not found",
    );
}

#[tokio::test]
async fn refusals_name_a_pod_without_a_name_by_its_prefix() {
    let server = server().await;
    let mut nameless = pod("x");
    nameless["metadata"] = json!({"generateName": "web-"});
    nameless["spec"]["serviceAccountName"] = json!("nope");
    refused(
        send(&server, "POST", PODS, nameless).await,
        403,
        "pods \"web-\" is forbidden: error looking up service account default/nope: \
         serviceaccount \"nope\" not found",
    );
}

#[tokio::test]
async fn some_namespaces_cannot_be_deleted() {
    let server = server().await;
    for name in ["default", "kube-system", "kube-public"] {
        let path = format!("/api/v1/namespaces/{name}");
        refused(
            send(&server, "DELETE", &path, Value::Null).await,
            403,
            &format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted"),
        );
        assert_eq!(get(&server, &path).await.1["status"]["phase"], "Active");
    }
}

#[tokio::test]
async fn a_new_node_is_tainted_until_it_is_ready() {
    let server = server().await;
    let taint = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    let node = json!({"metadata": {"name": "n"}});
    let created = ok(&server, "POST", "/api/v1/nodes", node).await;
    assert_eq!(created["spec"]["taints"], taint);
    let node = json!({"metadata": {"name": "m"}, "spec": {"taints": taint}});
    let created = ok(&server, "POST", "/api/v1/nodes", node).await;
    assert_eq!(created["spec"]["taints"], taint);
}

#[tokio::test]
async fn limit_ranges_give_defaults_and_hold_pods_to_their_bounds() {
    let server = server().await;
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [{
        "type": "Container",
        "min": {"cpu": "50m", "memory": "100Mi"}, "max": {"cpu": "500m", "memory": "500Mi"},
        "default": {"cpu": "500m", "memory": "500Mi"},
        "defaultRequest": {"cpu": "100m", "memory": "200Mi"},
    }]}});
    ok(
        &server,
        "POST",
        "/api/v1/namespaces/default/limitranges",
        range,
    )
    .await;
    let created = ok(&server, "POST", PODS, pod("defaults")).await;
    assert_eq!(
        created["spec"]["containers"][0]["resources"],
        json!({
            "limits": {"cpu": "500m", "memory": "500Mi"},
            "requests": {"cpu": "100m", "memory": "200Mi"},
        })
    );
    assert_eq!(created["status"]["qosClass"], "Burstable");
    assert_eq!(
        created["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for \
         container c"
    );
    let mut big = pod("big");
    big["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "600m"}});
    refused(
        send(&server, "POST", PODS, big).await,
        403,
        "pods \"big\" is forbidden: maximum cpu usage per Container is 500m, but limit is 600m",
    );
    let mut small = pod("small");
    small["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "10m", "memory": "50Mi"}});
    refused(
        send(&server, "POST", PODS, small).await,
        403,
        "pods \"small\" is forbidden: [minimum cpu usage per Container is 50m, but request is 10m, \
         minimum memory usage per Container is 100Mi, but request is 50Mi]",
    );
    // The very next write is judged by the configuration as it is then.
    let path = "/api/v1/namespaces/default/limitranges/l";
    ok(&server, "DELETE", path, Value::Null).await;
    let created = ok(&server, "POST", PODS, pod("free")).await;
    assert_eq!(created["spec"]["containers"][0]["resources"], json!({}));
}
