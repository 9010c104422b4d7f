//! The network as Wasm guests have it: outgoing HTTP, sockets, Services and policies.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{
    Case, case,
    host::{Host, shared},
    tools::{curl, eventually, guest},
};

pub const CASES: &[Case] = &[
    case!(
        guests_reach_services_and_pods_from_their_own_address,
        [Kubectl, Root, Guests]
    ),
    case!(policies_hold_for_guests, [Kubectl, Root, Guests]),
];

/// A pod of one guest, with a label of its name, and its address.
fn start(
    host: &Host,
    name: &str,
    image: &str,
    arguments: &[&str],
    egress: &str,
) -> anyhow::Result<String> {
    host.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{net: {name}}}\n  \
         annotations: {{eyot.dev/egress: '{egress}'}}\nspec:\n  restartPolicy: Never\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {image}\n    \
         args: {}\n    ports: [{{containerPort: 8080}}]\n",
        serde_json::json!(arguments),
    ))?;
    address(&host.wait_ready_pod(name)?)
}

fn address(pod: &Value) -> anyhow::Result<String> {
    let address = pod["status"]["podIP"].as_str().context("no podIP")?;
    Ok(address.to_owned())
}

/// A guest that tells who asks, behind a Service: the addresses of both.
fn server(host: &Host, name: &str) -> anyhow::Result<(String, String)> {
    host.push("net/talker:v1", &guest("talker")?)?;
    let pod = start(host, name, "net/talker:v1", &["serve", "8080"], "")?;
    host.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{net: {name}}}\n  \
         ports:\n  - {{name: stream, port: 80, targetPort: 8080}}\n  \
         - {{name: datagram, port: 80, targetPort: 8080, protocol: UDP}}\n"
    ))?;
    let service = host.get(&format!("service/{name}"))?;
    let service = service["spec"]["clusterIP"].as_str().context("clusterIP")?;
    eventually("the guest listens", Duration::from_secs(30), || {
        let asked = curl(&["--max-time", "2", &format!("http://{service}/")]);
        Ok(asked.is_ok_and(|(status, _)| status == 200).then_some(()))
    })?;
    Ok((pod, service.to_owned()))
}

/// A guest that asks whom it is told to: its address.
fn caller(host: &Host, name: &str, egress: &str) -> anyhow::Result<String> {
    host.push("net/caller:v1", &guest("caller")?)?;
    start(host, name, "net/caller:v1", &[], egress)
}

/// What the caller hears from there.
fn hears(caller: &str, whom: &str) -> anyhow::Result<(u16, String)> {
    curl(&["--max-time", "15", &format!("http://{caller}:8080/{whom}")])
}

fn guests_reach_services_and_pods_from_their_own_address() -> anyhow::Result<()> {
    let host = shared()?;
    let (pod, service) = server(host, "net-server")?;
    let all = format!("{pod}:8080,{service}:80,net-server:80");
    let own = caller(host, "net-caller", &all)?;
    // Outgoing HTTP: by the address of the pod, by that of the Service, by name.
    for whom in [&format!("{pod}:8080"), &service, "net-server"] {
        let (status, said) = hears(&own, whom)?;
        ensure!(status == 200 && said == own, "{whom}: {status} {said}");
    }
    let (status, said) = hears(&own, "10.255.255.254")?;
    ensure!(status == 502 && said.contains("Denied"), "{status} {said}");

    // Sockets: the same, with datagrams; and what was not granted is denied.
    let steps = [
        "ask",
        &format!("{pod}:8080"),
        "ask",
        &format!("{service}:80"),
        "ask",
        "net-server:80",
        "send",
        "net-server:80",
        "ask",
        "10.255.255.254:80",
        "serve",
        "8081",
    ];
    let talker = start_and_end(host, "net-talker", &steps, &all)?;
    let logs = host.k(&["logs", "net-talker"])?;
    let lines: Vec<&str> = logs.lines().collect();
    let expected = [
        format!("ask {pod}:8080: {talker}"),
        format!("ask {service}:80: {talker}"),
        format!("ask net-server:80: {talker}"),
        format!("send net-server:80: {talker}"),
        "ask 10.255.255.254:80 failed: PermissionDenied".to_owned(),
        // Not a port that the pod declares.
        "serve 8081 failed: PermissionDenied".to_owned(),
    ];
    ensure!(lines == expected, "{logs}");
    host.k(&[
        "delete",
        "pod/net-server",
        "pod/net-caller",
        "pod/net-talker",
        "service/net-server",
        "--now",
    ])?;
    Ok(())
}

/// Run a guest to its end; its address.
fn start_and_end(host: &Host, name: &str, steps: &[&str], egress: &str) -> anyhow::Result<String> {
    host.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  \
         annotations: {{eyot.dev/egress: '{egress}'}}\nspec:\n  restartPolicy: Never\n  \
         containers:\n  - name: main\n    image: net/talker:v1\n    args: {}\n",
        serde_json::json!(steps),
    ))?;
    let pod = host.wait_pod(name, "has ended", |pod| {
        pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed"
    })?;
    ensure!(pod["status"]["phase"] == "Succeeded", "{pod}");
    address(&pod)
}

fn policies_hold_for_guests() -> anyhow::Result<()> {
    let host = shared()?;
    let (pod, _) = server(host, "shut-server")?;
    let own = caller(host, "shut-caller", "*:*")?;
    let whom = format!("{pod}:8080");
    let opened = |is_open: bool| {
        let what = if is_open { "open" } else { "closed" };
        eventually(
            &format!("the way is {what}"),
            Duration::from_secs(40),
            || {
                let open =
                    hears(&own, &whom).is_ok_and(|(status, said)| status == 200 && said == own);
                Ok((open == is_open).then_some(()))
            },
        )
    };
    opened(true)?;
    for (of, kind) in [("shut-caller", "Egress"), ("shut-server", "Ingress")] {
        host.apply(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: shut}}\n\
             spec: {{podSelector: {{matchLabels: {{net: {of}}}}}, policyTypes: [{kind}]}}\n"
        ))?;
        opened(false)?;
        host.k(&["delete", "networkpolicy", "shut"])?;
        opened(true)?;
    }
    host.k(&[
        "delete",
        "pod/shut-server",
        "pod/shut-caller",
        "service/shut-server",
        "--now",
    ])?;
    Ok(())
}
