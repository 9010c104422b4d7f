//! MutatingAdmissionPolicy: what is to be changed about a write.
//!
//! A mutation answers either a JSON patch, or the parts of the object that it wants to be so, which
//! are merged as an apply would: lists by their keys where the kind has them. What merges only as
//! a whole is refused, and nobody comes to manage a field by it.

use serde_json::Value;

use super::{
    super::{
        Attributes, Mutated,
        hooks::{Rounds, View},
        scene::Scene,
        selection::is_exempt,
    },
    Evaluation,
    compile::{Mutation, Policy},
    params, refusal,
};
use crate::{
    api::Api,
    cel,
    failure::Failure,
    managed,
    patch::{self, PatchError},
    resource::Resource,
};

const KIND: &str = "MutatingAdmissionPolicy";

pub(in crate::admission) async fn mutate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Value,
    mutated: &mut Mutated,
    rounds: &mut Rounds,
) -> Result<(), Failure> {
    let policies = api.admission.mutations.get(&api.store);
    if policies.is_empty() || object.is_null() || is_exempt(attributes) {
        return Ok(());
    }
    for policy in policies.iter() {
        if rounds.is_second() && !policy.again {
            continue;
        }
        for binding in &policy.bindings {
            let fails = |object: &Value, why: String| {
                refusal(
                    attributes,
                    object,
                    KIND,
                    policy,
                    Some(binding),
                    ("Invalid", &why),
                )
            };
            let shown = match policy.selection.find(api, attributes, object, true) {
                Ok(Some(shown)) => shown,
                Ok(None) => continue,
                Err(_) if policy.ignore => continue,
                Err(failure) => return Err(failure),
            };
            if let Some(selection) = &binding.selection
                && !matches!(selection.find(api, attributes, object, true), Ok(Some(_)))
            {
                continue;
            }
            let params = match params::collect(api, attributes, policy, binding) {
                Ok(params) => params,
                Err(_) if policy.ignore => continue,
                Err(why) => {
                    return Err(fails(object, format!("failed to configure binding: {why}")));
                }
            };
            let scene = Scene::new(api, attributes, &shown);
            for params in &params {
                let view = View::new(api, attributes, object, &shown).await?;
                let objects = (view.object(object), view.old(attributes));
                let made = match change(policy, &scene, &shown, objects, params) {
                    Ok(Some(made)) => made,
                    Ok(None) => continue,
                    Err(_) if policy.ignore => continue,
                    Err(why) => return Err(fails(object, why)),
                };
                if made == *view.object(object) {
                    continue;
                }
                let own = &attributes.call.resource;
                let back = view.back(api, &shown, own, made).await?;
                *object = back;
                if attributes.sent.is_none() {
                    attributes.call.check_type(object)?;
                    attributes.call.check_place(object)?;
                }
                mutated.changed = true;
                rounds.policy_changed(policies.iter().any(|policy| policy.again));
            }
        }
    }
    Ok(())
}

/// The object with all mutations of the policy; `None` if it is not meant.
fn change(
    policy: &Policy,
    scene: &Scene,
    shown: &Resource,
    (object, old): (&Value, &Value),
    params: &Value,
) -> Result<Option<Value>, String> {
    let first = Evaluation::new(policy, scene, (object, old), params);
    if !policy.conditions.hold(&first.base)? {
        return Ok(None);
    }
    drop(first);
    let mut next = object.clone();
    for mutation in &policy.mutations {
        let answer = {
            let mut evaluation = Evaluation::new(policy, scene, (&next, old), params);
            evaluation.answer(&mutation.expression, &mutation.program)?
        };
        next = apply(mutation, shown, &next, &answer)?;
        let unknown = shown.try_decode(&mut next).map_err(|error| error.message)?;
        if let [first, ..] = unknown.as_slice()
            && !shown.is_custom()
        {
            return Err(format!("strict decoding error: unknown field {first:?}"));
        }
        shown.default(&mut next);
    }
    Ok(Some(next))
}

fn apply(
    mutation: &Mutation,
    shown: &Resource,
    object: &Value,
    answer: &cel::Value<'_>,
) -> Result<Value, String> {
    let wanted = answer.to_json().map_err(|error| error.to_string())?;
    if !mutation.patch {
        return managed::lay(shown, object, &wanted)
            .map_err(|why| format!("error applying patch: {why}"));
    }
    match patch::json(object, &wanted) {
        Ok(next) => Ok(next),
        // A test that fails says that there is nothing to do.
        Err(PatchError::TestFailed) => Ok(object.clone()),
        Err(error) => Err(format!("JSON Patch: {}", error.why())),
    }
}
