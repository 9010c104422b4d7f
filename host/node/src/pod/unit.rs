//! One container of a pod, as the state machine of its pod sees it.
//!
//! ```text
//!              its turn            started               ended, goes on
//!   Waiting ────────────► Creating ────────► Running ──────────────────► BackingOff ─┐
//!                          ▲    │ failed        │ ended for good                     │ time
//!                     time │    ▼               ▼                                    ▼
//!                          Blocked            Ended                              Creating
//! ```
//!
//! Plain data; [`super::state::PodState`] moves it.

use std::{sync::Arc, time::Duration};

use eyot_runtime::Exit;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use tokio::time::Instant;

/// First pause before a container that ended again is restarted; doubled each time.
const RESTART_FIRST: Duration = Duration::from_secs(10);
/// Longest pause between restarts and between pulls of an image, as in Kubernetes.
const RESTART_LONGEST: Duration = Duration::from_secs(300);
/// A container that ran this long is taken for healthy: its next restart is immediate.
const HEALTHY: Duration = Duration::from_secs(600);
/// First pause before a missing ConfigMap or Secret is looked for again. Short, because it is
/// mostly applied right after the pod, in the same file.
const CONFIG_FIRST: Duration = Duration::from_millis(500);
const CONFIG_LONGEST: Duration = Duration::from_secs(10);
/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(1);

/// Both clocks: one for pauses, which must not jump, and one for what users read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub mono: Instant,
    pub wall: Timestamp,
}

impl Now {
    pub(crate) fn get() -> Self {
        Self {
            mono: Instant::now(),
            wall: Timestamp::now(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// One of `restartPolicyRules`: restart if the exit code is in, or is not in, a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RestartRule {
    pub in_list: bool,
    pub codes: Vec<i32>,
}

impl RestartRule {
    fn matches(&self, code: i32) -> bool {
        self.codes.contains(&code) == self.in_list
    }
}

/// What a container is for in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next begins.
    Init,
    /// An init container with `restartPolicy: Always`: the next begins once it has started.
    Sidecar,
    Main,
    /// Added to a pod that runs, to look into it. The pod's own life does not depend on it.
    Ephemeral,
}

/// Why a container is not running, in Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub reason: &'static str,
    pub message: String,
}

/// What kind of failure kept a container from starting; decides when it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The image is not to be had or cannot be run.
    Image,
    /// The pod asks for something that is missing or impossible.
    Config,
    /// The container was made, and its program could not be executed.
    Program,
    /// The runtime failed.
    Runtime,
    /// The start was given up because the pod is ending.
    Cancelled,
}

/// Why a container did not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub kind: FailureKind,
    pub reason: &'static str,
    pub message: String,
}

/// The end of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub code: i32,
    pub reason: String,
    pub message: String,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    /// With the scheme; empty if nothing was ever started.
    pub id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kill {
    No,
    /// Asked to end; forced at that time.
    Asked {
        deadline: Instant,
    },
    Forced,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub id: String,
    pub since: Timestamp,
    pub since_mono: Instant,
    /// The `postStart` hook has not ended yet: nobody is told that it runs.
    pub hooked: bool,
    /// The startup probe has succeeded, or there is none.
    pub started: bool,
    /// The readiness probe succeeds, or there is none.
    pub ready: bool,
    pub kill: Kill,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    Waiting,
    /// A start is under way. `shown` is why the one before failed, still shown meanwhile.
    Creating {
        shown: Option<Waiting>,
    },
    Blocked {
        why: Waiting,
        until: Instant,
        flip: Option<(Instant, Waiting)>,
    },
    Running(Running),
    BackingOff {
        why: Waiting,
        until: Instant,
    },
    Ended(Ended),
}

/// Everything about one container that is not in its specification.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unit {
    pub name: String,
    pub role: Role,
    pub image: String,
    pub policy: RestartPolicy,
    pub has_startup_probe: bool,
    pub has_readiness_probe: bool,
    pub has_post_start: bool,
    pub has_pre_stop: bool,
    /// Exit codes after which it is restarted whatever the policy says.
    pub rules: Vec<RestartRule>,
    pub life: Life,
    /// Number of the attempt that runs or comes next; `restartCount`.
    pub restarts: u32,
    /// How the attempt before ended.
    pub last: Option<Ended>,
    /// It runs as its manifest was before: once it has ended, it is started again at once.
    pub outdated: bool,
    /// Digest of the image that was last used.
    pub image_id: String,
    /// What the node gives it, see [`super::resize`].
    pub allocated: Arc<ResourceRequirements>,
    /// What the attempt that runs, or is being started, has.
    pub applied: Arc<ResourceRequirements>,
    /// It cannot have what is allocated without being started again.
    pub resize_restarts: bool,
    /// The runtime is at it.
    pub resizing: bool,
    /// Pause after the next end.
    pause: Duration,
    /// Starts that failed in a row.
    failures: u32,
}

impl Unit {
    pub(crate) fn new(name: &str, role: Role, image: &str, policy: RestartPolicy) -> Self {
        Self {
            name: name.to_owned(),
            role,
            image: image.to_owned(),
            policy,
            has_startup_probe: false,
            has_readiness_probe: false,
            has_post_start: false,
            has_pre_stop: false,
            rules: Vec::new(),
            life: Life::Waiting,
            restarts: 0,
            last: None,
            outdated: false,
            image_id: String::new(),
            allocated: Arc::default(),
            applied: Arc::default(),
            resize_restarts: false,
            resizing: false,
            pause: Duration::ZERO,
            failures: 0,
        }
    }

    pub(crate) fn running(&self) -> Option<&Running> {
        match &self.life {
            Life::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(crate) fn ended(&self) -> Option<&Ended> {
        match &self.life {
            Life::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// Whether something of it is in the hands of a runtime.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.life, Life::Running(_) | Life::Creating { .. })
    }

    pub(crate) fn is_ready(&self) -> bool {
        match self.role {
            Role::Init => self.ended().is_some_and(|ended| ended.code == 0),
            Role::Ephemeral => false,
            _ => self
                .running()
                .is_some_and(|r| !r.hooked && r.started && r.ready && r.kill == Kill::No),
        }
    }

    /// Whether an init container lets the next one begin.
    pub(crate) fn has_passed(&self) -> bool {
        match self.role {
            Role::Init => self.ended().is_some_and(|ended| ended.code == 0),
            Role::Sidecar => self.running().is_some_and(|r| r.started && !r.hooked),
            Role::Main | Role::Ephemeral => false,
        }
    }

    /// Whether the containers after it have to wait: one with a `postStart` hook lets nobody pass
    /// until that has ended.
    pub(crate) fn holds_others(&self) -> bool {
        self.has_post_start
            && match &self.life {
                Life::Waiting | Life::Creating { .. } => self.last.is_none(),
                Life::Running(running) => running.hooked,
                _ => false,
            }
    }

    /// Whether it is restarted after it ended with `code`.
    pub(crate) fn restarts_after(&self, code: i32) -> bool {
        if self.rules.iter().any(|rule| rule.matches(code)) {
            return true;
        }
        match self.policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        }
    }

    /// The start that was under way succeeded.
    pub(super) fn start_succeeded(&mut self, id: String, image_id: String, now: Now) {
        self.image_id = image_id;
        self.failures = 0;
        self.life = Life::Running(Running {
            id,
            since: now.wall,
            since_mono: now.mono,
            hooked: self.has_post_start,
            started: !self.has_startup_probe,
            ready: !self.has_readiness_probe,
            kill: Kill::No,
        });
    }

    /// The start that was under way ended before anything ran.
    pub(super) fn begun_in_vain(&mut self, now: Now) {
        self.life = Life::Running(Running {
            id: String::new(),
            since: Timestamp::UNIX_EPOCH,
            since_mono: now.mono,
            hooked: false,
            started: false,
            ready: false,
            kill: Kill::No,
        });
    }

    /// The start that was under way failed: say why, and when to try again.
    pub(super) fn start_failed(&mut self, failure: Failure, now: Now) {
        self.failures = self.failures.saturating_add(1);
        let tries = self.failures - 1;
        let (first, longest) = match failure.kind {
            FailureKind::Config => (CONFIG_FIRST, CONFIG_LONGEST),
            _ => (RESTART_FIRST, RESTART_LONGEST),
        };
        let pause = doubled(first, tries, longest);
        let flip = (failure.reason == "ErrImagePull").then(|| {
            let message = format!(
                "Back-off pulling image \"{}\": ErrImagePull: {}",
                self.image, failure.message
            );
            (
                now.mono + PULL_ERROR_SHOWN,
                Waiting {
                    reason: "ImagePullBackOff",
                    message,
                },
            )
        });
        if failure.kind == FailureKind::Runtime {
            // The runtime may have made something under this attempt's name.
            self.restarts = self.restarts.saturating_add(1);
        }
        let why = Waiting {
            reason: failure.reason,
            message: failure.message,
        };
        self.life = Life::Blocked {
            why,
            until: now.mono + pause,
            flip,
        };
    }

    /// The running attempt ended. `again` says whether it is to be restarted.
    pub(super) fn exited(&mut self, exit: Exit, again: bool, pod: &str, now: Now) {
        let Life::Running(running) = &self.life else {
            return;
        };
        let ended = Ended {
            code: exit.code,
            reason: exit.reason.to_owned(),
            message: exit.message,
            started: Some(running.since),
            finished: Some(now.wall),
            id: running.id.clone(),
        };
        if !again {
            self.life = Life::Ended(ended);
            return;
        }
        // Another image is another program: nothing is held against it.
        let new = std::mem::take(&mut self.outdated);
        if new || now.mono.duration_since(running.since_mono) >= HEALTHY {
            self.pause = Duration::ZERO;
        }
        let pause = self.pause;
        self.pause = if pause.is_zero() {
            RESTART_FIRST
        } else {
            RESTART_LONGEST.min(pause * 2)
        };
        self.last = Some(ended);
        let message = format!(
            "back-off {} restarting failed container={} pod={pod}",
            go_duration(pause),
            self.name
        );
        let why = Waiting {
            reason: "CrashLoopBackOff",
            message,
        };
        self.life = Life::BackingOff {
            why,
            until: now.mono + pause,
        };
    }

    /// When this container wants to be looked at by itself.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.life {
            Life::Blocked { until, flip, .. } => {
                Some(flip.as_ref().map_or(*until, |(at, _)| (*at).min(*until)))
            }
            Life::BackingOff { until, .. } => Some(*until),
            Life::Running(Running {
                kill: Kill::Asked { deadline },
                ..
            }) => Some(*deadline),
            _ => None,
        }
    }
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first
        .saturating_mul(1_u32.checked_shl(times.min(20)).unwrap_or(u32::MAX))
        .min(longest)
}

/// As Go prints durations of whole seconds: `10s`, `1m20s`, `5m0s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{seconds}s")
    } else {
        format!("{}m{}s", seconds / 60, seconds % 60)
    }
}
