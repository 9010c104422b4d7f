//! Mutating webhooks: asked one after the other, each seeing what those before it did.
//!
//! A change may concern webhooks that were asked before it was made. Those that wish to be asked
//! again are, once: then all plug-ins run a second time, so that the built-in ones complete what
//! webhooks added.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    super::{Attributes, Mutated, selection::is_exempt},
    Hook, View,
    call::Trouble,
};
use crate::{api::Api, failure::Failure, patch, resource::Resource};

/// What is known of the rounds of one request.
#[derive(Debug, Default)]
pub(in crate::admission) struct Rounds {
    second: bool,
    /// Somebody must be asked again.
    wanted: bool,
    /// Asked already, and willing to be asked again.
    willing: HashSet<String>,
    /// To be asked in the second round.
    due: HashSet<String>,
    /// The object as the last webhook left it.
    left: Option<Value>,
}

impl Rounds {
    /// Whether all plug-ins must run again; at most once.
    pub(in crate::admission) fn again(&mut self) -> bool {
        let again = self.wanted && !self.second;
        self.second = true;
        again
    }

    /// Whether this is the second time that all plug-ins run.
    pub(in crate::admission) fn is_second(&self) -> bool {
        self.second
    }

    /// A policy changed the object; `willing` if some policy wishes to see what others did then.
    pub(in crate::admission) fn policy_changed(&mut self, willing: bool) {
        self.wanted |= willing;
    }

    /// The object changed: all who were asked and are willing are due.
    fn changed(&mut self) {
        self.due.extend(self.willing.drain());
    }
}

pub(in crate::admission) async fn mutate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Value,
    mutated: &mut Mutated,
    rounds: &mut Rounds,
) -> Result<(), Failure> {
    let hooks = api.admission.mutating.get(&api.store);
    if hooks.is_empty() || is_exempt(attributes) {
        return Ok(());
    }
    if rounds.second && rounds.left.as_ref().is_some_and(|left| left != object) {
        rounds.changed();
    }
    for (index, hook) in hooks.iter().enumerate() {
        let Some(shown) = hook.wants(api, attributes, object).await? else {
            continue;
        };
        // Who was not concerned at first is not asked for the first time now.
        if rounds.second && !rounds.due.contains(&hook.id) {
            continue;
        }
        let changed = ask(api, attributes, object, hook, &shown, mutated).await;
        note(attributes, hook, index, rounds.second, &changed);
        if matches!(changed, Ok(true)) {
            mutated.changed = true;
            rounds.wanted = true;
            rounds.changed();
        }
        if hook.again {
            rounds.willing.insert(hook.id.clone());
        }
        match changed {
            Ok(_) => {}
            Err(Trouble::Calling(why)) if hook.ignore => {
                tracing::warn!(why, "a webhook that may fail did");
            }
            Err(Trouble::Calling(why)) => return Err(Failure::internal(why)),
            Err(Trouble::Refused(failure)) => return Err(failure),
        }
    }
    if hooks.iter().any(|hook| hook.again) {
        rounds.left = Some(object.clone());
    }
    Ok(())
}

/// Ask one webhook, and change the object as it says. Answers whether that made a difference.
async fn ask(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Value,
    hook: &Hook,
    shown: &Resource,
    mutated: &mut Mutated,
) -> Result<bool, Trouble> {
    let view = View::new(api, attributes, object, shown)
        .await
        .map_err(Trouble::Refused)?;
    let objects = (view.object(object), view.old(attributes));
    let answer = hook.ask(api, attributes, shown, objects, true).await?;
    mutated.warnings.extend(answer.warnings);
    let Some(patch) = answer.patch else {
        return Ok(false);
    };
    if patch.as_array().is_some_and(Vec::is_empty) {
        return Ok(false);
    }
    let refused = |why: String| Trouble::Refused(Failure::internal(why));
    if object.is_null() {
        return Err(refused(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for \
             this operation",
            hook.name
        )));
    }
    let before = view.object(object);
    let mut after = patch::json(before, &patch).map_err(|error| refused(error.why()))?;
    if attributes.sent.is_none() {
        // What the kind does not have is dropped, and what it lacks is filled in again.
        shown.decode(&mut after).map_err(Trouble::Refused)?;
        shown.default(&mut after);
    }
    if after == *before {
        return Ok(false);
    }
    let back = view.back(api, shown, &attributes.call.resource, after);
    *object = back.await.map_err(Trouble::Refused)?;
    if attributes.sent.is_none() {
        attributes
            .call
            .check_type(object)
            .map_err(Trouble::Refused)?;
        attributes
            .call
            .check_place(object)
            .map_err(Trouble::Refused)?;
    }
    Ok(true)
}

/// For the audit log: who was asked, and whether that changed anything.
fn note(
    attributes: &Attributes<'_>,
    hook: &Hook,
    index: usize,
    second: bool,
    changed: &Result<bool, Trouble>,
) {
    let place = format!("round_{}_index_{index}", u8::from(second));
    let notes = &attributes.call.audit;
    match changed {
        Err(Trouble::Calling(_)) if hook.ignore => {
            let key = "failed-open.mutating.webhook.admission.k8s.io";
            notes.add(format!("{key}/{place}"), &hook.name);
        }
        _ => {
            let value = json!({
                "configuration": hook.configuration, "webhook": hook.name,
                "mutated": matches!(changed, Ok(true)),
            });
            let key = format!("mutation.webhook.admission.k8s.io/{place}");
            notes.add(key, value.to_string());
        }
    }
}
