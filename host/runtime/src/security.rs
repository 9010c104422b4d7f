//! What the processes of a container may do, and what they share: the parts of a pod's
//! `securityContext` that a runtime carries out. The node has decided between the pod's word, the
//! container's and the defaults; nothing is left to choose here.

use std::path::PathBuf;

/// How a container is confined. The default is an ordinary container of the image's own user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// Numeric user; the image's if `None`.
    pub user: Option<u32>,
    /// Numeric group; that of the user in the image's `/etc/passwd` if `None`.
    pub group: Option<u32>,
    /// Groups beside that one: the pod's `supplementalGroups` and `fsGroup`.
    pub groups: Vec<u32>,
    /// `supplementalGroupsPolicy: Strict`: the image's `/etc/group` adds none.
    pub only_these_groups: bool,
    /// Names of capabilities as the manifest has them (`NET_ADMIN`, `ALL`).
    pub add: Vec<String>,
    pub drop: Vec<String>,
    pub read_only_root: bool,
    /// `allowPrivilegeEscalation: false`: set-user-id programs give nothing.
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// `procMount: Unmasked`: nothing of `/proc` is hidden.
    pub unmasked: bool,
    /// All capabilities, all devices, nothing hidden, no filter.
    pub privileged: bool,
    pub processes: Processes,
    /// Share System V IPC, message queues and `/dev/shm` with the machine instead of with the pod.
    pub host_ipc: bool,
    /// Kernel parameters of the pod's namespaces, `net.core.somaxconn` for example.
    pub sysctls: Vec<(String, String)>,
}

/// Which system calls are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The runtime's own list.
    #[default]
    Default,
    Unconfined,
    /// A profile in the runtime specification's form, in a file of this machine.
    File(PathBuf),
}

/// Which processes a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Processes {
    /// Its own.
    #[default]
    Own,
    /// Those of all containers of the pod (`shareProcessNamespace`).
    Pod,
    /// All of the machine (`hostPID`).
    Host,
    /// Those of the container with this identifier, as well as its own.
    Of(String),
}
