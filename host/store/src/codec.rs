//! How an object's bytes look in the database: the seam at which they are encrypted.
//!
//! Memory holds every object as the JSON that clients get; a [`Codec`] stands between that and the
//! file, and is asked once for each row written and each row read. The store itself knows no
//! cipher. Rows that a codec calls stale (written under an older key, or before there was one) are
//! written anew in place while the database is opened, without a new revision: nothing changed for
//! anybody who reads objects.

use bytes::Bytes;

use crate::Key;

/// Turns objects into what is stored of them, and back.
pub trait Codec: Send + Sync {
    /// What to store for this object.
    fn encode(&self, key: &Key, json: &Bytes) -> Result<Bytes, String>;

    /// The object's JSON from what was stored.
    fn decode(&self, key: &Key, stored: &[u8]) -> Result<Decoded, String>;
}

/// A row that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    pub json: Bytes,
    /// The row should be written anew, as [`Codec::encode`] would write it now.
    pub stale: bool,
}

/// Objects are stored as they are.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Codec for Plain {
    fn encode(&self, _key: &Key, json: &Bytes) -> Result<Bytes, String> {
        Ok(json.clone())
    }

    fn decode(&self, _key: &Key, stored: &[u8]) -> Result<Decoded, String> {
        Ok(Decoded {
            json: Bytes::copy_from_slice(stored),
            stale: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use serde_json::json;

    use super::*;
    use crate::{OpenError, Store};

    /// No cipher, but enough to tell one key from another and both from plain text.
    struct Shift(u8);

    impl Codec for Shift {
        fn encode(&self, _key: &Key, json: &Bytes) -> Result<Bytes, String> {
            let shifted = json.iter().map(|byte| byte.wrapping_add(self.0));
            Ok([self.0].into_iter().chain(shifted).collect())
        }

        fn decode(&self, _key: &Key, stored: &[u8]) -> Result<Decoded, String> {
            match stored {
                [b'{', ..] => Ok(Decoded {
                    json: Bytes::copy_from_slice(stored),
                    stale: true,
                }),
                [shift, rest @ ..] if *shift <= self.0 => Ok(Decoded {
                    json: rest.iter().map(|byte| byte.wrapping_sub(*shift)).collect(),
                    stale: *shift != self.0,
                }),
                _ => Err("no such key".to_owned()),
            }
        }
    }

    fn key() -> Key {
        Key::new("secrets", "default", "s")
    }

    async fn open(dir: &Path, codec: Arc<dyn Codec>) -> Result<Store, OpenError> {
        Store::open_with(&dir.join("eyot.db"), |_, _| Vec::new(), codec).await
    }

    fn on_disk(dir: &Path, text: &[u8]) -> bool {
        std::fs::read_dir(dir).unwrap().any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            bytes.windows(text.len()).any(|window| window == text)
        })
    }

    #[tokio::test]
    async fn rows_of_an_older_key_are_written_anew_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let value = json!({"metadata": {"name": "s"}, "data": {"password": "correct horse"}});
        let plain = b"correct horse".to_vec();
        let store = open(dir, Arc::new(Plain)).await.unwrap();
        let created = store.create(key(), value).await.unwrap();
        store.close().await;
        drop(store);
        assert!(on_disk(dir, &plain));
        let mut before = plain.clone();
        for shift in [1, 2] {
            let store = open(dir, Arc::new(Shift(shift))).await.unwrap();
            assert_eq!(
                store.get(&key()).unwrap(),
                created,
                "same bytes, same revision"
            );
            assert!(!on_disk(dir, &before), "{shift}");
            before = plain.iter().map(|byte| byte.wrapping_add(shift)).collect();
            assert!(on_disk(dir, &before), "{shift}");
            store.close().await;
        }
        let error = open(dir, Arc::new(Shift(1))).await.err().unwrap();
        assert!(error.to_string().contains("no such key"), "{error}");
    }
}
