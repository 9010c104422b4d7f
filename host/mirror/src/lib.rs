//! A node that keeps working when it is cut off.
//!
//! At the edge the node, its network and its devices never speak to the cloud. They are clients of an
//! API server of their own, the same code as the cloud's over a small store of this machine, so
//! they do not notice a cut or a reboot without a cloud: everything they ever read is here. What
//! connects both sides is the [`Mirror`]:
//!
//! ```text
//!   cloud API ── list, watch ──▶ down ──▶ store ◀── API server ◀── node, network, devices, kubectl
//!   cloud API ◀── status, events, leases ── up ◀── watches of the store
//! ```
//!
//! **Down** goes what concerns the node: itself, its pods and what they lead to, what its network and
//! device tier are made of. It is written as it is in the cloud, uid and generation included, below
//! admission, through a [`Store`] that no client of the API holds. **Up** goes what is observed here.
//! What is desired is the cloud's and what is observed is this node's: for each part of each object
//! one side's word counts, so the order in which two sides find together does not matter.
//!
//! What may be written through this node's own API is narrow ([`EdgeGate`]): its own pods, which the cloud
//! is shown, and the desired values of devices, which are sent there later and hold unless somebody
//! changed the same there ([`conflict`]). Two annotations on the objects themselves tell of that; the
//! mirror remembers nothing else, so that a lost store is filled again from the cloud without a pod
//! noticing: pods are known by their uids, and a node adopts the containers that run.
//!
//! What must not be mirrored are the things that each side has for its own pods to find its API by: the
//! Service `kubernetes`, and the certificate in `kube-root-ca.crt`.

mod conflict;
mod context;
mod down;
mod gate;
mod kind;
mod local;
pub mod marks;
mod merge;
mod own_pod;
mod queue;
mod remote;
mod rights;
mod up;
mod wanted;

use std::sync::Arc;

use eyot_store::Store;
use kube::Client;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::{
    context::{Context, Filling, LinkState},
    down::Source,
    kind::{Which, kinds},
    local::Local,
    queue::Queue,
    remote::Remote,
};
pub use self::{
    context::{Link, Pace},
    gate::EdgeGate,
    rights::rights,
};

/// What a mirror needs.
pub struct Options {
    /// The name of the node.
    pub node: String,
    /// The cloud's API, for the user `system:node:NAME`.
    pub cloud: Client,
    /// This node's own API, for a user who may do everything.
    pub api: Client,
    /// This node's own store, which its API serves.
    pub store: Store,
    /// The authority behind this node's own API, in PEM: what pods here trust.
    pub root_ca: String,
    /// Whether a device tier of this node observes devices. Otherwise they are none of its business:
    /// neither sent here nor told of.
    pub devices: bool,
    pub pace: Pace,
}

/// Keeps a node and the cloud alike.
pub struct Mirror(Arc<Context>);

impl Mirror {
    pub fn new(options: Options) -> Self {
        let local = Local::new(options.store, options.api, &options.root_ca);
        Self(Arc::new(Context {
            node: options.node.into(),
            devices: options.devices,
            filling: Filling::of(&local, options.devices),
            remote: Remote::new(options.cloud),
            local,
            link: LinkState::new(),
            shown: Default::default(),
            pace: options.pace,
            wants: Notify::new(),
            queues: [Queue::default(), Queue::default()],
            events_seen: Default::default(),
        }))
    }

    /// Whether the cloud can be reached, now and later.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.0.link.subscribe()
    }

    /// Whether this node's store was filled from the cloud, now or at any time before: until then it
    /// says nothing about what should not run here.
    pub fn filled(&self) -> watch::Receiver<bool> {
        self.0.filling.subscribe()
    }

    /// Mirror until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let context = self.0;
        let mut parts = JoinSet::new();
        for kind in kinds(context.devices).filter(|kind| kind.which != Which::Wanted) {
            let source = Source::of(kind, &context.node);
            parts.spawn(source.follow(context.clone(), stop.clone()));
        }
        parts.spawn(context.clone().follow_wanted(stop.clone()));
        parts.spawn(context.clone().observe(stop.clone()));
        for queue in 0..context.queues.len() {
            parts.spawn(context.clone().send(queue, stop.clone()));
        }
        while parts.join_next().await.is_some() {}
    }
}
