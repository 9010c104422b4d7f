//! `eyot backup`: one file with what a host cannot make again.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    backup::{self, Manifest, Source},
    settings::default_data_dir,
};

/// Which host: the same settings as those of `eyot up`.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The host's data directory [default: /var/lib/eyot for root, else ~/.local/share/eyot]
    #[arg(long, env = "EYOT_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The host's PostgreSQL database, if it keeps its objects there
    #[arg(long, env = "EYOT_STORE", value_name = "URL", hide_env_values = true)]
    pub store: Option<String>,
}

impl Which {
    pub fn data_dir(&self) -> anyhow::Result<PathBuf> {
        self.data_dir.clone().map_or_else(default_data_dir, Ok)
    }
}

#[derive(Debug, clap::Args)]
pub struct Backup {
    /// File to write, with mode 0600: it holds the keys of the host and must be kept as secret; `-` is
    /// standard output, for a program that encrypts it
    file: PathBuf,
    /// Also take the readings of devices
    #[arg(long)]
    readings: bool,
    #[command(flatten)]
    host: Which,
}

impl Backup {
    pub async fn run(self) -> anyhow::Result<()> {
        let data_dir = self.host.data_dir()?;
        let source = Source {
            data_dir: &data_dir,
            store: self.host.store.as_deref(),
        };
        let to_output = self.file == Path::new("-");
        // Beside the backup there is room for it; for output there is the host's own disk.
        let beside: &Path = match self.file.parent() {
            _ if to_output => &data_dir,
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let scratch = tempfile::Builder::new()
            .prefix(".eyot-backup-")
            .tempdir_in(beside)
            .with_context(|| format!("{} cannot be written to", beside.display()))?;
        let manifest = if to_output {
            let out = std::io::stdout().lock();
            backup::write(&source, self.readings, scratch.path(), out).await?
        } else {
            let part = scratch.path().join("archive");
            let mut file = private(&part)?;
            let manifest = backup::write(&source, self.readings, scratch.path(), &mut file).await?;
            file.flush()?;
            file.sync_all()?;
            std::fs::rename(&part, &self.file)
                .with_context(|| format!("{} cannot be written", self.file.display()))?;
            std::fs::File::open(beside)?.sync_all()?;
            manifest
        };
        eprintln!("{}: keep it as secret as the host's keys", tell(&manifest));
        Ok(())
    }
}

/// A file that nobody else may read.
fn private(path: &Path) -> anyhow::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(path)
        .with_context(|| format!("{} cannot be written", path.display()))
}

/// What a backup holds, in a few words.
pub fn tell(manifest: &Manifest) -> String {
    let objects: u64 = manifest.store.objects.values().sum();
    format!(
        "{objects} objects at revision {}, of {}",
        manifest.store.revision, manifest.made
    )
}
