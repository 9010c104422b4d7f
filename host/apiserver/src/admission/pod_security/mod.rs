//! `PodSecurity`: pods keep to the Pod Security Standard that their namespace asks for.
//!
//! A namespace names a standard ([`level`]) for each of three modes in its labels: what does not keep
//! to the first is refused, to the second noted in the audit log, to the third answered with a
//! warning. Only pods are refused; objects that hold a template of pods are noted and warned about,
//! so that their makers learn early. A standard is a list of [`checks`] on the pod as it would be
//! stored. When a namespace becomes stricter, its present pods are looked at ([`existing`]) and stay.

mod baseline;
mod checks;
mod config;
mod existing;
mod level;
mod pod;
mod restricted;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use self::config::PodSecurityConfig;
use self::{
    checks::{in_detail, violations},
    level::Policy,
    pod::Pod,
};
use super::{Admitted, Attributes, Operation};
use crate::{
    api::{Api, namespace_key},
    failure::Failure,
    object::{self, at, text},
};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Through these a pod is used or reported on, not changed.
const HARMLESS: [&str; 8] = [
    "exec",
    "attach",
    "binding",
    "eviction",
    "log",
    "portforward",
    "proxy",
    "status",
];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// A write about objects that hold pods, or one about how they are judged.
pub(super) async fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
    admitted: &mut Admitted,
) -> Result<(), Failure> {
    if !matches!(attributes.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let resource = &attributes.call.resource;
    let is_pod = resource.is("", "pods");
    if resource.is("", "namespaces") {
        return namespace(api, attributes, object, admitted).await;
    }
    match attributes.subresource {
        "" => {}
        below if is_pod && !HARMLESS.contains(&below) => {}
        _ => return Ok(()),
    }
    match template(attributes, object) {
        Some(template) => judge(
            api,
            attributes,
            object,
            Pod::new(template),
            is_pod,
            admitted,
        ),
        None => Ok(()),
    }
}

/// What holds the pod's metadata and spec.
fn template<'a>(attributes: &Attributes<'_>, object: &'a Value) -> Option<&'a Value> {
    let resource = &attributes.call.resource;
    let path: &[&str] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &[],
        ("", "podtemplates") => &["template"],
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => &["spec", "template"],
        ("batch", "cronjobs") => &["spec", "jobTemplate", "spec", "template"],
        _ => return None,
    };
    at(object, path)
}

fn judge(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
    pod: Pod<'_>,
    enforce: bool,
    admitted: &mut Admitted,
) -> Result<(), Failure> {
    let config = &api.options.pod_security;
    let note = |key: &str, text: String| attributes.call.audit.add(format!("{PREFIX}{key}"), text);
    let user = attributes.call.user.name.as_str();
    if let Some(why) = config.exempts(&attributes.call.namespace, user) {
        note("exempt", why.to_owned());
        return Ok(());
    }
    let stored = api
        .store
        .get(&namespace_key(&attributes.call.namespace))
        .ok_or_else(|| {
            let name = &attributes.call.namespace;
            Failure::internal(format!("failed to lookup namespace {name}"))
        })?;
    let namespace: Value = serde_json::from_slice(&stored.json).map_err(Failure::internal)?;
    let (policy, errors) = Policy::of(&namespace, config.defaults());
    if errors.is_empty() {
        let is_quiet = policy.warn.is_privileged() && policy.audit.is_privileged();
        if !enforce && is_quiet {
            return Ok(());
        }
        if policy.is_privileged() {
            note("enforce-policy", policy.enforce.to_string());
            return Ok(());
        }
    }
    if enforce
        && attributes.operation == Operation::Update
        && let Some(old) = attributes.old
        && !is_significant(pod, Pod::new(old))
    {
        return Ok(());
    }
    let class = pod.spec(&["runtimeClassName"]).and_then(Value::as_str);
    if config.exempts_class(class) {
        note("exempt", "runtimeClass".to_owned());
        return Ok(());
    }
    if !errors.is_empty() {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let all = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        note("error", format!("Failed to parse policy: {all}"));
    }
    let mut refused = None;
    if enforce {
        note("enforce-policy", policy.enforce.to_string());
        let found = violations(pod, policy.enforce);
        if !found.is_empty() {
            let (standard, found) = (policy.enforce, in_detail(&found));
            let why = format!("violates PodSecurity \"{standard}\": {found}");
            refused = Some(attributes.forbidden(object, why));
        }
    }
    let would = |standard: level::Standard| {
        let found = violations(pod, standard);
        (!found.is_empty()).then(|| {
            let found = in_detail(&found);
            format!("would violate PodSecurity \"{standard}\": {found}")
        })
    };
    if let Some(text) = would(policy.audit) {
        note("audit-violations", text);
    }
    if let Some(refused) = refused {
        return Err(refused);
    }
    admitted.warnings.extend(would(policy.warn));
    Ok(())
}

/// Whether an update changes anything that checks look at and that may change at all: images, the
/// old annotations of seccomp, and which containers there are.
fn is_significant(pod: Pod<'_>, old: Pod<'_>) -> bool {
    if pod.annotation(SECCOMP_POD) != old.annotation(SECCOMP_POD) {
        return true;
    }
    let list = |pod: Pod<'_>, group: &str| -> Vec<(String, String)> {
        let list = pod.spec(&[group]).and_then(Value::as_array);
        let list = list.into_iter().flatten();
        let part = |container: &Value, key: &str| text(container, &[key]).to_owned();
        list.map(|container| (part(container, "name"), part(container, "image")))
            .collect()
    };
    let seccomp = |pod: Pod<'_>, name: &str| {
        let value = pod.annotation(&format!("{SECCOMP_CONTAINER}{name}"));
        value.map(str::to_owned)
    };
    let differs = |(name, image): &(String, String), before: &(String, String)| {
        *image != before.1 || seccomp(pod, name) != seccomp(old, name)
    };
    for group in ["containers", "initContainers"] {
        let (now, before) = (list(pod, group), list(old, group));
        let mut pairs = now.iter().zip(&before);
        if now.len() != before.len() || pairs.any(|(one, before)| differs(one, before)) {
            return true;
        }
    }
    let before = list(old, "ephemeralContainers");
    list(pod, "ephemeralContainers").iter().any(|one| {
        let before = before.iter().find(|(name, _)| *name == one.0);
        before.is_none_or(|before| differs(one, before))
    })
}

/// A namespace's own labels.
async fn namespace(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
    admitted: &mut Admitted,
) -> Result<(), Failure> {
    if !attributes.subresource.is_empty() {
        return Ok(());
    }
    let config = &api.options.pod_security;
    let name = object::name(object);
    let (policy, errors) = Policy::of(object, config.defaults());
    let before = attributes.old.map(|old| Policy::of(old, config.defaults()));
    let is_known = before.as_ref().is_some_and(|(_, before)| *before == errors);
    if !errors.is_empty() && !is_known {
        return Err(Failure::invalid("", "Namespace", name, &errors));
    }
    let is_exempt = config.exempts_namespace(name);
    let note = || {
        attributes
            .call
            .audit
            .add(format!("{PREFIX}exempt"), "namespace")
    };
    let ignored = || {
        let asked = policy.asked(object);
        let is_plain = policy.is_privileged() || policy == config.defaults();
        (!is_plain).then(|| {
            format!(
                "namespace {name:?} is exempt from Pod Security, and the policy ({asked}) will be \
                 ignored"
            )
        })
    };
    let Some((before, _)) = before else {
        if is_exempt {
            note();
            admitted.warnings.extend(ignored());
        }
        return Ok(());
    };
    let (now, then) = (policy.enforce, before.enforce);
    if is_exempt {
        if policy != before {
            note();
            admitted.warnings.extend(ignored());
        }
        return Ok(());
    }
    let is_no_stricter = now.version == then.version && now.level <= then.level;
    if now.is_privileged() || is_no_stricter {
        return Ok(());
    }
    admitted
        .warnings
        .extend(existing::warnings(api, name, now).await);
    Ok(())
}
