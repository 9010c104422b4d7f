//! Frames, to and from bytes.
//!
//! ```text
//!   control  1 | version 15 bits | type 16 bits | flags 8 | length 24 | payload
//!   data     0 | stream 31 bits                 | flags 8 | length 24 | payload
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{Deflater, Headers, Inflater};

/// Bytes before the payload.
pub(super) const HEADER: usize = 8;
/// Clients send what they read from a terminal or a socket, in pieces of tens of kilobytes.
const PAYLOAD: usize = 1 << 20;
const VERSION: u16 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

const FIN: u8 = 1;

/// Status of a reset: the stream is not needed any more.
pub(super) const CANCEL: u32 = 5;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed SPDY: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Open {
        stream: u32,
        headers: Headers,
        last: bool,
    },
    Reply {
        stream: u32,
    },
    Data {
        stream: u32,
        data: Bytes,
        last: bool,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings and windows, which change nothing here.
    Ignored,
}

/// The first bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    kind: Kind,
    flags: u8,
    pub(super) length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Control(u16),
    Data(u32),
}

impl Header {
    pub(super) fn parse(bytes: [u8; HEADER]) -> Result<Self, Malformed> {
        let mut bytes = &bytes[..];
        let first = bytes.get_u32();
        let second = bytes.get_u32();
        let kind = if first >> 31 == 1 {
            if (first >> 16) & 0x7fff != u32::from(VERSION) {
                return Err(Malformed("another version than 3"));
            }
            Kind::Control((first & 0xffff) as u16)
        } else {
            Kind::Data(first)
        };
        let length = (second & 0x00ff_ffff) as usize;
        if length > PAYLOAD {
            return Err(Malformed("a frame of more than a mebibyte"));
        }
        Ok(Self {
            kind,
            flags: (second >> 24) as u8,
            length,
        })
    }

    pub(super) fn frame(
        self,
        mut payload: Bytes,
        inflater: &mut Inflater,
    ) -> Result<Frame, Malformed> {
        let last = self.flags & FIN != 0;
        let kind = match self.kind {
            Kind::Data(stream) => {
                return Ok(Frame::Data {
                    stream,
                    data: payload,
                    last,
                });
            }
            Kind::Control(kind) => kind,
        };
        let number = |payload: &mut Bytes| {
            let short = Malformed("a frame that is too short");
            payload.try_get_u32().map_err(|_| short)
        };
        Ok(match kind {
            SYN_STREAM => {
                let stream = number(&mut payload)? & 0x7fff_ffff;
                number(&mut payload)?;
                // Priority and slot.
                if payload.len() < 2 {
                    return Err(Malformed("a frame that is too short"));
                }
                payload.advance(2);
                let headers = inflater.headers(&payload)?;
                Frame::Open {
                    stream,
                    headers,
                    last,
                }
            }
            // Further headers of a stream mean nothing here, but they move the compressor on.
            HEADERS | SYN_REPLY => {
                number(&mut payload)?;
                inflater.headers(&payload)?;
                Frame::Ignored
            }
            RST_STREAM => Frame::Reset {
                stream: number(&mut payload)? & 0x7fff_ffff,
                status: number(&mut payload)?,
            },
            PING => Frame::Ping {
                id: number(&mut payload)?,
            },
            GOAWAY => Frame::GoAway,
            _ => Frame::Ignored,
        })
    }
}

impl Frame {
    /// Append to `to`. Only what a server sends can be written.
    pub(super) fn write(&self, to: &mut BytesMut, deflater: &mut Deflater) {
        let mut control = |kind: u16, payload: &[u8]| {
            to.put_u16(0x8000 | VERSION);
            to.put_u16(kind);
            // No flags. All payloads of a server's control frames are short.
            to.put_u32(payload.len() as u32);
            to.put_slice(payload);
        };
        match self {
            Self::Reply { stream } => {
                let mut payload = stream.to_be_bytes().to_vec();
                payload.extend(deflater.no_headers());
                control(SYN_REPLY, &payload);
            }
            Self::Reset { stream, status } => {
                let payload = [stream.to_be_bytes(), status.to_be_bytes()].concat();
                control(RST_STREAM, &payload);
            }
            Self::Ping { id } => control(PING, &id.to_be_bytes()),
            Self::Data { stream, data, last } => {
                // Pieces are those of a pipe or a socket: far below 24 bits of length.
                for piece in chunks(data) {
                    let flags = if *last { u32::from(FIN) << 24 } else { 0 };
                    to.put_u32(*stream);
                    to.put_u32(flags | piece.len() as u32);
                    to.put_slice(piece);
                }
            }
            Self::Open { .. } | Self::GoAway | Self::Ignored => {}
        }
    }
}

/// Pieces that fit into a frame; one empty piece of nothing.
fn chunks(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let empty = data.is_empty().then_some(&[][..]);
    empty.into_iter().chain(data.chunks(PAYLOAD))
}
