//! IP addresses and ranges of them.

use std::{fmt, net::IpAddr};

use super::{
    super::{EvalError, Value},
    Function, cost, no_overload,
};

/// `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    pub(crate) address: IpAddr,
    pub(crate) bits: u8,
}

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "ip",
        "string->net.IP;.net.CIDR->net.IP",
        cost::address,
        |args| match args {
            [Value::String(text)] => parse_ip(text).map(Value::Ip),
            [Value::Cidr(cidr)] => Ok(Value::Ip(cidr.address)),
            _ => no_overload(),
        },
    ),
    Function::new("isIP", "string->bool", cost::traverse, |args| match args {
        [Value::String(text)] => Ok(Value::Bool(parse_ip(text).is_ok())),
        _ => no_overload(),
    }),
    Function::new(
        "ip.isCanonical",
        "string->bool",
        cost::traverse_twice,
        |args| match args {
            [Value::String(text)] => Ok(Value::Bool(parse_ip(text)?.to_string() == **text)),
            _ => no_overload(),
        },
    ),
    Function::new("family", ".net.IP->int", cost::one, |args| match args {
        [Value::Ip(ip)] => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        _ => no_overload(),
    }),
    Function::new("isUnspecified", ".net.IP->bool", cost::one, |args| {
        ask(args, |ip| ip.is_unspecified())
    }),
    Function::new("isLoopback", ".net.IP->bool", cost::one, |args| {
        ask(args, |ip| ip.is_loopback())
    }),
    Function::new("isLinkLocalMulticast", ".net.IP->bool", cost::one, |args| {
        ask(args, link_local_multicast)
    }),
    Function::new("isLinkLocalUnicast", ".net.IP->bool", cost::one, |args| {
        ask(args, link_local_unicast)
    }),
    Function::new("isGlobalUnicast", ".net.IP->bool", cost::one, |args| {
        ask(args, |ip| {
            let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
            !broadcast
                && !ip.is_unspecified()
                && !ip.is_loopback()
                && !ip.is_multicast()
                && !link_local_unicast(ip)
        })
    }),
    Function::new(
        "cidr",
        "string->net.CIDR",
        cost::traverse,
        |args| match args {
            [Value::String(text)] => parse_cidr(text).map(Value::Cidr),
            _ => no_overload(),
        },
    ),
    Function::new(
        "isCIDR",
        "string->bool",
        cost::traverse,
        |args| match args {
            [Value::String(text)] => Ok(Value::Bool(parse_cidr(text).is_ok())),
            _ => no_overload(),
        },
    ),
    Function::new(
        "containsIP",
        ".net.CIDR,net.IP->bool;.net.CIDR,string->bool",
        cost::contains_ip,
        |args| match args {
            [Value::Cidr(cidr), Value::Ip(ip)] => Ok(Value::Bool(cidr.contains(*ip))),
            [Value::Cidr(cidr), Value::String(text)] => {
                Ok(Value::Bool(cidr.contains(parse_ip(text)?)))
            }
            _ => no_overload(),
        },
    ),
    Function::new(
        "containsCIDR",
        ".net.CIDR,net.CIDR->bool;.net.CIDR,string->bool",
        cost::contains_cidr,
        |args| {
            let (outer, inner) = match args {
                [Value::Cidr(outer), Value::Cidr(inner)] => (outer, *inner),
                [Value::Cidr(outer), Value::String(text)] => (outer, parse_cidr(text)?),
                _ => return no_overload(),
            };
            let within = outer.bits <= inner.bits && outer.contains(inner.address);
            Ok(Value::Bool(within))
        },
    ),
    Function::new(
        "prefixLength",
        ".net.CIDR->int",
        cost::one,
        |args| match args {
            [Value::Cidr(cidr)] => Ok(Value::Int(i64::from(cidr.bits))),
            _ => no_overload(),
        },
    ),
    Function::new(
        "masked",
        ".net.CIDR->net.CIDR",
        cost::one,
        |args| match args {
            [Value::Cidr(cidr)] => Ok(Value::Cidr(cidr.masked())),
            _ => no_overload(),
        },
    ),
];

fn ask<'a>(args: &[Value<'a>], holds: fn(&IpAddr) -> bool) -> Result<Value<'a>, EvalError> {
    match args {
        [Value::Ip(ip)] => Ok(Value::Bool(holds(ip))),
        _ => no_overload(),
    }
}

fn link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => matches!(v4.octets(), [224, 0, 0, _]),
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

/// No zones, and no IPv4 in IPv6's clothes.
fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    if let Some((address, _zone)) = text.split_once('%')
        && address.parse::<std::net::Ipv6Addr>().is_ok()
    {
        return Err(EvalError::new(format!(
            "IP address {text:?} with zone value is not allowed"
        )));
    }
    let ip: IpAddr = text.parse().map_err(|_error| {
        EvalError::new(format!(
            "IP Address {text:?} parse error during conversion from string: \
             ParseAddr({text:?}): unable to parse IP"
        ))
    })?;
    not_mapped(ip, text).map(|()| ip)
}

fn not_mapped(ip: IpAddr, text: &str) -> Result<(), EvalError> {
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(EvalError::new(format!(
            "IPv4-mapped IPv6 address {text:?} is not allowed"
        ))),
        _ => Ok(()),
    }
}

fn parse_cidr(text: &str) -> Result<Cidr, EvalError> {
    let broken = |why: &str| {
        EvalError::new(format!(
            "network address parse error during conversion from string: network address parse \
             error during conversion from string: netip.ParsePrefix({text:?}): {why}"
        ))
    };
    let (address, bits) = text.split_once('/').ok_or_else(|| broken("no '/'"))?;
    let address: IpAddr = address
        .parse()
        .map_err(|_error| broken("unable to parse IP"))?;
    let leading = bits.len() > 1 && bits.starts_with('0');
    let digits = !bits.is_empty() && bits.bytes().all(|c| c.is_ascii_digit());
    let bits = bits
        .parse::<u8>()
        .ok()
        .filter(|_| digits && !leading)
        .ok_or_else(|| broken("bad bits after slash"))?;
    let cidr = Cidr { address, bits };
    if bits > cidr.width() {
        return Err(broken("prefix length out of range"));
    }
    not_mapped(address, text).map(|()| cidr)
}

impl Cidr {
    fn width(&self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.address.is_ipv4()
            && Cidr {
                address: ip,
                bits: self.bits,
            }
            .masked()
                == self.masked()
    }

    fn masked(&self) -> Cidr {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(u32::from(32 - self.bits.min(32)));
                IpAddr::V4((u32::from(v4) & mask.unwrap_or(0)).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(u32::from(128 - self.bits.min(128)));
                IpAddr::V6((u128::from(v6) & mask.unwrap_or(0)).into())
            }
        };
        Cidr {
            address,
            bits: self.bits,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}
