//! Shows hand-written Endpoints as EndpointSlices, so that whoever reads slices sees them too.
//!
//! Reads Endpoints of Services without a selector; writes the slices that carry its name in the
//! label `endpointslice.kubernetes.io/managed-by`. Endpoints with the label
//! `endpointslice.kubernetes.io/skip-mirror: "true"` are left out.

use std::collections::HashSet;

use eyot_client::{Cache, Key, Reconciler, Requeue};
use k8s_openapi::api::{
    core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use kube::Client;

use super::{
    apply, mark, names_in,
    pack::{self, Group},
    slices_of,
};
use crate::{
    announce::Announcer,
    error::{ControlError, said},
    owner, service, trigger,
};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are a lock, not addresses.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that tell of the Endpoints as such.
const NOT_COPIED: [&str; 2] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    trigger::ANNOTATION,
];
/// Addresses of a subset that are mirrored.
const PER_SUBSET: usize = 1000;

pub(crate) struct Mirror {
    pub(crate) client: Client,
    pub(crate) services: Cache<Service>,
    pub(crate) endpoints: Cache<Endpoints>,
    pub(crate) slices: Cache<EndpointSlice>,
    pub(crate) announcer: Announcer,
}

/// The Endpoints that a slice of this manager mirrors.
pub(crate) fn of_slice(slice: &EndpointSlice) -> Option<Key> {
    super::managed(slice, MANAGER)
}

impl Reconciler for Mirror {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "endpoint-slice-mirroring"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(endpoints) = self.endpoints.get(key) else {
            // Their slices are the garbage collector's.
            return Ok(Requeue::OnChange);
        };
        let service = self.services.get(key);
        let by_hand = service.is_some_and(|service| is_by_hand(&service));
        let groups = match by_hand && is_mirrored(&endpoints) {
            true => groups(endpoints.subsets.as_deref().unwrap_or_default()),
            false => Vec::new(),
        };
        let held = slices_of(&self.slices, key, MANAGER);
        let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
        annotations.retain(|name, _| !NOT_COPIED.contains(&name.as_str()));
        let labels = endpoints.metadata.labels.clone().unwrap_or_default();
        let head = pack::Head {
            owner: owner::reference(&*endpoints),
            namespace: &key.namespace,
            labels: mark(labels, &key.name, MANAGER),
            annotations: Some(annotations),
            trigger: None,
            per_slice: PER_SUBSET,
            placeholder: false,
        };
        let taken = names_in(&self.slices, &key.namespace);
        let writes = pack::plan(&head, groups, &held, &|name| taken.contains(name));
        if let Err(error) = apply(&self.client, &key.namespace, writes).await {
            let message = format!(
                "Error updating Endpoint Slices for Endpoints {key}: {}",
                said(&error.source)
            );
            self.announcer
                .warning(&*endpoints, "FailedToUpdateEndpointSlices", message);
            return Err(error);
        }
        Ok(Requeue::OnChange)
    }
}

fn is_by_hand(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let selector = spec.and_then(|spec| spec.selector.as_ref());
    selector.is_none_or(|selector| selector.is_empty())
        && spec.and_then(|spec| spec.type_.as_deref()) != Some("ExternalName")
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skip = meta.labels.as_ref().and_then(|labels| labels.get(SKIP));
    let lock = meta.annotations.as_ref();
    skip.is_none_or(|skip| skip != "true") && lock.is_none_or(|all| !all.contains_key(LEADER))
}

/// Subsets as groups: those with the same ports share slices, and no address is in one twice.
pub(super) fn groups(subsets: &[EndpointSubset]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut seen = HashSet::new();
    for subset in subsets {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let others = subset.not_ready_addresses.iter().flatten();
        let all = ready.chain(others.map(|a| (a, false)));
        for (address, ready) in all.take(PER_SUBSET) {
            let Some(family) = service::family(&address.ip) else {
                continue;
            };
            let same = |group: &Group| group.family == family && group.ports == ports;
            let index = groups.iter().position(same).unwrap_or_else(|| {
                groups.push(Group {
                    ports: ports.clone(),
                    ..Group::empty(family)
                });
                groups.len() - 1
            });
            if seen.insert((index, address.ip.clone()))
                && let Some(group) = groups.get_mut(index)
            {
                group.endpoints.push(endpoint(address, ready));
            }
        }
    }
    groups
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten();
    ports
        .map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(service::protocol(&port.protocol).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}
