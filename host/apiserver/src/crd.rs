//! CustomResourceDefinitions: what they define, and when it is served.
//!
//! A definition is stored, then settled ([`status`]): its names are accepted or not, and it is
//! established, before the request that wrote it is answered; so the resource is served when the
//! client asks for it. Nothing is kept beside the stored definitions: a restart reads them again. A
//! schema is parsed when the first object is held against it.

pub(crate) mod convert;
pub(crate) mod go;
pub(crate) mod status;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use eyot_store::{Object, Store};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::convert::Conversion;
use crate::{
    jsonpath::JsonPath,
    object::{self, at, text},
    resource::{Definition, Resource, ScalePaths},
    schema::Schema,
    table::{CustomColumns, Printer},
};

pub(crate) use self::status::is_established;

/// Keeps a deleted definition until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// `Key::resource` of the definitions.
pub(crate) const STORAGE: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// What a version of a definition says about its objects.
pub(crate) struct Custom {
    /// The definition, and which of its versions this is.
    source: Bytes,
    version: String,
    schema: OnceLock<Schema>,
    /// Objects of later revisions were written under this definition: they are in its storage
    /// version, without what it does not know and with all its defaults.
    since: u64,
    /// This is the version in which objects are stored.
    is_storage: bool,
    /// How objects in the stored version begin: the keys of what is stored are in order.
    beginning: Vec<u8>,
    conversion: Conversion,
    /// Cancelled when the version is no longer served as it is here: its watches end.
    pub(crate) retired: CancellationToken,
    /// `group/version` in which objects are stored.
    pub(crate) storage_version: String,
    /// The fields that field selectors may name.
    pub(crate) selectable: Vec<SelectableField>,
    /// What clients of this version are warned of; empty for most.
    pub(crate) deprecated: String,
}

/// A field that field selectors may name.
pub(crate) struct SelectableField {
    /// As selectors name it: `spec.color`.
    pub(crate) name: String,
    pub(crate) path: JsonPath,
}

impl Custom {
    pub(crate) fn schema(&self) -> &Schema {
        self.schema.get_or_init(|| {
            let definition: Value = serde_json::from_slice(&self.source).unwrap_or_default();
            let version = versions(&definition)
                .iter()
                .find(|version| text(version, &["name"]) == self.version);
            let schema = version.and_then(|version| version.pointer("/schema/openAPIV3Schema"));
            // A definition without a schema has none to hold objects against.
            schema.map(Schema::parse).unwrap_or_default()
        })
    }

    /// Whether a stored object looks in this version as it is stored. What a request that began
    /// before the definition changed wrote after it shows by how it begins.
    pub(crate) fn is_current(&self, object: &Object) -> bool {
        self.is_storage && object.revision > self.since && object.json.starts_with(&self.beginning)
    }

    /// Whether objects of other versions are converted by a webhook.
    pub(crate) fn has_webhook(&self) -> bool {
        matches!(self.conversion, Conversion::Webhook(_))
    }

    /// Show an object that was read from the store, and converted if need be, as this version and
    /// this definition have it.
    pub(crate) fn show(&self, value: &mut Value, object: &Object, api_version: &str) {
        if self.is_current(object) {
            return;
        }
        if let Value::Object(map) = value {
            map.insert("apiVersion".to_owned(), api_version.into());
        }
        self.schema().prune(value);
        self.schema().default(value);
    }
}

/// Every stored definition.
pub(crate) fn stored(store: &Store) -> Vec<(Arc<Object>, Value)> {
    let stored = store.list(STORAGE, None);
    let parse = |object: Arc<Object>| {
        let value = serde_json::from_slice(&object.json).ok()?;
        Some((object, value))
    };
    stored.objects.into_iter().filter_map(parse).collect()
}

/// The served versions of a definition, of which `source` is the text, and which was written at the
/// revision `since`. What is parsed of a schema is taken over from `before`, the
/// resources that were served until now, if the schema is the same.
pub(crate) fn resources(
    source: &Bytes,
    since: u64,
    crd: &Value,
    before: &[Arc<Resource>],
) -> Vec<Resource> {
    let names = |key: &str| text(crd, &["status", "acceptedNames", key]).to_owned();
    let words = |key: &str| {
        let list = at(crd, &["status", "acceptedNames", key]).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let group = text(crd, &["spec", "group"]).to_owned();
    let plural = text(crd, &["spec", "names", "plural"]).to_owned();
    let storage: Arc<str> = format!("{plural}.{group}").into();
    let storage_version = storage_version(crd);
    let shown_storage = versions(crd)
        .iter()
        .find(|version| flag(version, "storage") && flag(version, "served"))
        .map_or_else(String::new, |version| text(version, &["name"]).to_owned());
    let stamp = stamp(crd);
    let served = versions(crd)
        .iter()
        .filter(|version| flag(version, "served"));
    served
        .map(|version| {
            let name = text(version, &["name"]);
            let known = before.iter().find(|known| {
                known.storage == storage && known.version == name && known.stamp == stamp
            });
            let custom = match known.map(|known| &known.definition) {
                Some(Definition::Custom(custom)) => custom.clone(),
                _ => Arc::new(Custom {
                    source: source.clone(),
                    version: name.to_owned(),
                    schema: OnceLock::new(),
                    since,
                    is_storage: name == storage_version,
                    beginning: format!("{{\"apiVersion\":\"{group}/{storage_version}\",").into(),
                    conversion: Conversion::of(crd),
                    retired: CancellationToken::new(),
                    storage_version: format!("{group}/{storage_version}"),
                    selectable: selectable(version),
                    deprecated: deprecated(crd, version),
                }),
            };
            Resource {
                group: group.clone(),
                version: name.to_owned(),
                kind: names("kind"),
                list_kind: names("listKind"),
                plural: plural.clone(),
                singular: names("singular"),
                short_names: words("shortNames"),
                categories: words("categories"),
                namespaced: text(crd, &["spec", "scope"]) == "Namespaced",
                status: at(version, &["subresources", "status"]).is_some_and(Value::is_object),
                scale: scale_paths(version),
                storage: storage.clone(),
                storage_version: shown_storage.clone(),
                stamp: stamp.clone(),
                terminating: object::is_deleting(crd),
                converted: None,
                printer: Printer::Custom(CustomColumns::parse(version)),
                face: None,
                definition: Definition::Custom(custom),
            }
        })
        .collect()
}

/// What changes with every change of a definition's `spec`.
fn stamp(crd: &Value) -> String {
    let generation = at(crd, &["metadata", "generation"]).and_then(Value::as_i64);
    format!("{}/{}", object::uid(crd), generation.unwrap_or(0))
}

fn selectable(version: &Value) -> Vec<SelectableField> {
    let fields = version.get("selectableFields").and_then(Value::as_array);
    let field = |field: &Value| {
        let path = text(field, &["jsonPath"]);
        Some(SelectableField {
            name: path.strip_prefix('.').unwrap_or(path).to_owned(),
            path: JsonPath::parse(path).ok()?,
        })
    };
    fields.into_iter().flatten().filter_map(field).collect()
}

fn deprecated(crd: &Value, version: &Value) -> String {
    if !flag(version, "deprecated") {
        return String::new();
    }
    let given = version.get("deprecationWarning").and_then(Value::as_str);
    given.map_or_else(|| deprecation(crd, version), str::to_owned)
}

/// The warning of a version whose author gives none: it names the newest version to move to.
fn deprecation(crd: &Value, version: &Value) -> String {
    let (group, kind) = (
        text(crd, &["spec", "group"]),
        text(crd, &["spec", "names", "kind"]),
    );
    let name = text(version, &["name"]);
    let better = versions(crd)
        .iter()
        .filter(|other| flag(other, "served") && !flag(other, "deprecated"))
        .map(|other| text(other, &["name"]))
        .filter(|other| version_priority(other) > version_priority(name))
        .max_by_key(|other| version_priority(other));
    let hint = better.map_or_else(String::new, |other| format!("; use {group}/{other} {kind}"));
    format!("{group}/{name} {kind} is deprecated{hint}")
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

pub(crate) fn versions(crd: &Value) -> &[Value] {
    at(crd, &["spec", "versions"])
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The version in which objects are stored.
pub(crate) fn storage_version(crd: &Value) -> &str {
    let version = versions(crd).iter().find(|one| flag(one, "storage"));
    version.map_or("", |version| text(version, &["name"]))
}

pub(crate) fn flag(version: &Value, key: &str) -> bool {
    version.get(key).and_then(Value::as_bool).unwrap_or(false)
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
    use eyot_store::Key;
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_are_ordered_as_kubernetes_orders_them() {
        let mut versions = ["v1alpha1", "v1", "foo", "v2", "v1beta2", "v1beta10", "v10"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_priority(version)));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo"]
        );
    }

    #[test]
    fn a_deprecated_version_names_the_best_one_to_move_to() {
        let crd = json!({"spec": {"group": "x.test", "names": {"kind": "Widget"}, "versions": [
            {"name": "v1alpha1", "served": true, "deprecated": true},
            {"name": "v1beta1", "served": true, "deprecated": true, "deprecationWarning": "mine"},
            {"name": "v1", "served": true}, {"name": "v2", "served": false},
        ]}});
        let of = |at: usize| deprecated(&crd, &versions(&crd)[at]);
        assert_eq!(
            of(0),
            "x.test/v1alpha1 Widget is deprecated; use x.test/v1 Widget"
        );
        assert_eq!(of(1), "mine");
        assert_eq!(of(2), "");
    }

    #[tokio::test]
    async fn what_is_stored_in_this_version_is_shown_as_it_is() {
        let store = Store::in_memory(crate::extract);
        let version = |name: &str, storage: bool| {
            json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema":
                {"type": "object", "properties": {"a": {"type": "string", "default": "A"}}}}})
        };
        let crd = json!({"metadata": {"name": "widgets.x.test"}, "spec": {
            "group": "x.test", "scope": "Cluster", "names": {"plural": "widgets"},
            "versions": [version("v1", true), version("v2", false)]}});
        let key = |name: &str| Key::new("widgets.x.test", "", name);
        let widget =
            |version: &str| json!({"kind": "Widget", "apiVersion": version, "metadata": {}});
        let early = store
            .create(key("early"), widget("x.test/v1"))
            .await
            .unwrap();
        let source = Key::new(STORAGE, "", "widgets.x.test");
        let source = store.create(source, crd.clone()).await.unwrap();
        let late = store
            .create(key("late"), widget("x.test/v1"))
            .await
            .unwrap();
        let odd = store.create(key("odd"), widget("x.test/v0")).await.unwrap();
        let served = resources(&source.json, source.revision, &crd, &[]);
        let (v1, v2) = (&served[0], &served[1]);
        let same = |resource: &Resource, object: &Object| {
            resource.show(object).as_ptr() == object.json.as_ptr()
        };
        assert!(same(v1, &late) && !same(v2, &late) && !same(v1, &early) && !same(v1, &odd));
        let shown: Value = serde_json::from_slice(&v1.show(&odd)).unwrap();
        assert_eq!(
            (&shown["apiVersion"], &shown["a"]),
            (&json!("x.test/v1"), &json!("A"))
        );
        let shown: Value = serde_json::from_slice(&v2.show(&late)).unwrap();
        assert_eq!(
            (&shown["apiVersion"], &shown["a"]),
            (&json!("x.test/v2"), &json!("A"))
        );
    }
}
