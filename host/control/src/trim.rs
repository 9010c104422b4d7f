//! What the shared caches leave out of the objects that there are most of.
//!
//! A pod as its types hold it takes ten kilobytes and more, most of it for what only a node reads: how
//! containers are started and probed, and what their volumes hold. Ten thousand pods are kept
//! without. A controller that needs more of one pod asks the API for it.

use k8s_openapi::api::core::v1::{Container, Pod};

/// Leave of a pod its metadata, its status, and what scheduling and controllers look at.
pub(crate) fn pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else {
        return;
    };
    if let Some(volumes) = &mut spec.volumes {
        // Claims decide where a pod can run, and who may delete them.
        volumes.retain(|volume| {
            volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
        });
        volumes.shrink_to_fit();
    }
    let lists = [Some(&mut spec.containers), spec.init_containers.as_mut()];
    for containers in lists.into_iter().flatten() {
        containers.iter_mut().for_each(container);
        containers.shrink_to_fit();
    }
    spec.ephemeral_containers = None;
    spec.dns_config = None;
    spec.host_aliases = None;
    spec.security_context = None;
    spec.image_pull_secrets = None;
    if let Some(statuses) = pod
        .status
        .as_mut()
        .and_then(|s| s.container_statuses.as_mut())
    {
        for status in statuses.iter_mut() {
            status.volume_mounts = None;
        }
        statuses.shrink_to_fit();
    }
}

fn container(container: &mut Container) {
    let whole = std::mem::take(container);
    *container = Container {
        name: whole.name,
        image: whole.image,
        ports: whole.ports,
        resources: whole.resources,
        restart_policy: whole.restart_policy,
        ..Container::default()
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_scheduling_looks_at_stays() {
        let mut given: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {
                "nodeName": "n", "containers": [{
                    "name": "c", "image": "i", "command": ["x"], "env": [{"name": "A"}],
                    "ports": [{"containerPort": 80, "hostPort": 80}],
                    "resources": {"requests": {"cpu": "1"}},
                }],
                "volumes": [
                    {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "config", "configMap": {"name": "c"}},
                ],
            },
            "status": {"phase": "Running"},
        }))
        .unwrap();
        pod(&mut given);
        let left = serde_json::to_value(&given).unwrap();
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {
                "nodeName": "n", "containers": [{
                    "name": "c", "image": "i",
                    "ports": [{"containerPort": 80, "hostPort": 80}],
                    "resources": {"requests": {"cpu": "1"}},
                }],
                "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": "c"}}],
            },
            "status": {"phase": "Running"},
        });
        assert_eq!(left, expected);
    }
}
