//! The file: how large it gets, what happens when the disk is full or lies, and older formats.

use super::*;
use crate::Plain;

/// Sizes of the database and of its write-ahead log.
fn sizes(dir: &Path) -> (u64, u64) {
    let size = |name: &str| std::fs::metadata(dir.join(name)).map_or(0, |found| found.len());
    (size("eyot.db"), size("eyot.db-wal"))
}

/// Open a store whose last handle has just been dropped: its lock goes a moment later.
async fn reopen(dir: &Path) -> Result<Store, OpenError> {
    let path = dir.join("eyot.db");
    for _ in 0..1000 {
        match Store::open(&path, phase).await {
            Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
            opened => return opened,
        }
    }
    Store::open(&path, phase).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_thousand_writes_over_a_thousand_keys_leave_a_small_file() {
    const WRITERS: usize = 50;
    const KEYS: usize = 20;
    const TURNS: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let largest = Arc::new(std::sync::Mutex::new((0, 0)));
    let writers = (0..WRITERS).map(|writer| {
        let (store, largest, dir) = (store.clone(), largest.clone(), dir.path().to_owned());
        tokio::spawn(async move {
            let body = |turn: usize| {
                let filler = "x".repeat(900);
                json!({"metadata": {}, "data": {"turn": turn, "filler": filler}})
            };
            let mut revisions = [0; KEYS];
            for turn in 0..TURNS {
                for (key, revision) in revisions.iter_mut().enumerate() {
                    let key = pod(&format!("{writer}-{key}"));
                    let written = match *revision {
                        0 => store.create(key, body(turn)).await,
                        before => store.update(&key, before, body(turn)).await,
                    };
                    *revision = written.unwrap().revision;
                }
                let (file, wal) = sizes(&dir);
                let mut largest = largest.lock().unwrap();
                *largest = (largest.0.max(file), largest.1.max(wal));
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    // A thousand objects, eight thousand superseded states and what waits to be deleted, of a
    // kilobyte each: 10 MB, and twice that at most.
    let (file, wal) = *largest.lock().unwrap();
    assert!(file < 24 << 20, "the file grew to {file} bytes");
    assert!(wal < 16 << 20, "the write-ahead log grew to {wal} bytes");
    assert_eq!(store.revision(), (WRITERS * KEYS * TURNS) as u64);
    let stats = store.stats();
    assert!(
        stats.compacted > 150_000,
        "{} rows deleted",
        stats.compacted
    );
    store.close().await;
    let (file, wal) = sizes(dir.path());
    assert!(
        file < 24 << 20 && wal == 0,
        "{file} and {wal} bytes at the end"
    );
}

#[tokio::test]
async fn what_is_deleted_is_given_back_to_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let body = "x".repeat(256 << 10);
    for turn in 0..200 {
        let name = turn.to_string();
        store.create(pod(&name), value(&name, &body)).await.unwrap();
    }
    for turn in 0..200 {
        store.delete(&pod(&turn.to_string()), None).await.unwrap();
    }
    // The log lets go of the large states when small ones push them out.
    for turn in 0..90 {
        let pairs = (0..50).map(async |n| {
            let name = format!("{turn}-{n}");
            store.create(pod(&name), value(&name, "")).await.unwrap();
            store.delete(&pod(&name), None).await.unwrap();
        });
        futures::future::join_all(pairs).await;
    }
    store.close().await;
    let (file, _) = sizes(dir.path());
    assert!(file < 20 << 20, "{file} bytes of what were once 50 MiB");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_nothing_else_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("eyot.db");
    let opened = Journal::open(&path, phase, Arc::new(Plain)).await;
    let (mut journal, loaded) = opened.unwrap();
    journal.limit_pages(20).await;
    let store = Store::start(journal, loaded, None, Readings::in_memory(), phase);
    store.create(pod("a"), value("a", "1")).await.unwrap();
    let mut watch = store.watch("pods", None, 1).unwrap();
    let big = "x".repeat(200 << 10);
    let full = store.create(pod("b"), value("b", &big)).await;
    let Err(error @ WriteError::Full(_)) = full else {
        panic!("{full:?}")
    };
    assert!(
        error.to_string().contains("free some disk space"),
        "{error}"
    );
    assert_eq!(
        (store.revision(), store.list("pods", None).objects.len()),
        (1, 1)
    );
    assert_eq!(watch.try_next(), Ok(None));
    assert_eq!((store.stats().failures, store.stats().full), (1, 1));
    let small = store.create(pod("c"), value("c", "")).await.unwrap();
    assert_eq!(small.revision, 2);
    assert_eq!(next(&mut watch).await, (ChangeKind::Added, "c".into(), 2));
}

/// A file system of a few megabytes, if this user may mount one.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(dir.path())
            .output();
        mounted
            .is_ok_and(|done| done.status.success())
            .then(|| Small(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .output();
    }
}

#[tokio::test]
async fn a_file_system_without_room_is_survived_and_recovered_from_without_a_restart() {
    let Some(small) = Small::mount() else {
        eprintln!("SKIPPED: mounting a small file system needs root");
        return;
    };
    let dir = small.0.path();
    let store = open(dir).await;
    let body = "x".repeat(100 << 10);
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let mut written = 0;
    let error = loop {
        let name = format!("n{written}");
        match store.create(pod(&name), value(&name, &body)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "four megabytes cannot hold ten");
    };
    assert!(matches!(error, WriteError::Full(_)), "{error}");
    assert_eq!(store.list("pods", None).objects.len(), written);
    assert!(store.get(&pod("n0")).is_some(), "reads go on");
    let again = store.create(pod("x"), value("x", &body)).await;
    assert!(matches!(again, Err(WriteError::Full(_))), "{again:?}");
    std::fs::remove_file(&ballast).unwrap();
    store.create(pod("x"), value("x", &body)).await.unwrap();
    store.close().await;
    drop(store);
    // A start needs no room, even if there was none to fold the write-ahead log into the file.
    let store = reopen(dir).await.unwrap();
    assert_eq!(store.list("pods", None).objects.len(), written + 1);
}

/// The file as the first format has it, with one object.
async fn format_1(dir: &Path) {
    let sql = "PRAGMA auto_vacuum = INCREMENTAL;
        PRAGMA journal_mode = WAL;
        CREATE TABLE changes (
            revision INTEGER PRIMARY KEY, kind INTEGER NOT NULL, resource TEXT NOT NULL,
            namespace TEXT NOT NULL, name TEXT NOT NULL, json BLOB NOT NULL);
        CREATE TABLE horizons (
            resource TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
        PRAGMA application_id = 1163480916;
        PRAGMA user_version = 1;
        INSERT INTO horizons VALUES ('pods', 3);
        INSERT INTO changes VALUES (3, 1, 'pods', 'default', 'a', CAST(
            '{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"3\"}}' AS BLOB));
        INSERT INTO changes VALUES (4, 1, 'pods', 'default', 'a', CAST(
            '{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"4\",\"z\":1}}' AS BLOB))";
    execute(dir, sql).await;
}

async fn execute(dir: &Path, sql: &'static str) {
    use sqlx::{ConnectOptions, Connection};
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(dir.join("eyot.db"))
        .create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_database_of_the_first_format_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    format_1(dir.path()).await;
    let store = open(dir.path()).await;
    assert_eq!(store.get(&pod("a")).unwrap().revision, 4);
    let mut watch = store.watch("pods", None, 3).unwrap();
    assert_eq!(
        next(&mut watch).await,
        (ChangeKind::Modified, "a".into(), 4)
    );
    store.update(&pod("a"), 4, value("a", "2")).await.unwrap();
    store.close().await;
    drop((store, watch));
    let store = reopen(dir.path()).await.unwrap();
    assert_eq!(store.get(&pod("a")).unwrap().revision, 5);
}

#[tokio::test]
async fn damage_is_found_at_start_and_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for name in ["a", "b", "c"] {
        store
            .create(pod(name), value(name, "Running"))
            .await
            .unwrap();
    }
    store.close().await;
    drop(store);
    // One bit of one object.
    let path = dir.path().join("eyot.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes
        .windows(7)
        .rposition(|window| window == b"Running")
        .unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = reopen(dir.path()).await.err().unwrap();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    let text = error.to_string();
    for part in ["checksum", "pods default/a", "backup", "eyot salvage"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // A page of the table.
    bytes[at] ^= 1;
    let page = at / 4096 * 4096;
    bytes[page..page + 512].fill(0xff);
    std::fs::write(&path, &bytes).unwrap();
    let error = reopen(dir.path()).await.err().unwrap();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_deletion_whose_row_is_still_there_stays_a_deletion() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.close().await;
    // Killed between the horizon's move and the deletion of all that it made superfluous.
    let sql = "INSERT INTO horizons VALUES ('pods', 9);
        INSERT INTO changes VALUES (1, 0, 'pods', 'default', 'a', CAST(
            '{\"metadata\":{\"resourceVersion\":\"1\"}}' AS BLOB), NULL);
        INSERT INTO changes VALUES (2, 2, 'pods', 'default', 'a', CAST(
            '{\"metadata\":{\"resourceVersion\":\"2\"}}' AS BLOB), NULL)";
    execute(dir.path(), sql).await;
    let store = reopen(dir.path()).await.unwrap();
    assert!(store.get(&pod("a")).is_none());
    assert_eq!(store.revision(), 9);
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
async fn what_can_be_read_of_a_damaged_database_is_salvaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("eyot.db");
    let store = open(dir.path()).await;
    let body = "x".repeat(500);
    let writes = (0..400).map(|n| {
        let name = format!("n{n:03}");
        store.create(pod(&name), value(&name, &format!("{n:03}{body}")))
    });
    for written in futures::future::join_all(writes.collect::<Vec<_>>()).await {
        written.unwrap();
    }
    store.close().await;
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    let page_of = |bytes: &[u8], name: &str| {
        let at = bytes
            .windows(name.len())
            .position(|window| window == name.as_bytes());
        at.unwrap() / 4096 * 4096
    };
    // Two pages in the middle, and one bit elsewhere.
    let first = page_of(&bytes, "\"n150\"");
    bytes[first..first + 4096].fill(0xa5);
    let second = page_of(&bytes, "\"n250\"");
    bytes[second..second + 4096].fill(0xa5);
    let bit = bytes
        .windows(6)
        .position(|window| window == b"350xxx")
        .unwrap();
    bytes[bit + 10] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(reopen(dir.path()).await.is_err());

    let salvaged = crate::salvage(&path).await.unwrap();
    assert!((370..397).contains(&salvaged.kept), "{salvaged:?}");
    assert_eq!(salvaged.wrong, 1, "{salvaged:?}");
    assert!(
        salvaged.lost.iter().any(|lost| lost.contains("n350")),
        "{salvaged:?}"
    );
    assert_eq!(std::fs::read(&salvaged.damaged).unwrap().len(), bytes.len());
    let store = reopen(dir.path()).await.unwrap();
    assert_eq!(store.list("pods", None).objects.len(), salvaged.kept);
    for name in ["n000", "n140", "n160", "n240", "n260", "n399"] {
        assert!(store.get(&pod(name)).is_some(), "{name}");
    }
    assert!(store.get(&pod("n350")).is_none());
    assert!(store.revision() > 1_000_000);
    assert!(store.watch("pods", None, 400).is_err());
    let written = store.create(pod("new"), value("new", "")).await.unwrap();
    assert_eq!(written.revision, store.revision());
}
