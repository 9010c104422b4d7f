//! Reading many values with few requests.

use super::{Bits, Endpoint, Error, READ_BITS_LIMIT, READ_REGISTERS_LIMIT, Registers, Transport};

/// The four tables of a Modbus device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Bits that can be read and written.
    Coils,
    /// Bits that can be read.
    DiscreteInputs,
    /// Registers that can be read and written.
    Holding,
    /// Registers that can be read.
    Input,
}

impl Table {
    /// Whether it holds bits, not registers.
    pub fn is_bits(self) -> bool {
        matches!(self, Self::Coils | Self::DiscreteInputs)
    }

    fn read_limit(self) -> u32 {
        u32::from(if self.is_bits() {
            READ_BITS_LIMIT
        } else {
            READ_REGISTERS_LIMIT
        })
    }
}

/// A stretch of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The table.
    pub table: Table,
    /// Zero-based address of the first bit or register.
    pub start: u16,
    /// Number of bits or registers, at least 1.
    pub count: u16,
}

impl Span {
    fn end(self) -> u32 {
        u32::from(self.start) + u32::from(self.count)
    }
}

/// Read the spans, in whatever order they come, with as few requests as may be: neighbours and
/// overlaps share one. What nobody asked for is not read: some devices answer a gap with an
/// exception. The answer has the words of each span, in order; a bit is a word of 0 or 1.
pub fn read_spans(
    transport: &mut impl Transport,
    endpoint: &Endpoint,
    spans: &[Span],
) -> Result<Vec<Vec<u16>>, Error> {
    let mut blocks = Vec::new();
    for block in merged(spans) {
        blocks.push((block, read(transport, endpoint, block)?));
    }
    let words = |span: &Span| {
        blocks.iter().find_map(|(block, words)| {
            let from = usize::from(span.start.checked_sub(block.start)?);
            let inside = (block.table == span.table).then_some(words)?;
            inside
                .get(from..from + usize::from(span.count))
                .map(<[u16]>::to_vec)
        })
    };
    let missing = || Error::Garbled("the device answered fewer items than asked for".to_owned());
    spans
        .iter()
        .map(|span| words(span).ok_or_else(missing))
        .collect()
}

fn merged(spans: &[Span]) -> Vec<Span> {
    let mut sorted = spans.to_vec();
    sorted.sort_unstable();
    let mut blocks: Vec<Span> = Vec::new();
    for span in sorted {
        match blocks.last_mut() {
            Some(block)
                if block.table == span.table
                    && u32::from(span.start) <= block.end()
                    && span.end() - u32::from(block.start) <= span.table.read_limit() =>
            {
                let length = span.end().max(block.end()) - u32::from(block.start);
                block.count = u16::try_from(length).unwrap_or(block.count);
            }
            _ => blocks.push(span),
        }
    }
    blocks
}

fn read(to: &mut impl Transport, endpoint: &Endpoint, span: Span) -> Result<Vec<u16>, Error> {
    let Span {
        table,
        start,
        count,
    } = span;
    let bits = |bits: Vec<bool>| bits.into_iter().map(u16::from).collect();
    match table {
        Table::Coils => to.read_bits(endpoint, Bits::Coils, start, count).map(bits),
        Table::DiscreteInputs => to
            .read_bits(endpoint, Bits::DiscreteInputs, start, count)
            .map(bits),
        Table::Holding => to.read_registers(endpoint, Registers::Holding, start, count),
        Table::Input => to.read_registers(endpoint, Registers::Input, start, count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modbus::Simulated;

    fn spans(of: &[(Table, u16, u16)]) -> Vec<Span> {
        of.iter()
            .map(|&(table, start, count)| Span {
                table,
                start,
                count,
            })
            .collect()
    }

    fn endpoint() -> Endpoint {
        Endpoint {
            address: "127.0.0.1:502".into(),
            unit: 1,
            timeout_ms: 0,
        }
    }

    #[test]
    fn neighbours_and_overlaps_share_a_request_and_strangers_do_not() {
        let mut device = Simulated::default()
            .with_holding(0, &[1, 2, 3, 4])
            .with_holding(100, &[5])
            .with_input(0, &[6])
            .with_coils(2, &[true]);
        let wanted = spans(&[
            (Table::Holding, 2, 2),
            (Table::Holding, 0, 1),
            (Table::Holding, 100, 1),
            (Table::Holding, 1, 2),
            (Table::Input, 0, 1),
            (Table::Coils, 2, 1),
        ]);
        let words = read_spans(&mut device, &endpoint(), &wanted).unwrap();
        let expected: [&[u16]; 6] = [&[3, 4], &[1], &[5], &[2, 3], &[6], &[1]];
        assert_eq!(words, expected);
        assert_eq!(device.requests, 4);
    }

    #[test]
    fn no_request_asks_for_more_than_the_protocol_allows() {
        let mut device = Simulated::default().with_holding(0, &[7; 300]);
        let wanted: Vec<Span> = (0..300)
            .map(|start| Span {
                table: Table::Holding,
                start,
                count: 1,
            })
            .collect();
        assert_eq!(
            read_spans(&mut device, &endpoint(), &wanted).unwrap().len(),
            300
        );
        assert_eq!(device.requests, 3);
        let beyond = spans(&[(Table::Holding, u16::MAX, 2)]);
        assert_eq!(
            read_spans(&mut device, &endpoint(), &beyond),
            Err(Error::Exception(2))
        );
    }
}
