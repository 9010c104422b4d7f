//! The APIServices of what this server answers for itself.
//!
//! Those of built-in groups are made at each start and left alone in between, so that one may be
//! pointed to a Service; those of custom resources follow their definitions all the time. What
//! nobody labelled as made here is never touched.

use std::collections::BTreeMap;

use eyot_store::{Key, WriteError};
use futures::future::try_join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{GROUP, STORAGE, group_priority, version_priority};
use crate::{api::Api, discovery, object, unstored};

const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Values of the label: made at each start, and kept all the time.
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";

/// Make what is missing, mend what is wrong, and remove what is no longer answered for.
pub(crate) async fn reconcile(api: &Api, is_start: bool) -> Result<(), WriteError> {
    let catalog = api.catalog();
    let mut wanted: BTreeMap<String, (String, String, bool)> = BTreeMap::new();
    for (group, version) in discovery::local_versions(&catalog) {
        if group == GROUP {
            continue;
        }
        // That of what pods use may be pointed to another server, which measures differently.
        let is_custom = catalog
            .of(&group, &version)
            .any(|one| one.is_custom() && !unstored::holds(one));
        wanted.insert(
            format!("{version}.{group}"),
            (group.clone(), version, is_custom),
        );
    }
    for stored in api.store.list(STORAGE, None).objects {
        let label = stored.labels.get(LABEL);
        let is_ours = label == Some(ALWAYS) || (is_start && label == Some(ON_START));
        if is_ours && !wanted.contains_key(&*stored.key.name) {
            match api.store.delete(&stored.key, Some(stored.revision)).await {
                Ok(_) | Err(WriteError::NotFound | WriteError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let wanted = wanted
        .iter()
        .filter(|(_, (_, _, is_custom))| *is_custom || is_start);
    // All at once, which the store writes together.
    let made = wanted.map(|(name, (group, version, is_custom))| {
        let label = if *is_custom { ALWAYS } else { ON_START };
        ensure(api, name, group, version, label)
    });
    try_join_all(made).await.map(|_| ())
}

async fn ensure(
    api: &Api,
    name: &str,
    group: &str,
    version: &str,
    label: &str,
) -> Result<(), WriteError> {
    let key = Key::new(STORAGE, "", name);
    let spec = json!({
        "group": group, "version": version,
        "groupPriorityMinimum": group_priority(group),
        "versionPriority": version_priority(group, version),
    });
    let written = match api.store.get(&key) {
        None => {
            let mut new = json!({
                "apiVersion": format!("{GROUP}/v1"), "kind": "APIService",
                "metadata": {
                    "name": name, "uid": uuid::Uuid::new_v4().to_string(),
                    "creationTimestamp": object::timestamp(Timestamp::now()),
                    "labels": {LABEL: label},
                },
                "spec": spec,
            });
            if let Some(kind) = api.catalog().find(GROUP, "v1", "apiservices") {
                kind.prepare(&mut new, None);
            }
            api.store.create(key, new).await
        }
        Some(stored) => {
            let Ok(mut next) = serde_json::from_slice::<Value>(&stored.json) else {
                return Ok(());
            };
            let held = stored.labels.get(LABEL);
            if !matches!(held, Some(ALWAYS | ON_START)) || next.get("spec") == Some(&spec) {
                return Ok(());
            }
            next["spec"] = spec;
            api.store.update(&key, stored.revision, next).await
        }
    };
    match written {
        // Somebody else was quicker, who is looked at next time.
        Ok(_) | Err(WriteError::Exists(_) | WriteError::Conflict { .. } | WriteError::NotFound) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}
