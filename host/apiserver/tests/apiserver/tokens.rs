//! Bearer tokens through the API: asked for, used, reviewed, refused.

use eyot_apiserver::{ApiServer, Options};
use serde_json::{Value, json};

use crate::{admin, get, ok, pod, send_as, send_with, server, server_with};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn account(server: &ApiServer, name: &str) -> Value {
    ok(
        server,
        "POST",
        ACCOUNTS,
        json!({"metadata": {"name": name}}),
    )
    .await
}

async fn request(server: &ApiServer, name: &str, spec: Value) -> (u16, Value) {
    let path = format!("{ACCOUNTS}/{name}/token");
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec,
    });
    send_as(server, &admin(), "POST", &path, body).await
}

fn token_of(answer: &Value) -> String {
    answer["status"]["token"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Send with a token and nothing else.
async fn with_token(
    server: &ApiServer,
    token: &str,
    method: &str,
    path: &str,
    body: Value,
) -> (u16, Value) {
    let bearer = format!("Bearer {token}");
    send_with(
        server,
        None,
        method,
        path,
        &[("authorization", &bearer)],
        body,
    )
    .await
}

async fn whoami(server: &ApiServer, token: &str) -> (u16, Value) {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, answer) = with_token(server, token, "POST", path, json!({})).await;
    (code, answer["status"]["userInfo"].clone())
}

#[tokio::test]
async fn a_token_that_was_asked_for_acts_as_its_account() {
    let server = server().await;
    let account = account(&server, "robot").await;
    let (code, answer) = request(&server, "robot", json!({})).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    assert_eq!(answer["metadata"]["name"], "robot");
    let (code, info) = whoami(&server, &token_of(&answer)).await;
    assert_eq!(code, 201, "{info}");
    assert_eq!(info["username"], "system:serviceaccount:default:robot");
    assert_eq!(info["uid"], account["metadata"]["uid"]);
    let id = info["extra"]["authentication.kubernetes.io/credential-id"][0].as_str();
    assert!(id.unwrap().starts_with("JTI="), "{info}");
    let (code, refusal) = with_token(&server, &token_of(&answer), "GET", PODS, Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(
        refusal["message"],
        "pods is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    ok(&server, "DELETE", &format!("{ACCOUNTS}/robot"), Value::Null).await;
    assert_eq!(whoami(&server, &token_of(&answer)).await.0, 401);
}

#[tokio::test]
async fn a_bad_token_is_refused_and_never_anonymous() {
    let server = server().await;
    account(&server, "robot").await;
    let (_, other) = request(&server, "robot", json!({"audiences": ["vault"]})).await;
    for token in [
        "nonsense",
        "a.b.c",
        "abcdef.0123456789abcdef",
        &token_of(&other),
    ] {
        for path in [PODS, "/livez", "/no/such/path"] {
            let (code, answer) = with_token(&server, token, "GET", path, Value::Null).await;
            let expected = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "Unauthorized", "reason": "Unauthorized", "code": 401,
            });
            assert_eq!((code, answer), (401, expected), "{path}");
        }
    }
    let basic = [("authorization", "Basic Zm9vOmJhcg==")];
    let (code, _) = send_with(&server, None, "GET", "/livez", &basic, Value::Null).await;
    assert_eq!(code, 200, "another scheme is no token");
}

#[tokio::test]
async fn a_request_for_a_token_is_checked() {
    let server = server().await;
    account(&server, "robot").await;
    account(&server, "other").await;
    let mut value = pod("p");
    value["spec"]["serviceAccountName"] = "robot".into();
    let pod = ok(&server, "POST", PODS, value).await;
    let bind = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}});
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let cases = [
        ("none", json!({}), 404, "serviceaccounts \"none\" not found"),
        (
            "robot",
            json!({"expirationSeconds": 599}),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
        ),
        (
            "robot",
            json!({"expirationSeconds": (1_i64 << 32) + 1}),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
        ),
        ("robot", bind("Pod", "q", ""), 404, "pods \"q\" not found"),
        (
            "other",
            bind("Pod", "p", ""),
            400,
            "cannot bind token for serviceaccount \"other\" to pod running with different serviceaccount name.",
        ),
        (
            "robot",
            bind("ConfigMap", "c", ""),
            400,
            "cannot bind token to object of type /v1, Kind=ConfigMap",
        ),
        (
            "robot",
            bind("Pod", "p", "other"),
            409,
            "Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference (other) does not match the UID in record. The object might have been deleted and then recreated",
        ),
    ];
    for (name, spec, code, message) in cases {
        let (found, answer) = request(&server, name, spec).await;
        assert_eq!(
            (found, answer["message"].as_str().unwrap()),
            (code, message)
        );
    }
    let (code, answer) = request(&server, "robot", bind("Pod", "p", uid)).await;
    assert_eq!(code, 201, "{answer}");
    let (_, info) = whoami(&server, &token_of(&answer)).await;
    assert_eq!(
        info["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["p"])
    );
    let end = format!("{PODS}/p?gracePeriodSeconds=0");
    ok(&server, "DELETE", &end, Value::Null).await;
    assert_eq!(whoami(&server, &token_of(&answer)).await.0, 401);
}

#[tokio::test]
async fn a_token_is_reviewed_for_those_who_ask() {
    let server = server().await;
    account(&server, "robot").await;
    let review = async |token: &str, audiences: Value| {
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let body = json!({"spec": {"token": token, "audiences": audiences}});
        let (code, answer) = send_as(&server, &admin(), "POST", path, body).await;
        (code, answer["status"].clone(), answer["message"].clone())
    };
    let (_, answer) = request(&server, "robot", json!({"audiences": ["vault", "ci"]})).await;
    let token = token_of(&answer);
    let (code, status, _) = review(&token, json!(["ci", "x"])).await;
    assert_eq!(
        (code, &status["authenticated"]),
        (201, &json!(true)),
        "{status}"
    );
    assert_eq!(status["audiences"], json!(["ci"]));
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:default:robot"
    );
    let (code, status, _) = review(&token, json!([])).await;
    assert_eq!((code, &status["user"]), (201, &json!({})));
    assert_eq!(status.get("authenticated"), None);
    assert!(
        status["error"].as_str().unwrap().contains("audiences"),
        "{status}"
    );
    let (code, _, message) = review("", json!([])).await;
    assert_eq!(
        (code, message),
        (
            400,
            json!("token is required for TokenReview in authentication")
        )
    );
}

#[tokio::test]
async fn a_token_secret_is_filled_when_it_is_made() {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let server = server_with(Options {
        root_ca: Some("the authority".into()),
        ..Options::default()
    })
    .await;
    let account = account(&server, "robot").await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({
        "metadata": {"name": "s", "annotations": {"kubernetes.io/service-account.name": "robot"}},
        "type": "kubernetes.io/service-account-token",
    });
    let made = ok(&server, "POST", secrets, secret).await;
    let annotation = &made["metadata"]["annotations"]["kubernetes.io/service-account.uid"];
    assert_eq!(annotation, &account["metadata"]["uid"]);
    let entry = |key: &str| {
        let text = made["data"][key].as_str().unwrap();
        String::from_utf8(BASE64_STANDARD.decode(text).unwrap()).unwrap()
    };
    assert_eq!(
        (entry("namespace"), entry("ca.crt")),
        ("default".into(), "the authority".into())
    );
    let (code, info) = whoami(&server, &entry("token")).await;
    assert_eq!(
        (code, info["username"].as_str()),
        (201, Some("system:serviceaccount:default:robot"))
    );
    ok(&server, "DELETE", &format!("{secrets}/s"), Value::Null).await;
    assert_eq!(whoami(&server, &entry("token")).await.0, 401);
    let (_, nameless) = send_as(
        &server,
        &admin(),
        "POST",
        secrets,
        json!({"metadata": {"name": "t"}, "type": "kubernetes.io/service-account-token"}),
    )
    .await;
    assert_eq!(
        nameless["message"],
        "Secret \"t\" is invalid: metadata.annotations[kubernetes.io/service-account.name]: Required value"
    );
}

#[tokio::test]
async fn the_issuer_tells_service_accounts_where_its_keys_are() {
    let server = server().await;
    account(&server, "robot").await;
    let (_, answer) = request(&server, "robot", json!({})).await;
    let token = token_of(&answer);
    let path = "/.well-known/openid-configuration";
    let (code, configuration) = with_token(&server, &token, "GET", path, Value::Null).await;
    assert_eq!(code, 200, "{configuration}");
    let host = [("host", "api.example:6443")];
    let (_, called) = send_with(&server, Some(&admin()), "GET", path, &host, Value::Null).await;
    assert_eq!(
        called["jwks_uri"],
        "https://api.example:6443/openid/v1/jwks"
    );
    assert_eq!(
        configuration["id_token_signing_alg_values_supported"],
        json!(["ES256"])
    );
    let (code, keys) = with_token(&server, &token, "GET", "/openid/v1/jwks", Value::Null).await;
    assert_eq!(code, 200, "{keys}");
    let header = token.split('.').next().unwrap();
    let header = {
        use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(header).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()
    };
    assert_eq!(keys["keys"][0]["kid"], header["kid"]);
    let (code, _) = send_with(&server, None, "GET", path, &[], Value::Null).await;
    assert_eq!(code, 403, "strangers are not told");
}

#[tokio::test]
async fn a_websocket_brings_its_token_as_a_protocol() {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let server = server().await;
    account(&server, "robot").await;
    let (_, answer) = request(&server, "robot", json!({})).await;
    let encoded = BASE64_URL_SAFE_NO_PAD.encode(token_of(&answer));
    let token = format!("base64url.bearer.authorization.k8s.io.{encoded}");
    let path = format!("{PODS}/p/exec?command=id");
    for (protocols, upgrade, code, who) in [
        (
            format!("{token}, v5.channel.k8s.io"),
            "websocket",
            403,
            "system:serviceaccount:default:robot",
        ),
        (token.clone(), "websocket", 401, ""),
        (
            format!("{token}, {token}, v5.channel.k8s.io"),
            "websocket",
            401,
            "",
        ),
        (format!("{token}x, v5.channel.k8s.io"), "websocket", 401, ""),
        (
            format!("{token}, v5.channel.k8s.io"),
            "other",
            403,
            "system:anonymous",
        ),
    ] {
        let headers = [
            ("upgrade", upgrade),
            ("sec-websocket-protocol", protocols.as_str()),
        ];
        let (found, answer) = send_with(&server, None, "GET", &path, &headers, Value::Null).await;
        assert_eq!(found, code, "{answer}");
        assert!(
            answer["message"].as_str().unwrap().contains(who),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn tokens_are_part_of_discovery() {
    let server = server().await;
    let (_, core) = get(&server, "/api/v1").await;
    let entry = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "serviceaccounts/token")
        .unwrap()
        .clone();
    assert_eq!(
        entry,
        json!({
            "name": "serviceaccounts/token", "singularName": "", "namespaced": true,
            "group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest", "verbs": ["create"],
        })
    );
    let (_, group) = get(&server, "/apis/authentication.k8s.io/v1").await;
    let names: Vec<&str> = group["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    assert_eq!(names, ["selfsubjectreviews", "tokenreviews"]);
}
