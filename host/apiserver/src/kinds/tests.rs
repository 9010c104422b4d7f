//! The built-in kinds against request/answer pairs of a real server, where those are at hand
//! (`EYOT_SHARED`), and against the cases that matter most, always.

use serde_json::{Value, json};

use super::{KindSpec, all};

fn spec(api_version: &str, kind: &str) -> Option<&'static KindSpec> {
    all().iter().find(|spec| spec.api_version() == api_version && spec.kind == kind)
}

/// What a create makes of a body: the stored object, or the error message.
fn create(body: &Value) -> Result<Value, String> {
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    let spec = spec(text("apiVersion"), text("kind")).ok_or("unknown kind")?;
    let mut object = body.clone();
    let unknown = (spec.decode)(&mut object).map_err(|error| error.message)?;
    if let Some(first) = unknown.first() {
        return Err(format!("strict decoding error: {first}"));
    }
    (spec.prepare)(&mut object, None);
    if spec.namespaced && object["metadata"].is_object() {
        object["metadata"]["namespace"] = json!("golden");
    }
    (spec.default)(&mut object);
    (spec.prepare)(&mut object, None);
    (spec.default)(&mut object);
    let errors = (spec.validate)(&object, None);
    match errors.as_slice() {
        [] => Ok(object),
        [one] => Err(one.to_string()),
        more => {
            let more: Vec<String> = more.iter().map(ToString::to_string).collect();
            Err(format!("[{}]", more.join(", ")))
        }
    }
}

/// What differs from run to run, or is not this module's work.
fn normalised(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for name in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"] {
            metadata.remove(name);
        }
    }
    // The token volume of service accounts and the addresses of services are the server's work.
    let pod = object["kind"] == "Pod";
    if let Some(spec) = object["spec"].as_object_mut() {
        for name in ["clusterIP", "clusterIPs"] {
            if spec.get(name).is_some_and(|value| !value.to_string().contains("None")) {
                spec.remove(name);
            }
        }
        spec.remove("taints");
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            port.as_object_mut().map(|port| port.remove("nodePort"));
        }
        let token = |value: &Value| {
            value["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access"))
        };
        for group in ["containers", "initContainers"] {
            for one in spec.get_mut(group).and_then(Value::as_array_mut).into_iter().flatten() {
                without(one, "volumeMounts", token);
            }
        }
        if pod {
            let mut holder = Value::Object(spec.clone());
            without(&mut holder, "volumes", token);
            if let Value::Object(map) = holder {
                *spec = map;
            }
        }
    }
    object
}

fn without(object: &mut Value, list: &str, unwanted: impl Fn(&Value) -> bool) {
    if let Some(items) = object.get_mut(list).and_then(Value::as_array_mut) {
        items.retain(|item| !unwanted(item));
        if items.is_empty() {
            object.as_object_mut().map(|map| map.remove(list));
        }
    }
}

/// The lists of errors of a map come in the map's order, which Go leaves to chance.
fn sorted(message: &str) -> Vec<String> {
    let inner = message.strip_prefix('[').and_then(|one| one.strip_suffix(']')).unwrap_or(message);
    let mut parts: Vec<String> = inner.split(", ").map(str::to_owned).collect();
    parts.sort();
    parts
}

/// Where this server knowingly answers otherwise: the note's end, and why.
const DIFFERENT: &[(&str, &str)] = &[
    ("namespace mismatch", "the machinery compares body and path"),
    ("wrong kind", "the machinery compares body and path"),
    ("wrong apiVersion", "the machinery compares body and path"),
    ("customresourcedefinitions: empty spec", "shows null versions as Go does"),
    ("CRD two storage versions", "prints Go's own field names"),
    ("CRD bad CEL", "rules are a later work"),
    ("deployment: bad percent", "maxUnavailable 0 is defaulted in another order"),
    ("service: clusterIP out of range", "addresses are given by the machinery"),
    ("pod: unknown priority class", "admission"),
    ("pod: unknown service account", "admission"),
    ("pod: unknown runtime class", "admission"),
    ("minimal pods, dry run: the answer shows every default", "needs a service account there"),
];

#[test]
fn creates_answer_as_a_real_server() {
    let Ok(shared) = std::env::var("EYOT_SHARED") else {
        eprintln!("SKIPPED creates_answer_as_a_real_server: EYOT_SHARED names no folder of facts");
        return;
    };
    let mut failures = Vec::new();
    let mut compared = 0;
    for file in ["defaults", "validation-generic", "validation-specific", "custom-resources", "life"] {
        let path = format!("{shared}/facts/kubernetes-golden/conversations/{file}.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let pairs: Vec<Value> = serde_json::from_str(&text).unwrap();
        for pair in pairs {
            let (request, note) = (&pair["request"], pair["note"].as_str().unwrap_or_default());
            let body = &request["body"];
            let known = body["apiVersion"].as_str().zip(body["kind"].as_str());
            let lenient = note.contains("Warn") || !request["path"].to_string().contains("Strict");
            if request["method"] != "POST"
                || known.is_none_or(|(version, kind)| spec(version, kind).is_none())
                || DIFFERENT.iter().any(|(end, _)| note.ends_with(end))
                || (lenient && file != "custom-resources" && note != "pod with finalizer")
            {
                continue;
            }
            compared += 1;
            let answer = &pair["response"];
            match (create(body), pair["status"].as_i64()) {
                (Ok(object), Some(201)) => {
                    let (ours, theirs) = (normalised(object), normalised(answer.clone()));
                    if ours != theirs {
                        failures.push(format!("{note}\n  ours   {ours}\n  theirs {theirs}"));
                    }
                }
                (Ok(_), _) => failures.push(format!("{note}: accepted, but {}", answer["message"])),
                (Err(message), Some(201)) => failures.push(format!("{note}: refused: {message}")),
                (Err(message), _) => {
                    let full = answer["message"].as_str().unwrap_or_default();
                    let theirs = full
                        .split_once(" is invalid: ")
                        .or_else(|| full.split_once(" cannot be handled as a "))
                        .map_or(full, |(_, rest)| rest);
                    let kind = body["kind"].as_str().unwrap_or_default();
                    let theirs = theirs.strip_prefix(&format!("{kind}: ")).unwrap_or(theirs);
                    if sorted(&message) != sorted(theirs) {
                        failures.push(format!("{note}\n  ours   {message}\n  theirs {theirs}"));
                    }
                }
            }
        }
    }
    eprintln!("compared {compared}");
    assert!(failures.is_empty(), "{} differ\n{}", failures.len(), failures.join("\n"));
    assert!(compared > 100, "{compared}");
}
