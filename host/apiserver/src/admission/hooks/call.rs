//! Asking one webhook: an AdmissionReview there, an AdmissionReview back.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{super::scene, Attributes, Hook};
use crate::{api::Api, failure::Failure, resource::Resource};

/// Larger answers are refused: a patch of the largest object fits.
const ANSWER: usize = 8 << 20;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    kind: &'static str,
    api_version: &'static str,
    request: Request<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: &'a str,
    #[serde(flatten)]
    about: Map<String, Value>,
    object: &'a Value,
    old_object: &'a Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Review {
    kind: String,
    api_version: String,
    response: Option<Response>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Response {
    uid: String,
    allowed: bool,
    status: Option<Value>,
    patch: Option<String>,
    patch_type: Option<String>,
    audit_annotations: Option<BTreeMap<String, String>>,
    warnings: Option<Vec<String>>,
}

/// A webhook's agreement.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// A JSON patch, if it wants the object changed.
    pub(super) patch: Option<Value>,
    pub(super) warnings: Vec<String>,
}

/// Why a webhook did not agree.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It could not be asked, or its answer makes no sense: its failure policy decides.
    Calling(String),
    /// It refuses, or must not be asked.
    Refused(Failure),
}

impl Hook {
    /// Ask about a request whose objects are shown in this version. A patch is taken from a
    /// mutating webhook alone.
    pub(super) async fn ask(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        shown: &Resource,
        (object, old_object): (&Value, &Value),
        mutating: bool,
    ) -> Result<Answer, Trouble> {
        let name = &self.name;
        if attributes.dry_run && !self.dry {
            let why = format!("admission webhook {name:?} does not support dry run");
            return Err(Trouble::Refused(Failure::bad_request(why)));
        }
        let failed =
            |why: String| Trouble::Calling(format!("failed calling webhook {name:?}: {why}"));
        let target = self
            .target
            .as_ref()
            .map_err(|why| failed(format!("could not get REST client: {why}")))?;
        let api_version = self.review.ok_or_else(|| {
            let why = "webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            failed(format!("could not create admission objects: {why}"))
        })?;
        let uid = uuid::Uuid::new_v4().to_string();
        let question = Question {
            kind: "AdmissionReview",
            api_version,
            request: Request {
                uid: &uid,
                about: scene::request(attributes, shown),
                object,
                old_object,
            },
        };
        let body = serde_json::to_vec(&question)
            .map_err(|error| failed(format!("could not create admission objects: {error}")))?;
        let answer = api
            .webhooks
            .post(target, body.into(), self.timeout, ANSWER)
            .await
            .map_err(|error| failed(format!("failed to call webhook: {error}")))?;
        let review: Review = serde_json::from_slice(&answer).map_err(|error| {
            let why = format!("couldn't get version/kind; json parse error: {error}");
            failed(format!("failed to call webhook: {why}"))
        })?;
        let response = verified(review, &uid, api_version, mutating)
            .map_err(|why| failed(format!("received invalid webhook response: {why}")))?;
        for (key, value) in response.audit_annotations.iter().flatten() {
            attributes.call.audit.add(format!("{name}/{key}"), value);
        }
        if !response.allowed {
            return Err(Trouble::Refused(refusal(name, response.status)));
        }
        let patch = match response.patch.as_deref().filter(|patch| !patch.is_empty()) {
            Some(patch) if mutating => Some(decoded(patch, &response).map_err(failed)?),
            _ => None,
        };
        Ok(Answer {
            patch,
            warnings: response.warnings.unwrap_or_default(),
        })
    }
}

/// Check that this is the answer to our question.
fn verified(
    review: Review,
    uid: &str,
    api_version: &str,
    mutating: bool,
) -> Result<Response, String> {
    let Some(response) = review.response else {
        return Err("webhook response was absent".to_owned());
    };
    // Servers of the older version were never held to this.
    if api_version != "admission.k8s.io/v1" {
        return Ok(response);
    }
    if response.uid != uid {
        return Err(format!(
            "expected response.uid={uid:?}, got {:?}",
            response.uid
        ));
    }
    if review.api_version != api_version || review.kind != "AdmissionReview" {
        let (group, version) = match review.api_version.split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", review.api_version.as_str()),
        };
        return Err(format!(
            "expected webhook response of {api_version}, Kind=AdmissionReview, got \
             {group}/{version}, Kind={}",
            review.kind
        ));
    }
    let patch = response
        .patch
        .as_deref()
        .is_some_and(|patch| !patch.is_empty());
    match (&response.patch_type, patch, mutating) {
        (_, true, false) => Err("validating webhook may not return response.patch".to_owned()),
        (Some(_), false, false) => {
            Err("validating webhook may not return response.patchType".to_owned())
        }
        (None, true, true) => {
            Err("webhook returned response.patch but not response.patchType".to_owned())
        }
        (Some(_), false, true) => {
            Err("webhook returned response.patchType but not response.patch".to_owned())
        }
        (Some(kind), true, true) if kind.is_empty() => Err(format!(
            "webhook returned invalid response.patchType of {kind:?}"
        )),
        _ => Ok(response),
    }
}

fn decoded(patch: &str, response: &Response) -> Result<Value, String> {
    if let Some(kind) = response.patch_type.as_deref()
        && kind != "JSONPatch"
    {
        return Err(format!("unsupported patch type {kind:?}"));
    }
    let bytes = BASE64_STANDARD
        .decode(patch)
        .map_err(|error| format!("failed to call webhook: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

/// The Status of a refusal: the webhook's own, made into an error if it is none.
fn refusal(name: &str, status: Option<Value>) -> Failure {
    let denied = format!("admission webhook {name:?} denied the request");
    let mut status = status.filter(Value::is_object).unwrap_or_else(|| json!({}));
    let word = |key: &str| status.get(key).and_then(Value::as_str).unwrap_or_default();
    let message = match (word("message"), word("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    status["message"] = message.into();
    Failure::from_status(&status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: Value, expected: Value) {
        let found = refusal("x.y.z", Some(status).filter(|s| !s.is_null())).status();
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&found[key], value, "{key}");
        }
    }

    #[test]
    fn a_refusal_is_the_webhooks_status_made_an_error() {
        let denied = "admission webhook \"x.y.z\" denied the request";
        check(
            Value::Null,
            json!({"code": 400, "message": format!("{denied} without explanation"),
                   "status": "Failure"}),
        );
        check(
            json!({"message": "no", "code": 403, "reason": "Forbidden"}),
            json!({"code": 403, "reason": "Forbidden", "message": format!("{denied}: no")}),
        );
        check(
            json!({"reason": "Because", "code": 200, "status": "Success"}),
            json!({"code": 400, "reason": "Because", "status": "Failure",
                   "message": format!("{denied}: Because")}),
        );
        check(
            json!({"message": "m", "details": {"causes": [{"message": "c"}]}}),
            json!({"details": {"causes": [{"message": "c"}]}}),
        );
    }

    #[track_caller]
    fn verify(answer: Value, mutating: bool, expected: &str) {
        let review: Review = serde_json::from_value(answer).unwrap();
        let found = verified(review, "u", "admission.k8s.io/v1", mutating);
        assert_eq!(found.err().unwrap_or_default(), expected);
    }

    #[test]
    fn an_answer_that_is_not_to_our_question_is_refused() {
        let answer = |response: Value| {
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
                   "response": response})
        };
        verify(json!({}), true, "webhook response was absent");
        verify(answer(json!({"uid": "u", "allowed": true})), true, "");
        let other = json!({"uid": "v"});
        verify(
            answer(other),
            true,
            "expected response.uid=\"u\", got \"v\"",
        );
        verify(
            json!({"response": {"uid": "u"}}),
            true,
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind=",
        );
        let patch = answer(json!({"uid": "u", "patch": "W10="}));
        verify(
            patch.clone(),
            true,
            "webhook returned response.patch but not response.patchType",
        );
        verify(
            patch,
            false,
            "validating webhook may not return response.patch",
        );
        let kind = answer(json!({"uid": "u", "patchType": "JSONPatch"}));
        verify(
            kind.clone(),
            true,
            "webhook returned response.patchType but not response.patch",
        );
        verify(
            kind,
            false,
            "validating webhook may not return response.patchType",
        );
    }
}
