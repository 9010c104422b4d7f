use serde_json::json;

use super::*;
use crate::{Plain, Store};

fn nothing(_: &str, _: &serde_json::Value) -> Vec<(Box<str>, Box<str>)> {
    Vec::new()
}

fn key(number: usize) -> Key {
    Key::new("pods", "default", format!("pod-{number}"))
}

async fn open(path: &Path) -> Store {
    for _ in 0..1000 {
        match Store::open(path, nothing).await {
            Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
    panic!("the directory stays in use")
}

/// Two hundred pods, each written twice, every third deleted: 466 revisions.
async fn fill(store: &Store) {
    for number in 0..200 {
        let value = json!({"metadata": {"labels": {"n": number.to_string()}}, "turn": 1});
        let made = store.create(key(number), value.clone()).await.unwrap();
        let mut next = value;
        next["turn"] = 2.into();
        store
            .update(&key(number), made.revision, next)
            .await
            .unwrap();
        if number % 3 == 0 {
            store.delete(&key(number), None).await.unwrap();
        }
    }
}

fn plain(place: &Place) -> Side<'_> {
    Side {
        place,
        codec: &Plain,
    }
}

#[tokio::test]
async fn a_copy_of_a_running_store_goes_on_where_the_original_was() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("a/eyot.db"), dir.path().join("b/eyot.db"));
    let original = open(&from).await;
    fill(&original).await;
    let places = [Place::File(from), Place::File(to.clone())];
    let [from, target] = &places;
    let tally = copy(plain(from), plain(target), Revisions::GoOn)
        .await
        .unwrap();
    assert_eq!(tally.revision, original.revision());
    assert_eq!(tally.objects["pods"], 133);
    // What is written to the original meanwhile is not in the copy, and does it no harm.
    original
        .create(key(900), json!({"metadata": {}}))
        .await
        .unwrap();
    let store = open(&to).await;
    assert_eq!(store.revision(), tally.revision);
    for number in 0..200 {
        assert_eq!(store.get(&key(number)), original.get(&key(number)));
    }
    let mut watch = store.watch("pods", None, 400).unwrap();
    assert_eq!(watch.next().await.unwrap().object.revision, 401);
    let refused = copy(plain(from), plain(target), Revisions::GoOn).await;
    assert!(matches!(
        refused,
        Err(TransferError::Open(OpenError::InUse { .. }))
    ));
    store.close().await;
    drop((store, watch));
    let refused = loop {
        match copy(plain(from), plain(target), Revisions::GoOn).await {
            Err(TransferError::Open(OpenError::InUse { .. })) => tokio::task::yield_now().await,
            other => break other,
        }
    };
    assert!(matches!(refused, Err(TransferError::NotEmpty(_))));
}

#[tokio::test]
async fn a_restored_copy_gives_no_revision_that_the_original_may_have_given() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("a/eyot.db"), dir.path().join("b/eyot.db"));
    let original = open(&from).await;
    fill(&original).await;
    let (from, target) = (Place::File(from), Place::File(to.clone()));
    copy(plain(&from), plain(&target), Revisions::Skip)
        .await
        .unwrap();
    let store = open(&to).await;
    let seen = original.revision() + 1000;
    assert!(store.watch("pods", None, seen).is_err());
    let made = store
        .create(key(900), json!({"metadata": {}}))
        .await
        .unwrap();
    assert!(made.revision > BEYOND);
    assert!(
        store.watch("pods", None, seen).is_err(),
        "still, now that revisions went on"
    );
    assert_eq!(store.get(&key(1)), original.get(&key(1)));
}

#[tokio::test]
async fn a_damaged_row_is_not_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("a/eyot.db"), dir.path().join("b/eyot.db"));
    let store = open(&from).await;
    fill(&store).await;
    store.close().await;
    let mut connection =
        crate::journal::sqlite::connect(&from, sqlx::sqlite::SqliteSynchronous::Full)
            .await
            .unwrap();
    sqlx::query("UPDATE changes SET name = 'other' WHERE revision = 300")
        .execute(&mut connection)
        .await
        .unwrap();
    let (from, to) = (Place::File(from), Place::File(to));
    let error = copy(plain(&from), plain(&to), Revisions::GoOn)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("revision 300"), "{error}");
    let nowhere = Place::File(dir.path().join("c/eyot.db"));
    let error = tally(&plain(&nowhere)).await.unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_store_moves_to_a_server_and_back_and_nothing_changes() {
    use crate::tests::cluster::{Cluster, database};
    let Some(cluster) = Cluster::start().await else {
        eprintln!(
            "SKIPPED: a_store_moves_to_a_server needs PostgreSQL (apt-get install postgresql)"
        );
        return;
    };
    let url = database(cluster.sockets(), "moved").await;
    let dir = tempfile::tempdir().unwrap();
    let (from, back) = (dir.path().join("a/eyot.db"), dir.path().join("c/eyot.db"));
    let original = open(&from).await;
    fill(&original).await;
    let (from, middle) = (Place::File(from), Place::Server(url.clone()));
    let held = hold(&from).await;
    assert!(
        matches!(held, Err(TransferError::Open(OpenError::InUse { .. }))),
        "a host runs on it"
    );
    let there = copy(plain(&from), plain(&middle), Revisions::GoOn)
        .await
        .unwrap();
    let readings = dir.path().join("b/readings.db");
    let server = Store::connect(&url, &readings, nothing, Arc::new(Plain))
        .await
        .unwrap();
    assert_eq!(server.revision(), original.revision());
    let mut watch = server.watch("pods", None, 400).unwrap();
    assert_eq!(watch.next().await.unwrap().object.revision, 401);
    // It listens a moment after it has begun.
    let used = async {
        loop {
            match hold(&middle).await {
                Err(TransferError::Used { count, .. }) => break count,
                Err(error) => panic!("{error}"),
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    let used = tokio::time::timeout(std::time::Duration::from_secs(60), used).await;
    assert_eq!(used.unwrap(), 1);
    let made = server
        .create(key(900), json!({"metadata": {}}))
        .await
        .unwrap();
    assert_eq!(made.revision, there.revision + 1);
    server.close().await;
    let target = Place::File(back.clone());
    let again = copy(plain(&middle), plain(&target), Revisions::GoOn)
        .await
        .unwrap();
    assert_eq!(again.revision, made.revision);
    assert_eq!(again.changes, there.changes + 1);
    let store = open(&back).await;
    for number in 0..200 {
        assert_eq!(store.get(&key(number)), original.get(&key(number)));
    }
    assert_eq!(store.get(&key(900)).unwrap(), made);
    let refused = copy(plain(&from), plain(&middle), Revisions::GoOn).await;
    assert!(matches!(refused, Err(TransferError::NotEmpty(_))));
}
