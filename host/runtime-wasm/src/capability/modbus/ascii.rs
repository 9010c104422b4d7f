//! Modbus ASCII under a client that speaks RTU (Modbus over serial line 1.02, section 2.5.2).
//!
//! The two differ only in what is around a request. What the client writes is one RTU frame: its CRC
//! is taken off, and unit and PDU go out as a line of hexadecimal digits with an LRC. A line that
//! comes in goes the other way. A line that is damaged is handed on with a wrong CRC, so the client
//! says of it what it says of any damaged frame.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest line: 253 bytes of PDU, unit and LRC as digits, and what is around them.
const LINE: usize = 2 * 255 + 3;

/// A stream that carries RTU frames as ASCII lines.
pub(super) struct Ascii<S> {
    inner: S,
    /// A line on its way out, and how much of it is out.
    outgoing: (Vec<u8>, usize),
    /// What has come of a line, from its colon on.
    line: Vec<u8>,
    /// A frame that was not yet read.
    frame: Vec<u8>,
}

impl<S> Ascii<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            outgoing: (Vec::new(), 0),
            line: Vec::new(),
            frame: Vec::new(),
        }
    }

    /// Take in what came; the frame is there when a line is whole.
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                // Whatever came before a colon is noise.
                b':' => self.line.clear(),
                b'\r' => {}
                b'\n' => {
                    let frame = decoded(&self.line);
                    self.line.clear();
                    self.frame.extend(frame);
                }
                _ if self.line.len() < LINE => self.line.push(*byte),
                _ => {}
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Ascii<S> {
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (line, sent) = &mut self.outgoing;
        while *sent < line.len() {
            match ready!(Pin::new(&mut self.inner).poll_write(context, &line[*sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => *sent += count,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ascii<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        frame: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.drain(context))?;
        self.outgoing = (encoded(frame), 0);
        Poll::Ready(Ok(frame.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ascii<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.frame.is_empty() {
            let mut bytes = [0; LINE];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let came = read.filled().to_vec();
            self.take(&came);
        }
        let count = into.remaining().min(self.frame.len());
        into.put_slice(&self.frame[..count]);
        self.frame.drain(..count);
        Poll::Ready(Ok(()))
    }
}

/// An RTU frame as a line.
fn encoded(frame: &[u8]) -> Vec<u8> {
    let message = &frame[..frame.len().saturating_sub(2)];
    let check = lrc(message);
    let digits = message.iter().chain([&check]);
    let digits = digits.map(|byte| format!("{byte:02X}")).collect::<String>();
    format!(":{digits}\r\n").into_bytes()
}

/// The RTU frame of what is between colon and line end.
fn decoded(line: &[u8]) -> Vec<u8> {
    let message = hex::decode(line).unwrap_or_default();
    let Some((check, message)) = message.split_last() else {
        return damaged(&[0, 0]);
    };
    if *check != lrc(message) {
        return damaged(message);
    }
    let mut frame = message.to_vec();
    frame.extend(crc(message).to_le_bytes());
    frame
}

fn damaged(message: &[u8]) -> Vec<u8> {
    let mut frame = message.to_vec();
    frame.extend((!crc(message)).to_le_bytes());
    frame
}

/// Section 6.2.1: the two's complement of the sum.
fn lrc(message: &[u8]) -> u8 {
    let sum = message
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    sum.wrapping_neg()
}

/// Section 6.2.2.
fn crc(message: &[u8]) -> u16 {
    message.iter().fold(0xffff, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| match crc & 1 {
            1 => crc >> 1 ^ 0xa001,
            _ => crc >> 1,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_lines_are_each_other() {
        // Read holding register 0 of unit 1: the CRC is the one that every description prints.
        let frame = [0x01, 0x03, 0x00, 0x00, 0x00, 0x01, 0x84, 0x0a];
        let line = encoded(&frame);
        assert_eq!(line, b":010300000001FB\r\n");
        let mut stream = Ascii::new(());
        stream.take(b"noise");
        stream.take(&line[..5]);
        assert!(stream.frame.is_empty());
        stream.take(&line[5..]);
        assert_eq!(stream.frame, frame);
    }

    #[test]
    fn a_damaged_line_has_a_wrong_crc_and_a_long_one_takes_no_memory() {
        for line in [":010300000001FC\r\n", ":0103zz\r\n", ":\r\n"] {
            let mut stream = Ascii::new(());
            stream.take(line.as_bytes());
            let (message, check) = stream.frame.split_at(stream.frame.len() - 2);
            assert_ne!(check, crc(message).to_le_bytes(), "{line:?}");
        }
        let mut stream = Ascii::new(());
        stream.take(&[b'0'; 10_000]);
        assert!(stream.line.len() <= LINE);
    }
}
