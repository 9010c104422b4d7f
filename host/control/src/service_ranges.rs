//! Keeps ServiceCIDRs until no service needs them, and says which are ready.
//!
//! Reads ServiceCIDRs, and the IPAddresses of services while one is being deleted; writes the
//! finalizer and the condition `Ready`. A range may go once every address that services have lies in
//! another, too; and then not at once, so that whoever gives out addresses has heard of it.

use std::{net::IpAddr, time::Duration};

use eyot_client::{Cache, Key, Reconciler, Requeue};
use jiff::Timestamp;
use k8s_openapi::{
    api::networking::v1::{IPAddress, ServiceCIDR},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    clock,
    error::{Act, ControlError, is},
};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Selects what was made for services.
const OF_SERVICES: &str = "ipaddress.kubernetes.io/managed-by=ipallocator.k8s.io";
/// How long a range that nobody needs stays yet.
const GRACE: Duration = Duration::from_secs(10);
/// When to look again at the addresses that hold a range.
const AGAIN: Duration = Duration::from_secs(5);

pub(crate) struct ServiceRanges {
    pub(crate) client: Client,
    pub(crate) ranges: Cache<ServiceCIDR>,
}

impl Reconciler for ServiceRanges {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "service-ranges"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(range) = self.ranges.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let Some(deleted) = range.metadata.deletion_timestamp.as_ref() else {
            self.hold(&range, key).await?;
            let ready = ("True", "", "Kubernetes Service CIDR is ready");
            self.tell(&range, key, ready).await?;
            return Ok(Requeue::OnChange);
        };
        if !is_held(&range) {
            return Ok(Requeue::OnChange);
        }
        if !self.is_free(&range).await? {
            let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them \
                       or create a new ServiceCIDR";
            self.tell(&range, key, ("False", "Terminating", why))
                .await?;
            return Ok(Requeue::After(AGAIN));
        }
        let age = clock::now().duration_since(deleted.0).unsigned_abs();
        if age < GRACE {
            return Ok(Requeue::After(GRACE - age));
        }
        let held = range.metadata.finalizers.iter().flatten();
        let left: Vec<&String> = held.filter(|one| *one != FINALIZER).collect();
        self.finalizers(&range, key, json!(left)).await?;
        Ok(Requeue::OnChange)
    }
}

impl ServiceRanges {
    /// Whether every address of a service that lies in the range lies in another one, too.
    async fn is_free(&self, range: &ServiceCIDR) -> Result<bool, ControlError> {
        let others = self.ranges.list();
        let others: Vec<Prefix> = others
            .iter()
            .filter(|other| other.metadata.name != range.metadata.name)
            .flat_map(|other| prefixes(other))
            .collect();
        let alone: Vec<Prefix> = prefixes(range)
            .filter(|own| !others.iter().any(|other| other.covers(own)))
            .collect();
        if alone.is_empty() {
            return Ok(true);
        }
        let api: Api<IPAddress> = Api::all(self.client.clone());
        let listed = api.list(&ListParams::default().labels(OF_SERVICES)).await;
        let listed = listed.act(|| "listing the addresses of services".to_owned())?;
        let mut addresses = listed
            .items
            .iter()
            .filter_map(|one| one.metadata.name.as_ref()?.parse().ok());
        Ok(!addresses.any(|address: IpAddr| {
            alone.iter().any(|own| own.contains(address))
                && !others.iter().any(|other| other.contains(address))
        }))
    }

    async fn hold(&self, range: &ServiceCIDR, key: &Key) -> Result<(), ControlError> {
        if is_held(range) {
            return Ok(());
        }
        let mut all = range.metadata.finalizers.clone().unwrap_or_default();
        all.push(FINALIZER.to_owned());
        self.finalizers(range, key, json!(all)).await
    }

    async fn finalizers(
        &self,
        range: &ServiceCIDR,
        key: &Key,
        all: serde_json::Value,
    ) -> Result<(), ControlError> {
        let patch = Patch::Merge(json!({"metadata": {
            "resourceVersion": range.metadata.resource_version, "finalizers": all,
        }}));
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let params = PatchParams::default();
        done(api.patch(&key.name, &params, &patch).await, key)
    }

    /// Set the condition `Ready` to status, reason and message.
    async fn tell(
        &self,
        range: &ServiceCIDR,
        key: &Key,
        (status, reason, message): (&str, &str, &str),
    ) -> Result<(), ControlError> {
        let conditions = range.status.as_ref().and_then(|s| s.conditions.as_ref());
        let mut conditions = conditions.cloned().unwrap_or_default();
        let told = conditions.iter().position(|one| one.type_ == "Ready");
        let told = told.map(|at| conditions.remove(at));
        if told.is_some_and(|told| told.status == status && told.reason == reason) {
            return Ok(());
        }
        conditions.push(ready(status, reason, message, clock::now()));
        let patch = Patch::Merge(json!({
            "metadata": {"uid": range.metadata.uid}, "status": {"conditions": conditions},
        }));
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let params = PatchParams::default();
        done(api.patch_status(&key.name, &params, &patch).await, key)
    }
}

fn done(patched: kube::Result<ServiceCIDR>, key: &Key) -> Result<(), ControlError> {
    match patched {
        // Somebody else wrote it: that is a change, which comes here, too.
        Err(error) if is(&error, 409) => Ok(()),
        patched => patched.act_if_there(|| format!("writing ServiceCIDR {key}")),
    }
}

fn ready(status: &str, reason: &str, message: &str, now: Timestamp) -> Condition {
    Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(now),
        observed_generation: None,
    }
}

fn is_held(range: &ServiceCIDR) -> bool {
    let mut held = range.metadata.finalizers.iter().flatten();
    held.any(|one| one == FINALIZER)
}

fn prefixes(range: &ServiceCIDR) -> impl Iterator<Item = Prefix> {
    let given = range.spec.iter().flat_map(|spec| spec.cidrs.iter());
    given.flatten().filter_map(|text| Prefix::parse(text))
}

/// The addresses that share the first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prefix {
    first: IpAddr,
    bits: u32,
}

impl Prefix {
    fn parse(text: &str) -> Option<Prefix> {
        let (first, bits) = text.split_once('/')?;
        let (first, bits) = (first.parse().ok()?, bits.parse().ok()?);
        (bits <= width(first)).then_some(Prefix { first, bits })
    }

    fn contains(&self, address: IpAddr) -> bool {
        if self.first.is_ipv4() != address.is_ipv4() {
            return false;
        }
        let differing = number(self.first) ^ number(address);
        differing
            .checked_shr(width(address) - self.bits)
            .unwrap_or(0)
            == 0
    }

    fn covers(&self, other: &Prefix) -> bool {
        self.bits <= other.bits && self.contains(other.first)
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => u32::from(four).into(),
        IpAddr::V6(six) => six.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn covers(one: &str, other: &str) -> bool {
        let (one, other) = (Prefix::parse(one).unwrap(), Prefix::parse(other).unwrap());
        one.covers(&other)
    }

    #[test]
    fn a_range_covers_what_lies_in_it() {
        assert!(covers("10.0.0.0/8", "10.1.0.0/16"));
        assert!(covers("10.0.0.0/8", "10.0.0.0/8"));
        assert!(covers("0.0.0.0/0", "10.0.0.0/8"));
        assert!(covers("::/0", "fd00::/64"));
        assert!(!covers("10.1.0.0/16", "10.0.0.0/8"));
        assert!(!covers("10.0.0.0/8", "11.0.0.0/16"));
        assert!(!covers("0.0.0.0/0", "::/0"));
        assert!(covers("10.0.0.1/32", "10.0.0.1/32"));
        assert!(Prefix::parse("10.0.0.0/33").is_none());
        assert!(Prefix::parse("10.0.0.0").is_none());
    }
}
