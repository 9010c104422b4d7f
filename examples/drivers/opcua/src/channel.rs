//! Messages to a server and from it: OPC UA's own protocol over TCP (OPC 10000-6, section 7), in
//! chunks, without encryption.

use std::time::{Duration, Instant};

use eyot_sdk::{Error, net::Stream};

use crate::{
    binary::{Decoded, Malformed, NodeId, Reader, Writer},
    session::fault,
};

/// Largest message that is taken, in all of its chunks.
pub const MESSAGE: usize = 16 << 20;
/// What we offer to take as one chunk.
const CHUNK: u32 = 65_536;
const NO_ENCRYPTION: &str = "http://opcfoundation.org/UA/SecurityPolicy#None";

/// The type of a piece of a message, and what follows it.
type Chunk = ([u8; 3], Vec<u8>);

/// A connection to one server.
pub struct Channel<S> {
    pub stream: S,
    /// `HOST:PORT`.
    pub place: String,
    pub timeout: Duration,
    /// What has come and is no whole chunk yet.
    input: Vec<u8>,
    /// Chunks of a message that has more.
    parts: Vec<u8>,
    /// The channel's own number, and that of its token.
    pub ids: (u32, u32),
    sequence: u32,
    /// The number of the last request.
    pub request: u32,
}

impl<S: Stream> Channel<S> {
    pub fn new(stream: S, place: String) -> Self {
        Self {
            stream,
            place,
            timeout: Duration::from_secs(5),
            input: Vec::new(),
            parts: Vec::new(),
            ids: (0, 0),
            sequence: 0,
            request: 0,
        }
    }

    /// Connect, and agree on the protocol.
    pub fn connect(&mut self, endpoint: &str) -> Result<(), Error> {
        self.input.clear();
        self.parts.clear();
        self.ids = (0, 0);
        let until = Instant::now() + self.timeout;
        self.stream.connect(&self.place, until)?;
        let mut hello = Writer::default();
        hello.u32(0);
        hello.u32(CHUNK);
        hello.u32(CHUNK);
        hello.u32(MESSAGE as u32);
        hello.u32(0);
        hello.text(endpoint);
        let hello = chunk("HEL", &hello.0);
        self.stream.send(&hello, until)?;
        let answer = self.chunk(until)?;
        match answer.ok_or_else(|| self.silent())? {
            (kind, _) if kind == *b"ACK" => Ok(()),
            _ => Err(self.garbled("the server does not speak OPC UA")),
        }
    }

    pub fn send(&mut self, kind: &str, service: u32, body: &[u8]) -> Result<u32, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        self.request = self.request.wrapping_add(1);
        let mut message = Writer::default();
        message.u32(self.ids.0);
        match kind {
            "OPN" => {
                message.text(NO_ENCRYPTION);
                message.nothing();
                message.nothing();
            }
            _ => message.u32(self.ids.1),
        }
        message.u32(self.sequence);
        message.u32(self.request);
        message.node(&NodeId::numeric(service));
        message.0.extend(body);
        let message = chunk(kind, &message.0);
        if message.len() > CHUNK as usize {
            return Err(Error::Other("too much is written at once".into()));
        }
        let until = Instant::now() + self.timeout;
        self.stream.send(&message, until)?;
        Ok(self.request)
    }

    pub fn silent(&self) -> Error {
        Error::Timeout(format!(
            "{} did not answer within {:?}",
            self.place, self.timeout
        ))
    }

    pub fn garbled(&self, what: &str) -> Error {
        Error::Garbled(format!("{}: {what}", self.place))
    }

    /// The next message that comes until then: the request that it is about, and its body.
    pub fn message(&mut self, until: Instant) -> Result<Option<(u32, Vec<u8>)>, Error> {
        while let Some((kind, body)) = self.chunk(until)? {
            let mut reader = Reader(&body);
            let mut parse = || -> Decoded<_> {
                let more = reader.u8()?;
                reader.u32()?;
                match &kind {
                    b"OPN" => {
                        reader.bytes()?;
                        reader.bytes()?;
                        reader.bytes()?;
                    }
                    _ => drop(reader.u32()?),
                }
                reader.u32()?;
                Ok((more, reader.u32()?))
            };
            let cannot = |_: Malformed| self.garbled("a message that cannot be read");
            let (more, request) = parse().map_err(cannot)?;
            let content = reader.0;
            match more {
                b'C' if self.parts.len() + content.len() <= MESSAGE => self.parts.extend(content),
                b'F' => {
                    let mut whole = std::mem::take(&mut self.parts);
                    whole.extend(content);
                    return Ok(Some((request, whole)));
                }
                // The server gave it up.
                b'A' => self.parts.clear(),
                _ => return Err(self.garbled("a message that is too long")),
            }
        }
        Ok(None)
    }

    /// The next chunk that comes until then.
    fn chunk(&mut self, until: Instant) -> Result<Option<Chunk>, Error> {
        loop {
            if let Some(header) = self.input.first_chunk::<8>() {
                let [a, b, c, _, length @ ..] = *header;
                let length = u32::from_le_bytes(length) as usize;
                if !(8..=MESSAGE).contains(&length) {
                    self.stream.close();
                    return Err(self.garbled("the server does not speak OPC UA"));
                }
                if self.input.len() >= length {
                    let rest = self.input.split_off(length);
                    let mut whole = std::mem::replace(&mut self.input, rest);
                    let mut body = vec![whole[3]];
                    body.extend(whole.drain(8..));
                    if [a, b, c] == *b"ERR" {
                        return Err(self.refused(&body[1..]));
                    }
                    return Ok(Some(([a, b, c], body)));
                }
            }
            match self.stream.receive(until)? {
                Some(bytes) => self.input.extend(bytes),
                None => return Ok(None),
            }
        }
    }

    /// The server ends the connection and says why.
    fn refused(&mut self, body: &[u8]) -> Error {
        self.stream.close();
        let mut reader = Reader(body);
        let status = reader.u32().unwrap_or_default();
        let reason = reader.text().unwrap_or_default();
        let place = &self.place;
        Error::Unreachable(format!("{place}: {} {reason}", fault(status).message))
    }
}

fn chunk(kind: &str, body: &[u8]) -> Vec<u8> {
    let mut message = Writer::default();
    message.0.extend(kind.as_bytes());
    message.u8(b'F');
    message.u32(body.len() as u32 + 8);
    message.0.extend(body);
    message.0
}

/// Whether a password may be sent there as it is.
pub fn is_plain(policy: &str) -> bool {
    policy.is_empty() || policy == NO_ENCRYPTION
}
