//! The rules of environment variables, and of references to fields and resources of the pod.

use std::collections::HashMap;

use serde_json::Value;

use super::{Context, visit};
use crate::{
    kinds::{
        descent::Descent,
        json::{at, has, list, text},
        names,
    },
    quantity::Quantity,
};

const TWO_SOURCES: &str = "may not have more than one field specified at a time";
/// Fields of the pod that a variable may take its value from.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The same for files of a volume.
pub(super) const VOLUME_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// Fields that have a name at all, whether they may be used here or not.
const NAMED: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const HUGE_PAGES: [&str; 2] = ["limits.hugepages-", "requests.hugepages-"];

pub(super) fn variables(f: &mut Descent, container: &Value) {
    f.each(container, "env", |f, _, variable| {
        f.required_name(variable, "name", names::env_name);
        f.inside(variable, "valueFrom", |f, source| {
            value_from(f, source, text(variable, "/value"));
        });
    });
    let sources = list(container, "/envFrom");
    f.within("envFrom", |f| {
        for (index, source) in sources.iter().enumerate() {
            f.item(index, |f| {
                let prefix = text(source, "/prefix");
                if !prefix.is_empty() {
                    f.named("prefix", prefix, names::env_name);
                }
                for name in ["configMapRef", "secretRef"] {
                    f.inside(source, name, |f, reference| {
                        f.required_name(reference, "name", names::subdomain);
                    });
                }
            });
            // These stand at the list, which is how Kubernetes has always had them.
            match (has(source, "/configMapRef"), has(source, "/secretRef")) {
                (true, true) => f.invalid("", "", TWO_SOURCES),
                (false, false) => {
                    let detail = "must specify one of: `configMapRef` or `secretRef`";
                    f.invalid("", "", detail);
                }
                _ => {}
            }
        }
    });
}

fn value_from(f: &mut Descent, source: &Value, value: &str) {
    let mut given = 0;
    f.inside(source, "fieldRef", |f, reference| {
        given += 1;
        field_reference(f, reference, &FIELDS);
    });
    f.inside(source, "resourceFieldRef", |f, reference| {
        given += 1;
        resource_reference(f, reference, false);
    });
    for name in ["configMapKeyRef", "secretKeyRef"] {
        f.inside(source, name, |f, reference| {
            given += 1;
            f.named("name", text(reference, "/name"), names::subdomain);
            f.required_name(reference, "key", names::config_key);
        });
    }
    f.inside(source, "fileKeyRef", |f, reference| {
        given += 1;
        f.required_name(reference, "key", names::env_name);
        f.required_name(reference, "volumeName", names::label);
        f.given(reference, "path");
        f.no_backsteps("path", text(reference, "/path"));
    });
    if given == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                      `secretKeyRef` or `fileKeyRef`";
        f.invalid("", "", detail);
    } else if !value.is_empty() {
        f.invalid("", "", "may not be specified when `value` is not empty");
    } else if given > 1 {
        f.invalid("", "", TWO_SOURCES);
    }
}

/// `metadata.labels['key']`: the field and the key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (field, key) = path.strip_suffix("']")?.split_once("['")?;
    (!field.is_empty()).then_some((field, key))
}

pub(super) fn field_reference(f: &mut Descent, reference: &Value, known: &[&str]) {
    let (version, path) = (
        text(reference, "/apiVersion"),
        text(reference, "/fieldPath"),
    );
    if version.is_empty() {
        return f.required("apiVersion", "");
    }
    if path.is_empty() {
        return f.required("fieldPath", "");
    }
    let keyed = |field: &str| matches!(field, "metadata.annotations" | "metadata.labels");
    let why = match subscript(path) {
        _ if version != "v1" => Some(format!("unsupported pod version: {version}")),
        Some((field, _)) if keyed(field) => None,
        Some(_) => Some(format!("field label does not support subscript: {path}")),
        None if NAMED.contains(&path) || path == "spec.host" => None,
        None => Some(format!("field label not supported: {path}")),
    };
    if let Some(why) = why {
        let detail = format!("error converting fieldPath: {why}");
        return f.invalid("fieldPath", path, &detail);
    }
    match subscript(path) {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            f.named("", &key, names::qualified);
        }
        Some((_, key)) => f.named("", key, names::qualified),
        None => {
            // The old name of the same field.
            let path = if path == "spec.host" {
                "spec.nodeName"
            } else {
                path
            };
            if !known.contains(&path) {
                f.unsupported("fieldPath", path, known);
            }
        }
    }
}

pub(super) fn resource_reference(f: &mut Descent, reference: &Value, in_volume: bool) {
    let resource = text(reference, "/resource");
    let huge = HUGE_PAGES.iter().any(|prefix| resource.starts_with(prefix));
    if in_volume && text(reference, "/containerName").is_empty() {
        f.required("containerName", "");
    } else if resource.is_empty() {
        f.required("resource", "");
    } else if !RESOURCES.contains(&resource) && !huge {
        f.unsupported("resource", resource, &RESOURCES);
    }
    let divisor = text(reference, "/divisor");
    if divisor.parse().is_ok_and(|one: Quantity| one.is_zero()) || divisor.is_empty() {
        return;
    }
    let bytes = [
        "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
    ];
    let what = match resource {
        "limits.cpu" | "requests.cpu" => {
            if !["1m", "1"].contains(&divisor) {
                let detail = "only divisor's values 1m and 1 are supported with the cpu resource";
                f.invalid("divisor", resource, detail);
            }
            return;
        }
        "limits.memory" | "requests.memory" => "memory",
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => "local ephemeral storage",
        _ if huge => "hugepages",
        _ => return,
    };
    if !bytes.contains(&divisor) {
        let all = bytes.join(", ");
        let detail = format!("only divisor's values {all} are supported with the {what} resource");
        f.invalid("divisor", resource, &detail);
    }
}

/// Variables out of files: those lie in empty directories only.
pub(super) fn files(f: &mut Descent, context: &Context<'_>) {
    let volumes: HashMap<&str, &Value> = list(context.spec, "/volumes")
        .iter()
        .map(|volume| (text(volume, "/name"), volume))
        .collect();
    visit(f, context.spec, |f, container| {
        f.each(container, "env", |f, _, variable| {
            let reference = at(variable, "/valueFrom/fileKeyRef");
            if reference.is_null() {
                return;
            }
            let name = text(reference, "/volumeName");
            f.within("valueFrom.fileKeyRef", |f| match volumes.get(name) {
                None => f.not_found("volumeName", name),
                Some(volume) if !has(volume, "/emptyDir") => {
                    let detail = "referenced volume must be of type emptyDir";
                    f.invalid("volumeName", name, detail);
                }
                Some(_) => {}
            });
        });
    });
}
