//! Reading the ConfigMaps and Secrets that a pod names.

use std::collections::BTreeSet;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

use crate::env::Sources;

/// Fetch the named objects of one namespace; those that do not exist are `None`.
pub(crate) async fn sources(
    client: &Client,
    namespace: &str,
    config_maps: BTreeSet<String>,
    secrets: BTreeSet<String>,
) -> Result<Sources, kube::Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let all_secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let (maps, all_secrets) = (&maps, &all_secrets);
    let maps = try_join_all(config_maps.into_iter().map(|name| async move {
        let found = maps.get_opt(&name).await?;
        Ok::<_, kube::Error>((name, found))
    }));
    let secrets = try_join_all(secrets.into_iter().map(|name| async move {
        let found = all_secrets.get_opt(&name).await?;
        Ok::<_, kube::Error>((name, found))
    }));
    Ok(Sources {
        config_maps: maps.await?.into_iter().collect(),
        secrets: secrets.await?.into_iter().collect(),
    })
}
