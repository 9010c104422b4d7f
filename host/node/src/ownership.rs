//! `fsGroup`: giving a volume to the group of its pod, as the kubelet does.
//!
//! Every file and directory gets the group and at least these rights for it: read and write, or
//! only read where nobody may write; directories may be entered and hand the group on to what is
//! made in them. Links are given away themselves and never followed.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
};

const READ_WRITE: u32 = 0o660;
const READ: u32 = 0o440;
const ENTER: u32 = 0o110;
const SET_GROUP: u32 = 0o2000;

/// Give everything in `volume` to `group`. With `on_root_mismatch` nothing is touched if the
/// volume's own directory is right already. Blocking.
pub(crate) fn give(
    volume: &Path,
    group: u32,
    read_only: bool,
    on_root_mismatch: bool,
) -> io::Result<()> {
    let root = fs::symlink_metadata(volume)?;
    let rights = rights(&root, read_only);
    let right = root.gid() == group && root.mode() & rights == rights;
    if on_root_mismatch && right {
        return Ok(());
    }
    // Deep trees are walked with a list instead of the stack.
    let mut waiting = vec![volume.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = match fs::symlink_metadata(&path) {
            // Somebody else works in a volume that several pods share.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        lchown(&path, None, Some(group))?;
        if metadata.is_symlink() {
            continue;
        }
        let mode = metadata.mode() & 0o7777 | self::rights(&metadata, read_only);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        }
    }
    Ok(())
}

fn rights(metadata: &fs::Metadata, read_only: bool) -> u32 {
    let files = if read_only { READ } else { READ_WRITE };
    match metadata.is_dir() {
        true => files | ENTER | SET_GROUP,
        false => files,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn files_and_directories_become_the_groups_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let volume = tempfile::tempdir().unwrap();
        let (sub, file) = (volume.path().join("sub"), volume.path().join("sub/file"));
        fs::create_dir(&sub).unwrap();
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&secret, volume.path().join("link")).unwrap();
        let own = fs::metadata(&file).unwrap().gid();
        give(volume.path(), own, false, false).unwrap();
        assert_eq!(mode(&file), 0o660);
        assert_eq!(mode(&sub) & 0o2770, 0o2770);
        assert_eq!(mode(&secret), 0o600);
        give(volume.path(), own, true, false).unwrap();
        assert_eq!(mode(&file), 0o660, "rights are added, never taken");
    }

    #[test]
    fn a_volume_whose_directory_is_right_is_left_alone_if_that_is_the_policy() {
        let volume = tempfile::tempdir().unwrap();
        let file = volume.path().join("file");
        let own = fs::metadata(volume.path()).unwrap().gid();
        give(volume.path(), own, false, true).unwrap();
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        give(volume.path(), own, false, true).unwrap();
        assert_eq!(mode(&file), 0o600);
        give(volume.path(), own, false, false).unwrap();
        assert_eq!(mode(&file), 0o660);
    }
}
