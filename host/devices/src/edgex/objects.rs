//! The kinds of EdgeX's metadata that devices are made from, each in its cache: [`eyot_edgex::objects`].

use std::sync::Arc;

use eyot_api::{Device, DeviceProfile, DeviceService, ProvisionWatcher};
use eyot_edgex::{Cache, Objects};

pub(super) use eyot_edgex::objects::{missing, refused};

use super::{Edgex, body::Fields, reply::Failure};

/// A kind of object that the core services know.
pub(super) trait Entity: eyot_edgex::Entity {
    fn cache(edgex: &Edgex) -> &Cache<Self>;
}

macro_rules! entity {
    ($kind:ty, $cache:ident) => {
        impl Entity for $kind {
            fn cache(edgex: &Edgex) -> &Cache<Self> {
                &edgex.inner.$cache
            }
        }
    };
}

entity!(Device, devices);
entity!(DeviceProfile, profiles);
entity!(DeviceService, services);
entity!(ProvisionWatcher, watchers);

fn of<K: Entity>(edgex: &Edgex) -> Objects<'_, K> {
    Objects {
        client: &edgex.inner.client,
        namespace: &edgex.inner.namespace,
        cache: K::cache(edgex),
    }
}

pub(super) fn all<K: Entity>(edgex: &Edgex) -> Vec<Arc<K>> {
    of(edgex).all()
}

pub(super) fn find<K: Entity>(edgex: &Edgex, name: &str) -> Option<Arc<K>> {
    of(edgex).find(name)
}

pub(super) fn named<K: Entity>(edgex: &Edgex, name: &str) -> Result<Arc<K>, Failure> {
    of(edgex).named(name)
}

pub(super) fn identified<K: Entity>(edgex: &Edgex, id: &str) -> Result<Arc<K>, Failure> {
    of(edgex).identified(id)
}

/// The object that an update is about.
pub(super) fn updated<K: Entity>(edgex: &Edgex, content: &Fields) -> Result<Arc<K>, Failure> {
    eyot_edgex::objects::updated(&of(edgex), content)
}

pub(super) async fn add<K: Entity>(edgex: &Edgex, name: &str, object: K) -> Result<K, Failure> {
    of(edgex).add(name, object).await
}

pub(super) async fn change<K: Entity>(
    edgex: &Edgex,
    object: &K,
    edit: impl Fn(&mut K) -> Result<(), Failure>,
) -> Result<K, Failure> {
    of(edgex).change(object, edit).await
}

pub(super) async fn remove<K: Entity>(edgex: &Edgex, object: &K) -> Result<(), Failure> {
    of(edgex).remove(object).await
}
