//! The node's own objects: its Node, refreshed when it changes and every five minutes, and its
//! Lease, renewed every ten seconds. Both are made again if they are gone; an API that does not
//! answer is asked again with growing pauses.
//!
//! A node that is far from its API ([`Heartbeat::Line`]) does less: whoever holds its line renews the
//! Lease, it asks for nothing while nothing happens, and it says everything anew when a line was
//! broken, since it may have been taken for lost meanwhile.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Namespace, Node},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    Heartbeat,
    capacity::{architecture, os_image, word},
    context::Context,
};

const LEASES: &str = "kube-node-lease";
const RENEW: Duration = Duration::from_secs(10);
/// A node whose lease is this old is taken for lost.
const LEASE_SECONDS: i32 = 40;
/// How often it is looked whether the API still has the Node and says that it is ready, and whether
/// there are other images.
const CHECK: Duration = Duration::from_secs(10);
/// How often the status is written although nothing changed.
const REFRESH: Duration = Duration::from_secs(300);
/// The same over a line, where the whole status is most of what an idle node sends.
const REFRESH_FAR: Duration = Duration::from_secs(3600);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// Images that a Node tells of, and names of each, as in Kubernetes.
const IMAGES: usize = 50;
const IMAGE_NAMES: usize = 5;

/// Make the Node and keep it and its Lease up to date until `stop`.
pub(crate) async fn keep(context: &Context, stop: &CancellationToken) {
    let keeping = async {
        match context.heartbeat {
            Heartbeat::Lease => drop(tokio::join!(keep_node(context), keep_lease(context))),
            Heartbeat::Line(_) => keep_node(context).await,
        }
    };
    stop.run_until_cancelled(keeping).await;
}

async fn keep_node(context: &Context) {
    let mut check = interval(CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due = Instant::now();
    let mut told = Value::Null;
    let refresh = match context.heartbeat {
        Heartbeat::Lease => REFRESH,
        Heartbeat::Line(_) => REFRESH_FAR,
    };
    loop {
        // What it says of itself is not to wait.
        let news = tokio::select! {
            _ = check.tick() => false,
            () = context.pressure.changed() => true,
            () = new_line(&context.heartbeat) => true,
        };
        let images = images(context).await;
        if news || images != told || Instant::now() >= due || is_doubted(context).await {
            insist("the Node was not written", || write_node(context, &images)).await;
            due = Instant::now() + refresh;
            told = images;
        }
    }
}

/// Resolves when there is a new line, if there are lines.
async fn new_line(heartbeat: &Heartbeat) {
    match heartbeat {
        Heartbeat::Lease => std::future::pending().await,
        Heartbeat::Line(up) => up.notified().await,
    }
}

/// Whether the API does not say that the node is ready: somebody took it for lost, or away.
async fn is_doubted(context: &Context) -> bool {
    if matches!(context.heartbeat, Heartbeat::Line(_)) {
        return false;
    }
    let api: Api<Node> = Api::all(context.client.clone());
    let Ok(found) = api.get_opt(&context.name).await else {
        // It does not answer; the next look will tell.
        return false;
    };
    let conditions = found.and_then(|node| node.status?.conditions);
    let mut conditions = conditions.into_iter().flatten();
    !conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

async fn keep_lease(context: &Context) {
    let mut renew = interval(RENEW);
    renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        renew.tick().await;
        let act = || renew_lease(&context.client, &context.name);
        insist("the node's Lease was not renewed", act).await;
    }
}

/// Try until it works, with growing pauses.
async fn insist<F: Future<Output = Result<(), kube::Error>>>(what: &str, act: impl Fn() -> F) {
    let mut pause = RETRY_FIRST;
    while let Err(error) = act().await {
        tracing::warn!(%error, "{what}; trying again in {pause:?}");
        sleep(pause).await;
        pause = RETRY_LONGEST.min(pause * 2);
    }
}

async fn write_node(context: &Context, images: &Value) -> Result<(), kube::Error> {
    let before = ensure_node(&context.client, &context.name).await?;
    let mut status = status(context, Some(&before), Timestamp::now());
    status["images"] = images.clone();
    let patch = Patch::Strategic(json!({ "status": status }));
    let api: Api<Node> = Api::all(context.client.clone());
    api.patch_status(&context.name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

/// The Node of that name, made if there is none, with the labels that say what this machine is.
pub async fn ensure_node(client: &Client, name: &str) -> Result<Node, kube::Error> {
    let api: Api<Node> = Api::all(client.clone());
    if let Some(node) = api.get_opt(name).await? {
        let known = node.metadata.labels.as_ref();
        let fits = |(key, value): (&String, &String)| {
            known.and_then(|known| known.get(key)) == Some(value)
        };
        if labels(name).iter().all(fits) {
            return Ok(node);
        }
        let patch = Patch::Merge(json!({ "metadata": { "labels": labels(name) } }));
        return api.patch(name, &PatchParams::default(), &patch).await;
    }
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": labels(name) },
    });
    let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
    api.create(&PostParams::default(), &node).await
}

fn labels(name: &str) -> BTreeMap<String, String> {
    let arch = architecture();
    [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn status(context: &Context, before: Option<&Node>, now: Timestamp) -> Value {
    let capacity = context.capacity;
    let resources = json!({
        "cpu": capacity.cpus.to_string(),
        "memory": format!("{}Ki", capacity.memory / 1024),
        "ephemeral-storage": format!("{}Ki", capacity.storage / 1024),
        "pods": capacity.pods.to_string(),
    });
    let machine = word("/etc/machine-id");
    json!({
        "capacity": resources,
        "allocatable": resources,
        "conditions": conditions(context, before, now),
        "addresses": [
            { "type": "InternalIP", "address": context.address.to_string() },
            { "type": "Hostname", "address": context.name },
        ],
        "nodeInfo": {
            "machineID": machine,
            "systemUUID": machine,
            "bootID": word("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": word("/proc/sys/kernel/osrelease"),
            "osImage": os_image(),
            "containerRuntimeVersion": concat!("eyot://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": context.version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": architecture(),
        },
    })
}

/// The largest images, as the kubelet lists them.
async fn images(context: &Context) -> Value {
    // What cannot be listed is left out this time.
    let images = context.images.list().await.unwrap_or_default();
    let shown = images.into_iter().take(IMAGES);
    let shown = shown.map(|mut image| {
        image.names.truncate(IMAGE_NAMES);
        json!({ "names": image.names, "sizeBytes": image.size })
    });
    shown.collect()
}

fn conditions(context: &Context, before: Option<&Node>, now: Timestamp) -> Value {
    let all = [
        match context.pressure.memory() {
            true => (
                "MemoryPressure",
                "True",
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
            false => (
                "MemoryPressure",
                "False",
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
        },
        match context.pressure.disk() {
            true => (
                "DiskPressure",
                "True",
                "KubeletHasDiskPressure",
                "kubelet has disk pressure",
            ),
            false => (
                "DiskPressure",
                "False",
                "KubeletHasNoDiskPressure",
                "kubelet has no disk pressure",
            ),
        },
        (
            "PIDPressure",
            "False",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        (
            "Ready",
            "True",
            "KubeletReady",
            "kubelet is posting ready status",
        ),
    ];
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let since = |kind: &str, status: &str| {
        let known = before.and_then(|node| node.status.as_ref()?.conditions.as_ref());
        known
            .and_then(|all| all.iter().find(|c| c.type_ == kind && c.status == status))
            .and_then(|condition| {
                serde_json::to_value(condition.last_transition_time.as_ref()?).ok()
            })
            .unwrap_or_else(|| json!(now))
    };
    all.map(|(kind, status, reason, message)| {
        json!({
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": since(kind, status),
        })
    })
    .into()
}

/// Say that the node of that name lives.
pub async fn renew_lease(client: &Client, name: &str) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let spec = json!({
        "holderIdentity": name,
        "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": MicroTime(Timestamp::now()),
    });
    let patch = Patch::Merge(json!({ "spec": spec }));
    match api.patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => {}
        other => return other.map(drop),
    }
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name, "namespace": LEASES },
        "spec": spec,
    });
    let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &lease).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => {
            make_namespace(client).await?;
            api.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}

async fn make_namespace(client: &Client) -> Result<(), kube::Error> {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": LEASES },
    });
    let namespace: Namespace =
        serde_json::from_value(namespace).map_err(kube::Error::SerdeError)?;
    match Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await
    {
        Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(()),
        other => other.map(drop),
    }
}
