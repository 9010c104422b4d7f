//! The pods that a DaemonSet makes.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::PodSpec;

use super::{placement, plan::Input};
use crate::{
    history, names, owner,
    pod::{self, NewPod},
};

/// The server counts the templates of a DaemonSet in this annotation, and pods say of which they
/// are in the label.
const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

/// Makes pods whose names are free.
pub(super) struct Maker<'a> {
    input: &'a Input<'a>,
    spec: PodSpec,
    taken: HashSet<String>,
}

impl<'a> Maker<'a> {
    pub(super) fn new(input: &'a Input<'a>) -> Self {
        let names = input.in_namespace.iter();
        Self {
            input,
            spec: placement::spec(input.set),
            taken: names.filter_map(|pod| pod.metadata.name.clone()).collect(),
        }
    }

    /// The pod of a node. Its name follows from the node, so that a pass on an old cache asks for
    /// the same.
    pub(super) fn pod_for(&mut self, node: &str) -> NewPod {
        let meta = &self.input.set.metadata;
        let base = meta.name.as_deref().unwrap_or_default();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let spec = self.input.set.spec.as_ref();
        let template = spec.map(|spec| spec.template.clone()).unwrap_or_default();
        let mut made = pod::from_template(&template, meta.namespace.as_deref());
        let mut pinned = self.spec.clone();
        placement::pin(&mut pinned, node);
        made.spec = Some(pinned);
        let labels = made.metadata.labels.get_or_insert_default();
        labels.insert(history::HASH.into(), self.input.hash.into());
        let generation = meta
            .annotations
            .as_ref()
            .and_then(|all| all.get(GENERATION));
        if let Some(generation) = generation {
            labels.insert(GENERATION_LABEL.into(), generation.clone());
        }
        let mut place = 0u64;
        let name = loop {
            let name = names::derived(base, &[uid, node, &place.to_string()]);
            if self.taken.insert(name.clone()) {
                break name;
            }
            place += 1;
        };
        made.metadata.generate_name = Some(format!("{base}-"));
        made.metadata.name = Some(name);
        made.metadata.owner_references = Some(vec![owner::reference(self.input.set)]);
        made
    }
}
