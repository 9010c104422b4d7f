//! Which checks make a level, in which version: the Pod Security Standards as Kubernetes has them.

use super::{
    baseline,
    level::{Level, Standard, Version},
    pod::{Pod, Violation},
    restricted,
};

/// What `latest` means: the version whose API is served.
const NEWEST: u32 = 36;

/// One check, over the versions in which it is made this way.
struct Check {
    level: Level,
    /// The first minor version.
    since: u32,
    /// The minor version since which it is made no more, or in another way.
    until: u32,
    /// The check of the baseline that it stands for.
    instead: &'static str,
    name: &'static str,
    /// Windows knows nothing of what it asks for.
    linux: bool,
    run: fn(Pod<'_>, u32) -> Option<Violation>,
}

const ALWAYS: u32 = u32::MAX;

const BASE: Check = Check {
    level: Level::Baseline,
    since: 0,
    until: ALWAYS,
    instead: "",
    name: "",
    linux: false,
    run: |_, _| None,
};
const STRICT: Check = Check {
    level: Level::Restricted,
    ..BASE
};

/// In the order in which violations are told.
const CHECKS: &[Check] = &[
    Check {
        run: |pod, _| baseline::app_armor(pod),
        ..BASE
    },
    Check {
        name: "capabilities",
        run: |pod, _| baseline::capabilities(pod),
        ..BASE
    },
    Check {
        run: |pod, _| baseline::host_namespaces(pod),
        ..BASE
    },
    Check {
        name: "hostPath",
        run: |pod, _| baseline::host_path(pod),
        ..BASE
    },
    Check {
        run: |pod, _| baseline::host_ports(pod),
        ..BASE
    },
    Check {
        since: 34,
        run: |pod, _| baseline::probe_hosts(pod),
        ..BASE
    },
    Check {
        run: |pod, _| baseline::privileged(pod),
        ..BASE
    },
    Check {
        until: 35,
        run: |pod, _| baseline::proc_mount(pod),
        ..BASE
    },
    Check {
        since: 35,
        name: "procMount",
        run: |pod, _| baseline::proc_mount_35(pod),
        ..BASE
    },
    Check {
        until: 31,
        run: |pod, _| baseline::se_linux(pod),
        ..BASE
    },
    Check {
        since: 31,
        run: |pod, _| baseline::se_linux_31(pod),
        ..BASE
    },
    Check {
        until: 19,
        run: |pod, _| baseline::seccomp_annotations(pod),
        ..BASE
    },
    Check {
        since: 19,
        name: "seccomp",
        run: |pod, _| baseline::seccomp(pod),
        ..BASE
    },
    Check {
        run: baseline::sysctls,
        ..BASE
    },
    Check {
        run: |pod, _| baseline::windows_host_process(pod),
        ..BASE
    },
    Check {
        since: 8,
        linux: true,
        run: |pod, _| restricted::privilege_escalation(pod),
        ..STRICT
    },
    Check {
        since: 22,
        instead: "capabilities",
        linux: true,
        run: |pod, _| restricted::capabilities(pod),
        ..STRICT
    },
    Check {
        since: 35,
        instead: "procMount",
        run: |pod, _| baseline::proc_mount(pod),
        ..STRICT
    },
    Check {
        instead: "hostPath",
        run: |pod, _| restricted::volumes(pod),
        ..STRICT
    },
    Check {
        until: 35,
        run: |pod, _| restricted::non_root(pod),
        ..STRICT
    },
    Check {
        since: 35,
        run: |pod, _| restricted::non_root_35(pod),
        ..STRICT
    },
    Check {
        since: 23,
        until: 35,
        run: |pod, _| restricted::user(pod),
        ..STRICT
    },
    Check {
        since: 35,
        run: |pod, _| restricted::user_35(pod),
        ..STRICT
    },
    Check {
        since: 19,
        instead: "seccomp",
        linux: true,
        run: |pod, _| restricted::seccomp(pod),
        ..STRICT
    },
];

/// Since when pods of Windows need not do what only Linux can.
const WINDOWS: u32 = 25;

/// In what a pod does not keep to a standard.
pub(super) fn violations(pod: Pod<'_>, standard: Standard) -> Vec<Violation> {
    let version = match standard.version {
        Version::Latest => NEWEST,
        Version::Minor(minor) => minor.min(NEWEST),
    };
    let of_version = |check: &&Check| {
        check.level <= standard.level && (check.since..check.until).contains(&version)
    };
    let stricter: Vec<&str> = CHECKS
        .iter()
        .filter(of_version)
        .map(|c| c.instead)
        .collect();
    CHECKS
        .iter()
        .filter(of_version)
        .filter(|check| check.name.is_empty() || !stricter.contains(&check.name))
        .filter(|check| !(check.linux && version >= WINDOWS && pod.is_windows()))
        .filter_map(|check| (check.run)(pod, version))
        .collect()
}

/// `privileged (container "a" must not ...), runAsUser=0 (...)`
pub(super) fn in_detail(violations: &[Violation]) -> String {
    let texts = violations.iter().map(|one| match one.detail.as_str() {
        "" => one.reason.to_owned(),
        detail => format!("{} ({detail})", one.reason),
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// `privileged, runAsUser=0`
pub(super) fn in_short(violations: &[Violation]) -> String {
    let reasons: Vec<&str> = violations.iter().map(|one| one.reason).collect();
    reasons.join(", ")
}
