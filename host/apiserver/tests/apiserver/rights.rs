//! Who may do what: roles and bindings through the API, reviews.

use eyot_apiserver::{ApiServer, User};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{admin, ok, send_as, send_with, server};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const PODS: &str = "/api/v1/namespaces/default/pods";

pub fn user(name: &str) -> User {
    User::new(name, &["system:authenticated"])
}

/// Code and message of an answer.
fn told((code, answer): (u16, Value)) -> (u16, String) {
    let message = answer["message"].as_str().unwrap_or_default();
    (code, message.to_owned())
}

async fn try_as(server: &ApiServer, name: &str, method: &str, path: &str) -> (u16, String) {
    told(send_as(server, &user(name), method, path, Value::Null).await)
}

/// Whether the kinds of this group are served yet.
async fn has_roles(server: &ApiServer, test: &str) -> bool {
    let served = send_as(
        server,
        &admin(),
        "GET",
        &format!("{RBAC}/clusterroles"),
        Value::Null,
    )
    .await
    .0 == 200;
    if !served {
        eprintln!("SKIPPED {test}: roles are not served");
    }
    served
}

#[tokio::test]
async fn strangers_see_health_and_version_and_users_discovery() {
    let server = server().await;
    let cases = [
        ("/livez", 200, 200),
        ("/readyz", 200, 200),
        ("/version", 200, 200),
        ("/livez/ping", 403, 403),
        ("/api", 403, 200),
        ("/apis/apps/v1", 403, 200),
        ("/openapi/v2", 403, 200),
        ("/", 403, 403),
        ("/api/v1/pods", 403, 403),
        ("/no/such/path", 403, 403),
    ];
    for (path, stranger, known) in cases {
        let (code, answer) = send_with(&server, None, "GET", path, &[], Value::Null).await;
        assert_eq!(code, stranger, "{path}: {answer}");
        let (code, answer) = send_as(&server, &user("ann"), "GET", path, Value::Null).await;
        assert_eq!(code, known, "{path}: {answer}");
    }
    let (_, answer) = send_with(&server, None, "GET", "/apis", &[], Value::Null).await;
    assert_eq!(
        answer,
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "forbidden: User \"system:anonymous\" cannot get path \"/apis\"",
            "reason": "Forbidden", "details": {}, "code": 403,
        })
    );
    let (_, answer) = send_with(&server, None, "GET", PODS, &[], Value::Null).await;
    assert_eq!(answer["details"], json!({"kind": "pods"}));
    assert_eq!(
        answer["message"],
        "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
}

#[tokio::test]
async fn a_bound_role_lets_its_subject_in_and_only_there() {
    let server = server().await;
    if !has_roles(&server, "a_bound_role_lets_its_subject_in_and_only_there").await {
        return;
    }
    assert_eq!(try_as(&server, "ann", "GET", PODS).await.0, 403);
    let role = json!({
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}],
    });
    let roles = format!("{RBAC}/namespaces/default/roles");
    ok(&server, "POST", &roles, role).await;
    let binding = json!({
        "metadata": {"name": "readers"},
        "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"},
    });
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    ok(&server, "POST", &bindings, binding).await;
    assert_eq!(try_as(&server, "ann", "GET", PODS).await.0, 200);
    assert_eq!(
        try_as(&server, "ann", "GET", &format!("{PODS}?watch=1"))
            .await
            .0,
        403
    );
    assert_eq!(try_as(&server, "ann", "GET", "/api/v1/pods").await.0, 403);
    assert_eq!(try_as(&server, "ben", "GET", PODS).await.0, 403);
    ok(
        &server,
        "DELETE",
        &format!("{bindings}/readers"),
        Value::Null,
    )
    .await;
    assert_eq!(try_as(&server, "ann", "GET", PODS).await.0, 403);
}

#[tokio::test]
async fn nobody_grants_what_he_does_not_hold() {
    let server = server().await;
    if !has_roles(&server, "nobody_grants_what_he_does_not_hold").await {
        return;
    }
    let grant = |role: &str| {
        json!({
            "metadata": {"name": format!("ann-{role}")},
            "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
            "roleRef": {"kind": "ClusterRole", "name": role, "apiGroup": "rbac.authorization.k8s.io"},
        })
    };
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let own = json!({
        "metadata": {"name": "own"},
        "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create", "delete", "get", "update"]},
        ],
    });
    ok(&server, "POST", &format!("{RBAC}/clusterroles"), own).await;
    ok(&server, "POST", &bindings, grant("own")).await;
    let ann = user("ann");
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |verbs: &[&str]| {
        json!({
            "metadata": {"name": "r"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}],
        })
    };
    let answer = send_as(
        &server,
        &ann,
        "POST",
        &roles,
        role(&["get", "list", "watch"]),
    )
    .await;
    assert_eq!(
        told(answer),
        (
            403,
            "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"ann\" (groups=[\"system:authenticated\"]) \
             is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\" \"watch\"]}"
                .to_owned()
        )
    );
    let (code, answer) = send_as(&server, &ann, "POST", &roles, role(&["get"])).await;
    assert_eq!(code, 201, "{answer}");
    let change = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let answer = send_as(&server, &ann, "PATCH", &format!("{roles}/r"), change).await;
    assert_eq!(answer.0, 403, "{}", answer.1);
    let answer = send_as(&server, &ann, "POST", &bindings, grant("cluster-admin")).await;
    assert_eq!(answer.0, 403, "{}", answer.1);
    let (code, answer) = send_as(&server, &ann, "POST", &bindings, grant("none")).await;
    assert_eq!(
        (code, &answer["message"]),
        (
            404,
            &json!("clusterroles.rbac.authorization.k8s.io \"none\" not found")
        )
    );
    let may_bind = json!({
        "metadata": {"name": "binder"},
        "rules": [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["view"]}],
    });
    ok(&server, "POST", &format!("{RBAC}/clusterroles"), may_bind).await;
    ok(&server, "POST", &bindings, grant("binder")).await;
    let (code, answer) = send_as(&server, &ann, "POST", &bindings, grant("view")).await;
    assert_eq!(code, 201, "{answer}");
}

async fn ask(server: &ApiServer, who: &User, kind: &str, body: Value) -> (u16, Value) {
    let group = match kind {
        "selfsubjectreviews" | "tokenreviews" => "authentication.k8s.io",
        _ => "authorization.k8s.io",
    };
    let path = format!("/apis/{group}/v1/{kind}");
    send_as(server, who, "POST", &path, body).await
}

#[tokio::test]
async fn reviews_answer_as_requests_would_be_answered() {
    let server = server().await;
    let question = |user: &str, path: &str| json!({"spec": {"user": user, "groups": ["system:authenticated"], "nonResourceAttributes": {"path": path, "verb": "get"}}});
    let kind = "subjectaccessreviews";
    let (code, answer) = ask(&server, &admin(), kind, question("ann", "/api")).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["kind"], "SubjectAccessReview");
    assert_eq!(
        answer["status"],
        json!({
            "allowed": true,
            "reason": "RBAC: allowed by ClusterRoleBinding \"system:discovery\" of ClusterRole \"system:discovery\" to Group \"system:authenticated\"",
        })
    );
    let (_, answer) = ask(&server, &admin(), kind, question("ann", "/metrics")).await;
    assert_eq!(answer["status"], json!({"allowed": false}));
    let (code, _) = ask(&server, &user("ann"), kind, question("ann", "/api")).await;
    assert_eq!(code, 403, "asking about others is a right of its own");
    let own = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}});
    let (code, answer) = ask(
        &server,
        &user("ann"),
        "selfsubjectaccessreviews",
        own.clone(),
    )
    .await;
    assert_eq!((code, &answer["status"]), (201, &json!({"allowed": false})));
    let (_, answer) = ask(&server, &admin(), "selfsubjectaccessreviews", own).await;
    assert_eq!(answer["status"], json!({"allowed": true}));
}

#[tokio::test]
async fn a_review_that_makes_no_sense_is_refused_by_field() {
    let server = server().await;
    let cases = [
        (
            "subjectaccessreviews",
            json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}),
            422,
            "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ),
        (
            "selfsubjectaccessreviews",
            json!({"spec": {}}),
            422,
            "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            "selfsubjectrulesreviews",
            json!({"spec": {}}),
            400,
            "no namespace on request",
        ),
        (
            "selfsubjectrulesreviews",
            json!({"kind": "Pod", "apiVersion": "v1"}),
            400,
            "Pod in version \"v1\" cannot be handled as a SelfSubjectRulesReview: no kind \"Pod\" is registered for version \"v1\"",
        ),
    ];
    for (kind, body, code, message) in cases {
        let answer = ask(&server, &admin(), kind, body).await;
        assert_eq!(told(answer), (code, message.to_owned()));
    }
    let path = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    let body = json!({"spec": {"user": "ann", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "other"}}});
    let answer = send_as(&server, &admin(), "POST", path, body).await;
    assert_eq!(
        told(answer),
        (422, "LocalSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace".to_owned())
    );
    let (code, _) = send_as(&server, &admin(), "GET", path, Value::Null).await;
    assert_eq!(code, 405);
}

#[tokio::test]
async fn the_rules_of_a_user_can_be_listed() {
    let server = server().await;
    let body = json!({"spec": {"namespace": "default"}});
    let (code, answer) = ask(
        &server,
        &user("ann"),
        "selfsubjectrulesreviews",
        body.clone(),
    )
    .await;
    assert_eq!(code, 201, "{answer}");
    let status = &answer["status"];
    assert_eq!(status["incomplete"], false);
    let own = json!({"apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], "verbs": ["create"]});
    assert!(
        status["resourceRules"].as_array().unwrap().contains(&own),
        "{status}"
    );
    assert!(
        status["nonResourceRules"]
            .to_string()
            .contains("/openapi/*"),
        "{status}"
    );
    let (_, answer) = ask(&server, &admin(), "selfsubjectrulesreviews", body).await;
    let everything = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
    assert!(
        answer["status"]["resourceRules"]
            .as_array()
            .unwrap()
            .contains(&everything)
    );
}

#[tokio::test]
async fn who_may_change_an_object_may_not_make_it() {
    let server = server().await;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "change"},
        "rules": [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                   "verbs": ["update", "patch"]}],
    });
    ok(
        &server,
        "POST",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        role,
    )
    .await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "change"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "change"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    ok(&server, "POST", bindings, binding).await;
    let ann = user("ann");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
    });
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let refused = "leases.coordination.k8s.io \"l\" is forbidden: User \"ann\" cannot create resource \
                   \"leases\" in API group \"coordination.k8s.io\" in the namespace \"default\"";
    let (code, answer) = send_as(&server, &ann, "PUT", path, lease.clone()).await;
    assert_eq!((code, &answer["message"]), (403, &json!(refused)));
    let request = http::Request::patch(format!("{path}?fieldManager=ann"))
        .header("content-type", "application/apply-patch+yaml")
        .body(eyot_http::full(lease.to_string()))
        .unwrap();
    let response = server.as_user(ann.clone()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 403);
    let made = ok(&server, "PUT", path, lease).await;
    let (code, answer) = send_as(&server, &ann, "PUT", path, made).await;
    assert_eq!(code, 200, "{answer}");
}
