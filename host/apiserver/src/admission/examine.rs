//! Custom resources of the host's own, judged by the part of the host that acts on them: it knows what
//! no schema can say, such as what an image holds.
//!
//! Only a spec that is new is judged: an object that is wrong by now can still be labelled, finalized and
//! deleted.

use futures::future::BoxFuture;
use serde_json::Value;

use super::{Admitted, Attributes, Operation};
use crate::{api::Api, failure::Failure, field_error::FieldError, object::at};

/// The group of the host's own resources.
const GROUP: &str = "eyot.dev";

/// An object whose spec is about to be stored.
#[derive(Debug)]
pub struct Examinee<'a> {
    /// The plural of its kind, in the group `eyot.dev`.
    pub resource: &'a str,
    pub namespace: &'a str,
    pub object: &'a Value,
}

/// What is to be said of it.
#[derive(Debug, Default)]
pub struct Findings {
    /// Any of them refuses the write.
    pub errors: Vec<FieldError>,
    /// For the client.
    pub warnings: Vec<String>,
}

/// Judges objects of the host's own kinds.
pub trait Examiner: Send + Sync {
    /// Answers within a few seconds: a client waits.
    fn examine<'a>(&'a self, examinee: Examinee<'a>) -> BoxFuture<'a, Findings>;
}

pub(super) async fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
    admitted: &mut Admitted,
) -> Result<(), Failure> {
    let Some(examiner) = &api.options.examiner else {
        return Ok(());
    };
    let resource = &attributes.call.resource;
    let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
    if !writes || !attributes.subresource.is_empty() || resource.group != GROUP {
        return Ok(());
    }
    let spec = |object| at(object, &["spec"]);
    if attributes.old.is_some_and(|old| spec(old) == spec(object)) {
        return Ok(());
    }
    let findings = examiner
        .examine(Examinee {
            resource: &resource.plural,
            namespace: attributes.namespace(),
            object,
        })
        .await;
    admitted.warnings.extend(findings.warnings);
    match findings.errors.as_slice() {
        [] => Ok(()),
        errors => Err(resource.invalid(attributes.shown_name(object), errors)),
    }
}
