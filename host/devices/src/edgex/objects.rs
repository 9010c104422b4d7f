//! EdgeX's metadata as objects of the Kubernetes API.
//!
//! A device, profile, device service or provision watcher of EdgeX is a custom resource of one
//! namespace. It has EdgeX's name in `spec.name` where Kubernetes would not take that for the
//! object's own. Reading is from the local copy; writing goes through the API, so that validation,
//! admission and everybody's watch see it, and waits until the local copy has it.

use std::{borrow::Cow, fmt::Debug, sync::Arc};

use eyot_api::{Device, DeviceProfile, DeviceService, ProvisionWatcher, object_name};
use http::StatusCode;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, PostParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Edgex, reply::Failure};
use crate::catalog::Cache;

/// How often a change is tried again when somebody else was faster.
const TRIES: usize = 5;

/// A kind of object that EdgeX knows.
pub(super) trait Entity:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
    /// How EdgeX's messages call it.
    const CALLED: &'static str;

    fn cache(edgex: &Edgex) -> &Cache<Self>;
    /// By which EdgeX's clients know it.
    fn edgex_name(&self) -> Cow<'_, str>;
    fn name_in_spec(&mut self) -> &mut Option<String>;
    fn labels(&self) -> &[String];
}

macro_rules! entity {
    ($kind:ty, $called:literal, $cache:ident) => {
        impl Entity for $kind {
            const CALLED: &'static str = $called;

            fn cache(edgex: &Edgex) -> &Cache<Self> {
                &edgex.inner.$cache
            }

            fn edgex_name(&self) -> Cow<'_, str> {
                self.edgex_name()
            }

            fn name_in_spec(&mut self) -> &mut Option<String> {
                &mut self.spec.name
            }

            fn labels(&self) -> &[String] {
                &self.spec.labels
            }
        }
    };
}

entity!(Device, "device", devices);
entity!(DeviceProfile, "device profile", profiles);
entity!(DeviceService, "device service", services);
entity!(ProvisionWatcher, "provision watcher", watchers);

/// All of a kind, by their EdgeX names.
pub(super) fn all<K: Entity>(edgex: &Edgex) -> Vec<Arc<K>> {
    let mut all = K::cache(edgex).all_in(&edgex.inner.namespace);
    all.retain(|object| object.meta().deletion_timestamp.is_none());
    all.sort_by(|a, b| a.edgex_name().cmp(&b.edgex_name()));
    all
}

/// The one of that EdgeX name, or of that object name if no EdgeX name is given.
pub(super) fn find<K: Entity>(edgex: &Edgex, name: &str) -> Option<Arc<K>> {
    let here =
        |object: &Arc<K>| object.meta().deletion_timestamp.is_none() && object.edgex_name() == name;
    let namespace = &edgex.inner.namespace;
    let cache = K::cache(edgex);
    let direct = cache.get(namespace, name).filter(here);
    direct.or_else(|| cache.all_in(namespace).into_iter().find(here))
}

pub(super) fn named<K: Entity>(edgex: &Edgex, name: &str) -> Result<Arc<K>, Failure> {
    find(edgex, name).ok_or_else(|| missing::<K>(name))
}

pub(super) fn missing<K: Entity>(name: &str) -> Failure {
    Failure::not_found(format!("{} {name} does not exist", K::CALLED))
}

/// The one with that identifier, which is the object's uid.
pub(super) fn identified<K: Entity>(edgex: &Edgex, id: &str) -> Result<Arc<K>, Failure> {
    let found = all::<K>(edgex)
        .into_iter()
        .find(|object| object.meta().uid.as_deref() == Some(id));
    found.ok_or_else(|| Failure::not_found(format!("no {} has the id {id}", K::CALLED)))
}

fn api<K: Entity>(edgex: &Edgex) -> Api<K> {
    Api::namespaced(edgex.inner.client.clone(), &edgex.inner.namespace)
}

/// Store a new object under its EdgeX name; 409 if there is one.
pub(super) async fn add<K: Entity>(edgex: &Edgex, name: &str, mut object: K) -> Result<K, Failure> {
    if find::<K>(edgex, name).is_some() {
        return Err(Failure::conflict(format!(
            "{} name {name} already exists",
            K::CALLED
        )));
    }
    let fit = object_name(name);
    *object.name_in_spec() = (fit != name).then(|| name.to_owned());
    object.meta_mut().name = Some(fit.clone());
    let api = api::<K>(edgex);
    let stored = match api.create(&PostParams::default(), &object).await {
        // Another EdgeX name has become the same.
        Err(kube::Error::Api(status)) if status.code == 409 && fit != name => {
            let mark: u32 = rand::random();
            let longest = 253 - 9;
            let start = fit.get(..longest.min(fit.len())).unwrap_or(&fit);
            object.meta_mut().name = Some(format!("{start}-{mark:08x}"));
            api.create(&PostParams::default(), &object).await
        }
        stored => stored,
    };
    let stored = stored.map_err(refused::<K>)?;
    K::cache(edgex).has(&stored).await;
    Ok(stored)
}

/// Change an object. `edit` may be called again if somebody else changes it meanwhile.
pub(super) async fn change<K: Entity>(
    edgex: &Edgex,
    object: &K,
    edit: impl Fn(&mut K) -> Result<(), Failure>,
) -> Result<K, Failure> {
    let api = api::<K>(edgex);
    let mut now = object.clone();
    for _ in 0..TRIES {
        edit(&mut now)?;
        match api
            .replace(&object.name_any(), &PostParams::default(), &now)
            .await
        {
            Ok(stored) => {
                K::cache(edgex).has(&stored).await;
                return Ok(stored);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                now = api.get(&object.name_any()).await.map_err(refused::<K>)?;
            }
            Err(error) => return Err(refused::<K>(error)),
        }
    }
    Err(Failure::conflict(format!(
        "{} {} is changed by others all the time; try again",
        K::CALLED,
        object.edgex_name()
    )))
}

/// Delete an object and wait until it is gone.
pub(super) async fn remove<K: Entity>(edgex: &Edgex, object: &K) -> Result<(), Failure> {
    let deleted = api::<K>(edgex)
        .delete(&object.name_any(), &DeleteParams::default())
        .await;
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        deleted => {
            deleted.map_err(refused::<K>)?;
        }
    }
    K::cache(edgex).lost(object).await;
    Ok(())
}

/// What EdgeX would answer where the Kubernetes API refused.
pub(super) fn refused<K: Entity>(error: kube::Error) -> Failure {
    let kube::Error::Api(status) = error else {
        return Failure::internal(error.to_string());
    };
    let code = match status.code {
        400 | 422 => StatusCode::BAD_REQUEST,
        403 => StatusCode::FORBIDDEN,
        404 => StatusCode::NOT_FOUND,
        409 => StatusCode::CONFLICT,
        413 => StatusCode::PAYLOAD_TOO_LARGE,
        429 | 503 | 504 => StatusCode::SERVICE_UNAVAILABLE,
        507 => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Failure {
        status: code,
        message: format!("{}: {}", K::CALLED, status.message),
    }
}
