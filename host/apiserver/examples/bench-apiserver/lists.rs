//! Whole collections: how long a list takes, what ten thousand pods weigh, how long a start with a
//! hundred thousand objects takes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use eyot_store::{Key, Store};

use crate::{
    Bench,
    measure::{Client, Error, Figures, resident, row, run},
    serve::Process,
    wire::{Connection, config_map},
};

const LISTS: usize = 20;

/// Creates objects until there are enough.
struct Filler {
    connection: Connection,
    path: &'static str,
    body: fn(&str) -> Bytes,
    client: usize,
    count: usize,
}

impl Client for Filler {
    async fn call(&mut self, turn: usize) -> Result<(), Error> {
        if turn >= self.count {
            return std::future::pending().await;
        }
        let body = (self.body)(&format!("f{}-{turn}", self.client));
        self.connection
            .send("POST", self.path, body)
            .await
            .map(drop)
    }
}

async fn fill(
    bench: &Bench,
    path: &'static str,
    count: usize,
    body: fn(&str) -> Bytes,
) -> Result<(), Error> {
    let connections = bench.eyot.server.connections(16).await?.into_iter();
    let fillers = connections.enumerate().map(|(client, connection)| Filler {
        connection,
        path,
        body,
        client,
        count: count / 16,
    });
    let filled = run(fillers.collect(), Duration::from_secs(3600));
    // Those that are done wait for ever: all are done when the number is there.
    let mut looking = bench.eyot.server.connect().await?;
    let enough = async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let first = looking
                .send("GET", &format!("{path}?limit=1"), Bytes::new())
                .await?;
            let list: serde_json::Value = serde_json::from_slice(&first)?;
            let more = list.pointer("/metadata/remainingItemCount");
            let more = more.and_then(serde_json::Value::as_u64).unwrap_or_default();
            if more + 1 >= (count / 16 * 16) as u64 {
                return Ok::<(), Error>(());
            }
        }
    };
    tokio::select! {
        filled = filled => filled.map(drop),
        enough = enough => enough,
    }
}

/// A pod as a Deployment would make it: two to three kilobytes when it is stored.
fn pod(name: &str) -> Bytes {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web", "pod-template-hash": "5d9c7b9c4f"}},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "web", "image": "registry.example.com/shop/web:v1.2.3",
                "ports": [{"containerPort": 8080, "name": "http"}],
                "env": [{"name": "LOG_LEVEL", "value": "info"}, {"name": "REGION", "value": "eu-1"}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
                "livenessProbe": {"httpGet": {"path": "/live", "port": 8080}, "periodSeconds": 10},
            }],
        },
    })
    .to_string()
    .into()
}

fn map(name: &str) -> Bytes {
    config_map(name, 0)
}

pub async fn lists(bench: &Bench) -> Result<(), Error> {
    const MANY: &str = "/api/v1/namespaces/kube-public/configmaps";
    const PODS: &str = "/api/v1/namespaces/default/pods";
    fill(bench, MANY, 2208, map).await?;
    let mut peers = match &bench.etcd {
        Some(etcd) => Some(etcd.connect().await?),
        None => None,
    };
    if let Some(peer) = &mut peers {
        for n in 0..2208 {
            peer.put(format!("m{n}").as_bytes(), &map("m")).await?;
        }
    }
    list(
        bench,
        ("list of 2,208 ConfigMaps", "p50 ≤ 5 ms"),
        MANY,
        peers.as_mut().map(|p| (p, "m", "n")),
    )
    .await?;
    let before = resident(bench.eyot.pid());
    let account = r#"{"metadata": {"name": "default"}}"#;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let mut one = bench.eyot.server.connect().await?;
    one.send("POST", accounts, account.into()).await?;
    fill(bench, PODS, 10_000, pod).await?;
    if let Some(peer) = &mut peers {
        let stored = one
            .send("GET", &format!("{PODS}/f0-0"), Bytes::new())
            .await?;
        for n in 0..10_000 {
            peer.put(format!("p{n}").as_bytes(), &stored).await?;
        }
    }
    list(
        bench,
        ("list of 10,000 pods", ""),
        PODS,
        peers.as_mut().map(|p| (p, "p", "q")),
    )
    .await?;
    row(
        "memory of 10,000 pods, with the lists just sent",
        "",
        &format!(
            "{:.0} MiB, {before:.0} MiB before",
            resident(bench.eyot.pid())
        ),
        "",
    );
    Ok(())
}

async fn list(
    bench: &Bench,
    (what, aim): (&str, &str),
    path: &str,
    mut peer: Option<(&mut crate::etcd::Connection, &str, &str)>,
) -> Result<(), Error> {
    let mut connection = bench.eyot.server.connect().await?;
    let (mut ours, mut theirs, mut size) = (Vec::new(), Vec::new(), 0);
    for _ in 0..LISTS {
        let begin = Instant::now();
        size = connection.send("GET", path, Bytes::new()).await?.len();
        ours.push(begin.elapsed());
        if let Some((peer, from, to)) = &mut peer {
            let begin = Instant::now();
            peer.range(from.as_bytes(), to.as_bytes()).await?;
            theirs.push(begin.elapsed());
        }
    }
    let (ours, theirs) = (
        Figures::new(ours, Duration::from_secs(1)),
        Figures::new(theirs, Duration::from_secs(1)),
    );
    let shown = |f: &Figures| format!("p50 {:.1} ms, p99 {:.1} ms", f.at(0.5), f.at(0.99));
    row(
        what,
        aim,
        &format!("{} ({:.1} MB)", shown(&ours), size as f64 / 1e6),
        &peer.map_or(String::new(), |_| {
            format!(
                "{}; Eyot takes {:.2} times as long",
                shown(&theirs),
                ours.at(0.5) / theirs.at(0.5)
            )
        }),
    );
    Ok(())
}

/// From the start of the process to its first answer, with a hundred thousand objects.
pub async fn start() -> Result<(), Error> {
    const OBJECTS: usize = 100_000;
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("bench.db"), eyot_apiserver::extract).await?;
    let value: serde_json::Value = serde_json::from_slice(&map("m"))?;
    for chunk in 0..OBJECTS / 100 {
        let writes = (0..100).map(|n| {
            let key = Key::new("configmaps", "default", format!("m{chunk}-{n}"));
            store.create(key, value.clone())
        });
        for written in futures::future::join_all(writes).await {
            written?;
        }
    }
    store.close().await;
    drop(store);
    let mut times = Vec::new();
    let mut memory = 0.0;
    for _ in 0..5 {
        // The directory's lock goes with the store's last task.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begin = Instant::now();
        let process = Process::start(dir.path())?;
        process
            .server
            .connect()
            .await?
            .send("GET", "/readyz", Bytes::new())
            .await?;
        times.push(begin.elapsed());
        memory = resident(process.pid());
    }
    let times = Figures::new(times, Duration::from_secs(1));
    row(
        "start with 100,000 objects to the first answer",
        "≤ 1 s",
        &format!("{:.0} ms, {memory:.0} MiB resident", times.at(0.5)),
        "",
    );
    Ok(())
}
