//! Who may use the registry, as the Kubernetes API has it: tokens are reviewed, and rights are those
//! on `repositories.eyot.dev` by the name of the repository.

use async_trait::async_trait;
use eyot_http::BoxError;
use eyot_registry::{Gatekeeper, Verb, Who};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};

/// Asks the API.
pub struct ApiGatekeeper {
    client: Client,
}

impl ApiGatekeeper {
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

#[async_trait]
impl Gatekeeper for ApiGatekeeper {
    async fn who(&self, token: &str) -> Result<Option<Who>, BoxError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        Ok(user.map(|user| Who {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
        }))
    }

    async fn may(&self, who: &Who, verb: Verb, repository: Option<&str>) -> Result<bool, BoxError> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(who.name.clone()),
                uid: Some(who.uid.clone()),
                groups: Some(who.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("eyot.dev".to_owned()),
                    resource: Some("repositories".to_owned()),
                    verb: Some(verb.as_str().to_owned()),
                    name: repository.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}
