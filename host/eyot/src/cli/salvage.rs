//! `eyot salvage`: what to do with a database that is damaged when there is no backup.

use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Salvage {
    /// The database: `eyot.db` in the data directory. The host must not be running
    database: PathBuf,
}

impl Salvage {
    pub async fn run(self) -> anyhow::Result<()> {
        let salvaged = eyot_store::salvage(&self.database).await?;
        println!(
            "{} changes were kept in {}; the damaged file is {} now",
            salvaged.kept,
            self.database.display(),
            salvaged.damaged.display()
        );
        if salvaged.wrong > 0 {
            println!("{} changes were not what had been written", salvaged.wrong);
        }
        for lost in &salvaged.lost {
            println!("lost: {lost}");
        }
        if !salvaged.lost.is_empty() {
            println!(
                "objects among these may be missing, or older than they were: look before use"
            );
        }
        Ok(())
    }
}
