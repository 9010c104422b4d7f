//! What a driver gets for a device beside what the device itself says: the credentials that a Secret
//! holds, and the ports of the host that its device service may listen on.
//!
//! A protocol's property `CredentialsName` names a Secret of the device's namespace. It must carry the
//! label `eyot.dev/device-credentials: "true"`, as those do that EdgeX's clients write: who may make
//! devices does not read other Secrets through them. The driver finds what the Secret holds as the
//! property `Credentials`. Certificates and keys stay with the host, which uses them for its TLS
//! connections: `cacert`, `clientcert` and `clientkey`, as EdgeX calls them.
//!
//! A Secret is read each time that a device is opened, so a changed one holds from the next time on.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use eyot_api::DeviceService;
use eyot_runtime::guest::{
    DeviceInfo, DiscoveredDevice, Driver, DriverError, DriverSession, Grants, ServiceInfo, Tls,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use serde_json::{Map, Value as Json};

use crate::{catalog::Cache, source};

use eyot_edgex::basics::CREDENTIALS_LABEL as LABEL;

/// The property of a protocol that names one, and the one that it becomes.
const NAME: &str = "CredentialsName";
const PROPERTY: &str = "Credentials";
/// What the host keeps to itself.
const TLS: [&str; 3] = ["cacert", "clientcert", "clientkey"];
/// Ports that one service may listen on.
const PORTS: usize = 16;

/// A driver whose devices get what they are granted.
pub(crate) struct Granted {
    pub driver: Arc<dyn Driver>,
    /// Secrets of the driver's namespace.
    pub secrets: Api<Secret>,
    pub services: Cache<DeviceService>,
    pub namespace: String,
    pub service: String,
}

/// What the Secrets of a device hold.
#[derive(Debug, Default)]
struct Found {
    tls: Tls,
}

impl Granted {
    /// Put the credentials into a device's protocols.
    async fn fill(&self, device: &mut DeviceInfo) -> Result<Found, DriverError> {
        let mut found = Found::default();
        for (protocol, properties) in &mut device.protocols {
            // Most devices have none, and parsing takes its time.
            if !properties.contains(NAME) {
                continue;
            }
            let parsed = serde_json::from_str::<Map<String, Json>>(properties);
            let Ok(mut all) = parsed else {
                continue;
            };
            let Some(name) = all.get(NAME).and_then(Json::as_str) else {
                continue;
            };
            let mut held = self.secret(protocol, name).await?;
            let [authorities, chain, key] = TLS.map(|key| held.remove(key));
            found.tls.authorities = found.tls.authorities.or(authorities);
            found.tls.identity = found.tls.identity.or(chain.zip(key));
            let held = held.into_iter().map(|(key, text)| (key, text.into()));
            all.insert(PROPERTY.to_owned(), Json::Object(held.collect()));
            *properties = Json::Object(all).to_string();
        }
        Ok(found)
    }

    /// The texts in a Secret. That it is not there is nothing that an edit of the device would
    /// mend, so the device is tried again.
    async fn secret(
        &self,
        protocol: &str,
        name: &str,
    ) -> Result<BTreeMap<String, String>, DriverError> {
        let failed = |why: String| {
            DriverError::Other(format!("protocols.{protocol}.{NAME}: Secret {name} {why}"))
        };
        let name = eyot_api::object_name(name);
        let secret = match self.secrets.get_opt(&name).await {
            Ok(Some(secret)) => secret,
            Ok(None) => return Err(failed("does not exist".into())),
            Err(error) => return Err(failed(format!("cannot be read: {error}"))),
        };
        if secret.labels().get(LABEL).map(String::as_str) != Some("true") {
            return Err(failed(format!("is not labelled {LABEL}: \"true\"")));
        }
        let held = secret.data.unwrap_or_default().into_iter();
        let texts = held.filter_map(|(key, bytes)| Some((key, String::from_utf8(bytes.0).ok()?)));
        Ok(texts.collect())
    }

    /// The UDP ports that `listen` among the service's properties grants.
    fn ports(&self) -> Vec<u16> {
        let services = self.services.all_in(&self.namespace);
        let own = services
            .iter()
            .find(|known| known.edgex_name() == self.service);
        own.map_or_else(Vec::new, |service| ports(&service.spec.properties))
    }
}

/// `udp:162`, several with commas between or as a list. What makes no sense grants nothing.
fn ports(properties: &BTreeMap<String, Json>) -> Vec<u16> {
    let texts = source::texts(properties.get("listen"));
    let ports = texts.iter().filter_map(|text| {
        let port = text.trim().strip_prefix("udp:")?;
        port.parse().ok().filter(|port| *port != 0)
    });
    ports.take(PORTS).collect()
}

#[async_trait]
impl Driver for Granted {
    async fn validate(&self, info: ServiceInfo, mut device: DeviceInfo) -> Result<(), DriverError> {
        self.fill(&mut device).await?;
        self.driver.validate(info, device).await
    }

    async fn discover(
        &self,
        info: ServiceInfo,
        options: &str,
        grants: Grants,
    ) -> Result<Vec<DiscoveredDevice>, DriverError> {
        self.driver.discover(info, options, grants).await
    }

    async fn profile_scan(
        &self,
        info: ServiceInfo,
        mut device: DeviceInfo,
        profile_name: &str,
        options: &str,
        mut grants: Grants,
    ) -> Result<String, DriverError> {
        let found = self.fill(&mut device).await?;
        found.grant(&mut grants);
        let scan = self
            .driver
            .profile_scan(info, device, profile_name, options, grants);
        scan.await
    }

    async fn open(
        &self,
        mut device: DeviceInfo,
        mut grants: Grants,
    ) -> Result<Box<dyn DriverSession>, DriverError> {
        let found = self.fill(&mut device).await?;
        found.grant(&mut grants);
        grants.listen = self.ports();
        self.driver.open(device, grants).await
    }
}

impl Found {
    fn grant(self, grants: &mut Grants) {
        if self.tls != Tls::default() {
            grants.tls = Some(Arc::new(self.tls));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_granted_as_a_text_or_a_list() {
        let of = |listen: Json| ports(&[("listen".to_owned(), listen)].into());
        assert_eq!(of(json!("udp:162, udp:1162")), [162, 1162]);
        assert_eq!(of(json!(["udp:162"])), [162]);
        for nothing in [json!("162"), json!("tcp:80"), json!("udp:0"), json!(162)] {
            assert!(of(nothing.clone()).is_empty(), "{nothing}");
        }
    }
}
