//! Values that guests keep by key: what `wasi:keyvalue` is served from. The store crate implements
//! [`KeyValues`], `runtime-wasm` calls it.

use std::fmt;

use async_trait::async_trait;

/// A set of keys that belongs to a namespace: all pods of it that are granted the name share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    pub namespace: String,
    pub name: String,
}

/// Longest key, in bytes.
pub const KEY: usize = 1024;
/// Largest value, in bytes.
pub const VALUE: usize = 1 << 20;
/// Keys in one call, and in one answer of [`KeyValues::keys`].
pub const BATCH: usize = 1000;
/// Bytes of all values in one call or answer.
pub const BATCH_BYTES: usize = 8 << 20;

/// Why a value could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum KeyValueError {
    /// What was asked for is more than one call, key or value may be.
    #[error("{0}")]
    TooLarge(String),
    /// The bucket, or all of its namespace, is full.
    #[error("{0}; delete some keys")]
    Full(String),
    /// The value is not a number that can be counted up.
    #[error("the value of {0:?} is not a number from 0 to 18446744073709551615 that leaves room")]
    NotANumber(String),
    #[error("values could not be stored or read: {0}; free disk space or repair the disk")]
    Storage(String),
}

/// Keeps values. What was acknowledged survives the end of the host; a power cut may take the last
/// instant. Each call happens as a whole or not at all.
#[async_trait]
pub trait KeyValues: fmt::Debug + Send + Sync {
    /// The values of these keys, in their order.
    async fn get(
        &self,
        bucket: &Bucket,
        keys: &[String],
    ) -> Result<Vec<Option<Vec<u8>>>, KeyValueError>;

    /// Set these keys; of several of one name the last holds.
    async fn set(&self, bucket: &Bucket, pairs: &[(String, Vec<u8>)]) -> Result<(), KeyValueError>;

    /// Delete these keys; those that are not there are passed over.
    async fn delete(&self, bucket: &Bucket, keys: &[String]) -> Result<(), KeyValueError>;

    /// Some keys, and where to go on if there are more.
    async fn keys(
        &self,
        bucket: &Bucket,
        from: Option<u64>,
    ) -> Result<(Vec<String>, Option<u64>), KeyValueError>;

    /// Add to the decimal number at a key, which is zero if there is none; answers the sum.
    async fn increment(&self, bucket: &Bucket, key: &str, by: u64) -> Result<u64, KeyValueError>;
}
