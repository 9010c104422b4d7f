//! The wiring of a machine that belongs to a server elsewhere: the same node as in [`crate::up`], over a
//! `kube::Client` that leads there.
//!
//! What is different is only what is around the node: who it is and how it reaches its server
//! ([`eyot_edge`]), where its addresses come from (the server gives it a range), and that the images of
//! the server's registry are found there. The node and its network are clients of an API of their own
//! ([`OwnApi`]), which a mirror keeps like the server's, so they live on cut off and begin without it.
//! Nothing listens for other machines; pods alone reach its DNS, pods and this machine its API.
//!
//! With a kubeconfig any Kubernetes API server will do. Then there is no tunnel and no API of its own, and
//! the node renews its Lease itself.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use eyot_client::Watches;
use eyot_edge::{Address, Identity, JoinToken, Uplink, tunnel};
use eyot_mirror::Link;
use eyot_network::{Balancer, Cluster, Dns, Guard, Mesh, PodNetwork};
use eyot_node::{CutOff, Heartbeat, Node};
use eyot_registry::{
    Registry,
    pull::{Host, Registries},
};
use eyot_runtime::{
    Exit, Instance, LogSink, LogStream, PodRef,
    guest::{Driver, DriverHost},
};
use eyot_runtime_oci::{OciRuntime, launcher::Launcher};
use eyot_runtime_wasm::{WasmEngine, WasmRuntime};
use eyot_store::KeyValues;
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Api, Client};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    certificate,
    cli::cluster,
    membership::{Joined, Membership},
    own_api::{OwnApi, once_filled},
    settings::Resolved,
    up,
};

/// Between two looks at what the server has to decide first.
const LOOK: Duration = Duration::from_millis(500);
/// How long somebody else's cluster may take to give the node a range; not all of them do.
const OTHERS: Duration = Duration::from_secs(30);
/// How often it is looked whether this machine has left.
const LEFT: Duration = Duration::from_secs(1);

/// What `eyot join` was told.
pub struct Plan {
    pub server: Option<Address>,
    pub token: Option<JoinToken>,
    pub kubeconfig: Option<PathBuf>,
}

/// How the API is reached, and what comes of it.
struct Far {
    client: Client,
    heartbeat: Heartbeat,
    /// `None`: somebody else's cluster.
    uplink: Option<Uplink>,
}

/// Run the node until a signal ends it.
pub async fn run(plan: Plan, settings: Resolved, launcher: Launcher) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    up::watch_signals(stop.clone())?;
    let membership = Arc::new(Membership::of(&settings.data_dir));
    let _lock = membership.lock()?;
    let mut parts = JoinSet::new();
    let beginning = begin(&plan, &settings, &membership, &mut parts, &stop);
    let Some(begun) = stop.run_until_cancelled(beginning).await else {
        return Ok(());
    };
    let (far, joined) = begun?;
    serve(far, joined, &membership, settings, launcher, parts, stop).await
}

/// Reach the API as a node, and know what the node needs to know.
async fn begin(
    plan: &Plan,
    settings: &Resolved,
    membership: &Arc<Membership>,
    parts: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> anyhow::Result<(Far, Joined)> {
    let (far, mut joined) = match &plan.kubeconfig {
        Some(file) => {
            let client = cluster::client(cluster::read(file).await?)?;
            let joined = Joined {
                node: settings.node_name.clone(),
                ..Joined::default()
            };
            let far = Far {
                client,
                heartbeat: Heartbeat::Lease,
                uplink: None,
            };
            (far, joined)
        }
        None => {
            let (identity, joined) = member(plan, settings, membership).await?;
            let server: Address = joined.server.parse()?;
            let uplink = Uplink::new(server, identity.credential()?);
            let (way, cancel) = (uplink.clone(), stop.clone());
            parts.spawn(async move { way.run(cancel).await });
            let keeper = certificate::Keeper {
                uplink: uplink.clone(),
                membership: membership.clone(),
                token: plan.token.clone(),
            };
            parts.spawn(keeper.run(identity, stop.clone()));
            let far = Far {
                client: uplink.client(),
                heartbeat: Heartbeat::Line(Arc::default()),
                uplink: Some(uplink),
            };
            (far, joined)
        }
    };
    if joined.pod_cidr.is_none() {
        let learning = learn(&far.client, &mut joined);
        if far.uplink.is_some() {
            learning.await;
            membership.know(&joined)?;
        } else if tokio::time::timeout(OTHERS, learning).await.is_err() {
            tracing::warn!(
                cidr = %settings.pod_cidr,
                "that cluster gives its nodes no ranges for pods: they get addresses of pod-cidr"
            );
        }
    }
    Ok((far, joined))
}

/// Who this machine is at which server; asked for with the token if it is nobody yet.
async fn member(
    plan: &Plan,
    settings: &Resolved,
    membership: &Membership,
) -> anyhow::Result<(Identity, Joined)> {
    let known = membership.joined()?;
    let identity = membership.identity()?;
    if let (Some(identity), Some(joined)) = (&identity, &known) {
        let others = plan.server.as_ref().map(Address::to_string);
        if others.is_some_and(|server| server != joined.server) {
            bail!(
                "this machine has joined {} as {:?}: `eyot leave` first, or `eyot node reset` if that server is gone",
                joined.server,
                joined.node
            );
        }
        // One that has expired is mended while the node runs on, cut off. One that the server does not
        // want is given up for another if there is a token: that makes another Node.
        let has_expired = identity.has_expired(Timestamp::now());
        let is_doubted = plan.token.is_some() && membership.is_refused() && !has_expired;
        if !is_doubted || !certificate::is_refused(joined.server.parse()?, identity).await? {
            return Ok((identity.clone(), joined.clone()));
        }
        tracing::warn!(
            node = joined.node,
            "the server does not accept the certificate of this node: joining anew"
        );
    }
    let Some(token) = &plan.token else {
        bail!(
            "this machine has not joined a server: eyot join https://HOST:PORT --token TOKEN, with what `eyot token create` prints there"
        );
    };
    let server = match (&plan.server, &known) {
        (Some(server), _) => server.clone(),
        (None, Some(joined)) => joined.server.parse()?,
        (None, None) => bail!("which server? eyot join https://HOST:PORT --token TOKEN"),
    };
    let node = settings.node_name.clone();
    tracing::info!(%server, node, "joining");
    let identity = certificate::ask(server.clone(), token, &node, membership).await?;
    let joined = Joined {
        server: server.to_string(),
        node,
        ..Joined::default()
    };
    membership.know(&joined)?;
    tracing::info!(%server, node = joined.node, until = %identity.to, "joined");
    Ok((identity, joined))
}

/// Have the Node made, and ask for what was decided about it, until it has been.
async fn learn(client: &Client, joined: &mut Joined) {
    let mut told = String::new();
    loop {
        match ask(client, joined).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                let why = error.to_string();
                if why != told {
                    tracing::warn!(
                        why,
                        "the server does not say yet where pods get their addresses from"
                    );
                    told = why;
                }
            }
        }
        sleep(LOOK).await;
    }
}

async fn ask(client: &Client, joined: &mut Joined) -> Result<bool, kube::Error> {
    let node = eyot_node::ensure_node(client, &joined.node).await?;
    let range = node.spec.and_then(|spec| spec.pod_cidr);
    let Some(range) = range.filter(|range| !range.is_empty()) else {
        return Ok(false);
    };
    let services: Api<ServiceCIDR> = Api::all(client.clone());
    // A cluster without such objects, or that does not show them, has Services all the same; they are
    // balanced, but an address that nobody has is not refused.
    let services = services.get_opt("kubernetes").await.ok().flatten();
    let services = services.and_then(|one| one.spec);
    joined.service_cidr = services.and_then(|spec| {
        let is_v4 = |cidr: &String| v4(cidr).is_some();
        spec.cidrs.into_iter().flatten().find(is_v4)
    });
    joined.pod_cidr = Some(range);
    Ok(true)
}

fn v4(cidr: &str) -> Option<(Ipv4Addr, u8)> {
    let (base, bits) = cidr.split_once('/')?;
    Some((base.parse().ok()?, bits.parse().ok()?))
}

async fn serve(
    far: Far,
    joined: Joined,
    membership: &Arc<Membership>,
    settings: Resolved,
    launcher: Launcher,
    mut parts: JoinSet<()>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let network = Arc::new(
        open_network(&settings, &joined)
            .await
            .context("the pod network")?,
    );
    let registry = Arc::new(open_registry(&settings, &far, membership)?);
    parts.spawn(Registry::clone(&registry).keep_tidy(stop.clone()));
    let mut options =
        eyot_runtime_wasm::Options::new(settings.data_dir.join("wasm"), settings.mqtt_address);
    let gateway = network.gateway().map(IpAddr::V4);
    options.dns = gateway.map(|gateway| (gateway, 53).into());
    let keyvalues = Arc::new(KeyValues::new(settings.data_dir.join("keyvalue.db")));
    options.keyvalues = Some(keyvalues.clone());
    let engine = WasmEngine::new(options).context("the Wasm engine cannot be started")?;
    let own = match &far.uplink {
        Some(_) => Some(OwnApi::open(&settings, &joined, membership, &network, &stop).await?),
        None => None,
    };
    let (filled, link) = (own.as_ref())
        .map(|own| own.mirror(far.client.clone(), &mut parts, &stop))
        .unzip();
    let client = |name: &str| match &own {
        Some(own) => own.client(name),
        None => far.client.clone(),
    };
    let watches = Watches::new(client("system:eyot-watches"), stop.clone());
    let cluster = Cluster::of_node(&watches, &joined.node);
    let then = |work| once_filled(filled.clone(), stop.clone(), work);
    let proxy = client("system:kube-proxy");
    let balancer = Balancer::new(&network, &cluster, proxy, &joined.node, None);
    parts.spawn(then(balancer.run(stop.clone()).boxed()));
    let policies = client("system:eyot-network");
    let guard = Guard::new(&network, &cluster, policies, &joined.node);
    parts.spawn(then(guard.run(stop.clone()).boxed()));
    if far.uplink.is_some() {
        // Of the server, never of a copy: ways stay as they are while it is away.
        let mesh = Mesh::new(&network, far.client.clone(), &joined.node);
        parts.spawn(mesh.run(stop.clone()));
    }
    let names = Dns::new(&network, &cluster, None, gateway, up::RESOLV_CONF.into());
    parts.spawn(then(names.run(stop.clone()).boxed()));
    let oci = OciRuntime::new(launcher, up::containers(&settings.data_dir));
    let wasm = WasmRuntime::new(engine, Arc::new(NoDrivers));
    let node = Node::new(eyot_node::Options {
        name: joined.node.clone(),
        version: eyot_apiserver::KUBERNETES_VERSION,
        client: client(&format!("system:node:{}", joined.node)),
        images: registry,
        runtimes: vec![
            (
                eyot_node::Kind::Wasm,
                Arc::new(wasm) as Arc<dyn eyot_runtime::Runtime>,
            ),
            (eyot_node::Kind::Oci, Arc::new(oci)),
        ],
        dns: gateway,
        network: network.clone(),
        data_dir: settings.data_dir.clone(),
        secrets_dir: Some(Instance::of(&settings.data_dir).run_dir().join("secrets")),
        policy: settings.policy.clone(),
        heartbeat: far.heartbeat.clone(),
        cut_off: link.map(is_cut_off),
        stop_pods: settings.stop_pods,
        provisions: far.uplink.is_none(),
    });
    if let (Some(uplink), Heartbeat::Line(up)) = (far.uplink, far.heartbeat) {
        let (kubelet, cancel) = (node.kubelet(), stop.clone());
        parts.spawn(end_with_membership(membership.clone(), stop.clone()));
        let membership = membership.clone();
        let refused = move |words| refused(&membership, words);
        parts.spawn(async move { tunnel::serve(uplink, kubelet, up, refused, cancel).await });
    }
    if let Some(own) = &own {
        own.serve(node.kubelet(), &mut parts, &stop);
    }
    parts.spawn(then(node.run(stop.clone()).boxed()));
    parts.spawn(crate::memory::give_back(stop.clone()));
    stop.cancelled().await;
    tracing::info!("stopping");
    up::end(parts, &settings, &network).await;
    keyvalues.close().await;
    if let Some(own) = own {
        own.close().await;
    }
    tracing::info!("stopped");
    Ok(())
}

fn is_cut_off(link: watch::Receiver<Link>) -> CutOff {
    Arc::new(move || match *link.borrow() {
        Link::Unknown => None,
        Link::Connected => Some(false),
        Link::CutOff => Some(true),
    })
}

/// What to do when the server does not want this node.
fn refused(membership: &Membership, tunnel::Refused(words): tunnel::Refused) {
    if let Err(error) = membership.was_refused() {
        tracing::warn!(%error, "a start with a new token will not know of it");
    }
    tracing::error!(
        words,
        "the server does not accept this node's certificate: it has expired, or the Node was deleted. Pods go on, cut off; start this with a new --token, or `eyot node reset`"
    );
}

/// `eyot leave` takes the identity away: an agent without one ends.
async fn end_with_membership(membership: Arc<Membership>, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(LEFT)).await.is_some() {
        if !membership.pair().exists() {
            tracing::info!("this machine has left its server");
            return stop.cancel();
        }
    }
}

async fn open_network(settings: &Resolved, joined: &Joined) -> anyhow::Result<PodNetwork> {
    let cidr = match &joined.pod_cidr {
        Some(cidr) => cidr.parse()?,
        None => settings.pod_cidr,
    };
    let services = joined.service_cidr.as_deref().and_then(v4);
    let options = up::network_options(settings, cidr, services);
    Ok(PodNetwork::open(options).await?)
}

/// Names without a host are looked for at the server first, and its own names for itself lead there.
fn open_registry(
    settings: &Resolved,
    far: &Far,
    membership: &Membership,
) -> anyhow::Result<Registry> {
    let others = settings.registries.as_deref().map(Registries::from_file);
    let mut others = others
        .transpose()
        .context("registries")?
        .unwrap_or_default();
    if let Some(uplink) = &far.uplink {
        let server = uplink.server().authority();
        others.search.insert(0, server.clone());
        let host = Host {
            ca: Some(membership.authority()),
            identity: Some(membership.pair()),
            plain_http: Some(false),
            ..Host::default()
        };
        for name in ["127.0.0.1", "localhost"] {
            let port = settings.registry_address.port();
            let named = others.registry.entry(format!("{name}:{port}"));
            named.or_default().mirrors.push(format!("https://{server}"));
        }
        others.registry.insert(server, host);
    }
    // Nobody reaches it from outside: no name means this one.
    let nowhere = (Ipv4Addr::LOCALHOST, 0).into();
    Registry::open(&settings.data_dir.join("registry"), nowhere, others)
        .context("the images cannot be opened")
}

/// Take down what a joined machine has in the kernel, and forget that it joined.
pub async fn reset(settings: Resolved, launcher: Launcher) -> anyhow::Result<()> {
    let membership = Membership::of(&settings.data_dir);
    let _lock = membership.lock()?;
    let joined = membership.joined()?.unwrap_or_default();
    OciRuntime::new(launcher, up::containers(&settings.data_dir))
        .reset()
        .await?;
    let network = open_network(&settings, &joined)
        .await
        .context("the pod network")?;
    network.close().await?;
    let run_dir = Instance::of(&settings.data_dir).run_dir();
    eyot_node::forget_secrets(&run_dir.join("secrets"))?;
    up::remove_run_dir(&run_dir)?;
    membership.forget()
}

/// Devices are served where the API is.
struct NoDrivers;

#[async_trait]
impl DriverHost for NoDrivers {
    async fn serve(
        &self,
        _pod: PodRef,
        service: String,
        _driver: Arc<dyn Driver>,
        log: Arc<dyn LogSink>,
        _stop: CancellationToken,
    ) -> Exit {
        let words = format!(
            "the driver of device service {service} cannot run on a joined node: devices are served by the host of the API; place the pod there (nodeSelector)\n"
        );
        log.write(LogStream::Stderr, words.as_bytes());
        Exit::from_code(1)
    }
}
