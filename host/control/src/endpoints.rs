//! Tells where a Service's pods are in the older form: one Endpoints object of the Service's name.
//!
//! Reads Services with a selector and Pods; writes Endpoints, and deletes those of deleted Services.
//! Endpoints of Services without a selector are written by hand, and left alone.

mod subsets;

use std::collections::BTreeMap;

use eyot_client::{Cache, Change, Key, Reconciler, Requeue, view::Pod};
use k8s_openapi::{
    api::core::v1::{Endpoints, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};

use crate::{
    announce::Announcer,
    error::{Act, ControlError, is, is_namespace_ending, said},
    service, trigger,
};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// The annotation of Endpoints that could not name all addresses.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

pub(crate) struct AllEndpoints {
    pub(crate) client: Client,
    pub(crate) services: Cache<Service>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) endpoints: Cache<Endpoints>,
    pub(crate) announcer: Announcer,
}

impl Reconciler for AllEndpoints {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "endpoints"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let held = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            if let Some(held) = held {
                self.delete(key, &held).await?;
            }
            return Ok(Requeue::OnChange);
        };
        if service::selector(&service).is_none() {
            return Ok(Requeue::OnChange);
        }
        let pods = self.pods.list_in(&key.namespace);
        let Some(wanted) = plan(&service, &pods, held.as_deref()) else {
            return Ok(Requeue::OnChange);
        };
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let (params, name) = (PostParams::default(), &key.name);
        let (written, reason, verb) = match held {
            None => (
                api.create(&params, &wanted).await,
                "FailedToCreateEndpoint",
                "create",
            ),
            Some(_) => {
                let written = api.replace(name, &params, &wanted).await;
                (written, "FailedToUpdateEndpoint", "update")
            }
        };
        match written {
            // Somebody else wrote it: that is a change, which comes here too.
            Err(error) if is(&error, 409) || is_namespace_ending(&error) => {}
            Err(error) => {
                let message = format!("Failed to {verb} endpoint {key}: {}", said(&error));
                self.announcer.warning(&*service, reason, message);
                Err::<(), _>(error).act_if_there(|| format!("writing endpoints {key}"))?;
            }
            Ok(_) => {}
        }
        Ok(Requeue::OnChange)
    }
}

impl AllEndpoints {
    async fn delete(&self, key: &Key, held: &Endpoints) -> Result<(), ControlError> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: held.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &params).await {
            Err(error) if is(&error, 409) => Ok(()),
            deleted => deleted.act_if_there(|| format!("deleting endpoints {key}")),
        }
    }
}

/// Endpoints that this controller wrote concern it when they change: they may be wrong now, or
/// left behind by a Service that went while nobody looked.
pub(crate) fn of_endpoints(change: &Change<'_, Endpoints>) -> Option<Key> {
    let ours = |endpoints: &Endpoints| {
        let labels = endpoints.metadata.labels.as_ref();
        labels.is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER))
    };
    let both = [change.before, change.after];
    both.into_iter()
        .flatten()
        .any(|endpoints| ours(endpoints))
        .then(|| change.key.clone())
}

/// The Endpoints that the Service should have, if they are not those that it has.
fn plan(
    service: &Service,
    pods: &[std::sync::Arc<Pod>],
    held: Option<&Endpoints>,
) -> Option<Endpoints> {
    let (subsets, whole) = subsets::of(service, pods);
    let mut labels: BTreeMap<String, String> = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(service::HEADLESS);
    if service::is_headless(service) {
        labels.insert(service::HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut wanted = held.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    let mut annotations = wanted.metadata.annotations.take().unwrap_or_default();
    match whole {
        true => annotations.remove(OVER_CAPACITY),
        false => annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned()),
    };
    wanted.metadata.annotations = Some(annotations).filter(|all| !all.is_empty());
    wanted.metadata.labels = Some(labels);
    wanted.subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    let same = held.is_some_and(|held| {
        let mut held = held.clone();
        held.subsets = held.subsets.filter(|subsets| !subsets.is_empty());
        held.metadata.annotations = held.metadata.annotations.filter(|all| !all.is_empty());
        held == wanted
    });
    if same {
        return None;
    }
    let written = held.map(|held| held.metadata.annotations.as_ref());
    if let Some(trigger) = trigger::time(service, pods, written.into_iter()) {
        let annotations = wanted.metadata.annotations.get_or_insert_default();
        annotations.insert(trigger::ANNOTATION.to_owned(), trigger);
    }
    Some(wanted)
}

#[cfg(test)]
mod tests;
