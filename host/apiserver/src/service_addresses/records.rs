//! IPAddress objects: they show which service has which address.
//!
//! One is made after its service was stored and goes after the service, or its address, has gone. What
//! a stop between the two left is mended at the next start, and what somebody changed by hand every
//! few minutes; services are right, whatever the objects say.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use eyot_store::{Key, WriteError};
use serde_json::json;

use super::held::{MANAGED_BY, MANAGER, RECORDS, SERVICES};
use crate::{api::Api, kinds::ip, resource::Resource, standing};

/// Between two looks at all of them.
const REPAIR: Duration = Duration::from_secs(180);

/// Bring the IPAddresses in line with an object that was just written or deleted.
pub(crate) async fn settle(api: &Api, resource: &Resource, key: &Key) {
    if resource.is("", "services") {
        settle_service(api, key).await;
    } else if resource.is("networking.k8s.io", "ipaddresses")
        && let Some(address) = ip::parse(&key.name)
    {
        // If it went, whoever has the address gets another.
        for service in api.addresses.held.read(|held| held.holders(address)) {
            settle_service(api, &service).await;
        }
    }
}

async fn settle_service(api: &Api, service: &Key) {
    let _one_at_a_time = api.addresses.records.lock().await;
    let (lacking, stale) = api.addresses.held.read(|held| held.differences(service));
    for address in stale {
        let key = Key::new(RECORDS, "", address.to_string());
        match api.store.delete(&key, None).await {
            Ok(_) | Err(WriteError::NotFound) => {}
            Err(error) => tracing::warn!(%error, %address, "an IPAddress was not deleted"),
        }
    }
    for address in lacking {
        if let Err(error) = make(api, service, address).await {
            tracing::warn!(%error, %address, "an IPAddress was not made");
        }
    }
}

async fn make(api: &Api, service: &Key, address: IpAddr) -> Result<(), WriteError> {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let record = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": {"ipaddress.kubernetes.io/ip-family": family, MANAGED_BY: MANAGER},
        },
        "spec": {"parentRef": {
            "resource": "services", "namespace": &*service.namespace, "name": &*service.name,
        }},
    });
    standing::ensure(api, "networking.k8s.io", "ipaddresses", record, false).await
}

/// Bring all IPAddresses in line with all services.
pub(crate) async fn repair(api: &Api) {
    let services = api.addresses.held.read(|held| {
        let gone = held.parents().into_iter();
        let gone = gone.map(|(namespace, name)| Key::new(SERVICES, namespace, name));
        held.services().chain(gone).collect::<HashSet<Key>>()
    });
    for service in services {
        let differs = |held: &super::Held| {
            let (lacking, stale) = held.differences(&service);
            !lacking.is_empty() || !stale.is_empty()
        };
        if api.addresses.held.read(differs) {
            settle_service(api, &service).await;
        }
    }
}

/// Repair from time to time, for as long as the server is there.
pub(crate) async fn keep(api: Weak<Api>) {
    loop {
        tokio::time::sleep(REPAIR).await;
        let Some(api): Option<Arc<Api>> = api.upgrade() else {
            return;
        };
        repair(&api).await;
    }
}
