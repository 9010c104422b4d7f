//! Pods that were made here: the cloud is told of each by a *mirror pod*, as a kubelet tells of its
//! static pods. It shows how the pod is; what is done to it there changes nothing here.

use eyot_store::Key;
use serde_json::{Value, json};

use crate::{
    down::MIRROR_POD,
    kind::kind,
    remote::{Remote, RemoteError},
    up::{strategic, without},
};

/// Tell how such a pod is.
pub(crate) async fn tell(remote: &Remote, node: &str, pod: &Value) -> Result<bool, RemoteError> {
    let metadata = |name: &str| pod["metadata"][name].as_str().unwrap_or_default();
    let Some(pods) = kind("pods") else {
        return Ok(false);
    };
    let all = pods.path(metadata("namespace"));
    let name = name_there(metadata("name"), node);
    match remote.create(&all, &mirror(pod, &name, node)).await {
        Ok(_) | Err(RemoteError::Exists) => {}
        Err(error) => return Err(error),
    }
    let patch = json!({ "status": strategic(pod["status"].clone()) });
    remote
        .strategic(&format!("{all}/{name}/status"), &patch)
        .await
        .map(|_| true)
}

/// Tell that it is gone.
pub(crate) async fn tell_end(remote: &Remote, node: &str, key: &Key) -> Result<bool, RemoteError> {
    let Some(pods) = kind("pods") else {
        return Ok(false);
    };
    let path = format!(
        "{}/{}",
        pods.path(&key.namespace),
        name_there(&key.name, node)
    );
    let options = json!({ "gracePeriodSeconds": 0 });
    match remote.delete(&path, &options).await {
        Ok(_) | Err(RemoteError::Missing) => Ok(true),
        Err(error) => Err(error),
    }
}

fn name_there(name: &str, node: &str) -> String {
    format!("{name}-{node}")
}

/// The pod as the cloud may show it: without what would give this node a right to other objects.
fn mirror(pod: &Value, name: &str, node: &str) -> Value {
    let spec = &pod["spec"];
    let containers = |list: &str| -> Value {
        let all = spec[list].as_array().into_iter().flatten();
        all.map(|container| {
            without(
                container,
                &["env", "envFrom", "volumeMounts", "volumeDevices"],
            )
        })
        .collect()
    };
    let metadata = &pod["metadata"];
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": metadata["namespace"],
            "labels": metadata.get("labels").cloned().unwrap_or_else(|| json!({})),
            "annotations": { MIRROR_POD: metadata["uid"] },
        },
        "spec": {
            "nodeName": node, "containers": containers("containers"),
            "restartPolicy": spec["restartPolicy"].as_str().unwrap_or("Always"),
            "hostNetwork": spec["hostNetwork"].as_bool().unwrap_or(false),
            "automountServiceAccountToken": false, "enableServiceLinks": false,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_pod_refers_to_nothing() {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u",
                "annotations": {"secret": "words"}},
            "spec": {"serviceAccountName": "default", "volumes": [{"name": "v"}],
                "imagePullSecrets": [{"name": "s"}],
                "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "b"}],
                    "volumeMounts": [{"name": "v"}]}]},
        });
        let mirror = mirror(&pod, &name_there("p", "edge"), "edge");
        assert_eq!(mirror["metadata"]["name"], "p-edge");
        assert_eq!(
            mirror["spec"]["containers"],
            json!([{"name": "c", "image": "i"}])
        );
        for field in ["serviceAccountName", "volumes", "imagePullSecrets"] {
            assert!(mirror["spec"].get(field).is_none(), "{field}");
        }
        assert_eq!(
            mirror["metadata"]["annotations"],
            json!({ MIRROR_POD: "u" })
        );
    }
}
