//! `make bench`: the program measured from outside, as its users see it.
//!
//! Prints a Markdown table: what, the aim, figure, and where there is a peer on this machine the ratio to
//! it, taken in turn in the same run. Everything happens in a private network namespace.
//! Absolute times depend on the machine; ratios and processor time per request less so.

mod core_data;
mod edge;
#[path = "../system/host.rs"]
#[expect(dead_code, reason = "the suite uses more of it")]
mod host;
mod ingress;
mod load;
mod memory;
mod pipelines;
mod polling;
mod queries;
mod readings;
mod services;
#[path = "../system/tools.rs"]
#[expect(dead_code, reason = "the suite uses more of it")]
mod tools;
#[path = "../system/wire.rs"]
mod wire;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use host::{Host, condition};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::PostParams, runtime::wait::await_condition};

fn main() -> anyhow::Result<()> {
    if std::env::args().any(|a| a == "--list") {
        return Ok(());
    }
    let isolated = tools::enter_private_network();
    if isolated {
        hide_unified_hierarchy()?;
    }
    let _ = tokio_rustls_provider();
    // `cargo bench -- WORD` measures only what the word is in.
    let word = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let is_asked = |what: &str| {
        word.as_ref()
            .is_none_or(|word| what.contains(word.as_str()))
    };
    println!("| what | aim | figure | against |\n|---|---|---|---|");
    if is_asked("start") {
        starting()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if is_asked("memory") {
        runtime.block_on(memory::memory())?;
    }
    if is_asked("thousand") {
        runtime.block_on(thousand())?;
    }
    if is_asked("edge") {
        runtime.block_on(edge::edge())?;
    }
    // Room for bursts of events: none is to go for its age.
    let host = Host::start_with(&["--readings-events=2000000"])?;
    host.push("bench/web:v1", &tools::guest("hello_web")?)?;
    let client = runtime.block_on(client(&host))?;
    if is_asked("pods") {
        runtime.block_on(async {
            pods(&host, &client, isolated).await?;
            hundred(&host, &client).await
        })?;
    }
    if is_asked("web") {
        load::web(&host)?;
    }
    if is_asked("ingress") {
        ingress::ingress(&host)?;
    }
    if is_asked("readings") {
        runtime.block_on(readings::readings(&host))?;
    }
    if is_asked("events") {
        core_data::core_data(&host)?;
    }
    if is_asked("queries") {
        queries::queries(&host)?;
    }
    if is_asked("polling") {
        runtime.block_on(polling::polling(&host))?;
    }
    if is_asked("pipelines") {
        runtime.block_on(pipelines::pipelines(&host))?;
    }
    // Last: so many Services are in the way of everything else.
    if is_asked("services") && isolated {
        runtime.block_on(services::services(&host, &client))?;
    }
    Ok(())
}

/// crun refuses a mixture of both generations of control groups: show only the first to everybody,
/// in a mount namespace of this process. What is mounted here goes with it.
fn hide_unified_hierarchy() -> anyhow::Result<()> {
    use nix::{
        mount::{MsFlags, mount, umount},
        sched::{CloneFlags, unshare},
    };
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let unified = "/sys/fs/cgroup/unified";
    if std::path::Path::new(unified).exists() {
        umount(unified)?;
    }
    Ok(())
}

/// kube's TLS needs to be told which provider to use, once.
fn tokio_rustls_provider() -> Result<(), ()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| ())
}

pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// `aim` is what is to be reached; empty if nothing was set.
fn row(what: &str, aim: &str, figure: &str, against: &str) {
    println!("| {what} | {aim} | {figure} | {against} |");
}

/// Start to API ready, and to the first Wasm pod Ready, on a directory that has been used before.
fn starting() -> anyhow::Result<()> {
    let (mut api, mut pod) = (Vec::new(), Vec::new());
    let mut host = Host::start()?;
    host.push("bench/web:v1", &tools::guest("hello_web")?)?;
    host.k(&["run", "first", "--image=bench/web:v1", "--port=8080"])?;
    host.wait_ready_pod("first")?;
    for _ in 0..5 {
        host.terminate()?;
        let begin = Instant::now();
        host.spawn_again()?;
        let url = format!("https://127.0.0.1:{}/readyz", host.ports.api);
        tools::eventually("ready", Duration::from_secs(20), || {
            let output = tools::run(Command::new("curl").args(["-sk", "-m", "1", &url]))?;
            Ok((output.stdout == b"ok").then_some(()))
        })?;
        api.push(begin.elapsed().as_secs_f64() * 1e3);
        tools::eventually("the first pod answers", Duration::from_secs(20), || {
            let object = host.get("pod first")?;
            let ip = object["status"]["podIP"].as_str().context("no address")?;
            ensure!(condition(&object, "Ready"));
            Ok(std::net::TcpStream::connect((ip, 8080)).ok())
        })?;
        pod.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    row(
        "start of `eyot up` to API ready (polled every 30 ms)",
        "≤ 200 ms",
        &format!("{:.0} ms", median(&mut api)),
        "k3s-like API server on SQLite: 2.3 s",
    );
    row(
        "start of `eyot up` to first Wasm pod answering",
        "",
        &format!("{:.0} ms", median(&mut pod)),
        "",
    );
    Ok(())
}

async fn client(host: &Host) -> anyhow::Result<Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(host.dir.join("kubeconfig"))?;
    let options = kube::config::KubeConfigOptions::default();
    Ok(Client::try_from(
        kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?,
    )?)
}

fn pod_object(name: &str, image: &str, command: &[&str]) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(serde_json::json!({
        "metadata": {"name": name, "labels": {"bench": "yes"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": image, "command": command,
                "ports": [{"containerPort": 8080}],
            }],
        },
    }))?)
}

fn is_ready(pod: Option<&Pod>) -> bool {
    let conditions = pod
        .and_then(|p| p.status.as_ref())
        .and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// POST to Ready in milliseconds, seen by a client's watch.
async fn life(pods: &Api<Pod>, pod: &Pod) -> anyhow::Result<f64> {
    let name = pod.metadata.name.as_deref().context("no name")?;
    // The watch is open before the POST, so its own start is not measured.
    let ready = tokio::spawn({
        let (pods, name) = (pods.clone(), name.to_owned());
        async move {
            await_condition(pods, &name, is_ready)
                .await
                .map(|_| Instant::now())
        }
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    let begin = Instant::now();
    pods.create(&PostParams::default(), pod).await?;
    let end = tokio::time::timeout(Duration::from_secs(30), ready).await???;
    let elapsed = end.duration_since(begin).as_secs_f64() * 1e3;
    pods.delete(name, &kube::api::DeleteParams::default().grace_period(0))
        .await?;
    let gone = await_condition(pods.clone(), name, |pod: Option<&Pod>| pod.is_none());
    tokio::time::timeout(Duration::from_secs(30), gone).await??;
    Ok(elapsed)
}

async fn pods(host: &Host, client: &Client, isolated: bool) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let mut times = Vec::new();
    for number in 0..30 {
        times.push(
            life(
                &api,
                &pod_object(&format!("w{number}"), "bench/web:v1", &[])?,
            )
            .await?,
        );
    }
    row(
        "POST of a Wasm pod to Ready, p50",
        "",
        &format!("{:.1} ms", median(&mut times)),
        "kubelet + containerd: 100 ms",
    );
    if !isolated || tools::find("busybox").is_none() {
        row(
            "POST of a container pod to Ready",
            "",
            "skipped",
            "needs root and busybox-static",
        );
        return Ok(());
    }
    let layout = host.dir.join("layout");
    tools::succeed(
        Command::new(tools::repository().join("scripts/container-image.sh")).arg(&layout),
    )?;
    host.push("bench/busybox:v1", &layout)?;
    let (mut ours, mut crun) = (Vec::new(), Vec::new());
    let bundle = crun_bundle(host, &layout)?;
    for number in 0..20 {
        let pod = pod_object(
            &format!("c{number}"),
            "bench/busybox:v1",
            &["/bin/sleep", "600"],
        )?;
        ours.push(life(&api, &pod).await?);
        if let Some(bundle) = &bundle {
            crun.push(crun_run(bundle, number)?);
        }
    }
    let (ours, crun) = (median(&mut ours), median(&mut crun));
    let against = if bundle.is_some() {
        format!(
            "`crun run` of /bin/true with the same root: {crun:.1} ms, ratio {:.2}",
            ours / crun
        )
    } else {
        "crun is missing".to_owned()
    };
    row(
        "POST of a container pod to Ready, p50",
        "",
        &format!("{ours:.1} ms"),
        &against,
    );
    Ok(())
}

/// The image's root unpacked beside a default configuration, as `crun run` wants it.
fn crun_bundle(
    host: &Host,
    layout: &std::path::Path,
) -> anyhow::Result<Option<std::path::PathBuf>> {
    if tools::find("crun").is_none() {
        return Ok(None);
    }
    let bundle = host.dir.join("bundle");
    let rootfs = bundle.join("rootfs");
    std::fs::create_dir_all(&rootfs)?;
    let manifest: serde_json::Value = {
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(layout.join("index.json"))?)?;
        serde_json::from_slice(&std::fs::read(blob(
            layout,
            &index["manifests"][0]["digest"],
        )?)?)?
    };
    let layer = blob(layout, &manifest["layers"][0]["digest"])?;
    tools::succeed(
        Command::new("tar")
            .arg("-xzf")
            .arg(layer)
            .arg("-C")
            .arg(&rootfs),
    )?;
    tools::succeed(Command::new("crun").arg("spec").current_dir(&bundle))?;
    let file = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/bin/true"]);
    std::fs::write(&file, serde_json::to_vec(&spec)?)?;
    Ok(Some(bundle))
}

fn blob(
    layout: &std::path::Path,
    digest: &serde_json::Value,
) -> anyhow::Result<std::path::PathBuf> {
    let digest = digest
        .as_str()
        .and_then(|d| d.strip_prefix("sha256:"))
        .context("digest")?;
    Ok(layout.join("blobs/sha256").join(digest))
}

fn crun_run(bundle: &std::path::Path, number: usize) -> anyhow::Result<f64> {
    let begin = Instant::now();
    tools::succeed(
        Command::new("crun")
            .args(["run", &format!("bench-{}-{number}", std::process::id())])
            .current_dir(bundle),
    )?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// A thousand Wasm web services on one node: how soon, and what each takes of memory once the host
/// has given back what only their start needed.
async fn thousand() -> anyhow::Result<()> {
    const PODS: usize = 1_000;
    /// The host looks every ten minutes what it can give back, and some seconds after a burst.
    const SETTLED: Duration = Duration::from_secs(20);
    let host = Host::start_with(&["--max-pods=1100", "--pod-cidr=10.244.0.0/20"])?;
    host.push("bench/web:v1", &tools::guest("hello_web")?)?;
    let client = client(&host).await?;
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    // What the first pod needs, the others share.
    one(&api, "first").await?;
    tokio::time::sleep(SETTLED).await;
    let before = host.resident()?;
    let begin = Instant::now();
    for number in 0..PODS {
        let pod = pod_object(&format!("t{number}"), "bench/web:v1", &[])?;
        api.create(&PostParams::default(), &pod).await?;
    }
    for number in 0..PODS {
        let name = format!("t{number}");
        let ready = await_condition(api.clone(), &name, is_ready);
        tokio::time::timeout(Duration::from_secs(300), ready).await??;
    }
    let took = begin.elapsed().as_secs_f64();
    row(
        &format!("{PODS} Wasm pods from first POST to last Ready"),
        "",
        &format!("{took:.1} s, {:.1} ms a pod", took * 1e3 / PODS as f64),
        "a kubelet takes 110",
    );
    tokio::time::sleep(SETTLED).await;
    let each = host.resident()?.saturating_sub(before) / PODS as u64;
    row(
        "resident memory of each",
        "≤ 100 KB",
        &format!("{:.0} KB", each as f64 / 1e3),
        "with its object, its status and its events in the store",
    );
    Ok(())
}

/// One Wasm web service, ready.
async fn one(api: &Api<Pod>, name: &str) -> anyhow::Result<()> {
    let pod = pod_object(name, "bench/web:v1", &[])?;
    api.create(&PostParams::default(), &pod).await?;
    let ready = await_condition(api.clone(), name, is_ready);
    tokio::time::timeout(Duration::from_secs(60), ready).await??;
    Ok(())
}

/// A hundred Wasm web services at once.
async fn hundred(host: &Host, client: &Client) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let begin = Instant::now();
    for number in 0..100 {
        api.create(
            &PostParams::default(),
            &pod_object(&format!("h{number}"), "bench/web:v1", &[])?,
        )
        .await?;
    }
    for number in 0..100 {
        let name = format!("h{number}");
        let ready = await_condition(api.clone(), &name, is_ready);
        tokio::time::timeout(Duration::from_secs(60), ready).await??;
    }
    row(
        "100 Wasm pods from first POST to last Ready",
        "",
        &format!("{:.2} s", begin.elapsed().as_secs_f64()),
        "50 on kubelet + containerd: 4.0 s",
    );
    row(
        "resident memory with 100 Wasm pods",
        "",
        &mib(host.resident()?),
        "",
    );
    host.k(&[
        "delete",
        "pods",
        "-l",
        "bench=yes",
        "--now",
        "--timeout=60s",
    ])?;
    Ok(())
}
