//! The store as its users see it: in memory, across reopening, on a full disk.

mod disk;
mod renew;

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    ChangeKind, Expired, Key, Object, OpenError, Snapshot, Store, Watch, WriteError,
    journal::Journal, readings::Readings,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn phase(_: &str, object: &Value) -> Vec<(Box<str>, Box<str>)> {
    let phase = object
        .pointer("/status/phase")
        .and_then(Value::as_str)
        .unwrap_or_default();
    vec![("status.phase".into(), phase.into())]
}

fn pod(name: &str) -> Key {
    Key::new("pods", "default", name)
}

fn value(name: &str, phase: &str) -> Value {
    json!({ "metadata": { "name": name, "labels": { "app": name } }, "status": { "phase": phase } })
}

async fn open(dir: &Path) -> Store {
    Store::open(&dir.join("eyot.db"), phase).await.unwrap()
}

fn parsed(object: &Object) -> Value {
    serde_json::from_slice(&object.json).unwrap()
}

fn all(list: &Snapshot) -> Vec<Arc<Object>> {
    list.objects.iter().cloned().collect()
}

async fn next(watch: &mut Watch) -> (ChangeKind, String, u64) {
    let change = timeout(DEADLINE, watch.next()).await.unwrap().unwrap();
    (
        change.kind,
        change.object.key.name.to_string(),
        change.object.revision,
    )
}

#[tokio::test]
async fn writes_take_one_ever_increasing_revision_and_show_it_in_the_object() {
    let store = Store::in_memory(phase);
    let a = store.create(pod("a"), value("a", "Pending")).await.unwrap();
    let b = store
        .create(Key::new("nodes", "", "n"), value("n", ""))
        .await
        .unwrap();
    let a2 = store
        .update(&pod("a"), a.revision, value("a", "Running"))
        .await
        .unwrap();
    assert_eq!((a.revision, b.revision, a2.revision), (1, 2, 3));
    assert_eq!(parsed(&a2)["metadata"]["resourceVersion"], "3");
    assert_eq!(a2.labels.get("app"), Some("a"));
    assert!(a2.fields.iter().eq([("status.phase", "Running")]));
    assert_eq!(store.get(&pod("a")).unwrap(), a2);
    assert_eq!(store.revision(), 3);
}

#[tokio::test]
async fn conditions_are_refused_with_what_is_there() {
    let store = Store::in_memory(phase);
    let first = store.create(pod("a"), value("a", "1")).await.unwrap();
    let Err(WriteError::Exists(found)) = store.create(pod("a"), value("a", "2")).await else {
        panic!("created twice")
    };
    assert_eq!(found, first);
    let second = store.update(&pod("a"), 1, value("a", "2")).await.unwrap();
    for stale in [
        store.update(&pod("a"), 1, value("a", "3")).await,
        store.delete(&pod("a"), Some(1)).await,
    ] {
        let Err(WriteError::Conflict { current }) = stale else {
            panic!("{stale:?}")
        };
        assert_eq!(current, second);
    }
    let missing = store.update(&pod("b"), 1, value("b", "")).await;
    assert!(matches!(missing, Err(WriteError::NotFound)), "{missing:?}");
    let missing = store.delete(&pod("b"), None).await;
    assert!(matches!(missing, Err(WriteError::NotFound)), "{missing:?}");
    let bad = store.create(pod("b"), json!([1])).await;
    assert!(matches!(bad, Err(WriteError::Malformed)), "{bad:?}");
    let huge = json!({ "metadata": {}, "data": "x".repeat(5 << 20) });
    let huge = store.create(pod("b"), huge).await;
    assert!(matches!(huge, Err(WriteError::TooLarge { .. })), "{huge:?}");
    assert_eq!(store.revision(), 2, "refused writes take no revision");
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_not_written() {
    let store = Store::in_memory(phase);
    store.create(pod("a"), value("a", "1")).await.unwrap();
    let same = store.update(&pod("a"), 1, value("a", "1")).await.unwrap();
    assert_eq!((same.revision, store.revision()), (1, 1));
}

#[tokio::test]
async fn a_deletion_answers_the_last_state_with_its_own_revision() {
    let store = Store::in_memory(phase);
    store.create(pod("a"), value("a", "Running")).await.unwrap();
    let gone = store.delete(&pod("a"), Some(1)).await.unwrap();
    assert_eq!(gone.revision, 2);
    assert_eq!(parsed(&gone)["metadata"]["resourceVersion"], "2");
    assert_eq!(parsed(&gone)["status"]["phase"], "Running");
    assert!(store.get(&pod("a")).is_none());
    assert_eq!(
        store
            .create(pod("a"), value("a", ""))
            .await
            .unwrap()
            .revision,
        3
    );
}

#[tokio::test]
async fn lists_are_ordered_and_confined_to_the_namespace() {
    let store = Store::in_memory(phase);
    for (namespace, name) in [("b", "x"), ("a", "z"), ("a", "y"), ("ab", "x")] {
        let key = Key::new("pods", namespace, name);
        store.create(key, value(name, "")).await.unwrap();
    }
    store
        .create(Key::new("podsx", "a", "no"), value("no", ""))
        .await
        .unwrap();
    let names = |namespace| -> Vec<String> {
        let found = store.list("pods", namespace).objects;
        found
            .iter()
            .map(|o| format!("{}/{}", o.key.namespace, o.key.name))
            .collect()
    };
    assert_eq!(names(None), ["a/y", "a/z", "ab/x", "b/x"]);
    assert_eq!(names(Some("a")), ["a/y", "a/z"]);
    assert_eq!(names(Some("c")), Vec::<String>::new());
    assert_eq!(store.list("pods", None).revision, 5);
}

#[tokio::test]
async fn a_watch_from_a_list_sees_each_later_change_once_in_order() {
    let store = Store::in_memory(phase);
    store.create(pod("a"), value("a", "1")).await.unwrap();
    let list = store.list("pods", Some("default"));
    let mut watch = store.watch("pods", Some("default"), list.revision).unwrap();
    let elsewhere = Key::new("pods", "other", "c");
    store.create(elsewhere, value("c", "")).await.unwrap();
    store.create(pod("b"), value("b", "")).await.unwrap();
    store.update(&pod("a"), 1, value("a", "2")).await.unwrap();
    store.delete(&pod("a"), None).await.unwrap();
    assert_eq!(next(&mut watch).await, (ChangeKind::Added, "b".into(), 3));
    assert_eq!(watch.reached(), 3, "what was not given was not reached");
    let change = watch.next().await.unwrap();
    assert_eq!(change.kind, ChangeKind::Modified);
    assert_eq!(parsed(&change.previous.unwrap())["status"]["phase"], "1");
    assert_eq!(next(&mut watch).await, (ChangeKind::Deleted, "a".into(), 5));
    store
        .create(Key::new("nodes", "", "n"), value("n", ""))
        .await
        .unwrap();
    assert_eq!(
        watch.reached(),
        6,
        "other resources' revisions count as reached"
    );
    assert_eq!(watch.try_next(), Ok(None));
}

#[tokio::test]
async fn a_waiting_watch_is_woken_and_a_cancelled_wait_loses_nothing() {
    let store = Store::in_memory(phase);
    let mut watch = store.watch("pods", None, 0).unwrap();
    assert!(
        timeout(Duration::from_millis(1), watch.next())
            .await
            .is_err()
    );
    let writer = store.clone();
    let write = tokio::spawn(async move { writer.create(pod("a"), value("a", "")).await.unwrap() });
    assert_eq!(next(&mut watch).await, (ChangeKind::Added, "a".into(), 1));
    write.await.unwrap();
}

#[tokio::test]
async fn a_watch_that_lags_beyond_the_log_expires_and_so_does_one_from_the_future() {
    let store = Store::in_memory(phase);
    let mut lagging = store.watch("pods", None, 0).unwrap();
    let mut current = store.create(pod("a"), value("a", "")).await.unwrap();
    for turn in 0..9000 {
        let next = value("a", &turn.to_string());
        current = store
            .update(&pod("a"), current.revision, next)
            .await
            .unwrap();
    }
    let expired = lagging.next().await.unwrap_err();
    assert_eq!(expired.asked, 0);
    assert!(
        expired.oldest > 0 && expired.oldest < current.revision,
        "{expired:?}"
    );
    assert!(store.watch("pods", None, expired.oldest).is_ok());
    assert!(store.watch("pods", None, expired.oldest - 1).is_err());
    let future = store.watch("pods", None, current.revision + 1);
    assert!(matches!(future, Err(Expired { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_and_watchers_agree_on_one_order() {
    let store = Store::in_memory(phase);
    let watchers: Vec<_> = (0..20)
        .map(|_| {
            let mut watch = store.watch("pods", None, 0).unwrap();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while seen.len() < 800 {
                    seen.push(next(&mut watch).await);
                }
                seen
            })
        })
        .collect();
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for turn in 0..100 {
                let name = format!("{writer}-{turn}");
                store.create(pod(&name), value(&name, "")).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    for watcher in watchers {
        let seen = watcher.await.unwrap();
        assert!(seen.iter().map(|(_, _, revision)| *revision).eq(1..=800));
        assert_eq!(
            seen.into_iter().map(|s| s.1).collect::<HashSet<_>>().len(),
            800
        );
    }
}

#[tokio::test]
async fn reopening_gives_back_objects_revision_and_watch_log() {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let store = open(dir.path()).await;
        store.create(pod("a"), value("a", "1")).await.unwrap();
        store.update(&pod("a"), 1, value("a", "2")).await.unwrap();
        store.create(pod("b"), value("b", "")).await.unwrap();
        store.delete(&pod("b"), None).await.unwrap();
        let list = store.list("pods", None);
        store.close().await;
        let closed = store.create(pod("c"), value("c", "")).await;
        assert!(matches!(closed, Err(WriteError::Closed)), "{closed:?}");
        list
    };
    let store = open(dir.path()).await;
    let after = store.list("pods", None);
    assert_eq!(
        (after.revision, all(&after)),
        (before.revision, all(&before))
    );
    let mut watch = store.watch("pods", None, 1).unwrap();
    let change = watch.next().await.unwrap();
    assert_eq!(parsed(&change.previous.unwrap())["status"]["phase"], "1");
    assert_eq!(next(&mut watch).await, (ChangeKind::Added, "b".into(), 3));
    assert_eq!(next(&mut watch).await, (ChangeKind::Deleted, "b".into(), 4));
    assert_eq!(
        store
            .create(pod("c"), value("c", ""))
            .await
            .unwrap()
            .revision,
        5
    );
}

#[tokio::test]
async fn compaction_bounds_the_file_and_keeps_what_is_current() {
    let dir = tempfile::tempdir().unwrap();
    let body = "x".repeat(64 << 10);
    let revision = {
        let store = open(dir.path()).await;
        store
            .create(pod("still"), value("still", "1"))
            .await
            .unwrap();
        store.create(pod("gone"), value("gone", "1")).await.unwrap();
        store.delete(&pod("gone"), None).await.unwrap();
        let mut current = store.create(pod("a"), value("a", "")).await.unwrap();
        // Some 75 MiB, of which the log keeps 16.
        for turn in 0..1200 {
            let next = value("a", &format!("{turn}{body}"));
            current = store
                .update(&pod("a"), current.revision, next)
                .await
                .unwrap();
        }
        store.close().await;
        current.revision
    };
    let size = std::fs::metadata(dir.path().join("eyot.db")).unwrap().len();
    assert!(size < 48 << 20, "{size} bytes");
    let store = open(dir.path()).await;
    assert_eq!(store.revision(), revision);
    assert_eq!(store.get(&pod("still")).unwrap().revision, 1);
    assert!(store.get(&pod("gone")).is_none());
    assert_eq!(store.get(&pod("a")).unwrap().revision, revision);
    assert!(
        store.watch("pods", None, 4).is_err(),
        "compacted changes are not pretended"
    );
    assert!(store.watch("pods", None, revision - 5).is_ok());
}

#[tokio::test]
async fn a_directory_in_use_a_foreign_file_and_a_newer_format_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let error = Store::open(&dir.path().join("eyot.db"), phase)
        .await
        .err()
        .unwrap();
    assert!(matches!(&error, OpenError::InUse { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(&format!("pid {}", std::process::id())),
        "{error}"
    );
    assert!(
        error.to_string().contains(dir.path().to_str().unwrap()),
        "{error}"
    );
    store.close().await;
    drop(store);

    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(
        foreign.path().join("eyot.db"),
        "not a database, but long enough".repeat(90),
    )
    .unwrap();
    let error = Store::open(&foreign.path().join("eyot.db"), phase)
        .await
        .err()
        .unwrap();
    assert!(matches!(&error, OpenError::Foreign { .. }), "{error}");

    let newer = tempfile::tempdir().unwrap();
    let path = newer.path().join("eyot.db");
    let mut file = {
        open(newer.path()).await.close().await;
        std::fs::read(&path).unwrap()
    };
    // Bytes 60 to 63 of a SQLite file are `user_version`.
    file[60..64].copy_from_slice(&7u32.to_be_bytes());
    std::fs::write(&path, file).unwrap();
    let mut error = None;
    // The lock goes with the writer task, which ends a moment after the last handle.
    for _ in 0..1000 {
        error = Store::open(&path, phase).await.err();
        if !matches!(error, Some(OpenError::InUse { .. })) {
            break;
        }
        tokio::task::yield_now().await;
    }
    let error = error.unwrap();
    assert!(
        matches!(
            &error,
            OpenError::Newer {
                found: 7,
                known: 2,
                ..
            }
        ),
        "{error}"
    );

    let error = Store::open(Path::new("/proc/nowhere/eyot.db"), phase)
        .await
        .err()
        .unwrap();
    assert!(matches!(&error, OpenError::Directory { .. }), "{error}");
    assert!(error.to_string().contains("/proc/nowhere"), "{error}");
}

#[tokio::test]
async fn a_list_shows_any_revision_that_the_log_reaches() {
    let store = Store::in_memory(phase);
    let mut lists = vec![all(&store.list("pods", Some("default")))];
    let keep = |store: &Store| all(&store.list("pods", Some("default")));
    for name in ["a", "b", "c"] {
        store.create(pod(name), value(name, "1")).await.unwrap();
        lists.push(keep(&store));
    }
    store.update(&pod("b"), 2, value("b", "2")).await.unwrap();
    lists.push(keep(&store));
    store.delete(&pod("a"), None).await.unwrap();
    lists.push(keep(&store));
    store.create(pod("a"), value("a", "3")).await.unwrap();
    lists.push(keep(&store));
    store
        .create(Key::new("nodes", "", "n"), value("n", ""))
        .await
        .unwrap();
    lists.push(keep(&store));
    for (revision, expected) in lists.iter().enumerate() {
        let past = store
            .list_at("pods", Some("default"), revision as u64)
            .unwrap();
        assert_eq!(past.revision, revision as u64);
        assert_eq!(&all(&past), expected, "at {revision}");
    }
    assert!(store.list_at("pods", None, 8).is_err(), "the future");
    assert!(
        store
            .list_at("unheard", None, 3)
            .unwrap()
            .objects
            .is_empty()
    );
}

#[tokio::test]
async fn what_the_store_counts_about_itself_adds_up() {
    let store = Store::in_memory(phase);
    let mark = store.mark("pods");
    let _waiting = store.watch("pods", None, 0).unwrap();
    for name in ["a", "b", "c"] {
        store.create(pod(name), value(name, "")).await.unwrap();
    }
    assert_eq!(mark.get(), 3);
    assert!(store.watch("pods", None, 9).is_err());
    let stats = store.stats();
    assert_eq!((stats.revision, stats.writes, stats.expired), (3, 3, 1));
    assert_eq!((stats.group.sum, stats.commit.count), (3, stats.groups));
    let classes: u64 = stats.group.classes.iter().map(|(_, count)| count).sum();
    assert_eq!(classes, stats.groups);
    let pods = stats.resources.iter().find(|r| &*r.name == "pods").unwrap();
    assert_eq!((pods.objects, pods.log_changes), (3, 3));
}

#[tokio::test]
async fn many_watchers_hear_of_every_change_though_they_are_woken_together() {
    let store = Store::in_memory(phase);
    let watchers: Vec<_> = (0..300)
        .map(|_| {
            let mut watch = store.watch("pods", None, 0).unwrap();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while seen.len() < 50 {
                    seen.push(next(&mut watch).await.2);
                }
                seen
            })
        })
        .collect();
    for turn in 0..50 {
        let name = turn.to_string();
        store.create(pod(&name), value(&name, "")).await.unwrap();
        tokio::task::yield_now().await;
    }
    for watcher in watchers {
        assert!(watcher.await.unwrap().into_iter().eq(1..=50));
    }
}
