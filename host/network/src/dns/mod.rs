//! The cluster's DNS: a server inside the host, at the address where clients expect it.
//!
//! It listens on the bridge; the Service `kube-dns`, whose address is the tenth of the range, leads
//! there. [`zone`] knows the names of the cluster, [`forward`] asks the host's own name servers for all
//! others, [`message`] is the form on the wire.

mod answer;
mod forward;
mod message;
mod server;
mod zone;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use self::{forward::Forwarder, server::Server, zone::Zone};
use crate::{Cluster, PodNetwork, cluster::wake, keep::GATHER};

pub use zone::DOMAIN;

/// The pause after the API did not take the Service.
const AGAIN: Duration = Duration::from_secs(5);
const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const MANAGER: &str = "eyot-dns";

/// The server of the cluster's names.
pub struct Dns {
    /// Makes the Service; `None` where another host does.
    client: Option<Client>,
    cluster: Cluster,
    changed: Arc<Notify>,
    /// Where it listens; without a bridge there is nobody to listen to.
    gateway: Option<IpAddr>,
    service: Option<IpAddr>,
    resolv_conf: PathBuf,
}

impl Dns {
    /// `client` makes the Service that leads here, unless another host has it; `service` is its
    /// address; `resolv_conf` names the servers for all other names.
    pub fn new(
        network: &PodNetwork,
        cluster: &Cluster,
        client: Option<Client>,
        service: Option<IpAddr>,
        resolv_conf: PathBuf,
    ) -> Self {
        let changed = Arc::new(Notify::new());
        wake(&cluster.services, &changed);
        wake(&cluster.slices, &changed);
        wake(&cluster.namespaces, &changed);
        Self {
            client,
            cluster: cluster.clone(),
            changed,
            gateway: network.gateway().map(IpAddr::V4),
            service,
            resolv_conf,
        }
    }

    /// Work until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Some(gateway) = self.gateway else {
            return;
        };
        let (datagrams, connections) = match listen(gateway).await {
            Ok(sockets) => sockets,
            Err(error) => {
                tracing::error!(%error, %gateway, "the cluster's DNS cannot listen: names are not found by pods");
                return;
            }
        };
        let port = datagrams.local_addr().map_or(53, |address| address.port());
        let forwarder = Forwarder::new(self.resolv_conf.clone(), Some(gateway));
        let server = Arc::new(Server::new(forwarder));
        let knowing = async {
            self.cluster.synced().await;
            loop {
                server.set(Zone::new(
                    &self.cluster.services.list(),
                    &self.cluster.slices.list(),
                    &self.cluster.namespaces.list(),
                    self.service,
                ));
                self.changed.notified().await;
                tokio::time::sleep(GATHER).await;
            }
        };
        let telling = async {
            if let Some(client) = &self.client {
                while let Err(error) = self.publish(client, SocketAddr::new(gateway, port)).await {
                    tracing::warn!(%error, "the Service {NAMESPACE}/{NAME} was not made; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = knowing => {}
            () = telling => {}
            () = Arc::clone(&server).datagrams(datagrams) => {}
            () = Arc::clone(&server).connections(connections) => {}
        }
    }

    /// Make the Service that leads to `at`.
    async fn publish(&self, client: &Client, at: SocketAddr) -> Result<(), kube::Error> {
        let Some(address) = self.service else {
            tracing::warn!("the range of Services has no tenth address: pods cannot ask for names");
            return Ok(());
        };
        let labels = json!({
            "k8s-app": NAME, "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true",
        });
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": labels },
            "spec": {
                "clusterIP": address,
                "ports": [
                    { "name": "dns", "protocol": "UDP", "port": 53, "targetPort": at.port() },
                    { "name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": at.port() },
                ],
            },
        });
        let parameters = PatchParams::apply(MANAGER).force();
        Api::<Service>::namespaced(client.clone(), NAMESPACE)
            .patch(NAME, &parameters, &Patch::Apply(service))
            .await?;
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": NAME, "namespace": NAMESPACE,
                "labels": {
                    "kubernetes.io/service-name": NAME,
                    "endpointslice.kubernetes.io/managed-by": MANAGER,
                },
            },
            "addressType": if at.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{ "addresses": [at.ip()], "conditions": { "ready": true } }],
            "ports": [
                { "name": "dns", "protocol": "UDP", "port": at.port() },
                { "name": "dns-tcp", "protocol": "TCP", "port": at.port() },
            ],
        });
        Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE)
            .patch(NAME, &parameters, &Patch::Apply(slice))
            .await?;
        Ok(())
    }
}

/// The usual port if it is free, else any that both protocols have.
async fn listen(address: IpAddr) -> io::Result<(UdpSocket, TcpListener)> {
    for port in [53, 0, 0, 0] {
        let Ok(datagrams) = UdpSocket::bind((address, port)).await else {
            continue;
        };
        let at = datagrams.local_addr()?;
        if let Ok(connections) = TcpListener::bind(at).await {
            return Ok((datagrams, connections));
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests;
