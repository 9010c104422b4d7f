//! The default system call filter of containers: what ordinary programs use, and nothing that
//! manages the machine.
//!
//! The list names what is *refused* with a reason for each group; everything else that the kernel
//! knows today is allowed. Calls that only a privileged process may make are refused by missing
//! capabilities as well: the filter keeps their code, where the kernel's bugs tend to be, out of
//! reach.

use serde_json::{Value, json};

const EPERM: i32 = libc::EPERM;
const ENOSYS: i32 = libc::ENOSYS;

/// Refused with "operation not permitted".
const REFUSED: &[&[&str]] = &[
    // The kernel itself: modules, other kernels, its memory and log.
    &[
        "create_module",
        "delete_module",
        "finit_module",
        "get_kernel_syms",
        "init_module",
        "kexec_file_load",
        "kexec_load",
        "query_module",
        "reboot",
        "syslog",
    ],
    // The file systems of others, and opening files by a number that ignores directories.
    &[
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "mount",
        "mount_setattr",
        "move_mount",
        "open_by_handle_at",
        "open_tree",
        "pivot_root",
        "quotactl",
        "quotactl_fd",
        "swapoff",
        "swapon",
        "umount",
        "umount2",
    ],
    // Entering or making namespaces.
    &["setns", "unshare"],
    // Looking into other processes and into the kernel's work.
    &[
        "bpf",
        "fanotify_init",
        "kcmp",
        "lookup_dcookie",
        "perf_event_open",
        "process_madvise",
        "process_vm_readv",
        "process_vm_writev",
        "userfaultfd",
    ],
    // Keys belong to users of the host, not to a namespace.
    &["add_key", "keyctl", "request_key"],
    // The machine's clock, ports, accounting and placement of memory.
    &[
        "acct",
        "adjtimex",
        "clock_adjtime",
        "clock_adjtime64",
        "clock_settime",
        "clock_settime64",
        "ioperm",
        "iopl",
        "migrate_pages",
        "move_pages",
        "nfsservctl",
        "set_mempolicy_home_node",
        "settimeofday",
        "stime",
        "sysfs",
        "_sysctl",
        "uselib",
        "ustat",
        "vhangup",
        "vm86",
        "vm86old",
        "vserver",
    ],
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

/// The profile in the runtime specification's form.
pub(crate) fn profile() -> Value {
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
        .flat_map(|group| group.iter().copied())
        .collect();
    let mut vsock = refuse(json!(["socket"]));
    vsock["args"] = json!([{ "index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_EQ" }]);
    let mut calls = vec![
        refuse(json!(refused)),
        json!({ "names": ABSENT, "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }),
        vsock,
    ];
    // One rule for each flag: the conditions inside a rule are all required.
    for bit in (0..32).filter(|bit| NAMESPACE_FLAGS & (1_u64 << bit) != 0) {
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
