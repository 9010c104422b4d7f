//! What is stored, and removing what nobody needs any more.
//!
//! Needed is what a manifest of any repository or a fetched image refers to, what a repository was
//! given as a blob lately (a push sends its manifest last), and what a pull is under way to. All else
//! under `blobs/` goes.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    fs, io,
    time::Duration,
};

use eyot_runtime::StoredImage;
use tokio_util::sync::CancellationToken;

use crate::{
    Registry,
    content::entries,
    durable,
    images::{INDEX_DEPTH, Root},
    manifest::{Content, Descriptor, Manifest},
    name::{Algorithm, Digest, Name, Selector},
    platform,
};

/// How long a blob that no manifest of its repository refers to is kept: a push may take a night.
const UNREFERENCED: Duration = Duration::from_secs(24 * 3600);

/// How often it is looked for what nobody needs.
const PERIOD: Duration = Duration::from_secs(12 * 3600);

impl Registry {
    /// Sweep now and then until `stop`.
    pub async fn keep_tidy(self, stop: CancellationToken) {
        let pause = || stop.run_until_cancelled(tokio::time::sleep(PERIOD));
        while pause().await.is_some() {
            let registry = self.clone();
            match tokio::task::spawn_blocking(move || registry.sweep()).await {
                Ok(Err(error)) => tracing::warn!(%error, "the registry was not swept"),
                Err(error) => tracing::warn!(%error, "the registry was not swept"),
                Ok(Ok(_)) => {}
            }
        }
    }

    /// Remove all content that nobody needs; answers the bytes that were freed.
    pub fn sweep(&self) -> io::Result<u64> {
        let content = self.content();
        let _alone = (content.sweeping.write()).unwrap_or_else(std::sync::PoisonError::into_inner);
        let _unchanged = content.change();
        let mut needed: HashSet<Digest> = content.pins.all().into_iter().collect();
        for name in content.repositories_with(&["_manifests", "_blobs"])? {
            if let Ok(name) = name.parse::<Name>() {
                self.needed_by_repository(&name, &mut needed)?;
            }
        }
        for record in self.ledger().all() {
            self.needed_by_fetched(&record.digest, &record.media_type, INDEX_DEPTH, &mut needed);
        }
        let mut freed = 0;
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let directory = content.root().join("blobs").join(algorithm.name());
            for hex in entries(&directory)? {
                let digest = format!("{}:{hex}", algorithm.name()).parse::<Digest>();
                if digest.is_ok_and(|digest| needed.contains(&digest)) {
                    continue;
                }
                let path = directory.join(hex);
                let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
                // Whether the removal is on disk does not matter: the next sweep finds it again.
                fs::remove_file(&path)?;
                freed += length;
            }
        }
        if freed > 0 {
            tracing::info!(bytes = freed, "content that nobody needs was removed");
        }
        Ok(freed)
    }

    fn needed_by_repository(&self, name: &Name, needed: &mut HashSet<Digest>) -> io::Result<()> {
        let content = self.content();
        let mut referred = HashSet::new();
        let repository = content.repository(name);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for hex in entries(&repository.join("_manifests").join(algorithm.name()))? {
                let Ok(digest) = format!("{}:{hex}", algorithm.name()).parse::<Digest>() else {
                    continue;
                };
                let by = Selector::Digest(digest.clone());
                let stored = content.manifest(name, &by)?;
                needed.insert(digest);
                let parsed = stored.and_then(|stored| {
                    Manifest::parse(Some(&stored.media_type), &stored.bytes).ok()
                });
                if let Some(Ok(all)) = parsed.map(|manifest| manifest.references()) {
                    referred.extend(all);
                }
            }
        }
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let links = repository.join("_blobs").join(algorithm.name());
            for hex in entries(&links)? {
                let Ok(digest) = format!("{}:{hex}", algorithm.name()).parse::<Digest>() else {
                    continue;
                };
                let link = links.join(&hex);
                let age = fs::metadata(&link)?.modified()?.elapsed();
                // A clock that was set back makes everything young.
                let old = age.is_ok_and(|age| age > UNREFERENCED);
                if old && !referred.contains(&digest) {
                    durable::remove(&link)?;
                } else {
                    needed.insert(digest);
                }
            }
        }
        needed.extend(referred);
        Ok(())
    }

    fn needed_by_fetched(
        &self,
        digest: &str,
        media_type: &str,
        depth: usize,
        needed: &mut HashSet<Digest>,
    ) {
        let Ok(digest) = digest.parse::<Digest>() else {
            return;
        };
        let bytes = fs::read(self.content().path(&digest));
        needed.insert(digest);
        let Some(manifest) = bytes
            .ok()
            .and_then(|bytes| Manifest::parse(Some(media_type), &bytes).ok())
        else {
            return;
        };
        needed.extend(manifest.references().unwrap_or_default());
        if let (Content::Index { manifests }, Some(depth)) =
            (&manifest.content, depth.checked_sub(1))
        {
            for child in manifests {
                self.needed_by_fetched(&child.digest, &child.media_type, depth, needed);
            }
        }
    }

    /// All images with their names, largest first.
    pub(crate) fn stored(&self) -> io::Result<Vec<StoredImage>> {
        let mut found: BTreeMap<(bool, String), StoredImage> = BTreeMap::new();
        let mut add =
            |fetched: bool, digest: String, runs: String, size: u64, names: [String; 2]| {
                let entry = found
                    .entry((fetched, digest.clone()))
                    .or_insert_with(|| StoredImage {
                        names: Vec::new(),
                        digest,
                        runs,
                        size,
                        fetched,
                    });
                for name in names {
                    if !entry.names.contains(&name) {
                        entry.names.push(name);
                    }
                }
            };
        let content = self.content();
        for text in content.repositories()? {
            let Ok(name) = text.parse::<Name>() else {
                continue;
            };
            for tag in content.tags(&name)?.unwrap_or_default() {
                let Ok(by) = tag.parse::<Selector>() else {
                    continue;
                };
                let Some(stored) = content.manifest(&name, &by)? else {
                    continue;
                };
                let digest = stored.digest.to_string();
                let names = [format!("{name}@{digest}"), format!("{name}:{tag}")];
                let root = Root::Repository(name.clone(), stored);
                let (runs, size) = self.weigh(&root);
                add(false, digest, runs, size, names);
            }
        }
        for record in self.ledger().all() {
            let names = [record.name_by_digest(), record.name()];
            add(true, record.digest, record.runs, record.size, names);
        }
        let mut all: Vec<StoredImage> = found.into_values().collect();
        all.sort_by_key(|image| Reverse(image.size));
        Ok(all)
    }

    /// Bytes of all blobs of the image for this machine.
    pub(crate) fn size(&self, root: &Root) -> u64 {
        self.weigh(root).1
    }

    /// Digest of the manifest that runs here, and bytes of the blobs.
    fn weigh(&self, root: &Root) -> (String, u64) {
        let (name, mut stored) = match root {
            Root::Fetched(record) => return (record.runs.clone(), record.size),
            Root::Repository(name, stored) => (name, stored.clone()),
        };
        for _ in 0..INDEX_DEPTH {
            let digest = stored.digest.to_string();
            let Ok(manifest) = Manifest::parse(Some(&stored.media_type), &stored.bytes) else {
                return (digest, stored.bytes.len() as u64);
            };
            match &manifest.content {
                Content::Image { config, layers } => return (digest, bytes(config, layers)),
                Content::Index { manifests } => {
                    let chosen = platform::choose(manifests).ok();
                    let chosen = chosen.and_then(|chosen| chosen.digest.parse().ok());
                    let found = chosen.and_then(|digest| {
                        self.content()
                            .manifest(name, &Selector::Digest(digest))
                            .ok()
                            .flatten()
                    });
                    match found {
                        Some(found) => stored = found,
                        None => return (digest, stored.bytes.len() as u64),
                    }
                }
            }
        }
        (stored.digest.to_string(), 0)
    }
}

/// Bytes of a configuration and layers, as the manifest has them.
pub(crate) fn bytes(config: &Descriptor, layers: &[Descriptor]) -> u64 {
    let sizes = layers.iter().map(|layer| layer.size);
    sizes.fold(config.size, u64::saturating_add)
}
