//! Watches and logs over WebSockets, by a client's library and byte by byte.

use std::{convert::Infallible, sync::Arc};

use eyot_apiserver::{ApiServer, Kubelet, Nodes, Options};
use eyot_http::{Request, Response};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::util::BoxCloneSyncService;

use crate::{PATIENCE, admin, config_map, ok, pod, server, server_with};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

struct Door {
    address: String,
    _stop: DropGuard,
}

impl Door {
    async fn open(server: &ApiServer) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let service = server.as_user(admin());
        tokio::spawn(eyot_http::serve(listener, None, service, stop.clone()));
        Door {
            address,
            _stop: stop.drop_guard(),
        }
    }

    /// A WebSocket at this path, and the protocol that was agreed on.
    async fn socket(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<(WebSocketStream<TcpStream>, Option<String>), Error> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let (socket, answer) = client_async(request, stream).await?;
        let agreed = answer.headers().get("sec-websocket-protocol");
        let agreed = agreed.map(|agreed| agreed.to_str().unwrap().to_owned());
        Ok((socket, agreed))
    }
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Message {
    let next = tokio::time::timeout(PATIENCE, socket.next()).await;
    next.expect("a message in time").expect("no end").unwrap()
}

fn protocol(name: &str) -> Vec<(&'static str, &str)> {
    match name {
        "" => Vec::new(),
        name => vec![("sec-websocket-protocol", name)],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sends_each_event_as_one_message_of_text() {
    let server = server().await;
    let door = Door::open(&server).await;
    for name in ["a", "b"] {
        ok(&server, "POST", MAPS, config_map(name)).await;
    }
    for name in ["", "binary.k8s.io", "base64.binary.k8s.io"] {
        let path = format!("{MAPS}?watch=1&fieldSelector=metadata.name!%3Dkube-root-ca.crt");
        let (mut socket, agreed) = door.socket(&path, &protocol(name)).await.unwrap();
        assert_eq!(agreed.unwrap_or_default(), name);
        // What the client says does not matter.
        socket.send(Message::text("hello")).await.unwrap();
        let event = async |socket: &mut WebSocketStream<TcpStream>| {
            let Message::Text(text) = next(socket).await else {
                return "no text".to_owned();
            };
            let event: Value = serde_json::from_str(&text).unwrap();
            let name = event["object"]["metadata"]["name"].as_str().unwrap();
            format!("{} {name}", event["type"].as_str().unwrap())
        };
        assert_eq!(event(&mut socket).await, "ADDED a");
        assert_eq!(event(&mut socket).await, "ADDED b");
        let change = json!({"data": {"k": format!("by {name}")}});
        ok(&server, "PATCH", &format!("{MAPS}/b"), change).await;
        assert_eq!(event(&mut socket).await, "MODIFIED b");
        socket.close(None).await.unwrap();
        assert!(matches!(next(&mut socket).await, Message::Close(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_in_protobuf_sends_bytes_and_a_watch_that_ends_says_goodbye() {
    let server = server().await;
    let door = Door::open(&server).await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    let accept = "application/vnd.kubernetes.protobuf;stream=watch";
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Da");
    let (mut socket, _) = door.socket(&path, &[("accept", accept)]).await.unwrap();
    let event = next(&mut socket).await;
    assert!(event.is_binary());
    let event = event.into_data();
    // The first field is the type, without a length before the whole.
    assert!(event.starts_with(b"\x0a\x05ADDED"), "{event:?}");
    assert!(matches!(next(&mut socket).await, Message::Close(Some(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_watched_or_agreed_on_is_refused_before_the_switch() {
    let server = server().await;
    let door = Door::open(&server).await;
    for (path, offered, code) in [
        (format!("{MAPS}?watch=1&labelSelector=(("), "", 400),
        ("/api/v1/nothings?watch=1".to_owned(), "", 404),
        (format!("{MAPS}?watch=1"), "v4.channel.k8s.io", 400),
        (format!("{PODS}/none/log"), "", 404),
    ] {
        let refused = door.socket(&path, &protocol(offered)).await;
        let found = match refused {
            Err(Error::Http(answer)) => answer.status().as_u16(),
            other => unreachable!("{path}: {other:?}"),
        };
        assert_eq!(found, code, "{path}");
    }
}

/// A node that writes a log of two pieces.
struct Writer;

impl Nodes for Writer {
    fn kubelet(&self, node: &str) -> Option<Kubelet> {
        let service = tower::service_fn(|_: Request| async {
            let pieces = ["one\n", "\u{fc}\n"].map(|piece| Ok::<_, Infallible>(piece.into()));
            let body = eyot_http::from_stream(futures::stream::iter(pieces));
            Ok::<_, Infallible>(Response::new(body))
        });
        (node == "n1").then(|| BoxCloneSyncService::new(service))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_begins_with_an_empty_message_and_comes_as_bytes_or_base64() {
    let options = Options {
        nodes: Arc::new(Writer),
        ..Options::default()
    };
    let server = server_with(options).await;
    let door = Door::open(&server).await;
    let mut bound = pod("a");
    bound["spec"]["nodeName"] = json!("n1");
    ok(&server, "POST", PODS, bound).await;
    let bytes = |text: &str| Message::binary(text.as_bytes().to_vec());
    for (name, expected) in [
        ("", [bytes(""), bytes("one\n"), bytes("\u{fc}\n")]),
        (
            "binary.k8s.io",
            [bytes(""), bytes("one\n"), bytes("\u{fc}\n")],
        ),
        (
            "base64.binary.k8s.io",
            ["", "b25lCg==", "w7wK"].map(Message::text),
        ),
    ] {
        let path = format!("{PODS}/a/log?follow=true");
        let (mut socket, _) = door.socket(&path, &protocol(name)).await.unwrap();
        for message in expected {
            assert_eq!(next(&mut socket).await, message, "{name}");
        }
        assert!(matches!(next(&mut socket).await, Message::Close(Some(_))));
    }
}

/// Frames that break the rules end the connection, and nothing is kept for them.
#[tokio::test(flavor = "multi_thread")]
async fn broken_frames_end_the_connection() {
    let server = server().await;
    let door = Door::open(&server).await;
    let huge = [0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    let large = [0x82, 0xff, 0, 0, 0, 0, 0, 0x20, 0, 0, 1, 2, 3, 4];
    for (what, frame) in [
        ("unmasked", &[0x81, 1, b'x'][..]),
        ("of 4 EiB", &huge),
        ("of 2 MiB", &large),
        ("of an unknown sort", &[0x83, 0x80, 1, 2, 3, 4]),
        ("with a reserved bit", &[0xc1, 0x80, 1, 2, 3, 4]),
        ("that continues nothing", &[0x80, 0x80, 1, 2, 3, 4]),
        ("a ping in fragments", &[0x09, 0x80, 1, 2, 3, 4]),
        ("text that is none", &[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xff]),
    ] {
        let mut socket = TcpStream::connect(&door.address).await.unwrap();
        let head = format!(
            "GET {MAPS}?watch=1&fieldSelector=metadata.name%3Dnone HTTP/1.1\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(frame).await.unwrap();
        let mut said = Vec::new();
        let end = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut said)).await;
        assert!(end.is_ok(), "{what}: the connection lives on");
        assert!(said.starts_with(b"HTTP/1.1 101 "), "{what}");
    }
}
