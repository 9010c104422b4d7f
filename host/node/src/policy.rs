//! What this host lets pods have.

use crate::eviction::Thresholds;

/// The node's own rules, beside those of the API. The default is what most machines want.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Where others reach this machine; [`crate::own_address`] if `None`.
    pub address: Option<std::net::IpAddr>,
    /// Whether `privileged: true` is carried out: such a container can do with the machine what
    /// this host can.
    pub privileged: bool,
    /// Tasks that one pod may have; the runtime's own bound if `None`.
    pub pod_pids: Option<u64>,
    /// Pods that it takes; as many as a kubelet if `None`.
    pub pods: Option<u32>,
    /// When the machine is so short of memory or disk that pods have to go.
    pub eviction: Thresholds,
    /// Kernel parameters beside the safe ones that pods may set; `kernel.msg*` stands for all that
    /// begin so.
    pub unsafe_sysctls: Vec<String>,
}

/// Kernel parameters that every pod may set: they belong to its own namespaces and cost others
/// nothing.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Kernel parameters of which each pod has its own, and the beginnings of such.
const NAMESPACED: &[&str] = &["kernel.shm", "kernel.msg", "fs.mqueue.", "net."];
const NAMESPACED_ALONE: &str = "kernel.sem";

impl Policy {
    /// Refuse to let pods set kernel parameters that all of the machine shares.
    ///
    /// # Errors
    ///
    /// Names the first such parameter, or pattern that stands for one.
    pub fn check_sysctls(&self) -> Result<(), String> {
        let own = |name: &str| {
            name == NAMESPACED_ALONE || NAMESPACED.iter().any(|known| name.starts_with(known))
        };
        match self.unsafe_sysctls.iter().find(|name| !own(name)) {
            Some(name) => Err(format!(
                "the sysctl \"{name}\" belongs to the whole machine, not to a pod: only \
                 kernel.sem, kernel.shm*, kernel.msg*, fs.mqueue.* and net.* can be allowed"
            )),
            None => Ok(()),
        }
    }

    /// Whether pods may set this kernel parameter, written with dots.
    pub(crate) fn allows_sysctl(&self, name: &str) -> bool {
        SAFE_SYSCTLS.contains(&name)
            || self.unsafe_sysctls.iter().any(|known| {
                known == name
                    || known
                        .strip_suffix('*')
                        .is_some_and(|beginning| name.starts_with(beginning))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_a_pod_can_be_allowed() {
        let policy = |names: &[&str]| Policy {
            unsafe_sysctls: names.iter().map(|&name| name.to_owned()).collect(),
            ..Policy::default()
        };
        let allowed = policy(&["net.core.*", "kernel.sem", "kernel.msg*"]);
        assert_eq!(allowed.check_sysctls(), Ok(()));
        for (name, is) in [
            ("net.core.somaxconn", true),
            ("kernel.msgmax", true),
            ("kernel.sem", true),
            ("kernel.shm_rmid_forced", true),
            ("kernel.semaphore", false),
            ("net.ipv4.ip_forward", false),
        ] {
            assert_eq!(allowed.allows_sysctl(name), is, "{name}");
        }
        for name in [
            "*",
            "kernel.*",
            "vm.swappiness",
            "kernel.panic",
            "kernel.sem*",
            "net*",
        ] {
            assert!(policy(&["net.*", name]).check_sysctls().is_err(), "{name}");
        }
    }
}
