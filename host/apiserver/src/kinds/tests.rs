//! The built-in kinds against request/answer pairs of a real server, where those are at hand
//! (`EYOT_SHARED`), and against the cases that matter most, always.

mod admission;
mod flow;
mod jobs;
mod metadata;
mod network;
mod pod_changes;
mod pods;
mod policies;
mod rights;
mod service;
mod storage;
mod updates;
mod workloads;

use eyot_store::Store;
use serde_json::{Value, json};

use super::{KindSpec, all};
use crate::{
    resource::Resource,
    service_addresses::{ServiceAddresses, ServiceRanges},
};

fn spec(api_version: &str, kind: &str) -> Option<&'static KindSpec> {
    all()
        .iter()
        .find(|spec| spec.api_version() == api_version && spec.kind == kind)
}

const UID: &str = "11111111-2222-3333-4444-555555555555";

/// What a create makes of a body: the stored object, or the error message.
fn create(body: &Value) -> Result<Value, String> {
    create_as(body, UID)
}

fn create_as(body: &Value, uid: &str) -> Result<Value, String> {
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
    crate::managed::settle(text("apiVersion"), spec.kind, &mut object);
    (spec.prepare)(&mut object, None);
    (spec.default)(&mut object);
    // As admission does.
    if spec.kind == "Pod" && object["spec"].is_object() {
        object["spec"]["serviceAccountName"] = json!("default");
        object["spec"]["serviceAccount"] = json!("default");
    }
    if object["metadata"].is_object() {
        object["metadata"]["uid"] = json!(uid);
    }
    (spec.identified)(&mut object);
    if spec.kind == "Service" {
        give_addresses(spec, &mut object)?;
    }
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

/// What a trial run gives a service.
fn give_addresses(spec: &'static KindSpec, object: &mut Value) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let ranges = ServiceRanges::parse("10.0.0.0/16", ServiceRanges::NODE_PORTS).unwrap();
    let addresses = ServiceAddresses::new(&Store::in_memory(crate::extract), ranges);
    let resource = Resource::builtin(spec);
    let given = addresses.complete(&resource, object, None, true);
    given.map(drop).map_err(|failure| {
        let status = failure.status();
        let message = status["message"].as_str().unwrap_or_default();
        let behind = message.split_once(" is invalid: ");
        behind.map_or(message, |(_, why)| why).to_owned()
    })
}

/// What differs from run to run, or is not this module's work.
fn normalised(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for name in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "managedFields",
            "generation",
        ] {
            metadata.remove(name);
        }
    }
    if let Some(status) = object["status"].as_object_mut() {
        status.remove("lastPhaseTransitionTime");
    }
    // The token volume of service accounts is the server's work.
    let pod = object["kind"] == "Pod";
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("taints");
        let token = |value: &Value| {
            value["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("kube-api-access"))
        };
        for group in ["containers", "initContainers"] {
            for one in spec
                .get_mut(group)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                without(one, "volumeMounts", token);
            }
        }
        if pod {
            // What admission adds is compared where admission takes part.
            for name in [
                "serviceAccount",
                "serviceAccountName",
                "priority",
                "preemptionPolicy",
            ] {
                spec.remove(name);
            }
            let mut holder = Value::Object(spec.clone());
            without(&mut holder, "volumes", token);
            let given = |toleration: &Value| toleration["tolerationSeconds"] == 300;
            without(&mut holder, "tolerations", given);
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

/// The lists of errors of a map come in the map's order, which Go leaves to chance; and the
/// sentence says everything once.
fn sorted(message: &str) -> Vec<String> {
    let inner = message
        .strip_prefix('[')
        .and_then(|one| one.strip_suffix(']'))
        .unwrap_or(message);
    let mut parts: Vec<String> = inner.split(", ").map(str::to_owned).collect();
    parts.sort();
    parts.dedup();
    parts
}

/// The uid that the server gave the object, as far as its answer tells.
fn uid_in(answer: &Value) -> &str {
    const BEFORE: &str = "controller-uid\":\"";
    let message = answer["message"].as_str().unwrap_or_default();
    let told = message
        .find(BEFORE)
        .and_then(|start| message.get(start + BEFORE.len()..)?.get(..UID.len()));
    answer["metadata"]["uid"].as_str().or(told).unwrap_or(UID)
}

/// Where this server knowingly answers otherwise: the note's end, and why.
const DIFFERENT: &[(&str, &str)] = &[
    ("namespace mismatch", "the machinery compares body and path"),
    ("wrong kind", "the machinery compares body and path"),
    ("wrong apiVersion", "the machinery compares body and path"),
    (
        "customresourcedefinitions: empty spec",
        "shows null versions as Go does",
    ),
    ("CRD two storage versions", "prints Go's own field names"),
    ("CRD bad CEL", "rules are a later work"),
    ("limitranges: no name", "a random one is made up"),
    ("pod: unknown priority class", "admission"),
    ("pod: unknown service account", "admission"),
    ("pod: unknown runtime class", "admission"),
    (
        "minimal pods, dry run: the answer shows every default",
        "needs a service account there",
    ),
];

#[test]
fn creates_answer_as_a_real_server() {
    let Ok(shared) = std::env::var("EYOT_SHARED") else {
        eprintln!("SKIPPED creates_answer_as_a_real_server: EYOT_SHARED names no folder of facts");
        return;
    };
    let mut failures = Vec::new();
    let mut compared = 0;
    for file in [
        "defaults",
        "validation-generic",
        "validation-specific",
        "custom-resources",
        "life",
    ] {
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
            match (create_as(body, uid_in(answer)), pair["status"].as_i64()) {
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
    assert!(
        failures.is_empty(),
        "{} differ\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(compared > 100, "{compared}");
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec})
}

/// READY, STATUS and RESTARTS of a pod with this status.
#[track_caller]
fn shows(spec_part: Value, status: Value, expected: [&str; 3]) {
    let mut object = pod(json!({"containers": [{"name": "c"}]}));
    if let Value::Object(part) = spec_part {
        object["spec"].as_object_mut().unwrap().extend(part);
    }
    object["status"] = status;
    let now = "2026-01-01T01:00:00Z".parse().unwrap();
    let cells = (spec("v1", "Pod").unwrap().cells)(&object, now);
    assert_eq!(
        cells[1..4],
        expected.map(Value::from),
        "{}",
        object["status"]
    );
}

#[test]
fn the_status_of_a_pod_is_one_word() {
    let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
    let waits = |reason: &str, count: i64| {
        json!({"ready": false, "restartCount": count, "state": {"waiting": {"reason": reason}},
               "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:00Z"}}})
    };
    shows(
        json!({}),
        json!({"phase": "Pending"}),
        ["0/1", "Pending", "0"],
    );
    shows(
        json!({}),
        json!({"phase": "Running", "containerStatuses": [running]}),
        ["1/1", "Running", "0"],
    );
    shows(
        json!({}),
        json!({"phase": "Running", "containerStatuses": [waits("CrashLoopBackOff", 3)]}),
        ["0/1", "CrashLoopBackOff", "3 (60s ago)"],
    );
    let ended = |code: i64, reason: &str| json!({"restartCount": 0, "state": {"terminated": {"exitCode": code, "reason": reason}}});
    shows(
        json!({}),
        json!({"phase": "Succeeded", "containerStatuses": [ended(0, "Completed")]}),
        ["0/1", "Completed", "0"],
    );
    shows(
        json!({}),
        json!({"phase": "Failed", "containerStatuses": [ended(3, "")]}),
        ["0/1", "ExitCode:3", "0"],
    );
    let init = json!({"initContainers": [{"name": "i"}, {"name": "j"}]});
    shows(
        init.clone(),
        json!({"phase": "Pending", "initContainerStatuses": [ended(0, "Completed"),
            waits("PodInitializing", 0)]}),
        ["0/1", "Init:1/2", "0"],
    );
    shows(
        init,
        json!({"phase": "Pending", "initContainerStatuses": [ended(1, "Error"), waits("", 0)]}),
        ["0/1", "Init:Error", "0"],
    );
}

#[test]
fn a_deleted_pod_is_terminating_until_it_has_ended() {
    let mut object = pod(json!({"containers": [{"name": "c"}]}));
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let status = |object: &Value| {
        let cells =
            (spec("v1", "Pod").unwrap().cells)(object, "2026-01-01T00:00:00Z".parse().unwrap());
        cells[2].as_str().unwrap_or_default().to_owned()
    };
    object["status"] = json!({"phase": "Running"});
    assert_eq!(status(&object), "Terminating");
    object["status"] = json!({"phase": "Succeeded"});
    assert_eq!(status(&object), "Succeeded");
}

#[test]
fn a_pod_gets_every_default() {
    let object = create(&pod(json!({"containers": [{"name": "c", "image": "x:1",
        "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}},
        "readinessProbe": {"httpGet": {"port": 80}}}]})))
    .unwrap();
    let container = &object["spec"]["containers"][0];
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(
        container["resources"]["requests"],
        json!({"cpu": "1", "memory": "1Gi"})
    );
    assert_eq!(
        container["readinessProbe"]["httpGet"],
        json!({"path": "/", "port": 80, "scheme": "HTTP"})
    );
    assert_eq!(object["spec"]["restartPolicy"], "Always");
    assert_eq!(
        object["status"],
        json!({"phase": "Pending", "qosClass": "Guaranteed"})
    );
}

#[test]
fn a_pod_takes_as_a_whole_what_its_containers_take() {
    let of_pod = |limits: Value| {
        let container = json!({"cpu": "100m", "memory": "2Mi", "hugepages-2Mi": "2Mi"});
        create(&pod(json!({"resources": {"limits": limits},
            "containers": [{"name": "c", "image": "x", "resources": {"limits": container}}]})))
        .unwrap()["spec"]["resources"]
            .clone()
    };
    assert_eq!(
        of_pod(json!({"cpu": "1"})),
        json!({"limits": {"cpu": "1", "hugepages-2Mi": "2Mi"},
               "requests": {"cpu": "100m", "memory": "2Mi", "hugepages-2Mi": "2Mi"}})
    );
    assert_eq!(
        of_pod(json!({"memory": "1Gi", "hugepages-2Mi": "4Mi"})),
        json!({"limits": {"memory": "1Gi", "hugepages-2Mi": "4Mi"},
               "requests": {"cpu": "100m", "memory": "2Mi", "hugepages-2Mi": "4Mi"}})
    );
}

/// What is wrong with a body, one by one; nothing where it is accepted.
#[track_caller]
fn rejects(body: Value, errors: &[&str]) {
    let said = create(&body).err().unwrap_or_default();
    let expected = match errors {
        [] => String::new(),
        [one] => (*one).to_owned(),
        more => format!("[{}]", more.join(", ")),
    };
    assert_eq!(said, expected, "{body}");
}

#[track_caller]
fn refused(body: Value, message: &str) {
    assert_eq!(create(&body).unwrap_err(), message);
}

#[test]
fn bad_pods_are_refused_by_field() {
    refused(
        pod(json!({"containers": [{"name": "c"}]})),
        "spec.containers[0].image: Required value",
    );
    refused(
        pod(json!({"containers": [{"name": "c", "image": "x", "typo": 1}]})),
        "strict decoding error: unknown field \"spec.containers[0].typo\"",
    );
    refused(
        pod(json!({"containers": [{"name": "c", "image": 1}]})),
        "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string",
    );
    refused(
        pod(json!({"containers": [{"name": "c", "image": "x",
            "resources": {"limits": {"memory": "-1"}}}]})),
        "[spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be greater than \
         or equal to 0, spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must \
         be greater than or equal to 0]",
    );
}

/// What an update of a valid object says.
#[track_caller]
fn update(body: Value, change: impl Fn(&mut Value)) -> Vec<String> {
    let stored = create(&body).unwrap();
    let kind = spec(
        body["apiVersion"].as_str().unwrap(),
        body["kind"].as_str().unwrap(),
    )
    .unwrap();
    let mut object = stored.clone();
    change(&mut object);
    (kind.prepare)(&mut object, Some(&stored));
    (kind.default)(&mut object);
    (kind.validate)(&object, Some(&stored))
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn what_may_not_change_stays() {
    let simple = || pod(json!({"containers": [{"name": "c", "image": "x"}]}));
    let image = update(simple(), |pod| {
        pod["spec"]["containers"][0]["image"] = json!("y")
    });
    assert!(image.is_empty(), "{image:?}");
    let command = update(simple(), |pod| {
        pod["spec"]["containers"][0]["command"] = json!(["x"])
    });
    assert!(command[0].starts_with("spec: Forbidden: pod updates may not change fields"));
    let deployment = || {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b", "c": "d"}},
            "spec": {"containers": [{"name": "c", "image": "x"}]}}}})
    };
    let selector = update(deployment(), |object| {
        object["spec"]["selector"] = json!({"matchLabels": {"c": "d"}});
    });
    assert_eq!(
        selector,
        ["spec.selector: Invalid value: {\"matchLabels\":{\"c\":\"d\"}}: field is immutable"]
    );
    let sealed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"},
        "immutable": true, "data": {"a": "1"}});
    let data = update(sealed, |object| object["data"]["a"] = json!("2"));
    assert_eq!(
        data,
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
}

#[test]
fn every_kind_prints_as_many_cells_as_columns_and_lists_its_fields() {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    for kind in all() {
        let object = json!({"metadata": {"name": "x", "namespace": "y"}});
        assert_eq!(
            (kind.cells)(&object, now).len(),
            kind.columns.len(),
            "{}",
            kind.kind
        );
        for (name, _) in (kind.fields)(&object) {
            assert!(
                kind.field_names.contains(&name.as_ref()),
                "{} {name}",
                kind.kind
            );
        }
        assert_eq!(
            (kind.fields)(&object).len(),
            kind.field_names.len(),
            "{}",
            kind.kind
        );
        // Defaults and rules must take anything that decodes.
        for body in [
            json!({}),
            json!({"spec": null}),
            json!({"metadata": null, "status": null}),
        ] {
            let mut object = body.clone();
            (kind.decode)(&mut object).unwrap();
            (kind.prepare)(&mut object, None);
            (kind.default)(&mut object);
            // A LimitRange makes up what it lacks.
            assert!(
                !(kind.validate)(&object, None).is_empty() || kind.kind == "LimitRange",
                "{} {body}",
                kind.kind
            );
        }
    }
}

#[test]
fn events_have_one_stored_form_and_two_faces() {
    let face = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "regarding": {"kind": "Pod"}, "note": "n", "reportingController": "c"});
    let stored = super::event::from_events_v1(&face);
    assert_eq!(stored["involvedObject"]["kind"], "Pod");
    assert_eq!(
        (stored["message"].as_str(), stored["apiVersion"].as_str()),
        (Some("n"), Some("v1"))
    );
    assert_eq!(super::event::to_events_v1(&stored), face);
}

#[test]
fn an_autoscaler_keeps_everything_under_version_1() {
    let v2 = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h", "annotations": {"mine": "1"}},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "behavior": {"scaleDown": {"selectPolicy": "Disabled"}},
            "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "2"}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}]},
        "status": {"desiredReplicas": 2, "currentReplicas": 1,
            "conditions": [{"type": "AbleToScale", "status": "True"}],
            "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageValue": "10m", "averageUtilization": 20}}}]}});
    let stored = create(&v2).unwrap();
    let mut stored = Value::Object(stored.as_object().unwrap().clone());
    stored["status"] = v2["status"].clone();
    let face = &spec("autoscaling/v2", "HorizontalPodAutoscaler")
        .unwrap()
        .faces[0];
    let mut v1 = stored.clone();
    (face.from_stored)(&mut v1);
    assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 60);
    assert_eq!(v1["status"]["currentCPUUtilizationPercentage"], 20);
    assert_eq!(
        v1["spec"].get("metrics").or(v1["spec"].get("behavior")),
        None
    );
    let metrics = &v1["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"];
    let metrics: Value = serde_json::from_str(metrics.as_str().unwrap()).unwrap();
    assert_eq!(
        metrics,
        json!([{"type": "Pods", "pods": {"metricName": "m", "targetAverageValue": "2"}}])
    );
    (face.to_stored)(&mut v1);
    assert_eq!(v1, stored);
}
