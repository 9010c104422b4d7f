//! What holds of every object and configuration, tried on many made at random.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value, json};

use super::{fixture::Lab, nested::schema};
use crate::managed::{entry, set};

/// How many objects are tried.
const TRIES: u64 = 300;

/// A configuration that fits the schema of nested types.
fn config(rng: &mut StdRng) -> Value {
    let names = ["a", "b", "c"];
    let mut object = Map::new();
    let pick = |rng: &mut StdRng| -> Vec<&str> {
        names.into_iter().filter(|_| rng.random_bool(0.5)).collect()
    };
    let text_map = |rng: &mut StdRng, keys: &[&str]| -> Value {
        keys.iter()
            .map(|key| {
                (
                    (*key).to_owned(),
                    json!(format!("{}", rng.random_range(0..2))),
                )
            })
            .collect::<Map<_, _>>()
            .into()
    };
    if rng.random_bool(0.6) {
        let items: Vec<Value> = pick(rng)
            .into_iter()
            .map(|name| json!({"name": name, "value": pick(rng)}))
            .collect();
        object.insert("listOfLists".into(), items.into());
    }
    if rng.random_bool(0.6) {
        let mut items = Vec::new();
        for name in pick(rng) {
            let keys = pick(rng);
            items.push(json!({"name": name, "value": text_map(rng, &keys)}));
        }
        object.insert("listOfMaps".into(), items.into());
    }
    if rng.random_bool(0.6) {
        let mut maps = Map::new();
        for name in pick(rng) {
            let keys = pick(rng);
            maps.insert(name.to_owned(), text_map(rng, &keys));
        }
        object.insert("mapOfMaps".into(), maps.into());
    }
    if rng.random_bool(0.6) {
        object.insert(
            "struct".into(),
            json!({"name": "x", "value": rng.random_range(0..3)}),
        );
    }
    if rng.random_bool(0.4) {
        let keys = pick(rng);
        object.insert(
            "open".into(),
            json!({"deep": text_map(rng, &keys), "list": pick(rng)}),
        );
    }
    object.into()
}

fn owned(lab: &Lab, manager: &str) -> Vec<String> {
    let object = lab.object.clone().unwrap();
    let entries = entry::stored(&object)
        .cloned()
        .map(entry::trusted)
        .unwrap_or_default();
    entries
        .iter()
        .filter(|entry| entry.manager == manager)
        .flat_map(|entry| set::paths(&entry.fields))
        .collect()
}

#[test]
fn applying_twice_is_applying_once() {
    for seed in 0..TRIES {
        let mut rng = StdRng::seed_from_u64(seed);
        let (one, two) = (config(&mut rng), config(&mut rng));
        let mut lab = Lab::new(schema());
        lab.force("other", one).force("me", two.clone());
        let once = lab.object.clone();
        lab.apply("me", two);
        assert_eq!(lab.object, once, "seed {seed}");
    }
}

#[test]
fn the_only_applier_has_exactly_what_it_applied() {
    for seed in 0..TRIES {
        let mut rng = StdRng::seed_from_u64(seed);
        let (first, last) = (config(&mut rng), config(&mut rng));
        let mut lab = Lab::new(schema());
        lab.apply("me", first).apply("me", last.clone());
        let after = lab.object.clone().unwrap();
        let mut fresh = Lab::new(schema());
        fresh.apply("me", last);
        assert_eq!(
            without_empty(&after),
            without_empty(&fresh.object.clone().unwrap()),
            "seed {seed}"
        );
        assert_eq!(owned(&lab, "me"), owned(&fresh, "me"), "seed {seed}");
    }
}

#[test]
fn a_forced_configuration_is_in_the_object() {
    for seed in 0..TRIES {
        let mut rng = StdRng::seed_from_u64(seed);
        let (one, two) = (config(&mut rng), config(&mut rng));
        let mut lab = Lab::new(schema());
        lab.update("other", one).force("me", two.clone());
        let object = lab.object.clone().unwrap();
        assert!(contains(&object, &two), "seed {seed}: {two} in {object}");
    }
}

#[test]
fn an_update_that_changes_nothing_changes_no_owner() {
    for seed in 0..TRIES {
        let mut rng = StdRng::seed_from_u64(seed);
        let applied = config(&mut rng);
        let mut lab = Lab::new(schema());
        lab.apply("applier", applied.clone());
        let before = lab.object.clone().unwrap();
        lab.update("updater", applied);
        let after = lab.object.clone().unwrap();
        assert_eq!(without_empty(&after), without_empty(&before), "seed {seed}");
        assert_eq!(entry::stored(&after), entry::stored(&before), "seed {seed}");
    }
}

/// Whether every leaf of `part` is in `whole`; elements of lists anywhere.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part))),
        (Value::Array(whole), Value::Array(part)) => part
            .iter()
            .all(|part| whole.iter().any(|whole| contains(whole, part))),
        (whole, part) => whole == part,
    }
}

/// Without managers, and without containers that hold nothing.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(key, _)| *key != "metadata")
            .map(|(key, value)| (key.clone(), without_empty(value)))
            .filter(|(_, value)| *value != json!({}) && *value != json!([]))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(without_empty).collect(),
        other => other.clone(),
    }
}
