//! Requests that are refused, over one connection that is kept: none may be in the way of the next.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use super::{Doors, Socket};
use crate::PATIENCE;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/kept.test/v1/namespaces/default/things";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// One connection of either protocol.
enum Kept {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Kept {
    async fn open(socket: Box<dyn Socket>, two: bool) -> Kept {
        let io = TokioIo::new(socket);
        if two {
            let opened = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = opened.unwrap();
            tokio::spawn(connection);
            return Kept::Two(sender);
        }
        let (sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Kept::One(sender)
    }

    /// The code of the answer, which is read to its end.
    async fn send(&mut self, method: &str, path: &str, media: &str, body: Bytes) -> StatusCode {
        let uri = match self {
            Kept::One(_) => path.to_owned(),
            Kept::Two(_) => format!("http://localhost{path}"),
        };
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "localhost")
            .header("content-type", media)
            .body(Full::new(body))
            .unwrap();
        let exchange = async {
            let response = match self {
                Kept::One(sender) => {
                    sender.ready().await.unwrap();
                    sender.send_request(request).await
                }
                Kept::Two(sender) => {
                    sender.ready().await.unwrap();
                    sender.send_request(request).await
                }
            };
            let response = response.unwrap();
            let code = response.status();
            // On HTTP/2 the rest of a body that is not wanted is broken off after the answer.
            response.into_body().collect().await.unwrap();
            code
        };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .expect("an answer in time")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_patch_is_not_in_the_way_of_the_next_request() {
    let doors = Doors::open().await;
    let mut admin = Kept::open(Box::new(doors.plain().await), false).await;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.kept.test"},
        "spec": {
            "group": "kept.test", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                          "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    let thing = json!({"apiVersion": "kept.test/v1", "kind": "Thing", "metadata": {"name": "a"}});
    for (path, body) in [(CRDS, definition), (THINGS, thing)] {
        let body = body.to_string().into();
        assert_eq!(
            admin.send("POST", path, "application/json", body).await,
            201
        );
    }
    let one = format!("{THINGS}/a");
    for two in [false, true] {
        for (door, socket) in doors.both().await {
            // The administrator comes by the plain door; by the other one nobody is known.
            let (refused, read, found) = match door {
                "plain" => (StatusCode::UNSUPPORTED_MEDIA_TYPE, one.as_str(), 200),
                _ => (StatusCode::FORBIDDEN, "/healthz", 200),
            };
            let mut kept = Kept::open(socket, two).await;
            for size in [0, 100, 60_000, 2 << 20].repeat(5) {
                let body = Bytes::from(vec![b'x'; size]);
                let code = kept.send("PATCH", &one, STRATEGIC, body).await;
                assert_eq!(code, refused, "{door}, HTTP/2: {two}, {size} bytes");
                let code = kept.send("GET", read, "", Bytes::new()).await;
                assert_eq!(code, found, "{door}, HTTP/2: {two}, after {size} bytes");
            }
        }
    }
    doors.is_well().await;
}
