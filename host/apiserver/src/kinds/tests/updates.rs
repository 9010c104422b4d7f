//! How often each kind looks at an object that changes, and what it warns of.

use serde_json::{Value, json};

use super::{create, spec, update};

const LABEL: &str = "metadata.labels: Invalid value: \"!\": a valid label must be an empty string or \
                     consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                     with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
                     regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn template(more: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    json!({"metadata": {"labels": {"a": "b"}}, "spec": spec})
}

fn object(api_version: &str, kind: &str, rest: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind});
    if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
        object.extend(rest);
    }
    object["metadata"]["name"] = json!("x");
    object
}

fn samples() -> Vec<(Value, usize)> {
    let selector = json!({"matchLabels": {"a": "b"}});
    let workload = |kind: &str| {
        let spec = json!({"selector": selector.clone(), "template": template(json!({}))});
        object("apps/v1", kind, json!({"spec": spec}))
    };
    let storage = "storage.k8s.io/v1";
    let rbac = "rbac.authorization.k8s.io/v1";
    let networking = "networking.k8s.io/v1";
    // A label is looked at twice in every update: once as it stands, once as it changes.
    vec![
        (workload("Deployment"), 3),
        (workload("StatefulSet"), 3),
        (workload("ReplicaSet"), 4),
        (workload("DaemonSet"), 4),
        (
            object(
                "v1",
                "ReplicationController",
                json!({"spec": {"template": template(json!({}))}}),
            ),
            4,
        ),
        (
            object(
                "batch/v1",
                "Job",
                json!({"spec": {"template": template(json!({"restartPolicy": "Never"}))}}),
            ),
            4,
        ),
        (object("v1", "Pod", template(json!({}))), 4),
        (
            object("v1", "Service", json!({"spec": {"ports": [{"port": 1}]}})),
            4,
        ),
        (object("v1", "ServiceAccount", json!({})), 4),
        (object("v1", "ConfigMap", json!({})), 4),
        (object("v1", "Namespace", json!({})), 4),
        (object("v1", "Node", json!({})), 4),
        (object("v1", "Endpoints", json!({})), 4),
        (object("v1", "LimitRange", json!({})), 3),
        (object("v1", "ResourceQuota", json!({})), 3),
        (object(rbac, "Role", json!({})), 4),
        (
            object(storage, "StorageClass", json!({"provisioner": "p.test"})),
            4,
        ),
        (object(storage, "CSIDriver", json!({})), 4),
        (
            object(
                "discovery.k8s.io/v1",
                "EndpointSlice",
                json!({"addressType": "IPv4"}),
            ),
            3,
        ),
        (object(networking, "NetworkPolicy", json!({})), 4),
        (
            object(
                networking,
                "IngressClass",
                json!({"spec": {"controller": "a.test/b"}}),
            ),
            4,
        ),
        (
            object("policy/v1", "PodDisruptionBudget", json!({"spec": {}})),
            2,
        ),
        (
            object("node.k8s.io/v1", "RuntimeClass", json!({"handler": "h"})),
            4,
        ),
    ]
}

#[test]
fn a_bad_label_is_a_cause_each_time_that_it_is_looked_at() {
    for (body, times) in samples() {
        let found = update(body.clone(), |object| {
            object["metadata"]["labels"] = json!({"k": "!"});
        });
        let bad: Vec<&String> = found.iter().filter(|one| *one == LABEL).collect();
        assert_eq!(bad.len(), times, "{body} {found:?}");
    }
}

#[test]
fn kinds_that_are_judged_as_new_and_as_changed_say_it_twice() {
    let said = "spec.replicas: Invalid value: -1: must be greater than or equal to 0";
    for (kind, times) in [("ReplicaSet", 2), ("Deployment", 1), ("StatefulSet", 1)] {
        let body = object(
            "apps/v1",
            kind,
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template(json!({}))}}),
        );
        let found = update(body, |object| object["spec"]["replicas"] = json!(-1));
        assert_eq!(found, vec![said; times], "{kind}");
    }
}

#[test]
fn an_image_that_goes_is_missed_twice() {
    let pod = object("v1", "Pod", template(json!({})));
    let found = update(pod, |pod| {
        pod["spec"]["containers"][0]["image"] = json!("");
    });
    let said = "spec.containers[0].image: Required value";
    assert_eq!(found.first().map(String::as_str), Some(said), "{found:?}");
    assert_eq!(found.iter().filter(|one| *one == said).count(), 2);
}

#[test]
fn a_budget_is_looked_at_before_its_metadata() {
    let mut budget = object(
        "policy/v1",
        "PodDisruptionBudget",
        json!({"spec": {"minAvailable": -1}}),
    );
    budget["metadata"]["labels"] = json!({"k": "!"});
    let said = "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0";
    assert_eq!(create(&budget).unwrap_err(), said);
    budget["spec"] = json!({});
    assert_eq!(create(&budget).unwrap_err(), LABEL);
}

#[test]
fn labels_of_a_slice_count_as_its_content() {
    let kind = spec("discovery.k8s.io/v1", "EndpointSlice").unwrap();
    let body = object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        json!({"addressType": "IPv4"}),
    );
    let mut stored = create(&body).unwrap();
    stored["metadata"]["generation"] = json!(3);
    let mut object = stored.clone();
    (kind.prepare)(&mut object, Some(&stored));
    assert_eq!(object["metadata"]["generation"], json!(3));
    object["metadata"]["labels"] = json!({"a": "b"});
    (kind.prepare)(&mut object, Some(&stored));
    assert_eq!(object["metadata"]["generation"], json!(4));
}

#[track_caller]
fn warned(body: Value, expected: &[&str]) {
    let text = |name: &str| body[name].as_str().unwrap();
    let kind = spec(text("apiVersion"), text("kind")).unwrap();
    let mut object = body.clone();
    (kind.decode)(&mut object).unwrap();
    (kind.default)(&mut object);
    assert_eq!((kind.warnings)(&object, None), expected, "{body}");
}

#[test]
fn old_ways_are_warned_of() {
    let mut ingress = object("networking.k8s.io/v1", "Ingress", json!({"spec": {}}));
    ingress["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "a"});
    warned(
        ingress.clone(),
        &[
            "annotation \"kubernetes.io/ingress.class\" is deprecated, please use \
             'spec.ingressClassName' instead",
        ],
    );
    ingress["spec"]["ingressClassName"] = json!("a");
    warned(ingress, &[]);
    let mut volume = object(
        "v1",
        "PersistentVolume",
        json!({"spec": {"persistentVolumeReclaimPolicy": "Recycle",
            "glusterfs": {"endpoints": "e", "path": "p"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "beta.kubernetes.io/os", "operator": "Exists"}]}]}}}}),
    );
    volume["metadata"]["annotations"] = json!({"volume.beta.kubernetes.io/mount-options": "a", "volume.beta.kubernetes.io/storage-class": "b"});
    warned(
        volume,
        &[
            "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; \
             use \"storageClassName\" attribute instead",
            "metadata.annotations[volume.beta.kubernetes.io/mount-options]: deprecated since v1.31; \
             use \"mountOptions\" attribute instead",
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, \
             the recommended approach is to use dynamic provisioning.",
            "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: \
             beta.kubernetes.io/os is deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.glusterfs: deprecated in v1.25, non-functional in v1.26+",
        ],
    );
    let mut account = object("v1", "ServiceAccount", json!({}));
    account["metadata"]["annotations"] = json!({"kubernetes.io/enforce-mountable-secrets": "true"});
    warned(
        account,
        &[
            "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; \
             prefer separate namespaces to isolate access to mounted secrets",
        ],
    );
    warned(
        object(
            "v1",
            "Node",
            json!({"spec": {"externalID": "e", "podCIDRs": ["10.0.0.1/24"]}}),
        ),
        &[
            "spec.externalID: this field is deprecated, and is unused by Kubernetes",
            "spec.podCIDRs[0]: CIDR value \"10.0.0.1/24\" is ambiguous in this context (should be \
             \"10.0.0.0/24\" or \"10.0.0.1/32\"?)",
        ],
    );
    warned(
        object(
            "storage.k8s.io/v1",
            "StorageClass",
            json!({"provisioner": "p", "allowedTopologies": [{"matchLabelExpressions": [
                {"key": "failure-domain.beta.kubernetes.io/zone", "values": ["a"]}]}]}),
        ),
        &[
            "allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use \
             \"topology.kubernetes.io/zone\" instead",
        ],
    );
    warned(
        object(
            "node.k8s.io/v1",
            "RuntimeClass",
            json!({"handler": "h", "scheduling": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}}}),
        ),
        &["scheduling.nodeSelector: deprecated since v1.14; use \"kubernetes.io/os\" instead"],
    );
    let external =
        "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
    let ignored = "spec.externalIPs is ignored for headless services";
    for (more, said) in [
        (json!({}), external),
        (json!({"clusterIP": "None"}), ignored),
        (
            json!({"type": "ExternalName", "externalName": "a.b"}),
            "spec.externalIPs is ignored when spec.type is \"ExternalName\"",
        ),
    ] {
        let mut service = object("v1", "Service", json!({"spec": more}));
        service["spec"]["externalIPs"] = json!(["1.2.3.4"]);
        warned(service, &[said]);
    }
}

#[test]
fn amounts_and_addresses_that_are_spelled_unusually_are_warned_of() {
    let requests = json!({"resources": {"requests": {"storage": "1500m"}}});
    let fraction = "resources.requests[storage]: fractional byte value \"1500m\" is invalid, must be \
                    an integer";
    let said = format!("spec.{fraction}");
    warned(
        object("v1", "PersistentVolumeClaim", json!({"spec": requests})),
        &[&said],
    );
    let said = format!("spec.volumes[0].ephemeral.volumeClaimTemplate.spec.{fraction}");
    let volume = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": requests}}});
    warned(
        object("v1", "Pod", template(json!({"volumes": [volume]}))),
        &[&said],
    );
    warned(
        object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({"addressType": "FQDN"}),
        ),
        &["spec.addressType: FQDN endpoints are deprecated"],
    );
    warned(
        object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({"addressType": "IPv6", "endpoints": [{"addresses": ["FD00::1"]}]}),
        ),
        &[
            "endpoints[0].addresses[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical \
             format (\"fd00::1\")",
        ],
    );
    warned(
        object(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            json!({"spec": {"egress": [{"to": [{"ipBlock":
                {"cidr": "FD00::/8", "except": ["010.0.0.0/8"]}}]}]}}),
        ),
        &[
            "spec.egress[0].to[0].ipBlock.cidr: IPv6 CIDR value \"FD00::/8\" should be in RFC 5952 \
             canonical format (\"fd00::/8\")",
            "spec.egress[0].to[0].ipBlock.except[0]: non-standard CIDR value \"010.0.0.0/8\" will be \
             considered invalid in a future Kubernetes release: use \"10.0.0.0/8\"",
        ],
    );
}
