//! The real kubectl on rights, users and tokens.

use crate::kubectl::Kubectl;

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_grants_rights_and_asks_about_them() {
    let Some(kubectl) = Kubectl::start("kubectl_grants_rights_and_asks_about_them").await else {
        return;
    };
    let can = async |who: &str, what: &[&str]| {
        let args = [&["auth", "can-i"], what, &["--as", who]].concat();
        let output = kubectl.output(&args, "").await;
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(can("ann", &["list", "pods"]).await, "no");
    let refused = kubectl.fail(&["get", "pods", "--as", "ann"], "").await;
    assert_eq!(
        refused,
        "Error from server (Forbidden): pods is forbidden: User \"ann\" cannot list resource \
         \"pods\" in API group \"\" in the namespace \"default\"\n"
    );
    let role = [
        "create",
        "role",
        "reader",
        "--verb=get,list",
        "--resource=pods,pods/log",
    ];
    kubectl.run(&role, "").await;
    let binding = [
        "create",
        "rolebinding",
        "readers",
        "--role=reader",
        "--user=ann",
        "--group=staff",
    ];
    kubectl.run(&binding, "").await;
    assert_eq!(can("ann", &["list", "pods"]).await, "yes");
    assert_eq!(
        can("ann", &["get", "pods", "--subresource=log"]).await,
        "yes"
    );
    assert_eq!(can("ann", &["delete", "pods"]).await, "no");
    assert_eq!(
        can("ann", &["list", "pods", "-n", "kube-system"]).await,
        "no"
    );
    assert_eq!(
        can("bob", &["list", "pods", "--as-group=staff"]).await,
        "yes"
    );
    assert_eq!(can("ann", &["get", "/api"]).await, "yes");
    assert_eq!(can("ann", &["get", "/metrics"]).await, "no");
    kubectl.run(&["get", "pods", "--as", "ann"], "").await;
    let list = kubectl
        .run(&["auth", "can-i", "--list", "--as", "ann"], "")
        .await;
    assert!(
        list.contains("pods/log") && list.contains("[get list]"),
        "{list}"
    );
    let bound = [
        "create",
        "clusterrolebinding",
        "b",
        "--clusterrole=view",
        "--serviceaccount=default:robot",
    ];
    kubectl.run(&bound, "").await;
    let robot = "system:serviceaccount:default:robot";
    assert_eq!(can(robot, &["list", "deployments", "-A"]).await, "yes");
    assert_eq!(can(robot, &["get", "secrets"]).await, "no");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_makes_and_uses_tokens() {
    let Some(kubectl) = Kubectl::start("kubectl_makes_and_uses_tokens").await else {
        return;
    };
    kubectl
        .run(&["create", "serviceaccount", "robot"], "")
        .await;
    let token = kubectl
        .run(&["create", "token", "robot", "--duration=20m"], "")
        .await;
    let token = token.trim();
    let with = async |token: &str, args: &[&str]| {
        let all = [
            &[
                "--insecure-skip-tls-verify",
                "--server",
                &kubectl.open,
                "--token",
                token,
            ],
            args,
        ]
        .concat();
        kubectl.output(&all, "").await
    };
    let shown = with(
        token,
        &[
            "auth",
            "whoami",
            "-o",
            "jsonpath={.status.userInfo.username}",
        ],
    )
    .await;
    assert_eq!(
        String::from_utf8_lossy(&shown.stdout),
        "system:serviceaccount:default:robot",
        "{}",
        String::from_utf8_lossy(&shown.stderr)
    );
    let refused = with(token, &["get", "pods"]).await;
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(
        told.contains("User \"system:serviceaccount:default:robot\" cannot list"),
        "{told}"
    );
    let refused = with("nonsense", &["get", "pods"]).await;
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(
        told.contains("You must be logged in to the server"),
        "{told}"
    );
    let short = kubectl
        .fail(&["create", "token", "robot", "--duration=1m"], "")
        .await;
    assert!(
        short.contains("may not specify a duration less than 10 minutes"),
        "{short}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_reconciles_roles() {
    let Some(kubectl) = Kubectl::start("kubectl_reconciles_roles").await else {
        return;
    };
    let roles = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: r}
rules:
- {apiGroups: [''], resources: [pods], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: b}
subjects:
- {kind: User, name: ann, apiGroup: rbac.authorization.k8s.io}
roleRef: {kind: ClusterRole, name: r, apiGroup: rbac.authorization.k8s.io}
";
    let reconcile = ["auth", "reconcile", "-f", "-"];
    kubectl.run(&reconcile, roles).await;
    let wider = roles.replace("[get]", "[get, list]");
    kubectl.run(&reconcile, &wider).await;
    let verbs = kubectl
        .run(
            &[
                "get",
                "clusterrole",
                "r",
                "-o",
                "jsonpath={.rules[*].verbs}",
            ],
            "",
        )
        .await;
    assert!(verbs.contains("list"), "{verbs}");
    let described = kubectl.run(&["describe", "clusterrole", "view"], "").await;
    assert!(described.contains("configmaps"), "{described}");
}
