//! Gives each namespace its service account `default`, which pods run as that name none.
//!
//! Reads namespaces and the accounts of that name; writes only accounts that are not there.

use eyot_client::{Cache, Key, Reconciler, Requeue};
use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};

use crate::{
    error::{Act, ControlError, is},
    namespace::is_active,
};

const NAME: &str = "default";
/// Selects those of the name.
pub(crate) const SELECTED: &str = "metadata.name=default";

pub(crate) struct ServiceAccounts {
    pub(crate) client: Client,
    pub(crate) namespaces: Cache<Namespace>,
    /// Those of that name.
    pub(crate) accounts: Cache<ServiceAccount>,
}

impl Reconciler for ServiceAccounts {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "service-account"
    }

    /// The key is the namespace's.
    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let namespace = self.namespaces.get(key);
        let wanted = namespace.is_some_and(|namespace| is_active(&namespace));
        if !wanted || self.accounts.get(&Key::new(&key.name, NAME)).is_some() {
            return Ok(Requeue::OnChange);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.name);
        match api.create(&PostParams::default(), &account).await {
            Err(error) if is(&error, 409) => Ok(Requeue::OnChange),
            created => {
                created.act_if_there(|| format!("creating the account of namespace {key}"))?;
                Ok(Requeue::OnChange)
            }
        }
    }
}
