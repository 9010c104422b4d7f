//! A layer's archive, entry by entry, into its directory.
//!
//! What an archive says is a stranger's wish: names and link targets stay inside the directory
//! (see [`Rooted`]), and of the extended attributes only file capabilities and the user's own are
//! taken over, because one in `trusted.overlay.` would redirect the lookup of another layer.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{AtFlags, OFlag, openat},
    sys::{
        stat::{
            FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mkdirat, mknodat,
            utimensat,
        },
        time::TimeSpec,
    },
    unistd::{Gid, Uid, fchownat, linkat, symlinkat},
};
use tar::EntryType;

use crate::{
    kernel,
    rooted::{Entry, Rooted, kind_of},
};

/// Files in one layer; the largest images in use have a tenth of it.
const MAX_ENTRIES: u64 = 4_000_000;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The archive is at fault.
    #[error("{0}")]
    Archive(String),
    /// The disk is.
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Unpack all entries below `root`.
pub(crate) fn unpack(root: &Rooted, archive: impl Read) -> Result<(), UnpackError> {
    let mut archive = tar::Archive::new(archive);
    let damaged = |error: io::Error| UnpackError::Archive(format!("archive: {error}"));
    // Directories get their times last: writing into them changes them.
    let mut directories = Vec::new();
    for (index, entry) in (0..).zip(archive.entries().map_err(damaged)?) {
        if index >= MAX_ENTRIES {
            return Err(UnpackError::Archive(format!(
                "more than {MAX_ENTRIES} entries"
            )));
        }
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let mtime = entry.header().mtime().unwrap_or(0);
        if place(root, &path, &mut entry).map_err(|error| error.at(&path))? {
            directories.push((path, mtime));
        }
    }
    for (path, mtime) in directories.into_iter().rev() {
        if let Ok(Some(entry)) = root.entry(&path) {
            let _ = set_time(&entry, mtime);
        }
    }
    Ok(())
}

/// Which side an error is on, before its path is known.
enum Fault {
    Archive(String),
    Io(io::Error),
}

impl Fault {
    fn at(self, path: &Path) -> UnpackError {
        match self {
            Self::Archive(reason) => UnpackError::Archive(format!("{}: {reason}", path.display())),
            // What the names in an archive lead to, not the disk.
            Self::Io(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotADirectory
                        | io::ErrorKind::InvalidFilename
                        | io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::InvalidInput
                        | io::ErrorKind::InvalidData
                        | io::ErrorKind::Other
                ) =>
            {
                UnpackError::Archive(format!("{}: {error}", path.display()))
            }
            Self::Io(source) => UnpackError::Write {
                path: path.to_owned(),
                source,
            },
        }
    }
}

impl<E: Into<io::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

/// Make one entry; answers whether it is a directory.
fn place(
    root: &Rooted,
    path: &Path,
    source: &mut tar::Entry<'_, impl Read>,
) -> Result<bool, Fault> {
    let kind = source.header().entry_type();
    let Some(entry) = root.entry(path)? else {
        // The root directory itself: only its mode and owner count.
        let here = Entry {
            parent: root.root().try_clone()?,
            name: ".".into(),
        };
        set_owner_and_mode(&here, source, false)?;
        return Ok(false);
    };
    if let Some(hidden) = entry.name.strip_prefix(WHITEOUT) {
        whiteout(root, &entry, hidden)?;
        return Ok(false);
    }
    let is_directory = kind == EntryType::Directory;
    match kind_of(&entry)? {
        None => {}
        Some(libc::S_IFDIR) if is_directory => {}
        Some(_) => root.remove(&entry)?,
    }
    let name = entry.name.as_str();
    match kind {
        EntryType::Directory => {
            match mkdirat(&entry.parent, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(nix::Error::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let flags = OFlag::O_WRONLY
                | OFlag::O_CREAT
                | OFlag::O_EXCL
                | OFlag::O_NOFOLLOW
                | OFlag::O_CLOEXEC;
            let file = openat(&entry.parent, name, flags, Mode::from_bits_truncate(0o600))?;
            io::copy(source, &mut File::from(file))?;
        }
        EntryType::Symlink => {
            let target = link_target(source)?;
            symlinkat(&target, &entry.parent, name)?;
        }
        EntryType::Link => {
            hard_link(root, &entry, &link_target(source)?)?;
            return Ok(false);
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => node(&entry, kind, source)?,
        // Extensions that the reader has already applied to the entry they describe.
        EntryType::XGlobalHeader | EntryType::XHeader => return Ok(false),
        other => {
            return Err(Fault::Archive(format!(
                "unknown type of entry {:?}",
                other.as_byte()
            )));
        }
    }
    set_owner_and_mode(&entry, source, kind == EntryType::Symlink)?;
    set_xattrs(&entry, source)?;
    if !is_directory {
        set_time(&entry, source.header().mtime().unwrap_or(0))?;
    }
    Ok(is_directory)
}

fn whiteout(root: &Rooted, entry: &Entry, hidden: &str) -> Result<(), Fault> {
    if entry.name == OPAQUE {
        let path = PathBuf::from(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&entry.parent)
        ));
        // Through the magic link: the attribute is the directory's, so follow exactly that link.
        return Ok(kernel::set_xattr(
            &path.join("."),
            c"trusted.overlay.opaque",
            b"y",
        )?);
    }
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(Fault::Archive("a whiteout of no file".into()));
    }
    let target = Entry {
        parent: entry.parent.try_clone()?,
        name: hidden.to_owned(),
    };
    root.remove(&target)?;
    mknodat(
        &target.parent,
        hidden,
        SFlag::S_IFCHR,
        Mode::empty(),
        makedev(0, 0),
    )?;
    Ok(())
}

fn link_target(source: &tar::Entry<'_, impl Read>) -> Result<PathBuf, Fault> {
    match source.link_name()? {
        Some(target) if !target.as_os_str().is_empty() => Ok(target.into_owned()),
        _ => Err(Fault::Archive("a link without a target".into())),
    }
}

fn hard_link(root: &Rooted, entry: &Entry, target: &Path) -> Result<(), Fault> {
    let missing = || {
        Fault::Archive(format!(
            "a hard link to {}, which is not in this layer",
            target.display()
        ))
    };
    let Some(target) = root.entry(target)? else {
        return Err(missing());
    };
    match kind_of(&target)? {
        None => return Err(missing()),
        Some(libc::S_IFDIR) => return Err(Fault::Archive("a hard link to a directory".into())),
        Some(_) => {}
    }
    linkat(
        target.parent.as_fd(),
        target.name.as_str(),
        entry.parent.as_fd(),
        entry.name.as_str(),
        AtFlags::empty(),
    )?;
    Ok(())
}

fn node(entry: &Entry, kind: EntryType, source: &tar::Entry<'_, impl Read>) -> Result<(), Fault> {
    let header = source.header();
    let major = header.device_major()?.unwrap_or(0);
    let minor = header.device_minor()?.unwrap_or(0);
    let kind = match kind {
        EntryType::Char => SFlag::S_IFCHR,
        EntryType::Block => SFlag::S_IFBLK,
        _ => SFlag::S_IFIFO,
    };
    let device = makedev(major.into(), minor.into());
    mknodat(
        &entry.parent,
        entry.name.as_str(),
        kind,
        Mode::from_bits_truncate(0o600),
        device,
    )?;
    Ok(())
}

fn set_owner_and_mode(
    entry: &Entry,
    source: &tar::Entry<'_, impl Read>,
    is_symlink: bool,
) -> Result<(), Fault> {
    let header = source.header();
    let id = |value: io::Result<u64>| {
        value
            .ok()
            .and_then(|id| u32::try_from(id).ok())
            .unwrap_or(u32::MAX - 1)
    };
    let owner = Uid::from_raw(id(header.uid()));
    let group = Gid::from_raw(id(header.gid()));
    let name = entry.name.as_str();
    fchownat(
        &entry.parent,
        name,
        Some(owner),
        Some(group),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    if !is_symlink {
        // After the owner: changing that clears the set-user-id bits.
        let mode = Mode::from_bits_truncate(header.mode()? & 0o7777);
        fchmodat(&entry.parent, name, mode, FchmodatFlags::FollowSymlink)?;
    }
    Ok(())
}

fn set_xattrs(entry: &Entry, source: &mut tar::Entry<'_, impl Read>) -> Result<(), Fault> {
    let Some(extensions) = source.pax_extensions()? else {
        return Ok(());
    };
    for extension in extensions {
        let extension = extension?;
        let Some(name) = extension
            .key()
            .ok()
            .and_then(|key| key.strip_prefix("SCHILY.xattr."))
        else {
            continue;
        };
        if name != "security.capability" && !name.starts_with("user.") {
            continue;
        }
        let name = CString::new(name).map_err(|_| Fault::Archive("an attribute name".into()))?;
        match kernel::set_xattr(&entry.proc_path(), &name, extension.value_bytes()) {
            // A filesystem without this kind, or a link, which cannot have user attributes.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM)) => {}
            result => result?,
        }
    }
    Ok(())
}

fn set_time(entry: &Entry, seconds: u64) -> io::Result<()> {
    let time = TimeSpec::new(i64::try_from(seconds).unwrap_or(0), 0);
    let name = entry.name.as_str();
    utimensat(
        &entry.parent,
        name,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )?;
    Ok(())
}
