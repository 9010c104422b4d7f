//! Tells where a Service's pods are: EndpointSlices, which kube-proxy, DNS and ingress read.
//!
//! Reads Services with a selector, Pods and Nodes; writes the slices that carry its name in the
//! label `endpointslice.kubernetes.io/managed-by`. Slices of hand-written Endpoints are
//! [`mirror`]'s, slices with any other manager are nobody's here.

mod desired;
pub(crate) mod mirror;
mod pack;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use eyot_client::{Cache, Change, Key, Reconciler, Requeue, view::Pod};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};

use self::pack::Write;
use crate::{
    announce::Announcer,
    error::{Act, ControlError, is, is_namespace_ending, said},
    owner, service, trigger,
};

/// The label that names the Service (or the Endpoints) that a slice belongs to.
const SERVICE: &str = "kubernetes.io/service-name";
/// The label that says who writes a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints in one slice, as Kubernetes' default.
const PER_SLICE: usize = 100;

pub(crate) struct EndpointSlices {
    pub(crate) client: Client,
    pub(crate) services: Cache<Service>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) slices: Cache<EndpointSlice>,
    pub(crate) announcer: Announcer,
}

impl Reconciler for EndpointSlices {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "endpoint-slice"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        // The slices of a Service that is gone are the garbage collector's.
        let Some(service) = self.services.get(key) else {
            return Ok(Requeue::OnChange);
        };
        if service::selector(&service).is_none() {
            return Ok(Requeue::OnChange);
        }
        let pods = self.pods.list_in(&key.namespace);
        let nodes = |name: &str| self.nodes.get(&Key::new("", name));
        let held = slices_of(&self.slices, key, MANAGER);
        let wanted = desired::desired(&service, &pods, &nodes);
        let head = pack::Head {
            owner: owner::reference(&*service),
            namespace: &key.namespace,
            labels: labels(&service),
            annotations: None,
            trigger: trigger::time(
                &service,
                &pods,
                held.iter().map(|slice| slice.metadata.annotations.as_ref()),
            ),
            per_slice: PER_SLICE,
            placeholder: true,
        };
        let taken = names_in(&self.slices, &key.namespace);
        let mut writes = pack::plan(&head, wanted, &held, &|name| taken.contains(name));
        if service.metadata.deletion_timestamp.is_some() {
            writes.retain(|write| !matches!(write, Write::Create(_)));
        }
        if let Err(error) = apply(&self.client, &key.namespace, writes).await {
            let message = format!(
                "Error updating Endpoint Slices for Service {key}: {}",
                said(&error.source)
            );
            self.announcer
                .warning(&*service, "FailedToUpdateEndpointSlices", message);
            return Err(error);
        }
        Ok(Requeue::OnChange)
    }
}

/// The labels of a Service's slices: the Service's own, and those by which slices are found.
fn labels(of: &Service) -> BTreeMap<String, String> {
    let mut labels = of.metadata.labels.clone().unwrap_or_default();
    labels.remove(service::HEADLESS);
    if service::is_headless(of) {
        labels.insert(service::HEADLESS.to_owned(), String::new());
    }
    mark(
        labels,
        of.metadata.name.as_deref().unwrap_or_default(),
        MANAGER,
    )
}

fn mark(
    mut labels: BTreeMap<String, String>,
    name: &str,
    manager: &str,
) -> BTreeMap<String, String> {
    labels.insert(SERVICE.to_owned(), name.to_owned());
    labels.insert(MANAGED_BY.to_owned(), manager.to_owned());
    labels
}

/// Whether a node came, went or moved, so that endpoints on it change.
pub(crate) fn moves(change: &Change<'_, Node>) -> bool {
    let zone = |node: &Arc<Node>| {
        let labels = node.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(desired::ZONE).cloned())
    };
    change.before.map(zone) != change.after.map(zone)
}

/// The Service (or Endpoints) that a slice of this manager belongs to.
pub(crate) fn of_slice(slice: &EndpointSlice) -> Option<Key> {
    managed(slice, MANAGER)
}

fn managed(slice: &EndpointSlice, manager: &str) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let name = labels.get(SERVICE)?;
    let namespace = slice.metadata.namespace.as_deref()?;
    (labels.get(MANAGED_BY)? == manager).then(|| Key::new(namespace, name))
}

fn slices_of(slices: &Cache<EndpointSlice>, key: &Key, manager: &str) -> Vec<Arc<EndpointSlice>> {
    let mut found = slices.list_in(&key.namespace);
    found.retain(|slice| managed(slice, manager).as_ref() == Some(key));
    found
}

fn names_in(slices: &Cache<EndpointSlice>, namespace: &str) -> std::collections::HashSet<String> {
    let all = slices.list_in(namespace).into_iter();
    all.filter_map(|slice| slice.metadata.name.clone())
        .collect()
}

async fn apply(client: &Client, namespace: &str, writes: Vec<Write>) -> Result<(), ControlError> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    for write in writes {
        match write {
            Write::Create(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                match api.create(&PostParams::default(), &slice).await {
                    // An earlier pass did it, and the cache has not seen it yet.
                    Err(error) if is(&error, 409) => {}
                    Err(error) if is_namespace_ending(&error) => return Ok(()),
                    done => done.act_if_there(|| format!("creating endpoint slice {name}"))?,
                }
            }
            Write::Replace(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                match api.replace(&name, &PostParams::default(), &slice).await {
                    // Somebody else wrote it: that is a change, which comes here too.
                    Err(error) if is(&error, 409) => {}
                    done => done.act_if_there(|| format!("writing endpoint slice {name}"))?,
                }
            }
            Write::Delete(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                let params = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: slice.metadata.uid.clone(),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                match api.delete(&name, &params).await {
                    Err(error) if is(&error, 409) => {}
                    done => done.act_if_there(|| format!("deleting endpoint slice {name}"))?,
                }
            }
        }
    }
    Ok(())
}
