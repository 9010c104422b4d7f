//! Hollow agents: many nodes in one process that join, beat, follow their pods and run none of them.
//! What a server does with a thousand machines is seen with this on one.
//!
//! ```sh
//! cargo run --release -p eyot-edge --example hollow -- https://127.0.0.1:6443 "$(eyot token create)" 1000
//! ```
//!
//! It says how long joining took, and, whenever lines broke (kill the server, and start it again), how
//! long it took until all were back. A pod that is bound to one of its nodes is said to run at once.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use eyot_edge::{Address, Identity, JoinToken, Uplink, enrol, tunnel};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

/// Machines that ask for a certificate at once.
const JOINING: usize = 16;

type Anything<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Anything<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, token, count] = arguments.as_slice() else {
        return Err("give: https://HOST:PORT TOKEN COUNT".into());
    };
    let (server, token): (Address, JoinToken) = (server.parse()?, token.parse()?);
    let count: usize = count.parse()?;
    let since = Instant::now();
    let introduced = enrol::introduce(server.clone(), &token).await?;
    let way = introduced.uplink.clone();
    tokio::spawn(async move { way.run(CancellationToken::new()).await });
    let (client, places) = (
        introduced.uplink.client(),
        Arc::new(Semaphore::new(JOINING)),
    );
    let mut joining = JoinSet::new();
    for number in 0..count {
        let (client, places) = (client.clone(), places.clone());
        let authority = introduced.authority.clone();
        joining.spawn(async move {
            let _place = places.acquire_owned().await?;
            let name = format!("hollow-{number:05}");
            let key = enrol::make_key()?;
            Anything::Ok(enrol::certify(&client, &name, key, authority).await?)
        });
    }
    let up = Arc::new(AtomicUsize::new(0));
    let mut agents = JoinSet::new();
    while let Some(identity) = joining.join_next().await {
        agents.spawn(agent(server.clone(), identity??, up.clone()));
    }
    println!("{count} certificates after {:.1?}", since.elapsed());
    let mut lost = Some(since);
    let mut look = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            Some(ended) = agents.join_next() => ended??,
            _ = look.tick() => {}
        }
        match (lost, up.load(Ordering::Relaxed) == count) {
            (Some(at), true) => {
                println!("all {count} lines are up after {:.1?}", at.elapsed());
                lost = None;
            }
            (None, false) => {
                println!("lines broke");
                lost = Some(Instant::now());
            }
            _ => {}
        }
    }
}

/// One node.
async fn agent(server: Address, identity: Identity, up: Arc<AtomicUsize>) -> Anything<()> {
    let name = identity.node.clone();
    let uplink = Uplink::new(server, identity.credential()?);
    let stop = CancellationToken::new();
    let way = uplink.clone();
    let (running, cancel) = (stop.clone(), stop.clone());
    tokio::spawn(async move { way.run(running).await });
    let client = uplink.client();
    register(&client, &name).await?;
    let kubelet = service_fn(|_: eyot_http::Request| async {
        Ok::<_, Infallible>(eyot_http::text(http::StatusCode::OK, "{}"))
    });
    let line = Arc::new(Notify::new());
    let counting = {
        let (uplink, line) = (uplink.clone(), line.clone());
        async move {
            loop {
                line.notified().await;
                up.fetch_add(1, Ordering::Relaxed);
                uplink.ended().await;
                up.fetch_sub(1, Ordering::Relaxed);
            }
        }
    };
    tokio::select! {
        () = tunnel::serve(uplink, kubelet, line, |_| {}, cancel) => Ok(()),
        () = counting => Ok(()),
        ended = follow(client, &name) => ended,
    }
}

async fn register(client: &Client, name: &str) -> Anything<()> {
    let api: Api<Node> = Api::all(client.clone());
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"hollow": "true"}},
    });
    match api
        .create(&PostParams::default(), &serde_json::from_value(node)?)
        .await
    {
        Err(kube::Error::Api(answer)) if answer.code == 409 => {}
        made => drop(made?),
    }
    let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    let status = json!({"status": {
        "capacity": room, "allocatable": room,
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Hollow", "message": "it runs nothing",
            "lastHeartbeatTime": jiff::Timestamp::now().to_string(),
            "lastTransitionTime": jiff::Timestamp::now().to_string(),
        }],
    }});
    let patch = Patch::Strategic(status);
    api.patch_status(name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

/// Say of each pod that it runs.
async fn follow(client: Client, name: &str) -> Anything<()> {
    let all: Api<Pod> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={name}"));
    let mut pods = pin!(watcher(all, config).default_backoff().applied_objects());
    while let Some(pod) = pods.next().await {
        let Ok(pod) = pod else { continue };
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        if pod.metadata.deletion_timestamp.is_some() {
            let now = kube::api::DeleteParams::default().grace_period(0);
            let _ = api.delete(&pod.name_any(), &now).await;
        } else if phase != Some("Running") {
            let patch = Patch::Strategic(json!({"status": {
                "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            }}));
            let _ = api
                .patch_status(&pod.name_any(), &PatchParams::default(), &patch)
                .await;
        }
    }
    Ok(())
}
