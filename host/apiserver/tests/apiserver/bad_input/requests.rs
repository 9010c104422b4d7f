//! Whole requests with bodies made at random: whatever comes in, the answer is JSON, no bug, and the
//! objects stay in order.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{bytes, get, ok, raw, server};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [
                        {"name": "c", "image": "x", "ports": [{"containerPort": 80}],
                         "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
                        {"name": "d", "image": "y"},
                    ],
                    "volumes": [{"name": "v", "emptyDir": {}}],
                },
            },
        },
    })
}

/// Change one place of a value: leave it out, or put another there.
fn bend(rng: &mut StdRng, value: &mut Value) {
    let deeper = rng.random_bool(0.8);
    match value {
        Value::Object(fields) if deeper && !fields.is_empty() => {
            let at = rng.random_range(0..fields.len());
            if let Some((_, child)) = fields.iter_mut().nth(at) {
                bend(rng, child);
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = rng.random_range(0..items.len());
            match rng.random_range(0..6) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => bend(rng, &mut items[at]),
            }
        }
        Value::Object(fields) if rng.random_bool(0.5) => {
            let names = [
                "name",
                "x",
                "$patch",
                "$retainKeys",
                "image",
                "metadata",
                "",
            ];
            let name = names[rng.random_range(0..names.len())].to_owned();
            let odd = json!(["delete", "replace", null, 1, {}, []]);
            fields.insert(name, odd[rng.random_range(0..6)].clone());
        }
        other => {
            let odd = json!([null, 1, -1, "s", "", {}, [], [null], {"name": "c"}, 1.5, true, "80"]);
            *other = odd[rng.random_range(0..12)].clone();
        }
    }
}

#[tokio::test]
async fn no_body_breaks_the_server_and_applying_twice_is_applying_once() {
    let server = server().await;
    let mut rng = StdRng::seed_from_u64(7);
    let path = format!("{DEPLOYMENTS}/web");
    let rounds = std::env::var("EYOT_FUZZ_ROUNDS").ok();
    let rounds = rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(400);
    let mut taken = 0;
    for round in 0..rounds {
        if get(&server, &path).await.0 == 404 {
            ok(&server, "POST", DEPLOYMENTS, deployment()).await;
        }
        let mut body = deployment();
        for _ in 0..rng.random_range(0..4) {
            bend(&mut rng, &mut body);
        }
        let manager = ["one", "two", "three"][rng.random_range(0..3)];
        let (method, media, query) = match rng.random_range(0..5) {
            0 => ("PUT", "application/json", ""),
            1 => ("PATCH", "application/merge-patch+json", ""),
            2 => ("PATCH", "application/strategic-merge-patch+json", ""),
            _ => ("PATCH", "application/apply-patch+yaml", "&force=true"),
        };
        let path = format!("{path}?fieldManager={manager}{query}");
        let headers = [("content-type", media)];
        let send = async || {
            let response = raw(&server, method, &path, &headers, body.to_string()).await;
            let code = response.status().as_u16();
            let answer = bytes(response).await;
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            (code, answer)
        };
        let (code, answer) = send().await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(!message.contains("hit a bug"), "{round}: {media} {body}");
        if code >= 300 {
            assert_eq!(answer["kind"], "Status", "{round}: {media} {body}");
            continue;
        }
        taken += 1;
        entries_are_in_order(&answer);
        // The same again changes nothing, not even the revision.
        if media.starts_with("application/apply") {
            let (code, second) = send().await;
            assert_eq!(code, 200, "{round}: {body}");
            assert_eq!(answer, second, "{round}: {body}");
        }
    }
    assert!(taken > rounds / 10, "only {taken} of {rounds} were taken");
}

/// One entry a manager, operation and subresource.
fn entries_are_in_order(object: &Value) {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for entry in entries {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let time = match text("operation").as_str() {
            // Updates of different versions are apart.
            "Update" => text("apiVersion"),
            _ => String::new(),
        };
        let key = (
            text("manager"),
            text("operation"),
            text("subresource"),
            time,
        );
        assert!(seen.insert(key), "{object}");
        assert_eq!(entry["fieldsType"], "FieldsV1");
        assert!(
            entry["fieldsV1"]
                .as_object()
                .is_some_and(|fields| !fields.is_empty())
        );
    }
}
