//! The registry behind its guard: who is let in, and what clients are told.

use std::sync::Arc;

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use eyot_http::BoxError;
use http::Method;
use serde_json::json;
use tower::ServiceExt;

use super::{Answer, Fixture};
use crate::{Anonymous, Gatekeeper, Guard, Verb, Who};

/// The token is the name, and the name says what its owner may: verbs, and a repository.
struct ByName;

#[async_trait]
impl Gatekeeper for ByName {
    async fn who(&self, token: &str) -> Result<Option<Who>, BoxError> {
        if token == "down" {
            return Err("the API does not answer".into());
        }
        Ok(token.starts_with("may-").then(|| Who {
            name: token.to_owned(),
            uid: String::new(),
            groups: Vec::new(),
        }))
    }

    async fn may(&self, who: &Who, verb: Verb, repository: Option<&str>) -> Result<bool, BoxError> {
        let (verbs, of) = who.name.trim_start_matches("may-").split_once('@').unwrap();
        Ok(verbs.split(',').any(|v| v == verb.as_str()) && repository.unwrap_or("*") == of)
    }
}

struct Guarded {
    f: Fixture,
    guard: Guard,
}

impl Guarded {
    fn new(anonymous: Anonymous) -> Self {
        let guard = Guard {
            keeper: Arc::new(ByName),
            anonymous,
            tls: true,
        };
        Self {
            f: Fixture::new(),
            guard,
        }
    }

    async fn send(&self, method: Method, path: &str, authorization: &str) -> Answer {
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "registry.test:5000");
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        let request = request.body(eyot_http::empty()).unwrap();
        let service = self.f.registry.guarded(self.guard.clone());
        let (parts, body) = service.oneshot(request).await.unwrap().into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: eyot_http::collect(body, 1 << 20).await.unwrap(),
        }
    }
}

fn basic(password: &str) -> String {
    format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("any:{password}"))
    )
}

#[tokio::test]
async fn who_says_nothing_is_told_where_tokens_are_had() {
    let g = Guarded::new(Anonymous::Nothing);
    let (get, post) = (Method::GET, Method::POST);
    let answer = g
        .send(get.clone(), "/v2/", "")
        .await
        .refused(401, "UNAUTHORIZED");
    assert_eq!(
        answer.header("www-authenticate"),
        "Bearer realm=\"https://registry.test:5000/token\",service=\"eyot\""
    );
    let answer = g.send(post, "/v2/a/b/blobs/uploads/", "").await.is(401);
    let challenge = answer.header("www-authenticate");
    assert!(
        challenge.ends_with(",scope=\"repository:a/b:pull,push\""),
        "{challenge}"
    );
    for nobody in [
        basic("nobody"),
        "Bearer nobody".to_owned(),
        "Bearer ".to_owned(),
    ] {
        let answer = g.send(get.clone(), "/v2/", &nobody).await;
        answer.refused(401, "UNAUTHORIZED");
    }
    // The token flow.
    g.send(get.clone(), "/token?service=eyot", "")
        .await
        .refused(401, "UNAUTHORIZED");
    g.send(get.clone(), "/token", &basic("nobody"))
        .await
        .is(401);
    let given = g
        .send(get.clone(), "/token", &basic("may-get@a"))
        .await
        .is(200)
        .json();
    assert_eq!(given["token"], json!("may-get@a"));
    assert_eq!(given["access_token"], given["token"]);
    let bearer = format!("Bearer {}", given["token"].as_str().unwrap());
    g.send(get.clone(), "/v2/", &bearer).await.is(200);
    // Who cannot be asked for is no stranger.
    g.send(get, "/v2/", "Bearer down").await.is(503);
}

#[tokio::test]
async fn everybody_does_what_they_may_and_nothing_else() {
    let g = Guarded::new(Anonymous::Nothing);
    let digest = g.f.blob("a", "content").await;
    let blob = format!("/v2/a/blobs/{digest}");
    let mount = format!("/v2/b/blobs/uploads/?mount={digest}&from=a");
    for (method, path, who, status) in [
        (Method::GET, blob.as_str(), "may-get@a", 200),
        (Method::HEAD, &blob, "may-get@a", 200),
        (Method::GET, &blob, "may-get@b", 403),
        (Method::GET, &blob, "may-create,delete@a", 403),
        (Method::DELETE, &blob, "may-get,create@a", 403),
        (Method::POST, "/v2/a/blobs/uploads/", "may-get@a", 403),
        (Method::POST, "/v2/a/blobs/uploads/", "may-create@a", 202),
        // To take it out of one needs a right there, too.
        (Method::POST, &mount, "may-create@b", 403),
        (Method::GET, "/v2/_catalog", "may-get@a", 403),
        (Method::GET, "/v2/_catalog", "may-list@*", 200),
        (Method::GET, "/v2/_eyot/images", "may-get@a", 403),
        (Method::GET, "/v2/_eyot/images", "may-list@*", 200),
        (
            Method::DELETE,
            "/v2/_eyot/images?digest=sha256:1",
            "may-list@*",
            403,
        ),
        (
            Method::DELETE,
            "/v2/_eyot/images?digest=sha256:1",
            "may-delete@*",
            404,
        ),
        (Method::DELETE, &blob, "may-delete@a", 202),
    ] {
        let answer = g.send(method.clone(), path, &basic(who)).await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{method} {path} as {who}: {answer:?}"
        );
        if status == 403 && method != Method::HEAD {
            let answer = answer.refused(403, "DENIED");
            let message = answer.json()["errors"][0]["message"].to_string();
            assert!(message.contains("repositories.eyot.dev"), "{message}");
        }
    }
}

#[tokio::test]
async fn what_is_open_to_everybody_is_open_without_a_name() {
    let g = Guarded::new(Anonymous::Read);
    let digest = g.f.blob("a", "content").await;
    g.send(Method::GET, &format!("/v2/a/blobs/{digest}"), "")
        .await
        .is(200);
    g.send(Method::POST, "/v2/a/blobs/uploads/", "")
        .await
        .refused(401, "UNAUTHORIZED");
    // Who says a name is held to it.
    g.send(Method::GET, "/v2/_catalog", &basic("nobody"))
        .await
        .is(401);
    let g = Guarded::new(Anonymous::Everything);
    g.send(Method::POST, "/v2/a/blobs/uploads/", "")
        .await
        .is(202);
}
