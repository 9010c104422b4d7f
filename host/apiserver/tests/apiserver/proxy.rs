//! `pods/proxy` and `services/proxy`: every method, over HTTP and to servers that speak TLS.

use std::{
    convert::Infallible,
    io::{Read as _, Write as _},
};

use eyot_http::{Request, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{bytes, get, kubectl::tls, ok, pod, raw, server};

#[tokio::test]
async fn requests_are_passed_on_over_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let backend = tower::service_fn(|request: Request| async move {
        let said = json!({"path": request.uri().path(), "query": request.uri().query()});
        Ok::<Response, Infallible>(eyot_http::json(http::StatusCode::OK, &said))
    });
    tokio::spawn(eyot_http::serve(
        listener,
        Some(tls().into()),
        backend,
        stop,
    ));
    let server = server().await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut made = pod("a");
    made["spec"]["containers"][0]["ports"] = json!([{"name": "web", "containerPort": port}]);
    ok(&server, "POST", pods, made).await;
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}],
        "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    ok(&server, "PATCH", &format!("{pods}/a/status"), status).await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"selector": {"app": "web"},
        "ports": [{"name": "secure", "port": 443, "targetPort": port}]}});
    ok(&server, "POST", services, service).await;
    for through in [
        format!("{pods}/https:a:{port}"),
        format!("{pods}/https:a:web"),
        format!("{services}/https:s:secure"),
        format!("{services}/https:s:443"),
        format!("{services}/https:s:"),
    ] {
        let answer = raw(&server, "GET", &format!("{through}/proxy/x/y?z=1"), &[], "").await;
        assert_eq!(answer.status(), 200, "{through}");
        let said: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
        assert_eq!(said, json!({"path": "/x/y", "query": "z=1"}), "{through}");
    }
    // A node has other ports than that of its own API, for which none is connected here.
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    ok(&server, "POST", "/api/v1/nodes", node).await;
    let address =
        json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
    ok(&server, "PATCH", "/api/v1/nodes/n/status", address).await;
    let path = format!("/api/v1/nodes/https:n:{port}/proxy/x/y?z=1");
    let said = ok(&server, "GET", &path, Value::Null).await;
    assert_eq!(said, json!({"path": "/x/y", "query": "z=1"}));
    for own in ["n", "n:10250", "https:n:10250", "https:n:"] {
        let (code, status) = get(&server, &format!("/api/v1/nodes/{own}/proxy/healthz")).await;
        let why = "node \"n\" is not connected";
        assert_eq!((code, &status["message"]), (503, &json!(why)), "{own}");
    }
    let (code, status) = get(&server, "/api/v1/nodes/ftp:n:1/proxy/x").await;
    let why = "invalid node request \"ftp:n:1\"";
    assert_eq!((code, &status["message"]), (400, &json!(why)));
    // Who speaks no TLS is not understood by who does.
    let (code, _) = get(&server, &format!("{pods}/http:a:{port}/proxy/x")).await;
    assert_eq!(code, 400);
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = plain.local_addr().unwrap().port();
    let backend = tower::service_fn(|_: Request| async move {
        Ok::<Response, Infallible>(eyot_http::text(http::StatusCode::OK, "plain"))
    });
    tokio::spawn(eyot_http::serve(
        plain,
        None,
        backend,
        CancellationToken::new(),
    ));
    let (code, status) = get(&server, &format!("{pods}/https:a:{port}/proxy/x")).await;
    assert_eq!(
        (code, &status["reason"]),
        (503, &json!("ServiceUnavailable"))
    );
}

/// What Kubernetes' conformance suite sends through both doors.
#[tokio::test]
async fn every_method_is_passed_on_and_a_bare_path_leads_to_a_folder() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let backend = tower::service_fn(|request: Request| async move {
        let said = json!({"Method": request.method().as_str(), "Path": request.uri().path()});
        Ok::<Response, Infallible>(eyot_http::json(http::StatusCode::OK, &said))
    });
    tokio::spawn(eyot_http::serve(listener, None, backend, stop));
    let server = server().await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut made = pod("a");
    made["spec"]["containers"][0]["ports"] = json!([{"containerPort": port}]);
    ok(&server, "POST", pods, made).await;
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}],
        "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    ok(&server, "PATCH", &format!("{pods}/a/status"), status).await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": port}]}});
    ok(&server, "POST", services, service).await;
    for door in [format!("{pods}/a/proxy"), format!("{services}/s/proxy")] {
        for method in ["DELETE", "OPTIONS", "PATCH", "POST", "PUT", "GET", "HEAD"] {
            let path = format!("{door}/some/path?method={method}");
            let answer = raw(&server, method, &path, &[], "").await;
            assert_eq!(answer.status(), 200, "{method} {path}");
            let body = bytes(answer).await;
            if method == "HEAD" {
                assert!(body.is_empty());
            } else {
                let said: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(said, json!({"Method": method, "Path": "/some/path"}));
            }
            let bare = format!("{door}?method={method}");
            let answer = raw(&server, method, &bare, &[], "").await;
            if ["GET", "HEAD"].contains(&method) {
                assert_eq!(answer.status(), 301, "{method} {bare}");
                let expected = format!("{door}/?method={method}");
                assert_eq!(answer.headers()["location"], expected.as_str());
            } else {
                assert_eq!(answer.status(), 200, "{method} {bare}");
                let said: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
                assert_eq!(said, json!({"Method": method, "Path": "/"}));
            }
        }
    }
}

/// A program in a pod does not know how far below the API server's its own root is.
#[tokio::test]
async fn links_and_redirects_lead_through_the_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let backend = tower::service_fn(|request: Request| async move {
        let header = |name: &str| {
            let value = request.headers().get(name);
            value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
        };
        let page = format!(
            "<a href=\"/rewriteme\">{} {}</a>",
            header("host"),
            header("x-forwarded-uri")
        );
        let mut answer =
            http::Response::builder().header("content-type", "text/html; charset=utf-8");
        answer = answer.header("access-control-allow-origin", "*");
        let answer = match request.uri().path() {
            "/away" => answer
                .status(302)
                .header("location", "/login")
                .body(eyot_http::empty()),
            "/zipped" => {
                let mut zip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                zip.write_all(page.as_bytes()).unwrap();
                let answer = answer.header("content-encoding", "gzip");
                answer.body(eyot_http::full(zip.finish().unwrap()))
            }
            _ => answer
                .header("content-length", page.len())
                .body(eyot_http::full(page)),
        };
        Ok::<Response, Infallible>(answer.unwrap())
    });
    tokio::spawn(eyot_http::serve(listener, None, backend, stop));
    let server = server().await;
    let pods = "/api/v1/namespaces/default/pods";
    ok(&server, "POST", pods, pod("a")).await;
    let status = json!({"status": {"podIP": "127.0.0.1", "phase": "Running"}});
    ok(&server, "PATCH", &format!("{pods}/a/status"), status).await;
    let door = format!("{pods}/http:a:{port}/proxy");
    let asked = [("host", "cluster.example")];
    let page =
        |path: &str| format!("<a href=\"{door}/rewriteme\">cluster.example {door}{path}</a>");
    let answer = raw(&server, "GET", &format!("{door}/?q=/"), &asked, "").await;
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    assert_eq!(bytes(answer).await, page("/").as_bytes());
    let answer = raw(&server, "GET", &format!("{door}/zipped"), &asked, "").await;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let mut plain = String::new();
    let zipped = bytes(answer).await;
    flate2::read::GzDecoder::new(&*zipped)
        .read_to_string(&mut plain)
        .unwrap();
    assert_eq!(plain, page("/zipped"));
    let answer = raw(&server, "GET", &format!("{door}/away"), &asked, "").await;
    assert_eq!(
        answer.headers()["location"],
        format!("{door}/login").as_str()
    );
    // Whom an HTTP/2 client asks is in no header; a server behind would refuse a request without one.
    let answer = raw(&server, "GET", &format!("{door}/x"), &[], "").await;
    let said = String::from_utf8(bytes(answer).await.to_vec()).unwrap();
    assert!(said.contains(&format!(">127.0.0.1:{port} ")), "{said}");
}
