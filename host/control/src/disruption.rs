//! Reckons how many pods of a PodDisruptionBudget may be evicted.
//!
//! Reads budgets, their pods, and the scale of the pods' controllers; writes the budgets' status.
//! Granting an eviction is the API's business: it takes it off `disruptionsAllowed` in the same
//! write in which it notes the pod, and what is written here is written against that.

mod plan;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use eyot_client::{Cache, Change, Key, Reconciler, Requeue, view::Pod};
use jiff::Timestamp;
use k8s_openapi::{
    api::policy::v1::PodDisruptionBudget,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
    core::{Selector, SelectorExt},
};

use crate::{
    announce::Announcer,
    clock,
    error::{Act, ControlError, is},
    owner, pod,
};

pub(crate) struct Disruptions {
    pub(crate) client: Client,
    pub(crate) budgets: Cache<PodDisruptionBudget>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) announcer: Announcer,
}

impl Reconciler for Disruptions {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "disruption"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(budget) = self.budgets.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| selects(&budget, &pod.metadata));
        let scale = match plan::needs_scale(&budget) {
            true => self.scale(&key.namespace, &pods).await?,
            false => Ok(0),
        };
        // Whole seconds, as they are stored.
        let now = clock::now();
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let plan = plan::plan(&budget, &pods, scale, now);
        for pod in &plan.stayed {
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.announcer.warning(&**pod, "NotDeleted", message);
        }
        if budget.status.as_ref() != Some(&plan.status) {
            if pods.is_empty() {
                let message = "No matching pods found".to_owned();
                self.announcer.normal(&*budget, "NoPods", message);
            }
            let mut budget = (*budget).clone();
            budget.status = Some(plan.status);
            let api: Api<PodDisruptionBudget> =
                Api::namespaced(self.client.clone(), &key.namespace);
            let params = PostParams::default();
            let written = api.replace_status(&key.name, &params, &budget).await;
            written.act_if_there(|| format!("writing the status of budget {key}"))?;
        }
        Ok(plan.again.map_or(Requeue::OnChange, Requeue::After))
    }
}

impl Disruptions {
    /// How many pods there should be by their controllers, each counted once; or why that cannot
    /// be said.
    async fn scale(
        &self,
        namespace: &str,
        pods: &[Arc<Pod>],
    ) -> Result<Result<i32, String>, ControlError> {
        let mut controllers: BTreeMap<&str, (&OwnerReference, &str)> = BTreeMap::new();
        for pod in pods {
            // Pods of nobody are not counted.
            if let Some(owner) = owner::controller(&pod.metadata) {
                let pod = pod.metadata.name.as_deref().unwrap_or_default();
                controllers.entry(&owner.uid).or_insert((owner, pod));
            }
        }
        let mut scales: BTreeMap<String, i32> = BTreeMap::new();
        for (owner, pod) in controllers.into_values() {
            match self.scale_of(namespace, owner).await? {
                Some((uid, scale)) => scales.insert(uid, scale),
                None => return Ok(Err(format!("found no controllers for pod {pod:?}"))),
            };
        }
        Ok(Ok(scales.into_values().fold(0, i32::saturating_add)))
    }

    /// The scale of a controller, or of its own, if it is a Deployment's ReplicaSet.
    async fn scale_of(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<Option<(String, i32)>, ControlError> {
        let mut owner = owner.clone();
        if owner.kind == "ReplicaSet" {
            let act = || format!("looking for ReplicaSet {}", owner.name);
            let found = self.api(namespace, &owner).get_opt(&owner.name).await;
            let Some(set) = found.act(act)? else {
                return Ok(None);
            };
            let above = owner::controller(&set.metadata).cloned();
            owner = above
                .filter(|above| above.kind == "Deployment")
                .unwrap_or(owner);
        }
        let found = self.api(namespace, &owner).get_scale(&owner.name).await;
        match found {
            Err(error) if is(&error, 404) => Ok(None),
            found => {
                let scale = found.act(|| format!("reading the scale of {}", owner.name))?;
                let same = scale.metadata.uid.as_ref() == Some(&owner.uid);
                let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
                Ok(same.then_some((owner.uid, replicas)))
            }
        }
    }

    fn api(&self, namespace: &str, owner: &OwnerReference) -> Api<DynamicObject> {
        let (group, version) = match owner.api_version.split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", owner.api_version.as_str()),
        };
        let kind = GroupVersionKind::gvk(group, version, &owner.kind);
        Api::namespaced_with(
            self.client.clone(),
            namespace,
            &ApiResource::from_gvk(&kind),
        )
    }
}

/// Without a selector a budget has no pods, with an empty one all of its namespace.
fn selects(budget: &PodDisruptionBudget, meta: &ObjectMeta) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone());
    let selector: Option<Selector> = selector.and_then(|selector| selector.try_into().ok());
    let none = Default::default();
    let labels = meta.labels.as_ref().unwrap_or(&none);
    selector.is_some_and(|selector| selector.matches(labels))
}

/// The budgets that a change of a pod concerns.
pub(crate) fn of_pod(budgets: &Cache<PodDisruptionBudget>, change: &Change<'_, Pod>) -> Vec<Key> {
    if let (Some(before), Some(after)) = (change.before, change.after)
        && reduced(before) == reduced(after)
    {
        return Vec::new();
    }
    let both = [change.before, change.after];
    let all = budgets.list_in(&change.key.namespace).into_iter();
    all.filter(|budget| {
        both.into_iter()
            .flatten()
            .any(|pod| selects(budget, &pod.metadata))
    })
    .map(|budget| Key::of(&budget.metadata))
    .collect()
}

/// What of a pod a budget looks at.
fn reduced(pod: &Pod) -> impl PartialEq + use<'_> {
    (
        &pod.metadata.uid,
        &pod.metadata.labels,
        &pod.metadata.owner_references,
        pod.metadata.deletion_timestamp.is_some(),
        pod::is_ready(pod),
    )
}
