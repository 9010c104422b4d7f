//! What the node reports about a pod: pure, from the machine's state and the object.
//!
//! Follows the kubelet: phase and condition rules, reasons and messages are those that clients of
//! Kubernetes know. Only conditions of the node's own are made here; others are left to whoever
//! wrote them (the status is written as a strategic merge patch, which merges conditions by type).

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
        ResourceRequirements, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    prepare,
    state::{PodState, Stage, waiting_turn},
    unit::{Ended, Kill, Life, Role, Unit, Waiting},
};
use crate::quantity::qos_class;

/// What the status says beside the state of the containers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub host: IpAddr,
    /// The pod's own address, once it has one.
    pub pod: Option<IpAddr>,
    pub start: Timestamp,
}

/// Conditions that go away again.
pub(crate) const RESIZE_CONDITIONS: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// The status of `pod` in `state`. Times of conditions that did not change are taken from `before`.
pub(crate) fn status(
    state: &PodState,
    pod: &Pod,
    place: Place,
    before: Option<&PodStatus>,
    now: Timestamp,
) -> PodStatus {
    let phase = phase(state);
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let generation = pod.metadata.generation;
    let verdict = state.verdict.clone().or_else(|| state.blocked.clone());
    let (reason, message) = verdict.map(|one| (one.reason, one.message)).unzip();
    // A pod that has ended keeps the address that it had.
    let pod_ip = place.pod.map(|ip| ip.to_string());
    PodStatus {
        conditions: Some(conditions(state, phase, pod, before, now)),
        container_statuses: Some(
            state
                .mains()
                .map(|unit| container(state, pod, unit))
                .collect(),
        ),
        init_container_statuses: (spec.init_containers.as_ref().is_some_and(|c| !c.is_empty()))
            .then(|| {
                state
                    .inits()
                    .map(|unit| container(state, pod, unit))
                    .collect()
            }),
        ephemeral_container_statuses: (state.ephemerals().next().is_some()).then(|| {
            state
                .ephemerals()
                .map(|u| container(state, pod, u))
                .collect()
        }),
        host_ip: Some(place.host.to_string()),
        host_ips: Some(vec![HostIP {
            ip: place.host.to_string(),
        }]),
        pod_ips: pod_ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip,
        observed_generation: generation,
        phase: Some(phase.to_owned()),
        qos_class: Some(qos_class(spec).to_owned()),
        reason,
        message,
        start_time: Some(Time(place.start)),
        ..PodStatus::default()
    }
}

/// Pending, Running, Succeeded or Failed.
pub(crate) fn phase(state: &PodState) -> &'static str {
    let over = matches!(
        state.stage,
        Stage::Releasing { .. } | Stage::Done | Stage::Deleting
    );
    let mains = || state.mains();
    if over && (state.verdict.is_some() || state.init_failed()) {
        return "Failed";
    }
    let begun = mains()
        .any(|unit| unit.last.is_some() || unit.running().is_some() || unit.ended().is_some());
    if !state.is_initialized() && !begun {
        return "Pending";
    }
    if over && begun {
        let good = mains().all(|unit| unit.ended().is_some_and(|ended| ended.code == 0));
        return if good { "Succeeded" } else { "Failed" };
    }
    let never_ran = |unit: &Unit| {
        unit.last.is_none()
            && matches!(
                unit.life,
                Life::Waiting | Life::Creating { .. } | Life::Blocked { .. }
            )
    };
    if mains().any(never_ran) {
        return "Pending";
    }
    if mains().all(|unit| unit.ended().is_some()) {
        let good = mains().all(|unit| unit.ended().is_some_and(|ended| ended.code == 0));
        return if good { "Succeeded" } else { "Failed" };
    }
    "Running"
}

fn unready(state: &PodState) -> Vec<&str> {
    state
        .units
        .iter()
        .filter(|unit| matches!(unit.role, Role::Main | Role::Sidecar) && !unit.is_ready())
        .map(|unit| unit.name.as_str())
        .collect()
}

fn conditions(
    state: &PodState,
    phase: &str,
    pod: &Pod,
    before: Option<&PodStatus>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let completed = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let incomplete: Vec<&str> = state
        .inits()
        .filter(|u| !u.has_passed())
        .map(|u| u.name.as_str())
        .collect();
    let initialized = if state.is_initialized() {
        (
            true,
            completed
                .filter(|reason| *reason == "PodCompleted")
                .unwrap_or_default(),
            String::new(),
        )
    } else {
        let message = format!(
            "containers with incomplete status: [{}]",
            incomplete.join(" ")
        );
        (false, "ContainersNotInitialized", message)
    };
    let unready = unready(state);
    let containers_ready = match completed {
        Some(reason) => (false, reason, String::new()),
        None if unready.is_empty() => (true, "", String::new()),
        None => {
            let message = format!("containers with unready status: [{}]", unready.join(" "));
            (false, "ContainersNotReady", message)
        }
    };
    let ready = match closed_gate(pod) {
        Some(gate) if containers_ready.0 => {
            let message = format!("the status of pod readiness gate \"{gate}\" is not \"True\"");
            (false, "ReadinessGatesNotReady", message)
        }
        _ => containers_ready.clone(),
    };
    let mut all = vec![
        (
            "PodReadyToStartContainers",
            (state.sandboxed, "", String::new()),
        ),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
    ];
    if let Some(verdict) = state.verdict.as_ref().filter(|one| one.reason == "Evicted") {
        let why = (true, "TerminationByKubelet", verdict.message.clone());
        all.push(("DisruptionTarget", why));
    }
    if let Some(pending) = &state.pending {
        let why = (true, pending.reason, pending.message.clone());
        all.push((RESIZE_CONDITIONS[0], why));
    }
    if let Some(progress) = &state.progress {
        let reason = progress.error.as_ref().map_or("", |_| "Error");
        let why = (true, reason, progress.error.clone().unwrap_or_default());
        all.push((RESIZE_CONDITIONS[1], why));
    }
    let earlier = |kind: &str| {
        before.and_then(|status| status.conditions.as_ref()?.iter().find(|c| c.type_ == kind))
    };
    all.into_iter()
        .map(|(kind, (holds, reason, message))| {
            let status = if holds { "True" } else { "False" };
            let since = earlier(kind)
                .filter(|condition| condition.status == status)
                .and_then(|condition| condition.last_transition_time.clone());
            PodCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: (!reason.is_empty()).then(|| reason.to_owned()),
                message: (!message.is_empty()).then_some(message),
                last_transition_time: Some(since.unwrap_or(Time(now))),
                observed_generation: pod.metadata.generation,
                ..PodCondition::default()
            }
        })
        .collect()
}

/// A readiness gate that nobody has opened.
fn closed_gate(pod: &Pod) -> Option<&str> {
    let open = |kind: &str| {
        pod.status
            .as_ref()
            .and_then(|status| status.conditions.as_ref())
            .is_some_and(|all| all.iter().any(|c| c.type_ == kind && c.status == "True"))
    };
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.readiness_gates.as_ref());
    gates
        .into_iter()
        .flatten()
        .map(|gate| gate.condition_type.as_str())
        .find(|kind| !open(kind))
}

fn container(state: &PodState, pod: &Pod, unit: &Unit) -> ContainerStatus {
    let waits = || {
        if state.blocked.is_some() {
            return waiting(&Waiting {
                reason: "Blocked",
                message: String::new(),
            });
        }
        let turn = waiting_turn(state.inits().next().is_some());
        waiting(&turn)
    };
    let (now, id) = match &unit.life {
        Life::Waiting | Life::Creating { shown: None } => (waits(), None),
        Life::Running(running) if running.hooked => (waits(), Some(&running.id)),
        Life::Creating { shown: Some(why) }
        | Life::Blocked { why, .. }
        | Life::BackingOff { why, .. } => (waiting(why), None),
        Life::Running(running) => {
            let started_at = Some(Time(running.since));
            let now = ContainerStateRunning { started_at };
            (
                ContainerState {
                    running: Some(now),
                    ..ContainerState::default()
                },
                Some(&running.id),
            )
        }
        Life::Ended(ended) => (terminated(ended), Some(&ended.id)),
    };
    let id = id
        .or(unit.last.as_ref().map(|last| &last.id))
        .filter(|id| !id.is_empty());
    let has = match unit.running() {
        Some(_) => &unit.applied,
        None => &unit.allocated,
    };
    let resizable = unit.role != Role::Ephemeral;
    ContainerStatus {
        allocated_resources: unit.allocated.requests.clone().filter(|_| resizable),
        volume_mounts: mounts(pod, unit),
        resources: resizable.then(|| ResourceRequirements::clone(has)),
        name: unit.name.clone(),
        image: unit.image.clone(),
        image_id: unit.image_id.clone(),
        container_id: id.cloned(),
        ready: unit.is_ready(),
        started: Some(
            unit.running()
                .is_some_and(|r| r.started && !r.hooked && r.kill == Kill::No),
        ),
        restart_count: i32::try_from(unit.restarts).unwrap_or(i32::MAX),
        state: Some(now),
        last_state: Some(unit.last.as_ref().map(terminated).unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

/// What the container sees of the pod's volumes, and how.
fn mounts(pod: &Pod, unit: &Unit) -> Option<Vec<VolumeMountStatus>> {
    let own = prepare::containers(pod).find(|container| container.name == unit.name);
    let own = match own {
        Some(container) => container.volume_mounts.clone(),
        None => {
            let mut all = prepare::ephemeral(pod);
            all.find(|container| container.name == unit.name)?
                .volume_mounts
        }
    };
    let shown = own?.into_iter().map(|mount| {
        let read_only = mount.read_only == Some(true);
        // This host can do what is wanted if possible.
        let recursive = match mount.recursive_read_only.as_deref() {
            Some("Enabled" | "IfPossible") => "Enabled",
            _ => "Disabled",
        };
        VolumeMountStatus {
            name: mount.name,
            mount_path: mount.mount_path,
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| recursive.to_owned()),
            ..VolumeMountStatus::default()
        }
    });
    Some(shown.collect())
}

fn waiting(why: &Waiting) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(why.reason.to_owned()),
            message: (!why.message.is_empty()).then(|| why.message.clone()),
        }),
        ..ContainerState::default()
    }
}

fn terminated(ended: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: ended.code,
            reason: (!ended.reason.is_empty()).then(|| ended.reason.clone()),
            message: (!ended.message.is_empty()).then(|| ended.message.clone()),
            started_at: ended.started.map(Time),
            finished_at: ended.finished.map(Time),
            container_id: (!ended.id.is_empty()).then(|| ended.id.clone()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}
