//! Images for the node: from a reference to files that can be run.
//!
//! A name is looked for in two places: the repositories of the embedded registry, and the ledger of
//! what was fetched from other registries. A repository that is called `HOST/NAME` holds what this
//! host has in place of another registry's: it wins over that registry itself.

use std::{fs, io, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use eyot_runtime::{
    Credential, Image, ImageConfig, ImageContent, ImageError, ImageStore, Pulled, StoredImage,
    image::Layer,
};
use serde::Deserialize;

use crate::{
    Registry,
    content::{self, Stored},
    ledger::Record,
    manifest::{Content, Descriptor, Manifest, WASM_CONFIG, WASM_LAYER},
    name::{Digest, Name, Reference, Selector},
    platform, pull,
};

/// Largest image configuration that is read into memory.
pub(crate) const CONFIG_LIMIT: u64 = 4 * 1024 * 1024;
/// Indexes within indexes; real ones have one level.
pub(crate) const INDEX_DEPTH: usize = 4;

#[async_trait]
impl ImageStore for Registry {
    async fn resolve(&self, reference: &str) -> Result<Image, ImageError> {
        let text = reference.to_owned();
        self.blocking(reference, move |registry| {
            registry.lookup(&text, None)?.image(&registry)
        })
        .await
    }

    async fn find(&self, reference: &str, credentials: &[Credential]) -> Result<Image, ImageError> {
        let (text, credentials) = (reference.to_owned(), credentials.to_vec());
        self.blocking(reference, move |registry| {
            registry.lookup(&text, Some(&credentials))?.image(&registry)
        })
        .await
    }

    async fn pull(
        &self,
        reference: &str,
        credentials: &[Credential],
    ) -> Result<Pulled, ImageError> {
        let parsed = parse(reference)?;
        let own = {
            let (text, parsed) = (reference.to_owned(), parsed.clone());
            self.blocking(reference, move |registry| {
                registry.in_repositories(&text, &parsed)
            })
            .await?
        };
        let found = match own {
            Some(found) => found,
            None => {
                let record = self.fetch(reference, &parsed, credentials).await?;
                Found::fetched(reference, record)
            }
        };
        let size_of = found.root.clone();
        self.blocking(reference, move |registry| {
            let image = found.image(&registry)?;
            let size = registry.size(&size_of);
            Ok(Pulled { image, size })
        })
        .await
    }

    async fn list(&self) -> Result<Vec<StoredImage>, ImageError> {
        self.blocking("*", |registry| {
            registry.stored().map_err(|error| ImageError::Io {
                reference: "*".to_owned(),
                reason: error.to_string(),
            })
        })
        .await
    }

    async fn forget(&self, digest: &str) -> Result<u64, ImageError> {
        let digest = digest.to_owned();
        self.blocking(&digest.clone(), move |registry| {
            let failed = |error: io::Error| ImageError::Io {
                reference: digest.clone(),
                reason: error.to_string(),
            };
            if !registry.ledger().remove(&digest).map_err(failed)? {
                return Ok(0);
            }
            registry.sweep().map_err(failed)
        })
        .await
    }
}

fn parse(text: &str) -> Result<Reference, ImageError> {
    text.parse().map_err(|error| ImageError::Reference {
        reference: text.to_owned(),
        reason: format!("{error}"),
    })
}

impl Registry {
    /// Run what blocks on files.
    async fn blocking<T: Send + 'static>(
        &self,
        reference: &str,
        work: impl FnOnce(Self) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let registry = self.clone();
        let joined = tokio::task::spawn_blocking(move || work(registry)).await;
        joined.unwrap_or_else(|error| {
            Err(ImageError::Io {
                reference: reference.to_owned(),
                reason: error.to_string(),
            })
        })
    }

    /// What is here under that name, for those with `credentials` or for the host itself.
    fn lookup(&self, text: &str, credentials: Option<&[Credential]>) -> Result<Found, ImageError> {
        let reference = parse(text)?;
        if let Some(found) = self.in_repositories(text, &reference)? {
            return Ok(found);
        }
        for place in self.elsewhere(&reference) {
            let Some(record) = self.ledger().find(&place.to_string()) else {
                continue;
            };
            if credentials.is_none_or(|credentials| record.access.opens_for(credentials)) {
                return Ok(Found::fetched(text, record));
            }
        }
        let name = Reference {
            host: None,
            ..reference.clone()
        };
        Err(ImageError::NotFound {
            reference: text.to_owned(),
            remedy: format!("push it to the embedded registry with `eyot push {name} FILE`"),
        })
    }

    /// What the embedded registry has under that name.
    fn in_repositories(
        &self,
        text: &str,
        reference: &Reference,
    ) -> Result<Option<Found>, ImageError> {
        let own = match &reference.host {
            Some(host) if !self.addresses().contains(host) => None,
            _ => Some(reference.name.clone()),
        };
        let elsewhere = self.elsewhere(reference);
        // Some hosts cannot be part of a repository's name: those with a port.
        let in_place = elsewhere.iter().filter_map(|place| {
            format!("{}/{}", place.host, place.name)
                .parse::<Name>()
                .ok()
        });
        for name in own.into_iter().chain(in_place) {
            let found = self.content().manifest(&name, &reference.selector);
            let found = found.map_err(|error| ImageError::Io {
                reference: text.to_owned(),
                reason: error.to_string(),
            })?;
            if let Some(root) = found {
                return Ok(Some(Found {
                    text: text.to_owned(),
                    root: Root::Repository(name, root),
                }));
            }
        }
        Ok(None)
    }

    /// Whether everything that a fetched image needs is here. Blocks.
    pub(crate) fn is_complete(&self, name: &str) -> bool {
        let record = self.ledger().find(name);
        record.is_some_and(|record| Found::fetched(name, record).image(self).is_ok())
    }

    /// The same name in other registries, in the order in which they are asked.
    pub(crate) fn elsewhere(&self, reference: &Reference) -> Vec<pull::Place> {
        match &reference.host {
            Some(host) if self.addresses().contains(host) => Vec::new(),
            Some(host) => vec![pull::Place::new(host, reference)],
            None => (self.registries().search.iter())
                .map(|host| pull::Place::new(host, reference))
                .collect(),
        }
    }
}

/// Where the manifest of an image comes from.
#[derive(Debug, Clone)]
pub(crate) enum Root {
    Repository(Name, Stored),
    Fetched(Record),
}

/// A name with what it leads to.
struct Found {
    text: String,
    root: Root,
}

/// What makes an image out of a manifest that is here.
impl Found {
    fn fetched(text: &str, record: Record) -> Self {
        Self {
            text: text.to_owned(),
            root: Root::Fetched(record),
        }
    }

    fn image(&self, registry: &Registry) -> Result<Image, ImageError> {
        let content = registry.content();
        let mut stored = match &self.root {
            Root::Repository(_, stored) => stored.clone(),
            Root::Fetched(record) => {
                self.fetched_manifest(content, &record.digest, &record.media_type)?
            }
        };
        for _ in 0..INDEX_DEPTH {
            let manifest = Manifest::parse(Some(&stored.media_type), &stored.bytes)
                .map_err(|error| self.damaged(format!("manifest {}: {error}", stored.digest)))?;
            match manifest.content {
                Content::Index { manifests } => {
                    let chosen = platform::choose(&manifests)
                        .map_err(|reason| self.not_found(format!("{reason}; push one that has")))?;
                    stored = self.child(content, chosen)?;
                }
                Content::Image { config, layers } => {
                    return Ok(Image {
                        reference: self.text.clone(),
                        digest: stored.digest.to_string(),
                        content: Arc::new(self.content(content, &config, &layers)?),
                    });
                }
            }
        }
        Err(self.damaged(format!("more than {INDEX_DEPTH} indexes within each other")))
    }

    fn child(&self, content: &content::Content, of: &Descriptor) -> Result<Stored, ImageError> {
        match &self.root {
            Root::Fetched(_) => self.fetched_manifest(content, &of.digest, &of.media_type),
            Root::Repository(name, _) => {
                let digest = self.digest(&of.digest)?;
                let found = content
                    .manifest(name, &Selector::Digest(digest))
                    .map_err(|error| self.io(&error))?;
                found.ok_or_else(|| {
                    let name = &self.text;
                    self.not_found(format!(
                        "push it to the embedded registry with `eyot push {name} FILE`"
                    ))
                })
            }
        }
    }

    fn fetched_manifest(
        &self,
        content: &content::Content,
        digest: &str,
        media_type: &str,
    ) -> Result<Stored, ImageError> {
        let digest = self.digest(digest)?;
        let bytes = fs::read(content.path(&digest)).map_err(|error| self.io(&error))?;
        Ok(Stored {
            digest,
            media_type: media_type.to_owned(),
            bytes,
        })
    }

    fn content(
        &self,
        content: &content::Content,
        config: &Descriptor,
        layers: &[Descriptor],
    ) -> Result<ImageContent, ImageError> {
        if let Some(layer) = wasm_layer(config, layers) {
            return Ok(ImageContent::Wasm {
                path: self.blob(content, &layer.digest)?,
                digest: layer.digest.clone(),
            });
        }
        let parsed: ConfigFile = self.config(content, config)?;
        let diff_ids = &parsed.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(self.damaged(format!(
                "the configuration has {} diff_ids for {} layers; is it a container image?",
                diff_ids.len(),
                layers.len(),
            )));
        }
        let layers = layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
            Ok(Layer {
                path: self.blob(content, &layer.digest)?,
                digest: layer.digest.clone(),
                media_type: layer.media_type.clone(),
                diff_id: diff_id.clone(),
            })
        });
        let layers = layers.collect::<Result<_, ImageError>>()?;
        Ok(ImageContent::Oci {
            layers,
            config: parsed.config.unwrap_or_default().into(),
        })
    }

    fn config(
        &self,
        content: &content::Content,
        descriptor: &Descriptor,
    ) -> Result<ConfigFile, ImageError> {
        if descriptor.size > CONFIG_LIMIT {
            return Err(self.damaged(format!("configuration larger than {CONFIG_LIMIT} bytes")));
        }
        let path = self.blob(content, &descriptor.digest)?;
        let bytes = fs::read(path).map_err(|error| self.io(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            self.damaged(format!(
                "configuration ({}): {error}",
                descriptor.media_type
            ))
        })
    }

    fn blob(&self, content: &content::Content, digest: &str) -> Result<PathBuf, ImageError> {
        let path = content.path(&self.digest(digest)?);
        if !path.is_file() {
            return Err(self.damaged(format!("blob {digest} is missing; push the image again")));
        }
        Ok(path)
    }

    fn digest(&self, text: &str) -> Result<Digest, ImageError> {
        text.parse()
            .map_err(|error| self.damaged(format!("manifest: {error}")))
    }

    fn not_found(&self, remedy: String) -> ImageError {
        ImageError::NotFound {
            reference: self.text.clone(),
            remedy,
        }
    }

    fn damaged(&self, reason: String) -> ImageError {
        ImageError::Damaged {
            reference: self.text.clone(),
            reason,
        }
    }

    fn io(&self, error: &io::Error) -> ImageError {
        ImageError::Io {
            reference: self.text.clone(),
            reason: error.to_string(),
        }
    }
}

/// The layer that is the program, if this is a Wasm artifact: by the CNCF's format, as `wkg` writes
/// it, or a single layer of that type whatever the configuration is.
fn wasm_layer<'a>(config: &Descriptor, layers: &'a [Descriptor]) -> Option<&'a Descriptor> {
    let wasm = layers.iter().find(|layer| layer.media_type == WASM_LAYER);
    wasm.filter(|_| config.media_type == WASM_CONFIG || layers.len() == 1)
}

#[derive(Deserialize)]
struct ConfigFile {
    config: Option<Process>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// The `config` object of an image configuration; builders write `null` where nothing is.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Process {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

impl From<Process> for ImageConfig {
    fn from(process: Process) -> Self {
        let env = process.env.unwrap_or_default().into_iter();
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        Self {
            entrypoint: process.entrypoint.unwrap_or_default(),
            cmd: process.cmd.unwrap_or_default(),
            env: env
                .filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.into(), v.into())))
                .collect(),
            working_dir: filled(process.working_dir),
            user: filled(process.user),
            stop_signal: filled(process.stop_signal),
        }
    }
}
