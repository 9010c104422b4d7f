//! MQTT 3.1.1 control packets as bytes: just what [`super::front`] must see or change of them.
//!
//! A packet is a byte with its type and flags, its length in one to four bytes, and the rest (OASIS
//! MQTT 3.1.1, section 2). Everything here is from strangers: lengths are checked against what is
//! there, and what does not fit is [`Malformed`].

use std::ops::Range;

pub(super) const CONNECT: u8 = 1;
pub(super) const PUBLISH: u8 = 3;
pub(super) const SUBSCRIBE: u8 = 8;
pub(super) const UNSUBSCRIBE: u8 = 10;

/// The stream is no MQTT, or more of it than is taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("that is no MQTT 3.1.1")]
    Bytes,
    #[error("a packet of {0} bytes is too long")]
    TooLong(usize),
}

/// Where the first packet of some bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub kind: u8,
    pub flags: u8,
    /// Where the part behind the length begins.
    pub body: usize,
    /// Where the next packet begins.
    pub end: usize,
}

/// The first packet of these bytes; `None` if it is not whole yet.
pub(super) fn first(bytes: &[u8], longest: usize) -> Result<Option<Packet>, Malformed> {
    let Some((head, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let mut length = 0;
    for (index, byte) in rest.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 != 0 {
            continue;
        }
        if length > longest {
            return Err(Malformed::TooLong(length));
        }
        let body = index + 2;
        let packet = Packet {
            kind: head >> 4,
            flags: head & 0x0f,
            body,
            end: body + length,
        };
        return Ok((packet.end <= bytes.len()).then_some(packet));
    }
    match rest.len() {
        0..4 => Ok(None),
        _ => Err(Malformed::Bytes),
    }
}

/// A text or bytes with a length in front, at a position; and the position behind.
fn field(bytes: &[u8], at: usize) -> Result<(Range<usize>, usize), Malformed> {
    let length = match bytes.get(at..at + 2) {
        Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
        _ => return Err(Malformed::Bytes),
    };
    let range = at + 2..at + 2 + length;
    let end = range.end;
    match bytes.get(range.clone()) {
        Some(_) => Ok((range, end)),
        None => Err(Malformed::Bytes),
    }
}

/// What a PUBLISH packet holds, by position in the packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Publish {
    pub topic: Range<usize>,
    /// Where its number is, with a quality of service of 1 or 2.
    pub number: Option<Range<usize>>,
    pub payload: Range<usize>,
}

impl Publish {
    pub(super) fn read(packet: &[u8], at: Packet) -> Result<Self, Malformed> {
        let (topic, mut next) = field(packet, at.body)?;
        let number = (at.flags & 0b0110 != 0).then(|| next..next + 2);
        if let Some(number) = &number {
            next = number.end;
        }
        if next > at.end {
            return Err(Malformed::Bytes);
        }
        Ok(Self {
            topic,
            number,
            payload: next..at.end,
        })
    }
}

/// Where the filters of a SUBSCRIBE or UNSUBSCRIBE packet are.
pub(super) fn filters(packet: &[u8], at: Packet) -> Result<Vec<Range<usize>>, Malformed> {
    let mut filters = Vec::new();
    let mut next = at.body + 2;
    while next < at.end {
        let (filter, end) = field(packet, next)?;
        filters.push(filter);
        next = end + usize::from(at.kind == SUBSCRIBE);
    }
    Ok(filters)
}

/// Who connects, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Connect<'a> {
    pub level: u8,
    flags: u8,
    keep_alive: u16,
    client: &'a [u8],
    will: Option<(&'a [u8], &'a [u8])>,
    pub user: Option<&'a [u8]>,
    pub password: Option<&'a [u8]>,
}

const CLEAN_AND_WILL: u8 = 0b0011_1110;
const WILL: u8 = 0b0000_0100;
const PASSWORD: u8 = 0b0100_0000;
const USER: u8 = 0b1000_0000;

impl<'a> Connect<'a> {
    pub(super) fn read(packet: &'a [u8], at: Packet) -> Result<Self, Malformed> {
        let text = |from| -> Result<(&'a [u8], usize), Malformed> {
            let (range, end) = field(packet, from)?;
            Ok((packet.get(range).ok_or(Malformed::Bytes)?, end))
        };
        let (name, next) = text(at.body)?;
        let Some(&[level, flags, high, low]) = packet.get(next..next + 4) else {
            return Err(Malformed::Bytes);
        };
        if at.kind != CONNECT || !matches!(name, b"MQTT" | b"MQIsdp") {
            return Err(Malformed::Bytes);
        }
        let mut connect = Self {
            level,
            flags,
            keep_alive: u16::from_be_bytes([high, low]),
            client: &[],
            will: None,
            user: None,
            password: None,
        };
        if level != 4 {
            // Others are refused for it; what follows looks different with some.
            return Ok(connect);
        }
        let mut next = next + 4;
        (connect.client, next) = text(next)?;
        if flags & WILL != 0 {
            let (topic, behind) = text(next)?;
            let (message, behind) = text(behind)?;
            (connect.will, next) = (Some((topic, message)), behind);
        }
        if flags & USER != 0 {
            let (user, behind) = text(next)?;
            (connect.user, next) = (Some(user), behind);
        }
        if flags & PASSWORD != 0 {
            connect.password = Some(text(next)?.0);
        }
        Ok(connect)
    }

    /// The same client with other credentials and another topic for its will.
    pub(super) fn with(
        &self,
        user: &str,
        password: &str,
        will: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Vec<u8> {
        let mut body = Vec::with_capacity(64);
        let mut put = |bytes: &[u8]| {
            // All of them were read with such a length, or are ours and short.
            let length = u16::try_from(bytes.len()).unwrap_or_default();
            body.extend_from_slice(&length.to_be_bytes());
            body.extend_from_slice(bytes.get(..usize::from(length)).unwrap_or_default());
        };
        put(self.client);
        if let Some((topic, message)) = self.will {
            put(&will(topic));
            put(message);
        }
        put(user.as_bytes());
        put(password.as_bytes());
        // The broker takes nobody without a keep-alive: who wants none gets the longest.
        let keep_alive = match self.keep_alive {
            0 => u16::MAX,
            some => some,
        };
        let mut head = vec![0, 4, b'M', b'Q', b'T', b'T', 4];
        head.push(self.flags & CLEAN_AND_WILL | USER | PASSWORD);
        head.extend_from_slice(&keep_alive.to_be_bytes());
        let mut packet = vec![CONNECT << 4];
        let mut length = head.len() + body.len();
        loop {
            let byte = (length & 0x7f) as u8;
            length >>= 7;
            packet.push(byte | u8::from(length > 0) << 7);
            if length == 0 {
                break;
            }
        }
        packet.extend(head);
        packet.extend(body);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_found_when_they_are_whole() {
        let longest = 1000;
        assert_eq!(first(&[], longest), Ok(None));
        assert_eq!(first(&[0x30, 0x80], longest), Ok(None));
        assert_eq!(first(&[0x30, 2, 0], longest), Ok(None));
        let found = first(&[0x32, 2, 0, 0, 0x30], longest).unwrap().unwrap();
        assert_eq!((found.kind, found.flags, found.end), (PUBLISH, 2, 4));
        assert_eq!(
            first(&[0x30, 0xff, 0xff, 0xff, 0xff], longest),
            Err(Malformed::Bytes)
        );
        assert_eq!(
            first(&[0x30, 0xff, 0x7f], longest),
            Err(Malformed::TooLong(16383))
        );
    }

    #[test]
    fn a_publication_is_taken_apart_and_a_cut_one_refused() {
        let packet = [0x32, 8, 0, 3, b'a', b'/', b'b', 0, 7, b'x'];
        let at = first(&packet, 100).unwrap().unwrap();
        let publish = Publish::read(&packet, at).unwrap();
        assert_eq!(&packet[publish.topic], b"a/b");
        assert_eq!(&packet[publish.number.unwrap()], [0, 7]);
        assert_eq!(&packet[publish.payload], b"x");
        let cut = [0x32, 5, 0, 3, b'a', b'/', b'b'];
        let at = first(&cut, 100).unwrap().unwrap();
        assert!(Publish::read(&cut, at).is_err());
        let long = [0x30, 3, 0, 9, b'a'];
        let at = first(&long, 100).unwrap().unwrap();
        assert!(Publish::read(&long, at).is_err());
    }

    #[test]
    fn a_client_is_passed_on_with_other_credentials() {
        let mut packet = vec![0x10, 0];
        packet.extend(b"\0\x04MQTT\x04\xc6\0\0\0\x02me\0\x03$hw\0\x01w\0\x01u\0\x01p");
        packet[1] = u8::try_from(packet.len() - 2).unwrap();
        let at = first(&packet, 100).unwrap().unwrap();
        let connect = Connect::read(&packet, at).unwrap();
        assert_eq!(
            (connect.user, connect.password),
            (Some(&b"u"[..]), Some(&b"p"[..]))
        );
        let password = "x".repeat(200);
        let other = connect.with("host", &password, |topic| topic.to_ascii_uppercase());
        let at = first(&other, 1000).unwrap().unwrap();
        assert_eq!(at.end, other.len());
        let other = Connect::read(&other, at).unwrap();
        assert_eq!(other.user, Some(&b"host"[..]));
        assert_eq!(other.will, Some((&b"$HW"[..], &b"w"[..])));
        assert_eq!((other.client, other.keep_alive), (&b"me"[..], u16::MAX));
        for cut in 0..packet.len() {
            let mut cut = packet[..cut].to_vec();
            if let Some(length) = cut.get_mut(1) {
                *length = 0;
            }
            let length = cut.len().saturating_sub(2);
            if let Some(byte) = cut.get_mut(1) {
                *byte = u8::try_from(length).unwrap();
            }
            if let Some(at) = first(&cut, 100).unwrap() {
                let _ = Connect::read(&cut, at);
            }
        }
    }
}
