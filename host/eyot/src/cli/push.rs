//! `eyot push`: put an artifact into a registry.

use std::{io::IsTerminal, path::PathBuf};

use eyot_registry::push::{Artifact, push};

#[derive(Debug, clap::Args)]
pub struct Push {
    /// Name of the image, for example `demo/plc-driver:v1`
    image: String,
    /// A Wasm component (.wasm), an OCI layout directory, or a docker-archive tar
    file: PathBuf,
    /// Registry to push to, unless IMAGE names one
    #[arg(
        long,
        env = "EYOT_REGISTRY_ADDRESS",
        default_value = "127.0.0.1:5000",
        value_name = "HOST:PORT"
    )]
    registry: String,
}

impl Push {
    pub async fn run(self) -> anyhow::Result<()> {
        let artifact = Artifact::open(&self.file)?;
        let terminal = std::io::stderr().is_terminal();
        let digest = push(&self.registry, &self.image, &artifact, |progress| {
            if terminal {
                eprint!("\r{} of {} bytes", progress.sent, progress.total);
            }
        })
        .await?;
        if terminal {
            eprintln!();
        }
        println!("{}@{digest}", self.image);
        Ok(())
    }
}
