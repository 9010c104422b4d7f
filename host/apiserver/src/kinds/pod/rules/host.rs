//! The rules that depend on the operating system, and on what a pod shares with its host.

use serde_json::Value;

use super::{Context, visit};
use crate::kinds::{
    descent::Descent,
    json::{at, has, list, text},
    names,
};

const NOT_ON_WINDOWS: &str = "cannot be set for a windows pod";
/// Largest description of a group account, in bytes.
const CREDENTIALS: usize = 64 * 1024;
const DOMAIN: usize = 256;
const USER: usize = 104;

/// The operating system that the pod is for, and what that rules out.
pub(super) fn os(f: &mut Descent, context: &Context<'_>) {
    if !has(context.spec, "/os") {
        return;
    }
    match context.os() {
        "" => f.required("os.name", ""),
        "linux" => {
            let detail = "windows options cannot be set for a linux pod";
            if has(context.spec, "/securityContext/windowsOptions") {
                f.forbidden("securityContext.windowsOptions", detail);
            }
            visit(f, context.spec, |f, container| {
                if has(container, "/securityContext/windowsOptions") {
                    f.forbidden("securityContext.windowsOptions", detail);
                }
            });
        }
        "windows" => windows(f, context.spec),
        other => f.unsupported("os", other, &["linux", "windows"]),
    }
}

fn windows(f: &mut Descent, spec: &Value) {
    let forbid = |f: &mut Descent, object: &Value, fields: &[&str]| {
        for field in fields {
            let given = match at(object, &format!("/{field}")) {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                value => {
                    !(field.starts_with("hostP") || field.starts_with("hostI")) || value == true
                }
            };
            if given {
                f.forbidden(field, NOT_ON_WINDOWS);
            }
        }
    };
    f.inside(spec, "securityContext", |f, security| {
        let fields = [
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "fsGroup",
            "fsGroupChangePolicy",
            "sysctls",
            "runAsUser",
            "runAsGroup",
            "supplementalGroups",
            "supplementalGroupsPolicy",
            "seLinuxChangePolicy",
        ];
        forbid(f, security, &fields);
    });
    let fields = ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"];
    forbid(f, spec, &fields);
    visit(f, spec, |f, container| {
        f.inside(container, "securityContext", |f, security| {
            let fields = [
                "appArmorProfile",
                "seLinuxOptions",
                "seccompProfile",
                "capabilities",
                "readOnlyRootFilesystem",
                "privileged",
                "allowPrivilegeEscalation",
                "procMount",
                "runAsUser",
                "runAsGroup",
            ];
            forbid(f, security, &fields);
        });
    });
}

/// A pod with user numbers of its own shares no other namespace with the host.
pub(super) fn users(f: &mut Descent, context: &Context<'_>) {
    const DETAIL: &str = "when `hostUsers` is false";
    if context.host_users() {
        return;
    }
    for (flag, field) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if context.flag(flag) {
            f.forbidden(field, DETAIL);
        }
    }
    visit(f, context.spec, |f, container| {
        if !list(container, "/volumeDevices").is_empty() {
            f.forbidden("volumeDevices", DETAIL);
        }
    });
}

/// Containers that run right on a Windows host: all of a pod or none.
pub(super) fn windows_host_processes(f: &mut Descent, context: &Context<'_>) {
    const FLAG: &str = "/securityContext/windowsOptions/hostProcess";
    let of_pod = at(context.spec, FLAG).as_bool();
    let (mut all, mut on_host) = (0, 0);
    visit(f, context.spec, |f, container| {
        all += 1;
        let own = at(container, FLAG).as_bool();
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let detail =
                format!("pod hostProcess value must be identical if both are specified, was {pod}");
            f.invalid("securityContext.windowsOptions.hostProcess", own, &detail);
        }
        if own.or(of_pod) == Some(true) {
            on_host += 1;
        }
    });
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let detail = "If pod contains any hostProcess containers then all containers must be \
                      HostProcess containers";
        f.invalid("", "", detail);
    }
    if !context.flag("hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        f.invalid("hostNetwork", false, detail);
    }
}

pub(super) fn windows_options(f: &mut Descent, security: &Value) {
    f.inside(security, "windowsOptions", |f, options| {
        if has(options, "/gmsaCredentialSpecName") {
            let name = text(options, "/gmsaCredentialSpecName");
            f.named("gmsaCredentialSpecName", name, names::subdomain);
        }
        if let Some(spec) = at(options, "/gmsaCredentialSpec").as_str() {
            if spec.is_empty() {
                let detail = "gmsaCredentialSpec cannot be an empty string";
                f.invalid("gmsaCredentialSpec", spec, detail);
            } else if spec.len() > CREDENTIALS {
                let detail = "gmsaCredentialSpec size must be under 64 KiB";
                f.invalid("gmsaCredentialSpec", spec, detail);
            }
        }
        if let Some(user) = at(options, "/runAsUserName").as_str() {
            for detail in user_name(user) {
                f.invalid("runAsUserName", user, &detail);
            }
        }
    });
}

/// `DOMAIN\user` or `user`.
fn user_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".to_owned()];
    }
    if name.contains(|c: char| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".to_owned()];
    }
    if name.matches('\\').count() > 1 {
        return vec!["runAsUserName cannot contain more than one backslash".to_owned()];
    }
    let mut errors = Vec::new();
    let (domain, user) = match name.split_once('\\') {
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    if domain.is_some_and(|domain| domain.len() >= DOMAIN) {
        errors.push(format!(
            "runAsUserName's Domain length must be under {DOMAIN} characters"
        ));
    }
    if domain.is_some_and(|domain| !is_domain(domain)) {
        errors
            .push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        errors.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > USER {
        errors.push(format!(
            "runAsUserName's User length must not be longer than {USER} characters"
        ));
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        errors.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains([
        '"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']',
    ]) {
        errors.push(
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"
                .to_owned(),
        );
    }
    errors
}

fn is_domain(domain: &str) -> bool {
    let barred = ['\\', '/', ':', '*', '?', '"', '<', '>', '|'];
    let net_bios = (1..=15).contains(&domain.chars().count())
        && !domain.contains(barred)
        && !domain.starts_with('.');
    let end = |c: char| c.is_ascii_alphanumeric();
    let dns = domain.split('.').all(|label| {
        label.len() <= 63
            && label.starts_with(end)
            && label.ends_with(end)
            && label.chars().all(|c| end(c) || c == '-')
    });
    net_bios || dns
}
