//! The images that were fetched from other registries, by the names under which pods ask for them.
//!
//! One small file each in `images/`; the blobs are in the content store with everybody else's. What
//! the ledger names is complete there. A name that moves on to another image leaves the one before
//! under its digest, since something may be running from it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{durable, name::Digest, pull::Access};

/// One name of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// `HOST/NAME`
    pub(crate) repository: String,
    /// A tag; `None` if it was asked for by its digest.
    pub(crate) tag: Option<String>,
    /// Of the manifest that the name leads to.
    pub(crate) digest: String,
    pub(crate) media_type: String,
    /// Of the manifest that runs on this machine.
    pub(crate) runs: String,
    /// Bytes of all blobs.
    pub(crate) size: u64,
    pub(crate) access: Access,
}

impl Record {
    pub(crate) fn name(&self) -> String {
        match &self.tag {
            Some(tag) => format!("{}:{tag}", self.repository),
            None => self.name_by_digest(),
        }
    }

    pub(crate) fn name_by_digest(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}

#[derive(Debug)]
pub(crate) struct Ledger {
    dir: PathBuf,
    scratch: PathBuf,
    /// By name.
    records: Mutex<BTreeMap<String, Record>>,
}

impl Ledger {
    pub(crate) fn open(dir: PathBuf, scratch: PathBuf) -> io::Result<Self> {
        // Names and hashes of other people's credentials.
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            match read(&path) {
                Ok(record) => drop(records.insert(record.name(), record)),
                // It can be fetched again.
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a fetched image is forgotten");
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(Self {
            dir,
            scratch,
            records: Mutex::new(records),
        })
    }

    pub(crate) fn find(&self, name: &str) -> Option<Record> {
        self.lock().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Record> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn put(&self, record: &Record) -> io::Result<()> {
        let mut records = self.lock();
        let before = records.get(&record.name()).cloned();
        if before.as_ref() == Some(record) {
            return Ok(());
        }
        if let Some(before) = before.filter(|before| before.digest != record.digest) {
            let left = Record {
                tag: None,
                ..before
            };
            self.write(&left)?;
            records.insert(left.name(), left);
        }
        self.write(record)?;
        records.insert(record.name(), record.clone());
        Ok(())
    }

    /// Forget every name of an image; whether there was one.
    pub(crate) fn remove(&self, digest: &str) -> io::Result<bool> {
        let mut records = self.lock();
        let names: Vec<String> = records
            .values()
            .filter(|record| record.digest == digest)
            .map(Record::name)
            .collect();
        for name in &names {
            durable::remove(&self.path(name))?;
            records.remove(name);
        }
        Ok(!names.is_empty())
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        let bytes = serde_json::to_vec(record)?;
        durable::write(&self.scratch, &self.path(&record.name()), &bytes)
    }

    fn path(&self, name: &str) -> PathBuf {
        let digest = Digest::of(name.as_bytes());
        self.dir.join(format!("{}.json", digest.hex()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<Record> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_moves_on_leaves_the_image_before_under_its_digest() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Ledger::open(dir.path().join("images"), dir.path().to_owned()).unwrap();
        let record = |digest: &str| Record {
            repository: "r.io/a".to_owned(),
            tag: Some("v1".to_owned()),
            digest: digest.to_owned(),
            media_type: String::new(),
            runs: digest.to_owned(),
            size: 1,
            access: Access::Everybody,
        };
        let ledger = open();
        ledger.put(&record("sha256:1")).unwrap();
        ledger.put(&record("sha256:2")).unwrap();
        let again = open();
        for ledger in [&ledger, &again] {
            let names: Vec<String> = ledger.all().iter().map(Record::name).collect();
            assert_eq!(names, ["r.io/a:v1", "r.io/a@sha256:1"]);
            assert_eq!(ledger.find("r.io/a:v1").unwrap().digest, "sha256:2");
        }
        assert!(again.remove("sha256:2").unwrap());
        assert!(!again.remove("sha256:2").unwrap());
        assert_eq!(open().all().len(), 1);
        // A file that is torn costs a fetch and nothing else.
        for entry in fs::read_dir(dir.path().join("images")).unwrap() {
            fs::write(entry.unwrap().path(), "{").unwrap();
        }
        assert_eq!(open().all(), []);
    }
}
