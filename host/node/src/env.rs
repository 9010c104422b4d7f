//! The environment of a container: literals, ConfigMaps, Secrets, the pod's own fields, and
//! `$(NAME)` references in values, commands and arguments.
//!
//! Pure: [`sources`] names the objects that are needed, the caller fetches them, [`environment`]
//! puts the variables together. The words of the errors are the kubelet's.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret,
};

use crate::{downward, quantity};

/// What a container's environment is made from, by name. `None` is an object that does not exist.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub config_maps: HashMap<String, Option<ConfigMap>>,
    pub secrets: HashMap<String, Option<Secret>>,
    /// Tokens of the pod's service account by audience and lifetime in seconds.
    pub tokens: HashMap<(String, i64), String>,
}

/// What fields of the pod are known only now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub host_ip: String,
    pub pod_ip: String,
    /// Thousandths of a processor and bytes that the node offers: the limit of who has none.
    pub node_cpu_millis: u64,
    pub node_memory: u64,
}

/// Why an environment cannot be made. Shown as `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvError {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        key: String,
        kind: &'static str,
        namespace: String,
        name: String,
    },
    #[error("{0}")]
    Field(String),
}

/// Names of the ConfigMaps and of the Secrets that the environment needs.
pub(crate) fn sources(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for from in container
        .env
        .iter()
        .flatten()
        .filter_map(|v| v.value_from.as_ref())
    {
        maps.extend(from.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// The variables in the order in which they were written; a later one of a name replaces an
/// earlier one in place. What is `offered` (about Services) may be named by the container's own, and
/// stands behind them unless they have the same names.
pub(crate) fn environment(
    container: &Container,
    pod: &Pod,
    sources: &Sources,
    facts: &Facts,
    offered: BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut made = Variables {
        order: Vec::new(),
        by_name: offered,
        given: BTreeSet::new(),
    };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(map) = &from.config_map_ref {
            match sources.config_maps.get(&map.name).and_then(Option::as_ref) {
                Some(found) => made.extend(
                    prefix,
                    found.data.iter().flatten().map(|(k, v)| (k, v.clone())),
                ),
                None if map.optional == Some(true) => {}
                None => return Err(missing("configmap", &map.name)),
            }
        }
        if let Some(secret) = &from.secret_ref {
            match sources.secrets.get(&secret.name).and_then(Option::as_ref) {
                Some(found) => made.extend(
                    prefix,
                    found.data.iter().flatten().map(|(k, v)| (k, lossy(&v.0))),
                ),
                None if secret.optional == Some(true) => {}
                None => return Err(missing("secret", &secret.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(from) => from_source(from, container, pod, sources, facts)?,
            None => Some(expand(
                variable.value.as_deref().unwrap_or_default(),
                &made.by_name,
            )),
        };
        if let Some(value) = value {
            made.set(variable.name.clone(), value);
        }
    }
    Ok(made.into_pairs())
}

/// Replace `$(NAME)` by the variable's value; `$$` is a dollar sign, and a name that is not known
/// stays as it was written.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    substitute(text, |name| variables.get(name).map(String::as_str))
}

fn substitute<'a>(text: &str, mut value: impl FnMut(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(next) = after.strip_prefix('$') {
            out.push('$');
            rest = next;
        } else if let Some((name, next)) = after.strip_prefix('(').and_then(|s| s.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = next;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The same, but a name that is not known is an error: the answer is that name.
pub(crate) fn expand_known(
    text: &str,
    variables: &BTreeMap<String, String>,
) -> Result<String, String> {
    let mut missing = None;
    let expanded = substitute(text, |name| {
        let value = variables.get(name).map(String::as_str);
        if value.is_none() {
            missing.get_or_insert_with(|| name.to_owned());
        }
        value
    });
    missing.map_or(Ok(expanded), Err)
}

/// The value of a `resourceFieldRef`, with what the node offers standing in for a missing limit.
pub(crate) fn resource(
    container: &Container,
    selector: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, EnvError> {
    let bad = || {
        EnvError::Field(format!(
            "unsupported container resource: {}",
            selector.resource
        ))
    };
    let (which, name) = selector.resource.split_once('.').ok_or_else(bad)?;
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|r| r.limits.as_ref()?.get(name));
    let request = resources.and_then(|r| r.requests.as_ref()?.get(name));
    let written = match which {
        "limits" => limit,
        "requests" => request.or(limit),
        _ => return Err(bad()),
    };
    let millis = match (
        written.and_then(|quantity| quantity::millis(&quantity.0)),
        name,
    ) {
        (Some(millis), _) => millis,
        (None, "cpu") if which == "limits" => i128::from(facts.node_cpu_millis),
        (None, "memory") if which == "limits" => i128::from(facts.node_memory) * 1000,
        (None, "cpu" | "memory" | "ephemeral-storage") => 0,
        (None, _) => return Err(bad()),
    };
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(|d| quantity::millis(&d.0))
        .filter(|d| *d > 0);
    let divisor = divisor.unwrap_or(1000);
    Ok((millis.div_euclid(divisor) + i128::from(millis.rem_euclid(divisor) != 0)).to_string())
}

#[derive(Default)]
struct Variables {
    order: Vec<String>,
    by_name: BTreeMap<String, String>,
    /// Those of `order`; the others of `by_name` are only offered.
    given: BTreeSet<String>,
}

impl Variables {
    fn set(&mut self, name: String, value: String) {
        self.by_name.insert(name.clone(), value);
        if self.given.insert(name.clone()) {
            self.order.push(name);
        }
    }

    fn extend<'a>(&mut self, prefix: &str, pairs: impl Iterator<Item = (&'a String, String)>) {
        for (name, value) in pairs {
            self.set(format!("{prefix}{name}"), value);
        }
    }

    fn into_pairs(mut self) -> Vec<(String, String)> {
        let order = std::mem::take(&mut self.order);
        let mut pairs: Vec<(String, String)> = order
            .into_iter()
            .filter_map(|name| self.by_name.remove_entry(&name))
            .collect();
        pairs.extend(self.by_name);
        pairs
    }
}

fn from_source(
    from: &EnvVarSource,
    container: &Container,
    pod: &Pod,
    sources: &Sources,
    facts: &Facts,
) -> Result<Option<String>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let no_key = |key: &str, kind, name: &str| EnvError::Key {
        key: key.to_owned(),
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    if let Some(field) = &from.field_ref {
        return downward::field(pod, &field.field_path, facts)
            .map(Some)
            .map_err(EnvError::Field);
    }
    if let Some(selector) = &from.resource_field_ref {
        let of = selector
            .container_name
            .as_deref()
            .filter(|name| !name.is_empty());
        let other = of.and_then(|name| {
            let mut all = crate::pod::containers(pod);
            all.find(|container| container.name == name)
        });
        return resource(other.unwrap_or(container), selector, facts).map(Some);
    }
    if let Some(wanted) = &from.config_map_key_ref {
        let optional = wanted.optional == Some(true);
        let Some(map) = sources
            .config_maps
            .get(&wanted.name)
            .and_then(Option::as_ref)
        else {
            return if optional {
                Ok(None)
            } else {
                Err(missing("configmap", &wanted.name))
            };
        };
        return match map.data.as_ref().and_then(|data| data.get(&wanted.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(no_key(&wanted.key, "ConfigMap", &wanted.name)),
        };
    }
    if let Some(wanted) = &from.secret_key_ref {
        let optional = wanted.optional == Some(true);
        let Some(secret) = sources.secrets.get(&wanted.name).and_then(Option::as_ref) else {
            return if optional {
                Ok(None)
            } else {
                Err(missing("secret", &wanted.name))
            };
        };
        return match secret.data.as_ref().and_then(|data| data.get(&wanted.key)) {
            Some(value) => Ok(Some(lossy(&value.0))),
            None if optional => Ok(None),
            None => Err(no_key(&wanted.key, "Secret", &wanted.name)),
        };
    }
    Err(EnvError::Field(
        "env valueFrom: this source is not supported by this node".to_owned(),
    ))
}

fn missing(kind: &'static str, name: &str) -> EnvError {
    EnvError::Missing {
        kind,
        name: name.to_owned(),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
