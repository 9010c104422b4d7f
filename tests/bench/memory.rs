//! What the host costs when nothing happens, with many pods, and after it was written to.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

use crate::{client, host::Host, mib, row};

/// After its start, and every ten minutes, the host gives back what it does not need any more.
const SETTLED: Duration = Duration::from_secs(8);
const IDLE: Duration = Duration::from_secs(60);
const PODS: usize = 10_000;
const WRITES: usize = 60_000;
const CLIENTS: usize = 16;

pub async fn memory() -> anyhow::Result<()> {
    let host = Host::start()?;
    tokio::time::sleep(SETTLED).await;
    idle(&host).await?;
    let client = client(&host).await?;
    write_load(&client).await?;
    row(
        &format!("resident memory after {WRITES} writes of 1 KB by {CLIENTS} clients"),
        "≤ 100 MiB",
        &mib(host.resident()?),
        "etcd, API server, controllers and scheduler: 610 MB",
    );
    drop(host);
    let host = Host::start()?;
    many_pods(&self::client(&host).await?).await?;
    tokio::time::sleep(SETTLED).await;
    row(
        &format!("resident memory with {PODS} pods, bound to a node that is not there"),
        "≤ 120 MiB",
        &mib(host.resident()?),
        "",
    );
    Ok(())
}

async fn idle(host: &Host) -> anyhow::Result<()> {
    row(
        "resident memory, idle",
        "≤ 40 MiB",
        &mib(host.resident()?),
        "etcd, API server, controllers and scheduler: 490 MB",
    );
    let (cpu, written) = (host.processor_time()?, host.written()?);
    tokio::time::sleep(IDLE).await;
    let cpu = host.processor_time()?.saturating_sub(cpu);
    let written = host.written()?.saturating_sub(written);
    row(
        "processor time, idle",
        "≤ 0.2% of a core",
        &format!(
            "{:.2}% of a core",
            100.0 * cpu.as_secs_f64() / IDLE.as_secs_f64()
        ),
        "0.9% of a core",
    );
    row(
        "written to disk per idle hour",
        "≤ 1 MiB",
        &mib(written * 3600 / IDLE.as_secs()),
        "",
    );
    Ok(())
}

/// Objects of a kilobyte, created and deleted again.
async fn write_load(client: &Client) -> anyhow::Result<()> {
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    stream::iter(0..WRITES / 2)
        .map(|number| {
            let api = api.clone();
            async move {
                let name = format!("load-{number}");
                let object = serde_json::from_value(json!({
                    "metadata": {"name": name}, "data": {"text": "x".repeat(1000)},
                }))?;
                api.create(&PostParams::default(), &object).await?;
                api.delete(&name, &DeleteParams::default()).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(CLIENTS)
        .try_for_each(|()| async { Ok(()) })
        .await
}

async fn many_pods(client: &Client) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    stream::iter(0..PODS)
        .map(|number| {
            let api = api.clone();
            async move {
                let pod = serde_json::from_value(json!({
                    "metadata": {
                        "name": format!("pod-{number:05}"),
                        "labels": {"app": format!("app-{}", number % 100), "pod-template-hash": "abcdef"},
                    },
                    "spec": {"nodeName": "elsewhere", "containers": [{
                        "name": "main",
                        "image": "registry.example/some/image:1.0",
                        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                        "env": [{"name": "A", "value": "b"}, {"name": "C", "value": "d"}],
                        "ports": [{"containerPort": 8080}],
                    }]},
                }))?;
                api.create(&PostParams::default(), &pod).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(CLIENTS)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    let listed = api.list(&ListParams::default().limit(1)).await?;
    anyhow::ensure!(!listed.items.is_empty(), "no pod was created");
    Ok(())
}
