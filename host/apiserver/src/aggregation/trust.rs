//! What a server behind this one must know to believe what it is told about users: the ConfigMap
//! `extension-apiserver-authentication`.

use eyot_store::WriteError;
use serde_json::{Map, Value, json};

use crate::{api::Api, standing};

/// Under what name and with which certificate this server comes to the servers behind it.
#[derive(Debug, Clone)]
pub struct FrontProxy {
    /// The authority that signed the certificate, in PEM. It signs nothing else: whoever holds a
    /// certificate of it may speak for every user.
    pub authority: String,
    /// The certificate of this server as a client, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
}

/// The common name of the front proxy's certificate.
pub const FRONT_PROXY: &str = "front-proxy-client";

/// Publish it. Kept current at each start.
pub(crate) async fn publish(api: &Api) -> Result<(), WriteError> {
    let mut data = Map::new();
    if let Some(authority) = &api.options.root_ca {
        data.insert("client-ca-file".into(), (&**authority).into());
    }
    if let Some(proxy) = &api.options.front_proxy {
        let mut list =
            |key: &str, word: &str| data.insert(key.into(), json!([word]).to_string().into());
        list("requestheader-allowed-names", FRONT_PROXY);
        list("requestheader-username-headers", "X-Remote-User");
        list("requestheader-uid-headers", "X-Remote-Uid");
        list("requestheader-group-headers", "X-Remote-Group");
        list("requestheader-extra-headers-prefix", "X-Remote-Extra-");
        data.insert(
            "requestheader-client-ca-file".into(),
            proxy.authority.as_str().into(),
        );
    }
    if data.is_empty() {
        return Ok(());
    }
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": Value::Object(data),
    });
    standing::ensure(api, "", "configmaps", map, true).await
}
