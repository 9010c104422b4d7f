//! Requests for certificates: who may decide about them, and what nobody is given.

use base64::Engine;
use eyot_apiserver::ApiServer;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

use crate::{kubectl::Kubectl, ok, rights::user, send, send_as, server};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn request(name: &str, signer: &str, group: &str) -> Value {
    let mut params = CertificateParams::default();
    let subject = &mut params.distinguished_name;
    subject.push(DnType::CommonName, "ann");
    subject.push(DnType::OrganizationName, group);
    let key = KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": base64::engine::general_purpose::STANDARD.encode(pem),
            "signerName": signer, "usages": ["client auth"],
        },
    })
}

/// Lets `user` write all parts of requests, and no more.
async fn grant(server: &ApiServer, user: &str, name: &str, rules: Value) {
    let api = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{api}/v1"), "kind": "ClusterRole", "metadata": {"name": name},
        "rules": rules,
    });
    let binding = json!({
        "apiVersion": format!("{api}/v1"), "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": api, "kind": "User", "name": user}],
    });
    let path = format!("/apis/{api}/v1");
    ok(server, "POST", &format!("{path}/clusterroles"), role).await;
    let bindings = format!("{path}/clusterrolebindings");
    ok(server, "POST", &bindings, binding).await;
}

fn signers(verb: &str, name: &str) -> Value {
    json!([{
        "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": [verb],
        "resourceNames": [name],
    }])
}

#[tokio::test]
async fn who_decides_needs_a_right_on_the_signer() {
    let server = server().await;
    let write = json!([{
        "apiGroups": ["certificates.k8s.io"], "verbs": ["update"],
        "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"],
    }]);
    grant(&server, "bob", "write", write).await;
    let made = ok(&server, "POST", REQUESTS, request("a", "x.test/y", "g")).await;
    assert_eq!(made["spec"]["username"], "admin");
    let (bob, approval) = (user("bob"), format!("{REQUESTS}/a/approval"));
    let mut approved = made.clone();
    approved["status"]["conditions"] = json!([{
        "type": "Approved", "status": "True", "reason": "Fine", "message": "why not",
    }]);
    let (code, answer) = send_as(&server, &bob, "PUT", &approval, approved.clone()).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        "certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: user not permitted to \
         approve requests with signerName \"x.test/y\""
    );
    grant(&server, "bob", "approve", signers("approve", "x.test/y")).await;
    let (code, answer) = send_as(&server, &bob, "PUT", &approval, approved).await;
    assert_eq!(code, 200, "{answer}");

    let mut failed = answer.clone();
    let failure = json!({"type": "Failed", "status": "True", "reason": "No"});
    failed["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(failure);
    let status = format!("{REQUESTS}/a/status");
    let (code, answer) = send_as(&server, &bob, "PUT", &status, failed.clone()).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        "certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: user not permitted to \
         sign requests with signerName \"x.test/y\""
    );
    // The whole domain will do.
    grant(&server, "bob", "sign", signers("sign", "x.test/*")).await;
    let (code, answer) = send_as(&server, &bob, "PUT", &status, failed).await;
    assert_eq!(code, 200, "{answer}");
}

#[tokio::test]
async fn nobody_asks_to_be_a_master() {
    let server = server().await;
    let signer = "kubernetes.io/kube-apiserver-client";
    let body = request("a", signer, "system:masters");
    let (code, answer) = send(&server, "POST", REQUESTS, body).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        "certificatesigningrequests.certificates.k8s.io \"a\" is forbidden: use of \
         kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
    );
    ok(&server, "POST", REQUESTS, request("a", signer, "others")).await;
    let other = request("b", "x.test/y", "system:masters");
    ok(&server, "POST", REQUESTS, other).await;
}

#[tokio::test]
async fn kubectl_approves_and_denies() {
    let Some(kubectl) = Kubectl::start("kubectl_approves_and_denies").await else {
        return;
    };
    for name in ["a", "b"] {
        let body = request(name, "x.test/y", "g");
        ok(&kubectl.server, "POST", REQUESTS, body).await;
    }
    let said = kubectl.run(&["certificate", "approve", "a"], "").await;
    assert_eq!(
        said.trim(),
        "certificatesigningrequest.certificates.k8s.io/a approved"
    );
    let said = kubectl.run(&["certificate", "deny", "b"], "").await;
    assert_eq!(
        said.trim(),
        "certificatesigningrequest.certificates.k8s.io/b denied"
    );
    let said = kubectl.run(&["get", "csr", "--no-headers"], "").await;
    let ends: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    assert_eq!(ends, ["Approved", "Denied"]);
}
