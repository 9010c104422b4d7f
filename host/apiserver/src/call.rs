//! One request about a resource, taken apart and checked.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use eyot_http::{Body, BodyError};
use eyot_store::Key;
use http::{HeaderMap, Method};
use serde_json::Value;

use crate::{
    admission,
    api::BODY_LIMIT,
    failure::Failure,
    media::{self, Encoding, Format},
    object,
    query::{FieldValidation, Query},
    reading::Notes,
    resource::Resource,
    selector::{FieldSelector, LabelSelector},
    user::User,
};

pub(crate) struct Call {
    /// Who asks.
    pub(crate) user: User,
    pub(crate) method: Method,
    pub(crate) resource: Arc<Resource>,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub(crate) namespace: String,
    /// Empty for collections.
    pub(crate) name: String,
    pub(crate) query: Query,
    pub(crate) format: Format,
    pub(crate) headers: HeaderMap,
    /// What the audit log is told about the request.
    pub(crate) audit: admission::Notes,
    /// What is to be said about the body beside its value.
    pub(crate) notes: Notes,
}

/// Which objects of a collection are meant.
pub(crate) struct Filter {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    /// Set where the selector names fields that a definition makes selectable: the store does not
    /// know them, so objects are looked into.
    pub(crate) inside: Option<Arc<Resource>>,
}

impl Filter {
    pub(crate) fn matches(&self, object: &eyot_store::Object) -> bool {
        self.labels.matches(&object.labels)
            && match &self.inside {
                None => self.fields.matches(&object.fields),
                Some(resource) => self.fields.matches(&resource.selectable(object)),
            }
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }
}

impl Call {
    /// How the answer is to be written.
    pub(crate) fn encoding(&self) -> Encoding {
        let offer = self.resource.offer(self.query.watch);
        media::negotiate(&self.headers, offer).map_or(Encoding::Json, |(_, encoding)| encoding)
    }

    /// The key of the object that the path names.
    pub(crate) fn key(&self) -> Key {
        self.key_of(&self.name)
    }

    pub(crate) fn key_of(&self, name: &str) -> Key {
        Key {
            resource: self.resource.storage.clone(),
            namespace: self.namespace.as_str().into(),
            name: name.into(),
        }
    }

    /// `Some` for one namespace.
    pub(crate) fn namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }

    pub(crate) fn filter(&self) -> Result<Filter, Failure> {
        let resource = &self.resource;
        let names = resource.field_names();
        let selector = &self.query.field_selector;
        let fields = match resource.is_custom() {
            true => FieldSelector::parse_custom(selector, &names)?,
            false => FieldSelector::parse(selector, &names)?,
        };
        let mut named = fields.names();
        let inside = resource.is_custom() && named.any(|name| !name.starts_with("metadata."));
        drop(named);
        Ok(Filter {
            labels: LabelSelector::parse(&self.query.label_selector)?,
            fields: fields.renamed(|name| resource.stored_field(name)),
            inside: inside.then(|| resource.clone()),
        })
    }

    pub(crate) fn media(&self) -> &str {
        media::content_type(&self.headers)
    }

    /// Turn the paths of unknown fields into what the client asked for: an error, warnings, nothing.
    pub(crate) fn report(&self, unknown: Vec<String>) -> Result<Vec<String>, Failure> {
        match self.query.field_validation {
            _ if unknown.is_empty() && self.notes.is_empty() => Ok(Vec::new()),
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Warn => Ok(self.notes.remarks(&unknown)),
            FieldValidation::Strict => {
                let all = self.notes.sentence(&unknown);
                Err(self
                    .resource
                    .undecodable(&format!("strict decoding error: {all}")))
            }
        }
    }

    /// Check that a body is an object of this resource; a missing kind is filled in.
    pub(crate) fn check_type(&self, value: &mut Value) -> Result<(), Failure> {
        let resource = &self.resource;
        let (kind, version) = (resource.kind.as_str(), resource.api_version());
        let Some(map) = value.as_object_mut() else {
            return Err(resource.undecodable("the body is not a JSON object"));
        };
        for (key, expected) in [("apiVersion", version.as_str()), ("kind", kind)] {
            let given = map.get(key).and_then(Value::as_str).unwrap_or_default();
            if given.is_empty() {
                map.insert(key.to_owned(), expected.into());
            }
        }
        let (given, given_version) = (
            object::text(value, &["kind"]),
            object::text(value, &["apiVersion"]),
        );
        if given == kind && given_version == version {
            return Ok(());
        }
        let short = given_version.rsplit('/').next().unwrap_or_default();
        Err(Failure::bad_request(format!(
            "{given} in version {short:?} cannot be handled as a {kind}: no kind {given:?} is \
             registered for version {given_version:?}"
        )))
    }

    /// Check the namespace and name of a body against the path.
    pub(crate) fn check_place(&self, value: &mut Value) -> Result<(), Failure> {
        let given = object::namespace(value);
        if !self.resource.namespaced {
            object::metadata(value).remove("namespace");
        } else if given.is_empty() || given == self.namespace {
            object::metadata(value).insert("namespace".into(), self.namespace.as_str().into());
        } else {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let given = object::name(value);
        if self.name.is_empty() || given == self.name {
            return Ok(());
        }
        if given.is_empty() {
            return Err(Failure::bad_request(format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                self.name
            )));
        }
        Err(Failure::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            self.name
        )))
    }
}

/// A client that has not sent its body by then sends none: Kubernetes' limit for a request. Without
/// one, half-sent requests would hold on to their seats for ever.
const BODY_TIME: Duration = Duration::from_secs(60);

/// Read a whole body within the limits.
pub(crate) async fn read(body: Body) -> Result<Bytes, Failure> {
    tokio::time::timeout(BODY_TIME, eyot_http::collect(body, BODY_LIMIT))
        .await
        .map_err(|_| Failure::timeout())?
        .map_err(|error| match error {
            BodyError::TooLarge { limit } => Failure::too_large(limit),
            BodyError::Broken(error) => {
                Failure::bad_request(format!("the request body broke off: {error}"))
            }
        })
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_never_finished_is_given_up() {
        let first = stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from_static(b"{"))]);
        let body = eyot_http::from_stream(first.chain(stream::pending()));
        let failure = read(body).await.unwrap_err();
        assert_eq!(failure.code(), http::StatusCode::GATEWAY_TIMEOUT);
    }
}
