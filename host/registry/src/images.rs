//! Images for the node: from a reference to files that can be run.

use std::{fs, io, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use eyot_runtime::{Image, ImageConfig, ImageContent, ImageError, ImageStore, image::Layer};
use serde::Deserialize;

use crate::{
    Registry,
    content::Stored,
    manifest::{Content, Descriptor, Manifest, Platform, WASM_CONFIG, WASM_LAYER},
    name::{Digest, Reference, Selector},
};

/// Largest image configuration that is read into memory.
const CONFIG_LIMIT: u64 = 4 * 1024 * 1024;
/// Indexes within indexes; real ones have one level.
const INDEX_DEPTH: usize = 4;

#[async_trait]
impl ImageStore for Registry {
    async fn resolve(&self, reference: &str) -> Result<Image, ImageError> {
        let (registry, text) = (self.clone(), reference.to_owned());
        let joined = tokio::task::spawn_blocking(move || Resolver::new(&registry, &text)?.run());
        joined.await.unwrap_or_else(|error| {
            let reason = error.to_string();
            Err(ImageError::Io {
                reference: reference.to_owned(),
                reason,
            })
        })
    }
}

struct Resolver<'a> {
    registry: &'a Registry,
    text: &'a str,
    reference: Reference,
}

impl<'a> Resolver<'a> {
    fn new(registry: &'a Registry, text: &'a str) -> Result<Self, ImageError> {
        let reference: Reference = text.parse().map_err(|error| ImageError::Reference {
            reference: text.to_owned(),
            reason: format!("{error}"),
        })?;
        Ok(Self {
            registry,
            text,
            reference,
        })
    }

    fn run(&self) -> Result<Image, ImageError> {
        self.is_ours()?;
        let mut stored = self.manifest(&self.reference.selector)?;
        for _ in 0..INDEX_DEPTH {
            let manifest = Manifest::parse(Some(&stored.media_type), &stored.bytes)
                .map_err(|error| self.damaged(format!("manifest {}: {error}", stored.digest)))?;
            match manifest.content {
                Content::Index { manifests } => {
                    let digest = self.choose(&manifests)?;
                    stored = self.manifest(&Selector::Digest(digest))?;
                }
                Content::Image { config, layers } => {
                    return Ok(Image {
                        reference: self.text.to_owned(),
                        digest: stored.digest.to_string(),
                        content: Arc::new(self.content(&config, &layers)?),
                    });
                }
            }
        }
        Err(self.damaged(format!("more than {INDEX_DEPTH} indexes within each other")))
    }

    fn is_ours(&self) -> Result<(), ImageError> {
        match &self.reference.host {
            Some(host) if !self.registry.addresses().contains(host) => {
                Err(self.not_found(format!(
                    "push it with `eyot push {} FILE` and use that name; pulling from other \
                 registries such as {host} is not in this version",
                    short(&self.reference),
                )))
            }
            _ => Ok(()),
        }
    }

    fn manifest(&self, by: &Selector) -> Result<Stored, ImageError> {
        let found = self.registry.content().manifest(&self.reference.name, by);
        let found = found.map_err(|error| self.io(&error))?;
        found.ok_or_else(|| {
            let name = short(&self.reference);
            self.not_found(format!(
                "push it to the embedded registry with `eyot push {name} FILE`"
            ))
        })
    }

    /// The manifest for this platform; one for Wasm fits every platform.
    fn choose(&self, manifests: &[Descriptor]) -> Result<Digest, ImageError> {
        let rank = |descriptor: &Descriptor| descriptor.platform.as_ref().map_or(Some(2), fitness);
        let best = manifests
            .iter()
            .filter_map(|d| Some((rank(d)?, d)))
            .min_by_key(|(rank, _)| *rank);
        let Some((_, descriptor)) = best else {
            let offered: Vec<String> = manifests.iter().map(platform_name).collect();
            return Err(self.not_found(format!(
                "it has no variant for linux/{}, only {}; push one that has",
                architecture(),
                offered.join(", "),
            )));
        };
        descriptor
            .digest
            .parse()
            .map_err(|error| self.damaged(format!("index: {error}")))
    }

    fn content(
        &self,
        config: &Descriptor,
        layers: &[Descriptor],
    ) -> Result<ImageContent, ImageError> {
        let wasm = layers.iter().find(|layer| layer.media_type == WASM_LAYER);
        if let Some(layer) = wasm.filter(|_| config.media_type == WASM_CONFIG || layers.len() == 1)
        {
            return Ok(ImageContent::Wasm {
                path: self.blob(&layer.digest)?,
                digest: layer.digest.clone(),
            });
        }
        let parsed: ConfigFile = self.config(config)?;
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
                path: self.blob(&layer.digest)?,
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

    fn config(&self, descriptor: &Descriptor) -> Result<ConfigFile, ImageError> {
        if descriptor.size > CONFIG_LIMIT {
            return Err(self.damaged(format!("configuration larger than {CONFIG_LIMIT} bytes")));
        }
        let path = self.blob(&descriptor.digest)?;
        let bytes = fs::read(path).map_err(|error| self.io(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            self.damaged(format!(
                "configuration ({}): {error}",
                descriptor.media_type
            ))
        })
    }

    fn blob(&self, digest: &str) -> Result<PathBuf, ImageError> {
        let parsed: Digest = digest
            .parse()
            .map_err(|error| self.damaged(format!("manifest: {error}")))?;
        let path = self.registry.content().path(&parsed);
        if !path.is_file() {
            return Err(self.damaged(format!("blob {digest} is missing; push the image again")));
        }
        Ok(path)
    }

    fn not_found(&self, remedy: String) -> ImageError {
        ImageError::NotFound {
            reference: self.text.to_owned(),
            remedy,
        }
    }

    fn damaged(&self, reason: String) -> ImageError {
        ImageError::Damaged {
            reference: self.text.to_owned(),
            reason,
        }
    }

    fn io(&self, error: &io::Error) -> ImageError {
        ImageError::Io {
            reference: self.text.to_owned(),
            reason: error.to_string(),
        }
    }
}

fn short(reference: &Reference) -> String {
    Reference {
        host: None,
        ..reference.clone()
    }
    .to_string()
}

/// How well a platform fits this machine, best first; `None` if not at all.
fn fitness(platform: &Platform) -> Option<u8> {
    match (platform.os.as_str(), platform.architecture.as_str()) {
        ("linux", found) if found == architecture() => Some(0),
        (os, "wasm") if os.starts_with("wasi") => Some(1),
        (_, "wasm") => Some(1),
        _ => None,
    }
}

/// This machine's architecture in the words of the image specification.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn platform_name(descriptor: &Descriptor) -> String {
    match &descriptor.platform {
        Some(platform) => format!("{}/{}", platform.os, platform.architecture),
        None => "one without a platform".to_owned(),
    }
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
