//! The node agent: brings the pods that are assigned to this machine up, keeps them as they should
//! be, and reports about them. The kubelet's part.
//!
//! It speaks only `kube::Client` (to whatever API server that leads to) and the traits of
//! `eyot-runtime`: nothing here knows how a container runs, where images come from or how a pod
//! gets its address. Each pod has one task ([`pod::Actor`]) that feeds a pure state machine. A host
//! that was killed or stopped carries on from the objects of the API and the containers that its
//! runtimes find still there ([`inherit`]); nothing else about a pod is kept on disk but its volumes
//! and logs.

mod agent;
mod capacity;
mod context;
mod downward;
mod env;
mod eviction;
mod fetch;
mod image_gc;
mod inherit;
mod kubelet;
mod live;
mod local_path;
mod log;
mod names;
mod network;
mod ownership;
mod pod;
mod policy;
mod pull;
mod quantity;
mod register;
mod service_env;
mod stream;
mod usage;
mod volumes;

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use eyot_runtime::{ImageStore, Runtime};
use kube::Client;
use tokio::sync::Notify;

pub use agent::{Node, own_address};
pub use eviction::{Threshold, Thresholds};
pub use kubelet::Kubelet;
pub use network::{BoxError, Keep, Network};
pub use policy::Policy;
pub use pull::docker_credentials;
pub use register::{ensure_node, renew_lease};
pub use volumes::memory::forget as forget_secrets;

/// Which images a runtime runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Wasm,
    Oci,
}

impl Kind {
    /// How the identifiers of its containers begin in a pod's status.
    fn scheme(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Oci => "libcontainer",
        }
    }
}

/// How others learn that the node lives.
#[derive(Debug, Clone, Default)]
pub enum Heartbeat {
    /// It renews its Lease itself, and looks whether it is believed.
    #[default]
    Lease,
    /// It has a line to the server, which renews the Lease for as long as that holds. Notified of
    /// each new line.
    Line(Arc<Notify>),
}

/// Whether the node is cut off from the world; `None` until that is known.
pub type CutOff = Arc<dyn Fn() -> Option<bool> + Send + Sync>;

/// What a node is made of.
pub struct Options {
    /// Name of the Node object.
    pub name: String,
    /// The version of Kubernetes that the node goes by.
    pub version: &'static str,
    pub client: Client,
    pub images: Arc<dyn ImageStore>,
    pub runtimes: Vec<(Kind, Arc<dyn Runtime>)>,
    pub network: Arc<dyn Network>,
    /// Where pods ask for names, unless they want to ask somebody else.
    pub dns: Option<IpAddr>,
    /// Logs and volumes are kept below.
    pub data_dir: PathBuf,
    /// Where secrets of pods are kept in memory, best below `/run`; without it they are on disk.
    pub secrets_dir: Option<PathBuf>,
    pub policy: Policy,
    pub heartbeat: Heartbeat,
    /// For a node that lives on then: images that are there are taken although they were to be pulled.
    pub cut_off: Option<CutOff>,
    /// Make volumes for claims (`eyot.dev/local-path`), which takes rights that a joined node does not
    /// have.
    pub provisions: bool,
    /// End all containers when the host stops; else those that can go on without it do.
    pub stop_pods: bool,
}
