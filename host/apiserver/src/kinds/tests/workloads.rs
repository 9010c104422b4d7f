//! The kinds that keep pods running: defaults, rules and what may change.

use serde_json::{Value, json};

use super::{create, rejects, spec, update};

/// An object of apps/v1 with a good selector and template, and these fields.
fn of(kind: &str, fields: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": "x"}}, "template": template()});
    if let (Some(spec), Value::Object(fields)) = (spec.as_object_mut(), fields) {
        spec.extend(fields);
    }
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec})
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "x"}},
           "spec": {"containers": [{"name": "c", "image": "x"}]}})
}

#[track_caller]
fn lacks(kind: &str, fields: Value, errors: &[&str]) {
    rejects(of(kind, fields), errors);
}

#[track_caller]
fn changes(kind: &str, from: Value, to: Value, errors: &[&str]) {
    let said = update(of(kind, from), |object| {
        if let (Some(spec), Value::Object(to)) = (object["spec"].as_object_mut(), to.clone()) {
            spec.extend(to);
        }
    });
    assert_eq!(said, errors);
}

#[test]
fn a_selector_selects_the_pods_of_the_template() {
    for (kind, called) in [
        ("Deployment", "deployment"),
        // Kubernetes' own mistake.
        ("ReplicaSet", "deployment"),
        ("StatefulSet", "statefulset"),
        ("DaemonSet", "daemonset"),
    ] {
        lacks(
            kind,
            json!({"selector": {"matchLabels": {"app": "y"}}}),
            &[
                "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does \
               not match template `labels`",
            ],
        );
        let empty =
            format!("spec.selector: Invalid value: {{}}: empty selector is invalid for {called}");
        lacks(kind, json!({"selector": {}}), &[&empty]);
        let mut bad = template();
        bad["spec"]["restartPolicy"] = json!("Never");
        bad["spec"]["activeDeadlineSeconds"] = json!(5);
        let whose = match kind {
            "Deployment" => "ReplicaSet",
            kind => kind,
        };
        let forever = format!(
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in {whose} is not Supported"
        );
        lacks(
            kind,
            json!({"template": bad}),
            &[
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported \
                 values: \"Always\"",
                &forever,
            ],
        );
    }
}

#[test]
fn selectors_of_what_exists_stay() {
    let other = json!({"selector": {"matchLabels": {"app": "x", "b": "c"}},
        "template": {"metadata": {"labels": {"app": "x", "b": "c"}}, "spec": template()["spec"].clone()}});
    for kind in ["Deployment", "ReplicaSet", "DaemonSet"] {
        changes(
            kind,
            json!({}),
            other.clone(),
            &[
                "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\",\"b\":\"c\"}}: \
               field is immutable",
            ],
        );
    }
    let only = "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', \
                'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
                'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    changes("StatefulSet", json!({}), other, &[only]);
    changes(
        "StatefulSet",
        json!({}),
        json!({"serviceName": "s"}),
        &[only],
    );
    changes(
        "StatefulSet",
        json!({}),
        json!({"replicas": 3, "minReadySeconds": 1, "revisionHistoryLimit": 2, "ordinals": {"start": 1}}),
        &[],
    );
}

#[test]
fn a_deployment_rolls_in_steps_that_get_somewhere() {
    let rolling =
        |value: Value| json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": value}});
    lacks(
        "Deployment",
        rolling(json!({"maxUnavailable": 0, "maxSurge": "0%"})),
        &[
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when \
           `maxSurge` is 0",
        ],
    );
    lacks(
        "Deployment",
        rolling(json!({"maxUnavailable": "150%", "maxSurge": "x"})),
        &[
            "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent string \
             must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used \
             for validation is '[0-9]+%')",
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"150%\": must not be \
             greater than 100%",
        ],
    );
    lacks(
        "Deployment",
        json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}),
        &[
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is \
           'Recreate'",
        ],
    );
    lacks(
        "Deployment",
        json!({"replicas": -1, "minReadySeconds": 600, "revisionHistoryLimit": -1}),
        &[
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
            "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than \
             minReadySeconds",
        ],
    );
}

#[test]
fn unknown_strategies_are_shown_as_the_real_server_holds_them() {
    let why = |field: &str, known: &str| {
        format!(
            "spec.{field}: Unsupported value: {{\"Type\":\"x\",\"RollingUpdate\":\
             {{\"MaxUnavailable\":0,\"MaxSurge\":\"10%\"}}}}: supported values: {known}"
        )
    };
    let strategy = json!({"type": "x", "rollingUpdate": {"maxSurge": "10%"}});
    lacks(
        "Deployment",
        json!({"strategy": strategy}),
        &[&why("strategy", "\"Recreate\", \"RollingUpdate\"")],
    );
    lacks(
        "DaemonSet",
        json!({"updateStrategy": strategy}),
        &[&why("updateStrategy", "\"RollingUpdate\", \"OnDelete\"")],
    );
    lacks(
        "StatefulSet",
        json!({"updateStrategy": {"type": "x"}}),
        &[
            "spec.updateStrategy: Invalid value: {\"Type\":\"x\",\"RollingUpdate\":null}: must be \
             'RollingUpdate' or 'OnDelete'",
        ],
    );
}

#[test]
fn a_set_with_state_has_claims_and_an_order() {
    let made = create(&of(
        "StatefulSet",
        json!({"volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}]}),
    ))
    .unwrap();
    let spec = &made["spec"];
    assert_eq!(spec["podManagementPolicy"], "OrderedReady");
    assert_eq!(
        spec["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
    assert_eq!(
        spec["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    // A type that is named gets nothing beside it.
    for (given, expected) in [
        (
            json!({"type": "RollingUpdate"}),
            json!({"type": "RollingUpdate"}),
        ),
        (
            json!({"type": "RollingUpdate", "rollingUpdate": {}}),
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}),
        ),
        (
            json!({"rollingUpdate": {"partition": 2}}),
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}),
        ),
        (json!({"type": "OnDelete"}), json!({"type": "OnDelete"})),
    ] {
        let made = create(&of("StatefulSet", json!({"updateStrategy": given}))).unwrap();
        assert_eq!(made["spec"]["updateStrategy"], expected);
    }
    let claim = &spec["volumeClaimTemplates"][0];
    assert_eq!(claim["spec"]["volumeMode"], "Filesystem");
    assert_eq!(claim["status"]["phase"], "Pending");
    lacks(
        "StatefulSet",
        json!({"podManagementPolicy": "Random", "ordinals": {"start": -1},
            "updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Sell", "whenScaled": "Retain"}}),
        &[
            "spec.podManagementPolicy: Invalid value: \"Random\": must be 'OrderedReady' or \
             'Parallel'",
            "spec.updateStrategy.rollingUpdate: Invalid value: {\"Partition\":1,\"MaxUnavailable\":null}: only allowed \
             for updateStrategy 'RollingUpdate'",
            "spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: \"Sell\": \
             supported values: \"Retain\", \"Delete\"",
            "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    // Its pods may mount what is claimed for them.
    let mut mounting = template();
    mounting["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
    lacks(
        "StatefulSet",
        json!({"template": mounting, "volumeClaimTemplates": [{"metadata": {"name": "d"}}]}),
        &[],
    );
    let mut dotted = of("StatefulSet", json!({}));
    dotted["metadata"]["name"] = json!("a.b");
    rejects(
        dotted,
        &["metadata.name: Invalid value: \"a.b\": must not contain dots"],
    );
}

#[test]
fn a_daemon_set_counts_the_changes_of_its_template() {
    const COUNT: &str = "deprecated.daemonset.template.generation";
    let made = create(&of("DaemonSet", json!({}))).unwrap();
    assert_eq!(made["metadata"]["annotations"][COUNT], "1");
    assert_eq!(
        made["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
    );
    let kind = spec("apps/v1", "DaemonSet").unwrap();
    let mut next = made.clone();
    next["spec"]["template"]["spec"]["containers"][0]["image"] = json!("y");
    (kind.prepare)(&mut next, Some(&made));
    assert_eq!(next["metadata"]["annotations"][COUNT], "2");
    let rolling =
        |value: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": value}});
    lacks(
        "DaemonSet",
        rolling(json!({"maxUnavailable": 1, "maxSurge": 1})),
        &[
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when \
           maxUnavailable is non-zero",
        ],
    );
    lacks(
        "DaemonSet",
        rolling(json!({"maxUnavailable": 0, "maxSurge": 0})),
        &[
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when \
           maxSurge is 0",
        ],
    );
}

#[test]
fn a_replication_controller_selects_by_plain_labels() {
    let body = |spec: Value| {
        json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "a"}, "spec": spec})
    };
    let made = create(&body(json!({"template": template()}))).unwrap();
    assert_eq!(made["spec"]["selector"], json!({"app": "x"}));
    assert_eq!(made["metadata"]["labels"], json!({"app": "x"}));
    assert_eq!(made["spec"]["replicas"], 1);
    rejects(
        body(json!({"replicas": -1})),
        &[
            "spec.selector: Required value",
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.template: Required value",
        ],
    );
    rejects(
        body(json!({"selector": {"a": "b"}, "template": template()})),
        &[
            "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not \
           match template `labels`",
        ],
    );
}

#[test]
fn a_revision_has_data_that_stays() {
    let body = |fields: Value| {
        let mut all = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
            "metadata": {"name": "a"}});
        if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
            all.extend(fields);
        }
        all
    };
    rejects(
        body(json!({"revision": -1})),
        &[
            "data: Required value: data is mandatory",
            "revision: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    let said = update(body(json!({"data": {"a": 1}, "revision": 1})), |object| {
        object["data"]["a"] = json!(2);
        object["revision"] = json!(2);
    });
    assert_eq!(said, ["data: Invalid value: {\"a\":2}: field is immutable"]);
}

#[test]
fn counts_in_a_status_fit_together() {
    let said = |kind: &str, status: Value| -> Vec<String> {
        let kind = spec("apps/v1", kind).unwrap();
        let old = create(&of(kind.kind, json!({}))).unwrap();
        let mut object = old.clone();
        object["status"] = status;
        let errors = (kind.validate_status)(&object, &old);
        errors.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        said(
            "Deployment",
            json!({"replicas": 1, "updatedReplicas": 2, "readyReplicas": 0, "availableReplicas": 1,
                   "unavailableReplicas": -1, "terminatingReplicas": -1})
        ),
        [
            "status.unavailableReplicas: Invalid value: -1: must be greater than or equal to 0",
            "status.terminatingReplicas: Invalid value: -1: must be greater than or equal to 0",
            "status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas",
        ]
    );
    assert_eq!(
        said("DaemonSet", json!({"numberReady": -1})),
        ["status.numberReady: Invalid value: -1: must be greater than or equal to 0"]
    );
    assert_eq!(
        said(
            "ReplicaSet",
            json!({"replicas": 0, "terminatingReplicas": -1})
        ),
        ["status.terminatingReplicas: Invalid value: -1: must be greater than or equal to 0"]
    );
}

#[test]
fn templates_are_warned_about_when_they_change() {
    let kind = spec("apps/v1", "Deployment").unwrap();
    let mut body = of("Deployment", json!({}));
    body["spec"]["template"]["spec"]["nodeSelector"] = json!({"beta.kubernetes.io/arch": "amd64"});
    let mut made = create(&body).unwrap();
    made["metadata"]["generation"] = json!(1);
    let why = "spec.template.spec.nodeSelector[beta.kubernetes.io/arch]: deprecated since v1.14; \
               use \"kubernetes.io/arch\" instead";
    assert_eq!((kind.warnings)(&made, None), [why]);
    assert!((kind.warnings)(&made, Some(&made)).is_empty());
    let mut next = made.clone();
    next["metadata"]["generation"] = json!(2);
    assert_eq!((kind.warnings)(&next, Some(&made)), [why]);
}
