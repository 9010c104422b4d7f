//! A directory tree that paths from an image cannot leave.
//!
//! Names in a layer, and links in a container's root, are the image's to choose: `..`, absolute
//! links and links that change while one looks are all expected. Every path is therefore resolved
//! by the kernel with this directory as its root (`openat2`, `RESOLVE_IN_ROOT`), and what is then
//! done is done to one name in an opened parent directory, never to a path of the host.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::{Mode, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};

/// Components of one path: the kernel's own `PATH_MAX` divided by the shortest name.
const MAX_DEPTH: usize = 2048;

pub(crate) struct Rooted {
    root: OwnedFd,
    path: PathBuf,
}

/// A name inside an opened directory.
pub(crate) struct Entry {
    pub(crate) parent: OwnedFd,
    pub(crate) name: String,
}

impl Entry {
    /// A path that reaches exactly this entry, for the calls that take no descriptor. The name is
    /// a single component, so nothing but the last step is looked up.
    pub(crate) fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/self/fd/{}/{}",
            self.parent.as_raw_fd(),
            self.name
        ))
    }
}

impl Rooted {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        Ok(Self {
            root: open(path, flags, Mode::empty())?,
            path: path.to_owned(),
        })
    }

    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Open what `path` leads to, following links inside the root.
    pub(crate) fn get(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() {
            Path::new(".")
        } else {
            relative
        };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        loop {
            // EAGAIN: a rename elsewhere made the kernel unsure whether ".." stayed inside.
            match openat2(&self.root, relative, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// The directory `path`, made with its parents if missing.
    pub(crate) fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.get(path, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let mut reached = PathBuf::new();
        let mut parent = self.get(Path::new("."), flags)?;
        for name in names(path)? {
            reached.push(&name);
            parent = match self.get(&reached, flags) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    mkdirat(&parent, name.as_str(), Mode::from_bits_truncate(0o755))?;
                    self.get(&reached, flags)?
                }
                result => result?,
            };
        }
        Ok(parent)
    }

    /// The last name of `path` in its parent directory, which is made if missing. `None` for the
    /// root itself.
    pub(crate) fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        let mut names = names(path)?;
        let Some(name) = names.pop() else {
            return Ok(None);
        };
        let parent = self.directory(&names.iter().collect::<PathBuf>())?;
        Ok(Some(Entry { parent, name }))
    }

    /// Remove an entry with everything below it. No error if there is none.
    pub(crate) fn remove(&self, entry: &Entry) -> io::Result<()> {
        match unlinkat(
            &entry.parent,
            entry.name.as_str(),
            UnlinkatFlags::NoRemoveDir,
        ) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            // The standard library removes trees without following links.
            Err(Errno::EISDIR) => std::fs::remove_dir_all(entry.proc_path()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A small text file, or `None` if it does not exist.
    pub(crate) fn read_small(&self, path: &Path, limit: u64) -> io::Result<Option<String>> {
        use std::io::Read;
        let file = match self.get(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => std::fs::File::from(result?),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(format!(
                "{} is not a regular file",
                path.display()
            )));
        }
        let mut text = Vec::new();
        file.take(limit + 1).read_to_end(&mut text)?;
        if text.len() as u64 > limit {
            return Err(io::Error::other(format!(
                "{} is larger than {limit}",
                path.display()
            )));
        }
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// What `stat` says of an entry itself.
pub(crate) fn kind_of(entry: &Entry) -> io::Result<Option<libc::mode_t>> {
    match nix::sys::stat::fstatat(
        entry.parent.as_fd(),
        entry.name.as_str(),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    ) {
        Ok(stat) => Ok(Some(stat.st_mode & libc::S_IFMT)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The names of a path from an image. `..` is refused: no tool that makes layers writes it.
fn names(path: &Path) -> io::Result<Vec<String>> {
    use std::path::Component;
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => match name.to_str() {
                Some(name) => names.push(name.to_owned()),
                None => return Err(io::Error::other("the path is not UTF-8")),
            },
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other("the path contains \"..\""));
            }
        }
    }
    if names.len() > MAX_DEPTH {
        return Err(io::Error::other("the path is too deep"));
    }
    Ok(names)
}
