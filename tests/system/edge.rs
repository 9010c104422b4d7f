//! A second machine, behind NAT: joining, what kubectl does with its pods, cuts and restarts, leaving.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use anyhow::{Context, ensure};

use crate::{
    Case, case,
    container::push_busybox,
    host::{condition, eyot},
    reach::Forward,
    site::{Between, LIMIT, WAITS, World, life},
    tools::{eventually, guest, run, succeed},
    wasm::pod,
};

pub const CASES: &[Case] = &[
    case!(
        a_machine_behind_nat_joins_and_its_pods_are_reached,
        [Kubectl, Root, Busybox, Guests]
    ),
    case!(
        pods_of_two_machines_reach_each_other_on_a_link_and_across_a_router,
        [Kubectl, Root, Busybox]
    ),
    case!(
        pods_go_on_through_cuts_and_kills_of_either_end,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_node_touches_only_what_is_its_own_and_leaves,
        [Kubectl, Root, Busybox]
    ),
    case!(who_shows_no_good_token_is_told_why, [Kubectl, Root]),
];

fn a_machine_behind_nat_joins_and_its_pods_are_reached() -> anyhow::Result<()> {
    let world = World::joined()?;
    let done = reach_all(&world);
    world.with_logs(done)
}

fn reach_all(world: &World) -> anyhow::Result<()> {
    let host = &world.host;
    let node = world.wait_node("has a range", |node| node["spec"]["podCIDR"].is_string())?;
    let own = host.get("node island")?;
    ensure!(
        node["spec"]["podCIDR"] != own["spec"]["podCIDR"],
        "{node} {own}"
    );
    push_busybox(host, "edge/box:v1")?;
    let there = world.run_there("box", "edge/box:v1", &WAITS)?;
    ensure!(there["spec"]["nodeName"] == "edge", "{there}");
    let range = node["spec"]["podCIDR"].as_str().unwrap_or_default();
    let prefix = range.rsplit_once('.').context("a range")?.0;
    let ip = there["status"]["podIP"].as_str().unwrap_or_default();
    ensure!(ip.starts_with(prefix), "{ip} is not of {range}");
    ensure!(there["status"]["hostIP"] == "192.168.77.2", "{there}");

    // Nothing listens there but the DNS of its pods and its own API, on the bridge and on loopback.
    let listening = succeed(world.edge.site.inside("e", "ss").args(["-Hltn"]))?;
    let own = [53, 6443].map(|port| format!("{prefix}.1:{port}"));
    let own = own.into_iter().chain(["127.0.0.1:6443".to_owned()]);
    let mut own: Vec<String> = own.collect();
    let mut found: Vec<String> = (listening.lines())
        .filter_map(|line| line.split_whitespace().nth(3).map(str::to_owned))
        .collect();
    own.sort();
    found.sort();
    ensure!(found == own, "something else listens: {listening}");

    let mut following = host
        .kubectl(&["logs", "-f", "box"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(following.stdout.take().context("stdout")?).lines();
    ensure!(lines.next().context("no line")?? == "begun");
    ensure!(lines.nth(2).context("no more lines")??.starts_with("line "));
    following.kill()?;
    following.wait()?;

    let said = host.k(&[
        "exec",
        "box",
        "--",
        "sh",
        "-c",
        "echo out; cat /etc/hostname",
    ])?;
    ensure!(said == "out\nbox\n", "{said:?}");
    let failed = run(&mut host.kubectl(&["exec", "box", "--", "sh", "-c", "exit 42"]))?;
    ensure!(failed.status.code() == Some(42), "{failed:?}");
    let (sent, back) = (host.dir.join("sent"), host.dir.join("back"));
    let text: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
    std::fs::write(&sent, &text)?;
    host.k(&["cp", &sent.to_string_lossy(), "box:/tmp/file"])?;
    host.k(&["cp", "box:/tmp/file", &back.to_string_lossy()])?;
    ensure!(std::fs::read_to_string(&back)? == text, "the copy differs");

    host.push("edge/web:v1", &guest("hello_web")?)?;
    let web = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  \
               nodeSelector: {kubernetes.io/hostname: edge}\n  containers:\n  - name: web\n    \
               image: edge/web:v1\n    ports: [{containerPort: 8080}]\n";
    host.apply(web)?;
    host.wait_ready_pod("web")
        .with_context(|| world.edge.log())?;
    let forward = Forward::start(host, "pod/web", 8080)?;
    let said = forward.get(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    ensure!(said.starts_with("HTTP/1.1 200"), "{said}");
    drop(forward);

    // A Service of the edge's own pods, by name, from a pod there.
    host.k(&["expose", "pod", "web", "--port=80", "--target-port=8080"])?;
    // (Without -T: with it some builds of busybox crash.)
    let seen = RefCell::new(String::new());
    let asked = [
        "exec",
        "box",
        "--",
        "busybox",
        "wget",
        "-qO-",
        "http://web/",
    ];
    eventually("the Service answers a pod on the edge", LIMIT, || {
        let said = run(&mut host.kubectl(&asked))?;
        let answered = String::from_utf8_lossy(&said.stdout).contains("Hello");
        *seen.borrow_mut() = format!("{said:?}");
        Ok(answered.then_some(()))
    })
    .with_context(|| seen.borrow().clone())?;
    eventually("what the pods use is known", LIMIT, || {
        let said = run(&mut host.kubectl(&["top", "pod", "box", "--no-headers"]))?;
        Ok(said.stdout.starts_with(b"box").then_some(()))
    })?;
    let nodes = eventually("what the nodes use is known", LIMIT, || {
        let said = run(&mut host.kubectl(&["top", "node", "--no-headers"]))?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        Ok(said.contains("edge").then_some(said))
    })?;
    ensure!(nodes.contains("island"), "{nodes}");
    host.k(&["delete", "pod", "box", "web", "--timeout=60s"])?;
    let forbidden = forbidden(&world.edge.log());
    ensure!(
        forbidden.is_empty(),
        "the node asked for what it may not: {forbidden:?}"
    );
    Ok(())
}

fn pods_of_two_machines_reach_each_other_on_a_link_and_across_a_router() -> anyhow::Result<()> {
    for between in [Between::Link, Between::Router] {
        let world = World::joined_over(between)?;
        let done = talk(&world).with_context(|| format!("{between:?}"));
        world.with_logs(done)?;
    }
    Ok(())
}

/// A pod on each machine, that says who it is and who asks.
fn talk(world: &World) -> anyhow::Result<()> {
    let host = &world.host;
    push_busybox(host, "edge/said:v1")?;
    let nodes = ["island", "edge"];
    for node in nodes {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: at-{node}, labels: {{app: both}}}}\nspec:\n  \
             nodeSelector: {{kubernetes.io/hostname: {node}}}\n  containers:\n  - name: c\n    \
             image: edge/said:v1\n    ports: [{{containerPort: 8080}}]\n    command: [/bin/sh, -c, \
             \"mkdir /tmp/w; hostname > /tmp/w/index.html; exec busybox httpd -f -vv -p 8080 -h /tmp/w\"]\n"
        );
        host.apply(&pod)?;
    }
    let mut addresses = Vec::new();
    for node in nodes {
        let pod = host.wait_ready_pod(&format!("at-{node}"));
        let pod = pod.with_context(|| world.edge.log())?;
        let address = pod["status"]["podIP"].as_str().context("no address")?;
        addresses.push(address.to_owned());
    }
    let ask = |from: &str, url: &str| {
        let pod = format!("at-{from}");
        run(&mut host.kubectl(&["exec", &pod, "--", "busybox", "wget", "-qO-", url]))
    };
    for (from, to, own, address) in [
        ("island", "edge", &addresses[0], &addresses[1]),
        ("edge", "island", &addresses[1], &addresses[0]),
    ] {
        let last = RefCell::new(String::new());
        eventually("a pod of the other machine answers", LIMIT, || {
            let said = ask(from, &format!("http://{address}:8080/"))?;
            *last.borrow_mut() = format!("{said:?}");
            let wanted = format!("at-{to}\n");
            Ok((said.stdout == wanted.as_bytes()).then_some(()))
        })
        .with_context(|| format!("from {from} to {to}: {}", last.borrow()))?;
        let log = host.k(&["logs", &format!("at-{to}")])?;
        ensure!(log.contains(own), "{own} does not show in: {log}");
    }
    // A Service of both, from each.
    host.k(&[
        "expose",
        "pod",
        "at-edge",
        "--name=both",
        "--port=80",
        "--target-port=8080",
    ])?;
    for from in nodes {
        let mut missing = nodes.map(|node| format!("at-{node}\n")).to_vec();
        eventually("both endpoints answer", LIMIT, || {
            let said = String::from_utf8_lossy(&ask(from, "http://both/")?.stdout).into_owned();
            missing.retain(|one| *one != said);
            Ok(missing.is_empty().then_some(()))
        })
        .with_context(|| format!("from {from}"))?;
    }
    Ok(())
}

/// What a log tells of requests that were refused.
fn forbidden(log: &str) -> Vec<String> {
    let lines = log
        .lines()
        .filter(|line| line.contains("forbidden") || line.contains("Forbidden"));
    lines.map(str::to_owned).collect()
}

fn pods_go_on_through_cuts_and_kills_of_either_end() -> anyhow::Result<()> {
    let mut world = World::joined()?;
    let done = break_all(&mut world);
    world.with_logs(done)
}

fn break_all(world: &mut World) -> anyhow::Result<()> {
    push_busybox(&world.host, "edge/lasting:v1")?;
    let before = life(&world.run_there("lasting", "edge/lasting:v1", &WAITS)?);
    let exec = |world: &World| {
        eventually("exec works", LIMIT, || {
            let said = run(&mut world
                .host
                .kubectl(&["exec", "lasting", "--", "echo", "here"]))?;
            Ok((said.stdout == b"here\n").then_some(()))
        })
    };
    exec(world)?;

    // The agent dies. It finds its server and its pod again without being told anything.
    world.edge.kill()?;
    world.edge.start(&[])?;
    exec(world)?;
    ensure!(life(&world.host.get("pod lasting")?) == before, "restarted");

    // The server dies.
    world.host.kill()?;
    world.host.restart()?;
    exec(world)?;
    ensure!(life(&world.host.get("pod lasting")?) == before, "restarted");

    // The link is cut until the server gives the node up, and mended.
    world.edge.site.set_link("down")?;
    world.wait_node("is taken for lost", |node| !condition(node, "Ready"))?;
    world.edge.site.set_link("up")?;
    world.wait_node("is Ready again", |node| condition(node, "Ready"))?;
    exec(world)?;
    ensure!(life(&world.host.get("pod lasting")?) == before, "restarted");
    Ok(())
}

fn a_node_touches_only_what_is_its_own_and_leaves() -> anyhow::Result<()> {
    let mut world = World::joined()?;
    let done = own_and_leave(&mut world);
    world.with_logs(done)
}

fn own_and_leave(world: &mut World) -> anyhow::Result<()> {
    let host = &world.host;
    // The files are the node's secret.
    let pair = world.edge.dir.path().join("edge/node.pem");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&pair)?.permissions());
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let ca = world.edge.dir.path().join("edge/ca.crt");
    let address = world.address();
    let as_node = |arguments: &[&str]| {
        let mut command = host.kubectl(&[
            "--kubeconfig=/dev/null",
            "--server",
            &address,
            "--certificate-authority",
            &ca.to_string_lossy(),
            "--client-certificate",
            &pair.to_string_lossy(),
            "--client-key",
            &pair.to_string_lossy(),
        ]);
        command.args(arguments);
        run(&mut command)
    };
    let own = as_node(&["get", "node", "edge", "-o", "name"])?;
    ensure!(own.stdout == b"node/edge\n", "{own:?}");
    push_busybox(host, "edge/other:v1")?;
    let elsewhere = "  nodeSelector: {kubernetes.io/hostname: island}\n";
    host.apply(&pod("other", "edge/other:v1", &WAITS, elsewhere))?;
    host.wait_pod("other", "runs", |pod| pod["status"]["phase"] == "Running")?;
    host.k(&[
        "create",
        "secret",
        "generic",
        "private",
        "--from-literal=a=b",
    ])?;
    for refused in [
        &["get", "secret", "private"][..],
        &["get", "secrets", "-A"],
        &["get", "pods", "-A"],
        &["get", "pod", "other"],
        &["get", "node", "island"],
        &["delete", "pod", "other"],
        &["delete", "node", "island"],
        &["label", "node", "island", "a=b"],
        &["taint", "node", "edge", "a=b:NoSchedule"],
        &["create", "token", "default"],
        &["exec", "other", "--", "id"],
        &[
            "create",
            "clusterrolebinding",
            "x",
            "--clusterrole=cluster-admin",
            "--user=system:node:edge",
        ],
    ] {
        let said = as_node(refused)?;
        let words = String::from_utf8_lossy(&said.stderr).to_lowercase();
        ensure!(
            !said.status.success() && words.contains("forbidden"),
            "{refused:?}: {said:?}"
        );
    }

    // Another machine with a good token does not become a node that there is.
    let token = world.token(&[])?;
    let (thief, log) = (
        tempfile::tempdir()?,
        world.edge.dir.path().join("thief.log"),
    );
    let mut stealing = world
        .edge
        .program()?
        .args([
            "join",
            &address,
            "--token",
            &token,
            "--node-name=edge",
            "--bridge=thief0",
        ])
        .arg("--data-dir")
        .arg(thief.path())
        .stderr(std::fs::File::create(&log)?)
        .spawn()?;
    let told = eventually("the second machine is told to wait", LIMIT, || {
        let said = std::fs::read_to_string(&log)?;
        Ok(said.contains("waits for an administrator").then_some(()))
    });
    stealing.kill()?;
    stealing.wait()?;
    told?;
    ensure!(
        !thief.path().join("edge/node.pem").exists(),
        "it got a certificate"
    );

    // It leaves: its pods go, its Node goes, and its certificate is worth nothing.
    world.run_there("last", "edge/other:v1", &WAITS)?;
    let old = tempfile::tempdir()?;
    for name in ["node.pem", "ca.crt"] {
        std::fs::copy(
            world.edge.dir.path().join("edge").join(name),
            old.path().join(name),
        )?;
    }
    let data = format!("--data-dir={}", world.edge.dir.path().display());
    let said = succeed(world.edge.program()?.args(["leave", &data]))?;
    ensure!(said.contains("node edge has left"), "{said}");
    let ended = world.edge.wait_end()?;
    ensure!(ended.success(), "the agent ended with {ended}");
    let gone = world.host.k_fails(&["get", "pod", "last"])?;
    ensure!(gone.contains("not found"), "{gone}");
    let gone = world.host.k_fails(&["get", "node", "edge"])?;
    ensure!(gone.contains("not found"), "{gone}");
    Ok(())
}

fn who_shows_no_good_token_is_told_why() -> anyhow::Result<()> {
    let world = World::apart()?;
    let address = world.address();
    let join = |arguments: &[&str]| -> anyhow::Result<String> {
        let dir = tempfile::tempdir()?;
        let mut child = world
            .edge
            .program()?
            .arg("join")
            .args(arguments)
            .args(["--node-name=nobody", "--log-format=text", "--data-dir"])
            .arg(dir.path())
            .stderr(Stdio::piped())
            .spawn()?;
        let ended = eventually("the join fails", LIMIT, || Ok(child.try_wait()?));
        let _ = child.kill();
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        let ended = ended.with_context(|| said.clone())?;
        ensure!(!ended.success(), "it joined: {said}");
        Ok(said)
    };
    let check = |said: String, words: &str| -> anyhow::Result<()> {
        ensure!(said.contains(words), "no {words:?} in {said}");
        Ok(())
    };
    check(join(&[])?, "has not joined a server")?;
    check(
        join(&[&address, "--token", "abcdef.0123456789abcdef"])?,
        "@sha256:",
    )?;
    let token = world.token(&[])?;
    let (bearer, _) = token.split_once('@').context("a pin")?;
    let other = format!("{bearer}@sha256:{}", "0".repeat(64));
    check(join(&[&address, "--token", &other])?, "another authority")?;
    check(
        join(&["https://10.99.250.1:1", "--token", &token])?,
        "10.99.250.1",
    )?;
    let id = &token[..6];
    let listed = succeed(
        eyot()
            .args(["token", "list", "--data-dir"])
            .arg(&world.host.dir),
    )?;
    ensure!(listed.contains(id) && !listed.contains(bearer), "{listed}");
    succeed(
        eyot()
            .args(["token", "delete", id, "--data-dir"])
            .arg(&world.host.dir),
    )?;
    check(
        join(&[&address, "--token", &token])?,
        "does not accept the token",
    )?;
    let short = world.token(&["--ttl=1ms"])?;
    check(
        join(&[&address, "--token", &short])?,
        "does not accept the token",
    )?;
    let nodes = world.host.k(&["get", "nodes", "-o", "name"])?;
    ensure!(nodes == "node/island\n", "{nodes}");
    Ok(())
}
