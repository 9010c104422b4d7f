//! Validating webhooks: all that are concerned are asked at once, and each can refuse.

use futures::future::join_all;
use serde_json::Value;

use super::{
    super::{Admitted, Attributes, selection::is_exempt},
    View,
    call::{Answer, Trouble},
};
use crate::{api::Api, failure::Failure};

pub(in crate::admission) async fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
    admitted: &mut Admitted,
) -> Result<(), Failure> {
    let hooks = api.admission.validating.get(&api.store);
    if hooks.is_empty() || is_exempt(attributes) {
        return Ok(());
    }
    let mut concerned = Vec::new();
    for (index, hook) in hooks.iter().enumerate() {
        if let Some(shown) = hook.wants(api, attributes, object).await? {
            let view = View::new(api, attributes, object, &shown).await?;
            concerned.push((index, hook, shown, view));
        }
    }
    let asked = concerned.iter().map(|(_, hook, shown, view)| {
        let objects = (view.object(object), view.old(attributes));
        hook.ask(api, attributes, shown, objects, false)
    });
    let answers = join_all(asked).await;
    for ((index, hook, _, _), answer) in concerned.iter().zip(answers) {
        match answer {
            Ok(Answer { warnings, .. }) => admitted.warnings.extend(warnings),
            Err(Trouble::Calling(why)) if hook.ignore => {
                tracing::warn!(why, "a webhook that may fail did");
                let key = "failed-open.validating.webhook.admission.k8s.io";
                let key = format!("{key}/round_0_index_{index}");
                attributes.call.audit.add(key, &hook.name);
            }
            Err(Trouble::Calling(why)) => return Err(Failure::internal(why)),
            Err(Trouble::Refused(failure)) => return Err(failure),
        }
    }
    Ok(())
}
