//! Objects of a definition in another of its versions: by a webhook that its author names.
//!
//! Versions that differ in nothing but their name need no webhook (`strategy: None`), which is
//! [`Custom::show`](super::Custom::show). With one, a request first has every stored object that it
//! will look at converted ([`prepare`]), many at a time; from then on it reads them as if they were
//! stored so. What a webhook answers is not believed: it may change what an object says, its labels
//! and its annotations, and not which object it is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use eyot_store::Object;
use serde_json::{Map, Value, json};

use crate::{
    api::Api,
    failure::Failure,
    object::{self, at, text},
    resource::{Definition, Resource},
    webhook::Target,
};

/// A webhook that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Objects are sent in portions of about this many bytes.
const PORTION: usize = 4 * 1024 * 1024;
/// An answer to a portion may be so large.
const ANSWER: usize = 4 * PORTION;

/// How objects get from one version to another.
#[derive(Debug, Clone)]
pub(crate) enum Conversion {
    /// Only their `apiVersion` changes.
    None,
    Webhook(Hook),
}

/// A webhook that converts.
#[derive(Debug, Clone)]
pub(crate) struct Hook {
    target: Result<Target, String>,
    /// The version of the question that it understands.
    review: &'static str,
}

impl Conversion {
    pub(super) fn of(crd: &Value) -> Conversion {
        if text(crd, &["spec", "conversion", "strategy"]) != "Webhook" {
            return Conversion::None;
        }
        let path = ["spec", "conversion", "webhook"];
        let webhook = at(crd, &path).unwrap_or(&Value::Null);
        let config = webhook.get("clientConfig").unwrap_or(&Value::Null);
        let reviews = webhook
            .get("conversionReviewVersions")
            .and_then(Value::as_array);
        let mut reviews = reviews.into_iter().flatten().filter_map(Value::as_str);
        let review = reviews.find_map(|name| match name {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        });
        Conversion::Webhook(Hook {
            target: Target::parse(config),
            review: review.unwrap_or("v1"),
        })
    }
}

/// Objects of one request, converted, by the revision of their stored form.
#[derive(Default)]
pub(crate) struct Converted(Mutex<HashMap<u64, Bytes>>);

impl Converted {
    pub(crate) fn get(&self, revision: u64) -> Option<Bytes> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&revision).cloned()
    }

    fn put(&self, revision: u64, json: Bytes) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(revision, json);
    }

    /// Forget what is not needed any more.
    fn clear(&self) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.clear();
    }
}

/// Convert what a request will look at, where that takes a webhook.
pub(crate) async fn prepare<'o>(
    api: &Api,
    resource: &Resource,
    objects: impl IntoIterator<Item = &'o Arc<Object>>,
) -> Result<(), Failure> {
    let (Some(converted), Definition::Custom(custom)) = (&resource.converted, &resource.definition)
    else {
        return Ok(());
    };
    let Conversion::Webhook(hook) = &custom.conversion else {
        return Ok(());
    };
    let desired = resource.api_version();
    let mut portion: Vec<(u64, Value)> = Vec::new();
    let mut size = 0;
    for object in objects {
        if custom.is_current(object) || converted.get(object.revision).is_some() {
            continue;
        }
        let value: Value = serde_json::from_slice(&object.json).map_err(Failure::internal)?;
        if text(&value, &["apiVersion"]) == desired {
            continue;
        }
        size += object.json.len();
        portion.push((object.revision, value));
        if size >= PORTION {
            convert_all(api, resource, hook, std::mem::take(&mut portion), converted).await?;
            size = 0;
        }
    }
    convert_all(api, resource, hook, portion, converted).await
}

/// The same for a stream, which keeps nothing of what it has told.
pub(crate) async fn prepare_anew(
    api: &Api,
    resource: &Resource,
    objects: &[Arc<Object>],
) -> Result<(), Failure> {
    if let Some(converted) = &resource.converted {
        converted.clear();
    }
    prepare(api, resource, objects).await
}

async fn convert_all(
    api: &Api,
    resource: &Resource,
    hook: &Hook,
    portion: Vec<(u64, Value)>,
    into: &Converted,
) -> Result<(), Failure> {
    if portion.is_empty() {
        return Ok(());
    }
    let desired = resource.api_version();
    let (revisions, values): (Vec<u64>, Vec<Value>) = portion.into_iter().unzip();
    let answered = ask(api, hook, &resource.kind, &desired, values).await?;
    for (revision, mut value) in revisions.into_iter().zip(answered) {
        if let Definition::Custom(custom) = &resource.definition {
            custom.schema().prune(&mut value);
            custom.schema().default(&mut value);
        }
        let json = serde_json::to_vec(&value).map_err(Failure::internal)?;
        into.put(revision, json.into());
    }
    Ok(())
}

/// An object of this version in the form in which it is stored.
pub(crate) async fn to_storage(
    api: &Api,
    resource: &Resource,
    value: Value,
) -> Result<Value, Failure> {
    if let Definition::Custom(custom) = &resource.definition
        && let Conversion::Webhook(hook) = &custom.conversion
        && !custom.is_storage
    {
        let desired = &custom.storage_version;
        let mut answered = ask(api, hook, &resource.kind, desired, vec![value]).await?;
        return answered
            .pop()
            .ok_or_else(|| Failure::internal("nothing was converted"));
    }
    Ok(resource.stored(value))
}

/// Objects of one version of a resource as another shows them.
pub(crate) async fn to_version(
    api: &Api,
    from: &Resource,
    to: &Resource,
    values: Vec<Value>,
) -> Result<Vec<Value>, Failure> {
    let (Some(hook), Definition::Custom(custom)) = (hook_of(from), &to.definition) else {
        return Ok(values.iter().map(|value| from.convert(to, value)).collect());
    };
    let desired = to.api_version();
    if values.is_empty() || from.api_version() == desired {
        return Ok(values);
    }
    let mut shown = ask(api, hook, &from.kind, &desired, values).await?;
    for value in &mut shown {
        custom.schema().prune(value);
        custom.schema().default(value);
    }
    Ok(shown)
}

fn hook_of(resource: &Resource) -> Option<&Hook> {
    match &resource.definition {
        Definition::Custom(custom) => match &custom.conversion {
            Conversion::Webhook(hook) => Some(hook),
            Conversion::None => None,
        },
        Definition::Builtin(_) => None,
    }
}

/// What is shown in another version to those who cannot wait for a webhook: they leave a note of
/// what they miss, and begin anew once it is [known](Shown::fetch).
#[derive(Default)]
pub(crate) struct Shown {
    /// By version and object.
    known: Mutex<HashMap<(String, String), Value>>,
    missing: Mutex<Vec<(String, Arc<Resource>, Value)>>,
}

impl Shown {
    /// The object in that version, if it was fetched. `from` is the version that it is in.
    pub(crate) fn get(&self, from: &str, to: &Arc<Resource>, value: &Value) -> Option<Value> {
        let key = (to.api_version(), value.to_string());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.get(&key) {
            return Some(value.clone());
        }
        drop(known);
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.push((from.to_owned(), to.clone(), value.clone()));
        None
    }

    pub(crate) fn is_missing(&self) -> bool {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        !missing.is_empty()
    }

    /// Have converted what was missed. Answers whether there was any.
    pub(crate) async fn fetch(&self, api: &Api) -> Result<bool, Failure> {
        let missing = {
            let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *missing)
        };
        let any = !missing.is_empty();
        for (from, to, value) in missing {
            let Some(hook) = hook_of(&to) else { continue };
            let key = (to.api_version(), value.to_string());
            let mut asked = value;
            asked["apiVersion"] = from.into();
            let shown = ask(api, hook, &to.kind, &key.0, vec![asked]).await?;
            if let (Some(mut shown), Definition::Custom(custom)) =
                (shown.into_iter().next(), &to.definition)
            {
                custom.schema().prune(&mut shown);
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(key, shown);
            }
        }
        Ok(any)
    }
}

/// Ask the webhook, and hold its answer against what it was asked.
async fn ask(
    api: &Api,
    hook: &Hook,
    kind: &str,
    desired: &str,
    values: Vec<Value>,
) -> Result<Vec<Value>, Failure> {
    let from = values
        .first()
        .map_or("", |value| text(value, &["apiVersion"]));
    let about = format!("conversion webhook for {from}, Kind={kind}");
    let fails = |why: &dyn std::fmt::Display| Failure::unknown(format!("{about} failed: {why}"));
    let target = hook.target.as_ref().map_err(|why| fails(why))?;
    let uid = uuid::Uuid::new_v4().to_string();
    let review = json!({
        "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{}", hook.review),
        "request": {"uid": uid, "desiredAPIVersion": desired, "objects": values},
    });
    let body = serde_json::to_vec(&review).map_err(Failure::internal)?;
    let answer = api
        .webhooks
        .post(target, body.into(), PATIENCE, ANSWER)
        .await
        .map_err(|error| fails(&error))?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|error| fails(&error))?;
    let response = answer
        .get("response")
        .filter(|response| response.is_object())
        .ok_or_else(|| fails(&"no response provided"))?;
    let answered = text(response, &["uid"]);
    if answered != uid {
        return Err(fails(&format!(
            "expected response.uid={uid:?}, got {answered:?}"
        )));
    }
    let status = text(response, &["result", "status"]);
    if status != "Success" {
        return Err(match text(response, &["result", "message"]) {
            "" => fails(&format!(
                "response.result.status was '{status}', not 'Success'"
            )),
            message => fails(&message),
        });
    }
    let converted = at(response, &["convertedObjects"]).and_then(Value::as_array);
    let converted = converted.map_or(&[][..], Vec::as_slice);
    if converted.len() != values.len() {
        return Err(Failure::unknown(format!(
            "{about} returned {} objects, expected {}",
            converted.len(),
            values.len()
        )));
    }
    let pairs = values.into_iter().zip(converted).enumerate();
    pairs
        .map(|(index, (original, converted))| {
            accept(original, converted, desired).map_err(|why| {
                Failure::unknown(format!(
                    "{about} returned invalid converted object at index {index}: {why}"
                ))
            })
        })
        .collect()
}

/// A converted object, if it is still the same object.
fn accept(original: Value, converted: &Value, desired: &str) -> Result<Value, String> {
    let version = text(converted, &["apiVersion"]);
    if version != desired {
        return Err(format!(
            "invalid groupVersion: expected {desired} received {version}"
        ));
    }
    for (what, path) in [
        ("kind", &["kind"][..]),
        ("name", &["metadata", "name"]),
        ("namespace", &["metadata", "namespace"]),
        ("UID", &["metadata", "uid"]),
    ] {
        let (given, kept) = (text(&original, path), text(converted, path));
        if given != kept {
            return Err(format!("must have the same {what}: {given} != {kept}"));
        }
    }
    let Some(converted_metadata) = converted.get("metadata").and_then(Value::as_object) else {
        return Err("invalid metadata of type <nil> in input object".to_owned());
    };
    let mut value = converted.clone();
    let mut metadata: Map<String, Value> = original
        .get("metadata")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    for key in ["labels", "annotations"] {
        match converted_metadata.get(key).filter(|value| !value.is_null()) {
            Some(given) => metadata.insert(key.to_owned(), given.clone()),
            None => metadata.remove(key),
        };
    }
    *object::metadata(&mut value) = metadata;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_may_change_labels_but_not_which_object_it_is() {
        let original = json!({"apiVersion": "x/v1", "kind": "A", "spec": {"a": 1},
            "metadata": {"name": "n", "uid": "u", "finalizers": ["f"], "labels": {"a": "1"}}});
        let mut converted = json!({"apiVersion": "x/v2", "kind": "A", "spec": {"b": 1},
            "metadata": {"name": "n", "uid": "u", "labels": {"b": "2"}, "generation": 9}});
        assert_eq!(
            accept(original.clone(), &converted, "x/v2"),
            Ok(json!({"apiVersion": "x/v2", "kind": "A", "spec": {"b": 1},
                "metadata": {"name": "n", "uid": "u", "finalizers": ["f"], "labels": {"b": "2"}}}))
        );
        assert!(accept(original.clone(), &converted, "x/v3").is_err());
        converted["metadata"]["uid"] = "other".into();
        assert_eq!(
            accept(original, &converted, "x/v2"),
            Err("must have the same UID: u != other".to_owned())
        );
    }
}
