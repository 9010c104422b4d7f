//! Heads of requests, credentials, and what is no HTTP at all.

use std::fmt::Write;

use tokio::net::TcpStream;

use super::{Doors, exchange, status, talk};

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_or_no_heads_are_refused_by_the_protocol() {
    let doors = Doors::open().await;
    let long_line = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    let mut many = "GET / HTTP/1.1\r\n".to_owned();
    for at in 0..200 {
        write!(many, "x-{at}: y\r\n").unwrap();
    }
    many.push_str("\r\n");
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(2 << 20));
    let cases: [(&str, &[u8], &str); 7] = [
        ("a long line", long_line.as_bytes(), "414"),
        ("many headers", many.as_bytes(), "431"),
        ("a header without end", endless.as_bytes(), "431"),
        ("no HTTP", b"\0\x01\x02\x03\r\n\r\n", "400"),
        ("no method", b" / HTTP/1.1\r\n\r\n", "400"),
        (
            "two lengths",
            b"POST /api HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            "400",
        ),
        (
            "a negative length",
            b"POST /api HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "400",
        ),
    ];
    for (what, sent, code) in cases {
        for (door, mut socket) in doors.both().await {
            let answer = talk(&mut *socket, sent).await;
            let expected = format!("HTTP/1.1 {code} ");
            assert!(answer.starts_with(&expected), "{what}, {door}: {answer}");
        }
    }
    doors.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_on_the_port_for_tls_is_told_so() {
    let doors = Doors::open().await;
    let mut socket = TcpStream::connect(&doors.secure).await.unwrap();
    let answer = talk(&mut socket, b"GET /api HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(
        answer,
        "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn older_tls_is_refused_with_an_alert() {
    let doors = Doors::open().await;
    // A hello of TLS 1.1, without extensions: version 3.2, 32 bytes of chance, no session, one suite.
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    let mut socket = TcpStream::connect(&doors.secure).await.unwrap();
    let answer = exchange(&mut socket, &record).await;
    // An alert (21) that is fatal (2).
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
    assert_eq!(answer.get(5), Some(&2), "{answer:?}");
    // Nor is noise taken for a hello.
    let mut socket = TcpStream::connect(&doors.secure).await.unwrap();
    let answer = exchange(&mut socket, &[0x16, 3, 1, 0xff, 0xff, 0, 0, 0, 0, 0]).await;
    assert!(answer.len() < 64, "{answer:?}");
    doors.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_are_not_believed() {
    let doors = Doors::open().await;
    let part = |json: &str| {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        URL_SAFE_NO_PAD.encode(json)
    };
    let claims = r#"{"iss":"https://kubernetes.default.svc","sub":"system:serviceaccount:kube-system:admin","aud":["https://kubernetes.default.svc"],"exp":9999999999,"iat":1}"#;
    let tokens = [
        format!("{}.{}.", part(r#"{"alg":"none"}"#), part(claims)),
        format!("{}.{}.AAAA", part(r#"{"alg":"ES256"}"#), part(claims)),
        format!("{}.{}.AAAA", part(r#"{"alg":"HS256"}"#), part(claims)),
        "..".to_owned(),
        "a.b.c".to_owned(),
        "x".repeat(30_000),
    ];
    for token in tokens {
        let mut socket = doors.secure().await;
        let head = format!(
            "GET /api/v1/pods HTTP/1.1\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        let (code, reason, _) = status(&talk(&mut socket, head.as_bytes()).await);
        assert_eq!((code, reason.as_str()), (401, "Unauthorized"), "{token}");
    }
    doors.is_well().await;
}
