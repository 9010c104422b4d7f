//! Addresses for Services of type LoadBalancer: the host's own.
//!
//! One machine has one address, so two such Services cannot have the same port; nor can one take a
//! port that a program of the host listens on. Who comes too late is told by an event, and gets the
//! address when the port is free. A Service with a `loadBalancerClass` is somebody else's.

use std::{
    io,
    net::{IpAddr, TcpListener, UdpSocket},
    time::Duration,
};

use eyot_client::{Cache, Controller, EventType, Key, Reconciler, Recorder, Requeue};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use serde_json::json;

/// How often a Service without an address is looked at: what is in its way may be no object.
const PENDING: Duration = Duration::from_secs(10);

pub(crate) struct Balancers {
    client: Client,
    services: Cache<Service>,
    recorder: Recorder,
    host: IpAddr,
}

pub(crate) fn controller(
    client: &Client,
    services: &Cache<Service>,
    host: IpAddr,
) -> Controller<Balancers> {
    Controller::new(Balancers {
        client: client.clone(),
        services: services.clone(),
        recorder: Recorder::new(client.clone(), "service-controller"),
        host,
    })
    // One at a time: they look at each other.
    .concurrency(1)
    .on(services, |change| {
        let ours = change.before.is_some_and(|service| concerns(service))
            || change.after.is_some_and(|service| concerns(service));
        ours.then(|| change.key.clone())
    })
}

/// Whether the Service has, or should have, an address of this kind.
fn concerns(service: &Service) -> bool {
    wants(service) || !addresses(service).is_empty()
}

fn wants(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
    }) && service.metadata.deletion_timestamp.is_none()
}

fn is_foreign(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| spec.load_balancer_class.is_some())
}

fn addresses(service: &Service) -> Vec<&str> {
    let status = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let all = status.and_then(|balancer| balancer.ingress.as_deref());
    let all = all.unwrap_or_default().iter();
    all.filter_map(|ingress| ingress.ip.as_deref()).collect()
}

/// Protocol and number of each port.
fn ports(service: &Service) -> impl Iterator<Item = (&str, i32)> {
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| (port.protocol.as_deref().unwrap_or("TCP"), port.port))
}

/// Who among `others` has a port of `service` on `host` already.
fn rival<'a>(
    service: &Service,
    others: impl Iterator<Item = &'a Service>,
    host: &str,
) -> Option<(String, String)> {
    for other in others {
        if Resource::meta(other).uid == service.metadata.uid || !addresses(other).contains(&host) {
            continue;
        }
        if let Some((protocol, port)) = ports(service).find(|port| ports(other).any(|o| o == *port))
        {
            let meta = &other.metadata;
            let name = format!(
                "{}/{}",
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default()
            );
            return Some((format!("{port}/{protocol}"), name));
        }
    }
    None
}

/// Whether a program of the host listens there.
fn is_busy(host: IpAddr, protocol: &str, port: i32) -> bool {
    let Ok(port) = u16::try_from(port) else {
        return false;
    };
    let tried = match protocol {
        "TCP" => TcpListener::bind((host, port)).map(drop),
        "UDP" => UdpSocket::bind((host, port)).map(drop),
        _ => Ok(()),
    };
    tried.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

impl Reconciler for Balancers {
    type Error = kube::Error;

    fn name(&self) -> &'static str {
        "load_balancer"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, kube::Error> {
        let Some(service) = self.services.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let host = self.host.to_string();
        let has = addresses(&service);
        if !wants(&service) {
            if !has.is_empty() && !is_foreign(&service) {
                self.write(key, json!(null)).await?;
            }
            return Ok(Requeue::OnChange);
        }
        if has == [&*host] {
            return Ok(Requeue::OnChange);
        }
        let all = self.services.list();
        let in_the_way = match rival(&service, all.iter().map(|service| &**service), &host) {
            Some((port, name)) => Some(format!("port {port} of {host} belongs to service {name}")),
            None => ports(&service)
                .find(|(protocol, port)| is_busy(self.host, protocol, *port))
                .map(|(protocol, port)| {
                    format!("port {port}/{protocol} of {host} is in use by a program of this host")
                }),
        };
        if let Some(message) = in_the_way {
            self.recorder
                .event(
                    &service.object_ref(&()),
                    EventType::Warning,
                    "AddressPending",
                    &message,
                )
                .await;
            return Ok(Requeue::After(PENDING));
        }
        self.write(key, json!([{ "ip": host, "ipMode": "VIP" }]))
            .await?;
        let message = format!("Ensured load balancer at {host}");
        self.recorder
            .event(
                &service.object_ref(&()),
                EventType::Normal,
                "EnsuredLoadBalancer",
                &message,
            )
            .await;
        Ok(Requeue::OnChange)
    }
}

impl Balancers {
    async fn write(&self, key: &Key, ingress: serde_json::Value) -> Result<(), kube::Error> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
        match api
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, port: i32, ip: Option<&str>) -> Service {
        let ingress = ip.map(|ip| json!([{ "ip": ip }]));
        serde_json::from_value(json!({
            "metadata": {"namespace": "d", "name": name, "uid": name},
            "spec": {"type": "LoadBalancer", "ports": [{"port": port}]},
            "status": {"loadBalancer": {"ingress": ingress}},
        }))
        .unwrap()
    }

    #[test]
    fn a_port_of_the_host_goes_to_one_service() {
        let holder = service("a", 80, Some("192.0.2.1"));
        let others = [holder.clone(), service("b", 80, None)];
        let rival = |service: &Service| rival(service, others.iter(), "192.0.2.1");
        let held = Some(("80/TCP".to_owned(), "d/a".to_owned()));
        assert_eq!(rival(&service("c", 80, None)), held);
        assert_eq!(rival(&service("c", 81, None)), None);
        assert_eq!(rival(&holder), None, "not its own rival");
    }

    #[test]
    fn a_port_that_a_program_has_is_busy() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        assert!(is_busy(at.ip(), "TCP", i32::from(at.port())));
        drop(taken);
        assert!(!is_busy(at.ip(), "TCP", i32::from(at.port())));
        assert!(!is_busy(at.ip(), "TCP", 1 << 20));
    }
}
