//! The life of pods, told as events and their effects: no clock, no tasks, no API.

use std::time::Duration;

use eyot_runtime::{Exit, Signal};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    apimachinery::pkg::api::resource::Quantity,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    adopt::adopt,
    event::{Effect, Event, Probed},
    resize::{self, Asked},
    state::{PodState, Stage, Verdict},
    status,
    unit::{Failure, FailureKind, Now},
};

/// A pod's machine with a clock that is moved by hand.
struct Machine {
    pod: Pod,
    state: PodState,
    now: Now,
    effects: Vec<Effect>,
}

impl Machine {
    fn new(spec: Value) -> Self {
        Self::with_status(spec, Value::Null)
    }

    fn with_status(spec: Value, status: Value) -> Self {
        let pod = json!({
            "metadata": { "name": "web", "namespace": "shop", "uid": "u1", "generation": 3 },
            "spec": spec,
            "status": status,
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let wall: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let now = Now {
            mono: Instant::now(),
            wall,
        };
        let (state, effects) = adopt(&pod, &[], now).begin(now);
        Self {
            pod,
            state,
            now,
            effects,
        }
    }

    fn on(&mut self, event: Event) -> &mut Self {
        let (state, effects) = self.state.clone().step(event, self.now);
        self.state = state;
        self.effects = effects;
        self
    }

    fn wait(&mut self, seconds: u64) -> &mut Self {
        self.now.mono += Duration::from_secs(seconds);
        self.now.wall += jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap());
        self.on(Event::Tick)
    }

    fn started(&mut self, unit: usize) -> &mut Self {
        let id = format!("wasm://{unit}-{}", self.state.units[unit].restarts);
        self.on(Event::Started {
            unit,
            id,
            image_id: "sha256:1".to_owned(),
        })
    }

    fn exited(&mut self, unit: usize, code: i32) -> &mut Self {
        self.on(Event::Exited {
            unit,
            exit: Exit::from_code(code),
        })
    }

    fn failed(&mut self, unit: usize, kind: FailureKind, reason: &'static str) -> &mut Self {
        let failure = Failure {
            kind,
            reason,
            message: "why".to_owned(),
        };
        self.on(Event::StartFailed { unit, failure })
    }

    /// The effects of the last event without its records.
    #[track_caller]
    fn does(&mut self, expected: &[Effect]) -> &mut Self {
        let acts: Vec<_> = self
            .effects
            .iter()
            .filter(|e| !matches!(e, Effect::Record { .. }))
            .cloned()
            .collect();
        assert_eq!(acts, expected);
        self
    }

    #[track_caller]
    fn says(&mut self, reason: &str, message: &str) -> &mut Self {
        let said: Vec<_> = self
            .effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Record {
                    reason, message, ..
                } => Some((*reason, message.as_str())),
                _ => None,
            })
            .collect();
        assert!(said.contains(&(reason, message)), "{said:?}");
        self
    }

    fn status(&self) -> PodStatus {
        let place = status::Place {
            host: [10, 0, 0, 1].into(),
            pod: Some([10, 244, 0, 2].into()),
            start: self.now.wall,
        };
        status::status(&self.state, &self.pod, place, None, self.now.wall)
    }

    /// Phase, whether it is ready, and what each main container's state is called.
    #[track_caller]
    fn shows(&mut self, phase: &str, ready: bool, containers: &[&str]) -> &mut Self {
        let status = self.status();
        let names: Vec<String> = status
            .container_statuses
            .iter()
            .flatten()
            .map(|container| {
                let state = container.state.as_ref().unwrap();
                if let Some(waiting) = &state.waiting {
                    waiting.reason.clone().unwrap()
                } else if let Some(ended) = &state.terminated {
                    format!("{} {}", ended.reason.as_deref().unwrap(), ended.exit_code)
                } else {
                    "Running".to_owned()
                }
            })
            .collect();
        assert_eq!(status.phase.as_deref(), Some(phase));
        assert_eq!(names, containers);
        let condition = |kind: &str| {
            status
                .conditions
                .iter()
                .flatten()
                .find(|c| c.type_ == kind)
                .unwrap()
                .status
                .clone()
        };
        let expected = if ready { "True" } else { "False" };
        assert_eq!(condition("Ready"), expected);
        assert_eq!(condition("ContainersReady"), expected);
        self
    }
}

fn spec(policy: &str, names: &[&str]) -> Value {
    let containers: Vec<_> = names
        .iter()
        .map(|n| json!({ "name": n, "image": "i" }))
        .collect();
    json!({ "restartPolicy": policy, "containers": containers })
}

const START: fn(usize) -> Effect = |unit| Effect::Start { unit };
const CLEAN: fn(usize) -> Effect = |unit| Effect::Clean { unit };
const TERM: fn(usize) -> Effect = |unit| Effect::Signal {
    unit,
    signal: Signal::Terminate,
};
const KILL: fn(usize) -> Effect = |unit| Effect::Signal {
    unit,
    signal: Signal::Kill,
};

#[test]
fn a_pod_goes_from_pending_to_ready_and_away() {
    let mut pod = Machine::new(spec("Always", &["a", "b"]));
    pod.does(&[Effect::Prepare]).shows(
        "Pending",
        false,
        &["ContainerCreating", "ContainerCreating"],
    );
    pod.on(Event::Prepared).does(&[START(0), START(1)]);
    pod.started(0)
        .does(&[])
        .shows("Pending", false, &["Running", "ContainerCreating"]);
    pod.started(1)
        .shows("Running", true, &["Running", "Running"]);
    assert_eq!(pod.state.next_tick(), None, "a pod that runs wants nothing");
    pod.on(Event::DeleteAsked {
        grace: Duration::from_secs(5),
    })
    .does(&[TERM(0), TERM(1)])
    .says("Killing", "Stopping container a")
    .shows("Running", false, &["Running", "Running"]);
    pod.exited(0, 0).does(&[CLEAN(0)]);
    pod.wait(4).does(&[]);
    pod.wait(1).does(&[KILL(1)]);
    pod.exited(1, 137).does(&[CLEAN(1), Effect::Release]);
    pod.shows("Failed", false, &["Completed 0", "Error 137"]);
    pod.on(Event::Released).does(&[Effect::Delete]);
    pod.on(Event::Deleted).does(&[]);
    assert_eq!(pod.state.stage, Stage::Gone);
}

#[test]
fn a_container_that_keeps_failing_is_restarted_with_doubling_pauses() {
    let mut pod = Machine::new(spec("Always", &["a"]));
    pod.on(Event::Prepared).started(0);
    pod.exited(0, 1).does(&[CLEAN(0), START(0)]);
    for pause in [10, 20, 40, 80, 160, 300, 300] {
        pod.started(0).shows("Running", true, &["Running"]);
        pod.exited(0, 1)
            .does(&[CLEAN(0)])
            .shows("Running", false, &["CrashLoopBackOff"]);
        pod.says(
            "BackOff",
            "Back-off restarting failed container a in pod web_shop(u1)",
        );
        pod.wait(pause - 1).does(&[]);
        pod.wait(1).does(&[START(0)]);
    }
    pod.started(0).wait(600);
    pod.exited(0, 1).does(&[CLEAN(0), START(0)]);
    assert_eq!(pod.state.units[0].restarts, 9);
}

#[test]
fn a_crash_loop_is_told_in_the_words_of_kubernetes() {
    let mut pod = Machine::new(spec("OnFailure", &["a"]));
    pod.on(Event::Prepared)
        .started(0)
        .exited(0, 3)
        .started(0)
        .exited(0, 4);
    let status = pod.status().container_statuses.unwrap().remove(0);
    let waiting = status.state.unwrap().waiting.unwrap();
    let message = "back-off 10s restarting failed container=a pod=web_shop(u1)";
    assert_eq!(waiting.message.as_deref(), Some(message));
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (4, Some("Error")));
    assert_eq!(last.container_id.as_deref(), Some("wasm://0-1"));
    assert_eq!(status.restart_count, 1);
}

#[test]
fn the_restart_policy_decides_how_a_pod_ends() {
    let mut pod = Machine::new(spec("OnFailure", &["a"]));
    pod.on(Event::Prepared)
        .started(0)
        .exited(0, 1)
        .does(&[CLEAN(0), START(0)]);
    pod.started(0)
        .exited(0, 0)
        .does(&[CLEAN(0), Effect::Release]);
    pod.shows("Succeeded", false, &["Completed 0"]);
    pod.on(Event::Released).does(&[]);
    assert_eq!(pod.state.stage, Stage::Done);

    let mut pod = Machine::new(spec("Never", &["a", "b"]));
    pod.on(Event::Prepared).started(0).started(1);
    pod.exited(0, 7)
        .does(&[CLEAN(0)])
        .shows("Running", false, &["Error 7", "Running"]);
    pod.exited(1, 0).does(&[CLEAN(1), Effect::Release]);
    pod.on(Event::Released)
        .shows("Failed", false, &["Error 7", "Completed 0"]);
    pod.on(Event::DeleteAsked {
        grace: Duration::ZERO,
    })
    .does(&[Effect::Delete]);
}

#[test]
fn init_containers_run_one_after_another_before_the_others() {
    let mut spec = spec("Always", &["a"]);
    spec["initContainers"] = json!([
        { "name": "one", "image": "i" },
        { "name": "side", "image": "i", "restartPolicy": "Always" },
        { "name": "two", "image": "i" },
    ]);
    let mut pod = Machine::new(spec);
    pod.on(Event::Prepared)
        .does(&[START(0)])
        .shows("Pending", false, &["PodInitializing"]);
    pod.started(0).does(&[]);
    pod.exited(0, 1).does(&[CLEAN(0), START(0)]);
    pod.started(0).exited(0, 0).does(&[CLEAN(0), START(1)]);
    pod.started(1).does(&[START(2)]);
    pod.started(2).exited(2, 0).does(&[CLEAN(2), START(3)]);
    pod.started(3).shows("Running", true, &["Running"]);
    pod.exited(1, 0)
        .does(&[CLEAN(1), START(1)])
        .shows("Running", false, &["Running"]);
    pod.started(1);
    pod.on(Event::DeleteAsked {
        grace: Duration::from_secs(9),
    })
    .does(&[TERM(3)]);
    pod.exited(3, 0).does(&[CLEAN(3), TERM(1)]);
    pod.exited(1, 0).does(&[CLEAN(1), Effect::Release]);
}

#[test]
fn an_init_container_that_fails_for_good_fails_the_pod() {
    let mut spec = spec("Never", &["a"]);
    spec["initContainers"] = json!([{ "name": "one", "image": "i" }]);
    let mut pod = Machine::new(spec);
    pod.on(Event::Prepared)
        .started(0)
        .exited(0, 2)
        .does(&[CLEAN(0), Effect::Release]);
    pod.on(Event::Released)
        .shows("Failed", false, &["PodInitializing"]);
}

#[test]
fn a_missing_image_is_tried_again_and_told_as_kubernetes_does() {
    let mut pod = Machine::new(spec("Always", &["a"]));
    let failure = || Failure {
        kind: FailureKind::Image,
        reason: "ErrImagePull",
        message: "image i was not found".to_owned(),
    };
    pod.on(Event::PrepareFailed(vec![(0, failure())])).does(&[]);
    pod.says(
        "Failed",
        "Failed to pull image \"i\": image i was not found",
    );
    pod.says("Failed", "Error: ErrImagePull")
        .shows("Pending", false, &["ErrImagePull"]);
    pod.wait(1).says("BackOff", "Back-off pulling image \"i\"");
    pod.shows("Pending", false, &["ImagePullBackOff"]);
    pod.wait(9)
        .does(&[Effect::Prepare])
        .shows("Pending", false, &["ImagePullBackOff"]);
    assert_eq!(pod.state.next_tick(), None, "the outcome is waited for");
    pod.on(Event::PrepareFailed(vec![(0, failure())]))
        .wait(1)
        .wait(18)
        .does(&[]);
    pod.wait(1).does(&[Effect::Prepare]);
    pod.on(Event::Prepared).does(&[START(0)]);
    pod.started(0).shows("Running", true, &["Running"]);
}

#[test]
fn a_missing_config_map_is_looked_for_again_soon() {
    let mut pod = Machine::new(spec("Always", &["a"]));
    pod.on(Event::Prepared)
        .failed(0, FailureKind::Config, "CreateContainerConfigError");
    pod.does(&[CLEAN(0)])
        .shows("Pending", false, &["CreateContainerConfigError"]);
    pod.says("Failed", "Error: why");
    pod.wait(1)
        .does(&[START(0)])
        .shows("Pending", false, &["CreateContainerConfigError"]);
    pod.started(0).shows("Running", true, &["Running"]);
    assert_eq!(pod.state.units[0].restarts, 0, "it never ran before");
}

#[test]
fn a_pod_that_is_deleted_while_it_starts_gives_up_and_leaves_nothing() {
    let mut pod = Machine::new(spec("Always", &["a", "b"]));
    pod.on(Event::Prepared).started(1);
    pod.on(Event::DeleteAsked {
        grace: Duration::from_secs(30),
    })
    .does(&[Effect::Cancel { unit: 0 }, TERM(1)]);
    pod.failed(0, FailureKind::Cancelled, "").does(&[CLEAN(0)]);
    pod.exited(1, 143).does(&[CLEAN(1), Effect::Release]);

    let mut pod = Machine::new(spec("Always", &["a"]));
    pod.on(Event::DeleteAsked {
        grace: Duration::from_secs(30),
    })
    .does(&[Effect::Release]);
    pod.on(Event::Prepared).does(&[]);
    pod.on(Event::Released).does(&[Effect::Delete]);
}

#[test]
fn a_start_that_succeeds_after_the_deletion_is_ended_at_once() {
    let mut pod = Machine::new(spec("Always", &["a"]));
    pod.on(Event::Prepared).on(Event::DeleteAsked {
        grace: Duration::from_secs(30),
    });
    pod.started(0).does(&[TERM(0)]);
}

#[test]
fn a_shorter_grace_hurries_a_deletion_and_a_longer_one_does_not_delay_it() {
    let mut pod = Machine::new(spec("Always", &["a"]));
    pod.on(Event::Prepared).started(0);
    pod.on(Event::DeleteAsked {
        grace: Duration::from_secs(30),
    });
    pod.on(Event::DeleteAsked {
        grace: Duration::from_secs(60),
    });
    pod.on(Event::DeleteAsked {
        grace: Duration::from_secs(2),
    })
    .does(&[]);
    pod.wait(2).does(&[KILL(0)]);
}

#[test]
fn probes_decide_about_readiness_and_restarts() {
    let mut spec = spec("Always", &["a"]);
    let probe = json!({ "tcpSocket": { "port": 80 } });
    spec["containers"][0]["readinessProbe"] = probe.clone();
    spec["containers"][0]["startupProbe"] = probe;
    let mut pod = Machine::new(spec);
    let probed = |probe| Event::Probed {
        unit: 0,
        attempt: 0,
        probe,
    };
    pod.on(Event::Prepared)
        .started(0)
        .shows("Running", false, &["Running"]);
    pod.on(probed(Probed::Ready(true)))
        .shows("Running", false, &["Running"]);
    pod.on(probed(Probed::Started))
        .shows("Running", true, &["Running"]);
    pod.on(probed(Probed::Ready(false)))
        .shows("Running", false, &["Running"]);
    let unhealthy = Probed::Unhealthy {
        which: "liveness",
        grace: Duration::from_secs(3),
    };
    pod.on(probed(unhealthy)).does(&[TERM(0)]);
    pod.says(
        "Killing",
        "Container a failed liveness probe, will be restarted",
    );
    pod.wait(3).does(&[KILL(0)]);
    pod.exited(0, 137).does(&[CLEAN(0), START(0)]);
    pod.started(0)
        .on(probed(Probed::Ready(true)))
        .shows("Running", false, &["Running"]);
}

#[test]
fn a_pod_past_its_deadline_fails() {
    let mut spec = spec("Always", &["a"]);
    spec["activeDeadlineSeconds"] = json!(60);
    let mut pod = Machine::new(spec);
    pod.on(Event::Prepared).started(0).wait(59).does(&[]);
    pod.wait(1).does(&[TERM(0)]);
    pod.exited(0, 143)
        .does(&[CLEAN(0), Effect::Release])
        .on(Event::Released);
    pod.shows("Failed", false, &["Error 143"]);
    assert_eq!(pod.status().reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(pod.state.stage, Stage::Done);
}

#[test]
fn a_deadline_may_come_later_and_draw_nearer() {
    let mut pod = Machine::new(spec("Always", &["a"]));
    pod.on(Event::Prepared).started(0).wait(60).does(&[]);
    let begun = pod.now.wall - jiff::SignedDuration::from_secs(60);
    let end = |pod: &Machine, seconds: i64| {
        let mut object = pod.pod.clone();
        object.spec.as_mut().unwrap().active_deadline_seconds = Some(seconds);
        Event::DeadlineChanged(super::adopt::deadline(&object, begun, pod.now))
    };
    let later = end(&pod, 100);
    pod.on(later).does(&[]).wait(5).does(&[]);
    let sooner = end(&pod, 70);
    pod.on(sooner).does(&[]).wait(4).does(&[]);
    pod.wait(1).does(&[TERM(0)]);
    let mut pod = Machine::new(spec("Always", &["a"]));
    pod.on(Event::Prepared).started(0).wait(60);
    let past = end(&pod, 5);
    pod.on(past).does(&[TERM(0)]);
}

/// A status as an earlier life of the host left it.
fn before(state: Value, restarts: u32, phase: &str) -> Value {
    json!({ "phase": phase, "containerStatuses": [{
        "name": "a", "image": "i", "imageID": "sha256:1", "ready": true,
        "restartCount": restarts, "containerID": "wasm://old", "state": state,
    }] })
}

#[test]
fn after_a_restart_of_the_host_counts_go_on_and_policies_hold() {
    let running = json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } });
    let mut pod = Machine::with_status(
        spec("Always", &["a"]),
        before(running.clone(), 4, "Running"),
    );
    pod.does(&[Effect::Prepare])
        .on(Event::Prepared)
        .does(&[START(0)]);
    pod.started(0).shows("Running", true, &["Running"]);
    let status = pod.status().container_statuses.unwrap().remove(0);
    assert_eq!(status.restart_count, 5);
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!(last.reason.as_deref(), Some("ContainerStatusUnknown"));

    let mut pod = Machine::with_status(spec("Never", &["a"]), before(running, 0, "Running"));
    pod.on(Event::Prepared)
        .does(&[Effect::Release])
        .on(Event::Released);
    pod.shows("Failed", false, &["ContainerStatusUnknown 137"]);

    let ended = json!({ "terminated": { "exitCode": 0, "reason": "Completed" } });
    let mut pod = Machine::with_status(spec("OnFailure", &["a"]), before(ended, 0, "Succeeded"));
    pod.does(&[]).shows("Succeeded", false, &["Completed 0"]);
    assert_eq!(pod.state.stage, Stage::Done);
}

#[test]
fn the_status_says_where_the_pod_is_and_which_generation_was_seen() {
    let mut pod = Machine::new(spec("Always", &["a"]));
    let status = pod.on(Event::Prepared).started(0).status();
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.0.2"));
    assert_eq!(status.host_ip.as_deref(), Some("10.0.0.1"));
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("wasm://0-0"));
    assert_eq!(container.image_id, "sha256:1");
    assert_eq!(container.started, Some(true));
}

#[test]
fn a_closed_readiness_gate_keeps_a_pod_from_being_ready() {
    let mut spec = spec("Always", &["a"]);
    spec["readinessGates"] = json!([{ "conditionType": "x/y" }]);
    let mut pod = Machine::new(spec);
    let status = pod.on(Event::Prepared).started(0).status();
    let ready = status
        .conditions
        .unwrap()
        .into_iter()
        .find(|c| c.type_ == "Ready")
        .unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_deref()),
        ("False", Some("ReadinessGatesNotReady"))
    );
}

fn with_hooks(hooks: Value) -> Value {
    let mut spec = spec("Always", &["a", "b"]);
    spec["containers"][0]["lifecycle"] = hooks;
    spec["terminationGracePeriodSeconds"] = json!(10);
    spec
}

#[test]
fn a_post_start_hook_holds_others_back_and_takes_its_container_with_it_if_it_fails() {
    let sleep = json!({ "postStart": { "sleep": { "seconds": 1 } } });
    let mut pod = Machine::new(with_hooks(sleep));
    pod.on(Event::Prepared).does(&[START(0)]);
    pod.started(0).does(&[]).shows(
        "Pending",
        false,
        &["ContainerCreating", "ContainerCreating"],
    );
    let hooked = |attempt, good| Event::Hooked {
        unit: 0,
        attempt,
        good,
    };
    pod.on(hooked(7, true)).does(&[]);
    pod.on(hooked(0, true)).does(&[START(1)]);
    pod.started(1)
        .shows("Running", true, &["Running", "Running"]);
    pod.exited(0, 1).wait(0).does(&[]).started(0);
    pod.on(hooked(1, false))
        .says("FailedPostStartHook", "PostStartHook failed")
        .says("Killing", "FailedPostStartHook")
        .does(&[TERM(0)]);
    pod.wait(10).does(&[KILL(0)]);
}

#[test]
fn a_pre_stop_hook_runs_within_the_grace_and_leaves_time_to_end() {
    let sleep = json!({ "preStop": { "sleep": { "seconds": 1 } } });
    let ready = || {
        let mut pod = Machine::new(with_hooks(sleep.clone()));
        pod.on(Event::Prepared).started(0).started(1);
        let grace = Duration::from_secs(10);
        let stop = Effect::Stop { unit: 0, grace };
        pod.on(Event::DeleteAsked { grace }).does(&[stop, TERM(1)]);
        pod
    };
    let signalled = || Event::Signalled {
        unit: 0,
        attempt: 0,
    };
    // A hook that ends soon leaves the container the rest of the grace.
    let mut pod = ready();
    pod.wait(1).on(signalled()).wait(8).does(&[]);
    pod.wait(1).does(&[KILL(0), KILL(1)]);
    // One that takes all of it, two seconds more.
    let mut pod = ready();
    pod.wait(10).does(&[KILL(1)]);
    pod.on(signalled()).wait(1).does(&[]);
    pod.wait(1).does(&[KILL(0)]);
    // Who is in a hurry does not wait for it.
    let mut pod = ready();
    let grace = Duration::from_secs(1);
    pod.on(Event::DeleteAsked { grace }).wait(1);
    pod.does(&[KILL(0), KILL(1)]);
    assert_eq!(pod.state.next_tick(), None);
}

#[test]
fn a_container_may_have_a_restart_policy_and_rules_of_its_own() {
    let mut spec = spec("Never", &["a", "b", "c"]);
    spec["containers"][0]["restartPolicy"] = json!("OnFailure");
    spec["containers"][1]["restartPolicy"] = json!("Never");
    spec["containers"][1]["restartPolicyRules"] = json!([
        { "action": "Restart", "exitCodes": { "operator": "In", "values": [42] } },
    ]);
    let mut pod = Machine::new(spec);
    pod.on(Event::Prepared).started(0).started(1).started(2);
    pod.exited(0, 1).does(&[CLEAN(0), START(0)]).started(0);
    pod.exited(1, 42).does(&[CLEAN(1), START(1)]).started(1);
    pod.exited(1, 1).does(&[CLEAN(1)]);
    pod.exited(2, 42).does(&[CLEAN(2)]);
    pod.exited(0, 0)
        .shows("Failed", false, &["Completed 0", "Error 1", "Error 42"]);
}

#[test]
fn another_image_restarts_what_runs_and_hurries_what_could_not_be_pulled() {
    let changed = |unit| Event::ImageChanged {
        unit,
        image: "new".to_owned(),
    };
    let mut spec = spec("Never", &["a"]);
    spec["terminationGracePeriodSeconds"] = json!(5);
    let mut pod = Machine::new(spec.clone());
    pod.on(Event::Prepared).started(0);
    pod.on(changed(0))
        .says(
            "Killing",
            "Container a definition changed, will be restarted",
        )
        .does(&[TERM(0)]);
    // Whatever the policy says, and at once.
    pod.exited(0, 137).does(&[CLEAN(0), START(0)]);
    pod.failed(0, FailureKind::Image, "ErrImagePull")
        .says("Failed", "Failed to pull image \"new\": why");
    pod.on(changed(0)).does(&[START(0)]);
    assert_eq!(pod.state.units[0].restarts, 1);

    let mut pod = Machine::new(spec.clone());
    pod.on(Event::PrepareFailed(vec![(
        0,
        Failure {
            kind: FailureKind::Image,
            reason: "ErrImagePull",
            message: "why".to_owned(),
        },
    )]));
    pod.on(changed(0)).does(&[Effect::Prepare]);

    // Of those that come first only the ones that stay are started anew.
    let sidecar = json!({ "name": "s", "image": "i", "restartPolicy": "Always" });
    spec["initContainers"] = json!([sidecar, { "name": "first", "image": "i" }]);
    let mut pod = Machine::new(spec);
    pod.on(Event::Prepared).started(0).started(1);
    pod.on(changed(1)).does(&[]);
    pod.on(changed(0))
        .says("Killing", "Init container s definition changed")
        .does(&[TERM(0)]);
}

#[test]
fn an_ephemeral_container_runs_beside_the_pod_and_does_not_count() {
    let mut pod = Machine::new(spec("Always", &["a"]));
    pod.on(Event::Prepared).started(0);
    let mut object = json!({ "spec": spec("Always", &["a"]) });
    object["spec"]["ephemeralContainers"] = json!([{ "name": "d", "image": "i" }]);
    let units = super::adopt::joined(&serde_json::from_value(object).unwrap(), 0);
    pod.on(Event::Joined(units)).does(&[START(1)]);
    pod.started(1).shows("Running", true, &["Running"]);
    pod.exited(1, 3).does(&[CLEAN(1)]);
    pod.shows("Running", true, &["Running"]);
    let status = pod.status();
    let ended = &status.ephemeral_container_statuses.unwrap()[0];
    let state = ended.state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!(state.exit_code, 3);
}

#[test]
fn an_evicted_pod_fails_at_once_and_says_why() {
    let mut pod = Machine::new(spec("Always", &["a"]));
    pod.on(Event::Prepared).started(0);
    let message = "The node was low on resource: memory. ";
    let verdict = Verdict {
        reason: "Evicted".to_owned(),
        message: message.to_owned(),
    };
    pod.on(Event::Evicted(verdict.clone()))
        .says("Evicted", message)
        .does(&[TERM(0)]);
    pod.wait(1).does(&[KILL(0)]);
    pod.exited(0, 137).does(&[CLEAN(0), Effect::Release]);
    pod.on(Event::Released)
        .shows("Failed", false, &["Error 137"]);
    let status = pod.status();
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert_eq!(status.message.as_deref(), Some(message));
    let target = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "DisruptionTarget");
    assert_eq!(
        target.unwrap().reason.as_deref(),
        Some("TerminationByKubelet")
    );
    pod.on(Event::Evicted(verdict)).does(&[]);
}

/// A pod of one container with `cpu`, as its manifest says later.
fn resized_spec(cpu: &str, policy: &str) -> Value {
    json!({ "containers": [{
        "name": "c", "image": "i",
        "resources": { "requests": { "cpu": cpu } },
        "resizePolicy": [{ "resourceName": "cpu", "restartPolicy": policy }],
    }]})
}

impl Machine {
    /// The manifest now wants `cpu`, on a node with two processors.
    fn wants(&mut self, cpu: &str, policy: &str, used_by_others: u64) -> &mut Self {
        self.pod.spec = serde_json::from_value(resized_spec(cpu, policy)).unwrap();
        self.pod.metadata.generation = Some(4);
        let node = crate::capacity::Capacity {
            cpus: 2,
            memory: 1 << 30,
            storage: 0,
            pods: 110,
        };
        let others = Asked {
            cpu_millis: used_by_others,
            memory: 0,
        };
        let decision = resize::decide(&self.pod, &self.state.units, others, &node);
        self.on(Event::Wanted(decision))
    }

    fn events(&self) -> Vec<&str> {
        let reason = |effect| match effect {
            &Effect::Record { reason, .. } => Some(reason),
            _ => None,
        };
        self.effects.iter().filter_map(reason).collect()
    }

    fn condition(&self, kind: &str) -> Option<String> {
        let status = self.status();
        let found = status.conditions?.into_iter().find(|c| c.type_ == kind)?;
        Some(format!(
            "{} {}",
            found.reason.unwrap_or_default(),
            found.message.unwrap_or_default()
        ))
    }

    fn has_cpu(&self) -> [String; 2] {
        let status = self.status().container_statuses.unwrap().remove(0);
        let cpu =
            |of: Option<std::collections::BTreeMap<String, Quantity>>| of.unwrap()["cpu"].0.clone();
        [
            cpu(status.allocated_resources),
            cpu(status.resources.unwrap().requests),
        ]
    }
}

#[test]
fn a_resize_is_started_applied_and_completed_without_a_restart() {
    let mut machine = Machine::new(resized_spec("500m", "NotRequired"));
    machine.on(Event::Prepared).started(0);
    machine.wants("1", "NotRequired", 0);
    assert_eq!(machine.events(), ["ResizeStarted"]);
    assert!(machine.effects.contains(&Effect::Resize { unit: 0 }));
    assert_eq!(machine.condition("PodResizeInProgress").unwrap(), " ");
    assert_eq!(machine.has_cpu(), ["1", "500m"]);
    let allocated = machine.state.units[0].allocated.clone();
    machine.on(Event::Resized {
        unit: 0,
        attempt: 0,
        outcome: Ok(allocated),
    });
    assert_eq!(machine.events(), ["ResizeCompleted"]);
    assert_eq!(machine.has_cpu(), ["1", "1"]);
    assert_eq!(machine.condition("PodResizeInProgress"), None);
    assert_eq!(machine.state.units[0].restarts, 0);
}

#[test]
fn a_resize_that_fails_says_why_and_is_tried_again() {
    let mut machine = Machine::new(resized_spec("500m", "NotRequired"));
    machine.on(Event::Prepared).started(0);
    machine.wants("1", "NotRequired", 0);
    let failed = || Event::Resized {
        unit: 0,
        attempt: 0,
        outcome: Err("no".to_owned()),
    };
    machine.on(failed());
    assert_eq!(machine.events(), ["ResizeError"]);
    assert_eq!(
        machine.condition("PodResizeInProgress").unwrap(),
        "Error no"
    );
    assert!(machine.state.next_tick().is_some());
    machine.wait(10);
    assert_eq!(machine.effects, [Effect::Resize { unit: 0 }]);
    machine.on(failed());
    assert!(machine.events().is_empty(), "the same is not told twice");
}

#[test]
fn a_resize_waits_for_room_and_is_forgotten_when_nobody_wants_it() {
    let mut machine = Machine::new(resized_spec("500m", "NotRequired"));
    machine.on(Event::Prepared).started(0);
    machine.wants("1500m", "NotRequired", 1000);
    assert_eq!(machine.events(), ["ResizeDeferred"]);
    let condition = machine.condition("PodResizePending").unwrap();
    assert!(condition.starts_with("Deferred Node didn't have enough resource: cpu"));
    assert_eq!(machine.has_cpu(), ["500m", "500m"]);
    machine.wants("1500m", "NotRequired", 1000);
    assert!(machine.events().is_empty());
    machine.wants("3", "NotRequired", 0);
    assert_eq!(machine.events(), ["ResizeInfeasible"]);
    machine.wants("500m", "NotRequired", 0);
    assert_eq!(machine.condition("PodResizePending"), None);
}

#[test]
fn a_resize_that_its_policy_says_so_for_starts_the_container_again() {
    let mut machine = Machine::new(resized_spec("500m", "RestartContainer"));
    machine.on(Event::Prepared).started(0);
    machine.wants("1", "RestartContainer", 0);
    assert_eq!(machine.events(), ["ResizeStarted", "Killing"]);
    machine.exited(0, 143);
    assert!(
        machine.effects.contains(&Effect::Start { unit: 0 }),
        "{:?}",
        machine.effects
    );
    assert!(machine.condition("PodResizeInProgress").is_some());
    machine.started(0);
    assert_eq!(machine.events(), ["ResizeCompleted"]);
    assert_eq!(machine.has_cpu(), ["1", "1"]);
    assert_eq!(machine.state.units[0].restarts, 1);
}
