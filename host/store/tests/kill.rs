//! What was acknowledged before `kill -9` is there after it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use eyot_store::{Key, OpenError, Store};
use serde_json::json;

const DIR: &str = "EYOT_STORE_KILL_DIR";
const WRITERS: u64 = 8;

async fn open(dir: &Path) -> Store {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Store::open(&dir.join("eyot.db"), |_, _| Vec::new()).await {
            Err(OpenError::InUse { .. }) if Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            opened => return opened.unwrap(),
        }
    }
}

/// Not a test by itself: the process that is killed. Prints each write that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other test"]
async fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let store = open(Path::new(&dir)).await;
    let out = Arc::new(std::sync::Mutex::new(std::io::stdout()));
    let writers = (0..WRITERS).map(|writer| {
        let (store, out) = (store.clone(), out.clone());
        tokio::spawn(async move {
            let key = Key::new("configmaps", "default", format!("w{writer}"));
            let value = |turn: u64| json!({ "metadata": {}, "data": { "turn": turn } });
            let mut current = match store.get(&key) {
                Some(current) => current,
                None => store.create(key.clone(), value(0)).await.unwrap(),
            };
            for turn in 1.. {
                current = store
                    .update(&key, current.revision, value(turn))
                    .await
                    .unwrap();
                let line = format!("ack {writer} {} {turn}\n", current.revision);
                use std::io::Write;
                out.lock().unwrap().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn acknowledged_writes_survive_being_killed_in_a_burst() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acknowledged = BTreeMap::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut count = 0;
        // Reading on after the kill: what is in the pipe was acknowledged too.
        while let Some(Ok(line)) = lines.next() {
            if let Some(ack) = line.strip_prefix("ack ") {
                let numbers: Vec<u64> = ack.split(' ').filter_map(|n| n.parse().ok()).collect();
                if let [writer, revision, turn] = numbers[..] {
                    acknowledged.insert(writer, (revision, turn));
                }
                count += 1;
                if count == 200 + 37 * round {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(count >= 200, "the writer ended early after {count} writes");
        let store = open(dir.path()).await;
        for (writer, (revision, turn)) in acknowledged {
            let key = Key::new("configmaps", "default", format!("w{writer}"));
            let object = store.get(&key).unwrap();
            let value: serde_json::Value = serde_json::from_slice(&object.json).unwrap();
            let stored = value["data"]["turn"].as_u64().unwrap();
            assert!(
                object.revision >= revision && stored >= turn,
                "{writer}: {stored} < {turn}"
            );
            assert_eq!(
                value["metadata"]["resourceVersion"],
                object.revision.to_string()
            );
        }
        store.close().await;
    }
}
