//! A machine that has joined and is cut off: it restarts what fails, shows its own API to kubectl, outlives
//! the death of its agent and a reboot; and when the link is back, the server learns what happened, and
//! nothing that did not change is restarted.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{
    Case, case,
    container::push_busybox,
    host::condition,
    site::{LIMIT, World, life},
    tools::{eventually, guest, kubectl, run, succeed},
};

pub const CASES: &[Case] = &[
    case!(
        a_node_lives_on_cut_off_and_nothing_is_restarted_when_it_is_back,
        [Kubectl, Root, Busybox, Guests]
    ),
    case!(
        a_node_that_lost_its_store_keeps_its_pods_and_is_told_again,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_node_whose_certificate_has_ended_works_on_until_it_has_another,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_node_that_was_deleted_joins_anew_with_a_token,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_full_disk_ends_no_pod_and_nothing_that_was_told_meanwhile_is_lost,
        [Kubectl, Root, Busybox]
    ),
];

const IMAGE: &str = "edge/lasting:v1";
/// What no file may show.
const SECRET: &str = "b1a5-of-the-gyre";
/// Ends with the code that it is told.
const FRAIL: &str = "rm -f /tmp/end; while [ ! -e /tmp/end ]; do sleep 0.2; done; exit 3";
const STEADY: &str = "while true; do sleep 1; done";

/// A pod on the edge that must go at once where nodes that are away lose theirs.
fn manifest(name: &str, container: &str) -> String {
    let away = ["not-ready", "unreachable"].map(|taint| {
        format!(
            "  - {{key: node.kubernetes.io/{taint}, operator: Exists, effect: NoExecute, tolerationSeconds: 1}}\n"
        )
    });
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
         nodeSelector: {{kubernetes.io/hostname: edge}}\n  terminationGracePeriodSeconds: 1\n  \
         tolerations:\n{}  containers:\n  - {{name: c, {container}}}\n",
        away.concat()
    )
}

fn shell(script: &str, more: &str) -> String {
    format!("image: '{IMAGE}', command: [/bin/sh, -c, '{script}']{more}")
}

/// kubectl on the edge, against the edge's own API.
struct Local<'a>(&'a World);

impl Local<'_> {
    fn kubectl(&self, arguments: &[&str]) -> Command {
        let edge = &self.0.edge;
        let program = kubectl().unwrap_or_else(|| "kubectl".into());
        let mut command = edge.site.inside("e", &program.to_string_lossy());
        command
            .arg("--kubeconfig")
            .arg(edge.dir.path().join("edge/api/kubeconfig"))
            .arg("--cache-dir")
            .arg(edge.dir.path().join("kubectl-cache"))
            .args(arguments);
        command
    }

    fn k(&self, arguments: &[&str]) -> anyhow::Result<String> {
        succeed(&mut self.kubectl(arguments))
    }

    fn get(&self, what: &str) -> anyhow::Result<Value> {
        let words = ["get", "-o", "json"].into_iter().chain(what.split(' '));
        let said = self.k(&words.collect::<Vec<_>>())?;
        Ok(serde_json::from_str(&said)?)
    }

    fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        let file = self.0.edge.dir.path().join("manifest.yaml");
        std::fs::write(&file, manifest)?;
        self.k(&["apply", "-f", &file.to_string_lossy()])
    }

    fn wait_pod(
        &self,
        name: &str,
        what: &str,
        good: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        eventually(&format!("pod {name} {what} at the edge"), LIMIT, || {
            // Its API may be starting.
            let found = self.get(&format!("pod {name}"));
            Ok(found.ok().filter(|pod| good(pod)))
        })
        .with_context(|| format!("{:?}", self.get(&format!("pod {name}"))))
    }
}

fn runs(pod: &Value) -> bool {
    condition(pod, "Ready")
}

fn restarts(pod: &Value) -> u64 {
    let count = &pod["status"]["containerStatuses"][0]["restartCount"];
    count.as_u64().unwrap_or_default()
}

fn uid(pod: &Value) -> &Value {
    &pod["metadata"]["uid"]
}

fn a_node_lives_on_cut_off_and_nothing_is_restarted_when_it_is_back() -> anyhow::Result<()> {
    let mut world = World::joined()?;
    let done = live_on(&mut world);
    world.with_logs(done)
}

fn live_on(world: &mut World) -> anyhow::Result<()> {
    let host = &world.host;
    push_busybox(host, IMAGE)?;
    host.push("edge/web:v1", &guest("hello_web")?)?;
    host.k(&["annotate", "node", "edge", "eyot.dev/cut-off=keep-pods"])?;
    host.k(&[
        "create",
        "secret",
        "generic",
        "song",
        &format!("--from-literal=name={SECRET}"),
    ])?;
    host.k(&["create", "configmap", "words", "--from-literal=word=first"])?;
    let env = ", env: [{name: SONG, valueFrom: {secretKeyRef: {name: song, key: name}}}], \
               envFrom: [{configMapRef: {name: words}}]";
    host.apply(&manifest("steady", &shell(STEADY, env)))?;
    host.apply(&manifest(
        "frail",
        &shell(FRAIL, ", imagePullPolicy: Always"),
    ))?;
    host.apply(&manifest(
        "web",
        "image: 'edge/web:v1', ports: [{containerPort: 8080}]",
    ))?;
    let names = ["steady", "frail", "web"];
    let mut before = Vec::new();
    for name in names {
        before.push(host.wait_pod(name, "runs", runs)?);
    }
    let local = Local(world);
    for (name, there) in names.iter().zip(&before) {
        let here = local.get(&format!("pod {name}"))?;
        ensure!(uid(&here) == uid(there), "another {name}: {here} {there}");
        ensure!(here["spec"] == there["spec"], "{here} {there}");
    }
    is_sealed(world)?;

    // Cut off for longer than pods of lost nodes are borne.
    world.edge.site.set_link("down")?;
    let local = Local(world);
    local.k(&["exec", "frail", "--", "sh", "-c", "touch /tmp/end"])?;
    local.wait_pod("frail", "was restarted", |pod| {
        restarts(pod) == 1 && runs(pod)
    })?;
    narrow(&local)?;
    world.wait_node("is taken for lost", |node| !condition(node, "Ready"))?;

    // The agent dies and comes back: containers go on, and what is told of them.
    let lives = |world: &World, names: &[&str]| -> anyhow::Result<Vec<_>> {
        let pod = |name: &&str| Local(world).wait_pod(name, "runs", runs);
        let pods = names.iter().map(pod).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(pods.iter().map(life).collect())
    };
    let containers = ["steady", "frail", "own"];
    let lived = lives(world, &containers)?;
    world.edge.kill()?;
    world.edge.start(&["--stop-pods"])?;
    Local(world).wait_pod("web", "was started again", |pod| {
        runs(pod) && life(pod).0 != life(&before[2]).0
    })?;
    ensure!(
        lives(world, &containers)? == lived,
        "something was restarted"
    );

    // A reboot: nothing runs, and everything starts from the file.
    world.edge.terminate()?;
    let begun = Instant::now();
    world.edge.start(&[])?;
    for name in ["steady", "frail", "web", "own"] {
        Local(world).wait_pod(name, "runs after the reboot", runs)?;
    }
    eprintln!(
        "rebooted while cut off: all runs after {:?}",
        begun.elapsed()
    );
    let here = lives(world, &["steady", "frail", "web", "own"])?;
    ensure!(here[0] != lived[0], "it was no reboot");

    // Back. The server learns all of it, and nothing is touched.
    let host = &world.host;
    for (name, pod) in names.iter().zip(&before) {
        let there = host.get(&format!("pod {name}"))?;
        ensure!(uid(&there) == uid(pod), "{name} was replaced: {there}");
        ensure!(there["metadata"]["deletionTimestamp"].is_null(), "{there}");
    }
    host.k(&[
        "patch",
        "configmap",
        "words",
        "-p",
        r#"{"data":{"word":"second"}}"#,
    ])?;
    world.edge.site.set_link("up")?;
    world.wait_node("is Ready again", |node| condition(node, "Ready"))?;
    for (at, name) in ["steady", "frail", "web", "own-edge"]
        .into_iter()
        .enumerate()
    {
        host.wait_pod(name, "is known as it is", |pod| {
            life(pod) == here[at] && runs(pod)
        })?;
    }
    for (name, pod) in names.iter().zip(&before) {
        ensure!(
            uid(&host.get(&format!("pod {name}"))?) == uid(pod),
            "{name} was replaced"
        );
    }
    ensure!(
        lives(world, &["steady", "frail", "web", "own"])? == here,
        "restarted by the return"
    );
    eventually("what changed there is known here", LIMIT, || {
        let map = Local(world).get("configmap words")?;
        Ok((map["data"]["word"] == "second").then_some(()))
    })?;
    eventually("the events of the time away are there", LIMIT, || {
        let events = host.k(&[
            "get",
            "events",
            "--field-selector=involvedObject.name=frail",
        ])?;
        Ok(events.contains("Started").then_some(()))
    })?;
    let said = host.k(&["exec", "steady", "--", "sh", "-c", "echo $SONG"])?;
    ensure!(said.trim() == SECRET, "{said}");
    // Made here, ended here.
    Local(world).k(&["delete", "pod", "own"])?;
    eventually("the server knows that it ended", LIMIT, || {
        let said = run(&mut host.kubectl(&["get", "pod", "own-edge"]))?;
        Ok((!said.status.success()).then_some(()))
    })
}

/// Of the files of the edge's API none shows a secret.
fn is_sealed(world: &World) -> anyhow::Result<()> {
    let here = Local(world).get("secret song")?;
    ensure!(here["data"]["name"].is_string(), "{here}");
    let mut read = 0;
    for entry in std::fs::read_dir(world.edge.dir.path().join("edge/api"))? {
        let path = entry?.path();
        if path.is_file() {
            let bytes = std::fs::read(&path)?;
            read += usize::from(bytes.windows(5).any(|part| part == b"words"));
            let encoded = here["data"]["name"].as_str().unwrap_or_default();
            for word in [SECRET, encoded] {
                let shows = bytes
                    .windows(word.len())
                    .any(|part| part == word.as_bytes());
                ensure!(!shows, "{} shows a secret", path.display());
            }
        }
    }
    ensure!(read > 0, "none of the files is the store");
    Ok(())
}

/// What kubectl may do at the edge.
fn narrow(local: &Local<'_>) -> anyhow::Result<()> {
    let table = local.k(&["get", "pods"])?;
    for name in ["steady", "frail", "web"] {
        ensure!(table.contains(name), "{table}");
    }
    for refused in [
        &["delete", "pod", "steady"][..],
        &["label", "pod", "steady", "a=b"],
        &["create", "deployment", "d", "--image=x"],
        &["delete", "configmap", "words"],
    ] {
        let said = run(&mut local.kubectl(refused))?;
        let words = String::from_utf8_lossy(&said.stderr);
        ensure!(
            !said.status.success() && words.contains("this is node edge"),
            "{refused:?}: {said:?}"
        );
    }
    local.apply(&manifest("own", &shell(STEADY, "")))?;
    local.wait_pod("own", "runs", runs)?;
    Ok(())
}

fn a_node_that_lost_its_store_keeps_its_pods_and_is_told_again() -> anyhow::Result<()> {
    let mut world = World::joined()?;
    let done = lose_store(&mut world);
    world.with_logs(done)
}

fn lose_store(world: &mut World) -> anyhow::Result<()> {
    push_busybox(&world.host, IMAGE)?;
    world.host.apply(&manifest("steady", &shell(STEADY, "")))?;
    let before = world.host.wait_pod("steady", "runs", runs)?;
    world.edge.kill()?;
    let api = world.edge.dir.path().join("edge/api");
    for name in ["eyot.db", "eyot.db-wal", "eyot.db-shm"] {
        let _ = std::fs::remove_file(api.join(name));
    }
    std::fs::write(api.join("eyot.db"), "no store at all ".repeat(1024))?;
    world.edge.start(&[])?;
    let local = Local(world);
    let here = local.wait_pod("steady", "is known again", runs)?;
    ensure!(uid(&here) == uid(&before), "{here}");
    ensure!(life(&here) == life(&before), "restarted: {here}");
    let aside = std::fs::read_to_string(api.join("damaged/eyot.db"))?;
    ensure!(
        aside.starts_with("no store at all"),
        "it was not kept aside"
    );
    let log = std::fs::read_to_string(world.edge.log_path())?;
    ensure!(log.contains("moved aside"), "nobody was told");
    // It acts on what it was told again.
    world
        .host
        .k(&["delete", "pod", "steady", "--timeout=60s"])?;
    Ok(())
}

fn a_node_whose_certificate_has_ended_works_on_until_it_has_another() -> anyhow::Result<()> {
    let mut world = World::joined()?;
    let done = end_certificate(&mut world);
    world.with_logs(done)
}

fn end_certificate(world: &mut World) -> anyhow::Result<()> {
    push_busybox(&world.host, IMAGE)?;
    world
        .host
        .k(&["annotate", "node", "edge", "eyot.dev/cut-off=keep-pods"])?;
    world.host.apply(&manifest("frail", &shell(FRAIL, "")))?;
    let before = world.host.wait_pod("frail", "runs", runs)?;
    world.edge.kill()?;
    let pair = world.edge.dir.path().join("edge/node.pem");
    std::fs::write(&pair, issued(world, (2020, 1, 1), (2020, 2, 1))?)?;

    // It starts, lives and says why it is alone.
    world.edge.start(&[])?;
    let local = Local(world);
    eventually("its pod can be entered", LIMIT, || {
        let words = ["exec", "frail", "--", "sh", "-c", "touch /tmp/end"];
        Ok(run(&mut local.kubectl(&words))?
            .status
            .success()
            .then_some(()))
    })?;
    local.wait_pod("frail", "was restarted", |pod| {
        restarts(pod) == 1 && runs(pod)
    })?;
    eventually("it says why", LIMIT, || {
        let log = std::fs::read_to_string(world.edge.log_path())?;
        Ok(log
            .contains("works on, cut off from its server")
            .then_some(()))
    })?;
    let here = life(&local.get("pod frail")?);

    // With a token it asks for another one, which somebody has to approve, since its Node is there.
    world.edge.kill()?;
    let token = world.token(&[])?;
    world.edge.start(&["--token", &token])?;
    let host = &world.host;
    let request = eventually("it asks for another one", LIMIT, || {
        let all = host.get("csr")?;
        let all = all["items"].as_array().cloned().unwrap_or_default();
        let pending = all.iter().find(|one| one["status"]["conditions"].is_null());
        Ok(pending.and_then(|one| one["metadata"]["name"].as_str().map(str::to_owned)))
    })?;
    ensure!(
        life(&Local(world).wait_pod("frail", "runs", runs)?) == here,
        "restarted"
    );
    host.k(&["certificate", "approve", &request])?;
    let there = host.wait_pod("frail", "is known as it is", |pod| life(pod) == here)?;
    ensure!(uid(&there) == uid(&before), "it was replaced: {there}");
    Ok(())
}

/// Certificate and key of the node, as the server would have given it for that time.
fn issued(world: &World, from: (i32, u8, u8), to: (i32, u8, u8)) -> anyhow::Result<String> {
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
    let read = |name: &str| std::fs::read_to_string(world.host.dir.join("pki").join(name));
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt")?, KeyPair::from_pem(&read("ca.key")?)?)?;
    let mut params = CertificateParams::default();
    for (kind, text) in [
        (DnType::OrganizationName, "system:nodes"),
        (DnType::CommonName, "system:node:edge"),
    ] {
        params.distinguished_name.push(kind, text);
    }
    params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
    params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.pem();
    Ok(format!("{certificate}{}", key.serialize_pem()))
}

fn a_node_that_was_deleted_joins_anew_with_a_token() -> anyhow::Result<()> {
    let mut world = World::joined()?;
    let done = join_anew(&mut world);
    world.with_logs(done)
}

fn join_anew(world: &mut World) -> anyhow::Result<()> {
    push_busybox(&world.host, IMAGE)?;
    world.host.apply(&manifest("steady", &shell(STEADY, "")))?;
    world.host.wait_pod("steady", "runs", runs)?;
    let before = world.host.get("node edge")?;
    // Its certificate would be young enough to make the Node again.
    world.edge.kill()?;
    world.host.k(&["delete", "node", "edge"])?;
    let pair = world.edge.dir.path().join("edge/node.pem");
    std::fs::write(&pair, issued(world, (2020, 1, 1), (2100, 1, 1))?)?;
    world.edge.start(&[])?;
    eventually("it says that it is not wanted", LIMIT, || {
        let log = std::fs::read_to_string(world.edge.log_path())?;
        Ok(log.contains("does not accept this node").then_some(()))
    })?;
    Local(world).wait_pod("steady", "runs on", runs)?;
    world.edge.kill()?;
    let token = world.token(&[])?;
    world.edge.start(&["--token", &token])?;
    let after = world.wait_node("is Ready anew", |node| {
        condition(node, "Ready") && uid(node) != uid(&before)
    })?;
    ensure!(after["spec"]["podCIDR"].is_string(), "{after}");
    world.host.apply(&manifest("next", &shell(STEADY, "")))?;
    let next = world.host.wait_pod("next", "runs", runs)?;
    let range = after["spec"]["podCIDR"].as_str().unwrap_or_default();
    let prefix = range.rsplit_once('.').context("a range")?.0;
    let ip = next["status"]["podIP"].as_str().unwrap_or_default();
    ensure!(ip.starts_with(prefix), "{ip} is not of {range}");
    Ok(())
}

/// A small disk, mounted for a case.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> anyhow::Result<Self> {
        let options = ["-t", "tmpfs", "-o", "size=64m", "none"];
        succeed(Command::new("mount").args(options).arg(at))?;
        Ok(Self(at.to_owned()))
    }

    fn fill(&self) -> anyhow::Result<()> {
        use std::io::{ErrorKind, Write};
        let mut file = std::fs::File::create(self.0.join("filler"))?;
        for size in [1 << 16, 1 << 12, 1] {
            let full = loop {
                if let Err(error) = file.write_all(&vec![7; size]) {
                    break error;
                }
            };
            ensure!(full.kind() == ErrorKind::StorageFull, "{full}");
        }
        Ok(())
    }

    fn clear(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever runs on it ends later.
        let _ = run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

fn a_full_disk_ends_no_pod_and_nothing_that_was_told_meanwhile_is_lost() -> anyhow::Result<()> {
    let mut world = World::apart()?;
    let disk = Disk::mount(world.edge.dir.path())?;
    let (token, address) = (world.token(&[])?, world.address());
    // What is free of so small a disk is not to evict anybody.
    world
        .edge
        .start(&[&address, "--token", &token, "--eviction-hard="])?;
    let done = fill_disk(&mut world, &disk);
    let done = world.with_logs(done);
    let _ = disk.clear();
    drop(world);
    done
}

fn fill_disk(world: &mut World, disk: &Disk) -> anyhow::Result<()> {
    world.wait_node("is Ready", |node| condition(node, "Ready"))?;
    push_busybox(&world.host, IMAGE)?;
    world.host.apply(&manifest("steady", &shell(STEADY, "")))?;
    let before = world.host.wait_pod("steady", "runs", runs)?;
    disk.fill()?;
    world
        .host
        .k(&["label", "pod", "steady", "told=meanwhile"])?;
    eventually("it says that the disk is full", LIMIT, || {
        let log = std::fs::read_to_string(world.edge.log_path())?;
        Ok(log.contains("free some disk space").then_some(()))
    })?;
    let exec = |world: &World| {
        eventually("the pod is entered", LIMIT, || {
            let words = ["exec", "steady", "--", "echo", "here"];
            let said = run(&mut world.host.kubectl(&words))?;
            Ok((said.stdout == b"here\n").then_some(()))
        })
    };
    exec(world)?;
    // It starts on a full disk, too.
    world.edge.kill()?;
    world.edge.start(&["--eviction-hard="])?;
    exec(world)?;
    disk.clear()?;
    let here = Local(world).wait_pod("steady", "is told", |pod| {
        pod["metadata"]["labels"]["told"] == "meanwhile" && runs(pod)
    })?;
    ensure!(life(&here) == life(&before), "restarted: {here}");
    world.host.apply(&manifest("next", &shell(STEADY, "")))?;
    world.host.wait_pod("next", "runs", runs)?;
    Ok(())
}
