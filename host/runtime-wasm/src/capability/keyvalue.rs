//! `wasi:keyvalue`: values by key, kept by the host for the pod's namespace.
//!
//! The annotation `eyot.dev/keyvalue` of a pod lists the buckets that its guests may open. All pods
//! of a namespace that name a bucket share it.

use std::sync::Arc;

use eyot_runtime::{
    ContainerError, ContainerSpec,
    keyvalue::{self as kept, KeyValueError, KeyValues},
};
use wasmtime::component::{Resource, ResourceTable};

use crate::bindings::keyvalue::{atomics, batch, store};

/// The annotation of a pod that names the buckets of its guests.
const ANNOTATION: &str = "eyot.dev/keyvalue";
/// Buckets that one pod may name.
const BUCKETS: usize = 32;
/// Longest name of a bucket.
const NAME: usize = 253;

/// The buckets of one container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Client {
    kept: Option<Arc<dyn KeyValues>>,
    namespace: Arc<str>,
    buckets: Arc<[String]>,
}

impl Client {
    /// What the pod's annotation grants.
    pub(crate) fn new(
        kept: Option<Arc<dyn KeyValues>>,
        spec: &ContainerSpec,
    ) -> Result<Self, ContainerError> {
        let text = spec.annotations.get(ANNOTATION).map_or("", String::as_str);
        let buckets = parse(text).map_err(|reason| ContainerError::Config {
            field: format!("metadata.annotations[{ANNOTATION}]"),
            reason,
        })?;
        Ok(Self {
            kept,
            namespace: spec.pod.namespace.as_str().into(),
            buckets: buckets.into(),
        })
    }
}

fn parse(text: &str) -> Result<Vec<String>, String> {
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let names: Vec<String> = words.map(str::to_owned).collect();
    if let Some(wrong) = names
        .iter()
        .find(|name| name.len() > NAME || !name.chars().all(plain))
    {
        return Err(format!(
            "{wrong:?} is no name of a bucket: letters, digits, '-', '.' and '_', with commas between names"
        ));
    }
    match names.len() > BUCKETS {
        true => Err(format!("more than {BUCKETS} buckets")),
        false => Ok(names),
    }
}

/// A bucket that an instance has opened.
pub struct Bucket {
    kept: Arc<dyn KeyValues>,
    of: kept::Bucket,
}

/// One instance's way to its buckets.
pub(crate) struct View<'a> {
    pub(crate) client: &'a Client,
    pub(crate) table: &'a mut ResourceTable,
}

type Answer<T> = wasmtime::Result<Result<T, store::Error>>;

fn wire(error: KeyValueError) -> store::Error {
    store::Error::Other(error.to_string())
}

impl store::Host for View<'_> {
    async fn open(&mut self, name: String) -> Answer<Resource<Bucket>> {
        let Some(kept) = self.client.kept.as_ref() else {
            return Ok(Err(store::Error::AccessDenied));
        };
        if self.client.buckets.is_empty() {
            return Ok(Err(store::Error::AccessDenied));
        }
        if !self.client.buckets.contains(&name) {
            return Ok(Err(store::Error::NoSuchStore));
        }
        let namespace = self.client.namespace.to_string();
        let bucket = Bucket {
            kept: kept.clone(),
            of: kept::Bucket { namespace, name },
        };
        Ok(Ok(self.table.push(bucket)?))
    }
}

impl store::HostBucket for View<'_> {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let Bucket { kept, of } = self.table.get(&bucket)?;
        let found = kept.get(of, &[key]).await.map_err(wire);
        Ok(found.map(|found| found.into_iter().next().flatten()))
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        let Bucket { kept, of } = self.table.get(&bucket)?;
        Ok(kept.set(of, &[(key, value)]).await.map_err(wire))
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        let Bucket { kept, of } = self.table.get(&bucket)?;
        Ok(kept.delete(of, &[key]).await.map_err(wire))
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        let found = self.get(bucket, key).await?;
        Ok(found.map(|found| found.is_some()))
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Answer<store::KeyResponse> {
        let Bucket { kept, of } = self.table.get(&bucket)?;
        let found = kept.keys(of, cursor).await.map_err(wire);
        Ok(found.map(|(keys, cursor)| store::KeyResponse { keys, cursor }))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> Answer<u64> {
        let Bucket { kept, of } = self.table.get(&bucket)?;
        Ok(kept.increment(of, &key, delta).await.map_err(wire))
    }
}

impl batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        let Bucket { kept, of } = self.table.get(&bucket)?;
        let found = kept.get(of, &keys).await.map_err(wire);
        let pair = |(key, value): (_, Option<_>)| value.map(|value| (key, value));
        Ok(found.map(|found| keys.into_iter().zip(found).map(pair).collect()))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Answer<()> {
        let Bucket { kept, of } = self.table.get(&bucket)?;
        Ok(kept.set(of, &pairs).await.map_err(wire))
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        let Bucket { kept, of } = self.table.get(&bucket)?;
        Ok(kept.delete(of, &keys).await.map_err(wire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_named_by_the_annotation() {
        assert_eq!(parse("").unwrap(), [""; 0]);
        assert_eq!(parse("default, a.b_c-1,").unwrap(), ["default", "a.b_c-1"]);
        for wrong in ["a b", "x/y", &"n".repeat(NAME + 1)] {
            assert!(parse(wrong).unwrap_err().starts_with(&format!("{wrong:?}")));
        }
        assert!(parse(&"a,".repeat(BUCKETS + 1)).is_err());
    }
}
