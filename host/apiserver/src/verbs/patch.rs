//! `PATCH` with one of the three patches that are no apply.

use eyot_http::Body;
use serde_json::Value;

use crate::{
    call::{self, Call},
    failure::Failure,
    field_error::FieldError,
    kinds::TypeError,
    managed::go_plain,
    patch::{self, PatchError},
    query::FieldValidation,
    reading,
    resource::Resource,
};

/// A patch as it was sent.
pub(crate) struct Patch {
    kind: Kind,
    value: Value,
    /// What strict validation has against the patch itself.
    faults: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Merge,
    Strategic,
}

/// Fields of an operation in a JSON patch.
const OPERATION: [&str; 4] = ["op", "path", "from", "value"];

impl Patch {
    pub(crate) async fn read(call: &Call, body: Body) -> Result<Patch, Failure> {
        call.query.check_write("PatchOptions", false)?;
        let kind = match call.media() {
            "application/json-patch+json" => Kind::Json,
            "application/merge-patch+json" => Kind::Merge,
            "application/strategic-merge-patch+json" if !call.resource.is_custom() => {
                Kind::Strategic
            }
            other => return Err(unsupported(call.resource.is_custom(), other)),
        };
        let body = call::read(body).await?;
        let (value, notes) = reading::json(&body, false).map_err(|why| {
            Failure::bad_request(match kind {
                Kind::Strategic => why,
                Kind::Json | Kind::Merge => format!("error decoding patch: {why}"),
            })
        })?;
        let mut faults = notes.remarks(&[]);
        if kind == Kind::Json {
            faults.extend(unknown_members(&value));
            faults
                .iter_mut()
                .for_each(|fault| fault.insert_str(0, "json patch "));
        }
        Ok(Patch {
            kind,
            value,
            faults,
        })
    }

    pub(crate) fn apply(&self, resource: &Resource, current: &Value) -> Result<Value, PatchError> {
        match self.kind {
            Kind::Json => patch::json(current, &self.value),
            Kind::Merge => patch::merge(current, &self.value),
            Kind::Strategic => {
                patch::strategic(&resource.group, &resource.kind, current, &self.value)
            }
        }
    }

    /// Turn the paths of unknown fields into what the client asked for: an error, warnings, nothing.
    /// `patched` is the object with them.
    pub(crate) fn report(
        &self,
        call: &Call,
        patched: &dyn Fn() -> Value,
        mut unknown: Vec<String>,
    ) -> Result<Vec<String>, Failure> {
        unknown.sort();
        let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
        let faults: Vec<String> = self.faults.iter().cloned().chain(unknown).collect();
        match call.query.field_validation {
            _ if faults.is_empty() => Ok(Vec::new()),
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Warn => Ok(faults),
            FieldValidation::Strict => {
                let why = format!("strict decoding error: {}", faults.join(", "));
                Err(self.invalid(&patched(), &why))
            }
        }
    }

    /// The answer to a patch whose result has a value of a wrong type.
    pub(crate) fn unreadable(&self, patched: &Value, error: TypeError) -> Failure {
        let why = match (self.kind, error.restoring) {
            (Kind::Strategic, Some(restoring)) => restoring,
            _ => error.message,
        };
        self.invalid(patched, &why)
    }

    /// The answer to a patch whose result is no object of the kind.
    fn invalid(&self, patched: &Value, why: &str) -> Failure {
        let shown = match self.kind {
            Kind::Json | Kind::Merge => patched.to_string(),
            Kind::Strategic => go_plain(&self.value),
        };
        let error = FieldError::invalid("patch", &shown.into(), why);
        Failure::invalid("", "", "", &[error])
    }
}

/// The answer to a patch of a kind that the resource does not take. Kubernetes has two doors, with
/// two answers.
pub(crate) fn unsupported(custom: bool, media: &str) -> Failure {
    if custom || media == "application/strategic-merge-patch+json" {
        return Failure::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, \
             application/apply-patch+yaml",
        );
    }
    Failure::unsupported_media_type("415: Unsupported Media Type").with_details()
}

fn unknown_members(patch: &Value) -> Vec<String> {
    let operations = patch.as_array().into_iter().flatten().enumerate();
    operations
        .flat_map(|(at, operation)| {
            let members = operation.as_object().into_iter().flatten();
            members
                .filter(|(name, _)| !OPERATION.contains(&name.as_str()))
                .map(move |(name, _)| format!("unknown field \"[{at}].{name}\""))
        })
        .collect()
}
