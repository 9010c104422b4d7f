//! Which volume suits a claim. Pure.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::core::{Selector, SelectorExt};

use super::{claim_ref, class_of, class_of_volume, held, is_for, phase_of, wanted};
use crate::scheduler::node_matches;

/// Who looks for a volume.
#[derive(Clone, Copy)]
pub(super) enum For<'a> {
    /// The binder: anywhere.
    Anyone,
    /// The binder, of a claim that waits for its pod: only what was set aside for it.
    Waiting,
    /// The scheduler: what this node reaches.
    Node(&'a Node),
}

/// The volume that was set aside for the claim, or the smallest free one that is enough; of those
/// with the fewest access modes more than were asked for.
pub(super) fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    whose: For<'_>,
    is_promised: impl Fn(&PersistentVolume) -> bool,
) -> Option<&'a Arc<PersistentVolume>> {
    let fits = |volume: &&Arc<PersistentVolume>| {
        claim_ref(volume).is_none_or(|_| is_for(volume, claim))
            && held(volume) >= wanted(claim)
            && mode(volume) == claimed_mode(claim)
            && attributes(volume) == claimed_attributes(claim)
            && offers(volume, claim)
            && volume.metadata.deletion_timestamp.is_none()
            && !is_promised(volume)
    };
    let reached = |volume: &PersistentVolume| match whose {
        For::Node(node) => is_reached(volume, node),
        For::Anyone | For::Waiting => true,
    };
    if let Some(own) = volumes
        .iter()
        .find(|volume| is_for(volume, claim) && fits(volume))
    {
        return reached(own).then_some(own);
    }
    if matches!(whose, For::Waiting) {
        return None;
    }
    let free = volumes.iter().filter(fits).filter(|volume| {
        phase_of(volume) == "Available"
            && is_selected(volume, claim)
            && class_of_volume(volume) == class_of(claim)
            && reached(volume)
    });
    free.min_by_key(|volume| (access_modes(volume).len(), held(volume)))
}

/// Why a claim cannot have the volume that it names.
pub(super) fn mismatch(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
) -> Option<&'static str> {
    if held(volume) < wanted(claim) {
        Some("requested PV is too small")
    } else if class_of_volume(volume) != class_of(claim) {
        Some("storageClassName does not match")
    } else if attributes(volume) != claimed_attributes(claim) {
        Some("volumeAttributesClassName does not match")
    } else if mode(volume) != claimed_mode(claim) {
        Some("incompatible volumeMode")
    } else if !offers(volume, claim) {
        Some("incompatible accessMode")
    } else {
        None
    }
}

/// Whether the volume can be used on the node.
pub(super) fn is_reached(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|required| node_matches(required, node))
}

pub(super) fn mode(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.volume_mode.as_deref())
        .unwrap_or("Filesystem")
}

pub(super) fn claimed_mode(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    spec.and_then(|spec| spec.volume_mode.as_deref())
        .unwrap_or("Filesystem")
}

fn attributes(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.volume_attributes_class_name.as_deref())
        .unwrap_or_default()
}

fn claimed_attributes(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    spec.and_then(|spec| spec.volume_attributes_class_name.as_deref())
        .unwrap_or_default()
}

fn access_modes(volume: &PersistentVolume) -> BTreeSet<&str> {
    let modes = volume.spec.iter().flat_map(|spec| &spec.access_modes);
    modes.flatten().map(String::as_str).collect()
}

fn offers(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let offered = access_modes(volume);
    let mut asked = claim.spec.iter().flat_map(|spec| &spec.access_modes);
    asked.all(|modes| modes.iter().all(|mode| offered.contains(&**mode)))
}

fn is_selected(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.clone());
    let Some(selector) = selector else {
        return true;
    };
    let none = Default::default();
    let labels = volume.metadata.labels.as_ref().unwrap_or(&none);
    // The API refuses what is no selector.
    Selector::try_from(selector).is_ok_and(|selector| selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut value = json!({
            "metadata": { "name": "c", "namespace": "n", "uid": "u" },
            "spec": { "accessModes": ["ReadWriteOnce"],
                      "resources": { "requests": { "storage": "1Gi" } } },
        });
        merge(&mut value["spec"], spec);
        serde_json::from_value(value).unwrap()
    }

    fn volume(name: &str, spec: Value) -> Arc<PersistentVolume> {
        let mut value = json!({
            "metadata": { "name": name, "labels": { "name": name } },
            "spec": { "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" } },
            "status": { "phase": "Available" },
        });
        merge(&mut value["spec"], spec);
        serde_json::from_value(value).unwrap()
    }

    fn merge(into: &mut Value, from: Value) {
        let from = from.as_object().unwrap().clone();
        into.as_object_mut().unwrap().extend(from);
    }

    #[track_caller]
    fn check(
        claimed: Value,
        volumes: &[Arc<PersistentVolume>],
        whose: For<'_>,
        found: Option<&str>,
    ) {
        let best = best(&claim(claimed), volumes, whose, |_| false);
        assert_eq!(best.and_then(|v| v.metadata.name.as_deref()), found);
    }

    #[test]
    fn the_smallest_that_is_enough_is_taken() {
        let size =
            |name: &str, size: &str| volume(name, json!({ "capacity": { "storage": size } }));
        let all = [size("a", "5Gi"), size("b", "2Gi"), size("c", "512Mi")];
        check(json!({}), &all, For::Anyone, Some("b"));
        check(json!({}), &all[2..], For::Anyone, None);
        check(json!({}), &all, For::Waiting, None);
    }

    #[test]
    fn class_modes_and_labels_must_match() {
        let all = [
            volume("classy", json!({ "storageClassName": "fast" })),
            volume("block", json!({ "volumeMode": "Block" })),
            volume(
                "many",
                json!({ "accessModes": ["ReadWriteMany", "ReadWriteOnce"] }),
            ),
            volume("plain", json!({})),
        ];
        check(json!({}), &all, For::Anyone, Some("plain"));
        check(
            json!({ "storageClassName": "fast" }),
            &all,
            For::Anyone,
            Some("classy"),
        );
        check(
            json!({ "volumeMode": "Block" }),
            &all,
            For::Anyone,
            Some("block"),
        );
        check(
            json!({ "accessModes": ["ReadWriteMany"] }),
            &all,
            For::Anyone,
            Some("many"),
        );
        check(
            json!({ "accessModes": ["ReadOnlyMany"] }),
            &all,
            For::Anyone,
            None,
        );
        let label = json!({ "selector": { "matchLabels": { "name": "many" } } });
        check(label, &all, For::Anyone, Some("many"));
    }

    #[test]
    fn what_is_set_aside_goes_to_whom_it_is_set_aside_for() {
        let aside = |name: &str| {
            json!({ "claimRef": { "name": name, "namespace": "n" },
                                         "capacity": { "storage": "9Gi" } })
        };
        let all = [
            volume("other", aside("x")),
            volume("plain", json!({})),
            volume("own", aside("c")),
        ];
        check(json!({}), &all, For::Anyone, Some("own"));
        check(json!({}), &all, For::Waiting, Some("own"));
        check(json!({}), &all[..2], For::Anyone, Some("plain"));
        let stale = json!({ "claimRef": { "name": "c", "namespace": "n", "uid": "earlier" } });
        check(json!({}), &[volume("stale", stale)], For::Anyone, None);
    }

    #[test]
    fn the_scheduler_looks_at_what_the_node_reaches() {
        let on = |name: &str| {
            json!({ "nodeAffinity": { "required": { "nodeSelectorTerms": [
            { "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": [name] }] },
        ] } } })
        };
        let node: Node = serde_json::from_value(
            json!({ "metadata": { "name": "b", "labels": { "kubernetes.io/hostname": "b" } } }),
        )
        .unwrap();
        let all = [volume("on-a", on("a")), volume("on-b", on("b"))];
        check(json!({}), &all, For::Node(&node), Some("on-b"));
        check(json!({}), &all[..1], For::Node(&node), None);
    }

    #[test]
    fn why_a_named_volume_cannot_be_had_is_said() {
        let why = |spec, claimed| mismatch(&volume("v", spec), &claim(claimed));
        assert_eq!(why(json!({}), json!({})), None);
        let small = json!({ "capacity": { "storage": "1" } });
        assert_eq!(why(small, json!({})), Some("requested PV is too small"));
        let class = json!({ "storageClassName": "x" });
        assert_eq!(
            why(json!({}), class),
            Some("storageClassName does not match")
        );
        let block = json!({ "volumeMode": "Block" });
        assert_eq!(why(json!({}), block), Some("incompatible volumeMode"));
        let modes = json!({ "accessModes": ["ReadWriteMany"] });
        assert_eq!(why(json!({}), modes), Some("incompatible accessMode"));
    }
}
