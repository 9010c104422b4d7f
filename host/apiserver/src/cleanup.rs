//! What remains of a deleted CustomResourceDefinition: its objects are deleted, then it goes too.
//!
//! The definition stays (and its objects stay reachable) until its last object is gone, because
//! objects may hold finalizers whose owners must still be able to see and release them. Nothing is
//! remembered beside the definition's own finalizer, so a restart carries on.

use std::{sync::Arc, time::Duration};

use eyot_store::{Key, Object, WriteError};
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    api::Api,
    call::Call,
    crd, media,
    object::{self, text},
    query::Query,
    resource::Resource,
    user::User,
    verbs::delete::{DeleteOptions, remove},
};

/// How long to wait for objects with finalizers before looking again.
const AGAIN: Duration = Duration::from_millis(500);

/// Continue with every definition that was being deleted when the host stopped.
pub(crate) fn resume(api: &Arc<Api>) {
    for (_, definition) in crd::stored(&api.store) {
        if object::is_deleting(&definition) {
            start(api, object::name(&definition));
        }
    }
}

/// Delete the objects of this definition in the background, then the definition.
pub(crate) fn start(api: &Arc<Api>, name: &str) {
    let (api, name) = (Arc::downgrade(api), name.to_owned());
    tokio::spawn(async move {
        while let Some(api) = api.upgrade() {
            let stop: CancellationToken = api.options.shutdown.clone();
            if pass(&api, &name).await {
                return;
            }
            drop(api);
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = stop.cancelled() => return,
            }
        }
    });
}

/// One pass; whether all is done.
async fn pass(api: &Arc<Api>, name: &str) -> bool {
    let key = Key::new(crd::STORAGE, "", name);
    let Some(mut stored) = api.store.get(&key) else {
        return true;
    };
    let Ok(mut definition) = serde_json::from_slice::<Value>(&stored.json) else {
        return true;
    };
    let finalizers = object::at(&definition, &["metadata", "finalizers"]);
    let is_ours = finalizers
        .and_then(Value::as_array)
        .is_some_and(|finalizers| finalizers.contains(&crd::CLEANUP.into()));
    if !object::is_deleting(&definition) || !is_ours {
        return true;
    }
    if crd::status::set_deleting(&mut definition, Timestamp::now()) {
        match api
            .store
            .update(&key, stored.revision, definition.clone())
            .await
        {
            Ok(marked) => stored = marked,
            // Somebody else wrote it: again.
            Err(_) => return false,
        }
    }
    let storage = format!(
        "{}.{}",
        text(&definition, &["spec", "names", "plural"]),
        text(&definition, &["spec", "group"])
    );
    let catalog = api.catalog();
    // In the version in which they are stored there is the least to convert.
    let served = catalog
        .all()
        .iter()
        .filter(|resource| *resource.storage == *storage)
        .max_by_key(|resource| resource.version == resource.storage_version)
        .map(Resource::for_request);
    let resource = served.or_else(|| unserved(&stored, &definition));
    if let Some(resource) = resource {
        for object in api.store.list(&storage, None).objects {
            let call = Call {
                user: User::new("system:apiserver", &["system:masters"]),
                method: http::Method::DELETE,
                resource: resource.clone(),
                namespace: object.key.namespace.to_string(),
                name: object.key.name.to_string(),
                query: Query::default(),
                format: media::Format::Object,
                headers: http::HeaderMap::new(),
                notes: Default::default(),
                audit: Default::default(),
            };
            // What fails now is tried again in the next pass.
            let _ = remove(api, &call, &DeleteOptions::default()).await;
        }
    }
    if !api.store.list(&storage, None).objects.is_empty() {
        return false;
    }
    let finalizers = definition
        .pointer_mut("/metadata/finalizers")
        .and_then(Value::as_array_mut);
    if let Some(finalizers) = finalizers {
        finalizers.retain(|finalizer| *finalizer != crd::CLEANUP);
    }
    crd::status::set_deleted(&mut definition, Timestamp::now());
    let written = if object::has_finalizers(&definition) {
        api.store
            .update(&key, stored.revision, definition.clone())
            .await
            .map(|_| ())
    } else {
        api.store
            .delete(&key, Some(stored.revision))
            .await
            .map(|_| ())
    };
    let _one_at_a_time = api.definitions.lock().await;
    // Its names are free now.
    api.settle(text(&definition, &["spec", "group"])).await;
    matches!(written, Ok(()) | Err(WriteError::NotFound))
}

/// The resource of a definition none of whose versions is served: its objects are there all the
/// same.
fn unserved(stored: &Object, definition: &Value) -> Option<Arc<Resource>> {
    let mut definition = definition.clone();
    let versions = definition.pointer_mut("/spec/versions")?.as_array_mut()?;
    versions.retain(|version| crd::flag(version, "storage"));
    for version in versions {
        version["served"] = true.into();
    }
    let made = crd::resources(&stored.json, stored.revision, &definition, &[]);
    made.into_iter().next().map(Arc::new)
}
