//! ValidatingAdmissionPolicy: what must be true of a write.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    super::{Admitted, Attributes, hooks::View, scene::Scene, selection::is_exempt},
    Evaluation,
    compile::{Binding, Policy},
    params, refusal,
};
use crate::{api::Api, cel, failure::Failure};

const KIND: &str = "ValidatingAdmissionPolicy";
/// Longer messages and annotations are not used.
const MESSAGE: usize = 5 * 1024;
const NOTE: usize = 10 * 1024;

/// Why a write is refused: reason and message.
type Denied = (String, String);

/// What one policy says with one set of parameters.
#[derive(Default)]
struct Said {
    /// By the place of the rule; those without a place could not be evaluated at all.
    denied: Vec<(usize, Denied)>,
    /// Annotations, and those that failed.
    notes: Vec<(String, Result<String, String>)>,
}

pub(in crate::admission) async fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
    admitted: &mut Admitted,
) -> Result<(), Failure> {
    let policies = api.admission.validations.get(&api.store);
    if policies.is_empty() || is_exempt(attributes) {
        return Ok(());
    }
    let mut refused: Option<Failure> = None;
    for policy in policies.iter() {
        let mut refuse = |binding: Option<&Binding>, reason: &str, message: &str| {
            refused.get_or_insert_with(|| {
                refusal(attributes, object, KIND, policy, binding, (reason, message))
            });
        };
        let shown = match policy.selection.find(api, attributes, object, true) {
            Ok(Some(shown)) => shown,
            Ok(None) => continue,
            Err(_) if policy.ignore => continue,
            Err(failure) => {
                let why = failure.status()["message"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                refuse(
                    None,
                    "Invalid",
                    &format!("failed to configure policy: {why}"),
                );
                continue;
            }
        };
        let view = View::new(api, attributes, object, &shown).await?;
        let scene = Scene::new(api, attributes, &shown);
        let mut notes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for binding in &policy.bindings {
            let meant = match &binding.selection {
                None => true,
                Some(selection) => {
                    matches!(selection.find(api, attributes, object, true), Ok(Some(_)))
                }
            };
            if !meant {
                continue;
            }
            let params = match params::collect(api, attributes, policy, binding) {
                Ok(params) => params,
                Err(_) if policy.ignore => continue,
                Err(why) => {
                    let why = format!("failed to configure binding: {why}");
                    refuse(Some(binding), "Invalid", &why);
                    continue;
                }
            };
            for params in &params {
                let objects = (view.object(object), view.old(attributes));
                let said = ask(policy, &scene, objects, params);
                for (place, (reason, message)) in &said.denied {
                    for action in &binding.actions {
                        match action.as_str() {
                            "Deny" => refuse(Some(binding), reason, message),
                            "Warn" => admitted.warnings.push(format!(
                                "Validation failed for {KIND} '{}' with binding '{}': {message}",
                                policy.name, binding.name
                            )),
                            _ => note(attributes, policy, binding, *place, message),
                        }
                    }
                }
                for (key, value) in said.notes {
                    match value {
                        Ok(value) => {
                            let values = notes.entry(key).or_default();
                            if !values.contains(&value) {
                                values.push(value);
                            }
                        }
                        Err(why) => refuse(Some(binding), "Invalid", &why),
                    }
                }
            }
        }
        for (key, values) in notes {
            let key = format!("{}/{key}", policy.name);
            attributes.call.audit.add(key, values.join(", "));
        }
    }
    match refused {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

fn ask(policy: &Policy, scene: &Scene, objects: (&Value, &Value), params: &Value) -> Said {
    let mut evaluation = Evaluation::new(policy, scene, objects, params);
    let mut said = Said::default();
    let invalid = |why: String| ("Invalid".to_owned(), why);
    match policy.conditions.hold(&evaluation.base) {
        Ok(true) => {}
        Ok(false) => return said,
        Err(why) => {
            said.denied.push((0, invalid(why)));
            return said;
        }
    }
    for (place, rule) in policy.rules.iter().enumerate() {
        match evaluation.answer(&rule.expression, &rule.program) {
            Ok(cel::Value::Bool(true)) => {}
            Ok(_) => {
                let made = rule.maker.as_ref().and_then(|(expression, program)| {
                    let answer = evaluation.answer(expression, program).ok()?;
                    let text = answer.as_str()?.trim().to_owned();
                    let good = !text.is_empty() && text.len() <= MESSAGE && !text.contains('\n');
                    good.then_some(text)
                });
                let message = made.unwrap_or_else(|| match rule.message.as_str() {
                    "" => format!("failed expression: {}", rule.expression.trim()),
                    message => message.to_owned(),
                });
                said.denied.push((place, (rule.reason.clone(), message)));
            }
            Err(_) if policy.ignore => {}
            Err(why) => said.denied.push((place, invalid(why))),
        }
    }
    for note in &policy.notes {
        let value = match evaluation.answer(&note.expression, &note.program) {
            Ok(cel::Value::Null) => continue,
            Ok(answer) => match answer.as_str().map(str::trim) {
                Some("") => continue,
                Some(text) => Ok(text[..text.floor_char_boundary(NOTE)].to_owned()),
                None => Err(format!(
                    "valueExpression '{}' resulted in unsupported return type: {}. Return type \
                     must be either string or null.",
                    note.expression,
                    answer.type_name()
                )),
            },
            Err(_) if policy.ignore => continue,
            Err(why) => Err(why),
        };
        said.notes.push((note.key.clone(), value));
    }
    said
}

/// For the audit log: a failure that the binding only wants noted.
fn note(
    attributes: &Attributes<'_>,
    policy: &Policy,
    binding: &Binding,
    place: usize,
    message: &str,
) {
    let value = json!([{
        "message": message, "policy": policy.name, "binding": binding.name,
        "expressionIndex": place, "validationActions": binding.actions,
    }]);
    let key = "validation.policy.admission.k8s.io/validation_failure";
    attributes.call.audit.add(key, value.to_string());
}
