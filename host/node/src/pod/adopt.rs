//! Taking on a pod: its specification and what an earlier life of this host wrote about it become
//! the first [`PodState`].
//!
//! A container that the runtimes found goes on, under the number of attempts that it was started
//! with; how it ended, if it did, is told by its runtime like any other end. One that was running
//! and is not there counts as ended with 137 and is restarted or not by its policy; counts go on
//! from where they were.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, ContainerState, ContainerStatus, Pod, PodSpec,
};
use tokio::time::Instant;

use super::{
    admission::SYSCTL,
    prepare, resize,
    state::{PodState, Stage, Verdict},
    unit::{Ended, Kill, Life, Now, RestartPolicy, RestartRule, Role, Running, Unit},
};
use crate::inherit::Inherited;

/// Grace of a pod that does not say any.
const DEFAULT_GRACE: i64 = 30;

/// The state from which this node carries on with `pod`, of which an earlier host left `left`.
pub(crate) fn adopt(pod: &Pod, left: &[Inherited], now: Now) -> PodState {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let status = pod.status.as_ref();
    let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or_default();
    let done = matches!(phase, "Succeeded" | "Failed");
    let policy = restart_policy(spec.restart_policy.as_deref());
    let known = |name: &str| {
        let all = status.into_iter().flat_map(|s| {
            s.container_statuses
                .iter()
                .flatten()
                .chain(s.init_container_statuses.iter().flatten())
                .chain(s.ephemeral_container_statuses.iter().flatten())
        });
        all.into_iter().find(|status| status.name == name)
    };
    let inits = spec.init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        let role = if sidecar { Role::Sidecar } else { Role::Init };
        (container, role)
    });
    let mains = spec
        .containers
        .iter()
        .map(|container| (container, Role::Main));
    let ephemeral: Vec<Container> = prepare::ephemeral(pod).collect();
    let ephemeral = ephemeral
        .iter()
        .map(|container| (container, Role::Ephemeral));
    let units: Vec<Unit> = inits
        .chain(mains)
        .chain(ephemeral)
        .map(|(container, role)| {
            let own = container.restart_policy.as_deref();
            let own = own.map_or(policy, |own| restart_policy(Some(own)));
            let policy = match role {
                Role::Sidecar => RestartPolicy::Always,
                Role::Ephemeral => RestartPolicy::Never,
                // An init container that succeeded is never run again.
                Role::Init if own == RestartPolicy::Always => RestartPolicy::OnFailure,
                _ => own,
            };
            let known = known(&container.name);
            let mut unit = unit(container, role, policy, known, done);
            if let Some(left) = goes_on(&unit, known, left).filter(|_| !done) {
                go_on(&mut unit, known, left, now);
            }
            unit
        })
        .collect();
    let started = status
        .and_then(|s| s.start_time.as_ref())
        .map_or(now.wall, |time| time.0);
    let grace = spec
        .termination_grace_period_seconds
        .unwrap_or(DEFAULT_GRACE);
    PodState {
        stage: if done {
            Stage::Done
        } else {
            Stage::Preparing {
                tries: 0,
                until: None,
            }
        },
        volume_images: Vec::new(),
        blocked: None,
        pending: None,
        progress: None,
        sandboxed: units.iter().any(|unit| unit.running().is_some()),
        units,
        id: pod_id(pod),
        grace: Duration::from_secs(u64::try_from(grace).unwrap_or(0)),
        deadline: deadline(pod, started, now),
        verdict: status.and_then(|status| {
            // What others say of a pod that goes on is no verdict.
            let reason = status.reason.clone()?;
            let ours = matches!(reason.as_str(), "DeadlineExceeded" | "Evicted" | SYSCTL);
            ours.then(|| Verdict {
                reason,
                message: status.message.clone().unwrap_or_default(),
            })
        }),
    }
}

/// When the `activeDeadlineSeconds` of a pod that is here since `started` are over.
pub(super) fn deadline(pod: &Pod, started: Timestamp, now: Now) -> Option<Instant> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let run = now.wall.duration_since(started);
    let left = seconds.saturating_sub(run.as_secs().max(0));
    Some(now.mono + Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

/// `name_namespace(uid)`.
pub(super) fn pod_id(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}_{}({})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    )
}

fn restart_policy(written: Option<&str>) -> RestartPolicy {
    match written {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// The units of the ephemeral containers after the first `known` ones.
pub(super) fn joined(pod: &Pod, known: usize) -> Vec<Unit> {
    let new = prepare::ephemeral(pod).skip(known);
    new.map(|container| {
        unit(
            &container,
            Role::Ephemeral,
            RestartPolicy::Never,
            None,
            false,
        )
    })
    .collect()
}

fn restart_rule(rule: &ContainerRestartRule) -> Option<RestartRule> {
    let codes = rule
        .exit_codes
        .as_ref()
        .filter(|_| rule.action == "Restart")?;
    Some(RestartRule {
        in_list: codes.operator == "In",
        codes: codes.values.clone().unwrap_or_default(),
    })
}

fn unit(
    container: &Container,
    role: Role,
    policy: RestartPolicy,
    known: Option<&ContainerStatus>,
    done: bool,
) -> Unit {
    let image = container.image.as_deref().unwrap_or_default();
    let mut unit = Unit::new(&container.name, role, image, policy);
    unit.has_startup_probe = container.startup_probe.is_some();
    unit.has_readiness_probe = container.readiness_probe.is_some();
    let lifecycle = container.lifecycle.as_ref();
    unit.has_post_start = lifecycle.is_some_and(|hooks| hooks.post_start.is_some());
    unit.has_pre_stop = lifecycle.is_some_and(|hooks| hooks.pre_stop.is_some());
    if role != Role::Ephemeral {
        [unit.allocated, unit.applied] = resize::known(container, known);
    }
    let rules = container.restart_policy_rules.iter().flatten();
    unit.rules = rules.filter_map(restart_rule).collect();
    let Some(known) = known else { return unit };
    unit.restarts = u32::try_from(known.restart_count).unwrap_or(0);
    unit.image_id = known.image_id.clone();
    unit.last = known.last_state.as_ref().and_then(ended);
    let begun = match known.state.as_ref() {
        Some(state) if state.running.is_some() => Some(lost(known)),
        Some(state) => ended(state),
        None => None,
    };
    match begun {
        Some(end) => {
            let passed = role == Role::Init && end.code == 0;
            let again = !done && !passed && unit.restarts_after(end.code);
            if again {
                unit.restarts = unit.restarts.saturating_add(1);
                unit.last = Some(end);
            } else {
                unit.life = Life::Ended(end);
            }
        }
        // It waited to be restarted: the number it waited with was used.
        None if unit.last.is_some() && !done => unit.restarts = unit.restarts.saturating_add(1),
        None => {}
    }
    unit
}

/// The container of this unit that was left, unless the status knows of a later attempt.
fn goes_on<'a>(
    unit: &Unit,
    known: Option<&ContainerStatus>,
    left: &'a [Inherited],
) -> Option<&'a Inherited> {
    let latest = known.map_or(0, |known| u32::try_from(known.restart_count).unwrap_or(0));
    left.iter()
        .filter(|left| left.left.name == unit.name && left.left.attempt >= latest)
        .max_by_key(|left| left.left.attempt)
}

fn go_on(unit: &mut Unit, known: Option<&ContainerStatus>, left: &Inherited, now: Now) {
    let id = left.id();
    // What the probes had found holds until they find something else.
    let same = known.filter(|known| known.container_id.as_ref() == Some(&id));
    unit.last = match (same, known.and_then(|known| known.state.as_ref())) {
        (None, Some(state)) => ended(state),
        _ => known.and_then(|known| ended(known.last_state.as_ref()?)),
    };
    unit.restarts = left.left.attempt;
    unit.image_id = left.left.digest.clone();
    let since = Timestamp::try_from(left.left.started).unwrap_or(now.wall);
    let age = Duration::try_from(now.wall.duration_since(since)).unwrap_or_default();
    unit.life = Life::Running(Running {
        since,
        since_mono: now.mono.checked_sub(age).unwrap_or(now.mono),
        started: !unit.has_startup_probe || same.is_some_and(|known| known.started == Some(true)),
        ready: !unit.has_readiness_probe || same.is_some_and(|known| known.ready),
        kill: Kill::No,
        // If the hook was still at work, it was when the host ended: it is not run a second time.
        hooked: false,
        id,
    });
}

fn ended(state: &ContainerState) -> Option<Ended> {
    let terminated = state.terminated.as_ref()?;
    Some(Ended {
        code: terminated.exit_code,
        reason: terminated.reason.clone().unwrap_or_default(),
        message: terminated.message.clone().unwrap_or_default(),
        started: terminated.started_at.as_ref().map(|time| time.0),
        finished: terminated.finished_at.as_ref().map(|time| time.0),
        id: terminated.container_id.clone().unwrap_or_default(),
    })
}

/// What becomes of a container that ran when the host ended.
fn lost(known: &ContainerStatus) -> Ended {
    let running = known
        .state
        .as_ref()
        .and_then(|state| state.running.as_ref());
    Ended {
        code: 137,
        reason: "ContainerStatusUnknown".to_owned(),
        message: "The node stopped while the container was running".to_owned(),
        started: running
            .and_then(|running| running.started_at.as_ref())
            .map(|time| time.0),
        finished: None,
        id: known.container_id.clone().unwrap_or_default(),
    }
}
