//! Messages of SNMP: what they ask and answer (RFC 3416, and RFC 1157 for the traps of v1), and what
//! is around that in v1 and v2c.

use std::net::Ipv4Addr;

use crate::ber::{self, Malformed, Reader};

pub const GET: u8 = 0xa0;
pub const GET_NEXT: u8 = 0xa1;
pub const RESPONSE: u8 = 0xa2;
pub const SET: u8 = 0xa3;
pub const TRAP_V1: u8 = 0xa4;
pub const GET_BULK: u8 = 0xa5;
pub const INFORM: u8 = 0xa6;
pub const TRAP: u8 = 0xa7;
pub const REPORT: u8 = 0xa8;

/// Variables in one message: more than fit into a datagram.
const BINDINGS: usize = 4096;

/// `1.3.6.1.6.3.1.1.4.1.0`: which trap it is, in the traps of v2c and v3.
pub const TRAP_OID: [u32; 11] = [1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0];
/// `1.3.6.1.6.3.1.1.5`: what the generic traps of v1 are below (RFC 3584, section 3.1).
const GENERIC: [u32; 9] = [1, 3, 6, 1, 6, 3, 1, 1, 5];
/// `1.3.6.1.2.1.1.3.0`.
pub const UPTIME: [u32; 9] = [1, 3, 6, 1, 2, 1, 1, 3, 0];

/// What a variable has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    Integer(i64),
    Octets(Vec<u8>),
    Oid(Vec<u32>),
    Address(Ipv4Addr),
    Counter32(u32),
    Gauge32(u32),
    Ticks(u32),
    Counter64(u64),
    Opaque(Vec<u8>),
    Null,
    NoSuchObject,
    NoSuchInstance,
    EndOfView,
}

/// A variable with its value.
pub type Binding = (Vec<u32>, Data);

/// A request, an answer or a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pdu {
    pub kind: u8,
    pub request: i32,
    /// What is wrong, in answers; how many variables are not repeated, in bulk requests.
    pub status: i64,
    /// Which variable is wrong; how often the others are repeated.
    pub index: i64,
    pub bindings: Vec<Binding>,
}

/// v1 or v2c: what is said in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1 = 0,
    V2c = 1,
}

impl Data {
    fn read(tag: u8, content: &[u8]) -> Result<Self, Malformed> {
        let number = || {
            let number = ber::unsigned(content)?;
            u32::try_from(number).map_err(|_| Malformed)
        };
        Ok(match tag {
            ber::INTEGER => Self::Integer(ber::integer(content)?),
            ber::OCTETS => Self::Octets(content.to_vec()),
            ber::NULL => Self::Null,
            ber::OID => Self::Oid(ber::oid(content)?),
            ber::ADDRESS => {
                let octets: [u8; 4] = content.try_into().map_err(|_| Malformed)?;
                Self::Address(octets.into())
            }
            ber::COUNTER32 => Self::Counter32(number()?),
            ber::GAUGE32 => Self::Gauge32(number()?),
            ber::TICKS => Self::Ticks(number()?),
            ber::COUNTER64 => Self::Counter64(ber::unsigned(content)?),
            ber::OPAQUE => Self::Opaque(content.to_vec()),
            0x80 => Self::NoSuchObject,
            0x81 => Self::NoSuchInstance,
            0x82 => Self::EndOfView,
            _ => return Err(Malformed),
        })
    }

    fn write(&self) -> Vec<u8> {
        match self {
            Self::Integer(number) => ber::write_integer(ber::INTEGER, *number),
            Self::Octets(bytes) => ber::value(ber::OCTETS, bytes),
            Self::Oid(parts) => ber::write_oid(parts),
            Self::Address(address) => ber::value(ber::ADDRESS, &address.octets()),
            Self::Counter32(number) => ber::write_unsigned(ber::COUNTER32, (*number).into()),
            Self::Gauge32(number) => ber::write_unsigned(ber::GAUGE32, (*number).into()),
            Self::Ticks(number) => ber::write_unsigned(ber::TICKS, (*number).into()),
            Self::Counter64(number) => ber::write_unsigned(ber::COUNTER64, *number),
            Self::Opaque(bytes) => ber::value(ber::OPAQUE, bytes),
            Self::Null => ber::value(ber::NULL, &[]),
            Self::NoSuchObject => ber::value(0x80, &[]),
            Self::NoSuchInstance => ber::value(0x81, &[]),
            Self::EndOfView => ber::value(0x82, &[]),
        }
    }
}

impl Pdu {
    /// A request for variables, or of their new values.
    pub fn new(kind: u8, bindings: Vec<Binding>) -> Self {
        Self {
            kind,
            request: 0,
            status: 0,
            index: 0,
            bindings,
        }
    }

    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (kind, content) = reader.any()?;
        let mut inside = reader.at(content);
        if kind == TRAP_V1 {
            return Self::read_trap(inside);
        }
        if !(GET..=REPORT).contains(&kind) {
            return Err(Malformed);
        }
        let request = i32::try_from(inside.integer()?).map_err(|_| Malformed)?;
        let (status, index) = (inside.integer()?, inside.integer()?);
        let bindings = read_bindings(&mut inside)?;
        Ok(Self {
            kind,
            request,
            status,
            index,
            bindings,
        })
    }

    /// A trap of v1, as the trap of v2c that it stands for (RFC 3584, section 3.1).
    fn read_trap(mut inside: Reader<'_>) -> Result<Self, Malformed> {
        let enterprise = ber::oid(inside.one(ber::OID)?)?;
        inside.one(ber::ADDRESS)?;
        let (generic, specific) = (inside.integer()?, inside.integer()?);
        let uptime = Data::read(ber::TICKS, inside.one(ber::TICKS)?)?;
        let part = |number: i64| u32::try_from(number).map_err(|_| Malformed);
        let trap = match generic {
            0..6 => [&GENERIC[..], &[part(generic)? + 1]].concat(),
            _ => [&enterprise[..], &[0, part(specific)?]].concat(),
        };
        let mut bindings = vec![
            (UPTIME.to_vec(), uptime),
            (TRAP_OID.to_vec(), Data::Oid(trap)),
        ];
        bindings.extend(read_bindings(&mut inside)?);
        Ok(Self::new(TRAP, bindings))
    }

    pub fn write(&self) -> Vec<u8> {
        let bindings: Vec<Vec<u8>> = self
            .bindings
            .iter()
            .map(|(oid, data)| ber::sequence(ber::SEQUENCE, &[ber::write_oid(oid), data.write()]))
            .collect();
        ber::sequence(
            self.kind,
            &[
                ber::write_integer(ber::INTEGER, self.request.into()),
                ber::write_integer(ber::INTEGER, self.status),
                ber::write_integer(ber::INTEGER, self.index),
                ber::sequence(ber::SEQUENCE, &bindings),
            ],
        )
    }

    /// Which trap it is, if it is one.
    pub fn trap(&self) -> Option<&[u32]> {
        let is_trap = matches!(self.kind, TRAP | INFORM);
        self.bindings.iter().find_map(|(oid, data)| match data {
            Data::Oid(trap) if is_trap && *oid == TRAP_OID => Some(&trap[..]),
            _ => None,
        })
    }
}

fn read_bindings(reader: &mut Reader<'_>) -> Result<Vec<Binding>, Malformed> {
    let mut list = reader.inside(ber::SEQUENCE)?;
    let mut bindings = Vec::new();
    while !list.is_empty() {
        let mut pair = list.inside(ber::SEQUENCE)?;
        let oid = ber::oid(pair.one(ber::OID)?)?;
        let (tag, content) = pair.any()?;
        bindings.push((oid, Data::read(tag, pair.content(content))?));
        if bindings.len() > BINDINGS {
            return Err(Malformed);
        }
    }
    Ok(bindings)
}

/// A message of v1 or v2c.
pub fn write(version: Version, community: &[u8], pdu: &Pdu) -> Vec<u8> {
    ber::sequence(
        ber::SEQUENCE,
        &[
            ber::write_integer(ber::INTEGER, version as i64),
            ber::value(ber::OCTETS, community),
            pdu.write(),
        ],
    )
}

/// The version number of a message: 0 for v1, 1 for v2c, 3 for v3.
pub fn version(message: &[u8]) -> Result<i64, Malformed> {
    Reader::new(message).inside(ber::SEQUENCE)?.integer()
}

/// Version, community and content of a message of v1 or v2c.
pub fn read(message: &[u8]) -> Result<(Version, &[u8], Pdu), Malformed> {
    let mut reader = Reader::new(message).inside(ber::SEQUENCE)?;
    let version = match reader.integer()? {
        0 => Version::V1,
        1 => Version::V2c,
        _ => return Err(Malformed),
    };
    let community = reader.one(ber::OCTETS)?;
    Ok((version, community, Pdu::read(&mut reader)?))
}

/// `1.3.6.1`, with or without a leading dot.
pub fn parse_oid(text: &str) -> Option<Vec<u32>> {
    let text = text.trim();
    let parts = text.strip_prefix('.').unwrap_or(text).split('.');
    let parts: Vec<u32> = parts.map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let fits = parts.len() >= 2 && parts[0] <= 2 && (parts[0] == 2 || parts[1] < 40);
    (fits && parts.len() <= 128 && parts[1] < u32::MAX - 80).then_some(parts)
}

pub fn show_oid(parts: &[u32]) -> String {
    let parts: Vec<String> = parts.iter().map(u32::to_string).collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written() {
        let all = [
            Data::Integer(-5),
            Data::Octets(b"public".to_vec()),
            Data::Oid(vec![1, 3, 6, 1]),
            Data::Address([10, 0, 0, 7].into()),
            Data::Counter32(u32::MAX),
            Data::Gauge32(0),
            Data::Ticks(1),
            Data::Counter64(u64::MAX),
            Data::Opaque(vec![1]),
            Data::Null,
            Data::NoSuchObject,
            Data::NoSuchInstance,
            Data::EndOfView,
        ];
        let bindings = all.into_iter().map(|data| (vec![1, 3, 6], data)).collect();
        let pdu = Pdu {
            request: -7,
            ..Pdu::new(SET, bindings)
        };
        let message = write(Version::V2c, b"secret", &pdu);
        assert_eq!(version(&message), Ok(1));
        assert_eq!(read(&message), Ok((Version::V2c, &b"secret"[..], pdu)));
        for end in 0..message.len() {
            assert!(read(&message[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn a_trap_of_v1_is_the_trap_that_it_stands_for() {
        let trap = |generic, specific| {
            let pdu = ber::sequence(
                TRAP_V1,
                &[
                    ber::write_oid(&[1, 3, 6, 1, 4, 1, 8072]),
                    ber::value(ber::ADDRESS, &[10, 0, 0, 1]),
                    ber::write_integer(ber::INTEGER, generic),
                    ber::write_integer(ber::INTEGER, specific),
                    ber::write_unsigned(ber::TICKS, 5),
                    ber::sequence(ber::SEQUENCE, &[]),
                ],
            );
            Pdu::read(&mut Reader::new(&pdu)).unwrap()
        };
        let shown = |pdu: &Pdu| show_oid(pdu.trap().unwrap());
        assert_eq!(shown(&trap(2, 0)), "1.3.6.1.6.3.1.1.5.3", "a link is down");
        assert_eq!(shown(&trap(6, 17)), "1.3.6.1.4.1.8072.0.17");
    }

    #[test]
    fn identifiers_have_at_least_two_parts() {
        assert_eq!(parse_oid(".1.3.6"), Some(vec![1, 3, 6]));
        for wrong in ["", "1", "3.1", "1.40", "1.x", "1..3", "2.4294967295"] {
            assert_eq!(parse_oid(wrong), None, "{wrong}");
        }
    }
}
