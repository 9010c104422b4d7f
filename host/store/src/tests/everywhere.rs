//! What holds wherever the objects are kept: run in memory and on files, and once more against a
//! database server.

use super::*;

#[tokio::test]
async fn writes_take_one_ever_increasing_revision_and_show_it_in_the_object() {
    let store = fresh().await;
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
    let store = fresh().await;
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
    let store = fresh().await;
    store.create(pod("a"), value("a", "1")).await.unwrap();
    let same = store.update(&pod("a"), 1, value("a", "1")).await.unwrap();
    assert_eq!((same.revision, store.revision()), (1, 1));
}

#[tokio::test]
async fn a_deletion_answers_the_last_state_with_its_own_revision() {
    let store = fresh().await;
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
    let store = fresh().await;
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
    let store = fresh().await;
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
    let store = fresh().await;
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
    let store = fresh().await;
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
    let store = fresh().await;
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
async fn a_list_shows_any_revision_that_the_log_reaches() {
    let store = fresh().await;
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
    let store = fresh().await;
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
    let store = fresh().await;
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
