//! How much a pod asks for as a whole, from what its containers ask for.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    object::{at, text},
    quantity::Quantity,
};

/// Quantities by the name of the resource.
pub(super) type Amounts = BTreeMap<String, Quantity>;

/// Which of the two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Requests,
    Limits,
}

impl Which {
    pub(super) fn key(self) -> &'static str {
        match self {
            Which::Requests => "requests",
            Which::Limits => "limits",
        }
    }
}

/// A resource list. What is no quantity is left out: validation has its own word on it.
pub(super) fn amounts(list: Option<&Value>) -> Amounts {
    let entries = list.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(name, amount)| Some((name.clone(), amount.as_str()?.parse().ok()?)))
        .collect()
}

pub(super) fn of_container(container: &Value, which: Which) -> Amounts {
    amounts(at(container, &["resources", which.key()]))
}

pub(super) fn containers<'a>(pod: &'a Value, group: &str) -> impl Iterator<Item = &'a Value> {
    let list = at(pod, &["spec", group]).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// Add up, name by name.
pub(super) fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.get(name).map_or(*amount, |held| held.join(*amount));
        to.insert(name.clone(), sum);
    }
}

/// Raise to at least these, name by name.
fn raise(to: &mut Amounts, floor: &Amounts) {
    for (name, amount) in floor {
        let higher = to.get(name).is_none_or(|held| held < amount);
        if higher {
            to.insert(name.clone(), *amount);
        }
    }
}

/// What the pod's containers need together.
///
/// Containers run side by side, so they add up; init containers run before them and one after the
/// other, except those that keep running. A pod that states totals of its own overrides the sum.
pub(super) fn of_spec(pod: &Value, which: Which) -> Amounts {
    sum(pod, which, |container, _| of_container(container, which))
}

/// The same, counting what containers hold on the node already while they are being resized, and
/// what running the pod costs beside its containers.
pub(super) fn of_pod(pod: &Value, which: Which) -> Amounts {
    let infeasible = is_infeasible(pod);
    let mut total = sum(pod, which, |container, statuses| {
        let mut own = of_container(container, which);
        let name = text(container, &["name"]);
        let status = at(pod, &["status", statuses]).and_then(Value::as_array);
        let status = status
            .into_iter()
            .flatten()
            .find(|status| text(status, &["name"]) == name);
        let Some(status) = status else {
            return own;
        };
        let actual = amounts(at(status, &["resources", which.key()]));
        let allocated = match which {
            Which::Requests => amounts(status.get("allocatedResources")),
            Which::Limits => Amounts::new(),
        };
        if infeasible && !(actual.is_empty() && allocated.is_empty()) {
            own = actual;
        } else {
            raise(&mut own, &actual);
        }
        raise(&mut own, &allocated);
        own
    });
    for (name, amount) in amounts(at(pod, &["spec", "overhead"])) {
        match (total.get(&name), which) {
            (Some(held), _) => {
                let sum = held.join(amount);
                total.insert(name, sum);
            }
            (None, Which::Requests) => {
                total.insert(name, amount);
            }
            // Without a limit there is nothing to add to.
            (None, Which::Limits) => {}
        }
    }
    total
}

fn sum(pod: &Value, which: Which, of: impl Fn(&Value, &str) -> Amounts) -> Amounts {
    let mut total = Amounts::new();
    for container in containers(pod, "containers") {
        add(&mut total, &of(container, "containerStatuses"));
    }
    let (mut sidecars, mut highest) = (Amounts::new(), Amounts::new());
    for container in containers(pod, "initContainers") {
        let own = of(container, "initContainerStatuses");
        if text(container, &["restartPolicy"]) == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut highest, &sidecars);
        } else {
            let mut beside = own;
            add(&mut beside, &sidecars);
            raise(&mut highest, &beside);
        }
    }
    raise(&mut total, &highest);
    for (name, amount) in amounts(at(pod, &["spec", "resources", which.key()])) {
        if is_pod_level(&name) {
            total.insert(name, amount);
        }
    }
    total
}

/// Whether a pod may state a total of this resource.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Whether the pod states totals of its own.
pub(super) fn has_pod_level(pod: &Value) -> bool {
    [Which::Requests, Which::Limits].iter().any(|which| {
        amounts(at(pod, &["spec", "resources", which.key()]))
            .keys()
            .any(|name| is_pod_level(name))
    })
}

fn is_infeasible(pod: &Value) -> bool {
    let conditions = at(pod, &["status", "conditions"]).and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        text(condition, &["type"]) == "PodResizePending"
            && text(condition, &["reason"]) == "Infeasible"
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Which, of_pod, of_spec};

    fn container(cpu: &str) -> Value {
        json!({"name": cpu, "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}})
    }

    #[track_caller]
    fn check(spec: Value, expected: &str) {
        let pod = json!({ "spec": spec });
        let total = of_spec(&pod, Which::Requests);
        let shown = total.get("cpu").map(ToString::to_string);
        assert_eq!(shown.as_deref().unwrap_or("-"), expected, "{pod}");
    }

    #[test]
    fn a_pod_needs_what_runs_at_one_time() {
        check(
            json!({"containers": [container("100m"), container("200m")]}),
            "300m",
        );
        check(
            json!({"containers": [container("100m")], "initContainers": [container("1")]}),
            "1",
        );
        let mut sidecar = container("500m");
        sidecar["restartPolicy"] = json!("Always");
        check(
            json!({"containers": [container("100m")], "initContainers": [sidecar, container("1")]}),
            "1500m",
        );
        check(
            json!({"containers": [container("100m")], "initContainers": [container("550m"), sidecar]}),
            "600m",
        );
        check(
            json!({"containers": [container("100m")], "resources": {"requests": {"cpu": "2"}}}),
            "2",
        );
        check(json!({"containers": [{"name": "c"}]}), "-");
    }

    #[test]
    fn overhead_is_added_where_there_is_something_to_add_to() {
        let pod = json!({"spec": {
            "containers": [container("100m")], "overhead": {"cpu": "50m", "memory": "1Mi"},
        }});
        let shown = |which| {
            let amounts = of_pod(&pod, which);
            let shown: Vec<String> = amounts.iter().map(|(k, v)| format!("{k}={v}")).collect();
            shown.join(",")
        };
        assert_eq!(shown(Which::Requests), "cpu=150m,memory=1Mi");
        assert_eq!(shown(Which::Limits), "cpu=150m");
    }

    #[test]
    fn a_resized_container_counts_with_the_higher_of_both_sizes() {
        let mut pod = json!({
            "spec": {"containers": [container("100m")]},
            "status": {"containerStatuses": [{
                "name": "100m", "allocatedResources": {"cpu": "300m"},
                "resources": {"requests": {"cpu": "200m"}, "limits": {"cpu": "400m"}},
            }]},
        });
        assert_eq!(of_pod(&pod, Which::Requests)["cpu"].to_string(), "300m");
        assert_eq!(of_pod(&pod, Which::Limits)["cpu"].to_string(), "400m");
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("9");
        pod["status"]["conditions"] = json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
        assert_eq!(of_pod(&pod, Which::Requests)["cpu"].to_string(), "300m");
    }
}
