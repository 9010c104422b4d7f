//! The store on a database server, alone and shared with another.

use std::{process::Command, sync::Arc};

use sqlx::{AssertSqlSafe, Connection};

use super::{
    cluster::{Cluster, SOCKETS, admin, database},
    *,
};
use crate::Plain;

pub(super) async fn connect(url: &str, dir: &Path) -> Store {
    let readings = dir.join("readings.db");
    for _ in 0..1000 {
        match Store::connect(url, &readings, phase, Arc::new(Plain)).await {
            Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
            connected => return connected.unwrap(),
        }
    }
    panic!("the directory stays in use")
}

/// A server, unless there is none on this machine.
async fn cluster(test: &str) -> Option<Cluster> {
    let cluster = Cluster::start().await;
    if cluster.is_none() {
        eprintln!("SKIPPED: {test} needs PostgreSQL (apt-get install postgresql)");
    }
    cluster
}

/// Two stores on one database, as two hosts would have it.
struct Two {
    one: Store,
    other: Store,
    url: String,
    cluster: Cluster,
    _dirs: [tempfile::TempDir; 2],
}

impl Two {
    async fn start(test: &str) -> Option<Two> {
        let cluster = cluster(test).await?;
        let url = database(cluster.sockets(), "shared").await;
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        Some(Two {
            one: connect(&url, dirs[0].path()).await,
            other: connect(&url, dirs[1].path()).await,
            url,
            cluster,
            _dirs: dirs,
        })
    }

    async fn sql(&self, sql: String) {
        let mut connection = sqlx::PgConnection::connect(&self.url).await.unwrap();
        let done = sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await;
        done.unwrap();
    }
}

#[tokio::test]
async fn what_holds_everywhere_holds_on_a_server() {
    if std::env::var_os(SOCKETS).is_some() {
        return;
    }
    let Some(cluster) = cluster("what_holds_everywhere_holds_on_a_server").await else {
        return;
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["tests::everywhere::", "--test-threads=4"])
        .env(SOCKETS, cluster.sockets())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let passed = text.matches("... ok").count();
    assert!(passed >= 10, "{passed} tests passed: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_share_a_database_agree_on_one_order_and_lose_no_update() {
    let Some(two) = Two::start("servers_that_share_a_database").await else {
        return;
    };
    let count = |object: &Object| parsed(object)["count"].as_u64().unwrap();
    let value = |count: u64| json!({"metadata": {}, "count": count});
    two.one.create(pod("counter"), value(0)).await.unwrap();
    two.other.catch_up().await.unwrap();
    let watches = [&two.one, &two.other].map(|store| store.watch("pods", None, 0).unwrap());
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = if task % 2 == 0 { &two.one } else { &two.other };
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    let mut current = store.get(&pod("counter")).unwrap();
                    loop {
                        let next = value(count(&current) + 1);
                        match store.update(&pod("counter"), current.revision, next).await {
                            Ok(_) => break,
                            Err(WriteError::Conflict { current: newer }) => current = newer,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for (store, mut watch) in [&two.one, &two.other].into_iter().zip(watches) {
        store.catch_up().await.unwrap();
        assert_eq!(store.revision(), 201);
        assert_eq!(count(&store.get(&pod("counter")).unwrap()), 200);
        for revision in 1..=201 {
            let change = timeout(DEADLINE, watch.next()).await.unwrap().unwrap();
            assert_eq!(change.object.revision, revision);
            assert_eq!(count(&change.object), revision - 1);
        }
    }
}

#[tokio::test]
async fn what_one_server_writes_the_other_hears_of_without_asking() {
    let Some(two) = Two::start("what_one_server_writes").await else {
        return;
    };
    let mut watch = two.other.watch("pods", None, 0).unwrap();
    for turn in 1..=20 {
        let name = turn.to_string();
        two.one.create(pod(&name), value(&name, "")).await.unwrap();
        assert_eq!(next(&mut watch).await, (ChangeKind::Added, name, turn));
    }
    two.other.delete(&pod("7"), None).await.unwrap();
    two.one.catch_up().await.unwrap();
    assert!(two.one.get(&pod("7")).is_none());
}

#[tokio::test]
async fn a_server_that_missed_what_is_gone_from_the_log_takes_everything_anew() {
    let Some(two) = Two::start("a_server_that_missed").await else {
        return;
    };
    two.one.create(pod("a"), value("a", "1")).await.unwrap();
    two.one.create(pod("b"), value("b", "1")).await.unwrap();
    two.other.catch_up().await.unwrap();
    let mut watch = two.other.watch("pods", None, 2).unwrap();
    // What a third server would leave that wrote and compacted while `other` was cut off.
    let sql = "UPDATE eyot_store SET revision = 900;
        DELETE FROM eyot_changes WHERE name = 'b';
        INSERT INTO eyot_horizons VALUES ('pods', 900)";
    two.sql(sql.to_owned()).await;
    two.other.catch_up().await.unwrap();
    assert_eq!(two.other.revision(), 900);
    assert!(two.other.get(&pod("b")).is_none());
    assert!(two.other.get(&pod("a")).is_some());
    assert!(watch.next().await.is_err(), "nobody knows what it missed");
    assert!(two.other.watch("pods", None, 900).is_ok());
    let written = two.other.create(pod("c"), value("c", "")).await.unwrap();
    assert_eq!(written.revision, 901);
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again() {
    let Some(two) = Two::start("a_connection_that_breaks").await else {
        return;
    };
    two.one.create(pod("a"), value("a", "1")).await.unwrap();
    two.other.catch_up().await.unwrap();
    let mut watch = two.other.watch("pods", None, 1).unwrap();
    let mut connection = admin(two.cluster.sockets()).await.unwrap();
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shared'";
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    // Writes fail until the pool has found all of its connections broken; then one is made anew.
    // A write that broke off on its way back may have been stored.
    let written = async {
        while let Err(error) = two.one.create(pod("b"), value("b", "1")).await {
            if matches!(error, WriteError::Exists(_)) {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), written)
        .await
        .unwrap();
    assert_eq!(next(&mut watch).await, (ChangeKind::Added, "b".into(), 2));
}

#[tokio::test]
async fn what_is_told_while_it_cannot_be_read_is_read_later() {
    let Some(two) = Two::start("what_is_told_while_it_cannot_be_read").await else {
        return;
    };
    two.one.create(pod("a"), value("a", "1")).await.unwrap();
    two.other.catch_up().await.unwrap();
    let mut watch = two.other.watch("pods", None, 1).unwrap();
    // Who listens goes on listening; who reads and writes has to connect again.
    let mut connection = admin(two.cluster.sockets()).await.unwrap();
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = 'shared' AND query NOT LIKE 'LISTEN%'";
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    // One notification is sent, after a first attempt that finds the connection broken.
    let mut written = two.one.create(pod("b"), value("b", "1")).await;
    if written.is_err() {
        written = two.one.create(pod("b"), value("b", "1")).await;
    }
    written.unwrap();
    assert_eq!(next(&mut watch).await, (ChangeKind::Added, "b".into(), 2));
}

#[tokio::test]
async fn a_damaged_row_and_a_newer_format_are_refused() {
    let Some(two) = Two::start("a_damaged_row").await else {
        return;
    };
    two.one.create(pod("a"), value("a", "1")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let again = async || {
        let readings = dir.path().join("readings.db");
        let opened = Store::connect(&two.url, &readings, phase, Arc::new(Plain)).await;
        opened.err().unwrap()
    };
    two.sql("UPDATE eyot_changes SET name = 'b'".to_owned())
        .await;
    let error = again().await;
    assert!(error.to_string().contains("checksum"), "{error}");
    two.sql("UPDATE eyot_store SET format = 9".to_owned()).await;
    let error = again().await;
    assert!(
        matches!(error, OpenError::Newer { found: 9, .. }),
        "{error}"
    );
}
