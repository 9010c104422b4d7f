//! Small texts by name, kept in ConfigMaps.
//!
//! A shelf is all ConfigMaps with one value of the label [`LABEL`]. Which of them an entry is in is
//! said by the entry's name up to its third `/`: EdgeX's keys begin `edgex/v4/<service>`, so each
//! service has a ConfigMap of its own and none grows past what the API takes. A name may have
//! characters that a ConfigMap's keys may not: these are written `_xx` in hexadecimal.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use sha2::{Digest, Sha256};

use super::super::{Edgex, reply::Failure};

/// Marks the ConfigMaps of a shelf.
const LABEL: &str = "eyot.dev/edgex-keeper";
/// Parts of a name that say which ConfigMap it is in.
const PARTS: usize = 3;

/// What a shelf holds, as it was read; changes are put back with [`Shelf::store`].
pub(super) struct Shelf {
    called: &'static str,
    api: Api<ConfigMap>,
    maps: BTreeMap<String, ConfigMap>,
    pub(super) entries: BTreeMap<String, String>,
    before: BTreeMap<String, String>,
}

impl Shelf {
    /// Read all of it.
    pub(super) async fn open(edgex: &Edgex, called: &'static str) -> Result<Self, Failure> {
        Self::of(&edgex.inner.client, &edgex.inner.namespace, called).await
    }

    pub(super) async fn of(
        client: &kube::Client,
        namespace: &str,
        called: &'static str,
    ) -> Result<Self, Failure> {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let wanted = ListParams::default().labels(&format!("{LABEL}={called}"));
        let list = api.list(&wanted).await.map_err(refused)?;
        let mut entries = BTreeMap::new();
        for map in &list.items {
            for (name, text) in map.data.iter().flatten() {
                if let Some(name) = unescape(name) {
                    entries.insert(name, text.clone());
                }
            }
        }
        let maps = list.items.into_iter().map(|map| (map.name_any(), map));
        Ok(Self {
            called,
            api,
            maps: maps.collect(),
            before: entries.clone(),
            entries,
        })
    }

    /// Put back what has changed. Each ConfigMap is written whole or not at all, and not over what
    /// somebody else has written meanwhile.
    pub(super) async fn store(self) -> Result<(), Failure> {
        let mut wanted: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut touched: BTreeMap<String, ()> = BTreeMap::new();
        for (name, text) in &self.entries {
            let map = self.map_of(name);
            if self.before.get(name) != Some(text) {
                touched.insert(map.clone(), ());
            }
            wanted
                .entry(map)
                .or_default()
                .insert(escape(name), text.clone());
        }
        for name in self
            .before
            .keys()
            .filter(|name| !self.entries.contains_key(*name))
        {
            touched.insert(self.map_of(name), ());
        }
        for map in touched.into_keys() {
            let data = wanted.remove(&map);
            match (self.maps.get(&map), data) {
                (Some(_), None) => {
                    let deleted = self.api.delete(&map, &DeleteParams::default()).await;
                    deleted.map_err(refused)?;
                }
                (Some(known), data) => {
                    let mut now = known.clone();
                    now.data = data;
                    let replaced = self.api.replace(&map, &PostParams::default(), &now).await;
                    replaced.map_err(refused)?;
                }
                (None, data) => {
                    let mut new = ConfigMap {
                        data,
                        ..ConfigMap::default()
                    };
                    new.metadata.name = Some(map);
                    new.labels_mut()
                        .insert(LABEL.to_owned(), self.called.to_owned());
                    let created = self.api.create(&PostParams::default(), &new).await;
                    created.map_err(refused)?;
                }
            }
        }
        Ok(())
    }

    /// The ConfigMap of an entry: a readable part, and a digest that keeps similar names apart.
    fn map_of(&self, name: &str) -> String {
        let group: Vec<&str> = name.split('/').take(PARTS).collect();
        let group = group.join("/");
        let last = group.rsplit('/').next().unwrap_or_default();
        let digest = hex::encode(Sha256::digest(group.as_bytes()));
        let readable: String = eyot_api::object_name(last).chars().take(100).collect();
        format!("edgex-{}-{readable}-{}", self.called, &digest[..8])
    }
}

fn escape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || byte == b'-' || (byte == b'.' && at > 0);
        if plain {
            text.push(byte.into());
        } else {
            text.push_str(&format!("_{byte:02x}"));
        }
    }
    text
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        if *byte == b'_' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

fn refused(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if [400, 413, 422].contains(&status.code) => {
            Failure::bad_request(status.message)
        }
        kube::Error::Api(status) if status.code == 409 => Failure::conflict(status.message),
        error => Failure::internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_becomes_a_key_of_a_config_map_and_comes_back() {
        for name in [
            "edgex/v4/core-data/A b",
            "..",
            ".x",
            "a_b",
            "é~;=",
            "a..b/c.d",
        ] {
            let escaped = escape(name);
            let right = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            assert!(
                escaped.chars().all(right) && !escaped.starts_with('.'),
                "{escaped}"
            );
            assert_eq!(unescape(&escaped).as_deref(), Some(name));
        }
        assert_eq!(unescape("a_zz"), None);
        assert_eq!(unescape("a_1"), None);
    }
}
