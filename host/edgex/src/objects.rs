//! EdgeX's metadata as objects of the Kubernetes API.
//!
//! A device, profile, subscription or schedule job of EdgeX is a custom resource of one namespace. It
//! has EdgeX's name in `spec.name` where Kubernetes would not take that for the object's own. Reading
//! is from the local copy; writing goes through the API, so that validation, admission and
//! everybody's watch see it, and waits until the local copy has it.

use std::{borrow::Cow, fmt::Debug, sync::Arc};

use eyot_api::{
    Device, DeviceProfile, DeviceService, ProvisionWatcher, ScheduleJob, Subscription, object_name,
};
use http::StatusCode;
use jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams},
    core::{NamespaceResourceScope, object::HasSpec},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value as Json, json};

use crate::{
    body::Fields,
    catalog::Cache,
    reply::{Done, Failure, Reply},
    request::Parsed,
};

/// How often a change is tried again when somebody else was faster.
const TRIES: usize = 5;

/// A kind of object that EdgeX knows.
pub trait Entity:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + HasSpec<Spec: PartialEq>
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

    /// By which EdgeX's clients know it.
    fn edgex_name(&self) -> Cow<'_, str>;
    fn name_in_spec(&mut self) -> &mut Option<String>;
    fn labels(&self) -> &[String];
}

macro_rules! entity {
    ($kind:ty, $called:literal) => {
        impl Entity for $kind {
            const CALLED: &'static str = $called;

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

entity!(Device, "device");
entity!(DeviceProfile, "device profile");
entity!(DeviceService, "device service");
entity!(ProvisionWatcher, "provision watcher");
entity!(ScheduleJob, "scheduled job");
entity!(Subscription, "subscription");

/// The objects of one kind in the namespace that EdgeX sees.
pub struct Objects<'a, K> {
    pub client: &'a Client,
    pub namespace: &'a str,
    pub cache: &'a Cache<K>,
}

impl<K: Entity> Objects<'_, K> {
    /// All of them, by their EdgeX names.
    pub fn all(&self) -> Vec<Arc<K>> {
        let mut all = self.cache.all_in(self.namespace);
        all.retain(|object| object.meta().deletion_timestamp.is_none());
        all.sort_by(|a, b| a.edgex_name().cmp(&b.edgex_name()));
        all
    }

    /// The one of that EdgeX name, or of that object name if no EdgeX name is given.
    pub fn find(&self, name: &str) -> Option<Arc<K>> {
        let here = |object: &Arc<K>| {
            object.meta().deletion_timestamp.is_none() && object.edgex_name() == name
        };
        let direct = self.cache.get(self.namespace, name).filter(here);
        direct.or_else(|| self.cache.all_in(self.namespace).into_iter().find(here))
    }

    pub fn named(&self, name: &str) -> Result<Arc<K>, Failure> {
        self.find(name).ok_or_else(|| missing::<K>(name))
    }

    /// The one with that identifier, which is the object's uid.
    pub fn identified(&self, id: &str) -> Result<Arc<K>, Failure> {
        let mut all = self.all().into_iter();
        let found = all.find(|object| object.meta().uid.as_deref() == Some(id));
        found.ok_or_else(|| Failure::not_found(format!("no {} has the id {id}", K::CALLED)))
    }

    fn api(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    /// Store a new object under its EdgeX name; 409 if there is one.
    pub async fn add(&self, name: &str, mut object: K) -> Result<K, Failure> {
        if self.find(name).is_some() {
            return Err(Failure::conflict(format!(
                "{} name {name} already exists",
                K::CALLED
            )));
        }
        let fit = object_name(name);
        *object.name_in_spec() = (fit != name).then(|| name.to_owned());
        object.meta_mut().name = Some(fit.clone());
        let api = self.api();
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
        self.cache.has(&stored).await;
        Ok(stored)
    }

    /// Change an object. `edit` may be called again if somebody else changes it meanwhile.
    pub async fn change(
        &self,
        object: &K,
        edit: impl Fn(&mut K) -> Result<(), Failure>,
    ) -> Result<K, Failure> {
        let api = self.api();
        let mut now = object.clone();
        for _ in 0..TRIES {
            edit(&mut now)?;
            match api
                .replace(&object.name_any(), &PostParams::default(), &now)
                .await
            {
                Ok(stored) => {
                    self.cache.has(&stored).await;
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
    pub async fn remove(&self, object: &K) -> Result<(), Failure> {
        let deleted = self
            .api()
            .delete(&object.name_any(), &DeleteParams::default())
            .await;
        match deleted {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => {
                deleted.map_err(refused::<K>)?;
            }
        }
        self.cache.lost(object).await;
        Ok(())
    }
}

/// The object that an update is about: by its id, or else by its name; a name beside the id must be
/// the object's.
pub fn updated<K: Entity>(objects: &Objects<'_, K>, content: &Fields) -> Result<Arc<K>, Failure> {
    let text = |name: &str| content.get(name).and_then(Json::as_str);
    let name = text("name");
    let object = match text("id").filter(|id| !id.trim().is_empty()) {
        Some(id) => objects.identified(id)?,
        None => objects.named(name.unwrap_or_default())?,
    };
    if let Some(name) = name
        && name != object.edgex_name()
    {
        return Err(Failure::bad_request(format!(
            "{} name '{name}' does not match the existing '{}'",
            K::CALLED,
            object.edgex_name()
        )));
    }
    Ok(object)
}

/// One page of what is wanted, under `field`: those that have all labels which the query names.
pub fn page<K: Entity>(
    request: &Parsed,
    field: &str,
    mut all: Vec<Arc<K>>,
    shown: impl Fn(&K) -> Json,
) -> Result<Reply, Failure> {
    let labels = request.labels();
    all.retain(|object| labels.iter().all(|label| object.labels().contains(label)));
    let (total, page) = request.page()?.of(all)?;
    let page: Vec<Json> = page.iter().map(|object| shown(object)).collect();
    Ok(Reply::ok(json!({ "totalCount": total, field: page })))
}

/// The name that a new object is asked to have, taken out of its content with what it may not say.
pub fn new_name(content: &mut Fields) -> String {
    for kept in ["id", "created", "modified"] {
        content.remove(kept);
    }
    match content.remove("name") {
        Some(Json::String(name)) => name,
        _ => String::new(),
    }
}

pub fn created<K: Entity>(object: &K) -> Done {
    Done::Created(object.meta().uid.clone().unwrap_or_default())
}

/// When somebody last asked for something else; statuses do not count.
pub fn modified(metadata: &ObjectMeta) -> Option<Timestamp> {
    let fields = metadata.managed_fields.iter().flatten();
    let written = fields
        .filter(|by| by.subresource.as_deref().unwrap_or_default().is_empty())
        .filter_map(|by| by.time.as_ref());
    let times = written.chain(&metadata.creation_timestamp);
    times.map(|time| time.0).max()
}

/// A spec as EdgeX shows it, with what EdgeX keeps beside it.
pub fn shown(spec: &impl Serialize, name: &str, metadata: &ObjectMeta) -> Json {
    let mut json = serde_json::to_value(spec).unwrap_or_default();
    json["name"] = name.into();
    if let Some(uid) = &metadata.uid {
        json["id"] = uid.as_str().into();
    }
    if let Some(created) = &metadata.creation_timestamp {
        json["created"] = created.0.as_millisecond().into();
    }
    if let Some(modified) = modified(metadata) {
        json["modified"] = modified.as_millisecond().into();
    }
    json
}

pub fn missing<K: Entity>(name: &str) -> Failure {
    Failure::not_found(format!("{} {name} does not exist", K::CALLED))
}

/// What EdgeX would answer where the Kubernetes API refused.
pub fn refused<K: Entity>(error: kube::Error) -> Failure {
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
