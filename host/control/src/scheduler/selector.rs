//! Who is meant: label selectors and the namespaces beside them, in a form that can be compared, so
//! that what many pods ask is counted once.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::PodAffinityTerm, apimachinery::pkg::apis::meta::v1::LabelSelector,
};

pub(super) type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Asks {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    /// An operator that nobody knows.
    Never,
}

/// A label selector. Without requirements it accepts everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Selector(Vec<(String, Asks)>);

impl Selector {
    pub(super) fn of(selector: &LabelSelector) -> Self {
        let mut all = Self::of_labels(selector.match_labels.iter().flatten());
        for one in selector.match_expressions.iter().flatten() {
            let mut values = one.values.clone().unwrap_or_default();
            values.sort();
            values.dedup();
            let asks = match &*one.operator {
                "In" => Asks::In(values),
                "NotIn" => Asks::NotIn(values),
                "Exists" => Asks::Exists,
                "DoesNotExist" => Asks::DoesNotExist,
                _ => Asks::Never,
            };
            all.0.push((one.key.clone(), asks));
        }
        all.tidy()
    }

    pub(super) fn of_labels<'a>(labels: impl Iterator<Item = (&'a String, &'a String)>) -> Self {
        let is = |(key, value): (&String, &String)| (key.clone(), Asks::In(vec![value.clone()]));
        Self(labels.map(is).collect()).tidy()
    }

    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self.tidy()
    }

    /// The same pods only if they also agree (or, with `differ`, disagree) with `labels` on these
    /// keys.
    pub(super) fn like(mut self, keys: &[String], labels: Option<&Labels>, differ: bool) -> Self {
        for key in keys {
            if let Some(value) = labels.and_then(|labels| labels.get(key)) {
                let value = vec![value.clone()];
                let asks = if differ {
                    Asks::NotIn(value)
                } else {
                    Asks::In(value)
                };
                self.0.push((key.clone(), asks));
            }
        }
        self.tidy()
    }

    fn tidy(mut self) -> Self {
        self.0.sort();
        self.0.dedup();
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn accepts(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(key, asks)| {
            let value = labels.get(key);
            match asks {
                Asks::In(values) => value.is_some_and(|value| values.contains(value)),
                Asks::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Asks::Exists => value.is_some(),
                Asks::DoesNotExist => value.is_none(),
                Asks::Never => false,
            }
        })
    }
}

/// Pods of some namespaces with some labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Group {
    /// By name, and beside them those that the selector accepts.
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
    /// `None` means nobody.
    selector: Option<Selector>,
}

impl Group {
    pub(super) fn within(namespace: &str, selector: Option<Selector>) -> Self {
        Self {
            namespaces: vec![namespace.to_owned()],
            namespace_selector: None,
            selector,
        }
    }

    /// Whether the labels of namespaces decide.
    pub(super) fn asks_namespaces(&self) -> bool {
        self.namespace_selector.is_some()
    }

    pub(super) fn accepts(
        &self,
        namespace: &str,
        labels: &Labels,
        namespaces: &BTreeMap<String, Labels>,
    ) -> bool {
        let none = Labels::new();
        let here = || namespaces.get(namespace).unwrap_or(&none);
        let within = self.namespaces.iter().any(|name| name == namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|s| s.accepts(here()));
        within
            && self
                .selector
                .as_ref()
                .is_some_and(|selector| selector.accepts(labels))
    }
}

/// A term of pod affinity: whom it means, and the label of nodes that says what is near.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Term {
    pub(super) group: Group,
    pub(super) topology: String,
}

impl Term {
    /// The term as a pod of this namespace and with these labels means it.
    pub(super) fn of(term: &PodAffinityTerm, namespace: &str, labels: Option<&Labels>) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        namespaces.sort();
        namespaces.dedup();
        let selector = term.label_selector.as_ref().map(|selector| {
            let same = term.match_label_keys.as_deref().unwrap_or_default();
            let other = term.mismatch_label_keys.as_deref().unwrap_or_default();
            let selector = Selector::of(selector).like(same, labels, false);
            selector.like(other, labels, true)
        });
        Self {
            group: Group {
                namespaces,
                namespace_selector: term.namespace_selector.as_ref().map(Selector::of),
                selector,
            },
            topology: term.topology_key.clone(),
        }
    }
}
