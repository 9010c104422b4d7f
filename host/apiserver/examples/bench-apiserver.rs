//! How fast the API is in process: creates and gets per second, and how long a watcher waits for
//! what somebody else creates. Prints one line each.
//!
//! `cargo run --release -p eyot-apiserver --example bench-apiserver`

use std::time::{Duration, Instant};

use bytes::Bytes;
use eyot_apiserver::{ApiServer, AsUser, Options, User};
use eyot_store::Store;
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

type Error = Box<dyn std::error::Error + Send + Sync>;

const CLIENTS: usize = 16;
const RUN: Duration = Duration::from_secs(3);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let directory = tempfile::tempdir()?;
    let store = Store::open(&directory.path().join("bench.db"), eyot_apiserver::extract).await?;
    let server = ApiServer::new(store, Options::default()).await?;
    let api = server.as_user(User::new("bench", &["system:masters"]));

    let watcher = tokio::spawn(watch(api.clone()));
    let creates = run(&api, |client, n| {
        let sent = started().elapsed().as_nanos();
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"c{client}-{n}"}},"data":{{"sent":"{sent}","fill":"{:900}"}}}}"#,
            ""
        );
        ("POST", MAPS.to_owned(), body)
    })
    .await?;
    report("create 1 KB, 16 clients", creates);
    let mut waits = watcher.await??;
    waits.sort_unstable();
    let at = |share: f64| {
        waits
            .get((waits.len() as f64 * share) as usize)
            .copied()
            .unwrap_or_default()
    };
    say(&format!(
        "POST to watch event: p50 {:.2?}, p99 {:.2?}",
        at(0.5),
        at(0.99)
    ));
    let gets = run(&api, |client, _| {
        ("GET", format!("{MAPS}/c{client}-0"), String::new())
    })
    .await?;
    report("get, 16 clients", gets);
    let begin = Instant::now();
    let list = send(&api, "GET", MAPS, String::new()).await?;
    say(&format!(
        "list of all: {:.1} MB in {:.2?}",
        list.len() as f64 / 1e6,
        begin.elapsed()
    ));
    Ok(())
}

/// One clock for all.
fn started() -> &'static Instant {
    static STARTED: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    STARTED.get_or_init(Instant::now)
}

async fn run(
    api: &AsUser,
    request: fn(usize, usize) -> (&'static str, String, String),
) -> Result<f64, Error> {
    let begin = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let api = api.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while begin.elapsed() < RUN {
                    let (method, path, body) = request(client, done);
                    send(&api, method, &path, body).await?;
                    done += 1;
                }
                Ok::<usize, Error>(done)
            })
        })
        .collect();
    let mut all = 0;
    for client in clients {
        all += client.await??;
    }
    Ok(all as f64 / begin.elapsed().as_secs_f64())
}

async fn send(api: &AsUser, method: &str, path: &str, body: String) -> Result<Bytes, Error> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .body(Full::new(Bytes::from(body)))?;
    let response = api.clone().oneshot(request).await?;
    let code = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    if !code.is_success() {
        return Err(format!(
            "{method} {path}: {code} {}",
            String::from_utf8_lossy(&bytes)
        )
        .into());
    }
    Ok(bytes)
}

/// Read the watch for a little longer than the creates run, and answer how old each event was.
async fn watch(api: AsUser) -> Result<Vec<Duration>, Error> {
    let seconds = RUN.as_secs() + 1;
    let path = format!("{MAPS}?watch=true&resourceVersion=0&timeoutSeconds={seconds}");
    let request = http::Request::get(path).body(Full::new(Bytes::new()))?;
    let mut body = api.oneshot(request).await?.into_body();
    let (mut rest, mut waits) = (Vec::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let now = started().elapsed();
        rest.extend_from_slice(&frame?.into_data().unwrap_or_default());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let event: serde_json::Value = serde_json::from_slice(&line)?;
            let sent = event
                .pointer("/object/data/sent")
                .and_then(|s| s.as_str()?.parse().ok());
            if let Some(sent) = sent {
                waits.push(now.saturating_sub(Duration::from_nanos(sent)));
            }
        }
    }
    Ok(waits)
}

fn report(what: &str, rate: f64) {
    say(&format!("{what}: {rate:.0}/s"));
}

#[expect(
    clippy::print_stdout,
    reason = "the figures are what this program is for"
)]
fn say(line: &str) {
    println!("{line}");
}
