//! The rules of containers: what all have in common, and what sets the three sorts apart.

use std::collections::HashSet;

use serde_json::Value;

use super::{Context, env, handler, resources, security};
use crate::kinds::{
    descent::Descent,
    json::{at, has, int, list, text},
    names,
};

const ONLY_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";
const NOT_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";
/// What an ephemeral container may not have: it comes and goes beside the pod's own work.
const EPHEMERAL_LACKS: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

pub(super) fn regular(f: &mut Descent, context: &Context<'_>) {
    if list(context.spec, "/containers").is_empty() {
        return f.required("containers", "");
    }
    let mut seen = HashSet::new();
    f.each(context.spec, "containers", |f, _, container| {
        common(f, container, context);
        if !seen.insert(text(container, "/name")) {
            f.duplicate("name", text(container, "/name"));
        }
        handler::lifecycle(f, container, context);
        handler::probes(f, container);
        restart(f, container);
    });
    let mut taken = HashSet::new();
    f.each(context.spec, "containers", |f, _, container| {
        host_ports(f, container, &mut taken);
    });
}

pub(super) fn init(f: &mut Descent, context: &Context<'_>) {
    let mut seen: HashSet<&str> = names_in(context.spec, "containers").collect();
    f.each(context.spec, "initContainers", |f, _, container| {
        common(f, container, context);
        restart(f, container);
        let name = text(container, "/name");
        if seen.contains(name) {
            f.duplicate("name", name);
        } else if !name.is_empty() {
            seen.insert(name);
        }
        host_ports(f, container, &mut HashSet::new());
        if text(container, "/restartPolicy") == "Always" {
            handler::lifecycle(f, container, context);
            handler::probes(f, container);
        } else {
            for field in [
                "lifecycle",
                "livenessProbe",
                "readinessProbe",
                "startupProbe",
            ] {
                if has(container, &format!("/{field}")) {
                    f.forbidden(field, ONLY_SIDECARS);
                }
            }
        }
    });
}

pub(super) fn ephemeral(f: &mut Descent, context: &Context<'_>) {
    let others: HashSet<&str> = names_in(context.spec, "containers")
        .chain(names_in(context.spec, "initContainers"))
        .collect();
    let mut seen = others.clone();
    f.each(context.spec, "ephemeralContainers", |f, _, container| {
        common(f, container, context);
        only_in_pods(f, container);
        let name = text(container, "/name");
        if !seen.insert(name) {
            f.duplicate("name", name);
        }
        let target = text(container, "/targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            f.not_found("targetContainerName", target);
        }
        for field in EPHEMERAL_LACKS {
            let given = match at(container, &format!("/{field}")) {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(map) => field != "resources" || !map.is_empty(),
                _ => true,
            };
            if given {
                f.forbidden(field, NOT_EPHEMERAL);
            }
        }
        f.each(container, "volumeMounts", |f, _, mount| {
            for field in ["subPath", "subPathExpr"] {
                if !text(mount, &format!("/{field}")).is_empty() {
                    f.forbidden(field, NOT_EPHEMERAL);
                }
            }
        });
    });
}

fn names_in<'a>(spec: &'a Value, group: &str) -> impl Iterator<Item = &'a str> {
    list(spec, &format!("/{group}"))
        .iter()
        .map(|one| text(one, "/name"))
}

/// What only real pods must keep to, not templates.
pub(in crate::kinds::pod) fn only_in_pods(f: &mut Descent, container: &Value) {
    let image = text(container, "/image");
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        f.invalid("image", image, detail);
    }
}

fn common(f: &mut Descent, container: &Value, context: &Context<'_>) {
    f.required_name(container, "name", names::label);
    f.given(container, "image");
    let policies = ["File", "FallbackToLogsOnError"];
    f.one_of(container, "terminationMessagePolicy", &policies);
    ports(f, container);
    env::variables(f, container);
    mounts(f, container, context);
    devices(f, container, context);
    let policies = ["Always", "IfNotPresent", "Never"];
    f.one_of(container, "imagePullPolicy", &policies);
    resources::of_container(f, container, context);
    resize_policy(f, container, context);
    security::of_container(f, container, context);
}

fn ports(f: &mut Descent, container: &Value) {
    let mut named = HashSet::new();
    f.each(container, "ports", |f, _, port| {
        let name = text(port, "/name");
        if !name.is_empty() {
            let found = names::port_name(name);
            for detail in &found {
                f.invalid("name", name, detail);
            }
            if found.is_empty() && !named.insert(name) {
                f.duplicate("name", name);
            }
        }
        match int(port, "/containerPort") {
            0 => f.required("containerPort", ""),
            _ => f.port(port, "containerPort"),
        }
        if int(port, "/hostPort") != 0 {
            f.port(port, "hostPort");
        }
        f.one_of(port, "protocol", &["SCTP", "TCP", "UDP"]);
    });
}

/// No port of the host may be asked for twice.
fn host_ports(f: &mut Descent, container: &Value, taken: &mut HashSet<String>) {
    f.each(container, "ports", |f, _, port| {
        let number = int(port, "/hostPort");
        if number != 0 {
            let (protocol, address) = (text(port, "/protocol"), text(port, "/hostIP"));
            let key = format!("{protocol}/{address}/{number}");
            if taken.contains(&key) {
                f.duplicate("hostPort", key);
            } else {
                taken.insert(key);
            }
        }
    });
}

fn mounts(f: &mut Descent, container: &Value, context: &Context<'_>) {
    let devices = list(container, "/volumeDevices");
    let device = |key: &str, value: &str| devices.iter().any(|one| text(one, key) == value);
    let mut paths = HashSet::new();
    // Some findings about a mount stand at the list, which is how Kubernetes has always had them.
    let above = f.field("volumeMounts");
    f.each(container, "volumeMounts", |f, _, mount| {
        let (name, path) = (text(mount, "/name"), text(mount, "/mountPath"));
        f.given(mount, "name");
        if !context.volumes.contains_key(name) {
            f.not_found("name", name);
        }
        f.given(mount, "mountPath");
        if !paths.insert(path) {
            f.invalid("mountPath", path, "must be unique");
        }
        if device("/name", name) {
            f.invalid("name", name, "must not already exist in volumeDevices");
        }
        if device("/devicePath", path) {
            let detail = "must not already exist as a path in volumeDevices";
            f.invalid("mountPath", path, detail);
        }
        let mut list = Descent::at(&above);
        let sub = text(mount, "/subPath");
        list.descending("subPath", sub);
        let expression = text(mount, "/subPathExpr");
        if !expression.is_empty() {
            if !sub.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                f.invalid("subPathExpr", expression, detail);
            }
            list.descending("subPathExpr", expression);
        }
        propagation(&mut list, container, mount);
        f.extend(list.into_errors());
    });
}

fn propagation(f: &mut Descent, container: &Value, mount: &Value) {
    let propagation = text(mount, "/mountPropagation");
    let known = ["Bidirectional", "HostToContainer", "None"];
    f.one_of_if_given(mount, "mountPropagation", &known);
    let privileged = at(container, "/securityContext/privileged") == &Value::Bool(true);
    if propagation == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        f.forbidden("mountPropagation", detail);
    }
    match text(mount, "/recursiveReadOnly") {
        "" | "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if at(mount, "/readOnly") != &Value::Bool(true) {
                let detail = "may only be specified when readOnly is true";
                f.forbidden("recursiveReadOnly", detail);
            }
            if !matches!(propagation, "" | "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                f.forbidden("recursiveReadOnly", detail);
            }
        }
        other => {
            let known = ["Disabled", "Enabled", "IfPossible"];
            f.unsupported("recursiveReadOnly", other, &known);
        }
    }
}

fn devices(f: &mut Descent, container: &Value, context: &Context<'_>) {
    let mounts = list(container, "/volumeMounts");
    let mount = |key: &str, value: &str| mounts.iter().any(|one| text(one, key) == value);
    let (mut paths, mut seen) = (HashSet::new(), HashSet::new());
    f.each(container, "volumeDevices", |f, _, device| {
        let (name, path) = (text(device, "/name"), text(device, "/devicePath"));
        f.given(device, "name");
        if seen.contains(name) {
            f.invalid("name", name, "must be unique");
        }
        match context.volumes.get(name) {
            None => f.not_found("name", name),
            Some(volume)
                if !has(volume, "/persistentVolumeClaim") && !has(volume, "/ephemeral") =>
            {
                let detail = "can only use volume source type of PersistentVolumeClaim or \
                              Ephemeral for block mode";
                f.invalid("name", name, detail);
            }
            Some(_) => {}
        }
        f.given(device, "devicePath");
        if paths.contains(path) {
            f.invalid("devicePath", path, "must be unique");
        }
        if path.split('/').any(|part| part == "..") {
            f.invalid("devicePath", path, "can not contain backsteps ('..')");
        } else {
            paths.insert(path);
        }
        if mount("/name", name) {
            f.invalid("name", name, "must not already exist in volumeMounts");
        }
        if mount("/mountPath", path) {
            let detail = "must not already exist as a path in volumeMounts";
            f.invalid("devicePath", path, detail);
        }
        if !name.is_empty() {
            seen.insert(name);
        }
    });
}

fn resize_policy(f: &mut Descent, container: &Value, context: &Context<'_>) {
    let never = text(context.spec, "/restartPolicy") == "Never";
    let mut seen = HashSet::new();
    let policies = list(container, "/resizePolicy");
    f.within("resizePolicy", |f| {
        for (index, policy) in policies.iter().enumerate() {
            let (resource, restart) = (
                text(policy, "/resourceName"),
                text(policy, "/restartPolicy"),
            );
            if !seen.insert(resource) {
                f.item(index, |f| f.duplicate("", resource));
            }
            for (value, known) in [
                (resource, ["cpu", "memory"]),
                (restart, ["NotRequired", "RestartContainer"]),
            ] {
                match value {
                    "" => f.required("", ""),
                    value if known.contains(&value) => {}
                    value => f.unsupported("", value, &known),
                }
            }
            if never && restart != "NotRequired" {
                let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
                f.invalid("", restart, detail);
            }
        }
    });
}

/// Rules per container that a restart policy may have, and exit codes that one may name.
const RESTART_RULES: usize = 20;
const EXIT_CODES: usize = 255;

/// A restart policy of the container's own.
fn restart(f: &mut Descent, container: &Value) {
    let rules = list(container, "/restartPolicyRules");
    if has(container, "/restartPolicy") {
        let known = ["Always", "Never", "OnFailure"];
        f.one_of_if_given(container, "restartPolicy", &known);
    } else if !rules.is_empty() {
        let detail = "must specify restartPolicy when restart rules are used";
        f.required("restartPolicy", detail);
    }
    if rules.len() > RESTART_RULES {
        f.too_many("restartPolicyRules", rules.len(), RESTART_RULES);
    }
    f.each(container, "restartPolicyRules", |f, _, rule| {
        let action = text(rule, "/action");
        let known = ["Restart", "RestartAllContainers"];
        if !known.contains(&action) {
            f.unsupported("action", action, &known);
        }
        if !has(rule, "/exitCodes") {
            return f.required("exitCodes", "must be specified");
        }
        f.inside(rule, "exitCodes", |f, codes| {
            let operator = text(codes, "/operator");
            if !["In", "NotIn"].contains(&operator) {
                f.unsupported("operator", operator, &["In", "NotIn"]);
            }
            let count = list(codes, "/values").len();
            if count > EXIT_CODES {
                f.too_many("values", count, EXIT_CODES);
            }
        });
    });
}
