//! `make bench`: how fast pods are placed on many nodes, how soon after an apply, and what a restart
//! costs. Prints rows of a Markdown table.
//!
//! The API server, its store on disk and all controllers run in this process, as in the host; the
//! nodes are objects whose Leases are renewed. Of the pods a quarter asks for nothing special, a
//! quarter must be spread over zones, a quarter wants to be near others and a quarter far from its
//! own kind. `bench-control 100 1000` does with 100 nodes and 1,000 pods only.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use eyot_apiserver::{ApiServer, Options, User};
use eyot_client::Watches;
use eyot_store::Store;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{Namespace, Node, Pod, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    core::PartialObjectMeta,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const NODES: [usize; 3] = [10, 1_000, 5_000];
const PODS: usize = 10_000;
const ZONES: usize = 10;
/// Requests under way at once.
const AT_ONCE: usize = 64;
/// Applies of which the time to the first bound pod is taken.
const APPLIES: usize = 100;
/// Pods of the large Deployment.
const LARGE: i32 = 1_000;
const RENEW: Duration = Duration::from_secs(20);
/// Nothing here takes so long, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run()));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-control: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok());
    let (nodes, pods) = match (numbers.next(), numbers.next()) {
        (Some(nodes), Some(pods)) => (vec![nodes], pods),
        _ => (NODES.to_vec(), PODS),
    };
    println!("| scheduling | aim | measured |\n|---|---|---|");
    for nodes in nodes {
        measure(nodes, pods).await?;
    }
    Ok(())
}

async fn measure(nodes: usize, pods: usize) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("eyot-bench-{}-{nodes}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let ended = measure_in(&dir, nodes, pods).await;
    std::fs::remove_dir_all(&dir)?;
    ended
}

async fn measure_in(dir: &std::path::Path, nodes: usize, pods: usize) -> Result<()> {
    let store = Store::open(&dir.join("bench.db"), eyot_apiserver::extract).await?;
    let server = ApiServer::new(store.clone(), Options::default()).await?;
    let user = server.as_user(User::new("bench", &["system:masters"]));
    let client = Client::new(user, "default");
    make_nodes(&client, nodes, pods).await?;
    let alive = keep_alive(client.clone(), nodes);
    make_pods(&client, pods).await?;
    let (control, stop) = start(&client);
    let rate = until_bound(&client, pods).await?;
    let aim = match nodes {
        ..=1_000 => "≥ 5,000 pods/s",
        _ => "≥ 2,000 pods/s",
    };
    println!("| {pods} pods on {nodes} nodes | {aim} | {rate:.0} pods/s |");
    let (p50, p99) = applies(&client).await?;
    println!(
        "| … apply of a Deployment to its pod bound | p50 ≤ 3 ms | p50 {p50:.2} ms, p99 {p99:.2} ms |"
    );
    let took = deployment(&client).await?;
    println!("| … a Deployment of {LARGE} pods from apply to all Ready | | {took:.2} s |");
    let memory = resident()?;
    println!("| … resident memory, API server and store included | ≤ 250 MiB | {memory} MiB |");
    stop.cancel();
    control.await?;
    // Renewals would be counted with what the controllers write.
    alive.abort();
    let (took, writes) = restart(&client, &store).await?;
    println!(
        "| … all known again after a restart | ≤ 2 s, 0 writes | {took:.2} s, {writes} writes |"
    );
    Ok(())
}

fn start(client: &Client) -> (JoinHandle<()>, CancellationToken) {
    let stop = CancellationToken::new();
    let watches = Watches::new(client.clone(), stop.clone());
    let options = eyot_control::Options::default();
    let control = tokio::spawn(eyot_control::run(
        eyot_control::Clients::one(client.clone()),
        watches,
        options,
        stop.clone(),
    ));
    (control, stop)
}

fn typed<K: DeserializeOwned>(value: Value) -> Result<K> {
    Ok(serde_json::from_value(value)?)
}

async fn make_nodes(client: &Client, nodes: usize, pods: usize) -> Result<()> {
    let room = (2 * pods / nodes + 10).max(110);
    let (api, status) = (
        Api::<Node>::all(client.clone()),
        Api::<Node>::all(client.clone()),
    );
    each(nodes, async |n| {
        let name = format!("node-{n}");
        let node = typed(json!({ "metadata": { "name": name, "labels": {
            "kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("zone-{}", n % ZONES) } } }))?;
        api.create(&PostParams::default(), &node).await?;
        let told = json!({ "status": {
            "allocatable": { "cpu": room, "memory": format!("{room}Gi"), "pods": room },
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady",
                "message": "", "lastHeartbeatTime": null, "lastTransitionTime": null }] } });
        let told = Patch::Strategic(told);
        status
            .patch_status(&name, &PatchParams::default(), &told)
            .await?;
        Ok(())
    })
    .await
}

/// Renew the Leases of all nodes, as their kubelets would.
fn keep_alive(client: Client, nodes: usize) -> JoinHandle<()> {
    tokio::spawn(async move {
        let space = "kube-node-lease";
        let namespaces: Api<Namespace> = Api::all(client.clone());
        if let Ok(namespace) = typed(json!({ "metadata": { "name": space } })) {
            // It may be there already.
            let _ = namespaces.create(&PostParams::default(), &namespace).await;
        }
        let api: Api<Lease> = Api::namespaced(client, space);
        loop {
            let all = stream::iter(0..nodes).map(|n| renew(api.clone(), n));
            let mut all = all.buffer_unordered(AT_ONCE);
            while let Some(renewed) = all.next().await {
                if let Err(error) = renewed {
                    eprintln!("bench-control: renewing a Lease: {error}");
                }
            }
            tokio::time::sleep(RENEW).await;
        }
    })
}

async fn renew(api: Api<Lease>, node: usize) -> Result<()> {
    let name = format!("node-{node}");
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.000000Z");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": name },
        "spec": { "holderIdentity": name, "renewTime": now.to_string() },
    });
    let apply = PatchParams::apply("bench").force();
    api.patch(&name, &apply, &Patch::Apply(lease)).await?;
    Ok(())
}

async fn make_pods(client: &Client, pods: usize) -> Result<()> {
    // No controller runs yet that would make it.
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    let account = typed(json!({ "metadata": { "name": "default" } }))?;
    accounts.create(&PostParams::default(), &account).await?;
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    each(pods, async |n| {
        let app = format!("app-{}", n % 20);
        let selector = json!({ "matchLabels": { "app": app } });
        let mut pod = json!({
            "metadata": { "name": format!("pod-{n}"), "labels": { "app": app } },
            "spec": { "containers": [{ "name": "c", "image": "i", "resources": {
                "requests": { "cpu": "100m", "memory": "64Mi" } } }] },
        });
        match n % 4 {
            0 => {}
            1 => {
                pod["spec"]["topologySpreadConstraints"] = json!([{
                    "maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector }]);
            }
            2 => {
                let near = json!({ "topologyKey": "topology.kubernetes.io/zone",
                    "labelSelector": selector });
                pod["spec"]["affinity"] = json!({ "podAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [near] } });
            }
            _ => {
                let far = json!({ "weight": 10, "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname", "labelSelector": selector } });
                pod["spec"]["affinity"] = json!({ "podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [far] } });
            }
        }
        api.create(&PostParams::default(), &typed(pod)?).await?;
        Ok(())
    })
    .await
}

/// Do something for each number below `all`, many at once.
async fn each(all: usize, act: impl AsyncFn(usize) -> Result<()>) -> Result<()> {
    let act = &act;
    let mut acts = stream::iter(0..all)
        .map(|n| act(n))
        .buffer_unordered(AT_ONCE);
    while let Some(done) = acts.next().await {
        done?;
    }
    Ok(())
}

/// Wait until so many pods are bound; how many were a second, from the first to the last.
async fn until_bound(client: &Client, pods: usize) -> Result<f64> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let bound = WatchParams::default()
        .fields("spec.nodeName!=")
        .timeout(290);
    let mut events = api.watch_metadata(&bound, "0").await?.boxed();
    let wait = async {
        let (mut count, mut first) = (0, Instant::now());
        while let Some(event) = events.next().await {
            if !matches!(event?, WatchEvent::Added(_)) {
                continue;
            }
            count += 1;
            if count == 1 {
                first = Instant::now();
            }
            if count == pods {
                let took = first.elapsed().as_secs_f64();
                return Ok(f64::from(u32::try_from(count - 1)?) / took);
            }
        }
        Err(format!("{count} of {pods} pods are bound, and the watch is over").into())
    };
    tokio::time::timeout(PATIENCE, wait).await?
}

/// The time from the apply of a Deployment until its pod is bound, in milliseconds: half of them
/// are faster than the first, all but one in a hundred faster than the second.
async fn applies(client: &Client) -> Result<(f64, f64)> {
    let api: Api<Deployment> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let mut times = Vec::new();
    for n in 0..APPLIES {
        let name = format!("apply-{n}");
        let labels = json!({ "apply": name });
        let wanted = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
            "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "c", "image": "i" }] } } },
        });
        let bound = WatchParams::default().labels(&format!("apply={name}"));
        let bound = bound.fields("spec.nodeName!=");
        let version = pods.list_metadata(&ListParams::default().limit(1)).await?;
        let version = version.metadata.resource_version.unwrap_or_default();
        let mut events = pods.watch_metadata(&bound, &version).await?.boxed();
        let begun = Instant::now();
        let apply = PatchParams::apply("bench");
        api.patch(&name, &apply, &Patch::Apply(wanted)).await?;
        let next = tokio::time::timeout(PATIENCE, events.next()).await?;
        next.ok_or("the watch is over")??;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    Ok((at(50), at(99)))
}

/// Seconds from the apply of a large Deployment until it says that all of its pods are ready: the
/// nodes say so of each as soon as it is bound.
async fn deployment(client: &Client) -> Result<f64> {
    let api: Api<Deployment> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let list = pods.list_metadata(&ListParams::default().limit(1)).await?;
    let version = list.metadata.resource_version.unwrap_or_default();
    let bound = WatchParams::default().labels("large=yes").timeout(290);
    let bound = bound.fields("spec.nodeName!=");
    let events = pods.watch_metadata(&bound, &version).await?;
    let nodes = tokio::spawn(play_nodes(pods, events.boxed()));
    let labels = json!({ "large": "yes" });
    let wanted = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "large" },
        "spec": { "replicas": LARGE, "selector": { "matchLabels": labels }, "template": {
            "metadata": { "labels": labels },
            "spec": { "containers": [{ "name": "c", "image": "i" }] } } },
    });
    let begun = Instant::now();
    let apply = PatchParams::apply("bench");
    api.patch("large", &apply, &Patch::Apply(wanted)).await?;
    let all = async {
        loop {
            let status = api.get("large").await?.status.unwrap_or_default();
            if status.ready_replicas == Some(LARGE) {
                return Ok(begun.elapsed().as_secs_f64());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let took = tokio::time::timeout(PATIENCE, all).await?;
    nodes.abort();
    took
}

/// Say of each pod that is bound that it is ready.
async fn play_nodes(
    pods: Api<Pod>,
    events: BoxStream<'static, kube::Result<WatchEvent<PartialObjectMeta<Pod>>>>,
) {
    let ready = |event: kube::Result<WatchEvent<PartialObjectMeta<Pod>>>| {
        let pods = pods.clone();
        async move {
            let Ok(WatchEvent::Added(pod)) = event else {
                return;
            };
            let told = Patch::Strategic(json!({ "status": { "phase": "Running", "conditions": [
                { "type": "Ready", "status": "True",
                  "lastTransitionTime": jiff::Timestamp::now() }] } }));
            let params = PatchParams::default();
            if let Err(error) = pods.patch_status(&pod.name_any(), &params, &told).await {
                eprintln!("bench-control: a pod is not ready: {error}");
            }
        }
    };
    events
        .map(ready)
        .buffer_unordered(AT_ONCE)
        .collect::<()>()
        .await;
}

/// The memory of this process, in MiB.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let text = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = text.ok_or("no VmRSS")?.trim().parse()?;
    Ok(kib / 1024)
}

/// How long it takes after a restart until a new pod is placed, and what is written meanwhile
/// beside what that pod needs.
async fn restart(client: &Client, store: &Store) -> Result<(f64, u64)> {
    // Events of before are still being written.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = json!({ "metadata": { "name": "probe" },
        "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let made = api.create(&PostParams::default(), &typed(pod)?).await?;
    let version = made.metadata.resource_version.unwrap_or_default();
    let before = store.revision();
    let bound = WatchParams::default().fields("metadata.name=probe,spec.nodeName!=");
    let mut events = api.watch_metadata(&bound, &version).await?.boxed();
    let begun = Instant::now();
    let (control, stop) = start(client);
    let next = tokio::time::timeout(PATIENCE, events.next()).await?;
    next.ok_or("the watch is over")??;
    let took = begun.elapsed().as_secs_f64();
    // What is written a little later counts too; the pod's binding and its event do not.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let writes = store.revision().saturating_sub(before + 2);
    stop.cancel();
    control.await?;
    Ok((took, writes))
}
