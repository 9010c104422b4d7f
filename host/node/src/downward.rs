//! Fields of a pod that its own containers may read: `fieldRef` in environments and volumes.

use std::{collections::BTreeMap, fmt::Write};

use k8s_openapi::api::core::v1::Pod;

use crate::env::Facts;

/// The value of `path`, or why there is none.
pub(crate) fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| Ok(value.cloned().unwrap_or_default());
    if let Some((map, key)) = subscript(path) {
        return match map {
            "metadata.labels" => text(meta.labels.as_ref().and_then(|all| all.get(key))),
            "metadata.annotations" => text(meta.annotations.as_ref().and_then(|all| all.get(key))),
            _ => Err(format!("fieldPath \"{path}\" does not support subscript")),
        };
    }
    match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => Ok(lines(meta.labels.as_ref())),
        "metadata.annotations" => Ok(lines(meta.annotations.as_ref())),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" | "status.hostIPs" => Ok(facts.host_ip.clone()),
        "status.podIP" | "status.podIPs" => Ok(facts.pod_ip.clone()),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

/// `map['key']` taken apart.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    let key = key.strip_prefix(['\'', '"'])?.strip_suffix(['\'', '"'])?;
    Some((map, key))
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (key, value) in map.into_iter().flatten() {
        if !out.is_empty() {
            out.push('\n');
        }
        // Writing to a String cannot fail.
        let _ = write!(out, "{key}={value:?}");
    }
    out
}
