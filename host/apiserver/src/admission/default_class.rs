//! `DefaultStorageClass` and `DefaultIngressClass`: the class of claims and ingresses that name none.
//!
//! A class is the default one by its annotation. Of several the youngest is taken, and of those of
//! one age the first by name, so that a new default can be made before the old one is unmade.

use serde_json::{Value, json};

use super::{Attributes, Mutated};
use crate::{
    api::Api,
    object::{self, at, text},
};

pub(super) const STORAGE: &[&str] = &["storageclasses.storage.k8s.io"];
pub(super) const INGRESS: &[&str] = &["ingressclasses.networking.k8s.io"];

/// The name of the default class, if there is one.
pub(super) type Default = Option<String>;

pub(super) fn storage(stored: &[Value]) -> Default {
    youngest(
        stored,
        &[
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ],
    )
}

pub(super) fn ingress(stored: &[Value]) -> Default {
    youngest(stored, &["ingressclass.kubernetes.io/is-default-class"])
}

fn youngest(stored: &[Value], annotations: &[&str]) -> Default {
    let marked = |class: &&Value| {
        annotations
            .iter()
            .any(|name| text(class, &["metadata", "annotations", name]) == "true")
    };
    // Times in this form sort as text.
    let age = |class: &&Value| text(class, &["metadata", "creationTimestamp"]).to_owned();
    let newest = stored
        .iter()
        .filter(marked)
        .map(|class| age(&class))
        .max()?;
    let mut names: Vec<&str> = stored
        .iter()
        .filter(|class| marked(class) && age(class) == newest)
        .map(object::name)
        .collect();
    names.sort_unstable();
    names.first().map(|name| (*name).to_owned())
}

pub(super) fn mutate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &mut Value,
    mutated: &mut Mutated,
) {
    let (annotation, field, class) = if attributes.creates("", "persistentvolumeclaims") {
        let class = api.admission.storage_class.get(&api.store);
        (
            "volume.beta.kubernetes.io/storage-class",
            "storageClassName",
            class,
        )
    } else if attributes.creates("networking.k8s.io", "ingresses") {
        let class = api.admission.ingress_class.get(&api.store);
        ("kubernetes.io/ingress.class", "ingressClassName", class)
    } else {
        return;
    };
    // Even an empty name is a choice: of no class.
    let chosen = at(object, &["spec", field]).is_some_and(|name| !name.is_null())
        || at(object, &["metadata", "annotations", annotation]).is_some();
    if let Some(name) = &*class
        && !chosen
    {
        object::member(object, "spec").insert(field.to_owned(), json!(name));
        mutated.changed = true;
    }
}
