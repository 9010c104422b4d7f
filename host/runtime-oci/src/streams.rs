//! The standard streams of a program: pipes, or a terminal.
//!
//! Pipes are made here and their far ends go to the launcher. A terminal is made inside of the
//! container, by libcontainer, which sends its master back over a socket.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use eyot_runtime::{
    TerminalSize,
    process::{Sink, Source},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd},
    net::UnixListener,
};

use crate::{
    bundle, kernel,
    launcher::{self, Ends, message},
};

/// The master of a terminal is on its way when the launcher answers; it does not take long.
const MASTER: Duration = Duration::from_secs(10);

/// The host's ends.
pub(crate) struct Streams {
    pub(crate) stdin: Option<Sink>,
    pub(crate) stdout: Source,
    /// `None` on a terminal.
    pub(crate) stderr: Option<Source>,
    pub(crate) terminal: Option<Terminal>,
}

/// The host's ends before the program was made.
pub(crate) enum Waiting {
    Pipes(Streams),
    Terminal(UnixListener, Socket),
}

/// Streams for a container: what to wait for, and what to give to the launcher. Its pipes have
/// names in its bundle, so that a later host finds them.
pub(crate) fn open_named(
    bundle: &Path,
    terminals: &Path,
    stdin: bool,
    tty: bool,
) -> io::Result<(Waiting, Ends)> {
    if tty {
        return open(terminals, stdin, tty);
    }
    let (input, stdin, keep) = match stdin {
        true => {
            let (input, end, keep) = bundle::make_input(bundle)?;
            (Some(Box::new(input) as Sink), Some(end), Some(keep))
        }
        false => (None, None, None),
    };
    let [(_, stdout), (_, stderr)] = bundle::output_pipes(bundle);
    let (output, stdout) = bundle::make_output(&stdout)?;
    let (error, stderr) = bundle::make_output(&stderr)?;
    let streams = Streams {
        stdin: input,
        stdout: Box::new(output),
        stderr: Some(Box::new(error)),
        terminal: None,
    };
    let ends = Ends::Pipes {
        stdin,
        stdout,
        stderr,
        keep,
    };
    Ok((Waiting::Pipes(streams), ends))
}

/// The host's ends of the pipes of a container that runs, or ran, without a host.
pub(crate) fn open_again(bundle: &Path, stdin: bool) -> io::Result<Streams> {
    let [(_, stdout), (_, stderr)] = bundle::output_pipes(bundle);
    // One that reads no more cannot be written to; that is no reason not to take it on.
    let input = bundle::open_input(bundle).ok().filter(|_| stdin);
    Ok(Streams {
        stdin: input.map(|input| Box::new(input) as Sink),
        stdout: Box::new(bundle::open_output(&stdout)?),
        stderr: Some(Box::new(bundle::open_output(&stderr)?)),
        terminal: None,
    })
}

/// Streams for a program: what to wait for, and what to give to the launcher.
pub(crate) fn open(directory: &Path, stdin: bool, tty: bool) -> io::Result<(Waiting, Ends)> {
    if tty {
        let socket = Socket::new(directory);
        let listener = UnixListener::bind(&socket.0)?;
        let ends = Ends::Terminal {
            socket: socket.0.clone(),
        };
        return Ok((Waiting::Terminal(listener, socket), ends));
    }
    let (input, stdin) = match stdin {
        true => {
            let (input, end) = launcher::input_pipe()?;
            (Some(Box::new(input) as Sink), Some(end))
        }
        false => (None, None),
    };
    let (output, stdout) = launcher::output_pipe()?;
    let (error, stderr) = launcher::output_pipe()?;
    let streams = Streams {
        stdin: input,
        stdout: Box::new(output),
        stderr: Some(Box::new(error)),
        terminal: None,
    };
    let ends = Ends::Pipes {
        stdin,
        stdout,
        stderr,
        keep: None,
    };
    Ok((Waiting::Pipes(streams), ends))
}

impl Waiting {
    /// The streams, once the launcher has made the program.
    pub(crate) async fn ready(self) -> io::Result<Streams> {
        let (listener, _socket) = match self {
            Self::Pipes(streams) => return Ok(streams),
            Self::Terminal(listener, socket) => (listener, socket),
        };
        let master = tokio::time::timeout(MASTER, receive(&listener))
            .await
            .map_err(|_| io::Error::other("its master did not arrive"))??;
        let terminal = Terminal::new(master)?;
        Ok(Streams {
            stdin: Some(Box::new(terminal.clone())),
            stdout: Box::new(terminal.clone()),
            stderr: None,
            terminal: Some(terminal),
        })
    }
}

async fn receive(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (connection, _) = listener.accept().await?;
    loop {
        connection.readable().await?;
        match connection.try_io(tokio::io::Interest::READABLE, || {
            message::receive(&connection)
        }) {
            Ok((_, fds)) => {
                let no_master = || io::Error::other("a message without a terminal");
                return fds.into_iter().next().ok_or_else(no_master);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// A socket's file, removed with it. Numbered, because the path of a socket must be short.
pub(crate) struct Socket(PathBuf);

impl Socket {
    fn new(directory: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(number.to_string());
        // Left by a run before this one.
        let _ = std::fs::remove_file(&path);
        Self(path)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The master of a terminal; clones are the same one.
#[derive(Clone)]
pub(crate) struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    fn new(master: OwnedFd) -> io::Result<Self> {
        let flags = nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_GETFL)?;
        let flags = nix::fcntl::OFlag::from_bits_truncate(flags) | nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        Ok(Self(Arc::new(kernel::watch_both(master)?)))
    }

    pub(crate) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        kernel::set_terminal_size(self.0.as_fd(), size.width, size.height)
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            match ready.try_io(|master| Ok(nix::unistd::read(master, unfilled)?)) {
                Ok(Ok(read)) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                // The last program that had the terminal open has ended.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match ready.try_io(|master| Ok(nix::unistd::write(master, data)?)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A terminal has no end of input of its own: that is a character, which the user types.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
