//! The schemas of every built-in kind, served or not, beside those of a real server.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::{Map, Value};

use super::{
    roots::ROOTS,
    schemas::{self, Wanted},
};

/// What differs, by the end of its place, and why that is right.
const KNOWN: &[(&str, &str)] = &[
    ("List/description", "the Rust types have no text for lists"),
    (
        "List/properties/items/description",
        "the Rust types have no text for lists",
    ),
    (
        "List/properties/metadata/description",
        "the Rust types have no text for lists",
    ),
    (
        "APIResource/properties/verbs/x-kubernetes-list-type",
        "the one list of which the real server does not say how it merges",
    ),
    (
        "APIServiceSpec/properties/caBundle/x-kubernetes-list-type",
        "bytes, which are no list in JSON",
    ),
];

/// Descriptions that end in what each value of an enumeration means: here they end in the values.
fn same_text(ours: &str, theirs: &str) -> bool {
    const VALUES: &str = "\n\nPossible enum values:";
    let before = |text: &str| {
        let text = text.split(VALUES).next().unwrap_or_default();
        text.trim_end().to_owned()
    };
    before(ours) == before(theirs) && ours.contains(VALUES) == theirs.contains(VALUES)
}

fn differences(path: &str, ours: &Value, theirs: &Value, into: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let (a, b) = (
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                );
                differences(&format!("{path}/{key}"), a, b, into);
            }
        }
        (Value::String(a), Value::String(b))
            if path.ends_with("/description") && same_text(a, b) => {}
        // In the order of Go's fields there, in that of their names here.
        (Value::Array(a), Value::Array(b))
            if path.ends_with("/required") || path.ends_with("/x-kubernetes-list-map-keys") =>
        {
            let set = |list: &[Value]| list.iter().map(Value::to_string).collect::<BTreeSet<_>>();
            if set(a) != set(b) {
                into.push(format!("{path}: {ours} is {theirs} there"));
            }
        }
        (a, b) if a != b => into.push(format!("{path}: {a} is {b} there")),
        _ => {}
    }
}

#[test]
fn schemas_of_all_kinds_are_those_of_the_real_server() {
    let Some(shared) = std::env::var_os("EYOT_SHARED") else {
        eprintln!(
            "SKIPPED schemas_of_all_kinds_are_those_of_the_real_server: EYOT_SHARED is not set"
        );
        return;
    };
    let golden = PathBuf::from(shared).join("facts/kubernetes-golden");
    let (mut found, mut compared) = (Vec::new(), 0);
    let versions: BTreeSet<&str> = ROOTS.iter().map(|root| root.api_version).collect();
    for api_version in versions {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let path = super::paths::root(group, version).replace('/', "__");
        let file = golden.join(format!("openapi_v3_{path}.json"));
        let theirs: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let theirs = theirs["components"]["schemas"].as_object().unwrap();
        let lists: Vec<(&str, String)> = ROOTS
            .iter()
            .filter(|root| root.api_version == api_version)
            .map(|root| (root.kind, format!("{}List", root.kind)))
            .collect();
        let wanted: Vec<Wanted<'_>> = lists
            .iter()
            .filter(|(kind, _)| theirs.contains_key(&schemas::name(group, version, kind)))
            .map(|(kind, list)| Wanted {
                group,
                version,
                kind,
                list_kind: theirs
                    .contains_key(&format!("{}List", schemas::name(group, version, kind)))
                    .then_some(list.as_str()),
            })
            .collect();
        let ours: Map<String, Value> = schemas::builtin(&wanted, (group, version));
        for (name, schema) in &ours {
            // Some documents have no use for what all others have.
            if let Some(same) = theirs.get(name) {
                compared += 1;
                differences(name, schema, same, &mut found);
            }
        }
    }
    found.retain(|difference| {
        let place = difference.split(": ").next().unwrap_or_default();
        !KNOWN.iter().any(|(end, _)| place.ends_with(end))
    });
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    assert!(compared > 1000, "{compared}");
}
