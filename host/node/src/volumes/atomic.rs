//! Writing the files of a volume so that readers see all of the old or all of the new.
//!
//! The layout is the kubelet's, which programs that watch their configuration know:
//!
//! ```text
//! volume/..2026_01_02_03_04_05.678/   the files, in a directory of their own
//! volume/..data -> ..2026_…           what is current: replaced by rename, in one step
//! volume/name   -> ..data/name        what users open
//! ```

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;

use super::payload::File;

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";
/// The longest path and name, as the kubelet has them.
const PATH: usize = 4096;
const NAME: usize = 255;

/// Make the files of `volume` these, and no others. `own` is called with the directory of the new
/// ones before anybody sees them. False if they were so already. Blocking.
pub(super) fn write(
    volume: &Path,
    files: &[File],
    own: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<bool> {
    for file in files {
        check(&file.path)?;
    }
    make_directory(volume)?;
    let current = fs::read_link(volume.join(DATA)).ok();
    if current
        .as_ref()
        .is_some_and(|current| holds(&volume.join(current), files))
    {
        // A host that ended half-way may not have come to these.
        show(volume, files)?;
        return Ok(false);
    }
    let stamp = Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%9f");
    let new = PathBuf::from(stamp.to_string());
    let directory = volume.join(&new);
    let written = fill(&directory, files).and_then(|()| own(&directory));
    let swapped = written.and_then(|()| {
        show(volume, files)?;
        let next = volume.join(NEXT);
        remove(&next)?;
        symlink(&new, &next)?;
        fs::rename(&next, volume.join(DATA))
    });
    if let Err(error) = swapped {
        let _ = fs::remove_dir_all(&directory);
        return Err(error);
    }
    sweep(volume, files, &new)?;
    Ok(true)
}

/// What a user may not choose as a path in a volume.
fn check(path: &str) -> io::Result<()> {
    let fails = |why: &str| {
        let message = format!("path {path:?} {why}");
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    };
    let mut parts = Path::new(path).components();
    if path.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_))) {
        return fails("must stay inside of the volume");
    }
    if path.starts_with("..") {
        return fails("must not start with '..'");
    }
    if path.len() > PATH || path.split('/').any(|name| name.len() > NAME) {
        return fails("is too long");
    }
    Ok(())
}

/// Whether the directory holds these files and no others.
fn holds(directory: &Path, files: &[File]) -> bool {
    let same =
        |file: &File| fs::read(directory.join(&file.path)).is_ok_and(|data| data == file.data);
    files.iter().all(same) && count(directory).is_ok_and(|count| count == distinct(files))
}

fn distinct(files: &[File]) -> usize {
    let paths: BTreeSet<&str> = files.iter().map(|file| &*file.path).collect();
    paths.len()
}

/// How many files there are below.
fn count(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        count += match entry.file_type()?.is_dir() {
            true => self::count(&entry.path())?,
            false => 1,
        };
    }
    Ok(count)
}

fn fill(directory: &Path, files: &[File]) -> io::Result<()> {
    make_directory(directory)?;
    for file in files {
        let path = directory.join(&file.path);
        if let Some(parent) = path.parent() {
            make_directory(parent)?;
        }
        let mode = u32::try_from(file.mode).unwrap_or(0o644) & 0o777;
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true);
        let mut open = options.mode(mode).open(&path)?;
        io::Write::write_all(&mut open, &file.data)?;
        // Whatever the umask is.
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// The names that users see, each of which leads through `..data`.
fn show(volume: &Path, files: &[File]) -> io::Result<()> {
    for name in tops(files) {
        let (path, target) = (volume.join(&name), Path::new(DATA).join(&name));
        if fs::read_link(&path).is_ok_and(|leads| leads == target) {
            continue;
        }
        remove(&path)?;
        symlink(target, path)?;
    }
    Ok(())
}

fn tops(files: &[File]) -> BTreeSet<OsString> {
    let first = |file: &File| {
        Some(
            Path::new(&file.path)
                .components()
                .next()?
                .as_os_str()
                .into(),
        )
    };
    files.iter().filter_map(first).collect()
}

/// Take away what is no longer current.
fn sweep(volume: &Path, files: &[File], new: &Path) -> io::Result<()> {
    let shown = tops(files);
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name();
        if name != DATA && *name != *new && !shown.contains(&name) {
            remove(&volume.join(name))?;
        }
    }
    Ok(())
}

/// Remove whatever is there, if anything.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, data: &str) -> File {
        File {
            path: path.into(),
            data: data.into(),
            mode: 0o644,
        }
    }

    fn put(volume: &Path, files: &[File]) -> bool {
        write(volume, files, |_| Ok(())).unwrap()
    }

    #[test]
    fn what_is_open_to_users_changes_in_one_step() {
        let volume = tempfile::tempdir().unwrap();
        let volume = volume.path();
        assert!(put(volume, &[file("a", "1"), file("deep/b", "1")]));
        let first = fs::read_link(volume.join(DATA)).unwrap();
        assert_eq!(
            fs::read_link(volume.join("a")).unwrap(),
            Path::new("..data/a")
        );
        assert_eq!(
            fs::read_link(volume.join("deep")).unwrap(),
            Path::new("..data/deep")
        );
        assert_eq!(fs::read_to_string(volume.join("deep/b")).unwrap(), "1");
        // Nothing new: nothing moves.
        assert!(!put(volume, &[file("a", "1"), file("deep/b", "1")]));
        assert_eq!(fs::read_link(volume.join(DATA)).unwrap(), first);
        assert!(put(volume, &[file("a", "2"), file("c", "2")]));
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "2");
        assert!(!volume.join("deep").exists() && volume.join("c").exists());
        assert!(!volume.join(first).exists(), "the old ones are gone");
        assert!(put(volume, &[]));
        let left = fs::read_dir(volume).unwrap().count();
        assert_eq!(left, 2, "..data and the directory it leads to");
    }

    #[test]
    fn what_was_half_done_is_finished() {
        let volume = tempfile::tempdir().unwrap();
        let volume = volume.path();
        put(volume, &[file("a", "1")]);
        fs::remove_file(volume.join("a")).unwrap();
        symlink("nowhere", volume.join(NEXT)).unwrap();
        assert!(!put(volume, &[file("a", "1")]));
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        assert!(put(volume, &[file("a", "2")]));
        assert!(fs::symlink_metadata(volume.join(NEXT)).is_err());
    }

    #[test]
    fn if_the_new_files_cannot_be_given_away_the_old_ones_stay() {
        let volume = tempfile::tempdir().unwrap();
        put(volume.path(), &[file("a", "1")]);
        let refused = write(volume.path(), &[file("a", "2")], |_| {
            Err(io::Error::other("no"))
        });
        assert!(refused.is_err());
        assert_eq!(fs::read_to_string(volume.path().join("a")).unwrap(), "1");
    }

    #[test]
    fn no_path_leads_out_of_the_volume() {
        for path in ["", "..", "../a", "/a", "a/../b", "..data", "..x"] {
            let volume = tempfile::tempdir().unwrap();
            assert!(
                write(volume.path(), &[file(path, "")], |_| Ok(())).is_err(),
                "{path}"
            );
        }
    }
}
