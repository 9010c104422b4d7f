//! The same conversations as with a real Kubernetes API server, compared answer by answer.
//!
//! The conversations lie outside of the repository, under `EYOT_SHARED`; without it this is
//! skipped. What differs on purpose is listed here with its reason, and nothing else may differ.

use std::path::PathBuf;

use eyot_apiserver::{ApiServer, Options, ServiceRanges};
use serde_json::{Value, json};

use crate::{account, bytes, ok, raw, server_with};

/// Kinds that are not served yet: their conversations are left out.
const SERVED: &[&str] = &[
    "namespaces",
    "nodes",
    "leases",
    "pods",
    "deployments",
    "replicasets",
    "statefulsets",
    "daemonsets",
    "controllerrevisions",
    "jobs",
    "cronjobs",
    "poddisruptionbudgets",
    "replicationcontrollers",
    "podtemplates",
    "priorityclasses",
    "runtimeclasses",
    "configmaps",
    "secrets",
    "services",
    "events",
    "serviceaccounts",
    "customresourcedefinitions",
    "widgets",
    "horizontalpodautoscalers",
    "endpoints",
    "endpointslices",
    "ingressclasses",
    "ingresses",
    "ipaddresses",
    "limitranges",
    "networkpolicies",
    "persistentvolumeclaims",
    "persistentvolumes",
    "resourcequotas",
    "servicecidrs",
    "certificatesigningrequests",
    "clusterrolebindings",
    "clusterroles",
    "csidrivers",
    "csinodes",
    "csistoragecapacities",
    "rolebindings",
    "roles",
    "storageclasses",
    "volumeattachments",
    "volumeattributesclasses",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
    "flowschemas",
    "prioritylevelconfigurations",
];

/// Members that differ from run to run, or that are prose of our own (descriptions of columns).
const VOLATILE: &[&str] = &[
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "time",
    "deletionTimestamp",
    "continue",
    "lastTransitionTime",
    "lastPhaseTransitionTime",
    "description",
];

/// Conversations whose answers differ, by the start of their name; the paths in which they may
/// (none: in all); and why that is right, or not yet done.
const KNOWN: &[(&str, &[&str], &str)] = &[
    (
        "life: first manager",
        WITHOUT_CONTROLLERS,
        "a controller had worked on the object",
    ),
    (
        "life: strategic merge",
        WITHOUT_CONTROLLERS,
        "a controller had worked on the object",
    ),
    (
        "life: scale",
        WITHOUT_CONTROLLERS,
        "a controller had worked on the object",
    ),
    (
        "life: status patch",
        WITHOUT_CONTROLLERS,
        "a controller had worked on the object",
    ),
    (
        "life: foreground delete",
        &[
            ".metadata.annotations",
            ".metadata.managedFields",
            ".metadata.generation",
            ".status",
        ],
        "a controller had worked on the object",
    ),
    ("life: generateName", &[".metadata.name"], "random"),
    (
        "life: list",
        &[],
        "the real server keeps ConfigMaps of its own in each namespace",
    ),
    ("life: continue", &[], "the token of a list that differs"),
    (
        "life: Table",
        &[],
        "the real server keeps ConfigMaps of its own in each namespace",
    ),
    (
        "life: deletecollection",
        &[".items"],
        "the objects that the lists differ in",
    ),
    (
        "life: watch from",
        &[],
        "text of a stream, compared elsewhere",
    ),
    (
        "life: streaming list",
        &[],
        "text of a stream, compared elsewhere",
    ),
    (
        "life: replace with wrong uid",
        &[".message"],
        "without the storage's internals",
    ),
    (
        "life: delete with wrong uid",
        &[".message"],
        "the uid itself",
    ),
    (
        "life: no new finalizers",
        &[".details.causes"],
        "the real server repeats the same cause",
    ),
    (
        "validation-generic: pods: invalid labels",
        &[".details", ".message"],
        "order of a Go map",
    ),
    (
        "validation-generic: daemonsets: invalid labels",
        &[".details", ".message"],
        "order of a Go map",
    ),
    (
        "validation-generic: roles: invalid labels",
        &[".details", ".message"],
        "order of a Go map",
    ),
    (
        "validation-generic: clusterroles: invalid labels",
        &[".details", ".message"],
        "order of a Go map",
    ),
    (
        "validation-generic: limitranges: no name",
        &[".metadata.name"],
        "random",
    ),
];

/// What differs because controllers had worked on the object.
const WITHOUT_CONTROLLERS: &[&str] = &[".metadata.annotations", ".status"];

/// Whether a difference is listed.
fn is_known(name: &str, difference: &str) -> bool {
    let listed = |paths: &[&str]| paths.iter().any(|path| difference.starts_with(path));
    KNOWN
        .iter()
        .any(|(known, paths, _)| name.starts_with(known) && (paths.is_empty() || listed(paths)))
}

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
            // The volume of a pod's token has a name that ends at random; and the recorded server
            // belongs to a distribution that adds an authority of its own to it.
            if let Some(Value::String(name)) = map.get_mut("name")
                && name.starts_with("kube-api-access-")
            {
                *name = "kube-api-access-".to_owned();
            }
            if let Some(Value::Array(sources)) = map.get_mut("sources") {
                sources.retain(|s| s["configMap"]["name"] != "openshift-service-ca.crt");
            }
            // What controllers wrote, which do not run beside this test.
            if let Some(Value::Array(entries)) = map.get_mut("managedFields") {
                entries.retain(|entry| {
                    let manager = entry["manager"].as_str().unwrap_or_default();
                    !matches!(manager, "kube-controller-manager" | "kube-scheduler")
                });
                if entries.is_empty() {
                    map.remove("managedFields");
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
            json!(without_uids(text))
        }
        other => other.clone(),
    }
}

/// The text with a sign for every uid: labels of a Job's pods and messages about them have it, too.
fn without_uids(text: &str) -> String {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let is_uid = |text: &str| {
        let groups: Vec<&str> = text.split('-').collect();
        groups.iter().map(|group| group.len()).eq(GROUPS)
            && groups.concat().bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let pieces = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    pieces
        .map(|piece| {
            let word = piece.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            match is_uid(word) {
                true => piece.replace(word, "<uid>"),
                false => piece.to_owned(),
            }
        })
        .collect()
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
    let method = text("method");
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
    differences("", &normalise(&ours), &normalise(&theirs), &mut found);
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
        // The range of the recorded server.
        let services = ServiceRanges::parse("10.0.0.0/16", ServiceRanges::NODE_PORTS).unwrap();
        let options = Options {
            services,
            ..Options::default()
        };
        let (server, mut names) = (server_with(options).await, Names::default());
        let golden =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "golden"}});
        if file != "defaults" {
            ok(&server, "POST", "/api/v1/namespaces", golden).await;
            account(&server, "golden").await;
        }
        let text = std::fs::read_to_string(conversations.join(format!("{file}.json"))).unwrap();
        let all: Vec<Value> = serde_json::from_str(&text).unwrap();
        for conversation in &all {
            let path = conversation["request"]["path"].as_str().unwrap_or_default();
            let path = path.split('?').next().unwrap_or_default();
            let about = |kind: &&str| path.split('/').any(|segment| segment == *kind);
            if !SERVED.iter().skip(1).any(about) && !path.ends_with("/namespaces") {
                continue;
            }
            let note = conversation["note"].as_str().unwrap_or_default();
            let mut found = replay(&server, &mut names, conversation).await;
            let name = format!("{file}: {note}");
            let all = found.len();
            found.retain(|difference| !is_known(&name, difference));
            match (found.is_empty(), all) {
                (true, 0) => same += 1,
                (true, _) => known += 1,
                (false, _) => report.push(format!("{name}\n    {}", found.join("\n    "))),
            }
        }
    }
    eprintln!(
        "{same} answers are the same, {known} differ as listed, {} differ",
        report.len()
    );
    assert!(report.is_empty(), "\n{}", report.join("\n"));
}
