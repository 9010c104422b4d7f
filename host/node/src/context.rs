//! What all parts of the node share.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use eyot_client::{EventType, Recorder};
use eyot_runtime::{ImageContent, ImageStore, PodRef, Runtime};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Heartbeat, Kind, Policy,
    capacity::Capacity,
    eviction::Pressure,
    inherit::Heritage,
    live::Live,
    log::Logs,
    network::Network,
    pod::{Event, Message, PodState, Verdict},
    usage::Meter,
    volumes::{self, Directories, objects::Objects},
};

/// Events that wait to be recorded. More are dropped: they are a courtesy, and the log has them.
const EVENTS: usize = 1024;

pub(crate) struct Context {
    pub name: String,
    pub version: &'static str,
    pub client: Client,
    pub images: Arc<dyn ImageStore>,
    pub runtimes: Vec<(Kind, Arc<dyn Runtime>)>,
    pub network: Arc<dyn Network>,
    pub dns: Option<IpAddr>,
    pub logs: Logs,
    /// Images are on the same disk.
    pub data_dir: PathBuf,
    /// Volumes, a directory for each uid.
    pub pods_dir: PathBuf,
    /// Those of them that must not reach a disk, in memory; `None` where that cannot be had.
    pub secrets_dir: Option<PathBuf>,
    /// Volumes that outlive their pods, a directory for each.
    pub storage_dir: PathBuf,
    /// Seccomp profiles of `type: Localhost`.
    pub profiles: PathBuf,
    pub policy: Policy,
    pub heartbeat: Heartbeat,
    /// See [`crate::Options::cut_off`].
    pub cut_off: Option<crate::CutOff>,
    pub provisions: bool,
    pub address: IpAddr,
    pub capacity: Capacity,
    pub events: Events,
    pub live: Live,
    pub heritage: Heritage,
    /// See [`crate::Options::stop_pods`].
    pub stop_pods: bool,
    pub objects: Objects,
    pub meter: Meter,
    pub pressure: Pressure,
    /// Ends the sessions of exec, attach and port-forward.
    pub stop: CancellationToken,
    views: Mutex<HashMap<String, watch::Receiver<Arc<View>>>>,
}

/// What is known of a pod on this node, for the kubelet's API.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub reference: PodRef,
    pub object: Arc<Pod>,
    pub state: PodState,
    /// To the task of the pod.
    pub post: mpsc::Sender<Message>,
}

impl View {
    /// The node cannot keep this pod. One that is too busy to hear it is told again.
    pub(crate) fn end(&self, verdict: Verdict) {
        let event = Message::Event(Event::Evicted(verdict));
        if self.post.try_send(event).is_err() {
            tracing::debug!(pod = %self.reference, "it does not hear that it is evicted");
        }
    }
}

impl Context {
    pub(crate) fn new(options: crate::Options, address: IpAddr) -> (Self, EventTask) {
        let (events, task) = events(options.client.clone());
        let objects = Objects::new(options.client.clone());
        let context = Self {
            logs: Logs::new(options.data_dir.join("logs")),
            pods_dir: options.data_dir.join("pods"),
            secrets_dir: options
                .secrets_dir
                .as_deref()
                .and_then(volumes::memory::open),
            storage_dir: absolute(&options.data_dir).join("storage"),
            profiles: options.data_dir.join("seccomp"),
            capacity: Capacity::read(&options.data_dir, options.policy.pods),
            policy: options.policy,
            heartbeat: options.heartbeat,
            cut_off: options.cut_off,
            provisions: options.provisions,
            name: options.name,
            version: options.version,
            client: options.client,
            images: options.images,
            runtimes: options.runtimes,
            network: options.network,
            dns: options.dns,
            address,
            data_dir: options.data_dir,
            events,
            live: Live::default(),
            heritage: Heritage::default(),
            stop_pods: options.stop_pods,
            objects,
            meter: Meter::default(),
            pressure: Pressure::default(),
            stop: CancellationToken::new(),
            views: Mutex::default(),
        };
        (context, task)
    }

    /// The directories of a pod's volumes.
    pub(crate) fn volumes_of(&self, uid: &str) -> Directories {
        Directories {
            disk: self.pods_dir.join(uid).join("volumes"),
            memory: self.secrets_dir.as_ref().map(|all| all.join(uid)),
        }
    }

    /// Remove what this machine holds of a pod that is gone. Blocking.
    pub(crate) fn remove_files_of(&self, uid: &str) -> io::Result<()> {
        let secrets = self.secrets_dir.iter().map(|all| all.join(uid));
        let all = secrets.chain([self.pods_dir.join(uid)]);
        let mut removed = Ok(());
        for directory in all {
            removed = volumes::mounted::remove(&directory).and(removed);
        }
        removed
    }

    /// The directory where parts of a pod's volumes are bound.
    pub(crate) fn parts_of(&self, uid: &str) -> PathBuf {
        self.pods_dir.join(uid).join("volume-subpaths")
    }

    /// Who runs images of this content, and the scheme of its containers' identifiers.
    pub(crate) fn runtime(
        &self,
        content: &ImageContent,
    ) -> Option<(&'static str, &Arc<dyn Runtime>)> {
        let kind = match content {
            ImageContent::Wasm { .. } => Kind::Wasm,
            ImageContent::Oci { .. } => Kind::Oci,
        };
        let (_, runtime) = self.runtimes.iter().find(|(of, _)| *of == kind)?;
        Some((kind.scheme(), runtime))
    }

    pub(crate) fn show(&self, uid: &str, view: watch::Receiver<Arc<View>>) {
        self.views().insert(uid.to_owned(), view);
    }

    pub(crate) fn hide(&self, uid: &str) {
        self.views().remove(uid);
    }

    /// Whether a pod of that uid is in the hands of this node.
    pub(crate) fn knows(&self, uid: &str) -> bool {
        self.views().contains_key(uid)
    }

    /// The pod of that name. Of several (one that ends and its successor) the younger.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<View>> {
        let views = self.views();
        let named = views
            .values()
            .map(|view| Arc::clone(&view.borrow()))
            .filter(|view| view.reference.namespace == namespace && view.reference.name == name);
        named.max_by_key(|view| {
            view.object
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|t| t.0)
        })
    }

    pub(crate) fn all(&self) -> Vec<Arc<View>> {
        self.views()
            .values()
            .map(|view| Arc::clone(&view.borrow()))
            .collect()
    }

    fn views(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Arc<View>>>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where events are handed in. They are recorded in order, beside the path that reports them.
#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<Recording>);

struct Recording {
    object: ObjectReference,
    kind: EventType,
    reason: &'static str,
    message: String,
}

impl Events {
    pub(crate) fn record(
        &self,
        object: ObjectReference,
        kind: EventType,
        reason: &'static str,
        message: String,
    ) {
        if self
            .0
            .try_send(Recording {
                object,
                kind,
                reason,
                message,
            })
            .is_err()
        {
            tracing::debug!(reason, "event was dropped: too many wait");
        }
    }
}

/// The task that records events.
pub(crate) struct EventTask {
    waiting: mpsc::Receiver<Recording>,
    recorder: Recorder,
}

impl EventTask {
    pub(crate) async fn run(mut self) {
        while let Some(Recording {
            object,
            kind,
            reason,
            message,
        }) = self.waiting.recv().await
        {
            self.recorder.event(&object, kind, reason, &message).await;
        }
    }
}

/// Objects of the API name it, so it must mean the same to every later host.
fn absolute(path: &Path) -> PathBuf {
    let absolute = path.canonicalize().or_else(|_| std::path::absolute(path));
    absolute.unwrap_or_else(|_| path.to_owned())
}

fn events(client: Client) -> (Events, EventTask) {
    let (send, waiting) = mpsc::channel(EVENTS);
    (
        Events(send),
        EventTask {
            waiting,
            recorder: Recorder::new(client, "kubelet"),
        },
    )
}
