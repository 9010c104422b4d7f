//! One device: a task that owns the driver's session with it.
//!
//! The task is the only one that talks to the session, so reads, writes and re-opening cannot
//! overlap, and a device that hangs or a driver that traps holds up nobody else.
//!
//! ```text
//!              driver and profile are there            opened
//!   Unbound ───────────────────────────────▶ Opening ─────────▶ Up ◀─────────────┐
//!      ▲                                        │  ▲            │ no answer      │ answers
//!      │ driver gone, profile gone      failed  │  │ time is up ▼                │
//!      └──────────── from every state           └──┴───────── Down{until} ───────┘
//!                                                 (trapped: the session is dropped first)
//! ```
//!
//! `Invalid` is a `Down` that only an edit of the device or its profile ends, `Held` one that only the
//! word of somebody ends ([`said`]). A change of the
//! device's spec, its profile or its driver starts over from the top.

mod actor;
mod health;
pub(crate) mod said;
mod schedule;
mod state;
mod twin;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use eyot_api::{Device, DeviceProfile, DeviceSpec};
use eyot_runtime::{guest::Driver, reading::Event};
use serde_json::Value as Json;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use actor::run;
pub(crate) use health::Health;

use crate::{source::SourceError, transform::Arithmetic};

/// Commands that wait for one device at most: more are refused at once.
const COMMANDS: usize = 64;
/// How long a command may take in all, waiting included.
pub(crate) const COMMAND: Duration = Duration::from_secs(30);

/// A driver that serves a device service.
#[derive(Clone)]
pub(crate) struct Binding {
    /// Tells one start of a driver from the next.
    pub id: u64,
    pub driver: Arc<dyn Driver>,
    /// How many sessions are open: the driver's pod waits for them when it ends.
    pub sessions: Arc<watch::Sender<usize>>,
}

/// Everything that a device's task works from. A new one replaces the old.
#[derive(Clone)]
pub(crate) struct Assignment {
    pub device: Arc<Device>,
    pub profile: Option<Arc<DeviceProfile>>,
    /// The device service's own `adminState` is `LOCKED`.
    pub service_locked: bool,
    pub health: Health,
    pub binding: Option<Binding>,
}

impl Assignment {
    /// Whether the session can go on as it is: status and annotations do not matter to
    /// it, but for the one that says a state.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let binding = |assignment: &Self| assignment.binding.as_ref().map(|binding| binding.id);
        let profile = |assignment: &Self| {
            let profile = assignment.profile.as_ref()?;
            Some((profile.spec.clone(), Arithmetic::of(profile)))
        };
        binding(self) == binding(other)
            && self.service_locked == other.service_locked
            && self.health == other.health
            && same_spec(&self.device, &other.device)
            && said::words(&self.device) == said::words(&other.device)
            && self.device.metadata.uid == other.device.metadata.uid
            && profile(self) == profile(other)
    }
}

/// The specs, but for the desired values: those are brought about in the session that there is.
fn same_spec(a: &Device, b: &Device) -> bool {
    if a.spec.desired == b.spec.desired {
        return a.spec == b.spec;
    }
    let but_desired = |device: &Device| DeviceSpec {
        desired: BTreeMap::new(),
        ..device.spec.clone()
    };
    but_desired(a) == but_desired(b)
}

/// Why a command did not succeed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CommandError {
    #[error("no device {0}")]
    NoDevice(String),
    #[error("device {0} is locked (adminState LOCKED)")]
    Locked(String),
    #[error("device service {0} is locked (adminState LOCKED)")]
    ServiceLocked(String),
    #[error("device {device} is down: {reason}")]
    Down { device: String, reason: String },
    #[error("device {device} is not served: {reason}")]
    NotServed { device: String, reason: String },
    #[error("{0}")]
    Source(#[from] SourceError),
    #[error("device {0} has too many commands waiting; try again later")]
    Busy(String),
    #[error("device {0} did not answer in {COMMAND:?}")]
    Timeout(String),
    #[error("device {device}: {reason}")]
    Failed { device: String, reason: String },
    #[error("device {device}: {reason}")]
    Refused { device: String, reason: String },
}

/// What a device's task can be told to do.
pub(crate) enum Command {
    Read {
        source: String,
        how: Asked,
        reply: oneshot::Sender<Result<Arc<Event>, CommandError>>,
    },
    Write {
        source: String,
        query: String,
        values: BTreeMap<String, Json>,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    Take {
        sent: Sent,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
}

/// Something that was sent for a resource of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub resource: String,
    /// In lower case and without parameters; empty if it was not said.
    pub media_type: String,
    pub body: Bytes,
}

/// How a source is read by command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Send the event to the bus too.
    pub push: bool,
    /// A source that is neither command nor resource is a pattern of resources' names.
    pub pattern: bool,
    /// Query arguments that are the driver's business; see [`crate::source::with_query`].
    pub query: String,
}

/// The way to a device's task.
#[derive(Clone)]
pub(crate) struct Handle {
    name: Arc<str>,
    commands: mpsc::Sender<Command>,
}

/// The task's end of the way.
pub(crate) type Commands = mpsc::Receiver<Command>;

/// Make both ends.
pub(crate) fn handle(name: &str) -> (Handle, Commands) {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    (
        Handle {
            name: name.into(),
            commands,
        },
        receiver,
    )
}

impl Handle {
    /// Read a source now.
    pub(crate) async fn read(&self, source: &str, how: Asked) -> Result<Arc<Event>, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.ask(
            Command::Read {
                source: source.to_owned(),
                how,
                reply,
            },
            answer,
        )
        .await
    }

    /// Write values, by resource name, to a source. `query` is as in [`Asked`].
    pub(crate) async fn write(
        &self,
        source: &str,
        values: BTreeMap<String, Json>,
        query: String,
    ) -> Result<(), CommandError> {
        let (reply, answer) = oneshot::channel();
        self.ask(
            Command::Write {
                source: source.to_owned(),
                query,
                values,
                reply,
            },
            answer,
        )
        .await
    }

    /// Hand over what was sent for a resource.
    pub(crate) async fn take(&self, sent: Sent) -> Result<(), CommandError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Take { sent, reply }, answer).await
    }

    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        let name = || self.name.to_string();
        self.commands
            .try_send(command)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => CommandError::Busy(name()),
                mpsc::error::TrySendError::Closed(_) => CommandError::NoDevice(name()),
            })?;
        match tokio::time::timeout(COMMAND, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(CommandError::NoDevice(name())),
            Err(_) => Err(CommandError::Timeout(name())),
        }
    }
}

#[cfg(test)]
mod tests;
