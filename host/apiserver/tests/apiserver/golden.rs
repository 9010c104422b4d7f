//! The same conversations as with a real Kubernetes API server, compared answer by answer.
//!
//! The conversations lie outside of the repository, under `EYOT_SHARED`; without it this is
//! skipped. What differs on purpose is listed here with its reason, and nothing else may differ.

use std::path::PathBuf;

use eyot_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::{bytes, ok, raw, server};

/// Kinds that are not served yet: their conversations are left out.
const SERVED: [&str; 13] = [
    "namespaces",
    "nodes",
    "leases",
    "pods",
    "deployments",
    "replicasets",
    "configmaps",
    "secrets",
    "services",
    "events",
    "serviceaccounts",
    "customresourcedefinitions",
    "widgets",
];

/// Members that differ from run to run, that are not kept yet (managed fields), or that are prose
/// of our own (descriptions of columns).
const VOLATILE: [&str; 10] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "managedFields",
    "deletionTimestamp",
    "continue",
    "clusterIP",
    "clusterIPs",
    "lastTransitionTime",
    "description",
];

/// Conversations whose answers differ, and why that is right or not yet done. A prefix is enough.
const KNOWN: &[(&str, &str)] = &[
    ("life: server-side apply", "later issue"),
    ("life: apply ", "server-side apply: later issue"),
    ("life: forced", "server-side apply: later issue"),
    ("life: first manager", "server-side apply: later issue"),
    (
        "life: list ",
        "the real server keeps ConfigMaps of its own in each namespace",
    ),
    (
        "life: Table",
        "the real server keeps ConfigMaps of its own in each namespace",
    ),
    ("life: watch from", "text of a stream, compared elsewhere"),
    (
        "life: streaming list",
        "text of a stream, compared elsewhere",
    ),
    (
        "life: unacceptable",
        "this server offers JSON only, and says so",
    ),
    ("life: patch that is not JSON", "the parser's own words"),
    (
        "life: no new finalizers",
        "the real server repeats the same cause",
    ),
];

fn shared() -> Option<PathBuf> {
    let root = std::env::var_os("EYOT_SHARED").map(PathBuf::from)?;
    let conversations = root.join("facts/kubernetes-golden/conversations");
    conversations.is_dir().then_some(conversations)
}

/// What can be compared of an answer.
fn normalise(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut map: serde_json::Map<_, _> = map
                .iter()
                .filter(|(key, value)| !VOLATILE.contains(&key.as_str()) && !value.is_null())
                .map(|(key, value)| (key.clone(), normalise(value)))
                .collect();
            // Items of lists may or may not repeat their type.
            if let Some(Value::Array(items)) = map.get_mut("items") {
                for item in items.iter_mut().filter_map(Value::as_object_mut) {
                    item.remove("apiVersion");
                    item.remove("kind");
                }
            }
            // Tokens of service accounts are mounted by an admission plug-in that is not here yet.
            for key in ["volumes", "volumeMounts"] {
                if let Some(Value::Array(items)) = map.get_mut(key) {
                    let token = |i: &Value| {
                        i["name"]
                            .as_str()
                            .is_some_and(|n| n.starts_with("kube-api-access-"))
                    };
                    items.retain(|item| !token(item));
                    if items.is_empty() {
                        map.remove(key);
                    }
                }
            }
            // Set by controllers, which do not run beside this test.
            if map
                .get("conditions")
                .is_some_and(|c| c.to_string().contains("PodScheduled"))
            {
                map.remove("conditions");
            }
            map.into()
        }
        Value::Array(items) => items.iter().map(normalise).collect(),
        Value::String(text) => {
            let text = text.split(" in scheme \"").next().unwrap_or_default();
            json!(text)
        }
        other => other.clone(),
    }
}

/// What stands for what: uids, revisions, generated names and tokens of theirs, and ours.
#[derive(Default)]
struct Names(Vec<(String, String)>);

impl Names {
    /// Learn from two answers that say the same.
    fn learn(&mut self, ours: &Value, theirs: &Value) {
        for (path, quoted) in [
            ("/metadata/uid", false),
            ("/metadata/continue", false),
            ("/metadata/resourceVersion", true),
            ("/metadata/name", true),
        ] {
            let text = |value: &Value| {
                value
                    .pointer(path)
                    .and_then(Value::as_str)
                    .map(str::to_owned)
            };
            if let (Some(ours), Some(theirs)) = (text(ours), text(theirs))
                && ours != theirs
            {
                let quote = |text: String| if quoted { format!("\"{text}\"") } else { text };
                self.0.push((quote(theirs), quote(ours)));
            }
        }
    }

    fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (theirs, ours) in self.0.iter().rev() {
            text = text.replace(theirs, ours);
        }
        text
    }
}

/// The first few paths at which two answers differ.
fn differences(path: &str, ours: &Value, theirs: &Value, into: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let (a, b) = (
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                );
                differences(&format!("{path}.{key}"), a, b, into);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), a, b, into);
            }
        }
        (a, b) if a != b => into.push(format!("{path}: ours {a}, theirs {b}")),
        _ => {}
    }
}

async fn replay(server: &ApiServer, names: &mut Names, conversation: &Value) -> Vec<String> {
    let request = &conversation["request"];
    let text = |key: &str| request[key].as_str().unwrap_or_default();
    let mut headers = Vec::new();
    for (header, key) in [("content-type", "contentType"), ("accept", "accept")] {
        if !text(key).is_empty() {
            headers.push((header, text(key)));
        }
    }
    let body = match &request["body"] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let (path, body) = (names.apply(text("path")), names.apply(&body));
    let mut method = text("method");
    // The later conversations of that file are about an object that was made by apply.
    if conversation["note"] == "server-side apply creates" {
        method = "POST";
        headers[0].1 = "application/json";
    }
    let path = if method == "POST" {
        path.replace("/deployments/s?", "/deployments?")
    } else {
        path
    };
    let answer = raw(server, method, &path, &headers, body).await;
    let code = answer.status().as_u16();
    let bytes = bytes(answer).await;
    let ours: Value =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
    let theirs = names.apply(&conversation["response"].to_string());
    let theirs: Value = serde_json::from_str(&theirs).unwrap();
    names.learn(&ours, &conversation["response"]);
    let mut found = Vec::new();
    if json!(code) != conversation["status"] {
        found.push(format!(
            "code: ours {code}, theirs {}",
            conversation["status"]
        ));
    }
    differences(
        "",
        &normalise(&ours),
        &normalise(&conversation["response"]),
        &mut found,
    );
    found
}

#[tokio::test]
async fn answers_are_those_of_kubernetes() {
    let Some(conversations) = shared() else {
        eprintln!("SKIPPED answers_are_those_of_kubernetes: EYOT_SHARED does not lead to them");
        return;
    };
    let (mut same, mut known, mut report) = (0, 0, Vec::new());
    for file in [
        "defaults",
        "validation-generic",
        "validation-specific",
        "custom-resources",
        "life",
    ] {
        let (server, mut names) = (server().await, Names::default());
        let golden =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "golden"}});
        if file != "defaults" {
            ok(&server, "POST", "/api/v1/namespaces", golden).await;
        }
        let text = std::fs::read_to_string(conversations.join(format!("{file}.json"))).unwrap();
        let all: Vec<Value> = serde_json::from_str(&text).unwrap();
        for conversation in &all {
            let path = conversation["request"]["path"].as_str().unwrap_or_default();
            let path = path.split('?').next().unwrap_or_default();
            let about = |kind: &&str| path.split('/').any(|segment| segment == *kind);
            if !SERVED.iter().skip(1).any(|kind| about(&kind)) && !path.ends_with("/namespaces") {
                continue;
            }
            let note = conversation["note"].as_str().unwrap_or_default();
            let found = replay(&server, &mut names, conversation).await;
            let name = format!("{file}: {note}");
            match (
                found.is_empty(),
                KNOWN.iter().any(|(known, _)| name.starts_with(known)),
            ) {
                (true, _) => same += 1,
                (false, true) => known += 1,
                (false, false) => report.push(format!("{name}\n    {}", found.join("\n    "))),
            }
        }
    }
    eprintln!(
        "{same} answers are the same, {known} differ as listed, {} differ",
        report.len()
    );
    assert!(report.is_empty(), "\n{}", report.join("\n"));
}
