//! What a pod's machine is told, and what it asks for.

use std::{sync::Arc, time::Duration};

use eyot_client::EventType;
use eyot_runtime::{Exit, PodRef, Signal};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, ResourceRequirements};
use tokio::time::Instant;

use super::{
    admission::Refusal,
    prepare::{container, containers},
    resize::Decision,
    state::Verdict,
    unit::{Failure, Unit},
};

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
    /// The node cannot keep it.
    Evicted(Verdict),
    /// The manifest names another image than before.
    ImageChanged {
        unit: usize,
        image: String,
    },
    /// The node does not take it.
    Refused(Refusal),
    /// What becomes of the resources that the manifest wants.
    Wanted(Decision),
    /// The runtime has given an attempt these, or says why it could not.
    Resized {
        unit: usize,
        attempt: u32,
        outcome: Result<Arc<ResourceRequirements>, String>,
    },
    /// The manifest names another end of `activeDeadlineSeconds` than before.
    DeadlineChanged(Option<Instant>),
    /// Ephemeral containers were added.
    Joined(Vec<Unit>),
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
    /// Have the runtime give a container what is allocated to it.
    Resize {
        unit: usize,
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
        "ErrImageNeverPull" => "Error: ErrImageNeverPull".to_owned(),
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

/// What an event about a pod, or about the container with this index among its own, is about.
pub(crate) fn object_reference(
    reference: &PodRef,
    pod: &Pod,
    unit: Option<usize>,
) -> ObjectReference {
    let inits = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.init_containers.as_ref())
        .map_or(0, Vec::len);
    let lasting = containers(pod).count();
    let named = unit.and_then(|index| Some((index, container(pod, index)?)));
    let field_path = named.map(|(index, container)| {
        let list = if index < inits {
            "initContainers"
        } else if index < lasting {
            "containers"
        } else {
            "ephemeralContainers"
        };
        format!("spec.{list}{{{}}}", container.name)
    });
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(reference.namespace.clone()),
        name: Some(reference.name.clone()),
        uid: Some(reference.uid.clone()),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}
