//! Acting as somebody else, by the old verb and by those that are bound to a mode.

use eyot_apiserver::{ApiServer, Identity, User};
use serde_json::{Value, json};

use crate::{admin, ok, rights::user, send_with, server};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const PODS: &str = "/api/v1/namespaces/default/pods";
const ROBOT: &str = "system:serviceaccount:default:robot";

async fn who(server: &ApiServer, actor: &User, headers: &[(&str, &str)]) -> (u16, Value) {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, answer) = send_with(server, Some(actor), "POST", path, headers, json!({})).await;
    match code {
        201 => (code, answer["status"]["userInfo"].clone()),
        _ => (code, answer["message"].clone()),
    }
}

#[tokio::test]
async fn who_may_impersonate_acts_as_the_other_in_every_respect() {
    let server = server().await;
    let admin = admin();
    let headers = [
        ("impersonate-user", "ann"),
        ("impersonate-group", "dev"),
        ("impersonate-group", "ops"),
        ("impersonate-uid", "u-1"),
        ("impersonate-extra-example.com%2fscope", "read"),
    ];
    let (code, info) = who(&server, &admin, &headers).await;
    assert_eq!(code, 201, "{info}");
    assert_eq!(
        info,
        json!({
            "username": "ann", "uid": "u-1", "groups": ["dev", "ops", "system:authenticated"],
            "extra": {"example.com/scope": ["read"]},
        })
    );
    let account = [("impersonate-user", "system:serviceaccount:default:robot")];
    let (_, info) = who(&server, &admin, &account).await;
    assert_eq!(
        info["groups"],
        json!([
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            "system:authenticated"
        ])
    );
    let (code, _) = send_with(
        &server,
        Some(&admin),
        "GET",
        PODS,
        &[("impersonate-user", "ann")],
        Value::Null,
    )
    .await;
    assert_eq!(code, 403, "the rights of the impersonated user hold");
}

/// Let a user do what these rules say, everywhere.
async fn grant(server: &ApiServer, to: &str, rules: Value) {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"generateName": "r-"}, "rules": rules,
    });
    let role = ok(server, "POST", &format!("{RBAC}/clusterroles"), role).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"generateName": "b-"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                    "name": role["metadata"]["name"]},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": to}],
    });
    ok(
        server,
        "POST",
        &format!("{RBAC}/clusterrolebindings"),
        binding,
    )
    .await;
}

fn rule(group: &str, resource: &str, verb: &str) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]})
}

/// Ask for the pods as somebody else. Answers the code, and what is said of a refusal.
async fn pods(server: &ApiServer, actor: &User, headers: &[(&str, &str)]) -> (u16, String) {
    let (code, answer) = send_with(server, Some(actor), "GET", PODS, headers, Value::Null).await;
    let message = answer["message"].as_str().unwrap_or_default();
    (code, message.to_owned())
}

#[tokio::test]
async fn who_is_refused_hears_of_the_narrowest_right_that_fits() {
    let server = server().await;
    let ann = user("ann");
    let on = |mode: &str| {
        format!(
            "pods is forbidden: User \"ann\" cannot impersonate-on:{mode}:list resource \"pods\" in \
             API group \"\" in the namespace \"default\""
        )
    };
    for (name, mode) in [
        ("ben", "user-info"),
        (ROBOT, "serviceaccount"),
        ("system:node:n1", "arbitrary-node"),
        // Names of no such form are names like any other.
        ("system:node:N_1", "user-info"),
        ("system:serviceaccount:default:a:b", "user-info"),
    ] {
        let told = pods(&server, &ann, &[("impersonate-user", name)]).await;
        assert_eq!(told, (403, on(mode)), "{name}");
    }
    // What has more than a name can only be impersonated as a whole.
    let headers = [("impersonate-user", ROBOT), ("impersonate-group", "dev")];
    assert_eq!(
        pods(&server, &ann, &headers).await,
        (
            403,
            "serviceaccounts \"robot\" is forbidden: User \"ann\" cannot impersonate resource \
             \"serviceaccounts\" in API group \"\" in the namespace \"default\""
                .to_owned()
        )
    );
    let health = send_with(
        &server,
        Some(&ann),
        "GET",
        "/livez",
        &[("impersonate-user", "ben")],
        Value::Null,
    )
    .await;
    assert_eq!(
        health.1["message"],
        "forbidden: User \"ann\" cannot impersonate-on:user-info:get path \"/livez\""
    );
}

#[tokio::test]
async fn headers_without_a_user_are_a_bad_request() {
    let server = server().await;
    let headers = [
        ("impersonate-group", "dev"),
        ("impersonate-extra-scopes", "read"),
    ];
    assert_eq!(
        who(&server, &admin(), &headers).await,
        (
            400,
            json!(
                "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"dev\"}, \
                 Extra:map[string][]string{\"scopes\":[]string{\"read\"}}} without impersonating a \
                 user name"
            )
        )
    );
}

#[tokio::test]
async fn a_right_that_is_bound_to_a_mode_is_for_the_request_that_it_names() {
    let server = server().await;
    let ann = user("ann");
    let identity = "authentication.k8s.io";
    grant(
        &server,
        "ann",
        json!([
            {"apiGroups": [identity], "resources": ["users"], "resourceNames": ["ben"],
             "verbs": ["impersonate:user-info"]},
            rule("", "pods", "impersonate-on:user-info:list"),
        ]),
    )
    .await;
    grant(&server, "ben", json!([rule("", "*", "*")])).await;
    let as_ben = [("impersonate-user", "ben")];
    assert_eq!(pods(&server, &ann, &as_ben).await.0, 200);
    // Not another user, nor another request, nor the one with a group.
    assert_eq!(
        pods(&server, &ann, &[("impersonate-user", "eve")]).await.1,
        "users.authentication.k8s.io \"eve\" is forbidden: User \"ann\" cannot \
         impersonate:user-info resource \"users\" in API group \"authentication.k8s.io\" at the \
         cluster scope"
    );
    let nodes = send_with(
        &server,
        Some(&ann),
        "GET",
        "/api/v1/nodes",
        &as_ben,
        Value::Null,
    )
    .await;
    assert_eq!(nodes.0, 403, "{}", nodes.1);
    let with_group = |group| [("impersonate-user", "ben"), ("impersonate-group", group)];
    assert_eq!(pods(&server, &ann, &with_group("dev")).await.0, 403);
    grant(
        &server,
        "ann",
        json!([rule(identity, "groups", "impersonate:user-info")]),
    )
    .await;
    assert_eq!(pods(&server, &ann, &with_group("dev")).await.0, 200);
    assert_eq!(
        pods(&server, &ann, &with_group("system:masters")).await.1,
        "groups.authentication.k8s.io \"system:masters\" is forbidden: User \"ann\" cannot \
         impersonate:user-info resource \"groups\" in API group \"authentication.k8s.io\" at the \
         cluster scope: impersonating the system:masters group is not allowed"
    );
}

#[tokio::test]
async fn a_pod_may_act_as_its_own_node_or_as_any() {
    let server = server().await;
    let robot = |node: &str| -> User {
        let key = "authentication.kubernetes.io/node-name".to_owned();
        Identity {
            name: ROBOT.to_owned(),
            groups: vec!["system:serviceaccounts".to_owned()],
            extra: [(key, vec![node.to_owned()])].into(),
            ..Identity::default()
        }
        .into()
    };
    let review = "selfsubjectreviews";
    let identity = "authentication.k8s.io";
    grant(
        &server,
        ROBOT,
        json!([
            rule(identity, "nodes", "impersonate:associated-node"),
            rule(identity, review, "impersonate-on:associated-node:create"),
        ]),
    )
    .await;
    let node = [("impersonate-user", "system:node:n1")];
    let (code, info) = who(&server, &robot("n1"), &node).await;
    assert_eq!(code, 201, "{info}");
    assert_eq!(
        info,
        json!({"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]})
    );
    let (code, _) = who(&server, &robot("n2"), &node).await;
    assert_eq!(code, 403, "another node");
    grant(
        &server,
        ROBOT,
        json!([
            rule(identity, "nodes", "impersonate:arbitrary-node"),
            rule(identity, review, "impersonate-on:arbitrary-node:create"),
        ]),
    )
    .await;
    let (code, info) = who(&server, &robot("n2"), &node).await;
    assert_eq!(code, 201, "{info}");
}
