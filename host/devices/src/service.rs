//! Putting the device tier together: which device gets which driver, and who is told what.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use eyot_api::{Device, DeviceProfile, Pipeline};
use eyot_client::Recorder;
use eyot_runtime::{
    Exit, ImageStore, LogSink, PodRef,
    guest::{Driver, DriverHost, StepLoader},
};
use eyot_store::{ReadingEvent, Readings};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::Broker,
    bus::{self, Bus},
    catalog::Cache,
    device::{self, Assignment, Binding, Handle},
    edgex::{Edgex, EdgexService},
    pipeline,
    status::{Board, DeviceKey},
};

/// How long an ending driver's devices may take to be closed.
const CLOSING: Duration = Duration::from_secs(2);
/// What is told about the device tier in Events.
const COMPONENT: &str = "eyot-devices";

/// What the device tier needs.
pub struct Options {
    pub client: kube::Client,
    pub readings: Readings,
    pub loader: Arc<dyn StepLoader>,
    pub images: Arc<dyn ImageStore>,
    /// The embedded broker, as [`crate::broker::start`] gives it; `None` publishes nothing.
    pub broker: Option<Broker>,
    /// The namespace whose devices the EdgeX REST API serves: EdgeX knows none. `default`, mostly.
    pub namespace: String,
}

/// The device tier. Cheap to clone.
#[derive(Clone)]
pub struct Devices {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    client: kube::Client,
    pub(crate) readings: Readings,
    loader: Arc<dyn StepLoader>,
    images: Arc<dyn ImageStore>,
    pub(crate) namespace: String,
    pub(crate) devices: Cache<Device>,
    pub(crate) profiles: Cache<DeviceProfile>,
    pipelines: Cache<Pipeline>,
    bus: Bus,
    stored: Mutex<Option<mpsc::Receiver<ReadingEvent>>>,
    board: Board,
    /// Drivers that run, by namespace and device service; the last started serves.
    bindings: Mutex<HashMap<(String, String), Vec<Binding>>>,
    binding: AtomicU64,
    handles: RwLock<HashMap<DeviceKey, Handle>>,
    /// Devices, profiles or drivers have changed.
    changed: Arc<Notify>,
    pipelines_changed: Arc<Notify>,
}

impl Devices {
    pub fn new(options: Options) -> Self {
        let broker = options.broker;
        let publisher: crate::broker::Publisher = match broker {
            Some(broker) => Arc::new(move |message| broker.publish(message)),
            None => Arc::new(|_| true),
        };
        let (bus, stored) = Bus::new(publisher, options.namespace.clone());
        let inner = Inner {
            client: options.client,
            readings: options.readings,
            loader: options.loader,
            images: options.images,
            namespace: options.namespace,
            devices: Cache::default(),
            profiles: Cache::default(),
            pipelines: Cache::default(),
            bus,
            stored: Mutex::new(Some(stored)),
            board: Board::default(),
            bindings: Mutex::default(),
            binding: AtomicU64::new(0),
            handles: RwLock::default(),
            changed: Arc::default(),
            pipelines_changed: Arc::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// All of EdgeX's core services behind one door. Where core-metadata and core-command answer
    /// the same path differently, the answer has the fields of both.
    pub fn service(&self) -> Edgex {
        self.service_of(EdgexService::All)
    }

    /// One of EdgeX's core services.
    pub fn service_of(&self, service: EdgexService) -> Edgex {
        Edgex::new(self.inner.clone(), service)
    }

    /// Events that were dropped on their way to the store and to the broker, since the start.
    pub fn lost(&self) -> (u64, u64) {
        self.inner.bus.lost()
    }

    /// Run until `stop` is cancelled. Call it once.
    pub async fn run(&self, stop: CancellationToken) {
        let inner = &self.inner;
        let Some(stored) = inner
            .stored
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        else {
            tracing::error!("the device tier runs already");
            return;
        };
        let recorder = Recorder::new(inner.client.clone(), COMPONENT);
        let mut tasks = JoinSet::new();
        // Ends last, so that what the others still had to say is stored.
        let storing = CancellationToken::new();
        let store = tokio::spawn(bus::store(stored, inner.readings.clone(), storing.clone()));
        let (client, changed) = (inner.client.clone(), inner.changed.clone());
        let (devices, cancel) = (inner.devices.clone(), stop.clone());
        tasks.spawn(async move { devices.run(client, changed, cancel).await });
        let (client, changed) = (inner.client.clone(), inner.changed.clone());
        let (profiles, cancel) = (inner.profiles.clone(), stop.clone());
        tasks.spawn(async move { profiles.run(client, changed, cancel).await });
        let (client, changed) = (inner.client.clone(), inner.pipelines_changed.clone());
        let (pipelines, cancel) = (inner.pipelines.clone(), stop.clone());
        tasks.spawn(async move { pipelines.run(client, changed, cancel).await });
        let (board, client, cancel) = (inner.board.clone(), inner.client.clone(), stop.clone());
        let (devices, told) = (inner.devices.clone(), recorder.clone());
        tasks.spawn(async move { board.run(client, told, devices, cancel).await });
        let context = pipeline::Context {
            client: inner.client.clone(),
            recorder,
            loader: inner.loader.clone(),
            images: inner.images.clone(),
        };
        let (pipelines, changed) = (inner.pipelines.clone(), inner.pipelines_changed.clone());
        tasks.spawn(pipeline::run(
            context,
            pipelines,
            changed,
            inner.bus.clone(),
            stop.clone(),
        ));
        let this = inner.clone();
        tasks.spawn(async move { this.assign(stop).await });
        while tasks.join_next().await.is_some() {}
        storing.cancel();
        let _ = store.await;
    }
}

#[cfg(test)]
impl Devices {
    pub(crate) fn publish_for_test(
        &self,
        namespace: &str,
        event: Arc<eyot_runtime::reading::Event>,
    ) {
        self.inner.bus.publish(namespace, event);
    }
}

struct Running {
    assignment: watch::Sender<Assignment>,
    stop: CancellationToken,
}

impl Inner {
    pub(crate) fn handle(&self, key: &DeviceKey) -> Option<Handle> {
        self.handles
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    fn bindings(&self) -> MutexGuard<'_, HashMap<(String, String), Vec<Binding>>> {
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keep one task per device, with what it is to work from.
    async fn assign(&self, stop: CancellationToken) {
        let mut running: HashMap<DeviceKey, Running> = HashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let wanted = self.wanted();
            running.retain(|key, running| {
                let keep = wanted.contains_key(key);
                if !keep {
                    running.stop.cancel();
                    self.board.forget(key);
                }
                keep
            });
            let mut new_handles = HashMap::new();
            for (key, assignment) in wanted {
                if let Some(running) = running.get(&key) {
                    running.assignment.send_if_modified(|now| {
                        let modified = !now.same(&assignment);
                        *now = assignment;
                        modified
                    });
                    continue;
                }
                let (handle, commands) = device::handle(&assignment.device.edgex_name());
                let (sender, receiver) = watch::channel(assignment);
                let stop = stop.child_token();
                let (bus, board) = (self.bus.clone(), self.board.clone());
                tasks.spawn(device::run(
                    key.clone(),
                    receiver,
                    commands,
                    bus,
                    board,
                    stop.clone(),
                ));
                running.insert(
                    key.clone(),
                    Running {
                        assignment: sender,
                        stop,
                    },
                );
                new_handles.insert(key, handle);
            }
            {
                let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
                handles.retain(|key, _| running.contains_key(key));
                handles.extend(new_handles);
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                Some(_) = tasks.join_next() => {}
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    fn wanted(&self) -> HashMap<DeviceKey, Assignment> {
        let profiles = self.profiles.all();
        // Profiles are referred to by their EdgeX names too.
        let by_edgex_name: HashMap<(&str, &str), &Arc<DeviceProfile>> = profiles
            .iter()
            .filter_map(|((namespace, _), profile)| {
                Some(((namespace.as_str(), profile.spec.name.as_deref()?), profile))
            })
            .collect();
        let bindings = self.bindings();
        let devices = self.devices.all();
        let alive = devices
            .iter()
            .filter(|(_, d)| d.metadata.deletion_timestamp.is_none());
        alive
            .map(|((namespace, name), device)| {
                let spec = &device.spec;
                let profile = profiles
                    .get(&(namespace.clone(), spec.profile_name.clone()))
                    .or_else(|| {
                        by_edgex_name
                            .get(&(namespace.as_str(), spec.profile_name.as_str()))
                            .copied()
                    });
                let service = (namespace.clone(), spec.service_name.clone());
                let key = DeviceKey {
                    namespace: namespace.as_str().into(),
                    name: name.as_str().into(),
                };
                let assignment = Assignment {
                    device: device.clone(),
                    profile: profile.cloned(),
                    binding: bindings.get(&service).and_then(|all| all.last()).cloned(),
                };
                (key, assignment)
            })
            .collect()
    }
}

#[async_trait]
impl DriverHost for Devices {
    async fn serve(
        &self,
        pod: PodRef,
        service: String,
        driver: Arc<dyn Driver>,
        log: Arc<dyn LogSink>,
        stop: CancellationToken,
    ) -> Exit {
        let inner = &self.inner;
        let id = inner.binding.fetch_add(1, Ordering::Relaxed);
        let sessions = Arc::new(watch::Sender::new(0));
        let mut open = sessions.subscribe();
        let key = (pod.namespace.clone(), service.clone());
        let line = format!("serving the devices of device service {service}\n");
        log.write(eyot_runtime::LogStream::Stdout, line.as_bytes());
        inner
            .bindings()
            .entry(key.clone())
            .or_default()
            .push(Binding {
                id,
                driver,
                sessions,
            });
        inner.changed.notify_one();
        tracing::info!(%pod, service, "driver started");
        stop.cancelled().await;
        {
            let mut bindings = inner.bindings();
            if let Some(all) = bindings.get_mut(&key) {
                all.retain(|binding| binding.id != id);
                if all.is_empty() {
                    bindings.remove(&key);
                }
            }
        }
        inner.changed.notify_one();
        let closed = open.wait_for(|open| *open == 0);
        let closed = tokio::time::timeout(CLOSING, closed).await.is_ok();
        tracing::info!(%pod, service, closed, "driver ended");
        Exit::from_code(0)
    }
}
