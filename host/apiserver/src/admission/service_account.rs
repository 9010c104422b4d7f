//! `ServiceAccount`: who a pod is to the API, and how it comes by its credentials.
//!
//! A pod runs as a service account that exists, `default` unless it says otherwise. Unless the pod
//! or the account opts out, each container gets a volume with a token of that account, the authority
//! that the API's certificate is signed by, and the pod's namespace: what client libraries look for
//! inside a cluster.

use std::{sync::Arc, time::Duration};

use eyot_store::{Key, Object};
use serde_json::{Value, json};

use super::{Attributes, Mutated};
use crate::{
    api::Api,
    failure::Failure,
    object::{self, at, text},
    verbs::create::suffix,
};

const DEFAULT: &str = "default";
/// How long a new namespace's account is waited for: a controller makes it at once.
const PATIENCE: Duration = Duration::from_secs(1);
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// An hour, and a little more, by which this volume is told from one that a user asked for.
const EXPIRATION: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
const CONTAINERS: [(&str, &str); 3] = [
    ("initContainers", "init container"),
    ("containers", "container"),
    ("ephemeralContainers", "ephemeral container"),
];

pub(super) async fn mutate(
    api: &Api,
    attributes: &Attributes<'_>,
    pod: &mut Value,
    mutated: &mut Mutated,
) -> Result<(), Failure> {
    if !attributes.creates("", "pods") || is_mirror(pod) {
        return Ok(());
    }
    if text(pod, &["spec", "serviceAccountName"]).is_empty() {
        let spec = object::member(pod, "spec");
        spec.insert("serviceAccountName".into(), DEFAULT.into());
        spec.insert("serviceAccount".into(), DEFAULT.into());
        mutated.changed = true;
    }
    let account = find(api, attributes, pod).await?;
    if wants_token(&account, pod) {
        mount(pod);
        mutated.changed = true;
    }
    let pulls = account.get("imagePullSecrets").and_then(Value::as_array);
    let own = at(pod, &["spec", "imagePullSecrets"]).and_then(Value::as_array);
    if let Some(pulls) = pulls.filter(|pulls| !pulls.is_empty())
        && own.is_none_or(Vec::is_empty)
    {
        let pulls = pulls
            .iter()
            .map(|pull| json!({"name": text(pull, &["name"])}));
        let pulls: Vec<Value> = pulls.collect();
        object::member(pod, "spec").insert("imagePullSecrets".into(), pulls.into());
        mutated.changed = true;
    }
    Ok(())
}

pub(super) async fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    pod: &Value,
) -> Result<(), Failure> {
    if !attributes.creates("", "pods") {
        return Ok(());
    }
    if is_mirror(pod) {
        return match mirrored(pod) {
            Some(why) => Err(attributes.forbidden(pod, why)),
            None => Ok(()),
        };
    }
    let account = find(api, attributes, pod).await?;
    let enforced = text(&account, &["metadata", "annotations", ENFORCE]);
    if matches!(enforced, "1" | "t" | "T" | "true" | "TRUE" | "True")
        && let Some(why) = not_mountable(&account, pod)
    {
        return Err(attributes.forbidden(pod, why));
    }
    Ok(())
}

/// The pod's account, which must exist.
async fn find(api: &Api, attributes: &Attributes<'_>, pod: &Value) -> Result<Value, Failure> {
    let namespace = attributes.call.namespace.as_str();
    let name = text(pod, &["spec", "serviceAccountName"]);
    let key = Key::new("serviceaccounts", namespace, name);
    let found = match api.store.get(&key) {
        None if name == DEFAULT => wait(api, &key).await,
        found => found,
    };
    let found = found.ok_or_else(|| {
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        );
        attributes.forbidden(pod, why)
    })?;
    serde_json::from_slice(&found.json).map_err(Failure::internal)
}

async fn wait(api: &Api, key: &Key) -> Option<Arc<Object>> {
    let (resource, namespace) = (&key.resource, Some(&*key.namespace));
    let mut changes = api.store.watch(resource, namespace, api.store.revision());
    let look = async {
        loop {
            if let Some(found) = api.store.get(key) {
                return Some(found);
            }
            changes.as_mut().ok()?.next().await.ok()?;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.ok().flatten()
}

fn is_mirror(pod: &Value) -> bool {
    at(pod, &["metadata", "annotations", MIRROR]).is_some()
}

/// What a mirror pod, whose truth is a file on a node, may not ask of the API.
fn mirrored(pod: &Value) -> Option<&'static str> {
    if !text(pod, &["spec", "serviceAccountName"]).is_empty() {
        return Some("a mirror pod may not reference service accounts");
    }
    let volumes = || {
        at(pod, &["spec", "volumes"])
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let sources = || {
        volumes().flat_map(|volume| {
            at(volume, &["projected", "sources"])
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
        })
    };
    let pulls = at(pod, &["spec", "imagePullSecrets"]).and_then(Value::as_array);
    let secrets = volumes().any(|volume| volume.get("secret").is_some())
        || sources().any(|source| source.get("secret").is_some())
        || pulls.is_some_and(|pulls| !pulls.is_empty())
        || CONTAINERS.iter().any(|(group, _)| {
            containers(pod, group).any(|container| !secrets_of(container).is_empty())
        });
    if secrets {
        return Some("a mirror pod may not reference secrets");
    }
    sources()
        .any(|source| source.get("serviceAccountToken").is_some())
        .then_some("a mirror pod may not use ServiceAccountToken volume projections")
}

fn containers<'a>(pod: &'a Value, group: &str) -> impl Iterator<Item = &'a Value> {
    let list = at(pod, &["spec", group]).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// Variables of a container that are read from Secrets: the variable and the Secret.
fn secrets_of(container: &Value) -> Vec<(&str, &str)> {
    let variables = container.get("env").and_then(Value::as_array);
    let single = variables.into_iter().flatten().filter_map(|variable| {
        let secret = at(variable, &["valueFrom", "secretKeyRef", "name"])?;
        Some((
            text(variable, &["name"]),
            secret.as_str().unwrap_or_default(),
        ))
    });
    let whole = container.get("envFrom").and_then(Value::as_array);
    let whole = whole.into_iter().flatten().filter_map(|source| {
        Some((
            "",
            at(source, &["secretRef", "name"])?
                .as_str()
                .unwrap_or_default(),
        ))
    });
    single.chain(whole).collect()
}

/// What the pod uses of Secrets that an account which limits them does not list.
fn not_mountable(account: &Value, pod: &Value) -> Option<String> {
    let names = |key: &str| -> Vec<&str> {
        let list = account.get(key).and_then(Value::as_array);
        let names = list.into_iter().flatten().map(|one| text(one, &["name"]));
        names.collect()
    };
    let (mountable, pulls) = (names("secrets"), names("imagePullSecrets"));
    let account = object::name(account);
    let volumes = at(pod, &["spec", "volumes"]).and_then(Value::as_array);
    for volume in volumes.into_iter().flatten() {
        let secret = text(volume, &["secret", "secretName"]);
        if volume.get("secret").is_some() && !mountable.contains(&secret) {
            return Some(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account \
                 {account} does not reference that secret"
            ));
        }
    }
    for (group, title) in CONTAINERS {
        for container in containers(pod, group) {
            for (variable, secret) in secrets_of(container) {
                if mountable.contains(&secret) {
                    continue;
                }
                let container = text(container, &["name"]);
                let what = match variable {
                    "" => "with envFrom".to_owned(),
                    variable => format!("with envVar {variable}"),
                };
                return Some(format!(
                    "{title} {container} {what} referencing secret.secretName={secret:?} is not \
                     allowed because service account {account} does not reference that secret"
                ));
            }
        }
    }
    let own = at(pod, &["spec", "imagePullSecrets"]).and_then(Value::as_array);
    let own = own.into_iter().flatten().map(|pull| text(pull, &["name"]));
    own.enumerate()
        .find(|(_, name)| !pulls.contains(name))
        .map(|(index, name)| {
            format!(
                "imagePullSecrets[{index}].name={name:?} is not allowed because service account \
                 {account} does not reference that imagePullSecret"
            )
        })
}

/// The pod's word counts, then the account's.
fn wants_token(account: &Value, pod: &Value) -> bool {
    let own = at(pod, &["spec", "automountServiceAccountToken"]).and_then(Value::as_bool);
    let theirs = account
        .get("automountServiceAccountToken")
        .and_then(Value::as_bool);
    own.or(theirs).unwrap_or(true)
}

/// Mount the account's volume where nothing else is mounted, and add it if anybody mounts it.
fn mount(pod: &mut Value) {
    let volumes = at(pod, &["spec", "volumes"]).and_then(Value::as_array);
    let present = volumes
        .into_iter()
        .flatten()
        .map(|volume| text(volume, &["name"]))
        .find(|name| name.starts_with(VOLUME))
        .map(str::to_owned);
    let name = present
        .clone()
        .unwrap_or_else(|| format!("{VOLUME}{}", suffix()));
    let mut used = false;
    for group in ["initContainers", "containers"] {
        let list = pod.pointer_mut(&format!("/spec/{group}"));
        for container in list.and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = container.get("volumeMounts").and_then(Value::as_array);
            let taken = mounts
                .into_iter()
                .flatten()
                .any(|mount| text(mount, &["mountPath"]) == MOUNT);
            if !taken {
                let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT});
                push(container, "volumeMounts", mount);
                used = true;
            }
        }
    }
    if present.is_none() && used {
        let sources = json!([
            {"serviceAccountToken": {"expirationSeconds": EXPIRATION, "path": "token"}},
            {"configMap": {
                "name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}],
            }},
            {"downwardAPI": {"items": [{
                "path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
            }]}},
        ]);
        let volume = json!({
            "name": name, "projected": {"sources": sources, "defaultMode": 0o644},
        });
        if let Some(spec) = pod.get_mut("spec") {
            push(spec, "volumes", volume);
        }
    }
}

/// Append to the list under `key`, which is made if need be.
fn push(value: &mut Value, key: &str, item: Value) {
    let Some(map) = value.as_object_mut() else {
        return;
    };
    match map.get_mut(key).and_then(Value::as_array_mut) {
        Some(list) => list.push(item),
        None => {
            map.insert(key.to_owned(), json!([item]));
        }
    }
}
