//! Renewals, which the disk hears of later.

use super::*;

fn lease() -> Key {
    Key::new("leases.coordination.k8s.io", "kube-node-lease", "n")
}

fn held(turn: u64) -> Value {
    json!({"metadata": {"name": "n"}, "spec": {"renewTime": turn}})
}

/// A copy of the directory as a power cut would leave it: what is in the files now.
fn cut(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir).unwrap() {
        let file = file.unwrap();
        // The index of the write-ahead log is made anew; the lock is another process's.
        if !["lock", "eyot.db-shm"].contains(&file.file_name().to_str().unwrap()) {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    copy
}

#[tokio::test]
async fn renewals_are_seen_at_once_and_written_with_the_next_other_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut current = store.create(lease(), held(0)).await.unwrap();
    // The first one sets revisions aside on disk.
    current = store
        .renew(&lease(), current.revision, held(1))
        .await
        .unwrap();
    let transactions = store.stats().groups;
    let mut watch = store
        .watch(&lease().resource, None, current.revision)
        .unwrap();
    for turn in 2..20 {
        current = store
            .renew(&lease(), current.revision, held(turn))
            .await
            .unwrap();
        assert_eq!(watch.next().await.unwrap().object, current);
    }
    assert_eq!(store.get(&lease()).unwrap(), current);
    assert_eq!(
        store.stats().groups,
        transactions,
        "the disk was left alone"
    );
    let stale = store.renew(&lease(), current.revision - 1, held(99)).await;
    assert!(
        matches!(stale, Err(WriteError::Conflict { .. })),
        "{stale:?}"
    );

    store.create(pod("a"), value("a", "")).await.unwrap();
    assert_eq!(store.stats().groups, transactions + 1);
    let copy = cut(dir.path());
    let after = open(copy.path()).await;
    assert_eq!(after.get(&lease()).unwrap(), current);
    store.close().await;
}

#[tokio::test]
async fn a_crash_takes_renewals_but_gives_no_revision_twice_and_tells_watchers_to_list() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut current = store.create(lease(), held(0)).await.unwrap();
    store.create(pod("a"), value("a", "")).await.unwrap();
    for turn in 1..10 {
        current = store
            .renew(&lease(), current.revision, held(turn))
            .await
            .unwrap();
    }
    let copy = cut(dir.path());
    let lost = current.revision;
    for round in 0..2 {
        let after = open(copy.path()).await;
        let found = after.get(&lease()).unwrap();
        assert_eq!(
            parsed(&found)["spec"]["renewTime"],
            1,
            "the last that was written"
        );
        assert!(after.revision() > lost, "{} after {lost}", after.revision());
        let resource = &*lease().resource;
        assert!(after.watch(resource, None, lost).is_err(), "round {round}");
        assert!(after.watch(resource, None, after.revision()).is_ok());
        assert!(
            after.watch("pods", None, 1).is_ok(),
            "others are as they were"
        );
        after.close().await;
    }
    store.close().await;
}

#[tokio::test]
async fn an_orderly_stop_writes_renewals() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut current = store.create(lease(), held(0)).await.unwrap();
    for turn in 1..10 {
        current = store
            .renew(&lease(), current.revision, held(turn))
            .await
            .unwrap();
    }
    store.close().await;
    let copy = cut(dir.path());
    let after = open(copy.path()).await;
    assert_eq!(after.get(&lease()).unwrap(), current);
    assert_eq!(after.revision(), current.revision, "nothing was skipped");
    let resource = &*lease().resource;
    assert!(after.watch(resource, None, current.revision).is_ok());
}
