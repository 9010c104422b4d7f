//! What the endpoint controllers ask about Services and the pods behind them.

use std::{collections::BTreeMap, sync::Arc};

use eyot_client::{Cache, Change, Key, view::Pod};
use k8s_openapi::{
    api::core::v1::{ContainerPort, ObjectReference, Service, ServicePort},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use crate::pod;

/// The label that tells Endpoints and slices of a Service without an address of its own.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// The labels that a Service's pods carry, if it selects any: one without a selector, or that is
/// only another name, has its endpoints from elsewhere.
pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|labels| !labels.is_empty())
}

pub(crate) fn selects(service: &Service, meta: &ObjectMeta) -> bool {
    let labels = meta.labels.as_ref();
    let carries = |(k, v)| labels.is_some_and(|labels| labels.get(k) == Some(v));
    selector(service).is_some_and(|wanted| wanted.iter().all(carries))
}

/// It has no address of its own: clients talk to the pods directly.
pub(crate) fn is_headless(service: &Service) -> bool {
    let address = service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref());
    matches!(address, None | Some("" | "None"))
}

pub(crate) fn ports(service: &Service) -> &[ServicePort] {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default()
}

/// Whether pods that are not ready (yet, or any more) are to be found too.
pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// The Service's address families, the main one first; `IPv4` if it has none.
pub(crate) fn families(service: &Service) -> Vec<&str> {
    let spec = service.spec.as_ref();
    let families = spec.and_then(|spec| spec.ip_families.as_ref());
    match families.filter(|families| !families.is_empty()) {
        Some(families) => families.iter().map(String::as_str).collect(),
        None => vec!["IPv4"],
    }
}

/// `IPv4` or `IPv6`; anything else is neither.
pub(crate) fn family(address: &str) -> Option<&'static str> {
    match address.parse().ok()? {
        std::net::IpAddr::V4(_) => Some("IPv4"),
        std::net::IpAddr::V6(_) => Some("IPv6"),
    }
}

/// The pod's addresses.
pub(crate) fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let all: Vec<&str> = status
        .pod_ips
        .iter()
        .flatten()
        .map(|ip| ip.ip.as_str())
        .collect();
    match all.is_empty() {
        true => status.pod_ip.as_deref().into_iter().collect(),
        false => all,
    }
}

/// Where on the pod the port of a Service leads, if its containers have it.
pub(crate) fn target(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let named = |found: &&ContainerPort| {
        found.name.as_ref() == Some(name) && protocol(&found.protocol) == protocol(&port.protocol)
    };
    let mut ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    ports.find(named).map(|found| found.container_port)
}

pub(crate) fn protocol(given: &Option<String>) -> &str {
    given.as_deref().unwrap_or("TCP")
}

/// The host name that DNS gives a pod of a headless Service, if the Service is the pod's subdomain.
pub(crate) fn host_name(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let ours = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname
        .clone()
        .filter(|name| ours && !name.is_empty())
}

pub(crate) fn pod_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The Services whose endpoints a change of a pod may touch: those that select it, or did.
pub(crate) fn of_pod(services: &Cache<Service>, change: &Change<'_, Pod>) -> Vec<Key> {
    if let (Some(before), Some(after)) = (change.before, change.after)
        && reduced(before) == reduced(after)
    {
        return Vec::new();
    }
    let both = [change.before, change.after];
    let mut keys = Vec::new();
    for service in services.list_in(&change.key.namespace) {
        let touched = |pod: &Arc<Pod>| selects(&service, &pod.metadata);
        if both.into_iter().flatten().any(touched) {
            keys.push(Key::of(&service.metadata));
        }
    }
    keys
}

/// What of a pod shows in endpoints.
fn reduced(pod: &Pod) -> impl PartialEq + use<'_> {
    (
        addresses(pod),
        pod::node(pod),
        pod::is_ready(pod),
        pod::has_ended(pod),
        pod.metadata.deletion_timestamp.is_some(),
        &pod.metadata.labels,
        &pod.metadata.uid,
    )
}
