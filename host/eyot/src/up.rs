//! The wiring of the host: the one place that sees all crates.
//!
//! Order matters twice. Listeners are bound before anything is started, so that a busy port is an
//! error at once and not a half-started host. And the API answers before the node and the device
//! services begin, because those are its clients: they reach it in process, through the same
//! service that answers HTTPS.
//!
//! On SIGTERM or Ctrl-C everything gets the same token cancelled and a few seconds to end; what
//! is not written by then is not lost, since a write is acknowledged only when it is on disk.
//! Containers go on without the host, with their addresses and rules, unless it is told to end its
//! pods; [`reset`] does that later.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use eyot_apiserver::{ApiServer, User, sealing::Sealer};
use eyot_client::{Cache, Key, Watches};
use eyot_control::{
    Clients, SchedulerConfig,
    election::{Election, Timing},
};
use eyot_devices::{Devices, EdgexService, OwnService, broker};
use eyot_edge::tunnel::Tunnels;
use eyot_network::{
    Balancer, Cidr, Cluster, Dns, Doors, Guard, IngressRouter, Mesh, NetworkError, PodNetwork,
};
use eyot_node::Node;
use eyot_registry::{Registry, pull::Registries};
use eyot_runtime::Instance;
use eyot_runtime_oci::{OciRuntime, launcher::Launcher};
use eyot_runtime_wasm::{WasmEngine, WasmRuntime};
use eyot_store::{KeyValues, Records, Spool, Store};
use eyot_support::{Support, SupportService};
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;

use crate::{
    examine::{Components, Examiners},
    front::{self, AllNodes, Front},
    node_door::NodeDoor,
    observing, pki,
    registry_access::ApiGatekeeper,
    security,
    settings::Resolved,
    shared_keys::{self, Agreed},
};

/// How long the parts may take to end after a stop was asked for.
const STOPPING: Duration = Duration::from_secs(20);

/// Whom the host itself asks for names.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The listeners, all bound before anything starts.
struct Listeners {
    api: TcpListener,
    registry: TcpListener,
    core_data: TcpListener,
    core_metadata: TcpListener,
    core_command: TcpListener,
    core_keeper: TcpListener,
    device_services: TcpListener,
    support_notifications: TcpListener,
    support_scheduler: TcpListener,
    ingress: Option<TcpListener>,
    ingress_tls: Option<TcpListener>,
}

/// The store, and what this server knows of keys that it shares with others.
async fn open_store(settings: &Resolved) -> anyhow::Result<(Store, Option<Agreed>)> {
    let (dir, extract) = (&settings.data_dir, eyot_apiserver::extract);
    let keys = dir.join("pki/encryption");
    let sealed_with = "the keys that secrets are encrypted with";
    let Some(url) = &settings.store else {
        let sealer = Sealer::open(&keys).context(sealed_with)?;
        let store = Store::open_with(&dir.join("eyot.db"), extract, Arc::new(sealer)).await?;
        return Ok((store, None));
    };
    let token = settings.server_token_file.as_deref();
    let agreed = shared_keys::agree(url, dir, token).await?;
    let sealer = Sealer::read(&keys).context(sealed_with)?;
    let readings = dir.join("eyot.readings.db");
    let store = Store::connect(url, &readings, extract, Arc::new(sealer)).await?;
    Ok((store, Some(agreed)))
}

/// How pods are placed on nodes, from the file if there is one.
fn scheduler(settings: &Resolved) -> anyhow::Result<SchedulerConfig> {
    let Some(path) = &settings.scheduler_config else {
        return Ok(SchedulerConfig::default());
    };
    let read =
        || -> anyhow::Result<_> { Ok(SchedulerConfig::read(&std::fs::read_to_string(path)?)?) };
    read().with_context(|| format!("the scheduler's configuration {}", path.display()))
}

/// Run the host until a signal ends it.
pub async fn run(settings: Resolved, launcher: Launcher) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    watch_signals(stop.clone())?;
    let (store, agreed) = open_store(&settings)
        .await
        .context("the store cannot be opened")?;
    let listeners = bind(&settings).await?;
    let services = listeners.services()?;
    let network = Arc::new(open_network(&settings).await.context("the pod network")?);
    let inside = inside(&settings, &network).await?;
    let also: Vec<IpAddr> = (settings.services.own_address().into_iter())
        .chain(inside.address.map(|address| address.ip()))
        .collect();
    let pki = pki::prepare(&settings.data_dir, settings.api_address, &also)?;
    let broker = crate::mqtt::open(&settings, &pki)?;

    let (tunnels, beats) = Tunnels::new(stop.clone());
    let nodes = AllNodes::new(tunnels.clone());
    let security = security::options(&settings, &pki)?;
    let token_keys = security.tokens.keys.clone();
    let token_issuer = security.tokens.issuer.clone();
    let audit = security.audit.clone();
    let examiners = Arc::new(Examiners::default());
    let api = ApiServer::new(
        store.clone(),
        eyot_apiserver::Options {
            nodes: nodes.clone(),
            shutdown: stop.clone(),
            services: settings.services.clone(),
            advertised: inside.address,
            serves_usage: true,
            examiner: Some(examiners.clone()),
            ..security
        },
    )
    .await
    .context("the API cannot be started")?;
    let scheduler = scheduler(&settings)?;
    let mut parts = JoinSet::new();
    let registry = Arc::new(open_registry(&settings)?);
    let door = Front {
        api: api.clone(),
        tunnels: tunnels.clone(),
        images: registry.service(),
    };
    for listener in [Some(listeners.api), inside.listener].into_iter().flatten() {
        let (tls, door) = (Some(pki.server.clone()), door.clone());
        parts.spawn(eyot_http::serve(listener, tls, door, stop.clone()));
    }
    tracing::info!(
        address = %settings.api_address,
        kubeconfig = %settings.data_dir.join("kubeconfig").display(),
        "Kubernetes API is ready"
    );

    match agreed {
        Some(agreed) => parts.spawn(shared_keys::keep(agreed, token_keys, stop.clone())),
        None => parts.spawn(security::rotate_keys(token_keys, stop.clone())),
    };
    if let Some(path) = settings.authentication_config.clone() {
        parts.spawn(security::follow_authentication(
            path,
            token_issuer,
            api.clone(),
            stop.clone(),
        ));
    }
    let client = |name: &str| internal_client(&api, name);
    crate::crds::install(&client("system:eyot-setup")).await?;
    crate::storage::install(&client("system:eyot-setup")).await?;
    // One copy of each kind for all parts of the host.
    let watches = Watches::new(client("system:eyot-watches"), stop.clone());
    let leases = client("system:eyot-tunnels");
    parts.spawn(front::renew_leases(leases, beats, stop.clone()));
    front::close_with_nodes(&tunnels, &watches);
    let options = eyot_control::Options {
        root_ca: Some(pki.ca),
        authority: Some(pki.authority),
        scheduler,
        node_ranges: Some(settings.node_ranges.clone()),
    };
    let controlling = client("system:eyot-control");
    let named = api.clone();
    let controllers = Clients::new(move |name, groups| {
        Client::new(named.as_user(User::new(name, groups)), "default")
    });
    let controlling = control(
        &settings,
        controlling,
        controllers,
        options,
        &watches,
        &stop,
    );
    parts.spawn(controlling);

    parts.spawn(Registry::clone(&registry).keep_tidy(stop.clone()));
    let tls = settings.registry_tls;
    let guard = eyot_registry::Guard {
        keeper: Arc::new(ApiGatekeeper::new(client("system:eyot-registry"))),
        anonymous: settings.registry_anonymous.into(),
        tls,
    };
    parts.spawn(eyot_http::serve(
        listeners.registry,
        tls.then(|| pki.server.clone()),
        registry.guarded(guard),
        stop.clone(),
    ));

    let mut options =
        eyot_runtime_wasm::Options::new(settings.data_dir.join("wasm"), settings.mqtt_address);
    options.dns = names(&settings, &network).map(|address| SocketAddr::new(address, 53));
    let locals = options.locals.clone();
    let keyvalues = Arc::new(KeyValues::new(settings.data_dir.join("keyvalue.db")));
    options.keyvalues = Some(keyvalues.clone());
    parts.spawn(forget_values(keyvalues.clone(), watches.of(), stop.clone()));
    let engine = WasmEngine::new(options).context("the Wasm engine cannot be started")?;

    let bus = broker.clone();
    store.readings().set_retention(settings.readings);
    let devices = Devices::new(eyot_devices::Options {
        client: client("system:eyot-devices"),
        readings: store.readings(),
        spool: Arc::new(Spool::new(settings.data_dir.join("pipelines.db"))),
        loader: engine.clone(),
        images: registry.clone(),
        broker: Some(broker),
        namespace: "default".to_owned(),
        device_services: reached_at(&listeners.device_services)?,
        services,
    });
    examiners.set_pipelines(devices.examiner(Arc::new(Components(engine.clone()))));
    for (listener, service) in [
        (listeners.core_data, EdgexService::CoreData),
        (listeners.core_metadata, EdgexService::CoreMetadata),
        (listeners.core_command, EdgexService::CoreCommand),
        (listeners.core_keeper, EdgexService::CoreKeeper),
        (listeners.device_services, EdgexService::DeviceServices),
    ] {
        parts.spawn(eyot_http::serve(
            listener,
            None,
            devices.service_of(service),
            stop.clone(),
        ));
    }
    let records = Arc::new(Records::new(settings.data_dir.join("support.db")));
    let support = Support::new(eyot_support::Options {
        client: client("system:eyot-support"),
        watches: watches.clone(),
        records: records.clone(),
        namespace: "default".to_owned(),
        mail: settings.mail.clone(),
        publish: Arc::new(move |topic, payload| {
            let topic = topic.into();
            bus.publish(broker::Message { topic, payload })
        }),
        commands: BoxCloneSyncService::new(devices.service_of(EdgexService::CoreCommand)),
    });
    devices.tap(observing::by(support.clone()));
    for (listener, service) in [
        (
            listeners.support_notifications,
            SupportService::Notifications,
        ),
        (listeners.support_scheduler, SupportService::Scheduler),
    ] {
        parts.spawn(eyot_http::serve(
            listener,
            None,
            support.service_of(service),
            stop.clone(),
        ));
    }
    parts.spawn({
        let stop = stop.clone();
        async move { support.run(stop).await }
    });
    parts.spawn({
        let (devices, stop) = (devices.clone(), stop.clone());
        async move { devices.run(stop).await }
    });
    let doors = Doors {
        plain: listeners.ingress,
        secure: listeners.ingress_tls,
        host: settings
            .policy
            .address
            .unwrap_or_else(eyot_node::own_address),
        locals,
    };
    let cluster = Cluster::of(&watches);
    serve_cluster(
        &settings, &network, &cluster, &client, doors, &mut parts, &stop,
    );
    let mesh = client("system:eyot-network");
    parts.spawn(Mesh::new(&network, mesh.clone(), &settings.node_name).run(stop.clone()));
    let (map, cancel) = (watches.clone(), stop.clone());
    parts.spawn(async move { eyot_network::keep_map(mesh, &map, cancel).await });
    let pipelines = devices.pipelines();
    let node = start_node(
        &settings,
        &client,
        launcher,
        engine,
        devices,
        registry,
        network.clone(),
    );
    nodes.set_own(
        &settings.node_name,
        BoxCloneSyncService::new(NodeDoor {
            kubelet: node.kubelet(),
            pipelines,
        }),
    );
    parts.spawn({
        let stop = stop.clone();
        async move { node.run(stop).await }
    });

    parts.spawn(crate::memory::give_back(stop.clone()));

    stop.cancelled().await;
    tracing::info!("stopping");
    end(parts, &settings, &network).await;
    if let Some(audit) = audit {
        // Waits for the disk.
        tokio::task::spawn_blocking(move || audit.close()).await?;
    }
    keyvalues.close().await;
    records.close().await;
    store.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Let the parts of a host end.
pub async fn end(mut parts: JoinSet<()>, settings: &Resolved, network: &PodNetwork) {
    let all = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(STOPPING, all).await.is_err() {
        tracing::warn!("some parts did not end in {STOPPING:?}; leaving them");
    }
    // If the pods have ended, nothing of their network is left behind.
    if settings.stop_pods
        && let Err(error) = network.close().await
    {
        tracing::warn!(%error, "remains of the pod network were not cleared; the next start does it");
    }
}

/// Where containers are kept; the data directory must exist.
pub fn containers(data_dir: &Path) -> eyot_runtime_oci::Options {
    eyot_runtime_oci::Options::new(&data_dir.join("containers"), &Instance::of(data_dir))
}

/// End all containers that a host left which does not run any more, and remove what it made in the
/// kernel and below `/run`. What is on disk stays: the next start makes its pods anew.
pub async fn reset(settings: Resolved, launcher: Launcher) -> anyhow::Result<()> {
    // Held to the end: a host that runs has it.
    let (store, _) = open_store(&settings)
        .await
        .context("the store cannot be opened: is the host running?")?;
    OciRuntime::new(launcher, containers(&settings.data_dir))
        .reset()
        .await?;
    let network = open_network(&settings).await.context("the pod network")?;
    network.close().await?;
    let run_dir = Instance::of(&settings.data_dir).run_dir();
    eyot_node::forget_secrets(&run_dir.join("secrets"))?;
    remove_run_dir(&run_dir)?;
    store.close().await;
    Ok(())
}

pub fn remove_run_dir(run_dir: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(run_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", run_dir.display()))
        }
        _ => Ok(()),
    }
}

async fn bind(settings: &Resolved) -> anyhow::Result<Listeners> {
    use eyot_http::bind;
    // The broker binds its port by itself, later: ask now whether it can.
    if settings.mqtt_broker.is_none() {
        drop(bind("the MQTT broker (mqtt-address)", settings.mqtt_address).await?);
    }
    Ok(Listeners {
        api: bind("the Kubernetes API (api-address)", settings.api_address).await?,
        registry: bind("the registry (registry-address)", settings.registry_address).await?,
        core_data: bind(
            "EdgeX core-data (core-data-address)",
            settings.core_data_address,
        )
        .await?,
        core_metadata: bind(
            "EdgeX core-metadata (core-metadata-address)",
            settings.core_metadata_address,
        )
        .await?,
        core_command: bind(
            "EdgeX core-command (core-command-address)",
            settings.core_command_address,
        )
        .await?,
        core_keeper: bind(
            "EdgeX core-keeper (core-keeper-address)",
            settings.core_keeper_address,
        )
        .await?,
        device_services: bind(
            "EdgeX device services (device-services-address)",
            settings.device_services_address,
        )
        .await?,
        support_notifications: bind(
            "EdgeX support-notifications (support-notifications-address)",
            settings.support_notifications_address,
        )
        .await?,
        support_scheduler: bind(
            "EdgeX support-scheduler (support-scheduler-address)",
            settings.support_scheduler_address,
        )
        .await?,
        ingress: bind_ingress("ingress-address", settings.ingress_address, 80).await?,
        ingress_tls: bind_ingress("ingress-tls-address", settings.ingress_tls_address, 443).await?,
    })
}

/// How clients on this host reach a listener over HTTP.
fn reached_at(listener: &TcpListener) -> std::io::Result<String> {
    let address = listener.local_addr()?;
    Ok(if address.ip().is_unspecified() {
        format!("http://localhost:{}", address.port())
    } else {
        format!("http://{address}")
    })
}

impl Listeners {
    /// EdgeX's services behind them, for core-keeper. Device services share a port, each below its name,
    /// which a registration cannot say.
    fn services(&self) -> std::io::Result<Vec<OwnService>> {
        let services = [
            ("core-data", &self.core_data),
            ("core-metadata", &self.core_metadata),
            ("core-command", &self.core_command),
            ("support-notifications", &self.support_notifications),
            ("support-scheduler", &self.support_scheduler),
        ];
        let service = |(id, listener): (&str, &TcpListener)| {
            let address = listener.local_addr()?;
            let host = match address.ip().is_unspecified() {
                true => "localhost".to_owned(),
                false => address.ip().to_string(),
            };
            Ok(OwnService {
                id: id.to_owned(),
                host,
                port: address.port(),
            })
        };
        services.into_iter().map(service).collect()
    }
}

/// Unless it was asked for, a port that others have is let be.
async fn bind_ingress(
    setting: &str,
    asked: Option<SocketAddr>,
    usual: u16,
) -> std::io::Result<Option<TcpListener>> {
    let purpose = format!("the router of Ingresses ({setting})");
    if let Some(address) = asked {
        return eyot_http::bind(&purpose, address).await.map(Some);
    }
    let usual = SocketAddr::from(([127, 0, 0, 1], usual));
    Ok(eyot_http::bind(&purpose, usual)
        .await
        .inspect_err(|error| tracing::warn!(%error, "Ingresses are not served there"))
        .ok())
}

fn open_registry(settings: &Resolved) -> anyhow::Result<Registry> {
    let others = settings.registries.as_deref().map(Registries::from_file);
    let others = others.transpose().context("registries")?;
    Registry::open(
        &settings.data_dir.join("registry"),
        settings.registry_address,
        others.unwrap_or_default(),
    )
    .context("the registry cannot be opened")
}

async fn open_network(settings: &Resolved) -> Result<PodNetwork, NetworkError> {
    let services = settings.services.v4();
    PodNetwork::open(network_options(settings, settings.pod_cidr, services)).await
}

/// The pod network of this machine, with these addresses for pods and for Services.
pub fn network_options(
    settings: &Resolved,
    cidr: Cidr,
    services: Option<(Ipv4Addr, u8)>,
) -> eyot_network::Options {
    eyot_network::Options {
        bridge: settings.bridge.clone(),
        cidr,
        netns_dir: Instance::of(&settings.data_dir).run_dir().join("netns"),
        services,
    }
}

/// How pods reach the API.
pub struct Inside {
    /// What the Service `kubernetes` leads to.
    pub address: Option<SocketAddr>,
    /// A door of its own, where the API's does not serve.
    pub listener: Option<TcpListener>,
}

/// An address that others reach serves pods, too. Otherwise the API also listens on the bridge, which
/// the table keeps from everybody but pods and the host itself.
pub async fn inside(settings: &Resolved, network: &PodNetwork) -> anyhow::Result<Inside> {
    let api = settings.api_address;
    if !api.ip().is_loopback() && !api.ip().is_unspecified() {
        return Ok(Inside {
            address: Some(api),
            listener: None,
        });
    }
    let Some(gateway) = network.gateway() else {
        return Ok(Inside {
            address: None,
            listener: None,
        });
    };
    let address = SocketAddr::from((gateway, api.port()));
    let listener = match api.ip().is_unspecified() {
        true => None,
        false => Some(eyot_http::bind("the Kubernetes API for pods (pod-cidr)", address).await?),
    };
    Ok(Inside {
        address: Some(address),
        listener,
    })
}

/// Where pods find names.
fn names(settings: &Resolved, network: &PodNetwork) -> Option<IpAddr> {
    (network.gateway())
        .and(settings.services.v4())
        .and_then(|_| settings.services.dns_address())
}

fn start_node(
    settings: &Resolved,
    client: &impl Fn(&str) -> Client,
    launcher: Launcher,
    engine: Arc<WasmEngine>,
    devices: Devices,
    registry: Arc<Registry>,
    network: Arc<PodNetwork>,
) -> Node {
    let oci = OciRuntime::new(launcher, containers(&settings.data_dir));
    let wasm = WasmRuntime::new(engine, Arc::new(devices));
    Node::new(eyot_node::Options {
        name: settings.node_name.clone(),
        version: eyot_apiserver::KUBERNETES_VERSION,
        client: client(&format!("system:node:{}", settings.node_name)),
        images: registry,
        runtimes: vec![
            (
                eyot_node::Kind::Wasm,
                Arc::new(wasm) as Arc<dyn eyot_runtime::Runtime>,
            ),
            (eyot_node::Kind::Oci, Arc::new(oci)),
        ],
        dns: names(settings, &network),
        network,
        data_dir: settings.data_dir.clone(),
        secrets_dir: Some(Instance::of(&settings.data_dir).run_dir().join("secrets")),
        policy: settings.policy.clone(),
        heartbeat: eyot_node::Heartbeat::Lease,
        cut_off: None,
        provisions: true,
        stop_pods: settings.stop_pods,
    })
}

/// Forget what guests kept by key when their namespace goes; first of all of those that went while
/// this did not look.
async fn forget_values(
    values: Arc<KeyValues>,
    namespaces: Cache<Namespace>,
    stop: CancellationToken,
) {
    let (gone, mut names) = mpsc::unbounded_channel();
    namespaces.listen(move |change| {
        if change.after.is_none() {
            // Nobody hears it only when the host stops.
            let _ = gone.send(change.key.name.to_string());
        }
    });
    let forgetting = async {
        namespaces.synced().await;
        let here = |name: &str| namespaces.get(&Key::new("", name)).is_some();
        let mut forgotten = values.forget(|name| !here(name)).await;
        loop {
            if let Err(error) = forgotten {
                tracing::warn!(%error, "what guests of namespaces that are gone kept is still there");
            }
            let Some(name) = names.recv().await else {
                return;
            };
            forgotten = values.forget(|namespace| namespace == name).await;
        }
    };
    stop.run_until_cancelled(forgetting).await;
}

/// The controllers; where hosts share a database, those of one host at a time, which `client` agrees
/// upon.
fn control(
    settings: &Resolved,
    client: Client,
    clients: Clients,
    options: eyot_control::Options,
    watches: &Watches,
    stop: &CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let (watches, stop) = (watches.clone(), stop.clone());
    let election = settings
        .store
        .is_some()
        .then(|| Election::new(client.clone(), &settings.node_name, Timing::default()));
    async move {
        let Some(election) = election else {
            return eyot_control::run(clients, watches, options, stop).await;
        };
        let work = |term: CancellationToken| {
            // Of their own: they end with the term, and all who listen to them.
            let watches = Watches::new(client.clone(), term.clone());
            eyot_control::run(clients.clone(), watches, options.clone(), term)
        };
        election.run(stop, work).await;
    }
}

/// What makes a network of pods a cluster.
fn serve_cluster(
    settings: &Resolved,
    network: &PodNetwork,
    cluster: &Cluster,
    client: &impl Fn(&str) -> Client,
    doors: Doors,
    parts: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let proxy = client("system:kube-proxy");
    let host = Some(doors.host);
    let balancer = Balancer::new(network, cluster, proxy, &settings.node_name, host);
    parts.spawn(balancer.run(stop.clone()));
    let guard = Guard::new(
        network,
        cluster,
        client("system:eyot-network"),
        &settings.node_name,
    );
    parts.spawn(guard.run(stop.clone()));
    let names = Dns::new(
        network,
        cluster,
        Some(client("system:kube-dns")),
        settings.services.dns_address(),
        RESOLV_CONF.into(),
    );
    parts.spawn(names.run(stop.clone()));
    let router = IngressRouter::new(cluster, client("system:eyot-ingress"), doors);
    parts.spawn(router.run(stop.clone()));
}

/// A client for a part of the host: the API service itself, without a socket.
pub fn internal_client(api: &ApiServer, name: &str) -> Client {
    Client::new(api.as_user(User::new(name, &["system:masters"])), "default")
}

pub fn watch_signals(stop: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
