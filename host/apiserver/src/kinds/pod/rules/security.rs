//! The rules of security contexts.

use std::collections::HashSet;

use serde_json::Value;

use super::{Context, host};
use crate::kinds::{
    descent::Descent,
    json::{at, has, list, text},
};

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
/// Longest name of a sysctl.
const SYSCTL: usize = 253;
/// Longest path of an AppArmor profile: one less than the kernel takes.
pub(super) const PROFILE_PATH: usize = 4095;

pub(super) fn of_pod(f: &mut Descent, context: &Context<'_>) {
    f.inside(context.spec, "securityContext", |f, security| {
        for name in ["fsGroup", "runAsUser", "runAsGroup"] {
            f.identity(name, at(security, &format!("/{name}")));
        }
        f.each(security, "supplementalGroups", |f, _, group| {
            f.identity("", group)
        });
        sysctls(f, security, context);
        let policies = ["Always", "OnRootMismatch"];
        f.one_of_if_given(security, "fsGroupChangePolicy", &policies);
        seccomp(f, security);
        host::windows_options(f, security);
        app_armor(f, security);
        f.one_of_if_given(security, "supplementalGroupsPolicy", &["Merge", "Strict"]);
        let policies = ["MountOption", "Recursive"];
        f.one_of_if_given(security, "seLinuxChangePolicy", &policies);
    });
}

pub(super) fn of_container(f: &mut Descent, container: &Value, context: &Context<'_>) {
    f.inside(container, "securityContext", |f, security| {
        for name in ["runAsUser", "runAsGroup"] {
            f.identity(name, at(security, &format!("/{name}")));
        }
        f.one_of_if_given(security, "procMount", &["Default", "Unmasked"]);
        if text(security, "/procMount") == "Unmasked" && context.host_users() {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            f.invalid("procMount", "Unmasked", detail);
        }
        seccomp(f, security);
        if at(security, "/allowPrivilegeEscalation") == &Value::Bool(false) {
            if at(security, "/privileged") == &Value::Bool(true) {
                let detail =
                    "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
                f.invalid("", security.clone(), detail);
            }
            let added = list(security, "/capabilities/add");
            for _ in added.iter().filter(|one| *one == "CAP_SYS_ADMIN") {
                let detail = "cannot set `allowPrivilegeEscalation` to false and \
                              `capabilities.Add` CAP_SYS_ADMIN";
                f.invalid("", security.clone(), detail);
            }
        }
        host::windows_options(f, security);
        app_armor(f, security);
    });
}

fn seccomp(f: &mut Descent, security: &Value) {
    f.inside(security, "seccompProfile", |f, profile| {
        let kind = text(profile, "/type");
        match kind {
            "" => f.required("type", "type is required when seccompProfile is set"),
            kind if PROFILES.contains(&kind) => {}
            kind => f.unsupported("type", kind, &PROFILES),
        }
        if kind == "Localhost" {
            if has(profile, "/localhostProfile") {
                f.descending("localhostProfile", text(profile, "/localhostProfile"));
            } else {
                let detail = "must be set when seccomp type is Localhost";
                f.required("localhostProfile", detail);
            }
        } else if has(profile, "/localhostProfile") {
            let detail = "can only be set when seccomp type is Localhost";
            f.invalid("localhostProfile", profile.clone(), detail);
        }
    });
}

fn app_armor(f: &mut Descent, security: &Value) {
    f.inside(security, "appArmorProfile", |f, profile| {
        let path = at(profile, "/localhostProfile");
        let needed = "must be set when AppArmor type is Localhost";
        match (text(profile, "/type"), path.as_str()) {
            ("Localhost", None) => f.required("localhostProfile", needed),
            ("Localhost", Some(path)) => {
                if path.trim() != path {
                    let detail = "must not be padded with whitespace";
                    f.invalid("localhostProfile", path, detail);
                } else if path.is_empty() {
                    f.required("localhostProfile", needed);
                }
                if path.len() > PROFILE_PATH {
                    f.too_long("localhostProfile", PROFILE_PATH);
                }
            }
            ("RuntimeDefault" | "Unconfined", None) => {}
            ("RuntimeDefault" | "Unconfined", Some(path)) => {
                let detail = "can only be set when AppArmor type is Localhost";
                f.invalid("localhostProfile", path, detail);
            }
            ("", _) => f.required("type", "type is required when appArmorProfile is set"),
            (kind, _) => f.unsupported("type", kind, &PROFILES),
        }
    });
}

fn sysctls(f: &mut Descent, security: &Value, context: &Context<'_>) {
    let mut seen = HashSet::new();
    f.each(security, "sysctls", |f, _, sysctl| {
        let name = text(sysctl, "/name");
        if name.is_empty() {
            f.required("name", "");
        } else if !is_sysctl(name) {
            let detail = format!(
                "must have at most {SYSCTL} characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            );
            f.invalid("name", name, &detail);
        } else if seen.contains(name) {
            f.duplicate("name", name);
        }
        // Slashes and dots change places where the first separator is a slash.
        let dotted = match name.find(['.', '/']) {
            Some(at) if name[at..].starts_with('/') => name.replace('/', "."),
            _ => name.to_owned(),
        };
        let of = |prefixes: &[&str]| prefixes.iter().any(|prefix| dotted.starts_with(prefix));
        if context.flag("hostNetwork") && of(&["net."]) {
            let detail = "may not be specified when 'hostNetwork' is true";
            f.invalid("name", name, detail);
        } else if context.flag("hostIPC")
            && (dotted == "kernel.sem" || of(&["kernel.shm", "kernel.msg", "fs.mqueue."]))
        {
            f.invalid("name", name, "may not be specified when 'hostIPC' is true");
        }
        seen.insert(name);
    });
}

fn is_sysctl(name: &str) -> bool {
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= SYSCTL
        && name.split(['.', '/']).all(|part| {
            part.starts_with(end)
                && part.ends_with(end)
                && part.chars().all(|c| end(c) || c == '-' || c == '_')
        })
}
