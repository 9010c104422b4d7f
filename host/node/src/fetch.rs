//! Reading the ConfigMaps, Secrets and Services that concern a pod, and asking for tokens of its account.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

use crate::env::Sources;

/// A token is renewed when a fifth of its life is left, and in any case after a day.
const LIFE_LEFT: i64 = 5;
const OLDEST: i64 = 24 * 3600;

/// Audience and lifetime in seconds of a token.
type TokenKey = (String, i64);

/// The tokens of one pod's volumes, and when they are to be renewed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tokens {
    texts: HashMap<TokenKey, String>,
    due: Option<Timestamp>,
}

impl Tokens {
    pub(crate) fn texts(&self) -> HashMap<TokenKey, String> {
        self.texts.clone()
    }

    /// How long until they are to be renewed; `None` if there are none.
    pub(crate) fn due(&self) -> Option<Duration> {
        let left = self.due?.duration_since(Timestamp::now());
        Some(Duration::try_from(left).unwrap_or_default())
    }

    pub(crate) fn are_due(&self) -> bool {
        self.due().is_some_and(|left| left.is_zero())
    }

    /// Renew them a while later.
    pub(crate) fn put_off(&mut self, by: Duration) {
        self.due = Timestamp::now().checked_add(by).ok();
    }

    fn add(&mut self, key: TokenKey, text: String, expires: Option<Timestamp>) {
        let now = Timestamp::now();
        let life = expires.map_or(key.1, |at| at.duration_since(now).as_secs());
        let kept = (life - life / LIFE_LEFT).clamp(1, OLDEST);
        let due = now.checked_add(SignedDuration::from_secs(kept)).ok();
        self.due = self.due.into_iter().chain(due).min();
        self.texts.insert(key, text);
    }
}

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
) -> Result<Tokens, kube::Error> {
    let wanted = crate::volumes::tokens(pod);
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref())
        .unwrap_or("default");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let mut tokens = Tokens::default();
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
                let Some(status) = answer.status else {
                    continue;
                };
                let expires = status.expiration_timestamp.map(|time| time.0);
                let token = status.token.unwrap_or_default();
                tokens.add((audience, seconds), token, expires);
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => {
                tracing::debug!(account, "the API gives out no tokens");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_before_they_expire_and_at_least_daily() {
        let due_after = |seconds: i64| {
            let mut tokens = Tokens::default();
            let expires = Timestamp::now() + SignedDuration::from_secs(seconds);
            tokens.add((String::new(), seconds), "t".into(), Some(expires));
            tokens.due().unwrap().as_secs()
        };
        assert!((475..=481).contains(&due_after(600)), "{}", due_after(600));
        let day = 24 * 3600;
        assert!((day - 5..=day).contains(&due_after(1_000_000)));
        let mut tokens = Tokens::default();
        assert_eq!(tokens.due(), None);
        assert!(!tokens.are_due());
        let past = Timestamp::now() - SignedDuration::from_secs(9);
        tokens.add((String::new(), 1), "t".into(), Some(past));
        tokens.put_off(Duration::ZERO);
        assert!(tokens.are_due());
    }
}
