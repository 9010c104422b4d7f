//! Where a Modbus server is, and what frames look like on the way there.

use std::{fmt, net::Ipv6Addr};

/// The address of a server: `HOST:PORT`, or a URL whose scheme is the framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) framing: Framing,
    pub(super) place: Place,
}

/// What is around a request on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// The header of Modbus TCP, with a transaction identifier.
    Tcp,
    /// Unit and CRC: serial lines, and gateways that hand serial frames through.
    Rtu,
    /// The same in hexadecimal digits, with an LRC, as lines.
    Ascii,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// `HOST:PORT` in one spelling.
    Net(String),
    Serial(Line),
}

/// A serial line and its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) path: String,
    pub(super) baud: u32,
    /// 7 or 8.
    pub(super) data_bits: u8,
    /// 1 or 2.
    pub(super) stop_bits: u8,
    pub(super) parity: Parity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parity {
    None,
    Odd,
    Even,
}

impl Address {
    /// Read what the contract says: `HOST:PORT`, `rtu://HOST:PORT`, `ascii://HOST:PORT`,
    /// `rtu:///dev/ttyS0?baud=9600&data=8&stop=1&parity=N`, `ascii:///dev/…`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (framing, rest) = match text.split_once("://") {
            None => (Framing::Tcp, text),
            Some(("rtu", rest)) => (Framing::Rtu, rest),
            Some(("ascii", rest)) => (Framing::Ascii, rest),
            Some((other, _)) => {
                return Err(format!(
                    "{other:?} is no framing: write HOST:PORT, rtu://… or ascii://…"
                ));
            }
        };
        let place = match rest.starts_with('/') && framing != Framing::Tcp {
            true => Place::Serial(Line::parse(rest, framing)?),
            false => Place::Net(host_and_port(rest)?),
        };
        Ok(Self { framing, place })
    }

    /// What only one connection can be to: the same place, however it is spoken to.
    pub(super) fn key(&self) -> &str {
        match &self.place {
            Place::Net(address) => address,
            Place::Serial(line) => &line.path,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.framing {
            Framing::Tcp => {}
            Framing::Rtu => f.write_str("rtu://")?,
            Framing::Ascii => f.write_str("ascii://")?,
        }
        f.write_str(self.key())
    }
}

impl Line {
    fn parse(text: &str, framing: Framing) -> Result<Self, String> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        // Consoles and other people's terminals are no serial ports.
        let name = path.strip_prefix("/dev/").unwrap_or_default();
        let is_port = match name.strip_prefix("serial/") {
            Some(rest) => rest
                .split('/')
                .all(|part| part.chars().all(plain) && !matches!(part, "" | "." | "..")),
            None => {
                let rest = name.strip_prefix("tty").unwrap_or_default();
                rest.starts_with(|c: char| c.is_ascii_alphabetic()) && rest.chars().all(plain)
            }
        };
        if !is_port {
            return Err(format!(
                "{path:?} is no serial port: /dev/ttyUSB0, /dev/ttyS0, /dev/serial/by-id/… are"
            ));
        }
        let mut line = Self {
            path: path.to_owned(),
            baud: 9600,
            data_bits: if framing == Framing::Ascii { 7 } else { 8 },
            stop_bits: 1,
            parity: Parity::None,
        };
        for setting in query.split('&').filter(|setting| !setting.is_empty()) {
            line.set(setting)
                .ok_or_else(|| format!("{setting:?} is no setting of a serial line"))?;
        }
        if framing == Framing::Rtu && line.data_bits != 8 {
            return Err("RTU needs 8 data bits".to_owned());
        }
        Ok(line)
    }

    fn set(&mut self, setting: &str) -> Option<()> {
        let (name, value) = setting.split_once('=')?;
        match name {
            "baud" => self.baud = value.parse().ok()?,
            "data" => self.data_bits = value.parse().ok().filter(|bits| [7, 8].contains(bits))?,
            "stop" => self.stop_bits = value.parse().ok().filter(|bits| [1, 2].contains(bits))?,
            "parity" => {
                self.parity = match value {
                    "N" => Parity::None,
                    "O" => Parity::Odd,
                    "E" => Parity::Even,
                    _ => return None,
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// `HOST:PORT` in one spelling, so that equal addresses are equal texts.
fn host_and_port(address: &str) -> Result<String, String> {
    let wrong = || format!("{address:?} is no HOST:PORT, for example 192.168.1.20:502");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(v6) => format!("[{}]", v6.parse::<Ipv6Addr>().map_err(|_| wrong())?),
        None => host.to_ascii_lowercase(),
    };
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "-._[]:".contains(c));
    if host.is_empty() || port == 0 || host.contains(odd) || (bare.is_none() && host.contains(':'))
    {
        return Err(wrong());
    }
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling() {
        let shown = |text: &str| Address::parse(text).unwrap().to_string();
        assert_eq!(shown(" PLC.Example:502 "), "plc.example:502");
        assert_eq!(shown("[0:0::1]:502"), "[::1]:502");
        assert_eq!(shown("rtu://Gateway:4001"), "rtu://gateway:4001");
        assert_eq!(shown("ascii:///dev/ttyS0?baud=1200"), "ascii:///dev/ttyS0");
        for bad in [
            "",
            "plc",
            "plc:",
            "plc:0",
            "plc:99999",
            ":502",
            "a b:1",
            "::1:502",
            "[x]:1",
            "u@h:1",
            "rtu://plc",
        ] {
            let error = Address::parse(bad).unwrap_err();
            assert!(error.contains("HOST:PORT"), "{bad}: {error}");
        }
    }

    #[test]
    fn serial_lines_are_serial_ports_with_settings_that_exist() {
        let text = "rtu:///dev/serial/by-id/usb-x_y-if00?baud=19200&parity=E&stop=2";
        let Place::Serial(line) = Address::parse(text).unwrap().place else {
            panic!("{text}")
        };
        assert_eq!((line.baud, line.stop_bits), (19_200, 2));
        assert_eq!((line.data_bits, line.parity), (8, Parity::Even));
        for bad in [
            "rtu:///dev/mem",
            "rtu:///dev/tty",
            "rtu:///dev/tty1",
            "rtu:///dev/pts/0",
            "rtu:///dev/serial/../mem",
            "rtu:///etc/passwd",
            "rtu:///dev/ttyS0?baud=fast",
            "rtu:///dev/ttyS0?data=7",
            "rtu:///dev/ttyS0?parity=X",
            "tls://h:1",
            "/dev/ttyS0",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
