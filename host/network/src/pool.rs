//! Which addresses are free. Pure.

use std::{collections::VecDeque, fmt, net::Ipv4Addr, str::FromStr};

use crate::NetworkError;

/// An IPv4 network that pods get their addresses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    base: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    pub(crate) const fn new_unchecked(base: Ipv4Addr, prefix: u8) -> Self {
        Self { base, prefix }
    }

    /// The first address: the bridge's.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1)
    }

    pub(crate) fn base(&self) -> Ipv4Addr {
        self.base
    }

    /// Whether some address is in both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// How many pods it has room for: all but the network, the gateway and the broadcast address.
    pub fn hosts(&self) -> u32 {
        (1_u32 << (32 - self.prefix)) - 3
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) >> (32 - self.prefix) == u32::from(self.base) >> (32 - self.prefix)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = |reason| NetworkError::Cidr {
            text: text.to_owned(),
            reason,
        };
        let (base, prefix) = text
            .split_once('/')
            .ok_or(error("write it as 10.244.0.0/24"))?;
        let base: Ipv4Addr = base.parse().map_err(|_| error("the address is not IPv4"))?;
        let prefix: u8 = prefix
            .parse()
            .map_err(|_| error("the prefix is not a number"))?;
        // A wider network would overlap with everything, a narrower one has no room for pods.
        if !(12..=29).contains(&prefix) {
            return Err(error("the prefix must be between 12 and 29"));
        }
        if u32::from(base) & ((1 << (32 - prefix)) - 1) != 0 {
            return Err(error("the address has bits set beyond the prefix"));
        }
        Ok(Self { base, prefix })
    }
}

/// Hands out the lowest address that was never used; when all were, the one that has been free
/// for longest: others may still remember a recent one.
pub(crate) struct Pool {
    first: u32,
    unused: u32,
    end: u32,
    returned: VecDeque<u32>,
}

impl Pool {
    pub(crate) fn new(cidr: Cidr) -> Self {
        let first = u32::from(cidr.gateway()) + 1;
        Self {
            first,
            unused: first,
            end: first + cidr.hosts(),
            returned: VecDeque::new(),
        }
    }

    pub(crate) fn take(&mut self) -> Option<Ipv4Addr> {
        if self.unused < self.end {
            self.unused += 1;
            return Some(Ipv4Addr::from(self.unused - 1));
        }
        self.returned.pop_front().map(Ipv4Addr::from)
    }

    /// Take one that is in use already; false if it is of another network, or taken.
    pub(crate) fn claim(&mut self, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        if (self.unused..self.end).contains(&address) {
            self.returned.extend(self.unused..address);
            self.unused = address + 1;
            return true;
        }
        let before = self.returned.len();
        self.returned.retain(|free| *free != address);
        self.returned.len() < before
    }

    pub(crate) fn give_back(&mut self, address: Ipv4Addr) {
        let address = u32::from(address);
        if (self.first..self.unused).contains(&address) && !self.returned.contains(&address) {
            self.returned.push_back(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_reused_last() {
        let mut pool = Pool::new("10.1.2.0/29".parse().unwrap());
        let all: Vec<_> = std::iter::from_fn(|| pool.take())
            .map(|a| a.octets()[3])
            .collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        pool.give_back(Ipv4Addr::new(10, 1, 2, 5));
        pool.give_back(Ipv4Addr::new(10, 1, 2, 3));
        pool.give_back(Ipv4Addr::new(10, 1, 2, 3));
        pool.give_back(Ipv4Addr::new(10, 9, 9, 9));
        let again: Vec<_> = std::iter::from_fn(|| pool.take())
            .map(|a| a.octets()[3])
            .collect();
        assert_eq!(again, [5, 3], "oldest first, strangers and doubles ignored");
    }

    #[test]
    fn an_address_that_is_in_use_is_not_handed_out() {
        let mut pool = Pool::new("10.1.2.0/29".parse().unwrap());
        assert!(pool.claim(Ipv4Addr::new(10, 1, 2, 4)));
        assert!(pool.claim(Ipv4Addr::new(10, 1, 2, 2)));
        assert!(!pool.claim(Ipv4Addr::new(10, 1, 2, 4)), "taken");
        assert!(!pool.claim(Ipv4Addr::new(10, 1, 2, 1)), "the gateway's");
        assert!(
            !pool.claim(Ipv4Addr::new(10, 9, 9, 9)),
            "of another network"
        );
        let all: Vec<_> = std::iter::from_fn(|| pool.take())
            .map(|a| a.octets()[3])
            .collect();
        assert_eq!(all, [5, 6, 3]);
    }

    #[test]
    fn networks_are_read_and_refused_with_reasons() {
        let cidr: Cidr = "10.244.0.0/24".parse().unwrap();
        assert_eq!(cidr.gateway(), Ipv4Addr::new(10, 244, 0, 1));
        assert_eq!(cidr.hosts(), 253);
        assert!(cidr.contains(Ipv4Addr::new(10, 244, 0, 255)));
        assert!(!cidr.contains(Ipv4Addr::new(10, 244, 1, 0)));
        for wrong in [
            "",
            "10.244.0.0",
            "10.244.0.1/24",
            "fd00::/64",
            "10.0.0.0/8",
            "10.0.0.0/x",
        ] {
            let error = wrong.parse::<Cidr>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("pod network {wrong:?}: ")),
                "{error}"
            );
        }
    }
}
