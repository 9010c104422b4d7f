//! What clients of the API at the edge may write.
//!
//! They read everything. What is the cloud's is changed in the cloud, and a refusal says so, with one
//! exception: what is desired of a Device. Objects that the cloud does not have may be made here and
//! then be changed at will, pods of this node above all. What would need a controller has none here.
//! The node's own parts write what they observe.

use eyot_apiserver::{Gate, GateWrite, User};
use serde_json::Value;

use crate::{kind::kinds, marks};

/// Kinds beside the mirrored ones of which something may be made here.
const OWN: [(&str, &str); 5] = [
    ("", "events"),
    ("events.k8s.io", "events"),
    ("coordination.k8s.io", "leases"),
    ("", "serviceaccounts"),
    ("certificates.k8s.io", "certificatesigningrequests"),
];

/// The gate of the API of a node.
#[derive(Debug)]
pub struct EdgeGate {
    node: String,
    devices: bool,
}

impl EdgeGate {
    /// `devices` says whether the node has a device tier, as [`crate::Options::devices`].
    pub fn new(node: &str, devices: bool) -> Self {
        Self {
            node: node.to_owned(),
            devices,
        }
    }

    fn is_mirrored(&self, write: &GateWrite<'_>) -> bool {
        kinds(self.devices).any(|kind| (kind.group, kind.plural) == (write.group, write.resource))
    }

    /// Whether it is a part of the host itself.
    fn is_part(user: &User) -> bool {
        user.name.starts_with("system:") && !user.name.starts_with("system:serviceaccount:")
    }

    fn make(&self, write: &GateWrite<'_>, is_part: bool, object: &mut Value) -> Result<(), String> {
        let mirrored = self.is_mirrored(write);
        if !is_part && !mirrored && !OWN.contains(&(write.group, write.resource)) {
            return Err(format!(
                "this is node {}: nothing acts on {} here; make it in the cloud",
                self.node, write.resource
            ));
        }
        if write.resource == "pods" && write.group.is_empty() {
            let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
            if !node.is_empty() && node != self.node {
                return Err(format!(
                    "this is node {}: it runs its own pods only",
                    self.node
                ));
            }
            let spec = crate::merge::object(object, "spec");
            spec.insert("nodeName".to_owned(), self.node.as_str().into());
        }
        if mirrored && write.resource != "nodes" {
            marks::set(object, marks::MADE, &self.node);
        }
        Ok(())
    }
}

impl Gate for EdgeGate {
    fn pass(&self, write: &GateWrite<'_>, object: &mut Value) -> Result<(), String> {
        let is_part = Self::is_part(write.user);
        let Some(old) = write.old else {
            if !is_part && ["eviction", "binding"].contains(&write.subresource) {
                return Err(format!(
                    "this is node {}: where pods run is said in the cloud",
                    self.node
                ));
            }
            // A connection, a review, or something new.
            return match write.subresource.is_empty() && !object.is_null() {
                true => self.make(write, is_part, object),
                false => Ok(()),
            };
        };
        if !self.is_mirrored(write) || marks::is_made_here(old) {
            return Ok(());
        }
        let is_device = (write.group, write.resource) == ("eyot.dev", "devices");
        let changes_spec = write.subresource.is_empty() && !object.is_null();
        if is_device && changes_spec {
            if object["spec"] != old["spec"] && marks::base(old).is_none() {
                let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
                marks::set(object, marks::CHANGED, &generation.to_string());
            }
            return Ok(());
        }
        match is_part {
            true => Ok(()),
            false => Err(format!(
                "this is node {}: {} are the cloud's; change it there",
                self.node, write.resource
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn pass(
        user: &str,
        resource: &str,
        old: Option<Value>,
        mut object: Value,
    ) -> Result<Value, String> {
        let user = User::new(user, &["system:masters"]);
        let write = GateWrite {
            user: &user,
            group: if resource == "devices" {
                "eyot.dev"
            } else {
                ""
            },
            resource,
            subresource: "",
            old: old.as_ref(),
        };
        EdgeGate::new("edge", true).pass(&write, &mut object)?;
        Ok(object)
    }

    #[test]
    fn pods_of_this_node_may_be_made_and_changed_here() {
        let made = pass("admin", "pods", None, json!({"spec": {}})).unwrap();
        assert_eq!(made["spec"]["nodeName"], "edge");
        assert!(marks::is_made_here(&made));
        assert!(pass("admin", "pods", Some(made.clone()), made).is_ok());
        let elsewhere = json!({"spec": {"nodeName": "other"}});
        assert!(pass("admin", "pods", None, elsewhere).is_err());
    }

    #[test]
    fn what_is_the_clouds_is_read_only_but_for_its_observers() {
        let pod = json!({"spec": {"nodeName": "edge"}});
        let said = pass("admin", "pods", Some(pod.clone()), Value::Null).unwrap_err();
        assert!(said.contains("the cloud's"), "{said}");
        assert!(pass("system:node:edge", "pods", Some(pod.clone()), pod).is_ok());
        let said = pass("admin", "replicationcontrollers", None, json!({})).unwrap_err();
        assert!(said.contains("nothing acts on"), "{said}");
        let account = "system:serviceaccount:default:x";
        assert!(pass(account, "pods", Some(json!({})), Value::Null).is_err());
    }

    #[test]
    fn devices_are_made_only_where_there_is_a_device_tier() {
        assert!(pass("admin", "devices", None, json!({})).is_ok());
        let user = User::new("admin", &["system:masters"]);
        let write = GateWrite {
            user: &user,
            group: "eyot.dev",
            resource: "devices",
            subresource: "",
            old: None,
        };
        let said = EdgeGate::new("edge", false).pass(&write, &mut json!({}));
        assert!(said.unwrap_err().contains("nothing acts on devices"));
    }

    #[test]
    fn a_changed_device_remembers_on_what_the_change_is_based() {
        let device = |speed: u32, generation: u32| json!({"metadata": {"generation": generation}, "spec": {"desired": {"Speed": speed}}});
        let first = pass("admin", "devices", Some(device(1, 4)), device(2, 4)).unwrap();
        assert_eq!(marks::base(&first), Some(4));
        let mut again = first.clone();
        again["spec"]["desired"]["Speed"] = 3.into();
        again["metadata"]["generation"] = 5.into();
        let second = pass("admin", "devices", Some(first), again).unwrap();
        assert_eq!(marks::base(&second), Some(4));
        let same = pass("admin", "devices", Some(device(1, 4)), device(1, 4)).unwrap();
        assert_eq!(marks::base(&same), None);
    }
}
