//! Files that are either wholly there or not at all, also after a power cut.
//!
//! A file is written beside its place, synced, renamed into place, and the directory synced: only
//! then may a push be acknowledged.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// Put `content` at `path`, replacing what is there.
pub(crate) fn write(scratch: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix("part-")
        .tempfile_in(scratch)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    place(file.into_temp_path(), path)
}

/// Move a finished, synced temporary file to `path`.
pub(crate) fn place(file: tempfile::TempPath, path: &Path) -> io::Result<()> {
    let parent = parent(path)?;
    create_dir(parent)?;
    file.persist(path).map_err(|error| error.error)?;
    sync_dir(parent)
}

/// Make the directory and all above it; each is in its parent for good when this returns.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path)?;
    create_dir(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_dir(parent)
}

/// Remove a file; whether it was there.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)?).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn parent(path: &Path) -> io::Result<&Path> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    parent.ok_or_else(|| io::Error::other(format!("{} has no parent", path.display())))
}
