//! What this host has mounted below a pod's directory, and removing that directory safely.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, umount2};

/// Remove a directory of this host's own with all that is in it. What is mounted in it is unmounted
/// first, and never emptied: it may be a user's data. Blocking.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    let directory = match directory.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    // The innermost first.
    for point in below(&directory)?.iter().rev() {
        umount2(point, MntFlags::MNT_DETACH)?;
    }
    if let Some(left) = below(&directory)?.first() {
        let message = format!("{} is still mounted", left.display());
        return Err(io::Error::other(message));
    }
    fs::remove_dir_all(directory)
}

/// Whether something is mounted right there.
pub(super) fn is_point(path: &Path) -> io::Result<bool> {
    let path = path.canonicalize()?;
    Ok(below(&path)?.contains(&path))
}

/// What is mounted at or below the directory, in the order in which it was.
fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let points = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(unescape(field)))
    });
    Ok(points
        .filter(|point| point.starts_with(directory))
        .collect())
}

/// Blanks and their like are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'\\')
            .then(|| std::str::from_utf8(after.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn paths_of_the_table_are_read_as_they_were_meant() {
        assert_eq!(unescape(br"/a\040b\134c").as_bytes(), br"/a b\c");
        assert_eq!(unescape(br"/a\9").as_bytes(), br"/a\9");
    }

    #[test]
    fn a_directory_that_is_gone_is_removed() {
        let root = tempfile::tempdir().unwrap();
        remove(&root.path().join("none")).unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        remove(&root.path().join("a")).unwrap();
        assert!(!root.path().join("a").exists());
        assert!(!is_point(root.path()).unwrap());
        assert!(is_point(Path::new("/proc")).unwrap());
    }
}
