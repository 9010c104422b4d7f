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

/// Members that differ from run to run, or that are not kept yet (managed fields).
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
    "serverAddressByClientCIDRs",
];

/// Conversations whose answers differ, and why that is right or not yet done.
const KNOWN: &[(&str, &str)] = &[];

fn shared() -> Option<PathBuf> {
    let root = std::env::var_os("EYOT_SHARED").map(PathBuf::from)?;
    let conversations = root.join("facts/kubernetes-golden/conversations");
    conversations.is_dir().then_some(conversations)
}

fn normalise(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(key, value)| !VOLATILE.contains(&key.as_str()) && !value.is_null())
            .map(|(key, value)| (key.clone(), normalise(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(normalise).collect(),
        other => other.clone(),
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

async fn replay(server: &ApiServer, conversation: &Value) -> Vec<String> {
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
    let answer = raw(server, text("method"), text("path"), &headers, body).await;
    let code = answer.status().as_u16();
    let bytes = bytes(answer).await;
    let ours: Value =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
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
        let server = server().await;
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
            let found = replay(&server, conversation).await;
            let name = format!("{file}: {note}");
            match (
                found.is_empty(),
                KNOWN.iter().any(|(known, _)| *known == name),
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
