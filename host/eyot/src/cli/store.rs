//! `eyot store migrate`: from SQLite to PostgreSQL and back.

use std::path::PathBuf;

use eyot_store::Place;

use crate::settings::default_data_dir;

#[derive(Debug, clap::Subcommand)]
pub enum Store {
    /// Copy all objects with their revisions, then compare both
    Migrate(Migrate),
}

#[derive(Debug, clap::Args)]
pub struct Migrate {
    /// Where they are: `postgres://…`, a data directory, or an `eyot.db`
    from: Place,
    /// Where they are to be, which must be empty: the same
    to: Place,
    /// The host's data directory, for the keys that its Secrets are encrypted with [default:
    /// /var/lib/eyot for root, else ~/.local/share/eyot]
    #[arg(long, env = "EYOT_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Store {
    pub async fn run(self) -> anyhow::Result<()> {
        let Self::Migrate(Migrate { from, to, data_dir }) = self;
        let data_dir = data_dir.map_or_else(default_data_dir, Ok)?;
        let tally = crate::backup::migrate(&data_dir, &from, &to).await?;
        for (resource, count) in &tally.objects {
            println!("{count:8} {resource}");
        }
        println!(
            "{} changes up to revision {} are in {to} (checksum {:08x}, the same as in {from}, which is \
             as it was)",
            tally.changes, tally.revision, tally.checksum
        );
        Ok(())
    }
}
