//! Reviews: the questions that clients ask by creating an object that is answered, never stored.
//!
//! Who am I, may I, may somebody, what may I, and whose token is this. Each is a file beside this
//! one with a pure function from the question to its answer.

mod access;
mod rules;
mod token;

use eyot_http::{Body, Response};
use http::{Method, StatusCode, request::Parts};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::Api,
    call,
    failure::Failure,
    field_error::FieldError,
    media,
    model::{self, Model},
    object,
    path::ResourcePath,
    query::{FieldValidation, Query},
    reply,
    user::User,
};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    SelfSubject,
    Token,
    SelfAccess,
    Access,
    LocalAccess,
    SelfRules,
}

impl Question {
    fn of(path: &ResourcePath<'_>) -> Option<Question> {
        if path.name.is_some() || path.version != "v1" {
            return None;
        }
        let question = match (&*path.group, &*path.resource) {
            (AUTHENTICATION, "selfsubjectreviews") => Question::SelfSubject,
            (AUTHENTICATION, "tokenreviews") => Question::Token,
            (AUTHORIZATION, "selfsubjectaccessreviews") => Question::SelfAccess,
            (AUTHORIZATION, "subjectaccessreviews") => Question::Access,
            (AUTHORIZATION, "localsubjectaccessreviews") => Question::LocalAccess,
            (AUTHORIZATION, "selfsubjectrulesreviews") => Question::SelfRules,
            _ => return None,
        };
        let local = question == Question::LocalAccess;
        (path.namespace.is_some() == local).then_some(question)
    }

    fn group(self) -> &'static str {
        match self {
            Question::SelfSubject | Question::Token => AUTHENTICATION,
            _ => AUTHORIZATION,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Question::SelfSubject => "SelfSubjectReview",
            Question::Token => "TokenReview",
            Question::SelfAccess => "SelfSubjectAccessReview",
            Question::Access => "SubjectAccessReview",
            Question::LocalAccess => "LocalSubjectAccessReview",
            Question::SelfRules => "SelfSubjectRulesReview",
        }
    }
}

/// Whether a path is such a question.
pub(crate) fn is_review(path: &ResourcePath<'_>) -> bool {
    Question::of(path).is_some()
}

pub(crate) async fn answer(
    api: &Api,
    user: &User,
    path: &ResourcePath<'_>,
    parts: Parts,
    body: Body,
) -> Result<Response, Failure> {
    let question = Question::of(path).ok_or_else(Failure::no_such_resource)?;
    if parts.method != Method::POST {
        return Err(Failure::method_not_allowed());
    }
    let query = Query::parse(parts.uri.query())?;
    let media = media::content_type(&parts.headers);
    let mut review = media::decode(media, &call::read(body).await?, question.kind())?;
    let version = format!("{}/v1", question.group());
    let warnings = check_type(question.kind(), &version, &query, &mut review)?;
    let namespace = path.namespace.as_deref().unwrap_or_default();
    let status = match question {
        Question::SelfSubject => {
            let created = object::timestamp(Timestamp::now());
            object::metadata(&mut review).insert("creationTimestamp".into(), created.into());
            json!({"userInfo": user.info()})
        }
        Question::Token => token::of_token(api, &review).await?,
        Question::SelfAccess => access::own(api, user, &review)?,
        Question::Access => access::of_subject(api, &review)?,
        Question::LocalAccess => access::in_namespace(api, &mut review, namespace)?,
        Question::SelfRules => rules::own(api, user, &review)?,
    };
    object::metadata(&mut review);
    if let Some(map) = review.as_object_mut() {
        map.insert("status".into(), status);
    }
    let body = serde_json::to_vec(&review).map_err(Failure::internal)?;
    Ok(reply::bytes(StatusCode::CREATED, body.into(), &warnings))
}

/// Check a body against a kind that is never stored; fields that it does not have are dropped and
/// reported as asked.
pub(crate) fn check_type(
    kind: &str,
    version: &str,
    query: &Query,
    review: &mut Value,
) -> Result<Vec<String>, Failure> {
    let undecodable = |why: &str| {
        Failure::bad_request(format!(
            "{kind} in version \"v1\" cannot be handled as a {kind}: {why}"
        ))
    };
    let Some(map) = review.as_object_mut() else {
        return Err(undecodable("the body is not a JSON object"));
    };
    for (key, expected) in [("apiVersion", version), ("kind", kind)] {
        let given = map.entry(key).or_insert_with(|| expected.into());
        if given != expected {
            let (given, given_version) = (
                object::text(review, &["kind"]),
                object::text(review, &["apiVersion"]),
            );
            return Err(Failure::bad_request(format!(
                "{given} in version {given_version:?} cannot be handled as a {kind}: no kind \
                 {given:?} is registered for version {given_version:?}"
            )));
        }
    }
    let Some(root) = Model::get().root(version, kind) else {
        return Ok(Vec::new());
    };
    let unknown = model::check(root, review).map_err(|error| undecodable(&error.message))?;
    let mut paths: Vec<String> = unknown.into_iter().map(|field| field.path).collect();
    paths.sort();
    for path in &paths {
        object::remove(review, path);
    }
    let texts = paths.iter().map(|path| format!("unknown field {path:?}"));
    match query.field_validation {
        _ if paths.is_empty() => Ok(Vec::new()),
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(texts.collect()),
        FieldValidation::Strict => {
            let all = texts.collect::<Vec<_>>().join(", ");
            Err(undecodable(&format!("strict decoding error: {all}")))
        }
    }
}

fn invalid(question: Question, errors: &[FieldError]) -> Failure {
    Failure::invalid(question.group(), question.kind(), "", errors)
}
