//! `eyot push`: put an artifact into a registry.

use std::path::PathBuf;

use eyot_registry::push::{Artifact, push};

use super::door::{Bar, Door};

#[derive(Debug, clap::Args)]
pub struct Push {
    /// Name of the image, for example `demo/plc-driver:v1`
    image: String,
    /// A Wasm component (.wasm), an OCI layout directory, or a docker-archive tar
    file: PathBuf,
    #[command(flatten)]
    door: Door,
}

impl Push {
    pub async fn run(self) -> anyhow::Result<()> {
        let artifact = Artifact::open(&self.file)?;
        let (bar, options) = (Bar::new(), self.door.options()?);
        let show = |progress| bar.show(progress);
        let pushed = push(&self.door.registry, &self.image, &artifact, &options, show).await;
        bar.end();
        println!("{}@{}", self.image, pushed?);
        Ok(())
    }
}
