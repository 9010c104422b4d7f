//! Ends namespaces: a deleted one goes once everything in it is gone.
//!
//! Reads the namespace; deletes its pods, and once they are gone everything else, of every kind that
//! is served; then takes back the finalizer that keeps the namespace. What takes its time to go (pods
//! that end in good order, objects with finalizers) is waited for, and the namespace's conditions
//! tell what that is ([`conditions`]).

mod conditions;

use std::{collections::BTreeMap, time::Duration};

use eyot_client::{Cache, Key, Reconciler, Requeue};
use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{Event, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
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

/// What a pass over a namespace found still there.
#[derive(Debug, Default)]
struct Left {
    /// How many objects, by `plural.group`.
    objects: BTreeMap<String, usize>,
    /// How many of them each finalizer keeps.
    finalizers: BTreeMap<String, usize>,
    /// What could not be listed or deleted.
    errors: Vec<ControlError>,
}

impl Left {
    fn nothing(&self) -> bool {
        self.objects.is_empty() && self.errors.is_empty()
    }

    fn count(&mut self, served: &Served, found: Result<Vec<Vec<String>>, ControlError>) {
        let objects = match found {
            Ok(objects) if objects.is_empty() => return,
            Ok(objects) => objects,
            Err(error) => return self.errors.push(error),
        };
        let resource = &served.resource;
        let name = format!("{}.{}", resource.plural, resource.group);
        self.objects.insert(name, objects.len());
        for finalizer in objects.into_iter().flatten() {
            *self.finalizers.entry(finalizer).or_default() += 1;
        }
    }
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
        let served = match resources::discover(&self.client).await {
            Ok(served) => served,
            Err(error) => {
                let words = error.to_string();
                self.tell(key, &namespace, conditions::undiscovered(&words))
                    .await?;
                return Err(error);
            }
        };
        let inside = served.into_iter().filter(|served| served.namespaced);
        let (pods, others): (Vec<_>, Vec<_>) = inside.partition(|served| served.is("", "Pod"));
        // What pods live on (their volumes, their rights, the policies they are held to) stays until
        // the last of them has ended.
        let mut left = self.clear_all(key, pods).await;
        if left.nothing() {
            left = self.clear_all(key, others).await;
        }
        if left.nothing() {
            self.clear_events(key).await?;
            self.let_go(key, &namespace).await?;
            return Ok(Requeue::OnChange);
        }
        self.tell(key, &namespace, conditions::of(&left)).await?;
        match left.errors.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(Requeue::After(AGAIN)),
        }
    }
}

impl Namespaces {
    async fn clear_all(&self, key: &Key, all: Vec<Served>) -> Left {
        let cleared = futures::stream::iter(all)
            .map(async |served| {
                let found = self.clear(key, &served).await;
                (served, found)
            })
            .buffer_unordered(AT_ONCE);
        let count = async |mut left: Left, (served, found)| {
            left.count(&served, found);
            left
        };
        cleared.fold(Left::default(), count).await
    }

    /// Delete all objects of a kind; answers the finalizers of each that is still there.
    async fn clear(&self, key: &Key, served: &Served) -> Result<Vec<Vec<String>>, ControlError> {
        let api = served.within(&self.client, &key.name);
        let plural = &served.resource.plural;
        let found = self.list(key, &api, plural).await?;
        let alive: Vec<_> = found
            .iter()
            .filter(|object| object.deletion_timestamp.is_none())
            .filter_map(|object| object.name.as_deref())
            .collect();
        if alive.is_empty() {
            return Ok(finalizers(found));
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
        Ok(finalizers(self.list(key, &api, plural).await?))
    }

    async fn list(
        &self,
        key: &Key,
        api: &Api<DynamicObject>,
        plural: &str,
    ) -> Result<Vec<ObjectMeta>, ControlError> {
        match api.list_metadata(&ListParams::default()).await {
            // A kind that was just removed has no objects.
            Err(error) if is(&error, 404) => Ok(Vec::new()),
            listed => {
                let list = listed.act(|| format!("listing {plural} of namespace {}", key.name))?;
                Ok(list.items.into_iter().map(|item| item.metadata).collect())
            }
        }
    }

    /// Write the conditions, if they differ from what the namespace says already.
    async fn tell(
        &self,
        key: &Key,
        namespace: &Namespace,
        wanted: Vec<conditions::Condition>,
    ) -> Result<(), ControlError> {
        let Some(changed) = conditions::changed(namespace, wanted, jiff::Timestamp::now()) else {
            return Ok(());
        };
        let api: Api<Namespace> = Api::all(self.client.clone());
        let params = PatchParams::default();
        let told = api
            .patch_status(&key.name, &params, &Patch::Strategic(changed))
            .await;
        told.act_if_there(|| format!("telling what namespace {} waits for", key.name))
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

fn finalizers(found: Vec<ObjectMeta>) -> Vec<Vec<String>> {
    let finalizers = found.into_iter().map(|object| object.finalizers);
    finalizers.map(Option::unwrap_or_default).collect()
}
