//! `pods/resize` and `pods/ephemeralcontainers`: the two parts of a running pod that may change.

use serde_json::{Value, json};

use super::{quality, rules, update};
use crate::{
    field_error::FieldError,
    kinds::{
        PartSpec,
        descent::Descent,
        json::{at, carry, child, has, items, list, remove, text},
        metadata, names, validate_metadata,
    },
};

const DOORS: &[&str] = &["get", "patch", "update"];
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

pub(super) const PARTS: &[PartSpec] = &[
    PartSpec {
        name: "ephemeralcontainers",
        verbs: DOORS,
        merge: |pod, old| {
            let containers = at(pod, "/spec/ephemeralContainers").clone();
            *pod = old.clone();
            let spec = child(pod, "spec");
            remove(spec, "ephemeralContainers");
            if let (Value::Object(spec), false) = (spec, containers.is_null()) {
                spec.insert("ephemeralContainers".to_owned(), containers);
            }
        },
        validate: ephemeral,
    },
    PartSpec {
        name: "resize",
        verbs: DOORS,
        merge: resized,
        validate: resize,
    },
];

fn whole(pod: &Value, old: &Value) -> Descent {
    let mut f = Descent::at("");
    f.extend(validate_metadata(pod, Some(old), true, names::subdomain));
    f.extend(metadata::whole(pod, true, names::subdomain));
    rules::of_pod(&mut f, pod);
    f
}

fn ephemeral(pod: &Value, old: &Value) -> Vec<FieldError> {
    let mut f = whole(pod, old);
    update::changed_annotations(&mut f, pod, old);
    if has(old, MIRROR) {
        let detail = "static pods do not support ephemeral containers";
        return vec![FieldError::forbidden("", detail)];
    }
    let given = list(pod, "/spec/ephemeralContainers");
    for before in list(old, "/spec/ephemeralContainers") {
        let name = text(before, "/name");
        let found = given.iter().rfind(|one| text(one, "/name") == name);
        let detail = match found {
            None => format!("existing ephemeral containers {name:?} may not be removed\n"),
            Some(now) if now != before => format!(
                "existing ephemeral containers {name:?} may not be changed\n{}",
                update::difference(before, now)
            ),
            Some(_) => continue,
        };
        f.forbidden("spec.ephemeralContainers", &detail);
    }
    f.into_errors()
}

const GROUPS: [&str; 2] = ["containers", "initContainers"];

/// The stored pod with the resources that were sent. Containers that do not fit are left as sent,
/// for the rules to refuse.
fn resized(pod: &mut Value, old: &Value) {
    let count = |pod: &Value, group: &str| list(pod, &format!("/spec/{group}")).len();
    if GROUPS
        .iter()
        .any(|group| count(pod, group) != count(old, group))
    {
        return;
    }
    let sent = std::mem::replace(pod, old.clone());
    let spec = child(pod, "spec");
    carry(spec, at(&sent, "/spec"), "resources");
    for group in GROUPS {
        let wanted = list(&sent, &format!("/spec/{group}"));
        let alike = items(spec, group)
            .zip(wanted)
            .all(|(container, wanted)| text(container, "/name") == text(wanted, "/name"));
        if !alike {
            spec[group] = wanted.into();
            continue;
        }
        for (container, wanted) in items(spec, group).zip(wanted) {
            carry(container, wanted, "resources");
            carry(container, wanted, "resizePolicy");
        }
    }
}

fn resize(pod: &Value, old: &Value) -> Vec<FieldError> {
    let mut f = whole(pod, old);
    for (no, why) in [
        (has(old, MIRROR), "static pods cannot be resized"),
        (
            text(old, "/spec/os/name") == "windows",
            "windows pods cannot be resized",
        ),
    ] {
        if no {
            return vec![FieldError::forbidden("", why)];
        }
    }
    let class = text(old, "/status/qosClass");
    let class = if class.is_empty() {
        quality::class(old)
    } else {
        class
    };
    if class != quality::class(pod) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        f.invalid("spec", class, detail);
    }
    let running = list(old, "/status/containerStatuses")
        .iter()
        .find(|one| has(one, "/state/running"));
    if running.is_some_and(|one| !has(one, "/resources")) {
        let detail = "Pod running on node without support for resize";
        f.forbidden("spec", detail);
    }
    f.within("spec", |f| {
        pod_level(f, pod, old);
        if in_order(f, pod, old) {
            containers(f, pod, old);
        }
    });
    f.into_errors()
}

fn pod_level(f: &mut Descent, pod: &Value, old: &Value) {
    let (new, old) = (at(pod, "/spec/resources"), at(old, "/spec/resources"));
    if new.is_null() && !old.is_null() {
        return f.forbidden("resources", "pod-level resources cannot be removed");
    }
    for which in ["requests", "limits"] {
        if any_removed(new, old, which) {
            let detail = format!("pod-level resource {which} cannot be removed");
            f.forbidden(&format!("resources.{which}"), &detail);
        }
    }
    if fixed(new) != fixed(old) {
        f.forbidden("", "only cpu and memory resources are mutable at pod-level");
    }
}

fn any_removed(new: &Value, old: &Value, which: &str) -> bool {
    let new = at(new, &format!("/{which}"));
    let old = at(old, &format!("/{which}")).as_object();
    old.is_some_and(|old| old.keys().any(|name| new.get(name).is_none()))
}

/// Resources without those that may change.
fn fixed(resources: &Value) -> Value {
    let mut rest = resources.clone();
    for which in ["limits", "requests"] {
        if let Some(Value::Object(map)) = rest.get_mut(which) {
            map.remove("cpu");
            map.remove("memory");
            if map.is_empty() {
                remove(&mut rest, which);
            }
        }
    }
    match rest {
        Value::Null => json!({}),
        rest => rest,
    }
}

fn in_order(f: &mut Descent, pod: &Value, old: &Value) -> bool {
    let before = f.count();
    for group in GROUPS {
        let pointer = format!("/spec/{group}");
        let (new, old) = (list(pod, &pointer), list(old, &pointer));
        if new.len() != old.len() {
            let detail = format!("{group} may not be added or removed on resize");
            f.forbidden(group, &detail);
            continue;
        }
        f.within(group, |f| {
            for (index, (new, old)) in new.iter().zip(old).enumerate() {
                if text(new, "/name") != text(old, "/name") {
                    let detail = format!("{group} may not be renamed or reordered on resize");
                    f.item(index, |f| f.forbidden("name", &detail));
                }
            }
        });
    }
    f.count() == before
}

fn containers(f: &mut Descent, pod: &Value, old: &Value) {
    let sidecar = |container: &Value| text(container, "/restartPolicy") == "Always";
    let pairs = |group: &str| {
        let pointer = format!("/spec/{group}");
        let (new, old) = (list(pod, &pointer), list(old, &pointer));
        new.iter().zip(old).enumerate()
    };
    for group in ["initContainers", "containers"] {
        for (index, (new, old)) in pairs(group) {
            if group == "initContainers" && !sidecar(old) {
                continue;
            }
            for which in ["requests", "limits"] {
                if any_removed(at(new, "/resources"), at(old, "/resources"), which) {
                    let field = format!("{group}[{index}].resources.{which}");
                    f.forbidden(&field, &format!("resource {which} cannot be removed"));
                }
            }
        }
    }
    let differs = |new: &Value, old: &Value| {
        let bare = |container: &Value| {
            let mut container = container.clone();
            let rest = fixed(at(&container, "/resources"));
            *child(&mut container, "resources") = rest;
            remove(&mut container, "resizePolicy");
            container
        };
        bare(new) != bare(old)
    };
    for (_, (new, old)) in pairs("containers") {
        if differs(new, old) {
            f.forbidden("", "only cpu and memory resources are mutable");
        }
    }
    for (_, (new, old)) in pairs("initContainers") {
        if sidecar(new) {
            if differs(new, old) {
                let detail = "only cpu and memory resources for sidecar containers are mutable";
                f.forbidden("", detail);
            }
        } else if new != old {
            let detail = "resources for non-sidecar init containers are immutable";
            f.forbidden("", detail);
        }
    }
}
