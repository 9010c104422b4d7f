//! Makes the storage class `local-path` at a start that finds none: the default one, whose volumes are
//! directories of the node that the first pod runs on. What an administrator made of it stays.

use anyhow::Context;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Client, api::PostParams};
use serde_json::json;

const NAME: &str = "local-path";

/// Make the class if there is none of its name.
pub async fn install(client: &Client) -> anyhow::Result<()> {
    let api: Api<StorageClass> = Api::all(client.clone());
    let act = async {
        if api.get_opt(NAME).await?.is_none() {
            api.create(&PostParams::default(), &class()?).await?;
        }
        anyhow::Ok(())
    };
    act.await
        .with_context(|| format!("storage class {NAME} cannot be made"))
}

fn class() -> serde_json::Result<StorageClass> {
    serde_json::from_value(json!({
        "metadata": {
            "name": NAME,
            "annotations": { "storageclass.kubernetes.io/is-default-class": "true" },
        },
        "provisioner": "eyot.dev/local-path",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_is_one() {
        let class = class().unwrap();
        assert_eq!(
            class.volume_binding_mode.as_deref(),
            Some("WaitForFirstConsumer")
        );
        assert_eq!(class.allow_volume_expansion, Some(true));
    }
}
