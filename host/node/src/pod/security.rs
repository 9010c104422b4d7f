//! The `securityContext` of a pod and of a container become what a runtime carries out: pure.
//!
//! The container's word outranks the pod's. Refusals have the kubelet's texts.

use std::path::Path;

use eyot_runtime::{Image, ImageContent, Processes, Seccomp, Security};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};

use super::adopt::pod_id;
use crate::Policy;

/// How `container` of `pod` is to be confined. Profiles of `type: Localhost` are named relative to
/// `profiles`; `target` is the running container whose processes it is to see. An error is a
/// `CreateContainerConfigError`.
pub(crate) fn security(
    pod: &Pod,
    container: &Container,
    image: &Image,
    target: Option<&str>,
    policy: &Policy,
    profiles: &Path,
) -> Result<Security, String> {
    let (empty, nothing, no_more) = (
        PodSpec::default(),
        PodSecurityContext::default(),
        SecurityContext::default(),
    );
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let shared = spec.security_context.as_ref().unwrap_or(&nothing);
    let own = container.security_context.as_ref().unwrap_or(&no_more);
    refuse_what_cannot_be_done(spec, shared, own)?;
    let user = own.run_as_user.or(shared.run_as_user);
    let group = own.run_as_group.or(shared.run_as_group);
    if own.run_as_non_root.or(shared.run_as_non_root) == Some(true) {
        not_root(pod, container, image, user)?;
    }
    let privileged = own.privileged == Some(true);
    if privileged && !policy.privileged {
        return Err(
            "privileged containers are not allowed on this host: start it with \
             --allow-privileged, or give the container the capabilities that it needs"
                .to_owned(),
        );
    }
    let number = |id: i64| {
        u32::try_from(id).map_err(|_| format!("user or group {id} is out of the range of numbers"))
    };
    let groups = shared.supplemental_groups.iter().flatten().copied();
    let groups = groups.chain(shared.fs_group).map(number);
    let (add, drop) = match own.capabilities.as_ref() {
        Some(Capabilities { add, drop }) => (
            add.clone().unwrap_or_default(),
            drop.clone().unwrap_or_default(),
        ),
        None => (Vec::new(), Vec::new()),
    };
    let seccomp = own
        .seccomp_profile
        .as_ref()
        .or(shared.seccomp_profile.as_ref());
    Ok(Security {
        user: user.map(number).transpose()?,
        group: group.map(number).transpose()?,
        groups: groups.collect::<Result<_, _>>()?,
        only_these_groups: shared.supplemental_groups_policy.as_deref() == Some("Strict"),
        add,
        drop,
        read_only_root: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        seccomp: profile(seccomp, profiles)?,
        unmasked: own.proc_mount.as_deref() == Some("Unmasked"),
        privileged,
        processes: match target {
            Some(target) => Processes::Of(target.to_owned()),
            None => processes(spec),
        },
        host_ipc: spec.host_ipc == Some(true),
        sysctls: sysctls(spec, shared, policy)?,
    })
}

/// The kernel parameters that the pod sets, if it may.
pub(super) fn sysctls(
    spec: &PodSpec,
    shared: &PodSecurityContext,
    policy: &Policy,
) -> Result<Vec<(String, String)>, String> {
    let checked = shared.sysctls.iter().flatten().map(|one| {
        let name = one.name.replace('/', ".");
        let forbidden = |why: &str| Err(format!("forbidden sysctl: \"{name}\" {why}"));
        if !policy.allows_sysctl(&name) {
            return forbidden("not allowlisted");
        }
        if name.starts_with("net.") && spec.host_network == Some(true) {
            return forbidden("not allowed with host net enabled");
        }
        let ipc = name.starts_with("kernel.") || name.starts_with("fs.mqueue.");
        if ipc && spec.host_ipc == Some(true) {
            return forbidden("not allowed with host ipc enabled");
        }
        Ok((name, one.value.clone()))
    });
    checked.collect()
}

/// What this host has no means for is said instead of left out.
fn refuse_what_cannot_be_done(
    spec: &PodSpec,
    shared: &PodSecurityContext,
    own: &SecurityContext,
) -> Result<(), String> {
    if spec.host_users == Some(false) {
        return Err(
            "this host gives pods no user namespaces: leave out hostUsers: false".to_owned(),
        );
    }
    let profile = own.app_armor_profile.as_ref();
    let profile = profile.or(shared.app_armor_profile.as_ref());
    match profile {
        Some(profile) if profile.type_ != "Unconfined" => {
            Err("Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned())
        }
        _ => Ok(()),
    }
}

fn processes(spec: &PodSpec) -> Processes {
    if spec.host_pid == Some(true) {
        Processes::Host
    } else if spec.share_process_namespace == Some(true) {
        Processes::Pod
    } else {
        Processes::Own
    }
}

fn profile(profile: Option<&SeccompProfile>, directory: &Path) -> Result<Seccomp, String> {
    let Some(profile) = profile else {
        return Ok(Seccomp::Default);
    };
    match profile.type_.as_str() {
        "Unconfined" => Ok(Seccomp::Unconfined),
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or_default();
            let inside = !name.is_empty()
                && !name.starts_with('/')
                && !name.split('/').any(|part| part == "..");
            match inside {
                true => Ok(Seccomp::File(directory.join(name))),
                false => Err(format!(
                    "localhostProfile {name:?} must name a file below {}",
                    directory.display()
                )),
            }
        }
        _ => Ok(Seccomp::Default),
    }
}

/// What `runAsNonRoot` demands.
fn not_root(
    pod: &Pod,
    container: &Container,
    image: &Image,
    user: Option<i64>,
) -> Result<(), String> {
    let whose = format!("(pod: \"{}\", container: {})", pod_id(pod), container.name);
    match user {
        Some(0) => {
            return Err(format!(
                "container's runAsUser breaks non-root policy {whose}"
            ));
        }
        Some(_) => return Ok(()),
        None => {}
    }
    let name = match &*image.content {
        // A guest has no user at all.
        ImageContent::Wasm { .. } => return Ok(()),
        ImageContent::Oci { config, .. } => config.user.as_deref().unwrap_or_default(),
    };
    let name = name.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(0) => {}
        Err(_) if name.is_empty() => {}
        Ok(_) => return Ok(()),
        Err(_) => {
            return Err(format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify \
                 user is non-root {whose}"
            ));
        }
    }
    Err(format!(
        "container has runAsNonRoot and image will run as root {whose}"
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eyot_runtime::ImageConfig;
    use serde_json::{Value, json};

    use super::*;

    fn image(user: &str) -> Image {
        Image {
            reference: "x".to_owned(),
            digest: "sha256:0".to_owned(),
            content: Arc::new(ImageContent::Oci {
                layers: Vec::new(),
                config: ImageConfig {
                    user: Some(user.to_owned()),
                    ..ImageConfig::default()
                },
            }),
        }
    }

    /// The security of a container `c` in a pod with these two contexts.
    fn made(
        pod: Value,
        container: Value,
        user: &str,
        privileged: bool,
    ) -> Result<Security, String> {
        let mut object = json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "containers": [{ "name": "c", "securityContext": container }] },
        });
        for (field, value) in pod.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let pod: Pod = serde_json::from_value(object).unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        let policy = Policy {
            privileged,
            unsafe_sysctls: vec!["net.core.*".to_owned()],
            ..Policy::default()
        };
        let profiles = Path::new("/profiles");
        security(&pod, &container, &image(user), None, &policy, profiles)
    }

    #[test]
    fn the_containers_word_outranks_the_pods() {
        let pod = json!({ "securityContext": {
            "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4],
            "supplementalGroupsPolicy": "Strict", "seccompProfile": { "type": "Unconfined" },
            "sysctls": [{ "name": "net/core/somaxconn", "value": "9" }],
        }});
        let own = json!({
            "runAsUser": 5, "seccompProfile": { "type": "Localhost", "localhostProfile": "a/b.json" },
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
        });
        let made = made(pod, own, "", false).unwrap();
        assert_eq!((made.user, made.group), (Some(5), Some(2)));
        assert_eq!(made.groups, [4, 3]);
        assert!(made.only_these_groups && made.no_new_privileges);
        assert_eq!(made.seccomp, Seccomp::File("/profiles/a/b.json".into()));
        assert_eq!(made.drop, ["ALL"]);
        assert_eq!(
            made.sysctls,
            [("net.core.somaxconn".to_owned(), "9".to_owned())]
        );
    }

    #[test]
    fn a_container_that_must_not_be_root_is_refused_in_the_kubelets_words() {
        let refused = |own: Value, user| {
            let pod = json!({ "securityContext": { "runAsNonRoot": true } });
            made(pod, own, user, false).err().unwrap_or_default()
        };
        let whose = "(pod: \"p_n(u)\", container: c)";
        assert_eq!(
            refused(json!({}), ""),
            format!("container has runAsNonRoot and image will run as root {whose}")
        );
        assert_eq!(
            refused(json!({}), "0:5"),
            format!("container has runAsNonRoot and image will run as root {whose}")
        );
        assert_eq!(
            refused(json!({ "runAsUser": 0 }), "app"),
            format!("container's runAsUser breaks non-root policy {whose}")
        );
        assert_eq!(
            refused(json!({}), "app:app"),
            format!(
                "container has runAsNonRoot and image has non-numeric user (app), cannot verify \
                 user is non-root {whose}"
            )
        );
        assert_eq!(refused(json!({}), "1000"), "");
        assert_eq!(refused(json!({ "runAsUser": 7 }), "root"), "");
        assert_eq!(refused(json!({ "runAsNonRoot": false }), "root"), "");
    }

    #[test]
    fn privilege_is_given_only_where_the_host_allows_it() {
        let own = json!({ "privileged": true });
        let refused = made(json!({}), own.clone(), "", false).unwrap_err();
        assert!(refused.contains("--allow-privileged"), "{refused}");
        assert!(made(json!({}), own, "", true).unwrap().privileged);
    }

    #[test]
    fn what_belongs_to_the_machine_or_cannot_be_done_is_refused() {
        let refused = |pod: Value| made(pod, json!({}), "", false).err().unwrap_or_default();
        let sysctl = |name: &str| json!([{ "name": name, "value": "1" }]);
        assert_eq!(
            refused(json!({ "securityContext": { "sysctls": sysctl("vm.swappiness") } })),
            "forbidden sysctl: \"vm.swappiness\" not allowlisted"
        );
        assert_eq!(
            refused(json!({ "hostNetwork": true,
                "securityContext": { "sysctls": sysctl("net.ipv4.tcp_syncookies") } })),
            "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled"
        );
        assert!(refused(json!({ "hostUsers": false })).contains("hostUsers"));
        let profile = json!({ "appArmorProfile": { "type": "RuntimeDefault" } });
        assert!(refused(json!({ "securityContext": profile })).contains("AppArmor"));
        let none = json!({ "appArmorProfile": { "type": "Unconfined" } });
        assert_eq!(refused(json!({ "securityContext": none })), "");
    }

    #[test]
    fn a_profile_cannot_be_taken_from_elsewhere() {
        for name in ["", "/etc/passwd", "../x", "a/../../x"] {
            let own =
                json!({ "seccompProfile": { "type": "Localhost", "localhostProfile": name } });
            assert!(made(json!({}), own, "", false).is_err(), "{name}");
        }
    }

    #[test]
    fn shared_processes_follow_the_pod() {
        let of = |pod| made(pod, json!({}), "", false).unwrap().processes;
        assert_eq!(of(json!({})), Processes::Own);
        assert_eq!(of(json!({ "shareProcessNamespace": true })), Processes::Pod);
        assert_eq!(of(json!({ "hostPID": true })), Processes::Host);
    }
}
