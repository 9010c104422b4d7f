//! DNS messages in their form on the wire (RFC 1035, RFC 6891), as far as a server of a cluster reads
//! and writes them. Pure.
//!
//! Of a query the question is read, and of the additional section the OPT record. Of an answer from
//! another server no record's content is understood: the bytes are passed on as they are, and only
//! where the times to live stand is found.

use std::net::IpAddr;

/// Longest name on the wire.
const NAME: usize = 255;
const LABEL: usize = 63;
const HEADER: usize = 12;
/// The class of everything on the Internet.
pub(crate) const INTERNET: u16 = 1;
/// The largest answer over UDP that gets through everywhere unfragmented.
pub(crate) const LARGEST_DATAGRAM: u16 = 1232;
/// What every client takes.
pub(crate) const SMALLEST_DATAGRAM: u16 = 512;
/// Bits of the header's second word.
const RESPONSE: u16 = 0x8000;
const AUTHORITATIVE: u16 = 0x0400;
pub(crate) const TRUNCATED: u16 = 0x0200;
const WANTED: u16 = 0x0100;
const AVAILABLE: u16 = 0x0080;
const UNCHECKED: u16 = 0x0010;

/// Types of records.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const ANY: u16 = 255;
}

/// How an answer went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Good = 0,
    Malformed = 1,
    Failed = 2,
    NoName = 3,
    NotImplemented = 4,
    Refused = 5,
    BadVersion = 16,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub id: u16,
    flags: u16,
    /// As it was written, with its dots and without the last.
    pub name: String,
    pub kind: u16,
    pub class: u16,
    pub extended: Option<Extended>,
}

/// What a client's OPT record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extended {
    /// Largest datagram that it takes.
    pub payload: u16,
    pub version: u8,
    pub dnssec: bool,
}

/// Why there is no [`Request`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Not even a query: say nothing.
    Ignore,
    /// Say that.
    Answer(u16, Code),
}

impl Request {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Unread> {
        let word = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let (Some(id), Some(flags)) = (word(0), word(2)) else {
            return Err(Unread::Ignore);
        };
        if flags & RESPONSE != 0 {
            return Err(Unread::Ignore);
        }
        if flags & 0x7800 != 0 {
            return Err(Unread::Answer(id, Code::NotImplemented));
        }
        Self::question(bytes, id, flags).ok_or(Unread::Answer(id, Code::Malformed))
    }

    fn question(bytes: &[u8], id: u16, flags: u16) -> Option<Self> {
        let count = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        if count(4)? != 1 {
            return None;
        }
        let (name, at) = name(bytes, HEADER)?;
        let (kind, class) = (count(at)?, count(at + 2)?);
        let others = usize::from(count(6)?) + usize::from(count(8)?);
        let mut extended = None;
        let mut records = Records { bytes, at: at + 4 };
        for index in 0..others + usize::from(count(10)?) {
            let record = records.next()?;
            if index >= others && record.kind == kind::OPT && extended.is_none() {
                extended = Some(Extended {
                    payload: record.class,
                    version: record.ttl.to_be_bytes()[1],
                    dnssec: record.ttl & 0x8000 != 0,
                });
            }
        }
        Some(Self {
            id,
            flags,
            name,
            kind,
            class,
            extended,
        })
    }

    /// A question of our own, for another server; as the client asked it.
    pub(crate) fn question_for(&self, id: u16) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(HEADER + self.name.len() + 20);
        let flags = WANTED | (self.flags & UNCHECKED);
        for word in [id, flags, 1, 0, 0, 1] {
            out.extend(word.to_be_bytes());
        }
        put_name(&mut out, &self.name)?;
        out.extend(self.kind.to_be_bytes());
        out.extend(self.class.to_be_bytes());
        put_extended(&mut out, self.dnssec(), 0);
        Some(out)
    }

    pub(crate) fn dnssec(&self) -> bool {
        self.extended.is_some_and(|extended| extended.dnssec)
    }

    pub(crate) fn unchecked(&self) -> bool {
        self.flags & UNCHECKED != 0
    }

    /// The largest datagram that the client takes.
    fn payload(&self) -> usize {
        let payload = self
            .extended
            .map_or(SMALLEST_DATAGRAM, |extended| extended.payload);
        usize::from(payload.clamp(SMALLEST_DATAGRAM, LARGEST_DATAGRAM))
    }
}

/// A record of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Full, with or without its last dot.
    pub name: String,
    pub ttl: u32,
    pub data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    Address(IpAddr),
    Service {
        port: u16,
        target: String,
    },
    Pointer(String),
    Alias(String),
    Server(String),
    Text(String),
    Start {
        server: String,
        mail: String,
        minimum: u32,
    },
}

/// An answer of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    pub code: Option<Code>,
    pub authoritative: bool,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
}

impl Reply {
    pub(crate) fn failure(code: Code) -> Self {
        Self {
            code: Some(code),
            ..Self::default()
        }
    }

    /// The bytes for who asked; over UDP cut down to what it takes, additional records first.
    pub(crate) fn write(&self, request: &Request, streamed: bool) -> Vec<u8> {
        let largest = if streamed {
            usize::from(u16::MAX)
        } else {
            request.payload()
        };
        let additional = self.encode(request, 0, true, true);
        if additional.len() <= largest {
            return additional;
        }
        let lean = self.encode(request, 0, true, false);
        if lean.len() <= largest {
            return lean;
        }
        self.encode(request, TRUNCATED, false, false)
    }

    fn encode(&self, request: &Request, flags: u16, records: bool, additional: bool) -> Vec<u8> {
        let code = self.code.unwrap_or(Code::Good) as u16;
        let mut out = Vec::with_capacity(SMALLEST_DATAGRAM.into());
        let mut word =
            RESPONSE | AVAILABLE | flags | (request.flags & (WANTED | UNCHECKED)) | (code & 0xf);
        if self.authoritative {
            word |= AUTHORITATIVE;
        }
        for word in [request.id, word, 1, 0, 0, 0] {
            out.extend(word.to_be_bytes());
        }
        // What was read can be written.
        if put_name(&mut out, &request.name).is_none() {
            out.push(0);
        }
        out.extend(request.kind.to_be_bytes());
        out.extend(request.class.to_be_bytes());
        let mut counts = [0_u16; 3];
        let sections = [
            (records, &self.answers),
            (records, &self.authorities),
            (additional, &self.additionals),
        ];
        for ((wanted, section), count) in sections.into_iter().zip(&mut counts) {
            for record in section.iter().filter(|_| wanted) {
                if put_record(&mut out, record, &request.name).is_some() {
                    *count = count.saturating_add(1);
                }
            }
        }
        if request.extended.is_some() {
            put_extended(&mut out, request.dnssec(), (code >> 4) as u8);
            counts[2] = counts[2].saturating_add(1);
        }
        for (index, count) in counts.into_iter().enumerate() {
            let at = 6 + 2 * index;
            out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        out
    }
}

/// The answer to a query that could not be read.
pub(crate) fn unread(id: u16, code: Code) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    for word in [id, RESPONSE | AVAILABLE | code as u16, 0, 0, 0, 0] {
        out.extend(word.to_be_bytes());
    }
    out
}

/// Another server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    bytes: Vec<u8>,
    /// Where the times to live stand.
    ttls: Vec<usize>,
    /// How many answers there are.
    pub answers: u16,
    /// Seconds that it may be kept; none if it says nothing about that.
    pub keep: Option<u32>,
    question_end: usize,
}

impl Foreign {
    /// Read the answer to `request`, which was asked under `id`; `None` if it is none.
    pub(crate) fn parse(bytes: &[u8], request: &Request, id: u16) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let flags = word(2)?;
        if word(0)? != id || flags & RESPONSE == 0 || word(4)? != 1 {
            return None;
        }
        let (asked, at) = name(bytes, HEADER)?;
        if !asked.eq_ignore_ascii_case(&request.name)
            || (word(at)?, word(at + 2)?) != (request.kind, request.class)
        {
            return None;
        }
        let question_end = at + 4;
        let (answers, authorities, additionals) = (word(6)?, word(8)?, word(10)?);
        let mut records = Records {
            bytes,
            at: question_end,
        };
        let mut found = Self {
            bytes: bytes.to_vec(),
            ttls: Vec::new(),
            answers,
            keep: None,
            question_end,
        };
        let mut shortest = u32::MAX;
        for index in 0..u32::from(answers) + u32::from(authorities) + u32::from(additionals) {
            let record = records.next()?;
            if index < u32::from(answers) {
                shortest = shortest.min(record.ttl);
            } else if index < u32::from(answers) + u32::from(authorities) {
                // A start of authority says how long nothing is nothing.
                let minimum = record
                    .data
                    .last_chunk()
                    .map(|bytes| u32::from_be_bytes(*bytes));
                if let (kind::SOA, 0, Some(minimum)) = (record.kind, answers, minimum) {
                    shortest = shortest.min(record.ttl).min(minimum);
                }
            }
            if record.kind != kind::OPT {
                found.ttls.push(record.ttl_at);
            }
        }
        let code = flags & 0xf;
        let keepable = (code == Code::Good as u16 || code == Code::NoName as u16)
            && flags & TRUNCATED == 0
            && shortest != u32::MAX
            && shortest > 0;
        found.keep = keepable.then_some(shortest);
        Some(found)
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_failure(&self) -> bool {
        self.bytes
            .get(3)
            .is_some_and(|flags| flags & 0xf == Code::Failed as u8)
    }

    /// The bytes for who asked, `age` seconds after they were received. Over UDP an answer that is too
    /// large is cut down to its question.
    pub(crate) fn write(&self, request: &Request, age: u32, streamed: bool) -> Vec<u8> {
        let mut out = self.bytes.clone();
        for at in &self.ttls {
            if let Some(place) = out.get_mut(*at..at + 4)
                && let Some(ttl) = place.first_chunk().map(|ttl| u32::from_be_bytes(*ttl))
            {
                place.copy_from_slice(&ttl.saturating_sub(age).to_be_bytes());
            }
        }
        // The client's own identifier and spelling of the name, which is as long.
        let mut own = Vec::with_capacity(NAME);
        let same = put_name(&mut own, &request.name).is_some();
        if let Some(place) = out.get_mut(HEADER..HEADER + own.len()).filter(|_| same) {
            place.copy_from_slice(&own);
        }
        if let Some(place) = out.get_mut(..4) {
            let mut flags = u16::from_be_bytes([place[2], place[3]]);
            flags = (flags | AVAILABLE) & !AUTHORITATIVE;
            if !streamed && self.bytes.len() > request.payload() {
                flags |= TRUNCATED;
            }
            place[..2].copy_from_slice(&request.id.to_be_bytes());
            place[2..].copy_from_slice(&flags.to_be_bytes());
        }
        if !streamed && self.bytes.len() > request.payload() {
            out.truncate(self.question_end);
            if let Some(place) = out.get_mut(6..HEADER) {
                place.fill(0);
            }
        }
        out
    }

    /// The addresses among the answers, for an alias that leads there.
    pub(crate) fn addresses(&self) -> Vec<(u32, IpAddr)> {
        let mut records = Records {
            bytes: &self.bytes,
            at: self.question_end,
        };
        let mut found = Vec::new();
        for _ in 0..self.answers {
            let Some(record) = records.next() else { break };
            let address = match record.kind {
                kind::A => record
                    .data
                    .first_chunk::<4>()
                    .map(|octets| IpAddr::from(*octets)),
                kind::AAAA => record
                    .data
                    .first_chunk::<16>()
                    .map(|octets| IpAddr::from(*octets)),
                _ => None,
            };
            found.extend(address.map(|address| (record.ttl, address)));
        }
        found
    }
}

/// The records of a message, one after the other.
struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

struct Raw<'a> {
    kind: u16,
    class: u16,
    ttl: u32,
    ttl_at: usize,
    data: &'a [u8],
}

impl<'a> Records<'a> {
    fn next(&mut self) -> Option<Raw<'a>> {
        let at = skip_name(self.bytes, self.at)?;
        let head: &[u8; 10] = self.bytes.get(at..)?.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([head[8], head[9]]));
        let data = self.bytes.get(at + 10..at + 10 + length)?;
        self.at = at + 10 + length;
        Some(Raw {
            kind: u16::from_be_bytes([head[0], head[1]]),
            class: u16::from_be_bytes([head[2], head[3]]),
            ttl: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
            ttl_at: at + 4,
            data,
        })
    }
}

/// The end of a name, whose compression is not followed.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some(at + 1),
            1..=LABEL => at += 1 + length,
            // A pointer ends the name.
            0xc0.. => return bytes.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
    }
}

/// A question's name and where it ends. A question comes first, so there is nothing that a pointer
/// could lead to. Labels that cannot be written with dots are refused.
fn name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let start = at;
    let mut text = String::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if at - start > NAME {
            return None;
        }
        match length {
            0 => return Some((text, at)),
            1..=LABEL => {
                let label = bytes.get(at..at + length)?;
                if !label
                    .iter()
                    .all(|byte| byte.is_ascii_graphic() && *byte != b'.')
                {
                    return None;
                }
                if !text.is_empty() {
                    text.push('.');
                }
                text.extend(label.iter().map(|byte| char::from(*byte)));
                at += length;
            }
            _ => return None,
        }
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) -> Option<()> {
    let start = out.len();
    let name = name.strip_suffix('.').unwrap_or(name);
    for label in name.split('.').filter(|_| !name.is_empty()) {
        if label.is_empty() || label.len() > LABEL {
            out.truncate(start);
            return None;
        }
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    out.push(0);
    if out.len() - start > NAME {
        out.truncate(start);
        return None;
    }
    Some(())
}

/// Write a record, or nothing of it.
fn put_record(out: &mut Vec<u8>, record: &Record, asked: &str) -> Option<()> {
    let start = out.len();
    let written = try_put_record(out, record, asked);
    if written.is_none() {
        out.truncate(start);
    }
    written
}

fn try_put_record(out: &mut Vec<u8>, record: &Record, asked: &str) -> Option<()> {
    let name = record.name.strip_suffix('.').unwrap_or(&record.name);
    if name.eq_ignore_ascii_case(asked) && !asked.is_empty() {
        // The name of the question, where it stands.
        out.extend([0xc0, HEADER as u8]);
    } else {
        put_name(out, name)?;
    }
    let kind = match &record.data {
        Data::Address(IpAddr::V4(_)) => kind::A,
        Data::Address(IpAddr::V6(_)) => kind::AAAA,
        Data::Service { .. } => kind::SRV,
        Data::Pointer(_) => kind::PTR,
        Data::Alias(_) => kind::CNAME,
        Data::Server(_) => kind::NS,
        Data::Text(_) => kind::TXT,
        Data::Start { .. } => kind::SOA,
    };
    out.extend(kind.to_be_bytes());
    out.extend(INTERNET.to_be_bytes());
    out.extend(record.ttl.to_be_bytes());
    let length_at = out.len();
    out.extend([0, 0]);
    match &record.data {
        Data::Address(IpAddr::V4(address)) => out.extend(address.octets()),
        Data::Address(IpAddr::V6(address)) => out.extend(address.octets()),
        Data::Service { port, target } => {
            for word in [0, 100, *port] {
                out.extend(word.to_be_bytes());
            }
            put_name(out, target)?;
        }
        Data::Pointer(target) | Data::Alias(target) | Data::Server(target) => {
            put_name(out, target)?
        }
        Data::Text(text) => {
            out.push(u8::try_from(text.len()).ok()?);
            out.extend(text.as_bytes());
        }
        Data::Start {
            server,
            mail,
            minimum,
        } => {
            put_name(out, server)?;
            put_name(out, mail)?;
            for number in [1, 7200, 1800, 86_400, *minimum] {
                out.extend(number.to_be_bytes());
            }
        }
    }
    let length = u16::try_from(out.len() - length_at - 2).ok()?;
    out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    Some(())
}

fn put_extended(out: &mut Vec<u8>, dnssec: bool, high_code: u8) {
    out.push(0);
    out.extend(kind::OPT.to_be_bytes());
    out.extend(LARGEST_DATAGRAM.to_be_bytes());
    out.extend([high_code, 0, if dnssec { 0x80 } else { 0 }, 0, 0, 0]);
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
