//! What a pod's machine is told, and what it asks for.

use std::time::Duration;

use eyot_client::EventType;
use eyot_runtime::{Exit, Signal};

use super::unit::{Failure, Unit};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// Time passed.
    Tick,
    /// The sandbox, the volumes and all images are there.
    Prepared,
    /// Not so: each failed container with its reason, or none if the sandbox itself failed.
    PrepareFailed(Vec<(usize, Failure)>),
    Started {
        unit: usize,
        id: String,
        image_id: String,
    },
    StartFailed {
        unit: usize,
        failure: Failure,
    },
    Exited {
        unit: usize,
        exit: Exit,
    },
    Probed {
        unit: usize,
        attempt: u32,
        probe: Probed,
    },
    /// The `postStart` hook of an attempt ended.
    Hooked {
        unit: usize,
        attempt: u32,
        good: bool,
    },
    /// An attempt was asked to end, after its `preStop` hook.
    Signalled {
        unit: usize,
        attempt: u32,
    },
    /// The object carries a deletion timestamp.
    DeleteAsked {
        grace: Duration,
    },
    /// The object is no longer there.
    Vanished,
    /// The host stops and takes its containers with it.
    Shutdown {
        grace: Duration,
    },
    Released,
    Deleted,
}

/// What a probe found, once its threshold was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probed {
    Started,
    Ready(bool),
    /// Liveness or startup failed; the container has that long to end.
    Unhealthy {
        which: &'static str,
        grace: Duration,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    Prepare,
    Start {
        unit: usize,
    },
    /// Give up a start that is under way.
    Cancel {
        unit: usize,
    },
    Signal {
        unit: usize,
        signal: Signal,
    },
    /// Run the `preStop` hook for that long at most, then ask it to end.
    Stop {
        unit: usize,
        grace: Duration,
    },
    /// Clear what the ended attempt left.
    Clean {
        unit: usize,
    },
    /// Give back the sandbox.
    Release,
    /// Remove the object.
    Delete,
    Record {
        unit: Option<usize>,
        kind: EventType,
        reason: &'static str,
        message: String,
    },
}

/// What `kubectl describe` shows of a container that did not start.
pub(crate) fn record_failure(
    index: usize,
    unit: &Unit,
    failure: &Failure,
    effects: &mut Vec<Effect>,
) {
    let message = match failure.reason {
        "ErrImagePull" => {
            let message = format!(
                "Failed to pull image \"{}\": {}",
                unit.image, failure.message
            );
            effects.push(record(Some(index), EventType::Warning, "Failed", message));
            "Error: ErrImagePull".to_owned()
        }
        "InvalidImageName" => {
            let message = format!(
                "Failed to apply default image tag \"{}\": {}",
                unit.image, failure.message
            );
            effects.push(record(
                Some(index),
                EventType::Warning,
                "InspectFailed",
                message,
            ));
            "Error: InvalidImageName".to_owned()
        }
        _ => format!("Error: {}", failure.message),
    };
    effects.push(record(Some(index), EventType::Warning, "Failed", message));
}

pub(crate) fn record(
    unit: Option<usize>,
    kind: EventType,
    reason: &'static str,
    message: String,
) -> Effect {
    Effect::Record {
        unit,
        kind,
        reason,
        message,
    }
}
