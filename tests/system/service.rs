//! Services: addresses that stay while pods come and go.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{
    Case, case,
    container::push_busybox,
    host::{Host, shared},
    tools::{curl, eventually, succeed},
    wasm::pod,
};

pub const CASES: &[Case] = &[
    case!(
        a_service_leads_pods_and_host_to_its_endpoints,
        [Kubectl, Root, Busybox]
    ),
    case!(
        the_api_is_reached_from_inside_a_pod,
        [Kubectl, Root, Busybox]
    ),
    case!(
        names_of_the_cluster_are_found_from_inside_a_pod,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_stopped_host_leaves_nothing_in_the_kernel_and_a_killed_one_comes_back,
        [Kubectl, Root, Busybox]
    ),
];

/// Start pods that send their names to whoever connects to port 8080; answers their addresses.
fn servers(host: &Host, names: &[&str]) -> anyhow::Result<Vec<String>> {
    push_busybox(host, "service/server:v1")?;
    for name in names {
        let script = format!("while true; do echo {name} | nc -l -p 8080; done");
        let manifest = pod(name, "service/server:v1", &["/bin/sh", "-c", &script], "");
        host.apply(&manifest.replace("restartPolicy: Never", "restartPolicy: Always"))?;
    }
    let mut addresses = Vec::new();
    for name in names {
        let pod = host.wait_ready_pod(name)?;
        let address = pod["status"]["podIP"].as_str().context("no podIP")?;
        addresses.push(address.to_owned());
    }
    Ok(addresses)
}

/// A Service without a selector, and its endpoints.
fn service(host: &Host, name: &str, addresses: &[String]) -> anyhow::Result<IpAddr> {
    host.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{type: NodePort, ports: [{{port: 80, targetPort: 8080}}]}}\n"
    ))?;
    let endpoints: Vec<String> = addresses
        .iter()
        .map(|address| format!("{{addresses: [{address}], conditions: {{ready: true}}}}"))
        .collect();
    host.apply(&format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: '', port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    ))?;
    let made = host.get(&format!("service/{name}"))?;
    let address = made["spec"]["clusterIP"].as_str().context("no clusterIP")?;
    Ok(address.parse()?)
}

fn read(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

fn a_service_leads_pods_and_host_to_its_endpoints() -> anyhow::Result<()> {
    let host = shared()?;
    let addresses = servers(host, &["served-a", "served-b"])?;
    let address = service(host, "shop", &addresses)?;
    let at = SocketAddr::new(address, 80);
    for server in ["served-a", "served-b"] {
        // A server that is between two connections refuses one now and then.
        eventually("both answer the host", Duration::from_secs(30), || {
            Ok((read(at).ok().as_deref() == Some(server)).then_some(()))
        })?;
    }
    // From a pod, which is told of the Service by its environment, and by the node port.
    let script =
        "until nc -w 3 $SHOP_SERVICE_HOST $SHOP_SERVICE_PORT; do sleep 0.1; done; echo asked";
    host.apply(&pod(
        "customer",
        "service/server:v1",
        &["/bin/sh", "-c", script],
        "",
    ))?;
    host.wait_pod("customer", "has ended", |p| {
        p["status"]["phase"] == "Succeeded"
    })?;
    let said = host.k(&["logs", "customer"])?;
    ensure!(said.contains("served-"), "{said}");
    let made = host.get("service/shop")?;
    let port = made["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .context("no nodePort")?;
    let node = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), u16::try_from(port)?);
    eventually("the node port answers", Duration::from_secs(30), || {
        Ok(read(node).ok().filter(|said| said.starts_with("served-")))
    })?;
    // Without endpoints it refuses at once.
    host.k(&["delete", "endpointslice", "shop-1"])?;
    eventually("it refuses", Duration::from_secs(10), || {
        let error = read(at).err().map(|error| error.kind());
        Ok((error == Some(std::io::ErrorKind::ConnectionRefused)).then_some(()))
    })?;
    host.k(&[
        "delete",
        "service/shop",
        "pod/customer",
        "pod/served-a",
        "pod/served-b",
        "--now",
    ])?;
    Ok(())
}

fn the_api_is_reached_from_inside_a_pod() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "service/inside:v1")?;
    let script = "nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT_HTTPS < /dev/null && echo reached";
    host.apply(&pod(
        "inside",
        "service/inside:v1",
        &["/bin/sh", "-c", script],
        "",
    ))?;
    host.wait_pod("inside", "has ended", |p| {
        !p["status"]["containerStatuses"][0]["state"]["terminated"].is_null()
    })?;
    let said = host.k(&["logs", "inside"])?;
    ensure!(said.trim() == "reached", "{said}");
    // Its certificate is good for the address that pods are given.
    let own = host.get("service/kubernetes")?;
    let address = own["spec"]["clusterIP"].as_str().context("no clusterIP")?;
    let authority = host.dir.join("pki/ca.crt");
    let (status, body) = curl(&[
        "--cacert",
        &authority.to_string_lossy(),
        &format!("https://{address}/readyz"),
    ])?;
    ensure!((status, body.as_str()) == (200, "ok"), "{status} {body}");
    host.k(&["delete", "pod", "inside"])?;
    Ok(())
}

fn names_of_the_cluster_are_found_from_inside_a_pod() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "service/names:v1")?;
    let script = "cat /etc/resolv.conf; cat /etc/hosts; nslookup kubernetes.default.svc.cluster.local; \
                  nc -w 5 kubernetes.default 443 < /dev/null && echo reached; \
                  nslookup no-such.default.svc.cluster.local || echo none";
    let more = "  hostAliases: [{ip: 192.0.2.5, hostnames: [alias.example]}]\n  subdomain: sub\n";
    host.apply(&pod(
        "names",
        "service/names:v1",
        &["/bin/sh", "-c", script],
        more,
    ))?;
    host.wait_pod("names", "has ended", |p| {
        !p["status"]["containerStatuses"][0]["state"]["terminated"].is_null()
    })?;
    let said = host.k(&["logs", "names"])?;
    let net = host.ports.net;
    for expected in [
        "search default.svc.cluster.local svc.cluster.local cluster.local",
        &format!("nameserver 10.96.{net}.10"),
        "options ndots:5",
        "names.sub.default.svc.cluster.local\tnames",
        "192.0.2.5\talias.example",
        &format!("10.96.{net}.1"),
        "reached",
        "none",
    ] {
        ensure!(said.contains(expected), "no {expected:?} in {said}");
    }
    host.k(&["delete", "pod", "names"])?;
    Ok(())
}

/// What the kernel holds of a host's network.
fn kernel(bridge: &str) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for command in [
        &["nft", "list", "tables"][..],
        &["ip", "-o", "link"],
        &["ip", "route"],
    ] {
        let text = succeed(Command::new(command[0]).args(&command[1..]))?;
        lines.extend(
            text.lines()
                .filter(|l| l.contains(bridge))
                .map(str::to_owned),
        );
    }
    Ok(lines)
}

fn a_stopped_host_leaves_nothing_in_the_kernel_and_a_killed_one_comes_back() -> anyhow::Result<()> {
    let mut host = Host::start()?;
    let bridge = format!("eyot{} ", host.ports.net);
    let bridge = bridge.trim_end();
    let addresses = servers(&host, &["only"])?;
    let address = service(&host, "lasting", &addresses)?;
    let at = SocketAddr::new(address, 80);
    eventually("the service answers", Duration::from_secs(30), || {
        Ok(read(at).ok().filter(|said| said == "only"))
    })?;
    ensure!(kernel(bridge)?.len() >= 3, "{:?}", kernel(bridge)?);
    host.kill()?;
    host.restart()?;
    eventually(
        "the pod runs and answers again",
        Duration::from_secs(40),
        || {
            let pod = host.get("pod/only")?;
            let Some(ip) = pod["status"]["podIP"].as_str() else {
                return Ok(None);
            };
            service(&host, "lasting", &[ip.to_owned()])?;
            Ok(read(at).ok().filter(|said| said == "only"))
        },
    )?;
    host.terminate()?;
    let left = kernel(bridge)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
