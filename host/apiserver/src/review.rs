//! The questions a client asks about itself: who am I, and may I. Answered, never stored.

use eyot_http::{Body, Response};
use http::{Method, StatusCode, request::Parts};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    call,
    failure::Failure,
    media, object,
    path::ResourcePath,
    user::{User, authorize},
};

/// Whether a path is such a question.
pub(crate) fn is_review(path: &ResourcePath<'_>) -> bool {
    let question = (&*path.group, &*path.version, &*path.resource);
    path.name.is_none()
        && path.namespace.is_none()
        && matches!(
            question,
            ("authentication.k8s.io", "v1", "selfsubjectreviews")
                | ("authorization.k8s.io", "v1", "selfsubjectaccessreviews")
                | ("authorization.k8s.io", "v1", "selfsubjectrulesreviews")
        )
}

pub(crate) async fn answer(
    question: String,
    user: User,
    parts: Parts,
    body: Body,
) -> Result<Response, Failure> {
    if parts.method != Method::POST {
        return Err(Failure::method_not_allowed());
    }
    let mut review = media::decode(
        media::content_type(&parts.headers),
        &call::read(body).await?,
    )?;
    let allowed = authorize(&user).is_ok();
    let status = match question.as_str() {
        "selfsubjectreviews" => {
            let created = object::timestamp(Timestamp::now());
            object::metadata(&mut review).insert("creationTimestamp".into(), created.into());
            json!({"userInfo": {"username": user.name, "groups": user.groups}})
        }
        "selfsubjectaccessreviews" => json!({"allowed": allowed}),
        _ => {
            let all = json!(["*"]);
            let rules: Value = match allowed {
                true => json!([{"verbs": all, "apiGroups": all, "resources": all}]),
                false => json!([]),
            };
            let urls = if allowed {
                json!([{"verbs": all, "nonResourceURLs": all}])
            } else {
                json!([])
            };
            json!({"incomplete": false, "resourceRules": rules, "nonResourceRules": urls})
        }
    };
    object::metadata(&mut review);
    if let Some(map) = review.as_object_mut() {
        map.insert("status".into(), status);
    }
    Ok(eyot_http::json(StatusCode::CREATED, &review))
}
