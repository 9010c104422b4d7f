//! A container's root: the image's layers stacked by overlayfs under a directory of its own.

use std::{
    ffi::CStr,
    fs::{self, Permissions},
    io,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::kernel;

/// The directories of one container.
pub(crate) struct Overlay {
    pub(crate) directory: PathBuf,
}

impl Overlay {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// What the container has changed of its image.
    pub(crate) fn written(&self) -> PathBuf {
        self.directory.join("upper")
    }

    /// Where the stacked tree is seen.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Stack `layers`, lowest first.
    pub(crate) fn mount(&self, layers: &[PathBuf]) -> io::Result<()> {
        let (upper, work) = (self.directory.join("upper"), self.directory.join("work"));
        let empty = self.directory.join("empty");
        let root = self.root();
        private_directory(&self.directory)?;
        for directory in [&upper, &work, &root] {
            fs::create_dir_all(directory)?;
        }
        // The mode of the container's own "/", whatever the host's umask is.
        fs::set_permissions(&upper, Permissions::from_mode(0o755))?;
        let mut lowers: Vec<&Path> = layers.iter().rev().map(PathBuf::as_path).collect();
        if lowers.is_empty() {
            fs::create_dir_all(&empty)?;
            lowers.push(&empty);
        }
        let fs = kernel::fsopen(c"overlay")?;
        set_lowers(&fs, &lowers)?;
        kernel::set_string(fs.as_fd(), c"upperdir", &upper)?;
        kernel::set_string(fs.as_fd(), c"workdir", &work)?;
        // The upper directory never outlives a crash of the machine: nobody needs its data on
        // disk, and without this every unmount waits for it. Kernels before 5.10 do not know it.
        let _ = kernel::set_flag(fs.as_fd(), c"volatile");
        // Device nodes of an image are never usable; a container's own are in /dev.
        let mount = kernel::create_mount(fs.as_fd(), libc::MOUNT_ATTR_NODEV)?;
        kernel::move_mount(mount.as_fd(), &root)
    }

    /// Unmount and remove everything. Idempotent.
    pub(crate) fn remove(&self) -> io::Result<()> {
        unmount(&self.root())?;
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// Show `layers`, lowest first, at `place`, where nobody can write to or execute them. `empty` is an
/// empty directory: the kernel stacks no fewer than two.
pub(crate) fn show(layers: &[PathBuf], empty: &Path, place: &Path) -> io::Result<()> {
    fs::create_dir_all(empty)?;
    let lowers = layers.iter().rev().map(PathBuf::as_path);
    let lowers: Vec<&Path> = lowers
        .chain([empty, empty])
        .take(layers.len().max(1) + 1)
        .collect();
    let fs = kernel::fsopen(c"overlay")?;
    set_lowers(&fs, &lowers)?;
    let attributes = libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NOEXEC;
    let mount = kernel::create_mount(fs.as_fd(), attributes)?;
    kernel::move_mount(mount.as_fd(), place)
}

/// One `lowerdir+` each where the kernel has it (6.5), which has no limit on the total length;
/// else all in one option, as before.
fn set_lowers(fs: &std::os::fd::OwnedFd, lowers: &[&Path]) -> io::Result<()> {
    const APPEND: &CStr = c"lowerdir+";
    let mut lowers_left = lowers.iter();
    let Some(first) = lowers_left.next() else {
        return Ok(());
    };
    if kernel::set_string(fs.as_fd(), APPEND, first).is_ok() {
        for lower in lowers_left {
            kernel::set_string(fs.as_fd(), APPEND, lower)?;
        }
        return Ok(());
    }
    let mut joined = std::ffi::OsString::new();
    for (index, lower) in lowers.iter().enumerate() {
        if index > 0 {
            joined.push(":");
        }
        joined.push(lower);
    }
    kernel::set_string(fs.as_fd(), c"lowerdir", Path::new(&joined)).map_err(|error| {
        io::Error::other(format!(
            "{} layers are too many for this kernel ({error}); Linux 6.5 lifts the limit",
            lowers.len()
        ))
    })
}

/// Unmount what is mounted at `path`, if anything is.
pub(crate) fn unmount(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // Not a mount point, or not there at all.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A directory that only root may look into: below it are set-user-id programs of images.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// The state directory is written and removed for every container. Where it is not on tmpfs
/// already, mount one on it: a container's life is then twice as fast as on a disk.
pub(crate) fn keep_small_files_in_memory(state_dir: &Path) -> io::Result<()> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    private_directory(state_dir)?;
    let on = nix::sys::statfs::statfs(state_dir)?;
    if on.filesystem_type().0 == TMPFS_MAGIC {
        return Ok(());
    }
    // A configuration has a few KiB; this is room for thousands of containers.
    let options = Some("mode=700,size=128m");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if let Err(errno) = mount(Some("eyot"), state_dir, Some("tmpfs"), flags, options) {
        let path = state_dir.display();
        tracing::warn!(%path, error = errno.desc(), "no tmpfs for the state directory");
    }
    Ok(())
}
