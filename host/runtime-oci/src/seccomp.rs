//! The default system call filter of containers: what ordinary programs use, and nothing that
//! manages the machine.
//!
//! The list names what is *refused* with a reason for each group; everything else that the kernel
//! knows today is allowed. Calls that only a privileged process may make are refused by missing
//! capabilities as well: the filter keeps their code, where the kernel's bugs tend to be, out of
//! reach.

use serde_json::{Value, json};

use crate::capability::Capabilities;

const EPERM: i32 = libc::EPERM;
const ENOSYS: i32 = libc::ENOSYS;

/// Calls that are refused with "operation not permitted", unless the container has one of these
/// capabilities: who is given `SYS_TIME` is meant to set the clock.
struct Refused {
    unless: &'static [&'static str],
    calls: &'static [&'static str],
}

const REFUSED: &[Refused] = &[
    // The kernel itself: other kernels, its symbols.
    Refused {
        unless: &[],
        calls: &[
            "create_module",
            "get_kernel_syms",
            "kexec_file_load",
            "kexec_load",
            "query_module",
        ],
    },
    Refused {
        unless: &["SYS_MODULE"],
        calls: &["delete_module", "finit_module", "init_module"],
    },
    Refused {
        unless: &["SYS_BOOT"],
        calls: &["reboot"],
    },
    Refused {
        unless: &["SYS_ADMIN", "SYSLOG"],
        calls: &["syslog"],
    },
    // The file systems of others.
    Refused {
        unless: &["SYS_ADMIN"],
        calls: &[
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "quotactl",
            "quotactl_fd",
            "umount",
            "umount2",
        ],
    },
    Refused {
        unless: &[],
        calls: &["pivot_root", "swapoff", "swapon"],
    },
    // Opening files by a number that ignores directories.
    Refused {
        unless: &["DAC_READ_SEARCH"],
        calls: &["open_by_handle_at"],
    },
    // Entering or making namespaces.
    Refused {
        unless: &["SYS_ADMIN"],
        calls: &["setns", "unshare"],
    },
    // Looking into other processes and into the kernel's work.
    Refused {
        unless: &["SYS_ADMIN", "BPF"],
        calls: &["bpf"],
    },
    Refused {
        unless: &["SYS_ADMIN", "PERFMON"],
        calls: &["perf_event_open"],
    },
    Refused {
        unless: &["SYS_ADMIN"],
        calls: &["fanotify_init", "lookup_dcookie"],
    },
    Refused {
        unless: &["SYS_PTRACE"],
        calls: &[
            "kcmp",
            "process_madvise",
            "process_vm_readv",
            "process_vm_writev",
        ],
    },
    Refused {
        unless: &[],
        calls: &["userfaultfd"],
    },
    // Keys belong to users of the host, not to a namespace.
    Refused {
        unless: &[],
        calls: &["add_key", "keyctl", "request_key"],
    },
    // The machine's clock, ports, accounting and placement of memory.
    Refused {
        unless: &["SYS_PACCT"],
        calls: &["acct"],
    },
    Refused {
        unless: &["SYS_TIME"],
        calls: &[
            "adjtimex",
            "clock_adjtime",
            "clock_adjtime64",
            "clock_settime",
            "clock_settime64",
            "settimeofday",
            "stime",
        ],
    },
    Refused {
        unless: &["SYS_RAWIO"],
        calls: &["ioperm", "iopl"],
    },
    Refused {
        unless: &["SYS_NICE"],
        calls: &["migrate_pages", "move_pages", "set_mempolicy_home_node"],
    },
    Refused {
        unless: &["SYS_TTY_CONFIG"],
        calls: &["vhangup"],
    },
    Refused {
        unless: &[],
        calls: &[
            "nfsservctl",
            "sysfs",
            "_sysctl",
            "uselib",
            "ustat",
            "vm86",
            "vm86old",
            "vserver",
        ],
    },
];

/// Refused with "no such call", so that programs fall back to the older way: io_uring bypasses
/// this filter, and clone3 passes its flags where a filter cannot see them.
const ABSENT: &[&str] = &[
    "clone3",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
];

/// Flags of `clone` that make namespaces (`CLONE_NEW*`).
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// Only network protocols: AF_VSOCK reaches the hypervisor.
const AF_VSOCK: u64 = 40;

/// The profile of a container with these capabilities, in the runtime specification's form.
pub(crate) fn profile(capabilities: Capabilities) -> Value {
    let architectures: &[&str] = match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        _ => &[],
    };
    let refuse =
        |names: Value| json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM });
    let refused: Vec<&str> = REFUSED
        .iter()
        .filter(|group| !group.unless.iter().any(|name| capabilities.has(name)))
        .flat_map(|group| group.calls.iter().copied())
        .collect();
    let mut vsock = refuse(json!(["socket"]));
    vsock["args"] = json!([{ "index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_EQ" }]);
    let mut calls = vec![
        refuse(json!(refused)),
        json!({ "names": ABSENT, "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }),
        vsock,
    ];
    // One rule for each flag: the conditions inside a rule are all required.
    let flags = match capabilities.has("SYS_ADMIN") {
        true => 0,
        false => NAMESPACE_FLAGS,
    };
    for bit in (0..32).filter(|bit| flags & (1_u64 << bit) != 0) {
        let flag = 1_u64 << bit;
        let mut rule = refuse(json!(["clone"]));
        rule["args"] = json!([
            { "index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ" }
        ]);
        calls.push(rule);
    }
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": architectures,
        "syscalls": calls,
    })
}
