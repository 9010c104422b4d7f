//! What a server behind this one must know to believe what it is told about users: the ConfigMap
//! `extension-apiserver-authentication`.

use eyot_store::{Key, WriteError};
use serde_json::{Map, Value, json};

use crate::{api::Api, object, standing};

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

/// Where it is published.
pub(super) const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// Publish it, beside what other hosts of the same store have published.
pub(crate) async fn publish(api: &Api) -> Result<(), WriteError> {
    let stored = api.store.get(&Key::new("configmaps", NAMESPACE, NAME));
    let stored = stored.and_then(|one| serde_json::from_slice::<Value>(&one.json).ok());
    let before = |key: &str| {
        let held = stored.as_ref().map(|map| object::text(map, &["data", key]));
        held.unwrap_or_default()
    };
    let mut data = Map::new();
    if let Some(authority) = &api.options.root_ca {
        let key = "client-ca-file";
        data.insert(key.into(), with_certificate(before(key), authority).into());
    }
    if let Some(proxy) = &api.options.front_proxy {
        for (key, word) in [
            ("requestheader-allowed-names", FRONT_PROXY),
            ("requestheader-username-headers", "X-Remote-User"),
            ("requestheader-uid-headers", "X-Remote-Uid"),
            ("requestheader-group-headers", "X-Remote-Group"),
            ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        ] {
            data.insert(key.into(), with_word(before(key), word).into());
        }
        let key = "requestheader-client-ca-file";
        let all = with_certificate(before(key), &proxy.authority);
        data.insert(key.into(), all.into());
    }
    if data.is_empty() {
        return Ok(());
    }
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": Value::Object(data),
    });
    standing::ensure(api, "", "configmaps", map, true).await
}

/// PEM of these certificates and of this one.
fn with_certificate(held: &str, certificate: &str) -> String {
    match held.contains(certificate.trim()) {
        true => held.to_owned(),
        false if held.is_empty() || held.ends_with('\n') => format!("{held}{certificate}"),
        false => format!("{held}\n{certificate}"),
    }
}

/// A JSON list of these words and of this one.
fn with_word(held: &str, word: &str) -> String {
    let mut words: Vec<String> = serde_json::from_str(held).unwrap_or_default();
    if !words.iter().any(|one| one == word) {
        words.push(word.to_owned());
    }
    json!(words).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_published_stays() {
        assert_eq!(with_certificate("", "a\n"), "a\n");
        assert_eq!(with_certificate("a\n", "b\n"), "a\nb\n");
        assert_eq!(with_certificate("a", "b"), "a\nb");
        assert_eq!(with_certificate("a\nb\n", "b\n"), "a\nb\n");
        assert_eq!(with_word("", "x"), r#"["x"]"#);
        assert_eq!(with_word(r#"["y"]"#, "x"), r#"["y","x"]"#);
        assert_eq!(with_word(r#"["y","x"]"#, "x"), r#"["y","x"]"#);
        assert_eq!(with_word("nonsense", "x"), r#"["x"]"#);
    }
}
