//! What the store does per second on this machine, and how long one waits. Prints one figure a line.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measuring program"
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use eyot_store::{Key, ReadingEvent, ReadingSlice, Store};
use serde_json::json;

const WRITES: usize = 4000;
const WATCHERS: usize = 1000;

#[tokio::main]
async fn main() {
    let dir = std::env::temp_dir().join(format!("eyot-store-bench-{}", std::process::id()));
    let store = Store::open(&dir.join("eyot.db"), |_, _| Vec::new())
        .await
        .unwrap();
    for writers in [1, 16, 64] {
        creates(&store, writers).await;
    }
    gets(&store);
    fan_out(&store).await;
    readings(&store).await;
    store.close().await;
    std::fs::remove_dir_all(dir).unwrap();
}

fn value() -> serde_json::Value {
    json!({ "metadata": { "labels": { "app": "bench" } }, "data": { "body": "x".repeat(1000) } })
}

async fn creates(store: &Store, writers: usize) {
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                for turn in 0..WRITES / writers {
                    let key = Key::new(
                        "configmaps",
                        "default",
                        format!("{writers}-{writer}-{turn}"),
                    );
                    let begun = Instant::now();
                    store.create(key, value()).await.unwrap();
                    times.push(begun.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    println!(
        "create 1 KB, {writers} writers: {rate:.0}/s, {}",
        quantiles(times)
    );
}

fn gets(store: &Store) {
    let start = Instant::now();
    let key = Key::new("configmaps", "default", "1-0-0");
    for _ in 0..100_000 {
        std::hint::black_box(store.get(&key));
    }
    println!("get: {:.0}/s", 100_000.0 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    let objects = store.list("configmaps", None).objects.len();
    println!("list of {objects}: {:?}", start.elapsed());
}

async fn fan_out(store: &Store) {
    let started = Instant::now();
    let tasks: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let mut watch = store.watch("pods", None, store.revision()).unwrap();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                for _ in 0..20 {
                    watch.next().await.unwrap();
                    seen.push(started.elapsed());
                }
                seen
            })
        })
        .collect();
    let mut written = Vec::new();
    for turn in 0..20 {
        store
            .create(Key::new("pods", "default", turn.to_string()), value())
            .await
            .unwrap();
        written.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut times = Vec::new();
    for task in tasks {
        let seen = task.await.unwrap();
        times.extend(
            seen.iter()
                .zip(&written)
                .map(|(seen, written)| seen.saturating_sub(*written)),
        );
    }
    println!(
        "write acknowledged to seen by {WATCHERS} watchers: {}",
        quantiles(times)
    );
}

async fn readings(store: &Store) {
    let body = Bytes::from(format!("{{\"readings\":[{}]}}", "1234567890".repeat(30)));
    let device: Arc<str> = "press-1".into();
    let slice = ReadingSlice {
        resource: "Temperature".into(),
        range: 13..300,
    };
    let start = Instant::now();
    for batch in 0..200 {
        let events = (0..500).map(|n| ReadingEvent {
            id: format!("{batch}-{n}"),
            device: device.clone(),
            source: "Temperature".into(),
            origin: batch * 1000 + n,
            body: body.clone(),
            readings: vec![slice.clone()],
        });
        store.readings().append(events.collect()).await.unwrap();
    }
    println!(
        "readings stored: {:.0}/s",
        100_000.0 / start.elapsed().as_secs_f64()
    );
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    format!("p50 {:?}, p99 {:?}", at(50), at(99))
}
