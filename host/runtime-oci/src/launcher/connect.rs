//! The host's side of a launcher: finding the ones that are there, and starting one.

use std::{
    fs::OpenOptions,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    process::{self, Child, Command},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket, socketpair},
};

use super::{
    ARGUMENT, LauncherError,
    message::{Place, READY, receive},
};
use crate::{kernel, overlay, runtime::Options};

/// A fresh launcher has nothing to do but say that it is there; one that has drained output has
/// that to finish.
const READY_TIMEOUT_MILLIS: u16 = 10_000;

/// A launcher that this host is connected to.
pub(super) struct Process {
    pub(super) socket: OwnedFd,
    pub(super) pid: u32,
    /// If this host started it.
    child: Option<Child>,
}

/// What launchers of this host are told; `None` without root, when there can be no containers.
pub(super) fn place(options: &Options) -> io::Result<Option<Place>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    overlay::keep_small_files_in_memory(&options.state_dir)?;
    let sockets = options.state_dir.join("launchers");
    overlay::private_directory(&sockets)?;
    Ok(Some(Place {
        build: build()?,
        sockets,
        bundles: options.bundles(),
        containers: options.containers(),
    }))
}

/// Tells one build of this program from another.
fn build() -> io::Result<String> {
    let file = std::fs::metadata("/proc/self/exe")?;
    let mut hasher = DefaultHasher::new();
    (file.dev(), file.ino(), file.size()).hash(&mut hasher);
    (file.mtime(), file.mtime_nsec()).hash(&mut hasher);
    Ok(format!("{:08x}", hasher.finish() >> 32))
}

/// The launchers that earlier hosts left: the one of this build, and all others.
pub(super) fn find(place: &Place) -> io::Result<(Option<Process>, Vec<Process>)> {
    let (mut own, mut others) = (None, Vec::new());
    for entry in std::fs::read_dir(&place.sockets)? {
        let path = entry?.path();
        let Some(process) = Process::connect(&path) else {
            // Its launcher was killed.
            let _ = std::fs::remove_file(&path);
            continue;
        };
        let name = path.file_name().and_then(|name| name.to_str());
        let same = name.is_some_and(|name| name.starts_with(&place.build));
        tracing::info!(
            pid = process.pid,
            same,
            "connected to a launcher of an earlier host"
        );
        match own {
            None if same => own = Some(process),
            _ => others.push(process),
        }
    }
    Ok((own, others))
}

impl Process {
    /// Connect to a launcher; `None` if nobody is there.
    fn connect(path: &Path) -> Option<Self> {
        let kind = SockType::SeqPacket;
        let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).ok()?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path).ok()?).ok()?;
        let pid = await_ready(&socket).ok()??;
        Some(Self {
            socket,
            pid,
            child: None,
        })
    }

    pub(super) fn spawn(place: Option<&Place>) -> Result<Self, LauncherError> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|errno| LauncherError::Start(errno.into()))?;
        let view = match kernel::read_only_view(Path::new("/proc/self/exe")) {
            Ok(view) => Some(view),
            Err(error) => {
                tracing::debug!(%error, "no read-only view of the binary; executing it directly");
                None
            }
        };
        let program = match &view {
            Some(view) => format!("/proc/self/fd/{}", view.as_raw_fd()),
            None => "/proc/self/exe".to_owned(),
        };
        // No environment: nothing of the host's reaches a container by accident. No stream of the
        // host's either: whoever reads those must see their end when the host ends.
        let mut command = Command::new(program);
        command
            .arg(ARGUMENT)
            .env_clear()
            .stdin(process::Stdio::from(theirs))
            .stdout(process::Stdio::null())
            .stderr(process::Stdio::null());
        if let Some(place) = place {
            let text = serde_json::to_string(place).map_err(io::Error::other);
            command.arg(text.map_err(LauncherError::Start)?);
            let log = place.sockets.with_file_name("launcher.log");
            let log = OpenOptions::new().create(true).append(true).open(log);
            command.stderr(log.map_err(LauncherError::Start)?);
        }
        let mut child = command.spawn().map_err(LauncherError::Start)?;
        if let Some(pid) = await_ready(&ours).map_err(LauncherError::Start)? {
            return Ok(Self {
                socket: ours,
                pid,
                child: Some(child),
            });
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(LauncherError::NotALauncher)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It sees the socket closed, and ends unless it has containers. One that has ended leaves
        // no zombie.
        let _ = self.child.as_mut().map(Child::try_wait);
    }
}

/// The process id that a launcher says when it is ready.
fn await_ready(socket: &OwnedFd) -> io::Result<Option<u32>> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(READY_TIMEOUT_MILLIS))? == 0 {
        return Ok(None);
    }
    match receive(socket) {
        Ok((data, _)) => {
            let pid = data
                .strip_prefix(READY)
                .and_then(|pid| std::str::from_utf8(pid).ok());
            Ok(pid.and_then(|pid| pid.parse().ok()))
        }
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionReset | ConnectionRefused | NotConnected
    )
}
