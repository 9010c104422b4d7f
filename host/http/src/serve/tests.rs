//! Peers that never begin, never end or never read, with a clock that is turned by hand.

use std::future::Future;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

use super::*;
use crate::{
    BoxError, Upgrade,
    limits::{DISCARD_TIME, STALLED},
    upgrade,
};

/// A client's end of a connection on which `answer` is given to every request.
fn connect<F, A>(answer: F) -> DuplexStream
where
    F: Fn(Request) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response> + Send + 'static,
{
    let (client, server) = duplex(1024);
    let service = tower::service_fn(move |request| {
        let answer = answer(request);
        async move { Ok(answer.await) }
    });
    let peer = Peer {
        address: ([127, 0, 0, 1], 1).into(),
        certificate: None,
        memo: Memo::default(),
    };
    let service = BoxCloneSyncService::new(service);
    tokio::spawn(async move {
        let graceful = GracefulShutdown::new();
        converse(server, peer, true, service, graceful.watcher()).await;
    });
    client
}

/// How long until the server hangs up on a client that sent this, and what it said.
async fn hang_up(client: &mut DuplexStream, sent: &[u8]) -> (Duration, String) {
    client.write_all(sent).await.unwrap();
    let begin = tokio::time::Instant::now();
    let mut said = Vec::new();
    // What was not answered may also end in an error.
    let _ = client.read_to_end(&mut said).await;
    (begin.elapsed(), String::from_utf8_lossy(&said).into_owned())
}

async fn pong(_: Request) -> Response {
    crate::text(StatusCode::OK, "pong")
}

#[tokio::test(start_paused = true)]
async fn who_does_not_begin_in_time_is_dropped() {
    for sent in ["", "P", "PRI * HTTP/2.0\r\n", "G", "GET / HTTP/1.1\r\nA: "] {
        let (time, _) = hang_up(&mut connect(pong), sent.as_bytes()).await;
        assert!(time >= HELLO && time < 2 * HELLO, "{sent:?}: {time:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_may_pause_longer_than_clients_keep_theirs() {
    let mut client = connect(pong);
    for _ in 0..3 {
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"pong") {
            said.push(client.read_u8().await.unwrap());
        }
        tokio::time::sleep(Duration::from_secs(90)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_request_must_be_complete_in_time_too() {
    let mut client = connect(pong);
    for pause in [0, 90, 90] {
        tokio::time::sleep(Duration::from_secs(pause)).await;
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        tokio::time::sleep(HELLO / 2).await;
        client.write_all(b"\r\n").await.unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"pong") {
            said.push(client.read_u8().await.unwrap());
        }
    }
    tokio::time::sleep(Duration::from_secs(90)).await;
    let (time, _) = hang_up(&mut client, b"GET / HTTP/1.1\r\nA: ").await;
    assert!(time >= HELLO && time < 2 * HELLO, "{time:?}");
}

/// The body of a request comes as slowly as its reader allows, and so does what a client sends ahead
/// while its answer is still coming.
#[tokio::test(start_paused = true)]
async fn what_comes_during_an_exchange_is_no_late_head() {
    let mut client = connect(|request: Request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let slow = stream::unfold(0, |n| async move {
            tokio::time::sleep(2 * HELLO).await;
            (n < 3).then(|| (Ok::<_, BoxError>(Bytes::from_static(b"-")), n + 1))
        });
        let first = stream::iter([Ok::<_, BoxError>(body)]);
        http::Response::new(crate::from_stream(first.chain(slow)))
    });
    let head = b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n";
    for _ in 0..2 {
        client.write_all(head).await.unwrap();
        for byte in b"ping" {
            tokio::time::sleep(2 * HELLO).await;
            client.write_all(&[*byte]).await.unwrap();
        }
        client.write_all(b"POST /").await.unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"0\r\n\r\n") {
            said.push(client.read_u8().await.unwrap());
        }
        let said = String::from_utf8(said).unwrap();
        assert!(
            said.contains("ping") && said.matches("1\r\n-").count() == 3,
            "{said}"
        );
        client
            .write_all(b" HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"0\r\n\r\n") {
            said.push(client.read_u8().await.unwrap());
        }
    }
}

/// Who is refused before its body is read hears of it, and keeps its connection.
#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_read_is_in_nobodys_way() {
    for size in [0, 1, 100, 65_536, 3 << 20] {
        let mut client = connect(pong);
        for _ in 0..3 {
            let head = format!("PATCH / HTTP/1.1\r\nContent-Length: {size}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            // As slowly as a body may come, and without looking at the answer meanwhile.
            tokio::time::sleep(2 * HELLO).await;
            client.write_all(&vec![b'x'; size]).await.unwrap();
            let mut said = Vec::new();
            while !said.ends_with(b"pong") {
                said.push(client.read_u8().await.unwrap());
            }
        }
        let (_, said) = hang_up(&mut client, b"GET / HTTP/1.0\r\n\r\n").await;
        assert!(said.ends_with("pong"), "{size}: {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_reads_is_not_taken_for_ever() {
    let mut client = connect(pong);
    let head = b"PATCH / HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n";
    let (time, said) = hang_up(&mut client, head).await;
    assert!(said.ends_with("pong"), "{said}");
    assert!(time <= 2 * DISCARD_TIME, "{time:?}");
    // A client that waits to be told is not told to send it.
    let mut client = connect(pong);
    let head = b"PATCH / HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
    let (_, said) = hang_up(&mut client, head).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_short_request_may_wait_long_for_its_answer() {
    let mut client = connect(|_| async {
        tokio::time::sleep(10 * HELLO).await;
        crate::text(StatusCode::OK, "at last")
    });
    let (time, said) = hang_up(&mut client, b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(said.ends_with("at last"), "{said}");
    assert!(time >= 10 * HELLO, "{time:?}");
}

/// An answer without end.
async fn endless(_: Request) -> Response {
    let piece = stream::repeat_with(|| Ok::<_, BoxError>(Bytes::from_static(&[b'x'; 4096])));
    http::Response::new(crate::from_stream(piece))
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_is_dropped() {
    let mut client = connect(endless);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    tokio::time::sleep(STALLED + HELLO).await;
    let mut said = Vec::new();
    let _ = client.read_to_end(&mut said).await;
    // What lay in between, and not one byte more.
    assert!(said.len() <= 1024, "{}", said.len());
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_is_served() {
    let mut client = connect(endless);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut piece = [0; 512];
    for _ in 0..20 {
        tokio::time::sleep(STALLED / 2).await;
        client.read_exact(&mut piece).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_taken_over_may_pause() {
    let mut client = connect(|mut request: Request| async move {
        let upgrade = Upgrade::take(request.extensions_mut()).unwrap();
        tokio::spawn(async move {
            let mut connection = upgrade.connection().await.unwrap();
            connection.write_all(&[b'x'; 8192]).await.unwrap();
        });
        upgrade::switching("test")
    });
    let request = b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\n";
    client.write_all(request).await.unwrap();
    tokio::time::sleep(3 * STALLED).await;
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.unwrap();
    assert_eq!(said.iter().filter(|byte| **byte == b'x').count(), 8192);
}

#[tokio::test(start_paused = true)]
async fn an_http2_peer_that_is_gone_is_noticed() {
    let mut client = connect(pong);
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS with nothing set, and its acknowledgement; then silence.
    sent.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    sent.extend([0, 0, 0, 4, 1, 0, 0, 0, 0]);
    let (time, _) = hang_up(&mut client, &sent).await;
    let limit = PROBE + PROBE_ANSWER;
    assert!(time >= PROBE && time <= limit + HELLO, "{time:?}");
}
