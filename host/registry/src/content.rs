//! The content store: plain files, so that it can be looked at, copied and repaired by hand.
//!
//! ```text
//! blobs/<algorithm>/<hex>                                     content, once, whoever refers to it
//! repositories/<name>/_blobs/<algorithm>/<hex>                the repository has this blob
//! repositories/<name>/_manifests/<algorithm>/<hex>            … this manifest; holds its media type
//! repositories/<name>/_tags/<tag>                             holds a digest
//! repositories/<name>/_referrers/<algorithm>/<hex>/<digest>   a manifest whose subject is <hex>
//! images/                                                     what was fetched; see `ledger`
//! uploads/                                                    unfinished; emptied at start
//! ```
//!
//! A component of a repository name never starts with `_`, so the two cannot meet. Content is
//! shared between repositories while the links are each repository's own: deleting a blob in one
//! takes it from no other. Everything here blocks; the service calls it from blocking threads.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use crate::{
    durable,
    manifest::{Descriptor, Manifest},
    name::{Algorithm, Digest, Name, Selector, Tag},
};

/// Largest manifest, as the specification recommends.
pub(crate) const MANIFEST_LIMIT: usize = 4 * 1024 * 1024;
/// Directory levels below `repositories/`: a name of 255 bytes has no more components.
const DEPTH_LIMIT: usize = 128;

#[derive(Debug)]
pub(crate) struct Content {
    root: PathBuf,
    /// Held while manifests and tags change, so that deleting a manifest and tagging it exclude
    /// each other.
    changing: Mutex<()>,
    /// Held for reading while content comes in, for writing while what nobody needs is removed: else
    /// a blob could go between its being found here and its being linked.
    pub(crate) sweeping: RwLock<()>,
    pub(crate) pins: Pins,
}

/// A manifest as stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

impl Content {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let content = Self {
            root: root.to_owned(),
            changing: Mutex::new(()),
            sweeping: RwLock::new(()),
            pins: Pins::default(),
        };
        match fs::remove_dir_all(content.scratch()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The directory itself is made by create_dir_all: its parents need not be durable.
        fs::create_dir_all(root)?;
        durable::create_dir(&content.scratch())?;
        durable::create_dir(&root.join("repositories"))?;
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            durable::create_dir(&root.join("blobs").join(algorithm.name()))?;
        }
        Ok(content)
    }

    /// Where unfinished files go; on the same file system as the rest.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// Where the content of this digest is, or would be.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.root
            .join("blobs")
            .join(digest.algorithm().name())
            .join(digest.hex())
    }

    /// Length of a blob that the repository has.
    pub(crate) fn blob(&self, name: &Name, digest: &Digest) -> io::Result<Option<u64>> {
        if !self.link(name, "_blobs", digest).try_exists()? {
            return Ok(None);
        }
        match fs::metadata(self.path(digest)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Take a finished file, whose digest the caller has verified, as a blob of the repository.
    pub(crate) fn admit(
        &self,
        name: &Name,
        digest: &Digest,
        file: tempfile::TempPath,
    ) -> io::Result<()> {
        let _coming = self.coming();
        self.keep(digest, file)?;
        self.link_blob(name, digest)
    }

    /// Take a finished file, whose digest the caller has verified and pinned.
    pub(crate) fn keep(&self, digest: &Digest, file: tempfile::TempPath) -> io::Result<()> {
        let path = self.path(digest);
        match path.try_exists()? {
            true => Ok(()),
            false => durable::place(file, &path),
        }
    }

    /// Take a small piece of content that is pinned.
    pub(crate) fn keep_bytes(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(digest);
        match path.try_exists()? {
            true => Ok(()),
            false => durable::write(&self.scratch(), &path, bytes),
        }
    }

    /// Keep content from being swept, whether it is here already or about to come.
    pub(crate) fn pin(&self, digest: &Digest) -> Pin {
        let _coming = self.coming();
        self.pins.add(digest)
    }

    /// Give the repository a blob that is in the store; whether it still is.
    pub(crate) fn add_blob(&self, name: &Name, digest: &Digest) -> io::Result<bool> {
        let _coming = self.coming();
        if !self.path(digest).try_exists()? {
            return Ok(false);
        }
        self.link_blob(name, digest).map(|()| true)
    }

    fn link_blob(&self, name: &Name, digest: &Digest) -> io::Result<()> {
        let link = self.link(name, "_blobs", digest);
        if link.try_exists()? {
            return Ok(());
        }
        durable::write(&self.scratch(), &link, b"")
    }

    /// Take a blob from the repository; whether it had it.
    pub(crate) fn remove_blob(&self, name: &Name, digest: &Digest) -> io::Result<bool> {
        durable::remove(&self.link(name, "_blobs", digest))
    }

    pub(crate) fn has_manifest(&self, name: &Name, digest: &Digest) -> io::Result<bool> {
        self.link(name, "_manifests", digest).try_exists()
    }

    /// Store a manifest, link it, list it with its subject, and only then point the tag at it.
    pub(crate) fn put_manifest(
        &self,
        name: &Name,
        digest: &Digest,
        tags: &[Tag],
        manifest: &Manifest,
        bytes: &[u8],
    ) -> io::Result<()> {
        let _coming = self.coming();
        self.keep_bytes(digest, bytes)?;
        let _changing = self.change();
        if let Some(subject) = &manifest.subject {
            let entry = self
                .link(name, "_referrers", subject)
                .join(digest.to_string());
            durable::write(&self.scratch(), &entry, b"")?;
        }
        let link = self.link(name, "_manifests", digest);
        durable::write(&self.scratch(), &link, manifest.media_type.as_bytes())?;
        let content = digest.to_string();
        for tag in tags {
            durable::write(&self.scratch(), &self.tag(name, tag), content.as_bytes())?;
        }
        Ok(())
    }

    pub(crate) fn manifest(&self, name: &Name, by: &Selector) -> io::Result<Option<Stored>> {
        let digest = match by {
            Selector::Digest(digest) => digest.clone(),
            Selector::Tag(tag) => match read(&self.tag(name, tag))? {
                Some(text) => text.trim().parse().map_err(io::Error::other)?,
                None => return Ok(None),
            },
        };
        let Some(media_type) = read(&self.link(name, "_manifests", &digest))? else {
            return Ok(None);
        };
        match fs::read(self.path(&digest)) {
            Ok(bytes) => Ok(Some(Stored {
                digest,
                media_type,
                bytes,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Remove a tag; whether it was there.
    pub(crate) fn remove_tag(&self, name: &Name, tag: &Tag) -> io::Result<bool> {
        let _changing = self.change();
        durable::remove(&self.tag(name, tag))
    }

    /// Remove a manifest with the tags that point at it and its place among the referrers;
    /// whether it was there.
    pub(crate) fn remove_manifest(&self, name: &Name, digest: &Digest) -> io::Result<bool> {
        let _changing = self.change();
        let text = digest.to_string();
        for tag in entries(&self.repository(name).join("_tags"))? {
            let path = self.repository(name).join("_tags").join(tag);
            if read(&path)?.is_some_and(|content| content.trim() == text) {
                durable::remove(&path)?;
            }
        }
        if let Ok(bytes) = fs::read(self.path(digest))
            && let Ok(Manifest {
                subject: Some(subject),
                ..
            }) = Manifest::parse(None, &bytes)
        {
            durable::remove(&self.link(name, "_referrers", &subject).join(&text))?;
        }
        durable::remove(&self.link(name, "_manifests", digest))
    }

    /// The tags in byte order; `None` if there is no such repository.
    pub(crate) fn tags(&self, name: &Name) -> io::Result<Option<Vec<String>>> {
        let repository = self.repository(name);
        if !repository.join("_manifests").try_exists()? {
            return Ok(None);
        }
        entries(&repository.join("_tags")).map(Some)
    }

    /// The names of all repositories that hold, or held, a manifest, in byte order.
    pub(crate) fn repositories(&self) -> io::Result<Vec<String>> {
        self.repositories_with(&["_manifests"])
    }

    /// The names of all repositories that have one of these directories.
    pub(crate) fn repositories_with(&self, any_of: &[&str]) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        let mut open = vec![(String::new(), 0)];
        while let Some((name, depth)) = open.pop() {
            let below = entries(&self.root.join("repositories").join(&name))?;
            if below.iter().any(|entry| any_of.contains(&entry.as_str())) {
                found.push(name.clone());
            }
            for entry in below {
                if !entry.starts_with('_') && depth < DEPTH_LIMIT {
                    let child = if name.is_empty() {
                        entry
                    } else {
                        format!("{name}/{entry}")
                    };
                    open.push((child, depth + 1));
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Descriptors of the manifests whose subject is `subject`, in order of their digests.
    pub(crate) fn referrers(&self, name: &Name, subject: &Digest) -> io::Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        for entry in entries(&self.link(name, "_referrers", subject))? {
            let Ok(digest) = entry.parse::<Digest>() else {
                continue;
            };
            let by = Selector::Digest(digest.clone());
            let Some(stored) = self.manifest(name, &by)? else {
                continue;
            };
            if let Ok(manifest) = Manifest::parse(Some(&stored.media_type), &stored.bytes) {
                found.push(manifest.descriptor(&digest, stored.bytes.len() as u64));
            }
        }
        Ok(found)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn repository(&self, name: &Name) -> PathBuf {
        self.root.join("repositories").join(name.as_str())
    }

    fn link(&self, name: &Name, kind: &str, digest: &Digest) -> PathBuf {
        self.repository(name)
            .join(kind)
            .join(digest.algorithm().name())
            .join(digest.hex())
    }

    fn tag(&self, name: &Name, tag: &Tag) -> PathBuf {
        self.repository(name).join("_tags").join(tag.as_str())
    }

    fn coming(&self) -> RwLockReadGuard<'_, ()> {
        self.sweeping.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Content that something is under way to.
#[derive(Debug, Default, Clone)]
pub(crate) struct Pins(Arc<Mutex<HashMap<Digest, usize>>>);

impl Pins {
    fn add(&self, digest: &Digest) -> Pin {
        *self.lock().entry(digest.clone()).or_default() += 1;
        Pin {
            pins: self.clone(),
            digest: digest.clone(),
        }
    }

    pub(crate) fn all(&self) -> Vec<Digest> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps one piece of content until it is dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Pins,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.lock();
        if let Some(count) = pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.digest);
            }
        }
    }
}

/// The names in a directory, sorted; none if it does not exist.
pub(crate) fn entries(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
