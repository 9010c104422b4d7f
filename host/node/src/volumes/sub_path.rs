//! `subPath`: a part of a volume, found without ever leaving it.
//!
//! What a volume holds is its pods' to choose, links included, also while this looks. So the kernel
//! resolves the path (`openat2`, `RESOLVE_BENEATH`), and what it found is bound to a place that only
//! the host can write, from which the container then gets it: nothing is looked up by name twice.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, fstat, mkdirat},
};

/// The part `sub` of `volume`, made if it is missing, to be had at `target` or, by who may not mount,
/// where it lies. Blocking.
pub(super) fn bind(volume: &Path, sub: &str, target: &Path) -> Result<PathBuf, String> {
    let fails = |error: io::Error| format!("subPath {sub:?}: {error}");
    let open = open(volume, sub)?;
    let itself = format!("/proc/self/fd/{}", open.as_raw_fd());
    let kind = fstat(&open).map_err(|errno| fails(errno.into()))?.st_mode;
    prepare(target, kind & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()).map_err(fails)?;
    let none: Option<&Path> = None;
    match mount(Some(&*itself), target, none, MsFlags::MS_BIND, none) {
        Ok(()) => Ok(target.to_owned()),
        // A host without privileges runs guests only, who see what it may see.
        Err(Errno::EPERM) => fs::read_link(itself).map_err(fails),
        Err(errno) => Err(fails(errno.into())),
    }
}

/// An empty file or directory to bind over. What an earlier attempt bound there is taken away.
fn prepare(target: &Path, directory: bool) -> io::Result<()> {
    while umount2(target, MntFlags::MNT_DETACH).is_ok() {}
    if let Some(parent) = target.parent() {
        super::atomic::make_directory(parent)?;
    }
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() == directory => return Ok(()),
        Ok(found) if found.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(_) => {}
    }
    match directory {
        true => super::atomic::make_directory(target),
        false => {
            let mut options = fs::OpenOptions::new();
            let options = options.write(true).create(true).truncate(true);
            options.mode(0o600).open(target).map(drop)
        }
    }
}

/// Open `sub` below `volume`; directories that are missing are made with the volume's own mode.
fn open(volume: &Path, sub: &str) -> Result<OwnedFd, String> {
    let relative = Path::new(sub);
    if !relative
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(format!("subPath {sub:?} must stay inside of the volume"));
    }
    let fails = |error: io::Error| match error.raw_os_error() {
        Some(libc) if libc == Errno::EXDEV as i32 => {
            format!("subPath {sub:?} leads out of the volume")
        }
        _ => format!("subPath {sub:?}: {error}"),
    };
    let root = fs::File::open(volume).map_err(fails)?;
    let mode = root.metadata().map_err(fails)?.mode() & 0o777;
    match beneath(&root, relative) {
        Err(Errno::ENOENT) => make(&root, relative, Mode::from_bits_truncate(mode)),
        found => found,
    }
    .map_err(|errno| fails(errno.into()))
}

fn make(root: &fs::File, path: &Path, mode: Mode) -> Result<OwnedFd, Errno> {
    let mut so_far = PathBuf::new();
    for part in path.components() {
        let parent = match so_far.as_os_str().is_empty() {
            true => beneath(root, Path::new("."))?,
            false => beneath(root, &so_far)?,
        };
        so_far.push(part);
        if part == Component::CurDir {
            continue;
        }
        match mkdirat(&parent, part.as_os_str(), mode) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    beneath(root, &so_far)
}

fn beneath(root: &fs::File, path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    loop {
        // EAGAIN: a rename elsewhere made the kernel unsure whether ".." stayed inside.
        match openat2(root, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            found => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_sub_path_never_leads_out_of_its_volume() {
        let outside = tempfile::tempdir().unwrap();
        let volume = tempfile::tempdir().unwrap();
        let root = volume.path();
        symlink("/", root.join("root")).unwrap();
        symlink(outside.path(), root.join("absolute")).unwrap();
        symlink("../..", root.join("up")).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("inside")).unwrap();
        for sub in [
            "../x",
            "/etc",
            "root/etc",
            "absolute/x",
            "up",
            "up/x",
            "real/../..",
        ] {
            assert!(open(root, sub).is_err(), "{sub}");
        }
        let lies = |sub: &str| {
            let open = open(root, sub).unwrap();
            fs::read_link(format!("/proc/self/fd/{}", open.as_raw_fd())).unwrap()
        };
        let real = root.canonicalize().unwrap();
        assert_eq!(lies("a/./b"), real.join("a/b"));
        assert_eq!(lies("inside/new"), real.join("real/new"));
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_found_is_bound_where_only_the_host_writes() {
        let (volume, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(volume.path().join("file"), "text").unwrap();
        let target = own.path().join("container/0");
        for sub in ["file", "dir", "file"] {
            let place = bind(volume.path(), sub, &target).unwrap();
            assert_eq!(place.is_dir(), sub == "dir", "{sub}");
        }
        let place = bind(volume.path(), "file", &target).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "text");
        super::super::mounted::remove(own.path()).unwrap();
        assert!(!own.path().exists());
        assert_eq!(
            fs::read_to_string(volume.path().join("file")).unwrap(),
            "text"
        );
    }
}
