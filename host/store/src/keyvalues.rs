//! What guests keep by key, in a SQLite file of its own: [`eyot_runtime::keyvalue`].
//!
//! The file is opened on the first use. How full a bucket is stands in its row, changed in the same
//! transaction as its entries, so no write counts anything.

use std::path::PathBuf;

use async_trait::async_trait;
use eyot_runtime::keyvalue::{
    BATCH, BATCH_BYTES, Bucket, KEY, KeyValueError, KeyValues as Seam, VALUE,
};
use sqlx::{Connection, Row as _, SqliteConnection};

use crate::{
    journal::sqlite as journal,
    on_use::{Layout, OnUse, Open},
};

const FORMAT: i64 = 1;
/// "EYKV" in the file's header.
const APPLICATION: i64 = 0x4559_4b56;
/// Buckets of one namespace.
const BUCKETS: i64 = 64;
/// Entries of one bucket.
const ENTRIES: i64 = 100_000;
/// Bytes of all keys and values of one namespace.
const BYTES: i64 = 64 << 20;

const LAYOUT: Layout = Layout {
    application: APPLICATION,
    format: FORMAT,
    // A power cut may take the last instant.
    durable: false,
    tables: "CREATE TABLE buckets (
                 id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL,
                 entries INTEGER NOT NULL, bytes INTEGER NOT NULL, UNIQUE (namespace, name));
             CREATE TABLE entries (
                 id INTEGER PRIMARY KEY, bucket INTEGER NOT NULL, key TEXT NOT NULL,
                 value BLOB NOT NULL, UNIQUE (bucket, key));",
};

/// The values of this host.
#[derive(Debug)]
pub struct KeyValues {
    file: OnUse,
}

/// A bucket's row: how full it is.
struct Found {
    id: i64,
    entries: i64,
    bytes: i64,
}

impl KeyValues {
    /// Keep values in the file at `path`, which is made when there is something to keep.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            file: OnUse::new(path.into(), LAYOUT),
        }
    }

    /// Fold everything into the file and let go of it; the next call opens it again.
    pub async fn close(&self) {
        if let Err(error) = self.file.close().await {
            tracing::warn!(%error, "the values of guests were not closed cleanly");
        }
    }

    /// Forget what the guests of these namespaces kept: a namespace that is made anew under the name
    /// of one that is gone begins with nothing.
    pub async fn forget(&self, is_gone: impl Fn(&str) -> bool) -> Result<(), KeyValueError> {
        if !self.file.exists().await {
            return Ok(());
        }
        let mut open = self.open().await?;
        let connection = &mut *open;
        let mut transaction = connection.begin().await.map_err(failed)?;
        let rows = sqlx::query("SELECT DISTINCT namespace FROM buckets")
            .fetch_all(&mut *transaction)
            .await
            .map_err(failed)?;
        for row in rows {
            let namespace: String = row.try_get(0).map_err(failed)?;
            if !is_gone(&namespace) {
                continue;
            }
            for sql in [
                "DELETE FROM entries
                 WHERE bucket IN (SELECT id FROM buckets WHERE namespace = ?)",
                "DELETE FROM buckets WHERE namespace = ?",
            ] {
                let deleting = sqlx::query(sql).bind(&namespace);
                deleting.execute(&mut *transaction).await.map_err(failed)?;
            }
        }
        transaction.commit().await.map_err(failed)?;
        journal::shrink(connection).await.map(drop).map_err(failed)
    }

    async fn open(&self) -> Result<Open<'_>, KeyValueError> {
        let opened = self.file.open().await;
        opened.map_err(|error| KeyValueError::Storage(error.to_string()))
    }
}

#[async_trait]
impl Seam for KeyValues {
    async fn get(
        &self,
        bucket: &Bucket,
        keys: &[String],
    ) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        check_keys(keys.iter().map(String::as_str))?;
        let mut open = self.open().await?;
        let connection = &mut *open;
        let Some(found) = find(connection, bucket).await? else {
            return Ok(vec![None; keys.len()]);
        };
        let (mut values, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        for key in keys {
            let value = value(connection, &found, key).await?;
            bytes += value.as_ref().map_or(0, Vec::len);
            if bytes > BATCH_BYTES {
                return Err(too_large("the values", bytes, BATCH_BYTES));
            }
            values.push(value);
        }
        Ok(values)
    }

    async fn set(&self, bucket: &Bucket, pairs: &[(String, Vec<u8>)]) -> Result<(), KeyValueError> {
        check_keys(pairs.iter().map(|(key, _)| key.as_str()))?;
        let mut bytes = 0;
        for (_, value) in pairs {
            if value.len() > VALUE {
                return Err(too_large("a value", value.len(), VALUE));
            }
            bytes += value.len();
        }
        if bytes > BATCH_BYTES {
            return Err(too_large("the values", bytes, BATCH_BYTES));
        }
        let mut open = self.open().await?;
        let mut transaction = open.begin().await.map_err(failed)?;
        let mut found = find_or_make(&mut transaction, bucket).await?;
        for (key, value) in pairs {
            put(&mut transaction, &mut found, key, value).await?;
        }
        finish(&mut transaction, bucket, &found).await?;
        transaction.commit().await.map_err(failed)
    }

    async fn delete(&self, bucket: &Bucket, keys: &[String]) -> Result<(), KeyValueError> {
        check_keys(keys.iter().map(String::as_str))?;
        let mut open = self.open().await?;
        let connection = &mut *open;
        let mut transaction = connection.begin().await.map_err(failed)?;
        let Some(mut found) = find(&mut transaction, bucket).await? else {
            return Ok(());
        };
        for key in keys {
            let Some(old) = size(&mut transaction, &found, key).await? else {
                continue;
            };
            sqlx::query("DELETE FROM entries WHERE bucket = ? AND key = ?")
                .bind(found.id)
                .bind(key)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
            found.entries -= 1;
            found.bytes -= old;
        }
        note(&mut transaction, &found).await?;
        transaction.commit().await.map_err(failed)?;
        journal::shrink(connection).await.map(drop).map_err(failed)
    }

    async fn keys(
        &self,
        bucket: &Bucket,
        from: Option<u64>,
    ) -> Result<(Vec<String>, Option<u64>), KeyValueError> {
        let mut open = self.open().await?;
        let connection = &mut *open;
        let Some(found) = find(connection, bucket).await? else {
            return Ok((Vec::new(), None));
        };
        let from = i64::try_from(from.unwrap_or_default()).unwrap_or(i64::MAX);
        let sql = "SELECT id, key FROM entries WHERE bucket = ? AND id > ? ORDER BY id LIMIT ?";
        let rows = sqlx::query(sql)
            .bind(found.id)
            .bind(from)
            .bind(i64::try_from(BATCH).unwrap_or(i64::MAX))
            .fetch_all(connection)
            .await
            .map_err(failed)?;
        let last = match rows.last().filter(|_| rows.len() >= BATCH) {
            Some(row) => Some(row.try_get::<i64, _>(0).map_err(failed)?.cast_unsigned()),
            None => None,
        };
        let keys = rows.iter().map(|row| row.try_get(1).map_err(failed));
        Ok((keys.collect::<Result<_, _>>()?, last))
    }

    async fn increment(&self, bucket: &Bucket, key: &str, by: u64) -> Result<u64, KeyValueError> {
        check_keys([key].into_iter())?;
        let mut open = self.open().await?;
        let mut transaction = open.begin().await.map_err(failed)?;
        let mut found = find_or_make(&mut transaction, bucket).await?;
        let text = value(&mut transaction, &found, key).await?;
        let before = match text {
            None => Some(0),
            Some(text) => std::str::from_utf8(&text).ok().and_then(|t| t.parse().ok()),
        };
        let sum = before.and_then(|before: u64| before.checked_add(by));
        let sum = sum.ok_or_else(|| KeyValueError::NotANumber(key.to_owned()))?;
        put(
            &mut transaction,
            &mut found,
            key,
            sum.to_string().as_bytes(),
        )
        .await?;
        finish(&mut transaction, bucket, &found).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(sum)
    }
}

fn check_keys<'a>(keys: impl ExactSizeIterator<Item = &'a str>) -> Result<(), KeyValueError> {
    if keys.len() > BATCH {
        return Err(too_large("the list of keys", keys.len(), BATCH));
    }
    for key in keys {
        if key.is_empty() || key.len() > KEY {
            return Err(too_large("a key", key.len(), KEY));
        }
    }
    Ok(())
}

fn too_large(what: &str, has: usize, may: usize) -> KeyValueError {
    KeyValueError::TooLarge(format!("{what} must have 1 to {may}, and has {has}"))
}

async fn find(
    connection: &mut SqliteConnection,
    bucket: &Bucket,
) -> Result<Option<Found>, KeyValueError> {
    let sql = "SELECT id, entries, bytes FROM buckets WHERE namespace = ? AND name = ?";
    let row = sqlx::query(sql)
        .bind(&bucket.namespace)
        .bind(&bucket.name)
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let number = |column: usize| row.try_get(column).map_err(failed);
    Ok(Some(Found {
        id: number(0)?,
        entries: number(1)?,
        bytes: number(2)?,
    }))
}

async fn find_or_make(
    connection: &mut SqliteConnection,
    bucket: &Bucket,
) -> Result<Found, KeyValueError> {
    if let Some(found) = find(connection, bucket).await? {
        return Ok(found);
    }
    let sql = "SELECT count(*) FROM buckets WHERE namespace = ?";
    if of_namespace(connection, sql, bucket).await? >= BUCKETS {
        let name = &bucket.namespace;
        return Err(KeyValueError::Full(format!(
            "the namespace {name} has {BUCKETS} buckets, and may not have more"
        )));
    }
    sqlx::query("INSERT INTO buckets (namespace, name, entries, bytes) VALUES (?, ?, 0, 0)")
        .bind(&bucket.namespace)
        .bind(&bucket.name)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    let made = find(connection, bucket).await?;
    made.ok_or_else(|| KeyValueError::Storage("a new bucket is not there".into()))
}

/// A number about the namespace of a bucket.
async fn of_namespace(
    connection: &mut SqliteConnection,
    sql: &'static str,
    bucket: &Bucket,
) -> Result<i64, KeyValueError> {
    let row = sqlx::query(sql).bind(&bucket.namespace);
    let row = row.fetch_one(connection).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}

async fn value(
    connection: &mut SqliteConnection,
    found: &Found,
    key: &str,
) -> Result<Option<Vec<u8>>, KeyValueError> {
    let row = sqlx::query("SELECT value FROM entries WHERE bucket = ? AND key = ?")
        .bind(found.id)
        .bind(key)
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    row.map(|row| row.try_get(0).map_err(failed)).transpose()
}

/// Bytes of an entry's key and value.
async fn size(
    connection: &mut SqliteConnection,
    found: &Found,
    key: &str,
) -> Result<Option<i64>, KeyValueError> {
    let sql =
        "SELECT octet_length(key) + octet_length(value) FROM entries WHERE bucket = ? AND key = ?";
    let row = sqlx::query(sql)
        .bind(found.id)
        .bind(key)
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    row.map(|row| row.try_get(0).map_err(failed)).transpose()
}

async fn put(
    connection: &mut SqliteConnection,
    found: &mut Found,
    key: &str,
    value: &[u8],
) -> Result<(), KeyValueError> {
    let old = size(connection, found, key).await?;
    let sql = "INSERT INTO entries (bucket, key, value) VALUES (?, ?, ?)
               ON CONFLICT (bucket, key) DO UPDATE SET value = excluded.value";
    sqlx::query(sql)
        .bind(found.id)
        .bind(key)
        .bind(value)
        .execute(connection)
        .await
        .map_err(failed)?;
    let new = i64::try_from(key.len() + value.len()).unwrap_or(i64::MAX);
    found.entries += i64::from(old.is_none());
    found.bytes += new - old.unwrap_or_default();
    Ok(())
}

/// Note how full the bucket is, unless that is too full: then the transaction is given up.
async fn finish(
    connection: &mut SqliteConnection,
    bucket: &Bucket,
    found: &Found,
) -> Result<(), KeyValueError> {
    if found.entries > ENTRIES {
        let name = &bucket.name;
        return Err(KeyValueError::Full(format!(
            "the bucket {name} has {ENTRIES} keys, and may not have more"
        )));
    }
    note(connection, found).await?;
    let sql = "SELECT sum(bytes) FROM buckets WHERE namespace = ?";
    if of_namespace(connection, sql, bucket).await? > BYTES {
        let name = &bucket.namespace;
        return Err(KeyValueError::Full(format!(
            "the values of the namespace {name} would take more than {BYTES} bytes"
        )));
    }
    Ok(())
}

async fn note(connection: &mut SqliteConnection, found: &Found) -> Result<(), KeyValueError> {
    sqlx::query("UPDATE buckets SET entries = ?, bytes = ? WHERE id = ?")
        .bind(found.entries)
        .bind(found.bytes)
        .bind(found.id)
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed)
}

fn failed(error: sqlx::Error) -> KeyValueError {
    KeyValueError::Storage(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(namespace: &str, name: &str) -> Bucket {
        Bucket {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    #[tokio::test]
    async fn what_a_namespace_kept_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("values.db");
        let values = KeyValues::new(&path);
        values.forget(|_| true).await.unwrap();
        assert!(!path.exists(), "nothing is made for nothing");
        let (gone, kept) = (bucket("gone", "b"), bucket("kept", "b"));
        for bucket in [&gone, &kept] {
            let pair = ("k".to_owned(), b"v".to_vec());
            values.set(bucket, &[pair]).await.unwrap();
        }
        values
            .forget(|namespace| namespace == "gone")
            .await
            .unwrap();
        let names = keys(&["k"]);
        assert_eq!(values.get(&gone, &names).await.unwrap(), [None]);
        let held = Some(b"v".to_vec());
        assert_eq!(values.get(&kept, &names).await.unwrap(), [held]);
    }

    fn keys(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn pair(key: &str, value: &[u8]) -> (String, Vec<u8>) {
        (key.to_owned(), value.to_vec())
    }

    #[tokio::test]
    async fn what_was_set_is_found_again_by_the_next_life_and_in_its_own_bucket_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyvalue.db");
        let here = bucket("shop", "carts");
        let store = KeyValues::new(&path);
        assert_eq!(store.get(&here, &keys(&["a"])).await.unwrap(), [None]);
        let pairs = [pair("a", b"1"), pair("b", b""), pair("a", b"22")];
        store.set(&here, &pairs).await.unwrap();
        assert_eq!(store.increment(&here, "n", 5).await.unwrap(), 5);
        store.close().await;
        let store = KeyValues::new(&path);
        assert_eq!(store.increment(&here, "n", 2).await.unwrap(), 7);
        let found = store.get(&here, &keys(&["b", "x", "a"])).await.unwrap();
        assert_eq!(found, [Some(vec![]), None, Some(b"22".to_vec())]);
        for other in [bucket("shop", "other"), bucket("other", "carts")] {
            assert_eq!(store.get(&other, &keys(&["a"])).await.unwrap(), [None]);
            assert_eq!(store.keys(&other, None).await.unwrap().0, keys(&[]));
        }
        store.delete(&here, &keys(&["a", "x"])).await.unwrap();
        assert_eq!(
            store.keys(&here, None).await.unwrap(),
            (keys(&["b", "n"]), None)
        );
        let error = store.increment(&here, "b", 1).await.unwrap_err();
        assert!(matches!(error, KeyValueError::NotANumber(key) if key == "b"));
        let most = [pair("n", u64::MAX.to_string().as_bytes())];
        store.set(&here, &most).await.unwrap();
        assert!(store.increment(&here, "n", 1).await.is_err());
    }

    #[tokio::test]
    async fn keys_come_in_pages_to_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let store = KeyValues::new(dir.path().join("keyvalue.db"));
        let here = bucket("shop", "many");
        for part in 0..3 {
            let pairs: Vec<_> = (0..BATCH - part)
                .map(|n| pair(&format!("{part}-{n}"), b"x"))
                .collect();
            store.set(&here, &pairs).await.unwrap();
        }
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let (some, next) = store.keys(&here, from).await.unwrap();
            assert!(some.len() <= BATCH);
            all.extend(some);
            from = next;
            if from.is_none() {
                break;
            }
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 3 * BATCH - 3);
    }

    #[tokio::test]
    async fn nothing_is_kept_beyond_the_bounds_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = KeyValues::new(dir.path().join("keyvalue.db"));
        let here = bucket("shop", "b");
        let too_large = |error| matches!(error, KeyValueError::TooLarge(_));
        let long = "k".repeat(KEY + 1);
        for wrong in ["", &long] {
            assert!(too_large(
                store.get(&here, &keys(&[wrong])).await.unwrap_err()
            ));
        }
        let big = [pair("a", &vec![0; VALUE + 1])];
        assert!(too_large(store.set(&here, &big).await.unwrap_err()));
        let many = vec!["a".to_owned(); BATCH + 1];
        assert!(too_large(store.delete(&here, &many).await.unwrap_err()));

        // A namespace's bytes: what does not fit is refused as a whole, other namespaces go on.
        let value = vec![7; VALUE];
        let full = loop {
            let count = store.keys(&here, None).await.unwrap().0.len();
            let pairs: Vec<_> = (0..4)
                .map(|n| pair(&format!("{count}-{n}"), &value))
                .collect();
            if let Err(error) = store.set(&here, &pairs).await {
                break error;
            }
        };
        assert!(matches!(full, KeyValueError::Full(_)), "{full}");
        let before = store.keys(&here, None).await.unwrap().0;
        assert_eq!(before.len(), 60);
        let second = bucket("shop", "second");
        let large = [
            pair("x", &value),
            pair("y", &value),
            pair("z", &value),
            pair("w", &value),
        ];
        assert!(store.set(&second, &large).await.is_err());
        store.set(&bucket("other", "b"), &large).await.unwrap();
        // Overwriting takes no more room, and deleting makes some.
        store.set(&here, &[pair(&before[0], &value)]).await.unwrap();
        store.delete(&here, &before[..8]).await.unwrap();
        store.set(&second, &large).await.unwrap();

        for n in 2..BUCKETS {
            let one = bucket("shop", &format!("bucket-{n}"));
            store.set(&one, &[pair("k", b"")]).await.unwrap();
        }
        let more = store
            .set(&bucket("shop", "one-more"), &[pair("k", b"")])
            .await;
        assert!(matches!(more, Err(KeyValueError::Full(_))));
    }
}
