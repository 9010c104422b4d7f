//! Quotas: what a namespace may hold, kept exactly.

use std::time::Duration;

use eyot_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::{PATIENCE, config_map, get, ok, pod, send, server};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn quota(server: &ApiServer, name: &str, spec: Value) {
    let body = json!({"metadata": {"name": name}, "spec": spec});
    ok(server, "POST", QUOTAS, body).await;
}

async fn used(server: &ApiServer, name: &str) -> Value {
    get(server, &format!("{QUOTAS}/{name}")).await.1["status"]["used"].clone()
}

/// Wait until the status says that so much is used.
async fn until(server: &ApiServer, name: &str, expected: Value) {
    let look = async {
        while used(server, name).await != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, look).await.is_err() {
        assert_eq!(used(server, name).await, expected, "{name}");
    }
}

fn sized(name: &str, resources: Value) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = resources;
    pod
}

#[track_caller]
fn forbidden(answer: (u16, Value), message: &str) {
    let (code, status) = answer;
    assert_eq!((code, status["message"].as_str()), (403, Some(message)));
    assert_eq!(status["reason"], "Forbidden");
}

#[tokio::test]
async fn a_new_quota_is_told_what_is_used_already() {
    let server = server().await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    quota(
        &server,
        "q",
        json!({"hard": {"configmaps": "5", "count/replicasets.apps": "2", "pods": "1",
                        "requests.cpu": "1", "nonsense.of/nobody": "1"}}),
    )
    .await;
    until(
        &server,
        "q",
        json!({"configmaps": "1", "count/replicasets.apps": "0", "pods": "0", "requests.cpu": "0"}),
    )
    .await;
    let hard = get(&server, &format!("{QUOTAS}/q")).await.1;
    assert_eq!(hard["status"]["hard"], hard["spec"]["hard"]);
}

#[tokio::test]
async fn what_somebody_else_says_in_the_status_is_put_right() {
    let server = server().await;
    quota(&server, "q", json!({"hard": {"configmaps": "5"}})).await;
    until(&server, "q", json!({"configmaps": "0"})).await;
    let path = format!("{QUOTAS}/q/status");
    let lie = json!({"status": {"hard": {"configmaps": "7"}, "used": {"configmaps": "3"}}});
    let told = ok(&server, "PATCH", &path, lie).await;
    assert_eq!(told["status"]["hard"]["configmaps"], "7");
    assert_eq!(told["spec"]["hard"]["configmaps"], "5");
    until(&server, "q", json!({"configmaps": "0"})).await;
    let quota = get(&server, &path).await.1;
    assert_eq!(quota["status"]["hard"], quota["spec"]["hard"]);
}

#[tokio::test]
async fn a_status_follows_the_life_of_objects() {
    let server = server().await;
    quota(
        &server,
        "q",
        json!({"hard": {"secrets": "1", "count/deployments.apps": "1"}}),
    )
    .await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = |name: &str| json!({"metadata": {"name": name}});
    ok(&server, "POST", secrets, secret("a")).await;
    // It is in the status when the write is answered.
    assert_eq!(used(&server, "q").await["secrets"], "1");
    forbidden(
        send(&server, "POST", secrets, secret("b")).await,
        "secrets \"b\" is forbidden: exceeded quota: q, requested: secrets=1, used: secrets=1, \
         limited: secrets=1",
    );
    ok(&server, "DELETE", &format!("{secrets}/a"), Value::Null).await;
    ok(&server, "POST", secrets, secret("b")).await;
    ok(&server, "DELETE", &format!("{secrets}/b"), Value::Null).await;
    until(
        &server,
        "q",
        json!({"secrets": "0", "count/deployments.apps": "0"}),
    )
    .await;
    // A failed write gives back what was noted for it.
    ok(
        &server,
        "PATCH",
        &format!("{QUOTAS}/q"),
        json!({"spec": {"hard": {"secrets": "3"}}}),
    )
    .await;
    ok(&server, "POST", secrets, secret("a")).await;
    assert_eq!(send(&server, "POST", secrets, secret("a")).await.0, 409);
    until(
        &server,
        "q",
        json!({"secrets": "1", "count/deployments.apps": "0"}),
    )
    .await;
}

#[tokio::test]
async fn pods_are_held_to_what_all_of_them_may_ask_for() {
    let server = server().await;
    quota(
        &server,
        "q",
        json!({"hard": {"pods": "5", "requests.cpu": "1", "memory": "500Mi", "limits.cpu": "2",
                        "requests.example.com/dongle": "3"}}),
    )
    .await;
    let all =
        |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "252Mi"}, "limits": {"cpu": cpu}});
    forbidden(
        send(&server, "POST", PODS, pod("silent")).await,
        "pods \"silent\" is forbidden: failed quota: q: must specify limits.cpu for: c; memory \
         for: c; requests.cpu for: c",
    );
    ok(&server, "POST", PODS, sized("a", all("500m"))).await;
    assert_eq!(
        used(&server, "q").await,
        json!({"pods": "1", "requests.cpu": "500m", "memory": "252Mi", "limits.cpu": "500m",
               "requests.example.com/dongle": "0"})
    );
    forbidden(
        send(&server, "POST", PODS, sized("b", all("600m"))).await,
        "pods \"b\" is forbidden: exceeded quota: q, requested: memory=252Mi,requests.cpu=600m, \
         used: memory=252Mi,requests.cpu=500m, limited: memory=500Mi,requests.cpu=1",
    );
    // A pod that has ended holds nothing but its place in the store.
    let done = json!({"status": {"phase": "Succeeded"}});
    ok(&server, "PATCH", &format!("{PODS}/a/status"), done).await;
    ok(&server, "POST", PODS, sized("b", all("600m"))).await;
    let dry = format!("{PODS}?dryRun=All");
    ok(
        &server,
        "POST",
        &dry,
        sized(
            "c",
            json!({
        "requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m"}}),
        ),
    )
    .await;
    assert_eq!(used(&server, "q").await["pods"], "1");
}

#[tokio::test]
async fn scopes_say_which_pods_count() {
    let server = server().await;
    let hard = json!({"pods": "5"});
    for (name, scope) in [
        ("best", "BestEffort"),
        ("not-best", "NotBestEffort"),
        ("ends", "Terminating"),
        ("stays", "NotTerminating"),
    ] {
        quota(&server, name, json!({"hard": hard, "scopes": [scope]})).await;
    }
    let classes = json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [
        {"scopeName": "CrossNamespacePodAffinity", "operator": "Exists"}]}});
    quota(&server, "cross", classes).await;
    ok(&server, "POST", PODS, pod("a")).await;
    let mut timed = sized("b", json!({"requests": {"cpu": "1m"}}));
    timed["spec"]["activeDeadlineSeconds"] = json!(60);
    ok(&server, "POST", PODS, timed).await;
    let mut far = pod("c");
    far["spec"]["affinity"] = json!({"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "k", "namespaces": ["other"], "labelSelector": {}}]}});
    ok(&server, "POST", PODS, far).await;
    for (name, count) in [
        ("best", "2"),
        ("not-best", "1"),
        ("ends", "1"),
        ("stays", "2"),
        ("cross", "1"),
    ] {
        assert_eq!(used(&server, name).await, json!({"pods": count}), "{name}");
    }
}

#[tokio::test]
async fn services_and_claims_count_what_they_take() {
    let server = server().await;
    quota(
        &server,
        "q",
        json!({"hard": {"services": "9", "services.nodeports": "2", "services.loadbalancers": "1",
                        "requests.storage": "10Gi", "persistentvolumeclaims": "2",
                        "gold.storageclass.storage.k8s.io/requests.storage": "1Gi"}}),
    )
    .await;
    // The API itself is one of them.
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, kind: &str| {
        json!({"metadata": {"name": name},
               "spec": {"type": kind, "ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}})
    };
    ok(&server, "POST", services, service("a", "ClusterIP")).await;
    ok(&server, "POST", services, service("b", "NodePort")).await;
    forbidden(
        send(&server, "POST", services, service("c", "LoadBalancer")).await,
        "services \"c\" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: \
         services.nodeports=2, limited: services.nodeports=2",
    );
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str, size: &str| {
        json!({"metadata": {"name": name}, "spec": {
            "storageClassName": "gold", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}}}})
    };
    ok(&server, "POST", claims, claim("a", "1Gi")).await;
    forbidden(
        send(&server, "POST", claims, claim("b", "1Gi")).await,
        "persistentvolumeclaims \"b\" is forbidden: exceeded quota: q, requested: \
         gold.storageclass.storage.k8s.io/requests.storage=1Gi, used: \
         gold.storageclass.storage.k8s.io/requests.storage=1Gi, limited: \
         gold.storageclass.storage.k8s.io/requests.storage=1Gi",
    );
    assert_eq!(
        used(&server, "q").await,
        json!({"services": "3", "services.nodeports": "2", "services.loadbalancers": "0",
               "requests.storage": "1Gi", "persistentvolumeclaims": "1",
               "gold.storageclass.storage.k8s.io/requests.storage": "1Gi"})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_that_come_at_once_share_what_is_left() {
    let server = server().await;
    quota(&server, "q", json!({"hard": {"configmaps": "10"}})).await;
    let writers = (0..40).map(|count| {
        let server = server.clone();
        tokio::spawn(async move {
            let name = format!("m{count}");
            send(&server, "POST", MAPS, config_map(&name)).await.0
        })
    });
    let mut made = 0;
    for writer in writers.collect::<Vec<_>>() {
        match writer.await.unwrap() {
            201 => made += 1,
            code => assert_eq!(code, 403),
        }
    }
    assert_eq!(made, 10);
    assert_eq!(used(&server, "q").await, json!({"configmaps": "10"}));
    // Nobody else is held back.
    let namespace = json!({"metadata": {"name": "free"}});
    ok(&server, "POST", "/api/v1/namespaces", namespace).await;
    ok(
        &server,
        "POST",
        "/api/v1/namespaces/free/configmaps",
        config_map("a"),
    )
    .await;
}
