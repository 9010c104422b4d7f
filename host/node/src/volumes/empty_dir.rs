//! `emptyDir`: a directory that lives as long as its pod, on disk or in memory.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, PodSpec};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
};

use super::mounted;
use crate::quantity;

/// Make the directory. What is in it already stays. Blocking.
pub(super) fn set_up(
    pod: &Pod,
    source: &EmptyDirVolumeSource,
    path: &Path,
    node_memory: u64,
) -> Result<(), String> {
    let io = |error: io::Error| format!("{}: {error}", path.display());
    super::atomic::make_directory(path).map_err(io)?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            if !mounted::is_point(path).map_err(io)? {
                in_memory(path, size(pod, source, node_memory)).map_err(|errno| {
                    format!("mount failed: tmpfs at {}: {errno}", path.display())
                })?;
            }
        }
        other => return Err(format!("unknown storage medium {other:?}")),
    }
    // Any user of any container may write there, as in Kubernetes.
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(io)
}

fn in_memory(path: &Path, bytes: u64) -> Result<(), Errno> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = format!("size={bytes},mode=0777");
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(&*options))
}

/// The volume's own limit, that of the pod's memory, and the node's memory: the least of them.
fn size(pod: &Pod, source: &EmptyDirVolumeSource, node_memory: u64) -> u64 {
    let own = limit(source);
    let of_pod = pod.spec.as_ref().and_then(memory);
    let all = own.into_iter().chain(of_pod).chain([node_memory]);
    // Nothing would be no limit at all.
    all.min().unwrap_or(node_memory).max(4096)
}

/// What all containers of the pod together may use, if all have a limit.
fn memory(spec: &PodSpec) -> Option<u64> {
    let mut sum: u64 = 0;
    for container in &spec.containers {
        sum = sum.saturating_add(quantity::memory_limit(container)?);
    }
    Some(sum)
}

fn limit(source: &EmptyDirVolumeSource) -> Option<u64> {
    let limit = quantity::units(&source.size_limit.as_ref()?.0)?;
    (limit > 0).then_some(limit)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(source: Value, limits: Value) -> Pod {
        serde_json::from_value(json!({ "spec": {
            "containers": [{ "name": "c", "resources": { "limits": limits } }],
            "volumes": [{ "name": "v", "emptyDir": source }],
        } }))
        .unwrap()
    }

    fn source(pod: &Pod) -> &EmptyDirVolumeSource {
        let volumes = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
        volumes[0].empty_dir.as_ref().unwrap()
    }

    #[test]
    fn memory_is_bounded_by_the_least_limit() {
        let of = |own: Value, limits: Value| {
            let pod = pod(own, limits);
            size(&pod, source(&pod), 1000 << 20)
        };
        assert_eq!(of(json!({}), json!({})), 1000 << 20);
        assert_eq!(of(json!({}), json!({ "memory": "64Mi" })), 64 << 20);
        let both = of(json!({ "sizeLimit": "8Mi" }), json!({ "memory": "64Mi" }));
        assert_eq!(both, 8 << 20);
    }
}
