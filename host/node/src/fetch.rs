//! Reading the ConfigMaps, Secrets and Services that concern a pod, and asking for tokens of its account.

use std::collections::{BTreeSet, HashMap};

use futures::future::try_join_all;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

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
        tokens: HashMap::new(),
    })
}

/// The Services that a pod's containers are told of: the API's own, and those of the pod's namespace
/// unless it does not want to know.
pub(crate) async fn services(client: &Client, pod: &Pod) -> Result<Vec<Service>, kube::Error> {
    let own = Api::<Service>::namespaced(client.clone(), "default");
    let mut services: Vec<Service> = own.get_opt("kubernetes").await?.into_iter().collect();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links);
    if links != Some(false) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let all = Api::<Service>::namespaced(client.clone(), namespace);
        services.extend(all.list(&ListParams::default()).await?);
    }
    Ok(services)
}

/// Ask for the tokens that the pod's volumes hold, bound to this very pod. Where the API gives out
/// none, there are none: such a volume goes without, so that the pod can run.
pub(crate) async fn tokens(
    client: &Client,
    namespace: &str,
    pod: &Pod,
) -> Result<HashMap<(String, i64), String>, kube::Error> {
    let wanted = crate::volumes::tokens(pod);
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref())
        .unwrap_or("default");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let mut tokens = HashMap::new();
    for (audience, seconds) in wanted {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience.clone()]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let params = PostParams::default();
        match accounts
            .create_token_request(account, &params, &request)
            .await
        {
            Ok(answer) => {
                let token = answer
                    .status
                    .and_then(|status| status.token)
                    .unwrap_or_default();
                tokens.insert((audience, seconds), token);
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => {
                tracing::debug!(account, "the API gives out no tokens");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(tokens)
}
