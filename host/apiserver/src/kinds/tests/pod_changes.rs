//! Pods after their creation: updates, their subresources and statuses; and what is warned about.

use serde_json::{Value, json};

use super::{create, pod, spec, update};
use crate::kinds::KindSpec;

const ONLY: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` \
                    (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
                    (allow it to be set to 1 if it was previously negative)";

fn kind() -> &'static KindSpec {
    spec("v1", "Pod").unwrap()
}

fn simple(fields: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "x"}]});
    if let (Some(spec), Value::Object(fields)) = (spec.as_object_mut(), fields) {
        spec.extend(fields);
    }
    pod(spec)
}

/// An update of a pod with these fields to others is refused with these errors.
#[track_caller]
fn changes(from: Value, to: Value, errors: &[&str]) {
    let said = update(simple(from), |pod| {
        if let (Some(spec), Value::Object(to)) = (pod["spec"].as_object_mut(), to.clone()) {
            spec.extend(to);
        }
    });
    // What follows the first line is the difference, which has a test of its own.
    let said: Vec<&str> = said
        .iter()
        .filter_map(|error| error.split('\n').next())
        .collect();
    assert_eq!(said, errors);
}

#[test]
fn a_pod_may_change_little() {
    let only = format!("spec: Forbidden: {ONLY}");
    changes(
        json!({}),
        json!({"containers": [{"name": "c", "image": "y"}], "activeDeadlineSeconds": 5}),
        &[],
    );
    changes(
        json!({"activeDeadlineSeconds": 5}),
        json!({"activeDeadlineSeconds": 6}),
        &[
            "spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value",
        ],
    );
    changes(
        json!({}),
        json!({"containers": []}),
        &[
            "spec.containers: Required value",
            "spec.containers: Forbidden: pod updates may not add or remove containers",
        ],
    );
    changes(json!({}), json!({"hostname": "a"}), &[&only]);
    changes(json!({}), json!({"nodeSelector": {"a": "b"}}), &[&only]);
    let key = |key: &str| json!({"key": key, "operator": "Exists"});
    changes(
        json!({"tolerations": [key("a")]}),
        json!({"tolerations": [key("b"), key("a")]}),
        &[],
    );
    let twice = "spec.tolerations[1].operator: Unsupported value: \"Like\": supported values: \
                 \"Equal\", \"Exists\"";
    changes(
        json!({"tolerations": [key("a")]}),
        json!({"tolerations": [key("a"), {"key": "b", "operator": "Like"}]}),
        &[twice, twice],
    );
    changes(
        json!({"tolerations": [key("a")]}),
        json!({"tolerations": [key("b")]}),
        &[
            "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
        ],
    );
}

#[test]
fn gates_go_and_where_to_gets_narrower_meanwhile() {
    let gates = |names: &[&str]| -> Value {
        let gates: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"schedulingGates": gates, "nodeSelector": {"a": "1"}})
    };
    changes(gates(&["x.y/a", "x.y/b"]), gates(&["x.y/b"]), &[]);
    changes(
        gates(&["a"]),
        gates(&["b"]),
        &[
            "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'b'",
        ],
    );
    changes(
        gates(&["a"]),
        json!({"nodeSelector": {"a": "1", "b": "2"}}),
        &[],
    );
    changes(
        gates(&["a"]),
        json!({"nodeSelector": {"b": "2"}}),
        &[
            "spec.nodeSelector: Invalid value: {\"b\":\"2\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        ],
    );
    let made = create(&simple(gates(&["a"]))).unwrap();
    assert_eq!(made["status"]["conditions"][0]["reason"], "SchedulingGated");
}

#[test]
fn a_refused_change_is_shown() {
    let said = update(simple(json!({})), |pod| {
        pod["spec"]["dnsPolicy"] = json!("Default")
    });
    let (_, difference) = said[0].split_once('\n').unwrap();
    assert!(
        difference
            .contains("\n-  \"dnsPolicy\": \"ClusterFirst\",\n+  \"dnsPolicy\": \"Default\",\n"),
        "{difference}"
    );
}

/// A write through a subresource: the object that would be stored, or the errors.
fn through(part: &str, stored: &Value, change: impl Fn(&mut Value)) -> Result<Value, Vec<String>> {
    let part = kind().parts.iter().find(|one| one.name == part).unwrap();
    let mut object = stored.clone();
    change(&mut object);
    (part.merge)(&mut object, stored);
    (kind().default)(&mut object);
    match (part.validate)(&object, stored).as_slice() {
        [] => Ok(object),
        errors => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn ephemeral_containers_come_and_stay() {
    let stored = create(&simple(json!({}))).unwrap();
    let with = |containers: Value| {
        through("ephemeralcontainers", &stored, move |pod| {
            pod["spec"]["ephemeralContainers"] = containers.clone();
            pod["spec"]["containers"][0]["image"] = json!("ignored");
        })
    };
    let made = with(json!([{"name": "e", "image": "y", "targetContainerName": "c"}])).unwrap();
    assert_eq!(made["spec"]["containers"][0]["image"], "x");
    assert_eq!(
        made["spec"]["ephemeralContainers"][0]["imagePullPolicy"],
        "Always"
    );
    assert_eq!(
        with(
            json!([{"name": "c", "image": "y", "targetContainerName": "d",
            "ports": [{"containerPort": 1}], "resources": {"limits": {"cpu": "1"}}}])
        )
        .unwrap_err(),
        [
            "spec.ephemeralContainers[0].name: Duplicate value: \"c\"",
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"d\"",
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers[0].resources: Forbidden: cannot be set for an Ephemeral Container",
        ]
    );
    let gone = through("ephemeralcontainers", &made, |pod| {
        pod["spec"]["ephemeralContainers"] = json!([])
    });
    assert_eq!(
        gone.unwrap_err(),
        [
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n"
        ]
    );
    let changed = through("ephemeralcontainers", &made, |pod| {
        pod["spec"]["ephemeralContainers"][0]["image"] = json!("z")
    });
    assert!(
        changed.unwrap_err()[0].starts_with(
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be changed\n"
        )
    );
}

#[test]
fn a_resize_changes_cpu_and_memory_within_the_class() {
    let resources = |cpu: &str, memory: &str| {
        json!({"containers": [{"name": "c", "image": "x",
            "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": "2", "memory": "2Gi"}}}]})
    };
    let stored = create(&simple(resources("1", "1Gi"))).unwrap();
    let resize = |change: fn(&mut Value)| {
        through("resize", &stored, move |pod| {
            change(&mut pod["spec"]["containers"][0]["resources"]);
            pod["spec"]["hostname"] = json!("ignored");
        })
    };
    let made = resize(|resources| resources["requests"]["cpu"] = json!("500m")).unwrap();
    assert_eq!(
        made["spec"]["containers"][0]["resources"]["requests"]["cpu"],
        "500m"
    );
    assert_eq!(made["spec"].get("hostname"), None);
    assert_eq!(
        resize(|resources| resources["requests"] = resources["limits"].clone()).unwrap_err(),
        [
            "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"
        ]
    );
    assert_eq!(
        resize(|resources| {
            resources["limits"].as_object_mut().unwrap().remove("cpu");
        })
        .unwrap_err(),
        ["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"]
    );
    assert_eq!(
        resize(|resources| resources["limits"]["ephemeral-storage"] = json!("1Gi")).unwrap_err(),
        ["spec: Forbidden: only cpu and memory resources are mutable"]
    );
    let moved = through("resize", &stored, |pod| {
        pod["spec"]["containers"][0]["name"] = json!("d");
        pod["spec"]["hostname"] = json!("ignored");
    });
    assert_eq!(
        moved.unwrap_err(),
        [
            "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"
        ]
    );
}

#[test]
fn conditions_keep_the_generation_that_was_looked_at() {
    let condition = |kind: &str, generation: i64| json!({"type": kind, "status": "True", "observedGeneration": generation});
    let mut old = create(&simple(json!({}))).unwrap();
    old["status"]["conditions"] = json!([
        condition("a/b", 1),
        condition("Ready", 2),
        condition("a/b", 3)
    ]);
    let mut object = old.clone();
    let bare = |kind: &str| json!({"type": kind, "status": "False"});
    object["status"]["conditions"] = json!([
        bare("Ready"),
        bare("a/b"),
        bare("a/b"),
        bare("a/b"),
        condition("Ready", 4)
    ]);
    (kind().prepare_status)(&mut object, &old);
    let kept: Vec<Option<i64>> = object["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["observedGeneration"].as_i64())
        .collect();
    assert_eq!(kept, [Some(2), Some(1), Some(3), None, Some(4)]);
}

/// What a write of a status says.
#[track_caller]
fn status(stored: Value, status: Value, errors: &[&str]) {
    let old = {
        let mut old = create(&simple(json!({"restartPolicy": "Never"}))).unwrap();
        old["status"] = stored;
        old
    };
    let mut object = old.clone();
    object["status"] = status;
    (kind().prepare_status)(&mut object, &old);
    let said: Vec<String> = (kind().validate_status)(&object, &old)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(said, errors);
}

#[test]
fn a_status_keeps_to_what_was() {
    status(
        json!({"qosClass": "BestEffort"}),
        json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}),
        &[],
    );
    status(
        json!({"qosClass": "BestEffort"}),
        json!({"qosClass": "Burstable", "podIP": "1.2.3", "hostIP": "1.1.1.1", "hostIPs": [{"ip": "1.1.1.2"}],
               "conditions": [{"type": "a b", "status": "True"}]}),
        &[
            "status.conditions[0].Type: Invalid value: \"a b\": name part must consist of \
             alphanumeric characters, '-', '_' or '.', and must start and end with an \
             alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
             validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "status.qosClass: Invalid value: \"Burstable\": field is immutable",
            "status.podIPs[0]: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. \
             10.9.8.7 or 2001:db8::ffff)",
            "status.hostIPs[0].ip: Invalid value: \"1.1.1.2\": must be equal to `hostIP`",
        ],
    );
    let state = |state: Value| json!({"containerStatuses": [{"name": "c", "state": state}]});
    status(
        state(json!({"terminated": {"exitCode": 0}})),
        state(json!({"running": {}})),
        &[
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
        ],
    );
}

#[track_caller]
fn warns(pod: Value, expected: &[&str]) {
    let made = create(&pod).unwrap();
    assert_eq!((kind().warnings)(&made, None), expected, "{pod}");
}

#[test]
fn what_does_nothing_or_hides_another_is_warned_about() {
    warns(simple(json!({})), &[]);
    warns(
        simple(json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}],
            "topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "topologyKey": "k"}],
            "volumes": [{"name": "v", "rbd": {"monitors": ["m"], "image": "i"}}]})),
        &[
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \
             \"kubernetes.io/os\" instead",
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in \
             matching no pod",
            "spec.volumes[0].rbd: deprecated in v1.28, non-functional in v1.31+",
            "spec.hostAliases[1].ip: duplicate ip \"1.1.1.1\"",
        ],
    );
    warns(
        pod(json!({"containers": [{"name": "c", "image": "x",
            "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
            "ports": [{"containerPort": 80}, {"containerPort": 80}],
            "resources": {"requests": {"memory": "1m"}}}]})),
        &[
            "spec.containers[0].resources.requests[memory]: fractional byte value \"1m\" is \
             invalid, must be an integer",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped \
             when using apply",
            "spec.containers[0].ports[1]: duplicate port definition with \
             spec.containers[0].ports[0]",
        ],
    );
    let mut dotted = simple(json!({}));
    dotted["metadata"]["name"] = json!("a.b");
    warns(
        dotted,
        &[
            "metadata.name: this is used in the Pod's hostname, which can result in surprising \
             behavior; a DNS label is recommended: [must not contain dots]",
        ],
    );
}
