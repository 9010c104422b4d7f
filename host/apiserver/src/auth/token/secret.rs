//! Secrets of type `kubernetes.io/service-account-token`: filled with a token when they are written.
//!
//! Kubernetes leaves that to a controller, which fills a secret a moment after it was made; here it
//! is done while it is written, since the key that signs never leaves this server.

use base64::{Engine, prelude::BASE64_STANDARD};
use eyot_store::Key;
use serde_json::Value;

use super::service_account::{LEGACY_TYPE, NAME_ANNOTATION, UID_ANNOTATION, legacy_claims};
use crate::{
    admission::{Attributes, Operation},
    api::Api,
    object,
};

/// Fill in what is missing. A secret whose account is not there, or is another one by now, stays as
/// it is and is good for nothing.
pub(crate) fn fill(api: &Api, write: &Attributes<'_>, secret: &mut Value) -> bool {
    let is_write = matches!(write.operation, Operation::Create | Operation::Update);
    if !is_write || !write.is("", "secrets") || object::text(secret, &["type"]) != LEGACY_TYPE {
        return false;
    }
    let annotation = |secret: &Value, key: &str| -> String {
        object::text(secret, &["metadata", "annotations", key]).to_owned()
    };
    let name = object::name(secret).to_owned();
    let account = annotation(secret, NAME_ANNOTATION);
    let key = Key::new("serviceaccounts", write.call.namespace.as_str(), account);
    let account = api.store.get(&key);
    let account = account.and_then(|stored| serde_json::from_slice::<Value>(&stored.json).ok());
    let Some(account) = account.filter(|_| !name.is_empty()) else {
        return false;
    };
    let uid = annotation(secret, UID_ANNOTATION);
    if !uid.is_empty() && uid != object::uid(&account) {
        return false;
    }
    let options = api.tokens.options();
    let missing = |key: &str| object::text(secret, &["data", key]).is_empty();
    let mut entries = Vec::new();
    if missing("token") {
        entries.extend(
            options
                .keys
                .sign(&legacy_claims(&account, &name))
                .map(|t| ("token", t)),
        );
    }
    if missing("namespace") {
        entries.push(("namespace", write.call.namespace.clone()));
    }
    if let Some(bundle) = api.options.root_ca.as_ref().filter(|_| missing("ca.crt")) {
        entries.push(("ca.crt", bundle.to_string()));
    }
    let changed = !entries.is_empty() || uid.is_empty();
    let data = object::member(secret, "data");
    for (key, value) in entries {
        data.insert(key.to_owned(), BASE64_STANDARD.encode(value).into());
    }
    let metadata = object::metadata(secret);
    let annotations = metadata
        .entry("annotations")
        .or_insert_with(|| Value::Object(serde_json::Map::new()));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(UID_ANNOTATION.to_owned(), object::uid(&account).into());
    }
    changed
}
