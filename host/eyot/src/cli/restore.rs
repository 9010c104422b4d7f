//! `eyot restore`: a data directory out of a backup.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::backup::{Which, tell};
use crate::backup::{self, Source};

#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The backup; `-` is standard input
    file: PathBuf,
    #[command(flatten)]
    host: Which,
}

impl Restore {
    pub async fn run(self) -> anyhow::Result<()> {
        let data_dir = self.host.data_dir()?;
        let target = Source {
            data_dir: &data_dir,
            store: self.host.store.as_deref(),
        };
        let manifest = if self.file == Path::new("-") {
            backup::restore(&target, std::io::stdin().lock()).await?
        } else {
            let file = std::fs::File::open(&self.file)
                .with_context(|| format!("{} cannot be read", self.file.display()))?;
            backup::restore(&target, file).await?
        };
        println!(
            "{} restored to {}: start the host on it; clients list anew, images are pushed or pulled again",
            tell(&manifest),
            data_dir.display()
        );
        Ok(())
    }
}
