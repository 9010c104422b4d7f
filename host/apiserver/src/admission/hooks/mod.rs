//! Webhooks: writes that other people's servers change or refuse.
//!
//! Configurations are read once for each change of them ([`Hook`]); a request that none of them is
//! about costs a look at their rules. Mutating webhooks are asked one after the other, each seeing
//! what those before it did, and those that wish are asked again if a later one changed the object;
//! validating ones are asked all at once. Nothing is locked while they are asked, so a webhook may
//! itself write through this server.

mod call;
mod mutating;
mod validating;

use std::time::Duration;

use serde_json::Value;

pub(super) use self::{
    mutating::{Rounds, mutate},
    validating::validate,
};
use super::{Attributes, conditions::Conditions, scene::Scene, selection::Selection};
use crate::{
    api::Api,
    cel::request::Names,
    crd::convert,
    failure::Failure,
    object::{self, text},
    resource::Resource,
    webhook::Target,
};
use std::sync::Arc;

pub(super) const MUTATING: &[&str] =
    &["mutatingwebhookconfigurations.admissionregistration.k8s.io"];
pub(super) const VALIDATING: &[&str] =
    &["validatingwebhookconfigurations.admissionregistration.k8s.io"];
/// The default of the API, for what was stored before it was given.
const TIMEOUT: u64 = 10;
/// The longest that the API accepts.
const LONGEST: u64 = 30;

/// One webhook of a configuration, ready to be asked.
pub(super) struct Hook {
    configuration: String,
    name: String,
    /// Unlike all others.
    id: String,
    target: Result<Target, String>,
    timeout: Duration,
    /// What cannot be asked agrees.
    ignore: bool,
    selection: Selection,
    conditions: Conditions,
    /// The version of AdmissionReview that it is sent; `None` if it knows none that is spoken.
    review: Option<&'static str>,
    /// Whether asking it in a dry run does no harm.
    dry: bool,
    /// Whether it is asked again when another one changed the object after it.
    again: bool,
}

/// All webhooks of the stored configurations, in the order of names, then of places.
pub(super) fn compile(stored: &[Value]) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for configuration in stored {
        let name = object::name(configuration);
        let list = configuration.get("webhooks").and_then(Value::as_array);
        for (index, hook) in list.into_iter().flatten().enumerate() {
            hooks.push(Hook::parse(name, index, hook));
        }
    }
    hooks
}

impl Hook {
    fn parse(configuration: &str, index: usize, hook: &Value) -> Hook {
        let name = text(hook, &["name"]);
        let ignore = text(hook, &["failurePolicy"]) == "Ignore";
        let seconds = hook.get("timeoutSeconds").and_then(Value::as_u64);
        let versions = hook
            .get("admissionReviewVersions")
            .and_then(Value::as_array);
        let versions = versions.into_iter().flatten().filter_map(Value::as_str);
        let target = hook.get("clientConfig").unwrap_or(&Value::Null);
        Hook {
            configuration: configuration.to_owned(),
            name: name.to_owned(),
            id: format!("{configuration}/{name}/{index}"),
            target: Target::parse(target),
            timeout: Duration::from_secs(seconds.unwrap_or(TIMEOUT).clamp(1, LONGEST)),
            ignore,
            selection: Selection::of_hook(hook),
            conditions: Conditions::parse(
                hook.get("matchConditions"),
                &Names::default().env(),
                !ignore,
            ),
            review: versions
                .filter_map(|version| match version {
                    "v1" => Some("admission.k8s.io/v1"),
                    "v1beta1" => Some("admission.k8s.io/v1beta1"),
                    _ => None,
                })
                .next(),
            dry: matches!(text(hook, &["sideEffects"]), "None" | "NoneOnDryRun"),
            again: text(hook, &["reinvocationPolicy"]) == "IfNeeded",
        }
    }

    /// In which version of its resource the object is to be shown, if the request is meant at all.
    async fn wants(
        &self,
        api: &Api,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<Option<Arc<Resource>>, Failure> {
        let found = self.selection.find(api, attributes, object, false)?;
        let Some(shown) = found else {
            return Ok(None);
        };
        if self.conditions.is_empty() {
            return Ok(Some(shown));
        }
        let scene = Scene::new(api, attributes, &shown);
        let view = View::new(api, attributes, object, &shown).await?;
        match self
            .conditions
            .hold(&scene.bindings(view.object(object), view.old(attributes)))
        {
            Ok(true) => Ok(Some(shown)),
            Ok(false) => Ok(None),
            Err(why) => Err(attributes.forbidden(object, why)),
        }
    }
}

/// The objects of a request in another version of their resource, where they must be.
pub(super) struct View {
    object: Option<Value>,
    old: Option<Value>,
}

static NULL: Value = Value::Null;

impl View {
    pub(super) async fn new(
        api: &Api,
        attributes: &Attributes<'_>,
        object: &Value,
        shown: &Resource,
    ) -> Result<View, Failure> {
        let own = &attributes.call.resource;
        // What is not the object itself has one version only.
        if attributes.sent.is_some() || super::selection::is_same(own, shown) {
            return Ok(View {
                object: None,
                old: None,
            });
        }
        let old = attributes.old.filter(|old| !old.is_null());
        let given = [Some(object).filter(|object| !object.is_null()), old];
        let values = given.iter().flatten().map(|value| (*value).clone());
        let mut values = convert::to_version(api, own, shown, values.collect())
            .await?
            .into_iter();
        let [object, old] = given.map(|given| given.and_then(|_| values.next()));
        Ok(View { object, old })
    }

    pub(super) fn object<'a>(&'a self, own: &'a Value) -> &'a Value {
        self.object.as_ref().unwrap_or(own)
    }

    pub(super) fn old<'a>(&'a self, attributes: &Attributes<'a>) -> &'a Value {
        self.old.as_ref().or(attributes.old).unwrap_or(&NULL)
    }

    /// What was made of the shown object, in the version that the request is about.
    pub(super) async fn back(
        &self,
        api: &Api,
        shown: &Resource,
        own: &Resource,
        made: Value,
    ) -> Result<Value, Failure> {
        if self.object.is_none() {
            return Ok(made);
        }
        let back = convert::to_version(api, shown, own, vec![made]).await?;
        back.into_iter()
            .next()
            .ok_or_else(|| Failure::internal("nothing was converted"))
    }
}
