//! Creates, applies and gets per second; from a write to the watcher's event.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;

use crate::{
    Bench,
    etcd::{Getter, Putter},
    measure::{Client, Error, Figures, median, processor, resident, row, run},
    wire::{Applier, Creator, MAPS, Reader, config_map},
};

/// Of each figure, in turn with the peer's.
const ROUNDS: usize = 3;
const TIME: Duration = Duration::from_secs(2);
/// Clients that read while others write.
const READERS: usize = 4;
/// A watch on which nothing comes for so long has told everything.
const QUIET: Duration = Duration::from_secs(1);

/// The two in turn, several times; the median of each.
async fn in_turn<A: Client, B: Client>(
    bench: &Bench,
    ours: impl AsyncFn(usize) -> Result<Vec<A>, Error>,
    theirs: impl AsyncFn(usize) -> Result<Vec<B>, Error>,
) -> Result<(Figures, Option<Figures>, f64), Error> {
    let (mut eyot, mut etcd, mut spent, mut calls) = (Vec::new(), Vec::new(), 0.0, 0.0);
    for round in 0..ROUNDS {
        let clients = ours(round).await?;
        let before = processor(bench.eyot.pid());
        let figures = run(clients, TIME).await?;
        spent += processor(bench.eyot.pid()) - before;
        calls += figures.rate * TIME.as_secs_f64();
        eyot.push(figures);
        if bench.etcd.is_some() {
            etcd.push(run(theirs(round).await?, TIME).await?);
        }
    }
    let etcd = bench.etcd.is_some().then(|| median(etcd));
    Ok((median(eyot), etcd, spent * 1e6 / calls))
}

fn show((what, aim): (&str, &str), (ours, theirs, micros): &(Figures, Option<Figures>, f64)) {
    let figure = |f: &Figures| {
        let (rate, p50, p99) = (f.rate, f.at(0.5), f.at(0.99));
        format!("{rate:.0}/s, p50 {p50:.2} ms, p99 {p99:.2} ms")
    };
    let theirs = theirs.as_ref().map(|theirs| {
        let ratio = ours.rate / theirs.rate;
        format!("{}; Eyot does {ratio:.2} times as many", figure(theirs))
    });
    let ours = format!("{}, {micros:.0} µs of processor time each", figure(ours));
    row(what, aim, &ours, &theirs.unwrap_or_default());
}

pub async fn rates(bench: &Bench) -> Result<(), Error> {
    let putters = async |count: usize, round: usize| {
        let mut all = Vec::new();
        for client in 0..count {
            if let Some(etcd) = &bench.etcd {
                let connection = etcd.connect().await?;
                let prefix = format!("c{count}-{round}-{client}");
                all.push(Putter { connection, prefix });
            }
        }
        Ok::<_, Error>(all)
    };
    for (count, aim) in [(1, ""), (16, "≥ 6,000/s, p99 ≤ 8 ms"), (64, "")] {
        let creators = async |round: usize| {
            let connections = bench.eyot.server.connections(count).await?.into_iter();
            let creators = connections.enumerate().map(|(client, connection)| Creator {
                connection,
                prefix: format!("c{count}-{round}-{client}"),
            });
            Ok(creators.collect())
        };
        let both = in_turn(bench, creators, async |round| putters(count, round).await);
        let what = format!("create 1 KB, durable, {count} clients");
        show((&what, aim), &both.await?);
    }
    let appliers = async |round: usize| {
        let connections = bench.eyot.server.connections(16).await?.into_iter();
        let appliers = connections.enumerate().map(|(client, connection)| Applier {
            connection,
            prefix: format!("a{round}-{client}"),
        });
        Ok(appliers.collect())
    };
    let applying = ("server-side apply 1 KB, 16 clients", "≥ 6,000/s");
    match in_turn(bench, appliers, async |round| putters(16, round + 10).await).await {
        Ok(both) => show(applying, &both),
        Err(error) => row(applying.0, applying.1, &error.to_string(), ""),
    }
    let readers = async |_: usize| {
        let connections = bench.eyot.server.connections(16).await?.into_iter();
        let readers = connections.enumerate().map(|(client, connection)| Reader {
            connection,
            path: format!("{MAPS}/c16-0-{client}-0"),
        });
        Ok(readers.collect())
    };
    let getters = async |_: usize| {
        let mut all = Vec::new();
        for client in 0..16 {
            if let Some(etcd) = &bench.etcd {
                let (connection, key) = (etcd.connect().await?, format!("c16-0-{client}-0"));
                all.push(Getter { connection, key });
            }
        }
        Ok(all)
    };
    let both = in_turn(bench, readers, getters).await?;
    show(("get 1 KB, 16 clients", "≥ 25,000/s"), &both);
    let theirs = bench.etcd.as_ref().map(|etcd| resident(etcd.pid()));
    row(
        "resident memory after this load",
        "",
        &format!("{:.0} MiB", resident(bench.eyot.pid())),
        &theirs.map_or(String::new(), |theirs| {
            format!("{theirs:.0} MiB (the API server on it not counted)")
        }),
    );
    Ok(())
}

/// How old each event is when one watcher reads it, while sixteen clients write.
pub async fn latency(bench: &Bench) -> Result<(), Error> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut watching = bench.eyot.server.connect().await?;
        let list = watching
            .send("GET", &format!("{MAPS}?limit=1"), Bytes::new())
            .await?;
        let list: serde_json::Value = serde_json::from_slice(&list)?;
        let revision = list
            .pointer("/metadata/resourceVersion")
            .and_then(|v| v.as_str());
        let revision = revision.ok_or("a list without a revision")?;
        let path = format!("{MAPS}?watch=true&resourceVersion={revision}");
        let events = watching
            .open("GET", &path, "application/json", Bytes::new())
            .await?;
        let ages = tokio::spawn(ages(events));
        let connections = bench.eyot.server.connections(16).await?.into_iter();
        let creators = connections.enumerate().map(|(client, connection)| Creator {
            connection,
            prefix: format!("w{round}-{client}"),
        });
        run(creators.collect(), TIME).await?;
        ours.push(ages.await??);
        let Some(etcd) = &bench.etcd else { continue };
        let mut watching = etcd.connect().await?;
        let events = watching.watch(b"w", b"x").await?;
        let ages = tokio::spawn(self::ages(events));
        let mut putters = Vec::new();
        for client in 0..16 {
            putters.push(Putter {
                connection: etcd.connect().await?,
                prefix: format!("w{round}-{client}"),
            });
        }
        run(putters, TIME).await?;
        theirs.push(ages.await??);
    }
    row(
        "write to watch event, 16 clients writing",
        "p50 ≤ 2 ms, p99 ≤ 8 ms",
        &waits(&median(ours)),
        &waits(&median(theirs)),
    );
    Ok(())
}

fn waits(figures: &Figures) -> String {
    let (p50, p99) = (figures.at(0.5), figures.at(0.99));
    format!("p50 {p50:.2} ms, p99 {p99:.2} ms")
}

/// How long a get takes while sixteen others write: readers never wait for writers.
pub async fn reads_under_load(bench: &Bench) -> Result<(), Error> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (name, key) = (format!("g{round}"), format!("g{round}-r"));
        let mut first = bench.eyot.server.connect().await?;
        let body = config_map(&name, crate::now());
        first.send("POST", MAPS, body.clone()).await?;
        let connections = bench.eyot.server.connections(READERS).await?.into_iter();
        let readers = connections.map(|connection| Reader {
            connection,
            path: format!("{MAPS}/{name}"),
        });
        let connections = bench.eyot.server.connections(16).await?.into_iter();
        let creators = connections.enumerate().map(|(client, connection)| Creator {
            connection,
            prefix: format!("g{round}-{client}"),
        });
        let both = (
            run(readers.collect(), TIME),
            run::<Creator>(creators.collect(), TIME),
        );
        ours.push(futures::try_join!(both.0, both.1)?.0);
        let Some(etcd) = &bench.etcd else { continue };
        etcd.connect().await?.put(key.as_bytes(), &body).await?;
        let (mut getters, mut putters) = (Vec::new(), Vec::new());
        for _ in 0..READERS {
            let (connection, key) = (etcd.connect().await?, key.clone());
            getters.push(Getter { connection, key });
        }
        for client in 0..16 {
            putters.push(Putter {
                connection: etcd.connect().await?,
                prefix: format!("g{round}-{client}"),
            });
        }
        theirs.push(futures::try_join!(run(getters, TIME), run(putters, TIME))?.0);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let compared = bench.etcd.as_ref().map(|_| {
        let ratio = ours.at(0.99) / theirs.at(0.99);
        format!("{}; Eyot's p99 is {ratio:.2} times as long", waits(&theirs))
    });
    row(
        "get 1 KB by 4 clients, 16 others writing",
        "",
        &waits(&ours),
        &compared.unwrap_or_default(),
    );
    Ok(())
}

/// The ages of the events of a stream, until it is quiet.
async fn ages(mut events: hyper::body::Incoming) -> Result<Figures, Error> {
    let (mut rest, mut ages) = (Vec::new(), Vec::new());
    let sent = b"\"sent\":\"";
    let begin = std::time::Instant::now();
    while let Ok(Some(frame)) = tokio::time::timeout(QUIET, events.frame()).await {
        let now = crate::now();
        rest.extend_from_slice(&frame?.into_data().unwrap_or_default());
        let mut from = 0;
        while let Some(at) = find(&rest[from..], sent) {
            let digits = &rest[from + at + sent.len()..];
            let Some(end) = digits.iter().position(|byte| *byte == b'"') else {
                break;
            };
            let text = std::str::from_utf8(&digits[..end])?;
            let age = now.saturating_sub(text.parse::<u128>()?);
            ages.push(Duration::from_nanos(u64::try_from(age)?));
            from += at + sent.len() + end;
        }
        rest.drain(..from);
    }
    Ok(Figures::new(ages, begin.elapsed()))
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
