//! Files that must be whole or absent, and readable by nobody else.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use anyhow::Context;

/// Make a directory that only its owner may look into, and its parents.
pub fn make_private_dir(dir: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
        format!(
            "directory {} cannot be made: choose another with --data-dir, or mend its permissions",
            dir.display()
        )
    })
}

/// Replace a file in one step, durable and with mode 0600.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let act = || -> std::io::Result<()> {
        let part = path.with_extension("part");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        if let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    act().with_context(|| format!("{} cannot be written", path.display()))
}
