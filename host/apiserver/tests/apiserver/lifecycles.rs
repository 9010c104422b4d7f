//! The life that objects of every kind can lead: made, found, watched, patched, replaced, told what
//! became of them, and deleted, one and all.
//!
//! The steps are those that Kubernetes' conformance tests go through with one kind after the other.

use eyot_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::{Lines, account, get, ok, raw, send, server};

const NAMESPACE: &str = "lives";

/// A kind, and the least that makes an object of it.
struct Life {
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    body: Value,
    /// What its status can be told, where it has one.
    status: Option<Value>,
}

fn namespaced(
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    body: Value,
) -> Life {
    Life {
        version,
        plural,
        kind,
        namespaced: true,
        body,
        status: None,
    }
}

fn cluster(version: &'static str, plural: &'static str, kind: &'static str, body: Value) -> Life {
    Life {
        namespaced: false,
        ..namespaced(version, plural, kind, body)
    }
}

impl Life {
    fn told(self, status: Value) -> Life {
        Life {
            status: Some(status),
            ..self
        }
    }

    /// Where the version is described.
    fn group(&self) -> String {
        match self.version {
            "v1" => "/api/v1".to_owned(),
            version => format!("/apis/{version}"),
        }
    }

    fn path(&self) -> String {
        let group = self.group();
        match self.namespaced {
            true => format!("{group}/namespaces/{NAMESPACE}/{}", self.plural),
            false => format!("{group}/{}", self.plural),
        }
    }

    fn object(&self, metadata: Value) -> Value {
        let mut object = self.body.clone();
        object["apiVersion"] = self.version.into();
        object["kind"] = self.kind.into();
        object["metadata"] = metadata;
        object["metadata"]["labels"] = json!({"test": self.plural});
        object
    }
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "Test", "message": "m",
           "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}},
           "spec": {"containers": [{"name": "c", "image": "demo/x:v1"}]}})
}

fn core() -> Vec<Life> {
    let selector = json!({"a": "b"});
    let about = json!({"kind": "Pod", "name": "x", "namespace": NAMESPACE});
    let claim =
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}});
    let volume = json!({"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"],
        "csi": {"driver": "d.test", "volumeHandle": "x"}});
    vec![
        namespaced("v1", "configmaps", "ConfigMap", json!({"data": {"a": "b"}})),
        namespaced("v1", "secrets", "Secret", json!({"data": {"a": "Yg=="}})),
        namespaced("v1", "serviceaccounts", "ServiceAccount", json!({})),
        namespaced(
            "v1",
            "podtemplates",
            "PodTemplate",
            json!({"template": template()}),
        ),
        namespaced("v1", "pods", "Pod", json!({"spec": template()["spec"]}))
            .told(json!({"message": "m", "reason": "Test"})),
        namespaced(
            "v1",
            "endpoints",
            "Endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.24"}], "ports": [{"port": 80}]}]}),
        ),
        namespaced(
            "v1",
            "events",
            "Event",
            json!({"involvedObject": about, "reason": "Test", "message": "m", "type": "Normal"}),
        ),
        namespaced(
            "v1",
            "services",
            "Service",
            json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "d.test/vip",
                "ports": [{"port": 80}]}}),
        )
        .told(json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}]}})),
        namespaced(
            "v1",
            "replicationcontrollers",
            "ReplicationController",
            json!({"spec": {"replicas": 0, "selector": selector, "template": template()}}),
        )
        .told(json!({"conditions": [condition("Told")]})),
        namespaced(
            "v1",
            "persistentvolumeclaims",
            "PersistentVolumeClaim",
            json!({"spec": claim}),
        )
        .told(json!({"conditions": [condition("Told")]})),
        cluster(
            "v1",
            "persistentvolumes",
            "PersistentVolume",
            json!({"spec": volume}),
        )
        .told(json!({"message": "m", "reason": "Test"})),
        cluster("v1", "nodes", "Node", json!({})).told(json!({"phase": "Running"})),
        namespaced(
            "events.k8s.io/v1",
            "events",
            "Event",
            json!({"regarding": about, "reason": "Test", "note": "m", "type": "Normal",
                "action": "Do", "reportingController": "c.test/x", "reportingInstance": "i",
                "eventTime": "2026-01-01T00:00:00.000000Z"}),
        ),
        namespaced(
            "coordination.k8s.io/v1",
            "leases",
            "Lease",
            json!({"spec": {"holderIdentity": "me", "leaseDurationSeconds": 30}}),
        ),
    ]
}

fn workloads() -> Vec<Life> {
    let selector = json!({"matchLabels": {"a": "b"}});
    let spec = json!({"replicas": 0, "selector": selector, "template": template()});
    let once = json!({"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "demo/x:v1"}]}});
    let told = json!({"conditions": [condition("Told")]});
    vec![
        namespaced("apps/v1", "deployments", "Deployment", json!({"spec": spec}))
            .told(told.clone()),
        namespaced("apps/v1", "replicasets", "ReplicaSet", json!({"spec": spec}))
            .told(told.clone()),
        namespaced("apps/v1", "statefulsets", "StatefulSet", json!({"spec": spec}))
            .told(told.clone()),
        namespaced(
            "apps/v1",
            "daemonsets",
            "DaemonSet",
            json!({"spec": {"selector": selector, "template": template()}}),
        )
        .told(told.clone()),
        namespaced(
            "apps/v1",
            "controllerrevisions",
            "ControllerRevision",
            json!({"revision": 3, "data": {"spec": {}}}),
        ),
        namespaced(
            "batch/v1",
            "jobs",
            "Job",
            json!({"spec": {"suspend": true, "template": once}}),
        )
        .told(json!({"startTime": "2026-01-01T00:00:00Z"})),
        namespaced(
            "batch/v1",
            "cronjobs",
            "CronJob",
            json!({"spec": {"schedule": "* */1 * * ?", "jobTemplate": {"spec": {"template": once}}}}),
        )
        .told(json!({"lastScheduleTime": "2026-01-01T00:00:00Z"})),
        namespaced(
            "policy/v1",
            "poddisruptionbudgets",
            "PodDisruptionBudget",
            json!({"spec": {"minAvailable": 1, "selector": selector}}),
        )
        .told(told),
        namespaced(
            "autoscaling/v2",
            "horizontalpodautoscalers",
            "HorizontalPodAutoscaler",
            json!({"spec": {"maxReplicas": 2,
                "scaleTargetRef": {"kind": "Deployment", "name": "x", "apiVersion": "apps/v1"}}}),
        )
        .told(json!({"desiredReplicas": 2})),
        cluster(
            "scheduling.k8s.io/v1",
            "priorityclasses",
            "PriorityClass",
            json!({"value": 5}),
        ),
        cluster("node.k8s.io/v1", "runtimeclasses", "RuntimeClass", json!({"handler": "h"})),
    ]
}

fn network_and_storage() -> Vec<Life> {
    let ingress = json!({"ingress": [{"ip": "203.0.113.1"}]});
    vec![
        namespaced(
            "discovery.k8s.io/v1",
            "endpointslices",
            "EndpointSlice",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.1.2.3"]}]}),
        ),
        namespaced(
            "networking.k8s.io/v1",
            "ingresses",
            "Ingress",
            json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        )
        .told(json!({"loadBalancer": ingress})),
        namespaced(
            "networking.k8s.io/v1",
            "networkpolicies",
            "NetworkPolicy",
            json!({"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}),
        ),
        cluster(
            "networking.k8s.io/v1",
            "ingressclasses",
            "IngressClass",
            json!({"spec": {"controller": "d.test/c"}}),
        ),
        cluster(
            "storage.k8s.io/v1",
            "storageclasses",
            "StorageClass",
            json!({"provisioner": "d.test"}),
        ),
        cluster(
            "storage.k8s.io/v1",
            "csidrivers",
            "CSIDriver",
            json!({"spec": {}}),
        ),
        cluster(
            "storage.k8s.io/v1",
            "csinodes",
            "CSINode",
            json!({"spec": {"drivers": []}}),
        ),
        cluster(
            "storage.k8s.io/v1",
            "volumeattributesclasses",
            "VolumeAttributesClass",
            json!({"driverName": "d.test", "parameters": {"a": "b"}}),
        ),
        cluster(
            "storage.k8s.io/v1",
            "volumeattachments",
            "VolumeAttachment",
            json!({"spec": {"attacher": "d.test", "nodeName": "n",
                "source": {"persistentVolumeName": "v"}}}),
        )
        .told(json!({"attached": true})),
        namespaced(
            "storage.k8s.io/v1",
            "csistoragecapacities",
            "CSIStorageCapacity",
            json!({"storageClassName": "s"}),
        ),
        cluster(
            "resource.k8s.io/v1",
            "deviceclasses",
            "DeviceClass",
            json!({"spec": {}}),
        ),
        namespaced(
            "resource.k8s.io/v1",
            "resourceclaims",
            "ResourceClaim",
            json!({"spec": {}}),
        )
        .told(json!({})),
        namespaced(
            "resource.k8s.io/v1",
            "resourceclaimtemplates",
            "ResourceClaimTemplate",
            json!({"spec": {"spec": {}}}),
        ),
        cluster(
            "resource.k8s.io/v1",
            "resourceslices",
            "ResourceSlice",
            json!({"spec": {"driver": "d.test", "nodeName": "n",
                "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}),
        ),
    ]
}

fn rules() -> Vec<Life> {
    let rules = json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
        "operations": ["CREATE"], "resources": ["nothing"]}]});
    let subjects = json!([{"kind": "User", "user": {"name": "nobody"}}]);
    let anywhere = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let role = |kind: &str| json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "x"}});
    let told = json!({"conditions": [condition("Told")]});
    vec![
        namespaced(
            "rbac.authorization.k8s.io/v1",
            "roles",
            "Role",
            json!({"rules": []}),
        ),
        cluster(
            "rbac.authorization.k8s.io/v1",
            "clusterroles",
            "ClusterRole",
            json!({"rules": []}),
        ),
        namespaced(
            "rbac.authorization.k8s.io/v1",
            "rolebindings",
            "RoleBinding",
            role("Role"),
        ),
        cluster(
            "rbac.authorization.k8s.io/v1",
            "clusterrolebindings",
            "ClusterRoleBinding",
            role("ClusterRole"),
        ),
        cluster(
            "flowcontrol.apiserver.k8s.io/v1",
            "flowschemas",
            "FlowSchema",
            json!({"spec": {"matchingPrecedence": 10000,
                "priorityLevelConfiguration": {"name": "global-default"},
                "rules": [{"subjects": subjects, "nonResourceRules": anywhere}]}}),
        )
        // Neither a message nor a time is asked for.
        .told(json!({"conditions": [{"type": "Told", "status": "False", "reason": "Test"}]})),
        cluster(
            "flowcontrol.apiserver.k8s.io/v1",
            "prioritylevelconfigurations",
            "PriorityLevelConfiguration",
            json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2,
                "limitResponse": {"type": "Reject"}}}}),
        )
        .told(json!({"conditions": [{"type": "Told", "status": "False", "reason": "Test"}]})),
        cluster(
            "admissionregistration.k8s.io/v1",
            "validatingadmissionpolicies",
            "ValidatingAdmissionPolicy",
            json!({"spec": {"matchConstraints": rules, "validations": [{"expression": "true"}]}}),
        )
        .told(told.clone()),
        cluster(
            "admissionregistration.k8s.io/v1",
            "validatingadmissionpolicybindings",
            "ValidatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        ),
        cluster(
            "admissionregistration.k8s.io/v1",
            "mutatingadmissionpolicies",
            "MutatingAdmissionPolicy",
            json!({"spec": {"matchConstraints": rules, "reinvocationPolicy": "Never",
                "mutations": [{"patchType": "ApplyConfiguration",
                    "applyConfiguration": {"expression": "Object{}"}}]}}),
        ),
        cluster(
            "admissionregistration.k8s.io/v1",
            "mutatingadmissionpolicybindings",
            "MutatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p"}}),
        ),
        cluster(
            "admissionregistration.k8s.io/v1",
            "validatingwebhookconfigurations",
            "ValidatingWebhookConfiguration",
            json!({"webhooks": []}),
        ),
        cluster(
            "admissionregistration.k8s.io/v1",
            "mutatingwebhookconfigurations",
            "MutatingWebhookConfiguration",
            json!({"webhooks": []}),
        ),
        // Last, as they have a say in what else is made.
        namespaced(
            "v1",
            "limitranges",
            "LimitRange",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}}]}}),
        ),
        namespaced(
            "v1",
            "resourcequotas",
            "ResourceQuota",
            json!({"spec": {"hard": {"pods": "5"}}}),
        )
        .told(json!({"used": {"pods": "3"}})),
    ]
}

/// Patch and insist on success.
async fn patch(server: &ApiServer, path: &str, media: &str, body: Value) -> Value {
    let media = format!("application/{media}+json");
    let headers = [("content-type", media.as_str())];
    let response = raw(server, "PATCH", path, &headers, body.to_string()).await;
    let code = response.status();
    let text = crate::bytes(response).await;
    assert!(code.is_success(), "{path}: {code} {text:?}");
    serde_json::from_slice(&text).unwrap()
}

async fn count(server: &ApiServer, path: &str) -> usize {
    let list = ok(server, "GET", path, Value::Null).await;
    let items = list["items"].as_array().unwrap().iter();
    // What waits for its finalizers is as good as gone.
    items
        .filter(|item| item["metadata"]["deletionTimestamp"].is_null())
        .count()
}

async fn live(server: &ApiServer, life: &Life) {
    let (path, plural) = (life.path(), life.plural);
    let served = ok(server, "GET", &life.group(), Value::Null).await;
    let served = |name: &str| {
        let all = served["resources"].as_array().unwrap();
        all.iter().any(|one| one["name"] == name)
    };
    assert!(served(plural), "{plural} of {}", life.version);
    let names = [
        json!({"generateName": "test-"}),
        json!({"name": "second"}),
        json!({"name": "third"}),
    ];
    let mut made = Vec::new();
    for metadata in names {
        made.push(ok(server, "POST", &path, life.object(metadata)).await);
    }
    let (name, uid) = (&made[0]["metadata"]["name"], &made[0]["metadata"]["uid"]);
    let one = format!("{path}/{}", name.as_str().unwrap());
    let read = ok(server, "GET", &one, Value::Null).await;
    assert_eq!(&read["metadata"]["uid"], uid, "{one}");
    let query = format!("labelSelector=test%3D{plural}");
    let all = format!("{path}?{query}");
    assert_eq!(count(server, &all).await, 3, "{all}");
    let everywhere = format!("{}/{plural}?{query}", life.group());
    let list = ok(server, "GET", &everywhere, Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 3, "{everywhere}");

    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let watch = format!("{all}&watch=true&resourceVersion={version}&allowWatchBookmarks=false");
    let mut watch = Lines::open(server, &watch, "application/json").await;
    let note = json!({"metadata": {"annotations": {"merged": "yes"}}});
    patch(server, &one, "merge-patch", note).await;
    // As typed clients send it: empty fields and all.
    let note = json!({"metadata": {"creationTimestamp": null, "annotations": {"patched": "yes"}}});
    let mut changed = patch(server, &one, "strategic-merge-patch", note).await;
    changed["metadata"]["annotations"]["replaced"] = "yes".into();
    let changed = ok(server, "PUT", &one, changed).await;
    let notes = json!({"merged": "yes", "patched": "yes", "replaced": "yes"});
    // Some kinds are annotated by the server, too, and some are changed by it before.
    let found = |object: &Value| -> Value {
        let all = object["metadata"]["annotations"].as_object();
        let ours = all.into_iter().flatten();
        let ours = ours.filter(|(key, _)| notes.get(key).is_some());
        ours.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    assert_eq!(found(&changed), notes, "{one}");
    loop {
        let event = watch.next().await.unwrap();
        assert_eq!(event["type"], "MODIFIED", "{one}: {event}");
        if found(&event["object"]) == notes {
            break;
        }
    }
    if let Some(status) = &life.status {
        assert!(served(&format!("{plural}/status")), "{plural}");
        tell(server, life, &one, status).await;
    }

    let (code, gone) = send(server, "DELETE", &one, Value::Null).await;
    assert!(matches!(code, 200 | 202), "{one}: {gone}");
    let (code, left) = get(server, &one).await;
    let waits = !left["metadata"]["deletionTimestamp"].is_null();
    assert!(code == 404 || waits, "{one} is there: {left}");
    if code == 404 {
        loop {
            let event = watch.next().await.unwrap();
            if event["type"] == "DELETED" {
                assert_eq!(&event["object"]["metadata"]["name"], name);
                break;
            }
        }
    }
    assert_eq!(count(server, &all).await, 2, "{all}");
    ok(server, "DELETE", &all, Value::Null).await;
    assert_eq!(count(server, &all).await, 0, "{all}");
}

/// Write the status in both ways; neither touches what is wanted.
async fn tell(server: &ApiServer, life: &Life, one: &str, status: &Value) {
    let path = format!("{one}/status");
    let read = ok(server, "GET", &path, Value::Null).await;
    assert_eq!(read["kind"], life.kind, "{path}");
    let body = json!({"spec": {"unknown": "to all"}, "status": status});
    let told = patch(server, &path, "merge-patch", body).await;
    for (key, value) in status.as_object().unwrap() {
        assert_eq!(&told["status"][key], value, "{path}");
    }
    assert_eq!(
        told["spec"], read["spec"],
        "{path} leaves alone what is wanted"
    );
    let mut again = ok(server, "GET", &path, Value::Null).await;
    if let Some(conditions) = again["status"]["conditions"].as_array_mut() {
        conditions.push(condition("ToldAgain"));
        let expected = conditions.clone();
        let told = ok(server, "PUT", &path, again).await;
        assert_eq!(told["status"]["conditions"], json!(expected), "{path}");
    } else {
        ok(server, "PUT", &path, again).await;
    }
}

async fn live_all(lives: Vec<Life>) {
    let server = server().await;
    let namespace = json!({"metadata": {"name": NAMESPACE}});
    ok(&server, "POST", "/api/v1/namespaces", namespace).await;
    account(&server, NAMESPACE).await;
    for life in lives {
        live(&server, &life).await;
    }
}

#[tokio::test]
async fn objects_of_the_core_live() {
    live_all(core()).await;
}

#[tokio::test]
async fn objects_of_workloads_live() {
    live_all(workloads()).await;
}

#[tokio::test]
async fn objects_of_network_and_storage_live() {
    live_all(network_and_storage()).await;
}

#[tokio::test]
async fn objects_that_rule_others_live() {
    live_all(rules()).await;
}
