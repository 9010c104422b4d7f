//! As much of ASN.1's basic encoding rules as SNMP uses (RFC 3417, section 8): definite lengths and
//! tags of one byte.
//!
//! The crates that speak SNMP own their sockets and wait on them in ways that a component cannot, so
//! messages are read and written here.

use std::ops::Range;

pub const INTEGER: u8 = 0x02;
pub const OCTETS: u8 = 0x04;
pub const NULL: u8 = 0x05;
pub const OID: u8 = 0x06;
pub const SEQUENCE: u8 = 0x30;
pub const ADDRESS: u8 = 0x40;
pub const COUNTER32: u8 = 0x41;
pub const GAUGE32: u8 = 0x42;
pub const TICKS: u8 = 0x43;
pub const OPAQUE: u8 = 0x44;
pub const COUNTER64: u8 = 0x46;

/// Parts of an object identifier, as the specification bounds them.
const PARTS: usize = 128;

/// Bytes that are no such message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads values one after the other. Positions are those of the whole message.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    message: &'a [u8],
    rest: Range<usize>,
}

impl<'a> Reader<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        let rest = 0..message.len();
        Self { message, rest }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let at = self.rest.next().ok_or(Malformed)?;
        Ok(self.message[at])
    }

    /// The next value's tag and where its content is.
    pub fn any(&mut self) -> Result<(u8, Range<usize>), Malformed> {
        let tag = self.byte()?;
        let length = match self.byte()? {
            short @ 0..=0x7f => usize::from(short),
            long @ 0x81..=0x84 => {
                let mut length = 0;
                for _ in 0x80..long {
                    length = length << 8 | usize::from(self.byte()?);
                }
                length
            }
            _ => return Err(Malformed),
        };
        if length > self.rest.len() {
            return Err(Malformed);
        }
        let content = self.rest.start..self.rest.start + length;
        self.rest.start = content.end;
        Ok((tag, content))
    }

    /// The content of the next value, which has this tag.
    pub fn one(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        self.place(tag).map(|content| &self.message[content])
    }

    /// Where the content of the next value is, which has this tag.
    pub fn place(&mut self, tag: u8) -> Result<Range<usize>, Malformed> {
        match self.any()? {
            (found, content) if found == tag => Ok(content),
            _ => Err(Malformed),
        }
    }

    /// A reader of the next value's content.
    pub fn inside(&mut self, tag: u8) -> Result<Reader<'a>, Malformed> {
        let rest = self.place(tag)?;
        Ok(Reader {
            message: self.message,
            rest,
        })
    }

    pub fn integer(&mut self) -> Result<i64, Malformed> {
        integer(self.one(INTEGER)?)
    }

    /// Where the next value begins.
    pub fn position(&self) -> usize {
        self.rest.start
    }

    pub fn content(&self, place: Range<usize>) -> &'a [u8] {
        &self.message[place]
    }

    /// A reader of a part of the message.
    pub fn at(&self, rest: Range<usize>) -> Reader<'a> {
        Reader {
            message: self.message,
            rest,
        }
    }
}

/// A signed integer of up to eight bytes.
pub fn integer(content: &[u8]) -> Result<i64, Malformed> {
    let (first, rest) = content.split_first().ok_or(Malformed)?;
    if rest.len() > 7 {
        return Err(Malformed);
    }
    let sign = i64::from(*first as i8);
    Ok(rest
        .iter()
        .fold(sign, |all, byte| all << 8 | i64::from(*byte)))
}

/// An unsigned integer; some agents leave out the leading zero.
pub fn unsigned(content: &[u8]) -> Result<u64, Malformed> {
    let content = match content {
        [0, rest @ ..] => rest,
        content => content,
    };
    match content.len() {
        0..=8 => Ok(content
            .iter()
            .fold(0, |all, byte| all << 8 | u64::from(*byte))),
        _ => Err(Malformed),
    }
}

/// The parts of an object identifier.
pub fn oid(content: &[u8]) -> Result<Vec<u32>, Malformed> {
    let mut parts: Vec<u32> = Vec::new();
    let mut part: u32 = 0;
    for byte in content {
        part = part.checked_mul(128).ok_or(Malformed)? | u32::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if parts.is_empty() {
            // The first two parts share a number.
            let first = (part / 40).min(2);
            parts.push(first);
            part -= first * 40;
        }
        parts.push(part);
        part = 0;
        if parts.len() > PARTS {
            return Err(Malformed);
        }
    }
    match content.last() {
        Some(last) if last & 0x80 == 0 => Ok(parts),
        _ => Err(Malformed),
    }
}

/// A value: tag, length, content.
pub fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        0x100..=0xffff => out.extend([0x82, (length >> 8) as u8, length as u8]),
        _ => out.extend([
            0x83,
            (length >> 16) as u8,
            (length >> 8) as u8,
            length as u8,
        ]),
    }
    out.extend(content);
    out
}

/// A value whose content is other values.
pub fn sequence(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    value(tag, &parts.concat())
}

/// A signed integer in as few bytes as it takes.
pub fn write_integer(tag: u8, number: i64) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let needless = (0..7)
        .take_while(|at| {
            let sign = bytes[at + 1] & 0x80 != 0;
            bytes[*at] == if sign { 0xff } else { 0 }
        })
        .count();
    value(tag, &bytes[needless..])
}

/// An unsigned integer, with the leading zero that keeps it positive.
pub fn write_unsigned(tag: u8, number: u64) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let needless = bytes.iter().take(7).take_while(|byte| **byte == 0).count();
    let mut content = Vec::new();
    if bytes[needless] & 0x80 != 0 {
        content.push(0);
    }
    content.extend(&bytes[needless..]);
    value(tag, &content)
}

pub fn write_oid(parts: &[u32]) -> Vec<u8> {
    let mut content = Vec::new();
    let (first, rest) = match parts {
        [first, second, rest @ ..] => (first * 40 + second, rest),
        [first] => (first * 40, &[] as &[u32]),
        [] => (0, &[] as &[u32]),
    };
    for part in [first].iter().chain(rest) {
        let groups = (1..5).filter(|group| part >> (7 * group) != 0);
        for group in groups.rev() {
            content.push((part >> (7 * group)) as u8 | 0x80);
        }
        content.push((part & 0x7f) as u8);
    }
    value(OID, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_as_few_bytes_as_they_can() {
        for (number, bytes) in [
            (0, &[2, 1, 0][..]),
            (127, &[2, 1, 127]),
            (128, &[2, 2, 0, 128]),
            (-1, &[2, 1, 0xff]),
            (-129, &[2, 2, 0xff, 0x7f]),
            (i64::MIN, &[2, 8, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(write_integer(INTEGER, number), bytes);
            assert_eq!(Reader::new(bytes).integer(), Ok(number));
        }
        assert_eq!(write_unsigned(COUNTER64, u64::MAX)[..3], [0x46, 9, 0]);
        for number in [0, 200, u64::MAX] {
            assert_eq!(
                unsigned(&write_unsigned(COUNTER64, number)[2..]),
                Ok(number)
            );
        }
    }

    #[test]
    fn identifiers_are_read_as_they_are_written() {
        let parts = [1, 3, 6, 1, 4, 1, 2_147_483_647, 0, 128, u32::MAX];
        assert_eq!(oid(&write_oid(&parts)[2..]), Ok(parts.to_vec()));
        assert_eq!(write_oid(&[1, 3, 6, 1]), [6, 3, 0x2b, 6, 1]);
        assert_eq!(oid(&[0x2b, 0x86]), Err(Malformed));
        assert_eq!(
            oid(&[0x2b, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            Err(Malformed)
        );
    }

    #[test]
    fn damaged_values_are_malformed_wherever_they_end() {
        let whole = sequence(
            SEQUENCE,
            &[write_integer(INTEGER, 70_000), value(OCTETS, &[7; 300])],
        );
        let mut reader = Reader::new(&whole).inside(SEQUENCE).unwrap();
        assert_eq!(reader.integer(), Ok(70_000));
        assert_eq!(reader.one(OCTETS).unwrap().len(), 300);
        assert!(reader.is_empty());
        for end in 0..whole.len() {
            assert_eq!(Reader::new(&whole[..end]).any(), Err(Malformed), "{end}");
        }
        assert_eq!(Reader::new(&[0x30, 0x80, 0, 0]).any(), Err(Malformed));
        assert_eq!(integer(&[]), Err(Malformed));
        assert_eq!(integer(&[1; 9]), Err(Malformed));
    }
}
