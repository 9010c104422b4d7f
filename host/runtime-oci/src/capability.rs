//! The capabilities of a container: from what the manifest adds and drops, and what this host has
//! to give.

use std::{fs, io};

/// All that the kernel knows, in the order of their numbers; see capabilities(7).
const NAMES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has whose manifest says nothing.
const DEFAULT: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// A set of capabilities, one bit each, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Capabilities(u64);

impl Capabilities {
    /// What this process could hand on.
    pub(crate) fn of_host() -> io::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/self/status")?)
            .ok_or_else(|| io::Error::other("/proc/self/status names no bounding set"))
    }

    fn parse(status: &str) -> Option<Self> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("CapBnd:"))?;
        u64::from_str_radix(line.trim(), 16).ok().map(Self)
    }

    /// All that there is.
    #[cfg(test)]
    pub(crate) fn all() -> Self {
        Self(NAMES.iter().filter_map(|name| bit(name)).sum())
    }

    /// Kubernetes' rules: `ALL` comes first, whichever list it is in, then what is added by name,
    /// then what is dropped by name. The error names what cannot be given.
    pub(crate) fn wanted(add: &[String], drop: &[String], host: Self) -> Result<Self, String> {
        let has_all = |list: &[String]| list.iter().any(|name| plain(name) == "ALL");
        let mut set = DEFAULT.iter().filter_map(|name| bit(name)).sum::<u64>() & host.0;
        if has_all(add) {
            set = host.0 & NAMES.iter().filter_map(|name| bit(name)).sum::<u64>();
        }
        if has_all(drop) {
            set = 0;
        }
        for name in add.iter().map(|name| plain(name)).filter(|n| n != "ALL") {
            let bit = bit(&name).ok_or_else(|| format!("unknown capability to add: {name:?}"))?;
            if host.0 & bit == 0 {
                return Err(format!(
                    "capability {name} cannot be added: this host does not have it itself"
                ));
            }
            set |= bit;
        }
        for name in drop.iter().map(|name| plain(name)).filter(|n| n != "ALL") {
            let bit = bit(&name).ok_or_else(|| format!("unknown capability to drop: {name:?}"))?;
            set &= !bit;
        }
        Ok(Self(set))
    }

    pub(crate) fn has(self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.0 & bit != 0)
    }

    /// As the runtime specification names them.
    pub(crate) fn names(self) -> Vec<String> {
        NAMES
            .iter()
            .filter(|name| self.has(name))
            .map(|name| format!("CAP_{name}"))
            .collect()
    }
}

/// Manifests may or may not write the prefix.
fn plain(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper
        .strip_prefix("CAP_")
        .map_or_else(|| upper.clone(), str::to_owned)
}

fn bit(name: &str) -> Option<u64> {
    let number = NAMES.iter().position(|known| *known == name)?;
    Some(1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(add: &str, drop: &str) -> Result<Vec<String>, String> {
        let words =
            |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        let host = Capabilities(Capabilities::all().0 & !bit("SYS_RESOURCE").unwrap());
        Capabilities::wanted(&words(add), &words(drop), host).map(Capabilities::names)
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_kubernetes_does() {
        assert_eq!(wanted("", "").unwrap().len(), DEFAULT.len());
        assert_eq!(wanted("", "ALL").unwrap(), Vec::<String>::new());
        assert_eq!(wanted("NET_ADMIN", "ALL").unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(wanted("net_admin", "all").unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(wanted("CAP_NET_ADMIN", "ALL").unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(wanted("ALL", "CHOWN").unwrap().len(), NAMES.len() - 2);
        assert_eq!(wanted("ALL", "ALL").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_given_is_named() {
        assert_eq!(
            wanted("NO_SUCH", "").unwrap_err(),
            "unknown capability to add: \"NO_SUCH\""
        );
        assert_eq!(
            wanted("SYS_RESOURCE", "").unwrap_err(),
            "capability SYS_RESOURCE cannot be added: this host does not have it itself"
        );
    }

    #[test]
    fn the_hosts_own_set_is_read() {
        assert!(Capabilities::of_host().is_ok());
        assert_eq!(
            Capabilities::parse("CapBnd:\t0000000000000003\n")
                .unwrap()
                .names(),
            ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]
        );
        assert_eq!(Capabilities::parse("nothing"), None);
    }
}
