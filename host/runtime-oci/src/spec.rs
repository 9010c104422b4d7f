//! The OCI runtime configuration (`config.json`) of a container: pure, from what the pod and the
//! image say.
//!
//! Defaults are those that containers get from Kubernetes' usual runtimes, with two exceptions.
//! `CAP_MKNOD` is not given unless asked for: on cgroup v2 a container that can make device nodes
//! could open any disk, and hardly any program needs it. And a container that says nothing about
//! seccomp has the default profile.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use eyot_runtime::{ContainerError, ContainerSpec, ImageConfig, Mount, Processes, Propagation};
use serde_json::{Value, json};

use crate::{capability::Capabilities, pod::PodSpace, user::User};

/// What most images expect if they say nothing, as in the OCI image configuration's usual value.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Tasks of a container without a limit of its own: a fork bomb must not take the host down, and
/// no ordinary program comes near it.
const DEFAULT_PIDS: u64 = 4096;

/// The kernel's usual period for processor quotas, in microseconds, and its smallest quota.
pub(crate) const CPU_PERIOD: u64 = 100_000;
const MIN_CPU_QUOTA: u64 = 1_000;

/// Score of a container of which none is said.
const OOM_SCORE: i32 = 500;

/// The smallest weight that the kernel takes.
pub(crate) const MIN_SHARES: u64 = 2;

/// Kernel interfaces that tell about the host or reach it; hidden.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Kernel interfaces that programs read but must not write.
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Files of the host's making that are shown in every container.
pub(crate) const HOST_FILES: &[&str] = &["/etc/hosts", "/etc/hostname"];

/// Everything that is not in the [`ContainerSpec`] itself.
pub(crate) struct Surroundings<'a> {
    pub(crate) config: &'a ImageConfig,
    pub(crate) root: &'a Path,
    pub(crate) user: &'a User,
    /// Directory with the host's version of [`HOST_FILES`], by last name.
    pub(crate) files: &'a Path,
    /// What the containers of the pod share.
    pub(crate) space: &'a PodSpace,
    pub(crate) cgroup: &'a str,
    pub(crate) capabilities: Capabilities,
    /// The filter of system calls, if any.
    pub(crate) seccomp: Option<Value>,
    /// Device nodes beside the usual harmless ones, in the specification's form.
    pub(crate) devices: Vec<Value>,
    /// The lowest score that a container may have: it goes before the host when memory runs out.
    pub(crate) least_oom_score: i32,
    /// The namespace of processes to join, if not one of its own.
    pub(crate) pid_namespace: Option<PathBuf>,
}

/// The configuration, as `config.json` holds it.
pub(crate) fn runtime_spec(
    spec: &ContainerSpec,
    around: &Surroundings<'_>,
) -> Result<Value, ContainerError> {
    let security = &spec.security;
    let mut namespaces = vec![
        json!({ "type": "uts", "path": around.space.uts() }),
        json!({ "type": "mount" }),
        json!({ "type": "cgroup" }),
    ];
    if let Some(path) = &around.pid_namespace {
        namespaces.push(json!({ "type": "pid", "path": path }));
    } else if security.processes != Processes::Host {
        namespaces.push(json!({ "type": "pid" }));
    }
    if !security.host_ipc {
        namespaces.push(json!({ "type": "ipc", "path": around.space.ipc() }));
    }
    if let Some(netns) = &spec.sandbox.netns {
        namespaces.push(json!({ "type": "network", "path": netns }));
    }
    let capabilities = json!(around.capabilities.names());
    let hidden = !security.privileged && !security.unmasked;
    let sysctls: BTreeMap<&str, &str> = security
        .sysctls
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut config = json!({
        "ociVersion": "1.0.2",
        "hostname": spec.sandbox.hostname,
        "root": { "path": around.root, "readonly": security.read_only_root },
        "process": {
            "terminal": spec.tty,
            "user": {
                "uid": around.user.uid,
                "gid": around.user.gid,
                "additionalGids": around.user.additional_gids,
            },
            "args": arguments(spec, around.config)?,
            "env": environment(spec, around.config)?,
            "cwd": working_dir(spec, around.config)?,
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "oomScoreAdj": spec.limits.oom_score.unwrap_or(OOM_SCORE).max(around.least_oom_score),
        },
        "mounts": mounts(spec, around)?,
        "linux": {
            "cgroupsPath": around.cgroup,
            "namespaces": namespaces,
            "resources": resources(spec),
            "maskedPaths": if hidden { MASKED } else { &[] },
            "readonlyPaths": if hidden { READ_ONLY } else { &[] },
            "devices": around.devices,
            "sysctl": sysctls,
        },
    });
    // A filter that is absent and a promise that is not made have no value that says so.
    if let Some(seccomp) = &around.seccomp {
        config["linux"]["seccomp"] = seccomp.clone();
    }
    // What the container mounts leaves it only through a root that lets it.
    let mut mounts = spec.mounts.iter();
    if mounts.any(|mount| mount.propagation == Propagation::Both) {
        config["linux"]["rootfsPropagation"] = "shared".into();
    }
    if security.no_new_privileges {
        config["process"]["noNewPrivileges"] = true.into();
    }
    Ok(config)
}

/// Kubernetes' rules: `command` replaces the entry point *and* drops the image's `Cmd`; `args`
/// replaces `Cmd` alone.
pub(crate) fn arguments(
    spec: &ContainerSpec,
    config: &ImageConfig,
) -> Result<Vec<String>, ContainerError> {
    let (first, rest) = match (spec.command.is_empty(), spec.args.is_empty()) {
        (true, true) => (&config.entrypoint, &config.cmd),
        (true, false) => (&config.entrypoint, &spec.args),
        (false, _) => (&spec.command, &spec.args),
    };
    let arguments: Vec<String> = first.iter().chain(rest).cloned().collect();
    if arguments.is_empty() {
        return Err(ContainerError::Image {
            image: spec.image.reference.clone(),
            reason: "it has no entry point; set command in the container".into(),
        });
    }
    match arguments.iter().any(|argument| argument.contains('\0')) {
        true => Err(refuse(spec, "command", "an argument contains a NUL byte")),
        false => Ok(arguments),
    }
}

/// The image's variables, then HOSTNAME, then the manifest's; the last of a name wins.
fn environment(spec: &ContainerSpec, config: &ImageConfig) -> Result<Vec<String>, ContainerError> {
    let hostname = ("HOSTNAME".to_owned(), spec.sandbox.hostname.clone());
    let mut variables: Vec<(String, String)> = Vec::new();
    for (name, value) in config.env.iter().chain([&hostname]).chain(&spec.env) {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(refuse(
                spec,
                "env",
                &format!("{name:?} cannot be a variable"),
            ));
        }
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => variables.push((name.clone(), value.clone())),
        }
    }
    if !variables.iter().any(|(name, _)| name == "PATH") {
        variables.insert(0, ("PATH".into(), DEFAULT_PATH.into()));
    }
    Ok(variables
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect())
}

pub(crate) fn working_dir(
    spec: &ContainerSpec,
    config: &ImageConfig,
) -> Result<String, ContainerError> {
    let directory = spec
        .working_dir
        .as_deref()
        .or(config.working_dir.as_deref())
        .filter(|directory| !directory.is_empty())
        .unwrap_or("/");
    if !directory.starts_with('/') || directory.split('/').any(|name| name == "..") {
        let reason = format!("{directory:?} is not an absolute path without \"..\"");
        return Err(refuse(spec, "workingDir", &reason));
    }
    Ok(directory.to_owned())
}

fn mounts(spec: &ContainerSpec, around: &Surroundings<'_>) -> Result<Vec<Value>, ContainerError> {
    let special = |kind: &str, target: &str, options: &[&str]| json!({ "type": kind, "source": kind, "destination": target, "options": options });
    let hard = ["nosuid", "noexec", "nodev"];
    let kernel_access = match spec.security.privileged {
        true => "rw",
        false => "ro",
    };
    let mut mounts = vec![
        special("proc", "/proc", &hard),
        special(
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        special(
            "devpts",
            "/dev/pts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        special("mqueue", "/dev/mqueue", &hard),
        special("sysfs", "/sys", &[&hard[..], &[kernel_access]].concat()),
    ];
    // libcontainer looks for the container's groups by the number that its process has in a namespace
    // which it joins; on the machine that is another process, or none, and then nothing starts.
    if !matches!(spec.security.processes, Processes::Pod | Processes::Of(_)) {
        mounts.push(special(
            "cgroup",
            "/sys/fs/cgroup",
            &[&hard[..], &["relatime", kernel_access]].concat(),
        ));
    }
    let bind = |source: &Path, target: &str, access: &str| {
        json!({
            "type": "bind",
            "source": source,
            "destination": target,
            "options": ["rbind", "rprivate", access],
        })
    };
    let volume = |mount: &Mount| {
        let propagation = match mount.propagation {
            Propagation::None => "rprivate",
            Propagation::FromHost => "rslave",
            Propagation::Both => "rshared",
        };
        let access = if mount.read_only { "ro" } else { "rw" };
        let mut options = vec!["rbind", propagation, access];
        // Everything below, too.
        options.extend(mount.recursive_read_only.then_some("rro"));
        json!({
            "type": "bind",
            "source": mount.source,
            "destination": mount.target,
            "options": options,
        })
    };
    let shm = match spec.security.host_ipc {
        true => PathBuf::from("/dev/shm"),
        false => around.space.shm(),
    };
    mounts.push(bind(&shm, "/dev/shm", "rw"));
    for file in HOST_FILES {
        if spec.mounts.iter().all(|mount| mount.target != *file) {
            let name = file.rsplit('/').next().unwrap_or(file);
            let access = if spec.security.read_only_root {
                "ro"
            } else {
                "rw"
            };
            mounts.push(bind(&around.files.join(name), file, access));
        }
    }
    for mount in &spec.mounts {
        if !mount.target.starts_with('/') || mount.target.split('/').any(|name| name == "..") {
            let reason = format!("{:?} is not an absolute path without \"..\"", mount.target);
            return Err(refuse(spec, "volumeMounts", &reason));
        }
        if !mount.source.exists() {
            let reason = format!("{} does not exist on the node", mount.source.display());
            return Err(refuse(spec, "volumeMounts", &reason));
        }
        mounts.push(volume(mount));
    }
    Ok(mounts)
}

fn resources(spec: &ContainerSpec) -> Value {
    let limits = &spec.limits;
    let mut resources = json!({
        // All devices are denied; libcontainer adds the usual harmless ones (null, zero, …).
        "devices": [{ "allow": spec.security.privileged, "access": "rwm" }],
        "pids": { "limit": limits.pids.unwrap_or(DEFAULT_PIDS) },
    });
    if let Some(bytes) = limits.memory {
        resources["memory"] = json!({ "limit": i64::try_from(bytes).unwrap_or(i64::MAX) });
    }
    // On the unified hierarchy libcontainer makes the weight of the shares.
    resources["cpu"] = json!({ "shares": shares(limits.cpu_request_millis) });
    if let Some(millis) = limits.cpu_millis {
        resources["cpu"]["quota"] = quota(millis).into();
        resources["cpu"]["period"] = CPU_PERIOD.into();
    }
    resources
}

/// The kernel's weight for a share of processors: 1024 for one.
pub(crate) fn shares(millis: Option<u64>) -> u64 {
    (millis.unwrap_or(0).saturating_mul(1024) / 1000).max(MIN_SHARES)
}

/// Microseconds of processor time in each [`CPU_PERIOD`].
pub(crate) fn quota(millis: u64) -> i64 {
    let quota = (millis.saturating_mul(CPU_PERIOD) / 1000).max(MIN_CPU_QUOTA);
    i64::try_from(quota).unwrap_or(i64::MAX)
}

fn refuse(spec: &ContainerSpec, field: &str, reason: &str) -> ContainerError {
    ContainerError::Config {
        field: format!("container {} {field}", spec.name),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests;
