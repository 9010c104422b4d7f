//! Many writers at once, judged by what the API itself tells of it: one creates what is absent, nobody
//! overwrites what they have not seen, and watch and list tell the same history.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{Lines, config_map, get, ok, send, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WRITERS: u64 = 8;
const ROUNDS: usize = 60;
const NAMES: [&str; 3] = ["a", "b", "c"];

/// A write that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Write {
    revision: u64,
    kind: &'static str,
    name: &'static str,
    /// The revision of what it replaced, where the writer said so.
    over: Option<u64>,
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// Create, compare-and-swap and delete at random; what was acknowledged.
async fn write(server: eyot_apiserver::ApiServer, seed: u64) -> Vec<Write> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut done = Vec::new();
    for round in 0..ROUNDS {
        let name = NAMES[rng.random_range(0..NAMES.len())];
        let path = format!("{MAPS}/{name}");
        let (code, seen) = get(&server, &path).await;
        if code == 404 {
            let (code, made) = send(&server, "POST", MAPS, config_map(name)).await;
            assert!(matches!(code, 201 | 409), "{code} {made}");
            if code == 201 {
                let revision = revision(&made);
                done.push(Write {
                    revision,
                    kind: "ADDED",
                    name,
                    over: None,
                });
            }
            continue;
        }
        let over = revision(&seen);
        // Another writer has its chance between the look and the write.
        tokio::task::yield_now().await;
        if rng.random_bool(0.25) {
            let (uid, version) = (
                &seen["metadata"]["uid"],
                &seen["metadata"]["resourceVersion"],
            );
            let asked = json!({"preconditions": {"uid": uid, "resourceVersion": version}});
            let (code, gone) = send(&server, "DELETE", &path, asked).await;
            assert!(matches!(code, 200 | 404 | 409), "{code} {gone}");
            if code == 200 {
                // The answer of a deletion does not tell its revision; the watch does.
                done.push(Write {
                    revision: 0,
                    kind: "DELETED",
                    name,
                    over: Some(over),
                });
            }
            continue;
        }
        let mut next = seen.clone();
        next["data"]["k"] = json!(format!("{seed}-{round}"));
        let (code, written) = send(&server, "PUT", &path, next).await;
        assert!(matches!(code, 200 | 404 | 409), "{code} {written}");
        if code == 200 {
            let revision = revision(&written);
            done.push(Write {
                revision,
                kind: "MODIFIED",
                name,
                over: Some(over),
            });
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_make_one_history() {
    let server = server().await;
    let start = revision(&get(&server, MAPS).await.1);
    let path = format!("{MAPS}?watch=1&resourceVersion={start}");
    let mut watch = Lines::open(&server, &path, "application/json").await;
    let writers = (0..WRITERS).map(|seed| tokio::spawn(write(server.clone(), seed)));
    let mut acknowledged = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        acknowledged.extend(writer.await.unwrap());
    }
    ok(&server, "POST", MAPS, config_map("end")).await;

    // What the watch tells, with what stood there before each event.
    let mut told = Vec::new();
    let mut standing: BTreeMap<String, u64> = BTreeMap::new();
    let mut states = BTreeMap::new();
    let mut last = start;
    loop {
        let event = watch.next().await.unwrap();
        let name = event["object"]["metadata"]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        if name == "end" {
            break;
        }
        let revision = revision(&event["object"]);
        assert!(revision > last, "{revision} after {last}");
        last = revision;
        let kind = event["type"].as_str().unwrap().to_owned();
        let before = match kind.as_str() {
            "DELETED" => standing.remove(&name),
            _ => standing.insert(name.clone(), revision),
        };
        assert_eq!(
            kind == "ADDED",
            before.is_none(),
            "{kind} {name} over {before:?}"
        );
        told.push((kind, name, revision, before));
        states.insert(revision, standing.clone());
    }

    // Each acknowledged write is told once, over the very state that its writer had seen.
    assert_eq!(told.len(), acknowledged.len());
    for write in &acknowledged {
        let matching = told.iter().filter(|(kind, name, revision, before)| {
            kind == write.kind
                && name == write.name
                && (write.revision == 0 || *revision == write.revision)
                && (write.over.is_none() || *before == write.over)
        });
        assert_eq!(matching.count(), 1, "{write:?}");
    }
    assert!(
        acknowledged.len() > 50,
        "too little happened: {}",
        acknowledged.len()
    );

    // Lists at a revision show what had been told by then.
    for (revision, state) in states.iter().rev().step_by(7) {
        let path = format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
        let list = ok(&server, "GET", &path, Value::Null).await;
        assert_eq!(
            list["metadata"]["resourceVersion"],
            json!(revision.to_string())
        );
        let listed: BTreeMap<String, u64> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| {
                (
                    item["metadata"]["name"].as_str().unwrap().to_owned(),
                    self::revision(item),
                )
            })
            .collect();
        assert_eq!(&listed, state, "at {revision}");
    }
}
