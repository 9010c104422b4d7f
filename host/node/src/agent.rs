//! Runs the node: registers it, watches the pods that are assigned to it, and gives each an actor.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Options,
    context::{Context, EventTask},
    eviction, image_gc,
    inherit::Inherited,
    kubelet::Kubelet,
    local_path,
    pod::{Actor, Handle},
    register, usage,
};

/// How long actors may take to end once the host stops. Their containers are killed well before.
const STOPPING: Duration = Duration::from_secs(8);

/// The node agent. [`Node::run`] does the work.
pub struct Node {
    context: Arc<Context>,
    events: EventTask,
}

impl Node {
    pub fn new(options: Options) -> Self {
        let address = options.policy.address.unwrap_or_else(own_address);
        let (context, events) = Context::new(options, address);
        Self {
            context: Arc::new(context),
            events,
        }
    }

    /// The kubelet's HTTP API: logs, pods, health.
    pub fn kubelet(&self) -> Kubelet {
        Kubelet::new(Arc::clone(&self.context))
    }

    /// Work until `stop`, then end the containers that cannot go on without this process, or all if
    /// the options say so. The objects stay as they are: the next start carries on from them.
    pub async fn run(self, stop: CancellationToken) {
        let Self { context, events } = self;
        let recording = tokio::spawn(events.run());
        recover(&context).await;
        let registering = tokio::spawn({
            let (context, stop) = (Arc::clone(&context), stop.clone());
            async move { register::keep(&context, &stop).await }
        });
        let storing = tokio::spawn({
            let (context, stop) = (Arc::clone(&context), stop.clone());
            async move {
                if context.provisions {
                    local_path::keep(context, stop).await;
                }
            }
        });
        let making_room = tokio::spawn({
            let (context, stop) = (Arc::clone(&context), stop.clone());
            async move { image_gc::keep(&context, &stop).await }
        });
        let measuring = tokio::spawn(usage::keep(Arc::clone(&context), stop.clone()));
        let evicting = tokio::spawn(eviction::keep(Arc::clone(&context), stop.clone()));
        let context_stop = context.stop.clone();
        let mut pods = Pods {
            context,
            stop: stop.clone(),
            actors: HashMap::new(),
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = pods.watch() => {}
        }
        context_stop.cancel();
        let actors = pods.actors.into_values().map(|handle| handle.task);
        if tokio::time::timeout(STOPPING, join_all(actors))
            .await
            .is_err()
        {
            tracing::warn!("some pods did not end in {STOPPING:?}; leaving them to the next start");
        }
        let _ = registering.await;
        let _ = making_room.await;
        let _ = measuring.await;
        let _ = evicting.await;
        let _ = storing.await;
        recording.abort();
    }
}

/// Find what an earlier host left, and clear what it had half made. Nothing is started before this
/// is done.
async fn recover(context: &Context) {
    for (kind, runtime) in &context.runtimes {
        match runtime.recover().await {
            Ok(all) => all.into_iter().for_each(|left| {
                context.heritage.add(Inherited {
                    scheme: kind.scheme(),
                    runtime: Arc::clone(runtime),
                    left,
                });
            }),
            Err(error) => {
                tracing::warn!(runtime = runtime.name(), %error, "remains of an earlier host were not cleared");
            }
        }
    }
    if let Err(error) = context.network.sweep().await {
        tracing::warn!(%error, "remains of an earlier pod network were not cleared");
    }
}

/// End and give back what belongs to pods that `keep` does not know.
async fn disown(context: &Context, keep: impl Fn(&str) -> bool + Sync) {
    let orphans = context.heritage.take_but(&keep);
    join_all(orphans.into_iter().map(Inherited::discard)).await;
    if let Err(error) = context.network.retain(&keep).await {
        tracing::warn!(%error, "places of pods that are gone were not given back");
    }
}

struct Pods {
    context: Arc<Context>,
    stop: CancellationToken,
    /// By uid.
    actors: HashMap<String, Handle>,
}

impl Pods {
    async fn watch(&mut self) {
        let api: Api<Pod> = Api::all(self.context.client.clone());
        let config =
            watcher::Config::default().fields(&format!("spec.nodeName={}", self.context.name));
        let mut events = pin!(watcher(api, config).default_backoff());
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(pod)) => {
                    listed.extend(pod.metadata.uid.clone());
                    self.apply(pod);
                }
                Ok(watcher::Event::InitDone) => self.settle(&listed),
                Ok(watcher::Event::Apply(pod)) => self.apply(pod),
                Ok(watcher::Event::Delete(pod)) => {
                    if let Some(handle) = pod.metadata.uid.and_then(|uid| self.actors.remove(&uid))
                    {
                        self.let_go(handle);
                    }
                }
                Err(error) => tracing::warn!(%error, "watching pods failed; trying again"),
            }
        }
    }

    fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        let pod = Arc::new(pod);
        match self.actors.get(&uid) {
            // One that ended by itself has deleted its object: this is old news.
            Some(handle) if handle.task.is_finished() => {}
            Some(handle) => handle.update(Some(pod)),
            None => {
                let handle = Actor::spawn(Arc::clone(&self.context), pod, self.stop.clone());
                self.actors.insert(uid, handle);
            }
        }
    }

    /// The whole list is known: whatever is not in it is gone.
    fn settle(&mut self, listed: &HashSet<String>) {
        let gone: Vec<String> = self
            .actors
            .keys()
            .filter(|uid| !listed.contains(*uid))
            .cloned()
            .collect();
        for uid in gone {
            if let Some(handle) = self.actors.remove(&uid) {
                self.let_go(handle);
            }
        }
        // Asked for each directory when its turn comes: a pod that arrives meanwhile is known before
        // it makes any.
        let (context, listed) = (Arc::clone(&self.context), listed.clone());
        tokio::spawn(async move {
            let keep = |uid: &str| listed.contains(uid) || context.knows(uid);
            disown(&context, keep).await;
            let _ = tokio::task::spawn_blocking(move || clear_files(&context, &listed)).await;
        });
    }

    /// The object is gone; the actor ends what is left, also while the host stops.
    fn let_go(&self, handle: Handle) {
        handle.update(None);
        tokio::spawn(async move {
            // The handle must outlive the actor, or the actor takes its end for the host's.
            let mut handle = handle;
            let _ = (&mut handle.task).await;
        });
    }
}

/// Remove logs and volumes of pods that are gone.
fn clear_files(context: &Context, listed: &HashSet<String>) {
    let keep = |uid: &str| listed.contains(uid) || context.knows(uid);
    context.logs.retain(keep);
    let places = context.secrets_dir.iter().chain([&context.pods_dir]);
    let entries = places.flat_map(std::fs::read_dir).flatten().flatten();
    for entry in entries {
        if let Some(uid) = entry.file_name().to_str().filter(|uid| !keep(uid))
            && let Err(error) = context.remove_files_of(uid)
        {
            tracing::warn!(%error, "volumes of a pod that is gone were not removed");
        }
    }
}

/// The address by which others reach this machine: the one that a packet to the outside would
/// carry. Nothing is sent.
pub fn own_address() -> IpAddr {
    let probe = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // TEST-NET-1: only the routing table is asked.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    probe().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}
