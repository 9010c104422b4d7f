//! Decides about requests for certificates of Kubernetes' own signers, signs them, and clears up.
//!
//! Reads CertificateSigningRequests; writes their approval (of nodes' client certificates, where an
//! access review says that the asker may have one, and no token asks for a node that there is), their certificate or why there is none, and
//! deletes those that are of no more use. Requests for other signers are only cleared up.
//!
//! [`step`] decides what to do with one request from nothing but the request and the time; the
//! rest performs it. The certificate itself is made in [`authority`], what a signer accepts is in
//! [`rules`].

pub(crate) mod authority;
mod rules;
#[cfg(test)]
mod tests;
pub(crate) mod wish;

use std::{sync::Arc, time::Duration};

use eyot_client::{Cache, Key, Reconciler, Requeue};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
        core::v1::Node,
    },
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};

use self::{
    authority::Authority,
    rules::{NODE, NODE_CLIENT, Signer},
    wish::Wish,
};
use crate::error::{Act, ControlError, is};

/// How long a request stays once it was decided: long enough for its asker to look.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// How long a request waits for a decision.
const PENDING: SignedDuration = SignedDuration::from_hours(24);
/// When to ask again for a right that was not there, or to try a signature again; also how long the
/// request of a machine waits after the Node was deleted whose name it wants.
const AGAIN: Duration = Duration::from_secs(15);
/// How the users that bootstrap tokens are begin.
const BOOTSTRAP: &str = "system:bootstrap:";

pub(crate) struct Certificates {
    pub(crate) client: Client,
    pub(crate) requests: Cache<CertificateSigningRequest>,
    /// Signs for Kubernetes' own signers; without one they are left to others.
    pub(crate) authority: Option<Arc<Authority>>,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Delete,
    /// Approve it, if the asker may create one of these subresources; best first.
    Review(&'static [Way]),
    Sign(Signer),
    /// It can never be signed.
    Fail(String),
    Nothing,
}

/// A right by which a node's client certificate is approved.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    subresource: &'static str,
    message: &'static str,
}

/// For one's own certificate the right to renew is enough.
const OWN: &[Way] = &[
    Way {
        subresource: "selfnodeclient",
        message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
    },
    ANY_WAY,
];
const ANY: &[Way] = &[ANY_WAY];
const ANY_WAY: Way = Way {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

impl Reconciler for Certificates {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "certificates"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(request) = self.requests.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let now = Timestamp::now();
        let look_again = match ends(&request).and_then(|end| {
            let left = end.duration_since(now).unsigned_abs();
            (end > now).then_some(left)
        }) {
            Some(left) => Requeue::After(left),
            None => Requeue::OnChange,
        };
        match step(&request, now) {
            Step::Nothing => Ok(look_again),
            Step::Delete => self.delete(&request, key).await.map(|()| look_again),
            Step::Review(ways) => {
                if self.would_take_over(&request).await? {
                    return Ok(soonest(look_again));
                }
                for way in ways {
                    if self.may(&request, way).await? {
                        let approved = condition("Approved", "AutoApproved", way.message);
                        return self.decide(&request, "approval", approved).await;
                    }
                }
                Ok(soonest(look_again))
            }
            Step::Fail(why) => {
                let failed = condition("Failed", "SignerValidationFailure", &why);
                self.decide(&request, "status", failed).await
            }
            Step::Sign(_) => {
                let Some(authority) = &self.authority else {
                    return Ok(look_again);
                };
                match authority.sign(&request, now) {
                    Ok(certificate) => {
                        let certificate = ByteString(certificate.into_bytes());
                        let status = json!({"certificate": certificate});
                        self.write(&request, "status", status).await
                    }
                    Err(error) => {
                        tracing::warn!(request = %key, %error, "a certificate cannot be signed");
                        Ok(soonest(look_again))
                    }
                }
            }
        }
    }
}

fn soonest(other: Requeue) -> Requeue {
    match other {
        Requeue::After(time) => Requeue::After(time.min(AGAIN)),
        Requeue::OnChange => Requeue::After(AGAIN),
    }
}

fn condition(kind: &str, reason: &str, message: &str) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..CertificateSigningRequestCondition::default()
    }
}

impl Certificates {
    async fn delete(
        &self,
        request: &CertificateSigningRequest,
        key: &Key,
    ) -> Result<(), ControlError> {
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: request.metadata.uid.clone(),
            resource_version: request.metadata.resource_version.clone(),
        });
        match api.delete(&key.name, &params).await {
            // It changed meanwhile, and that change is on its way here.
            Err(error) if is(&error, 409) => Ok(()),
            done => done.act_if_there(|| format!("deleting the signing request {key}")),
        }
    }

    /// Whether a token asks to be a node that there is already: with a stolen token anybody could
    /// take its place. Somebody has to look, and approve the request or delete the Node.
    async fn would_take_over(
        &self,
        request: &CertificateSigningRequest,
    ) -> Result<bool, ControlError> {
        let asker = request.spec.username.as_deref().unwrap_or_default();
        if !asker.starts_with(BOOTSTRAP) {
            return Ok(false);
        }
        let Some(node) = Wish::read(&request.spec.request.0)
            .ok()
            .and_then(|wish| wish.common_name.strip_prefix(NODE).map(str::to_owned))
        else {
            return Ok(false);
        };
        let api: Api<Node> = Api::all(self.client.clone());
        let found = api.get_opt(&node).await;
        let found = found.act(|| format!("looking for node {node}"))?;
        Ok(found.is_some())
    }

    /// Whether the asker has the right that approves the request.
    async fn may(
        &self,
        request: &CertificateSigningRequest,
        way: &Way,
    ) -> Result<bool, ControlError> {
        let spec = &request.spec;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    subresource: Some(way.subresource.to_owned()),
                    verb: Some("create".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        let answer = answer.act(|| "reviewing who asks for a certificate".to_owned())?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// Add a condition through one of the request's doors.
    async fn decide(
        &self,
        request: &CertificateSigningRequest,
        door: &str,
        added: CertificateSigningRequestCondition,
    ) -> Result<Requeue, ControlError> {
        let mut all: Vec<_> = conditions(request).cloned().collect();
        all.push(added);
        self.write(request, door, json!({"conditions": all})).await
    }

    async fn write(
        &self,
        request: &CertificateSigningRequest,
        door: &str,
        status: Value,
    ) -> Result<Requeue, ControlError> {
        let name = request.metadata.name.clone().unwrap_or_default();
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": request.metadata.resource_version},
            "status": status,
        }));
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let params = PatchParams::default();
        match api.patch_subresource(door, &name, &params, &patch).await {
            // Somebody was faster, and that change is on its way here.
            Err(error) if is(&error, 409) => {}
            done => {
                done.act_if_there(|| format!("writing the {door} of signing request {name}"))?
            }
        }
        Ok(Requeue::OnChange)
    }
}

fn step(request: &CertificateSigningRequest, now: Timestamp) -> Step {
    if request.metadata.deletion_timestamp.is_some() {
        return Step::Nothing;
    }
    if ends(request).is_some_and(|end| end <= now) {
        return Step::Delete;
    }
    let Some(signer) = Signer::named(&request.spec.signer_name) else {
        return Step::Nothing;
    };
    if certificate(request).is_some() {
        return Step::Nothing;
    }
    let is = |kind: &str| conditions(request).any(|one| one.type_ == kind);
    let wish = match Wish::read(&request.spec.request.0) {
        Ok(wish) => wish,
        // Such a request is not accepted by the API, so there is nobody to tell.
        Err(_) => return Step::Nothing,
    };
    match (is("Approved"), is("Denied") || is("Failed")) {
        (_, true) => Step::Nothing,
        (true, false) => match signer.accepts(&wish, usages(request)) {
            Ok(()) => Step::Sign(signer),
            Err(why) => Step::Fail(why),
        },
        (false, false) => {
            let node = request.spec.signer_name == NODE_CLIENT
                && signer.accepts(&wish, usages(request)).is_ok();
            let own = request.spec.username.as_deref() == Some(&*wish.common_name);
            match (node, own) {
                (false, _) => Step::Nothing,
                (true, true) => Step::Review(OWN),
                (true, false) => Step::Review(ANY),
            }
        }
    }
}

fn usages(request: &CertificateSigningRequest) -> &[String] {
    request.spec.usages.as_deref().unwrap_or_default()
}

fn conditions(
    request: &CertificateSigningRequest,
) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    let status = request.status.as_ref();
    status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let given = request.status.as_ref()?.certificate.as_ref()?;
    Some(&*given.0).filter(|given| !given.is_empty())
}

/// When the request is of no more use to anybody.
fn ends(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let after = |time: Option<Timestamp>, age: SignedDuration| time?.checked_add(age).ok();
    let issued = certificate(request);
    let expires = issued.and_then(authority::not_after);
    let mut ends = Vec::new();
    for one in conditions(request) {
        let decided = match one.type_.as_str() {
            "Approved" => issued.is_some(),
            "Denied" | "Failed" => true,
            _ => false,
        };
        if decided {
            let updated = one.last_update_time.as_ref().map(|time| time.0);
            ends.extend(after(updated, DECIDED));
            ends.extend(expires);
        }
    }
    if conditions(request).next().is_none() {
        let made = request.metadata.creation_timestamp.as_ref();
        ends.extend(after(made.map(|time| time.0), PENDING));
    }
    ends.into_iter().min()
}
