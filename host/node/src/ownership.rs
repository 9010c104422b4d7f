//! `fsGroup`: giving a volume to the group of its pod, as the kubelet does.
//!
//! Every file and directory gets the group and at least these rights for it: read and write, or
//! only read where nobody may write; directories may be entered and hand the group on to what is
//! made in them. Links are given away themselves and never followed.
//!
//! Other pods may work in the volume meanwhile, and one that puts a link where a directory was must
//! not have files of the machine given to it. So names are resolved by the kernel below the volume
//! and without links (`openat2`), and what is looked at and changed is the open file, not its name.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, Permissions},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2},
    sys::stat::Mode,
    unistd::{Gid, fchownat},
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
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = openat(AT_FDCWD, volume, flags, Mode::empty())?;
    let metadata = metadata(&root)?;
    let rights = rights(&metadata, read_only);
    let right = metadata.gid() == group && metadata.mode() & rights == rights;
    if on_root_mismatch && right {
        return Ok(());
    }
    // Deep trees are walked with a list instead of the stack, and one open directory at a time.
    let mut waiting = vec![PathBuf::from(".")];
    while let Some(path) = waiting.pop() {
        let Some(directory) = there(open_below(&root, &path))? else {
            continue;
        };
        own(&directory, group, read_only)?;
        for entry in fs::read_dir(itself(&directory))? {
            let name = entry?.file_name();
            let Some(file) = there(open_in(&directory, &name))? else {
                continue;
            };
            match self::metadata(&file)?.is_dir() {
                true => waiting.push(path.join(name)),
                false => own(&file, group, read_only)?,
            }
        }
    }
    Ok(())
}

/// What somebody else took away or put a link in the place of is passed over.
fn there(opened: Result<OwnedFd, Errno>) -> io::Result<Option<OwnedFd>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn open_below(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    loop {
        // EAGAIN: a rename elsewhere made the kernel unsure.
        match openat2(root, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            opened => return opened,
        }
    }
}

/// Anything in a directory, be it a link, without the right to read it.
fn open_in(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

fn own(file: &OwnedFd, group: u32, read_only: bool) -> io::Result<()> {
    let before = metadata(file)?;
    let (nobody, group) = (None, Some(Gid::from_raw(group)));
    fchownat(file.as_fd(), "", nobody, group, AtFlags::AT_EMPTY_PATH)?;
    if before.is_symlink() {
        return Ok(());
    }
    let mode = before.mode() & 0o7777 | rights(&before, read_only);
    fs::set_permissions(itself(file), Permissions::from_mode(mode))
}

fn metadata(file: &OwnedFd) -> io::Result<Metadata> {
    File::from(file.try_clone()?).metadata()
}

/// A name for the open file, whatever its other names are by now.
fn itself(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn rights(metadata: &Metadata, read_only: bool) -> u32 {
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
    fn a_link_in_the_place_of_a_directory_leads_nowhere() {
        let (outside, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), volume.path().join("dir")).unwrap();
        let root = File::open(volume.path()).unwrap().into();
        for path in ["dir", "dir/x", "../x", "gone"] {
            assert!(
                there(open_below(&root, Path::new(path))).unwrap().is_none(),
                "{path}"
            );
        }
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
