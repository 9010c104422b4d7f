//! Installs the custom resources of Eyot itself at every start: created if missing, replaced if
//! this version of the program has another definition.

use anyhow::Context;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt, api::PostParams};

/// Make the stored definitions those of this program.
pub async fn install(client: &Client) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for mut wanted in eyot_api::crds() {
        let name = wanted.name_any();
        let act = async {
            match api.get_opt(&name).await? {
                None => api.create(&PostParams::default(), &wanted).await?,
                Some(held) if same(&held, &wanted) => held,
                Some(held) => {
                    wanted.metadata.resource_version = held.metadata.resource_version;
                    api.replace(&name, &PostParams::default(), &wanted).await?
                }
            };
            Ok::<_, kube::Error>(())
        };
        act.await
            .with_context(|| format!("custom resource {name} cannot be installed"))?;
    }
    Ok(())
}

/// Whether what is stored says what is wanted. The server fills in defaults, so the comparison
/// asks whether every value that is wanted is there, not whether nothing else is.
fn same(held: &CustomResourceDefinition, wanted: &CustomResourceDefinition) -> bool {
    let json = |spec| serde_json::to_value(spec).unwrap_or_default();
    contains(&json(&held.spec), &json(&wanted.spec))
}

fn contains(held: &serde_json::Value, wanted: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Object};
    match (held, wanted) {
        (Object(held), Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| held.get(key).is_some_and(|h| contains(h, value))),
        (Array(held), Array(wanted)) => {
            held.len() == wanted.len() && held.iter().zip(wanted).all(|(h, w)| contains(h, w))
        }
        _ => held == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_of_the_server_are_no_difference_but_other_values_are() {
        let wanted = json!({"names": {"kind": "Device"}, "versions": [{"name": "v1"}]});
        let held = json!({
            "names": {"kind": "Device", "listKind": "DeviceList"},
            "versions": [{"name": "v1", "served": true}],
        });
        assert!(contains(&held, &wanted));
        assert!(!contains(&wanted, &held));
        assert!(!contains(
            &json!({"versions": []}),
            &json!({"versions": [{"name": "v1"}]})
        ));
    }
}
