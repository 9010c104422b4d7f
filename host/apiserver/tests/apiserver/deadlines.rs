//! What happens to requests that take too long.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{admin, bytes, get, raw, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_request_is_given_up_after_its_time() {
    let server = server().await;
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{"))]);
    let request = http::Request::post(format!("{MAPS}?timeout=50ms"))
        .body(eyot_http::from_stream(first.chain(stream::pending())))
        .unwrap();
    let answer = server.as_user(admin()).oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 504);
    let status: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
    let expected = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "Timeout: request did not complete within the allotted timeout",
        "reason": "Timeout", "details": {}, "code": 504,
    });
    assert_eq!(status, expected);
}

#[tokio::test]
async fn a_time_that_is_none_is_refused_but_not_of_watches() {
    let server = server().await;
    let (code, status) = get(&server, &format!("{MAPS}?timeout=soon")).await;
    assert_eq!((code, &status["reason"]), (400, &json!("BadRequest")));
    assert_eq!(
        status["message"],
        "invalid timeout specified in the request URL - time: invalid duration \"soon\""
    );
    let watch = format!("{MAPS}?watch=true&timeout=soon&timeoutSeconds=1");
    let answer = raw(&server, "GET", &watch, &[], Bytes::new()).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_watch_outlives_its_timeout() {
    let server = server().await;
    let watch = format!("{MAPS}?watch=true&timeout=1s&timeoutSeconds=120");
    let answer = raw(&server, "GET", &watch, &[], Bytes::new()).await;
    let begun = tokio::time::Instant::now();
    let _ = bytes(answer).await;
    assert!(begun.elapsed().as_secs() >= 120);
}
