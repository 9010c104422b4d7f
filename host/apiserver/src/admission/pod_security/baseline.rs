//! The checks of the level `baseline`: nothing that is known to lead out of a container.

use serde_json::Value;

use super::pod::{Pod, Violation, containers, context, plural, quoted, setters, sorted, texts};
use crate::object::{at, text};

const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Capabilities that containers have unless they drop them.
const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Sysctls that touch the pod alone, with the version since which they count as such.
const SYSCTLS: [(u32, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

/// `RuntimeDefault` and `Localhost` are good for both seccomp and AppArmor.
fn is_confined(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

/// The `type` of a profile in the pod's security context.
pub(super) fn pod_profile<'a>(pod: Pod<'a>, profile: &str) -> Option<&'a str> {
    let profile = pod.spec(&["securityContext", profile])?;
    (!profile.is_null()).then(|| text(profile, &["type"]))
}

/// The `type` of a profile in a container's.
pub(super) fn container_profile<'a>(container: &'a Value, profile: &str) -> Option<&'a str> {
    context(container, &[profile]).map(|profile| text(profile, &["type"]))
}

/// Profiles that confine nothing, by those who set them.
pub(super) struct Unconfined<'a> {
    pub(super) pod: bool,
    pub(super) containers: Vec<&'a str>,
    pub(super) values: Vec<&'a str>,
}

impl<'a> Unconfined<'a> {
    pub(super) fn find(pod: Pod<'a>, profile: &str) -> Unconfined<'a> {
        let bad = |kind: Option<&'a str>| kind.filter(|kind| !is_confined(kind));
        let of_pod = bad(pod_profile(pod, profile));
        let of_container = |container| bad(container_profile(container, profile));
        let values = pod.containers().filter_map(of_container).chain(of_pod);
        Unconfined {
            pod: of_pod.is_some(),
            containers: pod.those(|container| of_container(container).is_some()),
            values: sorted(values).into_iter().collect(),
        }
    }
}

pub(super) fn app_armor(pod: Pod<'_>) -> Option<Violation> {
    let found = Unconfined::find(pod, "appArmorProfile");
    let annotations = pod.annotations().into_iter().flatten();
    let mut marked: Vec<String> = annotations
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(key, value)| {
            let good = matches!(*value, "" | "runtime/default") || value.starts_with("localhost/");
            key.starts_with(APPARMOR) && !good
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    marked.sort();
    let mut who: Vec<String> = setters(found.pod, &found.containers).into_iter().collect();
    if !marked.is_empty() {
        who.push(plural(marked.len(), "annotation", "annotations").to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<&str> = found
        .values
        .into_iter()
        .chain(marked.iter().map(String::as_str))
        .collect();
    let reason = plural(
        values.len(),
        "forbidden AppArmor profile",
        "forbidden AppArmor profiles",
    );
    let (who, values) = (who.join(" and "), quoted(values));
    Violation::new(
        reason,
        format!("{who} must not set AppArmor profile type to {values}"),
    )
}

pub(super) fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    let added = |container| {
        texts(context(container, &["capabilities", "add"]))
            .filter(|name| !DEFAULT_CAPABILITIES.contains(name))
    };
    let bad = pod.those(|container| added(container).next().is_some());
    if bad.is_empty() {
        return None;
    }
    let names = quoted(sorted(pod.containers().flat_map(added)));
    let who = containers(&bad);
    Violation::new(
        "non-default capabilities",
        format!("{who} must not include {names} in securityContext.capabilities.add"),
    )
}

pub(super) fn host_namespaces(pod: Pod<'_>) -> Option<Violation> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|key| pod.is(key, true))
        .map(|key| format!("{key}=true"));
    let shared: Vec<String> = shared.collect();
    if shared.is_empty() {
        return None;
    }
    Violation::new("host namespaces", shared.join(", "))
}

pub(super) fn host_path(pod: Pod<'_>) -> Option<Violation> {
    let volumes = pod
        .volumes()
        .filter(|volume| volume.get("hostPath").is_some_and(|path| !path.is_null()))
        .map(|volume| text(volume, &["name"]));
    let volumes: Vec<&str> = volumes.collect();
    if volumes.is_empty() {
        return None;
    }
    let noun = plural(volumes.len(), "volume", "volumes");
    Violation::new("hostPath volumes", format!("{noun} {}", quoted(volumes)))
}

pub(super) fn host_ports(pod: Pod<'_>) -> Option<Violation> {
    let ports = |container: &Value| -> Vec<String> {
        let ports = container.get("ports").and_then(Value::as_array);
        let ports = ports.into_iter().flatten();
        let ports = ports.filter_map(|port| port.get("hostPort").and_then(Value::as_i64));
        ports
            .filter(|port| *port != 0)
            .map(|port| port.to_string())
            .collect()
    };
    let bad = pod.those(|container| !ports(container).is_empty());
    if bad.is_empty() {
        return None;
    }
    let all: Vec<String> = pod.containers().flat_map(ports).collect();
    let all = sorted(all.iter().map(String::as_str));
    let uses = plural(bad.len(), "uses", "use");
    let noun = plural(all.len(), "hostPort", "hostPorts");
    let numbers: Vec<&str> = all.into_iter().collect();
    Violation::new(
        "hostPort",
        format!("{} {uses} {noun} {}", containers(&bad), numbers.join(", ")),
    )
}

/// Probes and hooks that ask another host than the pod itself.
pub(super) fn probe_hosts(pod: Pod<'_>) -> Option<Violation> {
    let hosts = |container| {
        [
            &["livenessProbe"] as &[&str],
            &["readinessProbe"],
            &["startupProbe"],
            &["lifecycle", "postStart"],
            &["lifecycle", "preStop"],
        ]
        .into_iter()
        .filter_map(move |path| at(container, path))
        .flat_map(|handler| ["httpGet", "tcpSocket"].map(|way| text(handler, &[way, "host"])))
        .filter(|host| !host.is_empty())
    };
    let bad = sorted(pod.those(|container| hosts(container).next().is_some()));
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<&str> = bad.into_iter().collect();
    let all = sorted(pod.containers().flat_map(hosts));
    let uses = plural(bad.len(), "uses", "use");
    let noun = plural(
        all.len(),
        "probe or lifecycle host",
        "probe or lifecycle hosts",
    );
    Violation::new(
        "probe or lifecycle host",
        format!("{} {uses} {noun} {}", containers(&bad), quoted(all)),
    )
}

pub(super) fn privileged(pod: Pod<'_>) -> Option<Violation> {
    let is_set = |container| context(container, &["privileged"]) == Some(&Value::Bool(true));
    let bad = pod.those(is_set);
    if bad.is_empty() {
        return None;
    }
    let who = containers(&bad);
    Violation::new(
        "privileged",
        format!("{who} must not set securityContext.privileged=true"),
    )
}

pub(super) fn proc_mount(pod: Pod<'_>) -> Option<Violation> {
    let mount = |container| {
        let mount = context(container, &["procMount"]).and_then(Value::as_str);
        mount.filter(|mount| *mount != "Default")
    };
    let bad = pod.those(|container| mount(container).is_some());
    if bad.is_empty() {
        return None;
    }
    let (who, values) = (
        containers(&bad),
        quoted(sorted(pod.containers().filter_map(mount))),
    );
    Violation::new(
        "procMount",
        format!("{who} must not set securityContext.procMount to {values}"),
    )
}

/// What users of their own may see of `/proc` is theirs.
pub(super) fn proc_mount_35(pod: Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    proc_mount(pod)
}

pub(super) fn se_linux(pod: Pod<'_>) -> Option<Violation> {
    se_linux_types(
        pod,
        &["", "container_t", "container_init_t", "container_kvm_t"],
    )
}

pub(super) fn se_linux_31(pod: Pod<'_>) -> Option<Violation> {
    let types = [
        "",
        "container_t",
        "container_init_t",
        "container_kvm_t",
        "container_engine_t",
    ];
    se_linux_types(pod, &types)
}

fn se_linux_types(pod: Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let options = |holder: Option<&'_ Value>| holder.filter(|options| !options.is_null()).cloned();
    let of_pod = options(pod.spec(&["securityContext", "seLinuxOptions"]));
    let of = |container: &Value| options(context(container, &["seLinuxOptions"]));
    let is_bad = |options: &Value| {
        !allowed.contains(&text(options, &["type"]))
            || !text(options, &["user"]).is_empty()
            || !text(options, &["role"]).is_empty()
    };
    let bad = pod.those(|container| of(container).is_some_and(|options| is_bad(&options)));
    let who = setters(of_pod.as_ref().is_some_and(is_bad), &bad)?;
    let all: Vec<Value> = pod
        .containers()
        .filter_map(of)
        .chain(of_pod.clone())
        .collect();
    let types = sorted(all.iter().map(|options| text(options, &["type"])));
    let types: Vec<&str> = types.into_iter().filter(|t| !allowed.contains(t)).collect();
    let sets = |key: &str| all.iter().any(|options| !text(options, &[key]).is_empty());
    let mut what = Vec::new();
    if !types.is_empty() {
        let noun = plural(types.len(), "type", "types");
        what.push(format!("{noun} {}", quoted(types)));
    }
    for key in ["user", "role"] {
        if sets(key) {
            what.push(format!("{key} may not be set"));
        }
    }
    let what = what.join("; ");
    Violation::new(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {what}"),
    )
}

/// Before there was a field for it, seccomp was an annotation.
pub(super) fn seccomp_annotations(pod: Pod<'_>) -> Option<Violation> {
    let keys = pod
        .containers()
        .map(|container| format!("{SECCOMP_CONTAINER}{}", text(container, &["name"])))
        .chain([SECCOMP_POD.to_owned()]);
    let mut bad: Vec<String> = keys
        .filter_map(|key| {
            let value = pod.annotation(&key)?;
            let good = matches!(value, "runtime/default" | "docker/default")
                || value.starts_with("localhost/");
            (!good).then(|| format!("{key}={value:?}"))
        })
        .collect();
    if bad.is_empty() {
        return None;
    }
    bad.sort();
    bad.dedup();
    let noun = plural(bad.len(), "annotation", "annotations");
    Violation::new(
        "seccompProfile",
        format!("forbidden {noun} {}", bad.join(", ")),
    )
}

pub(super) fn seccomp(pod: Pod<'_>) -> Option<Violation> {
    let found = Unconfined::find(pod, "seccompProfile");
    let who = setters(found.pod, &found.containers)?;
    let values = quoted(found.values);
    Violation::new(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {values}"),
    )
}

pub(super) fn sysctls(pod: Pod<'_>, version: u32) -> Option<Violation> {
    let set = pod.spec(&["securityContext", "sysctls"]);
    let set = set.and_then(Value::as_array).into_iter().flatten();
    let bad = set.map(|sysctl| text(sysctl, &["name"])).filter(|name| {
        let mut known = SYSCTLS.iter();
        !known.any(|(since, known)| *since <= version && known == name)
    });
    let bad: Vec<&str> = bad.collect();
    if bad.is_empty() {
        return None;
    }
    Violation::new("forbidden sysctls", bad.join(", "))
}

pub(super) fn windows_host_process(pod: Pod<'_>) -> Option<Violation> {
    let yes = Some(&Value::Bool(true));
    let bad = pod.those(|container| context(container, &["windowsOptions", "hostProcess"]) == yes);
    let path = ["securityContext", "windowsOptions", "hostProcess"];
    let who = setters(pod.spec(&path) == yes, &bad)?;
    Violation::new(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}
