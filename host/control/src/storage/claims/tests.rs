//! Plans of claims: a claim and volumes in, writes out.

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use serde_json::{Value, json};

use super::plan::{Input, Plan, plan};
use crate::storage::{BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONERS, SELECTED_NODE};

fn claim(spec: Value, annotations: Value, phase: &str) -> PersistentVolumeClaim {
    let mut value = json!({
        "metadata": { "name": "c", "namespace": "n", "uid": "u", "annotations": annotations },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "",
                  "resources": { "requests": { "storage": "1Gi" } } },
        "status": { "phase": phase },
    });
    extend(&mut value["spec"], spec);
    serde_json::from_value(value).unwrap()
}

fn extend(into: &mut Value, from: Value) {
    let from = from.as_object().unwrap().clone();
    into.as_object_mut().unwrap().extend(from);
}

fn volume(spec: Value) -> Arc<PersistentVolume> {
    let mut value = json!({
        "metadata": { "name": "v", "uid": "vu", "resourceVersion": "7" },
        "spec": { "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "2Gi" } },
        "status": { "phase": "Available" },
    });
    extend(&mut value["spec"], spec);
    serde_json::from_value(value).unwrap()
}

fn class(mode: &str, provisioner: &str) -> Arc<StorageClass> {
    let value = json!({
        "metadata": { "name": "k" }, "provisioner": provisioner, "volumeBindingMode": mode,
    });
    serde_json::from_value(value).unwrap()
}

fn made(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    class: Option<Arc<StorageClass>>,
) -> Plan {
    plan(&Input {
        claim,
        volumes,
        class,
        default_class: Some("standard".into()),
        pod: None,
        node: Some("node-1".into()),
    })
}

fn event(plan: &Plan) -> (&str, &str) {
    let (_, reason, message) = plan.event.as_ref().unwrap();
    (reason, message)
}

#[test]
fn a_claim_gets_a_free_volume_and_both_sides_are_written() {
    let plan = made(
        &claim(json!({}), json!({}), "Pending"),
        &[volume(json!({}))],
        None,
    );
    let (name, patch) = plan.volume.unwrap();
    assert_eq!(name, "v");
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
    assert_eq!(patch["metadata"]["annotations"][BOUND_BY_CONTROLLER], "yes");
    assert_eq!(patch["spec"]["claimRef"]["uid"], "u");
    assert_eq!(plan.bound.as_deref(), Some("v"));
    let patch = plan.claim.unwrap();
    assert_eq!(patch["spec"]["volumeName"], "v");
    let notes = json!({ BIND_COMPLETED: "yes", BOUND_BY_CONTROLLER: "yes" });
    assert_eq!(patch["metadata"]["annotations"], notes);
    let status = json!({ "phase": "Bound", "accessModes": ["ReadWriteOnce"],
                         "capacity": { "storage": "2Gi" } });
    assert_eq!(plan.status.unwrap()["status"], status);
}

#[test]
fn a_bound_claim_is_left_alone_until_its_volume_is_gone() {
    let held = json!({ "claimRef": { "name": "c", "namespace": "n", "uid": "u" } });
    let mut bound = claim(
        json!({ "volumeName": "v" }),
        json!({ BIND_COMPLETED: "yes" }),
        "Bound",
    );
    bound.status.as_mut().unwrap().access_modes = Some(vec!["ReadWriteOnce".into()]);
    let mut there = (*volume(held)).clone();
    there.status.as_mut().unwrap().phase = Some("Bound".into());
    assert_eq!(made(&bound, &[Arc::new(there)], None), Plan::default());
    let lost = made(&bound, &[], None);
    assert_eq!(event(&lost).0, "ClaimLost");
    assert_eq!(lost.status.unwrap()["status"]["phase"], "Lost");
    let other = json!({ "claimRef": { "name": "c", "namespace": "n", "uid": "other" } });
    assert_eq!(
        event(&made(&bound, &[volume(other)], None)).0,
        "ClaimMisbound"
    );
}

#[test]
fn a_volume_that_is_named_must_suit_and_be_free() {
    let named = claim(json!({ "volumeName": "v" }), json!({}), "Pending");
    let plan = made(&named, &[volume(json!({}))], None);
    assert!(plan.volume.is_some());
    // The user chose it.
    let notes = &plan.claim.unwrap()["metadata"]["annotations"];
    assert_eq!(*notes, json!({ BIND_COMPLETED: "yes" }));
    let small = made(
        &named,
        &[volume(json!({ "capacity": { "storage": "1Mi" } }))],
        None,
    );
    let said = "Cannot bind to requested volume \"v\": requested PV is too small";
    assert_eq!(event(&small), ("VolumeMismatch", said));
    let other = json!({ "claimRef": { "name": "x", "namespace": "n" } });
    let taken = made(&named, &[volume(other)], None);
    let said = "volume \"v\" already bound to a different claim.";
    assert_eq!(event(&taken), ("FailedBinding", said));
    assert_eq!(made(&named, &[], None), Plan::default());
}

#[test]
fn one_that_waits_for_its_consumer_is_left_to_the_scheduler() {
    let waiting = claim(json!({ "storageClassName": "k" }), json!({}), "Pending");
    let class = class("WaitForFirstConsumer", "x.dev/y");
    let free = volume(json!({ "storageClassName": "k" }));
    let plan = made(&waiting, &[free], Some(class.clone()));
    assert_eq!(event(&plan).0, "WaitForFirstConsumer");
    assert_eq!((plan.volume, plan.claim), (None, None));
    let chosen = claim(
        json!({ "storageClassName": "k" }),
        json!({ SELECTED_NODE: "a" }),
        "Pending",
    );
    let plan = made(&chosen, &[], Some(class));
    assert_eq!(event(&plan).0, "ExternalProvisioning");
    let notes = &plan.claim.unwrap()["metadata"]["annotations"];
    assert_eq!(
        *notes,
        json!({ PROVISIONERS[0]: "x.dev/y", PROVISIONERS[1]: "x.dev/y" })
    );
}

#[test]
fn a_class_at_once_has_a_volume_made_and_a_local_one_is_given_a_node() {
    let claim = claim(json!({ "storageClassName": "k" }), json!({}), "Pending");
    let plan = made(&claim, &[], Some(class("Immediate", "eyot.dev/local-path")));
    assert_eq!(
        plan.claim.unwrap()["metadata"]["annotations"][SELECTED_NODE],
        "node-1"
    );
    let none = made(
        &claim,
        &[],
        Some(class("Immediate", "kubernetes.io/no-provisioner")),
    );
    let said = "no volume plugin matched name: kubernetes.io/no-provisioner";
    assert_eq!(event(&none), ("ProvisioningFailed", said));
    let gone = made(&claim, &[], None);
    let said = "storageclass.storage.k8s.io \"k\" not found";
    assert_eq!(event(&gone), ("ProvisioningFailed", said));
}

#[test]
fn a_claim_without_class_takes_the_default_one_and_with_an_empty_one_waits() {
    let mut unnamed = claim(json!({}), json!({}), "Pending");
    unnamed.spec.as_mut().unwrap().storage_class_name = None;
    let plan = made(&unnamed, &[], None);
    assert_eq!(
        plan.claim.unwrap()["spec"],
        json!({ "storageClassName": "standard" })
    );
    let empty = made(&claim(json!({}), json!({}), "Pending"), &[], None);
    assert_eq!(event(&empty).0, "FailedBinding");
}
