//! `make bench`: how long a container's life takes, beside `crun run` and `runc run` of the same bundle,
//! in turn. `bench-runtime-oci [LIVES]`, as root; prints rows of a Markdown table.
//!
//! Ours: start (unpacked layer, overlay mount, configuration, create, start) to the exit of
//! `/bin/true` known, then removal. The others run a bundle with the same configuration on an overlay
//! that is already mounted, so what they do is less.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use eyot_runtime::{
    ContainerSpec, Image, ImageConfig, ImageContent, Limits, LogSink, LogStream, PodRef, Runtime,
    Sandbox, Security, image::Layer,
};
use eyot_runtime_oci::{OciRuntime, Options, launcher};
use sha2::{Digest, Sha256};

const PEERS: [&str; 2] = ["crun", "runc"];

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

struct NoLog;

impl LogSink for NoLog {
    fn write(&self, _: LogStream, _: &[u8]) {}
}

fn main() -> Outcome<()> {
    launcher::main_if_launcher();
    hide_unified_hierarchy()?;
    let lives: u32 = std::env::args()
        .nth(1)
        .map_or(Ok(50), |lives| lives.parse())?;
    tokio::runtime::Runtime::new()?.block_on(bench(lives))
}

/// crun refuses a mixture of both generations of control groups: show only the first to everybody,
/// in a mount namespace of this process. What is mounted here goes with it.
fn hide_unified_hierarchy() -> Outcome<()> {
    use nix::{
        mount::{MsFlags, mount, umount},
        sched::{CloneFlags, unshare},
    };
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let unified = "/sys/fs/cgroup/unified";
    if Path::new(unified).exists() {
        umount(unified)?;
    }
    Ok(())
}

async fn bench(lives: u32) -> Outcome<()> {
    let directory = tempfile::tempdir()?;
    let options = options_in(directory.path());
    let launcher = launcher::start(&options)?;
    let runtime = OciRuntime::new(launcher, options.clone());
    runtime.recover().await?;
    let image = image(directory.path())?;
    runtime.prepare(&image).await?;

    // A container that stays provides the others' bundle: its configuration and its mounted root.
    let host = runtime
        .start(spec(
            &image,
            "bundle",
            0,
            &["/bin/busybox", "sleep", "1000"],
        ))
        .await?;
    let bundle = directory.path().join("bundle");
    fs::create_dir_all(&bundle)?;
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(
        options
            .state_dir
            .join("bundles")
            .join(host.id())
            .join("config.json"),
    )?)?;
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    config["linux"]["cgroupsPath"] = format!("{}/peer", options.cgroup_parent).into();
    fs::write(bundle.join("config.json"), config.to_string())?;

    let (mut ours, mut until_exit) = (Vec::new(), Vec::new());
    let mut peers = PEERS.map(|program| (program, Vec::new()));
    for life in 0..lives {
        let start = Instant::now();
        let container = runtime
            .start(spec(&image, "life", life, &["/bin/true"]))
            .await?;
        let exit = container.wait().await;
        until_exit.push(start.elapsed());
        container.remove().await?;
        ours.push(start.elapsed());
        if exit.code != 0 {
            return Err(format!("exit code {}", exit.code).into());
        }
        for (program, times) in &mut peers {
            let start = Instant::now();
            let status = Command::new(*program)
                .arg("--root")
                .arg(options.state_dir.join(*program))
                .args(["run", "--bundle"])
                .arg(&bundle)
                .arg(format!("bench-{life}"))
                .status();
            match status {
                Ok(status) if status.success() => times.push(start.elapsed()),
                Ok(status) => return Err(format!("{program}: {status}").into()),
                Err(error) if life == 0 => eprintln!("{program} is left out: {error}"),
                Err(_) => {}
            }
        }
    }
    host.remove().await?;
    let (ours, until_exit) = (median(ours), median(until_exit));
    println!("| what | aim | measured | beside |");
    println!("|---|---|---|---|");
    println!("| container of /bin/true, start to exit known, p50 | | {until_exit:.1?} | |");
    for (program, times) in peers {
        if times.is_empty() {
            continue;
        }
        let theirs = median(times);
        println!(
            "| start to removed, p50 | ≤ 1.0 × | {ours:.1?} | `{program} run` of the same bundle: {theirs:.1?}, ratio {:.2} |",
            ours.as_secs_f64() / theirs.as_secs_f64()
        );
    }
    nix::mount::umount(&options.state_dir)?;
    fs::remove_dir(&options.state_dir)?;
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn spec(image: &Image, name: &str, attempt: u32, command: &[&str]) -> ContainerSpec {
    ContainerSpec {
        pod: PodRef {
            namespace: "default".into(),
            name: "bench".into(),
            uid: "bench".into(),
        },
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        name: name.into(),
        attempt,
        image: image.clone(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        args: vec![],
        env: vec![],
        working_dir: None,
        security: Security::default(),
        stdin: false,
        tty: false,
        stop_signal: None,
        mounts: vec![],
        limits: Limits {
            memory: Some(64 << 20),
            cpu_millis: None,
            cpu_request_millis: None,
            pids: Some(32),
            ..Limits::default()
        },
        sandbox: Sandbox {
            ip: None,
            netns: None,
            hostname: "bench".into(),
        },
        ports: vec![],
        log: Arc::new(NoLog),
    }
}

fn image(directory: &Path) -> Outcome<Image> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let busybox = fs::read("/bin/busybox")?;
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    archive.append_data(&mut header, "bin/busybox", busybox.as_slice())?;
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    archive.append_link(&mut header, "bin/true", "busybox")?;
    let tar = archive.into_inner()?;
    let path = directory.join("layer.tar");
    fs::write(&path, &tar)?;
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&tar)));
    let layer = Layer {
        path,
        digest: digest.clone(),
        media_type: "application/vnd.oci.image.layer.v1.tar".into(),
        diff_id: digest.clone(),
    };
    let content = ImageContent::Oci {
        layers: vec![layer],
        config: ImageConfig::default(),
    };
    Ok(Image {
        reference: "bench:v1".into(),
        digest,
        content: Arc::new(content),
    })
}

fn options_in(directory: &Path) -> Options {
    let data = directory.join("data");
    Options::new(&data, &eyot_runtime::Instance::of(&data))
}
