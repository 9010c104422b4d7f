//! Who a pod of a StatefulSet is: its ordinal, and the name, labels and volumes that follow. Pure.

use eyot_client::view::Pod;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume},
};

use super::claims;
use crate::{
    history, owner,
    pod::{self, NewPod},
};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// One place in a StatefulSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member(pub(super) i32);

impl Member {
    /// Which member of the set a pod is, by its name.
    pub(super) fn of(set: &StatefulSet, pod: &Pod) -> Option<Self> {
        let base = set.metadata.name.as_deref()?;
        let (parent, ordinal) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
        let canonical = ordinal.bytes().all(|digit| digit.is_ascii_digit())
            && (ordinal.len() == 1 || !ordinal.starts_with('0'));
        let ordinal = ordinal.parse().ok().filter(|_| canonical)?;
        (parent == base).then_some(Self(ordinal))
    }

    pub(super) fn name(self, set: &StatefulSet) -> String {
        let base = set.metadata.name.as_deref().unwrap_or_default();
        format!("{base}-{}", self.0)
    }

    /// The pod of this member, of a template whose revision has this name.
    pub(super) fn pod(
        self,
        set: &StatefulSet,
        template: &PodTemplateSpec,
        revision: &str,
    ) -> NewPod {
        let name = self.name(set);
        let mut made = pod::from_template(template, set.metadata.namespace.as_deref());
        let base = set.metadata.name.as_deref().unwrap_or_default();
        made.metadata.generate_name = Some(format!("{base}-"));
        made.metadata.owner_references = Some(vec![owner::reference(set)]);
        let labels = made.metadata.labels.get_or_insert_default();
        labels.insert(history::HASH.into(), revision.into());
        labels.insert(POD_NAME.into(), name.clone());
        labels.insert(POD_INDEX.into(), self.0.to_string());
        let spec = made.spec.get_or_insert_default();
        spec.hostname = Some(name.clone());
        let service = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
        spec.subdomain = service.filter(|service| !service.is_empty());
        let own: Vec<_> = claims::names(set, self).collect();
        let others = spec.volumes.take().unwrap_or_default().into_iter();
        let others = others.filter(|volume| own.iter().all(|(of, _)| *of != volume.name));
        let others: Vec<_> = others.collect();
        let volume = |(of, claim): (&str, String)| Volume {
            name: of.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim,
                read_only: None,
            }),
            ..Volume::default()
        };
        let volumes: Vec<_> = own.into_iter().map(volume).chain(others).collect();
        spec.volumes = (!volumes.is_empty()).then_some(volumes);
        made.metadata.name = Some(name);
        made
    }

    /// A merge patch that gives a pod back the labels of its identity, if it lost them.
    pub(super) fn relabel(self, set: &StatefulSet, of: &Pod) -> Option<serde_json::Value> {
        let (name, index) = (self.name(set), self.0.to_string());
        let known = (pod::label(of, POD_NAME), pod::label(of, POD_INDEX));
        (known != (Some(&*name), Some(&*index))).then(|| {
            serde_json::json!({ "metadata": { "labels": { POD_NAME: name, POD_INDEX: index } } })
        })
    }
}
