//! PersistentVolume, PersistentVolumeClaim, ResourceQuota, LimitRange and the kinds of
//! storage.k8s.io.

use serde_json::{Value, json};

use super::{create, rejects, update};

fn volume(spec: Value) -> Value {
    let mut all = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "csi": {"driver": "d.test", "volumeHandle": "h"}});
    if let (Some(all), Value::Object(spec)) = (all.as_object_mut(), spec) {
        all.extend(spec);
    }
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": all})
}

#[test]
fn a_volume_stays_where_it_is() {
    rejects(
        volume(json!({"capacity": {"storage": "0", "cpu": "1"}, "accessModes": ["X"]})),
        &[
            "spec.accessModes: Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \
             \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            "spec.capacity: Unsupported value: {\"cpu\":\"1\",\"storage\":\"0\"}: supported values: \
             \"storage\"",
            "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
        ],
    );
    rejects(
        volume(json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "Gt", "values": []}]}]}}})),
        &[
            "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values: Required \
           value: must be specified single value when `operator` is 'Lt' or 'Gt'",
        ],
    );
    let moved = update(volume(json!({})), |volume| {
        volume["spec"]["csi"]["volumeHandle"] = json!("other");
    });
    let said = "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable \
                after creation\n@@ ";
    assert!(moved.len() == 1 && moved[0].starts_with(said), "{moved:?}");
    assert!(
        moved[0].contains("-    \"volumeHandle\": \"h\""),
        "{moved:?}"
    );
    let secret = update(volume(json!({})), |volume| {
        volume["spec"]["csi"]["controllerExpandSecretRef"] = json!({"name": "s", "namespace": "n"});
    });
    assert!(secret.is_empty(), "{secret:?}");
}

fn claim() -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}})
}

#[test]
fn a_claim_changes_once_it_is_bound_and_then_only_in_size() {
    let grown = |phase: &str, size: &str| {
        update_with_status(phase, |claim| {
            claim["spec"]["resources"]["requests"]["storage"] = json!(size);
        })
    };
    let fixed = "spec: Forbidden: spec is immutable after creation except resources.requests and \
                 volumeAttributesClassName for bound claims\n@@ ";
    let is_fixed = |found: Vec<String>| {
        assert!(found.len() == 1 && found[0].starts_with(fixed), "{found:?}");
    };
    is_fixed(grown("Pending", "3Gi"));
    assert!(grown("Bound", "3Gi").is_empty());
    assert_eq!(
        grown("Bound", "1Gi"),
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
    let named = update(claim(), |claim| claim["spec"]["volumeName"] = json!("v"));
    assert!(named.is_empty(), "{named:?}");
    let classed = update(claim(), |claim| {
        claim["spec"]["storageClassName"] = json!("c")
    });
    assert!(classed.is_empty(), "{classed:?}");
    let moded = update(claim(), |claim| {
        claim["spec"]["accessModes"] = json!(["ReadOnlyMany"]);
    });
    is_fixed(moded);
}

/// What a change of a claim says that is in this phase and has 2Gi.
fn update_with_status(phase: &str, change: impl Fn(&mut Value)) -> Vec<String> {
    let kind = super::spec("v1", "PersistentVolumeClaim").unwrap();
    let mut stored = create(&claim()).unwrap();
    stored["status"] = json!({"phase": phase, "capacity": {"storage": "2Gi"}});
    let mut object = stored.clone();
    change(&mut object);
    let errors = (kind.validate)(&object, Some(&stored));
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_claim_may_be_filled_from_another_or_a_snapshot() {
    let from = |source: Value| {
        let mut claim = claim();
        claim["spec"]["dataSource"] = source;
        create(&claim).unwrap()
    };
    let made = from(json!({"kind": "PersistentVolumeClaim", "name": "x"}));
    assert_eq!(made["spec"]["dataSourceRef"], made["spec"]["dataSource"]);
    let made = from(json!({"kind": "Backup", "apiGroup": "x.test", "name": "x"}));
    assert_eq!(made["spec"].get("dataSource"), None);
}

#[test]
fn quotas_name_resources_that_exist() {
    let quota = |spec: Value| json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": spec});
    rejects(quota(json!({"hard": {"x.test/gpu": "1"}})), &[]);
    rejects(
        quota(json!({"hard": {"beer": "1", "pods": "1500m", "services": "-1"}})),
        &[
            "spec.hard[beer]: Invalid value: \"beer\": must be a standard resource type or fully \
             qualified",
            "spec.hard[beer]: Invalid value: \"beer\": must be a standard resource for quota",
            "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
            "spec.hard[services]: Invalid value: \"-1\": must be greater than or equal to 0",
        ],
    );
    rejects(
        quota(json!({"hard": {"services": "1"}, "scopes": ["BestEffort", "NotBestEffort"]})),
        &[
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope \
             applied to resource",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope \
             applied to resource",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ],
    );
    rejects(
        quota(json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In"}]}})),
        &[
            "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value \
           when `operator` is 'In' or 'NotIn' for scope selector",
        ],
    );
}

#[test]
fn limit_ranges_are_in_order() {
    let range = |limit: Value| {
        json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"},
               "spec": {"limits": [limit]}})
    };
    let made = create(&range(
        json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}}),
    ))
    .unwrap();
    assert_eq!(
        made["spec"]["limits"][0],
        json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"},
            "default": {"cpu": "2"}, "defaultRequest": {"cpu": "2", "memory": "1Mi"}})
    );
    rejects(
        range(
            json!({"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}, "default": {"cpu": "1"}}),
        ),
        &[
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
        ],
    );
    rejects(
        range(json!({"type": "PersistentVolumeClaim"})),
        &[
            "spec.limits[0].limits: Required value: either minimum or maximum storage value is \
           required, but neither was provided",
        ],
    );
    rejects(
        range(
            json!({"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "2"},
            "maxLimitRequestRatio": {"cpu": "4"}}),
        ),
        &[
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"4\": ratio 4 is greater than \
           max/min = 2.000000",
        ],
    );
}

#[test]
fn storage_classes_are_made_once() {
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "c"}, "provisioner": "X/y", "parameters": {"a": "b"}});
    let changed = update(class.clone(), |class| {
        class["provisioner"] = json!("x/z");
        class["parameters"] = json!({});
        class["reclaimPolicy"] = json!("Retain");
        class["volumeBindingMode"] = json!("WaitForFirstConsumer");
        class["allowVolumeExpansion"] = json!(true);
    });
    assert_eq!(
        changed,
        [
            "parameters: Forbidden: updates to parameters are forbidden.",
            "provisioner: Forbidden: updates to provisioner are forbidden.",
            "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
            "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
        ]
    );
    let mut bad = class;
    bad["provisioner"] = json!("");
    bad["reclaimPolicy"] = json!("Recycle");
    bad["allowedTopologies"] =
        json!([{"matchLabelExpressions": [{"key": "k", "values": ["a", "a"]}]}]);
    rejects(
        bad,
        &[
            "provisioner: Required value",
            "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
            "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
        ],
    );
}

#[test]
fn attachments_name_a_driver_a_volume_and_a_node() {
    let attachment = |spec: Value| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment",
               "metadata": {"name": "a"}, "spec": spec})
    };
    let good =
        json!({"attacher": "d.test", "nodeName": "n", "source": {"persistentVolumeName": "v"}});
    assert_eq!(
        create(&attachment(good.clone())).unwrap()["status"],
        json!({"attached": false})
    );
    rejects(
        attachment(json!({"attacher": "d.test", "nodeName": "n", "source": {}})),
        &[
            "spec.source: Required value: must specify exactly one of inlineVolumeSpec and \
           persistentVolumeName",
        ],
    );
    rejects(
        attachment(
            json!({"attacher": "d.test", "nodeName": "n", "source": {"inlineVolumeSpec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/"}}}}),
        ),
        &[
            "spec.source.inlineVolumeSpec.capacity: Forbidden: may not be specified in the context \
             of inline volumes",
            "spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of \
             inline volumes",
        ],
    );
    let moved = update(attachment(good), |one| one["spec"]["nodeName"] = json!("m"));
    assert_eq!(
        moved,
        [
            "spec: Invalid value: {\"Attacher\":\"d.test\",\"Source\":{\"PersistentVolumeName\":\"v\",\
          \"InlineVolumeSpec\":null},\"NodeName\":\"m\"}: field is immutable"
        ]
    );
}

#[test]
fn drivers_say_how_they_want_to_be_used() {
    let driver = |spec: Value| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d"},
               "spec": spec})
    };
    let made = create(&driver(json!({}))).unwrap();
    assert_eq!(
        made["spec"],
        json!({"attachRequired": true, "podInfoOnMount": false, "storageCapacity": false,
            "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"],
            "requiresRepublish": false, "seLinuxMount": false})
    );
    rejects(
        driver(
            json!({"fsGroupPolicy": "X", "tokenRequests": [{"audience": "a"}, {"audience": "a"},
            {"audience": "b", "expirationSeconds": 1}]}),
        ),
        &[
            "spec.fsGroupPolicy: Unsupported value: \"X\": supported values: \"File\", \"None\", \
             \"ReadWriteOnceWithFSType\"",
            "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            "spec.tokenRequests[2].expirationSeconds: Invalid value: 1: may not specify a duration \
             less than 10 minutes",
        ],
    );
    let changed = update(driver(json!({})), |driver| {
        driver["spec"]["attachRequired"] = json!(false);
    });
    assert_eq!(
        changed,
        ["spec.attachedRequired: Invalid value: false: field is immutable"]
    );
    rejects(
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "n"},
            "spec": {"drivers": [{"name": "d", "nodeID": "", "allocatable": {"count": -1}},
                {"name": "d", "nodeID": "x"}]}}),
        &[
            "spec.drivers[0].nodeID: Required value",
            "spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
            "spec.drivers[1].name: Duplicate value: \"d\"",
        ],
    );
}
