//! What a pod spec leaves out, filled in as Kubernetes does: for pods and for templates.

use serde_json::{Value, json};

use super::{image, rules::resources};
use crate::kinds::json::{at, child, entries, fill, has, items, remove, text};

/// Defaults of a pod spec wherever one stands.
fn pod_spec(spec: &mut Value) {
    fill(spec, "restartPolicy", "Always");
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "securityContext", json!({}));
    fill(spec, "schedulerName", "default-scheduler");
    // The two spell the same thing; the older one is kept in step, and asked where the newer is not.
    let account = [
        text(spec, "/serviceAccountName"),
        text(spec, "/serviceAccount"),
    ]
    .into_iter()
    .find(|name| !name.is_empty())
    .map(str::to_owned);
    if let (Some(account), Some(spec)) = (account, spec.as_object_mut()) {
        spec.insert("serviceAccountName".into(), account.as_str().into());
        spec.insert("serviceAccount".into(), account.into());
    }
    for group in ["initContainers", "containers", "ephemeralContainers"] {
        for one in items(spec, group) {
            container(one);
        }
    }
    for volume in items(spec, "volumes") {
        volume_defaults(volume);
    }
}

/// Defaults of the template of a workload.
pub(in crate::kinds) fn template(template: &mut Value) {
    child(template, "metadata");
    pod_spec(child(template, "spec"));
}

/// Defaults that only a pod has, not a template.
pub(in crate::kinds) fn pod(pod: &mut Value) {
    let spec = child(pod, "spec");
    pod_spec(spec);
    fill(spec, "enableServiceLinks", true);
    if spec
        .get("terminationGracePeriodSeconds")
        .and_then(Value::as_i64)
        .is_some_and(|s| s < 0)
        && let Value::Object(map) = spec
    {
        map.insert("terminationGracePeriodSeconds".to_owned(), json!(1));
    }
    let host_network = at(spec, "/hostNetwork") == &Value::Bool(true);
    for group in ["initContainers", "containers"] {
        for container in items(spec, group) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
    if has(spec, "/resources") {
        huge_pages_of_pod(spec);
        requests_of_pod(spec);
    }
}

/// On the host's network a container's port is the host's.
fn host_ports(container: &mut Value) {
    for port in items(container, "ports") {
        if let Some(number) = port.get("containerPort").cloned() {
            fill(port, "hostPort", number);
        }
    }
}

/// A pod that says what it takes as a whole may use the huge pages that its containers may use.
fn huge_pages_of_pod(spec: &mut Value) {
    let together = resources::together(spec, "limits");
    let asked = at(spec, "/resources/requests").clone();
    for (name, amount) in together {
        if resources::is_huge(&name) && asked.get(&name).is_none() {
            let limits = child(child(spec, "resources"), "limits");
            fill(limits, &name, amount.to_string());
        }
    }
}

/// A pod that limits what it takes as a whole asks for what its containers ask for, else for as
/// much as the limit.
fn requests_of_pod(spec: &mut Value) {
    if entries(spec, "/resources/limits").next().is_none() {
        return;
    }
    let together = resources::together(spec, "requests");
    let limits = at(spec, "/resources/limits").clone();
    let requests = child(child(spec, "resources"), "requests");
    for (name, amount) in together {
        if resources::for_pods(&name) && !resources::is_huge(&name) {
            fill(requests, &name, amount.to_string());
        }
    }
    for (name, limit) in entries(&limits, "") {
        if resources::for_pods(name) {
            fill(requests, name, limit.clone());
        }
    }
}

/// A limit without a request is the request, too.
fn requests_from_limits(container: &mut Value) {
    let limits: Vec<(String, Value)> = entries(container, "/resources/limits")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if limits.is_empty() {
        return;
    }
    let requests = child(child(container, "resources"), "requests");
    for (name, limit) in limits {
        fill(requests, &name, limit);
    }
}

fn container(container: &mut Value) {
    fill(container, "resources", json!({}));
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    let policy = if image::is_latest(text(container, "/image")) {
        "Always"
    } else {
        "IfNotPresent"
    };
    fill(container, "imagePullPolicy", policy);
    for port in items(container, "ports") {
        fill(port, "protocol", "TCP");
    }
    for variable in items(container, "env") {
        if has(variable, "/valueFrom/fieldRef") {
            fill(
                child(child(variable, "valueFrom"), "fieldRef"),
                "apiVersion",
                "v1",
            );
        }
        if has(variable, "/valueFrom/resourceFieldRef") {
            divisor(child(child(variable, "valueFrom"), "resourceFieldRef"));
        }
        let file = "fileKeyRef";
        if has(variable, "/valueFrom/fileKeyRef") {
            fill(child(child(variable, "valueFrom"), file), "optional", false);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container.get(name).is_some_and(Value::is_object) {
            probe(child(container, name));
        }
    }
    if container.get("lifecycle").is_some_and(Value::is_object) {
        for hook in ["postStart", "preStop"] {
            if has(container, &format!("/lifecycle/{hook}/httpGet")) {
                http_get(child(child(child(container, "lifecycle"), hook), "httpGet"));
            }
        }
    }
    let profile = child_of(container, "securityContext");
    if let Some(context) = profile
        && context.get("procMount").is_some_and(|value| value == "")
    {
        remove(context, "procMount");
    }
}

fn child_of<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    object.get_mut(name).filter(|value| value.is_object())
}

fn probe(probe: &mut Value) {
    // Zero is Go's absent.
    for (name, default) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe.get(name).and_then(Value::as_i64) == Some(0) {
            remove(probe, name);
        }
        fill(probe, name, default);
    }
    if probe.get("httpGet").is_some_and(Value::is_object) {
        http_get(child(probe, "httpGet"));
    }
    if probe.get("grpc").is_some_and(Value::is_object) {
        fill(child(probe, "grpc"), "service", "");
    }
}

fn http_get(action: &mut Value) {
    fill(action, "path", "/");
    fill(action, "scheme", "HTTP");
}

const SOURCES_WITH_MODE: [&str; 4] = ["configMap", "secret", "projected", "downwardAPI"];

fn volume_defaults(volume: &mut Value) {
    for name in SOURCES_WITH_MODE {
        if let Some(source) = child_of(volume, name) {
            fill(source, "defaultMode", 0o644);
        }
    }
    if let Some(host) = child_of(volume, "hostPath") {
        fill(host, "type", "");
    }
    old_drivers(volume);
    if let Some(image) = child_of(volume, "image") {
        let policy = if image::is_latest(text(image, "/reference")) {
            "Always"
        } else {
            "IfNotPresent"
        };
        fill(image, "pullPolicy", policy);
    }
    if let Some(ephemeral) = child_of(volume, "ephemeral")
        && let Some(template) = child_of(ephemeral, "volumeClaimTemplate")
    {
        child(template, "metadata");
        let spec = child(template, "spec");
        fill(spec, "volumeMode", "Filesystem");
        child(spec, "resources");
    }
    if let Some(projected) = child_of(volume, "projected") {
        for source in items(projected, "sources") {
            if let Some(token) = child_of(source, "serviceAccountToken") {
                fill(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = child_of(source, "downwardAPI") {
                downward_items(downward);
            }
        }
    }
    if let Some(downward) = child_of(volume, "downwardAPI") {
        downward_items(downward);
    }
    let sources = volume.as_object().map_or(0, serde_json::Map::len);
    if sources == 1 && volume.get("name").is_some() {
        // A volume without a source is an empty directory.
        fill(volume, "emptyDir", json!({}));
    }
}

/// Drivers that are long gone, whose objects are still stored.
fn old_drivers(volume: &mut Value) {
    let all: [(&str, &[(&str, Value)]); 4] = [
        (
            "iscsi",
            &[("iscsiInterface", json!("default")), ("lun", json!(0))],
        ),
        (
            "rbd",
            &[
                ("pool", json!("rbd")),
                ("user", json!("admin")),
                ("keyring", json!("/etc/ceph/keyring")),
            ],
        ),
        (
            "azureDisk",
            &[
                ("cachingMode", json!("ReadWrite")),
                ("kind", json!("Shared")),
                ("fsType", json!("ext4")),
                ("readOnly", json!(false)),
            ],
        ),
        (
            "scaleIO",
            &[
                ("storageMode", json!("ThinProvisioned")),
                ("fsType", json!("xfs")),
            ],
        ),
    ];
    for (source, fields) in all {
        if let Some(source) = child_of(volume, source) {
            for (name, value) in fields {
                fill(source, name, value.clone());
            }
        }
    }
}

fn divisor(reference: &mut Value) {
    fill(reference, "divisor", "0");
}

fn downward_items(source: &mut Value) {
    for item in items(source, "items") {
        if let Some(reference) = child_of(item, "fieldRef") {
            fill(reference, "apiVersion", "v1");
        }
        if let Some(reference) = child_of(item, "resourceFieldRef") {
            divisor(reference);
        }
    }
}
