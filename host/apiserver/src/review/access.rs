//! May I, may somebody: the access reviews.

use serde_json::{Value, json};

use super::{Question, invalid};
use crate::{
    api::Api,
    auth::{Attributes, Decision, Verdict},
    failure::Failure,
    field_error::FieldError,
    object,
    user::{Identity, User},
};

/// SelfSubjectAccessReview
pub(super) fn own(api: &Api, user: &User, review: &Value) -> Result<Value, Failure> {
    let mut errors = check_metadata(review, false);
    errors.extend(check_attributes(review));
    refuse(Question::SelfAccess, &errors)?;
    Ok(decide(api, user, review))
}

/// SubjectAccessReview
pub(super) fn of_subject(api: &Api, review: &Value) -> Result<Value, Failure> {
    let mut errors = check_metadata(review, false);
    errors.extend(check_subject(review));
    refuse(Question::Access, &errors)?;
    Ok(decide(api, &subject(review), review))
}

/// LocalSubjectAccessReview
pub(super) fn in_namespace(
    api: &Api,
    review: &mut Value,
    namespace: &str,
) -> Result<Value, Failure> {
    if object::namespace(review).is_empty() {
        object::metadata(review).insert("namespace".into(), namespace.into());
    }
    let mut errors = check_metadata(review, true);
    errors.extend(check_subject(review));
    let given = review.pointer("/spec/resourceAttributes/namespace");
    let given = given.and_then(Value::as_str).unwrap_or_default();
    let own = object::namespace(review);
    if is_set(review, "resourceAttributes") && given != own {
        let field = "spec.resourceAttributes.namespace";
        let detail = "must match metadata.namespace";
        errors.push(FieldError::invalid(field, &given.into(), detail));
    }
    if is_set(review, "nonResourceAttributes") {
        let value = &review["spec"]["nonResourceAttributes"];
        let detail = "disallowed on this kind of request";
        errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            value,
            detail,
        ));
    }
    refuse(Question::LocalAccess, &errors)?;
    if own != namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(decide(api, &subject(review), review))
}

fn refuse(question: Question, errors: &[FieldError]) -> Result<(), Failure> {
    match errors {
        [] => Ok(()),
        errors => Err(invalid(question, errors)),
    }
}

fn decide(api: &Api, user: &User, review: &Value) -> Value {
    let (fields, labels, error) = selectors(review);
    let text = |section: &str, key: &str| object::text(review, &["spec", section, key]);
    let attributes = if is_set(review, "resourceAttributes") {
        let text = |key| text("resourceAttributes", key).into();
        Attributes {
            verb: text("verb"),
            group: text("group"),
            version: text("version"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
            path: None,
            field_selector: fields.into(),
            label_selector: labels.into(),
        }
    } else {
        Attributes {
            verb: text("nonResourceAttributes", "verb").into(),
            path: Some(text("nonResourceAttributes", "path").into()),
            ..Attributes::default()
        }
    };
    let Decision { verdict, reason } = api.authorizer.authorize(user, &attributes);
    let mut status = json!({"allowed": verdict == Verdict::Allow});
    if verdict == Verdict::Deny {
        status["denied"] = true.into();
    }
    let reason = reason.to_string();
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    if !error.is_empty() {
        status["evaluationError"] = error.into();
    }
    status
}

fn subject(review: &Value) -> User {
    let text = |key| object::text(review, &["spec", key]).to_owned();
    let strings = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra = review.pointer("/spec/extra").and_then(Value::as_object);
    let identity = Identity {
        name: text("user"),
        uid: text("uid"),
        groups: strings(&review["spec"]["groups"]),
        extra: extra
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.to_lowercase(), strings(values)))
            .collect(),
    };
    identity.into()
}

fn is_set(review: &Value, key: &str) -> bool {
    review["spec"]
        .get(key)
        .is_some_and(|value| !value.is_null())
}

fn check_metadata(review: &Value, local: bool) -> Vec<FieldError> {
    let metadata = review.get("metadata").and_then(Value::as_object);
    let given = metadata.into_iter().flatten().any(|(key, value)| {
        let empty = value.is_null()
            || value.as_str().is_some_and(str::is_empty)
            || value.as_object().is_some_and(|map| map.is_empty())
            || value.as_array().is_some_and(|list| list.is_empty());
        !empty && key != "managedFields" && !(local && key == "namespace")
    });
    let detail = match local {
        false => "must be empty",
        true => "must be empty except for namespace",
    };
    let error = || FieldError::invalid("metadata", &review["metadata"], detail);
    given.then(error).into_iter().collect()
}

fn check_subject(review: &Value) -> Vec<FieldError> {
    let mut errors = check_attributes(review);
    let spec = &review["spec"];
    let user = object::text(spec, &["user"]);
    let groups = spec.get("groups").and_then(Value::as_array);
    if user.is_empty() && groups.is_none_or(Vec::is_empty) {
        let detail = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", &"".into(), detail));
    }
    errors
}

fn check_attributes(review: &Value) -> Vec<FieldError> {
    let (resource, path) = (
        is_set(review, "resourceAttributes"),
        is_set(review, "nonResourceAttributes"),
    );
    let mut errors = Vec::new();
    if resource && path {
        let value = &review["spec"]["nonResourceAttributes"];
        let detail = "cannot be specified in combination with resourceAttributes";
        errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            value,
            detail,
        ));
    }
    if !resource && !path {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid(
            "spec.resourceAttributes",
            &Value::Null,
            detail,
        ));
    }
    for key in ["fieldSelector", "labelSelector"] {
        let selector = &review["spec"]["resourceAttributes"][key];
        if selector.is_null() {
            continue;
        }
        let field = format!("spec.resourceAttributes.{key}");
        let raw = object::text(selector, &["rawSelector"]);
        let requirements = selector.get("requirements").and_then(Value::as_array);
        let listed = requirements.is_some_and(|list| !list.is_empty());
        if !raw.is_empty() && listed {
            let detail = "may not specified at the same time as requirements";
            let field = format!("{field}.rawSelector");
            errors.push(FieldError::invalid(field, &raw.into(), detail));
        } else if raw.is_empty() && !listed {
            let detail =
                format!("when {field} is specified, requirements or rawSelector is required");
            errors.push(FieldError::required(
                format!("{field}.requirements"),
                &detail,
            ));
        }
    }
    errors
}

/// The selectors of the question as text; with what could not be made sense of. Such a part is left
/// out, so that the answer is about more, not less.
fn selectors(review: &Value) -> (String, String, String) {
    let mut errors = Vec::new();
    let mut text = |key: &str| {
        let selector = &review["spec"]["resourceAttributes"][key];
        let raw = object::text(selector, &["rawSelector"]);
        if !raw.is_empty() {
            return raw.to_owned();
        }
        let requirements = selector.get("requirements").and_then(Value::as_array);
        let mut clauses = Vec::new();
        for requirement in requirements.into_iter().flatten() {
            let name = object::text(requirement, &["key"]);
            let values = requirement.get("values").and_then(Value::as_array);
            let values = values.into_iter().flatten().filter_map(Value::as_str);
            let values: Vec<&str> = values.collect();
            let fields = key == "fieldSelector";
            clauses.push(
                match (object::text(requirement, &["operator"]), values.as_slice()) {
                    ("In", [value]) => format!("{name}={value}"),
                    ("NotIn", [value]) => format!("{name}!={value}"),
                    ("In", values) if !fields => format!("{name} in ({})", values.join(",")),
                    ("NotIn", values) if !fields => format!("{name} notin ({})", values.join(",")),
                    ("Exists", []) if !fields => name.to_owned(),
                    ("DoesNotExist", []) if !fields => format!("!{name}"),
                    (operator, _) => {
                        errors.push(format!("{operator:?} is not a valid operator for {name}"));
                        continue;
                    }
                },
            );
        }
        clauses.join(",")
    };
    let (fields, labels) = (text("fieldSelector"), text("labelSelector"));
    (fields, labels, errors.join(", "))
}
