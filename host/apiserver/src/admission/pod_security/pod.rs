//! A pod as the checks read it, and the words in which they refuse one.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::object::{at, text};

/// A pod, or the template of one.
#[derive(Clone, Copy)]
pub(super) struct Pod<'a> {
    object: &'a Value,
}

impl<'a> Pod<'a> {
    /// `object` has `metadata` and `spec`.
    pub(super) fn new(object: &'a Value) -> Pod<'a> {
        Pod { object }
    }

    pub(super) fn annotations(self) -> Option<&'a Map<String, Value>> {
        at(self.object, &["metadata", "annotations"])?.as_object()
    }

    pub(super) fn annotation(self, key: &str) -> Option<&'a str> {
        self.annotations()?.get(key)?.as_str()
    }

    pub(super) fn spec(self, path: &[&str]) -> Option<&'a Value> {
        path.iter()
            .try_fold(self.object.get("spec")?, |value, key| value.get(key))
    }

    pub(super) fn is(self, key: &str, value: bool) -> bool {
        self.spec(&[key]).and_then(Value::as_bool) == Some(value)
    }

    /// Init containers, containers, ephemeral containers.
    pub(super) fn containers(self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .filter_map(move |group| self.spec(&[group])?.as_array())
            .flatten()
    }

    pub(super) fn volumes(self) -> impl Iterator<Item = &'a Value> {
        self.spec(&["volumes"])
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    }

    /// Its processes are of a user namespace of their own: root in there is nobody outside.
    pub(super) fn has_own_users(self) -> bool {
        self.is("hostUsers", false)
    }

    pub(super) fn is_windows(self) -> bool {
        self.spec(&["os", "name"]).and_then(Value::as_str) == Some("windows")
    }

    /// The names of the containers that are so.
    pub(super) fn those(self, are: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers()
            .filter(|container| are(container))
            .map(|container| text(container, &["name"]))
            .collect()
    }
}

/// A member of a container's security context.
pub(super) fn context<'a>(container: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let context = container.get("securityContext")?;
    let value = path.iter().try_fold(context, |value, key| value.get(key))?;
    (!value.is_null()).then_some(value)
}

/// Why a pod does not keep to a standard.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// What is wrong, in few words.
    pub(super) reason: &'static str,
    /// With what in this pod.
    pub(super) detail: String,
}

impl Violation {
    pub(super) fn new(reason: &'static str, detail: String) -> Option<Violation> {
        Some(Violation { reason, detail })
    }
}

/// `"a", "b"`
pub(super) fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items: Vec<String> = items
        .into_iter()
        .map(|item| format!("\"{}\"", item.as_ref()))
        .collect();
    items.join(", ")
}

pub(super) fn plural(count: usize, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`
pub(super) fn containers(names: &[&str]) -> String {
    let noun = plural(names.len(), "container", "containers");
    format!("{noun} {}", quoted(names))
}

/// The pod itself and its containers, as far as they set something: `pod and container "a"`.
pub(super) fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names) {
        (false, []) => None,
        (true, []) => Some("pod".to_owned()),
        (false, names) => Some(containers(names)),
        (true, names) => Some(format!("pod and {}", containers(names))),
    }
}

/// Each once, in order.
pub(super) fn sorted<'a>(items: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    items.into_iter().collect()
}

/// A list of texts.
pub(super) fn texts(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}
