//! Ends namespaces: a deleted one goes once everything in it is gone.
//!
//! Reads the namespace; deletes its contents, of every kind that is served; then takes back the
//! finalizer that keeps the namespace. What takes its time to go (pods that end in good order,
//! objects with finalizers) is waited for.

use std::time::Duration;

use eyot_client::{Cache, Key, Reconciler, Requeue};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};

use crate::{
    error::{Act, ControlError, is},
    resources::{self, Served},
};

/// The finalizer in `spec` that namespaces are born with.
const FINALIZER: &str = "kubernetes";
/// How often to look whether what was deleted is gone.
const AGAIN: Duration = Duration::from_millis(300);
/// Kinds that are cleared at once.
const AT_ONCE: usize = 8;

/// Whether new objects may still be made in it.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
}

pub(crate) struct Namespaces {
    pub(crate) client: Client,
    pub(crate) namespaces: Cache<Namespace>,
}

impl Reconciler for Namespaces {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "namespace"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let ending = |namespace: &Namespace| {
            let spec = namespace
                .spec
                .as_ref()
                .and_then(|spec| spec.finalizers.as_ref());
            namespace.metadata.deletion_timestamp.is_some()
                && spec.is_some_and(|all| all.iter().any(|found| found == FINALIZER))
        };
        let found = self
            .namespaces
            .get(key)
            .filter(|namespace| ending(namespace));
        let Some(namespace) = found else {
            return Ok(Requeue::OnChange);
        };
        let served = resources::discover(&self.client).await?;
        let inside = served.into_iter().filter(|served| served.namespaced);
        let left: Vec<usize> = futures::stream::iter(inside)
            .map(|served| self.clear(key, served))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        if left.iter().any(|count| *count > 0) {
            return Ok(Requeue::After(AGAIN));
        }
        self.clear_events(key).await?;
        self.let_go(key, &namespace).await?;
        Ok(Requeue::OnChange)
    }
}

impl Namespaces {
    /// Delete all objects of a kind; answers how many are still there.
    async fn clear(&self, key: &Key, served: Served) -> Result<usize, ControlError> {
        let api = served.within(&self.client, &key.name);
        let plural = &served.resource.plural;
        let listed = api.list_metadata(&ListParams::default()).await;
        // A kind that was just removed has no objects.
        let found = match listed {
            Err(error) if is(&error, 404) => return Ok(0),
            other => other.act(|| format!("listing {plural} of namespace {}", key.name))?,
        };
        let alive: Vec<_> = found
            .items
            .iter()
            .filter(|object| object.metadata.deletion_timestamp.is_none())
            .filter_map(|object| object.metadata.name.as_deref())
            .collect();
        if alive.is_empty() {
            return Ok(found.items.len());
        }
        let params = DeleteParams::background();
        if served.collections {
            let deleted = api.delete_collection(&params, &ListParams::default()).await;
            deleted.act(|| format!("deleting the {plural} of namespace {}", key.name))?;
        } else {
            for name in alive {
                let deleted = api.delete(name, &params).await;
                deleted.act_if_there(|| format!("deleting {plural} {}/{name}", key.name))?;
            }
        }
        Ok(found.items.len())
    }

    /// Events last: deleting the rest made some.
    async fn clear_events(&self, key: &Key) -> Result<(), ControlError> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &key.name);
        let all = ListParams::default();
        let deleted = events
            .delete_collection(&DeleteParams::default(), &all)
            .await;
        deleted.act_if_there(|| format!("deleting the events of namespace {}", key.name))
    }

    async fn let_go(&self, key: &Key, namespace: &Namespace) -> Result<(), ControlError> {
        let mut namespace = namespace.clone();
        if let Some(finalizers) = namespace
            .spec
            .as_mut()
            .and_then(|spec| spec.finalizers.as_mut())
        {
            finalizers.retain(|found| found != FINALIZER);
        }
        let act = || format!("finalizing namespace {}", key.name);
        let api: Api<Namespace> = Api::all(self.client.clone());
        let params = PostParams::default();
        let done = api
            .replace_subresource("finalize", &key.name, &params, &namespace)
            .await;
        done.map(|_: Namespace| ()).act_if_there(act)
    }
}
