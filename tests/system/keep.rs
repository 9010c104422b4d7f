//! Containers outlive their host, and whatever is killed when, nothing is left.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{
    Case, case,
    census::{eventually_as_before, launchers, oldest, processes, settled},
    host::Host,
    tools::{eventually, guest},
    wasm::pod,
};

pub const CASES: &[Case] = &[
    case!(
        containers_outlive_a_host_that_is_killed_or_stopped,
        [Kubectl, Root, Busybox]
    ),
    case!(
        an_exit_code_is_not_lost_while_there_is_no_host,
        [Kubectl, Root, Busybox]
    ),
    case!(
        whatever_is_killed_when_all_converges_and_nothing_is_left,
        [Kubectl, Root, Busybox, Guests]
    ),
];

fn first(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// A pod that is restarted for ever.
fn lasting(name: &str, image: &str, command: &[&str]) -> String {
    pod(name, image, command, "").replace("Never", "Always")
}

fn containers_outlive_a_host_that_is_killed_or_stopped() -> anyhow::Result<()> {
    let mut host = Host::start()?;
    crate::container::push_busybox(&host, "keep/busy:v1")?;
    let script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done # 711713";
    host.apply(&lasting("kept", "keep/busy:v1", &["/bin/sh", "-c", script]))?;
    let before = host.wait_ready_pod("kept")?;
    // Between its fork and its exec a child of the shell looks the same.
    let shell = || anyhow::Ok(oldest(processes(&[script])?));
    let was = shell()?;
    ensure!(was.is_some(), "the shell is not there");
    for end in ["killed", "stopped", "killed"] {
        if end == "killed" {
            host.kill()?;
        } else {
            host.terminate()?;
        }
        ensure!(shell()? == was, "it did not outlive a host that was {end}");
        host.restart()?;
        host.wait_ready_pod("kept")?;
        // The object says Ready since before; the new host takes the container on a moment later.
        eventually("a program runs in it", Duration::from_secs(20), || {
            let said = host.k(&["exec", "kept", "--", "/bin/echo", "inside"])?;
            Ok((said == "inside\n").then_some(()))
        })?;
        let now = host.get("pod kept")?;
        for field in ["containerID", "restartCount", "state"] {
            let (is, was) = (&first(&now)[field], &first(&before)[field]);
            ensure!(is == was, "{field} is {is}, was {was}");
        }
        ensure!(now["status"]["podIP"] == before["status"]["podIP"], "{now}");
        ensure!(shell()? == was, "it was started anew");
    }
    // What it wrote while there was no host is in its log, too.
    let text = host.k(&["logs", "kept"])?;
    let numbers: Vec<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
        .collect();
    ensure!(numbers.first() == Some(&0) && numbers.len() > 50, "{text}");
    let gaps = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1);
    // One that is killed may have had some in its hands.
    ensure!(gaps.count() <= 2, "{text}");
    host.k(&["delete", "pod", "kept", "--timeout=30s", "--grace-period=1"])?;
    ensure!(shell()?.is_none(), "a process outlived its pod");
    Ok(())
}

fn an_exit_code_is_not_lost_while_there_is_no_host() -> anyhow::Result<()> {
    let mut host = Host::start()?;
    crate::container::push_busybox(&host, "keep/ends:v1")?;
    let script = "trap 'echo last words; exit 7' TERM; while :; do sleep 0.1; done # 711714";
    host.apply(&pod("ends", "keep/ends:v1", &["/bin/sh", "-c", script], ""))?;
    host.apply(&pod(
        "orphan",
        "keep/ends:v1",
        &["/bin/sleep", "711715"],
        "",
    ))?;
    host.wait_ready_pod("ends")?;
    host.wait_ready_pod("orphan")?;
    host.kill()?;
    for process in processes(&[script])? {
        signal(process, nix::sys::signal::SIGTERM);
    }
    eventually("it has ended", Duration::from_secs(20), || {
        Ok(processes(&[script])?.is_empty().then_some(()))
    })?;
    host.restart()?;
    let ended = |pod: &Value| !first(pod)["state"]["terminated"].is_null();
    let pod = host.wait_pod("ends", "has ended", ended)?;
    let state = &first(&pod)["state"]["terminated"];
    ensure!(
        state["exitCode"] == 7 && state["reason"] == "Error",
        "{state}"
    );
    ensure!(first(&pod)["restartCount"] == 0, "{pod}");
    ensure!(host.k(&["logs", "ends"])?.contains("last words"));
    ensure!(processes(&["/bin/sleep", "711715"])?.len() == 1);
    Ok(())
}

/// Pauses of a stress are its very content: they choose the instant.
#[expect(clippy::disallowed_methods, reason = "see above; a thread of its own")]
fn at_some_instant(random: &mut Random, within: Duration) {
    let share = random.below(1000) as u32;
    std::thread::sleep(within * share / 1000);
}

fn signal(process: u32, signal: nix::sys::signal::Signal) {
    if let Ok(pid) = i32::try_from(process) {
        // It may have ended by itself.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

/// A small generator that a seed repeats (SplitMix64).
pub struct Random(u64);

impl Random {
    /// From `EYOT_SEED`, or a new seed; it is printed, to be given again.
    pub fn seeded(what: &str) -> anyhow::Result<Self> {
        let seed = match std::env::var("EYOT_SEED") {
            Ok(seed) => seed.parse().context("EYOT_SEED")?,
            Err(_) => {
                let now = std::time::SystemTime::UNIX_EPOCH.elapsed()?;
                u64::from(now.subsec_nanos()) ^ now.as_secs()
            }
        };
        eprintln!("{what}: EYOT_SEED={seed}");
        Ok(Self(seed))
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Host,
    Launcher,
    Container,
    HostAndLauncher,
    HostAndContainer,
}

impl Victim {
    const ALL: [Self; 5] = [
        Self::Host,
        Self::Launcher,
        Self::Container,
        Self::HostAndLauncher,
        Self::HostAndContainer,
    ];

    fn kill(self, host: &mut Host, marker: &str) -> anyhow::Result<()> {
        if matches!(
            self,
            Self::Host | Self::HostAndLauncher | Self::HostAndContainer
        ) {
            host.kill()?;
        }
        if matches!(self, Self::Launcher | Self::HostAndLauncher) {
            for process in launchers(host) {
                signal(process, nix::sys::signal::SIGKILL);
            }
        }
        if matches!(self, Self::Container | Self::HostAndContainer) {
            for process in processes(&["/bin/sleep", marker])? {
                signal(process, nix::sys::signal::SIGKILL);
            }
        }
        if !host.is_running() {
            host.restart()?;
        }
        Ok(())
    }
}

/// Each round: a pod with two containers and one with a guest come, something is killed at some
/// instant; they must run. They go, and something is killed at some instant again.
fn whatever_is_killed_when_all_converges_and_nothing_is_left() -> anyhow::Result<()> {
    /// Rounds; `EYOT_KILL_ROUNDS` sets another number.
    const ROUNDS: u64 = 6;
    let rounds = match std::env::var("EYOT_KILL_ROUNDS") {
        Ok(rounds) => rounds.parse().context("EYOT_KILL_ROUNDS")?,
        Err(_) => ROUNDS,
    };
    let mut random = Random::seeded("kill matrix")?;
    let mut host = Host::start()?;
    crate::container::push_busybox(&host, "keep/busy:v1")?;
    host.push("keep/web:v1", &guest("hello_web")?)?;
    // What the first container makes for all is there before the count.
    host.apply(&pod("first", "keep/busy:v1", &["/bin/true"], ""))?;
    host.wait_pod("first", "has ended", |p| {
        p["status"]["phase"] == "Succeeded"
    })?;
    host.k(&["delete", "pod", "first", "--timeout=60s"])?;
    let before = settled(&host)?;
    for round in 0..rounds {
        let marker = format!("7{:08}", random.below(100_000_000));
        let victims = [0, 1].map(|_| Victim::ALL[random.below(5) as usize]);
        eprintln!("kill matrix: round {round}: {victims:?}");
        host.apply(&two_containers(&marker))?;
        host.apply(&lasting("guest", "keep/web:v1", &[]))?;
        at_some_instant(&mut random, Duration::from_millis(1500));
        victims[0].kill(&mut host, &marker)?;
        for name in ["killed", "guest"] {
            host.wait_ready_pod(name)
                .with_context(|| format!("after the kill of {:?} in round {round}", victims[0]))?;
        }
        let sleep = ["/bin/sleep", marker.as_str()];
        eventually("each container runs once", Duration::from_secs(30), || {
            Ok((processes(&sleep)?.len() == 2).then_some(()))
        })?;
        host.k(&[
            "delete",
            "pod",
            "killed",
            "guest",
            "--wait=false",
            "--grace-period=1",
        ])?;
        at_some_instant(&mut random, Duration::from_millis(1200));
        victims[1].kill(&mut host, &marker)?;
        eventually("the pods are gone", Duration::from_secs(60), || {
            let pods = host.get("pods")?;
            Ok(pods["items"]
                .as_array()
                .is_some_and(Vec::is_empty)
                .then_some(()))
        })
        .with_context(|| format!("after the kill of {:?} in round {round}", victims[1]))?;
        ensure!(processes(&sleep)?.is_empty(), "a process outlived its pod");
    }
    // A launcher that was killed is started again by the next container.
    host.apply(&pod("last", "keep/busy:v1", &["/bin/true"], ""))?;
    host.wait_pod("last", "has ended", |p| p["status"]["phase"] == "Succeeded")?;
    host.k(&["delete", "pod", "last", "--timeout=60s"])?;
    eventually_as_before(&host, &before)
}

fn two_containers(marker: &str) -> String {
    let container = |name: &str| {
        format!(
            "  - name: {name}\n    image: keep/busy:v1\n    command: [/bin/sleep, \"{marker}\"]\n    \
             volumeMounts: [{{name: shared, mountPath: /shared}}]\n"
        )
    };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: killed, labels: {{app: killed}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  volumes: [{{name: shared, emptyDir: {{}}}}]\n  \
         containers:\n{}{}",
        container("one"),
        container("two")
    )
}
