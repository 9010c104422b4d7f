//! What a local object becomes when the cloud shows its own. Pure.
//!
//! Everything but the observed status is the cloud's, uid, creation time and generation included, so
//! that who reads here reads what the cloud knows. The status of what runs here stays, and with it,
//! once it has begun, the end of a pod. What belongs to the storage of one side stays there: revision,
//! field managers, finalizers (whoever waits for one waits in the cloud).

use serde_json::{Map, Value, json};

use crate::{kind::Kind, marks};

/// Conditions of a pod that its node decides about; others' come from the cloud.
const OWN_CONDITIONS: [&str; 7] = [
    "PodScheduled",
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
    "PodResizePending",
    "PodResizeInProgress",
];

/// What is to be done with the local object.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// It is as it should be.
    Nothing,
    Write(Value),
    /// A pod of the same name that is another one has to end first.
    EndFirst,
    /// It was made here, and the cloud has one of that name: which is left alone.
    Leave,
}

/// What the cloud's object makes of the local one. `root_ca` is what pods are to trust here.
pub(crate) fn step(kind: &Kind, cloud: &Value, local: Option<&Value>, root_ca: &str) -> Step {
    let mut next = cloud.clone();
    let metadata = object(&mut next, "metadata");
    for field in ["resourceVersion", "managedFields", "finalizers", "selfLink"] {
        metadata.remove(field);
    }
    if kind.is("configmaps") && metadata.get("name") == Some(&json!("kube-root-ca.crt")) {
        next["data"] = json!({ "ca.crt": root_ca });
    }
    let Some(local) = local else {
        return Step::Write(next);
    };
    let same_uid = local["metadata"]["uid"] == next["metadata"]["uid"];
    if kind.is("pods") && !same_uid {
        return match marks::is_made_here(local) {
            true => Step::Leave,
            false => Step::EndFirst,
        };
    }
    if kind.is("namespaces") {
        // Each side has those that every server begins with, and its own life of them.
        for part in ["spec", "status"] {
            next[part] = local[part].clone();
        }
    }
    if kind.observed {
        observe(kind, &mut next, local);
    }
    if kind.is("pods") && !local["metadata"]["deletionTimestamp"].is_null() {
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
            if let Some(begun) = local["metadata"].get(field) {
                next["metadata"][field] = begun.clone();
            }
        }
    }
    match same(&next, local) {
        true => Step::Nothing,
        false => Step::Write(next),
    }
}

/// Keep what is observed here.
fn observe(kind: &Kind, next: &mut Value, local: &Value) {
    let of_cloud = next.get("status").cloned().unwrap_or_default();
    match local.get("status") {
        Some(status) => next["status"] = status.clone(),
        // Nothing was observed yet: what it was when this side last told.
        None => return,
    }
    if !kind.is("pods") {
        return;
    }
    let foreign = |status: &Value, is: bool| -> Vec<Value> {
        let all = status["conditions"].as_array().into_iter().flatten();
        let of = |c: &&Value| {
            c["type"]
                .as_str()
                .is_some_and(|t| OWN_CONDITIONS.contains(&t))
                != is
        };
        all.filter(of).cloned().collect()
    };
    let mut conditions = foreign(&next["status"], false);
    conditions.extend(foreign(&of_cloud, true));
    if !conditions.is_empty() {
        next["status"]["conditions"] = conditions.into();
    }
    for field in ["qosClass", "nominatedNodeName"] {
        if let Some(value) = of_cloud.get(field) {
            next["status"][field] = value.clone();
        }
    }
}

/// Whether two objects say the same, whatever their revisions and managers.
pub(crate) fn same(one: &Value, other: &Value) -> bool {
    let (one, other) = (one.as_object(), other.as_object());
    let (Some(one), Some(other)) = (one, other) else {
        return one.is_none() && other.is_none();
    };
    let rest = |map: &Map<String, Value>| map.keys().filter(|key| *key != "metadata").count();
    let equal = |key: &String| one.get(key) == other.get(key);
    rest(one) == rest(other)
        && one.keys().filter(|key| *key != "metadata").all(equal)
        && bare(one.get("metadata")) == bare(other.get("metadata"))
}

fn bare(metadata: Option<&Value>) -> Map<String, Value> {
    let mut metadata = metadata
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    for field in ["resourceVersion", "managedFields", "finalizers"] {
        metadata.remove(field);
    }
    metadata
}

/// What is sent to the cloud of a status observed here, to be compared with what it shows: without
/// what may differ without meaning anything.
pub(crate) fn fingerprint(status: &Value) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    let mut status = status.clone();
    if let Some(map) = status.as_object_mut() {
        for field in ["qosClass", "nominatedNodeName", "observedGeneration"] {
            map.remove(field);
        }
        map.retain(|_, value| !value.is_null());
        if let Some(all) = map.get_mut("conditions").and_then(Value::as_array_mut) {
            all.sort_by(|a, b| a["type"].as_str().cmp(&b["type"].as_str()));
            for condition in all.iter_mut().filter_map(Value::as_object_mut) {
                condition.retain(|name, value| !value.is_null() && name != "observedGeneration");
            }
        }
    }
    // Members come in the order of their names.
    status.to_string().hash(&mut hash);
    hash.finish()
}

/// The merge patch that makes the cloud's status, of which these are the names, be this one. With the
/// uid it fails for a successor of the same name.
pub(crate) fn status_patch(local: &Value, shown: &[String]) -> Value {
    let mut status = local.get("status").cloned().unwrap_or_else(|| json!({}));
    for name in shown {
        // The cloud's own parts of a pod's status are left to it.
        let of_cloud = ["qosClass", "nominatedNodeName", "observedGeneration"];
        if status.get(name).is_none() && !of_cloud.contains(&name.as_str()) {
            status[name] = Value::Null;
        }
    }
    json!({ "metadata": { "uid": local["metadata"]["uid"] }, "status": status })
}

pub(crate) fn object<'a>(value: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !value[name].is_object() {
        value[name] = json!({});
    }
    match &mut value[name] {
        Value::Object(map) => map,
        _ => unreachable!("it was just made one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::kind;

    fn pod(uid: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default", "uid": uid, "resourceVersion": "7",
                "finalizers": ["batch.kubernetes.io/job-tracking"], "generation": 3},
            "spec": {"nodeName": "edge"},
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        })
    }

    fn written(step: Step) -> Value {
        match step {
            Step::Write(value) => value,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_object_is_the_clouds_but_for_what_belongs_to_its_storage() {
        let next = written(step(kind("pods").unwrap(), &pod("1"), None, ""));
        assert_eq!(next["metadata"]["uid"], "1");
        assert_eq!(next["metadata"]["generation"], 3);
        for field in ["resourceVersion", "finalizers"] {
            assert!(next["metadata"].get(field).is_none(), "{field}");
        }
    }

    #[test]
    fn what_was_observed_here_stays_and_what_others_say_of_a_pod_is_added() {
        let pods = kind("pods").unwrap();
        let mut local = written(step(pods, &pod("1"), None, ""));
        local["status"] = json!({"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "gone", "status": "True"}]});
        let mut cloud = pod("1");
        cloud["metadata"]["labels"] = json!({"new": "label"});
        cloud["status"]["conditions"] =
            json!([{"type": "Ready", "status": "False"}, {"type": "gate", "status": "True"}]);
        let next = written(step(pods, &cloud, Some(&local), ""));
        assert_eq!(next["metadata"]["labels"]["new"], "label");
        assert_eq!(next["status"]["phase"], "Running");
        assert_eq!(
            next["status"]["conditions"],
            json!([{"type": "Ready", "status": "True"}, {"type": "gate", "status": "True"}])
        );
        assert_eq!(step(pods, &cloud, Some(&next), ""), Step::Nothing);
    }

    #[test]
    fn another_pod_of_the_same_name_ends_first_and_an_end_that_has_begun_stays() {
        let pods = kind("pods").unwrap();
        let local = written(step(pods, &pod("1"), None, ""));
        assert_eq!(step(pods, &pod("2"), Some(&local), ""), Step::EndFirst);
        let mut ending = local.clone();
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(step(pods, &pod("1"), Some(&ending), ""), Step::Nothing);
        let mut made = local;
        made["metadata"]["annotations"] = json!({ marks::MADE: "edge" });
        assert_eq!(step(pods, &pod("2"), Some(&made), ""), Step::Leave);
    }

    #[test]
    fn pods_trust_the_authority_of_this_side() {
        let maps = kind("configmaps").unwrap();
        let cloud = json!({"metadata": {"name": "kube-root-ca.crt", "namespace": "default"},
            "data": {"ca.crt": "cloud"}});
        assert_eq!(
            written(step(maps, &cloud, None, "edge"))["data"]["ca.crt"],
            "edge"
        );
    }

    #[test]
    fn a_status_that_says_the_same_has_the_same_fingerprint() {
        let one = json!({"phase": "Running", "reason": null, "qosClass": "Burstable",
            "conditions": [{"type": "A", "message": null}, {"type": "B"}]});
        let other = json!({"phase": "Running", "conditions": [{"type": "B"}, {"type": "A"}]});
        assert_eq!(fingerprint(&one), fingerprint(&other));
        assert_ne!(fingerprint(&one), fingerprint(&json!({"phase": "Failed"})));
        let local = json!({"metadata": {"uid": "u"}, "status": {"phase": "Running"}});
        let shown = ["phase", "reason", "qosClass"].map(str::to_owned);
        assert_eq!(
            status_patch(&local, &shown)["status"],
            json!({"phase": "Running", "reason": null})
        );
    }
}
