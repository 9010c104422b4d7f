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
use eyot_api::{
    AdminState, Device, DeviceProfile, DeviceService, DeviceServiceSpec, Pipeline,
    ProvisionWatcher, object_name,
};
use eyot_client::Recorder;
use eyot_edgex::names;
use eyot_runtime::{
    Exit, ImageStore, LogSink, PodRef,
    guest::{Driver, DriverHost, StepLoader},
};
use eyot_store::{Readings, Spool};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::Mqtt,
    bus::{self, Bus, Stored, Tap},
    catalog::Cache,
    clock,
    device::{self, Assignment, Binding, Handle, Health},
    edgex::{
        Edgex, EdgexService, FILTERS, Foreign, Searches, announce, answer, search_by_itself,
        tell_telemetry, watch_over,
    },
    granted::Granted,
    pipeline::{self, Contents, Depot, PipelineDoor, PipelineExaminer},
    retention::{self, Retentions},
    status::{Board, DeviceKey},
    twins,
};

/// How long an ending driver's devices may take to be closed.
const CLOSING: Duration = Duration::from_secs(2);
/// What is told about the device tier in Events.
const COMPONENT: &str = "eyot-devices";

/// What the device tier needs.
pub struct Options {
    pub client: kube::Client,
    pub readings: Readings,
    /// What pipelines have yet to deliver.
    pub spool: Arc<Spool>,
    pub loader: Arc<dyn StepLoader>,
    pub images: Arc<dyn ImageStore>,
    /// The embedded broker, as [`crate::broker::start`] gives it, or another; `None` publishes nothing.
    pub broker: Option<Mqtt>,
    /// The namespace whose devices the EdgeX REST API serves: EdgeX knows none. `default`, mostly.
    pub namespace: String,
    /// Where [`EdgexService::DeviceServices`] is reached, without a slash at the end: what the
    /// drivers' DeviceServices have as their `baseAddress`, with the service's name behind it.
    pub device_services: String,
    /// What core-keeper knows without having been told.
    pub services: Vec<OwnService>,
}

/// A service of this host, as core-keeper shows it to who looks for it: well as long as the host is.
#[derive(Debug, Clone)]
pub struct OwnService {
    /// EdgeX's name for it, such as `core-data`.
    pub id: String,
    pub host: String,
    pub port: u16,
}

/// The device tier. Cheap to clone.
#[derive(Clone)]
pub struct Devices {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) client: kube::Client,
    pub(crate) readings: Readings,
    depot: Arc<Depot>,
    loader: Arc<dyn StepLoader>,
    images: Arc<dyn ImageStore>,
    pub(crate) namespace: String,
    pub(crate) device_services: String,
    pub(crate) services_of_host: Vec<OwnService>,
    /// When this host began, in nanoseconds since 1970.
    pub(crate) begun: u64,
    pub(crate) devices: Cache<Device>,
    pub(crate) profiles: Cache<DeviceProfile>,
    pub(crate) services: Cache<DeviceService>,
    pub(crate) watchers: Cache<ProvisionWatcher>,
    pipelines: Cache<Pipeline>,
    pub(crate) bus: Bus,
    stored: Mutex<Option<Stored>>,
    broker: Option<Mqtt>,
    pub(crate) board: Board,
    /// Drivers that run, by namespace and device service; the last started serves.
    bindings: Mutex<HashMap<(String, String), Vec<Binding>>>,
    binding: AtomicU64,
    handles: RwLock<HashMap<DeviceKey, Handle>>,
    /// EdgeX's clients write metadata one after the other.
    pub(crate) writing: tokio::sync::Mutex<()>,
    /// What drivers are looking for.
    pub(crate) searches: Searches,
    /// A service has registered with core-keeper.
    pub(crate) registered: Notify,
    /// Devices, profiles or drivers have changed.
    changed: Arc<Notify>,
    pipelines_changed: Arc<Notify>,
}

impl Devices {
    pub fn new(options: Options) -> Self {
        let broker = options.broker;
        let publisher: crate::broker::Publisher = match broker.clone() {
            Some(broker) => Arc::new(move |message| broker.publish(message)),
            None => Arc::new(|_| true),
        };
        let (changed, pipelines_changed) = (Arc::default(), Arc::default());
        // Nobody waits for their changes: they are looked at when something asks.
        let unwatched = Arc::default();
        let (bus, stored) = Bus::new(publisher.clone(), options.namespace.clone());
        let inner = Inner {
            client: options.client,
            readings: options.readings,
            depot: Depot::new(options.spool),
            loader: options.loader,
            images: options.images,
            namespace: options.namespace,
            device_services: options.device_services,
            services_of_host: options.services,
            begun: clock::nanoseconds(),
            devices: Cache::new(&changed),
            profiles: Cache::new(&changed),
            services: Cache::new(&changed),
            watchers: Cache::new(&unwatched),
            pipelines: Cache::new(&pipelines_changed),
            bus,
            stored: Mutex::new(Some(stored)),
            broker,
            board: Board::default(),
            bindings: Mutex::default(),
            binding: AtomicU64::new(0),
            handles: RwLock::default(),
            writing: tokio::sync::Mutex::default(),
            searches: Searches::default(),
            registered: Notify::new(),
            changed,
            pipelines_changed,
        };
        announce(
            &publisher,
            &inner.namespace,
            &inner.devices,
            &inner.profiles,
            &inner.services,
            &inner.watchers,
        );
        twins::announce(&publisher, &inner.devices);
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The same tier, for a part of it.
    pub(crate) fn of(inner: &Arc<Inner>) -> Self {
        Self {
            inner: inner.clone(),
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

    /// What is asked about single pipelines, for behind a node's API.
    pub fn pipelines(&self) -> PipelineDoor {
        let inner = &self.inner;
        PipelineDoor {
            depot: inner.depot.clone(),
            pipelines: inner.pipelines.clone(),
            devices: inner.devices.clone(),
            readings: inner.readings.clone(),
            namespace: inner.namespace.clone(),
        }
    }

    /// Judges Pipelines before they are stored, with what `contents` knows of images.
    pub fn examiner(&self, contents: Arc<dyn Contents>) -> PipelineExaminer {
        PipelineExaminer {
            client: self.inner.client.clone(),
            images: self.inner.images.clone(),
            contents,
        }
    }

    /// Show each event that is stored to somebody in this process. Call it once.
    pub fn tap(&self, tap: Tap) {
        self.inner.bus.tap(tap);
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
        let store = tokio::spawn(bus::store(
            inner.bus.clone(),
            stored,
            inner.readings.clone(),
            storing.clone(),
        ));
        let client = || inner.client.clone();
        let (objects, cancel, api) = (inner.devices.clone(), stop.clone(), client());
        tasks.spawn(async move { objects.run(api, cancel).await });
        let (objects, cancel, api) = (inner.profiles.clone(), stop.clone(), client());
        tasks.spawn(async move { objects.run(api, cancel).await });
        let (objects, cancel, api) = (inner.services.clone(), stop.clone(), client());
        tasks.spawn(async move { objects.run(api, cancel).await });
        let (objects, cancel, api) = (inner.watchers.clone(), stop.clone(), client());
        tasks.spawn(async move { objects.run(api, cancel).await });
        let (objects, cancel, api) = (inner.pipelines.clone(), stop.clone(), client());
        tasks.spawn(async move { objects.run(api, cancel).await });
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
            inner.depot.clone(),
            stop.clone(),
        ));
        tasks.spawn(watch_over(self.service(), stop.clone()));
        tasks.spawn(search_by_itself(self.service(), stop.clone()));
        tasks.spawn(tell_telemetry(self.service(), stop.clone()));
        if let Some(broker) = &inner.broker {
            let intake = Arc::new(Foreign::new(self.service(), broker.echoes()));
            let filters = [FILTERS, &twins::FILTERS].concat();
            // As long as anybody may still have something to publish.
            if let Some(heard) = broker.open(&filters, intake, storing.clone()) {
                tasks.spawn(answer(self.service(), heard, stop.clone()));
            }
        }
        tasks.spawn(retention::sweep(inner.readings.clone(), stop.clone()));
        let this = inner.clone();
        tasks.spawn(async move { this.assign(stop).await });
        while tasks.join_next().await.is_some() {}
        storing.cancel();
        let _ = store.await;
        if let Some(broker) = &inner.broker {
            broker.close().await;
        }
    }
}

#[cfg(test)]
impl Devices {
    pub(crate) async fn publish_for_test(
        &self,
        namespace: &str,
        event: Arc<eyot_runtime::reading::Event>,
    ) {
        self.inner.bus.publish(&namespace.into(), event).await;
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

    /// The profile that a device names, by either of its names.
    pub(crate) fn profile_of(&self, device: &Device) -> Option<Arc<DeviceProfile>> {
        let namespace = device.namespace().unwrap_or_default();
        let name = &device.spec.profile_name;
        self.profiles.get(&namespace, name).or_else(|| {
            let mut profiles = self.profiles.all_in(&namespace).into_iter();
            profiles.find(|profile| profile.spec.name.as_ref() == Some(name))
        })
    }

    fn bindings(&self) -> MutexGuard<'_, HashMap<(String, String), Vec<Binding>>> {
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver that serves a device service, if one runs.
    pub(crate) fn driver(&self, namespace: &str, service: &str) -> Option<Arc<dyn Driver>> {
        let key = (namespace.to_owned(), service.to_owned());
        let binding = self.bindings().get(&key)?.last()?.clone();
        Some(binding.driver)
    }

    /// Keep one task per device, with what it is to work from.
    async fn assign(&self, stop: CancellationToken) {
        let mut running: HashMap<DeviceKey, Running> = HashMap::new();
        let mut tasks = JoinSet::new();
        let mut kept = Retentions::new();
        loop {
            let keep = retention::all(&self.namespace, &self.devices.all());
            if keep != kept {
                self.readings.set_source_retentions(keep.clone());
                kept = keep;
            }
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
                        let desired = &assignment.device.spec.desired;
                        let modified =
                            !now.same(&assignment) || now.device.spec.desired != *desired;
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

    /// The device services of EdgeX's namespace whose drivers run, by name.
    pub(crate) fn drivers(&self) -> Vec<Arc<str>> {
        let bindings = self.bindings();
        let here = bindings
            .keys()
            .filter(|(namespace, _)| *namespace == self.namespace);
        let mut names: Vec<Arc<str>> = here.map(|(_, service)| service.as_str().into()).collect();
        names.sort();
        names
    }

    /// EdgeX's device services announce themselves, and where they are: make the DeviceService of a
    /// driver that has none, and set the address of one that has another.
    async fn register(&self, namespace: &str, service: &str) {
        let address = format!("{}/{}", self.device_services, names::name(service));
        let api: Api<DeviceService> = Api::namespaced(self.client.clone(), namespace);
        let known = self.services.all_in(namespace);
        let known = known.iter().find(|known| known.edgex_name() == service);
        let stored = match known {
            Some(known) if known.spec.base_address == address => return,
            Some(known) => {
                let patch = json!({ "spec": { "baseAddress": address } });
                let patch = Patch::Merge(patch);
                api.patch(&known.name_any(), &PatchParams::default(), &patch)
                    .await
            }
            None => {
                let name = object_name(service);
                let mut object = DeviceService::new(&name, DeviceServiceSpec::default());
                object.spec.name = (name != service).then(|| service.to_owned());
                object.spec.base_address = address;
                api.create(&PostParams::default(), &object).await
            }
        };
        match stored {
            Ok(stored) => self.services.has(&stored).await,
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
            Err(error) => {
                tracing::warn!(service, %error, "the driver's DeviceService was not written");
            }
        }
    }

    fn wanted(&self) -> HashMap<DeviceKey, Assignment> {
        let profiles = self.profiles.all();
        let by_name = named(&profiles, |profile| profile.spec.name.as_deref());
        let services = self.services.all();
        let services = named(&services, |service| service.spec.name.as_deref());
        let bindings = self.bindings();
        let devices = self.devices.all();
        let alive = devices
            .iter()
            .filter(|device| device.metadata.deletion_timestamp.is_none());
        alive
            .map(|device| {
                let key = DeviceKey::of(&device.metadata);
                let spec = &device.spec;
                let profile = by_name.get(&(&*key.namespace, spec.profile_name.as_str()));
                let service = services.get(&(&*key.namespace, spec.service_name.as_str()));
                let binding = (key.namespace.to_string(), spec.service_name.clone());
                let health = match service {
                    Some(service) => Health::of(&[&spec.properties, &service.spec.properties]),
                    None => Health::of(&[&spec.properties]),
                };
                let assignment = Assignment {
                    device: device.clone(),
                    profile: profile.map(|profile| (*profile).clone()),
                    health,
                    service_locked: service
                        .is_some_and(|service| service.spec.admin_state == AdminState::Locked),
                    binding: bindings.get(&binding).and_then(|all| all.last()).cloned(),
                };
                (key, assignment)
            })
            .collect()
    }
}

/// Objects by namespace and name: their EdgeX names too, but an object's own name comes first.
fn named<K: Resource>(
    objects: &[Arc<K>],
    edgex: impl Fn(&K) -> Option<&str>,
) -> HashMap<(&str, &str), &Arc<K>> {
    let mut all = HashMap::new();
    for object in objects {
        let namespace = object.meta().namespace.as_deref().unwrap_or_default();
        if let Some(name) = edgex(object) {
            all.insert((namespace, name), object);
        }
    }
    for object in objects {
        let namespace = object.meta().namespace.as_deref().unwrap_or_default();
        let name = object.meta().name.as_deref().unwrap_or_default();
        all.insert((namespace, name), object);
    }
    all
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
        let driver = Arc::new(Granted {
            driver,
            secrets: Api::namespaced(inner.client.clone(), &pod.namespace),
            services: inner.services.clone(),
            namespace: pod.namespace.clone(),
            service: service.clone(),
        });
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
        inner.register(&pod.namespace, &service).await;
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
