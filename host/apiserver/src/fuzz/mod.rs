//! Every parser of what clients send, as one function of bytes: it must not panic, and what it takes
//! must have the properties named here.
//!
//! A test tries each with inputs made from seeds by a deterministic generator ([`generator`]), a few
//! on every run and as many as `EYOT_FUZZ_ROUNDS` says (`make fuzz`), of one target if `EYOT_FUZZ_TARGET`
//! names it. The folder `fuzz` has a target of cargo-fuzz for each, which calls the same functions.

#![expect(
    clippy::expect_used,
    reason = "a parser that does not keep its word ends the run"
)]

#[cfg(test)]
mod generator;
mod seeds;

use bytes::Bytes;
use eyot_store::Pairs;
use serde_json::{Value, json};

use crate::{
    cel,
    jsonpath::JsonPath,
    kinds, managed,
    pages::Token,
    patch,
    path::Route,
    protobuf,
    quantity::Quantity,
    query::Query,
    reading,
    resource::Resource,
    schema,
    selector::{FieldSelector, LabelSelector},
};

/// A parser under test: its name, what it does with bytes, and what good inputs look like.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    seeds: &'static [&'static str],
}

const TARGETS: [Target; 15] = [
    Target {
        name: "json",
        run: json_body,
        seeds: seeds::OBJECTS,
    },
    Target {
        name: "yaml",
        run: yaml_body,
        seeds: seeds::YAML,
    },
    Target {
        name: "protobuf",
        run: protobuf_body,
        seeds: seeds::OBJECTS,
    },
    Target {
        name: "json patch",
        run: json_patch,
        seeds: seeds::JSON_PATCHES,
    },
    Target {
        name: "merge patch",
        run: merge_patch,
        seeds: seeds::OBJECTS,
    },
    Target {
        name: "strategic merge patch",
        run: strategic_patch,
        seeds: seeds::STRATEGIC,
    },
    Target {
        name: "label selector",
        run: label_selector,
        seeds: seeds::SELECTORS,
    },
    Target {
        name: "field selector",
        run: field_selector,
        seeds: seeds::SELECTORS,
    },
    Target {
        name: "CEL",
        run: expression,
        seeds: seeds::CEL,
    },
    Target {
        name: "JSONPath",
        run: json_path,
        seeds: seeds::JSON_PATHS,
    },
    Target {
        name: "quantity",
        run: quantity,
        seeds: seeds::QUANTITIES,
    },
    Target {
        name: "continue token",
        run: continue_token,
        seeds: seeds::TOKENS,
    },
    Target {
        name: "schema",
        run: definition,
        seeds: seeds::SCHEMAS,
    },
    Target {
        name: "managed fields",
        run: managed_fields,
        seeds: seeds::MANAGED,
    },
    Target {
        name: "path and query",
        run: query,
        seeds: seeds::QUERIES,
    },
];

/// Give an input to the parser of this name. Panics if the parser does not keep its word, and if
/// there is none of that name.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a parser of that name").run)(input);
}

/// The names of all parsers, and what good inputs of each look like.
pub fn targets() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    TARGETS.iter().map(|target| (target.name, target.seeds))
}

fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

fn value(input: &[u8]) -> Option<Value> {
    serde_json::from_slice(input).ok()
}

/// What was read is read again as the same; remarks are bounded.
fn json_body(input: &[u8]) {
    let body = Bytes::copy_from_slice(input);
    for whole in [true, false] {
        let Ok((value, notes)) = reading::json(&body, whole) else {
            continue;
        };
        let unknown = ["spec.a".to_owned(), "metadata.labels[0].x".to_owned()];
        assert!(notes.remarks(&unknown).len() <= 1000);
        notes.sentence(&unknown);
        let again = Bytes::from(value.to_string());
        let (second, notes) = reading::json(&again, whole).expect("JSON of ours");
        assert!(notes.is_empty());
        assert!(same(&value, &second), "{value} {second}");
    }
}

/// The same but for the last place of numbers with more digits than a double has: serde_json reads
/// those a little off unless it is built to take its time.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (
                a.as_f64().unwrap_or_default(),
                b.as_f64().unwrap_or_default(),
            );
            (a - b).abs() <= a.abs() * 4.0 * f64::EPSILON
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => one == other,
    }
}

fn yaml_body(input: &[u8]) {
    if let Ok((value, notes)) = reading::yaml(input) {
        notes.sentence(&[]);
        // Aliases must not make much of little.
        assert!(value.to_string().len() <= 64 * input.len().max(1 << 16));
    }
}

/// Bytes as they are, and the message that is made from JSON.
fn protobuf_body(input: &[u8]) {
    let mut bodies = vec![input.to_vec(), [b"k8s\0", input].concat()];
    bodies.extend(value(input).and_then(|value| protobuf::encode(&value)));
    for body in bodies {
        if let Ok(decoded) = protobuf::decode(&body)
            && let Some(written) = protobuf::encode(&decoded.value)
        {
            protobuf::decode(&written).expect("protobuf of ours");
        }
    }
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "labels": {"a": "b"}, "finalizers": ["x/y"]},
        "spec": {
            "containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 80}]}, {"name": "d"}],
            "volumes": [{"name": "v", "emptyDir": {}}], "nodeName": "n",
        },
    })
}

/// The result is never much larger than the patch and what it changes.
fn json_patch(input: &[u8]) {
    if let Some(patch) = value(input)
        && let Ok(patched) = patch::json(&pod(), &patch)
    {
        assert!(patched.to_string().len() <= (8 << 20) + 8 * input.len());
    }
}

/// RFC 7386: applying a patch twice is applying it once.
fn merge_patch(input: &[u8]) {
    if let Some(patch) = value(input)
        && let Ok(once) = patch::merge(&pod(), &patch)
    {
        assert_eq!(patch::merge(&once, &patch).as_ref(), Ok(&once));
    }
}

fn strategic_patch(input: &[u8]) {
    if let Some(patch) = value(input) {
        for current in [pod(), patch.clone()] {
            for (group, kind) in [("", "Pod"), ("apps", "Deployment"), ("", "Service")] {
                let _ = patch::strategic(group, kind, &current, &patch);
            }
        }
    }
}

fn label_selector(input: &[u8]) {
    let text = text(input);
    let labels = json!({"a": "b", "tier": "web", "n": "5"});
    let parsed = [
        LabelSelector::parse(&text),
        LabelSelector::from_json(&value(input).unwrap_or_default()),
    ];
    for selector in parsed.into_iter().flatten() {
        let matches = selector.matches_json(&labels);
        // The two ways to ask agree.
        let pairs = [("a", "b"), ("tier", "web"), ("n", "5")];
        let pairs: Pairs = pairs.into_iter().collect();
        assert_eq!(selector.matches(&pairs), matches, "{text}");
    }
}

fn field_selector(input: &[u8]) {
    let supported = ["metadata.name", "status.phase"];
    if let Ok(selector) = FieldSelector::parse(&text(input), &supported) {
        let pairs: Pairs = [("metadata.name", "a")].into_iter().collect();
        selector.matches(&pairs);
        selector.exact("metadata.name");
    }
}

/// Compiled, estimated and run within its budget.
fn expression(input: &[u8]) {
    let env = cel::Env::new()
        .variable("self", cel::Type::Dyn)
        .variable("n", cel::Type::Int)
        .variable("s", cel::Type::String);
    let data = json!({
        "self": {"a": 1, "list": [3, 1, 2], "text": "h\u{e9}llo", "f": 1.5, "null": null},
        "n": 7, "s": "word",
    });
    let Ok(program) = cel::Program::compile(&text(input), &env) else {
        return;
    };
    let (dynamic, int, string) = (cel::Type::Dyn, cel::Type::Int, cel::Type::String);
    let bindings = cel::Bindings::new()
        .set("self", cel::typed(&data["self"], &dynamic))
        .set("n", cel::typed(&data["n"], &int))
        .set("s", cel::typed(&data["s"], &string));
    let _ = program.eval(&bindings, &mut cel::Budget::new(cel::PER_OBJECT));
}

fn json_path(input: &[u8]) {
    if let Ok(path) = JsonPath::parse(&text(input)) {
        let pod = pod();
        assert!(path.eval(&pod).len() <= 1 << 20);
        path.fields();
    }
}

/// What is printed is read as the same.
fn quantity(input: &[u8]) {
    if let Ok(quantity) = text(input).parse::<Quantity>() {
        let printed = quantity.to_string();
        assert_eq!(printed.parse::<Quantity>().as_ref(), Ok(&quantity));
        let _ = (quantity.nano(), quantity.milli(), quantity.as_float());
        let _ = quantity.join(Quantity::whole(i64::MAX)).rounded_up();
        let _ = quantity.minus(Quantity::whole(i64::MIN)).to_string();
    }
}

fn continue_token(input: &[u8]) {
    let packed = {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        URL_SAFE_NO_PAD.encode(input)
    };
    for text in [text(input), packed] {
        if let Ok(token) = Token::decode(&text) {
            Token::decode(&token.encode()).expect("a token of ours");
        }
    }
}

/// A schema that is accepted judges, prunes and fills in any object.
fn definition(input: &[u8]) {
    let Some(schema) = value(input) else { return };
    let context = schema::definition::Context::default();
    let errors = schema::definition::check(&schema, "spec.versions[0].schema", context);
    // What is not acceptable may be stored by an earlier version, so it must do no harm either.
    let parsed = schema::Schema::parse(&schema);
    for mut object in [pod(), schema.clone()] {
        parsed.default(&mut object);
        let pruned = parsed.prune(&mut object);
        parsed.validate(&object, Some(&pod()));
        if errors.is_empty() && !pruned.is_empty() {
            assert!(parsed.prune(&mut object).is_empty(), "pruning twice");
        }
    }
}

/// What clients send as `managedFields` is read or refused; what is kept of it carries updates and
/// applies, and applying once more changes nothing.
fn managed_fields(input: &[u8]) {
    let Some(sent) = value(input) else { return };
    let spec = kinds::all().iter().find(|spec| spec.kind == "Pod");
    let resource = Resource::builtin(spec.expect("pods"));
    let none = |_: &str| None;
    let now = jiff::Timestamp::UNIX_EPOCH;
    let write =
        managed::Write::new(&resource, "", "fuzz", &none, now).expect("a type of the table");
    let mut object = pod();
    object["metadata"]["managedFields"] = match &sent {
        Value::Object(_) => json!([{
            "manager": "other", "operation": "Apply", "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": sent,
        }]),
        _ => sent,
    };
    managed::update(&write, None, &mut object, false);
    let mut changed = object.clone();
    changed["spec"]["containers"][0]["image"] = json!("y");
    managed::update(&write, Some(&object), &mut changed, false);
    let mut config = pod();
    config["apiVersion"] = json!("v1");
    let Ok(once) = managed::apply(&write, Some(&changed), &config, true) else {
        return;
    };
    let twice = managed::apply(&write, Some(&once), &config, false);
    assert_eq!(twice.ok().as_ref(), Some(&once));
}

fn query(input: &[u8]) {
    let text = text(input);
    let (path, rest) = text.split_once('?').unwrap_or((&text, ""));
    let _ = Route::parse(path);
    if let Ok(query) = Query::parse(Some(rest)) {
        let _ = query.check_list();
        let _ = query.check_write("PatchOptions", true);
        let _ = query.revision();
        let _ = query.watch_revision("", "pods");
    }
}

#[test]
fn no_parser_panics_and_each_keeps_its_word() {
    let rounds = std::env::var("EYOT_FUZZ_ROUNDS").ok();
    let rounds = rounds
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(1500);
    let only = std::env::var("EYOT_FUZZ_TARGET").ok();
    let chosen = |name: &str| only.as_deref().is_none_or(|only| only == name);
    for target in TARGETS.iter().filter(|target| chosen(target.name)) {
        eprintln!("fuzz {}: {rounds} inputs", target.name);
        generator::run(target, rounds);
    }
}

/// Each parser has its target of cargo-fuzz.
#[test]
fn every_parser_can_be_fuzzed_guided() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
    for target in &TARGETS {
        let file = target.name.to_lowercase().replace(' ', "_");
        let source = std::fs::read_to_string(folder.join(format!("targets/{file}.rs")));
        let call = format!("fuzz::run({:?}, input)", target.name);
        assert!(source.expect("a file").contains(&call), "{file}");
        assert!(manifest.contains(&format!("name = {file:?}")), "{file}");
    }
}
