//! The binary encoding of OPC UA (OPC 10000-6, section 5.2), as far as variables need it.
//!
//! The crates that speak OPC UA own their sockets through an asynchronous runtime that components do
//! not have, so the few services of a client are spoken here.

use crate::variant::Variant;

/// Items of one array: more is no reading.
const ITEMS: usize = 1 << 20;
/// Depth of structures within structures.
const DEPTH: usize = 16;

/// Bytes that are no such message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

pub type Decoded<T> = Result<T, Malformed>;

/// The identifier of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeId {
    pub namespace: u16,
    pub identifier: Identifier,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identifier {
    Numeric(u32),
    Text(String),
    Guid([u8; 16]),
    Opaque(Vec<u8>),
}

impl NodeId {
    pub const fn numeric(number: u32) -> Self {
        Self {
            namespace: 0,
            identifier: Identifier::Numeric(number),
        }
    }

    /// `ns=2;s=Boiler.Heat`, `i=2258`; of Guids and opaque identifiers, `g=` and `b=`, there are none
    /// in profiles, so they are not read.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (namespace, rest) = match text.strip_prefix("ns=") {
            Some(rest) => {
                let (namespace, rest) = rest.split_once(';')?;
                (namespace.parse().ok()?, rest)
            }
            None => (0, text),
        };
        let identifier = match rest.split_once('=')? {
            ("i", number) => Identifier::Numeric(number.parse().ok()?),
            ("s", text) if !text.is_empty() => Identifier::Text(text.to_owned()),
            _ => return None,
        };
        Some(Self {
            namespace,
            identifier,
        })
    }
}

/// Writes values one after the other.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn f64(&mut self, value: f64) {
        self.0.extend(value.to_le_bytes());
    }

    /// A String or a ByteString.
    pub fn bytes(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.i32(-1),
            Some(bytes) => {
                self.u32(bytes.len() as u32);
                self.0.extend(bytes);
            }
        }
    }

    pub fn text(&mut self, value: &str) {
        self.bytes(Some(value.as_bytes()));
    }

    pub fn nothing(&mut self) {
        self.bytes(None);
    }

    pub fn node(&mut self, node: &NodeId) {
        match &node.identifier {
            Identifier::Numeric(number) => {
                self.u8(2);
                self.u16(node.namespace);
                self.u32(*number);
            }
            Identifier::Text(text) => {
                self.u8(3);
                self.u16(node.namespace);
                self.text(text);
            }
            Identifier::Guid(guid) => {
                self.u8(4);
                self.u16(node.namespace);
                self.0.extend(guid);
            }
            Identifier::Opaque(bytes) => {
                self.u8(5);
                self.u16(node.namespace);
                self.bytes(Some(bytes));
            }
        }
    }

    /// No extension object.
    pub fn no_extension(&mut self) {
        self.node(&NodeId::numeric(0));
        self.u8(0);
    }
}

/// Reads values one after the other.
#[derive(Debug, Clone)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub fn u8(&mut self) -> Decoded<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Decoded<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Decoded<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn i32(&mut self) -> Decoded<i32> {
        self.array().map(i32::from_le_bytes)
    }

    pub fn i64(&mut self) -> Decoded<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub fn f64(&mut self) -> Decoded<f64> {
        self.array().map(f64::from_le_bytes)
    }

    pub fn bytes(&mut self) -> Decoded<Option<&'a [u8]>> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| Malformed)?;
                self.take(length).map(Some)
            }
        }
    }

    pub fn text(&mut self) -> Decoded<String> {
        let bytes = self.bytes()?.unwrap_or_default();
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    /// The items of an array, which may be null.
    pub fn many<T>(&mut self, read: impl Fn(&mut Self) -> Decoded<T>) -> Decoded<Vec<T>> {
        let count = match self.i32()? {
            -1 => 0,
            count => usize::try_from(count).map_err(|_| Malformed)?,
        };
        // Each item takes a byte at least.
        if count > ITEMS || count > self.0.len() {
            return Err(Malformed);
        }
        (0..count).map(|_| read(self)).collect()
    }

    pub fn node(&mut self) -> Decoded<NodeId> {
        let kind = self.u8()?;
        let (namespace, identifier) = match kind & 0x3f {
            0 => (0, Identifier::Numeric(self.u8()?.into())),
            1 => {
                let namespace = self.u8()?;
                (namespace.into(), Identifier::Numeric(self.u16()?.into()))
            }
            2 => (self.u16()?, Identifier::Numeric(self.u32()?)),
            3 => (self.u16()?, Identifier::Text(self.text()?)),
            4 => (self.u16()?, Identifier::Guid(self.array()?)),
            5 => {
                let namespace = self.u16()?;
                let bytes = self.bytes()?.unwrap_or_default();
                (namespace, Identifier::Opaque(bytes.to_vec()))
            }
            _ => return Err(Malformed),
        };
        // Those of an ExpandedNodeId.
        if kind & 0x80 != 0 {
            self.text()?;
        }
        if kind & 0x40 != 0 {
            self.u32()?;
        }
        Ok(NodeId {
            namespace,
            identifier,
        })
    }

    pub fn localized(&mut self) -> Decoded<String> {
        let mask = self.u8()?;
        if mask & 1 != 0 {
            self.text()?;
        }
        match mask & 2 != 0 {
            true => self.text(),
            false => Ok(String::new()),
        }
    }

    /// The type of an extension object and its body.
    pub fn extension(&mut self) -> Decoded<(NodeId, &'a [u8])> {
        let of = self.node()?;
        let body = match self.u8()? {
            0 => &[],
            1 | 2 => self.bytes()?.unwrap_or_default(),
            _ => return Err(Malformed),
        };
        Ok((of, body))
    }

    pub fn diagnostics(&mut self) -> Decoded<()> {
        self.diagnostics_within(0)
    }

    fn diagnostics_within(&mut self, depth: usize) -> Decoded<()> {
        if depth > DEPTH {
            return Err(Malformed);
        }
        let mask = self.u8()?;
        for bit in [1, 2, 4, 8] {
            if mask & bit != 0 {
                self.i32()?;
            }
        }
        if mask & 0x10 != 0 {
            self.text()?;
        }
        if mask & 0x20 != 0 {
            self.u32()?;
        }
        match mask & 0x40 != 0 {
            true => self.diagnostics_within(depth + 1),
            false => Ok(()),
        }
    }
}

/// A value with what the server knows of it.
#[derive(Debug, Clone, PartialEq)]
pub struct DataValue {
    pub value: Option<Variant>,
    pub status: u32,
    /// Nanoseconds since 1970; zero if it is not told.
    pub origin: u64,
}

impl DataValue {
    pub fn read(reader: &mut Reader<'_>) -> Decoded<Self> {
        let mask = reader.u8()?;
        let value = match mask & 1 != 0 {
            true => Some(Variant::read(reader)?),
            false => None,
        };
        let status = if mask & 2 != 0 { reader.u32()? } else { 0 };
        let source = if mask & 4 != 0 { reader.i64()? } else { 0 };
        if mask & 0x10 != 0 {
            reader.u16()?;
        }
        let server = if mask & 8 != 0 { reader.i64()? } else { 0 };
        if mask & 0x20 != 0 {
            reader.u16()?;
        }
        let time = if source != 0 { source } else { server };
        Ok(Self {
            value,
            status,
            origin: since_1970(time),
        })
    }
}

/// OPC UA counts in steps of 100 nanoseconds since 1601.
fn since_1970(time: i64) -> u64 {
    const BETWEEN: i64 = 116_444_736_000_000_000;
    let steps = u64::try_from(time.saturating_sub(BETWEEN)).unwrap_or(0);
    steps.saturating_mul(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_as_they_are_written_and_shown() {
        for text in ["ns=2;s=Boiler.Heat", "i=2258", "ns=300;i=70000"] {
            let node = NodeId::parse(text).unwrap();
            let mut writer = Writer::default();
            writer.node(&node);
            assert_eq!(Reader(&writer.0).node(), Ok(node), "{text}");
            for end in 0..writer.0.len() {
                assert!(Reader(&writer.0[..end]).node().is_err(), "{text} {end}");
            }
        }
        assert_eq!(Reader(&[0, 85]).node(), Ok(NodeId::numeric(85)));
        for wrong in ["", "x", "ns=2", "ns=a;i=1", "s=", "i=-1", "g=1"] {
            assert_eq!(NodeId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lengths_that_cannot_be_take_no_memory() {
        let huge = i32::MAX.to_le_bytes();
        assert_eq!(Reader(&huge).many(Reader::u8), Err(Malformed));
        assert_eq!(Reader(&huge).bytes(), Err(Malformed));
        assert_eq!(Reader(&(-2_i32).to_le_bytes()).text(), Err(Malformed));
        assert_eq!(Reader(&[0x40; 100]).diagnostics(), Err(Malformed));
    }
}
