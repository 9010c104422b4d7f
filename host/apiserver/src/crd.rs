//! CustomResourceDefinitions: what they define, and when it is served.
//!
//! Whether a definition's names are free is decided in the request that writes it, so its answer
//! already says `Established` and the resource is served before the client can ask for it. Nothing
//! is kept beside the stored definitions: a restart reads them again.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    object::{self, at, text},
    resource::{Custom, Definition, Resource, ScalePaths},
    schema::Schema,
    table::{CustomColumns, Printer},
};

/// Keeps a deleted definition until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// `Key::resource` of the definitions.
pub(crate) const STORAGE: &str = "customresourcedefinitions.apiextensions.k8s.io";

pub(crate) fn is_established(crd: &Value) -> bool {
    condition(crd, "Established").is_some_and(|condition| text(condition, &["status"]) == "True")
}

/// Set `status` of a definition that is about to be written, given all other stored ones.
pub(crate) fn set_status(crd: &mut Value, others: &[Value], now: Timestamp) {
    let conflict = name_conflict(crd, others);
    let (accepted, reason, message) = match &conflict {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some(why) => ("False", "NameConflict", why.clone()),
    };
    let mut conditions = vec![("NamesAccepted", accepted, reason, message)];
    // A definition that was once established stays so: its objects must remain reachable.
    let (established, reason, message) = match conflict.is_none() || is_established(crd) {
        true => (
            "True",
            "InitialNamesAccepted",
            "the initial names have been accepted",
        ),
        false => ("False", "NotAccepted", "not all names are accepted"),
    };
    conditions.push(("Established", established, reason, message.to_owned()));
    if object::is_deleting(crd) {
        let message = "CustomResource deletion is in progress".to_owned();
        conditions.push(("Terminating", "True", "InstanceDeletionInProgress", message));
    }
    let now = object::timestamp(now);
    let conditions: Vec<Value> = conditions
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let since = condition(crd, kind)
                .filter(|old| text(old, &["status"]) == status)
                .map(|old| text(old, &["lastTransitionTime"]).to_owned())
                .filter(|since| !since.is_empty())
                .unwrap_or_else(|| now.clone());
            json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": since,
            })
        })
        .collect();
    let names = crd.pointer("/spec/names").cloned().unwrap_or_default();
    let mut stored: Vec<Value> = at(crd, &["status", "storedVersions"])
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for version in versions(crd) {
        let name = version.get("name").cloned().unwrap_or_default();
        if flag(version, "storage") && !stored.contains(&name) {
            stored.push(name);
        }
    }
    crd["status"] = json!({
        "conditions": conditions, "acceptedNames": names, "storedVersions": stored,
    });
}

/// Why the names of a definition cannot be served, if they cannot.
fn name_conflict(crd: &Value, others: &[Value]) -> Option<String> {
    let group = text(crd, &["spec", "group"]);
    let same_group = |other: &&Value| {
        text(other, &["spec", "group"]) == group && object::name(other) != object::name(crd)
    };
    let taken: Vec<&Value> = others
        .iter()
        .filter(|other| is_established(other))
        .filter(same_group)
        .collect();
    let lower = |key: &str, crd: &Value| text(crd, &["spec", "names", key]).to_lowercase();
    let words = |crd: &Value| {
        let mut words = vec![lower("plural", crd), lower("singular", crd)];
        let short = at(crd, &["spec", "names", "shortNames"]).and_then(Value::as_array);
        words.extend(
            short
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned),
        );
        words.retain(|word| !word.is_empty());
        words
    };
    for word in words(crd) {
        if taken.iter().any(|other| words(other).contains(&word)) {
            return Some(format!("{word:?} is already in use"));
        }
    }
    for key in ["kind", "listKind"] {
        let mine = text(crd, &["spec", "names", key]);
        let in_use = |other: &&Value| {
            ["kind", "listKind"]
                .iter()
                .any(|k| text(other, &["spec", "names", k]) == mine)
        };
        if !mine.is_empty() && taken.iter().any(in_use) {
            return Some(format!("{mine:?} is already in use"));
        }
    }
    None
}

/// The served versions of a definition.
pub(crate) fn resources(crd: &Value) -> Vec<Resource> {
    let names = |key: &str| text(crd, &["spec", "names", key]).to_owned();
    let words = |key: &str| {
        let list = at(crd, &["spec", "names", key]).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let group = text(crd, &["spec", "group"]).to_owned();
    let relabel = versions(crd).len() > 1;
    let storage_version = versions(crd)
        .iter()
        .find(|version| flag(version, "storage") && flag(version, "served"))
        .map_or_else(String::new, |version| text(version, &["name"]).to_owned());
    let served = versions(crd)
        .iter()
        .filter(|version| flag(version, "served"));
    served
        .map(|version| Resource {
            group: group.clone(),
            version: text(version, &["name"]).to_owned(),
            kind: names("kind"),
            list_kind: names("listKind"),
            plural: names("plural"),
            singular: names("singular"),
            short_names: words("shortNames"),
            categories: words("categories"),
            namespaced: text(crd, &["spec", "scope"]) == "Namespaced",
            status: at(version, &["subresources", "status"]).is_some_and(Value::is_object),
            scale: scale_paths(version),
            storage: format!("{}.{group}", names("plural")).into(),
            storage_version: storage_version.clone(),
            stamp: stamp(crd),
            terminating: object::is_deleting(crd),
            printer: Printer::Custom(CustomColumns::parse(version)),
            face: None,
            definition: Definition::Custom(Box::new(Custom {
                schema: schema(version),
                relabel,
            })),
        })
        .collect()
}

/// What changes with every change of a definition's `spec`.
fn stamp(crd: &Value) -> String {
    let generation = at(crd, &["metadata", "generation"]).and_then(Value::as_i64);
    format!("{}/{}", object::uid(crd), generation.unwrap_or(0))
}

/// A definition is validated before it is stored, so its schema parses.
fn schema(version: &Value) -> Schema {
    let empty = Value::Null;
    let schema = version.pointer("/schema/openAPIV3Schema").unwrap_or(&empty);
    Schema::parse(schema, "").unwrap_or_default()
}

fn scale_paths(version: &Value) -> Option<ScalePaths> {
    let scale = at(version, &["subresources", "scale"])?;
    let path = |key: &str| {
        let text = text(scale, &[key]);
        let keys: Vec<String> = text
            .split('.')
            .filter(|key| !key.is_empty())
            .map(str::to_owned)
            .collect();
        (!keys.is_empty()).then_some(keys)
    };
    Some(ScalePaths {
        spec: path("specReplicasPath")?,
        status: path("statusReplicasPath")?,
        selector: path("labelSelectorPath"),
    })
}

fn versions(crd: &Value) -> &[Value] {
    at(crd, &["spec", "versions"])
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn flag(version: &Value, key: &str) -> bool {
    version.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = at(crd, &["status", "conditions"]).and_then(Value::as_array)?;
    conditions
        .iter()
        .find(|condition| text(condition, &["type"]) == kind)
}

/// Kubernetes' order of versions: `v2` over `v1` over `v1beta2` over `v1alpha1` over the rest.
pub(crate) fn version_priority(version: &str) -> (u8, u64, u64) {
    parse_version(version).unwrap_or((0, 0, 0))
}

fn parse_version(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let (major, rest) = rest.split_at(
        rest.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len()),
    );
    let major = major.parse().ok()?;
    match rest {
        "" => Some((3, major, 0)),
        _ => match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
            (Some(minor), _) => Some((2, major, minor.parse().ok()?)),
            (_, Some(minor)) => Some((1, major, minor.parse().ok()?)),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str) -> Value {
        json!({
            "metadata": {"name": format!("{plural}.x.test")},
            "spec": {
                "group": "x.test", "scope": "Namespaced",
                "names": {"plural": plural, "kind": kind, "singular": kind.to_lowercase()},
                "versions": [{"name": "v1", "served": true, "storage": true}],
            },
        })
    }

    #[test]
    fn a_definition_with_free_names_is_established_at_once() {
        let mut crd = definition("widgets", "Widget");
        set_status(&mut crd, &[], Timestamp::UNIX_EPOCH);
        assert!(is_established(&crd));
        assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
        assert_eq!(crd["status"]["acceptedNames"]["kind"], "Widget");
    }

    #[test]
    fn a_definition_whose_kind_is_taken_in_its_group_is_not() {
        let mut first = definition("widgets", "Widget");
        set_status(&mut first, &[], Timestamp::UNIX_EPOCH);
        let mut second = definition("gadgets", "Widget");
        set_status(&mut second, &[first], Timestamp::UNIX_EPOCH);
        assert!(!is_established(&second));
        assert_eq!(second["status"]["conditions"][0]["reason"], "NameConflict");
    }

    #[test]
    fn versions_are_ordered_as_kubernetes_orders_them() {
        let mut versions = ["v1alpha1", "v1", "foo", "v2", "v1beta2", "v1beta10", "v10"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_priority(version)));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo"]
        );
    }
}
