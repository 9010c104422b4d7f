//! What one object counts for, and which quotas are about it.

use serde_json::Value;

use super::{
    super::{
        resources::{Amounts, Which, containers, has_pod_level, of_container, of_pod},
        volume_resize::class,
    },
    named,
};
use crate::{
    api::Api,
    object::{at, text},
    quantity::Quantity,
};

const POD_NAMES: [&str; 11] = [
    "count/pods",
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// Where a quota limits one of these, each container must say how much it wants.
const MUST_SAY: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];
const SERVICE_NAMES: [&str; 4] = [
    "count/services",
    "services",
    "services.nodeports",
    "services.loadbalancers",
];
const CLAIM_NAMES: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
/// Kinds that quotas count under their bare names, too.
const BARE: [&str; 4] = [
    "configmaps",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
];
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

/// Which objects a quota counts.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    name: String,
    operator: String,
    values: Vec<String>,
}

pub(super) fn scopes(spec: &Value) -> Vec<Scope> {
    let plain = spec.get("scopes").and_then(Value::as_array);
    let plain = plain.into_iter().flatten().filter_map(Value::as_str);
    let plain = plain.map(|name| Scope {
        name: name.to_owned(),
        operator: "Exists".to_owned(),
        values: Vec::new(),
    });
    let selected = at(spec, &["scopeSelector", "matchExpressions"]).and_then(Value::as_array);
    let selected = selected.into_iter().flatten().map(|one| {
        let values = one.get("values").and_then(Value::as_array);
        let values = values.into_iter().flatten().filter_map(Value::as_str);
        Scope {
            name: text(one, &["scopeName"]).to_owned(),
            operator: text(one, &["operator"]).to_owned(),
            values: values.map(str::to_owned).collect(),
        }
    });
    plain.chain(selected).collect()
}

/// What one object uses, and what scopes ask about it.
#[derive(Debug, Clone, Default)]
pub(super) struct Measured {
    pub(super) usage: Amounts,
    pod: Option<Pod>,
}

#[derive(Debug, Clone)]
struct Pod {
    terminating: bool,
    best_effort: bool,
    class: String,
    crosses: bool,
}

impl Measured {
    /// Of an object as it is stored.
    pub(super) fn of(resource: &str, object: &Value) -> Measured {
        let mut usage = Amounts::new();
        let mut pod = None;
        let one = Quantity::whole(1);
        match resource {
            "pods" => {
                usage.insert("count/pods".into(), one);
                if runs(object) {
                    of_containers(object, &mut usage);
                }
                pod = Some(Pod {
                    terminating: is_terminating(object),
                    best_effort: crate::kinds::is_best_effort(object),
                    class: text(object, &["spec", "priorityClassName"]).to_owned(),
                    crosses: crosses(object),
                });
            }
            "services" => of_service(object, &mut usage),
            "persistentvolumeclaims" => of_claim(object, &mut usage),
            other => {
                usage.insert(format!("count/{other}"), one);
                if BARE.contains(&other) {
                    usage.insert(other.to_owned(), one);
                }
            }
        }
        Measured { usage, pod }
    }

    /// Whether a scope takes the object in; only pods are in any.
    pub(super) fn is_in(&self, scope: &Scope) -> bool {
        let Some(pod) = &self.pod else {
            return false;
        };
        match scope.name.as_str() {
            "Terminating" => pod.terminating,
            "NotTerminating" => !pod.terminating,
            "BestEffort" => pod.best_effort,
            "NotBestEffort" => !pod.best_effort,
            "CrossNamespacePodAffinity" => pod.crosses,
            "PriorityClass" => {
                let (named, listed) = (!pod.class.is_empty(), scope.values.contains(&pod.class));
                match scope.operator.as_str() {
                    "Exists" => named,
                    "DoesNotExist" => !named,
                    "In" => named && listed,
                    "NotIn" => !named || !listed,
                    _ => false,
                }
            }
            _ => false,
        }
    }
}

/// A pod that has ended, or should have by now, runs no more.
fn runs(pod: &Value) -> bool {
    if matches!(text(pod, &["status", "phase"]), "Failed" | "Succeeded") {
        return false;
    }
    let Some(deleted) = at(pod, &["metadata", "deletionTimestamp"]).and_then(Value::as_str) else {
        return true;
    };
    // The time of deletion has the grace period in it already.
    let over = deleted.parse::<jiff::Timestamp>();
    over.is_ok_and(|over| jiff::Timestamp::now() <= over)
}

pub(super) fn is_terminating(pod: &Value) -> bool {
    let deadline = at(pod, &["spec", "activeDeadlineSeconds"]).and_then(Value::as_i64);
    deadline.is_some_and(|seconds| seconds >= 0)
}

fn crosses(pod: &Value) -> bool {
    let term = |term: &Value| {
        let namespaces = term.get("namespaces").and_then(Value::as_array);
        namespaces.is_some_and(|list| !list.is_empty()) || term.get("namespaceSelector").is_some()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let list = |name: &str| {
            let list = at(pod, &["spec", "affinity", kind, name]).and_then(Value::as_array);
            list.into_iter().flatten()
        };
        list("requiredDuringSchedulingIgnoredDuringExecution").any(term)
            || list("preferredDuringSchedulingIgnoredDuringExecution")
                .any(|weighted| weighted.get("podAffinityTerm").is_some_and(term))
    })
}

fn of_containers(pod: &Value, usage: &mut Amounts) {
    usage.insert("pods".into(), Quantity::whole(1));
    usage.extend(spelled(
        &of_pod(pod, Which::Requests),
        &of_pod(pod, Which::Limits),
    ));
}

/// Requests and limits under the names of quotas.
fn spelled(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut spelled = Amounts::new();
    for (name, amount) in requests {
        let native = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if native || name.starts_with("hugepages-") {
            spelled.insert(name.clone(), *amount);
        }
        spelled.insert(format!("requests.{name}"), *amount);
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            spelled.insert(format!("limits.{name}"), *amount);
        }
    }
    spelled
}

fn of_service(service: &Value, usage: &mut Amounts) {
    let ports = at(service, &["spec", "ports"]).and_then(Value::as_array);
    let ports = ports.map_or(&[][..], Vec::as_slice);
    let all = i64::try_from(ports.len()).unwrap_or(i64::MAX);
    let allocates = at(service, &["spec", "allocateLoadBalancerNodePorts"]);
    let (nodes, balancers) = match text(service, &["spec", "type"]) {
        "NodePort" => (all, 0),
        "LoadBalancer" if allocates == Some(&Value::Bool(false)) => {
            let given = ports
                .iter()
                .filter(|port| port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0);
            (i64::try_from(given.count()).unwrap_or(i64::MAX), 1)
        }
        "LoadBalancer" => (all, 1),
        _ => (0, 0),
    };
    for (name, count) in [
        ("count/services", 1),
        ("services", 1),
        ("services.nodeports", nodes),
        ("services.loadbalancers", balancers),
    ] {
        usage.insert(name.into(), Quantity::whole(count));
    }
}

fn of_claim(claim: &Value, usage: &mut Amounts) {
    let class = class(claim);
    let mut add = |name: &str, amount: Quantity| {
        usage.insert(name.to_owned(), amount);
        if !class.is_empty() {
            usage.insert(format!("{class}{OF_CLASS}{name}"), amount);
        }
    };
    add("persistentvolumeclaims", Quantity::whole(1));
    let asked = named(claim, &["spec", "resources", "requests", "storage"]);
    let held = named(claim, &["status", "allocatedResources", "storage"]);
    if let Some(storage) = asked.max(held).filter(|_| asked.is_some()) {
        add("requests.storage", storage.rounded_up());
    }
    usage.insert("count/persistentvolumeclaims".into(), Quantity::whole(1));
}

/// Which of the names that a quota limits are about objects of this resource.
pub(super) fn concerned(resource: &str, plural: &str, hard: &Amounts) -> Vec<String> {
    let is_ours = |name: &str| match resource {
        "pods" => {
            POD_NAMES.contains(&name)
                || name.starts_with("hugepages-")
                || name.starts_with("requests.hugepages-")
                // Extended resources have a domain.
                || name.strip_prefix("requests.").is_some_and(|rest| rest.contains('/'))
        }
        "services" => SERVICE_NAMES.contains(&name),
        "persistentvolumeclaims" => {
            name == "count/persistentvolumeclaims"
                || CLAIM_NAMES.contains(&name)
                || name
                    .split_once(OF_CLASS)
                    .is_some_and(|(_, rest)| CLAIM_NAMES.contains(&rest))
        }
        _ => {
            name.strip_prefix("count/") == Some(resource)
                || (BARE.contains(&plural) && plural == resource && name == plural)
        }
    };
    hard.keys().filter(|name| is_ours(name)).cloned().collect()
}

/// The resources whose objects a quota counts: the store's name, and the plural.
pub(super) fn counted(api: &Api, hard: &Amounts) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for resource in api.catalog().all().iter().filter(|r| r.namespaced) {
        let pair = (resource.storage.to_string(), resource.plural.clone());
        if !found.contains(&pair) && !concerned(&pair.0, &pair.1, hard).is_empty() {
            found.push(pair);
        }
    }
    found
}

/// What a pod's containers must say, and do not.
pub(super) fn missing(resource: &str, pod: &Value, names: &[String]) -> Option<String> {
    if resource != "pods" || has_pod_level(pod) {
        return None;
    }
    let mut wanted: Vec<&str> = MUST_SAY.to_vec();
    wanted.retain(|name| names.iter().any(|limited| limited == name));
    wanted.sort_unstable();
    let all = || containers(pod, "containers").chain(containers(pod, "initContainers"));
    let lacking = wanted.iter().filter_map(|name| {
        let mut silent: Vec<&str> = all()
            .filter(|container| {
                let requests = of_container(container, Which::Requests);
                let limits = of_container(container, Which::Limits);
                !spelled(&requests, &limits).contains_key(*name)
            })
            .map(|container| text(container, &["name"]))
            .collect();
        silent.sort_unstable();
        silent.dedup();
        (!silent.is_empty()).then(|| format!("{name} for: {}", silent.join(",")))
    });
    let lacking: Vec<String> = lacking.collect();
    (!lacking.is_empty()).then(|| format!("must specify {}", lacking.join("; ")))
}
