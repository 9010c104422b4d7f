//! The pods of a Job, from its template. Pure.

use std::collections::HashSet;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector},
};

use super::{FINALIZER, INDEX};
use crate::{
    names, owner,
    pod::{self, NewPod},
};

const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";
/// Longest start of a pod's name, so that five letters fit after it in a host name.
const PREFIX: usize = 58;

/// Makes pods with the first free names: a second pass on an old cache asks for the same ones, and
/// the API refuses them.
pub(super) struct Maker<'a> {
    pub(super) job: &'a Job,
    /// The names of all pods of the namespace.
    pub(super) taken: HashSet<String>,
}

impl Maker<'_> {
    /// A pod for an index, or for none.
    pub(super) fn pod(&mut self, index: Option<u32>) -> NewPod {
        let (job, mut template) = (self.job, Default::default());
        if let Some(spec) = &job.spec {
            template = spec.template.clone();
        }
        let mut pod = pod::from_template(&template, job.metadata.namespace.as_deref());
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let prefix = match index {
            None => format!("{name}-"),
            Some(index) => {
                let end = format!("-{index}-");
                let room = PREFIX.saturating_sub(end.len());
                format!("{}{end}", &name[..name.floor_char_boundary(room)])
            }
        };
        pod.metadata.name = Some(self.free_name(prefix.trim_end_matches('-'), index));
        pod.metadata.generate_name = Some(prefix);
        pod.metadata.owner_references = Some(vec![owner::reference(job)]);
        let finalizers = pod.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|found| found == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        if let Some(index) = index {
            give_index(&mut pod, name, index);
        }
        pod
    }

    fn free_name(&mut self, base: &str, index: Option<u32>) -> String {
        let uid = self.job.metadata.uid.as_deref().unwrap_or_default();
        let index = index.map(|index| index.to_string()).unwrap_or_default();
        let mut place = 0u64;
        loop {
            let name = names::derived(base, &[uid, &index, &place.to_string()]);
            if self.taken.insert(name.clone()) {
                return name;
            }
            place += 1;
        }
    }
}

fn give_index(pod: &mut NewPod, job: &str, index: u32) {
    let pair = (INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.extend([pair.clone()]);
    pod.metadata.labels.get_or_insert_default().extend([pair]);
    let Some(spec) = &mut pod.spec else { return };
    spec.hostname = Some(format!("{job}-{index}"));
    let init = spec.init_containers.iter_mut().flatten();
    for container in spec.containers.iter_mut().chain(init) {
        tell_index(container);
    }
}

fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == INDEX_ENV) {
        return;
    }
    env.push(EnvVar {
        name: INDEX_ENV.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}
