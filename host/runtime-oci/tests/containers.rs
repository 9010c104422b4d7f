//! Real containers, through the public interface only. Needs root and a static busybox
//! (`/bin/busybox`); says so and passes without.
//!
//! No test harness, because this binary must be able to become the launcher, and, for one test, a
//! host that is killed, before a thread exists. Each test has its own directories and its own
//! control group, and uses no network.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use eyot_runtime::{
    Container, ContainerError, ContainerSpec, ExecSpec, Image, ImageConfig, ImageContent, Limits,
    LogSink, LogStream, Mount, PodRef, Processes, Runtime, Sandbox, Security, Signal, TerminalSize,
    image::Layer,
};
use eyot_runtime_oci::{Launcher, OciRuntime, Options, launcher};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const DEADLINE: Duration = Duration::from_secs(60);
const BUSYBOX: &str = "/bin/busybox";

fn main() -> ExitCode {
    launcher::main_if_launcher();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let [flag, directory] = arguments.as_slice()
        && flag == "--doomed-host"
    {
        runtime.block_on(doomed_host(Path::new(directory)));
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    if !nix::unistd::geteuid().is_root() || !Path::new(BUSYBOX).exists() {
        eprintln!("SKIPPED all tests of containers: they need root and {BUSYBOX}");
        return ExitCode::SUCCESS;
    }
    let only: Vec<&String> = arguments
        .iter()
        .filter(|name| !name.starts_with('-'))
        .collect();
    macro_rules! run {
        ($($test:ident),* $(,)?) => {
            $(
                let name = stringify!($test);
                if only.is_empty() || only.iter().any(|wanted| name.contains(wanted.as_str())) {
                    let started = Instant::now();
                    eprintln!("test {name} ...");
                    runtime.block_on(async {
                        let site = Site::new();
                        tokio::time::timeout(DEADLINE * 2, $test(&site)).await.expect(name);
                        site.leave_nothing().await;
                    });
                    eprintln!("test {name} ... ok ({:.2?})", started.elapsed());
                }
            )*
        };
    }
    run!(
        many_lives_in_parallel_each_with_their_own_output_and_code,
        the_program_sees_what_the_pod_asked_for,
        a_container_in_a_namespace_sees_no_other_network,
        containers_of_a_pod_share_memory_and_name,
        containers_of_a_pod_share_their_processes_if_asked_to,
        an_image_is_shown_and_nothing_of_it_can_be_changed_or_executed,
        a_container_gets_other_limits_while_it_runs,
        layers_are_stacked_and_whiteouts_hide,
        writes_stay_in_the_container_and_a_read_only_root_refuses_them,
        memory_over_the_limit_ends_with_oom_killed,
        a_fork_bomb_stops_at_its_limit,
        what_cannot_be_executed_is_named,
        signals_arrive,
        a_program_is_executed_in_a_container_and_as_confined,
        a_program_on_a_terminal_knows_its_size,
        input_reaches_a_container_that_asked_for_it,
        privileged_calls_are_refused,
        a_running_container_is_measured_and_removed,
        a_dead_launcher_is_started_again,
        the_next_host_goes_on_with_what_a_killed_one_left,
    );
    ExitCode::SUCCESS
}

/// One host's directories with two images.
struct Site {
    directory: tempfile::TempDir,
    options: Options,
    launcher: Launcher,
    runtime: OciRuntime,
    layers: Vec<Layer>,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = options_in(directory.path());
        let launcher = launcher::start(&options).unwrap();
        let layers = make_layers(directory.path());
        let runtime = OciRuntime::new(launcher.clone(), options.clone());
        Self {
            directory,
            options,
            launcher,
            runtime,
            layers,
        }
    }

    fn image(&self, config: ImageConfig) -> Image {
        Image {
            reference: "test/busybox:v1".into(),
            digest: "sha256:0".into(),
            content: Arc::new(ImageContent::Oci {
                layers: self.layers.clone(),
                config,
            }),
        }
    }

    /// A container that runs a shell script.
    fn script(&self, name: &str, script: &str) -> (ContainerSpec, Arc<Log>) {
        let log = Arc::new(Log::default());
        let spec = ContainerSpec {
            pod: PodRef {
                namespace: "default".into(),
                name: "pod".into(),
                uid: format!("uid-{}", std::process::id()),
            },
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            name: name.into(),
            attempt: 0,
            image: self.image(ImageConfig::default()),
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            args: vec![],
            env: vec![],
            working_dir: None,
            security: Security::default(),
            stdin: false,
            tty: false,
            stop_signal: None,
            mounts: vec![],
            limits: Limits::default(),
            sandbox: Sandbox {
                ip: None,
                netns: None,
                hostname: "pod".into(),
            },
            ports: vec![],
            log: Arc::clone(&log) as Arc<dyn LogSink>,
        };
        (spec, log)
    }

    /// Start, wait, remove: exit code, reason and standard output.
    async fn live(&self, spec: ContainerSpec, log: &Log) -> (i32, &'static str, String) {
        let container = self.runtime.start(spec).await.unwrap();
        let exit = container.wait().await;
        container.remove().await.unwrap();
        container.remove().await.unwrap();
        (exit.code, exit.reason, log.text(LogStream::Stdout))
    }

    /// No mount, no state, no container directory, no control group, no launcher.
    async fn leave_nothing(self) {
        for uid in entries(&self.options.state_dir.join("pods")) {
            let pod = PodRef {
                namespace: "default".into(),
                name: "pod".into(),
                uid: uid.file_name().unwrap().to_string_lossy().into_owned(),
            };
            self.runtime.release(&pod).await.unwrap();
        }
        let containers = self.directory.path().join("data/containers");
        assert_eq!(entries(&containers), Vec::<PathBuf>::new());
        for directory in ["bundles", "states", "tty", "pods"] {
            assert_eq!(
                entries(&self.options.state_dir.join(directory)),
                Vec::<PathBuf>::new()
            );
        }
        for pod in
            entries(&Path::new("/sys/fs/cgroup/memory").join(&self.options.cgroup_parent[1..]))
        {
            assert!(!pod.is_dir(), "{} is left", pod.display());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let data = self.directory.path().to_str().unwrap();
        assert!(!mounts.contains(data), "mounts are left below {data}");
        drop((self.runtime, self.launcher));
        let launchers = self.options.state_dir.join("launchers");
        eventually(|| entries(&launchers).is_empty()).await;
        let _ = nix::mount::umount(&self.options.state_dir);
        if let Some(instance) = self.options.state_dir.parent() {
            let _ = fs::remove_dir_all(instance);
        }
        for mount in entries(Path::new("/sys/fs/cgroup")) {
            let _ = fs::remove_dir(mount.join(&self.options.cgroup_parent[1..]));
        }
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    }
}

#[derive(Default)]
struct Log {
    chunks: Mutex<Vec<(LogStream, Vec<u8>)>>,
}

impl Log {
    fn text(&self, wanted: LogStream) -> String {
        let chunks = self.chunks.lock().unwrap();
        let bytes: Vec<u8> = chunks
            .iter()
            .filter(|(stream, _)| *stream == wanted)
            .flat_map(|(_, data)| data.clone())
            .collect();
        String::from_utf8(bytes).unwrap()
    }

    async fn until_contains(&self, text: &str) {
        eventually(|| self.text(LogStream::Stdout).contains(text)).await;
    }
}

impl LogSink for Log {
    fn write(&self, stream: LogStream, data: &[u8]) {
        self.chunks.lock().unwrap().push((stream, data.to_vec()));
    }
}

async fn eventually(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "the condition does not become true"
        );
        tokio::task::yield_now().await;
    }
}

/// Two layers: busybox with accounts, and one that changes it.
fn make_layers(directory: &Path) -> Vec<Layer> {
    let file = |archive: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        archive.append_data(&mut header, name, data).unwrap();
    };
    let directory_entry = |archive: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        archive
            .append_data(&mut header, name, std::io::empty())
            .unwrap();
    };
    let mut base = tar::Builder::new(Vec::new());
    for (name, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("tmp", 0o1777),
        ("old", 0o755),
    ] {
        directory_entry(&mut base, name, mode);
    }
    file(&mut base, "bin/busybox", 0o755, &fs::read(BUSYBOX).unwrap());
    for applet in [
        "sh", "cat", "echo", "id", "ls", "mount", "pwd", "sleep", "tail", "true", "unshare",
        "touch", "hostname", "readlink", "env", "grep", "head", "yes", "mkdir", "dd",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        base.append_link(&mut header, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    file(
        &mut base,
        "etc/passwd",
        0o644,
        b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n",
    );
    file(
        &mut base,
        "etc/group",
        0o644,
        b"root:x:0:\napp:x:1001:\nplc:x:30:app\n",
    );
    file(&mut base, "etc/plain", 0o644, b"not a program");
    file(
        &mut base,
        "bin/garbage",
        0o755,
        b"\x00\x01\x02 not a program",
    );
    file(&mut base, "old/a", 0o644, b"lower");
    file(&mut base, "old/b", 0o644, b"lower");
    let mut upper = tar::Builder::new(Vec::new());
    directory_entry(&mut upper, "old", 0o755);
    file(&mut upper, "old/.wh.a", 0o644, b"");
    file(&mut upper, "old/b", 0o644, b"upper");
    [base, upper]
        .into_iter()
        .enumerate()
        .map(|(index, archive)| {
            let tar = archive.into_inner().unwrap();
            let path = directory.join(format!("layer-{index}"));
            fs::write(&path, &tar).unwrap();
            let digest = format!("sha256:{}", hex::encode(Sha256::digest(&tar)));
            Layer {
                path,
                digest: digest.clone(),
                media_type: "application/vnd.oci.image.layer.v1.tar".into(),
                diff_id: digest,
            }
        })
        .collect()
}

async fn many_lives_in_parallel_each_with_their_own_output_and_code(site: &Site) {
    let stop = Arc::new(AtomicBool::new(false));
    let noise: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut size = 1_usize;
                while !stop.load(Ordering::Relaxed) {
                    size = size.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    std::hint::black_box(vec![0_u8; size % 60_000]);
                }
            })
        })
        .collect();
    let here = std::env::current_dir().unwrap();
    let lives = futures_of(40, 4, |index| async move {
        let code = index % 200;
        let script = format!("echo out-{index}; echo err-{index} >&2; exit {code}");
        let (spec, log) = site.script(&format!("life-{index}"), &script);
        let (ended, _, output) = site.live(spec, &log).await;
        assert_eq!(ended, i32::try_from(code).unwrap());
        assert_eq!(output, format!("out-{index}\n"));
        assert_eq!(log.text(LogStream::Stderr), format!("err-{index}\n"));
    });
    lives.await;
    stop.store(true, Ordering::Relaxed);
    for thread in noise {
        thread.join().unwrap();
    }
    assert_eq!(std::env::current_dir().unwrap(), here);
}

/// Run `count` pieces of work, `parallel` at a time.
async fn futures_of<F: Future<Output = ()>>(
    count: usize,
    parallel: usize,
    work: impl Fn(usize) -> F,
) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let worker = || async {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            work(index).await;
        }
    };
    assert_eq!(parallel, 4);
    tokio::join!(worker(), worker(), worker(), worker());
}

async fn the_program_sees_what_the_pod_asked_for(site: &Site) {
    let shared = site.directory.path().join("volume");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("hello"), "from the host").unwrap();
    let script = r#"
        echo "host=$(hostname) var=$HOSTNAME image=$FROM_IMAGE mine=$MINE"
        echo "path=$PATH"
        echo "id=$(id -u):$(id -g) groups=$(id -G)"
        echo "cwd=$(pwd) file=$(cat /data/hello)"
        echo "ignored=$(grep SigIgn /proc/self/status)"
        echo "first=$(grep NSpid /proc/1/status | tail -c 2)"
        echo "pids=$(ls /proc | grep -c '^[0-9]')"
        echo "hosts=$(grep -c localhost /etc/hosts)"
        echo x 2>/dev/null > /data/new && echo WROTE
        mount | grep -q ' / ' && echo ROOT
        exit 3
    "#;
    let (mut spec, log) = site.script("view", script);
    spec.image = site.image(ImageConfig {
        env: vec![
            ("FROM_IMAGE".into(), "i".into()),
            ("MINE".into(), "no".into()),
        ],
        user: Some("app".into()),
        working_dir: Some("/made/for/it".into()),
        ..ImageConfig::default()
    });
    spec.env = vec![("MINE".into(), "m".into())];
    spec.mounts = vec![Mount {
        source: shared.clone(),
        target: "/data".into(),
        read_only: true,
        ..Mount::default()
    }];
    let (code, reason, output) = site.live(spec, &log).await;
    assert_eq!(
        (code, reason),
        (3, "Error"),
        "{output}{}",
        log.text(LogStream::Stderr)
    );
    for expected in [
        "host=pod var=pod image=i mine=m\n",
        "path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
        "id=1000:1001 groups=1001 30\n",
        "cwd=/made/for/it file=from the host\n",
        "first=1\n",
        "hosts=2\n",
        "ROOT\n",
    ] {
        assert!(output.contains(expected), "no {expected:?} in\n{output}");
    }
    let ignored = output
        .split("SigIgn:")
        .nth(1)
        .and_then(|rest| rest.lines().next())
        .unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    // The two signals beyond are the C library's own.
    assert_eq!(
        ignored & 0x7fff_ffff,
        0,
        "the program ignores signals: {ignored:x}"
    );
    assert!(!output.contains("WROTE"), "a read-only mount was written");
    assert!(!shared.join("new").exists());
}

async fn a_container_in_a_namespace_sees_no_other_network(site: &Site) {
    let (ready, path) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let holder = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let pid = std::process::id();
        ready
            .send(format!("/proc/{pid}/task/{}/ns/net", nix::unistd::gettid()))
            .unwrap();
        let _ = released.recv();
    });
    let (mut spec, log) = site.script("netns", "ls /sys/class/net");
    spec.sandbox.netns = Some(path.recv().unwrap().into());
    spec.sandbox.ip = Some("10.1.2.3".parse().unwrap());
    assert_eq!(site.live(spec, &log).await, (0, "Completed", "lo\n".into()));
    drop(release);
    holder.join().unwrap();
}

async fn containers_of_a_pod_share_memory_and_name(site: &Site) {
    let look = "ls -i /dev/shm; readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts; hostname";
    let (spec, first_log) =
        site.script("first", &format!("echo x > /dev/shm/y; {look}; sleep 1000"));
    let first = site.runtime.start(spec).await.unwrap();
    first_log.until_contains("pod\n").await;
    let seen = first_log.text(LogStream::Stdout);
    let (spec, log) = site.script("second", look);
    assert_eq!(site.live(spec, &log).await.2, seen);
    assert!(seen.contains(" y\nipc:["), "{seen}");
    // Another pod has its own.
    let (mut spec, log) = site.script("other", look);
    spec.pod.uid.push('x');
    let other = site.live(spec, &log).await.2;
    assert!(other.starts_with("ipc:["), "{other}");
    assert!(
        seen.lines()
            .all(|line| line == "pod" || !other.contains(line))
    );
    first.remove().await.unwrap();
}

async fn layers_are_stacked_and_whiteouts_hide(site: &Site) {
    let (spec, log) = site.script("layers", "ls /old; cat /old/b");
    assert_eq!(site.live(spec, &log).await.2, "b\nupper");
}

async fn writes_stay_in_the_container_and_a_read_only_root_refuses_them(site: &Site) {
    let script = "touch /old/new && ls /old; echo x > /dev/shm/y && cat /dev/shm/y";
    for _ in 0..2 {
        let (spec, log) = site.script("writer", script);
        assert_eq!(site.live(spec, &log).await.2, "b\nnew\nx\n");
    }
    let (mut spec, log) = site.script("reader", script);
    spec.security.read_only_root = true;
    assert_eq!(site.live(spec, &log).await.2, "x\n");
    let error = log.text(LogStream::Stderr);
    assert!(error.contains("Read-only file system"), "{error}");
}

async fn memory_over_the_limit_ends_with_oom_killed(site: &Site) {
    let (mut spec, log) = site.script("hungry", "exec tail /dev/zero");
    spec.limits.memory = Some(32 << 20);
    assert_eq!(
        site.live(spec, &log).await,
        (137, "OOMKilled", String::new())
    );
}

async fn a_fork_bomb_stops_at_its_limit(site: &Site) {
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo all";
    let (mut spec, log) = site.script("forks", script);
    spec.limits.pids = Some(5);
    let (code, _, output) = site.live(spec, &log).await;
    let error = log.text(LogStream::Stderr);
    assert!(error.contains("can't fork"), "{error}");
    assert_ne!((code, output.as_str()), (0, "all\n"));
}

async fn what_cannot_be_executed_is_named(site: &Site) {
    let start = |name: &str, command: &str| {
        let (mut spec, log) = site.script(name, "");
        spec.command = vec![command.into()];
        async move { (site.runtime.start(spec).await, log) }
    };
    for (name, command, expected) in [
        (
            "missing",
            "nothere",
            "container missing command: \"nothere\": executable file not found in $PATH \
             (/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)",
        ),
        (
            "absolute",
            "/no/such",
            "container absolute command: \"/no/such\": no such file",
        ),
        (
            "plain",
            "/etc/plain",
            "container plain command: \"/etc/plain\": permission denied: the file is not \
             executable for the container's user",
        ),
        (
            "folder",
            "/bin",
            "container folder command: \"/bin\": is a directory",
        ),
    ] {
        let error = start(name, command).await.0.err().unwrap();
        assert!(matches!(error, ContainerError::Program(_)), "{error}");
        assert_eq!(error.to_string(), expected);
    }
    let (container, log) = start("garbage", "/bin/garbage").await;
    let container = container.unwrap();
    assert_eq!(container.wait().await.code, 126);
    container.remove().await.unwrap();
    let error = log.text(LogStream::Stderr);
    assert!(
        error.contains("cannot execute /bin/garbage: it is neither a program"),
        "{error}"
    );

    let (mut spec, _) = site.script("user", "");
    spec.image = site.image(ImageConfig {
        user: Some("nobody".into()),
        ..ImageConfig::default()
    });
    let error = site.runtime.start(spec).await.err().unwrap();
    assert!(matches!(error, ContainerError::Image { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("user \"nobody\" is not in the image's /etc/passwd")
    );
}

async fn containers_of_a_pod_share_their_processes_if_asked_to(site: &Site) {
    let crowded = |name: &str, script: &str| {
        let (mut spec, log) = site.script(name, script);
        spec.security.processes = Processes::Pod;
        (spec, log)
    };
    // A child that the end of its container must not leave behind.
    let (spec, _) = crowded("first", "sleep 7771 & exec sleep 7772");
    let first = site.runtime.start(spec).await.unwrap();
    let look = "b=/bin/busybox; while ! $b ps | $b grep -q 'sleep 777[1]'; do sleep 0.05; done; \
                $b ps -o pid,args; \
                ls /proc/1/root/ /proc/1/fd/ 2>&1; cat /proc/1/cmdline; echo; echo all; \
                while $b ps | $b grep -q 'sleep 777[1]'; do sleep 0.05; done; echo alone";
    let (spec, log) = crowded("second", look);
    let second = site.runtime.start(spec).await.unwrap();
    log.until_contains("all\n").await;
    let seen = log.text(LogStream::Stdout);
    assert!(seen.contains("sleep 7772"), "{seen}");
    let one = seen
        .lines()
        .find(|line| line.trim_start().starts_with("1 "));
    assert!(one.is_some_and(|line| line.contains("pause")), "{seen}");
    assert!(
        !seen.contains("launcher") && !seen.contains("\netc"),
        "{seen}"
    );
    first.signal(Signal::Terminate).await.unwrap();
    assert_eq!(first.wait().await.code, 143);
    assert_eq!(second.wait().await.code, 0, "the others go on");
    assert!(log.text(LogStream::Stdout).ends_with("alone\n"));
    // Whatever number its process gets among the pod's, another one starts.
    for attempt in 1..20 {
        let (mut spec, _) = crowded("first", "for i in 1 2 3 4 5; do /bin/true; done");
        spec.attempt = attempt;
        let again = site.runtime.start(spec).await.unwrap();
        assert_eq!(again.wait().await.code, 0);
        again.remove().await.unwrap();
    }
    for container in [first, second] {
        container.remove().await.unwrap();
    }
}

async fn an_image_is_shown_and_nothing_of_it_can_be_changed_or_executed(site: &Site) {
    let place = site.directory.path().join("shown");
    fs::create_dir(&place).unwrap();
    let image = site.image(ImageConfig::default());
    site.runtime.mount(&image, &place).await.unwrap();
    let busybox = place.join("bin/busybox");
    assert!(busybox.is_file());
    assert!(fs::write(place.join("new"), "").is_err());
    assert!(Command::new(&busybox).arg("true").status().is_err());
    nix::mount::umount(&place).unwrap();
}

async fn a_container_gets_other_limits_while_it_runs(site: &Site) {
    let (mut spec, _) = site.script("sized", "sleep 1000");
    let mut limits = Limits {
        memory: Some(64 << 20),
        cpu_millis: Some(200),
        ..Limits::default()
    };
    limits.pod.cpu_millis = Some(200);
    limits.pod.memory = Some(64 << 20);
    spec.limits = limits;
    let container = site.runtime.start(spec).await.unwrap();
    limits.cpu_millis = Some(400);
    limits.pod.cpu_millis = Some(400);
    limits.memory = Some(128 << 20);
    limits.pod.memory = Some(128 << 20);
    container.resize(&limits).await.unwrap();
    limits.cpu_millis = Some(100);
    limits.pod.cpu_millis = Some(100);
    container.resize(&limits).await.unwrap();
    let group = format!("/sys/fs/cgroup/cpu{}", site.options.cgroup_parent);
    let uid = format!("uid-{}", std::process::id());
    for group in [
        format!("{group}/{uid}"),
        format!("{group}/{uid}/{}", container.id()),
    ] {
        if let Ok(quota) = fs::read_to_string(format!("{group}/cpu.cfs_quota_us")) {
            assert_eq!(quota.trim(), "10000", "{group}");
        }
    }
    limits.memory = Some(4096);
    let error = container.resize(&limits).await.unwrap_err().to_string();
    assert!(error.contains("below current usage"), "{error}");
    container.remove().await.unwrap();
}

async fn signals_arrive(site: &Site) {
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while true; do sleep 0.05; done";
    let (spec, log) = site.script("polite", script);
    let container = site.runtime.start(spec).await.unwrap();
    log.until_contains("ready\n").await;
    container.signal(Signal::Terminate).await.unwrap();
    assert_eq!(container.wait().await.code, 7);
    assert_eq!(log.text(LogStream::Stdout), "ready\nbye\n");
    container.signal(Signal::Kill).await.unwrap();
    container.remove().await.unwrap();

    let (mut spec, log) = site.script("custom", &script.replace("TERM", "USR1"));
    let config = ImageConfig {
        stop_signal: Some("SIGUSR1".into()),
        ..ImageConfig::default()
    };
    spec.image = site.image(config);
    let container = site.runtime.start(spec).await.unwrap();
    log.until_contains("ready\n").await;
    container.signal(Signal::Terminate).await.unwrap();
    assert_eq!(container.wait().await.code, 7);
    container.remove().await.unwrap();

    let (spec, log) = site.script("stubborn", "trap '' TERM; echo ready; sleep 1000");
    let container = site.runtime.start(spec).await.unwrap();
    log.until_contains("ready\n").await;
    container.signal(Signal::Kill).await.unwrap();
    assert_eq!(container.wait().await.code, 137);
    container.remove().await.unwrap();
}

async fn privileged_calls_are_refused(site: &Site) {
    let script = "unshare -m true; mkdir /m; mount -t tmpfs x /m; \
                  dd if=/dev/zero of=/proc/sys/kernel/hostname count=0; \
                  cat /proc/kcore | head -c 1; cat /proc/keys; echo done";
    let (spec, log) = site.script("evil", script);
    assert_eq!(site.live(spec, &log).await.2, "done\n");
    let error = log.text(LogStream::Stderr);
    assert!(
        error.contains("unshare: ") && error.contains("Operation not permitted"),
        "{error}"
    );
    assert!(error.contains("mount: "), "{error}");
    assert!(error.contains("Read-only file system"), "{error}");
}

async fn a_running_container_is_measured_and_removed(site: &Site) {
    let (spec, log) = site.script("busy", "echo ready; while true; do true; done");
    let container = site.runtime.start(spec).await.unwrap();
    log.until_contains("ready\n").await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let usage = container.usage().await.unwrap();
        if usage.memory > 0 && usage.cpu > Duration::from_millis(20) {
            break;
        }
        assert!(Instant::now() < deadline, "{usage:?}");
        tokio::task::yield_now().await;
    }
    assert!(
        container
            .id()
            .starts_with(&format!("uid-{}-busy-0", std::process::id()))
    );
    container.remove().await.unwrap();
    assert_eq!(container.wait().await.code, 137);
    assert_eq!(container.usage().await, None);
}

async fn a_dead_launcher_is_started_again(site: &Site) {
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let (spec, log) = site.script("before", script);
    let before = site.runtime.start(spec).await.unwrap();
    log.until_contains("ready").await;
    let old = site.launcher.pid().unwrap();
    kill(old);
    // Until it has ended, a request may still be put into its socket, and is lost.
    let stat = format!("/proc/{old}/stat");
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
        tokio::task::yield_now().await;
    }
    let (spec, log) = site.script("after", "echo alive");
    let after = site.runtime.start(spec).await.unwrap();
    assert_ne!(site.launcher.pid().unwrap(), old);
    assert_eq!(after.wait().await.code, 0);
    assert_eq!(log.text(LogStream::Stdout), "alive\n");
    after.remove().await.unwrap();
    // Containers do not depend on the launcher that built them.
    assert!(before.usage().await.is_some());
    before.signal(Signal::Terminate).await.unwrap();
    assert_eq!(before.wait().await.code, 7);
    before.remove().await.unwrap();
}

/// Run a script in the container: what it wrote, and its exit code.
async fn run(container: &dyn Container, script: &str, stdin: Option<&[u8]>) -> (String, i32) {
    let mut process = container
        .exec(ExecSpec {
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            tty: false,
            stdin: stdin.is_some(),
        })
        .await
        .unwrap();
    let mut output = String::new();
    let feed = async {
        if let (Some(data), Some(mut to)) = (stdin, process.stdin.take()) {
            to.write_all(data).await.unwrap();
            to.shutdown().await.unwrap();
        }
    };
    let (_, read) = tokio::join!(feed, process.stdout.read_to_string(&mut output));
    read.unwrap();
    (output, process.control.wait().await.code)
}

async fn a_program_is_executed_in_a_container_and_as_confined(site: &Site) {
    let (spec, log) = site.script("host", "echo up; export X=1; exec sleep 1000");
    let container = site.runtime.start(spec).await.unwrap();
    log.until_contains("up").await;

    let (said, code) = run(&*container, "echo $$ $(hostname); exit 3", None).await;
    assert_eq!(code, 3);
    let (pid, name) = said.trim().split_once(' ').unwrap();
    assert_ne!(pid, "1", "it is not the container's own program");
    assert_eq!(name, "pod");

    let large = vec![b'x'; 3 << 20];
    let (said, code) = run(&*container, "cat", Some(&large)).await;
    assert_eq!((said.len(), code), (large.len(), 0));

    // Filtered like the container's own program, and without more privileges.
    let status = "while read k v; do case $k in Seccomp:|CapEff:) echo $k $v;; esac; done";
    let (own, _) = run(&*container, &format!("{status} </proc/1/status"), None).await;
    let (its, _) = run(&*container, &format!("{status} </proc/self/status"), None).await;
    assert!(own.contains("Seccomp: 2"), "{own}");
    assert_eq!(own, its);

    let missing = ExecSpec {
        command: vec!["/bin/nothing".into()],
        ..ExecSpec::default()
    };
    let error = container.exec(missing).await.err().unwrap();
    assert!(error.to_string().contains("/bin/nothing"), "{error}");

    // Ended from outside, and with the container.
    let forever = || ExecSpec {
        command: vec!["/bin/sleep".into(), "1000".into()],
        ..ExecSpec::default()
    };
    let killed = container.exec(forever()).await.unwrap();
    killed.control.kill().await;
    assert_eq!(killed.control.wait().await.code, 137);
    let orphan = container.exec(forever()).await.unwrap();
    container.remove().await.unwrap();
    assert_eq!(orphan.control.wait().await.code, 137);
    assert!(container.exec(forever()).await.is_err());
}

async fn a_program_on_a_terminal_knows_its_size(site: &Site) {
    let (spec, log) = site.script("host", "echo up; exec sleep 1000");
    let container = site.runtime.start(spec).await.unwrap();
    log.until_contains("up").await;
    let mut process = container
        .exec(ExecSpec {
            command: vec!["/bin/sh".into()],
            tty: true,
            stdin: true,
        })
        .await
        .unwrap();
    assert!(process.stderr.is_none());
    let size = TerminalSize {
        width: 123,
        height: 45,
    };
    process.control.resize(size).unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin
        .write_all(b"busybox stty size; tty; exit 7\n")
        .await
        .unwrap();
    let mut output = String::new();
    process.stdout.read_to_string(&mut output).await.unwrap();
    assert!(output.contains("45 123"), "{output}");
    assert_eq!(process.control.wait().await.code, 7);
    container.remove().await.unwrap();
}

async fn input_reaches_a_container_that_asked_for_it(site: &Site) {
    let (mut spec, log) = site.script("asking", "cat; echo end");
    spec.stdin = true;
    let container = site.runtime.start(spec).await.unwrap();
    let input = container.input().unwrap();
    input.write(b"typed\n").await.unwrap();
    log.until_contains("typed").await;
    input.close().await;
    assert_eq!(container.wait().await.code, 0);
    assert_eq!(log.text(LogStream::Stdout), "typed\nend\n");
    container.remove().await.unwrap();

    let (mut spec, log) = site.script("terminal", "read word; echo got $word; [ -t 1 ]");
    (spec.stdin, spec.tty) = (true, true);
    let container = site.runtime.start(spec).await.unwrap();
    container.input().unwrap().write(b"this\n").await.unwrap();
    assert_eq!(container.wait().await.code, 0);
    let said = log.text(LogStream::Stdout);
    assert!(said.contains("got this"), "{said}");
    container.remove().await.unwrap();

    let (spec, _) = site.script("deaf", "cat; echo end");
    let container = site.runtime.start(spec).await.unwrap();
    assert!(container.input().is_none());
    assert_eq!(container.wait().await.code, 0);
    container.remove().await.unwrap();
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// What the containers of `doomed_host` do, by name.
const KEPT: [(&str, &str); 4] = [
    (
        "counts",
        "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done",
    ),
    ("sleeps", "echo ready; exec sleep 12345"),
    (
        "ends",
        "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done",
    ),
    ("reads", "echo ready; cat; echo end"),
];

/// The host that `the_next_host_goes_on_with_what_a_killed_one_left` kills.
async fn doomed_host(directory: &Path) {
    let options = options_in(directory);
    let launcher = launcher::start(&options).unwrap();
    let site = Site {
        directory: tempfile::tempdir().unwrap(),
        runtime: OciRuntime::new(launcher.clone(), options.clone()),
        launcher,
        options,
        layers: make_layers(directory),
    };
    // Half an unpacked layer and half a container, too.
    fs::create_dir_all(directory.join("data/layers/abc.partial/x")).unwrap();
    fs::create_dir_all(site.options.state_dir.join("bundles/half")).unwrap();
    let mut running = Vec::new();
    for (name, script) in KEPT {
        let (mut spec, log) = site.script(name, script);
        // Of another process than this, which takes it on.
        spec.pod.uid = "uid-doomed".into();
        spec.stdin = name == "reads";
        running.push(site.runtime.start(spec).await.unwrap());
        log.until_contains(if name == "counts" { "line 3" } else { "ready" })
            .await;
    }
    println!("running");
    std::future::pending::<()>().await;
}

async fn the_next_host_goes_on_with_what_a_killed_one_left(site: &Site) {
    let mut host = Command::new("/proc/self/exe")
        .arg("--doomed-host")
        .arg(site.directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(host.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "running\n");
    kill(host.id());
    host.wait().unwrap();
    assert_eq!(sleepers(), 1, "the containers outlive their host");
    let bundle = |name: &str| {
        let id = format!("bundles/uid-doomed-{name}-0");
        site.options.state_dir.join(id)
    };
    // One ends while there is no host.
    let record = fs::read_to_string(bundle("ends").join("record.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(record["pid"].as_i64().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    eventually(|| bundle("ends").join("exit").exists()).await;

    // The launcher of this site is not the one that has these containers.
    let launcher = launcher::start(&site.options).unwrap();
    let runtime = OciRuntime::new(launcher, site.options.clone());
    let left = runtime.recover().await.unwrap();
    let mut names: Vec<&str> = left.iter().map(|left| left.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["counts", "ends", "reads", "sleeps"]);
    assert_eq!(sleepers(), 1);
    let layers = entries(&site.directory.path().join("data/layers"));
    assert_eq!(layers.len(), 2, "{layers:?}");
    let mut taken = BTreeMap::new();
    for left in &left {
        assert_eq!((left.pod.uid.as_str(), left.attempt), ("uid-doomed", 0));
        let log = Arc::new(Log::default());
        let sink = Arc::clone(&log) as Arc<dyn LogSink>;
        let container = runtime.adopt(left, sink).await.unwrap();
        taken.insert(left.name.as_str(), (container, log));
    }

    assert_eq!(taken["ends"].0.wait().await.code, 5);
    let (counts, log) = &taken["counts"];
    let before = log.text(LogStream::Stdout).len();
    eventually(|| log.text(LogStream::Stdout).len() > before + 100).await;
    let text = log.text(LogStream::Stdout);
    let numbers: Vec<u32> = text
        .lines()
        .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
        .collect();
    let gaps = numbers
        .windows(2)
        .filter(|pair| pair[1] != pair[0] + 1)
        .count();
    // The end of the text may be in the middle of a line.
    assert!(gaps <= 1 && numbers[0] < 100, "{text}");
    assert!(counts.usage().await.is_some());
    let said = run(&*taken["sleeps"].0, "echo inside; exit 3", None).await;
    assert_eq!(said, ("inside\n".to_owned(), 3));
    taken["sleeps"].0.signal(Signal::Kill).await.unwrap();
    assert_eq!(taken["sleeps"].0.wait().await.code, 137);
    let (reads, log) = &taken["reads"];
    let input = reads.input().unwrap();
    input.write(b"typed\n").await.unwrap();
    log.until_contains("typed").await;
    input.close().await;
    assert_eq!(reads.wait().await.code, 0);
    assert!(log.text(LogStream::Stdout).ends_with("end\n"));
    for (container, _) in taken.into_values() {
        container.remove().await.unwrap();
    }
    let mode = fs::metadata(&site.options.state_dir)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o077, 0, "the state directory is the host's alone");
}

/// Processes of `doomed_host`'s containers; the dead ones have no command line.
fn sleepers() -> usize {
    entries(Path::new("/proc"))
        .iter()
        .filter(|process| {
            fs::read(process.join("cmdline")).is_ok_and(|line| line == b"sleep\x0012345\x00")
        })
        .count()
}

fn options_in(directory: &Path) -> Options {
    let data = directory.join("data");
    Options::new(&data, &eyot_runtime::Instance::of(&data))
}
