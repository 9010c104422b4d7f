//! Connection set-up through a Service's address, with few Services and with many.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::{TryStreamExt, stream};
use k8s_openapi::api::{
    core::v1::Service, discovery::v1::EndpointSlice, networking::v1::ServiceCIDR,
};
use kube::{Api, Client, api::PostParams};
use serde_json::json;

use crate::{
    host::Host,
    median, row,
    tools::{eventually, succeed},
};

const FEW: u32 = 10;
const MANY: u32 = 5_000;
const CLIENTS: usize = 16;
/// Connections of one measurement, each to another Service.
const CONNECTIONS: usize = 2_000;
/// Measurements, of which the median counts.
const ROUNDS: usize = 5;
/// Where the Services' addresses are: the host's own range is too small for them.
const RANGE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);
/// For the rules to hold, in a build without optimisation too.
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn services(host: &Host, client: &Client) -> anyhow::Result<()> {
    let backend = TcpListener::bind("0.0.0.0:0")?;
    let port = backend.local_addr()?.port();
    std::thread::spawn(move || {
        for connection in backend.incoming() {
            drop(connection);
        }
    });
    let range: ServiceCIDR = serde_json::from_value(json!({
        "metadata": {"name": "bench"}, "spec": {"cidrs": [format!("{RANGE}/16")]},
    }))?;
    let ranges: Api<ServiceCIDR> = Api::all(client.clone());
    ranges.create(&PostParams::default(), &range).await?;
    let at = SocketAddr::from((Ipv4Addr::new(10, 244, host.ports.net, 1), port));
    // As the host does for its own range; on other machines the default route would do.
    let (range, bridge) = (format!("{RANGE}/16"), format!("eyot{}", host.ports.net));
    succeed(Command::new("ip").args(["route", "add", &range, "dev", &bridge]))?;
    make(client, 1..=FEW, at).await?;
    let few = measure(FEW)?;
    let begin = Instant::now();
    make(client, FEW + 1..=MANY, at).await?;
    reach(MANY)?;
    let made = begin.elapsed();
    let many = measure(MANY)?;
    row(
        &format!("connection set-up through a Service, {MANY} of them, p50"),
        &format!("within 10% of that with {FEW}"),
        &format!(
            "{many:.1} µs; the last one led on {:.1} s after the first was made",
            made.as_secs_f64()
        ),
        &format!("with {FEW}: {few:.1} µs, so {:.2} ×", many / few),
    );
    Ok(())
}

fn address(number: u32) -> SocketAddr {
    // The first and some more are for others.
    (Ipv4Addr::from(u32::from(RANGE) + 256 + number), 80).into()
}

async fn make(
    client: &Client,
    numbers: impl Iterator<Item = u32>,
    at: SocketAddr,
) -> anyhow::Result<()> {
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    let (services, slices) = (&services, &slices);
    stream::iter(numbers.map(Ok))
        .try_for_each_concurrent(CLIENTS, async |number| {
            let name = format!("bench-{number}");
            let service: Service = serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {"clusterIP": address(number).ip(), "ports": [{"port": 80}]},
            }))?;
            services.create(&PostParams::default(), &service).await?;
            let slice: EndpointSlice = serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4", "ports": [{"port": at.port()}],
                "endpoints": [{"addresses": [at.ip()]}],
            }))?;
            slices.create(&PostParams::default(), &slice).await?;
            anyhow::Ok(())
        })
        .await
}

/// Wait until the Service of this number leads somewhere.
fn reach(number: u32) -> anyhow::Result<()> {
    eventually("the Service is balanced", PATIENCE, || {
        Ok(
            TcpStream::connect_timeout(&address(number), Duration::from_secs(1))
                .ok()
                .map(drop),
        )
    })
}

/// Microseconds for a connection to one of so many Services.
fn measure(count: u32) -> anyhow::Result<f64> {
    (1..=count)
        .rev()
        .step_by(count as usize / FEW as usize)
        .try_for_each(reach)?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut times = Vec::with_capacity(CONNECTIONS);
        for turn in 0..CONNECTIONS {
            let number = 1 + (turn as u32).wrapping_mul(7919) % count;
            let begin = Instant::now();
            let stream = TcpStream::connect_timeout(&address(number), Duration::from_secs(5))
                .with_context(|| format!("service {number}"))?;
            times.push(begin.elapsed().as_secs_f64() * 1e6);
            drop(stream);
        }
        rounds.push(median(&mut times));
    }
    Ok(median(&mut rounds))
}
