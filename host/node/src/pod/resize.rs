//! Changing what the containers of a pod may use while they run (`pods/resize`), as the kubelet does.
//!
//! There are three answers to what a container may use. The manifest says what is *wanted*; the node
//! *allocates* that if it has as much left ([`decide`]), for the whole pod or not at all; and the
//! runtime *applies* what is allocated, at once or, where the container's `resizePolicy` says so, by
//! starting it again. What is wanted and not allocated is the condition `PodResizePending`; what is
//! allocated and not applied is `PodResizeInProgress`. Everything that is started gets what is
//! allocated, not what is wanted ([`allocated`]).
//!
//! Nothing is kept elsewhere: a later host reads what was allocated and applied from the status.

use std::{borrow::Cow, sync::Arc, time::Duration};

use eyot_client::EventType;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    event::{Effect, record},
    prepare,
    state::{PodState, ask_to_end},
    unit::{Kill, Now, Role, Unit},
};
use crate::{capacity::Capacity, quantity};

/// What is wanted and not allocated: words of the condition `PodResizePending`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    /// `Deferred` or `Infeasible`.
    pub reason: &'static str,
    pub message: String,
    /// Of the manifest that wants it.
    pub generation: Option<i64>,
    /// The text of the event about it.
    pub told: String,
    /// When it is decided again.
    pub again: Option<Instant>,
}

pub(crate) const DEFERRED: &str = "Deferred";
const INFEASIBLE: &str = "Infeasible";
/// How soon it is tried again to give or to apply what could not be.
pub(crate) const AGAIN: Duration = Duration::from_secs(10);

/// What is allocated and not applied: the condition `PodResizeInProgress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    pub generation: Option<i64>,
    /// What kept it from being applied.
    pub error: Option<String>,
    /// When that is tried again.
    pub again: Option<Instant>,
}

/// What becomes of what a manifest wants.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// It is what is allocated.
    Same,
    /// These units get it.
    Allocate {
        changes: Vec<(usize, Change)>,
        generation: Option<i64>,
    },
    Wait(Pending),
}

/// What one container is to have from now on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    pub to: Arc<ResourceRequirements>,
    /// Whether it has to be started again for that, if it runs.
    pub restarts: bool,
}

/// What a container wants.
pub(crate) fn wanted(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

/// What was allocated to a container, and what it has, as far as an earlier host said so. If the
/// manifest was changed since, or what was allocated had not been applied, it is decided again.
pub(crate) fn known(
    container: &Container,
    status: Option<&ContainerStatus>,
) -> [Arc<ResourceRequirements>; 2] {
    let Some(applied) = status.and_then(|status| status.resources.clone()) else {
        let wanted = Arc::new(wanted(container));
        return [Arc::clone(&wanted), wanted];
    };
    let requests = status.and_then(|status| status.allocated_resources.clone());
    let allocated = ResourceRequirements {
        requests: requests.or_else(|| applied.requests.clone()),
        ..applied.clone()
    };
    [Arc::new(allocated), Arc::new(applied)]
}

/// The pod as it is allocated.
pub(crate) fn allocated(pod: &Arc<Pod>, units: &[Unit]) -> Arc<Pod> {
    let is_wanted = |(container, unit): (&Container, &Unit)| match &container.resources {
        Some(wanted) => *wanted == *unit.allocated,
        None => *unit.allocated == ResourceRequirements::default(),
    };
    if prepare::containers(pod).zip(units).all(is_wanted) {
        return Arc::clone(pod);
    }
    let mut changed = Pod::clone(pod);
    if let Some(spec) = &mut changed.spec {
        let inits = spec.init_containers.iter_mut().flatten();
        for (container, unit) in inits.chain(&mut spec.containers).zip(units) {
            container.resources = Some(ResourceRequirements::clone(&unit.allocated));
        }
    }
    Arc::new(changed)
}

/// What a pod asks a node for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub cpu_millis: u64,
    pub memory: u64,
}

impl Asked {
    pub(crate) fn of(pod: &Pod) -> Self {
        let none = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        Self {
            cpu_millis: quantity::requested(spec, quantity::cpu_request),
            memory: quantity::requested(spec, quantity::memory_request),
        }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory: self.memory.saturating_add(other.memory),
        }
    }
}

/// Whether the node can give the containers of `pod` what they want; `others` is what is allocated to
/// the other pods of the node.
pub(crate) fn decide(pod: &Pod, units: &[Unit], others: Asked, node: &Capacity) -> Decision {
    let containers = prepare::containers(pod).zip(units).enumerate();
    let changes: Vec<_> = containers
        .filter_map(|(index, (container, unit))| {
            let wanted = wanted(container);
            let change = || Change {
                restarts: must_restart(container, &unit.applied, &wanted),
                to: Arc::new(wanted.clone()),
            };
            (wanted != *unit.allocated).then(|| (index, change()))
        })
        .collect();
    if changes.is_empty() {
        return Decision::Same;
    }
    let asked = Asked::of(pod);
    let cpus = u64::from(node.cpus) * 1000;
    let generation = pod.metadata.generation;
    let wait = |reason, message: String| {
        let what = format!("Pod resize {reason}");
        let wants = prepare::containers(pod).zip(units);
        let wants = wants.map(|(container, unit)| (unit, Cow::Owned(wanted(container))));
        Decision::Wait(Pending {
            reason,
            told: told(&what, wants, generation, Some(&message)),
            message,
            generation,
            again: None,
        })
    };
    for (name, asked, there) in [
        ("cpu", asked.cpu_millis, cpus),
        ("memory", asked.memory, node.memory),
    ] {
        if asked > there {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {asked}, capacity: {there}"
            );
            return wait(INFEASIBLE, message);
        }
    }
    for (name, asked, used, there) in [
        ("cpu", asked.cpu_millis, others.cpu_millis, cpus),
        ("memory", asked.memory, others.memory, node.memory),
    ] {
        if asked.saturating_add(used) > there {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {asked}, used: {used}, \
                 capacity: {there}"
            );
            return wait(DEFERRED, message);
        }
    }
    Decision::Allocate {
        changes,
        generation,
    }
}

/// Whether the container's `resizePolicy` wants it started again for this change.
fn must_restart(
    container: &Container,
    has: &ResourceRequirements,
    wants: &ResourceRequirements,
) -> bool {
    let policies = container.resize_policy.iter().flatten();
    let strict = policies.filter(|policy| policy.restart_policy == "RestartContainer");
    let value = |of: &ResourceRequirements, name: &str, limits: bool| {
        let of = if limits { &of.limits } else { &of.requests };
        quantity::millis(&of.as_ref()?.get(name)?.0)
    };
    let differ = |name: &str, limits| value(has, name, limits) != value(wants, name, limits);
    // A memory request means nothing to a container that runs.
    strict.into_iter().any(|policy| {
        let name = policy.resource_name.as_str();
        differ(name, true) || (name == "cpu" && differ(name, false))
    })
}

/// The text of an event about a resize, with what all containers have or are to have.
fn told<'a>(
    what: &str,
    units: impl Iterator<Item = (&'a Unit, Cow<'a, ResourceRequirements>)>,
    generation: Option<i64>,
    error: Option<&'a str>,
) -> String {
    let mut summary = Summary {
        init_containers: Vec::new(),
        containers: Vec::new(),
        generation: generation.unwrap_or(0),
        error,
    };
    for (unit, resources) in units {
        let one = One {
            name: &unit.name,
            resources,
        };
        match unit.role {
            Role::Init | Role::Sidecar => summary.init_containers.push(one),
            Role::Main => summary.containers.push(one),
            Role::Ephemeral => {}
        }
    }
    match serde_json::to_string(&summary) {
        Ok(summary) => format!("{what}: {summary}"),
        Err(_) => what.to_owned(),
    }
}

#[derive(Serialize)]
struct One<'a> {
    name: &'a str,
    resources: Cow<'a, ResourceRequirements>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<One<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<One<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl PodState {
    /// The manifest wants other resources than before, or is looked at again for that.
    pub(super) fn resize(&mut self, decision: Decision, now: Now, effects: &mut Vec<Effect>) {
        match decision {
            Decision::Same => self.pending = None,
            Decision::Allocate {
                changes,
                generation,
            } => {
                for (index, change) in changes {
                    if let Some(unit) = self.units.get_mut(index) {
                        unit.allocated = change.to;
                        unit.resize_restarts = change.restarts;
                    }
                }
                self.pending = None;
                self.progress = Some(Progress {
                    generation,
                    error: None,
                    again: None,
                });
                let message = self.told("Pod resize started", None);
                effects.push(record(None, EventType::Normal, "ResizeStarted", message));
            }
            Decision::Wait(pending) => {
                let same = |before: &Pending| {
                    (before.reason, &before.message, before.generation)
                        == (pending.reason, &pending.message, pending.generation)
                };
                if !self.pending.as_ref().is_some_and(same) {
                    let reason = match pending.reason {
                        DEFERRED => "ResizeDeferred",
                        _ => "ResizeInfeasible",
                    };
                    let told = pending.told.clone();
                    effects.push(record(None, EventType::Warning, reason, told));
                }
                let again = (pending.reason == DEFERRED).then(|| now.mono + AGAIN);
                self.pending = Some(Pending { again, ..pending });
            }
        }
    }

    /// The runtime has changed a container, or failed to.
    pub(super) fn resized(
        &mut self,
        index: usize,
        attempt: u32,
        outcome: Result<Arc<ResourceRequirements>, String>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(unit) = self.units.get_mut(index).filter(|u| u.restarts == attempt) else {
            return;
        };
        unit.resizing = false;
        match (outcome, &mut self.progress) {
            (Ok(applied), _) => unit.applied = applied,
            (Err(error), Some(progress)) => {
                progress.again = Some(now.mono + AGAIN);
                if progress.error.as_ref() != Some(&error) {
                    progress.error = Some(error.clone());
                    let message = self.told("Pod resize error", Some(&error));
                    effects.push(record(None, EventType::Warning, "ResizeError", message));
                }
            }
            (Err(_), None) => {}
        }
    }

    /// Have everything that runs get what is allocated to it.
    pub(super) fn advance_resize(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(progress) = &mut self.progress else {
            return;
        };
        if progress.again.is_some_and(|again| now.mono < again) {
            return;
        }
        progress.again = None;
        let (mut complete, grace) = (true, self.grace);
        for (index, unit) in self.units.iter_mut().enumerate() {
            let is_asked = |unit: &Unit| unit.running().is_some_and(|r| r.kill != Kill::No);
            if !unit.is_live() || unit.role == Role::Ephemeral {
                continue;
            }
            if unit.running().is_some() && unit.applied == unit.allocated && !unit.outdated {
                continue;
            }
            complete = false;
            if unit.resizing || unit.running().is_none() || is_asked(unit) {
                continue;
            }
            if unit.resize_restarts {
                let message = format!("Container {} resize requires restart", unit.name);
                effects.push(record(Some(index), EventType::Normal, "Killing", message));
                unit.outdated = true;
                ask_to_end(index, unit, now.mono + grace, now, effects);
            } else {
                unit.resizing = true;
                effects.push(Effect::Resize { unit: index });
            }
        }
        if complete {
            let message = self.told("Pod resize completed", None);
            effects.push(record(None, EventType::Normal, "ResizeCompleted", message));
            self.progress = None;
        }
    }

    fn told(&self, what: &str, error: Option<&str>) -> String {
        let units = self.units.iter();
        let units = units.map(|unit| (unit, Cow::Borrowed(&*unit.allocated)));
        let generation = self.progress.as_ref().and_then(|p| p.generation);
        told(what, units, generation, error)
    }

    /// When a resize wants to be looked at again.
    pub(super) fn next_resize(&self) -> Option<Instant> {
        let pending = self.pending.as_ref().and_then(|pending| pending.again);
        let progress = self.progress.as_ref().and_then(|progress| progress.again);
        pending.into_iter().chain(progress).min()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::adopt::adopt;

    fn pod(containers: Value) -> Pod {
        let pod = json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u", "generation": 7 },
            "spec": { "containers": containers },
        });
        serde_json::from_value(pod).unwrap()
    }

    fn cpu(millis: u32) -> Value {
        json!([{ "name": "c", "resources": { "requests": { "cpu": format!("{millis}m") } } }])
    }

    const NODE: Capacity = Capacity {
        cpus: 2,
        memory: 1 << 30,
        storage: 0,
        pods: 110,
    };

    fn decided(to: Value, others: Asked) -> Decision {
        let units = adopt(&pod(cpu(500)), &[], Now::get()).units;
        decide(&pod(to), &units, others, &NODE)
    }

    #[test]
    fn a_resize_is_allocated_deferred_or_infeasible_as_the_node_has_room() {
        let none = Asked::default();
        assert_eq!(decided(cpu(500), none), Decision::Same);
        let Decision::Allocate { changes, .. } = decided(cpu(1500), none) else {
            panic!("it fits");
        };
        assert_eq!((changes.len(), changes[0].0), (1, 0));
        assert!(!changes[0].1.restarts);
        let waiting = |decision| match decision {
            Decision::Wait(Pending {
                reason,
                message,
                generation,
                ..
            }) => {
                assert_eq!(generation, Some(7));
                format!("{reason}: {message}")
            }
            other => panic!("{other:?}"),
        };
        let busy = Asked {
            cpu_millis: 600,
            memory: 0,
        };
        assert_eq!(
            waiting(decided(cpu(1500), busy)),
            "Deferred: Node didn't have enough resource: cpu, requested: 1500, used: 600, \
             capacity: 2000"
        );
        assert_eq!(
            waiting(decided(cpu(2500), none)),
            "Infeasible: Node didn't have enough capacity: cpu, requested: 2500, capacity: 2000"
        );
    }

    #[test]
    fn a_container_is_started_again_only_for_what_its_policy_names() {
        let of = |resources: Value| {
            let policies = json!([
                { "resourceName": "memory", "restartPolicy": "RestartContainer" },
                { "resourceName": "cpu", "restartPolicy": "NotRequired" },
            ]);
            json!([{ "name": "c", "resizePolicy": policies, "resources": resources }])
        };
        let restarts = |resources: Value| match decided(of(resources), Asked::default()) {
            Decision::Allocate { changes, .. } => changes[0].1.restarts,
            other => panic!("{other:?}"),
        };
        assert!(!restarts(
            json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "2" } })
        ));
        assert!(!restarts(
            json!({ "requests": { "cpu": "500m", "memory": "1Mi" } })
        ));
        assert!(restarts(
            json!({ "requests": { "cpu": "500m" }, "limits": { "memory": "1Mi" } })
        ));
    }

    #[test]
    fn what_is_started_gets_what_is_allocated() {
        let mut units = adopt(&pod(cpu(500)), &[], Now::get()).units;
        let wanted = Arc::new(pod(cpu(1500)));
        let given = allocated(&wanted, &units);
        assert_eq!(Asked::of(&given).cpu_millis, 500);
        units[0].allocated = Arc::new(super::wanted(&wanted.spec.as_ref().unwrap().containers[0]));
        assert!(Arc::ptr_eq(&allocated(&wanted, &units), &wanted));
    }

    #[test]
    fn a_later_host_knows_what_was_allocated_from_the_status() {
        let wanted = pod(cpu(1500));
        let container = &wanted.spec.as_ref().unwrap().containers[0];
        let status = json!({
            "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": { "cpu": "500m" },
            "resources": { "requests": { "cpu": "250m" } },
        });
        let status: ContainerStatus = serde_json::from_value(status).unwrap();
        let cpus = |status| {
            known(container, status).map(|of| of.requests.as_ref().unwrap()["cpu"].0.clone())
        };
        assert_eq!(cpus(Some(&status)), ["500m", "250m"]);
        assert_eq!(cpus(None), ["1500m", "1500m"]);
    }
}
