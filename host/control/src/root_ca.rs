//! Publishes the authority behind the API's certificate: a ConfigMap `kube-root-ca.crt` in each
//! namespace, which is mounted beside the token of each pod's service account.
//!
//! Reads namespaces and the ConfigMaps of that name; writes those that are missing or differ.

use std::collections::BTreeMap;

use eyot_client::{Cache, Key, Reconciler, Requeue};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    error::{Act, ControlError, is},
    namespace::is_active,
};

const NAME: &str = "kube-root-ca.crt";
/// Selects those of the name.
pub(crate) const SELECTED: &str = "metadata.name=kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
     endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
     guaranteed across distributions of Kubernetes clusters.",
);

pub(crate) struct RootCas {
    pub(crate) client: Client,
    pub(crate) namespaces: Cache<Namespace>,
    /// Those of that name.
    pub(crate) config_maps: Cache<ConfigMap>,
    /// In PEM.
    pub(crate) bundle: String,
}

impl Reconciler for RootCas {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "root-ca"
    }

    /// The key is the namespace's.
    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let namespace = self.namespaces.get(key);
        if !namespace.is_some_and(|namespace| is_active(&namespace)) {
            return Ok(Requeue::OnChange);
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.name);
        let (description, text) = DESCRIPTION;
        let written = match self.config_maps.get(&Key::new(&key.name, NAME)) {
            Some(found) if is_right(&found, &self.bundle) => return Ok(Requeue::OnChange),
            Some(_) => {
                let patch = Patch::Merge(json!({
                    "metadata": { "annotations": { description: text } },
                    "data": { KEY: self.bundle },
                }));
                api.patch(NAME, &PatchParams::default(), &patch).await
            }
            None => {
                let published = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(NAME.to_owned()),
                        annotations: Some([(description.to_owned(), text.to_owned())].into()),
                        ..ObjectMeta::default()
                    },
                    data: Some(BTreeMap::from([(KEY.to_owned(), self.bundle.clone())])),
                    ..ConfigMap::default()
                };
                api.create(&PostParams::default(), &published).await
            }
        };
        let act = || format!("publishing the root certificate in namespace {key}");
        match written {
            Err(error) if is(&error, 409) => Ok(Requeue::OnChange),
            written => written.act_if_there(act).map(|()| Requeue::OnChange),
        }
    }
}

/// Whether clients find the authority, and nothing else, in it.
fn is_right(found: &ConfigMap, bundle: &str) -> bool {
    let data = found.data.as_ref();
    let described = found.metadata.annotations.as_ref();
    data.is_some_and(|data| data.get(KEY).is_some_and(|found| found == bundle))
        && described.is_some_and(|all| all.get(DESCRIPTION.0).is_some_and(|d| d == DESCRIPTION.1))
}
