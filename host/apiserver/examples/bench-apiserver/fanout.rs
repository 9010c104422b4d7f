//! A thousand watchers of one kind, a thousand events a second: in process, since the sockets of a
//! thousand TLS clients on the same two processors would be all that is measured.

use std::time::Duration;

use bytes::Bytes;
use eyot_apiserver::{ApiServer, AsUser, Options, User};
use eyot_store::Store;
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

use crate::{
    measure::{Error, Figures, row},
    wire::{MAPS, config_map},
};

const WATCHERS: usize = 1000;
const EVENTS: usize = 5000;
const EVENTS_A_SECOND: u64 = 1000;

pub async fn fanout() -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("bench.db"), eyot_apiserver::extract).await?;
    let server = ApiServer::new(store.clone(), Options::default()).await?;
    let api = server.as_user(User::new("bench", &["system:masters"]));
    let revision = store.revision();
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|_| tokio::spawn(watch(api.clone(), revision)))
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut clock = tokio::time::interval(Duration::from_micros(4_000_000 / EVENTS_A_SECOND));
    let mut writing = tokio::task::JoinSet::new();
    for event in (0..EVENTS).step_by(4) {
        clock.tick().await;
        for n in event..event + 4 {
            writing.spawn(create(api.clone(), n));
        }
    }
    while let Some(written) = writing.join_next().await {
        written??;
    }
    let mut ages = Vec::new();
    for watcher in watchers {
        ages.extend(watcher.await??);
    }
    let ages = Figures::new(ages, Duration::from_secs(1));
    row(
        "POST to watch event, 1,000 watchers, 1,000 events/s, in process",
        "p99 ≤ 10 ms",
        &format!("p50 {:.2} ms, p99 {:.2} ms", ages.at(0.5), ages.at(0.99)),
        "",
    );
    let stats = store.stats();
    row(
        "… of which the transaction, on average",
        "",
        &format!(
            "{:.2} ms for {:.1} writes",
            stats.commit.sum as f64 / 1e3 / stats.commit.count as f64,
            stats.writes as f64 / stats.groups as f64
        ),
        "",
    );
    Ok(())
}

async fn create(api: AsUser, n: usize) -> Result<(), Error> {
    let body = Full::new(config_map(&format!("e{n}"), crate::now()));
    let request = http::Request::post(MAPS).body(body)?;
    let response = api.oneshot(request).await?;
    if !response.status().is_success() {
        return Err(response.status().to_string().into());
    }
    Ok(())
}

async fn watch(api: AsUser, revision: u64) -> Result<Vec<Duration>, Error> {
    let path = format!("{MAPS}?watch=true&resourceVersion={revision}");
    let request = http::Request::get(path).body(Full::new(Bytes::new()))?;
    let mut body = api.oneshot(request).await?.into_body();
    let (mut ages, sent) = (Vec::with_capacity(EVENTS), b"\"sent\":\"");
    while ages.len() < EVENTS {
        let frame = body.frame().await.ok_or("the watch ended early")??;
        let now = crate::now();
        let data = frame.into_data().unwrap_or_default();
        // Whole lines, in this process.
        let mut rest = &data[..];
        while let Some(at) = rest.windows(sent.len()).rposition(|window| window == sent) {
            let digits = &rest[at + sent.len()..];
            let end = digits.iter().position(|byte| *byte == b'"');
            let text = std::str::from_utf8(&digits[..end.unwrap_or_default()])?;
            let age = now.saturating_sub(text.parse::<u128>()?);
            ages.push(Duration::from_nanos(u64::try_from(age)?));
            rest = &rest[..at];
        }
    }
    Ok(ages)
}
