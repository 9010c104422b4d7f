//! Serial lines.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use nix::sys::termios::{
    BaudRate, ControlFlags, FlushArg, InputFlags, SetArg, SpecialCharacterIndices, cfmakeraw,
    cfsetspeed, tcflush, tcgetattr, tcsetattr,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::unix::pipe,
};

use super::address::{Line, Parity};

/// A serial line that is open. tokio has no type for terminals, but its halves of a pipe take any
/// descriptor that can be waited for.
pub(super) struct Serial {
    reader: pipe::Receiver,
    writer: pipe::Sender,
}

impl Serial {
    /// Open a line and set it up; what came before is forgotten.
    pub(super) fn open(line: &Line) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
            .open(&line.path)?;
        if !file.metadata()?.file_type().is_char_device() {
            return Err(io::Error::other("it is no device"));
        }
        let mut settings = tcgetattr(&file)?;
        cfmakeraw(&mut settings);
        cfsetspeed(&mut settings, speed(line.baud)?)?;
        let flags = &mut settings.control_flags;
        flags.remove(ControlFlags::CSIZE | ControlFlags::CRTSCTS);
        flags.insert(ControlFlags::CLOCAL | ControlFlags::CREAD);
        flags.insert(match line.data_bits {
            7 => ControlFlags::CS7,
            _ => ControlFlags::CS8,
        });
        flags.set(ControlFlags::CSTOPB, line.stop_bits == 2);
        flags.set(ControlFlags::PARENB, line.parity != Parity::None);
        flags.set(ControlFlags::PARODD, line.parity == Parity::Odd);
        settings
            .input_flags
            .set(InputFlags::INPCK, line.parity != Parity::None);
        settings.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        settings.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(&file, SetArg::TCSANOW, &settings)?;
        tcflush(&file, FlushArg::TCIOFLUSH)?;
        Ok(Self {
            writer: pipe::Sender::from_file_unchecked(file.try_clone()?)?,
            reader: pipe::Receiver::from_file_unchecked(file)?,
        })
    }
}

/// The silence that parts two frames: 3.5 characters of 11 bits, 1.75 ms above 19200 baud (Modbus
/// over serial line 1.02, section 2.5.1.1).
pub(super) fn silence(line: &Line) -> Duration {
    match line.baud {
        baud @ 1..=19_200 => Duration::from_micros(38_500_000 / u64::from(baud)),
        _ => Duration::from_micros(1750),
    }
}

fn speed(baud: u32) -> io::Result<BaudRate> {
    Ok(match baud {
        300 => BaudRate::B300,
        600 => BaudRate::B600,
        1200 => BaudRate::B1200,
        2400 => BaudRate::B2400,
        4800 => BaudRate::B4800,
        9600 => BaudRate::B9600,
        19_200 => BaudRate::B19200,
        38_400 => BaudRate::B38400,
        57_600 => BaudRate::B57600,
        115_200 => BaudRate::B115200,
        230_400 => BaudRate::B230400,
        460_800 => BaudRate::B460800,
        921_600 => BaudRate::B921600,
        _ => {
            return Err(io::Error::other(format!(
                "{baud} baud: 300 to 921600, as serial ports have them, are possible"
            )));
        }
    })
}

impl AsyncRead for Serial {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(context, into)
    }
}

impl AsyncWrite for Serial {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}
