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
    tools::{curl, eventually, guest, succeed},
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
        an_ingress_leads_to_a_service_by_host_and_path,
        [Kubectl, Guests]
    ),
    case!(
        a_policy_closes_a_pod_and_opens_it_to_some,
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

fn an_ingress_leads_to_a_service_by_host_and_path() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("service/web:v1", &guest("hello_web")?)?;
    host.k(&["run", "routed", "--image=service/web:v1", "--port=8080"])?;
    host.wait_ready_pod("routed")?;
    host.k(&["expose", "pod", "routed", "--port=80", "--target-port=8080"])?;
    let key = rcgen::KeyPair::generate()?;
    let certificate =
        rcgen::CertificateParams::new(vec!["shop.example".to_owned()])?.self_signed(&key)?;
    let (certificate_file, key_file) = (host.dir.join("shop.crt"), host.dir.join("shop.key"));
    std::fs::write(&certificate_file, certificate.pem())?;
    std::fs::write(&key_file, key.serialize_pem())?;
    host.k(&[
        "create",
        "secret",
        "tls",
        "shop",
        &format!("--cert={}", certificate_file.display()),
        &format!("--key={}", key_file.display()),
    ])?;
    host.k(&[
        "create",
        "ingress",
        "shop",
        "--rule=shop.example/healthz*=routed:80,tls=shop",
    ])?;
    let plain = format!("http://127.0.0.1:{}/healthz", host.ports.ingress);
    eventually("the Ingress answers", Duration::from_secs(20), || {
        let (status, _) = curl(&["-H", "Host: shop.example", &plain])?;
        Ok((status == 200).then_some(()))
    })?;
    let elsewhere = format!("http://127.0.0.1:{}/other", host.ports.ingress);
    let (status, said) = curl(&["-H", "Host: shop.example", &elsewhere])?;
    ensure!(status == 404 && said.contains("Ingress"), "{status} {said}");
    // Over TLS, with the certificate of the Secret.
    let port = host.ports.ingress_tls;
    let resolve = format!("shop.example:{port}:127.0.0.1");
    let (status, _) = curl(&[
        "--cacert",
        &certificate_file.to_string_lossy(),
        "--resolve",
        &resolve,
        &format!("https://shop.example:{port}/healthz"),
    ])?;
    ensure!(status == 200, "{status}");
    let ingress = host.get("ingress/shop")?;
    ensure!(ingress["spec"]["ingressClassName"] == "eyot", "{ingress}");
    eventually("its status has an address", Duration::from_secs(10), || {
        let ingress = host.get("ingress/shop")?;
        let ip = ingress["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
        Ok(ip.map(|_| ()))
    })?;
    host.k(&[
        "delete",
        "ingress/shop",
        "service/routed",
        "pod/routed",
        "secret/shop",
        "--now",
    ])?;
    let (status, _) = curl(&["-H", "Host: shop.example", &plain])?;
    ensure!(status == 404 || status == 503, "{status}");
    Ok(())
}

fn a_policy_closes_a_pod_and_opens_it_to_some() -> anyhow::Result<()> {
    let host = shared()?;
    let address = servers(host, &["guarded"])?.remove(0);
    host.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: guard}\n\
         spec:\n  podSelector: {matchLabels: {name: guarded}}\n  policyTypes: [Ingress]\n  \
         ingress: [{from: [{podSelector: {matchLabels: {name: friend}}}]}]\n",
    )?;
    host.k(&["label", "pod", "guarded", "name=guarded"])?;
    let table = format!("eyot-eyot{}", host.ports.net);
    eventually("the rules are there", Duration::from_secs(10), || {
        let map = ["list", "map", "ip", &table, "isolated-ingress"];
        let said = succeed(Command::new("nft").args(map))?;
        Ok(said.contains(&address).then_some(()))
    })?;
    // Who may come in may have to wait until the rules know its address; who may not gives up.
    for (name, tries) in [("friend", 25), ("stranger", 4)] {
        let script = format!(
            "n=0; while [ $n -lt {tries} ]; do nc -w 2 {address} 8080 && exit 0; n=$((n+1)); \
             sleep 0.3; done; exit 1"
        );
        let manifest = pod(name, "service/server:v1", &["/bin/sh", "-c", &script], "");
        let labels = format!("metadata: {{labels: {{name: {name}}}, ");
        host.apply(&manifest.replace("metadata: {", &labels))?;
    }
    host.wait_pod("friend", "was let in", |p| {
        p["status"]["phase"] == "Succeeded"
    })?;
    host.wait_pod("stranger", "was kept out", |p| {
        p["status"]["phase"] == "Failed"
    })?;
    host.k(&[
        "delete",
        "networkpolicy/guard",
        "pod/guarded",
        "pod/friend",
        "pod/stranger",
        "--now",
    ])?;
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
    // Without the flag the pods stay, and with them what leads to them.
    let mut host = Host::start_with(&["--stop-pods"])?;
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
