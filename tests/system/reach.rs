//! Reaching into running pods: exec, cp, attach and port-forward with the real kubectl.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdout, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{
    Case, case,
    container::push_busybox,
    host::{Host, condition, shared},
    tools::{eventually, guest, run},
    wasm::pod,
};

pub const CASES: &[Case] = &[
    case!(
        a_program_runs_in_a_container_with_input_output_and_exit_code,
        [Kubectl, Root, Busybox]
    ),
    case!(files_are_copied_both_ways, [Kubectl, Root, Busybox]),
    case!(
        who_attaches_sees_output_and_is_heard,
        [Kubectl, Root, Busybox]
    ),
    case!(a_port_of_a_container_is_forwarded, [Kubectl, Root, Busybox]),
    case!(a_port_of_a_guest_is_forwarded, [Kubectl, Guests]),
    case!(
        pods_services_and_nodes_are_reached_through_the_api_server,
        [Kubectl, Guests]
    ),
    case!(
        what_cannot_be_executed_is_refused_with_a_reason,
        [Kubectl, Root, Busybox, Guests]
    ),
    case!(
        a_probe_by_program_decides_about_readiness,
        [Kubectl, Root, Busybox]
    ),
];

/// A pod of busybox that waits.
fn waiting(host: &Host, name: &str, more: &str) -> anyhow::Result<()> {
    let image = format!("reach/{name}:v1");
    push_busybox(host, &image)?;
    let what = ["/bin/sh", "-c", "while true; do sleep 1; done"];
    host.apply(&pod(name, &image, &what, more))?;
    host.wait_pod(name, "runs", |pod| pod["status"]["phase"] == "Running")?;
    Ok(())
}

fn a_program_runs_in_a_container_with_input_output_and_exit_code() -> anyhow::Result<()> {
    let host = shared()?;
    waiting(host, "exec", "")?;
    let output = run(&mut host.kubectl(&[
        "exec",
        "exec",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 42",
    ]))?;
    ensure!(output.stdout == b"out\n", "{output:?}");
    ensure!(output.stderr.starts_with(b"err\n"), "{output:?}");
    ensure!(output.status.code() == Some(42), "{output:?}");

    // More than any buffer on the way holds, in both directions at once.
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut child = host
        .kubectl(&["exec", "-i", "exec", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    let sent = large.clone();
    let feeding = std::thread::spawn(move || stdin.write_all(&sent));
    let mut back = Vec::new();
    child
        .stdout
        .take()
        .context("stdout")?
        .read_to_end(&mut back)?;
    feeding.join().map_err(|_| anyhow::anyhow!("feeding"))??;
    ensure!(child.wait()?.success());
    ensure!(back == large, "{} bytes came back", back.len());
    host.k(&["delete", "pod", "exec", "--now"])?;
    Ok(())
}

fn files_are_copied_both_ways() -> anyhow::Result<()> {
    let host = shared()?;
    waiting(host, "copy", "")?;
    let (there, back) = (host.dir.join("there"), host.dir.join("back"));
    let text: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    std::fs::write(&there, &text)?;
    let path = |p: &std::path::Path| p.to_string_lossy().into_owned();
    host.k(&["cp", &path(&there), "copy:/tmp/file"])?;
    let count = host.k(&["exec", "copy", "--", "busybox", "wc", "-l", "/tmp/file"])?;
    ensure!(count.starts_with("20000"), "{count}");
    host.k(&["cp", "copy:/tmp/file", &path(&back)])?;
    ensure!(std::fs::read_to_string(&back)? == text);
    host.k(&["delete", "pod", "copy", "--now"])?;
    Ok(())
}

fn who_attaches_sees_output_and_is_heard() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "reach/attach:v1")?;
    let script = "while read word; do echo heard $$word; done; echo end; exit 3";
    let more = "    stdin: true\n    stdinOnce: true\n";
    host.apply(&pod(
        "attach",
        "reach/attach:v1",
        &["/bin/sh", "-c", script],
        more,
    ))?;
    host.wait_pod("attach", "runs", |pod| pod["status"]["phase"] == "Running")?;
    let mut child = host
        .kubectl(&["attach", "-i", "attach"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    stdin.write_all(b"first\n")?;
    ensure!(lines.next().context("nothing")?? == "heard first");
    stdin.write_all(b"second\n")?;
    ensure!(lines.next().context("nothing")?? == "heard second");
    drop(stdin);
    ensure!(lines.next().context("nothing")?? == "end");
    child.wait()?;
    let pod = host.wait_pod("attach", "has ended", |pod| {
        pod["status"]["phase"] == "Failed"
    })?;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(ended["exitCode"] == 3, "{pod}");
    host.k(&["delete", "pod", "attach", "--now"])?;
    Ok(())
}

/// `kubectl port-forward`, until it is dropped.
pub struct Forward {
    child: Child,
    local: u16,
    /// kubectl ends when it cannot write any more.
    _said: BufReader<ChildStdout>,
}

impl Forward {
    pub fn start(host: &Host, what: &str, port: u16) -> anyhow::Result<Self> {
        let mut child = host
            .kubectl(&["port-forward", what, &format!(":{port}")])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().context("stdout")?);
        said.read_line(&mut line)?;
        // Forwarding from 127.0.0.1:40000 -> 8080
        let local = line.split(" -> ").next().unwrap_or_default();
        let local = local.rsplit(':').next().unwrap_or_default().parse();
        match local {
            Ok(local) => Ok(Self {
                child,
                local,
                _said: said,
            }),
            Err(_) => {
                let _ = child.kill();
                anyhow::bail!("kubectl port-forward said {line:?}")
            }
        }
    }

    pub fn get(&self, request: &[u8]) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.local))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(request)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn a_port_of_a_container_is_forwarded() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "reach/forward:v1")?;
    let script = "exec nc -ll -p 7000 -e /bin/hostname";
    host.apply(&pod(
        "forward",
        "reach/forward:v1",
        &["/bin/sh", "-c", script],
        "",
    ))?;
    host.wait_pod("forward", "runs", |pod| pod["status"]["phase"] == "Running")?;
    // kubectl gives up when the program does not listen yet.
    let forward = eventually("the program answers", Duration::from_secs(20), || {
        let forward = Forward::start(host, "pod/forward", 7000)?;
        let said = forward.get(b"")?;
        Ok((said == "forward\n").then_some(forward))
    })?;
    for _ in 0..5 {
        let said = forward.get(b"")?;
        ensure!(said == "forward\n", "{said:?}");
    }
    drop(forward);
    host.k(&["delete", "pod", "forward", "--now"])?;
    Ok(())
}

fn a_port_of_a_guest_is_forwarded() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("reach/web:v1", &guest("hello_web")?)?;
    host.k(&["run", "forward-web", "--image=reach/web:v1", "--port=8080"])?;
    host.wait_ready_pod("forward-web")?;
    let forward = Forward::start(host, "pod/forward-web", 8080)?;
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for _ in 0..5 {
        let said = forward.get(request)?;
        ensure!(said.starts_with("HTTP/1.1 200"), "{said}");
    }
    drop(forward);
    host.k(&["delete", "pod", "forward-web", "--now"])?;
    Ok(())
}

fn pods_services_and_nodes_are_reached_through_the_api_server() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("reach/proxied:v1", &guest("hello_web")?)?;
    let run = [
        "run",
        "proxied",
        "--image=reach/proxied:v1",
        "--port=8080",
        "--expose",
    ];
    host.k(&run)?;
    host.wait_ready_pod("proxied")?;
    let below = "/api/v1/namespaces/default";
    for path in [
        format!("{below}/pods/proxied/proxy/"),
        format!("{below}/pods/http:proxied:8080/proxy/?and=query"),
        format!("{below}/services/proxied/proxy/"),
        format!("{below}/services/proxied:8080/proxy/"),
    ] {
        let said = host.k(&["get", "--raw", &path])?;
        ensure!(said.contains("Hello"), "{path}: {said}");
    }
    let said = host.k(&["get", "--raw", "/api/v1/nodes/island/proxy/healthz"])?;
    ensure!(said == "ok", "{said}");
    let nobody = format!("{below}/pods/proxied:81/proxy/");
    let said = host.k_fails(&["get", "--raw", &nobody])?;
    ensure!(said.contains("error trying to reach service"), "{said}");
    host.k(&["delete", "pod,service", "proxied", "--now"])?;
    Ok(())
}

fn what_cannot_be_executed_is_refused_with_a_reason() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("reach/guest:v1", &guest("hello_web")?)?;
    host.k(&["run", "no-exec", "--image=reach/guest:v1", "--port=8080"])?;
    host.wait_ready_pod("no-exec")?;
    let said = host.k_fails(&["exec", "no-exec", "--", "ls"])?;
    ensure!(said.contains("Wasm container holds no programs"), "{said}");
    let said = host.k_fails(&["exec", "no-exec", "-c", "other", "--", "ls"])?;
    ensure!(said.contains("container other"), "{said}");
    waiting(host, "no-program", "")?;
    let said = host.k_fails(&["exec", "no-program", "--", "nothing-there"])?;
    ensure!(said.contains("nothing-there"), "{said}");
    host.k(&["delete", "pod", "no-exec", "no-program", "--now"])?;
    Ok(())
}

fn a_probe_by_program_decides_about_readiness() -> anyhow::Result<()> {
    let host = shared()?;
    let probe = "    readinessProbe: {exec: {command: [sh, -c, 'test -e /tmp/ready || exit 1']}, \
                 periodSeconds: 1}\n";
    waiting(host, "probed", probe)?;
    let pod = host.get("pod probed")?;
    ensure!(!condition(&pod, "Ready"), "{pod}");
    host.k(&["exec", "probed", "--", "sh", "-c", "echo >/tmp/ready"])?;
    host.wait_ready_pod("probed")?;
    host.k(&["delete", "pod", "probed", "--now"])?;
    Ok(())
}
