//! What a node with a certificate of its own may write.

use eyot_apiserver::{ApiServer, User};
use serde_json::{Value, json};

use crate::{ok, pod, send_as, server};

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn node(name: &str) -> User {
    let groups = ["system:nodes", "system:authenticated"];
    User::new(format!("system:node:{name}"), &groups)
}

fn object(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}})
}

async fn tell(
    server: &ApiServer,
    who: &User,
    method: &str,
    path: &str,
    body: Value,
) -> (u16, String) {
    let (code, answer) = send_as(server, who, method, path, body).await;
    let message = answer["message"].as_str().unwrap_or_default();
    (code, message.to_owned())
}

#[tokio::test]
async fn a_node_writes_itself_and_no_other() {
    let server = server().await;
    let here = node("here");
    let hostname = json!({"kubernetes.io/hostname": "here", "example.com/rack": "7"});
    assert_eq!(
        tell(&server, &here, "POST", NODES, object("here", hostname))
            .await
            .0,
        201
    );
    let told = tell(&server, &here, "POST", NODES, object("there", json!({}))).await;
    assert_eq!(
        told,
        (
            403,
            "nodes \"there\" is forbidden: node \"here\" is not allowed to modify node \"there\""
                .into()
        )
    );
    ok(&server, "POST", NODES, object("there", json!({}))).await;
    let path = format!("{NODES}/there/status");
    let told = tell(
        &server,
        &here,
        "PATCH",
        &path,
        json!({"status": {"phase": "Running"}}),
    )
    .await;
    assert_eq!(told.0, 403, "{told:?}");
    let own = format!("{NODES}/here");
    let (code, message) = tell(&server, &here, "DELETE", &own, Value::Null).await;
    assert_eq!(code, 403, "{message}");
    for (labels, allowed) in [
        (json!({"example.com/x": "1"}), true),
        (json!({"node.kubernetes.io/x": "1"}), true),
        (json!({"kubernetes.io/os": "linux"}), true),
        (json!({"node-role.kubernetes.io/control-plane": ""}), false),
        (json!({"node-restriction.kubernetes.io/secure": "1"}), false),
        (json!({"k8s.io/x": "1"}), false),
    ] {
        let change = json!({"metadata": {"labels": labels}});
        let (code, message) = tell(&server, &here, "PATCH", &own, change).await;
        assert_eq!(code == 200, allowed, "{labels}: {message}");
    }
    let change = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    let told = tell(&server, &here, "PATCH", &own, change).await;
    assert_eq!(
        told,
        (
            403,
            "nodes \"here\" is forbidden: node \"here\" is not allowed to modify taints".into()
        )
    );
}

#[tokio::test]
async fn a_node_reports_on_its_own_pods_only() {
    let server = server().await;
    for (name, on) in [("mine", "here"), ("other", "there")] {
        let mut value = pod(name);
        value["spec"]["nodeName"] = on.into();
        ok(&server, "POST", PODS, value).await;
    }
    let here = node("here");
    let status = json!({"status": {"phase": "Running"}});
    let path = |name: &str| format!("{PODS}/{name}/status");
    assert_eq!(
        tell(&server, &here, "PATCH", &path("mine"), status.clone())
            .await
            .0,
        200
    );
    let told = tell(&server, &here, "PATCH", &path("other"), status).await;
    assert_eq!(told, (403, "pods \"other\" is forbidden: node \"here\" can only update pod status for pods with spec.nodeName set to itself".into()));
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(
        tell(&server, &here, "PATCH", &path("mine"), labels).await.0,
        403
    );
    let told = tell(
        &server,
        &here,
        "DELETE",
        &format!("{PODS}/other"),
        Value::Null,
    )
    .await;
    assert_eq!(told.0, 403, "{told:?}");
    assert_eq!(
        tell(
            &server,
            &here,
            "DELETE",
            &format!("{PODS}/mine"),
            Value::Null
        )
        .await
        .0,
        200
    );
    let told = tell(&server, &here, "POST", PODS, pod("new")).await;
    assert_eq!(told, (403, "pods \"new\" is forbidden: pod does not have \"kubernetes.io/config.mirror\" annotation, node \"here\" can only create mirror pods".into()));
}

#[tokio::test]
async fn a_node_asks_for_tokens_of_its_own_pods() {
    let server = server().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    ok(&server, "POST", accounts, object("robot", json!({}))).await;
    let mut uids = Vec::new();
    for (name, on) in [("mine", "here"), ("other", "there")] {
        let mut value = pod(name);
        value["spec"]["nodeName"] = on.into();
        value["spec"]["serviceAccountName"] = "robot".into();
        let made = ok(&server, "POST", PODS, value).await;
        uids.push(made["metadata"]["uid"].clone());
    }
    let here = node("here");
    let path = format!("{accounts}/robot/token");
    let bound = |name: &str, uid: &Value| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}});
    let told = tell(&server, &here, "POST", &path, bound("mine", &uids[0])).await;
    assert_eq!(told.0, 201, "{told:?}");
    for (body, why) in [
        (
            json!({"spec": {}}),
            "node requested token not bound to a pod",
        ),
        (
            bound("mine", &json!("")),
            "node requested token with a pod binding without a uid",
        ),
        (
            bound("other", &uids[1]),
            "node requested token bound to a pod scheduled on a different node",
        ),
    ] {
        let told = tell(&server, &here, "POST", &path, body).await;
        assert_eq!(
            told,
            (
                403,
                format!("serviceaccounts \"robot\" is forbidden: {why}")
            )
        );
    }
    let told = tell(
        &server,
        &node("elsewhere"),
        "POST",
        &path,
        bound("mine", &uids[0]),
    )
    .await;
    assert_eq!(
        told,
        (403, "serviceaccounts \"robot\" is forbidden: User \"system:node:elsewhere\" cannot create resource \"serviceaccounts/token\" in API group \"\" in the namespace \"default\": no relationship found between node 'elsewhere' and this object".into())
    );
}

#[tokio::test]
async fn a_secret_that_is_not_there_looks_like_one_that_is_not_for_the_node() {
    let server = server().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "s"}, "data": {}});
    ok(&server, "POST", secrets, secret).await;
    let here = node("here");
    for name in ["s", "none"] {
        let told = tell(
            &server,
            &here,
            "GET",
            &format!("{secrets}/{name}"),
            Value::Null,
        )
        .await;
        assert_eq!(told.0, 403, "{told:?}");
    }
    let mut value = pod("p");
    value["spec"]["nodeName"] = "here".into();
    value["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    ok(&server, "POST", PODS, value).await;
    assert_eq!(
        tell(&server, &here, "GET", &format!("{secrets}/s"), Value::Null)
            .await
            .0,
        200
    );
}
